//! Arguments and wiring.

use clap::{Parser, Subcommand};
use freehold::{operator, preview, render, unmanaged};
use std::path::PathBuf;
use std::process::ExitCode;

/// Ten thousand objects come and go in small pieces: what is free goes back to the kernel (docs/benchmarks/ten-thousand-topics.md).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[derive(Parser)]
#[command(name = "freehold", version, about = "Apache Kafka on land that you own")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the operator.
    Operator(operator::Options),
    /// Print the CustomResourceDefinitions.
    Crds,
    /// Print every object that a KafkaCluster in FILE would be made of, with no cluster.
    Render {
        /// YAML file; other kinds in it are skipped.
        file: PathBuf,
    },
    /// Say what a cluster's spec, or another one, would do to it: what restarts, in which order and why, and what moves.
    Plan(preview::Options),
    /// List what a cluster holds that no Topic and no User manages: topics and principals that Freehold never touches.
    Unmanaged(unmanaged::Options),
    /// Print the versions of Kafka that this Freehold runs.
    Versions,
    /// Print the catalogue of conditions and reasons (docs/reference/conditions.md).
    #[command(hide = true)]
    Reference,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Operator(options) => operator::main(options),
        Command::Crds => render::crds(),
        Command::Render { file } => render::file(&file),
        Command::Plan(options) => preview::main(&options),
        Command::Unmanaged(options) => unmanaged::main(&options),
        Command::Versions => render::versions(),
        Command::Reference => render::reference(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("freehold: {error}");
            ExitCode::FAILURE
        }
    }
}
