//! What every reconcile is given.

use super::claims::Claims;
use super::clusters::Clusters;
use super::metrics::Metrics;
use super::namespaces::Namespaces;
use crate::kinds::error::Error;
use crate::kinds::kafka_cluster::api::KafkaCluster;
use crate::kinds::kafka_cluster::clients::ClientCache;
use crate::kinds::user::secrets::UserSecrets;
use crate::kube_io;
use futures::FutureExt;
use k8s_openapi::NamespaceResourceScope;
use kube::Client;
use kube::runtime::reflector::{ObjectRef, Store};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

/// What the operator was started with.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Its own namespace.
    pub namespace: String,
    /// Namespaces to watch; empty: all.
    pub watch_namespaces: Vec<String>,
    /// Kafka image of each version.
    pub images: BTreeMap<String, String>,
}

impl Settings {
    pub fn watches(&self, namespace: &str) -> bool {
        self.watch_namespaces.is_empty() || self.watch_namespaces.iter().any(|watched| watched == namespace)
    }
}

/// Shared by all reconciles.
pub struct Context {
    pub client: Client,
    pub settings: Settings,
    pub clusters: Clusters,
    pub clients: ClientCache,
    pub metrics: Metrics,
    pub namespaces: Namespaces,
    pub kafka_clusters: Stores<KafkaCluster>,
    /// Claims of Topics on topics, and of Users on principals.
    pub topics: Claims,
    pub users: Claims,
    pub user_secrets: UserSecrets,
    /// See [`Context::ensure_current`].
    listed_until: AtomicU64,
}

/// The caches of a kind, one for each watched namespace.
pub struct Stores<O: kube::Resource<DynamicType = ()> + Clone + 'static>(RwLock<Vec<Store<O>>>);

impl<O: kube::Resource<DynamicType = ()> + Clone + 'static> Default for Stores<O> {
    fn default() -> Self {
        Self(RwLock::default())
    }
}

impl<O: kube::Resource<DynamicType = ()> + Clone + 'static> Stores<O> {
    pub fn add(&self, store: Store<O>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).push(store);
    }

    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<O>> {
        let key = ObjectRef::new(name).within(namespace);
        self.0.read().unwrap_or_else(PoisonError::into_inner).iter().find_map(|store| store.get(&key))
    }

    /// True once every watched namespace has been listed.
    pub fn are_ready(&self) -> bool {
        let stores = self.0.read().unwrap_or_else(PoisonError::into_inner);
        !stores.is_empty() && stores.iter().all(|store| store.wait_until_ready().now_or_never().is_some())
    }
}

impl Context {
    pub fn new(client: Client, settings: Settings) -> Self {
        Self {
            client,
            settings,
            clusters: Clusters::default(),
            clients: ClientCache::default(),
            metrics: Metrics::default(),
            namespaces: Namespaces::default(),
            kafka_clusters: Stores::default(),
            topics: Claims::default(),
            users: Claims::default(),
            user_secrets: UserSecrets::default(),
            listed_until: AtomicU64::default(),
        }
    }

    /// Objects up to this version are known from a list, or were there before this process led.
    pub fn listed_until(&self, version: u64) {
        self.listed_until.fetch_max(version, Ordering::Relaxed);
    }

    /// Whether it was written before this process led, or is known from a list.
    pub fn is_from_list<K: kube::Resource>(&self, object: &K) -> bool {
        let version = kube_io::version(object.meta().resource_version.as_deref().unwrap_or_default());
        version <= self.listed_until.load(Ordering::Relaxed)
    }

    /// Before something is changed for an object: it is still as it is seen here. A list may be that of an API server that
    /// is behind: who follows it makes anew what the operator before it has deleted, or deletes what belongs to another
    /// object of that name. So the API server is asked, by a read that is never old, of an object that has not been
    /// written since.
    ///
    /// # Errors
    /// [`Error::Old`] where it is another by now; what the API server says.
    pub async fn ensure_current<K>(&self, object: &K) -> Result<(), Error>
    where
        K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
    {
        if !self.is_from_list(object) {
            return Ok(());
        }
        let found = kube_io::current(&self.client, object).await?;
        let same = found.is_some_and(|found| found.meta().resource_version == object.meta().resource_version);
        if same { Ok(()) } else { Err(Error::Old) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::topic::api::Topic;
    use http::{Request, Response};
    use kube::client::Body;
    use serde_json::json;
    use std::convert::Infallible;
    use std::sync::atomic::AtomicU32;

    fn topic(uid: &str, generation: i64, version: u64) -> Topic {
        serde_json::from_value(json!({
            "apiVersion": "freehold.dev/v1alpha1", "kind": "Topic", "spec": {"clusterRef": {"name": "c"}, "partitions": 1},
            "metadata": {"name": "t", "namespace": "n", "uid": uid, "generation": generation, "resourceVersion": version.to_string()}
        }))
        .unwrap()
    }

    #[tokio::test]
    async fn the_api_server_is_asked_of_what_a_list_told() {
        let reads = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&reads);
        let live = serde_json::to_vec(&topic("u", 2, 7)).unwrap();
        let answer = move |_: Request<Body>| {
            counted.fetch_add(1, Ordering::Relaxed);
            let answer = Response::new(Body::from(live.clone()));
            async { Ok::<_, Infallible>(answer) }
        };
        let context = Context::new(Client::new(tower::service_fn(answer), "n"), Settings::default());
        context.listed_until(7);
        context.listed_until(3);
        assert!(context.ensure_current(&topic("u", 2, 7)).await.is_ok());
        for other in [topic("u", 2, 6), topic("u", 1, 7), topic("another", 2, 7)] {
            assert!(matches!(context.ensure_current(&other).await, Err(Error::Old)));
        }
        assert_eq!(reads.load(Ordering::Relaxed), 4);
        assert!(context.ensure_current(&topic("u", 3, 8)).await.is_ok(), "written since");
        assert_eq!(reads.load(Ordering::Relaxed), 4, "and not asked for");
    }
}
