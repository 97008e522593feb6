//! The blocks of a stage document, as the loop calls them.

use std::sync::{Arc, Mutex, PoisonError};

use freehold_pipeline::finding::lines;
use freehold_pipeline::stage_document::StageDocument;
use freehold_pipeline::topics::TopicNames;
use freehold_pipeline_blocks::clock;
use freehold_pipeline_blocks::event::{Header, Input};
use freehold_pipeline_blocks::flow::{self, Died, Flow, Identity, Work};
use freehold_pipeline_blocks::output::{Destination, Output, Outputs as BlockOutputs, Stop};

use crate::blocks::{Blocks, Refused};
use crate::figures::now_ms;
use crate::journal::Journal;
use crate::outputs::Outputs;
use crate::record::{Headers, Record};
use crate::replay::Replaying;
use crate::status::BlockCounts;
use crate::threshold::{FailureRatio, Tally};

/// Counts of blocks, for who reads them on another thread.
pub type BlockFigures = Arc<Mutex<BlockCounts>>;

/// The blocks of a stage.
pub struct StageBlocks {
    flow: Flow,
    figures: BlockFigures,
    /// Counts failures where the Pipeline has a threshold of them.
    failures: Option<FailureRatio>,
    /// What the process works on, for the next one if it dies.
    journal: Journal,
    /// The records are dead letters.
    replaying: Option<Replaying>,
}

impl StageBlocks {
    /// Compiles the programs of a stage, on a thread with a large stack: the caller's.
    ///
    /// # Errors
    /// What is wrong with the document: a line for each finding.
    pub fn compile(
        document: &StageDocument,
        figures: BlockFigures,
        journal: Journal,
    ) -> Result<Self, String> {
        let identity = Identity {
            pipeline: document.pipeline.clone(),
            revision: document.revision,
        };
        // Every topic of a document is named by its name in Kafka.
        let flow = Flow::compile(&document.definition, &TopicNames::default(), identity);
        let flow = flow.map_err(|findings| lines(&findings))?;
        let replay = document.replay.as_ref();
        let replaying = replay.map(|replay| Replaying::new(replay, &document.pipeline, &flow));
        let replaying = replaying.transpose()?;
        // Letters have failed before: how many of them fail again says nothing.
        let threshold = document.definition.errors.threshold.clone();
        let threshold = threshold.filter(|_| replaying.is_none());
        let blocks = Self {
            flow,
            figures,
            failures: threshold.map(FailureRatio::new),
            journal,
            replaying,
        };
        blocks.publish();
        Ok(blocks)
    }

    /// The topics that it reads.
    #[must_use]
    pub fn topics(&self) -> Vec<String> {
        let mut topics: Vec<String> = self.flow.topics().map(str::to_owned).collect();
        topics.sort();
        topics
    }

    fn publish(&self) {
        let mut shown = self.figures.lock().unwrap_or_else(PoisonError::into_inner);
        shown.publish(self.flow.figures());
        if let Some(replaying) = &self.replaying {
            shown.publish_replay(replaying.counts());
        }
    }
}

impl StageBlocks {
    /// Runs a record through the blocks; false: the stage stops.
    fn run(&mut self, record: &Record<'_>, refused: &[Refused], out: &mut Outputs) -> bool {
        let died = self.journal.died(record).cloned();
        let refused = refused
            .iter()
            .map(|Refused { refusal, times }| flow::Refused {
                topic: refusal.topic.clone(),
                why: refusal.message.clone(),
                times: *times,
            });
        let refused: Vec<flow::Refused> = refused.collect();
        let work = Work {
            died: died.as_ref().map(|death| Died {
                block: death.block.as_deref(),
                times: death.times,
            }),
            refused: &refused,
        };
        let outputs = &mut Noted {
            forward: Forward {
                record,
                out: &mut *out,
            },
            journal: &mut self.journal,
        };
        let stopped = match &mut self.replaying {
            Some(replaying) => replay(replaying, &mut self.flow, record, work, outputs),
            None => with_input(record, |input| self.flow.process_as(input, work, outputs)),
        };
        if let Err(stop) = &stopped {
            out.stop(record, &stop.block, &stop.message);
            self.publish();
        } else {
            self.journal.ran(record);
        }
        stopped.is_ok()
    }

