//! Which letters a replay takes, and what it counts.

use super::*;
use crate::record::{Header, Headers};
use freehold_pipeline::stage_document::StageDocument;
use freehold_pipeline::topics::TopicNames;
use freehold_pipeline_blocks::flow::Identity;

fn flow() -> Flow {
    let document = StageDocument::read(
        br#"{"version": 1, "pipeline": "shop/orders", "revision": 7, "stage": "clean", "group": "g",
            "definition": {"errors": {"deadLetter": {"topic": "dead"}}, "blocks": [
                {"name": "clean~in", "source": {"kafka": {"topic": "in"}}},
                {"name": "clean", "from": ["clean~in"], "transform": {"vrl": ". = 1"}},
                {"name": "out", "from": ["clean"], "sink": {"kafka": {"topic": "out"}}}
            ]}}"#,
    );
    let definition = document.unwrap().definition;
    let identity = Identity::default();
    Flow::compile(&definition, &TopicNames::default(), identity).unwrap()
}

fn replaying(flow: &Flow, change: impl FnOnce(&mut Replay)) -> Replaying {
    let mut request = Replay {
        id: "r1".to_owned(),
        topic: "dead".to_owned(),
        block: "clean".to_owned(),
        error: None,
        since_ms: None,
        until_ms: None,
        records_per_second: None,
        dry_run: false,
    };
    change(&mut request);
    Replaying::new(&request, "shop/orders", flow).unwrap()
}

const GOOD: [Header<'static>; 8] = [
    ("own", Some(b"1")),
    ("freehold.pipeline", Some(b"shop/orders")),
    ("freehold.block", Some(b"clean")),
    ("freehold.error", Some(b"expected integer")),
    ("freehold.topic", Some(b"in")),
    ("freehold.partition", Some(b"3")),
    ("freehold.offset", Some(b"99")),
    ("freehold.time", Some(b"1970-01-01T00:00:05.000Z")),
];

