//! `cargo xtask test`: runs what every change must pass, first the tests without a cluster, then
//! those on the local cluster that show one promise each. `--all` runs every test.

mod nextest;
mod results;
mod second_try;
mod steps;
mod tiers;

use crate::cargo::{Profile, cargo};
use crate::layout::Layout;
use crate::{bench, builds, generate, images, local, prerequisites, registries, up};
use anyhow::{Context, Result};
use freehold_e2e::shell::{self, command};
use nextest::{Run, Test};
use results::Results;
use second_try::verdict;
use steps::Steps;

/// The features that every test is compiled with, so that nothing is compiled twice.
const FEATURES: [&str; 2] = ["--features", "freehold/fault-injection"];

/// The seed of property tests: a case that fails for the first time on an unrelated change stops
/// the wrong person. `cargo xtask soak` runs them with seeds of their own.
const SEED: (&str, &str) = ("PROPTEST_RNG_SEED", "20261129");

/// The variable that multiplies the cases of each model, and by how much: every change affords the
/// fewest (`tests/fixture`).
const CASES: &str = "FREEHOLD_CASES";
const CASES_OF_ALL: u32 = 20;
const CASES_OF_SOAK: u32 = 200;

#[derive(clap::Args)]
pub struct Options {
    /// Only what needs no cluster.
    #[arg(long)]
    fast: bool,
    /// Every test, also those that take long.
    #[arg(long, conflicts_with_all = ["fast", "only"])]
    all: bool,
    /// Only the tests on the local cluster whose names begin with this.
    #[arg(long)]
    only: Option<String>,
}

pub fn test(layout: &Layout, options: &Options) -> Result<()> {
    let (mut steps, results) = (Steps::new(), Results::new(layout)?);
    let done = match &options.only {
        Some(name) => only(
            layout,
            std::slice::from_ref(name),
            &[],
            &mut steps,
            &results,
        ),
        None => whole(layout, options, &mut steps, &results),
    };
    print!("{}", steps.table());
    println!("results: {}", results.folder().display());
    done
}

/// The tests on the local cluster whose names begin with one of these.
fn only(
    layout: &Layout,
    names: &[String],
    environment: &[(&str, &str)],
    steps: &mut Steps,
    results: &Results,
) -> Result<()> {
    steps.run("what the machine must have", || {
        prerequisites::ensure_for_tests(layout)
    })?;
    steps.run("local cluster", || up::up(layout, &up::Options::default()))?;
    cluster(layout, names, environment, steps, results)
}

fn whole(layout: &Layout, options: &Options, steps: &mut Steps, results: &Results) -> Result<()> {
    if !options.fast {
        // Before anything is compiled, because make is needed to compile.
        steps.run("what the machine must have", || {
            prerequisites::ensure_for_tests(layout)
        })?;
    }
    steps.run("format", || {
        shell::show(&mut cargo(layout, ["fmt", "--all", "--check"])?)
    })?;
    steps.run("lints", || lints(layout))?;
    let tests = steps.run("unit, golden, property and tidy tests", || {
        let times = if options.all { CASES_OF_ALL } else { 1 };
        let seed = (SEED.0, SEED.1.to_owned());
        without_cluster(layout, times, [seed], results)
    })?;
    steps.add(&tests);
    second_try::all_passed(&tests, results)?;
    steps.run("dependencies", || dependencies(layout))?;
    if options.fast {
        return Ok(());
    }
    steps.run("local cluster", || up::up(layout, &up::Options::default()))?;
    steps.run("generated files", || {
        generate::generate(layout, &generate::Options { check: true })
    })?;
    let (runner, names) = if options.all {
        (Vec::new(), Vec::new())
    } else {
        let runner = tiers::RUNNER.iter().map(|name| (*name).to_owned());
        (runner.collect(), tiers::landing())
    };
    the_runner(layout, &runner, steps, results)?;
    cluster(layout, &names, &[], steps, results)?;
    if options.all {
        steps.run("benchmarks, each in its short form", || {
            bench::short_forms(layout)
        })?;
    }
    Ok(())
}

fn lints(layout: &Layout) -> Result<()> {
    // With the features of the tests, and the operator as it is published.
    let deny = ["--quiet", "--", "--deny", "warnings"];
    let mut tests = cargo(
        layout,
        ["clippy", "--locked", "--workspace", "--all-targets"],
    )?;
    shell::show(tests.args(FEATURES).args(deny))?;
    let mut published = cargo(layout, ["clippy", "--locked", "--package", "freehold"])?;
    shell::show(published.args(deny))
}

fn dependencies(layout: &Layout) -> Result<()> {
    let deny = registries::cargo_deny(layout)?;
    let runner = "--manifest-path=runner/Cargo.toml";
    for (config, package) in [("deny.toml", None), ("runner/deny.toml", Some(runner))] {
        let mut deny = command(&deny.to_string_lossy(), package);
        deny.args(["--all-features", "--config", config, "check"]);
        deny.args(["--hide-inclusion-graph", "licenses", "bans", "sources"]);
        shell::show(deny.current_dir(&layout.repo))?;
    }
    Ok(())
}

