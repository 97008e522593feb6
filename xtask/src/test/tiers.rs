//! Which tests on the local cluster every change must pass, and which run with `--all` alone. The
//! table in CONTRIBUTING.md is made of this list; a test compares the two.

/// When a test runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// `cargo xtask test`, which CI runs: one test for each promise, in its short form.
    Landing,
    /// `cargo xtask test --all`: also what takes long, and what a model proves already.
    All,
}

/// The beginning of tests' names, their tier, and why. The longest beginning counts.
pub type Entry = (&'static str, Tier, &'static str);

use Tier::{All, Landing};

/// The tests of `tests/e2e`.
pub const CLUSTER: &[Entry] = &[
    (
        "application::",
        Landing,
        "an application team's rights, quotas and secrets in its own namespace",
    ),
    (
        "authorization::",
        All,
        "minutes of overlap between two CAs; `tests/keys.rs` has the steps",
    ),
    (
        "autoscaling::",
        All,
        "minutes of load; the decisions have unit tests",
    ),
    (
        "bad_inputs::",
        Landing,
        "bad input is refused with its field",
    ),
    ("campaign::", Landing, "every field is followed or refused"),
    ("chaos::", All, "everything at once, for minutes"),
    (
        "crash::",
        All,
        "an operator that dies after each of its writes, hundreds of times",
    ),
    (
        "delivery::",
        Landing,
        "charts, rights of the operator, no secret shown",
    ),
    (
        "examples::",
        All,
        "each example of the guide; the first Pipeline is in `pipelines`",
    ),
    (
        "examples::orders",
        Landing,
        "the guide's first example: orders by region, without card numbers",
    ),
    (
        "failures::",
        Landing,
        "no acknowledged record is lost when nodes die",
    ),
    (
        "images::",
        Landing,
        "a broker starts from the image of each Java",
    ),
    (
        "jbod::",
        All,
        "minutes of moves; `tests/jbod.rs` has the plans",
    ),
    ("leader::", Landing, "a standby takes over"),
    ("lifecycle::", Landing, "what comes, goes and comes back"),
    (
        "mqtt::",
        All,
        "sources and sinks outside Kafka; the runner's tests have each of them",
    ),
    (
        "outages::",
        All,
        "dead machines and zones, minutes each; `tests/lost_nodes.rs` has the plans",
    ),
    (
        "outages::a_broker_whose_machine",
        Landing,
        "a broker whose machine and disk are gone is replaced",
    ),
    (
        "outages::drained",
        Landing,
        "an eviction waits until replicas are in sync",
    ),
    (
        "outside::",
        All,
        "sources and sinks outside Kafka; the runner's tests have each of them",
    ),
    ("pipeline_deaths::", All, "dozens of deaths"),
    (
        "pipeline_fields::",
        All,
        "every field of a Pipeline; `tests/golden-pipelines` has the objects",
    ),
    (
        "pipeline_proof::",
        All,
        "minutes; exactly once while pods, brokers and replicas come and go",
    ),
    (
        "pipeline_scaling::",
        All,
        "minutes of lag; the decisions have unit tests",
    ),
    (
        "pipelines::",
        Landing,
        "exactly once while pods are killed; a fault is told at its block",
    ),
    (
        "policies::",
        All,
        "each port from each place; `tests/golden` has the policies",
    ),
    (
        "quickstart::",
        Landing,
        "records flow through the README's example",
    ),
    (
        "quorum::",
        All,
        "minutes of joins; `tests/properties.rs` has the plans",
    ),
    ("refused::", Landing, "who may not connect is refused"),
    ("registry::", All, "pushes every image"),
    (
        "replay::",
        All,
        "dead letters once more; the runner's tests have the process",
    ),
    (
        "rolls::",
        All,
        "what a roll waits for; `tests/rolls.rs` has the plans",
    ),
    (
        "rolls::a_roll",
        Landing,
        "a roll loses nothing and restarts each node once",
    ),
    (
        "rolls::certificates",
        Landing,
        "certificates are renewed without a restart",
    ),
    (
        "scaling::",
        All,
        "combined nodes, a broker replaced; `tests/moves.rs` has the plans",
    ),
    (
        "scaling::brokers",
        Landing,
        "brokers join and leave under load while operators die",
    ),
    (
        "specs::",
        All,
        "specs as people write them; unit tests have each field",
    ),
    (
        "storage::",
        All,
        "minutes of volumes that grow; `tests/golden` has the steps",
    ),
    (
        "tenancy::",
        All,
        "revocation in each state; `tests/tenancy.rs` has the model",
    ),
    ("tenants::", All, "hostile objects by the hundred"),
    (
        "upgrade::",
        All,
        "five minutes; `tests/rolls.rs` has the steps",
    ),
    (
        "upkeep::",
        All,
        "children that somebody changed; `tests/drift.rs` has each of them",
    ),
];

