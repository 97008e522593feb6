//! librdkafka's producer, with and without transactions.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext as _, RDKafkaLogLevel};
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code};
use rdkafka::message::{BorrowedHeaders, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::blocks::{Refusal, RefusalCause};
use crate::outputs::Output;
use crate::producer::{
    DeliveryFailure, Ended, ErrorKind, FailureCause, Position, Producer, ProducerError, SendError,
};
use crate::record::{Header, Headers};
use freehold_pipeline::definition::Delivery;

/// librdkafka sends the offsets again at the earliest after this time. It says so nowhere, so slower
/// answers count as doubtful.
const OFFSETS_SENT_ONCE: Duration = Duration::from_millis(450);

/// Log lines and errors of one transaction are fewer.
const EVENTS_MAX: usize = 100;

/// At most so many failures are kept of a batch: one is enough to abort it.
const FAILURES_MAX: usize = 20_000;

/// Topics may get more partitions: they are asked for again after this time.
const COUNT_AGE_MAX: Duration = Duration::from_secs(60);
/// How long the brokers may take to say how many partitions a topic has.
const COUNT_PATIENCE: Duration = Duration::from_secs(5);

/// librdkafka's producer.
pub struct Librdkafka {
    producer: BaseProducer<ProducerEvents>,
    delivery: Delivery,
    partitions: PartitionCounts,
}

/// Collects what librdkafka tells about the producer.
#[derive(Default)]
pub struct ProducerEvents {
    taken: AtomicU64,
    reported: AtomicU64,
    failed: AtomicBool,
    failures: Mutex<Vec<DeliveryFailure>>,
    /// A request may arrive a second time.
    doubt: AtomicBool,
}

impl ProducerEvents {
    /// An output has failed.
    fn note(&self, failure: DeliveryFailure) {
        self.failed.store(true, Ordering::Relaxed);
        if let Ok(mut failures) = self.failures.lock()
            && failures.len() < FAILURES_MAX
        {
            failures.push(failure);
        }
    }

    fn begin(&self) {
        self.taken.store(0, Ordering::Relaxed);
        self.reported.store(0, Ordering::Relaxed);
        self.failed.store(false, Ordering::Relaxed);
        self.doubt.store(false, Ordering::Relaxed);
        if let Ok(mut failures) = self.failures.lock() {
            failures.clear();
        }
    }
}

impl ClientContext for ProducerEvents {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        // A lost connection with one request under way is only logged, and repeated ones are not
        // even that; a retry of EndTxn always is, in the log of transactions.
        let resent = facility == "ENDTXN"
            && (message.contains("returned _TRANSPORT") || message.contains("returned _TIMED_OUT"));
        if resent || facility == "FAIL" || facility == "REQTMOUT" {
            self.doubt.store(true, Ordering::Relaxed);
        }
        // Its outputs would wait until the transaction times out, and the error of the transaction
        // does not name the topic.
        if facility == "ADDPARTS"
            && let Some(failure) = not_added(message)
        {
            self.note(failure);
        }
        crate::consumer::log("producer", level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.doubt.store(true, Ordering::Relaxed);
        // It comes many times a second, always after the error that says why.
        if error.rdkafka_error_code() == Some(Code::AllBrokersDown) {
            return;
        }
        tracing::warn!(client = "producer", %error, reason, "Kafka's client reports an error");
    }

    fn stats_raw(&self, _: &[u8]) {}
}

impl ProducerContext for ProducerEvents {
    /// The place in the batch of the record from which the output came.
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, place: usize) {
        self.reported.fetch_add(1, Ordering::Relaxed);
        let Err((error, message)) = result else {
            return;
        };
        let code = error.rdkafka_error_code();
        self.note(DeliveryFailure {
            place: u32::try_from(place).unwrap_or(u32::MAX),
            topic: message.topic().to_owned(),
            partition: message.partition(),
            cause: cause(code),
            message: code.map_or_else(|| error.to_string(), |code| code.to_string()),
        });
    }
}

/// What a line of the log says of a partition that cannot be part of the transaction:
/// `… Failed to add partition "orders" [3] to transaction: Broker: Topic authorization failed`.
fn not_added(line: &str) -> Option<DeliveryFailure> {
    let (_, rest) = line.split_once("Failed to add partition \"")?;
    let (topic, rest) = rest.split_once("\" [")?;
    let (partition, why) = rest.split_once("] to transaction: ")?;
    Some(DeliveryFailure {
        // No record is at fault.
        place: u32::MAX,
        topic: topic.to_owned(),
        partition: partition.parse().ok()?,
        cause: FailureCause::Other,
        message: why.to_owned(),
    })
}

