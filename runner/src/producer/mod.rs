//! How a batch of outputs is written: a transaction that also has the positions of what was read.

mod discarding;
mod librdkafka;

use std::time::Duration;

pub use discarding::Discarding;
pub use librdkafka::{Librdkafka, ProducerEvents};

use crate::blocks::Refusal;
use crate::outputs::Output;

/// The next offset to read of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    pub topic: String,
    pub partition: i32,
    pub next: i64,
    /// What is kept with it.
    pub note: Option<String>,
}

/// Writes outputs in transactions. One batch at a time: `begin`, `send`..., then `commit` or `abort`.
///
/// After an error other than [`ErrorKind::Abort`] the producer must be dropped.
pub trait Producer: Send + Sync + 'static {
    /// What proves to Kafka which generation of the group the positions are from.
    type Group: Send + 'static;

    /// Ends what a predecessor with the same id has left open, and shuts that predecessor out.
    ///
    /// # Errors
    /// It is not done within `timeout`.
    fn start(&self, timeout: Duration) -> Result<(), ProducerError>;

    /// Begins a batch.
    ///
    /// # Errors
    /// The producer cannot be used any more.
    fn begin(&self) -> Result<(), ProducerError>;

    /// Takes an output over; it is sent in the background.
    ///
    /// # Errors
    /// [`SendError`] says whether a later try can help.
    fn send(&self, output: &Output<'_>) -> Result<(), SendError>;

    /// Handles what Kafka has answered, for at least about `wait`.
    fn serve(&self, wait: Duration);

    /// Waits until Kafka has answered for every output so far.
    ///
    /// # Errors
    /// An output has failed, or it is not done within `timeout`.
    fn flush(&self, timeout: Duration) -> Result<(), ProducerError>;

    /// Whether an output of the batch has failed: it can only be aborted.
    fn has_failed(&self) -> bool;

    /// The outputs of the batch that have failed. Empties the list.
    fn take_failures(&self) -> Vec<DeliveryFailure>;

    /// Waits until Kafka has every output, then commits the batch and the positions together.
    ///
    /// # Errors
    /// Only after [`ErrorKind::Abort`] it is known that nothing was committed.
    fn commit(
        &self,
        positions: &[Position],
        group: &Self::Group,
        timeout: Duration,
    ) -> Result<Ended, ProducerError>;

    /// Gives the batch up. `serve` must be called by another thread until this returns.
    ///
    /// # Errors
    /// The producer must be dropped; its successor's `start` ends the batch.
    fn abort(&self, timeout: Duration) -> Result<Ended, ProducerError>;
}

/// How the end of a batch went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Each request was sent once and answered.
    Clean,
    /// It was done, but a request may arrive at a broker a second time. That could end the next
    /// transaction, because this protocol does not number transactions (KAFKA-17754): the next one
    /// needs a new producer, whose `start` makes late requests invalid.
    Doubtful,
}

/// What can be done after an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Nothing is committed: abort and go on with this producer.
    Abort,
    /// Drop the producer. Only the committed offsets tell what was committed.
    Renew,
    /// As `Renew`. A producer with the same id was started, or the broker aborted the transaction
    /// because it was open for too long; this looks the same.
    Fenced,
    /// Another process has joined the group with this one's `group.instance.id`.
    IdentityTaken,
}

/// A failed operation of a producer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{operation}: {message} ({code})")]
pub struct ProducerError {
    pub kind: ErrorKind,
    pub operation: &'static str,
    /// The topic that it is about, if it is about one.
    pub topic: Option<String>,
    /// Kafka's or librdkafka's name of the error.
    pub code: String,
    pub message: String,
}

impl ProducerError {
    /// The same, where an abort is no way out: the producer must be dropped.
    #[must_use]
    pub fn without_abort(self) -> Self {
        let kind = match self.kind {
            ErrorKind::Abort => ErrorKind::Renew,
            kind => kind,
        };
        Self { kind, ..self }
    }
}

/// An output was not taken over.
#[derive(Debug)]
pub enum SendError {
    /// Too many outputs wait to be sent: serve, then try again.
    Full,
    /// The output is at fault.
    Refused(Refusal),
    /// The batch is at its end.
    Failed(ProducerError),
}

/// An output that Kafka did not take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryFailure {
    /// The place in the batch of the record from which it came.
    pub place: u32,
    pub topic: String,
    pub partition: i32,
    pub cause: FailureCause,
    pub message: String,
}

/// Why Kafka did not take an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureCause {
    /// It, or the producer's batch it was in, is too large.
    TooLarge,
    /// It, or another one in the same producer's batch, is invalid.
    Invalid,
    /// A policy forbids it, or another one in the same producer's batch.
    Policy,
    /// Another one in the same producer's batch is at fault, and Kafka has said which.
    Neighbour,
    /// The output is not at fault: the broker is away, the topic is missing, a right is missing.
    Other,
}
