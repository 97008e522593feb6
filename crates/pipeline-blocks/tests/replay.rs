//! Dead letters once more through the blocks: what has an effect, and what becomes a letter again.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use freehold_pipeline::definition::Definition;
use freehold_pipeline::topics::TopicNames;
use freehold_pipeline_blocks::event::{Header, Input};
use freehold_pipeline_blocks::flow::replay::Replayed;
use freehold_pipeline_blocks::flow::{Died, Flow, Identity, Refused, Work};
use freehold_pipeline_blocks::output::{Output, Outputs};
use freehold_pipeline_blocks::{clock, isolation};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What blocks wrote: topic, value, headers.
#[derive(Debug, Default)]
struct Written(Vec<(String, String, BTreeMap<String, String>)>);

impl Outputs for Written {
    fn write(&mut self, output: Output<'_>) {
        let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap()).into_owned();
        let headers = output.headers.iter();
        self.0.push((
            output.topic.to_owned(),
            text(output.value),
            headers
                .map(|header| (header.name.to_owned(), text(header.value)))
                .collect(),
        ));
    }
}

impl Written {
    /// Topic and value of each output; of a dead letter the block in the place of the value.
    fn short(&self) -> Vec<String> {
        let all = self.0.iter();
        all.map(|(topic, value, headers)| match topic.as_str() {
            "dead" => format!("dead at {}", headers["freehold.block"]),
            _ => format!("{topic} {value}"),
        })
        .collect()
    }

    /// The headers of the only output.
    fn header(&self, name: &str) -> Option<&str> {
        assert_eq!(self.0.len(), 1, "{self:?}");
        self.0[0]
            .2
            .get(&format!("freehold.{name}"))
            .map(String::as_str)
    }
}

/// A Pipeline: its blocks as YAML, one a line.
fn pipeline(blocks: &str) -> Definition {
    let text = format!("errors: {{deadLetter: {{topic: dead}}}}\nblocks:\n{blocks}");
    serde_saphyr::from_str(&text).unwrap()
}

fn compiled(definition: &Definition) -> Flow {
    let identity = Identity {
        pipeline: "shop/orders".to_owned(),
        revision: 4,
    };
    Flow::compile(definition, &TopicNames::default(), identity).unwrap()
}

fn input<'a>(topic: &'a str, value: &'a str) -> Input<'a> {
    Input {
        topic,
        partition: 1,
        offset: 7,
        timestamp: Some(1_000),
        key: Some(b"k"),
        value: Some(value.as_bytes()),
        headers: &[Header {
            name: "own",
            value: Some(b"1"),
        }],
    }
}

fn letter(flow: &Flow, block: &str, way: Option<&str>) -> Replayed {
    Replayed {
        route: Arc::new(flow.route(block).unwrap()),
        way: way.map(str::to_owned),
        topic: "dead".to_owned(),
        id: "r1".to_owned(),
        times: 2,
    }
}

/// What the blocks write for a record that was a letter of `block`.
fn replayed(blocks: &str, block: &str, way: Option<&str>, value: &str) -> Written {
    replayed_as(blocks, block, way, value, Work::default())
}

fn replayed_as(
    blocks: &str,
    block: &str,
    way: Option<&str>,
    value: &str,
    work: Work<'_>,
) -> Written {
    let definition = pipeline(blocks);
    let run = || {
        let mut flow = compiled(&definition);
        let mut written = Written::default();
        let letter = letter(&flow, block, way);
        let done = flow.process_replayed(input("in", value), letter, work, &mut written);
        assert_eq!(done, Ok(()));
        let has_letter = written.short().iter().any(|one| one.starts_with("dead"));
        assert_eq!(flow.failure().is_some(), has_letter, "{written:?}");
        written
    };
    isolation::on_large_stack(run).unwrap()
}

/// What the blocks write for a record that is read the first time.
fn processed(blocks: &str, value: &str) -> Written {
    let definition = pipeline(blocks);
    let run = || {
        let (mut flow, mut written) = (compiled(&definition), Written::default());
        clock::set(1_700_000_000_123);
        flow.process(input("in", value), &mut written).unwrap();
        written
    };
    isolation::on_large_stack(run).unwrap()
}

