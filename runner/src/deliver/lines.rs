//! A record as a line of a file or of a batch. Pure.

use freehold_pipeline::source::Format;
use serde::de::IgnoredAny;

/// Appends a value and a line end.
///
/// # Errors
/// Why the value cannot be a line; never the value.
pub fn append(line: &mut Vec<u8>, value: &[u8], format: Format) -> Result<(), &'static str> {
    let has_line_end = value.iter().any(|byte| matches!(byte, b'\n' | b'\r'));
    match format {
        Format::Json if serde_json::from_slice::<IgnoredAny>(value).is_err() => {
            return Err("its value is not JSON");
        }
        // Strings of JSON have no line ends: those that it has are only white space.
        Format::Json if has_line_end => line.extend(value.iter().map(|byte| match byte {
            b'\n' | b'\r' => b' ',
            byte => *byte,
        })),
        Format::Json => line.extend_from_slice(value),
        Format::Text if has_line_end => return Err("its text has a line end"),
        Format::Text if std::str::from_utf8(value).is_err() => return Err("its text is not UTF-8"),
        Format::Text => line.extend_from_slice(value),
        Format::Bytes => return Err("bytes of any kind cannot be a line"),
    }
    line.push(b'\n');
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(value: &str, format: Format) -> Result<String, &'static str> {
        let mut line = Vec::new();
        append(&mut line, value.as_bytes(), format)?;
        Ok(String::from_utf8(line).unwrap())
    }

    #[test]
    fn json_becomes_one_line_and_keeps_its_numbers_and_order() {
        let pretty = "{\r\n  \"b\": 1.10,\n\"a\": \"x\\ny\"}";
        let one = line(pretty, Format::Json).unwrap();
        assert_eq!(one, "{    \"b\": 1.10, \"a\": \"x\\ny\"}\n");
        assert_eq!(line("[1]", Format::Json).unwrap(), "[1]\n");
    }

    #[test]
    fn what_would_break_a_file_of_lines_is_refused() {
        assert!(line("{\"a\"", Format::Json).is_err());
        assert!(line("", Format::Json).is_err());
        assert!(line("one\ntwo", Format::Text).is_err());
        assert_eq!(line("one two", Format::Text).unwrap(), "one two\n");
        assert!(append(&mut Vec::new(), b"\xff", Format::Text).is_err());
        assert!(line("x", Format::Bytes).is_err());
    }
}