fn cause(code: Option<Code>) -> FailureCause {
    match code {
        Some(Code::MessageSizeTooLarge | Code::MessageBatchTooLarge) => FailureCause::TooLarge,
        Some(Code::InvalidRecord | Code::InvalidTimestamp | Code::InvalidMessage) => {
            FailureCause::Invalid
        }
        Some(Code::PolicyViolation) => FailureCause::Policy,
        Some(Code::InvalidDifferentRecord) => FailureCause::Neighbour,
        _ => FailureCause::Other,
    }
}

/// How many partitions topics have, as they were last asked for.
#[derive(Default)]
struct PartitionCounts(Mutex<HashMap<String, (Instant, i32)>>);

impl PartitionCounts {
    /// Asks the brokers once a minute: a topic may get more partitions.
    fn count(
        &self,
        producer: &BaseProducer<ProducerEvents>,
        topic: &str,
    ) -> Result<i32, ProducerError> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((asked, count)) = known.get(topic)
            && asked.elapsed() < COUNT_AGE_MAX
        {
            return Ok(*count);
        }
        let missing = |why: &str| ProducerError {
            topic: Some(topic.to_owned()),
            ..failed(ErrorKind::Abort, "write", &format!("topic {topic}: {why}"))
        };
        let metadata = producer
            .client()
            .fetch_metadata(Some(topic), COUNT_PATIENCE)
            .map_err(|error| missing(&error.to_string()))?;
        let found = metadata.topics().iter().find(|found| found.name() == topic);
        if let Some(error) = found.and_then(|found| found.error()) {
            return Err(missing(&Code::from(error).to_string()));
        }
        let count = found.map_or(0, |found| found.partitions().len());
        match i32::try_from(count) {
            Ok(count) if count > 0 => {
                known.insert(topic.to_owned(), (Instant::now(), count));
                Ok(count)
            }
            _ => Err(missing("there is no such topic")),
        }
    }
}

impl Librdkafka {
    /// A producer that is not started yet.
    ///
    /// # Errors
    /// librdkafka does not accept the settings.
    pub fn new(config: &ClientConfig, delivery: Delivery) -> KafkaResult<Self> {
        let producer = BaseProducer::from_config_and_context(config, ProducerEvents::default())?;
        Ok(Self {
            producer,
            delivery,
            partitions: PartitionCounts::default(),
        })
    }

    fn events(&self) -> &ProducerEvents {
        self.producer.context()
    }

