//! `cargo xtask …`: the tasks of this repository. Each subcommand can be run again, also after a kill.
#![allow(clippy::print_stdout, reason = "a task talks to the person who started it")]

mod builds;
mod cache;
mod images;
mod layout;
mod local;
mod prerequisites;
mod shell;
mod up;

use anyhow::Result;
use clap::{Parser, Subcommand};
use layout::Layout;

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
}

fn main() -> Result<()> {
    let layout = Layout::find()?;
    match Arguments::parse().task {
        Task::Up(options) => up::up(&layout, &options),
        Task::Down { purge } => {
            local::down(&layout)?;
            if purge && layout.cache.exists() {
                std::fs::remove_dir_all(&layout.cache)?;
            }
            Ok(())
        }
    }
}
