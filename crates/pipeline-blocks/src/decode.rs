//! Reads the value of a record. JSON is read within limits, and exactly: a number that VRL cannot
//! hold is an error, and not another number.

use freehold_pipeline::source::Format;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::fmt;
use vrl::prelude::NotNan;
use vrl::value::{KeyString, ObjectMap, Value};

/// Nesting of a JSON document.
pub const DEPTH_MAX: usize = 64;
/// Objects, lists, texts, numbers and the like in a document.
pub const VALUES_MAX: usize = 100_000;
const TWO_TO_63: f64 = 9_223_372_036_854_775_808.0;
const TWO_TO_64: f64 = 18_446_744_073_709_551_616.0;

/// Reads a value.
///
/// # Errors
/// Why it is not of this format; never with the content.
pub fn decode(format: Format, bytes: &[u8]) -> Result<Value, String> {
    match format {
        Format::Json => json(bytes),
        Format::Text => match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Value::from(text)),
            Err(error) => Err(format!("not UTF-8 from byte {}", error.valid_up_to())),
        },
        Format::Bytes => Ok(Value::Bytes(bytes::Bytes::copy_from_slice(bytes))),
    }
}

fn json(bytes: &[u8]) -> Result<Value, String> {
    let mut left = VALUES_MAX;
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let seed = Exactly {
        depth: 0,
        left: &mut left,
    };
    let value = seed
        .deserialize(&mut deserializer)
        .map_err(|error| why(&error))?;
    deserializer.end().map_err(|error| why(&error))?;
    Ok(value)
}

/// The error without what it quotes of the document.
fn why(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let quoted = text.starts_with("invalid type") || text.starts_with("invalid value");
    match quoted {
        true => format!(
            "not JSON, at line {} column {}",
            error.line(),
            error.column()
        ),
        false => format!("not JSON: {text}"),
    }
}

struct Exactly<'a> {
    depth: usize,
    left: &'a mut usize,
}

impl<'de> DeserializeSeed<'de> for Exactly<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Exactly<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Boolean(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Integer(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        let exact = i64::try_from(value)
            .map_err(|_| E::custom("an integer above 9223372036854775807; send it as a text"));
        Ok(Value::Integer(exact?))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        let number = NotNan::new(value).map_err(|_| E::custom("not a number"))?;
        // serde_json reads an integer beyond 64 bits as a float, and would write another number.
        if value.fract() == 0.0 && !(-TWO_TO_63..TWO_TO_64).contains(&value) || value == -TWO_TO_63
        {
            return Err(E::custom(
                "a number that cannot be held exactly; send it as a text",
            ));
        }
        Ok(Value::Float(number))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<Value, A::Error> {
        let mut array = Vec::new();
        while let Some(value) = items.next_element_seed(self.below()?)? {
            array.push(value);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut fields: A) -> Result<Value, A::Error> {
        let mut object = ObjectMap::new();
        while let Some(key) = fields.next_key::<KeyString>()? {
            let value = fields.next_value_seed(self.below()?)?;
            if object.insert(key, value).is_some() {
                return Err(A::Error::custom("an object has a field twice"));
            }
        }
        Ok(Value::Object(object))
    }
}

impl Exactly<'_> {
    /// For a value in this one.
    fn below<E: Error>(&mut self) -> Result<Exactly<'_>, E> {
        if self.depth == DEPTH_MAX {
            return Err(E::custom(format!("nested deeper than {DEPTH_MAX}")));
        }
        *self.left = self
            .left
            .checked_sub(1)
            .ok_or_else(|| E::custom(format!("more than {VALUES_MAX} values")))?;
        Ok(Exactly {
            depth: self.depth + 1,
            left: self.left,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
    use super::*;

    fn round(text: &str) -> String {
        serde_json::to_string(&decode(Format::Json, text.as_bytes()).unwrap()).unwrap()
    }

    #[test]
    fn json_is_written_as_it_was_read() {
        for text in [
            r#"{"a":1,"b":[true,null,-2.5,"é\n"],"c":{}}"#,
            "9223372036854775807",
            "-9223372036854775808",
            "0.1",
            "9007199254740991.0",
            "1e-7",
            r#""""#,
        ] {
            assert_eq!(round(text), text);
        }
    }

    #[test]
    fn what_cannot_be_held_exactly_is_refused() {
        for (text, why) in [
            ("9223372036854775808", "an integer above"),
            ("18446744073709551616", "cannot be held exactly"),
            ("-9223372036854775809", "cannot be held exactly"),
            (r#"{"a":1,"a":2}"#, "twice"),
            ("{", "not JSON: EOF"),
            ("1 2", "trailing"),
            ("", "EOF"),
            ("NaN", "not JSON"),
        ] {
            let error = decode(Format::Json, text.as_bytes()).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
        assert!(
            decode(Format::Text, b"ok\xff")
                .unwrap_err()
                .contains("byte 2")
        );
    }

    #[test]
    fn nesting_and_number_of_values_are_limited() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(decode(Format::Json, nested(DEPTH_MAX).as_bytes()).is_ok());
        let error = decode(Format::Json, nested(DEPTH_MAX + 2).as_bytes()).unwrap_err();
        assert!(error.contains("nested deeper"), "{error}");
        let many = format!("[{}1]", "1,".repeat(VALUES_MAX));
        assert!(
            decode(Format::Json, many.as_bytes())
                .unwrap_err()
                .contains("values")
        );
    }

    #[test]
    fn an_error_never_shows_the_content() {
        for text in [
            "\"secret-4711",
            "{\"secret-4711\": tru}",
            "secret-4711",
            "[1, secret-4711]",
        ] {
            let error = decode(Format::Json, text.as_bytes()).unwrap_err();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
