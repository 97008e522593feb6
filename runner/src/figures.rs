//! What a stage counts. Written by the loop, read by the metrics and the status at any time.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use freehold_pipeline::address::Address;
use freehold_pipeline::report::{LastError, Stopped};

/// A counter that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds to it.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// What it has counted.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The figures of a stage. Counters of records and bytes count what is committed.
#[derive(Debug, Default)]
pub struct Figures {
    pub records_in: Counter,
    pub bytes_in: Counter,
    pub records_out: Counter,
    pub bytes_out: Counter,
    /// Batches that were begun.
    pub batches: Counter,
    /// Batches that were committed.
    pub commits: Counter,
    /// Producers that were thrown away because the end of a transaction is unknown.
    pub renewals: Counter,
    pub rebalances: Counter,
    /// Records that came again because a batch was given up.
    pub records_again: Counter,
    /// Records whose output Kafka refused.
    pub refused: Counter,
    aborts: Mutex<BTreeMap<&'static str, u64>>,
    partitions: Mutex<BTreeMap<(String, i32), PartitionFigures>>,
    problem: Mutex<Option<Problem>>,
    /// Why a topic cannot be read, by topic.
    unreadable: Mutex<BTreeMap<String, String>>,
    /// What a block cannot do at the moment, by its name.
    block_problems: Mutex<BTreeMap<String, BlockProblem>>,
    /// The last gap behind which a source went on, by its block.
    gaps: Mutex<BTreeMap<String, LastError>>,
    stopped: Mutex<Option<Stopped>>,
    /// The consumer has no connection to any broker.
    disconnected: AtomicBool,
    heartbeat_ms: AtomicI64,
    progress_ms: AtomicI64,
    assigned: AtomicBool,
    polled: AtomicBool,
    bounds: Mutex<Bounds>,
}

/// How far a stage is that has an end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// Records that are not committed yet; markers of transactions count as records until it is
    /// done.
    pub left: u64,
    /// All is read and committed.
    pub is_done: bool,
}

/// The figures of an owned partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionFigures {
    /// The next offset to read, as committed; or the end, when only markers of transactions are
    /// between.
    pub committed: i64,
    /// The end up to which the consumer has given out everything, as last heard.
    pub drained: i64,
    /// The end of what can be read (the last stable offset), as last heard; -1: not heard yet.
    pub end: i64,
    /// The time of the last committed record, in milliseconds since 1970.
    pub record_time_ms: i64,
}

impl PartitionFigures {
    /// Nothing was heard of the partition yet.
    fn at(committed: i64) -> Self {
        Self {
            committed,
            drained: -1,
            end: -1,
            record_time_ms: 0,
        }
    }

    /// Records that are not committed yet. Markers of transactions between them count as records.
    #[must_use]
    pub fn lag_records(&self) -> i64 {
        (self.end - self.committed).max(0)
    }

    /// How far the last committed record is behind `now_ms`; 0 without a lag.
    #[must_use]
    pub fn lag_seconds(&self, now_ms: i64) -> i64 {
        if self.lag_records() == 0 || self.record_time_ms == 0 {
            return 0;
        }
        ((now_ms - self.record_time_ms) / 1_000).max(0)
    }
}

/// What the loop cannot do at the moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The operation, as `commit` or `init`.
    pub operation: &'static str,
    pub message: String,
    /// The topic that it is about, if it is about one.
    pub topic: Option<String>,
    /// Milliseconds since 1970.
    pub since_ms: i64,
}

/// What a block cannot do at the moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockProblem {
    /// Never a secret or the content of a record.
    pub message: String,
    /// Milliseconds since 1970.
    pub since_ms: i64,
}

/// Now, in milliseconds since 1970.
#[must_use]
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    i64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(i64::MAX)
}

impl Figures {
    /// The loop lives.
    pub fn beat(&self) {
        self.heartbeat_ms.store(now_ms(), Ordering::Relaxed);
    }

    /// A batch was committed or there was nothing to read.
    pub fn progress(&self) {
        self.progress_ms.store(now_ms(), Ordering::Relaxed);
        if let Ok(mut problem) = self.problem.lock() {
            *problem = None;
        }
    }

    /// Counts an abort.
    pub fn aborted(&self, reason: &'static str) {
        if let Ok(mut aborts) = self.aborts.lock() {
            *aborts.entry(reason).or_default() += 1;
        }
    }

