//! Counts over the last seconds. Pure: the time is an argument.

use std::collections::VecDeque;
use std::time::Duration;

use freehold_pipeline::report::WINDOW_SECS;

/// What the counts were at the end of each second in which they changed, for as long as rates need
/// it.
#[derive(Debug, Default)]
pub struct Window<C> {
    seconds: VecDeque<(u64, C)>,
}

impl<C> Window<C> {
    /// The counts are these since `now`, which is the time since the process started.
    pub fn record(&mut self, now: Duration, counts: C) {
        let second = now.as_secs();
        match self.seconds.back_mut() {
            Some((last, known)) if *last == second => *known = counts,
            _ => self.seconds.push_back((second, counts)),
        }
        let is_past = |(known, _): &(u64, C)| *known + WINDOW_SECS <= second;
        while self.seconds.get(1).is_some_and(is_past) {
            self.seconds.pop_front();
        }
    }

    /// The counts at the beginning of the window that ends at `now`, and its length in seconds:
    /// between 9 and 10, or less right after the start. `None`: nothing was counted then.
    pub fn begin(&self, now: Duration) -> (Option<&C>, f64) {
        let second = now.as_secs();
        let is_past = |(known, _): &&(u64, C)| known + WINDOW_SECS <= second;
        let base = self.seconds.iter().rev().find(is_past);
        let begin = (second + 1).saturating_sub(WINDOW_SECS);
        let length = now.as_secs_f64() - begin as f64;
        (base.map(|(_, counts)| counts), length.max(1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(window: &Window<u64>, now_ms: u64, count: u64) -> f64 {
        let (base, length) = window.begin(Duration::from_millis(now_ms));
        (count - base.copied().unwrap_or_default()) as f64 / length
    }

    #[test]
    fn a_steady_stream_has_its_rate_and_an_idle_one_has_none() {
        let mut window = Window::default();
        for step in 1..=400 {
            // 50 at a time, 20 times a second.
            window.record(Duration::from_millis(step * 50), step * 50);
        }
        for now in [20_000, 20_300, 20_900] {
            let got = rate(&window, now, 20_000);
            assert!((850.0..=1_060.0).contains(&got), "{got} at {now}");
        }
        assert!(window.seconds.len() <= 12, "{}", window.seconds.len());
        // Some of it is older than the window, then all.
        assert!(rate(&window, 25_000, 20_000) < 600.0);
        assert_eq!(rate(&window, 31_000, 20_000), 0.0);
    }

    #[test]
    fn what_was_counted_late_in_a_second_is_not_counted_for_ever() {
        let mut window = Window::default();
        window.record(Duration::from_millis(100), 1);
        window.record(Duration::from_millis(900), 500);
        assert_eq!(rate(&window, 950, 500), 500.0);
        assert_eq!(rate(&window, 5_000, 500), 100.0);
        assert_eq!(rate(&window, 10_500, 500), 0.0);
    }
}
