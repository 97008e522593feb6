//! The whole life of an application in its own namespace: Topic, User, a Deployment that produces
//! with the Secret alone, a rotation of the password without a lost record, a right that is
//! removed, and the deletion of everything.
//!
//! A second operator, a process on this machine, serves the namespaces of the cluster and the
//! application.

use crate::kafka;
use crate::load;
use crate::world::{
    LONG, Operator, access_ends, asked, endpoints, kafka_image, kubectl, namespace, small_cluster,
};
use anyhow::Context;
use freehold_e2e::flow::{self, Client};
use freehold_e2e::kubectl::Kubectl;
use freehold_e2e::{promise, shell, verdict};
use freehold_kafka_client::client::Client as Bare;
use freehold_kafka_client::sasl::ScramLogin;
use freehold_kafka_client::tls::TlsSettings;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::process::Child;
use std::time::{Duration, Instant};

const HOME: &str = "life-kafka";
const NAMESPACE: &str = "life";

#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn an_application_lives_in_a_namespace_of_its_own() {
    let kubectl = kubectl();
    let image = kafka_image(&kubectl);
    let _home = namespace(&kubectl, HOME);
    let _pods = namespace(&kubectl, NAMESPACE);
    let policy = "  deletionPolicy: Delete\n".to_owned();
    let cluster = small_cluster("home", HOME, "4.3.1", &policy).replace(
        "access: {namespaces: {from: All}}",
        "access: {namespaces: {from: All}, topicNames: {prefix: \"{namespace}.\"}, rights: Own}",
    );
    kubectl.apply(&cluster).unwrap();
    let _operator = Operator::start(&format!("{HOME},{NAMESPACE}"), "life", &image, &[]);
    kubectl
        .wait_ready("kafkacluster", HOME, "home", LONG)
        .unwrap();

    names_are_the_namespaces_own(&kubectl);
    kubectl
        .apply(&topic(
            "placed",
            "topicName: life.order.placed, partitions: 2",
        ))
        .unwrap();
    let rights = "grants: [{produce: {topics: [\"life.order.*\"]}}, {consume: {topics: [life.order.placed], groups: [\"life.*\"]}}]";
    kubectl
        .apply(&user(
            "app",
            &format!("authentication: {{type: ScramSha512}}, {rights}"),
        ))
        .unwrap();
    kubectl
        .wait_ready("topic", NAMESPACE, "placed", LONG)
        .unwrap();
    kubectl.wait_ready("user", NAMESPACE, "app", LONG).unwrap();
    let seen = kubectl.get("user", NAMESPACE, "app").unwrap().unwrap();
    assert!(
        seen["status"]["grants"]
            .to_string()
            .contains("Allow Write, Describe on Topic life.order.*"),
        "{}",
        seen["status"]["grants"]
    );

    let client = Client {
        namespace: NAMESPACE.into(),
        secret: "app-kafka".into(),
        image,
        topic: "life.order.placed".into(),
    };
    let acknowledged = produce_through_a_rotation(&kubectl, &client);
    let places = acknowledged.keys().copied().collect();
    let read = load::read_places(&kubectl, &client, "read", "life.read", &places);
    let read: BTreeMap<(i64, i64), i64> = read
        .into_iter()
        .map(|(partition, offset, value)| ((partition, offset), value))
        .collect();
    let lost: Vec<_> = acknowledged
        .iter()
        .filter(|(at, value)| read.get(*at) != Some(*value))
        .collect();
    promise!(
        lost.is_empty(),
        "{} of {} acknowledged records are lost or others: {:?}",
        lost.len(),
        acknowledged.len(),
        &lost[..lost.len().min(10)]
    );
    println!(
        "application: {} records acknowledged through a rotation, {} read",
        acknowledged.len(),
        read.len()
    );

    rights_end(&kubectl);
    kubectl
        .run(&[
            "annotate",
            "topic",
            "placed",
            "--namespace",
            NAMESPACE,
            "freehold.dev/confirm-delete=life.order.placed",
        ])
        .unwrap();
    let start = Instant::now();
    kubectl.delete("namespace", "", NAMESPACE, LONG).unwrap();
    println!(
        "application: its namespace was gone {:.1} s after it was deleted",
        start.elapsed().as_secs_f64()
    );
    kubectl.delete("kafkacluster", HOME, "home", LONG).unwrap();
    crate::world::leave(&kubectl, "namespace", "", HOME);
}

fn object(kind: &str, name: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: freehold.dev/v1alpha1, kind: {kind}, metadata: {{name: {name}, namespace: {NAMESPACE}}}, \
         spec: {{clusterRef: {{name: home, namespace: {HOME}}}, {spec}}}}}"
    )
}

fn topic(name: &str, spec: &str) -> String {
    object("Topic", name, spec)
}

fn user(name: &str, spec: &str) -> String {
    object("User", name, spec)
}

