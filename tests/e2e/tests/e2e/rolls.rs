//! Restarts under load: changes that Kafka can apply at runtime cause no restart; a rolling restart
//! restarts each node once and makes no partition unavailable; a node that cannot start stops it,
//! and a change of the spec repairs it.

use crate::kafka;
use crate::ledger::Ledger;
use crate::load::{self, Load};
use crate::oracle;
use crate::world::{LONG, Restore, asked, block_on, endpoints, kubectl, super_admin};
use anyhow::Context;
use freehold_e2e::kubectl::Kubectl;
use freehold_e2e::shell::{self, command};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(600);

pub fn patch(kubectl: &Kubectl, patch: &Value) {
    kubectl
        .merge("kafkacluster", "kafka", "demo", patch)
        .unwrap();
}

/// The uids of the cluster's pods by name.
pub fn pods(kubectl: &Kubectl) -> BTreeMap<String, String> {
    let words = [
        "get",
        "pods",
        "--namespace",
        "kafka",
        "--selector",
        "freehold.dev/cluster=demo",
    ];
    let pods = asked("the quickstart's pods", || kubectl.json(&words));
    let of = |pod: &Value| {
        (
            pod["metadata"]["name"].as_str().unwrap().to_owned(),
            pod["metadata"]["uid"].as_str().unwrap().to_owned(),
        )
    };
    pods["items"].as_array().unwrap().iter().map(of).collect()
}

/// Waits until the cluster is Ready for its current spec.
pub fn settled(kubectl: &Kubectl) {
    kubectl
        .wait_ready("kafkacluster", "kafka", "demo", LIMIT)
        .unwrap();
}

#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn what_kafka_can_take_while_it_runs_restarts_nothing() {
    let kubectl = kubectl();
    let before = pods(&kubectl);
    let admin = || super_admin(&kubectl, "kafka", "demo");
    let value = |key: &str| block_on(kafka::broker_config(&admin(), key));
    let found = asked("the config", || Ok(value("log.cleaner.backoff.ms")?));
    assert_eq!(found, None, "no dynamic value yet");
    let _config = Restore::demo(
        &kubectl,
        &json!({"config": {"log.cleaner.backoff.ms": null}}),
    );
    patch(
        &kubectl,
        &json!({"spec": {"config": {"log.cleaner.backoff.ms": "20000"}}}),
    );
    shell::wait_for("the config to be in force", LONG, || {
        Ok((value("log.cleaner.backoff.ms")?.as_deref() != Some("20000")).then(String::new))
    })
    .unwrap();
    patch(
        &kubectl,
        &json!({"spec": {"config": {"log.cleaner.backoff.ms": null}}}),
    );
    shell::wait_for("the config to be back at its default", LONG, || {
        Ok(value("log.cleaner.backoff.ms")?)
    })
    .unwrap();
    settled(&kubectl);
    assert_eq!(pods(&kubectl), before, "nothing was restarted for it");
}

#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn a_roll_under_load_loses_nothing_and_restarts_each_node_once() {
    let kubectl = kubectl();
    settled(&kubectl);
    let before = pods(&kubectl);
    let mark = oracle::mark(&kubectl, "kafka", "demo");
    // The two producers of the ledger are a load too, with the same checks.
    let load = load::soaks().then(|| Load::start(&kubectl, "roll", load::rate()));
    let ledger = Ledger::start(&kubectl, "rolled-ledger", load::rate() / 2);
    let start = Instant::now();
    kubectl
        .run(&[
            "annotate",
            "kafkacluster",
            "demo",
            "--namespace",
            "kafka",
            "--overwrite",
            &format!("freehold.dev/restart={}", load::id()),
        ])
        .unwrap();
    shell::wait_for("every pod to be another", LIMIT, || {
        let now = pods(&kubectl);
        let same: Vec<_> = before
            .iter()
            .filter(|(name, uid)| now.get(*name).is_none_or(|now| now == *uid))
            .map(|(name, _)| name)
            .collect();
        Ok((!same.is_empty()).then(|| format!("{same:?}")))
    })
    .unwrap();
    settled(&kubectl);
    let took = start.elapsed();
    let once = pods(&kubectl);
    let done = load.map_or_else(
        || "the ledger's load".into(),
        |load| load.finish(&kubectl).to_string(),
    );
    let copied = ledger.finish(&kubectl);
    let seen = oracle::replay(&kubectl, "kafka", "demo", mark);
    oracle::assert_sound(&seen);
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

/// The certificate of each node on the clients' listener, as PEM.
fn shown(kubectl: &Kubectl) -> anyhow::Result<BTreeMap<i32, String>> {
    let nodes = endpoints(kubectl, "kafka", "demo", "broker", 9094).into_iter();
    let ask = |address: SocketAddr| {
        let chain = shell::output(&mut command(
            "keytool",
            ["-printcert", "-rfc", "-sslserver", &address.to_string()],
        ))?;
        let mut certificates = chain.split_inclusive("-----END CERTIFICATE-----");
        anyhow::Ok(certificates.next().unwrap_or_default().to_owned())
    };
    nodes
        .map(|node| Ok((node.node_id, ask(node.address)?)))
        .collect()
}

