//! Which partitions the member has, and from where it reads them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::{CommitMode, Consumer as _, ConsumerGroupMetadata};
use rdkafka::error::KafkaResult;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::blocks::Blocks;
use crate::consumer::Rebalance;
use crate::placing::Note;
use crate::producer::Producer;
use crate::stage_loop::{Owned, Ownership, Phase, StageError, StageLoop};
use freehold_pipeline::definition::Delivery;
use freehold_pipeline::report::Stopped;

impl<P, B, F> StageLoop<'_, P, B, F>
where
    P: Producer<Group = ConsumerGroupMetadata>,
    B: Blocks,
    F: Fn() -> Result<P, StageError>,
{
    /// Handles what happened to the partitions since the last call.
    pub(super) fn handle_rebalances(&mut self) {
        for rebalance in self.consumer.context().take_rebalances() {
            self.figures.rebalances.add(1);
            match rebalance {
                Rebalance::Assigned(partitions) => {
                    tracing::info!(?partitions, "partitions are assigned");
                    self.assign_awaited = true;
                    self.own(partitions);
                }
                Rebalance::Revoked => {
                    tracing::info!("partitions are revoked");
                    self.give_back();
                }
                Rebalance::Lost => {
                    tracing::warn!("partitions are lost: another member may have them");
                    self.give_back();
                }
            }
        }
    }

    /// Stops reading until the partitions are placed again, and forgets what was read.
    pub(super) fn unplace(&mut self) {
        self.drop_batch();
        if self.ownership == Ownership::Active {
            self.ownership = Ownership::Unplaced;
            self.resume();
            // Without this, what was read ahead would come before what is read again.
            if let Err(error) = self.consumer.unassign() {
                tracing::warn!(%error, "cannot stop reading");
            }
        }
    }

    /// Asks for the committed offsets and reads from there, once the producer has started.
    pub(super) fn place(&mut self) {
        let waits = self.ownership == Ownership::Unplaced && matches!(self.phase, Phase::Ready);
        if !waits || Instant::now() < self.not_before {
            return;
        }
        if let Err(error) = self.try_place() {
            tracing::warn!(%error, "cannot place the partitions");
            self.figures.trouble("place", None, &error.to_string());
            self.not_before = Instant::now() + Duration::from_millis(200);
        }
    }

    /// Places the partitions again once it is known whose next offset is not there.
    pub(super) fn check_offsets(&mut self) {
        let owned = self.owned.iter();
        let owned = owned.map(|owned| (&*owned.topic, owned.partition));
        if self.ownership == Ownership::Active
            && self.placing.is_due(self.consumer.context(), owned)
        {
            self.unplace();
        }
    }

    fn own(&mut self, partitions: Vec<(String, i32)>) {
        self.drop_batch();
        self.owned = partitions
            .into_iter()
            .map(|(topic, partition)| Owned {
                topic: Arc::from(topic),
                partition,
                committed: 0,
                next: 0,
                is_new: false,
                note: Note::default(),
                end: None,
                is_at_end: false,
            })
            .collect();
        self.ownership = Ownership::Unplaced;
    }

    /// Gives the partitions back. A commit that is under way is waited for, up to the budget; after
    /// that its outcome is left to the broker: a new owner is not told offsets before it ended.
    fn give_back(&mut self) {
        let budget = Duration::from_millis(self.config.limits.revoke_budget_ms);
        let began = Instant::now();
        while matches!(self.phase, Phase::Committing(_) | Phase::Aborting) {
            self.handle_worker(Duration::from_millis(5));
            self.figures.beat();
            if began.elapsed() > budget {
                self.figures.aborted("revoke");
                let why = "a transaction did not end in time";
                self.figures.trouble("revoke", None, why);
                self.drop_producer(Instant::now());
            }
        }
        self.drop_batch();
        if self.config.delivery == Delivery::AtLeastOnce && self.ownership == Ownership::Active {
            self.commit_offsets(CommitMode::Sync);
        }
        self.resume();
        self.ownership = Ownership::None;
        self.assign_awaited = false;
        self.owned.clear();
        self.figures.set_assigned(None);
        if let Err(error) = self.consumer.unassign() {
            tracing::warn!(%error, "cannot give the partitions back");
        }
    }

    /// Commits the positions without a transaction.
    pub(super) fn commit_offsets(&mut self, mode: CommitMode) {
        let mut list = TopicPartitionList::new();
        for owned in self.owned.iter().filter(|owned| !owned.is_new) {
            let mut element = list.add_partition(&owned.topic, owned.partition);
            let _ = element.set_offset(Offset::Offset(owned.committed));
            element.set_metadata(owned.note(self.note.as_deref()));
        }
        if list.count() == 0 {
            return;
        }
        let topics = self.owned.iter().filter(|owned| !owned.is_new);
        let is_known = self.placing.knows(topics.map(|owned| &*owned.topic));
        let mode = if is_known { mode } else { CommitMode::Sync };
        if let Err(error) = self.consumer.commit(&list, mode) {
            tracing::warn!(%error, "offsets were not committed; their records may come again");
        } else if !is_known {
            for owned in self.owned.iter().filter(|owned| !owned.is_new) {
                self.placing.committed(&owned.topic);
            }
        }
    }

    fn try_place(&mut self) -> KafkaResult<()> {
        let partitions = self.owned.iter();
        let partitions: Vec<_> = partitions
            .map(|owned| (&*owned.topic, owned.partition))
            .collect();
        let (consumer, config) = (self.consumer, self.config);
        let placed = self
            .placing
            .place(consumer, config, &self.figures, &partitions)?;
        let placed = match placed {
            Ok(placed) => placed,
            Err(stopped) => {
                self.stopped(stopped);
                return Ok(());
            }
        };
        let mut notes = Vec::new();
        for (owned, placed) in self.owned.iter_mut().zip(placed) {
            owned.committed = placed.offset;
            owned.next = placed.offset;
            owned.is_new = placed.is_new;
            owned.note = placed.note;
            if config.bounded.is_some() {
                notes.extend(owned.bound(&placed.kept, consumer)?);
            }
        }
        if self.was_ended(&notes) {
            self.stopped(Stopped {
                block: None,
                error: "its consumer group was deleted: it was ended".to_owned(),
                address: None,
            });
            return Ok(());
        }
        self.blocks.noted(&notes);
        self.note = self.blocks.note();
        let mut list = TopicPartitionList::new();
        for owned in &self.owned {
            list.add_partition_offset(
                &owned.topic,
                owned.partition,
                Offset::Offset(owned.committed),
            )?;
        }
        self.consumer.assign(&list)?;
        self.assign_awaited = false;
        self.ownership = Ownership::Active;
        let named = |owned: &Owned| (owned.topic.to_string(), owned.partition, owned.committed);
        let placed: Vec<_> = self.owned.iter().map(named).collect();
        tracing::debug!(?placed, "reading");
        self.figures.set_assigned(Some(&placed));
        Ok(())
    }
}
