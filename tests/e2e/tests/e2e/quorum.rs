//! The metadata quorum grows over new zones, loses a volume, gives a controller another one, and moves to another pool:
//! while records flow, and while operators die.

use crate::load::{self, Load};
use crate::world::{LONG, block_on, client, delete_topic, kubectl, super_admin, topic, user};
use freehold::kafka_admin::Admin;
use ground::kubectl::Kubectl;
use ground::shell;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

fn pool(name: &str, role: &str, zones: &[&str], replicas: usize) -> Value {
    json!({"name": name, "roles": [role], "replicas": replicas, "zones": zones, "storage": {"size": "512Mi"}, "jvm": {"heap": "256Mi"}})
}

fn patch(kubectl: &Kubectl, controllers: &[Value]) {
    patch_all(kubectl, &["zone-a"], controllers);
}

fn patch_all(kubectl: &Kubectl, zones: &[&str], controllers: &[Value]) {
    let mut pools = vec![pool("brokers", "broker", zones, 1)];
    pools.extend_from_slice(controllers);
    kubectl.merge("kafkacluster", "kafka", "council", &json!({"spec": {"nodePools": pools}})).unwrap();
}

/// Voters with the ids of their volumes.
fn voters(kubectl: &Kubectl) -> BTreeMap<i32, String> {
    let quorum = block_on(super_admin(kubectl, "kafka", "council").describe_quorum()).unwrap_or_default();
    quorum.voters.into_iter().map(|voter| (voter.id, voter.directory.to_string())).collect()
}

/// Waits until these vote, and the cluster is as its spec says; how long that took.
fn vote(kubectl: &Kubectl, wanted: &[i32]) -> f64 {
    let start = Instant::now();
    shell::wait_for(&format!("the quorum of {wanted:?}"), LONG, || {
        let voters = voters(kubectl);
        Ok((!voters.keys().eq(wanted.iter())).then(|| format!("{:?}", voters.keys())))
    })
    .unwrap();
    kubectl.wait_ready("kafkacluster", "kafka", "council", LONG).unwrap();
    start.elapsed().as_secs_f64()
}

