//! A Pipeline as people use it: made with `kubectl apply`, under load while its pods are killed,
//! with a record that a block fails on, changed, paused and deleted.

use crate::world::{LONG, asked, client, kill_pod, kubectl, refused, topic, user, wait_degraded};
use anyhow::Context;
use freehold_e2e::flow::{self, Client, Read};
use freehold_e2e::kubectl::{Kubectl, condition_of};
use freehold_e2e::{promise, shell};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

const NAMESPACE: &str = "shop";
const RECORDS: usize = 20_000;
const RATE: i64 = 1_000;
/// A block fails on this value.
const BAD: i64 = 7;
/// A failing block is named within this time, and cleared within the other.
const NAMED: Duration = Duration::from_secs(10);
const CLEARED: Duration = Duration::from_secs(30);

fn pipeline(program: &str) -> String {
    format!(
        "apiVersion: freehold.dev/v1alpha1
kind: Pipeline
metadata: {{name: numbers, namespace: {NAMESPACE}}}
spec:
  clusterRef: {{name: demo, namespace: kafka}}
  replicas: 2
  errors: {{deadLetter: {{topicRef: {{name: numbers-bad}}}}}}
  blocks:
  - {{name: numbers, source: {{kafka: {{topicRef: {{name: numbers}}}}}}}}
  - name: tenfold
    from: [numbers]
    transform:
      vrl: |
        {program}
  - name: parity
    from: [tenfold]
    split: {{cases: [{{name: even, when: 'mod(int(.) ?? 0, 20) == 0'}}], default: odd}}
  - {{name: even-out, from: [parity.even], sink: {{kafka: {{topicRef: {{name: numbers-even}}}}}}}}
  - {{name: odd-out, from: [parity.odd], sink: {{kafka: {{topicRef: {{name: numbers-odd}}}}}}}}
"
    )
}

fn tenfold() -> String {
    pipeline(&format!(
        ". = int!(.) * 10; assert!(. != {BAD}0, \"a number that nobody likes\")"
    ))
}

#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn a_pipeline_splits_a_topic_exactly_once_while_its_pods_are_killed() {
    let kubectl = kubectl();
    remove(&kubectl);
    for name in ["numbers", "numbers-even", "numbers-odd", "numbers-bad"] {
        let spec = "  partitions: 6\n  replicas: 3\n  config: {min.insync.replicas: \"2\"}\n";
        kubectl.apply(&topic(name, "demo", spec)).unwrap();
    }
    let rights = "  authentication: {type: ScramSha512}\n  grants:\n  - {produce: {topics: [numbers]}}\n  - {consume: {topics: [numbers-even, numbers-odd, numbers-bad], groups: [\"shop-*\"]}}\n";
    kubectl.apply(&user("counter", "demo", rights)).unwrap();
    let start = Instant::now();
    kubectl.apply(&tenfold()).unwrap();
    kubectl
        .wait_ready("user", NAMESPACE, "counter", LONG)
        .unwrap();
    kubectl
        .wait_ready("pipeline", NAMESPACE, "numbers", LONG)
        .unwrap();
    println!(
        "pipeline: Ready {:.1} s after it was applied",
        start.elapsed().as_secs_f64()
    );

    let to = |topic: &str| client(&kubectl, "counter", topic);
    flow::start_producer(&kubectl, &to("numbers"), "count", RECORDS, RATE).unwrap();
    the_failing_block_is_named_and_cleared(&kubectl);
    for pod in [
        "numbers-numbers-0",
        "numbers-numbers-1",
        "numbers-numbers-0",
    ] {
        kill_pod(&kubectl, NAMESPACE, pod);
        std::thread::sleep(Duration::from_secs(3));
    }
    assert!(flow::finished(&kubectl, &to("numbers"), "count", LONG).unwrap());
    let events = asked("the producer's log", || {
        flow::events(&kubectl, &to("numbers"), "count")
    });
    let accepted: BTreeSet<i64> = flow::acknowledged(&events).into_keys().collect();
    arrived_once(&kubectl, &accepted, to);

    a_wrong_program_is_refused(&kubectl);
    a_change_is_a_revision(&kubectl);
    paused_it_has_no_pods(&kubectl);
    deleted_it_leaves_nothing(&kubectl);
    remove(&kubectl);
}