    /// Has outputs sent without waiting for more of them, and handles answers.
    ///
    /// A flush of the binding would handle answers only every 100 ms, and a poll with a timeout spins
    /// through its last millisecond.
    fn push(&self) {
        let _ = self.producer.flush(Duration::ZERO);
        let before = self.events().reported.load(Ordering::Relaxed);
        self.producer.poll(Duration::ZERO);
        if self.events().reported.load(Ordering::Relaxed) == before {
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn ended(&self) -> Ended {
        // Errors and log lines come as events, one for each poll: without this they would wait for
        // the next batch.
        for _ in 0..EVENTS_MAX {
            self.producer.poll(Duration::ZERO);
        }
        if self.events().doubt.load(Ordering::Relaxed) {
            Ended::Doubtful
        } else {
            Ended::Clean
        }
    }

    fn commit_transaction(
        &self,
        positions: &[Position],
        group: &ConsumerGroupMetadata,
        timeout: Duration,
    ) -> Result<Ended, ProducerError> {
        let offsets = list(positions)?;
        let began = Instant::now();
        self.producer
            .send_offsets_to_transaction(&offsets, group, timeout)
            .map_err(|error| classify("offsets", &error))?;
        if began.elapsed() > OFFSETS_SENT_ONCE {
            self.events().doubt.store(true, Ordering::Relaxed);
        }
        // The request may be at the broker: even an error that asks for an abort does not say that
        // nothing was committed.
        self.producer
            .commit_transaction(timeout)
            .map_err(|error| classify("commit", &error).without_abort())?;
        Ok(self.ended())
    }
}

impl Producer for Librdkafka {
    type Group = ConsumerGroupMetadata;

    fn start(&self, timeout: Duration) -> Result<(), ProducerError> {
        if self.delivery == Delivery::AtLeastOnce {
            return Ok(());
        }
        self.producer.init_transactions(timeout).map_err(|error| {
            for _ in 0..EVENTS_MAX {
                self.producer.poll(Duration::ZERO);
            }
            classify("start", &error)
        })
    }

    fn begin(&self) -> Result<(), ProducerError> {
        self.events().begin();
        if self.delivery == Delivery::AtLeastOnce {
            return Ok(());
        }
        self.producer
            .begin_transaction()
            .map_err(|error| classify("begin", &error))
    }

    fn send(&self, output: &Output<'_>) -> Result<(), SendError> {
        let partition = match output.partition {
            Some(partition) if output.wraps => {
                let count = self.partitions.count(&self.producer, output.topic);
                Some(partition % count.map_err(SendError::Failed)?)
            }
            partition => partition,
        };
        let record = BaseRecord {
            topic: output.topic,
            partition,
            payload: output.value,
            key: output.key,
            timestamp: output.timestamp,
            headers: headers(output),
            delivery_opaque: output.place as usize,
        };
        match self.producer.send(record) {
            Ok(()) => {
                self.events().taken.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Err((error, _)) => Err(not_sent(output.topic, &error)),
        }
    }

    fn serve(&self, wait: Duration) {
        self.producer.poll(Duration::ZERO);
        if !wait.is_zero() {
            thread::sleep(wait);
        }
    }

    fn flush(&self, timeout: Duration) -> Result<(), ProducerError> {
        let began = Instant::now();
        while self.producer.in_flight_count() > 0 {
            self.push();
            if self.has_failed() || began.elapsed() > timeout {
                break;
            }
        }
        let events = self.events();
        let (taken, reported) = (
            events.taken.load(Ordering::Relaxed),
            events.reported.load(Ordering::Relaxed),
        );
        if self.has_failed() {
            Err(failed(ErrorKind::Abort, "write", "outputs were not taken"))
        } else if taken != reported {
            let message = format!("{reported} of {taken} outputs are confirmed in {timeout:?}");
            Err(failed(ErrorKind::Renew, "write", &message))
        } else {
            Ok(())
        }
    }

    fn has_failed(&self) -> bool {
        self.events().failed.load(Ordering::Relaxed)
    }

    fn take_failures(&self) -> Vec<DeliveryFailure> {
        let failures = self.events().failures.lock();
        failures
            .map(|mut all| std::mem::take(&mut *all))
            .unwrap_or_default()
    }

    fn commit(
        &self,
        positions: &[Position],
        group: &ConsumerGroupMetadata,
        timeout: Duration,
    ) -> Result<Ended, ProducerError> {
        self.flush(timeout)?;
        match self.delivery {
            Delivery::ExactlyOnce => self.commit_transaction(positions, group, timeout),
            Delivery::AtLeastOnce => Ok(Ended::Clean),
        }
    }

    fn abort(&self, timeout: Duration) -> Result<Ended, ProducerError> {
        if self.delivery == Delivery::AtLeastOnce {
            // Purged outputs leave a gap in the numbers of an idempotent producer.
            return Err(failed(ErrorKind::Renew, "abort", "outputs were given up"));
        }
        // An abort while the first partition is still being added to the transaction is fatal in
        // librdkafka (#4849): wait for one answer, but not for a broker that is away.
        let began = Instant::now();
        let patience = (timeout / 4).min(Duration::from_secs(1));
        while self.events().reported.load(Ordering::Relaxed) == 0
            && self.producer.in_flight_count() > 0
            && began.elapsed() < patience
        {
            self.push();
        }
        self.producer
            .abort_transaction(timeout)
            .map_err(|error| classify("abort", &error).without_abort())?;
        Ok(self.ended())
    }
}

fn headers(output: &Output<'_>) -> Option<OwnedHeaders> {
    let insert = |headers: OwnedHeaders, (key, value): Header<'_>| {
        headers.insert(rdkafka::message::Header { key, value })
    };
    let kept = match output.kept_headers {
        // Copied as they are: names need not be UTF-8.
        Some(Headers::Message(message)) => message.headers().map(BorrowedHeaders::detach),
        Some(Headers::Plain(headers)) if !headers.is_empty() => {
            Some(headers.iter().copied().fold(OwnedHeaders::new(), insert))
        }
        _ => None,
    };
    let mut added = output.added_headers().peekable();
    if added.peek().is_none() {
        return kept;
    }
    Some(added.fold(kept.unwrap_or_else(OwnedHeaders::new), insert))
}

fn not_sent(topic: &str, error: &KafkaError) -> SendError {
    match error.rdkafka_error_code() {
        Some(Code::QueueFull) => SendError::Full,
        Some(Code::MessageSizeTooLarge) => SendError::Refused(Refusal {
            topic: topic.to_owned(),
            cause: RefusalCause::TooLarge,
            message: "the output is larger than the stage's limit".to_owned(),
        }),
        // A partition or a topic that is missing can come; so can a right.
        Some(
            Code::UnknownPartition
            | Code::UnknownTopic
            | Code::UnknownTopicOrPartition
            | Code::TopicAuthorizationFailed,
        ) => SendError::Failed(ProducerError {
            topic: Some(topic.to_owned()),
            message: format!("topic {topic}: {error}"),
            ..failed_with(ErrorKind::Abort, "write", error)
        }),
        _ => SendError::Failed(classify("write", error)),
    }
}

fn list(positions: &[Position]) -> Result<TopicPartitionList, ProducerError> {
    let mut list = TopicPartitionList::with_capacity(positions.len());
    for Position {
        topic,
        partition,
        next,
        note,
    } in positions
    {
        let mut element = list.add_partition(topic, *partition);
        element
            .set_offset(Offset::Offset(*next))
            .map_err(|error| failed_with(ErrorKind::Abort, "offsets", &error))?;
        if let Some(note) = note {
            element.set_metadata(note);
        }
    }
    Ok(list)
}

fn failed(kind: ErrorKind, operation: &'static str, message: &str) -> ProducerError {
    ProducerError {
        kind,
        operation,
        topic: None,
        code: "Stage".to_owned(),
        message: message.to_owned(),
    }
}

fn failed_with(kind: ErrorKind, operation: &'static str, error: &KafkaError) -> ProducerError {
    let message = match error {
        KafkaError::Transaction(error) => error.string(),
        error => error.to_string(),
    };
    ProducerError {
        kind,
        operation,
        topic: None,
        code: error
            .rdkafka_error_code()
            .map_or_else(|| "Client".to_owned(), |code| format!("{code:?}")),
        message,
    }
}

/// What can be done after an error of librdkafka.
fn classify(operation: &'static str, error: &KafkaError) -> ProducerError {
    let kind = match (error.rdkafka_error_code(), error) {
        (Some(Code::FencedInstanceId), _) => ErrorKind::IdentityTaken,
        (Some(Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch), _) => {
            ErrorKind::Fenced
        }
        (_, KafkaError::Transaction(error)) if error.is_fatal() => ErrorKind::Renew,
        (_, KafkaError::Transaction(error)) if error.txn_requires_abort() => ErrorKind::Abort,
        _ => ErrorKind::Renew,
    };
    failed_with(kind, operation, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retry_of_the_end_of_a_transaction_is_doubtful() {
        let events = ProducerEvents::default();
        events.begin();
        let line = "[thrd:main]: EndTxn returned NO_ERROR in state CommittingTransaction";
        events.log(RDKafkaLogLevel::Debug, "ENDTXN", line);
        assert!(!events.doubt.load(Ordering::Relaxed));
        let line = "[thrd:main]: EndTxn returned _TRANSPORT in state CommittingTransaction";
        events.log(RDKafkaLogLevel::Debug, "ENDTXN", line);
        assert!(events.doubt.load(Ordering::Relaxed));
        events.begin();
        assert!(!events.doubt.load(Ordering::Relaxed));
        events.log(RDKafkaLogLevel::Info, "FAIL", "Disconnected");
        assert!(events.doubt.load(Ordering::Relaxed));
    }

    #[test]
    fn a_partition_that_cannot_be_added_to_the_transaction_fails_at_once() {
        let events = ProducerEvents::default();
        events.begin();
        let line = "[thrd:b]: b/1: AddPartitionsToTxn response: partition \"out\": [3]: Success";
        events.log(RDKafkaLogLevel::Debug, "ADDPARTS", line);
        assert!(!events.failed.load(Ordering::Relaxed));
        let line = "[thrd:b]: b/1: Failed to add partition \"out\" [3] to transaction: no right";
        events.log(RDKafkaLogLevel::Error, "ADDPARTS", line);
        assert!(events.failed.load(Ordering::Relaxed));
        let failures = events.failures.lock().unwrap();
        let [failure] = &failures[..] else {
            panic!("{failures:?}");
        };
        assert_eq!((failure.topic.as_str(), failure.partition), ("out", 3));
        assert_eq!(failure.message, "no right");
    }

    #[test]
    fn only_errors_about_the_output_are_the_outputs_fault() {
        assert_eq!(
            cause(Some(Code::MessageSizeTooLarge)),
            FailureCause::TooLarge
        );
        assert_eq!(cause(Some(Code::InvalidRecord)), FailureCause::Invalid);
        assert_eq!(
            cause(Some(Code::InvalidDifferentRecord)),
            FailureCause::Neighbour
        );
        assert_eq!(cause(Some(Code::MessageTimedOut)), FailureCause::Other);
        assert_eq!(cause(None), FailureCause::Other);
    }
}
