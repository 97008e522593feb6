//! `cargo xtask test`: every test. First what needs no cluster, then what needs the ground.

use crate::layout::Layout;
use crate::{builds, generate, prerequisites, up};
use anyhow::{Context, Result};
use ground::shell::{self, command};
use std::time::Instant;

#[derive(clap::Args)]
pub struct Options {
    /// Only what needs no cluster.
    #[arg(long)]
    fast: bool,
    /// Only the tests on the ground whose names contain this.
    #[arg(long)]
    only: Option<String>,
}

pub fn test(layout: &Layout, options: &Options) -> Result<()> {
    let start = Instant::now();
    let step = |name: &str, work: &dyn Fn() -> Result<()>| -> Result<()> {
        println!("== {name}");
        work().with_context(|| name.to_owned())?;
        println!("== {name}: good (at {:.0} s)", start.elapsed().as_secs_f64());
        Ok(())
    };
    let cargo = |args: &[&str]| shell::show(command("cargo", args).current_dir(&layout.repo));
    if !options.fast {
        // Before anything is compiled: make is needed for that too.
        step("what the machine must have", &|| prerequisites::ensure(layout))?;
    }
    if options.only.is_none() {
        step("format", &|| cargo(&["fmt", "--all", "--check"]))?;
        step("lints", &|| cargo(&["clippy", "--locked", "--workspace", "--all-targets", "--quiet", "--", "--deny", "warnings"]))?;
        step("unit, golden, property and tidy tests", &|| {
            cargo(&["test", "--locked", "--quiet", "--package", "freehold", "--package", "xtask"])
        })?;
    }
    if options.only.is_none() {
        step("dependencies", &|| {
            let deny = builds::cargo_deny(layout)?;
            let checks = ["--all-features", "check", "--hide-inclusion-graph", "licenses", "bans", "sources"];
            shell::show(command(&deny.to_string_lossy(), checks).current_dir(&layout.repo))
        })?;
    }
    if options.fast {
        return Ok(());
    }
    step("the ground", &|| up::up(layout, &up::Options::default()))?;
    if options.only.is_none() {
        step("generated files", &|| generate::generate(layout, &generate::Options { check: true }))?;
    }
    let only: Vec<&str> = options.only.iter().map(String::as_str).collect();
    step("tests on the ground", &|| on_the_ground(layout, &only, &[]))
}

/// The tests on the ground whose names contain one of these; all of them where there is none.
fn on_the_ground(layout: &Layout, names: &[&str], environment: &[(&str, &str)]) -> Result<()> {
    let bin = builds::go_programs(layout)?;
    let mut tests = command("cargo", ["test", "--locked", "--package", "freehold-e2e", "--test", "e2e", "--"]);
    tests
        .args(names)
        .args(["--ignored", "--test-threads=1", "--nocapture"])
        .env("KUBECONFIG", layout.kubeconfig())
        .env("FREEHOLD_KUBECTL", bin.join("kubectl"))
        .env("FREEHOLD_AUDIT_LOG", layout.logs().join("audit.json"))
        .env("FREEHOLD_BINARY", layout.target().join("release/freehold"))
        .env("FREEHOLD_LOGS", layout.logs())
        .env("FREEHOLD_TEST_CLASSES", builds::test_classes(layout)?)
        .env("FREEHOLD_RUN", &layout.run)
        .envs(environment.iter().copied())
        .current_dir(&layout.repo);
    shell::show(&mut tests)
}

/// What disturbs a running cluster, and in how many turns of a soak.
const SOAK: [(u32, &[&str]); 4] = [
    (10, &["rolls::a_roll"]),
    (5, &["rolls::certificates", "scaling::brokers"]),
    (2, &["authorization::"]),
    (1, &["scaling::", "upgrade::", "storage::", "jbod::", "quorum::", "outages::", "crash::", "chaos::"]),
];

#[derive(clap::Args)]
pub struct SoakOptions {
    /// How often the whole of it is done.
    #[arg(long, default_value_t = 1)]
    rounds: u32,
}

/// What disturbs a running cluster, again and again, and for longer: ten rolls, five times brokers that join, leave and are
/// replaced while twenty operators die, and new certificates; CAs that are replaced, an upgrade, volumes that grow, come and
/// go, controllers, drains, a zone that is away for a minute, an API server for ten, a node that dies, an operator that dies after every write, and chaos.
pub fn soak(layout: &Layout, options: &SoakOptions) -> Result<()> {
    up::up(layout, &up::Options::default())?;
    let turns = SOAK.iter().map(|(turns, _)| *turns).max().unwrap_or_default();
    for (round, turn) in (1..=options.rounds).flat_map(|round| (1..=turns).map(move |turn| (round, turn))) {
        let which = format!("round {round} of {}, turn {turn} of {turns}", options.rounds);
        println!("== {which}");
        let due = SOAK.iter().filter(|(turns, _)| turn <= *turns);
        let tests: Vec<&str> = due.flat_map(|(_, tests)| *tests).copied().collect();
        on_the_ground(layout, &tests, &[("FREEHOLD_SOAK", "1")]).context(which)?;
    }
    Ok(())
}
