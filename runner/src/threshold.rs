//! Whether too many records fail. Pure: the time is an argument.

use std::collections::VecDeque;

use freehold_pipeline::definition::Threshold;

/// One bad record of few is no reason to stop a stage.
const RECORDS_MIN: u64 = 100;

/// The time that is looked at is cut into so many parts; it is exact to one of them.
const PARTS: u64 = 60;

/// How many records were read, and on how many a block failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub read: u64,
    pub failed: u64,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.read += other.read;
        self.failed += other.failed;
    }
}

/// Counts the records of a stage over the time of a [`Threshold`].
#[derive(Debug)]
pub struct FailureRatio {
    threshold: Threshold,
    /// Committed records by the number of their part of time, the oldest first.
    parts: VecDeque<(i64, Tally)>,
    /// Records that are not committed yet.
    pending: Tally,
    now_ms: i64,
}

impl FailureRatio {
    /// Nothing is counted yet.
    #[must_use]
    pub fn new(threshold: Threshold) -> Self {
        Self {
            threshold,
            parts: VecDeque::new(),
            pending: Tally::default(),
            now_ms: 0,
        }
    }

    /// A batch begins at `now_ms`. The records since the last [`Self::committed`] come again.
    pub fn begin(&mut self, now_ms: i64) {
        self.pending = Tally::default();
        self.now_ms = now_ms;
        let oldest = self.part() - PARTS as i64;
        while self.parts.front().is_some_and(|(part, _)| *part <= oldest) {
            self.parts.pop_front();
        }
    }

    /// The records of the batch will not come again.
    pub fn committed(&mut self) {
        let (part, pending) = (self.part(), std::mem::take(&mut self.pending));
        match self.parts.back_mut() {
            Some((last, tally)) if *last == part => tally.add(pending),
            _ => self.parts.push_back((part, pending)),
        }
    }

    /// Counts records. Returns why the stage must stop, if too many failed.
    pub fn count(&mut self, more: Tally) -> Option<String> {
        self.pending.add(more);
        let mut sum = self.pending;
        for (_, tally) in &self.parts {
            sum.add(*tally);
        }
        let Threshold { ratio, within } = &self.threshold;
        let is_above = sum.failed as f64 > *ratio * sum.read as f64;
        (sum.read >= RECORDS_MIN && is_above).then(|| {
            format!(
                "{} of {} records failed within {within}; errors.threshold allows {ratio} of them",
                sum.failed, sum.read
            )
        })
    }

    fn part(&self) -> i64 {
        let length = (self.threshold.within.as_millis() / PARTS).max(1);
        self.now_ms / i64::try_from(length).unwrap_or(i64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE_MS: i64 = 60_000;

    /// A tenth of the records may fail, within a minute.
    fn tenth() -> FailureRatio {
        FailureRatio::new(Threshold {
            ratio: 0.1,
            within: "1m".parse().unwrap(),
        })
    }

    fn tally(read: u64, failed: u64) -> Tally {
        Tally { read, failed }
    }

    #[test]
    fn a_stage_stops_above_the_ratio_and_not_at_it() {
        let mut ratio = tenth();
        ratio.begin(MINUTE_MS);
        assert_eq!(ratio.count(tally(1_000, 100)), None);
        let why = ratio.count(tally(1, 1)).unwrap();
        assert!(
            why.starts_with("101 of 1001 records failed within 1m;"),
            "{why}"
        );
    }

    #[test]
    fn few_records_do_not_stop_a_stage() {
        let mut ratio = tenth();
        ratio.begin(MINUTE_MS);
        assert_eq!(ratio.count(tally(99, 99)), None);
        assert!(ratio.count(tally(1, 0)).is_some());
    }

    #[test]
    fn records_that_come_again_count_once() {
        let mut ratio = tenth();
        for round in 0..5 {
            ratio.begin(MINUTE_MS + round);
            assert_eq!(ratio.count(tally(90, 50)), None, "{round}");
        }
        ratio.committed();
        ratio.begin(MINUTE_MS + 10);
        assert!(ratio.count(tally(10, 0)).is_some());
    }

    #[test]
    fn what_is_older_than_the_time_does_not_count() {
        let mut ratio = tenth();
        ratio.begin(10 * MINUTE_MS);
        assert_eq!(ratio.count(tally(90, 90)), None);
        ratio.committed();
        ratio.begin(10 * MINUTE_MS + 59_000);
        assert!(ratio.count(tally(500, 0)).is_some());
        ratio.begin(11 * MINUTE_MS);
        assert_eq!(ratio.count(tally(500, 50)), None);
        assert!(ratio.parts.is_empty());
    }
}
