//! The facts about a cluster that Topics and Users need, from its spec alone. Pure.

use crate::api::kafka_cluster::{
    Access, KafkaCluster, KafkaClusterSpec, Listener, RightsPolicy, Role,
};
use crate::certificates::KeyedCertificate;
use crate::clusters::{ClientListener, ClusterFacts, PasswordKey};
use crate::kinds::kafka_cluster::observed::Identity;
use crate::kinds::kafka_cluster::resources::server_properties::min_in_sync;
use crate::kinds::kafka_cluster::validate::{is_paused, sum};
use crate::kubernetes::names;
use std::collections::BTreeMap;

/// The policy for rights of Users in other namespaces: from the spec, else from the identity, which
/// records the default at the cluster's creation, else from the status if the identity was not
/// read.
pub fn rights(object: &KafkaCluster, identity: Option<&Identity>) -> RightsPolicy {
    let by_age = identity.map(|identity| {
        if identity.own_rights {
            RightsPolicy::Own
        } else {
            RightsPolicy::Any
        }
    });
    let known = by_age.or(object.status.as_ref().and_then(|status| status.rights));
    object
        .spec
        .access
        .rights
        .or(known)
        .unwrap_or(RightsPolicy::Own)
}

impl ClusterFacts {
    /// The facts from the spec. Fields that need a running cluster stay empty: cluster id, racks
    /// and certificates.
    pub fn of_spec(object: &KafkaCluster) -> Self {
        let (spec, meta) = (&object.spec, &object.metadata);
        let host = names::bootstrap_host(
            meta.name.as_deref().unwrap_or_default(),
            meta.namespace.as_deref().unwrap_or_default(),
        );
        let listener = |listener: &Listener| ClientListener {
            name: listener.name.clone(),
            authentication: listener.authentication,
            bootstrap: format!("{host}:{}", listener.port),
        };
        Self {
            version: spec.version.clone(),
            cluster_id: String::new(),
            paused: is_paused(object),
            brokers: sum(spec, Role::Broker),
            racks: BTreeMap::new(),
            min_in_sync: min_in_sync(spec, sum(spec, Role::Broker)),
            deletes_topics: deletes_topics(spec),
            throttle: spec.rebalance.fixed_rate(),
            listeners: spec.listeners.iter().map(listener).collect(),
            trust_bundle: String::new(),
            cluster_ca: None,
            clients_ca: KeyedCertificate {
                certificate: String::new(),
                key: String::new(),
            },
            password_key: PasswordKey::default(),
            access: Access {
                rights: Some(rights(object, None)),
                ..spec.access.clone()
            },
            shadow: spec.authorization.shadow,
            super_users: spec.authorization.super_users.clone(),
        }
    }
}

/// True if every controller allows the deletion of topics. Each decides by its own configuration.
fn deletes_topics(spec: &KafkaClusterSpec) -> bool {
    let key = "delete.topic.enable";
    let mut pools = spec
        .node_pools
        .iter()
        .filter(|pool| pool.roles.contains(&Role::Controller));
    pools.all(|pool| {
        pool.config
            .get(key)
            .or(spec.config.get(key))
            .is_none_or(|value| !value.trim().eq_ignore_ascii_case("false"))
    })
}
