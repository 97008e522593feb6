//! Exactly once while everything moves: records go through a transform, a filter and a split while
//! the Pipeline's pods are killed every few seconds, its stage scales, brokers restart, and one
//! joins and leaves. In a soak in ten rounds.

use crate::ledger::held;
use crate::load::{self, Load};
use crate::rolls::{pods, settled};
use crate::scaling::{gone, hold_like_shares, restore_pools, set_extra_in};
use crate::world::{LONG, client, delete_topic, kill_pod, kubectl, topic, user};
use freehold_e2e::flow::{self, Client};
use freehold_e2e::kubectl::Kubectl;
use freehold_e2e::{promise, shell};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const NAMESPACE: &str = "shop";
const NAME: &str = "proof";
const TOPICS: [&str; 3] = ["proof", "proof-even", "proof-odd"];
/// Records a second; what is moved takes minutes.
const RATE: i64 = 600;
const ROUNDS_OF_SOAK: usize = 10;
const PAUSE_BETWEEN_KILLS: Duration = Duration::from_secs(7);
const LIMIT: Duration = Duration::from_secs(600);

/// Numbers come out tenfold, but for each fifth one; even and odd ones apart.
fn pipeline() -> String {
    format!(
        "apiVersion: freehold.dev/v1alpha1
kind: Pipeline
metadata: {{name: {NAME}, namespace: {NAMESPACE}}}
spec:
  clusterRef: {{name: demo, namespace: kafka}}
  replicas: 1
  blocks:
  - {{name: numbers, source: {{kafka: {{topicRef: {{name: proof}}}}}}}}
  - {{name: tenfold, from: [numbers], transform: {{vrl: '. = int!(.) * 10'}}}}
  - {{name: kept, from: [tenfold], filter: {{when: 'mod(int(.) ?? 0, 50) != 0'}}}}
  - name: parity
    from: [kept]
    split: {{cases: [{{name: even, when: 'mod(int(.) ?? 0, 20) == 0'}}], default: odd}}
  - {{name: even-out, from: [parity.even], sink: {{kafka: {{topicRef: {{name: proof-even}}}}}}}}
  - {{name: odd-out, from: [parity.odd], sink: {{kafka: {{topicRef: {{name: proof-odd}}}}}}}}
"
    )
}

#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn records_are_there_exactly_once_while_pods_brokers_and_replicas_come_and_go() {
    let kubectl = kubectl();
    let rounds = if load::soaks() { ROUNDS_OF_SOAK } else { 1 };
    for _ in 0..rounds {
        round(&kubectl);
    }
}

fn round(kubectl: &Kubectl) {
    settled(kubectl);
    remove(kubectl);
    for name in TOPICS {
        let spec = "  partitions: 6\n  replicas: 3\n  config: {min.insync.replicas: \"2\"}\n";
        kubectl.apply(&topic(name, "demo", spec)).unwrap();
    }
    let rights = "  authentication: {type: ScramSha512}\n  grants:\n  - {produce: {topics: [proof]}}\n  - {consume: {topics: [proof, proof-even, proof-odd], groups: [\"shop-*\"]}}\n";
    kubectl.apply(&user("prover", "demo", rights)).unwrap();
    kubectl.apply(&pipeline()).unwrap();
    for (kind, name) in [("user", "prover"), ("pipeline", NAME)] {
        kubectl.wait_ready(kind, NAMESPACE, name, LONG).unwrap();
    }
    let _pools = restore_pools(kubectl);
    let load = Load::of(kubectl, client(kubectl, "prover", "proof"), NAME, RATE);
    let start = Instant::now();
    let extra = |replicas| set_extra_in(kubectl, ("kafka", "demo"), &["zone-a"], Some(replicas));
    let killed = while_pods_are_killed(kubectl, || {
        scale(kubectl, 4);
        extra(1);
        hold_like_shares(kubectl, 4);
        settled(kubectl);
        roll(kubectl);
        scale(kubectl, 2);
        let mut stay = pods(kubectl);
        stay.retain(|name, _| !name.contains("-extra-"));
        extra(0);
        gone(kubectl, &stay);
    });
    let took = start.elapsed().as_secs();
    let acknowledged = load.finish(kubectl).acknowledged;
    // The producer's log may have lost its last lines: Kafka knows how many records it wrote. Their
    // values are the numbers from 0.
    let written = held(kubectl, &["proof".to_owned()]).unwrap().remove(0);
    let written = i64::try_from(written).unwrap();
    promise!(
        acknowledged.keys().all(|value| *value < written),
        "{written} records were written, and others are acknowledged"
    );
    kubectl
        .wait_ready("pipeline", NAMESPACE, NAME, LONG)
        .unwrap();
    arrived_once(kubectl, written);
    println!(
        "proof: {written} records exactly once in {took} s, with {killed} pods killed, four brokers \
         restarted, one that joined and left, replicas 1 to 4 to 2"
    );
    remove(kubectl);
}

