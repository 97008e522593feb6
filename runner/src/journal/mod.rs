//! The journal of a stage: which records the process works on, in files that outlive it. A record
//! that ends the process (out of memory, stack overflow, abort in a library) is so found, and not
//! run for ever.
//!
//! Only running blocks is in the journal: a process that is killed while it waits for Kafka has
//! died of no record.
//!
//! - [`state`]: what is known, and what a death means. [`slots`]: the files.

pub mod slots;
pub mod state;

use std::io;
use std::path::Path;

use freehold_pipeline::address::Address;
use freehold_pipeline::stage_document::StageDocument;
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use crate::record::Record;
use slots::{Found, Slots};
use state::{Death, Fate, State};

/// The journal of a process. Without files it knows nothing, and costs nothing.
#[derive(Debug, Default)]
pub struct Journal {
    slots: Option<Slots>,
    /// What is run; see [`identity`].
    stage: String,
    state: State,
    /// One record is open.
    is_lone: bool,
    /// The last record of each partition that was run and is not committed; kept while something
    /// is known of records.
    ran: Vec<Address>,
}

/// The body of a file.
#[derive(Deserialize)]
struct Body {
    stage: String,
    state: State,
}

#[derive(Serialize)]
struct BodyOf<'j> {
    stage: &'j str,
    state: &'j State,
}

impl Journal {
    /// Opens the journal of a folder, for a stage. It never fails: without it the stage runs all
    /// the same.
    #[must_use]
    pub fn open(folder: &Path, document: &StageDocument) -> Self {
        let stage = identity(document);
        let (slots, state) = match Slots::open(folder) {
            Ok((slots, found)) => (Some(slots), left_by(found, &stage)),
            Err(error) => {
                let folder = folder.display();
                tracing::warn!(%folder, %error, "there is no crash journal");
                (None, State::default())
            }
        };
        let state = state.after_death();
        state.warn();
        let mut journal = Self {
            slots,
            stage,
            state,
            ..Self::default()
        };
        // A death that is counted must not be counted again.
        journal.write();
        journal
    }

    /// Notes that the first of these records are worked on, and returns how many; at least 1.
    pub fn begin(&mut self, records: &[Record<'_>]) -> usize {
        if self.slots.is_none() {
            return records.len();
        }
        let count = self.state.together(records);
        let is_run = records
            .first()
            .is_some_and(|first| self.died(first).is_none());
        self.is_lone = count == 1 && is_run;
        self.state.close();
        if is_run {
            self.state.open(&records[..count]);
        }
        self.write();
        count
    }

    /// Notes the block that works on the record, if one is worked on alone.
    pub fn enter(&mut self, block: &str) {
        if self.is_lone {
            self.state.enter(block);
            self.write();
        }
    }

    /// Notes that nothing is worked on.
    pub fn end(&mut self) {
        self.is_lone = false;
        self.state.close();
        self.write();
    }

    /// A record was run.
    pub fn ran(&mut self, record: &Record<'_>) {
        if self.state.is_clean() {
            return;
        }
        let of =
            |last: &&mut Address| last.partition == record.partition && last.topic == record.topic;
        match self.ran.iter_mut().find(of) {
            Some(last) => last.offset = record.offset,
            None => self.ran.push(record.address()),
        }
    }

    /// What was run since the last commit will be run again.
    pub fn rolled_back(&mut self) {
        self.ran.clear();
    }

    /// What was run is committed, and will not be run again.
    pub fn committed(&mut self) {
        for last in self.ran.drain(..) {
            self.state.committed(&last);
        }
    }

    /// What is known of a record that is not to be run.
    #[must_use]
    pub fn died(&self, record: &Record<'_>) -> Option<&Death> {
        match self
            .state
            .fate(record.topic, record.partition, record.offset)
        {
            Fate::Died(death) => Some(death),
            Fate::Together | Fate::Careful | Fate::Alone => None,
        }
    }

    /// Whether the record at an address must have a transaction of its own.
    #[must_use]
    pub fn is_alone(&self, topic: &str, partition: i32, offset: i64) -> bool {
        !self.state.is_clean() && self.state.fate(topic, partition, offset) == Fate::Alone
    }

    fn write(&mut self) {
        let Some(slots) = &mut self.slots else {
            return;
        };
        let body = BodyOf {
            stage: &self.stage,
            state: &self.state,
        };
        let written = slots.write(|to| serde_json::to_writer(to, &body).map_err(io::Error::from));
        if let Err(error) = written {
            slots.clear();
            tracing::warn!(%error, "the crash journal cannot be written; the stage runs without it");
            *self = Self::default();
        }
    }
}

/// The hash of what is run. The number of the revision is left out: it changes when another stage
/// is changed.
fn identity(document: &StageDocument) -> String {
    let document = StageDocument {
        revision: 0,
        ..document.clone()
    };
    let json = serde_json::to_vec(&document).unwrap_or_default();
    let hash = digest(&SHA256, &json);
    hash.as_ref()[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// The state that a process of the same stage has left.
fn left_by(found: Found, stage: &str) -> State {
    let body = match found {
        Found::Nothing => return State::default(),
        Found::Body(bytes) => serde_json::from_slice::<Body>(&bytes).ok(),
        Found::Alien => None,
    };
    match body {
        Some(body) if body.stage == stage => body.state,
        Some(_) => {
            tracing::info!("the stage has changed: its crash journal begins anew");
            State::default()
        }
        None => {
            tracing::warn!("the crash journal cannot be read, and is ignored");
            State::default()
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
