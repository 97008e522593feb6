//! What a block writes.

use crate::event::{Event, Header};
use freehold_pipeline::address::Address;

/// Which partition a record goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Destination {
    /// This number, modulo the topic's number of partitions.
    Partition(i32),
    /// By the hash of its key (murmur2), as Kafka's own clients choose it.
    Key,
}

/// A record that a block writes to a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Output<'a> {
    /// Position of the block in the graph.
    pub node: usize,
    /// Name of the topic in Kafka.
    pub topic: &'a str,
    pub destination: Destination,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    pub headers: &'a [Header<'a>],
    /// Milliseconds since 1970; `None`: when it is written.
    pub timestamp: Option<i64>,
}

/// Takes what the blocks write. It copies what it keeps.
pub trait Outputs {
    /// A block writes a record.
    fn write(&mut self, output: Output<'_>);

    /// A block begins to work on a record.
    fn entered(&mut self, block: &str) {
        let _ = block;
    }

    /// A block passes a record on to those behind it. The case is that of a split; its default is
    /// the last one.
    fn passed(&mut self, node: usize, case: Option<usize>, event: &Event<'_>) {
        let _ = (node, case, event);
    }
}

/// A stage that must not go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("block {block} failed on record {address}: {message}")]
pub struct Stop {
    pub block: String,
    pub address: Address,
    pub message: String,
}
