//! Dead letters once more through their stage, with a real Kafka, while the process is killed.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use freehold_pipeline::replay::ReplayReport;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::deliver::{Stored, stored};
use super::support::records::{ends, read, write};
use super::support::stage::{Runner, Stage};
use super::support::until;
use super::{MINUTE, Setup, setup, stage};

/// Fails on a tenth of the numbers. The other branch gets all of them.
const BROKEN: &str = r#"
    {"name": "side", "from": ["in"], "sink": {"kafka": {"topic": "replay-side"}}},
    {"name": "clean", "from": ["in"],
        "transform": {"vrl": "assert!(mod(int!(.), 10) != 3, message: \"it is a three\")"}},"#;

const MENDED: &str = r#"
    {"name": "side", "from": ["in"], "sink": {"kafka": {"topic": "replay-side"}}},
    {"name": "clean", "from": ["in"], "transform": {"vrl": ". = int!(.) + 0"}},"#;

/// A stage whose program fails on some of `count` records, once it has worked on them. `blocks` has
/// the block `clean`, the last one.
fn failed(setup: &Setup, name: &str, blocks: &'static str, count: u64, letters: u64) -> Stage {
    let mut stage = stage(setup, name);
    stage.format = "Json";
    stage.last = "clean";
    stage.blocks = blocks;
    let dead = format!("{name}-dead");
    stage.errors =
        Box::leak(format!(r#"{{"deadLetter": {{"topic": "{dead}"}}}}"#).into_boxed_str());
    let client = setup.kafka.client();
    setup.kafka.create_topic(&dead, 2, &[]);
    setup.kafka.create_topic("replay-side", 2, &[]);
    write(&client, &stage.from, count);
    let runner = stage.start();
    until("all are worked on", MINUTE, || {
        runner.report().lag == Some(0)
    });
    runner.kill();
    assert_eq!(read(&client, &stage.to).times.len() as u64, count - letters);
    assert_eq!(stored(&client, &dead).len() as u64, letters);
    stage
}

/// Lets a stage replay its block `clean`; `more` are fields of the request, each with a comma before
/// it.
fn replaying(stage: &Stage, id: &str, more: &str) -> Stage {
    let dead = stage.from.replace("-in", "-dead");
    let replay = format!(r#"{{"id": "{id}", "topic": "{dead}", "block": "clean"{more}}}"#);
    Stage {
        replay: Some(replay),
        ..stage.clone()
    }
}

fn report(runner: &Runner) -> ReplayReport {
    runner.report().replay.unwrap_or_default()
}

/// Waits for the end of a replay, and returns its report.
fn done(runner: &Runner) -> ReplayReport {
    until("the replay is done", MINUTE, || report(runner).is_done);
    assert!(runner.report().ready, "{}", runner.log());
    report(runner)
}

/// Read, matched, replayed, failed, given up, left.
fn counts(report: &ReplayReport) -> [u64; 6] {
    let ReplayReport {
        id: _,
        is_done: _,
        left,
        read,
        matched,
        replayed,
        failed,
        given_up,
    } = *report;
    [read, matched, replayed, failed, given_up, left]
}

fn now_ms() -> u128 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_millis()
}

/// The letters of a stage by how often they were replayed.
fn by_replays(setup: &Setup, stage: &Stage) -> BTreeMap<String, Vec<Stored>> {
    let dead = stage.from.replace("-in", "-dead");
    let mut all: BTreeMap<String, Vec<Stored>> = BTreeMap::new();
    for letter in stored(&setup.kafka.client(), &dead) {
        let replays = letter.headers.get("freehold.replays").cloned();
        all.entry(replays.unwrap_or_default())
            .or_default()
            .push(letter);
    }
    all
}

/// Whether a replay has kept an offset.
fn has_committed(setup: &Setup, stage: &Stage, id: &str) -> bool {
    let mut config = setup.kafka.client();
    config.set("group.id", format!("{}.replay.{id}", stage.group));
    let consumer: BaseConsumer = config.create().unwrap();
    let mut list = TopicPartitionList::new();
    let dead = stage.from.replace("-in", "-dead");
    for partition in 0..2 {
        list.add_partition(&dead, partition);
    }
    let committed = consumer.committed_offsets(list, Duration::from_secs(20));
    let committed = committed.unwrap();
    let mut elements = committed.elements().into_iter();
    elements.any(|element| matches!(element.offset(), Offset::Offset(_)))
}

#[test]
#[ignore = "needs Kafka's jars: cargo xtask test"]
fn a_mended_program_gets_each_letter_once_over_kills() {
    let (setup, _turn) = setup();
    let client = setup.kafka.client();
    let mut stage = failed(setup, "replay", BROKEN, 2_000, 200);
    let side = ends(&client, "replay-side");
    assert!(side >= 2_000);
    stage.blocks = MENDED;
    let mut slow = replaying(&stage, "r1", r#", "recordsPerSecond": 40"#);
    slow.with_journal();
    // The stage goes on meanwhile.
    let _stage = stage.start();
    let mut runner = slow.start();
    for kill in 1..=3 {
        let before = report(&runner).replayed;
        until("it replays", MINUTE, || report(&runner).replayed > before);
        assert!(!report(&runner).is_done, "too late for kill {kill}");
        runner.kill();
        runner = slow.start();
    }
    let end = done(&runner);
    assert_eq!(
        (end.id.as_str(), counts(&end)),
        ("r1", [200, 200, 200, 0, 0, 0])
    );
    let seen = read(&client, &stage.to);
    assert!(seen.times.keys().copied().eq(0..2_000));
    assert!(seen.times.values().all(|times| *times == 1));
    // Each has the headers of its record, and no others: `read` has looked.
    assert_eq!(seen.headers, 2_000);
    assert_eq!(ends(&client, "replay-side"), side);
    assert_eq!(by_replays(setup, &stage).len(), 1);
    // Another start of the same replay has nothing to do, and knows what was done.
    runner.kill();
    let written = ends(&client, &stage.to);
    let end = done(&slow.start());
    assert_eq!(counts(&end), [200, 200, 200, 0, 0, 0]);
    assert_eq!(ends(&client, &stage.to), written);
}

#[test]
#[ignore = "needs Kafka's jars: cargo xtask test"]
fn what_fails_again_is_a_letter_again_and_given_up_after_three_times() {
    let (setup, _turn) = setup();
    let stage = failed(setup, "again", BROKEN, 200, 20);
    let written = ends(&setup.kafka.client(), &stage.to);
    let mut since = String::new();
    for times in 1..=3 {
        let began = now_ms();
        let id = format!("r{times}");
        let end = done(&replaying(&stage, &id, &since).start());
        assert_eq!(counts(&end), [20 * times, 20, 0, 20, 0, 0]);
        let letters = by_replays(setup, &stage);
        let again = &letters[&times.to_string()];
        assert_eq!((letters.len() as u64, again.len()), (times + 1, 20));
        let mut numbers: Vec<u64> = again.iter().map(|letter| letter.number).collect();
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq((0..20).map(|ten| ten * 10 + 3)));
        for letter in again {
            let header = |name: &str| letter.headers[&format!("freehold.{name}")].as_str();
            assert_eq!((header("replay"), header("block")), (id.as_str(), "clean"));
            assert_eq!(header("topic"), stage.from);
            assert!(header("error").contains("it is a three"));
        }
        since = format!(r#", "sinceMs": {began}"#);
    }
    let end = done(&replaying(&stage, "r4", &since).start());
    assert_eq!(counts(&end), [80, 20, 0, 0, 20, 0]);
    let letters = by_replays(setup, &stage);
    assert!(letters.values().all(|letters| letters.len() == 20) && letters.len() == 4);
    assert_eq!(ends(&setup.kafka.client(), &stage.to), written);
}

/// Fails on threes and sevens.
const TWO_ERRORS: &str = r#"{"name": "clean", "from": ["in"], "transform": {"vrl":
    "assert!(mod(int!(.), 10) != 3, message: \"it is a three\")\nassert!(mod(int!(.), 10) != 7, message: \"it is a seven\")"}},"#;

/// Fails on half of the sevens.
const HALF_MENDED: &str = r#"{"name": "clean", "from": ["in"], "transform": {"vrl":
    "assert!(mod(int!(.), 20) != 7, message: \"it is still a seven\")"}},"#;

