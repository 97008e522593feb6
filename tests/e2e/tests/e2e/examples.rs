//! The examples of `deploy/examples/pipelines` as a user applies them, with addresses and secrets
//! put in: orders by HTTPS, orders by region, orders to a bucket, sensors to a hook.

use crate::mqtt::{Broker, host};
use crate::policies::{POD, idle_pod, network_of};
use crate::world::{self, LONG, client, delete_topic, kubectl, leave, secret, user};
use axum::Router;
use axum::routing::post;
use freehold_e2e::flow;
use freehold_e2e::kubectl::Kubectl;
use freehold_e2e::shell::{self, command};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

const NAMESPACE: &str = "shop";
const TOKEN: &str = "a-token-of-my-own";
const KEY: &str = "my-key";
const SECRET: &str = "my-secret-key";
const PIPELINES: [&str; 5] = ["inbox", "orders", "archive", "sensors", "fill"];
const TOPICS: [&str; 6] = [
    "inbox-orders",
    "inbox-bad",
    "orders-eu",
    "orders-other",
    "orders-late",
    "orders-bad",
];

/// Fills the topic of the quickstart by HTTPS.
const FILL: &str = "apiVersion: freehold.dev/v1alpha1
kind: Pipeline
metadata: {name: fill, namespace: shop}
spec:
  clusterRef: {name: demo, namespace: kafka}
  blocks:
  - {name: posted, source: {http: {authentication: {token: {name: inbox-token, key: token}}}}}
  - {name: out, from: [posted], sink: {kafka: {topicRef: {name: orders}}}}
";

/// The text of an example, with each of these put in the place of what stands there.
fn example(name: &str, own: &[(&str, &str)]) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/examples/pipelines");
    let mut text = fs::read_to_string(folder.join(format!("{name}.yaml"))).unwrap();
    for (theirs, ours) in own {
        assert!(text.contains(theirs), "{name}.yaml has no {theirs}");
        text = text.replace(theirs, ours);
    }
    text
}

/// What a hook was sent.
type Bodies = Arc<Mutex<Vec<Value>>>;

/// Serves a hook at this address; returns its URL.
fn hook(host: &str) -> (String, Bodies) {
    let bodies = Bodies::default();
    let taken = Arc::clone(&bodies);
    let take = move |body: String| async move {
        taken
            .lock()
            .unwrap()
            .push(serde_json::from_str(&body).unwrap());
    };
    let routes = Router::new().route("/alerts", post(take));
    (format!("{}/alerts", world::serve(host, routes)), bodies)
}

#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn each_example_does_what_it_says() {
    let kubectl = kubectl();
    remove(&kubectl);
    let host = host(&kubectl);
    let broker = Broker::start(host.clone());
    let (url, alerts) = hook(&host);
    let bucket = std::env::temp_dir().join(format!("freehold-bucket-{}", std::process::id()));
    fs::create_dir_all(bucket.join("orders-archive")).unwrap();
    let endpoint = freehold_test_s3::serve(&bucket, (&host, 0), KEY, SECRET).unwrap();

    let inbox = example("inbox", &[("change-me-4f1c0b6a", TOKEN)]);
    let archive = [
        (
            "secretAccessKey: change-me-51c7e0",
            &*format!("secretAccessKey: {SECRET}"),
        ),
        ("accessKeyId: change-me", &format!("accessKeyId: {KEY}")),
        ("region: eu-central-1", &format!("endpoint: '{endpoint}'")),
        ("fileEvery: 1m", "fileEvery: 3s"),
    ];
    let sensors = [
        ("password: change-me-9d2b7c", "password: hush"),
        ("username: change-me", "username: me"),
        ("mqtts://broker.example.com", &*broker.url()),
        ("https://hooks.example.com/alerts", &url),
    ];
    for text in [
        inbox,
        example("orders", &[]),
        example("archive", &archive),
        example("sensors", &sensors),
        FILL.to_owned(),
    ] {
        kubectl.apply(&text).unwrap();
    }
    clients(&kubectl, &TOPICS);
    for name in PIPELINES {
        kubectl
            .wait_ready("pipeline", NAMESPACE, name, LONG)
            .unwrap();
    }

    inbox_takes_orders_and_keeps_bad_ones_apart(&kubectl);
    orders_go_to_their_region(&kubectl);
    orders_go_to_the_bucket(&bucket);
    a_hot_sensor_is_told_once(&broker, &alerts);
    kubernetes_tells_of_it(&kubectl);
    fs::remove_dir_all(&bucket).unwrap();
    remove(&kubectl);
}

