//! What must hold for any record and any batch.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use freehold_pipeline::definition::Definition;
use freehold_pipeline::source::Format;
use freehold_pipeline::stage_document::StageDocument;
use freehold_pipeline::topics::TopicNames;
use freehold_pipeline_blocks::decode::decode;
use freehold_pipeline_blocks::encode::encode;
use freehold_pipeline_blocks::event::Input;
use freehold_pipeline_blocks::flow::{Flow, Identity};
use freehold_pipeline_blocks::output::{Output, Outputs};
use proptest::prelude::*;

const DEFINITION: &str = r#"
errors: {deadLetter: {topic: bad}}
blocks:
- {name: sensors, source: {kafka: {topic: sensors}}}
- {name: clean, from: [sensors], transform: {vrl: '.celsius = to_float!(.t)'}}
- {name: hot, from: [clean], alert: {when: '.celsius > 50.0', onError: Fail, for: 20s, groupBy: .device, interval: 10s, to: {topic: alerts}}}
- {name: parity, from: [clean], split: {cases: [{name: even, when: '%offset < 20'}], default: odd}}
- {name: even, from: [parity.even], sink: {kafka: {topic: even}}}
- {name: odd, from: [parity.odd], sink: {kafka: {topic: odd}}}
"#;

fn flow() -> Flow {
    let definition: Definition = serde_saphyr::from_str(DEFINITION).unwrap();
    Flow::compile(&definition, &TopicNames::default(), Identity::default()).unwrap()
}

#[derive(Default)]
struct Lines(Vec<String>);

impl Outputs for Lines {
    fn write(&mut self, output: Output<'_>) {
        let text =
            |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or(b"-")).into_owned();
        self.0.push(format!(
            "{} {:?} {} {}",
            output.topic,
            output.destination,
            text(output.key),
            text(output.value)
        ));
    }
}

/// Works on records from `first`; what comes out.
fn work(flow: &mut Flow, values: &[String], first: usize) -> Vec<String> {
    let mut lines = Lines::default();
    for (index, value) in values.iter().enumerate() {
        let offset = i64::try_from(first + index).unwrap();
        let input = Input {
            topic: "sensors",
            partition: 0,
            offset,
            timestamp: Some(offset * 3_000),
            key: Some(b"k"),
            value: Some(value.as_bytes()),
            headers: &[],
        };
        flow.process(input, &mut lines).unwrap();
    }
    lines.0
}

fn value() -> impl Strategy<Value = String> {
    let device = prop_oneof![Just("a"), Just("b")];
    prop_oneof![
        8 => (device, 30..80_i32).prop_map(|(device, t)| format!("{{\"device\":\"{device}\",\"t\":{t}}}")),
        1 => Just("{\"t\":[]}".to_owned()),
        1 => Just("no json".to_owned()),
    ]
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(serde_json::Value::from),
        any::<i64>().prop_map(serde_json::Value::from),
        any::<f64>().prop_filter_map("finite", |number| {
            let whole = number.fract() == 0.0 && number.abs() > 9e18;
            (number.is_finite() && !whole).then(|| serde_json::Value::from(number))
        }),
        any::<String>().prop_map(serde_json::Value::from),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(serde_json::Value::from),
            prop::collection::btree_map(any::<String>(), inner, 0..6)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A batch that is aborted and comes again, in other pieces, gives what one run gives: alerts
    /// keep state between records, and must not count a record twice.
    #[test]
    fn a_batch_that_comes_again_gives_the_same(
        values in prop::collection::vec(value(), 1..40),
        batches in prop::collection::vec((1..8_usize, any::<bool>(), 1..8_usize), 60),
    ) {
        let mut once = flow();
        let expected = work(&mut once, &values, 0);
        let mut again = flow();
        let (mut written, mut at) = (Vec::new(), 0);
        for (size, aborted, other) in batches {
            if at == values.len() {
                break;
            }
            if aborted {
                let end = values.len().min(at + size);
                work(&mut again, &values[at..end], at);
                again.rolled_back();
            }
            let end = values.len().min(at + other);
            written.extend(work(&mut again, &values[at..end], at));
            again.committed();
            at = end;
        }
        prop_assert_eq!(&written[..], &expected[..written.len()]);
        prop_assert!(at < values.len() || written.len() == expected.len());
    }

    #[test]
    fn any_json_is_written_as_it_was_read(value in json()) {
        let text = value.to_string();
        let read = decode(Format::Json, text.as_bytes()).unwrap();
        let mut bytes = Vec::new();
        if encode(Format::Json, &read, &mut bytes).unwrap() {
            let back: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
            prop_assert_eq!(back, value);
        } else {
            prop_assert!(value.is_null());
        }
    }

    #[test]
    fn no_bytes_end_the_process(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for format in [Format::Json, Format::Text, Format::Bytes] {
            if let Ok(value) = decode(format, &bytes) {
                let mut written = Vec::new();
                encode(format, &value, &mut written).unwrap();
            }
        }
        // Most of it is no document; none of it may panic.
        let _ = StageDocument::read(&bytes);
    }
}
