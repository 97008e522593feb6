//! Quantities as Kubernetes writes them (`k8s.io/apimachinery/pkg/api/resource`). Pure.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// The number that a text stands for: `1.5Gi`, `500M`, `250m`; `None` for what is no quantity.
pub fn number(text: &str) -> Option<f64> {
    let text = text.trim();
    let digits = text.find(|character: char| !(character.is_ascii_digit() || character == '.')).unwrap_or(text.len());
    let number: f64 = text[..digits].parse().ok()?;
    let factor = match &text[digits..] {
        "" => 1.0,
        "m" => 1e-3,
        "Ki" => 1024.0,
        "Mi" => 1024.0_f64.powi(2),
        "Gi" => 1024.0_f64.powi(3),
        "Ti" => 1024.0_f64.powi(4),
        "Pi" => 1024.0_f64.powi(5),
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        _ => return None,
    };
    Some(number * factor)
}

/// Whole bytes.
pub fn bytes(quantity: &Quantity) -> Option<u64> {
    number(&quantity.0).map(|number| number as u64)
}

/// Bytes in the largest binary unit that leaves a whole number.
pub fn text(bytes: u64) -> String {
    let units = ["", "Ki", "Mi", "Gi", "Ti", "Pi"];
    let power = (1..units.len()).rev().find(|power| bytes > 0 && bytes.is_multiple_of(1 << (10 * power))).unwrap_or(0);
    format!("{}{}", bytes >> (10 * power), units[power])
}

/// Bytes in the largest unit that leaves a number above one.
pub fn words(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let unit = units.iter().enumerate().rev().find(|(power, _)| bytes >= 1 << (10 * power)).map_or(0, |(power, _)| power);
    format!("{} {}", bytes >> (10 * unit), units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_in_binary_and_decimal_units() {
        let bytes = |text: &str| bytes(&Quantity(text.into()));
        assert_eq!(bytes("1Gi"), Some(1 << 30));
        assert_eq!(bytes("1.5Gi"), Some(3 << 29));
        assert_eq!(bytes("500M"), Some(500_000_000));
        assert_eq!(bytes("much"), None);
        assert_eq!(number("250m"), Some(0.25));
        assert_eq!([0, 1000, 768 << 20, 2 << 40].map(text), ["0", "1000", "768Mi", "2Ti"]);
    }
}
