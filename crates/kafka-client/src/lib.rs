//! The client for Kafka: the trait that the rest of Freehold uses, its implementation over TCP, TLS
//! and SASL, and a fake for tests.
//!
//! The state of a cluster is read from the metadata log ([`mirror`], [`follower`]); changes are
//! sent in batches ([`batch`]). Reads may not include the caller's own last change yet: after the
//! controller has answered a change, its record reaches the mirror within milliseconds.

pub mod batch;
mod broker_configs;
pub mod client;
pub mod connection;
#[cfg(any(test, feature = "testing"))]
pub mod fake;
#[cfg(feature = "fault-injection")]
pub mod fault;
pub mod figures;
pub mod follower;
#[cfg(test)]
mod loopback;
pub mod mirror;
mod requests;
mod routing;
pub mod sasl;
pub mod tls;

use async_trait::async_trait;
use freehold_kafka::acl::AclBinding;
pub use freehold_kafka::description::*;
use freehold_kafka::load::Load;
use freehold_kafka::metadata_image::{PartitionImage, TopicImage};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What can go wrong in a request to Kafka.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AdminError {
    #[error("no broker answered: {0}")]
    Unavailable(String),
    #[error("no answer within {0} s")]
    Deadline(u64),
    #[error("a broker sent what cannot be read: {0}")]
    Protocol(String),
    #[error("{api} was refused: {error}{}", message.as_deref().map(|m| format!(" ({m})")).unwrap_or_default())]
    Refused {
        api: &'static str,
        error: String,
        retriable: bool,
        message: Option<String>,
    },
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

/// The result of a request to Kafka.
pub type AdminResult<T> = Result<T, AdminError>;

/// A partition as the metadata cache of a broker knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionDescription {
    pub index: i32,
    pub leader: i32,
    pub replicas: Vec<i32>,
    pub in_sync: Vec<i32>,
}

/// A topic as the metadata cache of a broker knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicDescription {
    pub name: String,
    pub id: uuid::Uuid,
    pub internal: bool,
    pub partitions: Vec<PartitionDescription>,
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

/// The resource whose configs are changed.
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

/// The replicas that a partition should have. `None` cancels a move (KIP-455).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reassignment {
    pub topic: String,
    pub partition: i32,
    pub replicas: Option<Vec<i32>>,
}

/// A request to make the first replica of a partition its leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Election {
    pub topic: String,
    pub partition: i32,
    /// The first replica.
    pub leader: i32,
    /// The new order of the replicas with that one first, if the present order has another one
    /// first.
    pub order: Option<Vec<i32>>,
}

/// A change of a user's SCRAM-SHA-512 credential. No `Debug`: with a salted password one can log in
/// as with the password.
#[derive(Clone, PartialEq, Eq)]
pub enum ScramChange {
    /// What Kafka stores; never the password itself.
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

impl ScramChange {
    /// The user whose credential changes.
    pub fn user(&self) -> &str {
        match self {
            Self::Upsert { user, .. } | Self::Delete { user } => user,
        }
    }
}

/// A change of a user's quotas, by Kafka's names of them: set (`Some`) or removed (`None`).
#[derive(Clone, Debug, PartialEq)]
pub struct QuotaChange {
    pub user: String,
    pub quotas: BTreeMap<String, Option<f64>>,
}

/// The partitions of a topic with the broker that leads each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaders {
    pub topic: String,
    /// Partition and leader.
    pub partitions: Vec<(i32, i32)>,
}

impl Leaders {
    /// The leaders of a topic's partitions, from its metadata.
    pub fn of(topic: &str, image: &TopicImage) -> Self {
        let leader = |(index, partition): (usize, &PartitionImage)| {
            (i32::try_from(index).unwrap_or(i32::MAX), partition.leader)
        };
        Self {
            topic: topic.to_owned(),
            partitions: image.partitions.iter().enumerate().map(leader).collect(),
        }
    }
}

/// Offsets that a group has committed, by topic and partition.
pub type Committed = BTreeMap<(String, i32), i64>;

/// A request to delete the records of a partition before an offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordsBefore {
    pub topic: String,
    pub partition: i32,
    /// The broker that leads the partition.
    pub leader: i32,
    /// The offset at which the log begins afterwards.
    pub offset: i64,
}

/// Results of a call for many resources: one for each, in the order of the request.
pub type Each<T> = Vec<AdminResult<T>>;

