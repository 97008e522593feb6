//! Transactions that are aborted early, with a real Kafka.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use freehold_runner::client_config;
use freehold_runner::outputs::Outputs;
use freehold_runner::producer::{Librdkafka, Producer as _};
use freehold_runner::record::Record;
use rdkafka::consumer::{BaseConsumer, Consumer as _};

use super::support::PATIENCE;
use super::support::records::read_until;
use super::{MINUTE, PATIENT, setup, stage};

/// librdkafka can fail for good when a transaction is aborted while its first partition is being
/// added (librdkafka#4849).
#[test]
#[ignore = "needs Kafka's jars: cargo xtask test"]
fn an_abort_right_after_the_first_output() {
    let (setup, _turn) = setup();
    let mut stage = stage(setup, "early");
    stage.limits = PATIENT.to_owned();
    let config = stage.config();
    let settings = client_config::producer(&config).unwrap();
    let new = || {
        let producer = Librdkafka::new(&settings, config.delivery).unwrap();
        producer.start(MINUTE).unwrap();
        producer
    };
    let consumer: BaseConsumer = client_config::consumer(&config).unwrap().create().unwrap();
    let (mut producer, mut failed, mut number) = (new(), 0, 0);
    for round in 0..40 {
        let (key, value) = (format!("key-{round}"), format!("{number}"));
        let record = Record {
            key: Some(key.as_bytes()),
            value: Some(value.as_bytes()),
            ..Record::at("x", 0, 0, 0)
        };
        let mut outputs = Outputs::default();
        outputs.to(&stage.to, &record).send();
        producer.begin().unwrap();
        for output in outputs.iter(&[record]) {
            producer.send(&output).unwrap();
        }
        if round % 4 == 3 {
            let group = consumer.group_metadata().unwrap();
            producer.commit(&[], &group, MINUTE).unwrap();
            number += 1;
            continue;
        }
        thread::sleep(Duration::from_millis(round % 11));
        let (done, aborted, began) = (AtomicBool::new(false), &producer, Instant::now());
        let ended = thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Relaxed) {
                    aborted.serve(Duration::from_millis(1));
                }
            });
            let ended = aborted.abort(Duration::from_secs(10) * PATIENCE);
            done.store(true, Relaxed);
            ended
        });
        if ended.is_err() {
            producer = new();
            // An abort waits for a second for the first answer: behind that Kafka was slow.
            failed += u32::from(began.elapsed() < Duration::from_secs(1));
        }
    }
    let count = usize::try_from(number).unwrap();
    let seen = read_until(&setup.kafka.client(), &stage.to, count);
    assert!(seen.times.keys().copied().eq(0..number), "{:?}", seen.times);
    assert!(seen.times.values().all(|times| *times == 1));
    assert!(failed < 5, "{failed} of 30 aborts failed");
}
