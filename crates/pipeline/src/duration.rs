//! Durations as people write them: `100ms`, `30s`, `5m`, `1h`, `7d`.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;
use std::time::Duration as Span;

/// What a duration looks like.
pub const PATTERN: &str = "^[1-9][0-9]{0,8}(ms|s|m|h|d)$";

/// Units, the largest first, with their milliseconds.
const UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// A duration of whole milliseconds, at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration {
    millis: u64,
}

impl Duration {
    /// A duration of so many milliseconds.
    pub const fn of_millis(millis: u64) -> Self {
        Self { millis }
    }

    pub const fn as_millis(self) -> u64 {
        self.millis
    }
}

impl From<Duration> for Span {
    fn from(duration: Duration) -> Self {
        Span::from_millis(duration.millis)
    }
}

impl FromStr for Duration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text:?}: a duration is one whole number above 0 with one unit, such as 100ms, \
                 30s, 5m, 1h or 7d (90m, not 1h30m)"
            )
        };
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let (_, millis) = UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .ok_or_else(wrong)?;
        if number.is_empty() || number.len() > 9 || number.starts_with('0') {
            return Err(wrong());
        }
        let number: u64 = number.parse().map_err(|_| wrong())?;
        Ok(Self::of_millis(number * millis))
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = UNITS
            .iter()
            .find(|(_, millis)| self.millis >= *millis && self.millis.is_multiple_of(*millis));
        let (unit, millis) = whole.unwrap_or(&("ms", 1));
        write!(f, "{}{unit}", self.millis / millis)
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Duration {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Duration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "string", "pattern": PATTERN, "maxLength": 11})
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
    use super::*;

    #[test]
    fn durations_are_read_and_written_in_the_largest_whole_unit() {
        for (text, millis, written) in [
            ("100ms", 100, "100ms"),
            ("1500ms", 1_500, "1500ms"),
            ("30s", 30_000, "30s"),
            ("60s", 60_000, "1m"),
            ("5m", 300_000, "5m"),
            ("90m", 5_400_000, "90m"),
            ("48h", 172_800_000, "2d"),
        ] {
            let duration: Duration = text.parse().unwrap();
            assert_eq!(duration.as_millis(), millis);
            assert_eq!(duration.to_string(), written);
        }
    }

    #[test]
    fn what_is_no_duration_is_refused_with_an_example() {
        for wrong in [
            "",
            "5",
            "m",
            "0s",
            "1h30m",
            "05m",
            "1.5h",
            "-1s",
            "1w",
            "1234567890s",
        ] {
            let error = wrong.parse::<Duration>().unwrap_err();
            assert!(error.contains("such as 100ms"), "{wrong}: {error}");
        }
    }
}
