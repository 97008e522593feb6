//! What a stage reports while it does not work, with a real Kafka.

use std::time::Duration;

use freehold_pipeline::report::{BlockReport, StageReport};

use super::support::broker::PASSWORD;
use super::support::records::{Writer, check_exactly_once, read, read_until, write};
use super::support::stage::{Runner, Stage};
use super::support::{signal, until, wait_for};
use super::{MINUTE, setup, stage};

/// A failure is named within this time.
const NAMED: Duration = Duration::from_secs(10);
/// It is gone from the report within this time after it was mended.
const CLEARED: Duration = Duration::from_secs(30);

/// Waits for a report that is so, and returns it.
fn wait(
    runner: &Runner,
    what: &str,
    limit: Duration,
    is_true: impl Fn(&StageReport) -> bool,
) -> StageReport {
    wait_for(what, limit, || runner.report(), is_true)
}

fn block<'r>(report: &'r StageReport, name: &str) -> Option<&'r BlockReport> {
    report.blocks.iter().find(|block| block.name == name)
}

fn has_problem(report: &StageReport, name: &str) -> bool {
    block(report, name).is_some_and(|block| block.problem.is_some())
}

#[test]
#[ignore = "needs Kafka's jars: cargo xtask test"]
fn a_topic_that_is_missing_is_named_at_its_block_and_cleared() {
    let (setup, _turn) = setup();
    let kafka = &setup.kafka;
    let (from, to) = ("missing-in", "missing-out");
    let runner = Stage::new(&kafka.bootstrap(), kafka.folder(), from, to).start();
    wait(&runner, "the source is named", NAMED, |report| {
        has_problem(report, "in")
            && !has_problem(report, "out")
            && !report.ready
            && report.message.contains(from)
    });
    kafka.create_topic(from, 4, &[]);
    wait(&runner, "the source is cleared", CLEARED, |report| {
        report.ready && report.message.is_empty() && report.lag == Some(0)
    });
    write(&kafka.client(), from, 1_000);
    wait(&runner, "the sink is named", NAMED, |report| {
        has_problem(report, "out")
            && !has_problem(report, "in")
            && !report.ready
            && report.lag > Some(0)
            && report.message.contains(to)
    });
    kafka.create_topic(to, 3, &[]);
    let report = wait(&runner, "the sink is cleared", CLEARED, |report| {
        report.ready && report.message.is_empty() && report.lag == Some(0)
    });
    assert!(!has_problem(&report, "out"), "{report:?}");
    // What was tried in vain is not counted; nor is a commit whose outcome is unknown.
    for count in ["in", "out"] {
        let name = format!("block_records_{count}_total{{block=\"out\"}}");
        let records = runner.exact_figure(&name);
        assert!(records > 0.0 && records <= 1_000.0, "{count}: {records}");
    }
    check_exactly_once(&kafka.client(), to, 1_000, MINUTE);
}

/// The stage may know of the topic that it writes, and may not write it.
#[test]
#[ignore = "needs Kafka's jars: cargo xtask test"]
fn a_right_that_is_missing_is_named_at_its_block_and_cleared() {
    let (setup, _turn) = setup();
    let mut stage = stage(setup, "rights");
    let (kafka, password) = (&setup.kafka, setup.kafka.folder().join("rights"));
    std::fs::write(&password, PASSWORD).unwrap();
    stage.secure(kafka, &password);
    kafka.allow(&stage.to, "Describe");
    write(&kafka.client(), &stage.from, 1_000);
    let runner = stage.start();
    wait(&runner, "the sink is named", NAMED, |report| {
        has_problem(report, "out") && !report.ready && report.message.contains("uthoriz")
    });
    kafka.allow(&stage.to, "Write");
    let report = wait(&runner, "the sink is cleared", CLEARED, |report| {
        report.ready && report.message.is_empty() && report.lag == Some(0)
    });
    assert!(!has_problem(&report, "out"), "{report:?}");
    check_exactly_once(&kafka.client(), &stage.to, 1_000, MINUTE);
}

#[test]
#[ignore = "needs Kafka's jars: cargo xtask test"]
fn a_broker_that_does_not_answer_is_reported() {
    let (setup, _turn) = setup();
    let stage = stage(setup, "silent");
    let mut runner = stage.start();
    wait(&runner, "it works", MINUTE, |report| report.ready);
    let pid = setup.kafka.pid(0);
    signal("STOP", pid);
    // A report without a message can be that of a runner that does not answer.
    wait(&runner, "it is reported at a block", CLEARED, |report| {
        let named = ["in", "out"].iter().any(|block| has_problem(report, block));
        !report.ready && !report.message.is_empty() && named
    });
    signal("CONT", pid);
    // After more than a session the member may find itself fenced by its own return: then the process
    // ends, and Kubernetes starts it again.
    let goes_on = || {
        if runner.has_ended() {
            runner = stage.start();
        }
        runner.report()
    };
    let report = wait_for("it works again", CLEARED, goes_on, |report| {
        report.ready && report.message.is_empty()
    });
    assert!(!has_problem(&report, "in") && !has_problem(&report, "out"));
}