    /// Counts records, and stops the stage if too many have failed. `last` is the last one that has
    /// failed, with its block and error.
    fn count(
        &mut self,
        tally: Tally,
        last: Option<(&Record<'_>, (String, String))>,
        out: &mut Outputs,
    ) {
        let Some(ratio) = &mut self.failures else {
            return;
        };
        if let Some(why) = ratio.count(tally)
            && let Some((record, (block, error))) = last
        {
            out.give_up(record, &block, &format!("{why}; the last error: {error}"));
            self.publish();
        }
    }

    /// The block that failed on the last record, and its error.
    fn failure(&self) -> Option<(String, String)> {
        let (block, error) = self.flow.failure()?;
        Some((block.to_owned(), error.message.clone()))
    }
}

/// Runs a dead letter through the blocks, if it is one that is asked for.
fn replay(
    replaying: &mut Replaying,
    flow: &mut Flow,
    record: &Record<'_>,
    work: Work<'_>,
    outputs: &mut Noted<'_, '_, '_>,
) -> Result<(), Stop> {
    let Some((letter, replayed)) = replaying.take(record, flow) else {
        flow.passed_over();
        return Ok(());
    };
    letter.with_record(record, |input| {
        flow.process_replayed(input, replayed, work, outputs)
    })?;
    replaying.ran(flow.failure().is_some());
    Ok(())
}

impl Blocks for StageBlocks {
    fn begin(&mut self) {
        self.flow.rolled_back();
        if let Some(replaying) = &mut self.replaying {
            replaying.rolled_back();
        }
        self.journal.rolled_back();
        let now_ms = now_ms();
        clock::set(now_ms);
        if let Some(failures) = &mut self.failures {
            failures.begin(now_ms);
        }
    }

    fn committed(&mut self) {
        self.flow.committed();
        self.journal.committed();
        if let Some(replaying) = &mut self.replaying {
            replaying.committed();
        }
        if let Some(failures) = &mut self.failures {
            failures.committed();
        }
        self.publish();
    }

    fn note(&self) -> Option<String> {
        Some(self.replaying.as_ref()?.counts().note())
    }

    fn noted(&mut self, notes: &[String]) {
        if let Some(replaying) = &mut self.replaying {
            replaying.noted(notes);
            self.publish();
        }
    }

    fn is_alone(&self, topic: &str, partition: i32, offset: i64) -> bool {
        self.journal.is_alone(topic, partition, offset)
    }

    fn process(&mut self, batch: &[Record<'_>], out: &mut Outputs) {
        let (mut tally, mut last, mut rest) = (Tally::default(), None, batch);
        while !rest.is_empty() {
            let (together, behind) = rest.split_at(self.journal.begin(rest));
            rest = behind;
            for record in together {
                if !self.run(record, &[], out) {
                    self.journal.end();
                    return;
                }
                tally.read += 1;
                if let Some(failure) = self.failure() {
                    tally.failed += 1;
                    last = Some((record, failure));
                }
            }
            self.journal.end();
        }
        self.count(tally, last, out);
    }

    fn refused(&mut self, record: &Record<'_>, refused: &[Refused], out: &mut Outputs) {
        self.journal.begin(std::slice::from_ref(record));
        let goes_on = self.run(record, refused, out);
        self.journal.end();
        if goes_on {
            let failure = self.failure();
            let tally = Tally {
                read: 1,
                failed: u64::from(failure.is_some()),
            };
            self.count(tally, failure.map(|failure| (record, failure)), out);
        }
    }
}

/// Gives a record to a function in the form of the blocks. Most records have no headers.
pub(crate) fn with_input<T>(record: &Record<'_>, work: impl FnOnce(Input<'_>) -> T) -> T {
    let all: Vec<Header<'_>> = match record.headers.count() {
        0 => Vec::new(),
        _ => {
            let headers = record.headers.iter();
            headers
                .map(|(name, value)| Header { name, value })
                .collect()
        }
    };
    work(Input {
        topic: record.topic,
        partition: record.partition,
        offset: record.offset,
        timestamp: record.timestamp,
        key: record.key,
        value: record.value,
        headers: &all,
    })
}

