//! Deletes a cluster in order: first brokers, then controllers, then volumes, Secrets and identity
//! if the deletion policy is Delete. Each call does what is possible at that time.

use crate::api::kafka_cluster::KafkaCluster;
use crate::api::reference::ClusterKey;
use crate::kinds::kafka_cluster::disruption::WaitingOn;
use crate::kinds::kafka_cluster::observed::{StatefulSetFacts, pod_facts};
use crate::kinds::kafka_cluster::readiness;
use crate::kubernetes;
use crate::kubernetes::{KubeError, KubeResult, Live, resource};
use crate::kubernetes::{labels, names};
use crate::words;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::ApiResource;

/// Does one step of the deletion. Returns `None` when all is done and the finalizer is removed, and
/// otherwise what the deletion waits for.
///
/// # Errors
/// The error of the API server; the finalizer then stays.
pub async fn step(
    client: &Client,
    object: &KafkaCluster,
    key: &ClusterKey,
    keep: bool,
    now: Timestamp,
) -> KubeResult<Option<String>> {
    let selector = format!("{},{}={}", labels::SELECTOR, labels::CLUSTER, key.name);
    let list =
        async |kind: &ApiResource| kubernetes::list(client, &key.namespace, kind, &selector).await;
    // Brokers first: a controlled shutdown needs controllers that still run.
    let sets = list(&resource::<StatefulSet>()).await?;
    let sets: Vec<_> = sets.iter().map(StatefulSetFacts::of).collect();
    let pods = list(&resource::<Pod>()).await?;
    for brokers in [true, false] {
        for set in sets
            .iter()
            .filter(|set| set.broker == brokers && !set.live.is_deleting())
        {
            kubernetes::delete(client, &key.namespace, &set.live).await?;
        }
        let left: Vec<_> = pods
            .iter()
            .filter(|pod| (pod.label(labels::BROKER) == Some("true")) == brokers)
            .collect();
        if !left.is_empty() || sets.iter().any(|set| set.broker == brokers) {
            return Ok(Some(to_end(brokers, &left, now)));
        }
    }
    if !keep {
        let is_own = |found: &Live| !is_of_another(object, found);
        let list = async |kind: &ApiResource| {
            let all = list(kind).await?;
            Ok::<Vec<Live>, KubeError>(all.into_iter().filter(is_own).collect())
        };
        let volumes = list(&resource::<PersistentVolumeClaim>()).await?;
        for volume in volumes.iter().filter(|volume| !volume.is_deleting()) {
            kubernetes::delete(client, &key.namespace, volume).await?;
        }
        if !volumes.is_empty() {
            return Ok(Some(format!("{} volumes to be deleted", volumes.len())));
        }
        for secret in list(&resource::<Secret>()).await? {
            kubernetes::delete(client, &key.namespace, &secret).await?;
        }
        let identity = names::identity(&key.name);
        for map in list(&resource::<ConfigMap>())
            .await?
            .iter()
            .filter(|map| map.name() == identity)
        {
            kubernetes::delete(client, &key.namespace, map).await?;
        }
    }
    kubernetes::set_finalizer(client, object, false).await?;
    Ok(None)
}

/// True if a volume, a Secret or an identity is of another cluster: an earlier one of this name,
/// which was deleted and whose volumes stay. A KafkaCluster takes them over when it is served for
/// the first time; its status then says so, and no manifest can contain a status. One that never
/// was, because its spec is not valid, owns only what was created after it.
fn is_of_another(object: &KafkaCluster, found: &Live) -> bool {
    let status = object.status.as_ref();
    let is_served = status.is_some_and(|status| status.kafka_version.is_some());
    let created = object.metadata.creation_timestamp.as_ref();
    let is_older = found.created() < created.map(|time| time.0);
    !is_served && found.created().is_some() && is_older
}

/// The number of pods that are waited for, and the Kubernetes nodes that do not say that theirs have
/// ended, with the way out.
fn to_end(brokers: bool, left: &[&Live], now: Timestamp) -> String {
    let what = if brokers { "brokers" } else { "controllers" };
    let silent: Vec<String> = left
        .iter()
        .filter_map(|pod| Some(readiness::ending(&pod_facts(pod)?, now, false)))
        .filter(|waiting| matches!(waiting, WaitingOn::Host { .. }))
        .map(|waiting| waiting.to_string())
        .collect();
    let count = left.len();
    if silent.is_empty() {
        return format!("{count} {what} to end");
    }
    let silent = words::listed(silent.into_iter());
    format!("{count} {what} to end: {silent}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_machine_that_does_not_say_that_its_pod_has_ended_is_named_with_the_way_out() {
        let pod = |name: &str, ends_by: &str| Live {
            resource: resource::<Pod>(),
            value: json!({"metadata": {"name": name, "deletionTimestamp": ends_by}, "spec": {"nodeName": "host-7"}}),
        };
        let (late, ends) = (
            pod("c-b-a-0", "2026-06-01T00:00:00Z"),
            pod("c-b-a-1", "2026-06-01T00:00:55Z"),
        );
        let now = "2026-06-01T00:01:00Z".parse().unwrap();
        assert_eq!(to_end(false, &[&ends], now), "1 controllers to end");
        assert_eq!(
            to_end(true, &[&late, &ends], now),
            "2 brokers to end: node host-7 to say that pod c-b-a-0 has ended; if that node is gone for good, delete it, or taint it with \
             node.kubernetes.io/out-of-service=nodeshutdown:NoExecute"
        );
    }
}
