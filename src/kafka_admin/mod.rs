//! Talking to brokers: the trait that the rest of Freehold sees, its client over TCP, TLS and SASL, and a fake.
//!
//! Answers are not read-your-writes: the controller answers creations, a broker's cache answers reads. Callers poll
//! with a deadline and never take one negative read for the truth.

pub mod client;
pub mod connection;
pub mod fake;
pub mod sasl;
pub mod tls;

use crate::kafka::acl::AclBinding;
use async_trait::async_trait;
use std::collections::BTreeMap;

/// What can go wrong while talking to Kafka.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    #[error("no broker answered: {0}")]
    Unavailable(String),
    #[error("no answer within {0} s")]
    Deadline(u64),
    #[error("a broker sent what cannot be read: {0}")]
    Protocol(String),
    #[error("{api} was refused: {error}{}", message.as_deref().map(|m| format!(" ({m})")).unwrap_or_default())]
    Refused { api: &'static str, error: String, retriable: bool, message: Option<String> },
}

impl AdminError {
    /// True when the same request may succeed later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unavailable(_) | Self::Deadline(_) => true,
            Self::Refused { retriable, .. } => *retriable,
            Self::Protocol(_) => false,
        }
    }

    /// True when Kafka's error has this name (`UnknownTopicOrPartition`, …).
    pub fn is(&self, name: &str) -> bool {
        matches!(self, Self::Refused { error, .. } if error == name)
    }
}

pub type AdminResult<T> = Result<T, AdminError>;

/// Brokers of the cluster, from DescribeCluster (KIP-919).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterDescription {
    pub cluster_id: String,
    pub brokers: Vec<BrokerDescription>,
}

/// A registered broker. Fenced: registered, but not serving.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerDescription {
    pub id: i32,
    pub fenced: bool,
    pub rack: Option<String>,
}

/// A partition as a broker's metadata cache knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionDescription {
    pub index: i32,
    pub leader: i32,
    pub replicas: Vec<i32>,
    pub in_sync: Vec<i32>,
}

/// A topic as a broker's metadata cache knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicDescription {
    pub name: String,
    pub id: uuid::Uuid,
    pub internal: bool,
    pub partitions: Vec<PartitionDescription>,
}

/// The metadata quorum, from DescribeQuorum (KIP-595, KIP-836).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QuorumDescription {
    pub leader: i32,
    pub high_watermark: i64,
    pub voters: Vec<ReplicaState>,
    pub observers: Vec<ReplicaState>,
}

/// How far a member of the quorum is. Offsets are -1 while unknown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaState {
    pub id: i32,
    pub directory: uuid::Uuid,
    pub log_end_offset: i64,
}

/// A topic to create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTopic {
    pub name: String,
    pub partitions: i32,
    /// -1: the cluster's default.
    pub replicas: i16,
    pub config: BTreeMap<String, String>,
}

/// A SCRAM-SHA-512 credential to set: what Kafka stores, never the password.
#[derive(Clone, PartialEq, Eq)]
pub struct ScramUpsertion {
    pub user: String,
    pub iterations: i32,
    pub salt: Vec<u8>,
    pub salted_password: Vec<u8>,
}

/// Everything that Freehold asks of a cluster.
#[async_trait]
pub trait Admin: Send + Sync {
    async fn describe_cluster(&self) -> AdminResult<ClusterDescription>;
    async fn describe_quorum(&self) -> AdminResult<QuorumDescription>;
    /// All topics, or those named; a name that is not there is left out.
    async fn describe_topics(&self, names: Option<&[String]>) -> AdminResult<Vec<TopicDescription>>;
    async fn create_topic(&self, topic: &NewTopic) -> AdminResult<()>;
    async fn create_partitions(&self, topic: &str, count: i32) -> AdminResult<()>;
    async fn delete_topic(&self, id: uuid::Uuid) -> AdminResult<()>;
    /// The configs set on the topic itself (not defaults).
    async fn topic_config(&self, topic: &str) -> AdminResult<BTreeMap<String, String>>;
    /// Sets (`Some`) and removes (`None`) configs of a topic.
    async fn alter_topic_config(&self, topic: &str, changes: &BTreeMap<String, Option<String>>) -> AdminResult<()>;
    /// True when any partition holds a record (log end above log start).
    async fn topic_holds_records(&self, topic: &TopicDescription) -> AdminResult<bool>;
    async fn acls_of(&self, principal: &str) -> AdminResult<Vec<AclBinding>>;
    async fn create_acls(&self, acls: &[AclBinding]) -> AdminResult<()>;
    async fn delete_acls(&self, acls: &[AclBinding]) -> AdminResult<()>;
    /// Iterations of a user's SCRAM-SHA-512 credential; `None` when it has none.
    async fn scram_iterations(&self, user: &str) -> AdminResult<Option<i32>>;
    async fn upsert_scram(&self, credential: &ScramUpsertion) -> AdminResult<()>;
    async fn delete_scram(&self, user: &str) -> AdminResult<()>;
}
