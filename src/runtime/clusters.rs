//! The clusters that can be asked: what a KafkaCluster's reconcile learned, for the Topics and Users of the cluster.
//! They share one admin client and one copy of the metadata.

use crate::certificates::KeyedCertificate;
use crate::kafka::metadata_image::Concerned;
use crate::kafka_admin::batch::BatchedAdmin;
use crate::kafka_admin::figures::Figures;
use crate::kafka_admin::mirror::{Change, Mirror};
use crate::kinds::kafka_cluster::api::{Access, Authentication, ShadowPolicy};
use crate::kinds::reference::ClusterKey;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use tokio::sync::broadcast;
use tokio::task::AbortHandle;

/// Events that a kind may lag behind; then it looks at everything.
const EVENTS_MAX: usize = 8 * 1024;

/// A listener that clients can use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientListener {
    pub name: String,
    pub authentication: Authentication,
    /// `host:port`.
    pub bootstrap: String,
}

/// What others may know of a cluster. No `Debug`: it holds a private key.
#[derive(Clone, PartialEq)]
pub struct ClusterFacts {
    pub version: String,
    /// Brokers in the spec.
    pub brokers: u32,
    /// Racks of the brokers that serve.
    pub racks: BTreeMap<i32, String>,
    /// `min.insync.replicas` of topics that set none.
    pub min_in_sync: i16,
    /// Bytes per second and broker for replicas that move; `None`: they are worked out.
    pub throttle: Option<u64>,
    pub listeners: Vec<ClientListener>,
    /// PEM of the CA that clients trust.
    pub trust_bundle: String,
    /// The CA that signs clients' certificates.
    pub clients_ca: KeyedCertificate,
    /// What Users' passwords are derived from.
    pub password_key: String,
    pub access: Access,
    /// Whether Users may be in shadow mode.
    pub shadow: ShadowPolicy,
    /// Names of principals that may do everything.
    pub super_users: Vec<String>,
}

/// A cluster with its client and the copy of its metadata.
#[derive(Clone)]
pub struct Cluster {
    pub facts: Arc<ClusterFacts>,
    pub admin: Arc<BatchedAdmin>,
    pub mirror: Arc<Mirror>,
    pub figures: Arc<Figures>,
}

/// What happened in a cluster, for the objects that refer to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClusterEvent {
    /// It is new, gone, or another than it was: all are concerned.
    Changed(ClusterKey),
    /// Something in its metadata.
    Metadata(ClusterKey, Concerned),
}

struct Known {
    cluster: Cluster,
    /// Passes the metadata's changes on.
    forwarder: AbortHandle,
}

/// All clusters that can be asked at present.
pub struct Clusters {
    known: RwLock<BTreeMap<ClusterKey, Known>>,
    events: broadcast::Sender<ClusterEvent>,
}

impl Default for Clusters {
    fn default() -> Self {
        Self { known: RwLock::default(), events: broadcast::channel(EVENTS_MAX).0 }
    }
}

impl Clusters {
    pub fn get(&self, key: &ClusterKey) -> Option<Cluster> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).get(key).map(|known| known.cluster.clone())
    }

    pub fn all(&self) -> Vec<(ClusterKey, Cluster)> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.iter().map(|(key, known)| (key.clone(), known.cluster.clone())).collect()
    }

    /// Says what is known; who waits for the cluster hears of it when that is new.
    pub fn publish(&self, key: &ClusterKey, cluster: Cluster) {
        let mut all = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let before = all.remove(key);
        let same_mirror = before.as_ref().is_some_and(|known| Arc::ptr_eq(&known.cluster.mirror, &cluster.mirror));
        let same_facts = before.as_ref().is_some_and(|known| known.cluster.facts == cluster.facts);
        let forwarder = match before {
            Some(known) if same_mirror => known.forwarder,
            other => {
                if let Some(known) = other {
                    known.forwarder.abort();
                }
                tokio::spawn(forward(key.clone(), cluster.mirror.subscribe(), self.events.clone())).abort_handle()
            }
        };
        all.insert(key.clone(), Known { cluster, forwarder });
        drop(all);
        if !(same_mirror && same_facts) {
            self.tell(ClusterEvent::Changed(key.clone()));
        }
    }

    pub fn remove(&self, key: &ClusterKey) {
        let known = self.known.write().unwrap_or_else(PoisonError::into_inner).remove(key);
        if let Some(known) = known {
            known.forwarder.abort();
            self.tell(ClusterEvent::Changed(key.clone()));
        }
    }

    /// Wakes the objects that an event concerns.
    pub fn tell(&self, event: ClusterEvent) {
        // Nobody listens before the first Topic: then there is nobody to tell.
        let _ = self.events.send(event);
    }

    pub fn subscribe(&self) -> broadcast::Receiver<ClusterEvent> {
        self.events.subscribe()
    }
}

async fn forward(key: ClusterKey, mut changes: broadcast::Receiver<Change>, events: broadcast::Sender<ClusterEvent>) {
    use broadcast::error::RecvError;
    loop {
        let event = match changes.recv().await {
            Ok(Change::One(concerned)) => ClusterEvent::Metadata(key.clone(), concerned),
            Ok(Change::All) | Err(RecvError::Lagged(_)) => ClusterEvent::Changed(key.clone()),
            Err(RecvError::Closed) => return,
        };
        let _ = events.send(event);
    }
}