/// The naming policy of the cluster.
fn names_are_the_namespaces_own(kubectl: &Kubectl) {
    kubectl
        .apply(&topic("greedy", "topicName: other.orders, partitions: 1"))
        .unwrap();
    let (reason, message) = kubectl
        .wait_condition("topic", NAMESPACE, "greedy", "Stalled", LONG)
        .unwrap();
    assert_eq!(reason, "NameNotAllowed");
    assert!(
        message.contains("spec.topicName") && message.contains("\"life.\""),
        "{message}"
    );
    kubectl.delete("topic", NAMESPACE, "greedy", LONG).unwrap();
    kubectl
        .apply(&user(
            "greedy",
            "authentication: {type: ScramSha512}, grants: [{consume: {topics: [\"*\"]}}]",
        ))
        .unwrap();
    let (reason, message) = kubectl
        .wait_condition("user", NAMESPACE, "greedy", "Stalled", LONG)
        .unwrap();
    assert_eq!(reason, "RightNotAllowed");
    assert!(
        message.contains("spec.grants[0].consume.topics"),
        "{message}"
    );
    kubectl.delete("user", NAMESPACE, "greedy", LONG).unwrap();
}

/// A Deployment with one replica that produces until it is stopped.
fn deployment(kubectl: &Kubectl, client: &Client) -> Value {
    let secret = kubectl
        .get("secret", NAMESPACE, &client.secret)
        .unwrap()
        .unwrap();
    let pod = flow::pod(
        client,
        "app",
        "VerifiableProducer",
        &["--acks", "-1", "--throughput", "50"],
    );
    json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "app", "namespace": NAMESPACE},
         "data": {"client.properties": flow::properties(&secret, flow::SAFE_PRODUCER)}},
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "app", "namespace": NAMESPACE}, "spec": {
            "replicas": 1, "selector": {"matchLabels": {"app": "app"}},
            "template": {"metadata": {"labels": {"app": "app"}}, "spec": pod}}}
    ]})
}

/// The log of a pod, in a file, until the pod ends.
struct Followed {
    follower: Child,
    log: PathBuf,
}

