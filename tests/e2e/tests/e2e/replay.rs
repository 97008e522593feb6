//! Dead letters are replayed as people do it: a dry run, a mended program, `freehold replay`; a
//! request that ran already, one that is cancelled, one that is wrong.

use crate::world::{LONG, asked, client, kubectl, leave, topic, user};
use anyhow::Context;
use freehold_e2e::flow;
use freehold_e2e::kubectl::{Kubectl, not_ready};
use freehold_e2e::{promise, shell};
use serde_json::{Value, json};
use std::collections::BTreeSet;

const NAMESPACE: &str = "shop";
const NAME: &str = "replayed";
const TOPICS: [&str; 4] = ["replay-in", "replay-out", "replay-copy", "replay-bad"];
const RECORDS: i64 = 1_000;
/// A number that ends with 0 is one that the first program fails on.
const BAD: usize = 100;
const ANNOTATION: &str = "freehold.dev/replay";
/// The kinds of the objects of a replay.
const KINDS: &str = "statefulset,configmap,networkpolicy,pod";

/// A branch that fails and one beside it that does not.
fn pipeline(program: &str) -> String {
    format!(
        "apiVersion: freehold.dev/v1alpha1
kind: Pipeline
metadata: {{name: {NAME}, namespace: {NAMESPACE}}}
spec:
  clusterRef: {{name: demo, namespace: kafka}}
  errors: {{deadLetter: {{topicRef: {{name: replay-bad}}}}}}
  blocks:
  - {{name: in, source: {{kafka: {{topicRef: {{name: replay-in}}}}}}}}
  - name: tenfold
    from: [in]
    transform:
      vrl: |
        {program}
  - {{name: out, from: [tenfold], sink: {{kafka: {{topicRef: {{name: replay-out}}}}}}}}
  - {{name: copy, from: [in], sink: {{kafka: {{topicRef: {{name: replay-copy}}}}}}}}
"
    )
}

#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn dead_letters_are_replayed_once_when_the_program_is_mended() {
    let kubectl = kubectl();
    remove(&kubectl);
    for name in TOPICS {
        // One partition: what is read has an order, and a record that is there twice comes before
        // the last one.
        let spec = "  partitions: 1\n  replicas: 1\n";
        kubectl.apply(&topic(name, "demo", spec)).unwrap();
    }
    let rights = "  authentication: {type: ScramSha512}\n  grants:\n  - {produce: {topics: [replay-in]}}\n  - {consume: {topics: [replay-out, replay-copy, replay-bad], groups: [\"shop-*\"]}}\n";
    kubectl.apply(&user("replayer", "demo", rights)).unwrap();
    let fails = ". = int!(.) * 10; assert!(mod(., 100) != 0, \"a round number\")";
    kubectl.apply(&pipeline(fails)).unwrap();
    for (kind, name) in [("user", "replayer"), ("pipeline", NAME)] {
        kubectl.wait_ready(kind, NAMESPACE, name, LONG).unwrap();
    }
    let count = usize::try_from(RECORDS).unwrap();
    produce(&kubectl, "replay-produce", count);
    let bad = read(&kubectl, "replay-bad", "replay-letters", BAD);
    assert!(bad.iter().all(|value| value % 10 == 0), "{bad:?}");
    let got = read(&kubectl, "replay-copy", "replay-copied", count).len();
    promise!(got == count, "{got} of {count} were copied");

    a_dry_run_says_what_would_fail_again(&kubectl);
    the_mended_program_takes_them(&kubectl);
    the_same_request_does_nothing_more(&kubectl);
    one_that_runs_can_be_cancelled(&kubectl);
    a_wrong_request_is_named_and_cleared(&kubectl);

    // One more record ends both topics: all that was written before it is read.
    produce(&kubectl, "replay-last", 1);
    let once = |topic: &str, job: &str, factor: i64| {
        let mut read = read(&kubectl, topic, job, count + 1);
        let last = read.pop();
        promise!(last == Some(0), "{topic}: the last record is {last:?}");
        let values: BTreeSet<i64> = read.iter().copied().collect();
        let wanted: BTreeSet<i64> = (0..RECORDS).map(|number| number * factor).collect();
        let lost: Vec<_> = wanted.difference(&values).collect();
        let others: Vec<_> = values.difference(&wanted).collect();
        promise!(
            lost.is_empty() && others.is_empty(),
            "{topic}: {lost:?} are lost, {others:?} do not belong there"
        );
        let (got, all) = (read.len(), wanted.len());
        promise!(got == all, "{topic}: {got} records, and {all} are wanted");
    };
    once("replay-out", "replay-all-out", 10);
    once("replay-copy", "replay-all-copy", 1);
    remove(&kubectl);
}

