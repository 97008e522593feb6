//! `cargo xtask …`: the tasks of this repository. Each subcommand can be run again, also after it
//! was killed.
#![allow(
    clippy::print_stdout,
    reason = "a task talks to the person who started it"
)]

mod bench;
mod bench_leftovers;
mod bench_pipeline;
mod bench_roll;
mod builds;
mod c_library;
mod cache;
mod cargo;
mod generate;
mod images;
mod install;
mod layout;
mod local;
mod prerequisites;
mod publish;
mod registries;
mod test;
mod up;

use anyhow::Result;
use clap::{Parser, Subcommand};
use freehold_e2e::shell;
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
    /// Print what runs.
    Status,
    /// Build the images of the operator, of the runner and of Kafka for your own cluster, push them
    /// to a registry, and print the chart's values.
    Images(publish::Options),
    /// Run the tests that every change must pass, with and without the local Kubernetes; --all for
    /// every test.
    Test(test::Options),
    /// Disturb a running cluster again and again: rolls, brokers that join and leave, CAs,
    /// upgrades. Each round checks its results.
    Soak(test::SoakOptions),
    /// Write generated files: CRDs, the charts' copies of them and rules, rendered manifests,
    /// config lists, reference pages.
    Generate(generate::Options),
    /// Run the benchmarks. Each measures the least possible time too, in the same run.
    Bench(bench::Options),
    /// kubectl for the local Kubernetes.
    #[command(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        disable_help_flag = true
    )]
    Kubectl { args: Vec<String> },
    /// The operator's log.
    Logs {
        /// Print new lines as they are written.
        #[arg(short, long)]
        follow: bool,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Print the causes without a backtrace: the text explains the error.
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
        Task::Images(options) => publish::publish(&layout, &options),
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
            let selector = [
                "logs",
                "--namespace",
                install::NAMESPACE,
                "--selector",
                "app.kubernetes.io/name=freehold",
                "--tail=500",
                "--prefix",
            ];
            let mut logs = kubectl.command(&selector);
            if follow {
                logs.arg("--follow");
            }
            shell::show(&mut logs)
        }
    }
}