#[test]
#[ignore = "needs Kafka's jars: cargo xtask test"]
fn a_dry_run_writes_nothing_and_error_and_time_choose() {
    let (setup, _turn) = setup();
    let client = setup.kafka.client();
    let mut stage = failed(setup, "dry", TWO_ERRORS, 1_000, 200);
    stage.blocks = HALF_MENDED;
    let before = (ends(&client, &stage.to), ends(&client, "dry-dead"));
    let now = now_ms();
    let cases = [
        (String::new(), [200, 200, 150, 50, 0, 0]),
        (
            r#", "error": "a seven""#.to_owned(),
            [200, 100, 50, 50, 0, 0],
        ),
        (r#", "error": "a nine""#.to_owned(), [200, 0, 0, 0, 0, 0]),
        (format!(r#", "sinceMs": {now}"#), [200, 0, 0, 0, 0, 0]),
        (format!(r#", "untilMs": {now}"#), [200, 200, 150, 50, 0, 0]),
    ];
    for (place, (more, expected)) in cases.into_iter().enumerate() {
        let id = format!("dry{place}");
        let runner = replaying(&stage, &id, &format!(r#"{more}, "dryRun": true"#)).start();
        assert_eq!(counts(&done(&runner)), expected, "{more}");
        assert!(!has_committed(setup, &stage, &id));
    }
    assert_eq!(
        (ends(&client, &stage.to), ends(&client, "dry-dead")),
        before
    );
    let runner = replaying(&stage, "real", r#", "error": "a seven""#).start();
    assert_eq!(counts(&done(&runner)), [200, 100, 50, 50, 0, 0]);
    assert!(has_committed(setup, &stage, "real"));
    let seen = read(&client, &stage.to);
    assert!(seen.times.values().all(|times| *times == 1));
    let good = (0..1_000).filter(|number| number % 10 != 3 && number % 20 != 7);
    assert!(seen.times.keys().copied().eq(good));
    assert_eq!(by_replays(setup, &stage)["1"].len(), 50);
}

#[test]
#[ignore = "needs Kafka's jars: cargo xtask test"]
fn at_least_once_replays_all_and_ends() {
    let (setup, _turn) = setup();
    let mut stage = failed(setup, "often", BROKEN, 1_000, 100);
    stage.blocks = MENDED;
    stage.delivery = "AtLeastOnce";
    let slow = replaying(&stage, "r1", r#", "recordsPerSecond": 40"#);
    let runner = slow.start();
    until("it replays", MINUTE, || report(&runner).replayed > 0);
    runner.kill();
    let end = done(&slow.start());
    assert_eq!((end.read, end.replayed, end.left), (100, 100, 0));
    let seen = read(&setup.kafka.client(), &stage.to);
    assert!(seen.times.keys().copied().eq(0..1_000));
}

#[test]
#[ignore = "needs Kafka's jars: cargo xtask test"]
fn a_block_that_is_gone_stops_the_replay_and_is_named() {
    let (setup, _turn) = setup();
    let mut stage = stage(setup, "gone-block");
    stage.format = "Json";
    let runner = replaying(&stage, "r1", "").start();
    until("it stops", MINUTE, || runner.report().stopped.is_some());
    let report = runner.report();
    assert!(report.message.contains("no block clean"), "{report:?}");
    assert!(!report.ready && !report.replay.unwrap().is_done);
    assert!(runner.get("/healthz").unwrap().starts_with("HTTP/1.1 200"));
}

/// Nothing to replay: the ends of empty partitions, and of some that have only markers.
#[test]
#[ignore = "needs Kafka's jars: cargo xtask test"]
fn a_replay_without_letters_is_done() {
    let (setup, _turn) = setup();
    let stage = stage(setup, "none");
    let mut stage = Stage {
        format: "Json",
        last: "clean",
        blocks: MENDED,
        ..stage
    };
    setup.kafka.create_topic("none-dead", 2, &[]);
    setup.kafka.create_topic("replay-side", 2, &[]);
    let end = done(&replaying(&stage, "r1", "").start());
    assert_eq!(counts(&end), [0; 6]);
    // The last record of each partition is followed by a marker.
    let topic = stage.from.clone();
    stage.blocks = BROKEN;
    stage.errors = r#"{"deadLetter": {"topic": "none-dead"}}"#;
    write(&setup.kafka.client(), &topic, 10);
    let runner = stage.start();
    until("one fails", MINUTE, || runner.report().lag == Some(0));
    let end = done(&replaying(&stage, "r2", "").start());
    assert_eq!(counts(&end), [1, 1, 0, 1, 0, 0]);
}
