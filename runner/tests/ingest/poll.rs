//! An endpoint that is polled.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use freehold_pipeline::report::StageReport;

use super::mqtt::works;
use super::{all, problem, reported};
use crate::support::stage::{Runner, Stage};
use crate::support::{serve, until, wait_for};
use crate::{MINUTE, Setup, setup};

/// What the endpoint answers.
#[derive(Clone)]
struct Says {
    status: StatusCode,
    kind: &'static str,
    etag: Option<&'static str>,
    body: String,
}

#[derive(Default)]
struct Asked {
    requests: u64,
    not_modified: u64,
}

struct Endpoint {
    url: String,
    says: Mutex<Says>,
    asked: Mutex<Asked>,
}

impl Endpoint {
    /// Serves until the test process ends.
    fn start() -> Arc<Self> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = Arc::new(Self {
            url: format!("http://{}/prices?key=hush", listener.local_addr().unwrap()),
            says: Mutex::new(says("application/json", None, "[]")),
            asked: Mutex::default(),
        });
        let routes = Router::new().route("/prices", get(answer));
        let routes = routes.with_state(Arc::clone(&endpoint));
        serve(listener, routes);
        endpoint
    }

    fn say(&self, says: Says) {
        *self.says.lock().unwrap() = says;
    }

    /// Waits until it was asked so often again.
    fn asked_again(&self, times: u64) {
        let before = self.asked.lock().unwrap().requests;
        until("it is asked again", MINUTE, || {
            self.asked.lock().unwrap().requests >= before + times
        });
    }
}

fn says(kind: &'static str, etag: Option<&'static str>, body: &str) -> Says {
    Says {
        status: StatusCode::OK,
        kind,
        etag,
        body: body.to_owned(),
    }
}

async fn answer(State(endpoint): State<Arc<Endpoint>>, headers: HeaderMap) -> Response {
    let mut asked = endpoint.asked.lock().unwrap();
    asked.requests += 1;
    let Says {
        status,
        kind,
        etag,
        body,
    } = endpoint.says.lock().unwrap().clone();
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if header("authorization") != Some("Bearer sesame") {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    if etag.is_some() && header("if-none-match") == etag {
        asked.not_modified += 1;
        return StatusCode::NOT_MODIFIED.into_response();
    }
    let mut answer = (status, [("content-type", kind)], body).into_response();
    if let Some(etag) = etag {
        answer.headers_mut().insert("etag", etag.parse().unwrap());
    }
    answer
}

fn start(stage: &Stage, name: &str, url: &str) -> Runner {
    let document = format!(
        r#"{{"version": 1, "pipeline": "test/{name}", "revision": 1, "stage": "{name}",
            "group": "{name}", "definition": {{"delivery": "AtLeastOnce",
            "errors": {{"deadLetter": {{"topic": "{name}-dead"}}}}, "blocks": [
                {{"name": "{name}", "source": {{"httpPoll": {{"url": "{url}", "interval": "1s",
                    "authentication": {{"token": {{"name": "prices", "key": "token"}}}}}}}}}},
                {{"name": "out", "from": ["{name}"], "sink": {{"kafka": {{"topic": "{}"}}}}}}]}}}}"#,
        stage.to
    );
    stage.start_with(&document, "")
}

fn stage(setup: &Setup, name: &str, token: &str) -> Stage {
    let kafka = &setup.kafka;
    kafka.create_topic(&format!("{name}-dead"), 1, &[]);
    let out = format!("{name}-out");
    let mut stage = Stage::new(&kafka.bootstrap(), kafka.folder(), "none", &out);
    stage.more = r#", "compression": "none""#.to_owned();
    stage.write_secret("prices", "token", token);
    stage
}

fn names(report: &StageReport, name: &str, part: &str) -> bool {
    problem(report, name).is_some_and(|why| why.contains(part) && !why.contains("hush"))
}

/// Waits until the topic has these values, each once.
fn has(setup: &Setup, topic: &str, values: &[&str]) {
    let expected: BTreeSet<&str> = values.iter().copied().collect();
    let ask = || all(setup, topic);
    let found = wait_for("the values", MINUTE, ask, |found| {
        found.len() >= values.len()
    });
    let seen: BTreeSet<&str> = found.keys().map(|(_, value)| value.as_str()).collect();
    assert_eq!(seen, expected);
    assert!(found.values().all(|times| *times == 1), "{found:?}");
}