    /// Remembers what does not work; the time of the first failure stays.
    pub fn trouble(&self, operation: &'static str, topic: Option<&str>, message: &str) {
        if let Ok(mut problem) = self.problem.lock() {
            let since_ms = problem.as_ref().map_or_else(now_ms, |known| known.since_ms);
            *problem = Some(Problem {
                operation,
                message: message.to_owned(),
                topic: topic.map(str::to_owned),
                since_ms,
            });
        }
    }

    /// The topics that cannot be read, with why.
    pub fn set_unreadable(&self, topics: BTreeMap<String, String>) {
        if let Ok(mut unreadable) = self.unreadable.lock() {
            *unreadable = topics;
        }
    }

    /// The topics that cannot be read, with why.
    #[must_use]
    pub fn unreadable(&self) -> BTreeMap<String, String> {
        self.unreadable
            .lock()
            .map(|all| all.clone())
            .unwrap_or_default()
    }

    /// What a block cannot do at the moment; `None`: it works. The time of the first failure stays.
    pub fn set_block_problem(&self, block: &str, message: Option<String>) {
        let Ok(mut problems) = self.block_problems.lock() else {
            return;
        };
        match message {
            None => drop(problems.remove(block)),
            Some(message) => {
                let known = problems.get(block);
                let since_ms = known.map_or_else(now_ms, |known| known.since_ms);
                let problem = BlockProblem { message, since_ms };
                problems.insert(block.to_owned(), problem);
            }
        }
    }

    /// What blocks cannot do at the moment, by their names.
    #[must_use]
    pub fn block_problems(&self) -> BTreeMap<String, BlockProblem> {
        let problems = self.block_problems.lock();
        problems.map(|all| all.clone()).unwrap_or_default()
    }

    /// A source went on behind a gap. Records may not have been read, or be read twice: it is said
    /// for as long as the process lives.
    pub fn gap(&self, block: &str, summary: &str, address: Option<Address>) {
        if let Ok(mut gaps) = self.gaps.lock() {
            let gap = LastError {
                summary: summary.to_owned(),
                address,
                time_ms: now_ms(),
            };
            gaps.insert(block.to_owned(), gap);
        }
    }

    /// The last gap behind which each source went on, by its block.
    #[must_use]
    pub fn gaps(&self) -> BTreeMap<String, LastError> {
        self.gaps.lock().map(|all| all.clone()).unwrap_or_default()
    }

    /// The stage has stopped for good.
    pub fn set_stopped(&self, stopped: Stopped) {
        self.assigned.store(false, Ordering::Relaxed);
        if let Ok(mut known) = self.stopped.lock() {
            *known = Some(stopped);
        }
    }

    /// Why the stage has stopped, if it has.
    #[must_use]
    pub fn stopped(&self) -> Option<Stopped> {
        self.stopped.lock().ok().and_then(|stopped| stopped.clone())
    }

    /// Whether the consumer has a connection to a broker.
    pub fn set_connected(&self, connected: bool) {
        self.disconnected.store(!connected, Ordering::Relaxed);
    }

    /// The consumer said that it has no connection to any broker.
    #[must_use]
    pub fn is_disconnected(&self) -> bool {
        self.disconnected.load(Ordering::Relaxed)
    }

    /// The partitions that the stage owns and works on; None: it has none and waits for them.
    pub fn set_assigned(&self, committed: Option<&[(String, i32, i64)]>) {
        self.assigned.store(committed.is_some(), Ordering::Relaxed);
        if let Ok(mut partitions) = self.partitions.lock() {
            let before = std::mem::take(&mut *partitions);
            for (topic, partition, committed) in committed.unwrap_or_default() {
                let key = (topic.clone(), *partition);
                let mut figures = PartitionFigures::at(*committed);
                // They are placed again after each failure, more often than the end is heard.
                if let Some(known) = before.get(&key) {
                    figures.end = known.end;
                    figures.record_time_ms = known.record_time_ms;
                }
                partitions.insert(key, figures);
            }
        }
    }

    /// How far a stage is that has an end. What is done stays done.
    pub fn set_bounds(&self, left: u64, is_done: bool) {
        if let Ok(mut bounds) = self.bounds.lock()
            && !bounds.is_done
        {
            let left = if is_done { 0 } else { left };
            *bounds = Bounds { left, is_done };
        }
    }

    /// How far a stage is that has an end.
    #[must_use]
    pub fn bounds(&self) -> Bounds {
        self.bounds.lock().map(|bounds| *bounds).unwrap_or_default()
    }

    /// The consumer was asked for records after it had its partitions.
    pub fn set_polled(&self) {
        self.polled.store(true, Ordering::Relaxed);
    }