const BRANCHES: &str = "
- {name: in, source: {kafka: {topic: in}}}
- {name: first, from: [in], transform: {vrl: '. = int!(.) + 0'}}
- {name: raw, from: [in], sink: {kafka: {topic: raw}}}
- {name: all, from: [first], sink: {kafka: {topic: all}}}
- {name: loud, from: [first], alert: {when: 'true', to: {topic: alerts}}}
- {name: clean, from: [first], transform: {vrl: 'assert!(. != 3)'}}
- {name: out, from: [clean], sink: {kafka: {topic: out}}}
- {name: high, from: [clean], alert: {when: 'int!(.) > 5', onError: Fail, to: {topic: high}}}
";

#[test]
fn only_what_is_behind_the_block_has_an_effect() {
    let first = processed(BRANCHES, "4").short();
    assert!(
        first.contains(&"raw 4".to_owned()) && first.len() == 4,
        "{first:?}"
    );
    assert_eq!(replayed(BRANCHES, "clean", None, "4").short(), ["out 4"]);
    let with_alert = replayed(BRANCHES, "clean", None, "8");
    let topics: Vec<&str> = with_alert.0.iter().map(|one| one.0.as_str()).collect();
    assert_eq!(topics, ["out", "high"]);
    assert_eq!(replayed(BRANCHES, "out", None, "4").short(), ["out 4"]);
    assert_eq!(replayed(BRANCHES, "all", None, "4").short(), ["all 4"]);
}

#[test]
fn a_block_that_is_the_source_runs_the_whole_stage() {
    let all = replayed(BRANCHES, "in", None, "4").short();
    assert_eq!(all, processed(BRANCHES, "4").short());
    let again = replayed(BRANCHES, "in", None, "{");
    assert_eq!(again.short(), ["dead at in"]);
}

#[test]
fn a_record_that_fails_again_is_a_letter_with_one_replay_more() {
    let again = replayed(BRANCHES, "clean", None, "3");
    assert_eq!(again.short(), ["dead at clean"]);
    let (_, value, headers) = &again.0[0];
    assert_eq!(value, "3");
    assert_eq!(headers["own"], "1");
    let expected = [
        ("block", Some("clean")),
        ("topic", Some("in")),
        ("partition", Some("1")),
        ("offset", Some("7")),
        ("pipeline", Some("shop/orders")),
        ("revision", Some("4")),
        ("replays", Some("2")),
        ("replay", Some("r1")),
        ("way", None),
    ];
    for (name, value) in expected {
        assert_eq!(again.header(name), value, "{name}");
    }
}

#[test]
fn a_letter_has_its_time_and_nothing_of_a_replay_when_it_is_written_first() {
    let definition = pipeline(BRANCHES);
    let run = || {
        let (mut flow, mut written) = (compiled(&definition), Written::default());
        clock::set(1_700_000_000_123);
        let headers = [Header {
            name: "freehold.replays",
            value: Some(b"3"),
        }];
        let input = Input {
            headers: &headers,
            ..input("in", "x")
        };
        flow.process(input, &mut written).unwrap();
        written
    };
    let written = isolation::on_large_stack(run).unwrap();
    assert_eq!(written.header("time"), Some("2023-11-14T22:13:20.123Z"));
    assert_eq!(
        (written.header("replays"), written.header("replay")),
        (None, None)
    );
}

#[test]
fn a_letter_is_of_its_block_though_one_before_fails_now() {
    let again = replayed(BRANCHES, "clean", None, "\"x\"");
    // A letter of `first` would go to `all` and `loud` too, a second time.
    assert_eq!(again.short(), ["dead at clean"]);
    assert!(again.header("error").unwrap().starts_with("block first: "));
    assert_eq!(again.header("replays"), Some("2"));
}

