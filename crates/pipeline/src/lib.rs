//! The graph of a Pipeline: its blocks and what is wrong with them, the stages it is cut into, the
//! rights it needs, and what changed between two revisions.
//!
//! The operator, the runner and the command line share this crate, so that all of them give the
//! same answer. It is pure: no client, no clock, no Kubernetes. What programs (VRL) do is in
//! `freehold-pipeline-blocks`.

pub mod address;
pub mod block;
pub mod changes;
pub mod checks;
pub mod definition;
pub mod duration;
pub mod endpoint;
pub mod finding;
pub mod graph;
pub mod mqtt;
pub mod nearest;
pub mod outside;
pub mod replay;
pub mod report;
pub mod rights;
pub mod sink;
pub mod source;
pub mod stage_document;
pub mod stages;
pub mod topics;
