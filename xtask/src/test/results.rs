//! The folder with what is left of a run: JUnit files, and for each test that failed its output,
//! what it waited for or which promise was broken, and what the cluster said at that time.

use super::nextest::Test;
use crate::layout::Layout;
use anyhow::{Context, Result};
use freehold_e2e::verdict;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Number of runs whose results are kept.
const KEPT: usize = 10;

pub struct Results(PathBuf);

impl Results {
    /// A new folder in the cache.
    pub fn new(layout: &Layout) -> Result<Self> {
        let home = layout.cache.join("results");
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
        let folder = home.join(format!("{}", now.as_millis()));
        fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        let mut runs: Vec<PathBuf> = fs::read_dir(&home)?
            .flatten()
            .map(|entry| entry.path())
            .collect();
        runs.sort();
        for old in runs.iter().rev().skip(KEPT) {
            fs::remove_dir_all(old)?;
        }
        Ok(Self(folder))
    }

    pub fn folder(&self) -> &Path {
        &self.0
    }

    /// The folder of a test, in which it leaves its verdicts.
    fn of(&self, test: &str) -> PathBuf {
        self.0.join(test.replace("::", "."))
    }

    /// Writes the output of those that failed; that of a second try is a file of its own.
    pub fn keep(&self, tests: &[Test]) -> Result<()> {
        for test in tests.iter().filter(|test| !test.passed) {
            let folder = self.of(&test.name);
            fs::create_dir_all(&folder)?;
            let mut file = folder.join("output.txt");
            if file.exists() {
                file = folder.join("output-of-second-try.txt");
            }
            fs::write(file, &test.output)?;
        }
        Ok(())
    }

    /// The waits of a test that ran out.
    pub fn ran_out(&self, test: &str) -> Vec<String> {
        lines(&self.of(test).join(verdict::RAN_OUT))
    }

    /// Every broken promise of every test, with the test's name.
    pub fn broken(&self) -> Result<Vec<String>> {
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.0)?.flatten() {
            let test = entry.file_name().to_string_lossy().into_owned();
            let broken = lines(&entry.path().join(verdict::BROKEN));
            all.extend(broken.into_iter().map(|line| format!("{test}: {line}")));
        }
        all.sort();
        Ok(all)
    }
}

fn lines(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}
