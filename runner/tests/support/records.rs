//! Numbered records: what is written can be checked without knowing how it was copied.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::{PATIENCE, wait_for};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{BorrowedMessage, Header, Headers as _, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

pub const KEYS: u64 = 97;

/// Writes numbered records. Record n has the key n modulo [`KEYS`], and its number as its value.
pub struct Writer {
    producer: BaseProducer,
    topic: String,
    next: u64,
}

impl Writer {
    pub fn new(client: &ClientConfig, topic: &str) -> Self {
        let mut config = client.clone();
        config
            .set("enable.idempotence", "true")
            .set("linger.ms", "5")
            .set("socket.timeout.ms", "5000")
            .set("partitioner", "murmur2_random");
        Self {
            producer: config.create().unwrap(),
            topic: topic.to_owned(),
            next: 0,
        }
    }

    /// Goes on with this number.
    pub fn from(mut self, next: u64) -> Self {
        self.next = next;
        self
    }

    /// Writes the records below `end` that are not written yet. `length` is the length of a number's
    /// value, which gets spaces before it.
    pub fn write(&mut self, end: u64, length: impl Fn(u64) -> usize) {
        for number in self.next..end {
            let (key, digits) = (format!("key-{}", number % KEYS), number.to_string());
            let spaces = length(number).saturating_sub(digits.len());
            let value = " ".repeat(spaces) + &digits;
            let headers = OwnedHeaders::new()
                .insert(Header {
                    key: "number",
                    value: Some(&digits),
                })
                .insert(Header::<&str> {
                    key: "empty",
                    value: None,
                });
            let mut record = BaseRecord::to(&self.topic)
                .key(&key)
                .payload(&value)
                .headers(headers);
            while let Err((_, again)) = self.producer.send(record) {
                record = again;
                self.producer.poll(Duration::from_millis(10));
            }
        }
        self.next = end;
        self.producer.poll(Duration::ZERO);
    }

    /// Waits until Kafka has all.
    pub fn finish(self) {
        let limit = Duration::from_secs(60) * PATIENCE;
        self.producer.flush(limit).unwrap();
    }
}

/// Writes records in the background until it is told to end: for tests that must not be faster or
/// slower than what they wait for. It ends when it is dropped, too.
pub struct Stream {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

impl Stream {
    /// Writes up to 2500 records a second, and fewer when there are many: they are all read at the
    /// end.
    pub fn start(client: &ClientConfig, topic: &str) -> Self {
        let (mut writer, stop) = (Writer::new(client, topic), Arc::<AtomicBool>::default());
        let asked = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut count = 0;
            while !asked.load(Relaxed) {
                count += 50;
                writer.write(count, |_| 0);
                thread::sleep(Duration::from_millis(20 + count / 1_000));
            }
            writer.finish();
            count
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }

