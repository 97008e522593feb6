//! Proof 3: a broker's pod is killed, then that of the active controller, while records flow.
//! Brokers and controllers have separate pools, as in production.

use crate::load::{self, Load};
use crate::world::{
    LONG, Restore, asked, block_on, client, kill_pod, kubectl, super_admin, topic, user,
};
use anyhow::Context;
use freehold_e2e::kubectl::{Kubectl, condition_of, not_ready};
use freehold_e2e::shell;
use freehold_kafka_client::Admin;
use serde_json::Value;
use std::time::Instant;

const CLUSTER: &str = "apiVersion: freehold.dev/v1alpha1
kind: KafkaCluster
metadata: {name: split, namespace: kafka}
spec:
  version: 4.3.1
  deletionPolicy: Delete
  nodePools:
  - {name: controllers, roles: [controller], replicas: 3, zones: [zone-a, zone-b, zone-c], storage: {size: 1Gi}, jvm: {heap: 256Mi}}
  - {name: brokers, roles: [broker], replicas: 3, zones: [zone-a, zone-b, zone-c], storage: {size: 1Gi}, jvm: {heap: 384Mi}}
  listeners:
  - {name: tls, port: 9093, authentication: MutualTls}
  access: {namespaces: {from: All}}
";

#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn no_acknowledged_record_is_lost_when_a_broker_and_then_a_controller_is_killed() {
    let kubectl = kubectl();
    let _cluster = Restore::delete(&kubectl, "kafkacluster", "kafka", "split");
    kubectl.apply(CLUSTER).unwrap();
    kubectl
        .apply(&topic(
            "steady",
            "split",
            "  partitions: 6\n  replicas: 3\n",
        ))
        .unwrap();
    let rights = "  authentication: {type: MutualTls}\n  acls:\n  - {resource: {type: Topic, name: steady}, operations: [Read, Write, Describe]}\n  \
                  - {resource: {type: Group, name: shop-, pattern: Prefixed}, operations: [Read, Describe]}\n";
    kubectl.apply(&user("steady", "split", rights)).unwrap();
    kubectl
        .wait_ready("kafkacluster", "kafka", "split", LONG)
        .unwrap();
    kubectl.wait_ready("topic", "shop", "steady", LONG).unwrap();
    kubectl.wait_ready("user", "shop", "steady", LONG).unwrap();
    // The load runs through both failures.
    let load = Load::of(
        &kubectl,
        client(&kubectl, "steady", "steady"),
        "steady",
        load::rate(),
    );

    let broker = "split-brokers-zone-b";
    kill(&kubectl, broker);
    let quorum = || {
        asked("the quorum", || {
            Ok(block_on(
                super_admin(&kubectl, "kafka", "split").describe_quorum(),
            )?)
        })
    };
    let leader = quorum().leader;
    let pods = kubectl
        .json(&[
            "get",
            "pods",
            "--namespace",
            "kafka",
            "--selector",
            "freehold.dev/cluster=split,freehold.dev/controller=true",
        ])
        .unwrap();
    let controller = pods["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned());
    let controller = controller
        .into_iter()
        .find(|name| name.ends_with(&format!("-{leader}")))
        .expect("the leader has a pod");
    kill(&kubectl, controller.rsplit_once('-').unwrap().0);

    // An idempotent producer that retries gets every record acknowledged.
    println!("killed: {}", load.finish(&kubectl));
    assert_eq!(quorum().voters.len(), 3, "the quorum has its voters back");
    for (kind, name) in [
        ("user", "steady"),
        ("job", "steady-produce"),
        ("job", "steady-produce-read"),
    ] {
        kubectl.delete(kind, "shop", name, LONG).unwrap();
    }
    // The deletion of a cluster never blocks that of its Topics: first the cluster is deleted, then
    // the Topic with all its records.
    kubectl
        .delete("kafkacluster", "kafka", "split", LONG)
        .unwrap();
    kubectl.delete("topic", "shop", "steady", LONG).unwrap();
    let words = [
        "get",
        "pvc,secret,configmap,statefulset",
        "--namespace",
        "kafka",
        "--selector",
        "freehold.dev/cluster=split",
        "-o",
        "name",
    ];
    let left = asked("what is left", || kubectl.run(&words));
    assert_eq!(left, "", "deletionPolicy Delete removes everything");
}

/// The only pod of a StatefulSet.
fn pod_of(kubectl: &Kubectl, stateful_set: &str) -> anyhow::Result<Value> {
    let begin = format!("{stateful_set}-");
    let pods = kubectl.json(&["get", "pods", "--namespace", "kafka"])?;
    let mut pods = pods["items"].as_array().into_iter().flatten();
    let is_its = |pod: &&Value| {
        let name = pod["metadata"]["name"].as_str();
        name.is_some_and(|name| name.starts_with(&begin))
    };
    pods.find(is_its).cloned().context("its pod is not there")
}

/// The number of times that the cluster has said that it recovers.
fn recoveries(kubectl: &Kubectl) -> anyhow::Result<usize> {
    let words = ["get", "events", "--namespace", "kafka", "-o", "name"];
    let which = "reason=Recovering,involvedObject.name=split";
    let events = kubectl.run(&[&words[..], &["--field-selector", which]].concat())?;
    Ok(events.lines().count())
}

/// Kills the only pod of a StatefulSet, and waits until the cluster has reported it and has all its
/// nodes again. What the status says for a moment is in an event too.
fn kill(kubectl: &Kubectl, stateful_set: &str) {
    let start = Instant::now();
    let before = asked("its pod", || pod_of(kubectl, stateful_set));
    let told_before = asked("the events", || recoveries(kubectl));
    let pod = before["metadata"]["name"].as_str().unwrap();
    kill_pod(kubectl, "kafka", pod);
    shell::wait_for("an event that tells what happens", LONG, || {
        let told = recoveries(kubectl)?;
        Ok((told <= told_before).then(|| "no event with reason Recovering".into()))
    })
    .unwrap();
    shell::wait_for("a cluster with all nodes", LONG, || {
        let now = pod_of(kubectl, stateful_set)?;
        let is_another = now["metadata"]["uid"] != before["metadata"]["uid"];
        let is_ready = condition_of(&now, "Ready").is_some_and(|ready| ready["status"] == "True");
        let cluster = kubectl
            .get("kafkacluster", "kafka", "split")?
            .unwrap_or_default();
        let status = &cluster["status"];
        let is_whole = status["brokers"] == "3/3" && status["quorum"]["summary"] == "3/3";
        let well = is_another && is_ready && is_whole && not_ready(&cluster).is_none();
        Ok((!well).then(|| format!("{} {}", status["reason"], status["waitingOn"])))
    })
    .unwrap();
    println!(
        "{pod} killed; whole again after {:.1} s",
        start.elapsed().as_secs_f64()
    );
}
