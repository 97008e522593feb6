//! What a record may cost: time, and the depth of what is made of it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use freehold_pipeline::definition::Definition;
use freehold_pipeline::source::Format;
use freehold_pipeline::topics::TopicNames;
use freehold_pipeline_blocks::decode::{DEPTH_MAX, decode};
use freehold_pipeline_blocks::event::Input;
use freehold_pipeline_blocks::figures::SAMPLE;
use freehold_pipeline_blocks::flow::{Flow, Identity};
use freehold_pipeline_blocks::isolation;
use freehold_pipeline_blocks::output::{Output, Outputs};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Topic and value of what is written, or of a dead letter its error.
#[derive(Default)]
struct Written(Vec<(String, String)>);

impl Outputs for Written {
    fn write(&mut self, output: Output<'_>) {
        let mut headers = output.headers.iter();
        let error = headers.find(|header| header.name == "freehold.error");
        let shown = error.map_or(output.value, |header| header.value);
        let text = String::from_utf8_lossy(shown.unwrap_or(b"-")).into_owned();
        self.0.push((output.topic.to_owned(), text));
    }
}

/// What a program makes of a record.
fn run(program: &str, value: &str) -> (String, String) {
    let text = format!(
        "errors: {{deadLetter: {{topic: dead}}}}\n\
         blocks:\n- {{name: in, source: {{kafka: {{topic: in}}}}}}\n\
         - {{name: run, from: [in], transform: {{vrl: {}}}}}\n\
         - {{name: out, from: [run], sink: {{kafka: {{topic: out}}}}}}\n",
        serde_json::to_string(program).unwrap()
    );
    let definition: Definition = serde_saphyr::from_str(&text).unwrap();
    let work = || {
        let names = TopicNames::default();
        let mut flow = Flow::compile(&definition, &names, Identity::default()).unwrap();
        let mut written = Written::default();
        let input = Input {
            topic: "in",
            partition: 0,
            offset: 0,
            timestamp: None,
            key: None,
            value: Some(value.as_bytes()),
            headers: &[],
        };
        flow.process(input, &mut written).unwrap();
        written.0.remove(0)
    };
    isolation::on_large_stack(work).unwrap()
}

/// A variable is copied whole each time that it is read: these are some 10^10 copies, and few
/// expressions.
#[test]
fn a_program_that_takes_too_long_fails_on_its_record() {
    let value = format!("[{}1]", "1,".repeat(90_000));
    let program = "items = array!(.)\ncount = 0\n\
                   for_each(array!(.)) -> |_i, _x| { count = count + length(items) }\n. = count";
    let began = Instant::now();
    let (topic, error) = run(program, &value);
    assert_eq!(topic, "dead");
    assert_eq!(
        error,
        "the program took more than 2 s of CPU time on this record"
    );
    assert!(began.elapsed() < Duration::from_secs(60));
}

/// What is written can be read by the next stage.
#[test]
fn a_result_is_nested_as_deeply_as_an_input_may_be() {
    let nested = |depth: usize| "[".repeat(depth) + "1" + &"]".repeat(depth);
    let deepest = nested(DEPTH_MAX);
    assert!(decode(Format::Json, deepest.as_bytes()).is_ok());
    assert!(decode(Format::Json, nested(DEPTH_MAX + 1).as_bytes()).is_err());
    let made = run(". = [.]", &nested(DEPTH_MAX - 1));
    assert_eq!(made, ("out".to_owned(), deepest.clone()));
    let made = run(". = [.]", &deepest);
    let error = format!("the value is nested deeper than {DEPTH_MAX}");
    assert_eq!(made, ("dead".to_owned(), error));
}

/// The CPU time of a block is that of its own work: neither that of the blocks behind it, nor of
/// those before.
#[test]
fn cpu_time_is_told_of_the_block_that_takes_it() {
    let text = "blocks:\n- {name: in, source: {kafka: {topic: in}}}\n\
        - {name: light, from: [in], transform: {vrl: '.a = 1'}}\n\
        - {name: heavy, from: [light], transform: {vrl: 'count = 0\n\n  for_each(array!(.all)) -> |_i, x| { count = count + int!(x) }\n\n  .sum = count'}}\n\
        - {name: last, from: [heavy], transform: {vrl: '.b = 2'}}\n\
        - {name: out, from: [last], sink: {kafka: {topic: out}}}\n";
    let definition: Definition = serde_saphyr::from_str(text).unwrap();
    let value = format!("{{\"all\": [{}1]}}", "1,".repeat(2_000));
    let work = || {
        let names = TopicNames::default();
        let mut flow = Flow::compile(&definition, &names, Identity::default()).unwrap();
        for offset in 0..SAMPLE as i64 * 4 {
            let input = Input {
                topic: "in",
                partition: 0,
                offset,
                timestamp: None,
                key: None,
                value: Some(value.as_bytes()),
                headers: &[],
            };
            flow.process(input, &mut Written::default()).unwrap();
        }
        let all = flow.figures();
        let all = all.map(|(name, figures)| (name.to_owned(), figures.cpu_nanos));
        all.collect::<BTreeMap<String, u64>>()
    };
    let took = isolation::on_large_stack(work).unwrap();
    for (name, nanos) in &took {
        assert!(*nanos > 0, "{name}: {took:?}");
    }
    for light in ["light", "last"] {
        assert!(took["heavy"] > 3 * took[light], "{took:?}");
    }
}
