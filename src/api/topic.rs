//! The Topic resource.
#![allow(
    clippy::duplicated_attributes,
    reason = "printer columns have types and sources in common"
)]

use crate::api::conditions::Condition;
use crate::api::drift::DriftStatus;
use crate::api::reference::ClusterRef;
use freehold_kafka::config::Configs;
use freehold_kafka::config_values;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A topic of a Kafka cluster.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "freehold.dev",
    version = "v1alpha1",
    kind = "Topic",
    plural = "topics",
    shortname = "kt",
    category = "freehold",
    namespaced,
    status = "TopicStatus",
    doc = "A topic of a Kafka cluster.",
    printcolumn(
        name = "Cluster",
        type_ = "string",
        json_path = ".spec.clusterRef.name"
    ),
    printcolumn(name = "Topic", type_ = "string", json_path = ".status.topicName"),
    printcolumn(
        name = "Partitions",
        type_ = "integer",
        json_path = ".status.partitions"
    ),
    printcolumn(name = "Replicas", type_ = "integer", json_path = ".status.replicas"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].status"
    ),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.reason"),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.clusterRef == oldSelf.clusterRef").message("clusterRef: immutable; make another Topic"),
    validation = Rule::new("has(self.topicName) == has(oldSelf.topicName) && (!has(self.topicName) || self.topicName == oldSelf.topicName)")
        .message("topicName: immutable; make another Topic"),
    validation = Rule::new("self.partitions >= oldSelf.partitions")
        .message("partitions: a topic cannot lose partitions, Kafka would lose their records; make another Topic"),
    validation = Rule::new("!has(self.topicName) || !(self.topicName in ['.', '..', '__consumer_offsets', '__transaction_state', '__cluster_metadata', '__share_group_state'])")
        .message("topicName: Kafka's own"),
)]
pub struct TopicSpec {
    /// The cluster.
    pub cluster_ref: ClusterRef,
    /// Name in Kafka; default: metadata.name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[a-zA-Z0-9._-]+$"), length(min = 1, max = 249))]
    pub topic_name: Option<String>,
    /// Number of partitions; may grow.
    #[schemars(range(min = 1, max = 10000))]
    pub partitions: i32,
    /// Copies of each partition; default: the cluster's default.replication.factor. Not above the
    /// number of brokers. A change moves replicas, at the pace of the cluster's
    /// `rebalance.throttle`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 30))]
    pub replicas: Option<i16>,
    /// Topic configs, checked against the version's own list. Values are strings, numbers or
    /// booleans.
    #[serde(
        default,
        deserialize_with = "config_values::deserialize",
        skip_serializing_if = "Configs::is_empty"
    )]
    #[schemars(schema_with = "config_values::schema")]
    pub config: Configs,
    /// What becomes of a topic of this name that exists already.
    #[serde(default)]
    pub adoption: Adoption,
    /// Whose Users may ask for rights on the topic, where the cluster's `access.rights` is Own.
    /// Those of this namespace may anyway.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50))]
    pub share: Vec<Share>,
    /// What deleting this object does to the topic.
    #[serde(default)]
    pub deletion_policy: TopicDeletionPolicy,
}

/// What Users of some namespaces may ask for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Share {
    /// The namespaces, by name.
    #[schemars(length(min = 1, max = 100), inner(length(min = 1, max = 63)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub namespaces: Vec<String>,
    /// What their Users may do with it.
    #[schemars(length(min = 1, max = 2))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub operations: Vec<ShareOperation>,
}

/// What can be shared.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum ShareOperation {
    /// Read and Describe.
    Consume,
    /// Write and Describe.
    Produce,
}

/// What becomes of a topic that exists already and that this object did not make.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Adoption {
    /// It is left alone.
    #[default]
    Never,
    /// It is taken over where it is as the spec says; else its differences are told.
    IfIdentical,
    /// It is taken over and made as the spec says.
    Always,
}

/// What deleting the object does to the topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TopicDeletionPolicy {
    /// The topic is deleted. One that holds records needs the annotation
    /// `freehold.dev/confirm-delete: <topic name>`.
    #[default]
    Delete,
    /// The topic stays.
    Retain,
}

impl Topic {
    /// The topic's name in Kafka.
    pub fn topic_name(&self) -> &str {
        self.spec
            .topic_name
            .as_deref()
            .or(self.metadata.name.as_deref())
            .unwrap_or_default()
    }
}

/// What is known of the topic.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TopicStatus {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Why it is not Ready; empty when it is.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// What a person should know although nothing waits for it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Name in Kafka.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic_name: Option<String>,
    /// Kafka's id of the topic that this object made or manages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partitions: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// Partitions with a replica out of sync, as of the last minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub under_replicated: Option<i32>,
    /// Bytes of all replicas together, rounded down to 1, 2 or 5 times a power of ten.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<i64>,
    /// Records between the start and the end of its partitions, rounded down likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub records: Option<i64>,
    /// A change of the replication factor that is under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reassignment: Option<ReassignmentStatus>,
    /// What was last put right that somebody else had changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drift: Option<DriftStatus>,
}

/// How far a change of the replication factor is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReassignmentStatus {
    /// The replication factor that is being reached.
    pub replicas: i32,
    /// Partitions that have reached it / all.
    pub partitions: String,
}
