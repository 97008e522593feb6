//! Records that end the process, and processes that are killed, with a real Kafka.

use std::thread;
use std::time::{Duration, Instant};

use freehold_pipeline::report::{BlockReport, StageReport};
use freehold_runner::figures::now_ms;
use rdkafka::ClientConfig;

use super::deliver::stored;
use super::support::records::{Writer, check_exactly_once, read, read_until, write};
use super::support::stage::{Runner, Stage};
use super::support::{PATIENCE, until, wait_for};
use super::{MINUTE, setup, stage};

/// The record that ends the process.
const KILLER: u64 = 700;
const RECORDS: u64 = 2_000;

/// A process ended by a record is named within this time after the start that does not run it.
const NAMED: Duration = Duration::from_secs(10);

/// A program that doubles a text for one record until there is no memory left: at most 16 GiB, and
/// the process may have less.
const OUT_OF_MEMORY: &str = r#"{"name": "seen", "from": ["in"], "filter": {"when": "true"}},
    {"name": "clean", "from": ["seen"], "transform": {"vrl":
    "if . == 700 {\nx = \"0123456789abcdef\"\nfor_each([1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30]) -> |_i, _n| { x = x + x }\n. = length(x)\n}"}},"#;

/// A program that makes an object of half a million levels of one record: to drop it needs a call
/// for each.
const DEEP: &str = r#"{"name": "clean", "from": ["in"], "transform": {"vrl":
    "if . == 700 {\nx = \"a.\"\nfor_each([1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19]) -> |_i, _n| { x = x + x }\n. = length(unflatten(set!({}, [x], 1)))\n}"}},"#;

fn killing(name: &str, errors: &'static str) -> Stage {
    killing_by(name, errors, OUT_OF_MEMORY)
}

fn killing_by(name: &str, errors: &'static str, blocks: &'static str) -> Stage {
    let (setup, _turn) = setup();
    let mut stage = stage(setup, name);
    stage.format = "Json";
    stage.last = "clean";
    stage.errors = errors;
    stage.blocks = blocks;
    stage.address_space_kib = Some(2 << 20);
    stage.with_journal();
    stage
}

/// A process that lives.
struct Restarted {
    /// How often others died before it.
    deaths: u32,
    runner: Runner,
    /// How long it took from its start until its report was so.
    after: Duration,
    report: StageReport,
}

impl Restarted {
    /// A record that is alone in its process's journal at first is not looked for.
    fn check(&self) {
        let log = self.runner.log();
        assert!((2..=3).contains(&self.deaths), "{}: {log}", self.deaths);
        let limit = NAMED * PATIENCE;
        assert!(self.after < limit, "after {:?}", self.after);
    }
}

/// Starts the stage again each time that it dies, as Kubernetes does, until `is_true`.
fn restarted(stage: &Stage, is_true: impl Fn(&StageReport) -> bool) -> Restarted {
    let (mut deaths, mut began, mut runner) = (0, Instant::now(), stage.start());
    let ask = || {
        if runner.has_ended() {
            deaths += 1;
            assert!(deaths < 10, "{}", runner.log());
            (began, runner) = (Instant::now(), stage.start());
        }
        runner.report()
    };
    let report = wait_for("it goes on", MINUTE, ask, is_true);
    Restarted {
        deaths,
        runner,
        after: began.elapsed(),
        report,
    }
}

fn block(report: &StageReport, name: &str) -> BlockReport {
    let mut blocks = report.blocks.iter();
    blocks
        .find(|block| block.name == name)
        .cloned()
        .unwrap_or_default()
}

fn is_named(report: &StageReport) -> bool {
    block(report, "clean").errors > 0
}

