//! Freehold: a Kubernetes operator for Apache Kafka. docs/ARCHITECTURE.md is the map.

pub mod certificates;
pub mod conditions;
pub mod definitions;
pub mod fault;
pub mod kafka;
pub mod kafka_admin;
pub mod kinds;
pub mod kube_io;
pub mod labels;
pub mod names;
pub mod operator;
pub mod preview;
pub mod quantity;
pub mod render;
pub mod runtime;
pub mod unmanaged;
pub mod webhook;
