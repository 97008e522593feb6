//! ConfigMaps: a node group's configuration, and the certificate that clients trust. Pure.

use super::super::api::Role;
use super::super::identity::Identity;
use super::super::validate::{NodeGroup, ValidCluster};
use super::server_properties::server_properties;
use super::{CONTROLLER_PORT, Trust, metadata};
use crate::kafka::properties;
use crate::names;
use k8s_openapi::api::core::v1::ConfigMap;
use std::collections::BTreeMap;

pub const SERVER: &str = "server.properties";
pub const FORMAT: &str = "format.properties";

/// What the launcher reads.
pub fn node_config(cluster: &ValidCluster, group: &NodeGroup, identity: &Identity) -> ConfigMap {
    let format = BTreeMap::from([
        ("cluster.id".to_owned(), identity.cluster_id.clone()),
        ("initial.controllers".to_owned(), initial_controllers(cluster, identity)),
    ]);
    ConfigMap {
        metadata: metadata(cluster, &group.stateful_set),
        data: Some(BTreeMap::from([
            (SERVER.to_owned(), properties::render(&server_properties(cluster, group))),
            (FORMAT.to_owned(), properties::render(&format)),
        ])),
        ..Default::default()
    }
}

/// `id@host:port:directoryId` of each, as `kafka-storage format --initial-controllers` takes it; none once the quorum
/// is formed, so that an empty volume can never form a second one.
fn initial_controllers(cluster: &ValidCluster, identity: &Identity) -> String {
    if identity.formed {
        return String::new();
    }
    let voters = cluster.groups_of(Role::Controller).flat_map(|group| {
        group.node_ids().filter_map(move |id| {
            let directory = identity.initial_controllers.get(&id)?;
            Some(format!("{id}@{}:{CONTROLLER_PORT}:{directory}", cluster.host(group, id)))
        })
    });
    voters.collect::<Vec<_>>().join(",")
}

/// Public: anybody may read what to trust.
pub fn trust_bundle(cluster: &ValidCluster, trust: &Trust) -> ConfigMap {
    ConfigMap {
        metadata: metadata(cluster, &names::trust_bundle(&cluster.key.name)),
        data: Some(BTreeMap::from([("ca.crt".to_owned(), trust.cluster_ca.clone())])),
        ..Default::default()
    }
}
