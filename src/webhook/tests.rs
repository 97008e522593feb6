//! Tests of the webhook as the API server uses it, with an API server in memory.

use super::*;
use crate::kubernetes::guarded::BYTES_MAX;
use futures::{FutureExt, StreamExt};
use http::{Request, Response};
use serde_json::json;
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use tower::ServiceExt;

fn cluster() -> Value {
    let pool = json!({"name": "all", "roles": ["controller", "broker"], "replicas": 3, "zones": ["z"], "storage": {"size": "1Gi"}});
    let listener = json!({"name": "tls", "port": 9093, "authentication": "MutualTls"});
    json!({"apiVersion": "freehold.dev/v1alpha1", "kind": "KafkaCluster", "metadata": {"name": "c", "namespace": "n"},
        "spec": {"version": "4.3.1", "nodePools": [pool], "listeners": [listener]}})
}

fn topic(spec: &Value) -> Value {
    let mut topic = json!({"apiVersion": "freehold.dev/v1alpha1", "kind": "Topic", "metadata": {"name": "t", "namespace": "n"},
        "spec": {"clusterRef": {"name": "c"}, "partitions": 1}});
    topic["spec"]
        .as_object_mut()
        .unwrap()
        .extend(spec.as_object().unwrap().clone());
    topic
}

fn pipeline(vrl: &str) -> Value {
    json!({"apiVersion": "freehold.dev/v1alpha1", "kind": "Pipeline", "metadata": {"name": "p", "namespace": "n"},
    "spec": {"clusterRef": {"name": "c"}, "blocks": [
        {"name": "in", "source": {"kafka": {"topic": "a"}}},
        {"name": "change", "from": ["in"], "transform": {"vrl": vrl}},
        {"name": "out", "from": ["change"], "sink": {"kafka": {"topic": "b"}}},
    ]}})
}

/// The webhook, and the number of requests to the API server behind it.
fn webhook() -> (Router, Arc<AtomicUsize>) {
    let (checks, asked) = checks();
    (app(checks), asked)
}

/// The checks, and the number of requests to the API server behind them, which never answers
/// requests for a cluster named `slow`.
fn checks() -> (Arc<Checks>, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let answer = move |request: Request<kube::client::Body>| {
        counted.fetch_add(1, Ordering::SeqCst);
        let path = request.uri().path().to_owned();
        async move {
            if path.ends_with("/slow") {
                std::future::pending::<()>().await;
            }
            let mut published = json!({"x-kubernetes-group-version-kind": [{"group": GROUP, "version": "v1alpha1", "kind": "Topic"}]});
            published["properties"]["spec"]["properties"]["mirror"]["default"] =
                json!({"mode": "Off"});
            let value = if path.contains("/openapi/") {
                json!({"components": {"schemas": {"t": published}}})
            } else {
                cluster()
            };
            Ok::<_, Infallible>(Response::new(kube::client::Body::from(
                value.to_string().into_bytes(),
            )))
        }
    };
    let client = Client::new(tower::service_fn(answer), "n");
    let checks = Checks::new(client, Settings::default());
    (Arc::new(checks), asked)
}

