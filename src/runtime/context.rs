//! What every reconcile is given.

use super::claims::Claims;
use super::clusters::Clusters;
use super::metrics::Metrics;
use super::namespaces::Namespaces;
use crate::kinds::kafka_cluster::api::KafkaCluster;
use crate::kinds::kafka_cluster::clients::ClientCache;
use crate::kinds::user::secrets::UserSecrets;
use futures::FutureExt;
use kube::Client;
use kube::runtime::reflector::{ObjectRef, Store};
use std::collections::BTreeMap;
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
        }
    }
}