fn remove(kubectl: &Kubectl) {
    kubectl.delete("pipeline", NAMESPACE, NAME, LONG).unwrap();
    leave(kubectl, "user", NAMESPACE, "replayer");
    for name in TOPICS {
        if kubectl.get("topic", NAMESPACE, name).unwrap().is_some() {
            crate::world::delete_topic(kubectl, NAMESPACE, name);
        }
    }
}

fn produce(kubectl: &Kubectl, job: &str, count: usize) {
    let to = client(kubectl, "replayer", "replay-in");
    flow::start_producer(kubectl, &to, job, count, -1).unwrap();
    assert!(flow::finished(kubectl, &to, job, LONG).unwrap(), "{job}");
}

/// The first values of a topic, in order.
fn read(kubectl: &Kubectl, topic: &str, job: &str, count: usize) -> Vec<i64> {
    let from = client(kubectl, "replayer", topic);
    let group = format!("shop-{job}");
    let read = flow::consume_committed(kubectl, &from, job, &group, count, LONG).unwrap();
    let mut read: Vec<(i64, i64)> = read.into_iter().map(|(_, at, value)| (at, value)).collect();
    read.sort_unstable();
    read.truncate(count);
    read.into_iter().map(|(_, value)| value).collect()
}

/// Runs `freehold replay` on the block, with more options.
fn replay(block: &str, more: &[&str]) -> Result<String, String> {
    let binary = std::env::var("FREEHOLD_BINARY").expect("cargo xtask test sets it");
    let pipeline = format!("{NAMESPACE}/{NAME}");
    let words = [&["replay", &pipeline, block], more].concat();
    let said = shell::output(&mut shell::command(&binary, words));
    let said = said.map_err(|error| error.to_string());
    println!("replay: {said:?}");
    said
}

fn object(kubectl: &Kubectl) -> Value {
    asked("the Pipeline", || {
        let found = kubectl.get("pipeline", NAMESPACE, NAME)?;
        found.context("it is not there")
    })
}

fn status(kubectl: &Kubectl) -> Value {
    object(kubectl)["status"]["replay"].clone()
}

fn annotate(kubectl: &Kubectl, value: &Value) {
    let patch = json!({"metadata": {"annotations": {ANNOTATION: value}}});
    kubectl.merge("pipeline", NAMESPACE, NAME, &patch).unwrap();
}

/// The objects of a replay that are there; `None`: none is.
fn objects(kubectl: &Kubectl) -> anyhow::Result<Option<String>> {
    let selector = format!("freehold.dev/pipeline={NAME},freehold.dev/replay=true");
    let words = [
        "get",
        KINDS,
        "-n",
        NAMESPACE,
        "--selector",
        &selector,
        "-o",
        "name",
    ];
    Ok(Some(kubectl.run(&words)?.trim().to_owned()).filter(|found| !found.is_empty()))
}

/// The command has ended, and its objects are gone with it.
fn nothing_is_left(kubectl: &Kubectl) {
    let left = asked("the objects of a replay", || objects(kubectl));
    assert_eq!(left, None, "nothing is left of it");
}

/// The topics that the Pipeline's User may read.
fn readable(kubectl: &Kubectl) -> Vec<Value> {
    let user = asked("the Pipeline's User", || {
        let found = kubectl.get("user", NAMESPACE, &format!("{NAME}-pipeline"))?;
        found.context("it is not there")
    });
    let grants = user["spec"]["grants"].as_array().unwrap();
    let topics = grants
        .iter()
        .filter_map(|grant| grant["consume"]["topics"].as_array());
    topics.flatten().cloned().collect()
}

