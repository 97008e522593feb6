//! What becomes of records that the sink refuses, and the counts of both blocks.

use std::sync::{Arc, PoisonError};

use freehold_pipeline::address::Address;
use freehold_pipeline::block::Block;
use freehold_pipeline::definition::{Definition, ErrorPolicy};
use freehold_pipeline::report::Stopped;
use freehold_pipeline_blocks::figures::{Figures as BlockCount, LastError};

use crate::deliver::sink::OwnedRecord;
use crate::figures::now_ms;
use crate::flow::BlockFigures;
use crate::threshold::{FailureRatio, Tally};

/// Takes records that the sink refuses.
pub trait Letters {
    /// Writes a dead letter, and waits until Kafka has it.
    ///
    /// # Errors
    /// Whether a later try can help.
    fn write(&mut self, refused: &Refused<'_>) -> Result<(), LetterError>;
}

/// A record that the sink refuses.
pub struct Refused<'a> {
    pub topic: &'a str,
    pub partition: i32,
    pub record: &'a OwnedRecord,
    pub why: &'a str,
}

/// A dead letter is not written.
#[derive(Debug, PartialEq, Eq)]
pub enum LetterError {
    /// Kafka refuses it, too.
    Refused(String),
    /// Kafka is away, or a right or the topic is missing.
    Later(String),
}

/// What is done with a refused record.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The stream goes on behind it.
    Handled,
    /// It is to be handled again later.
    Later(String),
    /// The stage must stop before it.
    Stop(Stopped),
}

/// The error policy of the sink's block, and the counts.
pub struct Policy<L> {
    policy: ErrorPolicy,
    letters: L,
    failures: Option<FailureRatio>,
    /// Names of the source's and the sink's block.
    names: [String; 2],
    counts: [BlockCount; 2],
    shown: BlockFigures,
}

impl<L: Letters> Policy<L> {
    /// The policy of a stage with these two blocks. The counts are published to `shown`.
    pub fn new(
        definition: &Definition,
        [source, sink]: [&Block; 2],
        letters: L,
        shown: &BlockFigures,
    ) -> Self {
        let threshold = definition.errors.threshold.clone();
        let policy = match (
            definition.errors.policy(sink),
            &definition.errors.dead_letter,
        ) {
            (ErrorPolicy::DeadLetter, None) => ErrorPolicy::Stop,
            (policy, _) => policy,
        };
        let policy = Self {
            policy,
            letters,
            failures: threshold.map(FailureRatio::new),
            names: [source.name.clone(), sink.name.clone()],
            counts: Default::default(),
            shown: Arc::clone(shown),
        };
        policy.publish();
        policy
    }

    /// Whether a refused record stops the stage.
    pub fn stops(&self) -> bool {
        self.policy == ErrorPolicy::Stop
    }

    /// Name of the sink's block.
    pub fn block(&self) -> &str {
        &self.names[1]
    }

    /// Records that are done with, and those that are delivered.
    pub fn totals(&self) -> [u64; 2] {
        let [source, sink] = &self.counts;
        [source.records_in, sink.records_out]
    }

    /// Counts delivered records.
    pub fn delivered(&mut self, records: u64) {
        let [source, sink] = &mut self.counts;
        for block in [source, sink] {
            block.records_in += records;
            block.records_out += records;
        }
        self.tally(Tally {
            read: records,
            failed: 0,
        });
    }

    /// Counts records without a value.
    pub fn left_out(&mut self, records: u64) {
        let [source, sink] = &mut self.counts;
        source.records_in += records;
        source.records_out += records;
        sink.records_in += records;
        sink.filtered += records;
        self.tally(Tally {
            read: records,
            failed: 0,
        });
    }

    /// Decides what becomes of a refused record, and does it.
    pub fn refuse(&mut self, refused: &Refused<'_>) -> Verdict {
        let address = Address {
            topic: refused.topic.to_owned(),
            partition: refused.partition,
            offset: refused.record.offset,
        };
        if self.stops() {
            self.count(address.clone(), refused.why);
            return self.stop(address, refused.why.to_owned());
        }
        if self.policy == ErrorPolicy::DeadLetter {
            match self.letters.write(refused) {
                Ok(()) => {}
                Err(LetterError::Later(why)) => return Verdict::Later(why),
                Err(LetterError::Refused(why)) => {
                    let why = format!("the topic of dead letters also refuses it: {why}");
                    return self.stop(address, why);
                }
            }
        } else {
            self.counts[1].skipped += 1;
        }
        self.count(address.clone(), refused.why);
        let tally = Tally { read: 1, failed: 1 };
        match self.tally(tally) {
            Some(why) => self.stop(address, format!("{why}; the last error: {}", refused.why)),
            None => Verdict::Handled,
        }
    }

    fn count(&mut self, address: Address, why: &str) {
        let [source, sink] = &mut self.counts;
        source.records_in += 1;
        source.records_out += 1;
        sink.records_in += 1;
        sink.errors += 1;
        sink.last_error = Some(LastError {
            address: Some(address),
            message: why.to_owned(),
            at: now_ms(),
        });
    }

    fn stop(&self, address: Address, error: String) -> Verdict {
        self.publish();
        Verdict::Stop(Stopped {
            block: Some(self.names[1].clone()),
            error,
            address: Some(address),
        })
    }

    fn tally(&mut self, tally: Tally) -> Option<String> {
        let failures = self.failures.as_mut()?;
        failures.begin(now_ms());
        let why = failures.count(tally);
        failures.committed();
        why
    }

    /// Shows the counts.
    pub fn publish(&self) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.publish(self.names.iter().map(String::as_str).zip(&self.counts));
    }
}
