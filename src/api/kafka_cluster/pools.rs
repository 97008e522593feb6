//! Node pools: what nodes there are, where, and what they need.

use crate::api::kafka_cluster::PodTemplate;
use crate::api::kafka_cluster::resources;
use crate::kubernetes::quantity;
use freehold_kafka::config_values;
use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

// What holds for each volume.
const KEEPS_ATTRIBUTES: &str =
    "!has(oldSelf.volumeAttributesClassName) || has(self.volumeAttributesClassName)";
const KEEPS_ATTRIBUTES_WHY: &str =
    "volumeAttributesClassName: volumes keep the last one; name another instead of none";
const KEEPS_CLASS: &str = "has(self.storageClassName) == has(oldSelf.storageClassName) && (!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)";

/// A group of equal nodes, spread over zones.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.replicas % size(self.zones) == 0")
        .message("replicas: not divisible by the number of zones, so that zones would be of unequal size; take a multiple of it"),
    validation = Rule::new("self.roles == oldSelf.roles")
        .message("roles: immutable; make another pool with the roles that you want"),
    validation = Rule::new("!has(self.storage.volumes) || size(self.storage.volumes) == 0 || 'broker' in self.roles")
        .message("storage.volumes: controllers keep the metadata on one volume; further ones are for brokers"),
    validation = Rule::new("!has(self.autoscaling) || !('controller' in self.roles)")
        .message("autoscaling: controllers do not scale by load; give brokers a pool of their own"),
    validation = Rule::new("!has(self.autoscaling) || (self.autoscaling.maxReplicas >= self.replicas && self.autoscaling.maxReplicas % size(self.zones) == 0)")
        .message("autoscaling.maxReplicas: at least replicas, and a multiple of the number of zones"),
)]
pub struct NodePool {
    /// Part of its pods' names.
    #[schemars(regex(pattern = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"), length(max = 20))]
    pub name: String,
    /// What its nodes do. Both: combined nodes, for small clusters.
    #[x_kube(merge_strategy = ListMerge::Set)]
    #[schemars(length(min = 1, max = 2))]
    pub roles: Vec<Role>,
    /// Nodes in all zones together. Fewer: partitions are moved away first, and controllers leave
    /// the quorum, without downtime. 0: the pool may be removed after.
    #[schemars(range(max = 300))]
    pub replicas: u32,
    /// More brokers under load, down to `replicas` again without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<Autoscaling>,
    /// Zones (values of the nodes' label topology.kubernetes.io/zone). One more: its nodes join.
    /// One less: its nodes are emptied first, and leave.
    #[x_kube(merge_strategy = ListMerge::Set)]
    #[schemars(length(min = 1, max = 10), inner(length(min = 1, max = 63)))]
    pub zones: Vec<String>,
    /// Volumes of each node.
    pub storage: Storage,
    /// Compute resources of a node. Default: 1Gi of memory, no CPU limit. The JVM is sized from the
    /// memory limit, or from the request where there is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "resources::schema")]
    pub resources: Option<ResourceRequirements>,
    /// JVM settings.
    #[serde(default)]
    pub jvm: Jvm,
    /// This pool's own broker configs, over the cluster's.
    #[serde(
        default,
        deserialize_with = "config_values::deserialize",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    #[schemars(schema_with = "config_values::schema")]
    pub config: BTreeMap<String, String>,
    /// What else its pods need, over the cluster's `podTemplate`: maps and lists are merged by
    /// their keys.
    #[serde(default)]
    pub pod_template: PodTemplate,
}

impl NodePool {
    /// Nodes in each of its zones.
    pub fn per_zone(&self) -> i32 {
        let zones = u32::try_from(self.zones.len()).unwrap_or(u32::MAX).max(1);
        i32::try_from(self.replicas / zones).unwrap_or(i32::MAX)
    }
}

/// When a pool gets more brokers and gives them back: one step is a broker in each zone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.cpuPercent) || has(self.bytesPerSecond) || has(self.diskPercent)")
    .message("autoscaling: give at least one of cpuPercent, bytesPerSecond, diskPercent"))]
pub struct Autoscaling {
    /// The most nodes in all zones together.
    #[schemars(range(max = 300))]
    pub max_replicas: u32,
    /// How much of their CPUs the pool's brokers are to use, on average.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 95))]
    pub cpu_percent: Option<u8>,
    /// What a broker is to send and receive a second, on average, clients and other brokers
    /// together, for example 100Mi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "quantity::schema")]
    pub bytes_per_second: Option<Quantity>,
    /// How much of their volumes is to be in use, on average.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 95))]
    pub disk_percent: Option<u8>,
    /// Minutes after a change, and after the cluster became Ready, in which nothing is changed by
    /// load.
    #[serde(default = "Autoscaling::default_cooldown_minutes")]
    #[schemars(range(max = 43200))]
    pub cooldown_minutes: u32,
}

