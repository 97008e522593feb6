//! Code that tests, demo and benchmarks on the local cluster share: running programs, kubectl,
//! producing and consuming records.

pub mod flow;
pub mod kubectl;
pub mod shell;
pub mod verdict;
