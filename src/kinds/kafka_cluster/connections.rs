//! The operator's connections to the nodes of a cluster, from the observed pods and certificates.

pub use crate::clusters::connections::ASK_LIMIT;

use crate::api::kafka_cluster::KafkaCluster;
use crate::clusters::connections::{ClientCache, Connected, Nodes};
use crate::kinds::kafka_cluster::certificates::authorities;
use crate::kinds::kafka_cluster::model::ports::{CONTROLLER_PORT, INTERNAL_PORT};
use crate::kinds::kafka_cluster::observed::{PodFacts, SecretFacts};
use crate::kubernetes::names;
use freehold_kafka_client::connection::Endpoint;
use freehold_kafka_client::tls::TlsError;
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// The endpoints, on this port, of the pods that are ready and have the role.
fn endpoints(
    pods: &[PodFacts],
    object: &KafkaCluster,
    port: u16,
    role: impl Fn(&PodFacts) -> bool,
) -> Vec<Endpoint> {
    let name = object.metadata.name.as_deref().unwrap_or_default();
    let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
    let up = pods
        .iter()
        .filter(|pod| role(pod) && pod.containers_ready && !pod.deleting);
    let endpoint = |pod: &PodFacts| {
        let address = SocketAddr::new(pod.ip.as_ref()?.parse().ok()?, port);
        Some(Endpoint {
            node_id: pod.node_id,
            address,
            server_name: names::host(&pod.name, name, namespace),
        })
    };
    up.filter_map(endpoint).collect()
}

/// The endpoints of all ready nodes: brokers on the inter-broker listener, pure controllers on the
/// controller listener.
pub fn nodes(object: &KafkaCluster, pods: &[PodFacts]) -> Vec<Endpoint> {
    let mut nodes = endpoints(pods, object, INTERNAL_PORT, |pod| pod.broker);
    nodes.extend(endpoints(pods, object, CONTROLLER_PORT, |pod| {
        pod.controller && !pod.broker
    }));
    nodes
}

/// The endpoints of all ready brokers on the given port.
pub fn brokers(object: &KafkaCluster, pods: &[PodFacts], port: u16) -> Vec<Endpoint> {
    endpoints(pods, object, port, |pod| pod.broker)
}

/// The clients for all clusters, by the uid of the KafkaCluster.
#[derive(Default)]
pub struct Clients(ClientCache);

impl Clients {
    /// The client for a cluster. `None` while no broker's container is ready or the certificates do
    /// not exist.
    ///
    /// # Errors
    /// Fails if the certificates cannot be parsed.
    pub fn get(
        &self,
        object: &KafkaCluster,
        pods: &[PodFacts],
        secrets: &BTreeMap<String, SecretFacts>,
    ) -> Result<Option<Connected>, TlsError> {
        let name = object.metadata.name.clone().unwrap_or_default();
        let trust = authorities::trusted_by_nodes(&name, secrets);
        let own = secrets
            .get(&names::operator_certificate(&name))
            .and_then(|secret| secret.keyed("tls.crt", "tls.key"));
        let (Some(trust), Some(own)) = (trust, own) else {
            return Ok(None);
        };
        let nodes = Nodes {
            brokers: endpoints(pods, object, INTERNAL_PORT, |pod| pod.broker),
            controllers: endpoints(pods, object, CONTROLLER_PORT, |pod| pod.controller),
            only_controllers: endpoints(pods, object, CONTROLLER_PORT, |pod| {
                pod.controller && !pod.broker
            }),
        };
        self.0.get(
            object.metadata.uid.as_deref().unwrap_or_default(),
            nodes,
            trust,
            own,
        )
    }

    /// Closes and removes the client of a cluster.
    pub fn forget(&self, uid: &str) {
        self.0.forget(uid);
    }
}
