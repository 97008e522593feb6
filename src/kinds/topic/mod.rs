//! The Topic kind: a topic of a cluster, which is created, configured, expanded and deleted.

pub mod apply;
pub mod deletion;
pub mod desired;
pub mod observe;
pub mod plan;
pub mod reconcile;
pub mod registration;
pub mod status;
pub mod validate;

pub use reconcile::TopicKind;
