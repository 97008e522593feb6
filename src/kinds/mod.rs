//! The registry of resource kinds. From its entries follow the drivers that the operator starts,
//! the CustomResourceDefinitions, the webhook's dispatch, what `freehold check` and `freehold
//! uninstall` go through, and the rules in the charts (`src/reference/`).
//!
//! To add a kind: its types in `src/api/`, a folder here with an implementation of
//! [`Kind`](crate::runtime::kind::Kind) and of [`Registered`](registration::Registered), and a line
//! in [`REGISTRY`]. `cargo xtask generate` writes its CustomResourceDefinition, its rules in the
//! charts and its page. `tests/fifth_kind.rs` is such a kind in one file.

pub mod amounts;
pub mod attempts;
pub mod context;
pub mod definitions;
pub mod dependent;
pub mod drift;
pub mod error;
pub mod kafka_cluster;
pub mod pipeline;
pub mod pods_not_made;
pub mod registration;
pub mod rights;
pub mod topic;
pub mod user;

use kafka_cluster::KafkaClusterKind;
use pipeline::PipelineKind;
use registration::Entry;
use topic::TopicKind;
use user::UserKind;

/// Every kind, each before the kinds that refer to it. To add a kind, add a line here.
pub static REGISTRY: [Entry; 4] = [
    Entry::of::<KafkaClusterKind>(),
    Entry::of::<TopicKind>(),
    Entry::of::<UserKind>(),
    Entry::of::<PipelineKind>(),
];