/// Kills one pod of the Pipeline after the other while this is done; returns how many.
fn while_pods_are_killed(kubectl: &Kubectl, work: impl FnOnce()) -> usize {
    /// Also when the work fails.
    struct End<'a>(&'a AtomicBool);
    impl Drop for End<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let killer = scope.spawn(|| {
            let mut killed = 0;
            while !is_done.load(Ordering::Relaxed) {
                let pods = running(kubectl);
                if let Some(pod) = pods.get(killed % pods.len().max(1)) {
                    kill_pod(kubectl, NAMESPACE, pod);
                    killed += 1;
                }
                std::thread::sleep(PAUSE_BETWEEN_KILLS);
            }
            killed
        });
        let end = End(&is_done);
        work();
        drop(end);
        killer.join().unwrap()
    })
}

/// The running pods of the Pipeline; none while the API server does not answer.
fn running(kubectl: &Kubectl) -> Vec<String> {
    let selector = format!("freehold.dev/pipeline={NAME}");
    let words = [
        "get",
        "pod",
        "--namespace",
        NAMESPACE,
        "--selector",
        &selector,
        "--field-selector=status.phase=Running",
        "--output=jsonpath={.items[*].metadata.name}",
    ];
    let names = kubectl.run(&words).unwrap_or_default();
    names.split_whitespace().map(str::to_owned).collect()
}

/// Scales the stage by hand, and waits until the members of its group are its pods alone.
fn scale(kubectl: &Kubectl, replicas: usize) {
    let replicas_word = format!("--replicas={replicas}");
    let words = ["scale", "pipeline", NAME, &replicas_word];
    kubectl
        .run(&[&words[..], &["--namespace", NAMESPACE]].concat())
        .unwrap();
    shell::wait_for(&format!("{replicas} replicas"), LONG, || {
        let object = kubectl.get("pipeline", NAMESPACE, NAME)?;
        let stage = object.unwrap_or_default()["status"]["stages"][0].take();
        Ok(
            (stage["wanted"] != replicas || stage["members"] != replicas)
                .then(|| stage.to_string()),
        )
    })
    .unwrap();
}

/// Restarts every node of the quickstart's cluster.
fn roll(kubectl: &Kubectl) {
    let before = pods(kubectl);
    let restart = format!("freehold.dev/restart={}", load::id());
    let words = ["annotate", "kafkacluster", "demo", "--overwrite", &restart];
    kubectl
        .run(&[&words[..], &["--namespace", "kafka"]].concat())
        .unwrap();
    shell::wait_for("every node to be restarted", LIMIT, || {
        let now = pods(kubectl);
        let same = before
            .iter()
            .filter(|(name, uid)| now.get(*name).is_none_or(|now| now == *uid));
        let same: Vec<_> = same.map(|(name, _)| name).collect();
        Ok((!same.is_empty()).then(|| format!("{same:?}")))
    })
    .unwrap();
    settled(kubectl);
}

/// Each of these numbers that the filter keeps is tenfold in the topic of its parity, once, and
/// those of a key are in order.
fn arrived_once(kubectl: &Kubectl, written: i64) {
    for (name, is_even) in [("proof-even", true), ("proof-odd", false)] {
        let wanted: BTreeSet<i64> = (0..written)
            .filter(|n| n % 5 != 0 && (n % 2 == 0) == is_even)
            .map(|n| n * 10)
            .collect();
        let to: Client = client(kubectl, "prover", name);
        let group = format!("shop-{name}-{}", load::id());
        let read = flow::consume_committed(kubectl, &to, name, &group, wanted.len(), LONG).unwrap();
        let values: BTreeSet<i64> = read.iter().map(|(.., value)| *value).collect();
        promise!(
            values.len() == read.len(),
            "{} records are twice in {name}",
            read.len() - values.len()
        );
        let lost: Vec<_> = wanted.difference(&values).take(10).collect();
        let foreign: Vec<_> = values.difference(&wanted).take(10).collect();
        promise!(
            lost.is_empty() && foreign.is_empty(),
            "not in {name}: {lost:?}; should not be there: {foreign:?}"
        );
        let mut last: BTreeMap<i64, (i64, i64)> = BTreeMap::new();
        for (partition, offset, value) in &read {
            // The producer repeats twelve keys; a key's numbers are twelve apart.
            let before = last.insert(value / 10 % 12, (*partition, *value));
            promise!(
                before.is_none_or(|(at, before)| at == *partition && before < *value),
                "{name}/{partition}/{offset}: {value} after {before:?}"
            );
        }
    }
}

fn remove(kubectl: &Kubectl) {
    kubectl.delete("pipeline", NAMESPACE, NAME, LONG).unwrap();
    kubectl.delete("user", NAMESPACE, "prover", LONG).unwrap();
    for name in TOPICS {
        if kubectl.get("topic", NAMESPACE, name).unwrap().is_some() {
            delete_topic(kubectl, NAMESPACE, name);
        }
    }
}
