//! Probes by TLS handshakes which certificates nodes serve and trust, during the rotation of a CA.

use crate::api::kafka_cluster::{Authentication, KafkaCluster};
use crate::certificates;
use crate::certificates::KeyedCertificate;
use crate::kinds::kafka_cluster::certificates::authorities;
use crate::kinds::kafka_cluster::connections;
use crate::kinds::kafka_cluster::observed::Probes;
use crate::kinds::kafka_cluster::observed::pods::PodFacts;
use crate::kinds::kafka_cluster::observed::secrets::SecretFacts;
use crate::kubernetes::names;
use freehold_kafka_client::connection::{Connection, Endpoint};
use freehold_kafka_client::tls::TlsSettings;
use std::collections::{BTreeMap, BTreeSet};

/// Probes the nodes by TLS handshakes if a CA is being rotated.
pub async fn probes(
    object: &KafkaCluster,
    pods: &[PodFacts],
    secrets: &BTreeMap<String, SecretFacts>,
) -> Probes {
    let name = object.metadata.name.clone().unwrap_or_default();
    let (nodes_ca, clients_ca) = (
        secrets.get(&names::cluster_ca(&name)),
        secrets.get(&names::clients_ca(&name)),
    );
    let Some(trusted) = authorities::trusted_by_nodes(&name, secrets) else {
        return Probes::default();
    };
    let mut probes = Probes::default();
    let nodes = || connections::nodes(object, pods);
    if let Some(probe) = nodes_ca.and_then(authorities::probe) {
        probes.trust_next = answer(nodes(), &trusted, &probe).await;
    }
    let own = secrets
        .get(&names::operator_certificate(&name))
        .and_then(|secret| secret.keyed("tls.crt", "tls.key"));
    if let (Some(current), Some(own)) = (
        nodes_ca.filter(|secret| secret.data.contains_key(authorities::PREVIOUS)),
        own,
    ) {
        let current = current
            .data
            .get("tls.crt")
            .map(|pem| certificates::signing(pem))
            .unwrap_or_default();
        probes.serve_current = answer(nodes(), &current, &own).await;
    }
    let listener = object
        .spec
        .listeners
        .iter()
        .find(|listener| listener.authentication == Authentication::MutualTls);
    if let (Some(probe), Some(listener)) = (clients_ca.and_then(authorities::probe), listener) {
        probes.trust_next_clients = answer(
            connections::brokers(object, pods, listener.port),
            &trusted,
            &probe,
        )
        .await;
    }
    probes
}

/// The nodes that accept a client with this certificate, and whose own certificate `trusted`
/// verifies.
async fn answer(
    endpoints: Vec<Endpoint>,
    trusted: &str,
    identity: &KeyedCertificate,
) -> BTreeSet<i32> {
    let Ok(tls) = TlsSettings::new(trusted, Some((&identity.certificate, &identity.key))) else {
        return BTreeSet::new();
    };
    let ask = endpoints.iter().map(|endpoint| {
        let tls = &tls;
        async move {
            Connection::open(endpoint, tls, None)
                .await
                .is_ok()
                .then_some(endpoint.node_id)
        }
    });
    futures::future::join_all(ask)
        .await
        .into_iter()
        .flatten()
        .collect()
}
