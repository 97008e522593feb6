//! The operator's admin client of each cluster, and the copy of the cluster's metadata: by pod addresses, with the
//! operator's own certificate. A client is kept for a cluster as long as addresses and certificates stay, the copy as
//! long as the cluster.

use super::api::KafkaCluster;
use super::authorities;
use super::desired::{CONTROLLER_PORT, INTERNAL_PORT};
use super::observe::{PodFacts, SecretFacts};
use crate::kafka_admin::batch::BatchedAdmin;
use crate::kafka_admin::client::Client;
use crate::kafka_admin::connection::Endpoint;
use crate::kafka_admin::figures::{self, Figures};
use crate::kafka_admin::follower::{self, Controllers};
use crate::kafka_admin::mirror::Mirror;
use crate::kafka_admin::tls::{TlsError, TlsSettings};
use crate::names;
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// A reconcile asks again soon; it does not wait long for brokers that start.
pub const ASK_LIMIT: Duration = Duration::from_secs(5);

/// What speaks to one cluster.
#[derive(Clone)]
pub struct Connected {
    pub client: Arc<Client>,
    pub admin: Arc<BatchedAdmin>,
    pub mirror: Arc<Mirror>,
    pub figures: Arc<Figures>,
}

struct Kept {
    connected: Connected,
    certificate: String,
    trust: String,
    controllers: watch::Sender<Controllers>,
    current: watch::Sender<Arc<BatchedAdmin>>,
    tasks: [AbortHandle; 2],
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

/// Clients by the cluster's uid.
#[derive(Default)]
pub struct ClientCache(Mutex<HashMap<String, Kept>>);

/// The pods that are up and have a role, with the port where they serve it.
fn endpoints(pods: &[PodFacts], object: &KafkaCluster, port: u16, role: impl Fn(&PodFacts) -> bool) -> Vec<Endpoint> {
    let name = object.metadata.name.as_deref().unwrap_or_default();
    let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
    let up = pods.iter().filter(|pod| role(pod) && pod.containers_ready && !pod.deleting);
    let endpoint = |pod: &PodFacts| {
        let address = SocketAddr::new(pod.ip.as_ref()?.parse().ok()?, port);
        Some(Endpoint { node_id: pod.node_id, address, server_name: names::host(&pod.name, name, namespace) })
    };
    up.filter_map(endpoint).collect()
}

/// Every node that is up: brokers where they talk among themselves, the other ones where controllers do.
pub fn nodes(object: &KafkaCluster, pods: &[PodFacts]) -> Vec<Endpoint> {
    let mut nodes = endpoints(pods, object, INTERNAL_PORT, |pod| pod.broker);
    nodes.extend(endpoints(pods, object, CONTROLLER_PORT, |pod| pod.controller && !pod.broker));
    nodes
}

/// Every broker that is up, on a port of its own.
pub fn brokers(object: &KafkaCluster, pods: &[PodFacts], port: u16) -> Vec<Endpoint> {
    endpoints(pods, object, port, |pod| pod.broker)
}

impl ClientCache {
    /// What speaks to a cluster; `None` while no broker's container is ready or the certificates are not there.
    ///
    /// # Errors
    /// Certificates that cannot be read.
    pub fn get(
        &self,
        object: &KafkaCluster,
        pods: &[PodFacts],
        secrets: &BTreeMap<String, SecretFacts>,
    ) -> Result<Option<Connected>, TlsError> {
        let name = object.metadata.name.clone().unwrap_or_default();
        let uid = object.metadata.uid.clone().unwrap_or_default();
        let brokers = endpoints(pods, object, INTERNAL_PORT, |pod| pod.broker);
        let controllers = endpoints(pods, object, CONTROLLER_PORT, |pod| pod.controller);
        let only_controllers = endpoints(pods, object, CONTROLLER_PORT, |pod| pod.controller && !pod.broker);
        let same_nodes = |client: &Client| client.endpoints() == (brokers.as_slice(), only_controllers.as_slice());
        let trust = secrets.get(&names::cluster_ca(&name)).and_then(authorities::trusted);
        let own = secrets.get(&names::operator_certificate(&name)).and_then(|secret| secret.keyed("tls.crt", "tls.key"));
        let (Some(trust), Some(own)) = (trust, own) else { return Ok(None) };
        if brokers.is_empty() {
            return Ok(None);
        }
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = all.get_mut(&uid) {
            let same_tls = kept.certificate == own.certificate && kept.trust == trust;
            let same_controllers = kept.controllers.borrow().endpoints == controllers;
            if same_tls && same_controllers && same_nodes(&kept.connected.client) {
                return Ok(Some(kept.connected.clone()));
            }
            let tls = TlsSettings::new(&trust, Some((&own.certificate, &own.key)))?;
            if !(same_tls && same_controllers) {
                kept.controllers.send_replace(Controllers { endpoints: controllers, tls: tls.clone() });
            }
            if !same_tls || !same_nodes(&kept.connected.client) {
                let client = Arc::new(Client::new(brokers, tls, None).with_controllers(only_controllers));
                kept.connected.admin = Arc::new(BatchedAdmin::new(Arc::clone(&client) as _));
                kept.connected.client = client;
                kept.current.send_replace(Arc::clone(&kept.connected.admin));
            }
            (kept.certificate, kept.trust) = (own.certificate, trust);
            return Ok(Some(kept.connected.clone()));
        }
        let tls = TlsSettings::new(&trust, Some((&own.certificate, &own.key)))?;
        let client = Arc::new(Client::new(brokers, tls.clone(), None).with_controllers(only_controllers));
        let admin = Arc::new(BatchedAdmin::new(Arc::clone(&client) as _));
        let connected = Connected { client, admin: Arc::clone(&admin), mirror: Arc::default(), figures: Arc::default() };
        let (controllers, followed) = watch::channel(Controllers { endpoints: controllers, tls });
        let (current, asked) = watch::channel(admin);
        let tasks = [
            tokio::spawn(follower::follow(followed, Arc::clone(&connected.mirror))).abort_handle(),
            tokio::spawn(figures::keep(asked, Arc::clone(&connected.mirror), Arc::clone(&connected.figures))).abort_handle(),
        ];
        let kept = Kept { connected: connected.clone(), certificate: own.certificate, trust, controllers, current, tasks };
        all.insert(uid, kept);
        Ok(Some(connected))
    }

    pub fn forget(&self, uid: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}
