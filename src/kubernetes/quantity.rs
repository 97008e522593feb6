//! Parses and writes quantities of Kubernetes (`k8s.io/apimachinery/pkg/api/resource`). Pure.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use schemars::{Schema, SchemaGenerator, json_schema};

/// The quantities that Kubernetes accepts, for schemas, without a minus sign: no field of Freehold
/// can be negative.
pub const PATTERN: &str =
    r"^[+]?([0-9]+[.]?[0-9]*|[.][0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][-+]?[0-9]{1,3})?$";

/// The largest quantity: Kubernetes reduces larger ones to it.
const MAX: u64 = i64::MAX as u64;

/// The schema of a field: a string, or a whole number that was written without quotes.
pub fn schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "x-kubernetes-int-or-string": true,
        "anyOf": [{"type": "integer"}, {"type": "string"}],
        "pattern": PATTERN,
        "maxLength": CHARS_MAX,
    })
}

/// The longest quantity that is accepted; more digits add nothing.
pub const CHARS_MAX: usize = 32;

/// The exact value of a quantity: `digits * 10^tens * 2^twos`, with a minus sign if `negative`.
#[derive(Clone, Copy)]
struct Parts {
    negative: bool,
    digits: u128,
    tens: i32,
    twos: u32,
}

fn parts(text: &str) -> Option<Parts> {
    let (negative, unsigned) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let end = unsigned
        .find(|character: char| !(character.is_ascii_digit() || character == '.'))
        .unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let (tens, twos) = factor(suffix)?;
    let fraction = fraction.trim_end_matches('0');
    let all = format!("{whole}{fraction}");
    let all = all.trim_start_matches('0');
    // A number that does not fit into 128 bits is far above the largest quantity.
    let digits = if all.is_empty() {
        0
    } else {
        all.parse().unwrap_or(u128::MAX)
    };
    Some(Parts {
        negative,
        digits,
        tens: tens - i32::try_from(fraction.len()).ok()?,
        twos,
    })
}

/// The powers of ten and of two of a suffix. `E` alone is exa; before digits it starts a decimal
/// exponent.
fn factor(suffix: &str) -> Option<(i32, u32)> {
    if let Some(exponent) = suffix
        .strip_prefix(['e', 'E'])
        .filter(|rest| !rest.is_empty() && *rest != "i")
    {
        let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        let valid = (1..=3).contains(&digits.len())
            && digits.chars().all(|character| character.is_ascii_digit());
        return valid
            .then(|| exponent.parse().ok())
            .flatten()
            .map(|tens| (tens, 0));
    }
    Some(match suffix {
        "n" => (-9, 0),
        "u" => (-6, 0),
        "m" => (-3, 0),
        "" => (0, 0),
        "k" => (3, 0),
        "M" => (6, 0),
        "G" => (9, 0),
        "T" => (12, 0),
        "P" => (15, 0),
        "E" => (18, 0),
        "Ki" => (0, 10),
        "Mi" => (0, 20),
        "Gi" => (0, 30),
        "Ti" => (0, 40),
        "Pi" => (0, 50),
        "Ei" => (0, 60),
        _ => return None,
    })
}

/// The number of a quantity such as `1.5Gi`, `500M`, `250m`, `1e9`; `None` if the text is not a
/// quantity.
pub fn number(text: &str) -> Option<f64> {
    let Parts {
        negative,
        digits,
        tens,
        twos,
    } = parts(text)?;
    let number = digits as f64 * 10_f64.powi(tens) * 2_f64.powi(i32::try_from(twos).ok()?);
    Some(if negative { -number } else { number })
}

/// The quantity in whole bytes, as Kubernetes counts them: rounded up, and at most 2^63 - 1. `None`
/// if the text is not a quantity, or negative.
pub fn bytes(quantity: &Quantity) -> Option<u64> {
    let Parts {
        negative,
        digits,
        tens,
        twos,
    } = parts(&quantity.0)?;
    if negative && digits > 0 {
        return None;
    }
    if digits == 0 {
        return Some(0);
    }
    // A number that does not fit into 128 bits is above the largest quantity.
    let Some(scaled) = digits.checked_mul(1 << twos) else {
        return Some(MAX);
    };
    let power = 10_u128.checked_pow(tens.unsigned_abs());
    let whole = match (power, tens >= 0) {
        (Some(power), true) => scaled.saturating_mul(power),
        (None, true) => u128::MAX,
        (Some(power), false) => scaled.div_ceil(power),
        (None, false) => 1,
    };
    Some(u64::try_from(whole).unwrap_or(MAX).min(MAX))
}

