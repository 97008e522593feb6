//! The operator's connection to each cluster: an admin client and a copy of the cluster's metadata.
//! It uses the addresses of pods and the operator's own certificate. A change of addresses or
//! certificates replaces the client; the copy lives as long as the cluster.

use crate::certificates::KeyedCertificate;
use freehold_kafka_client::batch::BatchedAdmin;
use freehold_kafka_client::client::Client;
use freehold_kafka_client::connection::Endpoint;
use freehold_kafka_client::figures::{self, Figures};
use freehold_kafka_client::follower::{self, Controllers};
use freehold_kafka_client::mirror::Mirror;
use freehold_kafka_client::tls::{TlsError, TlsSettings};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// How long a reconcile waits for an answer. It is requeued soon, so it need not wait long for
/// brokers that are starting.
pub const ASK_LIMIT: Duration = Duration::from_secs(5);

/// The connection to one cluster.
#[derive(Clone)]
pub struct Connected {
    pub client: Arc<Client>,
    pub admin: Arc<BatchedAdmin>,
    pub mirror: Arc<Mirror>,
    pub figures: Arc<Figures>,
}

struct Cached {
    connected: Connected,
    certificate: String,
    trust: String,
    controllers: watch::Sender<Controllers>,
    current: watch::Sender<Arc<BatchedAdmin>>,
    tasks: [AbortHandle; 2],
}

impl Cached {
    /// Connects, and starts to follow the metadata log and to read the figures.
    fn connect(nodes: Nodes, trust: String, own: KeyedCertificate) -> Result<Self, TlsError> {
        let Nodes {
            brokers,
            controllers,
            only_controllers,
        } = nodes;
        let tls = TlsSettings::new(&trust, Some((&own.certificate, &own.key)))?;
        let client =
            Arc::new(Client::new(brokers, tls.clone(), None).with_controllers(only_controllers));
        let admin = Arc::new(BatchedAdmin::new(Arc::clone(&client) as _));
        let connected = Connected {
            client,
            admin: Arc::clone(&admin),
            mirror: Arc::default(),
            figures: Arc::default(),
        };
        let (controllers, followed) = watch::channel(Controllers {
            endpoints: controllers,
            tls,
        });
        let (current, asked) = watch::channel(admin);
        let tasks = [
            tokio::spawn(follower::follow(followed, Arc::clone(&connected.mirror))).abort_handle(),
            tokio::spawn(figures::keep(
                asked,
                Arc::clone(&connected.mirror),
                Arc::clone(&connected.figures),
            ))
            .abort_handle(),
        ];
        Ok(Self {
            connected,
            certificate: own.certificate,
            trust,
            controllers,
            current,
            tasks,
        })
    }

    /// Connects again where nodes or certificates have changed.
    fn update(
        &mut self,
        nodes: Nodes,
        trust: String,
        own: KeyedCertificate,
    ) -> Result<(), TlsError> {
        let Nodes {
            brokers,
            controllers,
            only_controllers,
        } = nodes;
        let same_nodes =
            self.connected.client.endpoints() == (brokers.as_slice(), only_controllers.as_slice());
        let same_tls = self.certificate == own.certificate && self.trust == trust;
        let same_controllers = self.controllers.borrow().endpoints == controllers;
        if same_tls && same_controllers && same_nodes {
            return Ok(());
        }
        let tls = TlsSettings::new(&trust, Some((&own.certificate, &own.key)))?;
        if !(same_tls && same_controllers) {
            self.controllers.send_replace(Controllers {
                endpoints: controllers,
                tls: tls.clone(),
            });
        }
        if !same_tls || !same_nodes {
            let client =
                Arc::new(Client::new(brokers, tls, None).with_controllers(only_controllers));
            self.connected.admin = Arc::new(BatchedAdmin::new(Arc::clone(&client) as _));
            self.connected.client = client;
            self.current.send_replace(Arc::clone(&self.connected.admin));
        }
        (self.certificate, self.trust) = (own.certificate, trust);
        Ok(())
    }
}

impl Drop for Cached {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

/// Connections by the uid of the cluster.
#[derive(Default)]
pub struct ClientCache(Mutex<HashMap<String, Cached>>);

/// The nodes of a cluster that are running.
pub struct Nodes {
    /// Brokers, with the addresses of the listener between nodes.
    pub brokers: Vec<Endpoint>,
    pub controllers: Vec<Endpoint>,
    /// Controllers that are not brokers.
    pub only_controllers: Vec<Endpoint>,
}

impl ClientCache {
    /// The connection to the cluster with this uid; `None` while no broker is running. `trust` is
    /// PEM of the CAs of the nodes; `own` is the operator's certificate.
    ///
    /// # Errors
    /// The certificates cannot be read.
    pub fn get(
        &self,
        uid: &str,
        nodes: Nodes,
        trust: String,
        own: KeyedCertificate,
    ) -> Result<Option<Connected>, TlsError> {
        if nodes.brokers.is_empty() {
            return Ok(None);
        }
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cached) = all.get_mut(uid) {
            cached.update(nodes, trust, own)?;
            return Ok(Some(cached.connected.clone()));
        }
        let cached = Cached::connect(nodes, trust, own)?;
        let connected = cached.connected.clone();
        all.insert(uid.to_owned(), cached);
        Ok(Some(connected))
    }

    /// Closes the connection to the cluster with this uid.
    pub fn forget(&self, uid: &str) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(uid);
    }
}
