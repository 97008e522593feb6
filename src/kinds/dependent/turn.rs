//! How much a part of the clean-up does at a time.

use freehold_kafka::ownership::{Owned, Owner};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// A name in Kafka, and an owner that Kafka records for it.
pub type Recorded = (Owned, Arc<str>, Arc<Owner>);

/// Owners that are cleaned up after at the same time: their requests share a batch.
pub const SLICE: usize = 50;
/// The time after which a part of the clean-up ends, and the reconcile of the cluster goes on; what
/// is left is done in the next one, which follows at once.
const TIME_LIMIT: Duration = Duration::from_secs(5);

/// The turn of one part of the clean-up. It ends at the time limit, so that no part keeps the
/// reconcile of the cluster.
pub struct Turn {
    begun: Instant,
    has_done: bool,
}

impl Turn {
    pub fn begin() -> Self {
        Self {
            begun: Instant::now(),
            has_done: false,
        }
    }

    pub fn is_over(&self) -> bool {
        self.begun.elapsed() > TIME_LIMIT
    }

    /// Notes for each of a slice whether something was taken away.
    pub fn note(&mut self, slice: &[bool]) {
        self.has_done |= slice.contains(&true);
    }

    /// True if another turn at once would bring more. Where nothing was taken away, it would not.
    pub fn has_more(&self) -> bool {
        self.has_done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn another_turn_follows_at_once_where_this_one_took_something_away() {
        let (mut idle, mut busy) = (Turn::begin(), Turn::begin());
        idle.note(&[false, false]);
        busy.note(&[false, true]);
        busy.note(&[false]);
        assert!(!idle.is_over() && !busy.is_over());
        tokio::time::advance(TIME_LIMIT + Duration::from_millis(1)).await;
        assert!(idle.is_over() && busy.is_over());
        assert!(!idle.has_more(), "another turn would not bring more either");
        assert!(busy.has_more());
    }
}