#[test]
#[ignore = "needs the ground: cargo xtask test"]
fn controllers_join_and_leave_the_quorum_under_load() {
    let kubectl = kubectl();
    let pools = json!([pool("brokers", "broker", &["zone-a"], 1), pool("controllers", "controller", &["zone-a"], 1)]);
    let object = json!({"apiVersion": "freehold.dev/v1alpha1", "kind": "KafkaCluster", "metadata": {"name": "council", "namespace": "kafka"},
        "spec": {"version": "4.3.1", "nodePools": pools, "deletionPolicy": "Delete", "access": {"namespaces": {"from": "All"}}, "rollout": {"allowUnavailable": true},
            "listeners": [{"name": "scram", "port": 9094, "authentication": "ScramSha512"}]}});
    kubectl.apply(&object.to_string()).unwrap();
    kubectl.apply(&topic("minutes", "council", "  partitions: 3\n")).unwrap();
    let rights = "  authentication: {type: ScramSha512}\n  grants:\n  - {produce: {topics: [minutes]}}\n  \
                  - {consume: {topics: [minutes], groups: [\"shop-*\"]}}\n";
    kubectl.apply(&user("council", "council", rights)).unwrap();
    for (kind, namespace, name) in [("kafkacluster", "kafka", "council"), ("topic", "shop", "minutes"), ("user", "shop", "council")] {
        kubectl.wait_ready(kind, namespace, name, LONG).unwrap();
    }
    let first = *voters(&kubectl).keys().next().unwrap();
    let uid = |name: &str| kubectl.get("pod", "kafka", name).unwrap().unwrap()["metadata"]["uid"].clone();
    let broker = || uid("council-brokers-zone-a-0");
    let mut brokers = vec![broker()];
    let load = Load::of(&kubectl, client(&kubectl, "council", "minutes"), "council", 150);

    // One controller becomes three, in two zones more; operators die meanwhile.
    let zones = ["zone-a", "zone-b", "zone-c"];
    patch(&kubectl, &[pool("controllers", "controller", &zones, 3)]);
    load::kill_operators(2, Duration::from_secs(6));
    let three = [first, first + 100, first + 200];
    let grown = vote(&kubectl, &three);
    // Who knew the first controller alone was restarted, so that it finds the others.
    brokers.push(broker());

    // A volume is lost with all that was on it: its node comes back as another voter.
    let (before, name) = (voters(&kubectl), format!("council-controllers-zone-b-{}", three[1]));
    kubectl.run(&["delete", "pvc", &format!("data-{name}"), "--namespace", "kafka", "--wait=false"]).unwrap();
    kubectl.run(&["delete", "pod", &name, "--namespace", "kafka", "--grace-period=0", "--force"]).unwrap();
    shell::wait_for("another directory to vote", LONG, || {
        let now = voters(&kubectl);
        Ok((now.len() != 3 || now[&three[1]] == before[&three[1]]).then(|| format!("{now:?}")))
    })
    .unwrap();
    let repaired = vote(&kubectl, &three);

    // One is given another volume on request.
    let (before, asked) = (voters(&kubectl), three[2].to_string());
    kubectl.run(&["annotate", "kafkacluster", "council", "--namespace", "kafka", &format!("freehold.dev/replace={asked}")]).unwrap();
    shell::wait_for("the controller to be replaced", LONG, || {
        let (now, status) = (voters(&kubectl), kubectl.get("kafkacluster", "kafka", "council")?.unwrap_or_default()["status"].clone());
        let done = now.get(&three[2]).is_some_and(|directory| *directory != before[&three[2]]) && status["replaced"] == *asked;
        Ok((!done).then(|| format!("{now:?} {}", status["reason"])))
    })
    .unwrap();
    let replaced = vote(&kubectl, &three);

    // All of them move to another pool.
    let other = pool("keepers", "controller", &["zone-c"], 1);
    patch(&kubectl, &[pool("controllers", "controller", &zones, 3), other.clone()]);
    vote(&kubectl, &[three[0], three[1], three[2], first + 300]);
    patch(&kubectl, &[pool("controllers", "controller", &zones, 0), other.clone()]);
    let moved = vote(&kubectl, &[first + 300]);
    patch(&kubectl, std::slice::from_ref(&other));
    vote(&kubectl, &[first + 300]);
    shell::wait_for("the old pool to be gone", LONG, || {
        let sets = kubectl.run(&["get", "statefulsets,pods", "--namespace", "kafka", "-o", "name"])?;
        Ok(sets.contains("council-controllers").then_some(sets))
    })
    .unwrap();

    brokers.push(broker());
    brokers.dedup();
    assert_eq!(brokers.len(), 3, "the broker was restarted when it knew too few controllers, and at no other time: {brokers:?}");

    // The only broker's zone is given up for another: one there takes all that it holds, and it leaves.
    let start = Instant::now();
    patch_all(&kubectl, &["zone-b"], std::slice::from_ref(&other));
    shell::wait_for("the broker of the other zone alone", LONG, || {
        let sets = kubectl.run(&["get", "statefulsets,pods", "--namespace", "kafka", "-o", "name"])?;
        Ok((sets.contains("council-brokers-zone-a") || !sets.contains("pod/council-brokers-zone-b")).then_some(sets))
    })
    .unwrap();
    kubectl.wait_ready("kafkacluster", "kafka", "council", LONG).unwrap();
    let zone = start.elapsed().as_secs_f64();
    let done = load.finish(&kubectl);
    println!(
        "quorum: one controller to three in {grown:.1} s with two operators killed, back after a lost volume (last part {repaired:.1} s), \
         one replaced ({replaced:.1} s), four to one in {moved:.1} s, a broker to another zone in {zone:.1} s; {done}"
    );
    kubectl.delete("user", "shop", "council", LONG).unwrap();
    delete_topic(&kubectl, "shop", "minutes");
    kubectl.delete("kafkacluster", "kafka", "council", LONG).unwrap();
}
