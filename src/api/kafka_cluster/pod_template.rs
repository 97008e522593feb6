//! What pods need beside what Freehold gives them: of a whole cluster, and of one pool over it.

use crate::api::kafka_cluster::SecretRef;
use k8s_openapi::api::core::v1::{
    Affinity, CSIVolumeSource, ConfigMapVolumeSource, EmptyDirVolumeSource, EnvVar,
    PersistentVolumeClaimVolumeSource, ProjectedVolumeSource, SecretVolumeSource, Toleration,
    TopologySpreadConstraint, VolumeMount,
};
use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What pods need beside what Freehold gives them. A change restarts nodes, one batch after the
/// other.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = bounded)]
pub struct PodTemplate {
    /// Labels. Those of Freehold and of StatefulSets are refused.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Tolerations of nodes' taints. Those of the cluster and of the pool add up.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// Labels that a node must have, beside its zone.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// PriorityClass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority_class_name: Option<String>,
    /// Affinity to nodes, and to or against other pods, beside the zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// How pods spread. Freehold's own, over `kubernetes.io/hostname` as far as there are machines,
    /// gives way to one of the same topologyKey. Without a labelSelector all pods of the cluster
    /// count.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub topology_spread_constraints: Vec<TopologySpreadConstraint>,
    /// Secrets by which the image is pulled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub image_pull_secrets: Vec<SecretRef>,
    /// The ids that Kafka runs as. Whatever they are, pods pass Pod Security `restricted`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub security_context: Option<PodSecurity>,
    /// Environment of Kafka's container. `@NAME@` in a value of `config` stands for the variable
    /// NAME.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub env: Vec<EnvVar>,
    /// Further volumes, for what plugins need: records are on those of `storage`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub volumes: Vec<PodVolume>,
    /// Where those are mounted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["mountPath"]))]
    pub volume_mounts: Vec<VolumeMount>,
    /// Seconds that a node has to give its partitions away and to close its logs before it is
    /// killed. Default: 120.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 30, max = 3600))]
    pub termination_grace_period_seconds: Option<u32>,
    /// Seconds that a node has to start before it is started anew: after a crash it reads all its
    /// logs. Default: 3600.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 60, max = 86400))]
    pub start_limit_seconds: Option<u32>,
    /// The cluster's one ServiceAccount, for the workload identity of a cloud; not of a pool. A
    /// change of it restarts nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account: Option<ServiceAccountTemplate>,
}

impl PodTemplate {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The cluster's ServiceAccount.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceAccountTemplate {
    /// Annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// The ids that Kafka runs as.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodSecurity {
    /// Fixed: 10001, or what the fields beside this one say. Platform: none is set, the platform
    /// chooses, as OpenShift does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ids: Option<PodIds>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2147483647))]
    pub run_as_user: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 2147483647))]
    pub run_as_group: Option<i64>,
    /// Owner of the volumes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 2147483647))]
    pub fs_group: Option<i64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(inner(range(min = 0, max = 2147483647)))]
    pub supplemental_groups: Vec<i64>,
}

/// Who chooses the ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PodIds {
    Fixed,
    Platform,
}

/// A further volume: one of its sources, those that Pod Security `restricted` allows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodVolume {
    #[schemars(regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"), length(max = 63))]
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map: Option<ConfigMapVolumeSource>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretVolumeSource>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub empty_dir: Option<EmptyDirVolumeSource>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistent_volume_claim: Option<PersistentVolumeClaimVolumeSource>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub projected: Option<ProjectedVolumeSource>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub csi: Option<CSIVolumeSource>,
}

/// What lists, maps and texts hold at most where Kubernetes says nothing: no object may be so large
/// that it holds others up.
const ITEMS_MAX: usize = 32;
const ENTRIES_MAX: usize = 64;
const CHARS_MAX: usize = 4096;

/// Bounds everything in a schema that has no bound, and leaves out the descriptions of Kubernetes'
/// own types, which are long.
fn bounded(schema: &mut Schema) {
    let Some(fields) = schema.get_mut("properties").and_then(Value::as_object_mut) else {
        return;
    };
    for field in fields.values_mut() {
        let description = field.get("description").cloned();
        bound(field);
        if let (Some(description), Some(field)) = (description, field.as_object_mut()) {
            field.insert("description".into(), description);
        }
    }
}

fn bound(schema: &mut Value) {
    let Some(fields) = schema.as_object_mut() else {
        return;
    };
    fields.remove("description");
    let is = |kind: &str| match fields.get("type") {
        Some(Value::String(one)) => one == kind,
        Some(Value::Array(all)) => all.iter().any(|one| one == kind),
        _ => false,
    };
    let (array, text, object) = (is("array"), is("string"), is("object"));
    let map = object && fields.contains_key("additionalProperties");
    for (is, key, most) in [
        (array, "maxItems", ITEMS_MAX),
        (text, "maxLength", CHARS_MAX),
        (map, "maxProperties", ENTRIES_MAX),
    ] {
        if is {
            fields.entry(key).or_insert_with(|| json!(most));
        }
    }
    for key in ["items", "additionalProperties"] {
        fields.get_mut(key).into_iter().for_each(bound);
    }
    if let Some(properties) = fields.get_mut("properties").and_then(Value::as_object_mut) {
        properties.values_mut().for_each(bound);
    }
    for key in ["anyOf", "allOf", "oneOf"] {
        fields
            .get_mut(key)
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
            .for_each(|one| {
                if let Some(one) = one.as_object_mut() {
                    one.remove("description");
                }
            });
    }
}