/// Hands on what blocks write for a record.
pub(crate) struct Forward<'r, 'b, 'o> {
    pub record: &'r Record<'b>,
    pub out: &'o mut Outputs,
}

impl BlockOutputs for Forward<'_, '_, '_> {
    fn write(&mut self, output: Output<'_>) {
        let record = self.record;
        let mut draft = self.out.to(output.topic, record);
        if !is_same(output.key, record.key) {
            draft = draft.key(output.key);
        }
        if !is_same(output.value, record.value) {
            draft = draft.value(output.value);
        }
        if !same_headers(output.headers, record.headers) {
            draft = draft.without_headers();
            for header in output.headers {
                draft = draft.header(header.name, header.value);
            }
        }
        if let Some(timestamp) = output.timestamp {
            draft = draft.timestamp(timestamp);
        }
        let draft = match output.destination {
            Destination::Partition(partition) => draft.same_partition(partition),
            Destination::Key => draft,
        };
        draft.send();
    }
}

/// Hands on what blocks write, and notes which of them works.
struct Noted<'r, 'b, 'o> {
    forward: Forward<'r, 'b, 'o>,
    journal: &'o mut Journal,
}

impl BlockOutputs for Noted<'_, '_, '_> {
    fn write(&mut self, output: Output<'_>) {
        self.forward.write(output);
    }

    fn entered(&mut self, block: &str) {
        self.journal.enter(block);
    }
}

/// Whether two parts are the same bytes in memory: then nothing is copied.
fn is_same(one: Option<&[u8]>, other: Option<&[u8]>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => std::ptr::eq(one, other),
        (None, None) => true,
        _ => false,
    }
}

