//! The clusters that can be asked: what a KafkaCluster's reconcile learned, for the Topics and Users of the cluster.
//! They share one admin client.

use crate::certificates::KeyedCertificate;
use crate::kafka_admin::Admin;
use crate::kinds::kafka_cluster::api::{Authentication, NamespaceAccess};
use crate::kinds::reference::ClusterKey;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use tokio::sync::broadcast;

/// A listener that clients can use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientListener {
    pub name: String,
    pub authentication: Authentication,
    /// `host:port`.
    pub bootstrap: String,
}

/// What others may know of a cluster. No `Debug`: it holds a private key.
#[derive(Clone)]
pub struct ClusterFacts {
    pub version: String,
    /// Brokers in the spec.
    pub brokers: u32,
    pub listeners: Vec<ClientListener>,
    /// PEM of the CA that clients trust.
    pub trust_bundle: String,
    /// The CA that signs clients' certificates.
    pub clients_ca: KeyedCertificate,
    pub access: NamespaceAccess,
}

impl PartialEq for ClusterFacts {
    fn eq(&self, other: &Self) -> bool {
        let Self { version, brokers, listeners, trust_bundle, clients_ca, access } = self;
        (version, brokers, listeners, trust_bundle, clients_ca, access)
            == (&other.version, &other.brokers, &other.listeners, &other.trust_bundle, &other.clients_ca, &other.access)
    }
}

/// A cluster with its client.
#[derive(Clone)]
pub struct Cluster {
    pub facts: Arc<ClusterFacts>,
    pub admin: Arc<dyn Admin>,
}

/// All clusters that can be asked at present.
pub struct Clusters {
    known: RwLock<BTreeMap<ClusterKey, Cluster>>,
    changed: broadcast::Sender<ClusterKey>,
}

impl Default for Clusters {
    fn default() -> Self {
        Self { known: RwLock::default(), changed: broadcast::channel(64).0 }
    }
}

impl Clusters {
    pub fn get(&self, key: &ClusterKey) -> Option<Cluster> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    /// Says what is known; who waits for the cluster hears of it when that is new.
    pub fn publish(&self, key: &ClusterKey, cluster: Cluster) {
        let before = self.known.write().unwrap_or_else(PoisonError::into_inner).insert(key.clone(), cluster.clone());
        if before.is_none_or(|before| before.facts != cluster.facts) {
            // Nobody listens before the first Topic: then there is nobody to tell.
            let _ = self.changed.send(key.clone());
        }
    }

    pub fn remove(&self, key: &ClusterKey) {
        if self.known.write().unwrap_or_else(PoisonError::into_inner).remove(key).is_some() {
            let _ = self.changed.send(key.clone());
        }
    }

    pub fn subscribe(&self) -> broadcast::Receiver<ClusterKey> {
        self.changed.subscribe()
    }
}
