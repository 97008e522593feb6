//! Lanes with a sink in memory: order, gaps, waits, refusals.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use freehold_pipeline::definition::Definition;
use freehold_pipeline::report::Stopped;
use tokio::runtime::Runtime;

use super::lane::Lane;
use super::lanes::Lanes;
use super::policy::{LetterError, Letters, Policy, Refused};
use super::sink::{OwnedRecord, Parcel, Sink, Then};
use crate::flow::BlockFigures;
use crate::record::Record;

/// Takes records one by one. What it does with a record stands in a script by offset, for all
/// partitions; each entry is used once.
#[derive(Default)]
struct Fake {
    state: Arc<Mutex<State>>,
    flushes_late: bool,
}

#[derive(Default)]
struct State {
    script: BTreeMap<(i32, i64), Vec<Then>>,
    /// Partition and offset of what was taken, in order.
    taken: Vec<(i32, i64)>,
    /// Partitions whose deliveries do not end.
    stuck: Vec<i32>,
    most_under_way: usize,
    /// Parcels without an offset: as a file, one would take the name of the next one.
    empty: usize,
    under_way: usize,
}

impl Sink for Fake {
    type Package = Vec<OwnedRecord>;
    const FLUSHES: bool = true;

    fn open(&self) -> Vec<OwnedRecord> {
        Vec::new()
    }

    fn add(&self, package: &mut Vec<OwnedRecord>, record: &Record<'_>) -> Result<(), String> {
        if record.value == Some(b"unfit") {
            return Err("unfit".to_owned());
        }
        package.push(OwnedRecord::of(record));
        Ok(())
    }

    fn held(&self, package: &Vec<OwnedRecord>) -> usize {
        package.iter().map(OwnedRecord::size).sum()
    }

    fn is_full(&self, package: &Vec<OwnedRecord>) -> bool {
        package.len() >= 10
    }

    fn is_due(&self, _: Duration) -> bool {
        !self.flushes_late
    }

    fn seal(&self, _: &mut Vec<OwnedRecord>) {}

    async fn deliver(&self, parcel: &Parcel<Vec<OwnedRecord>>) -> Then {
        {
            let mut state = self.state.lock().unwrap();
            state.empty += usize::from(parcel.next == parcel.first);
            state.under_way += 1;
            state.most_under_way = state.most_under_way.max(state.under_way);
        }
        let then = self.try_all(parcel).await;
        self.state.lock().unwrap().under_way -= 1;
        then
    }

    fn record<'p>(&self, package: &'p Vec<OwnedRecord>, place: usize) -> Option<&'p OwnedRecord> {
        package.get(place)
    }

    fn reached(&self, parcel: &Parcel<Vec<OwnedRecord>>, done: usize) -> i64 {
        parcel
            .package
            .get(done)
            .map_or(parcel.next, |next| next.offset)
    }
}

impl Fake {
    async fn try_all(&self, parcel: &Parcel<Vec<OwnedRecord>>) -> Then {
        while let Some(record) = parcel.package.get(parcel.done()) {
            let place = (parcel.partition, record.offset);
            tokio::time::sleep(Duration::from_millis(1)).await;
            while self.state.lock().unwrap().stuck.contains(&parcel.partition) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            let mut state = self.state.lock().unwrap();
            if let Some(then) = state.script.get_mut(&place).and_then(Vec::pop) {
                return then;
            }
            state.taken.push(place);
            drop(state);
            parcel.set_done(parcel.done() + 1);
        }
        Then::Done
    }
}

/// Dead letters in memory; the first tries fail.
#[derive(Default)]
struct Letterbox {
    written: Arc<Mutex<Vec<i64>>>,
    fails: u32,
}

impl Letters for Letterbox {
    fn write(&mut self, refused: &Refused<'_>) -> Result<(), LetterError> {
        if self.fails > 0 {
            self.fails -= 1;
            return Err(LetterError::Later("no such topic".to_owned()));
        }
        self.written.lock().unwrap().push(refused.record.offset);
        Ok(())
    }
}

/// Lanes of a sink, with what they share with the test.
struct Setup {
    lanes: Lanes<Fake, Letterbox>,
    state: Arc<Mutex<State>>,
    letters: Arc<Mutex<Vec<i64>>>,
    counts: BlockFigures,
    stopped: Option<Stopped>,
    _runtime: Runtime,
}