/// Whether the blocks left the headers as they were. They do not see one whose name is not UTF-8:
/// then it is kept.
fn same_headers(written: &[Header<'_>], read: Headers<'_>) -> bool {
    let headers = written.iter().map(|header| (header.name, header.value));
    headers.eq(read.iter())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocks::{Refusal, RefusalCause};
    use crate::journal::tests::Folder;

    fn document(errors: &str) -> StageDocument {
        let blocks = r#"{"name": "clean", "from": ["in"], "transform": {"vrl": ". = 1"}},
            {"name": "out", "from": ["clean"], "sink": {"kafka": {"topic": "out"}}}"#;
        document_of(errors, blocks)
    }

    fn document_of(errors: &str, blocks: &str) -> StageDocument {
        let document = format!(
            r#"{{"version": 1, "pipeline": "test/a", "revision": 7, "stage": "in", "group": "g",
                "definition": {{"errors": {errors}, "blocks": [
                    {{"name": "in", "source": {{"kafka": {{"topic": "in"}}}}}},
                    {blocks}
                ]}}}}"#
        );
        StageDocument::read(document.as_bytes()).unwrap()
    }

    fn record(offset: i64) -> Record<'static> {
        Record {
            value: Some(b"{}"),
            ..Record::at("in", 0, offset, u32::try_from(offset).unwrap())
        }
    }

    /// The blocks of a process after two that died on record 1, in the block if it is known.
    fn after_deaths(folder: &Folder, document: &StageDocument, block: Option<&str>) -> StageBlocks {
        for _ in 0..2 {
            let mut journal = Journal::open(&folder.0, document);
            journal.begin(&[record(1)]);
            if let Some(block) = block {
                journal.enter(block);
            }
        }
        let journal = Journal::open(&folder.0, document);
        StageBlocks::compile(document, BlockFigures::default(), journal).unwrap()
    }

    fn written(out: &Outputs, records: &[Record<'static>]) -> Vec<(u32, String)> {
        let outputs = out.iter(records);
        let outputs = outputs.map(|output| (output.place, output.topic.to_owned()));
        outputs.collect()
    }

    fn to(place: u32, topic: &str) -> (u32, String) {
        (place, topic.to_owned())
    }

    #[test]
    fn a_record_that_the_process_died_on_fails_where_it_died_and_others_are_run() {
        let folder = Folder::new("died");
        let document = document(r#"{"deadLetter": {"topic": "dead"}}"#);
        let mut blocks = after_deaths(&folder, &document, Some("clean"));
        let (records, mut out) = ([record(0), record(1), record(2)], Outputs::default());
        blocks.begin();
        blocks.process(&records, &mut out);
        let expected = [to(0, "out"), to(1, "dead"), to(2, "out")];
        assert_eq!(written(&out, &records), expected);
        let mut failed = blocks
            .flow
            .figures()
            .filter(|(_, figures)| figures.errors > 0);
        let (block, figures) = failed.next().unwrap();
        let error = figures.last_error.as_ref().unwrap();
        assert_eq!((block, figures.errors), ("clean", 1));
        assert_eq!(error.address, Some(record(1).address()));
        assert!(error.message.starts_with("ProcessDied: "), "{error:?}");
    }

    #[test]
    fn with_an_unknown_block_the_source_fails_and_its_policy_holds() {
        let folder = Folder::new("stop");
        let document = document(r#"{"policy": "Stop"}"#);
        let mut blocks = after_deaths(&folder, &document, None);
        let (records, mut out) = ([record(0), record(1), record(2)], Outputs::default());
        blocks.process(&records, &mut out);
        assert_eq!(written(&out, &records), [to(0, "out")]);
        let stop = out.stopped().unwrap();
        assert_eq!((stop.place, stop.block.as_str()), (1, "in"));
        assert!(stop.reason.starts_with("ProcessDied: "), "{stop:?}");
    }

    #[test]
    fn it_is_not_run_either_when_kafka_refuses_its_dead_letter() {
        let folder = Folder::new("refused");
        let document = document(r#"{"deadLetter": {"topic": "dead"}}"#);
        let mut blocks = after_deaths(&folder, &document, Some("clean"));
        let refusal = Refusal {
            topic: "dead".to_owned(),
            cause: RefusalCause::TooLarge,
            message: "too large".to_owned(),
        };
        let refused = [Refused { refusal, times: 1 }];
        let (records, mut out) = ([record(1)], Outputs::default());
        blocks.refused(&records[0], &refused, &mut out);
        assert_eq!(written(&out, &records), [to(1, "dead")]);
        let letter = out.iter(&records).next().unwrap();
        assert_eq!(letter.value, Some(&b""[..]));
    }

    #[test]
    fn a_record_that_is_committed_is_run_again_if_it_comes_again() {
        let folder = Folder::new("again");
        let document = document(r#"{"policy": "Skip"}"#);
        let mut blocks = after_deaths(&folder, &document, Some("clean"));
        let (records, mut out) = ([record(1)], Outputs::default());
        let mut run = |blocks: &mut StageBlocks| {
            blocks.begin();
            out.clear();
            blocks.process(&records, &mut out);
            written(&out, &records)
        };
        assert!(run(&mut blocks).is_empty());
        // Its transaction was aborted.
        assert!(run(&mut blocks).is_empty());
        blocks.committed();
        assert_eq!(run(&mut blocks), [to(1, "out")]);
    }

    #[test]
    fn an_alert_for_an_event_is_remembered_when_its_batch_is_committed() {
        let alert = r#"{"name": "hot", "from": ["in"], "alert": {"when": "true", "event": true}}"#;
        let document = document_of("{}", alert);
        let folder = Folder::new("alert");
        let journal = Journal::open(&folder.0, &document);
        let mut blocks = StageBlocks::compile(&document, BlockFigures::default(), journal).unwrap();
        let (records, mut out) = ([record(3)], Outputs::default());
        let told = |blocks: &StageBlocks| {
            let (_, figures) = blocks.flow.figures().nth(1).unwrap();
            let alert = figures.last_alert.as_ref();
            (
                figures.records_out,
                alert.map(|alert| alert.address.to_string()),
            )
        };
        blocks.begin();
        blocks.process(&records, &mut out);
        assert!(written(&out, &records).is_empty());
        // Its transaction was aborted.
        blocks.begin();
        assert_eq!(told(&blocks), (0, None));
        blocks.process(&records, &mut out);
        blocks.committed();
        blocks.begin();
        assert_eq!(told(&blocks), (1, Some("in/0/3".to_owned())));
    }
}
