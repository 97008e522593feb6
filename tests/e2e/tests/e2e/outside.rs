//! Records that leave Kafka by HTTPS and come in again: the Pipeline `relay` sends them to the HTTP
//! source of the Pipeline `gate`, while pods of both are killed, and while the Secret of the source
//! has another token.

use crate::world::{
    LONG, asked, block_on, client, kill_pod, kubectl, super_admin, topic, user, wait_degraded,
};
use freehold_e2e::flow;
use freehold_e2e::kubectl::{Kubectl, condition_of};
use freehold_e2e::{promise, shell};
use freehold_kafka_client::{Admin as _, Leaders};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

const NAMESPACE: &str = "shop";
const RECORDS: usize = 2_000;
const TOPICS: [&str; 2] = ["relay-in", "gate-out"];

const GATE: &str = "apiVersion: freehold.dev/v1alpha1
kind: Pipeline
metadata: {name: gate, namespace: shop}
spec:
  clusterRef: {name: demo, namespace: kafka}
  blocks:
  - {name: posted, source: {http: {authentication: {token: {name: gate-token, key: token}}}}}
  - {name: numbers, from: [posted], filter: {when: 'is_integer(.)'}}
  - {name: out, from: [numbers], sink: {kafka: {topicRef: {name: gate-out}}}}
";

/// It trusts the certificate of `gate` by the `ca.crt` that is in the Secret of its own User.
const RELAY: &str = "apiVersion: freehold.dev/v1alpha1
kind: Pipeline
metadata: {name: relay, namespace: shop}
spec:
  clusterRef: {name: demo, namespace: kafka}
  delivery: AtLeastOnce
  blocks:
  - {name: numbers, source: {kafka: {topicRef: {name: relay-in}}}}
  - name: hook
    from: [numbers]
    sink:
      http:
        url: https://gate-posted.shop.svc:8443/
        batch: 50
        authentication: {token: {name: relay-token, key: token}}
        ca: {name: relay-pipeline-kafka, key: ca.crt}
";

fn token(name: &str, token: &str) -> String {
    format!(
        "apiVersion: v1
kind: Secret
metadata: {{name: {name}, namespace: {NAMESPACE}}}
stringData: {{token: {token}}}
"
    )
}

#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn records_go_out_and_come_in_by_https_while_pods_are_killed() {
    let kubectl = kubectl();
    remove(&kubectl);
    for name in TOPICS {
        let spec = "  partitions: 3\n  replicas: 3\n  config: {min.insync.replicas: \"2\"}\n";
        kubectl.apply(&topic(name, "demo", spec)).unwrap();
    }
    let rights = "  authentication: {type: ScramSha512}\n  grants:\n  - {produce: {topics: [relay-in]}}\n  - {consume: {topics: [gate-out], groups: [\"shop-*\"]}}\n";
    kubectl.apply(&user("outside", "demo", rights)).unwrap();
    kubectl.apply(GATE).unwrap();
    let start = Instant::now();
    waits_for_its_secret(&kubectl);
    kubectl.apply(&token("gate-token", "right")).unwrap();
    kubectl.apply(&token("relay-token", "right")).unwrap();
    kubectl.apply(RELAY).unwrap();
    for name in ["gate", "relay"] {
        kubectl
            .wait_ready("pipeline", NAMESPACE, name, LONG)
            .unwrap();
    }
    println!(
        "outside: both Pipelines are Ready {:.1} s after the first was applied",
        start.elapsed().as_secs_f64()
    );
    kubectl
        .wait_ready("user", NAMESPACE, "outside", LONG)
        .unwrap();

    let to = |topic: &str| client(&kubectl, "outside", topic);
    flow::start_producer(&kubectl, &to("relay-in"), "relay", RECORDS, 200).unwrap();
    for pod in ["gate-posted-0", "relay-hook-0", "gate-numbers-0"] {
        kill_pod(&kubectl, NAMESPACE, pod);
        std::thread::sleep(Duration::from_secs(2));
    }
    assert!(flow::finished(&kubectl, &to("relay-in"), "relay", LONG).unwrap());
    let events = asked("the producer's log", || {
        flow::events(&kubectl, &to("relay-in"), "relay")
    });
    let accepted: BTreeSet<i64> = flow::acknowledged(&events).into_keys().collect();
    arrived(&kubectl, &accepted);
    what_is_processed_is_deleted(&kubectl);
    a_wrong_token_is_named_and_cleared(&kubectl);
    deleted_they_leave_nothing(&kubectl);
    remove(&kubectl);
}

/// Every accepted number comes out at the other end; a kill may double some. A record that never
/// comes ends its round as a broken promise.
fn arrived(kubectl: &Kubectl, accepted: &BTreeSet<i64>) {
    let mut left = accepted.clone();
    for round in 1.. {
        let to = client(kubectl, "outside", "gate-out");
        let (job, group) = (format!("gate-{round}"), "shop-gate");
        let read = flow::consume_committed(kubectl, &to, &job, group, left.len(), LONG).unwrap();
        for (_, _, value) in read {
            left.remove(&value);
        }
        if left.is_empty() {
            break;
        }
    }
    println!("outside: {} accepted, none lost", accepted.len());
}

