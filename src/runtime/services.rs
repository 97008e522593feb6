//! What the driver and every kind need: the client, metrics, namespaces, and how old a cached
//! object may be.

use crate::kubernetes;
use crate::kubernetes::KubeResult;
use crate::runtime::metrics::Metrics;
use crate::runtime::namespaces::{Namespaces, is_watched};
use k8s_openapi::NamespaceResourceScope;
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};

/// Shared by the drivers of all kinds.
pub struct Services {
    pub client: Client,
    pub metrics: Metrics,
    pub namespaces: Namespaces,
    watch_namespaces: Vec<String>,
    /// See [`Services::is_current`].
    listed_until: AtomicU64,
}

impl Services {
    /// `watch_namespaces`: the namespaces that the operator watches; none: all.
    pub fn new(client: Client, watch_namespaces: Vec<String>) -> Self {
        let (metrics, namespaces) = (Metrics::default(), Namespaces::default());
        Self {
            client,
            metrics,
            namespaces,
            watch_namespaces,
            listed_until: AtomicU64::default(),
        }
    }

    /// Whether the operator watches a namespace.
    pub fn watches(&self, namespace: &str) -> bool {
        is_watched(&self.watch_namespaces, namespace)
    }

    /// Notes that objects up to this resourceVersion come from a list, or were written before this
    /// process became the leader.
    pub fn listed_until(&self, version: u64) {
        self.listed_until.fetch_max(version, Ordering::Relaxed);
    }

    /// Whether an object comes from a list, or was written before this process became the leader.
    pub fn is_from_list<O: Resource>(&self, object: &O) -> bool {
        let version = kubernetes::version(
            object
                .meta()
                .resource_version
                .as_deref()
                .unwrap_or_default(),
        );
        version <= self.listed_until.load(Ordering::Relaxed)
    }

    /// Whether a cached object is what the API server has now. To be asked before anything is
    /// changed because of the object.
    ///
    /// A list may come from an API server that lags behind. An operator that acts on such a list
    /// creates again what the leader before it has deleted, or deletes what belongs to another
    /// object of that name. So an object that comes from a list is read once more, by a read that
    /// is never old. One that was written later came by a watch, and needs no read.
    ///
    /// # Errors
    /// The API server does not answer.
    pub async fn is_current<O>(&self, object: &O) -> KubeResult<bool>
    where
        O: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + Debug,
    {
        if !self.is_from_list(object) {
            return Ok(true);
        }
        let found = kubernetes::current(&self.client, object).await?;
        Ok(found
            .is_some_and(|found| found.meta().resource_version == object.meta().resource_version))
    }
}

impl AsRef<Self> for Services {
    fn as_ref(&self) -> &Self {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::topic::Topic;
    use http::{Request, Response};
    use kube::client::Body;
    use serde_json::json;
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::sync::atomic::AtomicU32;

    fn topic(uid: &str, generation: i64, version: u64) -> Topic {
        serde_json::from_value(json!({
            "apiVersion": "freehold.dev/v1alpha1", "kind": "Topic", "spec": {"clusterRef": {"name": "c"}, "partitions": 1},
            "metadata": {"name": "t", "namespace": "n", "uid": uid, "generation": generation, "resourceVersion": version.to_string()}
        }))
        .unwrap()
    }

    #[tokio::test]
    async fn objects_that_come_from_a_list_are_read_once_more() {
        let reads = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&reads);
        let live = serde_json::to_vec(&topic("u", 2, 7)).unwrap();
        let answer = move |_: Request<Body>| {
            counted.fetch_add(1, Ordering::Relaxed);
            let answer = Response::new(Body::from(live.clone()));
            async { Ok::<_, Infallible>(answer) }
        };
        let services = Services::new(Client::new(tower::service_fn(answer), "n"), Vec::new());
        services.listed_until(7);
        services.listed_until(3);
        assert!(services.is_current(&topic("u", 2, 7)).await.unwrap());
        for other in [topic("u", 2, 6), topic("u", 1, 7), topic("another", 2, 7)] {
            assert!(!services.is_current(&other).await.unwrap());
        }
        assert_eq!(reads.load(Ordering::Relaxed), 4);
        assert!(
            services.is_current(&topic("u", 3, 8)).await.unwrap(),
            "written since"
        );
        assert_eq!(reads.load(Ordering::Relaxed), 4, "and not read again");
    }
}
