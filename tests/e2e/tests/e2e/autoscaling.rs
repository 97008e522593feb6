//! A pool that gets a broker because of what clients send, and gives it back when they have gone.

use crate::world::{LONG, block_on, client, delete_topic, kubectl, super_admin, topic, user};
use ground::kubectl::Kubectl;
use ground::{flow, shell};
use serde_json::{Value, json};
use std::time::Instant;

const RECORDS: usize = 90_000;

fn status(kubectl: &Kubectl) -> Value {
    kubectl.get("kafkacluster", "kafka", "busy").unwrap().unwrap_or_default()["status"].clone()
}

/// Waits until the pool has so many brokers, all of them in use; how long that took.
fn brokers(kubectl: &Kubectl, count: u64) -> f64 {
    let start = Instant::now();
    shell::wait_for(&format!("{count} brokers"), LONG, || {
        let status = status(kubectl);
        let is = status["autoscaling"][0]["replicas"] == count && status["brokers"] == format!("{count}/{count}");
        Ok((!is).then(|| format!("{} {}", status["autoscaling"], status["reason"])))
    })
    .unwrap();
    kubectl.wait_ready("kafkacluster", "kafka", "busy", LONG).unwrap();
    start.elapsed().as_secs_f64()
}

/// Replicas of the topic that each broker holds.
fn held(kubectl: &Kubectl) -> Vec<usize> {
    let topics = block_on(super_admin(kubectl, "kafka", "busy").describe_topics()).unwrap();
    let partitions: Vec<_> = topics.iter().filter(|topic| topic.name == "rush").flat_map(|topic| &topic.partitions).collect();
    (0..2).map(|id| partitions.iter().filter(|partition| partition.replicas.contains(&id)).count()).collect()
}

#[test]
#[ignore = "needs the ground: cargo xtask test"]
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
    kubectl.apply(&topic("rush", "busy", "  partitions: 4\n  replicas: 1\n")).unwrap();
    let rights = "  authentication: {type: ScramSha512}\n  grants:\n  - {produce: {topics: [rush]}}\n";
    kubectl.apply(&user("busy", "busy", rights)).unwrap();
    for (kind, namespace, name) in [("kafkacluster", "kafka", "busy"), ("topic", "shop", "rush"), ("user", "shop", "busy")] {
        kubectl.wait_ready(kind, namespace, name, LONG).unwrap();
    }
    let refused = kubectl.merge(
        "kafkacluster",
        "kafka",
        "busy",
        &json!({"spec": {"nodePools": [{"name": "brokers", "roles": ["broker"],
        "replicas": 1, "zones": ["zone-a"], "storage": {"size": "1Gi"}, "autoscaling": {"maxReplicas": 2}}]}}),
    );
    assert!(refused.unwrap_err().to_string().contains("at least one of cpuPercent, bytesPerSecond, diskPercent"));

    let client = client(&kubectl, "busy", "rush");
    let args = ["--num-records", &RECORDS.to_string(), "--record-size", "1024", "--throughput", "1024"];
    flow::start(&kubectl, &client, "busy-rush", "ProducerPerformance", &args, flow::SAFE_PRODUCER).unwrap();
    let out = brokers(&kubectl, 2);
    let (shares, why) = (held(&kubectl), status(&kubectl)["autoscaling"][0]["why"].clone());
    assert_eq!(shares, [2, 2], "the new broker holds its share");
    assert!(why.as_str().unwrap().contains("512 KiB are wanted"), "{why}");
    assert!(flow::finished(&kubectl, &client, "busy-rush", LONG).unwrap(), "{}", flow::log(&kubectl, &client, "busy-rush").unwrap());
    let back = brokers(&kubectl, 1);
    assert_eq!(held(&kubectl), [4, 0], "what it held is where it was");
    let events = kubectl.run(&["get", "events", "--namespace", "kafka", "--field-selector", "reason=Autoscaling", "-o", "name"]).unwrap();
    assert!(events.lines().count() >= 2, "{events}");
    println!("autoscaling: a second broker {out:.0} s after clients came ({why}), one again {back:.0} s after they had gone");

    kubectl.delete("user", "shop", "busy", LONG).unwrap();
    delete_topic(&kubectl, "shop", "rush");
    kubectl.delete("kafkacluster", "kafka", "busy", LONG).unwrap();
}