/// The guide's first example alone.
#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn orders_are_split_by_region_without_card_numbers() {
    let kubectl = kubectl();
    remove(&kubectl);
    let token = json!({"apiVersion": "v1", "kind": "Secret", "stringData": {"token": TOKEN},
        "metadata": {"name": "inbox-token", "namespace": NAMESPACE}});
    for text in [token.to_string(), example("orders", &[]), FILL.to_owned()] {
        kubectl.apply(&text).unwrap();
    }
    // A right on a topic that nobody has may not be given.
    clients(&kubectl, &["orders-eu", "orders-other", "orders-bad"]);
    for name in ["orders", "fill"] {
        kubectl
            .wait_ready("pipeline", NAMESPACE, name, LONG)
            .unwrap();
    }
    orders_go_to_their_region(&kubectl);
    let bad = json!([{"id": 3, "region": "eu", "card": "4111111111111111"}]);
    let (status, answer) = send(&kubectl, "fill", TOKEN, &bad);
    assert_eq!(status, "200", "{answer}");
    // As it was read.
    assert_eq!(read(&kubectl, "orders-bad", 1), *bad.as_array().unwrap());
    remove(&kubectl);
}

/// A User that may read these topics, and a pod from which orders are posted.
fn clients(kubectl: &Kubectl, topics: &[&str]) {
    let topics = topics.join(", ");
    let rights = format!(
        "  authentication: {{type: ScramSha512}}\n  grants:\n  - {{consume: {{topics: [{topics}], groups: [\"shop-*\"]}}}}\n"
    );
    kubectl.apply(&user("reader", "demo", &rights)).unwrap();
    idle_pod(kubectl, NAMESPACE);
    kubectl
        .wait_ready("user", NAMESPACE, "reader", LONG)
        .unwrap();
}

