//! What Topics and Users may know of a cluster, from its spec alone. Pure.

use super::api::{KafkaCluster, Listener, Role};
use super::desired::server_properties::min_in_sync;
use super::validate::sum;
use crate::certificates::KeyedCertificate;
use crate::names;
use crate::runtime::clusters::{ClientListener, ClusterFacts};
use std::collections::BTreeMap;

impl ClusterFacts {
    /// Without what only a running cluster tells: racks of brokers, and certificates.
    pub fn of_spec(object: &KafkaCluster) -> Self {
        let (spec, meta) = (&object.spec, &object.metadata);
        let host = names::bootstrap_host(meta.name.as_deref().unwrap_or_default(), meta.namespace.as_deref().unwrap_or_default());
        let listener = |listener: &Listener| ClientListener {
            name: listener.name.clone(),
            authentication: listener.authentication,
            bootstrap: format!("{host}:{}", listener.port),
        };
        Self {
            version: spec.version.clone(),
            brokers: sum(spec, Role::Broker),
            racks: BTreeMap::new(),
            min_in_sync: min_in_sync(spec),
            throttle: spec.rebalance.fixed_rate(),
            listeners: spec.listeners.iter().map(listener).collect(),
            trust_bundle: String::new(),
            clients_ca: KeyedCertificate { certificate: String::new(), key: String::new() },
            password_key: String::new(),
            access: spec.access.clone(),
            shadow: spec.authorization.shadow,
            super_users: spec.authorization.super_users.clone(),
        }
    }
}
