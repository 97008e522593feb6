//! Kafka's own rules, as pure functions and data: configs, node ids, ACLs, SCRAM, the metadata log, who is in sync.

pub mod acl;
pub mod config;
pub mod folders;
pub mod grants;
pub mod in_sync;
pub mod load;
pub mod metadata_image;
pub mod metadata_record;
pub mod node_ids;
pub mod properties;
pub mod rebalance;
pub mod replication;
pub mod restart;
pub mod scram;
pub mod topic_plan;
