//! Reconciles a KafkaCluster that is being deleted, until its finalizer can be removed.

use crate::api::conditions::{Reason, State};
use crate::api::kafka_cluster::{DeletionPolicy, KafkaCluster, KafkaClusterStatus};
use crate::api::reference::ClusterKey;
use crate::kinds::attempts::Attempts;
use crate::kinds::error::Error;
use crate::kinds::kafka_cluster::context::Context;
use crate::kinds::kafka_cluster::intervals::{REQUEUE_READY, REQUEUE_SOON};
use crate::kinds::kafka_cluster::{cleanup, status};
use crate::kubernetes;
use crate::runtime::kind::{Failure, Outcome, Requeue};
use crate::runtime::namespaces::Life;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// Deletes a cluster. It needs no valid spec, and treats objects that are already gone as deleted.
pub async fn end(
    object: &KafkaCluster,
    context: &Context,
    now: &Time,
) -> Outcome<KafkaClusterStatus> {
    let key = ClusterKey::of(object);
    context.clusters.remove(&key);
    context
        .clients
        .forget(object.metadata.uid.as_deref().unwrap_or_default());
    context
        .retained_secrets
        .forget(object.metadata.uid.as_deref().unwrap_or_default());
    context.attempts.put(object, Attempts::default());
    if !kubernetes::has_finalizer(object) {
        return gone();
    }
    let keep = object.spec.deletion_policy == DeletionPolicy::Retain;
    // If the namespace is being deleted, Kubernetes deletes all objects in it, including volumes,
    // and the operator's Role may already be gone. So only the finalizer is removed.
    let life = context
        .namespaces
        .life(&context.client, &key.namespace)
        .await
        .unwrap_or(Life::Unknown);
    let step = match life {
        Life::Ending => kubernetes::set_finalizer(&context.client, object, false)
            .await
            .map(|_| None),
        _ => cleanup::step(&context.client, object, &key, keep, now.0).await,
    };
    match step {
        Ok(None) => gone(),
        Ok(Some(waiting)) => {
            let state = State::reconciling(Reason::Deleting, format!("waiting for {waiting}"));
            let status = KafkaClusterStatus {
                observed_generation: object.metadata.generation,
                reason: format!("Deleting: waiting for {waiting}"),
                ..object.status.clone().unwrap_or_default()
            };
            Outcome {
                status: Some(status::with_conditions(status, object, &state, now)),
                state,
                notices: Vec::new(),
                requeue: Requeue::After(REQUEUE_SOON),
            }
        }
        Err(error) => {
            let error = Error::Kube(error);
            let state = State::reconciling(error.reason(), error.words());
            let (status, _) = status::failed(object, &error);
            Outcome {
                status: Some(status::with_conditions(status, object, &state, now)),
                state,
                notices: Vec::new(),
                requeue: Requeue::Backoff,
            }
        }
    }
}

/// The outcome when nothing of the cluster has to be deleted any more.
fn gone() -> Outcome<KafkaClusterStatus> {
    Outcome {
        status: None,
        state: State::Ready,
        notices: Vec::new(),
        requeue: Requeue::After(REQUEUE_READY),
    }
}
