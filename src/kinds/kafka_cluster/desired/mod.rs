//! Valid cluster and identity -> every object that it is made of. Pure; cannot fail.

mod budgets;
mod config_maps;
mod containers;
mod network_policies;
pub mod server_properties;
mod services;
mod stateful_sets;
pub mod volumes;

use super::identity::Identity;
use super::validate::{NodeGroup, ValidCluster};
use crate::kube_io::Object;
use crate::labels;
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::collections::BTreeMap;

/// Controllers.
pub const CONTROLLER_PORT: u16 = 9090;
/// Brokers among themselves, and the operator.
pub const INTERNAL_PORT: u16 = 9091;
/// The launcher's probes.
pub const PROBE_PORT: u16 = 8080;

/// The certificates that clients and nodes trust, PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trust {
    pub cluster_ca: String,
    pub clients_ca: String,
}

/// Every object, in the order in which they are applied: what pods need comes before the pods.
pub fn desired(cluster: &ValidCluster, identity: &Identity, trust: &Trust) -> Vec<Object> {
    let mut objects = vec![Object::of(&service_account(cluster)), Object::of(&config_maps::trust_bundle(cluster, trust))];
    objects.extend(services::services(cluster).iter().map(Object::of));
    objects.extend(network_policies::network_policies(cluster).iter().map(Object::of));
    objects.extend(budgets::budgets(cluster).iter().map(Object::of));
    for group in &cluster.groups {
        let config = config_maps::node_config(cluster, group, identity);
        let stateful_set = stateful_sets::stateful_set(cluster, group, identity, &config);
        objects.push(Object::of(&config));
        objects.push(Object::of(&stateful_set));
    }
    objects
}

/// Pods run as this; it has no rights and no token.
fn service_account(cluster: &ValidCluster) -> ServiceAccount {
    ServiceAccount { metadata: metadata(cluster, &cluster.key.name), automount_service_account_token: Some(false), ..Default::default() }
}

/// Metadata of an object that goes with its KafkaCluster.
fn metadata(cluster: &ValidCluster, name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(cluster.key.namespace.clone()),
        labels: Some(labels::cluster(&cluster.key.name)),
        owner_references: Some(vec![cluster.owner.clone()]),
        ..Default::default()
    }
}

/// The labels by which a StatefulSet knows its pods.
fn pod_selector(cluster: &ValidCluster, group: &NodeGroup) -> BTreeMap<String, String> {
    let mut selector = labels::cluster(&cluster.key.name);
    selector.insert(labels::POOL.into(), group.pool.name.clone());
    selector.insert(labels::ZONE.into(), group.zone.clone());
    selector
}