impl Autoscaling {
    fn default_cooldown_minutes() -> u32 {
        30
    }
}

/// A KRaft role (`process.roles`).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Takes part in the metadata quorum.
    Controller,
    /// Holds partitions and serves clients.
    Broker,
}

/// A node's volumes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new(KEEPS_ATTRIBUTES).message(KEEPS_ATTRIBUTES_WHY),
    validation = Rule::new(KEEPS_CLASS).message("storageClassName: immutable, volumes cannot change their class; make another pool"),
)]
pub struct Storage {
    /// Size of the volume, for example 500Gi. A larger one: volumes grow while they are used.
    #[schemars(with = "String", regex(pattern = quantity::PATTERN), length(max = quantity::CHARS_MAX))]
    pub size: Quantity,
    /// StorageClass; default: the cluster's default one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_class_name: Option<String>,
    /// VolumeAttributesClass: performance that changes while the volume is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub volume_attributes_class_name: Option<String>,
    /// Grows a volume before it is full. Its StorageClass must allow expansion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_grow: Option<AutoGrow>,
    /// Further volumes of each broker (JBOD, KIP-858): its replicas are spread over all of them.
    /// One that is added is filled; one that is taken away is emptied first (Kafka 4.3 and newer).
    /// Brokers restart for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    #[schemars(length(max = 8))]
    pub volumes: Vec<DataVolume>,
    /// What becomes of the volumes of nodes that the pool has given up, and of those that are taken
    /// out of `volumes`. Nothing is on them by then.
    #[serde(default, skip_serializing_if = "WhenScaled::is_retain")]
    pub when_scaled: WhenScaled,
}

/// What becomes of the volumes of nodes that have left
/// (`persistentVolumeClaimRetentionPolicy.whenScaled` of a StatefulSet).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum WhenScaled {
    /// They stay.
    #[default]
    Retain,
    /// They are deleted once Kafka knows their node no more, or the node restarted without them.
    Delete,
}

impl WhenScaled {
    fn is_retain(&self) -> bool {
        *self == Self::Retain
    }
}

impl Storage {
    /// Whether a node is to have the volume of this name; the first one's is empty.
    pub fn has(&self, volume: &str) -> bool {
        volume.is_empty() || self.volumes.iter().any(|one| one.name == volume)
    }

    /// Every volume of a node, the first one, which has no name, before the others by theirs.
    pub fn all(&self) -> Vec<DataVolume> {
        let first = DataVolume {
            name: String::new(),
            size: self.size.clone(),
            storage_class_name: self.storage_class_name.clone(),
            volume_attributes_class_name: self.volume_attributes_class_name.clone(),
            auto_grow: self.auto_grow.clone(),
        };
        let mut all: Vec<_> = std::iter::once(first)
            .chain(self.volumes.iter().cloned())
            .collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }
}

/// A further volume of each broker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new(KEEPS_ATTRIBUTES).message(KEEPS_ATTRIBUTES_WHY),
    validation = Rule::new(KEEPS_CLASS)
        .message("storageClassName: immutable, volumes cannot change their class; take this volume away and add one of another name"),
)]
pub struct DataVolume {
    /// Part of its claims' names.
    #[schemars(regex(pattern = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"), length(max = 12))]
    pub name: String,
    /// Size of the volume, for example 500Gi. A larger one: volumes grow while they are used.
    #[schemars(with = "String", regex(pattern = quantity::PATTERN), length(max = quantity::CHARS_MAX))]
    pub size: Quantity,
    /// StorageClass; default: the cluster's default one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub storage_class_name: Option<String>,
    /// VolumeAttributesClass: performance that changes while the volume is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub volume_attributes_class_name: Option<String>,
    /// Grows a volume before it is full. Its StorageClass must allow expansion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_grow: Option<AutoGrow>,
}

/// When a volume grows by itself, by a quarter each time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AutoGrow {
    /// Percent of the volume that are in use, as the broker says.
    #[serde(default = "AutoGrow::default_above_percent")]
    #[schemars(range(min = 10, max = 95))]
    pub above_percent: u8,
    /// The largest that a volume becomes.
    #[schemars(with = "String", regex(pattern = quantity::PATTERN), length(max = quantity::CHARS_MAX))]
    pub max_size: Quantity,
}

impl AutoGrow {
    fn default_above_percent() -> u8 {
        80
    }
}

/// JVM settings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Jvm {
    /// Size of the heap; default: half of the memory limit, or of the request where there is no
    /// limit, at most 6Gi (the rest is page cache).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "quantity::schema")]
    pub heap: Option<Quantity>,
    /// Options that tune the JVM, of those in docs/reference/jvm-options.md. A change restarts the
    /// pool's nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 256)))]
    pub options: Vec<String>,
}
