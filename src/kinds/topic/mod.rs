//! Topic: a topic of a cluster, created, configured, grown and deleted.

pub mod api;
pub mod apply;
pub mod desired;
pub mod observe;
pub mod plan;
pub mod reconcile;
pub mod status;
pub mod validate;

pub use reconcile::TopicKind;
