//! What is read when a committed offset does not tell where to go on: partitions that were added, a
//! topic that was deleted and made anew, an offset that its partition does not have.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use freehold_pipeline::report::Stopped;

use super::support::broker::Kafka;
use super::support::records::{Seen, Writer, read, write};
use super::support::stage::{Runner, Stage};
use super::support::{until, wait_for};
use super::{MINUTE, PATIENT, Setup, setup, stage};

/// Writes the records of these numbers.
pub fn write_more(kafka: &Kafka, stage: &Stage, numbers: std::ops::Range<u64>) {
    let mut writer = Writer::new(&kafka.client(), &stage.from).from(numbers.start);
    writer.write(numbers.end, |_| 0);
    writer.finish();
}

/// Waits until the stage has written these numbers; then it has written them and no others, once.
fn check(kafka: &Kafka, stage: &Stage, expected: impl Iterator<Item = u64>) {
    let client = kafka.client();
    let expected: Vec<u64> = expected.collect();
    let ask = || read(&client, &stage.to);
    let is_there = |seen: &Seen| {
        expected
            .iter()
            .all(|number| seen.times.contains_key(number))
    };
    let seen = wait_for("they are copied", MINUTE, ask, is_there);
    assert!(seen.times.values().all(|times| *times == 1), "some twice");
    let others = seen
        .times
        .keys()
        .filter(|number| !expected.contains(number));
    assert_eq!(others.count(), 0, "others too");
}

/// Waits until a stage reads, and what it has read is committed.
fn wait_done(runner: &Runner) {
    until("it has read all", MINUTE, || {
        let report = runner.report();
        report.ready && report.lag == Some(0) && runner.figure("commits_total") > 0.0
    });
}

pub fn end(mut runner: Runner) {
    runner.signal("TERM");
    assert_eq!(runner.wait(MINUTE), 0, "{}", runner.log());
}

/// Why a stage has stopped, once it has.
pub fn wait_stopped(runner: &Runner) -> Stopped {
    let ask = || runner.report();
    let report = wait_for("it stops", MINUTE, ask, |report| report.stopped.is_some());
    report.stopped.unwrap()
}

/// Waits until a stage has gone on behind a gap.
pub fn wait_behind_gap(runner: &Runner) {
    until("it goes on behind a gap", MINUTE, || {
        let blocks = runner.report().blocks;
        let mut last = blocks.iter().filter_map(|block| block.last_error.as_ref());
        last.any(|last| last.summary.ends_with("(onGap)"))
    });
}

/// Commits an offset of the first partitions in the stage's place.
pub fn commit(kafka: &Kafka, stage: &Stage, offsets: &[(i32, i64)], note: Option<&str>) {
    let mut client = kafka.client();
    let consumer: BaseConsumer = client.set("group.id", &stage.group).create().unwrap();
    let mut list = TopicPartitionList::new();
    for (partition, offset) in offsets {
        let mut element = list.add_partition(&stage.from, *partition);
        element.set_offset(Offset::Offset(*offset)).unwrap();
        if let Some(note) = note {
            element.set_metadata(note);
        }
    }
    until("the offsets are committed", MINUTE, || {
        let committed = consumer.commit(&list, CommitMode::Sync);
        committed.inspect_err(|error| eprintln!("{error}")).is_ok()
    });
}

fn check_added(name: &str, source: &'static str, before: impl Iterator<Item = u64>) {
    let (setup, _turn) = setup();
    let (kafka, mut stage) = (&setup.kafka, stage(setup, name));
    stage.source = source;
    write(&kafka.client(), &stage.from, 100);
    let runner = stage.start();
    wait_done(&runner);
    end(runner);
    // Nobody removes the member here: one that comes back within its session keeps its partitions,
    // and gets no others.
    thread::sleep(Duration::from_secs(7));
    kafka.grow_topic(&stage.from, 8);
    write_more(kafka, &stage, 100..300);
    let runner = stage.start();
    check(kafka, &stage, before.chain(100..300));
    end(runner);
}

