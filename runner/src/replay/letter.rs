//! A dead letter, as its headers tell of it.

use std::str::FromStr;

use freehold_pipeline_blocks::dead_letter as headers;
use freehold_pipeline_blocks::event::{Header, Input};

use crate::record::Record;

/// A dead letter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Letter<'a> {
    /// `<namespace>/<name>` of the Pipeline that wrote it.
    pub pipeline: &'a str,
    pub block: &'a str,
    pub error: &'a str,
    /// The address of its record.
    pub topic: &'a str,
    pub partition: i32,
    pub offset: i64,
    /// When it was written, in milliseconds since 1970.
    pub time_ms: Option<i64>,
    pub way: Option<&'a str>,
    /// How often its record was replayed.
    pub replays: u32,
    /// The replay that wrote it.
    pub replay: Option<&'a str>,
    /// It does not have all of its record.
    pub is_cut: bool,
}

impl<'a> Letter<'a> {
    /// The letter that a record is, if it is one of a record that was read from a topic.
    #[must_use]
    pub fn of(record: &Record<'a>) -> Option<Self> {
        let (mut letter, mut block, mut offset) = (Self::default(), None, None);
        for (name, value) in record.headers.iter() {
            if !name.starts_with(headers::PREFIX) {
                continue;
            }
            let text = std::str::from_utf8(value?).ok()?;
            match name {
                headers::PIPELINE => letter.pipeline = text,
                headers::BLOCK => block = Some(text),
                headers::ERROR => letter.error = text,
                headers::TOPIC => letter.topic = text,
                headers::PARTITION => letter.partition = not_negative(text)?,
                headers::OFFSET => offset = Some(not_negative(text)?),
                headers::TIME => letter.time_ms = headers::time_ms(text),
                headers::WAY => letter.way = Some(text),
                headers::REPLAYS => letter.replays = text.parse().ok()?,
                headers::REPLAY => letter.replay = Some(text),
                headers::LEFT_OUT => letter.is_cut = true,
                _ => {}
            }
        }
        // Letters of older versions have no time of their own.
        letter.time_ms = letter.time_ms.or(record.timestamp);
        letter.block = block?;
        letter.offset = offset?;
        Some(letter)
    }

    /// Whether no block was given its record, because the process died on it. One that died in a
    /// replay is a letter of the block that its replay began with.
    #[must_use]
    pub fn is_of_death(&self) -> bool {
        self.replays == 0 && self.error.starts_with(headers::PROCESS_DIED)
    }

    /// Gives the letter's record to a function, as it was read.
    pub fn with_record<T>(&self, letter: &Record<'a>, work: impl FnOnce(Input<'_>) -> T) -> T {
        let own = letter.headers.iter();
        let own: Vec<Header<'_>> = own
            .filter(|(name, _)| !name.starts_with(headers::PREFIX))
            .map(|(name, value)| Header { name, value })
            .collect();
        work(Input {
            topic: self.topic,
            partition: self.partition,
            offset: self.offset,
            timestamp: letter.timestamp,
            key: letter.key,
            value: letter.value,
            headers: &own,
        })
    }
}

fn not_negative<T: FromStr + PartialOrd + Default>(text: &str) -> Option<T> {
    let number = text.parse::<T>().ok()?;
    (number >= T::default()).then_some(number)
}
