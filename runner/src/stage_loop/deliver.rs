//! Writes a batch and commits it, and handles what can fail on the way.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rdkafka::consumer::{CommitMode, Consumer as _, ConsumerGroupMetadata};
use rdkafka::message::Message as _;

use crate::blocks::{Blocks, Refusal, Refused};
use crate::outputs::Stop;
use crate::producer::{
    DeliveryFailure, Ended, ErrorKind, FailureCause, Position, Producer, ProducerError,
};
use crate::record::Record;
use crate::stage_loop::verdict::{Verdict, judge};
use crate::stage_loop::worker::{Done, STUCK_MAX, Worker};
use crate::stage_loop::write::{WriteError, Writer, Written};
use crate::stage_loop::{Entry, Owned, Phase, StageError, StageLoop, Stopped};
use freehold_pipeline::address::Address;
use freehold_pipeline::definition::Delivery;

/// A batch that is being committed.
pub(super) struct InFlight {
    /// For each partition of the batch its place, the next offset, and the time of its last record.
    reached: Vec<(usize, i64, Option<i64>)>,
    records: usize,
    bytes: u64,
    written: Written,
    /// Where the stage stops after this batch.
    stop: Option<Stopped>,
    /// The records, for the failures.
    addresses: Vec<(usize, i64)>,
}

/// A batch that failed.
struct FailedBatch {
    /// The partition's place and the offset of each record.
    addresses: Vec<(usize, i64)>,
    failures: Vec<DeliveryFailure>,
}

