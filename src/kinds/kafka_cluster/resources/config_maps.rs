//! Builds the ConfigMaps: the configuration of a node group, and the certificates that clients
//! trust. Pure.

use crate::api::kafka_cluster::Role;
use crate::kinds::kafka_cluster::model::authority::Trust;
use crate::kinds::kafka_cluster::model::cluster::{NodeGroup, ValidCluster};
use crate::kinds::kafka_cluster::model::ports::CONTROLLER_PORT;
use crate::kinds::kafka_cluster::observed::Identity;
use crate::kinds::kafka_cluster::resources::metadata;
use crate::kinds::kafka_cluster::resources::server_properties::server_properties;
use crate::kubernetes::names;
use freehold_kafka::properties;
use k8s_openapi::api::core::v1::ConfigMap;
use std::collections::BTreeMap;

/// The key of the Kafka configuration.
pub const SERVER: &str = "server.properties";
/// The key of the data for formatting a new volume.
pub const FORMAT: &str = "format.properties";

/// The ConfigMap of a node group, which the launcher in the image reads.
pub fn node_config(cluster: &ValidCluster, group: &NodeGroup, identity: &Identity) -> ConfigMap {
    let format = BTreeMap::from([
        ("cluster.id".to_owned(), identity.cluster_id.clone()),
        (
            "initial.controllers".to_owned(),
            initial_controllers(cluster, identity),
        ),
    ]);
    ConfigMap {
        metadata: metadata(cluster, &group.stateful_set),
        data: Some(BTreeMap::from([
            (
                SERVER.to_owned(),
                properties::render(&server_properties(cluster, group)),
            ),
            (FORMAT.to_owned(), properties::render(&format)),
        ])),
        ..Default::default()
    }
}

/// `id@host:port:directoryId` of each initial controller, as `kafka-storage format
/// --initial-controllers` takes it. Empty once the quorum is formed, so that a node with an empty
/// volume can never form a second one.
fn initial_controllers(cluster: &ValidCluster, identity: &Identity) -> String {
    if identity.formed {
        return String::new();
    }
    let voters = cluster.groups_of(Role::Controller).flat_map(|group| {
        group.node_ids().filter_map(move |id| {
            let directory = identity.initial_controllers.get(&id)?;
            Some(format!(
                "{id}@{}:{CONTROLLER_PORT}:{directory}",
                cluster.host(group, id)
            ))
        })
    });
    voters.collect::<Vec<_>>().join(",")
}

/// The ConfigMap with the CA certificates that clients trust. They are public, so it is not a
/// Secret.
pub fn trust_bundle(cluster: &ValidCluster, trust: &Trust) -> ConfigMap {
    ConfigMap {
        metadata: metadata(cluster, &names::trust_bundle(&cluster.key.name)),
        data: Some(BTreeMap::from([(
            "ca.crt".to_owned(),
            trust.bundle.clone(),
        )])),
        ..Default::default()
    }
}
