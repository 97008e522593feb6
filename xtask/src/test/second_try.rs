//! Decides whether a run was good. A test that failed because a wait ran out is tried once more,
//! alone, on a new local cluster: then it is told as flaky. Everything else that fails is final, a
//! broken promise most of all.

use super::nextest::Test;
use super::results::Results;
use anyhow::{Result, bail, ensure};

/// More than this many flaky tests in one run are no accident.
const FLAKY_MAX: usize = 2;

/// Tries again what may be tried again, by `try_again`, and prints what was flaky.
///
/// # Errors
/// The run was not good; with each test that failed and why.
pub fn verdict(
    tests: &[Test],
    results: &Results,
    mut try_again: impl FnMut(&str) -> Result<bool>,
) -> Result<()> {
    let failed: Vec<&Test> = tests.iter().filter(|test| !test.passed).collect();
    let final_ones: Vec<&str> = failed
        .iter()
        .filter(|test| results.ran_out(&test.name).is_empty())
        .map(|test| test.name.as_str())
        .collect();
    let where_to_look = format!("see {}", results.folder().display());
    no_promise_broken(results)?;
    none_failed(&final_ones, results)?;
    let names: Vec<&str> = failed.iter().map(|test| test.name.as_str()).collect();
    ensure!(
        failed.len() <= FLAKY_MAX,
        "waits ran out in {} tests, more than {FLAKY_MAX}: {}; {where_to_look}",
        failed.len(),
        names.join(", ")
    );
    for name in &names {
        let waits = results.ran_out(name).join("; ");
        println!("== once more, alone, on a new local cluster: {name}, which waited for {waits}");
        if !try_again(name)? {
            bail!("{name} failed twice; {where_to_look}");
        }
        println!("FLAKY {name}: waited for {waits}");
    }
    no_promise_broken(results)
}

/// The same for tests that are not tried again.
pub fn all_passed(tests: &[Test], results: &Results) -> Result<()> {
    let failed = tests.iter().filter(|test| !test.passed);
    let names: Vec<&str> = failed.map(|test| test.name.as_str()).collect();
    none_failed(&names, results)
}

fn none_failed(names: &[&str], results: &Results) -> Result<()> {
    ensure!(
        names.is_empty(),
        "{} failed; see {}",
        names.join(", "),
        results.folder().display()
    );
    Ok(())
}

fn no_promise_broken(results: &Results) -> Result<()> {
    let broken = results.broken()?;
    ensure!(
        broken.is_empty(),
        "broken promises: {}; see {}",
        broken.join("; "),
        results.folder().display()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
    use super::*;
    use crate::layout::Layout;
    use freehold_e2e::verdict::{BROKEN, RAN_OUT};
    use std::fs;
    use std::path::PathBuf;

    /// Results in a folder of their own, which goes with the value.
    struct Fixture(PathBuf, Results);

    impl Fixture {
        fn new(name: &str) -> Self {
            let cache =
                std::env::temp_dir().join(format!("freehold-tries-{name}-{}", std::process::id()));
            let layout = Layout {
                repo: cache.clone(),
                cache: cache.clone(),
                state: cache.clone(),
                run: cache.clone(),
            };
            let results = Results::new(&layout).unwrap();
            Self(cache, results)
        }

        fn note(&self, test: &str, file: &str) {
            let folder = self.1.folder().join(test.replace("::", "."));
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join(file), "records\n").unwrap();
        }
    }

    impl Drop for Fixture {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn test(name: &str, passed: bool) -> Test {
        Test {
            name: name.into(),
            seconds: 1.0,
            passed,
            output: String::new(),
        }
    }

    #[test]
    fn a_wait_that_ran_out_is_tried_once_more() {
        let fixture = Fixture::new("wait");
        fixture.note("a::one", RAN_OUT);
        let tests = [test("a::one", false), test("a::two", true)];
        let mut tried = Vec::new();
        verdict(&tests, &fixture.1, |name| {
            tried.push(name.to_owned());
            Ok(true)
        })
        .unwrap();
        assert_eq!(tried, ["a::one"]);
        let twice = verdict(&tests, &fixture.1, |_| Ok(false)).unwrap_err();
        assert!(twice.to_string().starts_with("a::one failed twice"));
    }

    #[test]
    fn what_failed_without_a_wait_is_final() {
        let fixture = Fixture::new("final");
        let error = verdict(&[test("a::one", false)], &fixture.1, |_| Ok(true)).unwrap_err();
        assert!(error.to_string().starts_with("a::one failed"), "{error}");
    }

    #[test]
    fn a_broken_promise_is_final_even_if_the_test_passed_or_a_wait_ran_out() {
        for passed in [true, false] {
            let fixture = Fixture::new(&format!("promise-{passed}"));
            fixture.note("a::one", RAN_OUT);
            fixture.note("a::one", BROKEN);
            let error = verdict(&[test("a::one", passed)], &fixture.1, |_| Ok(true)).unwrap_err();
            assert!(
                error
                    .to_string()
                    .starts_with("broken promises: a.one: records"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_promise_broken_in_the_second_try_is_final() {
        let fixture = Fixture::new("second");
        fixture.note("a::one", RAN_OUT);
        let error = verdict(&[test("a::one", false)], &fixture.1, |_| {
            fixture.note("a::one", BROKEN);
            Ok(true)
        })
        .unwrap_err();
        assert!(error.to_string().starts_with("broken promises"), "{error}");
    }

    #[test]
    fn more_than_two_are_no_accident() {
        let fixture = Fixture::new("many");
        let names = ["a::one", "a::two", "a::three"];
        for name in names {
            fixture.note(name, RAN_OUT);
        }
        let tests = names.map(|name| test(name, false));
        let error = verdict(&tests, &fixture.1, |_| Ok(true)).unwrap_err();
        assert!(
            error.to_string().starts_with("waits ran out in 3 tests"),
            "{error}"
        );
    }
}
