//! What the journal knows, and what a death of the process means. Pure.

use freehold_pipeline::address::Address;
use serde::{Deserialize, Serialize};

use crate::record::Record;

/// A record that was alone at so many deaths is not run again. One death can have come from
/// outside.
pub const DEATHS_MAX: u32 = 2;

/// Records of a partition, from the first offset to the last one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Span {
    topic: String,
    partition: i32,
    first: i64,
    last: i64,
}

/// A record that was alone when the process died.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Death {
    pub address: Address,
    /// How often.
    pub times: u32,
    /// The block that worked on it, as last known.
    pub block: Option<String>,
}

/// How a record is to be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate<'s> {
    /// Together with others.
    Together,
    /// The process died on records, and this is one of them: alone in the journal.
    Careful,
    /// The process died on it: alone in the journal, and in a transaction of its own, so that it
    /// dies of no other record's outputs.
    Alone,
    /// It ended the process too often: not at all.
    Died(&'s Death),
}

/// What is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// What the process works on; empty: nothing.
    open: Vec<Span>,
    /// The block that works on it, if it is one record.
    block: Option<String>,
    /// What a process died on, among others. One for each partition: they cannot become many.
    suspects: Vec<Span>,
    deaths: Vec<Death>,
}

impl State {
    /// The state with which a process begins, from that which the one before has left: what is open
    /// is what it died on.
    #[must_use]
    pub fn after_death(mut self) -> Self {
        let block = self.block.take();
        let open = std::mem::take(&mut self.open);
        if let [span] = &open[..]
            && span.first == span.last
        {
            self.died_alone(span.address(), block);
            return self;
        }
        for span in open {
            match self
                .suspects
                .iter_mut()
                .find(|known| known.has_partition_of(&span))
            {
                Some(known) => {
                    known.first = known.first.min(span.first);
                    known.last = known.last.max(span.last);
                }
                None => self.suspects.push(span),
            }
        }
        self
    }

    fn died_alone(&mut self, address: Address, block: Option<String>) {
        match self
            .deaths
            .iter_mut()
            .find(|death| death.address == address)
        {
            Some(death) => {
                death.times += 1;
                death.block = block.or(death.block.take());
            }
            None => self.deaths.push(Death {
                address,
                times: 1,
                block,
            }),
        }
    }

    /// Whether every record is to be run together with others.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.suspects.is_empty() && self.deaths.is_empty()
    }

    /// How the record at an address is to be run.
    #[must_use]
    pub fn fate(&self, topic: &str, partition: i32, offset: i64) -> Fate<'_> {
        let is_it = |death: &&Death| {
            let Address {
                topic: known,
                partition: of,
                offset: at,
            } = &death.address;
            (*of, *at) == (partition, offset) && known == topic
        };
        match self.deaths.iter().find(is_it) {
            Some(death) if death.times >= DEATHS_MAX => return Fate::Died(death),
            Some(_) => return Fate::Alone,
            None => {}
        }
        let has_it = |span: &Span| {
            span.is_of(topic, partition) && (span.first..=span.last).contains(&offset)
        };
        match self.suspects.iter().any(has_it) {
            true => Fate::Careful,
            false => Fate::Together,
        }
    }

    /// How many of the first records are run together; at least 1.
    #[must_use]
    pub fn together(&self, records: &[Record<'_>]) -> usize {
        if self.is_clean() {
            return records.len();
        }
        let is_single = |record: &Record<'_>| {
            self.fate(record.topic, record.partition, record.offset) != Fate::Together
        };
        match records.iter().position(is_single) {
            Some(place) => place.max(1),
            None => records.len(),
        }
    }

    /// The process works on these records.
    pub fn open(&mut self, records: &[Record<'_>]) {
        self.close();
        for record in records {
            let of = |span: &&mut Span| span.is_of(record.topic, record.partition);
            match self.open.iter_mut().rfind(of) {
                Some(span) => span.last = record.offset,
                None => self.open.push(Span {
                    topic: record.topic.to_owned(),
                    partition: record.partition,
                    first: record.offset,
                    last: record.offset,
                }),
            }
        }
    }

    /// A block works on the record that is open.
    pub fn enter(&mut self, block: &str) {
        self.block = Some(block.to_owned());
    }

    /// The process works on nothing.
    pub fn close(&mut self) {
        self.open.clear();
        self.block = None;
    }

    /// Records of a partition are committed up to this one: they do not come again.
    pub fn committed(&mut self, last: &Address) {
        self.suspects.retain_mut(|span| {
            if span.is_of(&last.topic, last.partition) {
                span.first = span.first.max(last.offset + 1);
            }
            span.first <= span.last
        });
        self.deaths.retain(|death| {
            let Address {
                topic,
                partition,
                offset,
            } = &death.address;
            (topic, partition) != (&last.topic, &last.partition) || *offset > last.offset
        });
    }

    /// Says what a process died on, for the log.
    pub(super) fn warn(&self) {
        for death in &self.deaths {
            let (address, times) = (&death.address, death.times);
            let block = death.block.as_deref().unwrap_or_default();
            tracing::warn!(%address, times, block, "the process died on this record");
        }
        for span in &self.suspects {
            let Span {
                topic,
                partition,
                first,
                last,
            } = span;
            tracing::warn!(
                topic,
                partition,
                first,
                last,
                "the process died on these records"
            );
        }
    }
}

