//! Restarts under load: what Kafka can take while it runs is not restarted for, a roll restarts each node once and harms
//! no partition, and one that cannot start stops the roll and is repaired by the spec.

use crate::kafka;
use crate::oracle;
use crate::world::{LONG, block_on, client, kubectl, super_admin};
use ground::flow;
use ground::kubectl::{Kubectl, not_ready};
use ground::shell;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(600);
/// Records a second.
const RATE: i64 = 250;
const RECORDS: usize = 25_000;

fn patch(kubectl: &Kubectl, patch: &Value) {
    kubectl.run(&["patch", "kafkacluster", "demo", "--namespace", "kafka", "--type=merge", "-p", &patch.to_string()]).unwrap();
}

/// Uids of the cluster's pods by name.
fn pods(kubectl: &Kubectl) -> BTreeMap<String, String> {
    let pods = kubectl.json(&["get", "pods", "--namespace", "kafka", "--selector", "freehold.dev/cluster=demo"]).unwrap();
    let of = |pod: &Value| (pod["metadata"]["name"].as_str().unwrap().to_owned(), pod["metadata"]["uid"].as_str().unwrap().to_owned());
    pods["items"].as_array().unwrap().iter().map(of).collect()
}

/// Waits until the spec as it is now has been followed and the cluster is Ready.
fn settled(kubectl: &Kubectl) {
    shell::wait_for("the cluster to follow its spec", LIMIT, || {
        let found = kubectl.get("kafkacluster", "kafka", "demo")?.unwrap_or_default();
        let generation = &found["metadata"]["generation"];
        if found["status"]["observedGeneration"] != *generation {
            return Ok(Some("not looked at yet".into()));
        }
        Ok(not_ready(&found))
    })
    .unwrap();
}

#[test]
#[ignore = "needs the ground: cargo xtask test"]
fn what_kafka_can_take_while_it_runs_restarts_nothing() {
    let kubectl = kubectl();
    let before = pods(&kubectl);
    let admin = || super_admin(&kubectl, "kafka", "demo");
    let value = |key: &str| block_on(kafka::broker_config(&admin(), key)).unwrap();
    assert_eq!(value("log.cleaner.threads"), None, "no dynamic value yet");
    patch(&kubectl, &json!({"spec": {"config": {"log.cleaner.threads": "2"}}}));
    shell::wait_for("the config to be in force", LONG, || Ok((value("log.cleaner.threads").as_deref() != Some("2")).then(String::new)))
        .unwrap();
    patch(&kubectl, &json!({"spec": {"config": {"log.cleaner.threads": null}}}));
    shell::wait_for("the config to be back at its default", LONG, || Ok(value("log.cleaner.threads"))).unwrap();
    settled(&kubectl);
    assert_eq!(pods(&kubectl), before, "nothing was restarted for it");
}

