//! What a reconcile of a Pipeline needs throughout.

use crate::api::pipeline::{Pipeline, ReadTopic};
use crate::kinds::pipeline::context::Context;
use freehold_pipeline::stages::Cut;
use freehold_pipeline::topics::TopicNames;
use std::collections::{BTreeMap, BTreeSet};

/// The object, and what is known of what it reads.
#[derive(Clone, Copy)]
pub struct Scope<'a> {
    pub object: &'a Pipeline,
    pub context: &'a Context,
    pub names: &'a TopicNames,
    pub cut: &'a Cut,
    /// What is known of the topics that it reads.
    pub topics: &'a [ReadTopic],
    /// The stages whose topics have other partitions now.
    pub changed: &'a BTreeSet<String>,
    /// The partitions that each stage reads, as `changed` has seen them: the status must say no
    /// others, or members that have to join anew would be missed.
    pub partitions: &'a BTreeMap<String, Option<i32>>,
}
