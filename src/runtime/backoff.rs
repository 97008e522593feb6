//! How long an object waits after a failure. Pure: the jitter is an argument.

use std::time::Duration;

pub const FIRST: Duration = Duration::from_secs(1);
pub const LAST: Duration = Duration::from_secs(300);

/// Doubles from [`FIRST`] to [`LAST`] with each failure in a row; `jitter` in 0..1 adds up to a
/// fifth, so that many objects that failed together are not retried together.
pub fn delay(failures_in_a_row: u32, jitter: f64) -> Duration {
    let doubled =
        FIRST.saturating_mul(2_u32.saturating_pow(failures_in_a_row.saturating_sub(1).min(16)));
    doubled
        .min(LAST)
        .mul_f64(1.0 + 0.2 * jitter.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_up_to_five_minutes() {
        assert_eq!(delay(1, 0.0), Duration::from_secs(1));
        assert_eq!(delay(4, 0.0), Duration::from_secs(8));
        assert_eq!(delay(1000, 0.0), LAST);
        assert_eq!(delay(1000, 1.0), Duration::from_secs(360));
    }
}
