//! Talking to brokers: the trait that the rest of Freehold sees, its client over TCP, TLS and SASL, and a fake.
//!
//! What exists is read from the metadata log ([`mirror`], [`follower`]); changes are asked for in batches ([`batch`]).
//! Answers are not read-your-writes: the controller answers a change, the log tells of it within milliseconds.

pub mod batch;
pub mod client;
pub mod connection;
pub mod fake;
pub mod figures;
pub mod follower;
pub mod mirror;
mod requests;
pub mod sasl;
pub mod tls;

use crate::kafka::acl::AclBinding;
use crate::kafka::load::Load;
use crate::kafka::metadata_image::{PartitionImage, TopicImage};
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What can go wrong while talking to Kafka.
#[derive(Clone, Debug, thiserror::Error)]
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
    /// When it asked the leader last, in milliseconds since 1970 by the leader's clock; -1: never, or it is the leader.
    pub last_fetch_ms: i64,
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

/// Whose configs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigResource {
    Topic(String),
    /// Every broker (KIP-226's cluster-wide default).
    Brokers,
    /// One broker.
    Broker(i32),
}

impl std::fmt::Display for ConfigResource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Topic(topic) => write!(f, "topic {topic}"),
            Self::Brokers => write!(f, "all brokers"),
            Self::Broker(id) => write!(f, "broker {id}"),
        }
    }
}

/// Configs to set (`Some`) and to remove (`None`).
pub type ConfigChanges = BTreeMap<String, Option<String>>;

/// Where a partition's replicas should be; `None` takes a move back (KIP-455).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reassignment {
    pub topic: String,
    pub partition: i32,
    pub replicas: Option<Vec<i32>>,
}

/// A partition that its first replica shall lead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Election {
    pub topic: String,
    pub partition: i32,
    /// That replica.
    pub leader: i32,
    /// The replicas with that one first, where another is.
    pub order: Option<Vec<i32>>,
}

/// A change of a user's SCRAM-SHA-512 credential. No `Debug`: a salted password is as good as one.
#[derive(Clone, PartialEq, Eq)]
pub enum ScramChange {
    /// What Kafka stores, never the password.
    Upsert {
        user: String,
        iterations: u32,
        salt: Vec<u8>,
        salted_password: Vec<u8>,
    },
    Delete {
        user: String,
    },
}

/// A change of a user's quotas: set (`Some`) or removed (`None`), by Kafka's names of them.
#[derive(Clone, Debug, PartialEq)]
pub struct QuotaChange {
    pub user: String,
    pub quotas: BTreeMap<String, Option<f64>>,
}

/// A topic's partitions by the brokers that lead them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaders {
    pub topic: String,
    /// Partition and leader.
    pub partitions: Vec<(i32, i32)>,
}

impl Leaders {
    pub fn of(topic: &str, image: &TopicImage) -> Self {
        let leader = |(index, partition): (usize, &PartitionImage)| (i32::try_from(index).unwrap_or(i32::MAX), partition.leader);
        Self { topic: topic.to_owned(), partitions: image.partitions.iter().enumerate().map(leader).collect() }
    }
}

/// A broker's log folders by their path (KIP-113).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogFolders(pub BTreeMap<String, LogFolder>);

impl LogFolders {
    /// No replica in any of them.
    pub fn is_empty(&self) -> bool {
        self.0.values().all(|folder| folder.replicas.is_empty())
    }

    /// Bytes by topic.
    pub fn bytes(&self) -> BTreeMap<&str, i64> {
        let mut bytes = BTreeMap::new();
        for replica in self.0.values().flat_map(|folder| &folder.replicas) {
            *bytes.entry(&*replica.topic).or_insert(0) += replica.bytes;
        }
        bytes
    }
}

/// A log folder, without the metadata.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogFolder {
    /// The volume that it is on (KIP-827), where the broker knows it.
    pub disk: Option<Disk>,
    pub replicas: Vec<LogReplica>,
}

