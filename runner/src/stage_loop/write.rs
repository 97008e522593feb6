//! Gives a batch to the blocks and their outputs to the producer.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::blocks::{Blocks, Refusal, Refused};
use crate::figures::Figures;
use crate::outputs::{Outputs, Stop};
use crate::producer::{
    DeliveryFailure, ErrorKind, FailureCause, Producer, ProducerError, SendError,
};
use crate::record::Record;
use freehold_pipeline::address::Address;
use freehold_pipeline_blocks::dead_letter::REFUSALS_MAX;

/// Records that are given to the blocks at a time, at most: their outputs stay in the processor's
/// cache, and the first ones are sent while the next ones are made.
const CHUNK_MAX: usize = 256;

/// Chunks grow from one record while the blocks take less time than this for them, and shrink again:
/// nobody knows how long a program takes.
const CHUNK_TIME: Duration = Duration::from_millis(50);

/// The records of which topics have refused outputs, with these topics.
pub type Refusals = HashMap<Address, Vec<Refused>>;

/// What was handed to the producer.
#[derive(Debug, Default)]
pub struct Written {
    /// The records that count as read: all, those before a stop, or those that there was time for.
    pub records: usize,
    pub outputs: u64,
    pub bytes: u64,
    pub stop: Option<Stop>,
}

/// A batch could not be handed over: it must be aborted.
#[derive(Debug)]
pub enum WriteError {
    /// These outputs are at fault.
    Failures(Vec<DeliveryFailure>),
    /// A topic refused all that was tried of a record.
    RefusedAgain(Address, Refusal),
    /// The stage stops, and nothing of the batch is to be committed.
    GivenUp(Stop),
    Producer(ProducerError),
}

/// What writing needs besides the batch.
pub struct Writer<'w, P, B> {
    pub producer: &'w P,
    pub blocks: &'w mut B,
    pub outputs: &'w mut Outputs,
    pub refusals: &'w Refusals,
    pub figures: &'w Figures,
    /// Records that are given to the blocks at a time, from one batch to the next: at first one.
    pub chunk: &'w mut usize,
    /// How long to wait for room in the producer's queue. After this time the batch ends, too, with
    /// the records that it has: programs may be slow, and its transaction must not time out.
    pub patience: Duration,
}

impl<P: Producer, B: Blocks> Writer<'_, P, B> {
    /// Writes the outputs of up to `count` records, at least of one; `record` returns the one at a
    /// place.
    ///
    /// # Errors
    /// The batch must be aborted.
    pub fn write<'a>(
        &mut self,
        count: usize,
        record: impl Fn(usize) -> Record<'a>,
    ) -> Result<Written, WriteError> {
        let mut written = Written::default();
        let mut records = Vec::with_capacity(CHUNK_MAX.min(count));
        let began = Instant::now();
        while written.records < count && (written.records == 0 || began.elapsed() < self.patience) {
            let first = written.records;
            self.figures.beat();
            records.clear();
            records.extend((first..count.min(first + *self.chunk)).map(&record));
            self.outputs.clear();
            let blocks_began = Instant::now();
            self.run_blocks(&records)?;
            let took = blocks_began.elapsed();
            if let Some(stop) = self.outputs.stopped()
                && stop.gives_up
            {
                return Err(WriteError::GivenUp(stop.clone()));
            }
            self.send(&records, count == 1, &mut written)?;
            self.producer.serve(Duration::ZERO);
            if self.producer.has_failed() {
                return Err(WriteError::Failures(self.producer.take_failures()));
            }
            if let Some(stop) = self.outputs.stopped() {
                written.records = (stop.place as usize).min(count);
                written.stop = Some(stop.clone());
                return Ok(written);
            }
            written.records = first + records.len();
            *self.chunk = match took < CHUNK_TIME {
                true => (*self.chunk * 4).min(CHUNK_MAX),
                false => (*self.chunk / 4).max(1),
            };
        }
        Ok(written)
    }

    fn run_blocks(&mut self, records: &[Record<'_>]) -> Result<(), WriteError> {
        if self.refusals.is_empty() {
            self.blocks.process(records, self.outputs);
            return Ok(());
        }
        let mut rest = records;
        while let Some(at) = rest
            .iter()
            .position(|record| self.refusals.contains_key(&record.address()))
        {
            if at > 0 {
                self.blocks.process(&rest[..at], self.outputs);
            }
            let address = rest[at].address();
            let refused = &self.refusals[&address];
            if let Some(again) = refused.iter().find(|one| one.times > REFUSALS_MAX) {
                let refusal = again.refusal.clone();
                return Err(WriteError::RefusedAgain(address, refusal));
            }
            self.blocks.refused(&rest[at], refused, self.outputs);
            rest = &rest[at + 1..];
        }
        if !rest.is_empty() {
            self.blocks.process(rest, self.outputs);
        }
        Ok(())
    }

    fn send(
        &mut self,
        records: &[Record<'_>],
        alone: bool,
        written: &mut Written,
    ) -> Result<(), WriteError> {
        for output in self.outputs.iter(records) {
            let mut since = None;
            loop {
                match self.producer.send(&output) {
                    Ok(()) => break,
                    Err(SendError::Full) => {
                        self.wait_for_room(*since.get_or_insert_with(Instant::now))?
                    }
                    Err(SendError::Refused(refusal)) => {
                        return Err(WriteError::Failures(vec![DeliveryFailure {
                            place: output.place,
                            topic: refusal.topic,
                            partition: -1,
                            cause: FailureCause::TooLarge,
                            message: refusal.message,
                        }]));
                    }
                    Err(SendError::Failed(error)) => return Err(WriteError::Producer(error)),
                }
            }
            if alone {
                // A record that is suspected: each of its outputs is a producer's batch of its own.
                self.producer
                    .flush(self.patience)
                    .map_err(|error| match error.kind {
                        ErrorKind::Abort => WriteError::Failures(self.producer.take_failures()),
                        _ => WriteError::Producer(error),
                    })?;
            }
            written.outputs += 1;
            written.bytes += output.size() as u64;
        }
        Ok(())
    }

    fn wait_for_room(&self, since: Instant) -> Result<(), WriteError> {
        self.producer.serve(Duration::from_millis(1));
        self.figures.beat();
        if self.producer.has_failed() {
            return Err(WriteError::Failures(self.producer.take_failures()));
        }
        if since.elapsed() > self.patience {
            return Err(WriteError::Producer(ProducerError {
                kind: ErrorKind::Abort,
                operation: "write",
                topic: None,
                code: "Stage".to_owned(),
                message: format!("no output was taken for {:?}", self.patience),
            }));
        }
        Ok(())
    }
}
