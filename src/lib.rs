//! Freehold: a Kubernetes operator for Apache Kafka. docs/ARCHITECTURE.md is the map.

pub mod conditions;
pub mod kafka;
pub mod kafka_admin;
pub mod kinds;