/// All but the killer are there, once and in order.
fn check_others(client: &ClientConfig, stage: &Stage) {
    let count = usize::try_from(RECORDS - 1).unwrap();
    let seen = read_until(client, &stage.to, count);
    let others = (0..RECORDS).filter(|number| *number != KILLER);
    assert!(seen.times.keys().copied().eq(others));
    assert!(seen.times.values().all(|times| *times == 1));
    assert!(seen.out_of_order.is_empty(), "{:?}", seen.out_of_order);
}

/// The address of the killer.
fn address(client: &ClientConfig, stage: &Stage) -> String {
    let all = stored(client, &stage.from);
    let killer = all.iter().find(|record| record.number == KILLER).unwrap();
    format!("{}/{}/{}", stage.from, killer.partition, killer.offset)
}

/// The last error of the block that the process died in.
fn check_named(client: &ClientConfig, report: &StageReport, stage: &Stage) {
    let clean = block(report, "clean");
    let error = clean.last_error.as_ref().unwrap();
    assert!(error.summary.starts_with("ProcessDied: "), "{report:?}");
    let place = error.address.as_ref().unwrap().to_string();
    assert_eq!(place, address(client, stage));
    assert_eq!((clean.errors, clean.problem), (1, None));
    // The rate is that of the last ten seconds.
    let is_recent = now_ms() - error.time_ms < 8_000;
    assert!(!is_recent || clean.errors_per_second > 0.0, "{report:?}");
}

#[test]
#[ignore = "needs Kafka's jars: cargo xtask test"]
fn a_record_that_ends_the_process_becomes_a_dead_letter_and_all_others_go_on() {
    let errors = r#"{"deadLetter": {"topic": "crash-dead"}}"#;
    let stage = killing("crash", errors);
    let (setup, _turn) = setup();
    let client = setup.kafka.client();
    setup.kafka.create_topic("crash-dead", 1, &[]);
    write(&client, &stage.from, RECORDS);
    let restarted = restarted(&stage, is_named);
    restarted.check();
    check_named(&client, &restarted.report, &stage);
    check_others(&client, &stage);
    let ask = || stored(&client, "crash-dead");
    let dead = wait_for("a dead letter", MINUTE, ask, |dead| !dead.is_empty());
    assert_eq!(
        dead.iter().map(|letter| letter.number).collect::<Vec<_>>(),
        [KILLER]
    );
    let header = |name: &str| dead[0].headers[&format!("freehold.{name}")].as_str();
    assert!(
        header("error").starts_with("ProcessDied: "),
        "{:?}",
        dead[0].headers
    );
    assert_eq!((header("block"), header("attempts")), ("clean", "2"));
    let of = |part: &str| header(part).to_owned();
    let named = format!("{}/{}/{}", of("topic"), of("partition"), of("offset"));
    assert_eq!(named, address(&client, &stage));
    let runner = restarted.runner;
    assert!(!runner.log().contains("0123456789abcdef"));
    until("there is no lag", MINUTE, || {
        let report = runner.report();
        report.ready && report.lag == Some(0)
    });
    // The next process goes on behind it.
    runner.kill();
    write(&client, &stage.from, 1);
    let runner = stage.start();
    let ask = || runner.report();
    let report = wait_for("it goes on", MINUTE, ask, |report| report.lag == Some(0));
    assert_eq!(block(&report, "clean").errors, 0);
}

#[test]
#[ignore = "needs Kafka's jars: cargo xtask test"]
fn a_program_that_overflows_the_stack_is_a_dead_letter() {
    let errors = r#"{"deadLetter": {"topic": "deep-dead"}}"#;
    let stage = killing_by("deep", errors, DEEP);
    let (setup, _turn) = setup();
    let client = setup.kafka.client();
    setup.kafka.create_topic("deep-dead", 1, &[]);
    write(&client, &stage.from, RECORDS);
    let restarted = restarted(&stage, is_named);
    restarted.check();
    check_named(&client, &restarted.report, &stage);
    check_others(&client, &stage);
    let ask = || stored(&client, "deep-dead");
    let dead = wait_for("a dead letter", MINUTE, ask, |dead| !dead.is_empty());
    assert_eq!(dead.len(), 1);
    assert_eq!(dead[0].number, KILLER);
}