    /// The loop has nothing under way: what the consumer has given out is committed. Without this the
    /// marker of the last transaction of an idle partition would be a lag for ever.
    pub fn settle(&self) {
        if let Ok(mut partitions) = self.partitions.lock() {
            for figures in partitions.values_mut() {
                if figures.drained == figures.end {
                    figures.committed = figures.committed.max(figures.end);
                }
            }
        }
    }

    /// Changes the figures of a partition that the stage owns.
    pub fn partition(
        &self,
        topic: &str,
        partition: i32,
        change: impl FnOnce(&mut PartitionFigures),
    ) {
        if let Ok(mut partitions) = self.partitions.lock()
            && let Some(figures) = partitions.get_mut(&(topic.to_owned(), partition))
        {
            change(figures);
        }
    }

    /// The figures of the partitions that the stage owns.
    #[must_use]
    pub fn partitions(&self) -> BTreeMap<(String, i32), PartitionFigures> {
        self.partitions
            .lock()
            .map(|all| all.clone())
            .unwrap_or_default()
    }

    /// Aborted batches by reason.
    #[must_use]
    pub fn aborts(&self) -> BTreeMap<&'static str, u64> {
        self.aborts
            .lock()
            .map(|all| all.clone())
            .unwrap_or_default()
    }

    /// What does not work at the moment.
    #[must_use]
    pub fn problem(&self) -> Option<Problem> {
        self.problem.lock().ok().and_then(|problem| problem.clone())
    }

    /// How long ago the loop last said that it lives.
    #[must_use]
    pub fn since_beat(&self) -> Duration {
        since(self.heartbeat_ms.load(Ordering::Relaxed))
    }

    /// How long ago a batch was last committed, or everything was read.
    #[must_use]
    pub fn since_progress(&self) -> Duration {
        since(self.progress_ms.load(Ordering::Relaxed))
    }

    /// Whether the stage has its partitions and has asked for records.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.assigned.load(Ordering::Relaxed) && self.polled.load(Ordering::Relaxed)
    }
}

fn since(time_ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(now_ms() - time_ms).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_is_what_is_between_the_committed_offset_and_the_end() {
        let figures = PartitionFigures {
            committed: 90,
            end: 100,
            drained: 0,
            record_time_ms: 5_000,
        };
        assert_eq!(
            (figures.lag_records(), figures.lag_seconds(12_900)),
            (10, 7)
        );
        let read = PartitionFigures {
            committed: 100,
            ..figures
        };
        assert_eq!((read.lag_records(), read.lag_seconds(12_900)), (0, 0));
    }

    #[test]
    fn a_marker_at_the_end_of_an_idle_partition_is_no_lag() {
        let figures = Figures::default();
        figures.set_assigned(Some(&[("t".into(), 0, 99)]));
        figures.partition("t", 0, |partition| {
            (partition.end, partition.drained) = (100, 90)
        });
        figures.settle();
        assert_eq!(figures.partitions()[&("t".to_owned(), 0)].lag_records(), 1);
        figures.partition("t", 0, |partition| partition.drained = 100);
        figures.settle();
        assert_eq!(figures.partitions()[&("t".to_owned(), 0)].lag_records(), 0);
    }

    #[test]
    fn a_problem_keeps_its_first_time_and_ends_with_progress() {
        let figures = Figures::default();
        figures.aborted("transport");
        figures.trouble("commit", None, "broker away");
        let first = figures.problem().unwrap().since_ms;
        std::thread::sleep(Duration::from_millis(5));
        figures.trouble("init", None, "still away");
        let problem = figures.problem().unwrap();
        assert_eq!((problem.since_ms, problem.operation), (first, "init"));
        assert_eq!(figures.aborts(), BTreeMap::from([("transport", 1)]));
        figures.progress();
        assert_eq!(figures.problem(), None);
    }

    #[test]
    fn ready_needs_partitions_and_a_poll() {
        let figures = Figures::default();
        figures.set_polled();
        assert!(!figures.ready());
        figures.set_assigned(Some(&[("t".into(), 0, 5)]));
        assert!(figures.ready());
        figures.partition("t", 0, |partition| partition.end = 9);
        figures.partition("other", 0, |partition| partition.end = 9);
        assert_eq!(figures.partitions().len(), 1);
        assert_eq!(figures.partitions()[&("t".to_owned(), 0)].lag_records(), 4);
        figures.set_assigned(Some(&[("t".into(), 0, 7)]));
        assert_eq!(figures.partitions()[&("t".to_owned(), 0)].lag_records(), 2);
        figures.set_assigned(None);
        assert!(!figures.ready());
    }
}