#[test]
fn a_letter_stays_one_whatever_the_policy() {
    for policy in ["Skip", "Stop"] {
        let blocks = BRANCHES.replace(
            "transform: {vrl: 'assert!(. != 3)'}",
            &format!("transform: {{vrl: 'assert!(. != 3)'}}, errors: {{policy: {policy}}}"),
        );
        let again = replayed(&blocks, "clean", None, "3").short();
        assert_eq!(again, ["dead at clean"], "{policy}");
    }
}

const CASES: &str = "
- {name: in, source: {kafka: {topic: in}}}
- {name: cut, from: [in], filter: {when: 'int!(.) < 100', onError: Fail}}
- {name: size, from: [cut], split: {default: small, cases: [{name: big, when: 'int!(.) > 10', onError: Fail}]}}
- {name: clean, from: [size.big], transform: {vrl: 'assert!(. != 13)'}}
- {name: big, from: [clean], sink: {kafka: {topic: big}}}
- {name: small, from: [size.small], sink: {kafka: {topic: small}}}
- {name: merged, from: [clean, size.small], filter: {when: 'assert!(. != 5)', onError: Fail}}
- {name: all, from: [merged], sink: {kafka: {topic: all}}}
";

#[test]
fn a_merge_behind_the_block_gets_the_record_and_other_cases_do_not() {
    assert_eq!(
        replayed(CASES, "clean", None, "20").short(),
        ["big 20", "all 20"]
    );
    assert_eq!(replayed(CASES, "merged", None, "20").short(), ["all 20"]);
    assert_eq!(replayed(CASES, "merged", None, "4").short(), ["all 4"]);
}

#[test]
fn a_record_that_another_case_gets_now_is_not_lost() {
    let again = replayed(CASES, "clean", None, "4");
    assert_eq!(again.short(), ["dead at clean"]);
    assert!(again.header("error").unwrap().starts_with("NotReached: "));
    // The filter before drops it: that is what the program says.
    assert!(replayed(CASES, "clean", None, "200").0.is_empty());
}

#[test]
fn a_letter_behind_a_merge_knows_its_way() {
    let first = processed(CASES, "5");
    let letters = first.0.iter().find(|one| one.0 == "dead").unwrap();
    assert_eq!(letters.2["freehold.way"], "in,cut,size,merged");
    // Its case has changed since.
    let way = Some("in,cut,size,clean,merged");
    assert_eq!(replayed(CASES, "merged", way, "4").short(), ["all 4"]);
}

/// Both ways of a record meet: each fails by itself, and is replayed by itself.
const BOTH: &str = "
- {name: in, source: {kafka: {topic: in}}}
- {name: one, from: [in], transform: {vrl: '. = int!(.) + 1'}}
- {name: two, from: [in], transform: {vrl: '. = int!(.) + 2'}}
- {name: met, from: [one, two], filter: {when: 'int!(.) < FEW', onError: Fail}}
- {name: out, from: [met], sink: {kafka: {topic: out}}}
";

#[test]
fn of_two_ways_to_a_block_a_letter_takes_its_own() {
    let failing = BOTH.replace("int!(.) < FEW", "assert!(int!(.) > 9)");
    let first = processed(&failing, "1");
    let ways: Vec<&str> = first
        .0
        .iter()
        .map(|one| one.2["freehold.way"].as_str())
        .collect();
    assert_eq!(ways, ["in,one,met", "in,two,met"]);
    let mended = BOTH.replace("FEW", "100");
    assert_eq!(
        replayed(&mended, "met", Some(ways[0]), "1").short(),
        ["out 2"]
    );
    assert_eq!(
        replayed(&mended, "met", Some(ways[1]), "1").short(),
        ["out 3"]
    );
    // A way that is no way in this revision: each counts.
    let both = replayed(&mended, "met", Some("in,gone,met"), "1").short();
    assert_eq!(both, ["out 2", "out 3"]);
    // It fails again with the way that it took.
    let again = replayed(&failing, "met", Some(ways[1]), "1");
    assert_eq!(again.header("way"), Some(ways[1]));
}