#[test]
#[ignore = "needs Kafka's jars: cargo xtask test"]
fn with_policy_skip_a_record_that_ends_the_process_is_dropped() {
    let stage = killing("crash-skip", r#"{"policy": "Skip"}"#);
    let (setup, _turn) = setup();
    let client = setup.kafka.client();
    write(&client, &stage.from, RECORDS);
    let restarted = restarted(&stage, is_named);
    restarted.check();
    check_named(&client, &restarted.report, &stage);
    check_others(&client, &stage);
}

#[test]
#[ignore = "needs Kafka's jars: cargo xtask test"]
fn with_policy_stop_the_stage_stops_until_its_program_is_mended() {
    let mut stage = killing("crash-stop", r#"{"policy": "Stop"}"#);
    let (setup, _turn) = setup();
    let client = setup.kafka.client();
    write(&client, &stage.from, RECORDS);
    let has_stopped = |report: &StageReport| report.stopped.is_some();
    let stops = restarted(&stage, has_stopped);
    stops.check();
    let stopped = stops.report.stopped.unwrap();
    assert_eq!(stopped.block.as_deref(), Some("clean"));
    assert!(stopped.error.starts_with("ProcessDied: "), "{stopped:?}");
    assert_eq!(
        stopped.address.unwrap().to_string(),
        address(&client, &stage)
    );
    assert!(!read(&client, &stage.to).times.contains_key(&KILLER));
    stops.runner.kill();
    // The same program: it stops again, and does not die.
    let again = restarted(&stage, has_stopped);
    assert_eq!(again.deaths, 0, "{}", again.runner.log());
    again.runner.kill();
    stage.blocks = r#"{"name": "clean", "from": ["in"], "filter": {"when": "true"}},"#;
    let _runner = stage.start();
    check_exactly_once(&client, &stage.to, RECORDS, MINUTE);
}

/// A program that takes a while for each record, so that most kills come while it runs.
#[test]
#[ignore = "needs Kafka's jars: cargo xtask test"]
fn a_process_that_is_killed_in_its_batches_gives_no_dead_letter() {
    let (setup, _turn) = setup();
    let mut stage = stage(setup, "killed");
    stage.format = "Json";
    stage.last = "slow";
    stage.errors = r#"{"deadLetter": {"topic": "killed-dead"}}"#;
    stage.blocks = r#"{"name": "slow", "from": ["in"], "transform": {"vrl":
        "n = 0\nfor_each([1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20]) -> |_i, _n| {\nfor_each([1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20]) -> |_j, _m| { n = n + 1 }\n}"}},"#;
    stage.with_journal();
    setup.kafka.create_topic("killed-dead", 1, &[]);
    let client = setup.kafka.client();
    let mut writer = Writer::new(&client, &stage.from);
    let (mut in_batch, mut kills, mut count) = (0, 0, 0);
    // Most kills come in a batch: there are more until one has.
    while kills < 5 || (in_batch == 0 && kills < 30) {
        kills += 1;
        // Each process has several batches to do.
        count += 3_000;
        writer.write(count, |_| 0);
        let runner = stage.start();
        runner.wait_ready();
        in_batch += u32::from(runner.log().contains("the process died on"));
        // What the process before it died on is run alone at first: a record that is killed alone
        // twice is a dead letter.
        until("it works", MINUTE, || {
            runner.figure("records_in_total") >= 1_000.0
        });
        thread::sleep(Duration::from_millis(11 * kills % 50));
        runner.kill();
    }
    writer.finish();
    let _runner = stage.start();
    check_exactly_once(&client, &stage.to, count, MINUTE);
    assert!(in_batch > 0, "no kill came in a batch");
    eprintln!("{in_batch} of {kills} kills came in a batch");
    assert!(stored(&client, "killed-dead").is_empty());
}
