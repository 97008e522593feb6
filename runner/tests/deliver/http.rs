//! The sink of HTTP.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rdkafka::message::{Headers as _, Message as _};

use super::super::support::records::{Writer, each, write};
use super::super::support::stage::Stage;
use super::super::support::{free_port, until, wait_for};
use super::super::{MINUTE, Setup, setup};
use super::endpoint::{Behaviour, Endpoint, is_refused};
use super::{stored, wait_for_sink};

/// A stage that delivers a topic of its own, with a topic of dead letters.
fn stage(setup: &Setup, name: &str, dead: &str) -> Stage {
    let from = format!("{name}-in");
    setup.kafka.create_topic(&from, 4, &[]);
    setup.kafka.create_topic(dead, 4, &[]);
    let mut stage = Stage::new(&setup.kafka.bootstrap(), setup.kafka.folder(), &from, name);
    stage.delivery = "AtLeastOnce";
    stage.format = "Json";
    stage
}

/// Each record was taken or is a dead letter with its address, and each partition in its order.
fn check(setup: &Setup, stage: &Stage, endpoint: &Endpoint, dead: &str) {
    let client = setup.kafka.client();
    let taken = endpoint.taken();
    assert!(taken.wrong.is_empty(), "{:?}", &taken.wrong[..1]);
    let mut refused = Vec::new();
    for record in stored(&client, &stage.from) {
        let place = (record.partition, record.offset);
        match is_refused(record.number) {
            true => refused.push((place, record.number)),
            false => assert_eq!(taken.numbers.get(&place), Some(&record.number), "{place:?}"),
        }
    }
    for (partition, offsets) in &taken.order {
        assert!(offsets.is_sorted(), "partition {partition}");
    }
    drop(taken);
    let mut letters: Vec<_> = stored(&client, dead)
        .into_iter()
        .map(|letter| {
            let header = |name: &str| letter.headers[&format!("freehold.{name}")].as_str();
            assert_eq!(
                (header("block"), header("topic")),
                ("out", stage.from.as_str())
            );
            assert_eq!(header("pipeline"), format!("test/{}", stage.to));
            assert!(header("error").contains("422"), "{:?}", letter.headers);
            assert_eq!(letter.headers["number"], letter.number.to_string());
            let place = (
                header("partition").parse().unwrap(),
                header("offset").parse().unwrap(),
            );
            (place, letter.number)
        })
        .collect();
    letters.sort_unstable();
    letters.dedup();
    refused.sort_unstable();
    assert_eq!(letters, refused);
}

#[test]
#[ignore = "needs Kafka's jars: cargo xtask test"]
fn an_endpoint_that_fails_gets_each_record_in_order_over_kills() {
    let (setup, _turn) = setup();
    let mut stage = stage(setup, "hook", "hook-dead");
    stage.errors = r#"{"deadLetter": {"topic": "hook-dead"}}"#;
    let behaviour = Behaviour {
        fails: true,
        authorization: None,
    };
    let endpoint = Endpoint::start(&stage.from, 1, behaviour);
    stage.sink = Some(format!(
        r#"{{"http": {{"url": "{}", "timeout": "1s", "headers": {{"x-test": "1"}}}}}}"#,
        endpoint.url
    ));
    let count = 3_000;
    write(&setup.kafka.client(), &stage.from, count);
    for part in [700, 1_500] {
        let runner = stage.start();
        until("a part is delivered", MINUTE, || {
            endpoint.taken().numbers.len() > part
        });
        runner.kill();
    }
    let mut runner = stage.start();
    until("the last part begins", MINUTE, || {
        endpoint.taken().numbers.len() > 1_800
    });
    // Another replica takes partitions over while records are under way.
    let mut other = stage.clone();
    other.ordinal = 1;
    let mut other = other.start();
    other.wait_ready();
    for runner in [&mut runner, &mut other] {
        wait_for_sink(runner, "all is delivered", MINUTE, |report, _| {
            report.ready && report.lag == Some(0) && report.message.is_empty()
        });
    }
    // Partitions may have gone from one to the other between the two reports.
    let refused = (0..count).filter(|number| is_refused(*number)).count();
    until("each record is taken or a dead letter", MINUTE, || {
        let letters = stored(&setup.kafka.client(), "hook-dead");
        let letters: BTreeSet<u64> = letters.iter().map(|letter| letter.number).collect();
        letters.len() >= refused && endpoint.taken().numbers.len() as u64 + refused as u64 >= count
    });
    check(setup, &stage, &endpoint, "hook-dead");
    for runner in [&mut runner, &mut other] {
        runner.signal("TERM");
        assert_eq!(runner.wait(MINUTE), 0);
    }
    let repeated = endpoint.taken().requests - count;
    // Each second's offsets are committed.
    assert!(repeated < count, "{repeated} requests too many");
}

