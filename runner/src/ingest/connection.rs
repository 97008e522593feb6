//! A producer of Kafka, and the thread that handles its answers.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext as _, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code};
use rdkafka::message::OwnedHeaders;
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext};
use tokio::sync::Notify;

use super::room::Held;

/// The binding spins through the last millisecond of each call.
const POLL: Duration = Duration::from_millis(500);

/// How long a producer that was replaced may still deliver what it has.
const LINGER: Duration = Duration::from_secs(12);

/// A record for one topic.
#[derive(Clone, Copy)]
pub struct Addressed<'a> {
    pub topic: &'a str,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    pub headers: &'a [(&'a str, &'a str)],
    /// Tells who sent the record from which one a failure came.
    pub place: usize,
}

/// A record that Kafka did not take.
#[derive(Clone, Copy, Debug)]
pub struct Failure {
    pub place: usize,
    pub code: Code,
}

/// Records that are under way together.
pub struct Batch {
    /// Records without an answer, and one while more are added.
    left: AtomicUsize,
    failures: Mutex<Vec<Failure>>,
    done: Notify,
    /// The room is free again when Kafka's client has forgotten the records.
    _held: Option<Held>,
}

/// One record of a batch, with Kafka's client.
pub struct Sent {
    batch: Arc<Batch>,
    place: usize,
}

impl Batch {
    /// A batch to which records are added.
    pub fn new(held: Option<Held>) -> Arc<Self> {
        Arc::new(Self {
            left: AtomicUsize::new(1),
            failures: Mutex::default(),
            done: Notify::new(),
            _held: held,
        })
    }

    fn fail(&self, place: usize, code: Code) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.push(Failure { place, code });
    }

    fn answered(&self) {
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.done.notify_one();
        }
    }

    /// All records are added: waits for their answers, and returns the failures.
    pub async fn finish(&self) -> Vec<Failure> {
        self.answered();
        while self.left.load(Ordering::Acquire) > 0 {
            self.done.notified().await;
        }
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *failures)
    }
}

/// What Kafka's client tells.
#[derive(Default)]
struct Events {
    /// The last error of the client itself, as a refused password.
    error: Mutex<String>,
}

impl ClientContext for Events {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        crate::consumer::log("producer", level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // It comes many times a second, always after the error that says why.
        if error.rdkafka_error_code() == Some(Code::AllBrokersDown) {
            return;
        }
        tracing::warn!(client = "producer", %error, reason, "Kafka's client reports an error");
        let mut last = self.error.lock().unwrap_or_else(PoisonError::into_inner);
        reason.clone_into(&mut last);
    }

    fn stats_raw(&self, _: &[u8]) {}
}

impl ProducerContext for Events {
    type DeliveryOpaque = Box<Sent>;

    fn delivery(&self, result: &DeliveryResult<'_>, sent: Box<Sent>) {
        if let Err((error, _)) = result {
            let code = error.rdkafka_error_code().unwrap_or(Code::Fail);
            sent.batch.fail(sent.place, code);
        }
        sent.batch.answered();
    }
}

/// A producer with its thread, which ends some seconds after this is dropped.
pub struct Connection {
    producer: Arc<BaseProducer<Events>>,
    retired: Arc<AtomicBool>,
    pub since: Instant,
}

impl Connection {
    /// Makes a producer with these settings.
    ///
    /// # Errors
    /// Kafka's client does not accept the settings, or there is no thread.
    pub fn new(config: &ClientConfig) -> KafkaResult<Self> {
        let producer = BaseProducer::from_config_and_context(config, Events::default())?;
        let (producer, retired) = (Arc::new(producer), Arc::new(AtomicBool::new(false)));
        let (polled, is_retired) = (Arc::clone(&producer), Arc::clone(&retired));
        let thread = std::thread::Builder::new().name("producer".to_owned());
        let spawned = thread.spawn(move || {
            let mut end = None;
            while end.is_none_or(|end| polled.in_flight_count() > 0 && Instant::now() < end) {
                polled.poll(POLL);
                if is_retired.load(Ordering::Relaxed) {
                    end = end.or(Some(Instant::now() + LINGER));
                }
            }
        });
        spawned.map_err(|error| KafkaError::ClientCreation(error.to_string()))?;
        Ok(Self {
            producer,
            retired,
            since: Instant::now(),
        })
    }

    /// Adds a record to a batch; false: Kafka's client has no room for it.
    pub fn send(&self, record: Addressed<'_>, batch: &Arc<Batch>) -> bool {
        let place = record.place;
        let mut outgoing = BaseRecord::with_opaque_to(
            record.topic,
            Box::new(Sent {
                batch: Arc::clone(batch),
                place,
            }),
        );
        outgoing.key = record.key;
        outgoing.payload = record.value;
        if !record.headers.is_empty() {
            let insert = |headers: OwnedHeaders, &(key, value): &(&str, &str)| {
                headers.insert(rdkafka::message::Header {
                    key,
                    value: Some(value),
                })
            };
            let headers = record.headers.iter().fold(OwnedHeaders::new(), insert);
            outgoing = outgoing.headers(headers);
        }
        batch.left.fetch_add(1, Ordering::AcqRel);
        let Err((error, _)) = self.producer.send(outgoing) else {
            return true;
        };
        batch.left.fetch_sub(1, Ordering::AcqRel);
        match error.rdkafka_error_code().unwrap_or(Code::Fail) {
            Code::QueueFull => false,
            code => {
                batch.fail(place, code);
                true
            }
        }
    }

    /// Asks the brokers for a topic. Waits: not for async code.
    ///
    /// # Errors
    /// Why the topic cannot be written, or that no broker answers.
    pub fn check(&self, topic: &str, patience: Duration) -> Result<(), (Code, String)> {
        let client = self.producer.client();
        let metadata = client
            .fetch_metadata(Some(topic), patience)
            .map_err(|error| {
                let why = match self.error() {
                    known if known.is_empty() => format!("no broker answers: {error}"),
                    known => format!("no broker answers: {known}"),
                };
                (error.rdkafka_error_code().unwrap_or(Code::Fail), why)
            })?;
        let found = metadata.topics().iter().find(|found| found.name() == topic);
        match found.and_then(|found| found.error()) {
            Some(error) => {
                let code = Code::from(error);
                Err((code, format!("topic {topic}: {code}")))
            }
            None => Ok(()),
        }
    }

    /// The last error of the client itself; empty: it had none.
    pub fn error(&self) -> String {
        let events: &Events = self.producer.context();
        let error = events.error.lock();
        error.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.retired.store(true, Ordering::Relaxed);
    }
}