fn remove(kubectl: &Kubectl) {
    kubectl
        .delete("pipeline", NAMESPACE, "numbers", LONG)
        .unwrap();
    kubectl.delete("user", NAMESPACE, "counter", LONG).unwrap();
    for name in ["numbers", "numbers-even", "numbers-odd", "numbers-bad"] {
        if kubectl.get("topic", NAMESPACE, name).unwrap().is_some() {
            crate::world::delete_topic(kubectl, NAMESPACE, name);
        }
    }
}

fn status(kubectl: &Kubectl) -> Value {
    let object = asked("the Pipeline", || {
        kubectl.get("pipeline", NAMESPACE, "numbers")
    });
    object
        .map(|object| object["status"].clone())
        .unwrap_or_default()
}

/// The condition Degraded names the block and the record, and goes when the block works again. The
/// block's last error stays.
fn the_failing_block_is_named_and_cleared(kubectl: &Kubectl) {
    // The record is among the first ones, a second after the producer starts.
    wait_degraded(kubectl, NAMESPACE, "numbers", "tenfold", "(record numbers/");
    let said = Instant::now();
    // Nothing is Degraded either while no runner answers: then the block is not Running.
    shell::wait_for("the block is cleared", LONG, || {
        let object = kubectl
            .get("pipeline", NAMESPACE, "numbers")?
            .unwrap_or_default();
        let mut blocks = object["status"]["blocks"].as_array().into_iter().flatten();
        let block = blocks.find(|block| block["name"] == "tenfold");
        let block = block.cloned().unwrap_or_default();
        let address = block["lastError"]["address"].as_str().unwrap_or_default();
        let is_cleared = condition_of(&object, "Degraded").is_none()
            && block["state"] == "Running"
            && address.starts_with("numbers/");
        Ok((!is_cleared).then(|| object["status"].to_string()))
    })
    .unwrap();
    println!(
        "pipeline: cleared {:.1} s after it was seen (named in {} s, cleared in {} s are the aims)",
        said.elapsed().as_secs_f64(),
        NAMED.as_secs(),
        CLEARED.as_secs()
    );
}

/// Every accepted number is in one of the topics, tenfold, once; those of one partition are in
/// order, because the numbers of one key grow.
fn arrived_once(kubectl: &Kubectl, accepted: &BTreeSet<i64>, to: impl Fn(&str) -> Client) {
    let mut all: BTreeMap<i64, usize> = BTreeMap::new();
    for (name, is_even) in [("numbers-even", true), ("numbers-odd", false)] {
        let wanted = accepted
            .iter()
            .filter(|n| (**n % 2 == 0) == is_even && **n != BAD)
            .count();
        let read = flow::consume_committed(
            kubectl,
            &to(name),
            name,
            &format!("shop-{name}"),
            wanted,
            LONG,
        )
        .unwrap();
        for (_, _, value) in &read {
            promise!(
                (value % 20 == 0, value % 10) == (is_even, 0),
                "{name} holds {value}, which does not belong there"
            );
            *all.entry(value / 10).or_default() += 1;
        }
        in_order(name, &read);
    }
    let twice: Vec<_> = all.iter().filter(|(_, count)| **count > 1).collect();
    promise!(twice.is_empty(), "more than once: {twice:?}");
    let lost: Vec<_> = accepted
        .iter()
        .filter(|n| **n != BAD && !all.contains_key(n))
        .collect();
    promise!(lost.is_empty(), "lost: {lost:?}");
    let bad = flow::consume_committed(
        kubectl,
        &to("numbers-bad"),
        "numbers-bad",
        "shop-numbers-bad",
        1,
        LONG,
    )
    .unwrap();
    let bad: Vec<i64> = bad.into_iter().map(|(_, _, value)| value).collect();
    promise!(
        bad == [BAD],
        "the dead letter is the record as it was read: {bad:?}"
    );
    println!(
        "pipeline: {} accepted, each once, over three killed pods",
        accepted.len()
    );
}

fn in_order(name: &str, read: &[Read]) {
    let mut last: BTreeMap<(i64, i64), i64> = BTreeMap::new();
    for (partition, offset, value) in read {
        // The producer repeats twelve keys; a key's numbers are twelve apart.
        let key = value / 10 % 12;
        let before = last.insert((*partition, key), *value);
        promise!(
            before.is_none_or(|before| before < *value),
            "{name}/{partition}/{offset}: {value} after {before:?}"
        );
    }
}

fn a_wrong_program_is_refused(kubectl: &Kubectl) {
    let wrong = pipeline(". = int(.) * 10");
    let why = refused(kubectl, &wrong, "spec.blocks[1].transform.vrl");
    assert!(why.contains("block tenfold"), "{why}");
}

