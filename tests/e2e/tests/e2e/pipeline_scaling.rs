//! A Pipeline whose replicas follow its lag: records of an HTTP endpoint that is polled go through a
//! topic to a hook that takes half a second for each.

use crate::mqtt::host;
use crate::world::{self, LONG, comes_in_time, delete_topic, kubectl, topic};
use axum::Router;
use axum::http::header::{ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use freehold_e2e::kubectl::Kubectl;
use freehold_e2e::shell;
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const NAMESPACE: &str = "shop";
const PIPELINES: [&str; 2] = ["polled", "paced"];
const TOPIC: &str = "paced-in";
/// With one replica, whose six partitions are sent side by side, these take 25 seconds.
const RECORDS: i64 = 300;
const AFTER: i64 = 30;

/// The endpoint: what it answers, and what it was sent.
#[derive(Default)]
struct Endpoint {
    numbers: Mutex<i64>,
    taken: Mutex<BTreeSet<i64>>,
}

/// Serves it at this address; returns its URL.
fn serve(host: &str) -> (String, Arc<Endpoint>) {
    let endpoint = Arc::new(Endpoint::default());
    let (asked, sent) = (Arc::clone(&endpoint), Arc::clone(&endpoint));
    let numbers = move |headers: HeaderMap| async move {
        let numbers = *asked.numbers.lock().unwrap();
        let tag = format!("\"{numbers}\"");
        let is_known = headers
            .get(IF_NONE_MATCH)
            .is_some_and(|known| *known == *tag);
        if is_known || numbers == 0 {
            return StatusCode::NOT_MODIFIED.into_response();
        }
        let all: Vec<i64> = (0..numbers).collect();
        ([(ETAG, tag)], json!(all).to_string()).into_response()
    };
    let take = move |body: String| async move {
        tokio::time::sleep(Duration::from_millis(500)).await;
        sent.taken.lock().unwrap().insert(body.parse().unwrap());
    };
    let routes = Router::new()
        .route("/numbers", get(numbers))
        .route("/slow", post(take));
    (world::serve(host, routes), endpoint)
}

fn pipelines(url: &str) -> String {
    format!(
        "apiVersion: freehold.dev/v1alpha1
kind: Pipeline
metadata: {{name: polled, namespace: {NAMESPACE}}}
spec:
  clusterRef: {{name: demo, namespace: kafka}}
  blocks:
  - {{name: numbers, source: {{httpPoll: {{url: '{url}/numbers', interval: 1s}}}}}}
  - {{name: keyed, from: [numbers], transform: {{vrl: '%key = to_string!(.)'}}}}
  - {{name: out, from: [keyed], sink: {{kafka: {{topicRef: {{name: {TOPIC}}}}}}}}}
---
apiVersion: freehold.dev/v1alpha1
kind: Pipeline
metadata: {{name: paced, namespace: {NAMESPACE}}}
spec:
  clusterRef: {{name: demo, namespace: kafka}}
  delivery: AtLeastOnce
  scaling: {{min: 1, max: 3, targetLag: 5s}}
  blocks:
  - {{name: numbers, source: {{kafka: {{topicRef: {{name: {TOPIC}}}}}}}}}
  - {{name: hook, from: [numbers], sink: {{http: {{url: '{url}/slow'}}}}}}
"
    )
}

#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn replicas_follow_the_lag_and_leave_without_losing_records() {
    let kubectl = kubectl();
    remove(&kubectl);
    let (url, endpoint) = serve(&host(&kubectl));
    let spec = "  partitions: 6\n  replicas: 3\n  config: {min.insync.replicas: \"2\"}\n";
    kubectl.apply(&topic(TOPIC, "demo", spec)).unwrap();
    kubectl.apply(&pipelines(&url)).unwrap();
    for name in PIPELINES {
        kubectl
            .wait_ready("pipeline", NAMESPACE, name, LONG)
            .unwrap();
    }
    let start = Instant::now();
    *endpoint.numbers.lock().unwrap() = RECORDS;
    replicas(&kubectl, 3);
    println!(
        "scaling: three replicas {:.1} s after the records came",
        start.elapsed().as_secs_f64()
    );
    let by_hand = ["scale", "pipeline", "paced", "--replicas=2"];
    let refused = kubectl.run(&[&by_hand[..], &["--namespace", NAMESPACE]].concat());
    let why = refused.unwrap_err().to_string();
    assert!(why.contains("scaling.min"), "{why}");
    let patch = json!({"spec": {"scaling": {"max": 1}}});
    kubectl
        .merge("pipeline", NAMESPACE, "paced", &patch)
        .unwrap();
    replicas(&kubectl, 1);
    arrived(&endpoint, RECORDS);
    *endpoint.numbers.lock().unwrap() = RECORDS + AFTER;
    arrived(&endpoint, RECORDS + AFTER);
    println!("scaling: {} records, none lost", RECORDS + AFTER);
    remove(&kubectl);
}

/// Waits until the one stage has so many replicas, which are ready, and no other members.
fn replicas(kubectl: &Kubectl, count: i64) {
    shell::wait_for(&format!("{count} replicas"), LONG, || {
        let object = kubectl.get("pipeline", NAMESPACE, "paced")?;
        let object = object.unwrap_or_default();
        let stage = &object["status"]["stages"][0];
        let is_so = ["wanted", "ready", "members"]
            .iter()
            .all(|one| stage[one] == count);
        let has_reason = stage["scaling"]["reason"]
            .as_str()
            .is_some_and(|why| !why.is_empty());
        Ok((!is_so || !has_reason).then(|| stage.to_string()))
    })
    .unwrap();
}

/// Every number is at the hook; a failure may double some.
fn arrived(endpoint: &Endpoint, count: i64) {
    let left = || {
        let taken = endpoint.taken.lock().unwrap();
        let left = (0..count).filter(|number| !taken.contains(number));
        left.collect::<Vec<_>>()
    };
    let waited = shell::wait_for("every record", LONG, || {
        let left = left().len();
        Ok((left > 0).then(|| format!("{left} are not there")))
    });
    comes_in_time(waited, left);
}

fn remove(kubectl: &Kubectl) {
    for name in PIPELINES {
        kubectl.delete("pipeline", NAMESPACE, name, LONG).unwrap();
    }
    if kubectl.get("topic", NAMESPACE, TOPIC).unwrap().is_some() {
        delete_topic(kubectl, NAMESPACE, TOPIC);
    }
}
