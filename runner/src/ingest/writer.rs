//! Writes records to the topics of a stage, and tells when Kafka has all of them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use freehold_pipeline::definition::Delivery;
use rdkafka::config::ClientConfig;
use rdkafka::error::RDKafkaErrorCode as Code;

use super::connection::{Addressed, Batch, Connection, Failure};
use super::counts::Counts;
use super::room::{Held, Room};
use crate::client_config;
use crate::config::StageConfig;
use crate::figures::Figures;
use crate::stage_loop::StageError;

/// Bytes of requests and of records that wait, at most: a third of what the process may take.
const WAITING_BYTES_MAX: usize = 16 << 20;
/// What a record takes besides its bytes.
const RECORD_BYTES: usize = 256;
/// Kafka's client gives a record up after this time: who waits for it is answered within 10 s.
const RECORD_TIMEOUT: Duration = Duration::from_secs(8);
/// How long a write waits for its answers.
const PATIENCE: Duration = Duration::from_secs(10);
/// Time between two checks of a topic that nothing is written to.
const CHECK_EVERY: Duration = Duration::from_secs(3);
/// How long the brokers may take to tell of a topic.
const CHECK_PATIENCE: Duration = Duration::from_secs(2);
/// A failed write is a problem for so long if nobody tries again.
const FAILURE_AGE_MAX: Duration = Duration::from_secs(20);
/// A producer that fails is replaced after this time: its password may have been changed.
const RENEW_AFTER: Duration = Duration::from_secs(10);

/// A record for all topics of the stage.
#[derive(Clone, Copy)]
pub struct NewRecord<'a> {
    pub key: Option<&'a [u8]>,
    pub value: &'a [u8],
}

/// A write did not succeed. Some of its records can be in Kafka.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteError {
    /// Too much waits already. Nothing was written.
    Busy,
    /// The record at this place, from 0, is larger than Kafka allows.
    TooLarge { place: usize, why: String },
    /// Kafka does not answer, or does not take it.
    Away(String),
}

/// A sink of the stage.
struct Sink {
    block: String,
    topic: String,
    state: Mutex<SinkState>,
}

#[derive(Default)]
struct SinkState {
    written: Option<Instant>,
    failed: Option<Instant>,
}

/// Writes to the topics of a stage.
pub struct Writer {
    config: StageConfig,
    sinks: Vec<Sink>,
    figures: Arc<Figures>,
    counts: Arc<Counts>,
    room: Arc<Room>,
    shared: Mutex<Arc<Connection>>,
    /// It sends each record by itself: a batch is refused as a whole for its size.
    alone: Mutex<Option<Arc<Connection>>>,
}

