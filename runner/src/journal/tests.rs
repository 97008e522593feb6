//! A stage that lives and dies with a journal on disk, against what it must keep.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use proptest::prelude::*;

use super::slots::tests::tear;
use super::*;

/// A folder of one test, removed when it is dropped.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let (process, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let name = format!("freehold-journal-{name}-{process}-{count}");
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn document(program: &str) -> StageDocument {
    let document = format!(
        r#"{{"version": 1, "pipeline": "test/a", "revision": 7, "stage": "in", "group": "g",
            "definition": {{"blocks": [
                {{"name": "clean", "from": ["in"], "transform": {{"vrl": "{program}"}}}}]}}}}"#
    );
    StageDocument::read(document.as_bytes()).unwrap()
}

/// Partition and offset.
type Place = (i32, i64);

const PARTITIONS: i32 = 2;

/// What happens to the process at a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Nothing,
    /// It is killed after the write of this step.
    Killed,
    /// It is killed in the write of this step.
    Torn,
    /// The transaction is aborted.
    Aborted,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => Just(Event::Nothing),
        1 => Just(Event::Killed),
        1 => Just(Event::Torn),
        1 => Just(Event::Aborted),
    ]
}

/// Kafka, and what was seen of the processes.
struct World {
    folder: Folder,
    document: StageDocument,
    /// Records of each partition.
    records: i64,
    batch: usize,
    chunk: usize,
    killers: BTreeSet<Place>,
    events: Vec<Event>,
    committed: BTreeMap<i32, i64>,
    /// How often the effect of each record is committed.
    passed: BTreeMap<Place, u32>,
    dropped: BTreeSet<Place>,
    /// How often a process died with this record alone in its journal.
    alone: BTreeMap<Place, u32>,
    /// How often a record has ended the process.
    killed: BTreeMap<Place, u32>,
}

/// The process is dead.
struct Dead;

impl World {
    fn event(&mut self) -> Event {
        self.events.pop().unwrap_or(Event::Nothing)
    }

    /// The next records in the order in which a consumer could give them.
    fn read(&self) -> Vec<Place> {
        let mut all: Vec<Place> = (0..PARTITIONS)
            .flat_map(|partition| {
                (self.committed[&partition]..self.records).map(move |offset| (partition, offset))
            })
            .collect();
        all.sort_by_key(|(partition, offset)| (offset / 3, *partition));
        all.truncate(self.batch);
        all
    }

    /// A process, from its start until it dies or has read everything.
    fn live(&mut self) -> Result<(), Dead> {
        let mut journal = Journal::open(&self.folder.0, &self.document);
        match self.event() {
            Event::Killed => return Err(Dead),
            Event::Torn => {
                tear(&self.folder.0, 0.5);
                return Err(Dead);
            }
            Event::Nothing | Event::Aborted => {}
        }
        loop {
            let mut batch = self.read();
            if batch.is_empty() {
                return Ok(());
            }
            let is_alone =
                |(partition, offset): &Place| journal.is_alone("in", *partition, *offset);
            if let Some(place) = batch.iter().position(is_alone) {
                batch.truncate(place.max(1));
            }
            journal.rolled_back();
            for chunk in batch.chunks(self.chunk) {
                self.process(&mut journal, chunk)?;
            }
            if self.event() == Event::Aborted {
                continue;
            }
            for (partition, offset) in batch {
                self.committed.insert(partition, offset + 1);
                if !self.dropped.contains(&(partition, offset)) {
                    *self.passed.entry((partition, offset)).or_default() += 1;
                }
            }
            journal.committed();
        }
    }

    fn process(&mut self, journal: &mut Journal, chunk: &[Place]) -> Result<(), Dead> {
        let records: Vec<_> = chunk
            .iter()
            .map(|(partition, offset)| Record::at("in", *partition, *offset, 0))
            .collect();
        let mut done = 0;
        while done < records.len() {
            let count = journal.begin(&records[done..]);
            let group = done..done + count;
            let lone =
                (count == 1 && journal.died(&records[done]).is_none()).then_some(chunk[done]);
            match self.event() {
                Event::Killed => return Err(self.dies(lone)),
                Event::Torn => {
                    tear(&self.folder.0, 0.9);
                    return Err(Dead);
                }
                Event::Nothing | Event::Aborted => {}
            }
            for (place, record) in chunk[group.clone()].iter().zip(&records[group]) {
                if let Some(death) = journal.died(record) {
                    assert!(death.times >= 2 && self.alone[place] >= 2, "{place:?}");
                    self.dropped.insert(*place);
                } else if self.killers.contains(place) {
                    *self.killed.entry(*place).or_default() += 1;
                    return Err(self.dies(lone));
                }
                journal.ran(record);
            }
            journal.end();
            if self.event() == Event::Torn {
                tear(&self.folder.0, 0.2);
                return Err(self.dies(lone));
            }
            done += count;
        }
        Ok(())
    }

