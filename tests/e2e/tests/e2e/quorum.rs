//! The metadata quorum grows into new zones, loses a volume, gets a controller with a new volume,
//! and moves to another pool, while records flow and operators die.

use crate::load::{self, Load};
use crate::world::{
    LONG, asked, block_on, client, delete_topic, kubectl, super_admin, topic, user,
};
use anyhow::{Context, Result};
use freehold_e2e::kubectl::Kubectl;
use freehold_e2e::shell;
use freehold_kafka_client::Admin;
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
    kubectl
        .merge(
            "kafkacluster",
            "kafka",
            "council",
            &json!({"spec": {"nodePools": pools}}),
        )
        .unwrap();
}

/// The voters with the ids of their log directories.
fn voters(kubectl: &Kubectl) -> Result<BTreeMap<i32, String>> {
    let quorum = block_on(super_admin(kubectl, "kafka", "council").describe_quorum())?;
    let voters = quorum.voters.into_iter();
    Ok(voters
        .map(|voter| (voter.id, voter.directory.to_string()))
        .collect())
}

/// Waits until exactly these nodes are voters and the cluster is Ready; returns the time it took.
fn vote(kubectl: &Kubectl, wanted: &[i32]) -> f64 {
    let start = Instant::now();
    shell::wait_for(&format!("the quorum of {wanted:?}"), LONG, || {
        let voters = voters(kubectl)?;
        Ok((!voters.keys().eq(wanted.iter())).then(|| format!("{:?}", voters.keys())))
    })
    .unwrap();
    kubectl
        .wait_ready("kafkacluster", "kafka", "council", LONG)
        .unwrap();
    start.elapsed().as_secs_f64()
}

/// Replaces the volume of one controller on request; returns the time it took. Only in a soak:
/// otherwise the lost volume below covers how a voter gets another directory, and `scaling` covers
/// how a node is replaced on request.
fn replace_one(kubectl: &Kubectl, three: &[i32; 3]) -> f64 {
    let before = asked("the voters", || voters(kubectl));
    let id = three[2].to_string();
    kubectl
        .run(&[
            "annotate",
            "kafkacluster",
            "council",
            "--namespace",
            "kafka",
            &format!("freehold.dev/replace={id}"),
        ])
        .unwrap();
    shell::wait_for("the controller to be replaced", LONG, || {
        let (now, status) = (
            voters(kubectl)?,
            kubectl
                .get("kafkacluster", "kafka", "council")?
                .unwrap_or_default()["status"]
                .clone(),
        );
        let done = now
            .get(&three[2])
            .is_some_and(|directory| *directory != before[&three[2]])
            && status["replaced"] == *id;
        Ok((!done).then(|| format!("{now:?} {}", status["reason"])))
    })
    .unwrap();
    vote(kubectl, three)
}

/// The only broker's zone is replaced by another one: a broker there takes over everything, and the
/// old one leaves. Only in a soak: otherwise `scaling` covers how brokers join, are filled, emptied
/// and leave, and tests/moves.rs covers zones that the spec no longer has.
fn to_another_zone(kubectl: &Kubectl, controllers: &Value) {
    let start = Instant::now();
    patch_all(kubectl, &["zone-b"], std::slice::from_ref(controllers));
    shell::wait_for("the broker of the other zone alone", LONG, || {
        let sets = kubectl.run(&[
            "get",
            "statefulsets,pods",
            "--namespace",
            "kafka",
            "-o",
            "name",
        ])?;
        Ok((sets.contains("council-brokers-zone-a")
            || !sets.contains("pod/council-brokers-zone-b"))
        .then_some(sets))
    })
    .unwrap();
    kubectl
        .wait_ready("kafkacluster", "kafka", "council", LONG)
        .unwrap();
    println!(
        "quorum: a broker to another zone in {:.1} s",
        start.elapsed().as_secs_f64()
    );
}

