//! Writes Java properties files. Pure.

use std::collections::BTreeMap;
use std::fmt::Write;

/// One `key=value` line for each property, sorted by key and escaped for java.util.Properties.
pub fn render(properties: &BTreeMap<String, String>) -> String {
    let mut text = String::new();
    for (key, value) in properties {
        // Writing to a `String` cannot fail.
        let _ = writeln!(text, "{}={}", escape(key, true), escape(value, false));
    }
    text
}

fn escape(text: &str, key: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for (index, character) in text.chars().enumerate() {
        match character {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            ' ' if index == 0 || key => out.push_str("\\ "),
            '=' | ':' if key => {
                out.push('\\');
                out.push(character);
            }
            '#' | '!' if key && index == 0 => {
                out.push('\\');
                out.push(character);
            }
            character if character.is_ascii() => out.push(character),
            character => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_java_would_read_otherwise_are_escaped() {
        let properties = BTreeMap::from([("a b".to_owned(), " c=d\nä\\".to_owned())]);
        assert_eq!(render(&properties), "a\\ b=\\ c=d\\n\\u00e4\\\\\n");
    }
}
