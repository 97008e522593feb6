//! How a Topic or a User names its cluster. Pure.

use kube::ResourceExt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A KafkaCluster, in the object's own namespace unless said otherwise.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "camelCase")]
pub struct ClusterRef {
    /// Name of the KafkaCluster.
    #[schemars(length(min = 1, max = 40))]
    pub name: String,
    /// Namespace of the KafkaCluster; default: this object's. The cluster's `access.namespaces`
    /// must allow it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
}

impl ClusterRef {
    /// The full name of the cluster, seen from an object in `namespace`.
    pub fn key(&self, namespace: &str) -> ClusterKey {
        ClusterKey {
            namespace: self
                .namespace
                .clone()
                .unwrap_or_else(|| namespace.to_owned()),
            name: self.name.clone(),
        }
    }
}

/// Namespace and name of a KafkaCluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClusterKey {
    pub namespace: String,
    pub name: String,
}

impl ClusterKey {
    pub fn of(cluster: &impl ResourceExt) -> Self {
        Self {
            namespace: cluster.namespace().unwrap_or_default(),
            name: cluster.name_any(),
        }
    }
}

/// `NAMESPACE/NAME`, as people write it.
impl std::str::FromStr for ClusterKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (namespace, name) = text
            .split_once('/')
            .ok_or_else(|| format!("{text:?} is not NAMESPACE/NAME"))?;
        Ok(Self {
            namespace: namespace.into(),
            name: name.into(),
        })
    }
}

impl std::fmt::Display for ClusterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