/// Posts a document from a pod of the namespace, as the guide says; returns status and answer.
fn send(kubectl: &Kubectl, pipeline: &str, token: &str, document: &Value) -> (String, String) {
    let service = &format!("{pipeline}-posted");
    let mut pod = String::new();
    shell::wait_for("an address of the pod", LONG, || {
        let found = kubectl.get("pod", NAMESPACE, POD)?.unwrap_or_default();
        pod = found["status"]["podIP"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        Ok(pod.is_empty().then(|| found["status"].to_string()))
    })
    .unwrap();
    let network = network_of(&pod);
    let found = kubectl.get("service", NAMESPACE, service).unwrap().unwrap();
    let address = found["spec"]["clusterIP"].as_str().unwrap();
    let name = format!("{service}.{NAMESPACE}.svc");
    let ca = std::env::temp_dir().join(format!("freehold-ca-{}.crt", std::process::id()));
    let own = secret(kubectl, NAMESPACE, &format!("{pipeline}-pipeline-kafka")).unwrap();
    fs::write(&ca, &own["ca.crt"]).unwrap();
    let curl = || {
        let mut words = command("nsenter", [format!("--net={}", network.display())]);
        words.args(["curl", "--silent", "--show-error", "--max-time", "120"]);
        words.args(["--write-out", "\n%{http_code}", "--cacert"]);
        words.arg(&ca);
        words.args(["--resolve", &format!("{name}:8443:{address}")]);
        words.arg(format!("https://{name}:8443/"));
        words
    };
    // The nodes learn of a Ready pod behind a Service a little later. What was sent must not be
    // sent again, so something else is asked before.
    shell::wait_for(&format!("{name} answers"), LONG, || {
        Ok(shell::output(&mut curl())
            .err()
            .map(|error| error.to_string()))
    })
    .unwrap();
    let mut words = curl();
    words.args(["-H", &format!("Authorization: Bearer {token}")]);
    words.args(["-H", "Content-Type: application/json"]);
    words.args(["-d", &document.to_string()]);
    let answer = shell::output(&mut words).unwrap();
    fs::remove_file(&ca).unwrap();
    let (text, status) = answer.trim_end().rsplit_once('\n').unwrap();
    (status.to_owned(), text.to_owned())
}

/// The JSON documents in a topic, when it has so many. They were acknowledged, so one that never
/// comes is a broken promise. What a transaction wrote that was begun again is there twice, and is
/// not read.
fn read(kubectl: &Kubectl, topic: &str, count: usize) -> Vec<Value> {
    let (to, job) = (client(kubectl, "reader", topic), format!("read-{topic}"));
    let group = format!("shop-read-{topic}");
    let found = flow::consume_text(kubectl, &to, &job, &group, count, LONG).unwrap();
    let documents = found.iter().filter(|text| text.starts_with('{'));
    documents
        .map(|text| serde_json::from_str(text).unwrap())
        .collect()
}

fn inbox_takes_orders_and_keeps_bad_ones_apart(kubectl: &Kubectl) {
    let orders = json!([{"id": "a1", "total": 12.5}, {"id": "a2", "total": "3"}, {"total": 1}]);
    let (status, answer) = send(kubectl, "inbox", "another", &orders);
    assert_eq!(status, "401", "{answer}");
    let (status, answer) = send(kubectl, "inbox", TOKEN, &orders);
    assert_eq!(status, "200", "{answer}");
    let mut taken = read(kubectl, "inbox-orders", 2);
    taken.sort_by_key(|order| order["id"].to_string());
    for (order, (id, total)) in taken.iter().zip([("a1", 12.5), ("a2", 3.0)]) {
        assert_eq!((&order["id"], &order["total"]), (&json!(id), &json!(total)));
        assert!(order["received_at"].is_string(), "{order}");
    }
    assert_eq!(read(kubectl, "inbox-bad", 1), [json!({"total": 1})]);
}

/// Each order is in the topic of its region, without its card number.
fn orders_go_to_their_region(kubectl: &Kubectl) {
    let card = "4111111111111111";
    let orders = json!([
        {"id": 1, "region": "eu", "card": card, "total": "12.5"},
        {"id": 2, "region": "us", "card": card, "total": 3.5},
    ]);
    let (status, answer) = send(kubectl, "fill", TOKEN, &orders);
    assert_eq!(status, "200", "{answer}");
    let eu = json!({"id": 1, "region": "eu", "total": 12.5});
    assert_eq!(read(kubectl, "orders-eu", 1), [eu]);
    let us = json!({"id": 2, "region": "us", "total": 3.5});
    assert_eq!(read(kubectl, "orders-other", 1), [us]);
}

/// The bucket has the orders that were sent.
fn orders_go_to_the_bucket(bucket: &Path) {
    let mut kept = Vec::new();
    shell::wait_for("both orders are in the bucket", LONG, || {
        kept = in_bucket(&bucket.join("orders-archive/clean"))?;
        Ok((kept.len() < 2).then(|| format!("{kept:?}")))
    })
    .unwrap();
    kept.sort_by_key(|order| order["id"].as_i64());
    let without_card = [
        json!({"id": 1, "region": "eu", "total": "12.5"}),
        json!({"id": 2, "region": "us", "total": 3.5}),
    ];
    assert_eq!(kept, without_card);
}

/// The records in all files of a folder. Those that the topic had before have no id.
fn in_bucket(folder: &Path) -> anyhow::Result<Vec<Value>> {
    let mut files = command("find", [folder.to_str().unwrap()]);
    let files = shell::output(files.args(["-name", "*.zst"])).unwrap_or_default();
    let mut documents = Vec::new();
    for file in files.lines() {
        let text = String::from_utf8(zstd::decode_all(fs::File::open(file)?)?)?;
        for line in text.lines() {
            documents.push(serde_json::from_str(line)?);
        }
    }
    Ok(documents)
}

fn a_hot_sensor_is_told_once(broker: &Broker, alerts: &Bodies) {
    broker.publish("sensors/b/temp", "{\"celsius\": 12}\n");
    broker.publish("sensors/a/temp", "{\"celsius\": 31}\n{\"celsius\": 32}\n");
    broker.publish("sensors/c/temp", "{\"celsius\": 40}\n");
    let text = |sensor: &str| json!({"text": format!("sensors/{sensor}/temp is too hot")});
    // The records of c come behind those of a.
    shell::wait_for("the hook is told of c", LONG, || {
        let told = alerts.lock().unwrap().clone();
        Ok((!told.contains(&text("c"))).then(|| format!("{told:?}")))
    })
    .unwrap();
    shell::wait_for("the hook is told of a", LONG, || {
        let told = alerts.lock().unwrap().clone();
        Ok((!told.contains(&text("a"))).then(|| format!("{told:?}")))
    })
    .unwrap();
    let told = alerts.lock().unwrap().clone();
    assert_eq!(told.len(), 2, "{told:?}");
}

fn kubernetes_tells_of_it(kubectl: &Kubectl) {
    let about = "involvedObject.name=sensors,reason=AlertRaised";
    let words = [
        "get",
        "events",
        "--field-selector",
        about,
        "-o",
        "jsonpath={.items[*].message}",
    ];
    shell::wait_for("an Event and the status tell of a hot sensor", LONG, || {
        let told = kubectl.run(&[&words[..], &["--namespace", NAMESPACE]].concat())?;
        let object = kubectl.get("pipeline", NAMESPACE, "sensors")?;
        let status = object.unwrap_or_default()["status"].take();
        let mut blocks = status["blocks"].as_array().into_iter().flatten();
        let hot = blocks.find(|block| block["name"] == "hot");
        let record = hot.and_then(|hot| hot["lastAlert"]["record"].as_str());
        let is_told = record.is_some_and(|record| {
            told.contains(&format!("block hot: an alert for record {record} at "))
        });
        Ok((!is_told).then(|| format!("events: {told}; status: {record:?}")))
    })
    .unwrap();
}

fn remove(kubectl: &Kubectl) {
    for name in PIPELINES {
        kubectl.delete("pipeline", NAMESPACE, name, LONG).unwrap();
    }
    kubectl.delete("user", NAMESPACE, "reader", LONG).unwrap();
    leave(kubectl, "pod", NAMESPACE, POD);
    for name in ["inbox-token", "archive-bucket", "sensors-broker"] {
        leave(kubectl, "secret", NAMESPACE, name);
    }
    for name in TOPICS {
        if kubectl.get("topic", NAMESPACE, name).unwrap().is_some() {
            delete_topic(kubectl, NAMESPACE, name);
        }
    }
}
