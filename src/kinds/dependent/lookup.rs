//! Finds the cluster that an object refers to, and decides whether the object may use it.

use crate::api::conditions::{Reason, State};
use crate::api::kafka_cluster::KafkaCluster;
use crate::api::reference::ClusterKey;
use crate::clusters::Cluster;
use crate::kinds::context::Context;
use crate::kinds::dependent::outcome::{REQUEUE_LATER, Reconciled};
use crate::kinds::drift;
use crate::kubernetes;
use crate::kubernetes::KubeResult;
use crate::runtime::kind::{Kind, Requeue};
use crate::runtime::namespaces::Life;
use crate::tenancy::admission::is_admitted;
use kube::Resource;

/// Why an object's cluster cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dependence {
    /// It exists but does not answer yet.
    NotReady(ClusterKey),
    /// It is paused by its spec: nothing may be changed in it.
    Paused(ClusterKey),
    /// There is no such KafkaCluster.
    Missing(ClusterKey),
    /// It does not allow this namespace.
    Forbidden {
        cluster: ClusterKey,
        namespace: String,
    },
}

impl Dependence {
    /// The result for an object whose cluster cannot be used. An object that was Ready stays Ready
    /// while its cluster does not answer (as after a restart of the operator) or is Paused: nothing
    /// is known to be wrong, so nothing is written, and an event of the cluster requeues the
    /// object. One that was not Ready goes on to say why while its cluster does not answer.
    pub fn reconciled<K: Kind, L: Default>(
        &self,
        object: &K::Object,
        context: &Context,
    ) -> Reconciled<L> {
        let conditions = K::status(object).map(K::conditions).unwrap_or_default();
        let stays = matches!(self, Self::NotReady(_) | Self::Paused(_))
            && drift::was_settled(conditions, object.meta().generation);
        let requeue = if stays && context.kafka_clusters.are_ready() {
            Requeue::OnChange
        } else {
            Requeue::After(REQUEUE_LATER)
        };
        let told = State::told(conditions, object.meta().generation);
        let state = match told {
            _ if stays => State::Ready,
            Some(told) if matches!(self, Self::NotReady(_)) && may_still_be(&told) => told,
            _ => self.state(),
        };
        Reconciled {
            learned: L::default(),
            state,
            notices: Vec::new(),
            requeue,
        }
    }

    /// True if an object may be deleted without a clean-up in Kafka because its cluster is gone. If
    /// the cluster comes back, the clean-up happens then ([`crate::kinds::dependent::clean_up`]).
    /// The cache may be stale, so the API server is asked.
    ///
    /// # Errors
    /// The error of the API server.
    pub async fn strands_nothing(&self, context: &Context) -> KubeResult<bool> {
        match self {
            Self::NotReady(_) | Self::Paused(_) => Ok(false),
            Self::Missing(key) if context.settings.serves_clusters(&key.namespace) => {
                match kubernetes::get(
                    &context.client,
                    &key.namespace,
                    &kubernetes::resource::<KafkaCluster>(),
                    &key.name,
                )
                .await
                {
                    // A refusal may mean that the operator's right to read was deleted together
                    // with the namespace.
                    Err(error) if error.is_forbidden() => Ok(context
                        .namespaces
                        .life(&context.client, &key.namespace)
                        .await?
                        == Life::Gone),
                    found => Ok(found?.is_none()),
                }
            }
            Self::Missing(_) | Self::Forbidden { .. } => Ok(true),
        }
    }

    /// The state of an object whose cluster cannot be used.
    pub fn state(&self) -> State {
        match self {
            Self::NotReady(cluster) => State::reconciling(
                Reason::WaitingForCluster,
                format!("waiting for KafkaCluster {cluster} to answer"),
            ),
            Self::Paused(cluster) => State::reconciling(
                Reason::Paused,
                format!(
                    "KafkaCluster {cluster} is Paused (spec.state): nothing is changed in it until it is Running again"
                ),
            ),
            Self::Missing(cluster) => State::stalled(
                Reason::ClusterNotFound,
                format!(
                    "spec.clusterRef: there is no KafkaCluster {cluster}; create it or correct the name"
                ),
            ),
            Self::Forbidden { cluster, namespace } => State::stalled(
                Reason::NamespaceNotAllowed,
                format!(
                    "spec.clusterRef: KafkaCluster {cluster} does not allow namespace {namespace}; its spec.access.namespaces must"
                ),
            ),
        }
    }
}

/// Whether what an object said before can be so while its cluster does not answer.
fn may_still_be(told: &State) -> bool {
    !matches!(told.words().0, Reason::Ready | Reason::ClusterNotFound)
}

/// The cluster for an object of `namespace`. It comes from memory; only labels of namespaces may be
/// read from the API server, and they are cached.
///
/// # Errors
/// Fails if the namespace's labels cannot be read.
pub async fn cluster(
    context: &Context,
    key: &ClusterKey,
    namespace: &str,
) -> KubeResult<Result<Cluster, Dependence>> {
    let Some(cluster) = context
        .clusters
        .get(key)
        .filter(|cluster| cluster.mirror.is_loaded())
    else {
        // In a namespace that the operator does not serve there is no cluster of ours.
        let all = &context.kafka_clusters;
        let answers = context.clusters.get(key).is_some();
        let may_be = || !all.are_ready() || all.get(&key.namespace, &key.name).is_some();
        let known = answers || (context.settings.serves_clusters(&key.namespace) && may_be());
        return Ok(Err(if known {
            Dependence::NotReady(key.clone())
        } else {
            Dependence::Missing(key.clone())
        }));
    };
    if !is_admitted(context, &cluster, key, namespace).await? {
        return Ok(Err(Dependence::Forbidden {
            cluster: key.clone(),
            namespace: namespace.to_owned(),
        }));
    }
    if cluster.facts.paused {
        return Ok(Err(Dependence::Paused(key.clone())));
    }
    Ok(Ok(cluster))
}

/// The cluster that does not admit an object, if it is connected. A Paused cluster counts too,
/// because lost access is revoked at once.
pub fn cluster_that_refuses(context: &Context, dependence: &Dependence) -> Option<Cluster> {
    let Dependence::Forbidden { cluster, .. } = dependence else {
        return None;
    };
    context
        .clusters
        .get(cluster)
        .filter(|cluster| cluster.mirror.is_loaded())
}
