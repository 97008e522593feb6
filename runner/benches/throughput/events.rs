//! The records and the programs.

use std::time::Duration;

use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

use crate::support::broker::Kafka;

/// What a stage does, by name. `java/Program.java` in benches/mirror does the same.
pub const PROGRAMS: [(&str, &str); 2] = [("light", LIGHT), ("redact", REDACT)];

/// Drops two in ten, adds two fields, renames one.
const LIGHT: &str = r#"
    {"name": "some", "from": ["in"], "filter": {"when": ".status != \"debug\""}},
    {"name": "last", "from": ["some"], "transform": {"vrl":
        ".seen = true\n.source = \"bench\"\n.customer = del(.user)"}},"#;
/// Two patterns and a hash.
const REDACT: &str = r#"
    {"name": "last", "from": ["in"], "transform": {"vrl":
        ".text = redact(.text, filters: [r'[0-9]{4}-[0-9]{4}-[0-9]{4}', r'[a-z]+@[a-z]+']) ?? null\n.user = sha2(string(.user) ?? \"\")"}},"#;

/// The records that a program lets through.
pub fn outputs(program: &str, records: u64) -> u64 {
    match program {
        "light" => (0..records).filter(|number| !is_debug(*number)).count() as u64,
        _ => records,
    }
}

fn is_debug(number: u64) -> bool {
    number % 5 == 4
}

/// The topic with events of this size.
pub fn topic(bytes: usize) -> String {
    format!("events-{bytes}")
}

/// An event of as many bytes, at least 200.
pub fn event(number: u64, bytes: usize) -> String {
    let status = if is_debug(number) { "debug" } else { "ok" };
    let start = format!(
        "{{\"id\":{number},\"user\":\"user-{}\",\"status\":\"{status}\",\"total\":{}.25,\"text\":\"call \
         4111-2222-3333 or anna@example",
        number % 977,
        number % 1000
    );
    let end = format!("\",\"tags\":[\"a\",\"b\",\"c\"],\"nested\":{{\"x\":{number},\"y\":true}}}}");
    let missing = bytes.saturating_sub(start.len() + end.len());
    let words: String = " and more words".chars().cycle().take(missing).collect();
    start + &words + &end
}

pub fn fill(kafka: &Kafka, bytes: usize, records: u64) {
    let mut config = kafka.client();
    config.set("linger.ms", "20").set("compression.type", "lz4");
    config.set("queue.buffering.max.messages", "200000");
    let (producer, topic): (BaseProducer, _) = (config.create().unwrap(), topic(bytes));
    for number in 0..records {
        let (key, value) = (format!("key-{}", number % 97), event(number, bytes));
        let mut record = BaseRecord::to(&topic).key(&key).payload(&value);
        while let Err((_, again)) = producer.send(record) {
            record = again;
            producer.poll(Duration::from_millis(5));
        }
    }
    producer.flush(Duration::from_secs(60)).unwrap();
}