impl<P, B, F> StageLoop<'_, P, B, F>
where
    P: Producer<Group = ConsumerGroupMetadata>,
    B: Blocks,
    F: Fn() -> Result<P, StageError>,
{
    /// Makes a producer if there is none and it is time.
    pub(super) fn renew_producer(&mut self) -> Result<(), StageError> {
        let Phase::Absent(at) = self.phase else {
            return Ok(());
        };
        if Instant::now() < at {
            return Ok(());
        }
        let stuck = self.workers.load(Ordering::Relaxed);
        if stuck > STUCK_MAX {
            return Err(StageError::Stuck(stuck));
        }
        let producer = (self.make)()?;
        let timeout = self.config.limits.transaction_timeout();
        self.worker =
            Some(Worker::start(producer, timeout, &self.workers).map_err(StageError::Thread)?);
        self.phase = Phase::Starting;
        self.doubtful = false;
        Ok(())
    }

    /// Gives the producer up. A new one is made at `next`.
    pub(super) fn drop_producer(&mut self, next: Instant) {
        self.figures.renewals.add(1);
        self.worker = None;
        self.phase = Phase::Absent(next);
        self.doubtful = false;
    }

    /// Writes the batch and begins to commit it.
    pub(super) fn deliver(&mut self) {
        if self.doubtful {
            // The last transaction is committed for sure, so what was read since stays.
            self.drop_producer(Instant::now());
            return;
        }
        let Some(worker) = &self.worker else {
            return;
        };
        self.figures.batches.add(1);
        if let Err(error) = worker.producer().begin() {
            self.handle_failure(&error, None);
            return;
        }
        self.blocks.begin();
        let count = self.next_records();
        let (batch, owned) = (&self.batch, &self.owned);
        let mut writer = Writer {
            producer: worker.producer(),
            blocks: &mut self.blocks,
            outputs: &mut self.outputs,
            refusals: &self.refusals,
            figures: &self.figures,
            chunk: &mut self.chunk,
            patience: self.config.limits.transaction_timeout() / 2,
        };
        let written = writer.write(count, |place| {
            let entry = &batch[place];
            Record::of(&entry.message, &owned[entry.partition].topic, place as u32)
        });
        match written {
            Ok(written) => self.commit(written),
            Err(error) => self.not_written(error, count),
        }
    }

    /// How many records the next transaction has. One that must be alone ends the transaction before
    /// it, and has the next.
    fn next_records(&self) -> usize {
        let count = self.batch.len().min(self.batch_limit);
        let is_alone = |entry: &Entry<'_>| {
            let owned = &self.owned[entry.partition];
            let offset = entry.message.offset();
            self.blocks.is_alone(&owned.topic, owned.partition, offset)
        };
        match self.batch[..count].iter().position(is_alone) {
            Some(place) => place.max(1),
            None => count,
        }
    }

    /// Gives up a batch of which `count` records were to be written.
    fn not_written(&mut self, error: WriteError, count: usize) {
        match error {
            WriteError::Producer(error) => {
                let addresses = self.addresses(count);
                self.handle_failure(
                    &error,
                    Some(FailedBatch {
                        addresses,
                        failures: Vec::new(),
                    }),
                );
            }
            WriteError::Failures(failures) => {
                let addresses = self.addresses(count);
                let error = ProducerError {
                    kind: ErrorKind::Abort,
                    operation: "write",
                    topic: None,
                    code: "Stage".to_owned(),
                    message: "outputs were not taken".to_owned(),
                };
                self.handle_failure(
                    &naming(error, &failures),
                    Some(FailedBatch {
                        addresses,
                        failures,
                    }),
                );
            }
            WriteError::GivenUp(stop) => {
                self.start_abort();
                let stopped = self.stopped_at(stop.place as usize, stop);
                self.stopped(stopped);
            }
            WriteError::RefusedAgain(address, refusal) => {
                self.start_abort();
                self.stopped(Stopped {
                    block: None,
                    error: format!(
                        "topic {} does not take what is written instead of a refused output, not \
                         even a dead letter without the record's value, key and headers: {}",
                        refusal.topic, refusal.message
                    ),
                    address: Some(address),
                });
            }
        }
    }

    /// Takes the worker's answer, if it comes within `wait`.
    pub(super) fn handle_worker(&mut self, wait: Duration) {
        let Some(worker) = &mut self.worker else {
            if !wait.is_zero() {
                std::thread::sleep(wait);
            }
            return;
        };
        if matches!(self.phase, Phase::Aborting) {
            // An abort waits until somebody has taken the answers for outputs that are given up.
            worker.producer().serve(Duration::from_millis(1));
        }
        match worker.wait(wait) {
            Some(done) => self.handle_done(done),
            None if worker.is_overdue() => {
                let error = ProducerError {
                    kind: ErrorKind::Renew,
                    operation: "watchdog",
                    topic: None,
                    code: "Stage".to_owned(),
                    message: "a call of the producer does not end".to_owned(),
                };
                self.handle_failure(&error, None);
            }
            None => {}
        }
    }

    fn commit(&mut self, mut written: Written) {
        let records = written.records;
        let mut reached: Vec<(usize, i64, Option<i64>)> = Vec::new();
        let mut bytes = 0;
        for entry in &self.batch[..records] {
            let (next, time) = (
                entry.message.offset() + 1,
                entry.message.timestamp().to_millis(),
            );
            bytes += (entry.message.key_len() + entry.message.payload_len()) as u64;
            match reached
                .iter_mut()
                .rfind(|(place, ..)| *place == entry.partition)
            {
                Some(known) => *known = (entry.partition, next, time),
                None => reached.push((entry.partition, next, time)),
            }
        }
        for (place, owned) in self
            .owned
            .iter()
            .enumerate()
            .filter(|(_, owned)| owned.is_new)
        {
            if !reached.iter().any(|(known, ..)| *known == place) {
                reached.push((place, owned.committed, None));
            }
        }
        let stop = written.stop.take();
        let stop = stop.map(|stop| self.stopped_at(records, stop));
        let note = self.blocks.note();
        let positions = reached
            .iter()
            .map(|(place, next, _)| position(&self.owned[*place], *next, note.as_deref()));
        let positions = positions.collect();
        let in_flight = InFlight {
            addresses: self.addresses(records),
            reached,
            records,
            bytes,
            written,
            stop,
        };
        // Taken now: metadata of an older generation could commit what another member owns.
        let (Some(group), Some(worker)) = (self.consumer.group_metadata(), &mut self.worker) else {
            self.start_abort();
            self.unplace();
            return;
        };
        worker.commit(positions, group);
        self.phase = Phase::Committing(Box::new(in_flight));
        // What was read after a stop is not needed.
        let rest = self.batch.split_off(records);
        self.batch = rest;
        self.batch_bytes = self
            .batch
            .iter()
            .map(|entry| entry.message.key_len() + entry.message.payload_len())
            .sum();
        self.batch_since = Instant::now();
    }

    fn handle_done(&mut self, done: Done) {
        match (done, std::mem::replace(&mut self.phase, Phase::Ready)) {
            (Done::Started(Ok(())), _) => tracing::debug!("the producer has started"),
            (Done::Committed(Ok(ended)), Phase::Committing(in_flight)) => {
                self.handle_committed(*in_flight, ended);
            }
            (Done::Aborted(Ok(ended)), _) => self.doubtful |= ended == Ended::Doubtful,
            (Done::Committed(Err(error)), Phase::Committing(in_flight)) => {
                let failures = self
                    .worker
                    .as_ref()
                    .map(|worker| worker.producer().take_failures())
                    .unwrap_or_default();
                self.handle_failure(
                    &naming(error, &failures),
                    Some(FailedBatch {
                        addresses: in_flight.addresses,
                        failures,
                    }),
                );
            }
            (Done::Started(Err(error)) | Done::Aborted(Err(error)), _) => {
                self.handle_failure(&error, None);
            }
            (Done::Committed(_), _) => unreachable_answer(),
        }
    }

    fn handle_committed(&mut self, in_flight: InFlight, ended: Ended) {
        // In this order a report has no problem that is over beside counts of this batch, and no
        // offsets without them.
        self.figures.progress();
        self.blocks.committed();
        self.note = self.blocks.note();
        let InFlight {
            reached,
            records,
            bytes,
            written,
            stop,
            addresses: _,
        } = in_flight;
        self.doubtful |= ended == Ended::Doubtful;
        for (place, next, time) in reached {
            let owned = &mut self.owned[place];
            owned.committed = next;
            owned.is_new = false;
            if self.config.delivery == Delivery::ExactlyOnce {
                self.placing.committed(&owned.topic);
            }
            self.figures
                .partition(&owned.topic, owned.partition, |figures| {
                    figures.committed = next;
                    figures.record_time_ms = time.unwrap_or(figures.record_time_ms);
                });
        }
        if self.config.delivery == Delivery::AtLeastOnce {
            self.commit_offsets(CommitMode::Async);
        }
        let owned = &self.owned;
        self.refusals.retain(|address, _| {
            owned.iter().any(|owned| {
                *owned.topic == *address.topic
                    && owned.partition == address.partition
                    && owned.committed <= address.offset
            })
        });
        self.figures.records_in.add(records as u64);
        self.figures.bytes_in.add(bytes);
        self.figures.records_out.add(written.outputs);
        self.figures.bytes_out.add(written.bytes);
        self.figures.commits.add(1);
        self.pace(records);
        self.backoff.reset();
        self.batch_limit = (self.batch_limit * 2).min(self.config.limits.batch_records_max);
        if let Some(stop) = stop {
            self.stopped(stop);
        }
    }

    /// A batch failed, or a call without a batch. Whatever was read is read again, from where the
    /// group's committed offsets say.
    fn handle_failure(&mut self, error: &ProducerError, batch: Option<FailedBatch>) {
        tracing::warn!(%error, kind = ?error.kind, "a transaction failed");
        self.figures.aborted(reason(error.kind));
        // An abort follows a failure, which says more.
        if error.operation != "abort" || self.figures.problem().is_none() {
            let topic = error.topic.as_deref();
            self.figures.trouble(error.operation, topic, &error.message);
        }
        let mut wait = true;
        if let Some(batch) = batch {
            wait = self.decide(&batch);
        }
        let delay = if wait {
            self.backoff.after_failure()
        } else {
            Duration::ZERO
        };
        let now = Instant::now();
        self.not_before = now + delay;
        match error.kind {
            ErrorKind::Abort => self.start_abort(),
            ErrorKind::Renew => self.drop_producer(now + delay),
            ErrorKind::Fenced => {
                // Another process with this id, or a transaction that was open for too long? In the
                // first case the group tells it with the next heartbeat. Until then no new producer:
                // it would shut out the other one.
                let heard = Duration::from_millis(self.config.limits.heartbeat_ms * 2 + 500);
                self.drop_producer(now + heard.max(delay));
            }
            ErrorKind::IdentityTaken => {
                self.drop_producer(now + delay);
                self.identity_taken(&error.message);
            }
        }
        self.unplace();
    }

    /// Decides how the batch is tried again; returns whether to wait before that.
    fn decide(&mut self, batch: &FailedBatch) -> bool {
        let FailedBatch {
            addresses,
            failures,
        } = batch;
        match judge(failures, addresses.len()) {
            Verdict::Again(records) => {
                self.batch_limit = records;
                true
            }
            Verdict::Fewer(records) => {
                self.batch_limit = records;
                false
            }
            Verdict::Refused(refused) => {
                for (place, refusals) in refused {
                    if let Some((partition, offset)) = addresses.get(place as usize) {
                        self.note_refused(self.address(*partition, *offset), refusals);
                    }
                }
                false
            }
        }
    }

    /// Notes the topics that have refused outputs of a record, each once.
    fn note_refused(&mut self, address: Address, refusals: Vec<Refusal>) {
        for refusal in &refusals {
            tracing::warn!(%address, topic = refusal.topic, "an output is refused");
        }
        if !self.refusals.contains_key(&address) {
            self.figures.refused.add(1);
        }
        let known = self.refusals.entry(address).or_default();
        for refusal in refusals {
            let of_topic = |one: &&mut Refused| one.refusal.topic == refusal.topic;
            match known.iter_mut().find(of_topic) {
                Some(one) => {
                    let times = one.times + 1;
                    *one = Refused { refusal, times };
                }
                None => known.push(Refused { refusal, times: 1 }),
            }
        }
    }

    fn start_abort(&mut self) {
        if let Some(worker) = &mut self.worker {
            worker.abort();
            self.phase = Phase::Aborting;
        }
    }

    fn addresses(&self, count: usize) -> Vec<(usize, i64)> {
        let batch = &self.batch[..count.min(self.batch.len())];
        batch
            .iter()
            .map(|entry| (entry.partition, entry.message.offset()))
            .collect()
    }

    /// A stop at a record, by its place in the batch.
    fn stopped_at(&self, place: usize, stop: Stop) -> Stopped {
        let entry = self.batch.get(place);
        Stopped {
            block: Some(stop.block),
            error: stop.reason,
            address: entry.map(|entry| self.address(entry.partition, entry.message.offset())),
        }
    }

    fn address(&self, partition: usize, offset: i64) -> Address {
        let owned = &self.owned[partition];
        Address {
            topic: owned.topic.to_string(),
            partition: owned.partition,
            offset,
        }
    }
}

fn position(owned: &Owned, next: i64, note: Option<&str>) -> Position {
    Position {
        topic: Arc::clone(&owned.topic).to_string(),
        partition: owned.partition,
        next,
        note: Some(owned.note(note)),
    }
}

/// The error with the topic and the text of a failure, which say more: of the first output that is
/// at fault, else of the first one.
fn naming(error: ProducerError, failures: &[DeliveryFailure]) -> ProducerError {
    let is_fault = |failure: &&DeliveryFailure| failure.cause != FailureCause::Other;
    match failures.iter().find(is_fault).or(failures.first()) {
        Some(first) => ProducerError {
            topic: Some(first.topic.clone()),
            message: format!("topic {}: {}", first.topic, first.message),
            ..error
        },
        None => error,
    }
}

fn reason(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Abort => "abortable",
        ErrorKind::Renew => "unknown-outcome",
        ErrorKind::Fenced => "fenced",
        ErrorKind::IdentityTaken => "identity-taken",
    }
}

/// Answers come in the order of the jobs, one at a time.
fn unreachable_answer() {
    tracing::error!("an answer of the producer's thread without its question");
}