#[test]
#[ignore = "needs Kafka's jars: cargo xtask test"]
fn partitions_that_are_added_are_read_from_their_first_record() {
    check_added("added", "", 0..100);
    check_added("added-latest", r#", "start": "Latest""#, 0..0);
}

/// A stage whose topic was made anew with more records than it has read of the one before: 0 to 199
/// are of the old one, 200 to 999 of the new one. `kept`: a process wrote its old positions again
/// after Kafka had forgotten them with the topic.
fn made_anew(setup: &Setup, name: &str, kept: bool) -> Stage {
    let (kafka, mut stage) = (&setup.kafka, stage(setup, name));
    stage.topics = format!(r#"{{"{}": {{"id": "old"}}}}"#, stage.from);
    write(&kafka.client(), &stage.from, 200);
    let runner = stage.start();
    wait_done(&runner);
    end(runner);
    check(kafka, &stage, 0..200);
    kafka.delete_topic(&stage.from);
    kafka.create_topic(&stage.from, 4, &[]);
    write_more(kafka, &stage, 200..1_000);
    if kept {
        commit(
            kafka,
            &stage,
            &[(0, 40), (1, 40), (2, 40), (3, 40)],
            Some("topic old 4"),
        );
    }
    stage.topics = format!(
        r#"{{"{}": {{"id": "new", "former": ["old"]}}}}"#,
        stage.from
    );
    stage
}

#[test]
#[ignore = "needs Kafka's jars: cargo xtask test"]
fn a_topic_made_anew_stops_the_stage_until_somebody_decides() {
    let (setup, _turn) = setup();
    let kafka = &setup.kafka;
    for (name, kept) in [("anew", false), ("anew-kept", true)] {
        let mut stage = made_anew(setup, name, kept);
        let runner = stage.start();
        let stopped = wait_stopped(&runner);
        assert_eq!(stopped.block.as_deref(), Some("in"));
        assert!(stopped.error.contains("made anew"), "{stopped:?}");
        assert!(stopped.error.contains("onGap"), "{stopped:?}");
        end(runner);
        check(kafka, &stage, 0..200);
        stage.source = r#", "onGap": "Earliest""#;
        let runner = stage.start();
        check(kafka, &stage, 0..1_000);
        end(runner);
        // It is decided, for whatever comes.
        stage.source = "";
        let runner = stage.start();
        write_more(kafka, &stage, 1_000..1_100);
        check(kafka, &stage, 0..1_100);
        end(runner);
    }
}

#[test]
#[ignore = "needs Kafka's jars: cargo xtask test"]
fn a_topic_made_anew_is_read_from_where_the_policy_says() {
    let (setup, _turn) = setup();
    let (kafka, mut stage) = (&setup.kafka, made_anew(setup, "anew-latest", true));
    stage.source = r#", "onGap": "Latest""#;
    let runner = stage.start();
    wait_done(&runner);
    end(runner);
    stage.source = "";
    write_more(kafka, &stage, 1_000..1_100);
    let runner = stage.start();
    check(kafka, &stage, (0..200).chain(1_000..1_100));
    end(runner);
    // A process with the document from before goes on where one with the new one was.
    stage.topics = format!(r#"{{"{}": {{"id": "old"}}}}"#, stage.from);
    write_more(kafka, &stage, 1_100..1_200);
    let runner = stage.start();
    check(kafka, &stage, (0..200).chain(1_000..1_200));
    end(runner);
}

#[test]
#[ignore = "needs Kafka's jars: cargo xtask test"]
fn an_offset_that_is_out_of_range_follows_the_policy() {
    let (setup, _turn) = setup();
    let (kafka, mut stage) = (&setup.kafka, stage(setup, "range"));
    write(&kafka.client(), &stage.from, 100);
    commit(
        kafka,
        &stage,
        &[(0, 1_000_000), (1, 0), (2, 0), (3, 0)],
        None,
    );
    let runner = stage.start();
    let stopped = wait_stopped(&runner);
    assert!(stopped.error.contains("onGap"), "{stopped:?}");
    end(runner);
    stage.source = r#", "onGap": "Earliest""#;
    let runner = stage.start();
    check(kafka, &stage, 0..100);
    end(runner);
    commit(kafka, &stage, &[(0, 1_000_000)], None);
    stage.source = r#", "onGap": "Latest""#;
    let runner = stage.start();
    wait_behind_gap(&runner);
    write_more(kafka, &stage, 100..200);
    check(kafka, &stage, 0..200);
    end(runner);
}

/// Removes the records of a partition from a broker's folder.
fn empty(partition: &Path) {
    for entry in fs::read_dir(partition).unwrap() {
        let path = entry.unwrap().path();
        if !path.ends_with("partition.metadata") {
            fs::remove_file(path).unwrap();
        }
    }
}

#[test]
#[ignore = "needs Kafka's jars: cargo xtask test"]
fn a_log_that_was_truncated_is_a_gap_though_it_is_long_enough_again() {
    let mut kafka = Kafka::start("truncated", 1, None);
    for (topic, partitions) in [("dead", 1), ("cut-in", 1), ("cut-out", 3)] {
        kafka.create_topic(topic, partitions, &[]);
    }
    let mut stage = Stage::new(&kafka.bootstrap(), kafka.folder(), "cut-in", "cut-out");
    stage.limits = PATIENT.to_owned();
    write(&kafka.client(), &stage.from, 100);
    let runner = stage.start();
    wait_done(&runner);
    // It does not see the partition before it has other records up to its offset, and more.
    runner.signal("STOP");
    kafka.restart(|data| empty(&data.join("cut-in-0")));
    write_more(&kafka, &stage, 1_000..1_300);
    runner.signal("CONT");
    let stopped = wait_stopped(&runner);
    assert_eq!(stopped.block.as_deref(), Some("in"));
    for word in ["truncated", "offset 100", "onGap"] {
        assert!(stopped.error.contains(word), "{stopped:?}");
    }
    end(runner);
    // A new process has seen nothing of it.
    let runner = stage.start();
    let again = wait_stopped(&runner);
    assert!(again.error.contains("truncated"), "{again:?}");
    end(runner);
    check(&kafka, &stage, 0..100);
    stage.source = r#", "onGap": "Earliest""#;
    let runner = stage.start();
    check(&kafka, &stage, (0..100).chain(1_000..1_300));
    end(runner);
    // It is decided, for whatever comes.
    stage.source = "";
    let runner = stage.start();
    write_more(&kafka, &stage, 1_300..1_400);
    check(&kafka, &stage, (0..100).chain(1_000..1_400));
    end(runner);
}

#[test]
#[ignore = "needs Kafka's jars: cargo xtask test"]
fn a_process_sees_that_the_group_has_lost_what_it_has_committed_at_least_once() {
    let (setup, _turn) = setup();
    let (kafka, mut stage) = (&setup.kafka, stage(setup, "forgotten"));
    stage.delivery = "AtLeastOnce";
    write(&kafka.client(), &stage.from, 200);
    let runner = stage.start();
    wait_done(&runner);
    kafka.delete_topic(&stage.from);
    kafka.create_topic(&stage.from, 4, &[]);
    write_more(kafka, &stage, 1_000..1_040);
    let stopped = wait_stopped(&runner);
    assert!(stopped.error.contains("lost its offsets"), "{stopped:?}");
    end(runner);
    check(kafka, &stage, 0..200);
}
