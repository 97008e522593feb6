//! Takes a cluster down in order: brokers, controllers, then what holds data where the policy says Delete. Each call
//! does what can be done now.

use super::api::KafkaCluster;
use crate::kinds::reference::ClusterKey;
use crate::kube_io::{self, KubeResult, Live, resource};
use crate::{labels, names};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret};
use kube::Client;
use kube::api::ApiResource;

/// One step of the end. `None`: all is done and the finalizer is gone. `Some`: what is waited for.
///
/// # Errors
/// What the API server says; the finalizer stays then.
pub async fn step(client: &Client, object: &KafkaCluster, key: &ClusterKey, keep: bool) -> KubeResult<Option<String>> {
    let selector = format!("{},{}={}", labels::SELECTOR, labels::CLUSTER, key.name);
    let list = async |kind: &ApiResource| kube_io::list(client, &key.namespace, kind, &selector).await;
    // Brokers first: they hand over and end only while controllers are there.
    let sets = list(&resource::<StatefulSet>()).await?;
    let pods = list(&resource::<Pod>()).await?;
    let is_broker = |live: &Live| live.value["spec"]["template"]["metadata"]["labels"][labels::BROKER] == "true";
    for brokers in [true, false] {
        for set in sets.iter().filter(|set| is_broker(set) == brokers && !set.is_deleting()) {
            kube_io::delete(client, &key.namespace, set).await?;
        }
        let left: Vec<_> = pods.iter().filter(|pod| (pod.label(labels::BROKER) == Some("true")) == brokers).map(Live::name).collect();
        if !left.is_empty() || sets.iter().any(|set| is_broker(set) == brokers) {
            return Ok(Some(format!("{} {} to end", left.len(), if brokers { "brokers" } else { "controllers" })));
        }
    }
    if !keep {
        let volumes = list(&resource::<PersistentVolumeClaim>()).await?;
        for volume in volumes.iter().filter(|volume| !volume.is_deleting()) {
            kube_io::delete(client, &key.namespace, volume).await?;
        }
        if !volumes.is_empty() {
            return Ok(Some(format!("{} volumes to be deleted", volumes.len())));
        }
        for secret in list(&resource::<Secret>()).await? {
            kube_io::delete(client, &key.namespace, &secret).await?;
        }
        let identity = names::identity(&key.name);
        for map in list(&resource::<ConfigMap>()).await?.iter().filter(|map| map.name() == identity) {
            kube_io::delete(client, &key.namespace, map).await?;
        }
    }
    kube_io::set_finalizer(client, object, false).await?;
    Ok(None)
}
