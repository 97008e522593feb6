//! The operator's tests that need no cluster, as one program: each file as one of its own would link
//! the whole operator once more.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod api_server;
mod arbiter;
mod chart;
mod cluster;
mod drift;
mod faults;
mod fifth_kind;
mod fixture;
mod golden;
mod golden_dependents;
mod jbod;
mod keys;
mod linter;
mod lost_nodes;
mod modules;
mod moves;
mod pipelines;
mod properties;
mod registry;
mod removed_pools;
mod reviewed;
mod rights;
mod rolling;
mod rolls;
mod tenancy;
mod tidy;
mod upkeep;