    fn dies(&mut self, lone: Option<Place>) -> Dead {
        if let Some(place) = lone {
            *self.alone.entry(place).or_default() += 1;
        }
        Dead
    }
}

proptest! {
    #[test]
    fn only_records_that_died_alone_twice_are_dropped_and_every_killer_is(
        records in 1..25_i64,
        batch in 1..30_usize,
        chunk in 1..10_usize,
        killers in proptest::collection::btree_set((0..PARTITIONS, 0..25_i64), 0..4),
        events in proptest::collection::vec(event(), 0..60),
    ) {
        let mut world = World {
            folder: Folder::new("world"),
            document: document("."),
            records,
            batch,
            chunk,
            killers: killers.into_iter().filter(|(_, offset)| *offset < records).collect(),
            events,
            committed: (0..PARTITIONS).map(|partition| (partition, 0)).collect(),
            passed: BTreeMap::new(),
            dropped: BTreeSet::new(),
            alone: BTreeMap::new(),
            killed: BTreeMap::new(),
        };
        let mut lives = 1;
        while world.live().is_err() {
            lives += 1;
            prop_assert!(lives < 100, "no end");
        }
        for (killer, times) in &world.killed {
            prop_assert!(*times <= 3, "{killer:?} has ended {times} processes");
        }
        prop_assert!(world.killers.is_subset(&world.dropped));
        let all = (0..PARTITIONS)
            .flat_map(|partition| (0..records).map(move |offset| (partition, offset)));
        let passed: Vec<_> = all.filter(|place| !world.dropped.contains(place)).collect();
        prop_assert!(world.passed.keys().eq(&passed));
        prop_assert!(world.passed.values().all(|times| *times == 1));
    }
}

/// The next process of a stage that died on this record alone.
fn after_death_on(folder: &Folder, document: &StageDocument, offset: i64) -> Journal {
    let mut journal = Journal::open(&folder.0, document);
    journal.begin(&[Record::at("in", 0, offset, 0)]);
    journal.enter("clean");
    drop(journal);
    Journal::open(&folder.0, document)
}

#[test]
fn a_changed_program_gets_the_record_again() {
    let (folder, before) = (Folder::new("changed"), document("."));
    let record = Record::at("in", 0, 5, 0);
    after_death_on(&folder, &before, 5);
    let journal = after_death_on(&folder, &before, 5);
    let death = journal.died(&record).unwrap();
    assert_eq!((death.times, death.block.as_deref()), (2, Some("clean")));
    let renumbered = StageDocument {
        revision: 8,
        ..before.clone()
    };
    assert!(
        Journal::open(&folder.0, &renumbered)
            .died(&record)
            .is_some()
    );
    let journal = Journal::open(&folder.0, &document(".a = 1"));
    assert_eq!(
        (journal.died(&record), journal.is_alone("in", 0, 5)),
        (None, false)
    );
    assert!(Journal::open(&folder.0, &before).died(&record).is_none());
}

#[test]
fn without_a_folder_or_with_another_file_the_stage_runs_without_knowledge() {
    let folder = Folder::new("without");
    let records = [Record::at("in", 0, 5, 0), Record::at("in", 0, 6, 0)];
    let mut journal = Journal::open(&folder.0.join("missing"), &document("."));
    assert_eq!(journal.begin(&records), 2);
    std::fs::write(folder.0.join("journal.1"), "not a journal, and long enough").unwrap();
    let mut journal = Journal::open(&folder.0, &document("."));
    assert_eq!(journal.begin(&records), 2);
    assert_eq!(Journal::open(&folder.0, &document(".")).begin(&records), 1);
}
