//! The records of the body of a request or an answer. Pure.

use std::fmt;
use std::ops::Range;

use freehold_pipeline::source::Format;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// Records of one request, at most: each takes memory besides its bytes.
pub const RECORDS_MAX: usize = 50_000;

/// How a body is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One JSON document, or an array of them.
    Json,
    /// A JSON document in each line.
    JsonLines,
    /// One record of UTF-8.
    Text,
    /// One record.
    Bytes,
}

impl Kind {
    /// How a body with this Content-Type is read; `None`: the source does not take it.
    #[must_use]
    pub fn of(format: Format, content_type: Option<&str>) -> Option<Self> {
        let kind = content_type.map(|kind| kind.split(';').next().unwrap_or_default().trim());
        match format {
            Format::Text => Some(Self::Text),
            Format::Bytes => Some(Self::Bytes),
            Format::Json => match kind?.to_ascii_lowercase().as_str() {
                "application/json" => Some(Self::Json),
                "application/x-ndjson" => Some(Self::JsonLines),
                _ => None,
            },
        }
    }
}

impl Kind {
    /// How the body of an answer with this Content-Type is read. Endpoints call JSON many names.
    #[must_use]
    pub fn of_answer(format: Format, content_type: Option<&str>) -> Self {
        let kind = content_type.unwrap_or_default().to_ascii_lowercase();
        let kind = kind.split(';').next().unwrap_or_default().trim();
        let lines = ["ndjson", "jsonl", "jsonlines", "json-lines"];
        let is_lines = |name: &str| kind.rsplit('/').next() == Some(name);
        match format {
            Format::Text => Self::Text,
            Format::Bytes => Self::Bytes,
            Format::Json
                if lines
                    .iter()
                    .any(|name| is_lines(name) || is_lines(&format!("x-{name}"))) =>
            {
                Self::JsonLines
            }
            Format::Json => Self::Json,
        }
    }
}

/// A body that has no records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Which part is wrong, and why; never its content.
    Invalid(String),
    /// More than [`RECORDS_MAX`].
    TooMany,
}

/// The place of each record in a body.
///
/// # Errors
/// The first part that is wrong.
pub fn records(kind: Kind, body: &[u8]) -> Result<Vec<Range<usize>>, Refused> {
    match kind {
        Kind::Json => json(body),
        Kind::JsonLines => json_lines(body),
        Kind::Text => match std::str::from_utf8(body) {
            Ok(_) => Ok(whole(body)),
            Err(error) => {
                let why = format!("the body is not UTF-8 after byte {}", error.valid_up_to());
                Err(Refused::Invalid(why))
            }
        },
        Kind::Bytes => Ok(whole(body)),
    }
}

/// The body as one record.
fn whole(body: &[u8]) -> Vec<Range<usize>> {
    std::iter::once(0..body.len()).collect()
}

fn json(body: &[u8]) -> Result<Vec<Range<usize>>, Refused> {
    let document = trimmed(body, 0..body.len());
    if document.is_empty() {
        return Err(Refused::Invalid("the body is empty".to_owned()));
    }
    if body[document.start] != b'[' {
        check(&body[document.clone()])
            .map_err(|why| Refused::Invalid(format!("the body: {why}")))?;
        return Ok(vec![document]);
    }
    let Elements(elements) = serde_json::from_slice(body)
        .map_err(|error| Refused::Invalid(format!("the array: {error}")))?;
    if elements.len() > RECORDS_MAX {
        return Err(Refused::TooMany);
    }
    let place = |(number, element): (usize, &RawValue)| {
        check(element.get().as_bytes())
            .map_err(|why| Refused::Invalid(format!("element {number}: {why}")))?;
        // The element borrows from the body.
        let begin = element.get().as_ptr() as usize - body.as_ptr() as usize;
        Ok(begin..begin + element.get().len())
    };
    (1..).zip(elements).map(place).collect()
}

fn json_lines(body: &[u8]) -> Result<Vec<Range<usize>>, Refused> {
    let (mut records, mut begin) = (Vec::new(), 0);
    for (number, line) in (1..).zip(body.split(|byte| *byte == b'\n')) {
        let document = trimmed(body, begin..begin + line.len());
        begin += line.len() + 1;
        if document.is_empty() {
            continue;
        }
        if records.len() == RECORDS_MAX {
            return Err(Refused::TooMany);
        }
        check(&body[document.clone()])
            .map_err(|why| Refused::Invalid(format!("line {number}: {why}")))?;
        records.push(document);
    }
    Ok(records)
}