#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn certificates_are_renewed_under_load_and_restart_nothing() {
    let kubectl = kubectl();
    settled(&kubectl);
    let before = pods(&kubectl);
    let old = asked("the nodes' certificates", || shown(&kubectl));
    assert_eq!(old.len(), 3, "{old:?}");
    let load = Load::start(&kubectl, "renewal", load::rate());
    let start = Instant::now();
    let renew = format!("freehold.dev/renew-certificates={}", load::id());
    kubectl
        .run(&[
            "annotate",
            "kafkacluster",
            "demo",
            "--namespace",
            "kafka",
            "--overwrite",
            &renew,
        ])
        .unwrap();
    shell::wait_for("every node to show another certificate", LIMIT, || {
        let same: Vec<_> = shown(&kubectl)?
            .into_iter()
            .filter(|(id, now)| old.get(id) == Some(now))
            .map(|(id, _)| id)
            .collect();
        Ok((!same.is_empty()).then(|| format!("the old ones: {same:?}")))
    })
    .unwrap();
    let took = start.elapsed().as_secs_f64();
    settled(&kubectl);
    assert_eq!(pods(&kubectl), before, "nothing was restarted for it");
    println!(
        "renewal: new certificates shown by all nodes in {took:.1} s, {}",
        load.finish(&kubectl)
    );
}

#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn a_node_that_cannot_start_stops_the_roll_and_is_repaired_by_the_spec() {
    let kubectl = kubectl();
    settled(&kubectl);
    let before = pods(&kubectl);
    let labels = |value: Value| json!({"spec": {"nodePools": [pool(&kubectl, value)]}});
    let _pools = Restore::demo(&kubectl, &labels(json!({}))["spec"]);
    // No Kubernetes node has this label.
    patch(
        &kubectl,
        &labels(json!({"nodeSelector": {"example.com/none": "here"}})),
    );
    let mut stuck = String::new();
    shell::wait_for("the roll to stop at its first node", LIMIT, || {
        let found = kubectl
            .get("kafkacluster", "kafka", "demo")?
            .unwrap_or_default();
        stuck = found["status"]["waitingOn"].to_string();
        Ok((!stuck.contains("not scheduled")).then(|| stuck.clone()))
    })
    .unwrap();
    let now = pods(&kubectl);
    let changed: Vec<_> = before
        .iter()
        .filter(|(name, uid)| now.get(*name) != Some(uid))
        .collect();
    assert_eq!(
        changed.len(),
        1,
        "one node was tried, and no other: {changed:?}"
    );
    patch(&kubectl, &labels(json!({})));
    settled(&kubectl);
    let after = pods(&kubectl);
    let changed = before
        .iter()
        .filter(|(name, uid)| after.get(*name) != Some(uid))
        .count();
    assert_eq!(
        changed, 1,
        "the others run what the spec says, and were left alone"
    );
}

/// The quickstart's only pool with another pod template.
fn pool(kubectl: &Kubectl, template: Value) -> Value {
    let mut pool = demo(kubectl)["spec"]["nodePools"][0].clone();
    pool["podTemplate"] = template;
    pool
}

/// The quickstart's cluster as it is now.
pub fn demo(kubectl: &Kubectl) -> Value {
    asked("the quickstart's cluster", || {
        let found = kubectl.get("kafkacluster", "kafka", "demo")?;
        found.context("it is not there")
    })
}

#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn a_restart_waits_for_its_maintenance_window_and_is_told_meanwhile() {
    let kubectl = kubectl();
    settled(&kubectl);
    let before = pods(&kubectl);
    let window = json!({"cron": "0 2 29 2 *", "durationMinutes": 5, "timeZone": "Europe/Berlin"});
    let as_before =
        json!({"rollout": {"maintenanceWindows": []}, "config": {"num.partitions": null}});
    let _window = Restore::demo(&kubectl, &as_before);
    patch(
        &kubectl,
        &json!({"spec": {"rollout": {"maintenanceWindows": [window]}, "config": {"num.partitions": "3"}}}),
    );
    shell::wait_for("the restarts to wait for their window", LONG, || {
        let status = kubectl
            .get("kafkacluster", "kafka", "demo")?
            .unwrap_or_default()["status"]
            .clone();
        let (waiting_on, plan) = (status["waitingOn"].to_string(), status["plan"].to_string());
        let told = waiting_on.contains("maintenance window that opens at")
            && plan.contains("restart 3: nodes");
        Ok((!told).then(|| format!("{waiting_on} {plan}")))
    })
    .unwrap();
    patch(&kubectl, &json!({"spec": as_before}));
    settled(&kubectl);
    assert_eq!(pods(&kubectl), before, "nothing was restarted for it");
}

#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn the_plan_of_a_change_is_told_before_it_is_made() {
    let kubectl = kubectl();
    settled(&kubectl);
    let plan = [
        "exec",
        "--stdin",
        "--namespace",
        "freehold-system",
        "deploy/freehold",
        "--",
        "freehold",
        "plan",
        "kafka/demo",
    ];
    // Tests before this one may have left replicas to move.
    shell::wait_for("nothing to be planned", LIMIT, || {
        let now = kubectl.run(&plan)?;
        Ok((now != "nothing: the cluster is as this spec says").then_some(now))
    })
    .unwrap();
    let mut changed = demo(&kubectl);
    changed["spec"]["config"] = json!({"num.partitions": "3", "log.cleaner.threads": "2"});
    let mut pool = changed["spec"]["nodePools"][0].clone();
    (pool["name"], pool["roles"]) = (json!("more"), json!(["broker"]));
    changed["spec"]["nodePools"]
        .as_array_mut()
        .unwrap()
        .push(pool);
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
    assert!(
        places.iter().all(Option::is_some) && places.is_sorted(),
        "{told}"
    );
    assert!(
        told.contains(" move, about ") && !told.contains("about 0 B"),
        "records lie on the cluster: {told}"
    );
    println!("plan:\n{told}");
    changed["spec"]["version"] = json!("9.9.9");
    let refused = kubectl
        .feed(&words, &changed.to_string())
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("spec.version") && refused.contains("4.3.1"),
        "{refused}"
    );
}