fn a_change_is_a_revision(kubectl: &Kubectl) {
    kubectl.apply(&pipeline(". = int!(.) * 100")).unwrap();
    kubectl
        .wait_ready("pipeline", NAMESPACE, "numbers", LONG)
        .unwrap();
    assert_eq!(status(kubectl)["revision"], 2);
    let revision = asked("the revision", || {
        let found = kubectl.get("controllerrevision", NAMESPACE, "numbers-r2")?;
        found.context("it is not there")
    });
    let said = &revision["metadata"]["annotations"];
    assert_eq!(
        said["freehold.dev/changes"],
        "block tenfold: transform.vrl changed at line 1"
    );
    let binary = std::env::var("FREEHOLD_BINARY").expect("cargo xtask test sets it");
    let pipeline = format!("{NAMESPACE}/numbers");
    let words = ["pipeline", "rollback", &pipeline, "--to", "1"];
    println!(
        "{}",
        shell::output(&mut shell::command(&binary, words)).unwrap()
    );
    kubectl
        .wait_ready("pipeline", NAMESPACE, "numbers", LONG)
        .unwrap();
    assert_eq!(status(kubectl)["revision"], 3);
    let graph = ["pipeline", "graph", &pipeline];
    let graph = shell::output(&mut shell::command(&binary, graph)).unwrap();
    let block = "  tenfold (transform) <- numbers: ";
    assert!(graph.contains(block), "{graph}");
    let history = ["pipeline", "history", &pipeline];
    let history = shell::output(&mut shell::command(&binary, history)).unwrap();
    assert!(history.contains("freehold-rollback"), "{history}");
    assert_eq!(
        said["freehold.dev/applied-by"], "test",
        "the field manager of these tests"
    );
}

fn paused_it_has_no_pods(kubectl: &Kubectl) {
    let patch = serde_json::json!({"spec": {"state": "Paused"}});
    kubectl
        .merge("pipeline", NAMESPACE, "numbers", &patch)
        .unwrap();
    // The status is written after the pods are asked to end, and they may be quick.
    shell::wait_for("no pods of a paused Pipeline", LONG, || {
        let object = kubectl
            .get("pipeline", NAMESPACE, "numbers")?
            .unwrap_or_default();
        let ready = condition_of(&object, "Ready").cloned().unwrap_or_default();
        match ready["reason"] == "Paused" {
            true => pods_of(kubectl, "numbers"),
            false => Ok(Some(ready.to_string())),
        }
    })
    .unwrap();
}

/// The pods of a Pipeline; `None`: there are none.
fn pods_of(kubectl: &Kubectl, pipeline: &str) -> anyhow::Result<Option<String>> {
    let selector = &format!("freehold.dev/pipeline={pipeline}");
    let words = [
        "get",
        "pod",
        "--namespace",
        NAMESPACE,
        "--selector",
        selector,
        "--output",
        "name",
    ];
    Ok(Some(kubectl.run(&words)?.trim().to_owned()).filter(|pods| !pods.is_empty()))
}

fn deleted_it_leaves_nothing(kubectl: &Kubectl) {
    kubectl
        .delete("pipeline", NAMESPACE, "numbers", LONG)
        .unwrap();
    shell::wait_for("nothing is left", LONG, || {
        let kinds = "user,topic,statefulset,configmap,serviceaccount,networkpolicy,poddisruptionbudget,controllerrevision,pod";
        let selector = "freehold.dev/pipeline=numbers";
        let words = ["get", kinds, "--namespace", NAMESPACE, "--selector", selector, "--output", "name"];
        Ok(Some(kubectl.run(&words)?.trim().to_owned()).filter(|left| !left.is_empty()))
    })
    .unwrap();
}

const MIRROR: &str = "apiVersion: freehold.dev/v1alpha1
kind: Pipeline
metadata: {name: mirror, namespace: shop}
spec:
  clusterRef: {name: demo, namespace: kafka}
  userRef: {name: mirror-app}
  blocks:
  - {name: read, source: {kafka: {topicRef: {name: mirror-in}}}}
  - {name: pass, from: [read], isolate: true, filter: {when: 'true'}}
  - {name: out, from: [pass], sink: {kafka: {topicRef: {name: mirror-out}}}}
";

