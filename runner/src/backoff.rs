//! How long to wait before the next try.

use std::time::Duration;

use rand::Rng as _;

/// Doubles the wait with each failure, from the first one up to the longest, and takes a random half
/// off, so that stages that failed together do not come back together.
pub struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
}

impl Default for Backoff {
    /// From 100 ms up to 10 s.
    fn default() -> Self {
        Self::between(Duration::from_millis(100), Duration::from_secs(10))
    }
}

impl Backoff {
    /// Waits between these.
    #[must_use]
    pub fn between(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            failures: 0,
        }
    }

    /// How long to wait after one more failure.
    pub fn after_failure(&mut self) -> Duration {
        let full = self
            .first
            .saturating_mul(1 << self.failures.min(10))
            .min(self.longest);
        self.failures = self.failures.saturating_add(1);
        full.mul_f64(rand::rng().random_range(0.5..1.0))
    }

    /// It worked.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// Failures since it last worked.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_limit_and_start_again() {
        let (shortest, longest) = (Duration::from_millis(100), Duration::from_secs(10));
        let mut backoff = Backoff::default();
        let first = backoff.after_failure();
        assert!(first >= shortest / 2 && first < shortest, "{first:?}");
        for _ in 0..100 {
            assert!(backoff.after_failure() < longest);
        }
        assert!(backoff.after_failure() >= longest / 2);
        backoff.reset();
        assert!(backoff.after_failure() < shortest);
    }
}
