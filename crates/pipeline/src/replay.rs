//! A replay: dead letters go once more through the block that failed on them.

use serde::{Deserialize, Serialize};

/// A record that was replayed this often and failed again stays a dead letter.
pub const TIMES_MAX: u32 = 3;

/// What a runner replays. It reads the letters that are there when it begins, and ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Replay {
    /// Names the request. Its consumer group and its transactional id are `<group>.replay.<id>`.
    pub id: String,
    /// Name in Kafka of the topic of dead letters.
    pub topic: String,
    /// The block of the stage that failed on them.
    pub block: String,
    /// Only letters whose error has this text in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Only letters that were written at this time or later, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<i64>,
    /// Only letters that were written before this time, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<i64>,
    /// Most records a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub records_per_second: Option<u32>,
    /// The records go through the blocks, and nothing is written or committed.
    #[serde(default)]
    pub dry_run: bool,
}

/// How far a replay is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReplayReport {
    /// [`Replay::id`].
    pub id: String,
    /// All letters are read, and what they made is committed.
    pub is_done: bool,
    /// Letters that are not read yet.
    pub left: u64,
    /// Letters that were read.
    pub read: u64,
    /// Letters of the block that the request asks for, by error and time.
    pub matched: u64,
    /// Of these, records that went through (with a dry run: that would).
    pub replayed: u64,
    /// Of these, records that a block failed on again: they are new dead letters.
    pub failed: u64,
    /// Of these, letters that were replayed [`TIMES_MAX`] times already, or have not all of their
    /// record.
    pub given_up: u64,
}