/// A replica in a log folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogReplica {
    pub topic: Arc<str>,
    pub partition: i32,
    pub bytes: i64,
    /// It is being filled, to take the place of the one in another folder.
    pub future: bool,
}

/// A replica that shall be in another log folder of its broker.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FolderMove {
    pub topic: String,
    pub partition: i32,
    /// Its path.
    pub folder: String,
}

/// A volume as the broker that uses it sees it, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disk {
    pub total: i64,
    pub usable: i64,
}

impl Disk {
    /// Percent that are in use, rounded down.
    pub fn used_percent(self) -> i64 {
        100_i64.saturating_sub(self.usable.saturating_mul(100).checked_div(self.total).unwrap_or(100))
    }
}

/// Results of a call for many things, one for each, in the order in which they were asked.
pub type Each<T> = Vec<AdminResult<T>>;

/// Everything that Freehold asks of a cluster, beside the metadata that it follows ([`mirror`]).
#[async_trait]
pub trait Admin: Send + Sync {
    async fn describe_cluster(&self) -> AdminResult<ClusterDescription>;
    async fn describe_quorum(&self) -> AdminResult<QuorumDescription>;
    async fn create_topics(&self, topics: &[NewTopic]) -> Each<()>;
    /// Topics and the partitions that they should have.
    async fn create_partitions(&self, topics: &[(String, i32)]) -> Each<()>;
    /// By id; one that is gone is deleted.
    async fn delete_topics(&self, ids: &[uuid::Uuid]) -> Each<()>;
    async fn alter_configs(&self, changes: &[(ConfigResource, ConfigChanges)]) -> Each<()>;
    async fn reassign(&self, moves: &[Reassignment]) -> Each<()>;
    /// Makes the first replica of each partition its leader, where it is in sync (KIP-460).
    async fn elect_preferred_leaders(&self, elections: &[Election]) -> Each<()>;
    /// Whether the broker that was elected says itself that it leads, and followers follow it: it may know seconds after the
    /// metadata does. By ListOffsets, which refuses the log's end until then (KIP-207).
    async fn lead(&self, elections: &[Election]) -> AdminResult<()>;
    /// Records between the start and the end of each topic's log; compaction makes it an upper bound.
    async fn count_records(&self, topics: &[Leaders]) -> Each<i64>;
    /// What a broker says of its log folders.
    async fn log_folders_of(&self, broker: i32) -> AdminResult<LogFolders>;
    /// Moves replicas of a broker between its log folders (KIP-113); brokers do it by and by.
    async fn move_folders(&self, broker: i32, moves: &[FolderMove]) -> AdminResult<()>;
    /// Takes a broker that is gone from the cluster's list (KIP-631); one that is not in it is fine.
    async fn unregister_broker(&self, broker: i32) -> AdminResult<()>;
    /// Makes an observer a voter of the quorum (KIP-853): its directory's id, and where its controller listens.
    async fn add_voter(&self, id: i32, directory: uuid::Uuid, host: &str, port: u16) -> AdminResult<()>;
    /// The reverse; one that does not vote is fine.
    async fn remove_voter(&self, id: i32, directory: uuid::Uuid) -> AdminResult<()>;
    /// Raises features to these levels (KIP-584).
    async fn upgrade_features(&self, levels: &BTreeMap<String, i16>) -> AdminResult<()>;
    async fn create_acls(&self, acls: &[AclBinding]) -> Each<()>;
    async fn delete_acls(&self, acls: &[AclBinding]) -> Each<()>;
    /// What every node let a principal in shadow mode do all the same, as rules that deny.
    async fn would_be_refused(&self, principal: &str) -> AdminResult<Vec<AclBinding>>;
    /// How busy brokers are; of those that answer.
    async fn loads(&self) -> BTreeMap<i32, Load>;
    /// At most one change of a user.
    async fn alter_scram(&self, changes: &[ScramChange]) -> Each<()>;
    /// At most one change of a user.
    async fn alter_quotas(&self, changes: &[QuotaChange]) -> Each<()>;
}
