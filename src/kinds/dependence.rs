//! How a Topic or a User finds its cluster.

use super::access;
use super::drift;
use super::kafka_cluster::api::{AccessFrom, KafkaCluster};
use super::look::{LOOK_AGAIN, Look};
use super::reference::ClusterKey;
use crate::conditions::{Reason, State};
use crate::kube_io::{self, KubeResult};
use crate::runtime::clusters::Cluster;
use crate::runtime::context::Context;
use crate::runtime::kind::{Kind, Requeue};
use kube::Resource;
use std::sync::Arc;

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
    /// What there is to say of an object that depends so. One that was Ready stays so while its cluster does not answer, as
    /// after the operator's own restart: nothing speaks against it, so nothing is written, and the cluster's answer wakes it.
    pub fn look<K: Kind, L: Default>(&self, object: &K::Object, context: &Context) -> Look<L> {
        let conditions = K::status(object).map(K::conditions).unwrap_or_default();
        let stays = matches!(self, Self::NotReady(_)) && drift::was_settled(conditions, object.meta().generation);
        let requeue = if stays && context.kafka_clusters.are_ready() { Requeue::Woken } else { Requeue::After(LOOK_AGAIN) };
        let state = if stays { State::Ready } else { self.state() };
        Look { learned: L::default(), state, notices: Vec::new(), requeue }
    }

    /// Whether an object that goes may leave what it has in Kafka: its cluster is gone, or never let it in. A list may be old,
    /// so that the API server is asked.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn strands_nothing(&self, context: &Context) -> KubeResult<bool> {
        match self {
            Self::NotReady(_) => Ok(false),
            Self::Missing(key) if context.settings.watches(&key.namespace) => {
                Ok(kube_io::get(&context.client, &key.namespace, &kube_io::resource::<KafkaCluster>(), &key.name).await?.is_none())
            }
            Self::Missing(_) | Self::Forbidden { .. } => Ok(true),
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

/// The cluster, for an object of `namespace`. Asks nobody but for a namespace's labels, and those are kept.
pub async fn cluster(context: &Context, key: &ClusterKey, namespace: &str) -> KubeResult<Result<Cluster, Dependence>> {
    let Some(cluster) = context.clusters.get(key) else {
        // Where the operator may not look, there is no cluster of ours.
        let all = &context.kafka_clusters;
        let known = context.settings.watches(&key.namespace) && (!all.are_ready() || all.get(&key.namespace, &key.name).is_some());
        return Ok(Err(if known { Dependence::NotReady(key.clone()) } else { Dependence::Missing(key.clone()) }));
    };
    let access = &cluster.facts.access.namespaces;
    let labels = if access.from == AccessFrom::Selector && key.namespace != namespace {
        context.namespaces.labels(&context.client, namespace).await?
    } else {
        Arc::default()
    };
    if !access::allowed(access, &key.namespace, namespace, &labels) {
        return Ok(Err(Dependence::Forbidden { cluster: key.clone(), namespace: namespace.to_owned() }));
    }
    if !cluster.mirror.is_loaded() {
        return Ok(Err(Dependence::NotReady(key.clone())));
    }
    Ok(Ok(cluster))
}
