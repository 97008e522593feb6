//! The driver: everything around a kind's reconcile that is the same for every kind.

pub mod backoff;
pub mod cache;
pub mod census;
pub mod claims;
pub mod clusters;
pub mod context;
pub mod driver;
pub mod events;
pub mod health;
pub mod kept;
pub mod kind;
pub mod lease;
pub mod metrics;
pub mod namespaces;
pub mod sweeps;
