//! The generic driver: everything around a kind's reconcile that is the same for every kind. It
//! knows no kind and no Kafka.

pub mod answer_cache;
pub mod backoff;
pub mod cache;
pub mod compute;
pub mod driver;
pub mod events;
pub mod health;
pub mod kind;
pub mod lease;
pub mod metrics;
pub mod namespaces;
pub mod resync;
pub mod services;
pub mod sockets;
pub mod stores;
pub mod unread;
pub mod unread_names;
pub mod written;
