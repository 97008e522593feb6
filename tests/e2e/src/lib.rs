//! What tests, demo and benchmarks on the ground share: other programs, kubectl, records that flow.

pub mod flow;
pub mod kubectl;
pub mod shell;
