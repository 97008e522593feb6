//! The proof, on a real Kubernetes with real Kafka: run by `cargo xtask test`, one test after the other.
//!
//! The ground has the quickstart on it: KafkaCluster kafka/demo, Topic shop/orders, User shop/shop-app.
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
mod failures;
mod jbod;
mod kafka;
mod leader;
mod ledger;
mod lifecycle;
mod load;
mod oracle;
mod outages;
mod quickstart;
mod quorum;
mod refused;
mod rolls;
mod scaling;
mod storage;
mod upgrade;
mod world;
