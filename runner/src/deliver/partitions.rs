//! Which partitions the member has, from where it reads them, and which positions it commits.

use std::time::{Duration, Instant};

use rdkafka::consumer::{CommitMode, Consumer as _};
use rdkafka::error::KafkaResult;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::consumer::Rebalance;
use crate::deliver::lane::Lane;
use crate::deliver::policy::Letters;
use crate::deliver::sink::Sink;
use crate::deliver::{DeliverLoop, Ownership};

/// After a question without an answer.
const ASK_AGAIN: Duration = Duration::from_millis(200);

impl<S: Sink, L: Letters> DeliverLoop<'_, S, L> {
    /// Handles what happened to the partitions since the last call.
    pub(super) fn handle_rebalances(&mut self) {
        for rebalance in self.consumer.context().take_rebalances() {
            self.figures.rebalances.add(1);
            match rebalance {
                Rebalance::Assigned(partitions) => {
                    tracing::info!(?partitions, "partitions are assigned");
                    self.lanes.all.clear();
                    self.assigned = partitions;
                    self.ownership = Ownership::Unplaced;
                }
                Rebalance::Revoked => {
                    tracing::info!("partitions are revoked");
                    let budget = Duration::from_millis(self.config.limits.revoke_budget_ms);
                    self.finish(budget);
                    self.give_back();
                }
                Rebalance::Lost => {
                    tracing::warn!("partitions are lost: another member may have them");
                    self.give_back();
                }
            }
        }
    }

    /// Delivers what is under way, and what the sink wants at an end, as far as it is possible within
    /// a time; then commits. What is left is given up: it is read again.
    pub(super) fn finish(&mut self, budget: Duration) {
        let began = Instant::now();
        let mut stopped = None;
        while stopped.is_none() && began.elapsed() < budget {
            self.figures.beat();
            stopped = self.lanes.end();
            if self.lanes.is_at_end() {
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        if let Some(stopped) = stopped {
            self.stopped(stopped);
        }
        if self.ownership == Ownership::Active {
            self.commit(CommitMode::Sync);
        }
    }

    fn give_back(&mut self) {
        self.resume_all();
        self.lanes.all.clear();
        self.assigned.clear();
        self.ownership = Ownership::None;
        self.figures.set_assigned(None);
        if let Err(error) = self.consumer.unassign() {
            tracing::warn!(%error, "cannot give the partitions back");
        }
    }

    /// Commits the positions that have moved.
    pub(super) fn commit(&mut self, mode: CommitMode) {
        if self.consumer.context().take_failed_commit() {
            self.commit_all_again();
        }
        let mut list = TopicPartitionList::new();
        let moved = |lane: &&mut Lane<S>| lane.position > lane.committed;
        for lane in self.lanes.all.iter_mut().filter(moved) {
            let mut element = list.add_partition(&lane.topic, lane.partition);
            let _ = element.set_offset(Offset::Offset(lane.position));
            let place = (lane.topic.to_string(), lane.partition);
            if let Some(note) = self.notes.get(&place) {
                element.set_metadata(&**note);
            }
            lane.committed = lane.position;
            let (position, time_ms) = (lane.position, lane.time_ms);
            self.figures
                .partition(&lane.topic, lane.partition, |figures| {
                    figures.committed = position;
                    figures.record_time_ms = time_ms;
                });
        }
        if list.count() == 0 {
            return;
        }
        let lanes = self.lanes.all.iter();
        let is_known = self.placing.knows(lanes.map(|lane| &*lane.topic));
        let mode = if is_known { mode } else { CommitMode::Sync };
        match self.consumer.commit(&list, mode) {
            Ok(()) => {
                self.figures.commits.add(1);
                let lanes = self.lanes.all.iter();
                lanes.for_each(|lane| self.placing.committed(&lane.topic));
            }
            Err(error) => {
                tracing::warn!(%error, "offsets were not committed; their records may come again");
                self.commit_all_again();
            }
        }
    }

    /// A commit has failed: the next one has all positions.
    fn commit_all_again(&mut self) {
        let lanes = self.lanes.all.iter_mut();
        lanes.for_each(|lane| lane.committed = -1);
    }

    /// Asks for the committed offsets and reads from there.
    pub(super) fn place(&mut self) {
        if self.ownership != Ownership::Unplaced || Instant::now() < self.not_before {
            return;
        }
        if let Err(error) = self.try_place() {
            tracing::warn!(%error, "cannot place the partitions");
            self.figures.trouble("place", None, &error.to_string());
            self.not_before = Instant::now() + ASK_AGAIN;
        }
    }

    fn try_place(&mut self) -> KafkaResult<()> {
        let partitions = self.assigned.iter();
        let partitions: Vec<_> = partitions
            .map(|(topic, partition)| (&**topic, *partition))
            .collect();
        let placed = self
            .placing
            .place(self.consumer, self.config, self.figures, &partitions)?;
        let placed = match placed {
            Ok(placed) => placed,
            Err(stopped) => {
                self.stopped(stopped);
                return Ok(());
            }
        };
        let mut lanes = Vec::new();
        let mut fresh = TopicPartitionList::new();
        self.notes.clear();
        for ((topic, partition), placed) in self.assigned.iter().zip(placed) {
            let note = placed.note.text();
            if placed.is_new {
                let mut element = fresh.add_partition(topic, *partition);
                element.set_offset(Offset::Offset(placed.offset))?;
                element.set_metadata(&*note);
            }
            self.notes.insert((topic.clone(), *partition), note);
            lanes.push(Lane::new(topic, *partition, placed.offset, placed.offset));
        }
        if fresh.count() > 0 {
            // A new start must begin at the same offsets, before anything is read.
            self.consumer.commit(&fresh, CommitMode::Sync)?;
            for element in fresh.elements() {
                self.placing.committed(element.topic());
            }
        }
        self.lanes.all = lanes;
        self.assign()?;
        self.ownership = Ownership::Active;
        let named = |lane: &Lane<S>| (lane.topic.to_string(), lane.partition, lane.position);
        let placed: Vec<_> = self.lanes.all.iter().map(named).collect();
        tracing::debug!(?placed, "reading");
        self.figures.set_assigned(Some(&placed));
        Ok(())
    }

    /// Reads each partition from the next offset of its lane.
    fn assign(&mut self) -> KafkaResult<()> {
        let mut list = TopicPartitionList::new();
        for lane in &mut self.lanes.all {
            let next = Offset::Offset(lane.next);
            list.add_partition_offset(&lane.topic, lane.partition, next)?;
            lane.is_paused = false;
        }
        self.consumer.assign(&list)
    }

    /// Reads again what lanes have dropped.
    pub(super) fn rewind(&mut self) {
        if !self.lanes.all.iter().any(|lane| lane.is_rewound) {
            return;
        }
        self.resume_all();
        // Without the first step, what was read ahead would come before what is read again.
        let again = self.consumer.unassign().and_then(|()| self.assign());
        match again {
            Ok(()) => {
                for lane in &mut self.lanes.all {
                    lane.is_rewound = false;
                    // It was read to its end, and is read again.
                    self.figures
                        .partition(&lane.topic, lane.partition, |known| known.drained = -1);
                }
            }
            Err(error) => tracing::warn!(%error, "cannot read partitions again"),
        }
    }

    /// Pauses the partitions whose lanes are full, and resumes the others.
    pub(super) fn set_paused(&mut self) {
        let full = self.lanes.full();
        let (mut pause, mut resume) = (TopicPartitionList::new(), TopicPartitionList::new());
        for (lane, is_full) in self.lanes.all.iter_mut().zip(full) {
            if lane.is_paused != is_full {
                let list = if is_full { &mut pause } else { &mut resume };
                list.add_partition(&lane.topic, lane.partition);
                lane.is_paused = is_full;
            }
        }
        let changed = [(pause, true), (resume, false)];
        for (list, pauses) in changed.iter().filter(|(list, _)| list.count() > 0) {
            let result = match pauses {
                true => self.consumer.pause(list),
                false => self.consumer.resume(list),
            };
            if let Err(error) = result {
                tracing::warn!(%error, pauses, "cannot pause or resume partitions");
                // It is tried again in the next turn.
                for element in list.elements() {
                    for lane in &mut self.lanes.all {
                        if lane.partition == element.partition() && *lane.topic == *element.topic()
                        {
                            lane.is_paused = !pauses;
                        }
                    }
                }
            }
        }
    }

    /// librdkafka keeps partitions paused when they are assigned again.
    fn resume_all(&mut self) {
        let mut list = TopicPartitionList::new();
        for lane in self.lanes.all.iter_mut().filter(|lane| lane.is_paused) {
            list.add_partition(&lane.topic, lane.partition);
            lane.is_paused = false;
        }
        if list.count() > 0
            && let Err(error) = self.consumer.resume(&list)
        {
            tracing::warn!(%error, "cannot resume partitions");
        }
    }

    /// Places the partitions again once it is known whose next offset is not there. What is under way
    /// is delivered before, as far as it goes.
    pub(super) fn check_offsets(&mut self) {
        let lanes = self.lanes.all.iter();
        let owned = lanes.map(|lane| (&*lane.topic, lane.partition));
        if self.ownership == Ownership::Active
            && self.placing.is_due(self.consumer.context(), owned)
        {
            self.place_again();
        }
    }

    fn place_again(&mut self) {
        let budget = Duration::from_millis(self.config.limits.revoke_budget_ms);
        self.finish(budget);
        self.resume_all();
        self.lanes.all.clear();
        self.ownership = Ownership::Unplaced;
        if let Err(error) = self.consumer.unassign() {
            tracing::warn!(%error, "cannot stop reading");
        }
    }
}