    /// Ends it, waits until Kafka has all, and returns how many there are.
    pub fn finish(mut self) -> u64 {
        self.stop.store(true, Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
    }
}

/// Writes the records below `end`.
pub fn write(client: &ClientConfig, topic: &str, end: u64) {
    let mut writer = Writer::new(client, topic);
    writer.write(end, |_| 0);
    writer.finish();
}

/// What a topic has at `read_committed`.
#[derive(Debug, Default)]
pub struct Seen {
    /// How often each number was seen.
    pub times: BTreeMap<u64, u32>,
    /// Pairs of numbers of one key of which the later one came first.
    pub out_of_order: Vec<(u64, u64)>,
    /// Records with headers.
    pub headers: u64,
    /// The header `origin` of records without a value: dead letters.
    pub origins: Vec<String>,
}

/// Whether the record has headers; then they must be those that it was written with.
fn has_headers(message: &BorrowedMessage<'_>, number: u64) -> bool {
    let Some(headers) = message.headers() else {
        return false;
    };
    let all: Vec<_> = headers
        .iter()
        .map(|header| (header.key, header.value))
        .collect();
    let digits = number.to_string();
    assert_eq!(all, [("number", Some(digits.as_bytes())), ("empty", None)]);
    true
}

fn origin(message: &BorrowedMessage<'_>) -> String {
    let header = message
        .headers()
        .unwrap()
        .iter()
        .find(|header| header.key == "origin");
    String::from_utf8(header.unwrap().value.unwrap().to_vec()).unwrap()
}

/// The number of partitions of a topic, if a broker knows it now.
fn partitions(consumer: &BaseConsumer, topic: &str, patience: Duration) -> Option<i32> {
    let metadata = consumer.fetch_metadata(Some(topic), patience).ok()?;
    let count = metadata.topics().first()?.partitions().len();
    i32::try_from(count).ok().filter(|count| *count > 0)
}

/// Gives each record of a topic to `take`, from its beginning to its end at this moment; panics
/// after `limit`.
pub fn each(
    client: &ClientConfig,
    topic: &str,
    limit: Duration,
    mut take: impl FnMut(&BorrowedMessage<'_>),
) {
    let mut config = client.clone();
    config
        .set("group.id", "none")
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .set("enable.partition.eof", "true");
    let consumer: BaseConsumer = config.create().unwrap();
    let ask = || partitions(&consumer, topic, Duration::from_secs(10));
    let known = wait_for(&format!("{topic} is known"), limit, ask, Option::is_some);
    let mut list = TopicPartitionList::new();
    for partition in 0..known.unwrap() {
        list.add_partition_offset(topic, partition, Offset::Beginning)
            .unwrap();
    }
    consumer.assign(&list).unwrap();
    // A partition that grows has more than one end.
    let (mut ended, began) = (BTreeSet::new(), Instant::now());
    while ended.len() < list.count() {
        assert!(began.elapsed() < limit * PATIENCE, "cannot read {topic}");
        match consumer.poll(Duration::from_millis(200)) {
            Some(Ok(message)) => take(&message),
            Some(Err(rdkafka::error::KafkaError::PartitionEOF(partition))) => {
                ended.insert(partition);
            }
            Some(Err(error)) => eprintln!("reading {topic}: {error}"),
            None => {}
        }
    }
}

/// What a topic of numbers has.
pub fn read(client: &ClientConfig, topic: &str) -> Seen {
    let mut seen = Seen::default();
    let mut last: BTreeMap<(i32, String), u64> = BTreeMap::new();
    each(client, topic, Duration::from_secs(60), |message| {
        if message.payload().is_none() {
            seen.origins.push(origin(message));
            return;
        }
        let text = |bytes: Option<&[u8]>| String::from_utf8(bytes.unwrap().to_vec()).unwrap();
        let (key, number) = (
            text(message.key()),
            text(message.payload()).trim().parse().unwrap(),
        );
        seen.headers += u64::from(has_headers(message, number));
        *seen.times.entry(number).or_default() += 1;
        let before = last.insert((message.partition(), key), number);
        if let Some(before) = before.filter(|before| *before >= number) {
            seen.out_of_order.push((before, number));
        }
    });
    seen
}

/// What a topic of numbers has, once it has so many different ones. What a runner reports as
/// committed can be read a moment later: Kafka answers before it ends the transaction everywhere.
pub fn read_until(client: &ClientConfig, topic: &str, count: usize) -> Seen {
    let (what, ask) = (format!("{topic} has {count}"), || read(client, topic));
    let limit = Duration::from_secs(60);
    wait_for(&what, limit, ask, |seen| seen.times.len() >= count)
}

/// The sum of the ends of a topic's partitions, if all of them are told.
fn try_ends(client: &ClientConfig, topic: &str) -> Option<i64> {
    let mut config = client.clone();
    config.set("isolation.level", "read_committed");
    let (consumer, patience) = (config.create::<BaseConsumer>(), Duration::from_secs(2));
    let consumer = consumer.unwrap();
    let of_each = (0..partitions(&consumer, topic, patience)?).map(|partition| {
        let ends = consumer.fetch_watermarks(topic, partition, patience);
        ends.ok().map(|(_, high)| high)
    });
    of_each.sum()
}

/// How many records can be read at `read_committed`, markers of transactions included; 0 if Kafka
/// does not answer: only for what is asked for again.
pub fn ends(client: &ClientConfig, topic: &str) -> i64 {
    try_ends(client, topic).unwrap_or_default()
}

/// As [`ends`], once Kafka answers.
pub fn exact_ends(client: &ClientConfig, topic: &str) -> i64 {
    let (limit, ask) = (Duration::from_secs(60), || try_ends(client, topic));
    wait_for("the ends are told", limit, ask, Option::is_some).unwrap()
}

/// Waits until a topic has every number below `count`, then checks that it has each once and in
/// order.
pub fn check_exactly_once(client: &ClientConfig, topic: &str, count: u64, limit: Duration) {
    let began = Instant::now();
    let enough = i64::try_from(count).unwrap();
    loop {
        if ends(client, topic) >= enough {
            let seen = read(client, topic);
            if seen.times.len() as u64 == count {
                check(&seen, count);
                break;
            }
            assert!(
                seen.out_of_order.is_empty(),
                "{:?}",
                &seen.out_of_order[..10.min(seen.out_of_order.len())]
            );
        }
        if began.elapsed() > limit * PATIENCE {
            let seen = read(client, topic);
            let (found, waited) = (seen.times.len(), began.elapsed());
            panic!("only {found} of {count} records in {waited:?}");
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    // Nothing may come after all are there.
    std::thread::sleep(Duration::from_millis(500));
    check(&read(client, topic), count);
}

fn check(seen: &Seen, count: u64) {
    let doubled: Vec<_> = seen
        .times
        .iter()
        .filter(|(_, times)| **times > 1)
        .take(10)
        .collect();
    assert!(doubled.is_empty(), "more than once: {doubled:?}");
    let order = &seen.out_of_order[..10.min(seen.out_of_order.len())];
    assert!(order.is_empty(), "out of order: {order:?}");
    assert!(
        seen.times.keys().copied().eq(0..count),
        "other numbers than those written"
    );
    assert_eq!(seen.headers, count, "records with headers");
}