#[test]
#[ignore = "needs Kafka's jars: cargo xtask test"]
fn what_an_endpoint_says_is_read_once_and_its_failures_are_named() {
    let (setup, _turn) = setup();
    let (endpoint, stage) = (Endpoint::start(), stage(setup, "prices", "wrong"));
    let limit = [("max.message.bytes", "20000")];
    setup.kafka.create_topic(&stage.to, 2, &limit);
    endpoint.say(says(
        "application/json",
        Some("\"a\""),
        "[1, {\"a\": 2}, \"three\"]",
    ));
    let mut runner = start(&stage, "prices", &endpoint.url);
    reported(&runner, "the token is named", MINUTE, |report| {
        names(report, "prices", "answers 401")
    });
    stage.write_secret("prices", "token", "sesame\n");
    reported(&runner, "it is cleared", MINUTE, works);
    let mut values = vec!["1", "{\"a\": 2}", "\"three\""];
    has(setup, &stage.to, &values);
    endpoint.asked_again(2);
    assert!(endpoint.asked.lock().unwrap().not_modified > 0);
    // The same answer with another tag, then without one.
    for etag in [Some("\"b\""), None] {
        endpoint.say(says("application/json", etag, "[1, {\"a\": 2}, \"three\"]"));
        endpoint.asked_again(2);
    }
    // An answer without records is one all the same: what comes behind it is not the one before.
    endpoint.say(says("application/json", None, ""));
    endpoint.asked_again(2);
    has(setup, &stage.to, &values);
    endpoint.say(says("application/x-ndjson", None, "4\n\n5\n"));
    values.extend(["4", "5"]);
    has(setup, &stage.to, &values);
    endpoint.say(Says {
        status: StatusCode::SERVICE_UNAVAILABLE,
        ..says("text/plain", None, "hush")
    });
    let named = |what: &str, part: &str| {
        reported(&runner, what, MINUTE, |report| {
            names(report, "prices", part)
        });
    };
    named("the status is named", "answers 503");
    endpoint.say(says("application/json", None, "[6, hush]"));
    named("what is no JSON is named", "the array: expected value");
    let large = format!("[\"{}\", 6]", "x".repeat(30_000));
    endpoint.say(says("application/json", None, &large));
    reported(&runner, "it is cleared", MINUTE, works);
    endpoint.asked_again(2);
    until("the large one is a dead letter", MINUTE, || {
        all(setup, "prices-dead").values().sum::<u32>() >= 1
    });
    until("the small one is there", MINUTE, || {
        all(setup, &stage.to).contains_key(&(String::new(), "6".to_owned()))
    });
    // Another replica stands by.
    let mut other = stage.clone();
    other.ordinal = 1;
    let other = start(&other, "prices", "http://127.0.0.1:9/");
    reported(&other, "the other replica is ready", MINUTE, works);
    let log = runner.log();
    assert!(!log.contains("hush") && !log.contains("sesame"), "{log}");
    runner.signal("TERM");
    assert_eq!(runner.wait(MINUTE), 0);
}

#[test]
#[ignore = "needs Kafka's jars: cargo xtask test"]
fn an_answer_that_kafka_has_not_taken_is_written_before_the_next_one() {
    let (setup, _turn) = setup();
    let (endpoint, stage) = (Endpoint::start(), stage(setup, "late-prices", "sesame"));
    endpoint.say(says("application/json", Some("\"a\""), "[1, 2]"));
    let runner = start(&stage, "late-prices", &endpoint.url);
    reported(&runner, "the topic is named", MINUTE, |report| {
        problem(report, "out").is_some()
    });
    // The topic is looked at before the endpoint is asked.
    until("the first answer is given", MINUTE, || {
        endpoint.asked.lock().unwrap().requests > 0
    });
    endpoint.say(says("application/json", Some("\"b\""), "[3]"));
    setup.kafka.create_topic(&stage.to, 2, &[]);
    reported(&runner, "it is cleared", MINUTE, works);
    until("both answers are there", MINUTE, || {
        all(setup, &stage.to).len() == 3
    });
}