#[test]
#[ignore = "needs the ground: cargo xtask test"]
fn a_roll_under_load_loses_nothing_and_restarts_each_node_once() {
    let kubectl = kubectl();
    let client = client(&kubectl, "shop-app", "orders");
    settled(&kubectl);
    let before = pods(&kubectl);
    let mark = oracle::mark(&kubectl, "kafka", "demo");
    flow::start_producer(&kubectl, &client, "roll-produce", RECORDS, RATE).unwrap();
    shell::wait_for("records to flow", LONG, || {
        let log = flow::log(&kubectl, &client, "roll-produce").unwrap_or_default();
        Ok((log.matches("producer_send_success").count() < 200).then(|| "few yet".into()))
    })
    .unwrap();
    let start = Instant::now();
    kubectl
        .run(&["annotate", "kafkacluster", "demo", "--namespace", "kafka", "--overwrite", &format!("freehold.dev/restart={}", id())])
        .unwrap();
    shell::wait_for("every pod to be another", LIMIT, || {
        let now = pods(&kubectl);
        let same: Vec<_> = before.iter().filter(|(name, uid)| now.get(*name).is_none_or(|now| now == *uid)).map(|(name, _)| name).collect();
        Ok((!same.is_empty()).then(|| format!("{same:?}")))
    })
    .unwrap();
    settled(&kubectl);
    let took = start.elapsed();
    let once = pods(&kubectl);
    let finished = i64::try_from(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis()).unwrap();
    assert!(flow::finished(&kubectl, &client, "roll-produce", LIMIT).unwrap(), "the producer failed");
    let events = flow::events(&kubectl, &client, "roll-produce").unwrap();
    let produced = events.iter().filter_map(|event| event["timestamp"].as_i64()).max().unwrap();
    assert!(produced > finished, "the load went on for the whole roll");
    let acknowledged = flow::acknowledged(&events);
    let failed = events.iter().filter(|event| event["name"] == "producer_send_error").count();
    assert_eq!(failed, 0, "errors at the producer");
    let worst = worst_gap(&events);
    let seen = oracle::replay(&kubectl, "kafka", "demo", mark);
    assert!(seen.violations.is_empty(), "{:#?}", seen.violations);
    assert_eq!(pods(&kubectl), once, "each node was restarted once");
    let held: i64 = ends(&acknowledged).values().sum();
    let group = format!("shop-roll-{}", id());
    let mut read = flow::consume(&kubectl, &client, "roll-consume", &group, usize::try_from(held).unwrap(), LIMIT).unwrap();
    let places: BTreeSet<(i64, i64)> = acknowledged.values().copied().collect();
    read.retain(|(partition, offset, _)| places.contains(&(*partition, *offset)));
    flow::check(&acknowledged, &read).unwrap();
    let leaders = seen.partitions;
    println!(
        "roll: {:.1} s for {} nodes ({:.1} s each), {} records acknowledged and read back, no error, worst gap of a partition {worst} ms; \
         {} states of partitions replayed, {} leader moves of {leaders} partitions",
        took.as_secs_f64(),
        before.len(),
        took.as_secs_f64() / before.len() as f64,
        acknowledged.len(),
        seen.states,
        seen.leader_moves,
    );
}

fn id() -> String {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs().to_string()
}

fn ends(acknowledged: &BTreeMap<i64, (i64, i64)>) -> BTreeMap<i64, i64> {
    let mut ends = BTreeMap::new();
    for (partition, offset) in acknowledged.values() {
        let end = ends.entry(*partition).or_insert(0);
        *end = (*end).max(offset + 1);
    }
    ends
}

/// The longest time without an acknowledgement of a partition, in milliseconds.
fn worst_gap(events: &[Value]) -> i64 {
    let (mut last, mut worst): (BTreeMap<i64, i64>, i64) = (BTreeMap::new(), 0);
    for event in events.iter().filter(|event| event["name"] == "producer_send_success") {
        let (Some(partition), Some(at)) = (event["partition"].as_i64(), event["timestamp"].as_i64()) else { continue };
        if let Some(before) = last.insert(partition, at) {
            worst = worst.max(at - before);
        }
    }
    worst
}

#[test]
#[ignore = "needs the ground: cargo xtask test"]
fn a_node_that_cannot_start_stops_the_roll_and_is_repaired_by_the_spec() {
    let kubectl = kubectl();
    settled(&kubectl);
    let before = pods(&kubectl);
    let labels = |value: Value| json!({"spec": {"nodePools": [pool(&kubectl, value)]}});
    // No node has this label.
    patch(&kubectl, &labels(json!({"nodeSelector": {"example.com/none": "here"}})));
    let mut stuck = String::new();
    shell::wait_for("the roll to stop at its first node", LIMIT, || {
        let found = kubectl.get("kafkacluster", "kafka", "demo")?.unwrap_or_default();
        stuck = found["status"]["waitingOn"].to_string();
        Ok((!stuck.contains("not scheduled")).then(|| stuck.clone()))
    })
    .unwrap();
    let now = pods(&kubectl);
    let changed: Vec<_> = before.iter().filter(|(name, uid)| now.get(*name) != Some(uid)).collect();
    assert_eq!(changed.len(), 1, "one node was tried, and no other: {changed:?}");
    patch(&kubectl, &labels(json!({})));
    settled(&kubectl);
    let after = pods(&kubectl);
    let changed = before.iter().filter(|(name, uid)| after.get(*name) != Some(uid)).count();
    assert_eq!(changed, 1, "the others run what the spec says, and were left alone");
}

/// The quickstart's one pool with another pod template.
fn pool(kubectl: &Kubectl, template: Value) -> Value {
    let found = kubectl.get("kafkacluster", "kafka", "demo").unwrap().unwrap();
    let mut pool = found["spec"]["nodePools"][0].clone();
    pool["podTemplate"] = template;
    pool
}