/// Runs every test that needs no cluster, with this many times the cases of each model.
fn without_cluster<'a>(
    layout: &Layout,
    times: u32,
    environment: impl IntoIterator<Item = (&'a str, String)>,
    results: &Results,
) -> Result<Vec<Test>> {
    let cases = (CASES, times.to_string());
    let environment: Vec<_> = environment.into_iter().chain([cases]).collect();
    Run {
        profile: if times > 1 { "many-cases" } else { "default" },
        which: &["--workspace"],
        names: &[],
        ignored: false,
        environment: &environment,
    }
    .tests(layout, results)
}

/// Runs tests of the runner, each with a broker of its own. A wait that ran out is tried once more.
fn the_runner(
    layout: &Layout,
    names: &[String],
    steps: &mut Steps,
    results: &Results,
) -> Result<()> {
    let (java, libs) = builds::broker(layout)?;
    let environment = [
        ("FREEHOLD_JAVA", java.to_string_lossy().into_owned()),
        ("FREEHOLD_KAFKA_LIBS", libs.to_string_lossy().into_owned()),
    ];
    let run = |names: &[String]| {
        Run {
            profile: "runner",
            which: &["--workspace", "--test", "exactly_once"],
            names,
            ignored: true,
            environment: &environment,
        }
        .tests(layout, results)
    };
    let tests = steps.run("the runner with a real Kafka", || run(names))?;
    steps.add(&tests);
    verdict(&tests, results, |name| passed(run(&[exactly(name)])))
}

/// Runs tests on the local cluster. One that failed because a wait ran out runs once more, on a new
/// one: what the first try left could make the second one fail or pass.
fn cluster(
    layout: &Layout,
    names: &[String],
    environment: &[(&str, &str)],
    steps: &mut Steps,
    results: &Results,
) -> Result<()> {
    let environment = steps.run("what the tests on the local cluster need", || {
        on_the_local_cluster(layout, environment)
    })?;
    let run = |names: &[String]| {
        Run {
            profile: "cluster",
            which: &["--workspace", "--test", "e2e"],
            names,
            ignored: true,
            environment: &environment,
        }
        .tests(layout, results)
    };
    let tests = steps.run("tests on the local cluster", || run(names))?;
    steps.add(&tests);
    verdict(&tests, results, |name| {
        steps.run("a new local cluster", || {
            local::down(layout)?;
            up::up(layout, &up::Options::default())?;
            // Images that `up` does not need are gone with the old one.
            on_the_local_cluster(layout, &[])
        })?;
        steps.run("once more", || passed(run(&[exactly(name)])))
    })
}

/// The pattern of one test's whole name.
fn exactly(name: &str) -> String {
    format!("{name}$")
}

fn passed(tests: Result<Vec<Test>>) -> Result<bool> {
    Ok(tests?.iter().all(|test| test.passed))
}

/// Builds and loads what the tests on the local cluster need; returns their environment.
fn on_the_local_cluster<'a>(
    layout: &Layout,
    environment: &[(&'a str, &str)],
) -> Result<Vec<(&'a str, String)>> {
    let bin = builds::go_programs(layout)?;
    let operator = builds::operator(layout, Profile::Local)?;
    let runner = builds::runner(layout, Profile::Local)?;
    let javas = images::of_each_java(layout)?;
    let all: Vec<_> = javas.iter().map(|(_, image)| image.clone()).collect();
    images::load(layout, &all)?;
    let javas: Vec<_> = javas
        .iter()
        .map(|(java, image)| format!("{java}={}", image.name))
        .collect();
    let text = |path: &std::path::Path| path.to_string_lossy().into_owned();
    let mut all = vec![
        ("KUBECONFIG", text(&layout.kubeconfig())),
        ("FREEHOLD_KUBECTL", text(&bin.join("kubectl"))),
        (
            "FREEHOLD_AUDIT_LOG",
            text(&layout.logs().join("audit.json")),
        ),
        ("FREEHOLD_BINARY", text(&operator)),
        ("FREEHOLD_RUNNER_BINARY", text(&runner)),
        ("FREEHOLD_LOGS", text(&layout.logs())),
        ("FREEHOLD_XTASK", text(&std::env::current_exe()?)),
        (
            "FREEHOLD_TEST_CLASSES",
            text(&builds::test_classes(layout)?),
        ),
        ("FREEHOLD_RUN", text(&layout.run)),
        ("FREEHOLD_KAFKA_IMAGES", javas.join(",")),
    ];
    let further = environment.iter();
    all.extend(further.map(|(key, value)| (*key, (*value).to_owned())));
    Ok(all)
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
            "pipeline_proof::",
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
/// write, chaos, and a Pipeline while all of that happens to it. What a test does only in a soak is documented at that test. Before all that,
/// the models run with many more cases than in `cargo xtask test`.
pub fn soak(layout: &Layout, options: &SoakOptions) -> Result<()> {
    let mut steps = Steps::new();
    let results = Results::new(layout)?;
    let tests = steps.run("property tests with seeds of their own", || {
        without_cluster(layout, CASES_OF_SOAK, [], &results)
    })?;
    second_try::all_passed(&tests, &results)?;
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
        let tests: Vec<String> = due
            .flat_map(|(_, tests)| tests.iter().map(|name| (*name).to_owned()))
            .collect();
        let long = [("FREEHOLD_SOAK", "1")];
        let results = Results::new(layout)?;
        only(layout, &tests, &long, &mut steps, &results).context(which)?;
    }
    Ok(())
}
