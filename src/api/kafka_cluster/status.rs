//! The KafkaCluster's status.

use crate::api::conditions::Condition;
use crate::api::kafka_cluster::RightsPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is known of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct KafkaClusterStatus {
    /// The spec that this status is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready, Reconciling and Stalled, in the sense of kstatus.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Why it is not Ready; empty when it is.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// What it waits for, in words.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub waiting_on: Vec<String>,
    /// What will disturb it, in words and in order, once what it waits for allows: restarts,
    /// controllers that join and leave, replicas that move. The first twenty lines; `freehold plan`
    /// tells all, of another spec too.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub plan: Vec<String>,
    /// What a person should know although nothing waits for it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// What is refused again and again: the field of the spec or the object, and why. Nothing but
    /// what depends on it waits for it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["what"]))]
    pub refused: Vec<RefusedStatus>,
    /// Where clients start, by listener.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub bootstrap: Vec<ListenerStatus>,
    /// Kafka's cluster id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,
    /// The version that runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kafka_version: Option<String>,
    /// Since when every node has run that version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version_since: Option<Time>,
    /// Level of the feature `metadata.version`: which versions can read the metadata.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata_version: Option<i16>,
    /// Brokers ready/all.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub brokers: String,
    /// Pools with their nodes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub node_pools: Vec<NodePoolStatus>,
    /// The metadata quorum.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quorum: Option<QuorumStatus>,
    /// The one disruption that is under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disruption: Option<DisruptionStatus>,
    /// The last value of the annotation `freehold.dev/replace` that was followed: the node's pod
    /// and volume are others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replaced: Option<String>,
    /// Nodes that run nowhere and whose volume no machine can have, by the word of Kubernetes; with
    /// `spec.rollout.replaceLostNodesAfterMinutes` they are replaced after that time.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["nodeId"]))]
    pub lost_nodes: Vec<LostNodeStatus>,
    /// What Users of other namespaces may have rights on at present.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rights: Option<RightsPolicy>,
    /// Replicas that move, or would.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rebalance: Option<RebalanceStatus>,
    /// When moves ended last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rebalanced: Option<Time>,
    /// Pools that scale by their load, with what that has come to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["pool"]))]
    pub autoscaling: Vec<AutoscalingStatus>,
    /// Broker configs that were set while brokers run: `key`, or `node id/key`. What is in here and
    /// no more in the spec goes back to its default; others in Kafka are somebody else's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dynamic_configs: Vec<String>,
}

/// Something that is refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RefusedStatus {
    /// For example `spec.config[num.io.threads]`, or `Service demo-bootstrap`.
    pub what: String,
    /// In the words of who refuses.
    pub why: String,
}

/// What disturbs the cluster at present; nothing else does while it is here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DisruptionStatus {
    pub kind: DisruptionKind,
    /// The nodes that it is about.
    pub node_ids: Vec<i32>,
    /// Why, in words.
    pub why: String,
    pub since: Time,
    /// Replicas that it moves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u32>,
    /// What others lead until its nodes have restarted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub handed_over: Vec<HandedOver>,
    /// Uids of the pods and volume claims that a replacement deletes; each is in here until it is
    /// gone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removes: Vec<String>,
}

/// A node that is lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LostNodeStatus {
    pub node_id: i32,
    pub since: Time,
}

/// Partitions that others lead in a node's place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HandedOver {
    /// Who leads them by preference.
    pub node_id: i32,
    /// By topic, for example `orders:0,3`.
    pub partitions: Vec<String>,
}

/// Kinds of disruptions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DisruptionKind {
    Restart,
    /// Replicas move.
    Reassignment,
    /// A controller joins the quorum or leaves it.
    Quorum,
    /// Replicas move between the volumes of their broker.
    Volumes,
    /// A node is given a new volume.
    Replacement,
}

/// What is, or would be, moved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RebalanceStatus {
    /// Name of a plan that waits; the annotation `freehold.dev/approve-rebalance` with this value
    /// lets it begin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proposal: Option<String>,
    /// The plan, in words.
    pub summary: String,
    /// How far it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<String>,
    /// How fast replicas may move.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throttle: Option<ThrottleStatus>,
}

/// What a pool's load has come to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AutoscalingStatus {
    pub pool: String,
    /// Nodes in all zones together that it is to have.
    pub replicas: u32,
    /// Why, in words.
    pub why: String,
    pub since: Time,
}

/// The throttle in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ThrottleStatus {
    /// For each broker.
    pub bytes_per_second: u64,
    pub since: Time,
}

/// Where clients of a listener start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ListenerStatus {
    pub name: String,
    /// `host:port`, for bootstrap.servers.
    pub address: String,
}

/// A pool's nodes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodePoolStatus {
    pub name: String,
    /// Nodes in sync / all.
    pub ready: String,
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["zone"]))]
    pub zones: Vec<ZoneStatus>,
}

/// The nodes of a pool in a zone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ZoneStatus {
    pub zone: String,
    pub node_ids: Vec<i32>,
}

/// The metadata quorum, from DescribeQuorum (KIP-595). Lag is in records, as coarse steps, so that
/// it does not write for ever.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct QuorumStatus {
    /// Voters caught up / all.
    pub summary: String,
    /// Node id of the active controller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leader: Option<i32>,
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["nodeId"]))]
    pub voters: Vec<VoterStatus>,
}

/// A voter of the quorum.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VoterStatus {
    pub node_id: i32,
    /// `caughtUp`, or how many records it lags behind (`>100`, `>1000`, …), or `unknown`.
    pub lag: String,
}