#[test]
#[ignore = "needs Kafka's jars: cargo xtask test"]
fn a_wrong_password_is_named_at_the_source() {
    let (setup, _turn) = setup();
    let mut stage = stage(setup, "password");
    let password = setup.kafka.folder().join("wrong-password");
    std::fs::write(&password, "wrong").unwrap();
    stage.secure(&setup.kafka, &password);
    let runner = stage.start();
    wait(&runner, "the source is named", NAMED, |report| {
        let problem = block(report, "in").and_then(|block| block.problem.as_deref());
        !report.ready && problem.is_some_and(|problem| problem.contains("uthentication"))
    });
}

#[test]
#[ignore = "needs Kafka's jars: cargo xtask test"]
fn a_record_that_kafka_refuses_is_reported_at_the_sink() {
    let (setup, _turn) = setup();
    let mut stage = stage(setup, "huge");
    let client = setup.kafka.client();
    let small = "huge-small";
    let limit = [("max.message.bytes", "20000")];
    setup.kafka.create_topic(small, 3, &limit);
    stage.to = small.to_owned();
    // Kafka checks what is compressed, and these values compress well.
    stage.more = r#", "compression": "none""#.to_owned();
    let mut writer = Writer::new(&client, &stage.from);
    writer.write(100, |number| if number == 50 { 50_000 } else { 0 });
    writer.finish();
    let runner = stage.start();
    // While something does not work at the moment, it is the last error, and has no address.
    let report = wait(&runner, "the record is named", NAMED, |report| {
        let error = block(report, "out").and_then(|block| block.last_error.as_ref());
        error.is_some_and(|error| error.address.is_some())
    });
    let out = block(&report, "out").unwrap();
    let error = out.last_error.as_ref().unwrap();
    assert_eq!(out.errors, 1);
    assert_eq!(error.address.as_ref().unwrap().topic, stage.from);
    assert!(error.summary.contains(small), "{report:?}");
    wait(&runner, "the others are written", CLEARED, |report| {
        report.ready && report.lag == Some(0)
    });
    let seen = read_until(&client, small, 99);
    let others = (0..100).filter(|number| *number != 50);
    assert!(seen.times.into_keys().eq(others));
}

/// A program that fails on a tenth of the numbers.
fn tenth(name: &str, errors: &'static str) -> Stage {
    let (setup, _turn) = setup();
    let mut stage = stage(setup, name);
    stage.format = "Json";
    stage.last = "clean";
    stage.errors = errors;
    stage.blocks = r#"{"name": "clean", "from": ["in"],
        "transform": {"vrl": "assert!(mod(int!(.), 10) != 3)"}},"#;
    stage
}

#[test]
#[ignore = "needs Kafka's jars: cargo xtask test"]
fn too_many_failed_records_stop_the_stage_and_its_batch_is_given_up() {
    let mut stage = tenth(
        "many",
        r#"{"deadLetter": {"topic": "many-dead"}, "threshold": {"ratio": 0.05, "within": "5m"}}"#,
    );
    let (setup, _turn) = setup();
    let client = setup.kafka.client();
    setup.kafka.create_topic("many-dead", 1, &[]);
    write(&client, &stage.from, 2_000);
    // A batch waits until it is full: of fewer than 100 records none stops a stage.
    let limits = stage.limits.clone();
    stage.limits += r#", "batchWaitMsMax": 30000"#;
    let runner = stage.start();
    let report = wait(&runner, "the stage stops", MINUTE, |report| {
        report.stopped.is_some()
    });
    let stopped = report.stopped.as_ref().unwrap();
    assert_eq!(stopped.block.as_deref(), Some("clean"));
    assert!(
        stopped.error.contains("records failed within 5m"),
        "{stopped:?}"
    );
    assert_eq!(stopped.address.as_ref().unwrap().topic, stage.from);
    assert!(
        !report.ready && report.message == stopped.error,
        "{report:?}"
    );
    assert!(block(&report, "clean").unwrap().errors > 0);
    assert!(runner.answer("/healthz").starts_with("HTTP/1.1 200"));
    assert!(runner.answer("/readyz").starts_with("HTTP/1.1 503"));
    assert!(read(&client, "many-dead").times.is_empty());
    assert!(read(&client, &stage.to).times.is_empty());
    runner.kill();
    // A higher ratio goes on with the first record.
    stage.limits = limits;
    stage.errors =
        r#"{"deadLetter": {"topic": "many-dead"}, "threshold": {"ratio": 0.2, "within": "5m"}}"#;
    let runner = stage.start();
    wait(&runner, "it goes on", MINUTE, |report| {
        report.ready && report.stopped.is_none() && report.lag == Some(0)
    });
    // A commit whose outcome is unknown is not counted.
    until("the failures are counted", MINUTE, || {
        let errors = runner.figure("block_errors_total{block=\"clean\"}");
        let renewals = runner.figure("producer_renewals_total");
        errors == 200.0 || (errors < 200.0 && renewals > 0.0)
    });
    let seen = read_until(&client, &stage.to, 1_800);
    let good = (0..2_000).filter(|number| number % 10 != 3);
    assert!(seen.times.keys().copied().eq(good));
    assert!(seen.times.values().all(|times| *times == 1));
}
