//! Arguments and wiring.

use clap::{Parser, Subcommand};
use freehold::cli::{check, memory, operator, pipeline, plan, render, uninstall, unmanaged};
use std::path::PathBuf;
use std::process::ExitCode;

/// Ten thousand objects come and go in small pieces: what is free goes back to the kernel
/// (docs/benchmarks/ten-thousand-topics.md).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[derive(Parser)]
#[command(
    name = "freehold",
    version,
    about = "Apache Kafka on land that you own"
)]
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
    /// Say what a cluster's spec, or another one, would do to it: what restarts, in which order and
    /// why, and what moves.
    Plan(plan::Options),
    /// Say whether this installation works: definitions, a leader, rights in every watched
    /// namespace, the webhook (`helm test`).
    Check(check::Options),
    /// List what a cluster holds that no Topic and no User manages: topics and principals that
    /// Freehold never touches.
    Unmanaged(unmanaged::Options),
    /// Let every object go, before the operator is taken away: nothing is deleted, and nothing
    /// hangs afterwards.
    Uninstall(uninstall::Options),
    /// Check Pipelines as the webhook does, without a cluster.
    Lint(pipeline::LintOptions),
    /// Run the tests of Pipelines without Kafka and Kubernetes. In CI: `freehold test
    /// pipelines/*.yaml --junit results.xml`.
    Test(pipeline::TestOptions),
    /// Print the graph of Pipelines.
    Graph(pipeline::GraphOptions),
    /// List, compare and take back the revisions of a Pipeline, or print what its blocks do, with
    /// your own kubeconfig.
    #[command(subcommand)]
    Pipeline(pipeline::RevisionsCommand),
    /// Send the dead letters of a block of a Pipeline through it again, with your own kubeconfig.
    Replay(pipeline::ReplayOptions),
    /// Compile the programs of a Pipeline from standard input, within limits.
    #[command(hide = true)]
    CheckPipeline,
    /// Print the versions of Kafka that this Freehold runs.
    Versions,
    /// Print the files of the repository that are made from the code, as JSON.
    #[command(hide = true)]
    Reference,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Operator(options) => operator::main(options),
        Command::Crds => render::crds(),
        Command::Render { file } => render::file(&file),
        Command::Plan(options) => memory::bounded().and_then(|()| plan::main(&options)),
        Command::Check(options) => check::main(&options),
        Command::Unmanaged(options) => memory::bounded().and_then(|()| unmanaged::main(&options)),
        Command::Uninstall(options) => uninstall::main(&options),
        Command::Lint(options) => pipeline::lint(&options),
        Command::Test(options) => pipeline::test(&options),
        Command::Graph(options) => pipeline::graph(&options),
        Command::Pipeline(command) => pipeline::revisions(&command),
        Command::Replay(options) => pipeline::replay(&options),
        Command::CheckPipeline => pipeline::check(),
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
