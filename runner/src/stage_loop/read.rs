//! Fills the batch.

use std::time::{Duration, Instant};

use rdkafka::consumer::{Consumer as _, ConsumerGroupMetadata};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message as _};

use crate::blocks::Blocks;
use crate::producer::Producer;
use crate::reading::{ReadError, read_error};
use crate::stage_loop::{End, Entry, Ownership, Phase, StageError, StageLoop, Stopped};

/// Messages of one turn, at most: then the loop looks at everything else.
const MESSAGES_PER_TURN: usize = 2_000;

/// A full batch that cannot be delivered for this long pauses the partitions, so that the consumer
/// can be polled. Pausing throws what was read ahead away, so it is not done for each commit.
const PAUSE_AFTER: Duration = Duration::from_secs(1);

impl<'c, P, B, F> StageLoop<'c, P, B, F>
where
    P: Producer<Group = ConsumerGroupMetadata>,
    B: Blocks,
    F: Fn() -> Result<P, StageError>,
{
    /// Polls the consumer once, and goes on while it has messages and the batch has room.
    pub(super) fn read(&mut self) -> Result<(), StageError> {
        if self.is_full() {
            return self.read_events_only();
        }
        self.full_since = None;
        self.resume();
        let mut wait = self.read_wait();
        for _ in 0..MESSAGES_PER_TURN {
            match self.consumer.poll(wait) {
                // Also after a rebalance: it must be handled before the next message.
                None => break,
                Some(Ok(message)) => self.take(message),
                Some(Err(error)) => {
                    self.handle_consumer_error(&error)?;
                    break;
                }
            }
            if self.is_full() {
                break;
            }
            wait = Duration::ZERO;
        }
        if self.ownership == Ownership::Active {
            self.figures.set_polled();
            let idle = self.batch.is_empty() && matches!(self.phase, Phase::Ready);
            if idle && self.backoff.failures() == 0 {
                self.figures.settle();
                self.figures.progress();
            }
        }
        Ok(())
    }

    /// Whether the batch has no room for a record.
    pub(super) fn is_full(&self) -> bool {
        self.batch.len() >= self.batch_limit
            || self.batch_bytes >= self.config.limits.batch_bytes_max
            || (self.is_stopping() && !self.batch.is_empty())
    }

    /// Whether a transaction is to begin now.
    pub(super) fn is_due(&self) -> bool {
        if !matches!(self.phase, Phase::Ready)
            || self.ownership != Ownership::Active
            || Instant::now() < self.not_before
        {
            return false;
        }
        if self.batch.is_empty() {
            return self.owned.iter().any(|owned| owned.is_new);
        }
        self.is_full() || self.batch_since.elapsed() >= self.batch_wait()
    }

    pub(super) fn drop_batch(&mut self) {
        self.figures.records_again.add(self.batch.len() as u64);
        self.batch.clear();
        self.batch_bytes = 0;
    }

    fn batch_wait(&self) -> Duration {
        Duration::from_millis(self.config.limits.batch_wait_ms_max)
    }

    /// How long the consumer may wait for a message.
    fn read_wait(&self) -> Duration {
        let idle = Duration::from_millis(100);
        match self.phase {
            // The answer of the worker comes another way.
            Phase::Committing(_) | Phase::Aborting | Phase::Starting => Duration::from_millis(2),
            _ if self.batch.is_empty() => idle,
            _ => self
                .batch_wait()
                .saturating_sub(self.batch_since.elapsed())
                .min(idle),
        }
    }

    /// The batch is full: waits for the worker, or for the time of the next try.
    fn read_events_only(&mut self) -> Result<(), StageError> {
        if self.is_due() {
            return Ok(());
        }
        let since = *self.full_since.get_or_insert_with(Instant::now);
        if since.elapsed() > PAUSE_AFTER && !self.paused {
            self.set_paused(true);
        }
        self.handle_worker(Duration::from_millis(2));
        if self.paused {
            // A message can only be one that was on its way; it is taken like others.
            match self.consumer.poll(Duration::from_millis(2)) {
                Some(Ok(message)) => self.take(message),
                Some(Err(error)) => self.handle_consumer_error(&error)?,
                None => {}
            }
        }
        Ok(())
    }

    /// Resumes the partitions if they are paused. Also before they are given up: librdkafka keeps
    /// them paused when they are assigned again.
    pub(super) fn resume(&mut self) {
        if self.paused {
            self.set_paused(false);
        }
    }

    fn set_paused(&mut self, pause: bool) {
        let result = self.consumer.assignment().and_then(|partitions| {
            if pause {
                self.consumer.pause(&partitions)
            } else {
                self.consumer.resume(&partitions)
            }
        });
        match result {
            Ok(()) => self.paused = pause,
            // It is tried again in the next turn.
            Err(error) => {
                tracing::warn!(%error, pause, "cannot pause or resume partitions");
                self.figures.trouble("pause", None, &error.to_string());
            }
        }
    }

    fn take(&mut self, message: BorrowedMessage<'c>) {
        if self.ownership != Ownership::Active {
            return;
        }
        let place = match self.batch.last() {
            Some(last)
                if last.message.topic_ptr() == message.topic_ptr()
                    && last.message.partition() == message.partition() =>
            {
                Some(last.partition)
            }
            _ => self.owned.iter().position(|owned| {
                owned.partition == message.partition() && *owned.topic == *message.topic()
            }),
        };
        let Some(place) = place else {
            return;
        };
        let owned = &mut self.owned[place];
        if owned.end.is_some_and(|end| message.offset() >= end) {
            owned.is_at_end = true;
            return;
        }
        if message.offset() < owned.next {
            // It was read before. It cannot be a gap: offsets only grow between placements.
            return;
        }
        owned.next = message.offset() + 1;
        if self.batch.is_empty() {
            self.batch_since = Instant::now();
        }
        self.batch_bytes += message.key_len() + message.payload_len();
        self.batch.push(Entry {
            message,
            partition: place,
        });
    }

    fn handle_consumer_error(&mut self, error: &KafkaError) -> Result<(), StageError> {
        if let KafkaError::PartitionEOF(partition) = error {
            self.at_end_of(*partition);
            return Ok(());
        }
        match read_error(self.consumer, error)? {
            ReadError::IdentityTaken(message) => self.identity_taken(&message),
            ReadError::OutOfRange(_) if self.goes_on_behind_deleted() => {}
            ReadError::OutOfRange(words) => {
                self.placing.out_of_range(self.consumer.context(), words);
            }
            ReadError::Away => {}
            ReadError::Other {
                is_about_source,
                text,
            } => {
                self.source_failed |= is_about_source;
                self.figures.trouble("read", None, &text);
            }
        }
        Ok(())
    }

    pub(super) fn stopped(&mut self, stopped: Stopped) {
        self.figures.trouble("stop", None, &stopped.error);
        self.figures.set_stopped(stopped.clone());
        self.end.get_or_insert(End::Stopped(stopped));
    }

    pub(super) fn identity_taken(&mut self, message: &str) {
        self.end.get_or_insert(End::IdentityTaken {
            instance: self.config.instance.clone(),
            message: message.to_owned(),
        });
    }
}