#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn controllers_join_and_leave_the_quorum_under_load() {
    let kubectl = kubectl();
    let pools = json!([
        pool("brokers", "broker", &["zone-a"], 1),
        pool("controllers", "controller", &["zone-a"], 1)
    ]);
    let object = json!({"apiVersion": "freehold.dev/v1alpha1", "kind": "KafkaCluster", "metadata": {"name": "council", "namespace": "kafka"},
        "spec": {"version": "4.3.1", "nodePools": pools, "deletionPolicy": "Delete", "access": {"namespaces": {"from": "All"}}, "rollout": {"allowUnavailable": true},
            "listeners": [{"name": "scram", "port": 9094, "authentication": "ScramSha512"}]}});
    kubectl.apply(&object.to_string()).unwrap();
    kubectl
        .apply(&topic("minutes", "council", "  partitions: 3\n"))
        .unwrap();
    let rights = "  authentication: {type: ScramSha512}\n  grants:\n  - {produce: {topics: [minutes]}}\n  \
                  - {consume: {topics: [minutes], groups: [\"shop-*\"]}}\n";
    kubectl.apply(&user("council", "council", rights)).unwrap();
    for (kind, namespace, name) in [
        ("kafkacluster", "kafka", "council"),
        ("topic", "shop", "minutes"),
        ("user", "shop", "council"),
    ] {
        kubectl.wait_ready(kind, namespace, name, LONG).unwrap();
    }
    let first = asked("the first controller", || {
        let voters = voters(&kubectl)?;
        voters.keys().next().copied().context("no voter")
    });
    let broker = || {
        let pod = asked("the broker's pod", || {
            let pod = kubectl.get("pod", "kafka", "council-brokers-zone-a-0")?;
            pod.context("it is not there")
        });
        pod["metadata"]["uid"].clone()
    };
    let mut brokers = vec![broker()];
    let load = Load::of(
        &kubectl,
        client(&kubectl, "council", "minutes"),
        "council",
        load::rate(),
    );

    // One controller becomes three, in two more zones, while operators die.
    let zones = ["zone-a", "zone-b", "zone-c"];
    patch(&kubectl, &[pool("controllers", "controller", &zones, 3)]);
    load::kill_operators(2, Duration::from_secs(6));
    let three = [first, first + 100, first + 200];
    let grown = vote(&kubectl, &three);
    // The broker that knew only the first controller was restarted, so that it finds the others.
    brokers.push(broker());

    // A volume is lost with all data: its node comes back as a new voter.
    let before = asked("the voters", || voters(&kubectl));
    let name = format!("council-controllers-zone-b-{}", three[1]);
    kubectl
        .run(&[
            "delete",
            "pvc",
            &format!("data-{name}"),
            "--namespace",
            "kafka",
            "--wait=false",
        ])
        .unwrap();
    kubectl
        .run(&[
            "delete",
            "pod",
            &name,
            "--namespace",
            "kafka",
            "--grace-period=0",
            "--force",
        ])
        .unwrap();
    shell::wait_for("another directory to vote", LONG, || {
        let now = voters(&kubectl)?;
        let directory = now.get(&three[1]);
        let is_another = directory.is_some_and(|now| *now != before[&three[1]]);
        Ok((now.len() != 3 || !is_another).then(|| format!("{now:?}")))
    })
    .unwrap();
    let repaired = vote(&kubectl, &three);

    let replaced = if load::soaks() {
        replace_one(&kubectl, &three)
    } else {
        0.0
    };

    // All controllers move to another pool.
    let other = pool("keepers", "controller", &["zone-c"], 1);
    patch(
        &kubectl,
        &[pool("controllers", "controller", &zones, 3), other.clone()],
    );
    vote(&kubectl, &[three[0], three[1], three[2], first + 300]);
    patch(
        &kubectl,
        &[pool("controllers", "controller", &zones, 0), other.clone()],
    );
    let moved = vote(&kubectl, &[first + 300]);
    patch(&kubectl, std::slice::from_ref(&other));
    vote(&kubectl, &[first + 300]);
    shell::wait_for("the old pool to be gone", LONG, || {
        let sets = kubectl.run(&[
            "get",
            "statefulsets,pods",
            "--namespace",
            "kafka",
            "-o",
            "name",
        ])?;
        Ok(sets.contains("council-controllers").then_some(sets))
    })
    .unwrap();

    brokers.push(broker());
    brokers.dedup();
    assert_eq!(
        brokers.len(),
        3,
        "the broker was restarted when it knew too few controllers, and at no other time: {brokers:?}"
    );

    if load::soaks() {
        to_another_zone(&kubectl, &other);
    }
    let done = load.finish(&kubectl);
    println!(
        "quorum: one controller to three in {grown:.1} s with two operators killed, back after a lost volume (last part {repaired:.1} s), \
         one replaced in a soak ({replaced:.1} s), four to one in {moved:.1} s; {done}"
    );
    kubectl.delete("user", "shop", "council", LONG).unwrap();
    delete_topic(&kubectl, "shop", "minutes");
    crate::world::leave(&kubectl, "kafkacluster", "kafka", "council");
}