/// The range without the white space of JSON around it.
fn trimmed(body: &[u8], range: Range<usize>) -> Range<usize> {
    let is_document = |byte: &u8| !b" \t\r\n".contains(byte);
    let part = &body[range.clone()];
    let Some(first) = part.iter().position(is_document) else {
        return range.start..range.start;
    };
    let last = part.iter().rposition(is_document).unwrap_or(first);
    range.start + first..range.start + last + 1
}

/// Checks one document as the blocks that read it do: its nesting (at most 127 levels), strings
/// and numbers. Nothing of it is kept.
fn check(document: &[u8]) -> Result<(), String> {
    serde_json::from_slice::<Checked>(document)
        .map(drop)
        .map_err(|error| error.to_string())
}

/// Any JSON value, checked and dropped.
struct Checked;

impl<'de> Deserialize<'de> for Checked {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Checked)
    }
}

impl<'de> Visitor<'de> for Checked {
    type Value = Self;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(Self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(Self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(Self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(Self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(Self)
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(Self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Self, A::Error> {
        while elements.next_element::<Self>()?.is_some() {}
        Ok(Self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Self, A::Error> {
        while fields.next_entry::<Self, Self>()?.is_some() {}
        Ok(Self)
    }
}

/// The elements of an array as they are: at most one more than a request may have.
struct Elements<'a>(Vec<&'a RawValue>);

impl<'de> Deserialize<'de> for Elements<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(Elements(Vec::new()))
    }
}

impl<'de> Visitor<'de> for Elements<'de> {
    type Value = Self;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut elements: A) -> Result<Self, A::Error> {
        while let Some(element) = elements.next_element()? {
            if self.0.len() <= RECORDS_MAX {
                self.0.push(element);
            }
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn texts(kind: Kind, body: &str) -> Result<Vec<&str>, Refused> {
        let ranges = records(kind, body.as_bytes())?;
        Ok(ranges.into_iter().map(|range| &body[range]).collect())
    }

    fn wrong(kind: Kind, body: &[u8]) -> String {
        match records(kind, body) {
            Err(Refused::Invalid(why)) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_document_is_a_record_with_the_bytes_that_were_sent() {
        let of = |body| texts(Kind::Json, body).unwrap();
        assert_eq!(of(" {\"a\":  1.50} \r\n"), ["{\"a\":  1.50}"]);
        assert_eq!(of("null"), ["null"]);
        assert_eq!(of("[]"), Vec::<&str>::new());
        let array = r#"[ {"a": [1, 2]}, "x]" ,3e2]"#;
        assert_eq!(of(array), [r#"{"a": [1, 2]}"#, r#""x]""#, "3e2"]);
        let lines = "{\"a\":1}\n\n  [2]\r\n\n\"x\"";
        let of = |body| texts(Kind::JsonLines, body).unwrap();
        assert_eq!(of(lines), ["{\"a\":1}", "[2]", "\"x\""]);
        assert_eq!(of("\n\n"), Vec::<&str>::new());
        assert_eq!(texts(Kind::Text, "ä\n").unwrap(), ["ä\n"]);
        assert_eq!(records(Kind::Bytes, b"\xff\0"), Ok(whole(b"\xff\0")));
    }

    #[test]
    fn what_is_wrong_is_named_by_its_place_and_not_repeated() {
        let cases = [
            (Kind::Json, "hush", "the body: expected"),
            (Kind::Json, " ", "the body is empty"),
            (
                Kind::Json,
                "{\"a\":1} hush",
                "the body: trailing characters",
            ),
            (
                Kind::Json,
                "[1, hush]",
                "the array: expected value at line 1 column 5",
            ),
            (Kind::Json, "[1, 2", "the array: EOF"),
            (Kind::Json, "[1, \"\\ud800hush\"]", "element 2: "),
            (
                Kind::JsonLines,
                "1\n\n{\"hush\": }\n",
                "line 3: expected value at line 1",
            ),
            (Kind::JsonLines, "1e999", "line 1: number out of range"),
        ];
        for (kind, body, expected) in cases {
            let why = wrong(kind, body.as_bytes());
            assert!(why.starts_with(expected) && !why.contains("hush"), "{why}");
        }
        assert_eq!(
            wrong(Kind::Text, b"abc\xff"),
            "the body is not UTF-8 after byte 3"
        );
        assert!(wrong(Kind::Json, b"[\"\xff\"]").starts_with("the array: invalid unicode"));
    }

    #[test]
    fn nesting_and_the_number_of_records_are_bounded() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(texts(Kind::JsonLines, &nested(127)).is_ok());
        let why = wrong(Kind::JsonLines, nested(128).as_bytes());
        assert!(why.starts_with("line 1: recursion limit exceeded"), "{why}");
        // As an element it is one level less deep.
        assert!(texts(Kind::Json, &nested(128)).is_ok());
        assert!(wrong(Kind::Json, nested(100_000).as_bytes()).contains("recursion"));
        let many = "1\n".repeat(RECORDS_MAX);
        assert_eq!(texts(Kind::JsonLines, &many).unwrap().len(), RECORDS_MAX);
        assert_eq!(texts(Kind::JsonLines, &(many + "1")), Err(Refused::TooMany));
        let many = format!("[{}1]", "1,".repeat(RECORDS_MAX));
        assert_eq!(texts(Kind::Json, &many), Err(Refused::TooMany));
    }

    /// Bytes as a client might send them: whole documents, pieces of them, and anything else.
    fn bodies() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just(b"{\"a\": [1.5e3, \"\\u00e4\", null]}".to_vec()),
            Just(b"[".to_vec()),
            Just(b"]".to_vec()),
            Just(b",".to_vec()),
            Just(b" \r\n".to_vec()),
            Just(b"\"x]\"".to_vec()),
            Just(b"-0".to_vec()),
            proptest::collection::vec(any::<u8>(), 0..6),
        ];
        proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn records_of_any_body_are_whole_documents_of_it_in_order(body in bodies()) {
            for kind in [Kind::Json, Kind::JsonLines, Kind::Text, Kind::Bytes] {
                let Ok(places) = records(kind, &body) else {
                    continue;
                };
                let mut end = 0;
                for place in places {
                    prop_assert!(end <= place.start && place.end <= body.len());
                    end = place.end;
                    if matches!(kind, Kind::Json | Kind::JsonLines) {
                        let document = serde_json::from_slice::<serde_json::Value>(&body[place]);
                        prop_assert!(document.is_ok());
                    }
                }
            }
        }

        #[test]
        fn an_array_and_lines_give_the_documents_that_were_put_in(numbers in proptest::collection::vec(any::<i64>(), 0..20)) {
            let documents: Vec<_> = numbers.iter().map(|n| serde_json::json!({"n": n})).collect();
            let array = serde_json::to_vec_pretty(&documents).unwrap();
            let lines: Vec<u8> = documents.iter().flat_map(|one| format!("{one}\n").into_bytes()).collect();
            for (kind, body) in [(Kind::Json, array), (Kind::JsonLines, lines)] {
                let read: Vec<serde_json::Value> = records(kind, &body)
                    .unwrap()
                    .into_iter()
                    .map(|place| serde_json::from_slice(&body[place]).unwrap())
                    .collect();
                prop_assert_eq!(&read, &documents);
            }
        }
    }

    #[test]
    fn an_answer_has_lines_if_it_says_so() {
        let of = |kind| Kind::of_answer(Format::Json, kind);
        for lines in [
            "application/x-ndjson",
            "Application/NDJSON; charset=utf-8",
            "application/jsonl",
        ] {
            assert_eq!(of(Some(lines)), Kind::JsonLines, "{lines}");
        }
        for json in [
            None,
            Some("application/json"),
            Some("application/geo+json"),
            Some("text/plain"),
        ] {
            assert_eq!(of(json), Kind::Json, "{json:?}");
        }
        assert_eq!(
            Kind::of_answer(Format::Text, Some("application/x-ndjson")),
            Kind::Text
        );
    }

    #[test]
    fn the_content_type_says_how_json_is_read() {
        let of = |kind| Kind::of(Format::Json, kind);
        assert_eq!(
            of(Some("application/json; charset=utf-8")),
            Some(Kind::Json)
        );
        assert_eq!(of(Some("Application/X-NDJSON")), Some(Kind::JsonLines));
        assert_eq!((of(Some("text/plain")), of(None)), (None, None));
        assert_eq!(Kind::of(Format::Text, None), Some(Kind::Text));
        assert_eq!(
            Kind::of(Format::Bytes, Some("image/png")),
            Some(Kind::Bytes)
        );
    }
}
