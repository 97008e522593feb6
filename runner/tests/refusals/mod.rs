//! Outputs and dead letters that Kafka refuses, records that come out as they went in, and how many
//! of them are one transaction, with a real Kafka.

use std::time::Duration;

use freehold_pipeline::report::StageReport;
use rdkafka::ClientConfig;
use rdkafka::message::{BorrowedMessage, Header, Headers as _, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

use super::support::records::{Writer, each, read_until};
use super::support::stage::{Runner, Stage};
use super::support::{PATIENCE, wait_for};
use super::{MINUTE, Setup, setup, stage};

/// A record as it is in a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Whole {
    partition: i32,
    timestamp: Option<i64>,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Whole {
    fn of(message: &BorrowedMessage<'_>) -> Self {
        let headers = message.headers().into_iter().flat_map(|all| all.iter());
        Self {
            partition: message.partition(),
            timestamp: message.timestamp().to_millis(),
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().map(<[u8]>::to_vec),
            headers: headers
                .map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec)))
                .collect(),
        }
    }

    fn write(&self, client: &ClientConfig, topic: &str) {
        let producer: BaseProducer = client.create().unwrap();
        let headers = self.headers.iter();
        let headers = headers.fold(OwnedHeaders::new(), |headers, (key, value)| {
            let value = value.as_deref();
            headers.insert(Header { key, value })
        });
        let record = BaseRecord {
            topic,
            partition: Some(self.partition),
            payload: self.value.as_deref(),
            key: self.key.as_deref(),
            timestamp: self.timestamp,
            headers: Some(headers),
            delivery_opaque: (),
        };
        producer.send(record).map_err(|(error, _)| error).unwrap();
        producer.flush(MINUTE * PATIENCE).unwrap();
    }

    fn text(&self, header: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        let (_, value) = headers.find(|(name, _)| name == header)?;
        std::str::from_utf8(value.as_deref().unwrap()).ok()
    }

    /// The address that a dead letter has of its record.
    fn origin(&self) -> String {
        let of = |part: &str| self.text(&format!("freehold.{part}")).unwrap();
        format!("{}/{}/{}", of("topic"), of("partition"), of("offset"))
    }
}

/// Everything in a topic, once it has so many records.
fn all(client: &ClientConfig, topic: &str, count: usize) -> Vec<Whole> {
    let ask = || {
        let mut found = Vec::new();
        each(client, topic, Duration::from_secs(30), |message| {
            found.push(Whole::of(message));
        });
        found
    };
    let what = format!("{topic} has {count}");
    wait_for(&what, MINUTE, ask, |found| found.len() >= count)
}

/// The address of a number.
fn address(client: &ClientConfig, topic: &str, number: &str) -> String {
    let mut found = None;
    each(client, topic, Duration::from_secs(30), |message| {
        if message.payload().is_some_and(|value| {
            let text = String::from_utf8_lossy(value);
            text.trim() == number
        }) {
            found = Some((message.partition(), message.offset()));
        }
    });
    let (partition, offset) = found.unwrap();
    format!("{topic}/{partition}/{offset}")
}

/// A topic that takes at most 20 000 bytes, uncompressed.
fn small(setup: &Setup, topic: &str) {
    let limit = [("max.message.bytes", "20000")];
    setup.kafka.create_topic(topic, 3, &limit);
}

/// A stage to a small topic, with 100 records, of which one is too large for it.
fn too_large(setup: &Setup, name: &str) -> Stage {
    let mut stage = stage(setup, name);
    stage.to = format!("{name}-small");
    small(setup, &stage.to);
    // Kafka checks what is compressed, and these values compress well.
    stage.more = r#", "compression": "none""#.to_owned();
    let mut writer = Writer::new(&setup.kafka.client(), &stage.from);
    writer.write(100, |number| if number == 50 { 50_000 } else { 0 });
    writer.finish();
    stage
}