#[test]
#[ignore = "needs Kafka's jars: cargo xtask test"]
fn a_letter_that_does_not_fit_has_the_address_of_the_record() {
    let (setup, _turn) = setup();
    let limit = [("max.message.bytes", "20000")];
    setup.kafka.create_topic("wide-dead", 4, &limit);
    let mut stage = stage(setup, "wide", "wide-dead");
    stage.errors = r#"{"deadLetter": {"topic": "wide-dead"}}"#;
    stage.more = r#", "compression": "none""#.to_owned();
    let behaviour = Behaviour {
        fails: false,
        authorization: None,
    };
    let endpoint = Endpoint::start(&stage.from, 1, behaviour);
    stage.sink = Some(format!(r#"{{"http": {{"url": "{}"}}}}"#, endpoint.url));
    let client = setup.kafka.client();
    let mut writer = Writer::new(&client, &stage.from);
    writer.write(60, |number| if is_refused(number) { 50_000 } else { 0 });
    writer.finish();
    let runner = stage.start();
    wait_for_sink(&runner, "all are delivered", MINUTE, |report, _| {
        assert_eq!(report.stopped, None);
        report.ready && report.lag == Some(0)
    });
    assert_eq!(endpoint.taken().numbers.len(), 59);
    let mut letters = Vec::new();
    each(&client, "wide-dead", MINUTE, |message| {
        let text = |bytes: Option<&[u8]>| String::from_utf8(bytes.unwrap().to_vec()).unwrap();
        let headers = message.headers().unwrap().iter();
        let headers: BTreeMap<_, _> = headers
            .map(|header| (header.key.to_owned(), text(header.value.or(Some(b"")))))
            .collect();
        letters.push((text(message.key()), text(message.payload()), headers));
    });
    let [(key, value, headers)] = &letters[..] else {
        panic!("{letters:?}");
    };
    assert_eq!((key.as_str(), value.as_str()), ("key-49", ""));
    assert_eq!(headers["freehold.left-out"], "value");
    assert_eq!(headers["number"], "49");
    let all = stored(&client, &stage.from);
    let record = all.iter().find(|record| record.number == 49).unwrap();
    assert_eq!(headers["freehold.partition"], record.partition.to_string());
    assert_eq!(headers["freehold.offset"], record.offset.to_string());
}

#[test]
#[ignore = "needs Kafka's jars: cargo xtask test"]
fn batches_are_delivered_and_a_secret_that_is_missing_or_wrong_is_named() {
    let (setup, _turn) = setup();
    let mut stage = stage(setup, "batch", "batch-dead");
    stage.errors = r#"{"deadLetter": {"topic": "batch-dead"}}"#;
    let behaviour = Behaviour {
        fails: false,
        authorization: Some("Bearer open sesame".to_owned()),
    };
    let endpoint = Endpoint::start(&stage.from, 20, behaviour);
    stage.sink = Some(format!(
        r#"{{"http": {{"url": "{}", "batch": 20,
            "authentication": {{"token": {{"name": "hook", "key": "token"}}}}}}}}"#,
        endpoint.url
    ));
    let client = setup.kafka.client();
    write(&client, &stage.from, 1_000);
    let runner = stage.start();
    let named = MINUTE;
    let why = "Secret hook, key token: ";
    wait_for_sink(&runner, "the secret is named", named, |report, sink| {
        let problem = sink.problem.as_deref();
        problem.is_some_and(|problem| problem.contains(why)) && report.message.contains(why)
    });
    stage.write_secret("hook", "token", "hush\n");
    let sink = wait_for_sink(&runner, "the answer is named", named, |_, sink| {
        let problem = sink.problem.as_deref();
        problem.is_some_and(|why| why.contains("401"))
    });
    assert!(!sink.problem.unwrap().contains("hush"));
    stage.write_secret("hook", "token", "open sesame\n");
    let mut writer = Writer::new(&client, &stage.from);
    let sink = wait_for_sink(&runner, "all is delivered", MINUTE, |report, sink| {
        report.ready && report.lag == Some(0) && sink.problem.is_none() && sink.errors >= 20
    });
    // A session that was lost on a busy machine gives records again.
    let rebalances = runner.exact_figure("rebalances_total");
    assert!(sink.errors == 20 || rebalances > 1.0, "{sink:?}");
    let error = sink.last_error.unwrap();
    assert_eq!(error.address.unwrap().topic, stage.from);
    check(setup, &stage, &endpoint, "batch-dead");
    assert!(!runner.log().contains("hush") && !runner.log().contains("sesame"));
    // How fast it is.
    let (before, began) = (endpoint.taken().numbers.len(), Instant::now());
    writer.write(10_000, |_| 0);
    writer.finish();
    until("all is taken", MINUTE, || {
        endpoint.taken().numbers.len() >= before + 9_800
    });
    eprintln!("batches of 20: 10000 records in {:?}", began.elapsed());
}