/// The tests that run beside others, two at a time: they have clusters or objects with names of their
/// own, and disturb neither the quickstart's brokers, nor nodes, nor the operator. Any other test runs
/// alone, and the one that looks for secrets last. `.config/nextest.toml` has the same list.
#[cfg(test)]
const BESIDE: &[&str] = &[
    "application",
    "delivery",
    "failures",
    "images",
    "lifecycle",
    "pipelines",
    "quickstart",
    "refused",
];

/// The tests of the runner with a real Kafka that every change must pass.
pub const RUNNER: &[&str] = &[
    "a_quiet_run",
    "a_replaced_process",
    "at_least_once",
    "gaps::partitions_that_are_added",
    "programs_are_exactly_once",
    "refusals::a_dead_letter_that_does_not_fit",
    "refused_outputs",
    "tls_and_scram",
];

/// The beginnings of the landing tier's names.
pub fn landing() -> Vec<String> {
    CLUSTER
        .iter()
        .filter(|(_, tier, _)| *tier == Landing)
        .map(|(name, ..)| (*name).to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
    use super::*;
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::{Path, PathBuf};

    fn repo() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .unwrap()
            .to_owned()
    }

    /// The names of all tests on the local cluster.
    fn tests() -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        for file in fs::read_dir(repo().join("tests/e2e/tests/e2e")).unwrap() {
            let file = file.unwrap().path();
            let module = file.file_stem().unwrap().to_string_lossy().into_owned();
            let text = fs::read_to_string(&file).unwrap();
            for test in text.split("#[test]").skip(1) {
                let name = test.split("fn ").nth(1).unwrap().split('(').next().unwrap();
                names.insert(format!("{module}::{name}"));
            }
        }
        names
    }

    #[test]
    fn every_test_on_the_local_cluster_has_a_tier_and_no_entry_is_of_nothing() {
        let tests = tests();
        assert!(tests.len() > 50, "{tests:?}");
        for test in &tests {
            let entry = CLUSTER.iter().any(|(name, ..)| test.starts_with(name));
            assert!(entry, "{test} has no tier in xtask/src/test/tiers.rs");
        }
        for (name, ..) in CLUSTER {
            let used = tests.iter().any(|test| test.starts_with(name));
            assert!(used, "no test begins with {name}");
        }
        for name in RUNNER {
            let (file, name) = match name.split_once("::") {
                Some((module, name)) => (format!("{module}/mod.rs"), name),
                None => ("exactly_once.rs".to_owned(), *name),
            };
            let tests = fs::read_to_string(repo().join("runner/tests").join(file)).unwrap();
            assert!(tests.contains(&format!("fn {name}")), "{name}");
        }
    }

    #[test]
    fn nextest_runs_side_by_side_what_this_list_has_and_nothing_else() {
        let config = fs::read_to_string(repo().join(".config/nextest.toml")).unwrap();
        let found: Vec<&str> = config
            .lines()
            .filter(|line| line.starts_with("filter") && line.contains("::"))
            .collect();
        let these = format!("test(/^({})::/)", BESIDE.join("|"));
        let wanted = [
            "filter = 'test(/^delivery::no_secret/)'".to_owned(),
            format!("filter = 'not {these}'"),
            format!("filter = '{these}'"),
        ];
        assert_eq!(found, wanted);
    }

    #[test]
    fn the_table_in_contributing_is_this_list() {
        let text = fs::read_to_string(repo().join("CONTRIBUTING.md")).unwrap();
        let row = |line: &&str| line.starts_with("| `") && line.contains("::");
        let found: Vec<&str> = text.lines().filter(row).collect();
        let wanted: Vec<String> = CLUSTER
            .iter()
            .map(|(name, tier, why)| {
                let tier = match tier {
                    Landing => "every change",
                    All => "`--all`",
                };
                let beside = BESIDE.iter().any(|module| name.starts_with(module));
                let beside = if beside { "yes" } else { "no" };
                format!("| `{name}` | {tier} | {beside} | {why} |")
            })
            .collect();
        assert_eq!(found, wanted, "\nthe rows:\n{}", wanted.join("\n"));
    }
}