/// The User of `mirror`; `writes`: the topics that it may write, beside the one that is read.
fn mirror_user(writes: &str) -> String {
    let grants = format!(
        "  authentication: {{type: ScramSha512}}
  grants:
  - consume: {{topics: [mirror-in, mirror-out, shop.mirror.pass], groups: [\"shop.mirror.*\", \"shop-*\"]}}
  - produce: {{topics: [mirror-in{writes}]}}
  - transactional: {{ids: [\"shop.mirror.*\"]}}
"
    );
    user("mirror-app", "demo", &grants)
}

/// Two stages with a User of one's own: whatever is missing is said, before a pod starts and while
/// pods run, and goes when it is there.
#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn what_a_pipeline_lacks_is_said_at_its_block_and_cleared() {
    let kubectl = kubectl();
    remove_mirror(&kubectl);
    kubectl.apply(MIRROR).unwrap();
    waits(&kubectl, "WaitingForTopic", "mirror-in, mirror-out");
    for name in ["mirror-in", "mirror-out"] {
        kubectl
            .apply(&topic(name, "demo", "  partitions: 2\n  replicas: 1\n"))
            .unwrap();
    }
    waits(&kubectl, "WaitingForUser", "there is no User mirror-app");
    kubectl.apply(&mirror_user(", shop.mirror.pass")).unwrap();
    waits(
        &kubectl,
        "WaitingForUser",
        "User mirror-app lacks Write on Topic mirror-out",
    );
    let pods = asked("the pods", || pods_of(&kubectl, "mirror"));
    assert_eq!(pods, None, "no pod before it has its rights");
    kubectl
        .apply(&mirror_user(", mirror-out, shop.mirror.pass"))
        .unwrap();
    kubectl
        .wait_ready("pipeline", NAMESPACE, "mirror", LONG)
        .unwrap();

    let to = |topic: &str| client(&kubectl, "mirror-app", topic);
    flow::start_producer(&kubectl, &to("mirror-in"), "mirror-1", 100, -1).unwrap();
    let read = |job: &str, count| {
        let group = format!("shop-{job}");
        flow::consume_committed(&kubectl, &to("mirror-out"), job, &group, count, LONG).unwrap()
    };
    let got = read("mirror-2", 100).len();
    promise!(got == 100, "{got} of 100 came through two stages");

    kubectl.apply(&mirror_user(", shop.mirror.pass")).unwrap();
    kubectl
        .wait_ready("user", NAMESPACE, "mirror-app", LONG)
        .unwrap();
    let start = Instant::now();
    flow::start_producer(&kubectl, &to("mirror-in"), "mirror-3", 100, -1).unwrap();
    let message = wait_degraded(&kubectl, NAMESPACE, "mirror", "out", "");
    println!(
        "pipeline: {message:?} {:.1} s after",
        start.elapsed().as_secs_f64()
    );
    kubectl
        .apply(&mirror_user(", mirror-out, shop.mirror.pass"))
        .unwrap();
    let start = Instant::now();
    kubectl
        .wait_ready("pipeline", NAMESPACE, "mirror", LONG)
        .unwrap();
    println!(
        "pipeline: Ready {:.1} s after the right was back",
        start.elapsed().as_secs_f64()
    );
    let got = read("mirror-4", 200).len();
    promise!(got == 200, "{got} of 200 came through");

    kubectl
        .delete("pipeline", NAMESPACE, "mirror", LONG)
        .unwrap();
    shell::wait_for("the internal topic is gone", LONG, || {
        let left = kubectl.get("topic", NAMESPACE, "mirror-pass")?;
        Ok(left.map(|left| left["status"].to_string()))
    })
    .unwrap();
    remove_mirror(&kubectl);
}

fn waits(kubectl: &Kubectl, reason: &str, words: &str) {
    shell::wait_for(&format!("{reason}: {words}"), LONG, || {
        let Some(object) = kubectl.get("pipeline", NAMESPACE, "mirror")? else {
            return Ok(Some("it is not there".into()));
        };
        let ready = condition_of(&object, "Ready").cloned().unwrap_or_default();
        let message = ready["message"].as_str().unwrap_or_default();
        let is_so = ready["reason"] == reason && message.contains(words);
        Ok((!is_so).then(|| ready.to_string()))
    })
    .unwrap();
}

fn remove_mirror(kubectl: &Kubectl) {
    kubectl
        .delete("pipeline", NAMESPACE, "mirror", LONG)
        .unwrap();
    kubectl
        .delete("user", NAMESPACE, "mirror-app", LONG)
        .unwrap();
    for name in ["mirror-in", "mirror-out"] {
        if kubectl.get("topic", NAMESPACE, name).unwrap().is_some() {
            crate::world::delete_topic(kubectl, NAMESPACE, name);
        }
    }
}
