//! The command line: one file for each subcommand of `freehold`.

pub mod check;
pub mod memory;
pub mod operator;
pub mod pipeline;
pub mod plan;
pub mod render;
pub mod uninstall;
pub mod unmanaged;