/// The webhook's answer to a body that is sent as it is.
async fn answer_to(app: &Router, body: Body) -> Value {
    let request = Request::post("/validate").body(body).unwrap();
    let answer = app.clone().oneshot(request).await.unwrap();
    let bytes = axum::body::to_bytes(answer.into_body(), usize::MAX)
        .await
        .unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

/// The start of a review, and a connection that says no more.
fn stalled(uid: &str) -> Body {
    let head = format!(
        r#"{{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{{"uid":"{uid}","#
    );
    let head = futures::stream::once(async move { Ok::<_, Infallible>(head) });
    Body::from_stream(head.chain(futures::stream::pending()))
}

/// Whether the webhook allows an object, and its message.
async fn ask(app: &Router, object: &Value) -> (bool, String) {
    ask_of_update(app, object, &Value::Null).await
}

/// The same for an update of an object that is there.
async fn ask_of_update(app: &Router, object: &Value, old: &Value) -> (bool, String) {
    let mut object = object.clone();
    let kind = json!({"group": GROUP, "version": "v1alpha1", "kind": object["kind"]});
    object["metadata"]["uid"] = json!("object");
    let resource = json!({"group": GROUP, "version": "v1alpha1", "resource": "x"});
    // The API server writes the request's uid before the object.
    let review = format!(
        r#"{{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{{"uid":"705ab4f5","kind":{kind},"resource":{resource},"name":"t","namespace":"n","operation":"CREATE","userInfo":{{}},"object":{object},"oldObject":{old},"dryRun":false}}}}"#
    );
    let answer = answer_to(app, Body::from(review)).await;
    let response = &answer["response"];
    assert_eq!(
        response["uid"], "705ab4f5",
        "else the API server takes it for no answer: {answer}"
    );
    (
        response["allowed"].as_bool().unwrap(),
        response["status"]["message"]
            .as_str()
            .unwrap_or_default()
            .to_owned(),
    )
}

#[tokio::test]
async fn a_good_object_is_let_in_and_what_is_wrong_is_named() {
    let (app, _) = webhook();
    assert_eq!(ask(&app, &topic(&json!({}))).await, (true, String::new()));
    let (allowed, why) = ask(&app, &topic(&json!({"config": {"retention": "1h"}}))).await;
    assert!(!allowed && why.contains("spec.config[retention]"), "{why}");
}

/// The program of this test is not one that compiles the programs of a Pipeline: who asks it gets
/// an error.
#[tokio::test(flavor = "multi_thread")]
async fn programs_are_compiled_where_the_spec_is_another_one() {
    let (app, _) = webhook();
    let (old, other) = (pipeline(". = 1"), pipeline(". = 2"));
    let mut annotated = old.clone();
    annotated["metadata"]["annotations"] = json!({"a": "b"});
    let (allowed, why) = ask_of_update(&app, &annotated, &old).await;
    assert!(allowed, "{why}");
    for old in [&old, &Value::Null] {
        let (allowed, _) = ask_of_update(&app, &other, old).await;
        assert!(!allowed, "nobody has compiled it");
    }
}

#[tokio::test]
async fn what_is_too_large_is_refused_in_words_however_large_it_is() {
    let (app, asked) = webhook();
    for bytes in [BYTES_MAX, 3 * 1024 * 1024] {
        let (allowed, why) = ask(&app, &topic(&json!({"config": {"x".repeat(bytes): "1"}}))).await;
        assert!(!allowed && why.contains("256 KiB"), "{why}");
        assert!(why.len() < 1000);
    }
    assert_eq!(asked.load(Ordering::SeqCst), 0, "nobody is asked about it");
}

#[tokio::test(start_paused = true)]
async fn one_slow_answer_holds_up_that_object_alone_and_lets_nothing_in() {
    let (app, _) = webhook();
    let slow = topic(&json!({"clusterRef": {"name": "slow"}}));
    let start = tokio::time::Instant::now();
    let (slow, quick) = tokio::join!(ask(&app, &slow), async {
        let answer = ask(&app, &topic(&json!({}))).await;
        (answer, start.elapsed())
    });
    assert!(!slow.0 && slow.1.contains("try again"), "{slow:?}");
    assert!(quick.0.0 && quick.1 < Duration::from_secs(1), "{quick:?}");
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "the API server waits no longer"
    );
}

#[tokio::test(start_paused = true)]
async fn an_object_that_does_not_arrive_is_refused_under_its_own_uid() {
    let (app, _) = webhook();
    let answer = answer_to(&app, stalled("5c1e0a77")).await;
    let response = &answer["response"];
    assert_eq!(
        (&response["uid"], &response["allowed"]),
        (&json!("5c1e0a77"), &json!(false)),
        "else the API server takes it for no answer, and lets the object in"
    );
    let why = response["status"]["message"].as_str().unwrap();
    assert!(why.contains("try again"), "{why}");
}

