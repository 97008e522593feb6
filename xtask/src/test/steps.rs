//! The steps of a run, and how long each of them and each test took.

use super::nextest::Test;
use anyhow::{Context, Result};
use std::fmt::Write;
use std::time::Instant;

/// Number of the slowest steps and tests that are listed at the end.
const SLOWEST: usize = 10;

pub struct Steps {
    start: Instant,
    /// Name and seconds of each step.
    steps: Vec<(String, f64)>,
    /// The same of tests.
    tests: Vec<(String, f64)>,
}

impl Steps {
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
            steps: Vec::new(),
            tests: Vec::new(),
        }
    }

    /// Runs a step and prints when it ended.
    pub fn run<T>(&mut self, name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        println!("== {name}");
        let start = Instant::now();
        let result = work().with_context(|| name.to_owned());
        self.steps
            .push((name.to_owned(), start.elapsed().as_secs_f64()));
        if result.is_ok() {
            println!("== {name}: done (at {:.0} s)", self.seconds());
        }
        result
    }

    pub fn add(&mut self, tests: &[Test]) {
        let times = tests.iter().map(|test| (test.name.clone(), test.seconds));
        self.tests.extend(times);
    }

    fn seconds(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    /// The total, each step, and the slowest tests.
    pub fn table(&self) -> String {
        let mut text = format!("times, {:.0} s together:\n", self.seconds());
        text.push_str(&rows(&self.steps));
        if self.tests.is_empty() {
            return text;
        }
        let together: f64 = self.tests.iter().map(|(_, seconds)| seconds).sum();
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "the slowest of {} tests, {together:.0} s together:",
            self.tests.len()
        );
        let mut slowest = self.tests.clone();
        slowest.sort_by(|one, other| other.1.total_cmp(&one.1));
        slowest.truncate(SLOWEST);
        text.push_str(&rows(&slowest));
        text
    }
}

fn rows(times: &[(String, f64)]) -> String {
    let row = |(name, seconds): &(String, f64)| format!("{seconds:>7.1} s  {name}\n");
    times.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_in_order_and_tests_by_time() {
        let mut steps = Steps::new();
        let good = steps.run("lints", || Ok(1));
        assert_eq!(good.ok(), Some(1));
        let bad: Result<()> = steps.run("tests", || anyhow::bail!("no"));
        assert!(bad.is_err());
        let test = |name: &str, seconds| Test {
            name: name.into(),
            seconds,
            passed: true,
            output: String::new(),
        };
        steps.add(&[test("quick", 1.0), test("slow", 5.0)]);
        let table = steps.table();
        let places: Vec<_> = ["lints", "tests", "slow", "quick"]
            .map(|word| table.find(&format!("  {word}\n")))
            .into_iter()
            .collect();
        assert!(
            places.iter().all(Option::is_some) && places.is_sorted(),
            "{table}"
        );
    }
}
