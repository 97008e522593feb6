//! The Pipeline kind: a stream of records through blocks. Each stage of its graph
//! (`freehold-pipeline`) is a StatefulSet of runners.

pub mod alerts;
pub mod apply;
pub mod certificate;
pub mod context;
mod cpu;
pub mod deletion;
pub mod desired;
pub mod given;
pub mod lacking;
pub mod members;
pub mod metrics;
pub mod network;
pub mod no_output;
pub mod observe;
pub mod plan;
pub mod pods;
pub mod programs;
pub mod purge;
pub mod purging;
pub mod reconcile;
pub mod refused;
pub mod registration;
pub mod replay;
pub mod replaying;
pub mod revisions;
pub mod runners;
pub mod scaling;
pub mod scope;
pub mod sources;
pub mod status;
pub mod tenants;
pub mod validate;
pub mod wanted;

pub use reconcile::PipelineKind;
