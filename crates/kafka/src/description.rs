//! What brokers report about a cluster, as the client reads it from their answers.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Brokers of the cluster, from DescribeCluster (KIP-919).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterDescription {
    pub cluster_id: String,
    pub brokers: Vec<BrokerDescription>,
}

/// A registered broker. A fenced broker is registered but does not serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerDescription {
    pub id: i32,
    pub fenced: bool,
    pub rack: Option<String>,
}

/// The metadata quorum, from DescribeQuorum (KIP-595, KIP-836).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QuorumDescription {
    pub leader: i32,
    pub high_watermark: i64,
    pub voters: Vec<ReplicaState>,
    pub observers: Vec<ReplicaState>,
}

/// The progress of a replica of the metadata log. Offsets are -1 while unknown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaState {
    pub id: i32,
    pub directory: uuid::Uuid,
    pub log_end_offset: i64,
    /// Time of its last fetch from the leader, in milliseconds since 1970 by the leader's clock;
    /// -1: never, or it is the leader.
    pub last_fetch_ms: i64,
}

/// A broker's log folders by their path (KIP-113).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogFolders(pub BTreeMap<String, LogFolder>);

impl LogFolders {
    /// True when no folder holds a replica.
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

/// A log folder. The metadata log is not included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogFolder {
    /// The volume of the folder (KIP-827), if the broker knows it.
    pub disk: Option<Disk>,
    pub replicas: Vec<LogReplica>,
}

/// A replica in a log folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogReplica {
    pub topic: Arc<str>,
    pub partition: i32,
    pub bytes: i64,
    /// True while the replica is being copied here to replace the one in another folder.
    pub future: bool,
}

/// A request to move a replica to another log folder of its broker.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FolderMove {
    pub topic: String,
    pub partition: i32,
    /// The path of the target folder.
    pub folder: String,
}

/// The size and the usable space of a volume in bytes, as its broker reports them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disk {
    pub total: i64,
    pub usable: i64,
}

impl Disk {
    /// Percentage of the volume that is in use, rounded down.
    pub fn used_percent(self) -> i64 {
        100_i64.saturating_sub(
            self.usable
                .saturating_mul(100)
                .checked_div(self.total)
                .unwrap_or(100),
        )
    }
}
