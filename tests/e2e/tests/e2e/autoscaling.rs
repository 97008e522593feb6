//! A pool gets another broker because of the clients' load, and is reduced when they have gone. The
//! latter takes minutes, so it runs only in a soak; otherwise the unit tests of
//! kinds/kafka_cluster/scaling cover when a broker is removed, and `scaling` how.

use crate::load;
use crate::world::{
    LONG, Restore, asked, block_on, client, delete_topic, kubectl, super_admin, topic, user,
};
use anyhow::Context;
use freehold_e2e::kubectl::Kubectl;
use freehold_e2e::{flow, shell};
use serde_json::{Value, json};
use std::time::Instant;

/// Enough for eleven minutes, and less than the volumes hold; the producer is stopped once the
/// second broker has its share.
const RECORDS: usize = 700_000;

fn status(kubectl: &Kubectl) -> Value {
    let found = asked("the cluster", || {
        kubectl.get("kafkacluster", "kafka", "busy")
    });
    found.unwrap_or_default()["status"].clone()
}

/// Waits until the pool has `count` brokers and the cluster is Ready; returns the time it took.
fn brokers(kubectl: &Kubectl, count: u64) -> f64 {
    let start = Instant::now();
    shell::wait_for(&format!("{count} brokers"), LONG, || {
        let status = status(kubectl);
        let is = status["autoscaling"][0]["replicas"] == count
            && status["brokers"] == format!("{count}/{count}");
        Ok((!is).then(|| format!("{} {}", status["autoscaling"], status["reason"])))
    })
    .unwrap();
    kubectl
        .wait_ready("kafkacluster", "kafka", "busy", LONG)
        .unwrap();
    start.elapsed().as_secs_f64()
}

/// The number of the topic's replicas on each broker.
fn held(kubectl: &Kubectl) -> anyhow::Result<Vec<usize>> {
    let topics = block_on(super_admin(kubectl, "kafka", "busy").describe_topics())?;
    let partitions: Vec<_> = topics
        .iter()
        .filter(|topic| topic.name == "rush")
        .flat_map(|topic| &topic.partitions)
        .collect();
    let of = |id| {
        let mut held = partitions.clone();
        held.retain(|partition| partition.replicas.contains(&id));
        held.len()
    };
    Ok((0..2).map(of).collect())
}

/// Waits until the two brokers hold so many replicas of the topic.
fn share(kubectl: &Kubectl, wanted: [usize; 2]) {
    shell::wait_for(&format!("the shares {wanted:?}"), LONG, || {
        let held = held(kubectl)?;
        Ok((held != wanted).then(|| format!("{held:?}")))
    })
    .unwrap();
}

#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn a_pool_scales_by_its_load_and_back() {
    let kubectl = kubectl();
    let brokers_pool = json!({"name": "brokers", "roles": ["broker"], "replicas": 1, "zones": ["zone-a"], "storage": {"size": "1Gi"},
        "jvm": {"heap": "256Mi"}, "autoscaling": {"maxReplicas": 2, "bytesPerSecond": "512Ki", "cooldownMinutes": 0}});
    let controllers = json!({"name": "controllers", "roles": ["controller"], "replicas": 1, "zones": ["zone-b"], "storage": {"size": "512Mi"},
        "jvm": {"heap": "256Mi"}});
    let object = json!({"apiVersion": "freehold.dev/v1alpha1", "kind": "KafkaCluster", "metadata": {"name": "busy", "namespace": "kafka"},
        "spec": {"version": "4.3.1", "nodePools": [brokers_pool, controllers], "deletionPolicy": "Delete",
            "access": {"namespaces": {"from": "All"}}, "config": {"default.replication.factor": "1", "min.insync.replicas": "1"},
            "listeners": [{"name": "scram", "port": 9094, "authentication": "ScramSha512"}]}});
    kubectl.apply(&object.to_string()).unwrap();
    kubectl
        .apply(&topic("rush", "busy", "  partitions: 4\n  replicas: 1\n"))
        .unwrap();
    let rights =
        "  authentication: {type: ScramSha512}\n  grants:\n  - {produce: {topics: [rush]}}\n";
    kubectl.apply(&user("busy", "busy", rights)).unwrap();
    for (kind, namespace, name) in [
        ("kafkacluster", "kafka", "busy"),
        ("topic", "shop", "rush"),
        ("user", "shop", "busy"),
    ] {
        kubectl.wait_ready(kind, namespace, name, LONG).unwrap();
    }
    let refused = kubectl.merge(
        "kafkacluster",
        "kafka",
        "busy",
        &json!({"spec": {"nodePools": [{"name": "brokers", "roles": ["broker"],
        "replicas": 1, "zones": ["zone-a"], "storage": {"size": "1Gi"}, "autoscaling": {"maxReplicas": 2}}]}}),
    );
    assert!(
        refused
            .unwrap_err()
            .to_string()
            .contains("at least one of cpuPercent, bytesPerSecond, diskPercent")
    );

    let client = client(&kubectl, "busy", "rush");
    let _rush = Restore::delete(&kubectl, "job", "shop", "busy-rush");
    let args = [
        "--num-records",
        &RECORDS.to_string(),
        "--record-size",
        "1024",
        "--throughput",
        "1024",
    ];
    flow::start(
        &kubectl,
        &client,
        "busy-rush",
        "ProducerPerformance",
        &args,
        flow::SAFE_PRODUCER,
    )
    .unwrap();
    let out = brokers(&kubectl, 2);
    let why = status(&kubectl)["autoscaling"][0]["why"].clone();
    share(&kubectl, [2, 2]);
    assert!(
        why.as_str().unwrap().contains("512 KiB are wanted"),
        "{why}"
    );
    let job = asked("the producer's Job", || {
        let job = kubectl.get("job", "shop", "busy-rush")?;
        job.context("it is not there")
    });
    assert!(
        job["status"]["failed"].is_null(),
        "{}",
        flow::log(&kubectl, &client, "busy-rush").unwrap()
    );
    kubectl.delete("job", "shop", "busy-rush", LONG).unwrap();
    let told = |count: usize| {
        let words = [
            "get",
            "events",
            "--namespace",
            "kafka",
            "--field-selector",
            "reason=Autoscaling,involvedObject.name=busy",
            "-o",
            "name",
        ];
        shell::wait_for("an event that tells of it", LONG, || {
            let found = kubectl.run(&words)?.lines().count();
            Ok((found < count).then(|| format!("{found} events")))
        })
        .unwrap();
    };
    told(1);
    println!("autoscaling: a second broker {out:.0} s after clients came ({why})");
    if load::soaks() {
        let back = brokers(&kubectl, 1);
        // What it held is where it was.
        share(&kubectl, [4, 0]);
        told(2);
        println!("autoscaling: one again {back:.0} s after they had gone");
    }

    kubectl.delete("user", "shop", "busy", LONG).unwrap();
    delete_topic(&kubectl, "shop", "rush");
    crate::world::leave(&kubectl, "kafkacluster", "kafka", "busy");
}
