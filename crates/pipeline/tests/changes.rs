//! What `freehold pipeline diff` says.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use freehold_pipeline::changes::changes;
use freehold_pipeline::definition::Definition;

fn definition(text: &str) -> Definition {
    serde_saphyr::from_str(text).unwrap()
}

const BEFORE: &str = r#"
functions: {mask: ".card = \"x\"", gone: "1"}
errors: {deadLetter: {topic: bad}}
blocks:
- {name: orders, source: {kafka: {topic: orders}}}
- name: clean
  from: [orders]
  transform:
    vrl: |
      .a = 1
      .b = 2
- {name: big, from: [clean], filter: {when: ".total > 10"}}
- {name: region, from: [big], split: {cases: [{name: eu, when: "true"}]}}
- {name: out, from: [region.eu], sink: {kafka: {topic: out}}}
"#;

#[test]
fn nothing_changed_means_no_line() {
    assert!(changes(&definition(BEFORE), &definition(BEFORE)).is_empty());
}

#[test]
fn changes_are_named_by_block_and_line() {
    let after = BEFORE
        .replace(".b = 2", ".b = 3")
        .replace(
            "- {name: big, from: [clean], filter: {when: \".total > 10\"}}\n",
            "",
        )
        .replace("from: [big]", "from: [clean]")
        .replace("topic: out}", "topic: elsewhere, partition: ByKey}")
        .replace("topic: bad", "topic: worse")
        .replace(", gone: \"1\"", "")
        .replace(".card = \\\"x\\\"", ".card = \\\"y\\\"")
        + "- {name: all, from: [clean], sink: {kafka: {topic: all}}}\ndelivery: AtLeastOnce\n";
    let lines = changes(&definition(BEFORE), &definition(&after));
    assert_eq!(
        lines,
        [
            "block big (filter) removed",
            "block all (sink) added",
            "block clean: transform.vrl changed at line 2",
            "block out: sink.kafka.partition: Keep -> ByKey",
            "block out: sink.kafka.topic: out -> elsewhere",
            "block region: from[0]: big -> clean",
            "delivery: ExactlyOnce -> AtLeastOnce",
            "function gone removed",
            "function mask: changed at line 1",
            "errors.deadLetter.topic: bad -> worse",
        ]
    );
}

#[test]
fn a_block_of_another_type_is_said_so() {
    let after = BEFORE.replace(
        "filter: {when: \".total > 10\"}",
        "transform: {vrl: \".x = 1\"}",
    );
    let lines = changes(&definition(BEFORE), &definition(&after));
    assert_eq!(lines, ["block big: was a filter, is a transform"]);
}
