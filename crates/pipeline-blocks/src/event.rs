//! A record on its way through the blocks.

use crate::decode::decode;
use freehold_pipeline::address::Address;
use freehold_pipeline::source::Format;
use vrl::compiler::TargetValueRef;
use vrl::value::{ObjectMap, Secrets, Value};

/// A header of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    pub name: &'a str,
    pub value: Option<&'a [u8]>,
}

/// A record as it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Input<'a> {
    pub topic: &'a str,
    pub partition: i32,
    pub offset: i64,
    /// Milliseconds since 1970.
    pub timestamp: Option<i64>,
    pub key: Option<&'a [u8]>,
    /// `None`: the record has no value (a tombstone).
    pub value: Option<&'a [u8]>,
    pub headers: &'a [Header<'a>],
}

impl Input<'_> {
    pub fn address(&self) -> Address {
        Address {
            topic: self.topic.to_owned(),
            partition: self.partition,
            offset: self.offset,
        }
    }
}

/// A record between two blocks.
#[derive(Clone, Debug)]
pub struct Event<'a> {
    /// The record that it came from.
    pub input: Input<'a>,
    value: Value,
    /// Whether a program may have changed `value`.
    is_changed: bool,
    metadata: Option<Value>,
    /// Whether a program may have changed `metadata`.
    is_metadata_changed: bool,
}

/// Key, headers and timestamp of a record, if a program may have changed them.
#[derive(Clone, Debug, PartialEq)]
pub struct Changed {
    pub key: Option<Vec<u8>>,
    /// `None`: as they were read; a name may be there several times.
    pub headers: Option<Vec<(String, Option<Vec<u8>>)>>,
    pub timestamp: Option<i64>,
}

impl<'a> Event<'a> {
    /// A record whose value no program reads.
    pub fn undecoded(input: Input<'a>) -> Self {
        Self {
            input,
            value: Value::Null,
            is_changed: false,
            metadata: None,
            is_metadata_changed: false,
        }
    }

    /// Reads the value of a record; one without a value is null.
    ///
    /// # Errors
    /// Why it is not of this format.
    pub fn decode(input: Input<'a>, format: Format) -> Result<Self, String> {
        let value = match input.value {
            Some(bytes) => decode(format, bytes)?,
            None => Value::Null,
        };
        Ok(Self {
            value,
            ..Self::undecoded(input)
        })
    }

    /// Whether the record was read without a value: in a compacted topic it deletes its key. No block
    /// fails on it.
    pub fn is_tombstone(&self) -> bool {
        self.input.value.is_none()
    }

    /// The value.
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// Whether a program may have changed the value.
    pub fn is_changed(&self) -> bool {
        self.is_changed
    }

    pub(crate) fn set_changed(&mut self) {
        self.is_changed = true;
    }

    pub(crate) fn target(&mut self) -> Target<'_> {
        Target {
            value: &mut self.value,
            metadata: self.metadata.get_or_insert(Value::Null),
            secrets: Secrets::default(),
        }
    }

    /// Makes `%` before a program that uses it.
    pub(crate) fn need_metadata(&mut self, may_change: bool) {
        self.is_metadata_changed |= may_change;
        if matches!(self.metadata, None | Some(Value::Null)) {
            self.metadata = Some(Value::Object(metadata_of(&self.input)));
        }
    }

    /// Key, headers and timestamp as the programs left them; `None`: as they were read.
    ///
    /// # Errors
    /// A program gave them a value that Kafka has no place for.
    pub fn changed(&self) -> Result<Option<Changed>, String> {
        let Some(Value::Object(metadata)) = self.metadata.as_ref() else {
            return match self.is_metadata_changed {
                true => Err("% is no object any more; assign its fields".to_owned()),
                false => Ok(None),
            };
        };
        if !self.is_metadata_changed {
            return Ok(None);
        }
        let before = metadata_of(&self.input);
        if *metadata == before {
            return Ok(None);
        }
        let key = bytes_of("%key", metadata.get("key"))?;
        let headers = match metadata.get("headers") {
            headers if headers == before.get("headers") => None,
            None | Some(Value::Null) => Some(Vec::new()),
            Some(Value::Object(headers)) => headers
                .iter()
                .map(|(name, value)| {
                    let value = bytes_of(&format!("%headers.{name}"), Some(value))?;
                    Ok((name.to_string(), value))
                })
                .collect::<Result<Vec<_>, String>>()
                .map(Some)?,
            Some(other) => {
                return Err(format!("%headers is {}; give an object", other.kind_str()));
            }
        };
        let timestamp = match metadata.get("timestamp") {
            None | Some(Value::Null) => None,
            Some(Value::Timestamp(time)) => Some(time.timestamp_millis()),
            Some(Value::Integer(millis)) => Some(*millis),
            Some(other) => {
                return Err(format!(
                    "%timestamp is {}; give a timestamp, or milliseconds since 1970",
                    other.kind_str()
                ));
            }
        };
        Ok(Some(Changed {
            key,
            headers,
            timestamp: timestamp.or(self.input.timestamp),
        }))
    }
}

/// What a program works on.
#[derive(Debug)]
pub(crate) struct Target<'a> {
    value: &'a mut Value,
    metadata: &'a mut Value,
    secrets: Secrets,
}

impl Target<'_> {
    pub(crate) fn as_vrl(&mut self) -> TargetValueRef<'_> {
        TargetValueRef {
            value: self.value,
            metadata: self.metadata,
            secrets: &mut self.secrets,
        }
    }
}

fn bytes_of(path: &str, value: Option<&Value>) -> Result<Option<Vec<u8>>, String> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bytes(_) | Value::String(_) | Value::Integer(_)) => {
            let text = value.map(Value::coerce_to_bytes).unwrap_or_default();
            Ok(Some(text.to_vec()))
        }
        Some(other) => Err(format!(
            "{path} is {}; give a text, an integer or null",
            other.kind_str()
        )),
    }
}

fn metadata_of(input: &Input<'_>) -> ObjectMap {
    let bytes = |bytes: Option<&[u8]>| {
        bytes.map_or(Value::Null, |bytes| {
            Value::Bytes(bytes::Bytes::copy_from_slice(bytes))
        })
    };
    let time = input
        .timestamp
        .and_then(chrono::DateTime::from_timestamp_millis);
    let headers: ObjectMap = input
        .headers
        .iter()
        .map(|header| (header.name.into(), bytes(header.value)))
        .collect();
    ObjectMap::from([
        ("key".into(), bytes(input.key)),
        ("headers".into(), Value::Object(headers)),
        (
            "timestamp".into(),
            time.map_or(Value::Null, Value::Timestamp),
        ),
        ("topic".into(), Value::from(input.topic)),
        (
            "partition".into(),
            Value::Integer(i64::from(input.partition)),
        ),
        ("offset".into(), Value::Integer(input.offset)),
    ])
}
