//! A replay of dead letters: the request in the annotation `freehold.dev/replay`, and what the
//! status says of it. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// It is a part of the name of a consumer group and of a transactional id.
pub const ID_CHARS_MAX: usize = 32;
/// Longest text that an error is compared with: longer annotations are not read.
pub const ERROR_CHARS_MAX: usize = 300;
/// More records a second than a runner processes.
pub const RATE_MAX: u32 = 1_000_000;
/// Earlier replays that are remembered, apart from the last one of each block.
pub const KEPT_MAX: usize = 20;
/// With these: names of blocks may change again and again.
pub const KEPT_WITH_BLOCKS_MAX: usize = 100;

/// A request to replay dead letters.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Request {
    /// A name that no request had before: a request is carried out once.
    pub id: String,
    /// The block that failed on them.
    pub block: String,
    /// Only letters whose error has this text in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Only letters that were written at this time or later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
    /// Only letters that were written before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Time>,
    /// Most records a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub records_per_second: Option<u32>,
    /// Nothing is written: only the counts are wanted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

impl Request {
    /// Reads the value of the annotation.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(text: &str) -> Result<Self, String> {
        let mut json = serde_json::Deserializer::from_str(text);
        let request: Self = serde_path_to_error::deserialize(&mut json).map_err(|error| {
            let path = error.path().to_string();
            match path.as_str() {
                "." | "?" => error.inner().to_string(),
                path => format!("{path}: {}", error.inner()),
            }
        })?;
        json.end().map_err(|error| error.to_string())?;
        request.checked()
    }

    fn checked(self) -> Result<Self, String> {
        let is_well = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit();
        let of_id = self
            .id
            .chars()
            .all(|letter| is_well(letter) || letter == '-');
        let ends = self.id.starts_with(is_well) && self.id.ends_with(is_well);
        if !of_id || !ends || self.id.len() > ID_CHARS_MAX {
            return Err(format!(
                "id: lower-case letters, digits and hyphens between them, at most {ID_CHARS_MAX}"
            ));
        }
        if self
            .records_per_second
            .is_some_and(|rate| rate == 0 || rate > RATE_MAX)
        {
            return Err(format!("recordsPerSecond: 1 to {RATE_MAX}"));
        }
        let error = self.error.as_deref().unwrap_or("any");
        if error.is_empty() || error.chars().count() > ERROR_CHARS_MAX {
            return Err(format!("error: 1 to {ERROR_CHARS_MAX} characters"));
        }
        if let (Some(since), Some(until)) = (&self.since, &self.until)
            && since.0 >= until.0
        {
            return Err("until: not later than since".to_owned());
        }
        Ok(self)
    }
}

/// A replay of dead letters that was asked for by the annotation `freehold.dev/replay`. While it
/// runs its counts are rounded down to 1, 2 or 5 times a power of ten; when it is Done they are
/// exact.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ReplayStatus {
    /// Name of the request; empty if the annotation cannot be read.
    pub id: String,
    /// The block whose dead letters it replays.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub block: String,
    /// The stage that has the block.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub stage: String,
    /// The topic of dead letters, by its name in Kafka.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub topic: String,
    /// It takes letters alone whose error has this text in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// It takes letters alone that were written at this time or later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
    /// It takes letters alone that were written before this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Time>,
    /// Nothing is written: the counts say what would be.
    pub dry_run: bool,
    pub state: ReplayState,
    /// Why it is in this state, or what it waits for, and what to do.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Dead letters that it has read, also those of other blocks.
    pub read: i64,
    /// Of these, letters of the block that the request asks for, by error and time.
    pub matched: i64,
    /// Of these, records that went through.
    pub replayed: i64,
    /// Of these, records that a block failed on again: they are dead letters anew.
    pub failed: i64,
    /// Of these, letters that stay dead letters: replayed three times already, or not whole.
    pub given_up: i64,
    /// Dead letters that it has not read yet.
    pub left: i64,
    /// It takes letters from before this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// When it had ended and its pod and its consumer group were gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Time>,
}

/// How far a replay is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ReplayState {
    /// It never began, and begins when what the message says is mended.
    #[default]
    Refused,
    /// It runs, or its pod is being made.
    Running,
    /// It cannot go on. It does with the next revision of the Pipeline, or in a new pod.
    Stopped,
    /// All letters are read, and what they made is committed.
    Done,
    /// Its annotation was removed or replaced. What was committed stays.
    Cancelled,
    /// The Pipeline was changed so that it cannot go on. What was committed stays.
    Failed,
}

impl ReplayStatus {
    /// Whether its pod is to be there.
    pub fn is_under_way(&self) -> bool {
        matches!(self.state, ReplayState::Running | ReplayState::Stopped)
    }

    /// Whether it will not change any more.
    pub fn is_over(&self) -> bool {
        !self.is_under_way() && self.finished_at.is_some()
    }
}

/// A replay that wrote records. Its request is not carried out again.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PastReplay {
    pub id: String,
    pub block: String,
    /// It took letters alone whose error has this text in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// It took letters alone that were written before this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Time>,
    pub state: ReplayState,
    /// It took letters from before this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_as_it_is_written() {
        let text = r#"{"id": "r-1", "block": "clean", "error": "not a number",
            "since": "2026-01-01T00:00:00Z", "until": "2026-01-02T00:00:00Z",
            "recordsPerSecond": 100, "dryRun": true}"#;
        let request = Request::read(text).unwrap();
        assert_eq!(
            (&*request.id, request.records_per_second),
            ("r-1", Some(100))
        );
        assert_eq!(request.since.as_ref().unwrap().0.as_second(), 1_767_225_600);
        let again = serde_json::to_string(&request).unwrap();
        assert_eq!(Request::read(&again), Ok(request));
        let least = Request::read(r#"{"id": "a", "block": "b"}"#).unwrap();
        assert!(!least.dry_run && least.since.is_none());
    }

    #[test]
    fn what_is_wrong_with_a_request_is_named() {
        let long = format!(
            r#"{{"id": "a", "block": "b", "error": "{}"}}"#,
            "x".repeat(301)
        );
        for (text, says) in [
            ("clean", "expected value"),
            ("{}", "missing field `id`"),
            (r#"{"id": "a"}"#, "missing field `block`"),
            (r#"{"id": "a", "block": "b"} c"#, "trailing characters"),
            (
                r#"{"id": "a", "block": "b", "dryrun": true}"#,
                "unknown field `dryrun`",
            ),
            (
                r#"{"id": "a", "block": "b", "since": "yesterday"}"#,
                "since: ",
            ),
            (
                r#"{"id": "a", "block": "b", "recordsPerSecond": 0}"#,
                "recordsPerSecond: 1 to",
            ),
            (
                r#"{"id": "a", "block": "b", "recordsPerSecond": -1}"#,
                "recordsPerSecond: ",
            ),
            (r#"{"id": "A", "block": "b"}"#, "id: lower-case"),
            (r#"{"id": "", "block": "b"}"#, "id: lower-case"),
            (r#"{"id": "a.b", "block": "b"}"#, "id: lower-case"),
            (r#"{"id": "a-", "block": "b"}"#, "id: lower-case"),
            (
                r#"{"id": "a", "block": "b", "error": ""}"#,
                "error: 1 to 300",
            ),
            (&long, "error: 1 to 300"),
            (
                r#"{"id": "a", "block": "b", "since": "2026-01-02T00:00:00Z",
                    "until": "2026-01-02T00:00:00Z"}"#,
                "until: not later",
            ),
        ] {
            let why = Request::read(text).unwrap_err();
            assert!(why.contains(says), "{text}: {why}");
        }
    }
}
