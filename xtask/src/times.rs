//! Measures how long each test takes: libtest prints the name of a test when it starts, and this
//! module reads the clock then.

use anyhow::{Context, Result, ensure};
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Number of the slowest tests that are listed at the end.
const SLOWEST: usize = 10;

/// Parses the output of a test binary with `--test-threads=1`.
#[derive(Default)]
struct Times {
    line: Vec<u8>,
    current: Option<(String, Instant)>,
    took: Vec<(String, Duration)>,
}

impl Times {
    fn read(&mut self, bytes: &[u8], now: Instant) {
        for byte in bytes {
            if *byte == b'\n' {
                self.line.clear();
                continue;
            }
            self.line.push(*byte);
            // The test's own output follows its name on the same line; the name is one word.
            let name = self
                .line
                .strip_suffix(b" ... ")
                .and_then(|line| line.strip_prefix(b"test "));
            if let Some(name) = name.filter(|name| !name.contains(&b' ')) {
                let name = String::from_utf8_lossy(name).into_owned();
                self.end(now);
                self.current = Some((name, now));
            } else if self.line == b"test result: " {
                self.end(now);
            }
        }
    }

    fn end(&mut self, now: Instant) {
        if let Some((name, start)) = self.current.take() {
            self.took.push((name, now.duration_since(start)));
        }
    }

    /// One line for each test in the order in which they ran, then the slowest.
    fn table(&self) -> String {
        let line =
            |(name, took): &(String, Duration)| format!("{:>7.1} s  {name}\n", took.as_secs_f64());
        let mut slowest = self.took.clone();
        slowest.sort_by_key(|(_, took)| std::cmp::Reverse(*took));
        let total: Duration = self.took.iter().map(|(_, took)| *took).sum();
        let mut text = format!(
            "times of {} tests, {:.0} s together:\n",
            self.took.len(),
            total.as_secs_f64()
        );
        text.extend(self.took.iter().map(line));
        text.push_str(&format!("the slowest {}:\n", slowest.len().min(SLOWEST)));
        text.extend(slowest.iter().take(SLOWEST).map(line));
        text
    }
}

/// Runs a test binary and passes its output on; then prints how long each test took, also after a
/// failure.
pub fn show(command: &mut Command) -> Result<()> {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .context("could not start the tests")?;
    let mut output = child.stdout.take().context("the tests' output")?;
    let (mut times, mut bytes) = (Times::default(), [0; 4096]);
    loop {
        let count = output.read(&mut bytes)?;
        if count == 0 {
            break;
        }
        times.read(&bytes[..count], Instant::now());
        let mut out = std::io::stdout().lock();
        out.write_all(&bytes[..count])?;
        out.flush()?;
    }
    times.end(Instant::now());
    print!("{}", times.table());
    let status = child.wait()?;
    ensure!(status.success(), "tests failed ({status})");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_test_takes_from_its_name_to_the_next_one() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut times = Times::default();
        times.read(b"\nrunning 2 tests\ntest rolls::one ", at(0));
        times.read(b"... seen: test of a line ... \n", at(1));
        times.read(b"more\nok\ntest rolls::two ... ok\n\ntest result: ", at(6));
        times.read(b"ok. 2 passed\n", at(7));
        assert_eq!(
            times.took,
            [
                ("rolls::one".to_owned(), Duration::from_secs(5)),
                ("rolls::two".to_owned(), Duration::ZERO)
            ]
        );
        assert!(
            times
                .table()
                .ends_with("the slowest 2:\n    5.0 s  rolls::one\n    0.0 s  rolls::two\n"),
            "{}",
            times.table()
        );
    }
}