/// Bytes as a whole number of the largest binary unit that divides them.
pub fn text(bytes: u64) -> String {
    let units = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let power = (1..units.len())
        .rev()
        .find(|power| bytes > 0 && bytes.is_multiple_of(1 << (10 * power)))
        .unwrap_or(0);
    format!("{}{}", bytes >> (10 * power), units[power])
}

/// Bytes in the largest unit in which they are at least one, rounded down.
pub fn words(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let unit = units
        .iter()
        .enumerate()
        .rev()
        .find(|(power, _)| bytes >= 1 << (10 * power))
        .map_or(0, |(power, _)| power);
    format!("{} {}", bytes >> (10 * unit), units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Option<u64> {
        bytes(&Quantity(text.into()))
    }

    #[test]
    fn quantities_are_read_as_kubernetes_reads_them() {
        let known = [
            ("0", 0),
            ("1", 1),
            ("1Gi", 1 << 30),
            ("1.5Gi", 3 << 29),
            ("500M", 500_000_000),
            ("1k", 1000),
            ("1Ki", 1024),
            ("1Ei", 1 << 60),
            ("1E", 1_000_000_000_000_000_000),
            ("1e9", 1_000_000_000),
            ("1E9", 1_000_000_000),
            ("12e+3", 12_000),
            ("5e-1", 1),
            ("1e-9", 1),
            (".5Gi", 1 << 29),
            ("5.", 5),
            ("+5", 5),
            ("001", 1),
            ("250m", 1),
            ("1500m", 2),
            ("1000000u", 1),
            ("1n", 1),
            ("9223372036854775807", MAX),
            // Larger quantities are reduced to the largest one.
            ("9223372036854775808", MAX),
            ("10E", MAX),
            ("8Ei", MAX),
            ("99999999999G", MAX),
            ("1e999", MAX),
            ("999999999999999999999999999999999999999999999", MAX),
            ("1e-999", 1),
            ("0e999", 0),
        ];
        for (text, expected) in known {
            assert_eq!(of(text), Some(expected), "{text}");
        }
        for text in [
            "", "much", "Gi", ".", "1.2.3", "1 Gi", " 1Gi", "1Gi ", "1gi", "1kb", "1K", "1e",
            "1e+", "1e1.5", "--1", "1ei", "1_000",
        ] {
            assert_eq!(of(text), None, "{text}");
            assert_eq!(number(text), None, "{text}");
        }
        assert_eq!((of("-1"), number("-1")), (None, Some(-1.0)));
        assert_eq!(
            (number("250m"), number("1e3"), number("2Ki"), number("3E")),
            (Some(0.25), Some(1e3), Some(2048.0), Some(3e18))
        );
    }

    #[test]
    fn the_schemas_pattern_takes_what_is_read_here_and_nothing_else() {
        let pattern = regex::Regex::new(PATTERN).unwrap();
        for text in [
            "0", "1Gi", "1.5Gi", "1e9", "1E", "1E9", "12e+3", "5e-1", ".5Gi", "5.", "+5", "250m",
            "1n", "1u",
        ] {
            assert!(pattern.is_match(text) && number(text).is_some(), "{text}");
        }
        for text in [
            "", "much", "Gi", ".", "1.2.3", "1 Gi", "1gi", "1kb", "1K", "1e", "1e+", "-1", "1ei",
        ] {
            assert!(!pattern.is_match(text), "{text}");
        }
    }

    #[test]
    fn bytes_are_written_in_the_largest_unit_that_is_whole() {
        assert_eq!(
            [0, 1000, 768 << 20, 2 << 40].map(text),
            ["0", "1000", "768Mi", "2Ti"]
        );
        assert_eq!(
            [0, 1000, 768 << 20, 2 << 40, u64::MAX].map(words),
            ["0 B", "1000 B", "768 MiB", "2 TiB", "15 EiB"]
        );
    }
}
