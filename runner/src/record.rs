//! One record of an input topic, as a block sees it. It borrows from the consumer's buffers.

use std::panic::catch_unwind;

use freehold_pipeline::address::Address;
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};

/// One record of an input topic.
#[derive(Clone, Copy)]
pub struct Record<'a> {
    pub topic: &'a str,
    pub partition: i32,
    pub offset: i64,
    /// Milliseconds since 1970.
    pub timestamp: Option<i64>,
    pub key: Option<&'a [u8]>,
    /// None is a tombstone.
    pub value: Option<&'a [u8]>,
    pub headers: Headers<'a>,
    /// The record's place in its batch: tells from which record an output came.
    pub place: u32,
}

impl<'a> Record<'a> {
    /// A record without key, value, time and headers. Set the fields that it has.
    #[must_use]
    pub fn at(topic: &'a str, partition: i32, offset: i64, place: u32) -> Self {
        Self {
            topic,
            partition,
            offset,
            timestamp: None,
            key: None,
            value: None,
            headers: Headers::Plain(&[]),
            place,
        }
    }

    /// The record that a message of the consumer holds.
    #[must_use]
    pub fn of(message: &'a BorrowedMessage<'a>, topic: &'a str, place: u32) -> Self {
        Self {
            topic,
            partition: message.partition(),
            offset: message.offset(),
            timestamp: message.timestamp().to_millis(),
            key: message.key(),
            value: message.payload(),
            headers: Headers::Message(message),
            place,
        }
    }

    /// Where the record is, as `topic/partition/offset`.
    #[must_use]
    pub fn address(&self) -> Address {
        Address {
            topic: self.topic.to_owned(),
            partition: self.partition,
            offset: self.offset,
        }
    }
}

/// One header: its name and its value. Kafka allows a name to occur again.
pub type Header<'a> = (&'a str, Option<&'a [u8]>);

/// The headers of a record.
#[derive(Clone, Copy)]
pub enum Headers<'a> {
    /// Read from a message when they are asked for.
    Message(&'a BorrowedMessage<'a>),
    /// In memory.
    Plain(&'a [Header<'a>]),
}

impl<'a> Headers<'a> {
    /// How many headers there are.
    #[must_use]
    pub fn count(&self) -> usize {
        match self {
            Self::Message(message) => message.headers().map_or(0, |headers| headers.count()),
            Self::Plain(headers) => headers.len(),
        }
    }

    /// The header at a place, counted from 0. None also if its name is not UTF-8.
    #[must_use]
    pub fn get(&self, place: usize) -> Option<Header<'a>> {
        match *self {
            Self::Message(message) => {
                let headers = message.headers()?;
                // The binding panics at a name that is not UTF-8, and any producer can send one.
                let header = catch_unwind(|| headers.try_get(place)).ok()??;
                Some((header.key, header.value))
            }
            Self::Plain(headers) => headers.get(place).copied(),
        }
    }

    /// All headers in order, without those whose name is not UTF-8.
    pub fn iter(&self) -> impl Iterator<Item = Header<'a>> + use<'a> {
        let headers = *self;
        (0..headers.count()).filter_map(move |place| headers.get(place))
    }
}