#[test]
#[ignore = "needs Kafka's jars: cargo xtask test"]
fn a_refused_record_stops_the_stage_where_the_policy_says_so() {
    let (setup, _turn) = setup();
    let mut stage = stage(setup, "halt", "halt-dead");
    stage.errors = r#"{"policy": "Stop"}"#;
    let behaviour = Behaviour {
        fails: false,
        authorization: None,
    };
    let endpoint = Endpoint::start(&stage.from, 1, behaviour);
    stage.sink = Some(format!(r#"{{"http": {{"url": "{}"}}}}"#, endpoint.url));
    write(&setup.kafka.client(), &stage.from, 200);
    let mut runner = stage.start();
    let ask = || runner.report().stopped;
    let stopped = wait_for("the stage stops", MINUTE, ask, Option::is_some).unwrap();
    let address = stopped.address.unwrap();
    assert_eq!(stopped.block.as_deref(), Some("out"));
    let all = stored(&setup.kafka.client(), &stage.from);
    let place = (address.partition, address.offset);
    let record = all
        .iter()
        .find(|record| (record.partition, record.offset) == place);
    assert!(is_refused(record.unwrap().number));
    // What was under way ends behind the report.
    until("it waits to be ended", MINUTE, || {
        runner.log().contains("the stage has stopped")
    });
    let requests = endpoint.taken().requests;
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(endpoint.taken().requests, requests);
    runner.signal("TERM");
    assert_eq!(runner.wait(MINUTE), 0);
}

#[test]
#[ignore = "needs Kafka's jars: cargo xtask test"]
fn records_for_an_endpoint_that_is_away_wait_in_kafka() {
    let (setup, _turn) = setup();
    let mut stage = stage(setup, "away", "away-dead");
    let port = free_port();
    stage.sink = Some(format!(
        r#"{{"http": {{"url": "http://127.0.0.1:{port}/hook"}}}}"#
    ));
    // 40 MB, which is more than a runner holds.
    let mut writer = Writer::new(&setup.kafka.client(), &stage.from);
    writer.write(2_000, |_| 20_000);
    writer.finish();
    let mut runner = stage.start();
    let named = MINUTE;
    let place = format!("http://127.0.0.1:{port}");
    wait_for_sink(&runner, "it is named", named, |report, sink| {
        let problem = sink.problem.as_deref();
        let is_named = problem.is_some_and(|problem| problem.contains(&place));
        is_named && report.lag == Some(2_000) && !report.ready
    });
    std::thread::sleep(Duration::from_secs(3));
    let status = std::fs::read_to_string(format!("/proc/{}/status", runner.pid)).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak: u64 = peak
        .unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap();
    eprintln!("at most {} MiB", peak >> 10);
    assert!(peak < 64 << 10, "{peak} KiB");
    runner.signal("TERM");
    assert_eq!(runner.wait(MINUTE), 0);
}
