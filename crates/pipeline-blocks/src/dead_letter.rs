//! Dead letters: records that a block failed on, as they were read, with headers that say why.

use crate::clock;
use crate::event::{Header, Input};
use crate::output::{Destination, Output, Outputs};
use chrono::{DateTime, SecondsFormat};

/// What the names of all headers begin with that a dead letter adds to those of its record.
pub const PREFIX: &str = "freehold.";
/// `<namespace>/<name>` of the Pipeline.
pub const PIPELINE: &str = "freehold.pipeline";
pub const REVISION: &str = "freehold.revision";
/// The block that failed.
pub const BLOCK: &str = "freehold.block";
pub const ERROR: &str = "freehold.error";
pub const ATTEMPTS: &str = "freehold.attempts";
/// The topic that the record was read from.
pub const TOPIC: &str = "freehold.topic";
pub const PARTITION: &str = "freehold.partition";
pub const OFFSET: &str = "freehold.offset";
/// When the block failed (RFC 3339): the letter's own timestamp is that of the record.
pub const TIME: &str = "freehold.time";
/// The blocks on the way to the one that failed, separated by commas, where several ways lead to
/// it. It begins with a source or an alert.
pub const WAY: &str = "freehold.way";
/// How often the record was replayed.
pub const REPLAYS: &str = "freehold.replays";
/// The id of the replay that wrote the letter.
pub const REPLAY: &str = "freehold.replay";
/// What the letter does not have of its record, because its topic did not take it: the `value`, and
/// `key` and `headers` too if that was not enough. The record is at its address.
pub const LEFT_OUT: &str = "freehold.left-out";

/// What the error begins with if the process died on the record: no block was given it then.
pub const PROCESS_DIED: &str = "ProcessDied";

/// Longest error in a header.
const ERROR_BYTES_MAX: usize = 2048;

/// How often a topic may refuse a letter of a record: each time the next one has less of it. After
/// that nothing is left to leave out.
pub const REFUSALS_MAX: u32 = 2;

/// Who failed, and why.
#[derive(Clone, Copy, Debug)]
pub struct Reason<'a> {
    /// `<namespace>/<name>` of the Pipeline.
    pub pipeline: &'a str,
    pub revision: u64,
    pub node: usize,
    pub block: &'a str,
    pub error: &'a str,
    /// How often it was tried.
    pub attempts: u32,
    /// [`WAY`].
    pub way: Option<&'a str>,
    /// The replay that it failed in.
    pub replay: Option<Again<'a>>,
    /// How often the topic of dead letters has refused a letter of the record.
    pub refusals: u32,
}

/// A record that fails again when it is replayed.
#[derive(Clone, Copy, Debug)]
pub struct Again<'a> {
    /// Id of the replay.
    pub id: &'a str,
    /// How often the record was replayed, with this time.
    pub times: u32,
}

/// The time of a letter, in milliseconds since 1970.
pub fn time_ms(header: &str) -> Option<i64> {
    let time = DateTime::parse_from_rfc3339(header).ok()?;
    Some(time.timestamp_millis())
}

/// The record without what is left out after so many refusals, and the words for that.
fn shortened<'a>(input: &Input<'a>, refusals: u32) -> (Input<'a>, Option<String>) {
    if refusals == 0 {
        return (*input, None);
    }
    let is_more = refusals > 1 || input.value.is_none();
    let parts = [
        ("value", input.value.is_some()),
        ("key", is_more && input.key.is_some()),
        ("headers", is_more && !input.headers.is_empty()),
    ];
    let left_out = parts.iter().filter(|(_, is_left_out)| *is_left_out);
    let words: Vec<&str> = left_out.map(|(part, _)| *part).collect();
    let short = Input {
        // Without any value it would be a tombstone.
        value: input.value.map(|_| &b""[..]),
        key: input.key.filter(|_| !is_more),
        headers: if is_more { &[] } else { input.headers },
        ..*input
    };
    (short, (!words.is_empty()).then(|| words.join(", ")))
}

/// Writes the record to the topic of dead letters. Its own headers stay, apart from those of an
/// earlier dead letter.
pub fn write(topic: &str, input: &Input<'_>, reason: &Reason<'_>, outputs: &mut dyn Outputs) {
    let (input, left_out) = shortened(input, reason.refusals);
    let error = cut(reason.error);
    let (revision, attempts) = (reason.revision.to_string(), reason.attempts.to_string());
    let (partition, offset) = (input.partition.to_string(), input.offset.to_string());
    let time = DateTime::from_timestamp_millis(clock::now_ms()).unwrap_or_default();
    let time = time.to_rfc3339_opts(SecondsFormat::Millis, true);
    let times = reason.replay.map(|again| again.times.to_string());
    let added = [
        (PIPELINE, Some(reason.pipeline)),
        (REVISION, Some(&revision)),
        (BLOCK, Some(reason.block)),
        (ERROR, Some(error)),
        (ATTEMPTS, Some(&attempts)),
        (TOPIC, Some(input.topic)),
        (PARTITION, Some(&partition)),
        (OFFSET, Some(&offset)),
        (TIME, Some(&time)),
        (WAY, reason.way),
        (REPLAYS, times.as_deref()),
        (REPLAY, reason.replay.map(|again| again.id)),
        (LEFT_OUT, left_out.as_deref()),
    ];
    let own = input.headers.iter().copied();
    let mut headers: Vec<Header<'_>> = own
        .filter(|header| added.iter().all(|(name, _)| *name != header.name))
        .collect();
    let added = added
        .iter()
        .filter_map(|(name, value)| Some((*name, (*value)?)));
    headers.extend(added.map(|(name, value)| Header {
        name,
        value: Some(value.as_bytes()),
    }));
    outputs.write(Output {
        node: reason.node,
        topic,
        destination: Destination::Partition(input.partition),
        key: input.key,
        value: input.value,
        headers: &headers,
        timestamp: input.timestamp,
    });
}

fn cut(error: &str) -> &str {
    let mut end = error.len().min(ERROR_BYTES_MAX);
    while !error.is_char_boundary(end) {
        end -= 1;
    }
    &error[..end]
}
