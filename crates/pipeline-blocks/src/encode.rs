//! Writes the value of a record. What cannot be written exactly is an error.

use crate::decode::DEPTH_MAX;
use freehold_pipeline::source::Format;
use serde::ser::{Error, Serialize, SerializeMap, SerializeSeq, Serializer};
use vrl::value::Value;

/// Largest value that a program may make, in bytes.
pub const VALUE_BYTES_MAX: usize = 10 * 1024 * 1024;

/// Writes a value to the end of the buffer. False: the record has no value (null).
///
/// # Errors
/// Why the value is not of this format.
pub fn encode(format: Format, value: &Value, buffer: &mut Vec<u8>) -> Result<bool, String> {
    let start = buffer.len();
    match (format, value) {
        (_, Value::Null) => return Ok(false),
        (Format::Json, value) => {
            serde_json::to_writer(&mut *buffer, &Exact { value, depth: 0 })
                .map_err(|error| error.to_string())?;
        }
        (Format::Text, Value::Bytes(bytes)) => {
            text(bytes)?;
            buffer.extend_from_slice(bytes);
        }
        (Format::Text | Format::Bytes, Value::String(text)) => {
            buffer.extend_from_slice(text.as_bytes());
        }
        (Format::Bytes, Value::Bytes(bytes)) => buffer.extend_from_slice(bytes),
        (Format::Text | Format::Bytes, other) => {
            return Err(format!(
                "`.` is {}, and the records are {format:?}; set output: Json in the transform",
                other.kind_str()
            ));
        }
    }
    match buffer.len() - start <= VALUE_BYTES_MAX {
        true => Ok(true),
        false => Err(format!("the value has more than {VALUE_BYTES_MAX} bytes")),
    }
}

fn text(bytes: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(bytes)
        .map_err(|_| "a text is not UTF-8; encode it, as by encode_base64".to_owned())
}

/// A value that is written exactly: VRL's own form would replace what is not UTF-8. It is nested as
/// deeply as [`crate::decode`] reads, so that it can be read again.
struct Exact<'a> {
    value: &'a Value,
    depth: usize,
}

impl Exact<'_> {
    /// For a value in this one.
    fn below<'a, E: Error>(&self, value: &'a Value) -> Result<Exact<'a>, E> {
        match self.depth < DEPTH_MAX {
            true => Ok(Exact {
                value,
                depth: self.depth + 1,
            }),
            false => Err(E::custom(format!(
                "the value is nested deeper than {DEPTH_MAX}"
            ))),
        }
    }
}

impl Serialize for Exact<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.value {
            Value::Bytes(bytes) => serializer.serialize_str(text(bytes).map_err(S::Error::custom)?),
            Value::Object(object) => {
                let mut map = serializer.serialize_map(Some(object.len()))?;
                for (key, value) in object {
                    map.serialize_entry(key.as_str(), &self.below(value)?)?;
                }
                map.end()
            }
            Value::Array(array) => {
                let mut list = serializer.serialize_seq(Some(array.len()))?;
                for value in array {
                    list.serialize_element(&self.below(value)?)?;
                }
                list.end()
            }
            other => other.serialize(serializer),
        }
    }
}