/// Bodies that take all of the memory are not the first part of another one.
#[tokio::test(start_paused = true)]
async fn an_object_for_which_there_is_no_memory_is_refused_under_its_own_uid() {
    let (app, _) = webhook();
    let large = |uid: &str| {
        let head = format!(r#"{{"request":{{"uid":"{uid}","object":""#);
        let whole =
            futures::stream::once(async move { head + &"x".repeat(body::BYTES_MAX - 8192) })
                .map(Ok::<_, Infallible>);
        Body::from_stream(whole.chain(futures::stream::pending()))
    };
    let (first, second, third) = tokio::join!(
        answer_to(&app, large("1")),
        answer_to(&app, large("2")),
        answer_to(&app, large("3"))
    );
    for (answer, uid) in [(first, "1"), (second, "2"), (third, "3")] {
        assert_eq!(answer["response"]["uid"], uid, "{answer}");
        assert_eq!(answer["response"]["allowed"], false);
    }
}

/// Whatever is shorter than the start of a review says nothing yet.
#[tokio::test(start_paused = true)]
async fn the_uid_is_read_before_memory_is_waited_for_however_it_comes() {
    let (app, _) = webhook();
    let in_parts = |uid: &str| {
        let (first, second) = (
            r#"{"kind":"AdmissionReview","#.to_owned(),
            format!(r#""request":{{"uid":"{uid}","object":""#),
        );
        let rest = "x".repeat(body::BYTES_MAX - first.len() - second.len());
        let parts = futures::stream::iter([first, second + &rest]).map(Ok::<_, Infallible>);
        Body::from_stream(parts.chain(futures::stream::pending()))
    };
    let answers = futures::join!(
        answer_to(&app, in_parts("1")),
        answer_to(&app, in_parts("2")),
        answer_to(&app, in_parts("3")),
    );
    for (answer, uid) in [(answers.0, "1"), (answers.1, "2"), (answers.2, "3")] {
        assert_eq!(answer["response"]["uid"], uid, "{answer}");
        assert_eq!(answer["response"]["allowed"], false);
    }
}

/// The child checks one Pipeline at a time.
#[tokio::test]
async fn pipelines_that_wait_for_the_child_keep_no_other_object_out() {
    let (app, _) = webhook();
    let (release, held) = std::sync::mpsc::channel::<()>();
    let (begun, has_begun) = tokio::sync::oneshot::channel();
    let busy = tokio::spawn(alone(Asker::Review, move || {
        begun.send(()).unwrap();
        let _ = held.recv();
    }));
    has_begun.await.unwrap();
    let large = |vrl: &str| {
        let mut pipeline = pipeline(vrl);
        pipeline["metadata"]["annotations"] = json!({"a": "b".repeat(200 * 1024)});
        pipeline
    };
    let (object, old) = (large(". = 2"), large(". = 1"));
    let asked = (0..14).map(|_| Box::pin(ask_of_update(&app, &object, &old)));
    let mut asked: Vec<_> = asked.collect();
    for one in &mut asked {
        assert!(one.now_or_never().is_none(), "the child is busy");
    }
    let topic = topic(&json!({}));
    tokio::select! {
        told = ask(&app, &topic) => assert_eq!(told, (true, String::new())),
        _ = futures::future::join_all(asked) => unreachable!("the child is busy"),
    }
    release.send(()).unwrap();
    busy.await.unwrap();
}

/// The webhook runs on a runtime of one thread.
#[tokio::test]
async fn a_slow_check_in_a_child_holds_up_no_other_review_and_may_be_given_up() {
    let (checks, _) = checks();
    let reference = ClusterRef {
        name: "c".into(),
        namespace: None,
    };
    let object: DynamicObject = serde_json::from_value(topic(&json!({}))).unwrap();
    let (release, held) = std::sync::mpsc::channel::<()>();
    let (begun, has_begun) = tokio::sync::oneshot::channel();
    let slow = move || {
        begun.send(()).unwrap();
        let _ = held.recv();
        Findings::default()
    };
    let check = |_: &ClusterFacts, _| Findings::default();
    let slow = Review::InChildAndOfCluster(Box::new(slow), reference, Box::new(check));
    let memory = Memory::default();
    let mut slow = Box::pin(checks.findings(slow, &object, true, memory));
    let quick = async {
        has_begun.await.unwrap();
        ask(&app(Arc::clone(&checks)), &topic(&json!({}))).await
    };
    tokio::select! {
        _ = &mut slow => unreachable!("the child is still busy"),
        (allowed, why) = quick => assert!(allowed, "{why}"),
    }
    drop(slow);
    release.send(()).unwrap();
}

#[tokio::test]
async fn what_this_version_cannot_read_is_refused_with_the_field() {
    let (app, _) = webhook();
    let (allowed, why) = ask(&app, &topic(&json!({"adoption": "WhenEmpty"}))).await;
    assert!(
        !allowed && why.contains("spec.adoption") && why.contains("WhenEmpty"),
        "{why}"
    );
    let (allowed, why) = ask(&app, &topic(&json!({"mirror": {"mode": "On"}}))).await;
    assert!(
        !allowed && why.contains("spec.mirror") && why.contains("does not know"),
        "{why}"
    );
    let default = topic(&json!({"mirror": {"mode": "Off"}}));
    assert_eq!(
        ask(&app, &default).await,
        (true, String::new()),
        "the API server filled it in"
    );
}

#[tokio::test]
async fn an_object_that_nobody_serves_is_told_so() {
    let answer = |_: Request<kube::client::Body>| async {
        Ok::<_, Infallible>(Response::new(kube::client::Body::empty()))
    };
    let settings = Settings {
        watch_namespaces: vec!["n".into(), "kafka".into()],
        cluster_namespaces: vec!["kafka".into()],
        ..Settings::default()
    };
    let checks = Checks::new(Client::new(tower::service_fn(answer), "n"), settings);
    let said = |kind: &str, namespace: &str| {
        let (entry, _) = kind_of(kind).unwrap();
        checks.not_served(entry, namespace)
    };
    let pipeline = said("Pipeline", "n").unwrap();
    assert!(
        pipeline.starts_with("metadata.namespace: Freehold serves no Pipeline in n"),
        "{pipeline}"
    );
    assert_eq!(said("Pipeline", "kafka"), None);
    assert_eq!(said("Topic", "n"), None);
    assert_eq!(
        said("KafkaCluster", "elsewhere"),
        None,
        "another operator may"
    );
}
