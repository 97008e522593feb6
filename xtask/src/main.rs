//! `cargo xtask …`: the tasks of this repository. Each subcommand can be run again, also after a kill.
#![allow(clippy::print_stdout, reason = "a task talks to the person who started it")]

mod bench;
mod bench_roll;
mod builds;
mod cache;
mod generate;
mod images;
mod install;
mod layout;
mod local;
mod prerequisites;
mod test;
mod up;

use anyhow::Result;
use clap::{Parser, Subcommand};
use ground::shell;
use layout::Layout;
use std::process::ExitCode;

#[derive(Parser)]
#[command(about = "Freehold's tasks", version)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Bring up the local Kubernetes, Freehold and a Kafka cluster, and move records through it.
    Up(up::Options),
    /// End everything local.
    Down {
        /// Also drop the cache of builds and images.
        #[arg(long)]
        purge: bool,
    },
    /// Say what runs.
    Status,
    /// Run every test: the fast ones, then those on the local Kubernetes.
    Test(test::Options),
    /// Disturb a running cluster again and again: rolls, brokers that join and leave, CAs, upgrades; each round proves itself.
    Soak(test::SoakOptions),
    /// Write generated files: CRDs, charts' copies of them, rendered manifests, config lists, reference pages.
    Generate(generate::Options),
    /// Measure, beside a floor in the same run.
    Bench(bench::Options),
    /// kubectl for the local Kubernetes.
    #[command(trailing_var_arg = true, allow_hyphen_values = true, disable_help_flag = true)]
    Kubectl { args: Vec<String> },
    /// The operator's log.
    Logs {
        /// Go on as it is written.
        #[arg(short, long)]
        follow: bool,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Causes, and no backtrace: what went wrong is in words.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    let layout = Layout::find()?;
    match task {
        Task::Up(options) => up::up(&layout, &options),
        Task::Down { purge } => {
            local::down(&layout)?;
            if purge && layout.cache.exists() {
                std::fs::remove_dir_all(&layout.cache)?;
            }
            Ok(())
        }
        Task::Status => local::status(&layout),
        Task::Test(options) => test::test(&layout, &options),
        Task::Soak(options) => test::soak(&layout, &options),
        Task::Bench(options) => bench::bench(&layout, &options),
        Task::Generate(options) => generate::generate(&layout, &options),
        Task::Kubectl { args } => {
            let kubectl = up::local_kubectl(&layout, &layout.bin());
            let args: Vec<_> = args.iter().map(String::as_str).collect();
            shell::show(kubectl.command(&args).stdin(std::process::Stdio::inherit()))
        }
        Task::Logs { follow } => {
            let kubectl = up::local_kubectl(&layout, &layout.bin());
            let selector =
                ["logs", "--namespace", install::NAMESPACE, "--selector", "app.kubernetes.io/name=freehold", "--tail=500", "--prefix"];
            let mut logs = kubectl.command(&selector);
            if follow {
                logs.arg("--follow");
            }
            shell::show(&mut logs)
        }
    }
}
