//! KafkaCluster: brokers and controllers as StatefulSets, their certificates, configuration and status.

pub mod api;
pub mod apply;
pub mod authorities;
pub mod autoscale;
pub mod cleanup;
pub mod clients;
pub mod desired;
pub mod disruption;
mod elections;
pub mod facts;
mod features;
pub mod folders;
pub mod identity;
mod leaders;
pub mod moves;
pub mod observe;
pub mod plan;
pub mod preview;
pub mod quorum;
pub mod reconcile;
pub mod status;
pub mod throttle;
pub mod validate;
pub mod volumes;
pub mod windows;

pub use reconcile::KafkaClusterKind;