/// A letter with other headers in the place of those of the same names, or besides.
fn headers(changed: &[Header<'static>]) -> Vec<Header<'static>> {
    let is_kept = |header: &&Header<'_>| changed.iter().all(|other| other.0 != header.0);
    let mut all: Vec<Header<'static>> = GOOD.iter().filter(is_kept).copied().collect();
    all.extend(changed);
    all
}

fn record<'a>(headers: &'a [Header<'a>]) -> Record<'a> {
    Record {
        value: Some(b"{}"),
        timestamp: Some(2_000),
        headers: Headers::Plain(headers),
        ..Record::at("dead", 0, 12, 0)
    }
}

/// Counts after a letter with these headers: matched, given up; and whether it is replayed.
fn taken(change: impl FnOnce(&mut Replay), changed: &[Header<'static>]) -> (u64, u64, bool) {
    let flow = flow();
    let mut replaying = replaying(&flow, change);
    let headers = headers(changed);
    let is_taken = replaying.take(&record(&headers), &flow).is_some();
    let counts = replaying.counts();
    assert_eq!(counts.read, 1);
    (counts.matched, counts.given_up, is_taken)
}

const TAKEN: (u64, u64, bool) = (1, 0, true);
const PASSED_OVER: (u64, u64, bool) = (0, 0, false);

#[test]
fn letters_of_the_block_are_taken_and_others_passed_over() {
    let all = |_: &mut Replay| {};
    assert_eq!(taken(all, &[]), TAKEN);
    assert_eq!(taken(all, &[("freehold.block", Some(b"clean~in"))]), TAKEN);
    let others: [Header<'static>; 8] = [
        ("freehold.block", Some(b"out")),
        ("freehold.pipeline", Some(b"shop/other")),
        // Another stage has the block, too, and reads this.
        ("freehold.topic", Some(b"elsewhere")),
        ("freehold.replay", Some(b"r1")),
        ("freehold.partition", Some(b"three")),
        // A producer would try for ever to write there.
        ("freehold.partition", Some(b"-3")),
        ("freehold.offset", Some(b"-1")),
        ("freehold.block", None),
    ];
    for other in others {
        assert_eq!(taken(all, &[other]), PASSED_OVER, "{other:?}");
    }
    assert_eq!(taken(all, &[("freehold.replay", Some(b"r0"))]), TAKEN);
}

#[test]
fn a_record_that_is_no_letter_is_passed_over() {
    let flow = flow();
    let mut replaying = replaying(&flow, |_| {});
    assert!(replaying.take(&record(&GOOD[..1]), &flow).is_none());
    assert_eq!(
        (replaying.counts().read, replaying.counts().matched),
        (1, 0)
    );
}

#[test]
fn error_and_time_choose() {
    let error = |text: &'static str| move |replay: &mut Replay| replay.error = Some(text.into());
    assert_eq!(taken(error("integer"), &[]), TAKEN);
    assert_eq!(taken(error("float"), &[]), PASSED_OVER);
    let between = |since, until| {
        move |replay: &mut Replay| (replay.since_ms, replay.until_ms) = (Some(since), Some(until))
    };
    assert_eq!(taken(between(5_000, 5_001), &[]), TAKEN);
    assert_eq!(taken(between(5_001, 9_000), &[]), PASSED_OVER);
    assert_eq!(taken(between(1_000, 5_000), &[]), PASSED_OVER);
    // A letter of an older version has only its record's time.
    let old = [("freehold.time", Some(&b"long ago"[..]))];
    assert_eq!(taken(between(2_000, 2_001), &old), TAKEN);
}

#[test]
fn a_letter_that_was_replayed_often_is_given_up() {
    let all = |_: &mut Replay| {};
    assert_eq!(taken(all, &[("freehold.replays", Some(b"2"))]), TAKEN);
    assert_eq!(
        taken(all, &[("freehold.replays", Some(b"3"))]),
        (1, 1, false)
    );
}

/// It would delete its key, or be another record.
#[test]
fn a_letter_without_its_value_is_given_up() {
    let left_out = ("freehold.left-out", Some(&b"value"[..]));
    assert_eq!(taken(|_| {}, &[left_out]), (1, 1, false));
    let other = ("freehold.left-out", Some(&b"value"[..]));
    let of_other = ("freehold.block", Some(&b"out"[..]));
    assert_eq!(taken(|_| {}, &[other, of_other]), PASSED_OVER);
}

#[test]
fn a_record_is_as_it_was_read() {
    let flow = flow();
    let mut replaying = replaying(&flow, |_| {});
    let headers = headers(&[
        ("freehold.replays", Some(b"1")),
        ("freehold.way", Some(b"a,b")),
    ]);
    let record = record(&headers);
    let (letter, replayed) = replaying.take(&record, &flow).unwrap();
    assert_eq!((replayed.times, replayed.way.as_deref()), (2, Some("a,b")));
    letter.with_record(&record, |input| {
        assert_eq!((input.topic, input.partition, input.offset), ("in", 3, 99));
        assert_eq!(
            (input.timestamp, input.value),
            (Some(2_000), Some(&b"{}"[..]))
        );
        let names: Vec<&str> = input.headers.iter().map(|header| header.name).collect();
        assert_eq!(names, ["own"]);
    });
}

#[test]
fn a_record_that_a_process_died_on_runs_through_the_whole_stage() {
    let flow = flow();
    let route = |changed: &[Header<'static>]| {
        let headers = headers(changed);
        let taken = replaying(&flow, |_| {}).take(&record(&headers), &flow);
        taken.unwrap().1.route
    };
    let died = (
        "freehold.error",
        Some(&b"ProcessDied: the process died"[..]),
    );
    assert_eq!(*route(&[died]), flow.route("clean~in").unwrap());
    assert_eq!(*route(&[]), flow.route("clean").unwrap());
    // It died in a replay: that one began with the block that the letter names.
    let again = route(&[died, ("freehold.replays", Some(b"1"))]);
    assert_eq!(*again, flow.route("clean").unwrap());
}

#[test]
fn counts_go_on_from_what_is_kept_with_positions() {
    let flow = flow();
    let mut replaying = replaying(&flow, |_| {});
    let headers = headers(&[]);
    replaying.take(&record(&headers), &flow);
    replaying.ran(false);
    let note = replaying.counts().note();
    assert_eq!(note, "1 1 1 0 0");
    replaying.committed();
    replaying.take(&record(&headers), &flow);
    replaying.ran(true);
    replaying.rolled_back();
    assert_eq!(replaying.counts().note(), note);
    replaying.noted(&["40 30 20 9 1".to_owned(), "no counts".to_owned(), note]);
    assert_eq!(
        (replaying.counts().read, replaying.counts().failed),
        (40, 9)
    );
    replaying.noted(&[]);
    assert_eq!(replaying.counts(), ReplayCounts::default());
}

#[test]
fn a_block_that_is_gone_is_named() {
    let flow = flow();
    let request = Replay {
        block: "gone".to_owned(),
        ..replaying(&flow, |_| {}).request
    };
    let why = Replaying::new(&request, "shop/orders", &flow).unwrap_err();
    assert!(why.contains("no block gone"), "{why}");
}