/// Follows the log of the only running pod; returns when the first records are in it.
fn follow(kubectl: &Kubectl) -> (Followed, String) {
    let mut pod = String::new();
    shell::wait_for("a pod that produces", LONG, || {
        let pods = kubectl.json(&[
            "get",
            "pods",
            "--namespace",
            NAMESPACE,
            "--selector",
            "app=app",
            "--field-selector",
            "status.phase=Running",
        ])?;
        let running = pods["items"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        pod = running
            .and_then(|pod| pod["metadata"]["name"].as_str())
            .unwrap_or_default()
            .to_owned();
        let log = if pod.is_empty() {
            String::new()
        } else {
            kubectl.run(&["logs", "--namespace", NAMESPACE, &pod, "--tail=50"])?
        };
        Ok((!log.contains("producer_send_success")).then_some(log))
    })
    .unwrap();
    let log = std::env::temp_dir().join(format!("freehold-{pod}-{}.log", std::process::id()));
    let words = ["logs", "--namespace", NAMESPACE, &pod];
    let follower = kubectl
        .command(&[&words[..], &["--follow", "--tail=-1"]].concat())
        .stdout(File::create(&log).unwrap())
        .spawn()
        .unwrap();
    // A pod that ends before kubectl has reached it has no log.
    shell::wait_for("its log to be followed", LONG, || {
        let text = std::fs::read_to_string(&log)?;
        Ok((!text.contains("producer_send_success")).then_some(text))
    })
    .unwrap();
    (Followed { follower, log }, pod)
}

fn acknowledged(mut followed: Followed) -> BTreeMap<(i64, i64), i64> {
    followed.follower.wait().unwrap();
    let text = std::fs::read(&followed.log).unwrap();
    let text = String::from_utf8_lossy(&text).into_owned();
    std::fs::remove_file(&followed.log).unwrap();
    let events = text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    let events: Vec<Value> = events
        .filter(|event| !flow::is_closed_while_sending(event))
        .collect();
    flow::ensure_no_error(&events).unwrap();
    flow::acknowledged(&events)
        .into_iter()
        .map(|(value, at)| (at, value))
        .collect()
}

/// Produces while the password is rotated, then restarts with the new one; returns every
/// acknowledged record by partition and offset.
fn produce_through_a_rotation(kubectl: &Kubectl, client: &Client) -> BTreeMap<(i64, i64), i64> {
    kubectl
        .apply(&deployment(kubectl, client).to_string())
        .unwrap();
    let (first, pod) = follow(kubectl);
    let old = texts(kubectl);
    kubectl
        .run(&[
            "annotate",
            "user",
            "app",
            "--namespace",
            NAMESPACE,
            "freehold.dev/rotate=1",
        ])
        .unwrap();
    shell::wait_for("another password", LONG, || {
        Ok((texts(kubectl)["password"] == old["password"]).then(|| "the same".into()))
    })
    .unwrap();
    shell::wait_for("an event that tells what a rotation means", LONG, || {
        let words = ["get", "events", "--namespace", NAMESPACE];
        let rotated = ["--field-selector", "reason=Rotated", "-o", "name"];
        let event = kubectl.run(&[words, rotated].concat())?;
        Ok(event.is_empty().then(|| "no event".into()))
    })
    .unwrap();
    // Open connections are not closed.
    let log = kubectl
        .run(&["logs", "--namespace", NAMESPACE, &pod, "--tail=-1"])
        .unwrap();
    let before = log.matches("producer_send_success").count();
    shell::wait_for("records after the rotation", LONG, || {
        let log = kubectl.run(&["logs", "--namespace", NAMESPACE, &pod, "--tail=-1"])?;
        Ok((log.matches("producer_send_success").count() < before + 50).then(|| "none yet".into()))
    })
    .unwrap();
    access_ends("the old password opens no new connection", || {
        let login = login(kubectl, &old["password"]);
        match crate::world::block_on(kafka::topic(&login, "life.order.placed")) {
            Err(refused) if refused.is("SaslAuthenticationFailed") => Ok(false),
            Err(other) => Err(other.into()),
            Ok(_) => Ok(true),
        }
    });
    kubectl
        .run(&[
            "rollout",
            "restart",
            "deployment",
            "app",
            "--namespace",
            NAMESPACE,
        ])
        .unwrap();
    kubectl
        .run(&[
            "rollout",
            "status",
            "deployment",
            "app",
            "--namespace",
            NAMESPACE,
            "--timeout=300s",
        ])
        .unwrap();
    let mut all = acknowledged(first);
    let (second, _) = follow(kubectl);
    kubectl
        .run(&[
            "scale",
            "deployment",
            "app",
            "--namespace",
            NAMESPACE,
            "--replicas=0",
        ])
        .unwrap();
    let after = acknowledged(second);
    assert!(!after.is_empty(), "the new password produces");
    all.extend(after);
    all
}

/// The values of a Secret that are text.
fn texts(kubectl: &Kubectl) -> BTreeMap<String, String> {
    use base64::prelude::{BASE64_STANDARD, Engine};
    let found = asked("the application's Secret", || {
        let found = kubectl.get("secret", NAMESPACE, "app-kafka")?;
        found.context("it is not there")
    });
    let decode =
        |value: &Value| String::from_utf8(BASE64_STANDARD.decode(value.as_str()?).ok()?).ok();
    found["data"]
        .as_object()
        .unwrap()
        .iter()
        .filter_map(|(key, value)| Some((key.clone(), decode(value)?)))
        .collect()
}

/// A client that logs in as the application.
fn login(kubectl: &Kubectl, password: &str) -> Bare {
    let login = ScramLogin {
        user: "app".into(),
        password: password.into(),
    };
    let tls = TlsSettings::new(&texts(kubectl)["ca.crt"], None).unwrap();
    Bare::new(
        endpoints(kubectl, HOME, "home", "broker", 9094),
        tls,
        Some(login),
    )
}

/// Waits until a request on this open connection is refused. A right that is never refused is a
/// broken promise, however busy the machine is.
fn is_refused(client: &Bare, what: &str, start: Instant) {
    loop {
        let answer = crate::world::block_on(kafka::topic(client, "life.order.placed"));
        let took = start.elapsed();
        if matches!(&answer, Err(error) if error.is("TopicAuthorizationFailed")) {
            println!(
                "application: {what}: refused {:.0} ms later",
                took.as_secs_f64() * 1000.0
            );
            return;
        }
        promise!(
            took < LONG || took < verdict::scaled(LONG),
            "{what}: never refused: {answer:?}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A grant is removed, and a User is deleted: the next request on an open connection is refused.
fn rights_end(kubectl: &Kubectl) {
    let client = login(kubectl, &texts(kubectl)["password"]);
    let may = || -> anyhow::Result<Option<String>> {
        let found = crate::world::block_on(kafka::topic(&client, "life.order.placed"))?;
        Ok(found.is_none().then(|| "it is not there".into()))
    };
    shell::wait_for("the right to be there", LONG, may).unwrap();
    let grants = |list: Value| {
        let patch = json!({"spec": {"grants": list}});
        kubectl.merge("user", NAMESPACE, "app", &patch).unwrap();
    };
    let start = Instant::now();
    grants(json!([]));
    is_refused(&client, "all grants removed", start);
    grants(json!([{"consume": {"topics": ["life.order.placed"]}}]));
    shell::wait_for("the right to come back", LONG, may).unwrap();
    let start = Instant::now();
    let words = ["delete", "user", "app", "--namespace", NAMESPACE];
    kubectl
        .run(&[&words[..], &["--wait=false"]].concat())
        .unwrap();
    is_refused(&client, "the User deleted", start);
}
