//! The sink of MQTT, with a real broker.

use std::collections::{BTreeMap, BTreeSet};

use super::super::support::mosquitto::{Mosquitto, Watch};
use super::super::support::records::Writer;
use super::super::support::stage::{Runner, Stage};
use super::super::support::{until, wait_for};
use super::super::{MINUTE, Setup, setup};
use super::{stored, wait_for_sink};

/// A stage that publishes a topic of its own to a topic of a broker.
fn stage(setup: &Setup, name: &str, version: &str, broker: &Mosquitto) -> Stage {
    let from = format!("{name}-in");
    setup.kafka.create_topic(&from, 4, &[]);
    setup.kafka.create_topic(&format!("{name}-dead"), 4, &[]);
    let mut stage = Stage::new(&setup.kafka.bootstrap(), setup.kafka.folder(), &from, name);
    stage.delivery = "AtLeastOnce";
    stage.write_secret("broker", "username", "me\n");
    stage.write_secret("broker", "password", "hush\n");
    stage.sink = Some(format!(
        r#"{{"mqtt": {{"url": "mqtt://127.0.0.1:{}", "topic": "numbers/all",
            "version": "{version}", "basic": {{"name": "broker"}}}}}}"#,
        broker.port
    ));
    stage
}

fn numbers(watch: &Watch) -> Vec<u64> {
    let lines = watch.lines();
    let numbers = lines.iter().map(|line| line.trim().parse());
    numbers.collect::<Result<_, _>>().unwrap()
}

fn delivered(runner: &Runner) {
    wait_for_sink(runner, "all is delivered", MINUTE, |report, sink| {
        report.ready && report.lag == Some(0) && sink.problem.is_none()
    });
}

/// The runner dies, the broker is restarted, and another replica comes.
fn check_over_kills(name: &str, version: &str) {
    let (setup, _turn) = setup();
    let mut broker = Mosquitto::new(name, "");
    let stage = stage(setup, name, version, &broker);
    let watch = broker.watch("numbers/#");
    let count = 6_000;
    let client = setup.kafka.client();
    let mut writer = Writer::new(&client, &stage.from);
    for part in [1, 2] {
        writer.write(part * 1_500, |_| 0);
        let runner = stage.start();
        until("a part is delivered", MINUTE, || {
            numbers(&watch).len() as u64 > (part - 1) * 1_500 + 300
        });
        runner.kill();
    }
    let mut runner = stage.start();
    delivered(&runner);
    broker.stop();
    writer.write(4_500, |_| 0);
    wait_for_sink(&runner, "the broker is named", MINUTE, |report, sink| {
        let problem = sink.problem.as_deref().unwrap_or_default();
        problem.contains(&format!("127.0.0.1:{}", broker.port)) && !report.message.is_empty()
    });
    broker.start();
    delivered(&runner);
    writer.write(count, |_| 0);
    writer.finish();
    let mut other = stage.clone();
    other.ordinal = 1;
    let mut other = other.start();
    other.wait_ready();
    let all: BTreeSet<u64> = (0..count).collect();
    until("all are there", MINUTE, || {
        numbers(&watch).into_iter().collect::<BTreeSet<_>>() == all
    });
    for runner in [&mut runner, &mut other] {
        delivered(runner);
        runner.signal("TERM");
        assert_eq!(runner.wait(MINUTE), 0);
        assert!(!runner.log().contains("hush"), "{}", runner.log());
    }
    let seen = numbers(&watch);
    eprintln!(
        "{version}: {} doubles of {count}",
        seen.len() as u64 - count
    );
    // Offsets in the order in which they first came, by partition.
    let places = stored(&client, &stage.from);
    let places: BTreeMap<u64, (i32, i64)> = places
        .iter()
        .map(|record| (record.number, (record.partition, record.offset)))
        .collect();
    let (mut order, mut known) = (BTreeMap::<i32, Vec<i64>>::new(), BTreeSet::new());
    for number in seen {
        if known.insert(number) {
            let (partition, offset) = places[&number];
            order.entry(partition).or_default().push(offset);
        }
    }
    assert_eq!(order.len(), 4);
    for (partition, offsets) in order {
        assert!(offsets.is_sorted(), "partition {partition}");
    }
}

#[test]
#[ignore = "needs Kafka's jars: cargo xtask test"]
fn records_are_published_in_order_over_kills() {
    check_over_kills("tell-five", "V5");
}

#[test]
#[ignore = "needs Kafka's jars: cargo xtask test"]
fn records_are_published_in_order_by_version_3_over_kills() {
    check_over_kills("tell-three", "V311");
}

#[test]
#[ignore = "needs Kafka's jars: cargo xtask test"]
fn a_password_and_a_topic_that_are_refused_are_named_and_a_large_record_is_a_dead_letter() {
    let (setup, _turn) = setup();
    let more = "acl_file {folder}/acl\nmax_packet_size 20000";
    let broker = Mosquitto::new("tell-wrong", more);
    let rights = |rights: &str| {
        std::fs::write(broker.folder.0.join("acl"), rights).unwrap();
        broker.reload();
    };
    rights("user me\ntopic read #\n");
    let mut stage = stage(setup, "tell-wrong", "V5", &broker);
    stage.errors = r#"{"deadLetter": {"topic": "tell-wrong-dead"}}"#;
    stage.write_secret("broker", "password", "other");
    let watch = broker.watch("numbers/#");
    let client = setup.kafka.client();
    let mut writer = Writer::new(&client, &stage.from);
    writer.write(200, |_| 0);
    let runner = stage.start();
    let named = |what: &str, part: &str| {
        wait_for_sink(&runner, what, MINUTE, |_, sink| {
            sink.problem
                .as_deref()
                .is_some_and(|why| why.contains(part))
        });
    };
    let refused = "the broker refuses the connection: not authorized";
    named("the password is named", refused);
    stage.write_secret("broker", "password", "hush\n");
    named("the topic is named", "topic numbers/all: not authorized");
    rights("user me\ntopic readwrite #\n");
    delivered(&runner);
    writer.write(201, |_| 30_000);
    writer.write(300, |_| 0);
    writer.finish();
    delivered(&runner);
    let all: BTreeSet<u64> = (0..300).filter(|number| *number != 200).collect();
    until("all are there", MINUTE, || {
        numbers(&watch).into_iter().collect::<BTreeSet<_>>() == all
    });
    // A report may be older than the last records.
    let ask = || stored(&client, "tell-wrong-dead");
    let letters = wait_for("a dead letter", MINUTE, ask, |letters| !letters.is_empty());
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].number, 200);
    let error = &letters[0].headers["freehold.error"];
    assert!(error.contains("largest packet, 20000 bytes"), "{error}");
    // While something does not work at the moment, it is the last error, and has no address.
    let sink = wait_for_sink(&runner, "it is counted", MINUTE, |_, sink| {
        sink.errors == 1 && sink.problem.is_none()
    });
    assert_eq!(sink.last_error.unwrap().address.unwrap().topic, stage.from);
    assert!(!runner.log().contains("hush"), "{}", runner.log());
}