/// The internal topic behind the source keeps no record that is processed.
fn what_is_processed_is_deleted(kubectl: &Kubectl) {
    let admin = super_admin(kubectl, "kafka", "demo");
    shell::wait_for("the internal topic is emptied", LONG, || {
        let topics = block_on(admin.describe_topics())?;
        let topic = topics.iter().find(|topic| topic.name == "shop.gate.posted");
        let partitions = topic.map(|topic| &topic.partitions).into_iter().flatten();
        let leaders = Leaders {
            topic: "shop.gate.posted".into(),
            partitions: partitions.map(|one| (one.index, one.leader)).collect(),
        };
        let starts = block_on(admin.log_starts(&[leaders])).remove(0)?;
        let deleted: i64 = starts.values().sum();
        let is_so = deleted >= i64::try_from(RECORDS)?;
        Ok((!is_so).then(|| format!("{deleted} of {RECORDS} records are deleted")))
    })
    .unwrap();
}

fn waits_for_its_secret(kubectl: &Kubectl) {
    shell::wait_for("gate waits for its Secret", LONG, || {
        let object = kubectl.get("pipeline", NAMESPACE, "gate")?;
        let ready = object.and_then(|object| condition_of(&object, "Ready").cloned());
        let ready = ready.unwrap_or_default();
        let message = ready["message"].as_str().unwrap_or_default();
        let words = "block posted: waiting for Secret gate-token";
        let is_so = ready["reason"] == "WaitingForSecret" && message.contains(words);
        Ok((!is_so).then(|| ready.to_string()))
    })
    .unwrap();
}

/// The source refuses the old token as soon as its pod has the new one, and the sink is named.
fn a_wrong_token_is_named_and_cleared(kubectl: &Kubectl) {
    kubectl.apply(&token("gate-token", "another")).unwrap();
    let again = ["delete", "pod", "gate-posted-0", "--namespace", NAMESPACE];
    kubectl.run(&again).unwrap();
    kubectl
        .wait_ready("pipeline", NAMESPACE, "gate", LONG)
        .unwrap();
    let to = client(kubectl, "outside", "relay-in");
    flow::start_producer(kubectl, &to, "relay-again", 10, -1).unwrap();
    wait_degraded(kubectl, NAMESPACE, "relay", "hook", "401");
    kubectl.apply(&token("relay-token", "another")).unwrap();
    let again = ["delete", "pod", "relay-hook-0", "--namespace", NAMESPACE];
    kubectl.run(&again).unwrap();
    shell::wait_for("the sink is cleared", LONG, || {
        let object = kubectl.get("pipeline", NAMESPACE, "relay")?;
        let degraded = object.and_then(|object| condition_of(&object, "Degraded").cloned());
        Ok(degraded.map(|degraded| degraded.to_string()))
    })
    .unwrap();
    kubectl
        .wait_ready("pipeline", NAMESPACE, "relay", LONG)
        .unwrap();
    let to = client(kubectl, "outside", "gate-out");
    let all = RECORDS + 10;
    let read = flow::consume_committed(kubectl, &to, "gate-last", "shop-last", all, LONG);
    let got = read.unwrap().len();
    promise!(got >= all, "{got} of {all} have come: what waited is lost");
}

fn deleted_they_leave_nothing(kubectl: &Kubectl) {
    for name in ["relay", "gate"] {
        kubectl.delete("pipeline", NAMESPACE, name, LONG).unwrap();
        shell::wait_for("nothing is left", LONG, || {
            let kinds = "user,topic,statefulset,configmap,service,secret,serviceaccount,networkpolicy,poddisruptionbudget,controllerrevision,pod";
            let selector = &format!("freehold.dev/pipeline={name}");
            let words = ["get", kinds, "--namespace", NAMESPACE, "--selector", selector, "--output", "name"];
            Ok(Some(kubectl.run(&words)?.trim().to_owned()).filter(|left| !left.is_empty()))
        })
        .unwrap();
    }
}

fn remove(kubectl: &Kubectl) {
    for name in ["relay", "gate"] {
        kubectl.delete("pipeline", NAMESPACE, name, LONG).unwrap();
    }
    kubectl.delete("user", NAMESPACE, "outside", LONG).unwrap();
    for name in ["gate-token", "relay-token"] {
        kubectl.delete("secret", NAMESPACE, name, LONG).unwrap();
    }
    for name in TOPICS {
        if kubectl.get("topic", NAMESPACE, name).unwrap().is_some() {
            crate::world::delete_topic(kubectl, NAMESPACE, name);
        }
    }
}