impl Span {
    fn is_of(&self, topic: &str, partition: i32) -> bool {
        self.partition == partition && self.topic == topic
    }

    fn has_partition_of(&self, other: &Self) -> bool {
        self.is_of(&other.topic, other.partition)
    }

    fn address(&self) -> Address {
        Address {
            topic: self.topic.clone(),
            partition: self.partition,
            offset: self.first,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(offsets: &[(i32, i64)]) -> Vec<Record<'static>> {
        let records = offsets.iter();
        records
            .map(|(partition, offset)| Record::at("in", *partition, *offset, 0))
            .collect()
    }

    fn died_on(state: State, offsets: &[(i32, i64)]) -> State {
        let mut state = state;
        state.open(&records(offsets));
        state.after_death()
    }

    #[test]
    fn what_was_open_with_others_is_run_alone_in_the_journal() {
        let state = died_on(State::default(), &[(0, 5), (1, 7), (0, 9)]);
        assert!(!state.is_clean());
        assert_eq!(state.fate("in", 0, 6), Fate::Careful);
        assert_eq!(state.fate("in", 1, 7), Fate::Careful);
        assert_eq!(state.fate("in", 1, 8), Fate::Together);
        assert_eq!(state.fate("other", 0, 6), Fate::Together);
        assert_eq!(state.together(&records(&[(0, 3), (0, 4), (0, 5)])), 2);
        assert_eq!(state.together(&records(&[(0, 5), (0, 6)])), 1);
        assert_eq!(state.together(&records(&[(0, 10), (1, 8)])), 2);
    }

    #[test]
    fn a_record_that_was_alone_twice_is_not_run_again_and_its_block_is_known() {
        let mut state = died_on(State::default(), &[(0, 5)]);
        assert_eq!(state.fate("in", 0, 5), Fate::Alone);
        state.open(&records(&[(0, 5)]));
        state.enter("clean");
        let state = died_on(state.after_death(), &[]);
        let Fate::Died(death) = state.fate("in", 0, 5) else {
            panic!("{state:?}");
        };
        assert_eq!((death.times, death.block.as_deref()), (2, Some("clean")));
        assert_eq!(state.fate("in", 0, 6), Fate::Together);
    }

    #[test]
    fn what_is_committed_is_forgotten() {
        let state = died_on(State::default(), &[(0, 5), (0, 9)]);
        let mut state = died_on(state, &[(0, 7)]);
        let last = |offset| Address {
            topic: "in".to_owned(),
            partition: 0,
            offset,
        };
        state.committed(&last(6));
        assert_eq!(state.fate("in", 0, 6), Fate::Together);
        assert_eq!(state.fate("in", 0, 7), Fate::Alone);
        state.committed(&last(7));
        assert_eq!(state.fate("in", 0, 7), Fate::Together);
        assert_eq!(state.fate("in", 0, 8), Fate::Careful);
        state.committed(&last(9));
        assert!(state.is_clean());
    }
}