/// Records that were handed to Kafka's client.
pub struct Handed {
    batch: Arc<Batch>,
    connection: Arc<Connection>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Writer {
    /// A writer to these sinks, each a block and its topic.
    ///
    /// # Errors
    /// Kafka's client does not accept the settings, or the password file cannot be read.
    pub fn new(
        mut config: StageConfig,
        sinks: Vec<(String, String)>,
        figures: Arc<Figures>,
        counts: Arc<Counts>,
    ) -> Result<Self, StageError> {
        config.delivery = Delivery::AtLeastOnce;
        let shared = connect(&settings(&config)?)?;
        let sink = |(block, topic)| Sink {
            block,
            topic,
            state: Mutex::default(),
        };
        Ok(Self {
            config,
            sinks: sinks.into_iter().map(sink).collect(),
            figures,
            counts,
            room: Room::new(WAITING_BYTES_MAX),
            shared: Mutex::new(shared),
            alone: Mutex::default(),
        })
    }

    /// Room for a request, before its bytes are there.
    pub fn hold(&self) -> Held {
        self.room.hold()
    }

    /// Bytes of one record, at most.
    pub fn record_bytes_max(&self) -> usize {
        self.config.limits.output_bytes_max
    }

    /// Writes records to all topics, and waits until Kafka has them.
    ///
    /// # Errors
    /// Not all of them are there.
    pub async fn write(&self, records: &[NewRecord<'_>], held: Held) -> Result<(), WriteError> {
        let handed = self.hand_over(records, Some(held)).await?;
        self.finish(handed, records).await
    }

    /// Hands records to Kafka's client, in their order. Without a part of the room the caller bounds
    /// what waits.
    ///
    /// # Errors
    /// Nothing was handed over: too much waits, or a record is too large.
    pub async fn hand_over(
        &self,
        records: &[NewRecord<'_>],
        mut held: Option<Held>,
    ) -> Result<Handed, WriteError> {
        let bytes = |record: &NewRecord<'_>| record.key.map_or(0, <[u8]>::len) + record.value.len();
        let max = self.record_bytes_max();
        if let Some(place) = records.iter().position(|record| bytes(record) > max) {
            let why = format!("larger than {max} bytes");
            return Err(WriteError::TooLarge { place, why });
        }
        let all: usize = records
            .iter()
            .map(|record| bytes(record) + RECORD_BYTES)
            .sum();
        if let Some(held) = &mut held
            && !held.grow(all * self.sinks.len())
        {
            return Err(WriteError::Busy);
        }
        let connection = Arc::clone(&lock(&self.shared));
        let batch = Batch::new(held);
        let all = 0..records.len() * self.sinks.len();
        send(
            &connection,
            &batch,
            all.map(|place| self.addressed(records, place)),
        )
        .await;
        Ok(Handed { batch, connection })
    }

    /// Waits until Kafka has the records that were handed over.
    ///
    /// # Errors
    /// Not all of them are there.
    pub async fn finish(
        &self,
        handed: Handed,
        records: &[NewRecord<'_>],
    ) -> Result<(), WriteError> {
        let mut failures = answers(&handed.batch).await?;
        // A batch of small records is refused for its size, too.
        let (large, others): (Vec<_>, Vec<_>) = failures.into_iter().partition(is_too_large);
        failures = others;
        if failures.is_empty() && !large.is_empty() {
            let batch = Batch::new(None);
            let again = large
                .iter()
                .map(|failure| self.addressed(records, failure.place));
            let alone = self.alone()?;
            send(&alone, &batch, again).await;
            failures = answers(&batch).await?;
        }
        let sinks = self.sinks.len().max(1);
        for (at, sink) in self.sinks.iter().enumerate() {
            let of_sink = |failure: &&Failure| failure.place % sinks == at;
            let mut failed = failures.iter().filter(of_sink);
            match failed.rfind(|failure| !is_too_large(failure)) {
                Some(failure) => self.failed(sink, failure.code, &handed.connection),
                None => self.worked(sink, records.len()),
            }
        }
        let Some(first) = failures.iter().min_by_key(|failure| !is_too_large(failure)) else {
            return Ok(());
        };
        let topic = &self.sinks[first.place % sinks].topic;
        if is_too_large(first) {
            let why = format!("larger than topic {topic} allows");
            let place = first.place / sinks;
            return Err(WriteError::TooLarge { place, why });
        }
        self.renew(&handed.connection, first.code);
        Err(WriteError::Away(format!("topic {topic}: {}", first.code)))
    }

    /// Writes one record to a topic that is no sink's, and waits until Kafka has it.
    ///
    /// # Errors
    /// It is not there.
    pub async fn write_to(&self, record: Addressed<'_>) -> Result<(), WriteError> {
        let connection = Arc::clone(&lock(&self.shared));
        let batch = Batch::new(None);
        send(&connection, &batch, std::iter::once(record)).await;
        match answers(&batch).await?.first() {
            None => Ok(()),
            Some(failure) => {
                self.renew(&connection, failure.code);
                let why = format!("topic {}: {}", record.topic, failure.code);
                Err(WriteError::Away(why))
            }
        }
    }

    /// The record at a place for the sink at a place: records in their order, each for all sinks.
    fn addressed<'a>(&'a self, records: &[NewRecord<'a>], place: usize) -> Addressed<'a> {
        let record = records[place / self.sinks.len()];
        Addressed {
            topic: &self.sinks[place % self.sinks.len()].topic,
            key: record.key,
            value: Some(record.value),
            headers: &[],
            place,
        }
    }

    fn alone(&self) -> Result<Arc<Connection>, WriteError> {
        let mut alone = lock(&self.alone);
        if let Some(known) = &*alone {
            return Ok(Arc::clone(known));
        }
        let away = |error: StageError| WriteError::Away(error.to_string());
        let mut config = settings(&self.config).map_err(away)?;
        config.set("batch.num.messages", "1").set("linger.ms", "0");
        Ok(Arc::clone(alone.insert(connect(&config).map_err(away)?)))
    }

    /// Replaces a producer that fails for good, or for some time: the password is read again.
    fn renew(&self, failed: &Arc<Connection>, code: Code) {
        let mut shared = lock(&self.shared);
        let is_due = code == Code::Fatal || failed.since.elapsed() > RENEW_AFTER;
        if is_about_topic(code) || !is_due || !Arc::ptr_eq(failed, &shared) {
            return;
        }
        match settings(&self.config).and_then(|config| connect(&config)) {
            Ok(connection) => *shared = connection,
            Err(error) => tracing::warn!(%error, "no new producer"),
        }
        *lock(&self.alone) = None;
        self.figures.renewals.add(1);
    }

    fn worked(&self, sink: &Sink, records: usize) {
        *lock(&sink.state) = SinkState {
            written: Some(Instant::now()),
            failed: None,
        };
        self.figures.set_block_problem(&sink.block, None);
        self.counts.passed(&sink.block, records);
    }

    fn failed(&self, sink: &Sink, code: Code, connection: &Connection) {
        lock(&sink.state).failed = Some(Instant::now());
        let why = match (is_about_topic(code), connection.error()) {
            (false, known) if !known.is_empty() => format!("topic {}: {code}: {known}", sink.topic),
            _ => format!("topic {}: {code}", sink.topic),
        };
        self.figures.set_block_problem(&sink.block, Some(why));
    }

    /// Checks the topics that nothing is written to, for ever.
    pub async fn watch(self: Arc<Self>) {
        loop {
            let writer = Arc::clone(&self);
            let checked = tokio::task::spawn_blocking(move || writer.check());
            if checked.await.is_err() {
                return;
            }
            tokio::time::sleep(CHECK_EVERY).await;
        }
    }

    fn check(&self) {
        let connection = Arc::clone(&lock(&self.shared));
        for sink in &self.sinks {
            let is_new = |at: Option<Instant>, age| at.is_some_and(|at| at.elapsed() < age);
            if is_new(lock(&sink.state).written, CHECK_EVERY) {
                continue;
            }
            let checked = connection.check(&sink.topic, CHECK_PATIENCE);
            match checked {
                Err((code, why)) => {
                    self.figures.set_block_problem(&sink.block, Some(why));
                    self.renew(&connection, code);
                }
                // A right to write is only known by writing.
                Ok(()) if is_new(lock(&sink.state).failed, FAILURE_AGE_MAX) => {}
                Ok(()) => self.figures.set_block_problem(&sink.block, None),
            }
        }
    }
}

fn settings(config: &StageConfig) -> Result<ClientConfig, StageError> {
    let mut settings = client_config::producer(config)?;
    let timeout = RECORD_TIMEOUT.as_millis().to_string();
    settings
        .set("message.timeout.ms", &timeout)
        .set("socket.timeout.ms", &timeout);
    Ok(settings)
}

fn connect(config: &ClientConfig) -> Result<Arc<Connection>, StageError> {
    let connection = Connection::new(config).map_err(|error| StageError::Client {
        client: "producer",
        message: match error {
            // The text has the value of the setting, which can be a secret.
            rdkafka::error::KafkaError::ClientConfig(_, text, name, _) => format!("{name}: {text}"),
            error => error.to_string(),
        },
    })?;
    Ok(Arc::new(connection))
}

/// Hands records over, and waits while Kafka's client has no room for one.
async fn send<'a>(
    connection: &Connection,
    batch: &Arc<Batch>,
    records: impl Iterator<Item = Addressed<'a>>,
) {
    for record in records {
        while !connection.send(record, batch) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

async fn answers(batch: &Batch) -> Result<Vec<Failure>, WriteError> {
    tokio::time::timeout(PATIENCE, batch.finish())
        .await
        .map_err(|_| WriteError::Away("Kafka does not answer".to_owned()))
}

fn is_too_large(failure: &Failure) -> bool {
    matches!(
        failure.code,
        Code::MessageSizeTooLarge | Code::MessageBatchTooLarge
    )
}

/// Whether a new producer would not help.
fn is_about_topic(code: Code) -> bool {
    matches!(
        code,
        Code::UnknownTopic
            | Code::UnknownTopicOrPartition
            | Code::UnknownPartition
            | Code::TopicAuthorizationFailed
            | Code::PolicyViolation
            | Code::InvalidRecord
    )
}
