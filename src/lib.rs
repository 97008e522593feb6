//! Freehold: a Kubernetes operator for Apache Kafka. docs/ARCHITECTURE.md is the map.

pub mod api;
pub mod certificates;
pub mod cli;
pub mod clusters;
pub mod fault;
pub mod kinds;
pub mod kubernetes;
pub mod reference;
pub mod runtime;
pub mod tenancy;
pub mod webhook;
pub mod words;
