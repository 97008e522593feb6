//! Kafka's own rules, as pure functions and data: configs, node ids, ACLs, SCRAM, who is in sync.

pub mod acl;
pub mod config;
pub mod in_sync;
pub mod node_ids;
pub mod properties;
pub mod scram;
pub mod topic_plan;