/// Waits until all is worked on.
fn wait_done(runner: &Runner) {
    let is_done = |report: &StageReport| {
        assert_eq!(report.stopped, None);
        report.ready && report.lag == Some(0)
    };
    wait_for("all are worked on", MINUTE, || runner.report(), is_done);
}

#[test]
#[ignore = "needs Kafka's jars: cargo xtask test"]
fn a_dead_letter_that_does_not_fit_has_its_address() {
    let (setup, _turn) = setup();
    let mut stage = too_large(setup, "fit");
    let client = setup.kafka.client();
    small(setup, "fit-dead");
    stage.errors = r#"{"deadLetter": {"topic": "fit-dead"}}"#;
    // Here the value is not at fault.
    let wide = Whole {
        partition: 0,
        timestamp: None,
        key: Some(b"wide".to_vec()),
        value: Some(b"1000".to_vec()),
        headers: vec![("wide".to_owned(), Some(vec![b'x'; 30_000]))],
    };
    wide.write(&client, &stage.from);
    let runner = stage.start();
    wait_done(&runner);
    let seen = read_until(&client, &stage.to, 99);
    assert!(
        seen.times
            .into_keys()
            .eq((0..100).filter(|number| *number != 50))
    );
    let letters = all(&client, "fit-dead", 2);
    assert_eq!(letters.len(), 2);
    for (number, left_out, key) in [
        ("50", "value", Some(&b"key-50"[..])),
        ("1000", "value, key, headers", None),
    ] {
        let origin = address(&client, &stage.from, number);
        let letter = letters.iter().find(|letter| letter.origin() == origin);
        let letter = letter.unwrap();
        assert_eq!(letter.text("freehold.left-out"), Some(left_out));
        assert_eq!(letter.text("freehold.block"), Some("out"));
        // No tombstone.
        assert_eq!(letter.value.as_deref(), Some(&b""[..]));
        assert_eq!(letter.key.as_deref(), key);
        assert_eq!(letter.text("number"), (number == "50").then_some("50"));
    }
}

#[test]
#[ignore = "needs Kafka's jars: cargo xtask test"]
fn two_sinks_that_refuse_one_record_stop_nothing() {
    let (setup, _turn) = setup();
    let mut stage = too_large(setup, "twice");
    let client = setup.kafka.client();
    small(setup, "twice-other");
    setup.kafka.create_topic("twice-dead", 1, &[]);
    stage.errors = r#"{"deadLetter": {"topic": "twice-dead"}}"#;
    stage.blocks = r#"
        {"name": "other", "from": ["in"], "sink": {"kafka": {"topic": "twice-other"}}},"#;
    let runner = stage.start();
    wait_done(&runner);
    for topic in [&stage.to, "twice-other"] {
        let seen = read_until(&client, topic, 99);
        assert!(
            seen.times
                .into_keys()
                .eq((0..100).filter(|number| *number != 50))
        );
    }
    let letters = all(&client, "twice-dead", 2);
    let mut blocks: Vec<_> = letters
        .iter()
        .map(|letter| letter.text("freehold.block").unwrap())
        .collect();
    blocks.sort_unstable();
    assert_eq!(blocks, ["other", "out"]);
    for letter in &letters {
        assert_eq!(letter.text("freehold.left-out"), None);
        assert_eq!(letter.value.as_ref().unwrap().len(), 50_000);
    }
}

