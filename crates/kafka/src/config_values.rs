//! Configs as users write them in YAML: the values are strings, numbers or booleans. Kafka gets
//! them as strings. Pure.

use schemars::{Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;

/// The longest value that is accepted. Kafka's longest are lists of classes and JAAS configs.
const VALUE_CHARS_MAX: usize = 4096;
/// The most keys: a version of Kafka has fewer than 400 broker configs.
const KEYS_MAX: usize = 200;
/// First character of the placeholder for a value that no config can have. The object stays
/// readable, and validation refuses the field.
const UNUSABLE: char = '\0';

/// The schema of a field. A structural schema cannot list several types, so it accepts any value;
/// `refuse` checks the rest.
pub fn schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": KEYS_MAX,
        "additionalProperties": {
            "x-kubernetes-preserve-unknown-fields": true,
            "maxLength": VALUE_CHARS_MAX,
            "maxItems": 0,
            "maxProperties": 0,
        },
    })
}

/// Deserializes configs; for a field's `deserialize_with`.
///
/// # Errors
/// The value is not a map.
pub fn deserialize<'de, D: Deserializer<'de>, C: From<BTreeMap<String, String>>>(
    deserializer: D,
) -> Result<C, D::Error> {
    let values = BTreeMap::<String, Value>::deserialize(deserializer)?;
    Ok(values
        .into_iter()
        .map(|(key, Value(value))| (key, value))
        .collect::<BTreeMap<_, _>>()
        .into())
}

/// Why a deserialized value is refused; `None` if it is valid.
pub fn refuse(value: &str) -> Option<String> {
    value
        .strip_prefix(UNUSABLE)
        .map(|what| format!("{what}; give a string, a number, true or false"))
}

/// A value as a string, as Kafka takes it.
struct Value(String);

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Scalar).map(Value)
    }
}

struct Scalar;

fn unusable<E>(what: &str) -> Result<String, E> {
    Ok(format!("{UNUSABLE}{what}"))
}

impl<'de> Visitor<'de> for Scalar {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a string, a number or a boolean")
    }
    fn visit_bool<E>(self, value: bool) -> Result<String, E> {
        Ok(value.to_string())
    }
    fn visit_i64<E>(self, value: i64) -> Result<String, E> {
        Ok(value.to_string())
    }
    fn visit_u64<E>(self, value: u64) -> Result<String, E> {
        Ok(value.to_string())
    }
    // Rust writes a whole number without a fraction, which is what Kafka reads as an integer.
    fn visit_f64<E>(self, value: f64) -> Result<String, E> {
        Ok(value.to_string())
    }
    fn visit_str<E>(self, value: &str) -> Result<String, E> {
        if value.len() > VALUE_CHARS_MAX {
            return unusable(&format!("longer than {VALUE_CHARS_MAX} characters"));
        }
        Ok(value.to_owned())
    }
    fn visit_unit<E>(self) -> Result<String, E> {
        unusable("empty")
    }
    fn visit_none<E>(self) -> Result<String, E> {
        unusable("empty")
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<String, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        unusable("a list")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<String, A::Error> {
        while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        unusable("an object")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(value: serde_json::Value) -> String {
        let all: BTreeMap<String, String> = deserialize(json!({"key": value})).unwrap();
        all["key"].clone()
    }

    #[test]
    fn values_are_what_somebody_wrote_as_kafka_reads_it() {
        let known = [
            (json!("2"), "2"),
            (json!(2), "2"),
            (json!(-1), "-1"),
            (json!(604_800_000), "604800000"),
            (json!(i64::MAX), "9223372036854775807"),
            (json!(0.5), "0.5"),
            (json!(1000.0), "1000"),
            (json!(true), "true"),
            (json!("compact,delete"), "compact,delete"),
            (json!(""), ""),
        ];
        for (written, expected) in known {
            assert_eq!(
                (read(written.clone()), refuse(&read(written))),
                (expected.to_owned(), None)
            );
        }
    }

    #[test]
    fn what_is_no_value_is_read_and_refused() {
        for (written, why) in [
            (json!(["compact", {"a": 1}]), "a list"),
            (json!({"a": {"b": []}}), "an object"),
            (json!(null), "empty"),
            (json!("x".repeat(VALUE_CHARS_MAX + 1)), "longer than"),
        ] {
            let read = read(written);
            assert!(
                read.len() < 100 && refuse(&read).unwrap().starts_with(why),
                "{read:?}"
            );
        }
    }
}
