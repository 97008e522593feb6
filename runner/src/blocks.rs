//! What a stage does with records.

use crate::outputs::Outputs;
use crate::record::Record;

/// The blocks of a stage. The loop calls them on its own thread.
///
/// A batch can be given again: after an abort, a rebalance or a restart its outputs were not
/// committed. So what blocks keep between calls must not change what they return; [`Self::begin`]
/// and [`Self::committed`] tell them which records will come again.
pub trait Blocks: Send {
    /// A batch begins. Records that came since the last [`Self::committed`] come again.
    fn begin(&mut self) {}

    /// The batch is committed: its records will not come again.
    fn committed(&mut self) {}

    /// What is to be kept with the positions of what was worked on, since the last [`Self::begin`]
    /// too; `None`: nothing. It has no space at its ends.
    fn note(&self) -> Option<String> {
        None
    }

    /// Records are read from where positions were kept with these notes; no note: from the
    /// beginning.
    fn noted(&mut self, notes: &[String]) {
        let _ = notes;
    }

    /// Whether the record at an address must be in a transaction of its own.
    fn is_alone(&self, topic: &str, partition: i32, offset: i64) -> bool {
        let _ = (topic, partition, offset);
        false
    }

    /// Works on records in order. CPU work, and the journal: it must never wait for
    /// anything.
    ///
    /// The records of one partition are in the order of their offsets, and outputs are written in the
    /// order in which they are sent to `out`.
    fn process(&mut self, batch: &[Record<'_>], out: &mut Outputs);

    /// Works on a record of which topics have refused outputs. What was sent for it before is not
    /// written; what this sends is written instead: usually a dead letter. Nothing sent means that
    /// the record is skipped.
    ///
    /// If a topic refuses this too, it is called again. The stage stops when one topic has refused
    /// more than [`REFUSALS_MAX`](freehold_pipeline_blocks::dead_letter::REFUSALS_MAX) times.
    fn refused(&mut self, record: &Record<'_>, refused: &[Refused], out: &mut Outputs);
}

/// A topic that has refused what a record makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The last time.
    pub refusal: Refusal,
    pub times: u32,
}

/// Why Kafka does not take an output: the output itself is at fault, so that a retry does not help.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The topic that the output was for.
    pub topic: String,
    pub cause: RefusalCause,
    /// Kafka's or librdkafka's text of the error.
    pub message: String,
}

/// What is wrong with an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalCause {
    /// It is larger than the topic's `max.message.bytes` or the stage's limit.
    TooLarge,
    /// The broker's checks do not accept it: no key for a compacted topic, a bad timestamp, a schema.
    Invalid,
    /// A policy of the broker forbids it.
    Policy,
}