impl Setup {
    /// Lanes of so many partitions, each with an error policy.
    fn new(errors: &str, partitions: i32, fails: u32, flushes_late: bool) -> Self {
        let definition: Definition = serde_json::from_str(&format!(
            r#"{{"errors": {errors}, "blocks": [
                {{"name": "in", "source": {{"kafka": {{"topic": "t"}}}}}},
                {{"name": "out", "from": ["in"], "sink": {{"http": {{"url": "http://a"}}}}}}]}}"#
        ))
        .unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (sink, counts) = (
            Fake {
                flushes_late,
                ..Fake::default()
            },
            BlockFigures::default(),
        );
        let letterbox = Letterbox {
            fails,
            ..Letterbox::default()
        };
        let (state, letters) = (Arc::clone(&sink.state), Arc::clone(&letterbox.written));
        let blocks = [&definition.blocks[0], &definition.blocks[1]];
        let policy = Policy::new(&definition, blocks, letterbox, &counts);
        let mut lanes = Lanes::new(sink, policy, runtime.handle());
        lanes.all = (0..partitions).map(|at| Lane::new("t", at, 0, 0)).collect();
        Self {
            lanes,
            state,
            letters,
            counts,
            stopped: None,
            _runtime: runtime,
        }
    }

    fn push(&mut self, partition: i32, offset: i64, value: Option<&[u8]>) {
        self.lanes.push(&Record {
            value,
            ..Record::at("t", partition, offset, 0)
        });
    }

    fn script(&self, partition: i32, offset: i64, then: &[Then]) {
        let mut state = self.state.lock().unwrap();
        state.script.insert((partition, offset), then.to_vec());
    }

    /// Turns until it is so.
    fn until(&mut self, what: &str, is_true: impl Fn(&Self) -> bool) {
        let began = Instant::now();
        while !is_true(self) {
            assert!(began.elapsed() < PATIENCE, "{what}");
            let stopped = self.lanes.turn();
            self.stopped = self.stopped.take().or(stopped);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn idle(&mut self) {
        self.until("everything is delivered", |setup| setup.lanes.is_idle());
    }

    fn taken(&self, partition: i32) -> Vec<i64> {
        let state = self.state.lock().unwrap();
        let of_it = state.taken.iter().filter(|(of, _)| *of == partition);
        of_it.map(|(_, offset)| *offset).collect()
    }

    fn position(&self, partition: usize) -> i64 {
        self.lanes.all[partition].position
    }
}

/// Longer than a busy machine needs.
const PATIENCE: Duration = Duration::from_secs(60);

const DEAD_LETTER: &str = r#"{"deadLetter": {"topic": "dead"}}"#;

#[test]
fn a_partition_that_waits_holds_no_other_one_up_and_commits_no_gap() {
    let mut setup = Setup::new(DEAD_LETTER, 12, 0, false);
    setup.state.lock().unwrap().stuck = vec![3];
    for offset in 0..30 {
        for partition in 0..12 {
            setup.push(partition, offset, Some(b"1"));
        }
    }
    setup.until("the others are delivered", |setup| {
        (0..12).all(|at| at == 3 || setup.position(at) == 30)
    });
    assert_eq!((setup.position(3), setup.taken(3).len()), (0, 0));
    assert!(setup.state.lock().unwrap().most_under_way <= 8);
    (30..40).for_each(|offset| setup.push(3, offset, Some(b"1")));
    assert!(setup.lanes.full()[3] && !setup.lanes.full()[4]);
    setup.state.lock().unwrap().stuck.clear();
    setup.idle();
    for partition in 0..12 {
        let count = if partition == 3 { 40 } else { 30 };
        assert_eq!(setup.taken(partition), Vec::from_iter(0..count));
    }
}

#[test]
fn a_failure_is_named_and_tried_again_in_order() {
    let mut setup = Setup::new(DEAD_LETTER, 1, 0, false);
    let again = Then::Retry {
        after: Some(Duration::from_millis(600)),
        why: "busy".to_owned(),
    };
    setup.script(0, 4, &[Then::retry("down"), again]);
    (0..9).for_each(|offset| setup.push(0, offset, Some(b"1")));
    let began = Instant::now();
    setup.until("it is named", |setup| setup.lanes.problem() == Some("busy"));
    assert_eq!(setup.position(0), 4);
    setup.until("it is tried again", |setup| {
        setup.lanes.problem() == Some("down")
    });
    assert!(
        began.elapsed() > Duration::from_millis(500),
        "{:?}",
        began.elapsed()
    );
    setup.idle();
    assert_eq!((setup.lanes.problem(), setup.position(0)), (None, 9));
    assert_eq!(setup.taken(0), Vec::from_iter(0..9));
}

#[test]
fn a_refused_record_is_a_dead_letter_before_its_offset_is_passed() {
    // The topic of dead letters is missing at first.
    let mut setup = Setup::new(DEAD_LETTER, 1, 1, false);
    let refused = Then::Refused {
        why: "422".to_owned(),
    };
    setup.script(0, 2, &[refused.clone(), refused]);
    for offset in 0..3 {
        setup.push(0, offset, Some(b"1"));
    }
    setup.push(0, 3, None);
    setup.push(0, 4, Some(b"1"));
    setup.until("it is named", |setup| {
        setup.lanes.problem() == Some("no such topic")
    });
    assert_eq!(
        (setup.position(0), setup.letters.lock().unwrap().len()),
        (2, 0)
    );
    setup.idle();
    assert_eq!((setup.position(0), setup.taken(0)), (5, vec![0, 1, 4]));
    assert_eq!(*setup.letters.lock().unwrap(), [2]);
    setup.lanes.policy.publish();
    let counts = setup.counts.lock().unwrap();
    let [(_, source), (name, sink)] = counts.all() else {
        panic!("{counts:?}");
    };
    assert_eq!(
        (name.as_str(), source.records_in, sink.records_in),
        ("out", 5, 5)
    );
    assert_eq!((sink.records_out, sink.filtered, sink.errors), (3, 1, 1));
    let error = sink.last_error.as_ref().unwrap();
    let address = error.address.as_ref().unwrap();
    assert_eq!((error.message.as_str(), address.offset), ("422", 2));
}

#[test]
fn a_record_that_does_not_fit_is_skipped_or_stops_the_stage_behind_those_before_it() {
    let mut setup = Setup::new(r#"{"policy": "Skip"}"#, 1, 0, false);
    let push = |setup: &mut Setup| {
        for (offset, value) in [(7, &b"1"[..]), (8, b"unfit"), (9, b"1")] {
            setup.push(0, offset, Some(value));
        }
    };
    push(&mut setup);
    setup.idle();
    assert_eq!((setup.taken(0), setup.position(0)), (vec![7, 9], 10));

    let mut setup = Setup::new(r#"{"policy": "Stop"}"#, 1, 0, false);
    push(&mut setup);
    setup.until("it stops", |setup| setup.stopped.is_some());
    assert_eq!((setup.taken(0), setup.position(0)), (vec![7], 8));
    let stopped = setup.stopped.unwrap();
    assert_eq!(
        (stopped.block.as_deref(), stopped.error.as_str()),
        (Some("out"), "unfit")
    );
    assert_eq!(stopped.address.unwrap().to_string(), "t/0/8");
}

#[test]
fn a_stage_that_stops_before_the_first_record_has_delivered_nothing_not_even_an_empty_parcel() {
    let mut setup = Setup::new(r#"{"policy": "Stop"}"#, 1, 0, false);
    setup.push(0, 0, Some(b"unfit"));
    setup.until("it stops", |setup| setup.stopped.is_some());
    assert_eq!(setup.taken(0), Vec::<i64>::new());
    assert_eq!(setup.state.lock().unwrap().empty, 0);
}

#[test]
fn too_many_refused_records_stop_the_stage() {
    let errors = r#"{"policy": "Skip", "threshold": {"ratio": 0.1, "within": "5m"}}"#;
    let mut setup = Setup::new(errors, 1, 0, false);
    for offset in 0..200 {
        let value: &[u8] = if offset >= 150 { b"unfit" } else { b"1" };
        setup.push(0, offset, Some(value));
        setup.until("there is room", |setup| {
            setup.stopped.is_some() || !setup.lanes.full()[0]
        });
    }
    setup.until("it stops", |setup| setup.stopped.is_some());
    let stopped = setup.stopped.unwrap();
    assert!(stopped.error.contains("failed within 5m"), "{stopped:?}");
    assert!(stopped.address.unwrap().offset >= 150);
}

#[test]
fn what_another_process_has_delivered_is_passed_and_the_rest_is_read_again() {
    let mut setup = Setup::new(DEAD_LETTER, 1, 0, false);
    setup.script(0, 0, &[Then::Until { next: 3 }]);
    (0..5).for_each(|offset| setup.push(0, offset, Some(b"1")));
    setup.until("it is told", |setup| setup.lanes.all[0].is_rewound);
    assert_eq!((setup.position(0), setup.lanes.all[0].next), (3, 3));
    // What was read ahead does not come in between.
    setup.push(0, 5, Some(b"1"));
    setup.lanes.all[0].is_rewound = false;
    (3..6).for_each(|offset| setup.push(0, offset, Some(b"1")));
    setup.idle();
    assert_eq!((setup.taken(0), setup.position(0)), (vec![3, 4, 5], 6));
    // Exactly what was sent is there already: nothing is read again.
    setup.script(0, 6, &[Then::Until { next: 7 }]);
    setup.push(0, 6, Some(b"1"));
    setup.idle();
    assert_eq!(
        (setup.position(0), setup.lanes.all[0].is_rewound),
        (7, false)
    );
}

#[test]
fn what_is_not_due_is_delivered_at_the_end_and_what_fails_is_given_up() {
    let mut setup = Setup::new(DEAD_LETTER, 2, 0, true);
    // As often as it is tried until the other partition is at its end.
    let again: Vec<_> = (0..1_000).map(|_| Then::retry("down")).collect();
    setup.script(1, 1, &again);
    for partition in 0..2 {
        (0..3).for_each(|offset| setup.push(partition, offset, Some(b"1")));
    }
    assert_eq!(setup.lanes.turn(), None);
    assert!(!setup.lanes.is_under_way());
    let began = Instant::now();
    while setup.lanes.end().is_some() || !setup.lanes.is_at_end() {
        assert!(began.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!((setup.position(0), setup.position(1)), (3, 1));
}