#[test]
#[ignore = "needs Kafka's jars: cargo xtask test"]
fn records_come_out_as_they_went_in() {
    let (setup, _turn) = setup();
    let mut stage = stage(setup, "same");
    let client = setup.kafka.client();
    let binary: Vec<u8> = (0..=255).collect();
    let header = |name: &str, value: Option<&[u8]>| (name.to_owned(), value.map(<[u8]>::to_vec));
    let records: Vec<_> = [
        (Some(&b"key"[..]), Some(&b"value"[..]), vec![]),
        (None, Some(&b"no key"[..]), vec![]),
        (Some(&b"gone"[..]), None, vec![header("why", Some(b"gone"))]),
        (None, None, vec![]),
        (Some(&b"empty"[..]), Some(&b""[..]), vec![]),
        (Some(&b""[..]), Some(&b"empty key"[..]), vec![]),
        (
            Some(&binary[..]),
            Some(&binary[..]),
            vec![header("binary", Some(&binary))],
        ),
        (
            Some(&b"headers"[..]),
            Some(&b"{}"[..]),
            vec![
                header("twice", Some(b"1")),
                header("other", None),
                header("twice", Some(b"2")),
                header("empty", Some(b"")),
                header("", Some(b"no name")),
            ],
        ),
    ]
    .into_iter()
    .zip(0_i32..)
    .map(|((key, value, headers), place)| Whole {
        partition: place % 4,
        timestamp: Some(1 + i64::from(place) * 1_000_000_007),
        key: key.map(<[u8]>::to_vec),
        value: value.map(<[u8]>::to_vec),
        headers,
    })
    .collect();
    // One way without a program, and one with. The records are old.
    (stage.from, stage.to) = ("same-old".to_owned(), "same-kept".to_owned());
    for topic in [&stage.from, &stage.to, "same-run"] {
        let forever = [("retention.ms", "-1")];
        setup.kafka.create_topic(topic, 4, &forever);
    }
    for record in &records {
        record.write(&client, &stage.from);
    }
    stage.blocks = r#"
        {"name": "all", "from": ["in"], "filter": {"when": "%offset >= 0"}},
        {"name": "run", "from": ["all"], "transform": {"vrl": ". = ."}},
        {"name": "again", "from": ["run"],
            "sink": {"kafka": {"topic": "same-run", "partitioning": "Keep"}}},"#;
    stage.sink = Some(r#"{"kafka": {"topic": "same-kept", "partitioning": "Keep"}}"#.to_owned());
    let runner = stage.start();
    wait_done(&runner);
    let sorted = |mut records: Vec<Whole>| {
        records.sort_by_key(|record| record.timestamp);
        records
    };
    for topic in [&stage.to, "same-run"] {
        let found = sorted(all(&client, topic, records.len()));
        assert_eq!(found, records, "{topic}");
    }
}

/// The lengths of the transactions of a partition: behind each is a marker, which has an offset.
fn transactions(client: &ClientConfig, topic: &str) -> Vec<usize> {
    let (mut lengths, mut next) = (Vec::new(), -1);
    each(client, topic, Duration::from_secs(30), |message| {
        match lengths.last_mut() {
            Some(length) if message.offset() == next => *length += 1,
            _ => lengths.push(1),
        }
        next = message.offset() + 1;
    });
    lengths
}

#[test]
#[ignore = "needs Kafka's jars: cargo xtask test"]
fn a_transaction_has_as_many_records_and_bytes_as_its_limits_allow() {
    let (setup, _turn) = setup();
    let client = setup.kafka.client();
    setup.kafka.create_topic("batch-in", 1, &[]);
    // All are there when the stage begins.
    let mut writer = Writer::new(&client, "batch-in");
    writer.write(1_000, |_| 1_000);
    writer.finish();
    for (to, limits, longest) in [
        ("batch-records", r#""batchRecordsMax": 40"#, 40),
        // Each has a key, too.
        (
            "batch-bytes",
            r#""batchRecordsMax": 40, "batchBytesMax": 10000"#,
            10,
        ),
    ] {
        setup.kafka.create_topic(to, 1, &[]);
        let (bootstrap, folder) = (setup.kafka.bootstrap(), setup.kafka.folder());
        let mut stage = Stage::new(&bootstrap, folder, "batch-in", to);
        stage.limits = format!(
            r#""transactionTimeoutMs": 60000, "sessionTimeoutMs": 90000, "heartbeatMs": 500, {limits}"#
        );
        let runner = stage.start();
        wait_done(&runner);
        read_until(&client, to, 1_000);
        let lengths = transactions(&client, to);
        assert_eq!(lengths.iter().sum::<usize>(), 1_000);
        assert_eq!(lengths.iter().max(), Some(&longest), "{lengths:?}");
    }
}
