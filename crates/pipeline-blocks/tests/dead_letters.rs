//! What is written for a record that Kafka has refused outputs of.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use freehold_pipeline::definition::Definition;
use freehold_pipeline::topics::TopicNames;
use freehold_pipeline_blocks::dead_letter::REFUSALS_MAX;
use freehold_pipeline_blocks::event::{Header, Input};
use freehold_pipeline_blocks::flow::{Died, Flow, Identity, Refused, Work};
use freehold_pipeline_blocks::isolation;
use freehold_pipeline_blocks::output::{Output, Outputs};

/// An output: topic, key, value, and headers without those that all letters have.
#[derive(Debug, PartialEq, Eq)]
struct Shown {
    topic: String,
    key: Option<String>,
    value: Option<String>,
    headers: Vec<String>,
}

#[derive(Default)]
struct Written(Vec<Shown>);

impl Outputs for Written {
    fn write(&mut self, output: Output<'_>) {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let is_shown = |header: &&Header<'_>| {
            let names = ["freehold.block", "freehold.offset", "freehold.left-out"];
            !header.name.starts_with("freehold.") || names.contains(&header.name)
        };
        let headers = output.headers.iter().filter(is_shown);
        self.0.push(Shown {
            topic: output.topic.to_owned(),
            key: output.key.map(text),
            value: output.value.map(text),
            headers: headers
                .map(|header| format!("{}={}", header.name, text(header.value.unwrap())))
                .collect(),
        });
    }
}

/// What two sinks and their letters are for a record that topics have refused so often.
fn written(
    errors: &str,
    value: Option<&str>,
    refused: &[(&str, u32)],
    died: Option<Died<'_>>,
) -> Vec<Shown> {
    let text = format!(
        "errors: {errors}\n\
         blocks:\n- {{name: in, source: {{kafka: {{topic: in}}}}}}\n\
         - {{name: a, from: [in], sink: {{kafka: {{topic: to-a}}}}}}\n\
         - {{name: b, from: [in], sink: {{kafka: {{topic: to-b}}}}}}\n"
    );
    let definition: Definition = serde_saphyr::from_str(&text).unwrap();
    let of = |(topic, times): &(&str, u32)| Refused {
        topic: (*topic).to_owned(),
        why: "too large".to_owned(),
        times: *times,
    };
    let refused: Vec<Refused> = refused.iter().map(of).collect();
    let work = || {
        let names = TopicNames::default();
        let mut flow = Flow::compile(&definition, &names, Identity::default()).unwrap();
        let mut written = Written::default();
        let input = Input {
            topic: "in",
            partition: 0,
            offset: 7,
            timestamp: None,
            key: Some(b"k"),
            value: value.map(str::as_bytes),
            headers: &[Header {
                name: "own",
                value: Some(b"1"),
            }],
        };
        let refused = &refused;
        flow.process_as(input, Work { died, refused }, &mut written)
            .unwrap();
        written.0
    };
    isolation::on_large_stack(work).unwrap()
}

const DEAD: &str = "{deadLetter: {topic: dead}}";

/// A letter with the record's value, and these headers.
fn letter(value: Option<&str>, key: Option<&str>, headers: &[&str]) -> Shown {
    Shown {
        topic: "dead".to_owned(),
        key: key.map(str::to_owned),
        value: value.map(str::to_owned),
        headers: headers.iter().map(|header| (*header).to_owned()).collect(),
    }
}

#[test]
fn what_two_topics_refuse_fails_at_both_blocks() {
    let both = [("to-a", 1), ("to-b", 1)];
    let of = |block: &'static str| {
        let block = format!("freehold.block={block}");
        letter(
            Some("v"),
            Some("k"),
            &["own=1", &block, "freehold.offset=7"],
        )
    };
    assert_eq!(written(DEAD, Some("v"), &both, None), [of("a"), of("b")]);
    assert!(written("{policy: Skip}", Some("v"), &both, None).is_empty());
    let one = written(DEAD, Some("v"), &both[1..], None);
    let topics: Vec<&str> = one.iter().map(|shown| shown.topic.as_str()).collect();
    assert_eq!(topics, ["to-a", "dead"]);
}

#[test]
fn a_letter_that_is_refused_has_less_of_its_record() {
    let after = |times, value| {
        let refused = [("to-a", 1), ("dead", times), ("to-b", 1)];
        written(DEAD, value, &refused, None).remove(0)
    };
    let (block, offset) = ("freehold.block=a", "freehold.offset=7");
    let left_out = |parts: &str| format!("freehold.left-out={parts}");
    let value = left_out("value");
    let first = letter(Some(""), Some("k"), &["own=1", block, offset, &value]);
    assert_eq!(after(1, Some("v")), first);
    let all = left_out("value, key, headers");
    let second = letter(Some(""), None, &[block, offset, &all]);
    assert_eq!(after(REFUSALS_MAX, Some("v")), second);
    // It has no value that could be left out, and stays a letter of a tombstone.
    let rest = left_out("key, headers");
    assert_eq!(after(1, None), letter(None, None, &[block, offset, &rest]));
}

#[test]
fn so_has_that_of_a_record_that_the_process_died_on() {
    let died = Died {
        block: Some("a"),
        times: 2,
    };
    let found = written(DEAD, Some("v"), &[("dead", 1)], Some(died));
    let headers = [
        "own=1",
        "freehold.block=a",
        "freehold.offset=7",
        "freehold.left-out=value",
    ];
    assert_eq!(found, [letter(Some(""), Some("k"), &headers)]);
}