/// All requests that Freehold sends to a cluster, apart from following its metadata log
/// ([`mirror`]).
#[async_trait]
pub trait Admin: Send + Sync {
    /// The registered brokers of the cluster.
    async fn describe_cluster(&self) -> AdminResult<ClusterDescription>;
    /// The voters and observers of the metadata quorum.
    async fn describe_quorum(&self) -> AdminResult<QuorumDescription>;
    /// Creates topics.
    async fn create_topics(&self, topics: &[NewTopic]) -> Each<()>;
    /// Raises the number of partitions. Takes topics and the number that each should have.
    async fn create_partitions(&self, topics: &[(String, i32)]) -> Each<()>;
    /// Deletes topics by id. A topic that no longer exists counts as deleted.
    async fn delete_topics(&self, ids: &[uuid::Uuid]) -> Each<()>;
    /// Sets and removes dynamic configs.
    async fn alter_configs(&self, changes: &[(ConfigResource, ConfigChanges)]) -> Each<()>;
    /// Starts or cancels moves of replicas (KIP-455).
    async fn reassign(&self, moves: &[Reassignment]) -> Each<()>;
    /// Makes the first replica of each partition its leader if it is in sync (KIP-460).
    async fn elect_preferred_leaders(&self, elections: &[Election]) -> Each<()>;
    /// Checks that each elected broker itself knows that it leads and that followers follow it,
    /// which may be seconds after the metadata say so. Uses ListOffsets, which refuses to return
    /// the log end offset until then (KIP-207).
    async fn lead(&self, elections: &[Election]) -> AdminResult<()>;
    /// Records between the start and the end of each topic's log. For compacted topics this is an
    /// upper bound.
    async fn count_records(&self, topics: &[Leaders]) -> Each<i64>;
    /// The offset at which the log of each partition begins.
    async fn log_starts(&self, topics: &[Leaders]) -> Each<BTreeMap<i32, i64>>;
    /// Deletes records (KIP-107). An offset at or before the start of the log changes nothing; one
    /// behind its end is an error (`OffsetOutOfRange`).
    async fn delete_records(&self, before: &[RecordsBefore]) -> Each<()>;
    /// The log folders of a broker, as the broker reports them.
    async fn log_folders_of(&self, broker: i32) -> AdminResult<LogFolders>;
    /// Moves replicas of a broker between its log folders (KIP-113). The broker does this in the
    /// background.
    async fn move_folders(&self, broker: i32, moves: &[FolderMove]) -> AdminResult<()>;
    /// Unregisters a broker that no longer exists (KIP-631). One that is not registered is no
    /// error.
    async fn unregister_broker(&self, broker: i32) -> AdminResult<()>;
    /// Makes an observer a voter of the quorum (KIP-853). `directory` is the id of its log
    /// directory; `host` and `port` are where its controller listens.
    async fn add_voter(
        &self,
        id: i32,
        directory: uuid::Uuid,
        host: &str,
        port: u16,
    ) -> AdminResult<()>;
    /// Removes a voter from the quorum. A node that is not a voter is no error.
    async fn remove_voter(&self, id: i32, directory: uuid::Uuid) -> AdminResult<()>;
    /// Raises features to these levels (KIP-584).
    async fn upgrade_features(&self, levels: &BTreeMap<String, i16>) -> AdminResult<()>;
    /// Creates ACLs; one that exists is not created again.
    async fn create_acls(&self, acls: &[AclBinding]) -> Each<()>;
    /// Deletes exactly these ACLs.
    async fn delete_acls(&self, acls: &[AclBinding]) -> Each<()>;
    /// Deletes consumer groups with their offsets (KIP-229). A group that does not exist is no error;
    /// one with members is (`NonEmptyGroup`).
    async fn delete_groups(&self, groups: &[String]) -> Each<()>;
    /// Removes static members from a consumer group, by their instance ids (KIP-345). One that is no
    /// member is no error.
    async fn remove_members(&self, group: &str, instances: &[String]) -> AdminResult<()>;
    /// Fences producers by their transactional ids (KIP-618): a transaction that one has left open is
    /// aborted, and a process that still has the id can write no more.
    async fn fence_producers(&self, ids: &[String]) -> AdminResult<()>;
    /// What consumer groups have committed; offsets of open transactions are not in it. A group that
    /// does not exist has committed nothing.
    async fn committed_offsets(&self, groups: &[String]) -> Each<Committed>;
    /// The operations of a principal in shadow mode that its ACLs do not allow and that the nodes
    /// allowed nevertheless, as ACLs that deny.
    async fn would_be_refused(&self, principal: &str) -> AdminResult<Vec<AclBinding>>;
    /// The load of each broker that answers.
    async fn loads(&self) -> BTreeMap<i32, Load>;
    /// Takes at most one change for each user.
    async fn alter_scram(&self, changes: &[ScramChange]) -> Each<()>;
    /// Takes at most one change for each user.
    async fn alter_quotas(&self, changes: &[QuotaChange]) -> Each<()>;
}
