//! The types of the custom resources, and nothing else: what people write, and the status that they
//! read. Pure.

pub mod bounds;
pub mod conditions;
pub mod drift;
pub mod invalid;
pub mod kafka_cluster;
pub mod pipeline;
pub mod reference;
pub mod replay;
pub mod topic;
pub mod user;

/// The API group of every kind.
pub const GROUP: &str = "freehold.dev";