const ALERTED: &str = "
- {name: in, source: {kafka: {topic: in}}}
- {name: high, from: [in], alert: {when: 'int!(.) > 5', onError: Fail, to: {topic: alerts}}}
- {name: tell, from: [high], transform: {vrl: '. = string!(.block)'}}
- {name: out, from: [tell], sink: {kafka: {topic: out}}}
";

#[test]
fn behind_an_alert_the_record_is_the_alert_and_it_is_not_raised_again() {
    let failing = ALERTED.replace(". = string!(.block)", "assert!(false)");
    let first = processed(&failing, "8");
    assert_eq!(first.0[1].0, "dead", "{first:?}");
    let (_, alert, _) = &first.0[1];
    assert_eq!(
        replayed(ALERTED, "tell", None, alert).short(),
        ["out \"high\""]
    );
    // The alert itself failed: its record is one of the source.
    let again = replayed(ALERTED, "high", None, "8");
    let topics: Vec<&str> = again.0.iter().map(|one| one.0.as_str()).collect();
    assert_eq!(topics, ["alerts", "out"]);
}

#[test]
fn alerts_and_records_that_meet_are_told_apart_by_their_way() {
    let blocks = format!(
        "{ALERTED}- {{name: both, from: [in, high], transform: {{vrl: '. = [.]'}}}}\n\
         - {{name: end, from: [both], sink: {{kafka: {{topic: end}}}}}}\n"
    );
    let of_alert = replayed(&blocks, "both", Some("high,both"), "{\"block\": 1}");
    assert_eq!(of_alert.short(), ["end [{\"block\":1}]"]);
    let of_record = replayed(&blocks, "both", Some("in,both"), "8");
    assert_eq!(of_record.short(), ["end [8]"]);
    let unknown = replayed(&blocks, "both", None, "8");
    assert_eq!(unknown.short(), ["dead at both"]);
    assert!(unknown.header("error").unwrap().starts_with("NoWay: "));
}

#[test]
fn a_refused_output_and_a_death_are_letters_again() {
    let of = |topic: &str| Refused {
        topic: topic.to_owned(),
        why: "too large".to_owned(),
        times: 1,
    };
    let refused = Work {
        refused: &[of("out")],
        ..Work::default()
    };
    let again = replayed_as(BRANCHES, "clean", None, "4", refused);
    assert_eq!(again.short(), ["dead at out"]);
    assert_eq!(again.header("left-out"), None);
    let both = Work {
        refused: &[of("out"), of("dead")],
        ..Work::default()
    };
    let again = replayed_as(BRANCHES, "clean", None, "4", both);
    assert_eq!(again.short(), ["dead at out"]);
    assert_eq!(again.header("left-out"), Some("value"));
    let died = Work {
        died: Some(Died {
            block: Some("clean"),
            times: 2,
        }),
        ..Work::default()
    };
    let again = replayed_as(BRANCHES, "clean", None, "4", died);
    assert_eq!(again.short(), ["dead at clean"]);
    assert_eq!(again.header("attempts"), Some("2"));
}

#[test]
fn after_a_letter_records_are_run_as_ever() {
    let definition = pipeline(BRANCHES);
    let run = || {
        let mut flow = compiled(&definition);
        let letter = letter(&flow, "clean", None);
        let mut outputs = Written::default();
        flow.process_replayed(input("in", "3"), letter, Work::default(), &mut outputs)
            .unwrap();
        flow.process(input("in", "3"), &mut outputs).unwrap();
        outputs
    };
    let written = isolation::on_large_stack(run).unwrap();
    let dead = written.0.iter().filter(|one| one.0 == "dead");
    let replays: Vec<_> = dead.map(|one| one.2.get("freehold.replays")).collect();
    assert_eq!(replays, [Some(&"2".to_owned()), None]);
    assert!(written.short().contains(&"raw 3".to_owned()));
}

#[test]
fn a_block_that_is_not_there_has_no_route() {
    let definition = pipeline(BRANCHES);
    let found = isolation::on_large_stack(|| {
        let flow = compiled(&definition);
        (flow.route("gone"), flow.route("clean").is_some())
    });
    assert_eq!(found.unwrap(), (None, true));
}
