//! What every reconcile is given.

use super::clusters::Clusters;
use super::kind::Kind;
use super::metrics::Metrics;
use crate::kinds::kafka_cluster::clients::ClientCache;
use crate::kinds::{topic::api::Topic, user::api::User};
use kube::Client;
use kube::runtime::reflector::Store;
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

/// Shared by all reconciles.
pub struct Context {
    pub client: Client,
    pub settings: Settings,
    pub clusters: Clusters,
    pub clients: ClientCache,
    pub metrics: Metrics,
    pub topics: Stores<Topic>,
    pub users: Stores<User>,
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

    /// Every object of the kind that the operator watches.
    pub fn all(&self) -> Vec<Arc<O>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).iter().flat_map(Store::state).collect()
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
            topics: Stores::default(),
            users: Stores::default(),
        }
    }

    /// Remembers a kind's cache where another object's reconcile asks for it.
    pub fn remember<K: Kind>(&self, store: &Store<K::Object>) {
        K::remember(self, store.clone());
    }
}
