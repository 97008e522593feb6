//! The registry of connected clusters. The reconcile of a KafkaCluster publishes the facts that its
//! Topics and Users need; all of them share one admin client and one copy of the metadata.

pub mod connections;
pub mod inventory;

use crate::api::kafka_cluster::{Access, Authentication, ShadowPolicy};
use crate::api::reference::ClusterKey;
use crate::certificates::KeyedCertificate;
use freehold_kafka::metadata_image::Concerned;
use freehold_kafka_client::batch::BatchedAdmin;
use freehold_kafka_client::figures::Figures;
use freehold_kafka_client::mirror::{Change, Mirror};
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use tokio::sync::broadcast;
use tokio::task::AbortHandle;

/// Events that a kind may lag behind. If it lags further, it reconciles all of its objects.
const EVENTS_MAX: usize = 8 * 1024;

/// A listener that clients can use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientListener {
    pub name: String,
    pub authentication: Authentication,
    /// `host:port`.
    pub bootstrap: String,
}

/// The key from which Users' passwords are derived. No `Debug`: it is secret.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct PasswordKey {
    /// Empty if the key is lost.
    pub key: String,
    /// The id of the key, which is also on the Secrets of Users.
    pub id: String,
    /// The id of the first key if that was the key of the clients' CA. A Secret without a key id
    /// has a password from that key.
    pub first: Option<String>,
}

/// What Topics and Users need to know of a cluster. No `Debug`: it holds a private key.
#[derive(Clone, PartialEq)]
pub struct ClusterFacts {
    pub version: String,
    /// Kafka's own id of the cluster; empty while unknown.
    pub cluster_id: String,
    /// True when Freehold must not change anything in the cluster.
    pub paused: bool,
    /// Number of brokers in the spec.
    pub brokers: u32,
    /// Racks of the brokers that serve.
    pub racks: BTreeMap<i32, String>,
    /// `min.insync.replicas` of topics that do not set it.
    pub min_in_sync: i16,
    /// Whether Kafka allows to delete topics (`delete.topic.enable`).
    pub deletes_topics: bool,
    /// Throttle of moving replicas in bytes per second for each broker; `None`: Freehold computes
    /// it.
    pub throttle: Option<u64>,
    pub listeners: Vec<ClientListener>,
    /// PEM of the CA that clients trust.
    pub trust_bundle: String,
    /// The CA that signs the certificates of nodes; `None` if it is lost.
    pub cluster_ca: Option<KeyedCertificate>,
    /// The CA that signs clients' certificates; without a key if that is lost.
    pub clients_ca: KeyedCertificate,
    pub password_key: PasswordKey,
    pub access: Access,
    /// Whether Users may be in shadow mode.
    pub shadow: ShadowPolicy,
    /// Names of the super users.
    pub super_users: Vec<String>,
}

impl ClusterFacts {
    /// The listener for clients that prove who they are in this way.
    pub fn listener(&self, wanted: Authentication) -> Option<&ClientListener> {
        let mut listeners = self.listeners.iter();
        listeners.find(|listener| listener.authentication == wanted)
    }
}

/// A cluster with its client and the copy of its metadata.
#[derive(Clone)]
pub struct Cluster {
    pub facts: Arc<ClusterFacts>,
    pub admin: Arc<BatchedAdmin>,
    pub mirror: Arc<Mirror>,
    pub figures: Arc<Figures>,
}

/// An event for the objects that refer to a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClusterEvent {
    /// The cluster is new, gone, or has changed: all objects that refer to it are reconciled.
    Changed(ClusterKey),
    /// The labels of a namespace changed: a cluster may admit it now, or no longer.
    Namespace(String),
    /// A topic or a principal changed in the cluster's metadata.
    Metadata(ClusterKey, Concerned),
}

struct Known {
    cluster: Cluster,
    /// The task that turns changes of the metadata into events.
    forwarder: AbortHandle,
}

/// All clusters that are connected at present.
pub struct Clusters {
    known: RwLock<BTreeMap<ClusterKey, Known>>,
    events: broadcast::Sender<ClusterEvent>,
}

impl Default for Clusters {
    fn default() -> Self {
        Self {
            known: RwLock::default(),
            events: broadcast::channel(EVENTS_MAX).0,
        }
    }
}

impl Clusters {
    /// A connected cluster; `None` if the cluster is not connected.
    pub fn get(&self, key: &ClusterKey) -> Option<Cluster> {
        self.known
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(key)
            .map(|known| known.cluster.clone())
    }

    /// All connected clusters.
    pub fn all(&self) -> Vec<(ClusterKey, Cluster)> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known
            .iter()
            .map(|(key, known)| (key.clone(), known.cluster.clone()))
            .collect()
    }

    /// Replaces what is known of a cluster, and announces a change if it differs.
    pub fn publish(&self, key: &ClusterKey, cluster: Cluster) {
        let mut all = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let before = all.remove(key);
        let same_mirror = before
            .as_ref()
            .is_some_and(|known| Arc::ptr_eq(&known.cluster.mirror, &cluster.mirror));
        let same_facts = before
            .as_ref()
            .is_some_and(|known| known.cluster.facts == cluster.facts);
        let forwarder = match before {
            Some(known) if same_mirror => known.forwarder,
            other => {
                if let Some(known) = other {
                    known.forwarder.abort();
                }
                tokio::spawn(forward(
                    key.clone(),
                    cluster.mirror.subscribe(),
                    self.events.clone(),
                ))
                .abort_handle()
            }
        };
        all.insert(key.clone(), Known { cluster, forwarder });
        drop(all);
        if !(same_mirror && same_facts) {
            self.announce(ClusterEvent::Changed(key.clone()));
        }
    }

    /// Removes a cluster that is gone or no longer connected, and announces it.
    pub fn remove(&self, key: &ClusterKey) {
        let known = self
            .known
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(key);
        if let Some(known) = known {
            known.forwarder.abort();
            self.announce(ClusterEvent::Changed(key.clone()));
        }
    }

    /// Announces an event to the kinds whose objects refer to clusters.
    pub fn announce(&self, event: ClusterEvent) {
        // An error means that no kind has subscribed yet, so there is no object to requeue.
        let _ = self.events.send(event);
    }

    /// Receives every later event.
    pub fn subscribe(&self) -> broadcast::Receiver<ClusterEvent> {
        self.events.subscribe()
    }
}

async fn forward(
    key: ClusterKey,
    mut changes: broadcast::Receiver<Change>,
    events: broadcast::Sender<ClusterEvent>,
) {
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
