//! Messages of a real MQTT broker.

use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use freehold_pipeline::report::StageReport;

use super::{all, errors, problem, reported, secrets};
use crate::support::mosquitto::Mosquitto;
use crate::support::stage::{Runner, Stage};
use crate::support::until;
use crate::{MINUTE, Setup, setup};

/// Starts a replica; `more` is settings of the source.
pub fn start(stage: &Stage, name: &str, version: &str, more: &str, port: u16) -> Runner {
    let document = format!(
        r#"{{"version": 1, "pipeline": "test/{name}", "revision": 1, "stage": "{name}",
            "group": "{name}", "definition": {{"delivery": "AtLeastOnce",
            "errors": {{"deadLetter": {{"topic": "{name}-dead"}}}}, "blocks": [
                {{"name": "{name}", "source": {{"mqtt": {{{more} "format": "Text", "version": "{version}",
                    "url": "mqtt://127.0.0.1:{port}", "topics": ["{name}/#"], "basic": {{"name": "{name}"}}}}}}}},
                {{"name": "out", "from": ["{name}"], "sink": {{"kafka": {{"topic": "{}"}}}}}}]}}}}"#,
        stage.to
    );
    stage.start_with(&document, "")
}

pub fn works(report: &StageReport) -> bool {
    report.ready && report.message.is_empty()
}

/// A stage with its broker and its topics.
pub fn made(setup: &Setup, name: &str) -> (Stage, Mosquitto, PathBuf) {
    let kafka = &setup.kafka;
    let out = format!("{name}-out");
    kafka.create_topic(&out, 2, &[("max.message.bytes", "20000")]);
    kafka.create_topic(&format!("{name}-dead"), 1, &[]);
    let mut stage = Stage::new(&kafka.bootstrap(), kafka.folder(), "none", &out);
    stage.more = r#", "compression": "none""#.to_owned();
    let folder = secrets(
        &stage,
        name,
        &[("username", "me\n"), ("password", "hush\n")],
    );
    (stage, Mosquitto::new(name, ""), folder)
}

/// The runner dies again and again, and once the broker is restarted.
fn check_over_kills(name: &str, version: &str) {
    let (setup, _turn) = setup();
    let (stage, mut broker, _) = made(setup, name);
    let start = || start(&stage, name, version, "", broker.port);
    let mut running = Some(start());
    let first = running.as_ref().unwrap();
    reported(first, "it has subscribed", MINUTE, works);
    let topic = |part: usize| format!("{name}/{part}");
    let value = |number: usize| format!("value {number}");
    for part in 0..4 {
        let numbers = part * 500..(part + 1) * 500;
        let lines: String = numbers.map(|number| value(number) + "\n").collect();
        thread::scope(|scope| {
            scope.spawn(|| broker.publish(&topic(part), &lines));
            thread::sleep(Duration::from_millis(60 + 40 * part as u64));
            running.take().unwrap().kill();
            running = Some(start());
        });
    }
    let mut runner = running.unwrap();
    broker.stop();
    let gone = MINUTE;
    reported(&runner, "the broker is named", gone, |report| {
        problem(report, name).is_some()
    });
    broker.start();
    reported(&runner, "it is cleared", MINUTE, works);
    broker.publish(&topic(4), "last\n");
    let seen = |number: usize| (topic(number / 500), value(number));
    let mut have = all(setup, &stage.to);
    until("all are there", MINUTE, || {
        have = all(setup, &stage.to);
        have.contains_key(&(topic(4), "last".to_owned()))
            && (0..2_000).all(|number| have.contains_key(&seen(number)))
    });
    assert_eq!(have.len(), 2_001, "messages that nobody sent");
    eprintln!(
        "{version}: {} doubles of 2000",
        have.values().sum::<u32>() - 2_001
    );
    runner.signal("TERM");
    assert_eq!(runner.wait(MINUTE), 0);
}

#[test]
#[ignore = "needs Kafka's jars: cargo xtask test"]
fn messages_are_acknowledged_when_kafka_has_them() {
    check_over_kills("five", "V5");
}

#[test]
#[ignore = "needs Kafka's jars: cargo xtask test"]
fn messages_of_version_3_are_acknowledged_when_kafka_has_them() {
    check_over_kills("three", "V311");
}

#[test]
#[ignore = "needs Kafka's jars: cargo xtask test"]
fn a_wrong_password_is_named_and_a_large_message_is_a_dead_letter() {
    let (setup, _turn) = setup();
    let (stage, broker, secrets) = made(setup, "wrong");
    std::fs::write(secrets.join("wrong/password"), "other").unwrap();
    let runner = start(&stage, "wrong", "V5", "", broker.port);
    let named = |report: &StageReport| {
        problem(report, "wrong").is_some_and(|why| why.contains("not authorized"))
    };
    reported(&runner, "the password is named", MINUTE, named);
    std::fs::write(secrets.join("wrong/password"), "hush").unwrap();
    reported(&runner, "it is cleared", MINUTE, works);
    broker.publish("wrong/a", &format!("{}\nsmall\n", "x".repeat(30_000)));
    until("the small one is there", MINUTE, || {
        all(setup, &stage.to).contains_key(&("wrong/a".to_owned(), "small".to_owned()))
    });
    until("the large one is a dead letter", MINUTE, || {
        let dead = all(setup, "wrong-dead");
        dead.keys().eq([&("wrong/a".to_owned(), String::new())])
    });
    // The message comes again, and is counted again, if Kafka has not taken its dead letter.
    reported(&runner, "it is counted", MINUTE, |report| {
        errors(report, "wrong") >= 1 && works(report)
    });
    assert!(!runner.log().contains("hush"), "{}", runner.log());
}