fn a_dry_run_says_what_would_fail_again(kubectl: &Kubectl) {
    let said = replay("tenfold", &["--dry-run"]).unwrap();
    for part in [
        format!("{BAD} were asked for: 0 would go through, {BAD} would fail again"),
        "nothing was written".to_owned(),
    ] {
        assert!(said.contains(&part), "{part} is not in {said}");
    }
    let said = replay("tenfold", &["--dry-run", "--error", "another error"]).unwrap();
    assert!(said.contains(" 0 were asked for"), "{said}");
    nothing_is_left(kubectl);
    let why = replay("tenfodl", &["--dry-run"]).unwrap_err();
    assert!(why.contains("did you mean tenfold?"), "{why}");
}

fn the_mended_program_takes_them(kubectl: &Kubectl) {
    kubectl.apply(&pipeline(". = int!(.) * 10")).unwrap();
    kubectl
        .wait_ready("pipeline", NAMESPACE, NAME, LONG)
        .unwrap();
    let said = replay("tenfold", &["--error", "a round number"]).unwrap();
    let part = format!("{BAD} were asked for: {BAD} went through, 0 failed again");
    assert!(said.contains(&part), "{said}");
    let status = status(kubectl);
    assert_eq!(
        (&status["state"], &status["replayed"], &status["left"]),
        (&json!("Done"), &json!(BAD), &json!(0)),
        "{status}"
    );
    nothing_is_left(kubectl);
    shell::wait_for("the right to read the dead letters is gone", LONG, || {
        let topics = readable(kubectl);
        Ok((topics != [json!("replay-in")]).then(|| format!("{topics:?}")))
    })
    .unwrap();
}

/// The request is there again, and the operator has seen it: nothing runs.
fn the_same_request_does_nothing_more(kubectl: &Kubectl) {
    let before = status(kubectl);
    let again = json!({"id": before["id"], "block": "tenfold"}).to_string();
    annotate(kubectl, &json!(again));
    let patch = json!({"spec": {"revisionHistoryLimit": 7}});
    kubectl.merge("pipeline", NAMESPACE, NAME, &patch).unwrap();
    kubectl
        .wait_ready("pipeline", NAMESPACE, NAME, LONG)
        .unwrap();
    assert_eq!(status(kubectl), before);
    nothing_is_left(kubectl);
    let why = replay("tenfold", &[]).unwrap_err();
    assert!(why.contains("left out letters"), "{why}");
    let next = replay("tenfold", &["--error", "a round number"]).unwrap();
    assert!(
        next.contains(" 0 were asked for"),
        "it begins where that one was started: {next}"
    );
}

fn one_that_runs_can_be_cancelled(kubectl: &Kubectl) {
    let slow = json!({"id": "slow", "block": "tenfold", "recordsPerSecond": 1, "dryRun": true});
    annotate(kubectl, &json!(slow.to_string()));
    shell::wait_for("the slow replay has a pod", LONG, || {
        let found = objects(kubectl)?.unwrap_or_default();
        Ok((!found.contains("pod/")).then_some(found))
    })
    .unwrap();
    let why = replay("tenfold", &[]).unwrap_err();
    assert!(why.contains("runs already (slow)"), "{why}");
    let said = replay("tenfold", &["--cancel"]).unwrap();
    assert!(
        said.contains("replay slow of block tenfold: Cancelled"),
        "{said}"
    );
    let status = status(kubectl);
    assert_eq!(status["state"], "Cancelled", "{status}");
    nothing_is_left(kubectl);
}

fn a_wrong_request_is_named_and_cleared(kubectl: &Kubectl) {
    annotate(kubectl, &json!(r#"{"id": "wrong", "blok": "tenfold"}"#));
    shell::wait_for("the wrong request is refused", LONG, || {
        let status = status(kubectl);
        let message = status["message"].as_str().unwrap_or_default();
        let is_named = status["state"] == "Refused" && message.contains("unknown field `blok`");
        Ok((!is_named).then(|| status.to_string()))
    })
    .unwrap();
    assert_eq!(not_ready(&object(kubectl)), None, "nothing else is stopped");
    annotate(kubectl, &Value::Null);
    shell::wait_for("the refusal is cleared", LONG, || {
        let status = status(kubectl);
        Ok((!status.is_null()).then(|| status.to_string()))
    })
    .unwrap();
}
