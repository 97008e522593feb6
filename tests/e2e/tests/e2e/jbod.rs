//! Running brokers get a second volume, which is filled, emptied and removed again, under load. A
//! node with two volumes from its first start forms the quorum.

use crate::load::{self, Load};
use crate::oracle;
use crate::world::{
    LONG, asked, block_on, client, delete_topic, kubectl, super_admin, topic, user,
};
use anyhow::{Context, Result};
use freehold_e2e::kubectl::Kubectl;
use freehold_e2e::shell;
use freehold_kafka_client::Admin;
use serde_json::{Value, json};
use std::time::Instant;

const FIRST: &str = "/var/lib/kafka/data/log";
const MORE: &str = "/var/lib/kafka/data-more/log";
const LEAD: i32 = 100;

/// The brokers whose volumes change. In a soak there are two; tests/jbod.rs has many, with crashes
/// in between.
fn brokers() -> Vec<i32> {
    if load::soaks() { vec![0, 1] } else { vec![0] }
}

fn pools(volumes: &Value) -> Value {
    let further = json!([{"name": "more", "size": "512Mi"}]);
    json!([
        {"name": "brokers", "roles": ["broker"], "replicas": brokers().len(), "zones": ["zone-a"], "storage": {"size": "512Mi", "volumes": volumes, "whenScaled": "Delete"}, "jvm": {"heap": "256Mi"}},
        {"name": "lead", "roles": ["controller", "broker"], "replicas": 1, "zones": ["zone-b"], "storage": {"size": "512Mi", "volumes": further}, "jvm": {"heap": "320Mi"}},
    ])
}

/// Number of replicas in each of the two folders of a broker; `None` if it does not have the
/// folder.
fn held(kubectl: &Kubectl, broker: i32) -> Result<[Option<usize>; 2]> {
    let folders = block_on(super_admin(kubectl, "kafka", "stack").log_folders_of(broker))?;
    Ok([FIRST, MORE].map(|path| folders.0.get(path).map(|folder| folder.replicas.len())))
}

/// Gives the brokers these volumes; returns the time until they were used as intended.
fn change(kubectl: &Kubectl, volumes: &Value, done: impl Fn([Option<usize>; 2]) -> bool) -> f64 {
    let start = Instant::now();
    kubectl
        .merge(
            "kafkacluster",
            "kafka",
            "stack",
            &json!({"spec": {"nodePools": pools(volumes)}}),
        )
        .unwrap();
    shell::wait_for("the brokers' volumes to be used", LONG, || {
        let held = brokers().into_iter().map(|broker| held(kubectl, broker));
        let held: Vec<_> = held.collect::<Result<_>>()?;
        Ok((!held.iter().copied().all(&done)).then(|| format!("{held:?}")))
    })
    .unwrap();
    kubectl
        .wait_ready("kafkacluster", "kafka", "stack", LONG)
        .unwrap();
    start.elapsed().as_secs_f64()
}

#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn a_further_volume_is_filled_and_emptied_under_load() {
    let kubectl = kubectl();
    let object = json!({"apiVersion": "freehold.dev/v1alpha1", "kind": "KafkaCluster", "metadata": {"name": "stack", "namespace": "kafka"},
        "spec": {"version": "4.3.1", "nodePools": pools(&json!([])), "deletionPolicy": "Delete", "access": {"namespaces": {"from": "All"}},
            "config": {"default.replication.factor": "2", "min.insync.replicas": "1", "offsets.topic.replication.factor": "2"},
            "listeners": [{"name": "scram", "port": 9094, "authentication": "ScramSha512"}]}});
    kubectl.apply(&object.to_string()).unwrap();
    kubectl
        .apply(&topic("piled", "stack", "  partitions: 6\n  replicas: 2\n"))
        .unwrap();
    let rights = "  authentication: {type: ScramSha512}\n  grants:\n  - {produce: {topics: [piled]}}\n  \
                  - {consume: {topics: [piled], groups: [\"shop-*\"]}}\n";
    kubectl.apply(&user("stack", "stack", rights)).unwrap();
    for (kind, namespace, name) in [
        ("kafkacluster", "kafka", "stack"),
        ("topic", "shop", "piled"),
        ("user", "shop", "stack"),
    ] {
        kubectl.wait_ready(kind, namespace, name, LONG).unwrap();
    }
    shell::wait_for("two volumes from the start, both in use", LONG, || {
        let lead = held(&kubectl, LEAD)?;
        Ok((!matches!(lead, [Some(1..), Some(1..)])).then(|| format!("{lead:?}")))
    })
    .unwrap();
    let lead_pod = || {
        let pod = asked("the lead's pod", || {
            let pod = kubectl.get("pod", "kafka", &format!("stack-lead-zone-b-{LEAD}"))?;
            pod.context("it is not there")
        });
        pod["metadata"]["uid"].clone()
    };
    let (mark, before) = (oracle::mark(&kubectl, "kafka", "stack"), lead_pod());
    let load = Load::of(
        &kubectl,
        client(&kubectl, "stack", "piled"),
        "stack",
        load::rate(),
    );

    let filled = change(
        &kubectl,
        &json!([{"name": "more", "size": "512Mi"}]),
        |held| matches!(held, [Some(1..), Some(1..)]),
    );
    let emptied = change(&kubectl, &json!([]), |held| {
        matches!(held, [Some(1..), None])
    });
    assert_eq!(
        lead_pod(),
        before,
        "who has what the spec says is not restarted"
    );
    let done = load.finish(&kubectl);
    let seen = oracle::replay(&kubectl, "kafka", "stack", mark);
    oracle::assert_sound(&seen);
    shell::wait_for(
        "the volumes that were taken away to go, and no other",
        LONG,
        || {
            let claims = kubectl.run(&["get", "pvc", "--namespace", "kafka", "-o", "name"])?;
            let has = |name: &str, id: i32| {
                claims
                    .lines()
                    .any(|line| line == format!("persistentvolumeclaim/{name}-{id}"))
            };
            assert!(
                has("data-more-stack-lead-zone-b", LEAD)
                    && brokers()
                        .iter()
                        .all(|id| has("data-stack-brokers-zone-a", *id)),
                "{claims}"
            );
            Ok(brokers()
                .iter()
                .any(|id| has("data-more-stack-brokers-zone-a", *id))
                .then_some(claims))
        },
    )
    .unwrap();
    shell::wait_for("nothing to be cordoned any more", LONG, || {
        let found = kubectl.get("kafkacluster", "kafka", "stack")?;
        let found = found.context("it is not there")?;
        let configs = found["status"]["dynamicConfigs"].to_string();
        Ok(configs.contains("cordoned").then_some(configs))
    })
    .unwrap();
    println!(
        "jbod: a volume came to {} brokers and was filled in {filled:.1} s, emptied and gone in {emptied:.1} s; {done}",
        brokers().len()
    );

    kubectl.delete("user", "shop", "stack", LONG).unwrap();
    delete_topic(&kubectl, "shop", "piled");
    crate::world::leave(&kubectl, "kafkacluster", "kafka", "stack");
}
