//! Restarts under load: what Kafka can take while it runs is not restarted for, a roll restarts each node once and harms
//! no partition, and one that cannot start stops the roll and is repaired by the spec.

use crate::kafka;
use crate::ledger::Ledger;
use crate::load::{self, Load};
use crate::oracle;
use crate::world::{LONG, block_on, endpoints, kubectl, super_admin};
use ground::kubectl::Kubectl;
use ground::shell::{self, command};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(600);
/// Records a second.
const RATE: i64 = 100;

pub fn patch(kubectl: &Kubectl, patch: &Value) {
    kubectl.merge("kafkacluster", "kafka", "demo", patch).unwrap();
}

/// Uids of the cluster's pods by name.
pub fn pods(kubectl: &Kubectl) -> BTreeMap<String, String> {
    let pods = kubectl.json(&["get", "pods", "--namespace", "kafka", "--selector", "freehold.dev/cluster=demo"]).unwrap();
    let of = |pod: &Value| (pod["metadata"]["name"].as_str().unwrap().to_owned(), pod["metadata"]["uid"].as_str().unwrap().to_owned());
    pods["items"].as_array().unwrap().iter().map(of).collect()
}

/// Waits until the spec as it is now has been followed and the cluster is Ready.
pub fn settled(kubectl: &Kubectl) {
    kubectl.wait_ready("kafkacluster", "kafka", "demo", LIMIT).unwrap();
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
    settled(&kubectl);
    let before = pods(&kubectl);
    let mark = oracle::mark(&kubectl, "kafka", "demo");
    let load = Load::start(&kubectl, "roll", RATE);
    let ledger = Ledger::start(&kubectl, "ledger", RATE / 5);
    let start = Instant::now();
    kubectl
        .run(&["annotate", "kafkacluster", "demo", "--namespace", "kafka", "--overwrite", &format!("freehold.dev/restart={}", load::id())])
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
    let done = load.finish(&kubectl);
    let copied = ledger.finish(&kubectl);
    let seen = oracle::replay(&kubectl, "kafka", "demo", mark);
    assert!(seen.violations.is_empty(), "{:#?}", seen.violations);
    assert_eq!(pods(&kubectl), once, "each node was restarted once");
    let leaders = seen.partitions;
    println!(
        "roll: {:.1} s for {} nodes ({:.1} s each), {done}; {copied}; \
         {} states of partitions replayed, {} leader moves of {leaders} partitions, more than twice: {:?}",
        took.as_secs_f64(),
        before.len(),
        took.as_secs_f64() / before.len() as f64,
        seen.states,
        seen.leader_moves,
        seen.restless,
    );
}

/// The certificate that each node shows on the listener of clients, as PEM.
fn shown(kubectl: &Kubectl) -> BTreeMap<i32, String> {
    let nodes = endpoints(kubectl, "kafka", "demo", "broker", 9094).into_iter();
    let ask = |address: SocketAddr| {
        let chain = shell::output(&mut command("keytool", ["-printcert", "-rfc", "-sslserver", &address.to_string()])).unwrap();
        chain.split_inclusive("-----END CERTIFICATE-----").next().unwrap().to_owned()
    };
    nodes.map(|node| (node.node_id, ask(node.address))).collect()
}

#[test]
#[ignore = "needs the ground: cargo xtask test"]
fn certificates_are_renewed_under_load_and_restart_nothing() {
    let kubectl = kubectl();
    settled(&kubectl);
    let (before, old) = (pods(&kubectl), shown(&kubectl));
    assert_eq!(old.len(), 3, "{old:?}");
    let load = Load::start(&kubectl, "renewal", RATE);
    let start = Instant::now();
    let renew = format!("freehold.dev/renew-certificates={}", load::id());
    kubectl.run(&["annotate", "kafkacluster", "demo", "--namespace", "kafka", "--overwrite", &renew]).unwrap();
    shell::wait_for("every node to show another certificate", LIMIT, || {
        let same: Vec<_> = shown(&kubectl).into_iter().filter(|(id, now)| old[id] == *now).map(|(id, _)| id).collect();
        Ok((!same.is_empty()).then(|| format!("the old ones: {same:?}")))
    })
    .unwrap();
    let took = start.elapsed().as_secs_f64();
    settled(&kubectl);
    assert_eq!(pods(&kubectl), before, "nothing was restarted for it");
    println!("renewal: new certificates shown by all nodes in {took:.1} s, {}", load.finish(&kubectl));
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

#[test]
#[ignore = "needs the ground: cargo xtask test"]
fn a_restart_waits_for_its_maintenance_window_and_is_told_meanwhile() {
    let kubectl = kubectl();
    settled(&kubectl);
    let before = pods(&kubectl);
    let window = json!({"cron": "0 2 29 2 *", "durationMinutes": 5, "timeZone": "Europe/Berlin"});
    patch(&kubectl, &json!({"spec": {"rollout": {"maintenanceWindows": [window]}, "config": {"num.partitions": "3"}}}));
    shell::wait_for("the restarts to wait for their window", LONG, || {
        let status = kubectl.get("kafkacluster", "kafka", "demo")?.unwrap_or_default()["status"].clone();
        let (waiting_on, plan) = (status["waitingOn"].to_string(), status["plan"].to_string());
        let told = waiting_on.contains("maintenance window that opens at") && plan.contains("restart 3: nodes");
        Ok((!told).then(|| format!("{waiting_on} {plan}")))
    })
    .unwrap();
    patch(&kubectl, &json!({"spec": {"rollout": {"maintenanceWindows": []}, "config": {"num.partitions": null}}}));
    settled(&kubectl);
    assert_eq!(pods(&kubectl), before, "nothing was restarted for it");
}

#[test]
#[ignore = "needs the ground: cargo xtask test"]
fn the_plan_of_a_change_is_told_before_it_is_made() {
    let kubectl = kubectl();
    settled(&kubectl);
    let plan = ["exec", "--stdin", "--namespace", "freehold-system", "deploy/freehold", "--", "freehold", "plan", "kafka/demo"];
    let now = kubectl.run(&plan).unwrap();
    assert_eq!(now, "nothing: the cluster is as this spec says");
    let mut changed = kubectl.get("kafkacluster", "kafka", "demo").unwrap().unwrap();
    changed["spec"]["config"] = json!({"num.partitions": "3", "log.cleaner.threads": "2"});
    let mut pool = changed["spec"]["nodePools"][0].clone();
    (pool["name"], pool["roles"]) = (json!("more"), json!(["broker"]));
    changed["spec"]["nodePools"].as_array_mut().unwrap().push(pool);
    let words = [&plan[..], &["--file", "-"]].concat();
    let told = kubectl.feed(&words, &changed.to_string()).unwrap();
    let in_order = [
        "log.cleaner.threads of all brokers",
        "restart 1: nodes",
        "restart 2: nodes",
        "restart 3: nodes",
        "are new",
        "replicas of broker 0: gives",
    ];
    let places: Vec<_> = in_order.iter().map(|words| told.find(words)).collect();
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{told}");
    assert!(told.contains(" move, about ") && !told.contains("about 0 B"), "records lie on the cluster: {told}");
    println!("plan:\n{told}");
    changed["spec"]["version"] = json!("9.9.9");
    let refused = kubectl.feed(&words, &changed.to_string()).unwrap_err().to_string();
    assert!(refused.contains("spec.version") && refused.contains("4.3.1"), "{refused}");
}
