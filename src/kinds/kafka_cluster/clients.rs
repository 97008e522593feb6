//! The operator's admin client of each cluster: by pod addresses, with the operator's own certificate. One is kept
//! for a cluster as long as addresses and certificates stay.

use super::api::{CertificateIssuer, KafkaCluster};
use super::desired::INTERNAL_PORT;
use super::observe::{PodFacts, SecretFacts};
use crate::kafka_admin::client::Client;
use crate::kafka_admin::connection::Endpoint;
use crate::kafka_admin::tls::{TlsError, TlsSettings};
use crate::names;
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A reconcile asks again soon; it does not wait long for brokers that start.
pub const ASK_LIMIT: Duration = Duration::from_secs(5);

struct Kept {
    client: Arc<Client>,
    certificate: String,
    trust: String,
}

/// Clients by the cluster's uid.
#[derive(Default)]
pub struct ClientCache(Mutex<HashMap<String, Kept>>);

impl ClientCache {
    /// The client of a cluster; `None` while no broker's container is ready or the certificates are not there.
    ///
    /// # Errors
    /// Certificates that cannot be read.
    pub fn get(
        &self,
        object: &KafkaCluster,
        pods: &[PodFacts],
        secrets: &BTreeMap<String, SecretFacts>,
        given_ca: Option<&SecretFacts>,
    ) -> Result<Option<Arc<Client>>, TlsError> {
        let name = object.metadata.name.clone().unwrap_or_default();
        let namespace = object.metadata.namespace.clone().unwrap_or_default();
        let uid = object.metadata.uid.clone().unwrap_or_default();
        let endpoints: Vec<Endpoint> = pods
            .iter()
            .filter(|pod| pod.broker && pod.containers_ready && !pod.deleting)
            .filter_map(|pod| {
                let address = SocketAddr::new(pod.ip.as_ref()?.parse().ok()?, INTERNAL_PORT);
                Some(Endpoint { node_id: pod.node_id, address, server_name: names::host(&pod.name, &name, &namespace) })
            })
            .collect();
        let trust = match object.spec.certificates.issuer {
            CertificateIssuer::SelfSigned => secrets.get(&names::cluster_ca(&name)).and_then(|secret| secret.data.get("tls.crt")),
            CertificateIssuer::Secret => given_ca.and_then(|secret| secret.data.get("tls.crt")),
        };
        let own = secrets.get(&names::operator_certificate(&name)).and_then(|secret| secret.keyed("tls.crt", "tls.key"));
        let (Some(trust), Some(own)) = (trust, own) else { return Ok(None) };
        if endpoints.is_empty() {
            return Ok(None);
        }
        let mut clients = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = clients
            .get(&uid)
            .filter(|kept| kept.client.endpoints() == endpoints && kept.certificate == own.certificate && kept.trust == *trust)
        {
            return Ok(Some(Arc::clone(&kept.client)));
        }
        let tls = TlsSettings::new(trust, Some((&own.certificate, &own.key)))?;
        let client = Arc::new(Client::new(endpoints, tls, None));
        clients.insert(uid, Kept { client: Arc::clone(&client), certificate: own.certificate, trust: trust.clone() });
        Ok(Some(client))
    }

    pub fn forget(&self, uid: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}
