//! Runs tests by cargo-nextest: each in a process of its own, with its own output and time
//! (`.config/nextest.toml`).

use super::FEATURES;
use super::results::Results;
use crate::cargo::cargo;
use crate::layout::Layout;
use crate::registries;
use anyhow::{Context, Result, ensure};
use freehold_e2e::verdict;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Stdio;

/// What to run.
pub struct Run<'a> {
    /// Profile in `.config/nextest.toml`.
    pub profile: &'a str,
    /// cargo's arguments that choose packages and test binaries.
    pub which: &'a [&'a str],
    /// Beginnings of the names of tests; all of them if it is empty.
    pub names: &'a [String],
    /// Those that are ignored by `cargo test`, because they need what only this task gives them.
    pub ignored: bool,
    pub environment: &'a [(&'a str, String)],
}

/// A test that ran.
#[derive(Clone, Debug, PartialEq)]
pub struct Test {
    pub name: String,
    pub seconds: f64,
    pub passed: bool,
    /// What it printed, if it failed.
    pub output: String,
}

impl Run<'_> {
    /// Runs them all, whatever fails.
    ///
    /// # Errors
    /// They could not be compiled or started. A test that fails is no error.
    pub fn tests(&self, layout: &Layout, results: &Results) -> Result<Vec<Test>> {
        let program = registries::nextest(layout)?;
        let mut run = cargo(
            layout,
            ["nextest", "run", "--locked", "--no-fail-fast", "--profile"],
        )?;
        run.arg(self.profile).args(self.which).args(FEATURES);
        run.args(["--message-format", "libtest-json"])
            .args(["--cargo-quiet", "--no-input-handler"])
            .env("NEXTEST_EXPERIMENTAL_LIBTEST_JSON", "1")
            // With it, golden tests write what they should compare.
            .env_remove("UPDATE_GOLDEN")
            .env("PATH", path_with(program.parent().context("a folder")?)?)
            .env(verdict::FOLDER, results.folder())
            .envs(self.environment.iter().map(|(key, value)| (key, value)));
        if self.ignored {
            run.args(["--run-ignored", "only"]);
        }
        if !self.names.is_empty() {
            run.args(["-E", &filter(self.names)]);
        }
        let output = run
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .and_then(std::process::Child::wait_with_output)
            .context("could not start cargo nextest")?;
        let tests = parse(&String::from_utf8_lossy(&output.stdout));
        let failed = tests.iter().any(|test| !test.passed);
        ensure!(
            output.status.success() || failed,
            "cargo nextest failed ({})",
            output.status
        );
        ensure!(!tests.is_empty(), "no test has such a name");
        results.keep(&tests)?;
        // nextest writes it below the workspace, wherever cargo builds.
        let junit = layout.repo.join("target/nextest").join(self.profile);
        let mut kept = results.folder().join(format!("{}.junit.xml", self.profile));
        let mut tries = 1;
        while kept.exists() {
            tries += 1;
            let name = format!("{}-try-{tries}.junit.xml", self.profile);
            kept = results.folder().join(name);
        }
        fs::copy(junit.join("junit.xml"), kept).context("nextest left no junit.xml")?;
        Ok(tests)
    }
}

/// PATH with this folder first: cargo finds its subcommands there.
fn path_with(folder: &Path) -> Result<std::ffi::OsString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = [folder.to_owned()].into_iter();
    Ok(std::env::join_paths(
        folders.chain(std::env::split_paths(&path)),
    )?)
}

/// nextest's expression for tests whose names begin with one of these.
fn filter(names: &[String]) -> String {
    let of = |name: &String| format!("test(/^{name}/)");
    names.iter().map(of).collect::<Vec<_>>().join(" + ")
}

/// Reads nextest's events, one JSON object in each line.
fn parse(text: &str) -> Vec<Test> {
    let events = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    events
        .filter(|event| event["type"] == "test")
        .filter_map(|event| {
            let passed = match event["event"].as_str()? {
                "ok" => true,
                "failed" => false,
                _ => return None,
            };
            // package::binary$module::test
            let name = event["name"].as_str()?.rsplit('$').next()?;
            Some(Test {
                name: name.to_owned(),
                seconds: event["exec_time"].as_f64().unwrap_or_default(),
                passed,
                output: event["stdout"].as_str().unwrap_or_default().to_owned(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_tests_are_read_and_others_are_not() {
        let text = r#"{"type":"suite","event":"started","test_count":2}
{"type":"test","event":"started","name":"a::b$rolls::one"}
{"type":"test","event":"ignored","name":"a::b$rolls::three"}
{"type":"test","event":"ok","name":"a::b$rolls::one","exec_time":1.5}
{"type":"test","event":"failed","name":"a::b$rolls::two","exec_time":0.5,"stdout":"why\n"}
{"type":"suite","event":"failed","passed":1,"failed":1}
"#;
        let test = |name: &str, seconds, passed, output: &str| Test {
            name: name.into(),
            seconds,
            passed,
            output: output.into(),
        };
        assert_eq!(
            parse(text),
            [
                test("rolls::one", 1.5, true, ""),
                test("rolls::two", 0.5, false, "why\n")
            ]
        );
    }

    #[test]
    fn names_are_beginnings() {
        let names = ["scaling::brokers".to_owned(), "rolls::".to_owned()];
        assert_eq!(
            filter(&names),
            "test(/^scaling::brokers/) + test(/^rolls::/)"
        );
    }
}
