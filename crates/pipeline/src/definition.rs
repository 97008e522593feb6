//! A Pipeline's spec as far as its graph goes.

use crate::block::Block;
use crate::duration::Duration;
use crate::topics::TopicTarget;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Blocks of a Pipeline.
pub const BLOCKS_MAX: usize = 50;
/// Blocks from a source to a sink.
pub const DEPTH_MAX: usize = 30;
/// Bytes of one program, with what it includes.
pub const PROGRAM_BYTES_MAX: usize = 64 * 1024;
/// Bytes of all programs. The operator takes objects of 256 KiB, and a revision holds them a second
/// time.
pub const PROGRAMS_BYTES_MAX: usize = 128 * 1024;

/// What a Pipeline does: the part of its spec that the runner and the command line need.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Definition {
    #[serde(default)]
    pub delivery: Delivery,
    /// Texts of VRL by name, which programs include.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub functions: BTreeMap<String, String>,
    #[serde(default)]
    pub errors: Errors,
    #[serde(default)]
    pub blocks: Vec<Block>,
}

/// How often a record that was read arrives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Delivery {
    /// Once for those who read with `isolation.level=read_committed`: offsets and records are
    /// written in one transaction.
    #[default]
    ExactlyOnce,
    /// Once, and again after a failure.
    AtLeastOnce,
}

/// What happens to records that a block fails on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Errors {
    /// Default: DeadLetter where `deadLetter` is given, else Stop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<ErrorPolicy>,
    /// The topic for the records that a block failed on. Each has headers that name the pipeline,
    /// its revision, the block, the error and the record's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letter: Option<TopicTarget>,
    /// Stops the stage when too many records fail, in the place of emptying the stream into the
    /// dead letters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<Threshold>,
}

impl Errors {
    /// The policy that is in force for a block.
    pub fn policy(&self, block: &Block) -> ErrorPolicy {
        let of_pipeline = self.policy.unwrap_or(match self.dead_letter {
            Some(_) => ErrorPolicy::DeadLetter,
            None => ErrorPolicy::Stop,
        });
        block
            .errors
            .as_ref()
            .map_or(of_pipeline, |errors| errors.policy)
    }
}

/// What happens to a record that a block fails on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ErrorPolicy {
    /// It is written to `errors.deadLetter`, and the stream goes on.
    DeadLetter,
    /// It is dropped and counted.
    Skip,
    /// The stage stops before it: nothing is lost, and nothing goes on until the program or the
    /// record is mended.
    Stop,
}

/// How many records may fail.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Threshold {
    /// Failed records for each record that was read, over `within`; above it the stage stops.
    #[schemars(range(min = 0.0001, max = 1.0))]
    pub ratio: f64,
    /// The time that is looked at. At least 100 records must have been read in it.
    pub within: Duration,
}
