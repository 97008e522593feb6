//! How a Topic or a User finds its cluster, and whether another object manages the same thing.

use super::access;
use super::kafka_cluster::api::{AccessFrom, KafkaCluster};
use super::reference::ClusterKey;
use crate::conditions::{Reason, State, is_ready};
use crate::kafka_admin::Admin;
use crate::kube_io::{KubeError, KubeResult};
use crate::runtime::clusters::ClusterFacts;
use crate::runtime::context::Context;
use crate::runtime::kind::Kind;
use k8s_openapi::api::core::v1::Namespace;
use kube::core::PartialObjectMeta;
use kube::{Api, Resource, ResourceExt};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A cluster that may be asked.
#[derive(Clone)]
pub struct Asked {
    pub facts: Arc<ClusterFacts>,
    pub admin: Arc<dyn Admin>,
}

/// Why it may not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dependence {
    /// It exists and does not answer yet.
    NotReady(ClusterKey),
    /// There is no such object.
    Missing(ClusterKey),
    /// It does not allow this namespace.
    Forbidden { cluster: ClusterKey, namespace: String },
}

impl Dependence {
    /// The state of an object that depends so. One that was Ready stays so while its cluster does not answer, as after
    /// the operator's own restart: nothing speaks against it, so nothing is written.
    pub fn state_of<K: Kind>(&self, object: &K::Object) -> State {
        let conditions = K::status(object).map(K::conditions).unwrap_or_default();
        let current = conditions.iter().all(|condition| condition.observed_generation == object.meta().generation);
        match self {
            Self::NotReady(_) if current && is_ready(conditions) => State::Ready,
            _ => self.state(),
        }
    }

    pub fn state(&self) -> State {
        match self {
            Self::NotReady(cluster) => {
                State::reconciling(Reason::WaitingForCluster, format!("waiting for KafkaCluster {cluster} to answer"))
            }
            Self::Missing(cluster) => State::stalled(
                Reason::ClusterNotFound,
                format!("spec.clusterRef: there is no KafkaCluster {cluster}; create it or correct the name"),
            ),
            Self::Forbidden { cluster, namespace } => State::stalled(
                Reason::NamespaceNotAllowed,
                format!("spec.clusterRef: KafkaCluster {cluster} does not allow namespace {namespace}; its spec.access.namespaces must"),
            ),
        }
    }
}

/// The cluster, for an object of `namespace`.
pub async fn cluster(context: &Context, key: &ClusterKey, namespace: &str) -> KubeResult<Result<Asked, Dependence>> {
    let Some(cluster) = context.clusters.get(key) else {
        let api: Api<KafkaCluster> = Api::namespaced(context.client.clone(), &key.namespace);
        let found = match api.get_opt(&key.name).await {
            // Where the operator may not look, there is no cluster of ours.
            Err(kube::Error::Api(answer)) if answer.code == 403 => None,
            other => other.map_err(KubeError::request("get", "KafkaCluster", &key.name))?,
        };
        return Ok(Err(if found.is_some() { Dependence::NotReady(key.clone()) } else { Dependence::Missing(key.clone()) }));
    };
    let labels =
        if cluster.facts.access.from == AccessFrom::Selector { namespace_labels(context, namespace).await? } else { BTreeMap::new() };
    if !access::allowed(&cluster.facts.access, &key.namespace, namespace, &labels) {
        return Ok(Err(Dependence::Forbidden { cluster: key.clone(), namespace: namespace.to_owned() }));
    }
    Ok(Ok(Asked { facts: cluster.facts, admin: cluster.admin }))
}

/// A namespace's labels; none where the operator has no right to read them (a namespaced install).
async fn namespace_labels(context: &Context, namespace: &str) -> KubeResult<BTreeMap<String, String>> {
    let api: Api<PartialObjectMeta<Namespace>> = Api::all(context.client.clone());
    match api.get_metadata(namespace).await {
        Ok(found) => Ok(found.metadata.labels.unwrap_or_default()),
        Err(kube::Error::Api(answer)) if answer.code == 403 => Ok(BTreeMap::new()),
        Err(error) => Err(KubeError::request("get", "Namespace", namespace)(error)),
    }
}

/// The oldest other object that manages the same, where it is older than this one: `namespace/name`.
pub fn older<K: Resource<DynamicType = ()>>(all: &[Arc<K>], object: &K, same: impl Fn(&K) -> bool) -> Option<String> {
    let age = |object: &K| (object.creation_timestamp().map(|time| time.0), object.namespace(), object.name_any());
    let others = all.iter().filter(|other| other.meta().uid != object.meta().uid && same(other) && age(other) < age(object));
    others.min_by_key(|other| age(other)).map(|other| format!("{}/{}", other.namespace().unwrap_or_default(), other.name_any()))
}
