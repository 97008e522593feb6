//! Kafka's own rules, as pure functions and data: configs, node ids, ACLs, SCRAM, the metadata log,
//! and which nodes are in sync.

pub mod acl;
pub mod census;
pub mod config;
pub mod config_limits;
pub mod config_values;
pub mod description;
pub mod folders;
pub mod grants;
pub mod in_sync;
pub mod jvm_options;
pub mod load;
pub mod metadata_image;
pub mod metadata_record;
pub mod node_ids;
pub mod ownership;
pub mod properties;
pub mod rebalance;
pub mod replication;
pub mod safety;
pub mod scram;
pub mod topic_plan;
