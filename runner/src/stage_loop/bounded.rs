//! A stage whose input has an end: the ends that the partitions have when it first starts. They are
//! kept with the positions, so that no later start chooses others.

use std::time::{Duration, Instant};

use rdkafka::consumer::{Consumer as _, ConsumerGroupMetadata};
use rdkafka::error::KafkaResult;

use freehold_pipeline::definition::Delivery;

use crate::blocks::Blocks;
use crate::consumer::StageConsumer;
use crate::producer::Producer;
use crate::reading::ASK;
use crate::stage_loop::{Owned, Ownership, Phase, StageError, StageLoop};

impl Owned {
    /// What is kept with its position: its end and the note of the blocks, or, if it has no end, of
    /// which topic it is.
    pub(super) fn note(&self, of_blocks: Option<&str>) -> String {
        match self.end {
            Some(end) => format!("{end} {}", of_blocks.unwrap_or_default()),
            None => self.note.text(),
        }
    }

    /// Takes the end that is kept with its position, and returns the note of the blocks. Without
    /// one its end is the present one, which is to be kept before anything else is done.
    pub(super) fn bound(
        &mut self,
        note: &str,
        consumer: &StageConsumer,
    ) -> KafkaResult<Option<String>> {
        // At read_committed the second is the last stable offset.
        let (first, present) = consumer.fetch_watermarks(&self.topic, self.partition, ASK)?;
        let (end, rest) = note.split_once(' ').unwrap_or((note, ""));
        let (end, of_blocks) = match end.parse() {
            Ok(end) => (end, Some(rest.to_owned())),
            Err(_) => {
                self.is_new = true;
                (present, None)
            }
        };
        self.end = Some(end);
        // What Kafka has deleted meanwhile is not waited for.
        self.committed = self.committed.max(first);
        self.next = self.committed;
        self.is_at_end = self.next >= end;
        Ok(of_blocks)
    }
}

impl<P, B, F> StageLoop<'_, P, B, F>
where
    P: Producer<Group = ConsumerGroupMetadata>,
    B: Blocks,
    F: Fn() -> Result<P, StageError>,
{
    /// Whether the group has lost what this process has kept with its positions (`notes`): somebody
    /// has ended the stage, and it would begin anew and write everything a second time.
    pub(super) fn was_ended(&self, notes: &[String]) -> bool {
        let is_kept = self
            .config
            .bounded
            .as_ref()
            .is_some_and(|bounded| !bounded.dry_run)
            // Else the answer to a commit may be on its way.
            && self.config.delivery == Delivery::ExactlyOnce;
        is_kept && self.figures.commits.get() > 0 && notes.is_empty() && !self.owned.is_empty()
    }

    /// The consumer has given out all that a partition has: behind the last record there may be
    /// markers of transactions.
    pub(super) fn at_end_of(&mut self, partition: i32) {
        if self.ownership != Ownership::Active {
            return;
        }
        let mut owned = self.owned.iter_mut();
        let Some(owned) = owned.find(|owned| owned.partition == partition) else {
            return;
        };
        let Some(end) = owned.end.filter(|_| !owned.is_at_end) else {
            return;
        };
        // A new leader can know of less for a moment.
        let ends = self.consumer.fetch_watermarks(&owned.topic, partition, ASK);
        if ends.is_ok_and(|(_, high)| high >= end) {
            owned.is_at_end = true;
        } else {
            tracing::warn!(
                partition,
                "the end of a partition is not known; reading again"
            );
            self.not_before = Instant::now() + Duration::from_millis(200);
            self.unplace();
        }
    }

    /// Whether records were deleted before a bounded stage has read them: the rest is read then. No
    /// person has to decide that, as for a stage.
    pub(super) fn goes_on_behind_deleted(&mut self) -> bool {
        let is_behind = |owned: &Owned| {
            let range = self
                .consumer
                .fetch_watermarks(&owned.topic, owned.partition, ASK);
            range.is_ok_and(|(first, _)| owned.next < first)
        };
        let goes_on = self.config.bounded.is_some() && self.owned.iter().any(is_behind);
        if goes_on {
            tracing::warn!("records were deleted before they were read; reading what is left");
            self.not_before = Instant::now() + Duration::from_millis(200);
            self.unplace();
        }
        goes_on
    }

    /// Says how far a bounded stage is.
    pub(super) fn report_bounds(&self) {
        if self.config.bounded.is_none() || self.ownership != Ownership::Active {
            return;
        }
        // Without a partition it has not seen its topic: that is no end.
        let is_done = matches!(self.phase, Phase::Ready)
            && self.batch.is_empty()
            && !self.owned.is_empty()
            && self
                .owned
                .iter()
                .all(|owned| owned.is_at_end && !owned.is_new);
        let left = self.owned.iter().map(|owned| {
            let left = owned.end.unwrap_or_default() - owned.committed;
            u64::try_from(left).unwrap_or_default()
        });
        self.figures.set_bounds(left.sum(), is_done);
    }

    /// Waits after so many records as long as the rate says.
    pub(super) fn pace(&mut self, records: usize) {
        let bounded = self.config.bounded.as_ref();
        if let Some(rate) = bounded.and_then(|bounded| bounded.records_per_second) {
            let wait = records as f64 / f64::from(rate.max(1));
            self.not_before = Instant::now() + Duration::from_secs_f64(wait);
        }
    }
}
