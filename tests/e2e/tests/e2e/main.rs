//! End-to-end tests on a real Kubernetes with real Kafka: `cargo xtask test` runs them one after
//! the other.
//!
//! The quickstart is installed on the local cluster: KafkaCluster kafka/demo, Topic shop/orders,
//! User shop/shop-app.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(clippy::print_stdout, reason = "what was measured is printed")]

mod application;
mod authorization;
mod autoscaling;
mod bad_inputs;
mod campaign;
mod chaos;
mod crash;
mod delivery;
mod dying;
mod examples;
mod failures;
mod images;
mod jbod;
mod kafka;
mod leader;
mod ledger;
mod lifecycle;
mod load;
mod mqtt;
mod oracle;
mod outages;
mod outside;
mod pipeline_deaths;
mod pipeline_fields;
mod pipeline_proof;
mod pipeline_scaling;
mod pipelines;
mod policies;
mod quickstart;
mod quorum;
mod refused;
mod registry;
mod replay;
mod rolls;
mod scaling;
mod specs;
mod storage;
mod tenancy;
mod tenants;
mod upgrade;
mod upkeep;
mod world;
