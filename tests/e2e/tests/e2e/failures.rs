//! Proof 3: a broker's pod is killed, then that of the active controller, while records flow.
//! Brokers and controllers have separate pools, as in production.

use crate::load::{self, Load};
use crate::world::{LONG, block_on, client, kubectl, super_admin, topic, user};
use freehold_e2e::kubectl::Kubectl;
use freehold_e2e::shell;
use freehold_kafka_client::Admin;
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
    let leader = block_on(super_admin(&kubectl, "kafka", "split").describe_quorum())
        .unwrap()
        .leader;
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
    let quorum = block_on(super_admin(&kubectl, "kafka", "split").describe_quorum()).unwrap();
    assert_eq!(quorum.voters.len(), 3, "the quorum has its voters back");
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
    let left = kubectl.run(&[
        "get",
        "pvc,secret,configmap,statefulset",
        "--namespace",
        "kafka",
        "--selector",
        "freehold.dev/cluster=split",
        "-o",
        "name",
    ]);
    assert_eq!(
        left.unwrap(),
        "",
        "deletionPolicy Delete removes everything"
    );
}

/// Kills the only pod of a StatefulSet, and waits until the cluster has reported it and is Ready
/// again.
fn kill(kubectl: &Kubectl, stateful_set: &str) {
    let start = Instant::now();
    let selector = ["get", "pods", "--namespace", "kafka", "-o", "name"];
    let pods = kubectl.run(&selector).unwrap();
    let pod = pods
        .lines()
        .find(|pod| pod.starts_with(&format!("pod/{stateful_set}-")))
        .expect("its pod")
        .to_owned();
    kubectl
        .run(&[
            "delete",
            &pod,
            "--namespace",
            "kafka",
            "--force",
            "--grace-period=0",
        ])
        .unwrap();
    let mut said = String::new();
    shell::wait_for("the status to say what happens", LONG, || {
        let cluster = kubectl
            .get("kafkacluster", "kafka", "split")?
            .unwrap_or_default();
        said = cluster["status"]["reason"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        Ok((!said.starts_with("Recovering")).then(|| format!("reason is {said:?}")))
    })
    .unwrap();
    kubectl
        .wait_ready("kafkacluster", "kafka", "split", LONG)
        .unwrap();
    println!(
        "{pod} killed; status said {said:?}; whole again after {:.1} s",
        start.elapsed().as_secs_f64()
    );
}
