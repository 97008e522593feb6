//! Builds all desired objects of a cluster from the valid cluster and its identity. Pure; it cannot
//! fail.

pub mod pod_template;

mod budgets;
mod config_maps;
mod containers;
mod network_policies;
pub mod server_properties;
mod services;
mod stateful_sets;
pub mod volumes;

use crate::kinds::kafka_cluster::model::authority::Trust;
use crate::kinds::kafka_cluster::model::cluster::{NodeGroup, ValidCluster};
use crate::kinds::kafka_cluster::observed::Identity;
use crate::kubernetes::Object;
use crate::kubernetes::labels;
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::collections::BTreeMap;

/// All objects in the order in which they are applied: what pods need comes before the pods.
pub fn desired(cluster: &ValidCluster, identity: &Identity, trust: &Trust) -> Vec<Object> {
    let mut objects = vec![
        Object::of(&service_account(cluster)),
        Object::of(&config_maps::trust_bundle(cluster, trust)),
    ];
    objects.extend(services::services(cluster).iter().map(Object::of));
    objects.extend(
        network_policies::network_policies(cluster)
            .iter()
            .map(Object::of),
    );
    objects.extend(budgets::budgets(cluster).iter().map(Object::of));
    for group in &cluster.groups {
        // The ConfigMap of such a group is not changed either.
        if let Some(set) = &group.retained {
            objects.push(stateful_sets::retained(cluster, group, set));
            continue;
        }
        let config = config_maps::node_config(cluster, group, identity);
        let stateful_set = stateful_sets::stateful_set(cluster, group, identity, &config);
        objects.push(Object::of(&config));
        objects.push(Object::of(&stateful_set));
    }
    objects
}

/// The ServiceAccount of the pods; it has no rights and no token.
fn service_account(cluster: &ValidCluster) -> ServiceAccount {
    let mut metadata = metadata(cluster, &cluster.key.name);
    metadata.annotations = cluster
        .spec
        .pod_template
        .service_account
        .as_ref()
        .map(|account| account.annotations.clone());
    ServiceAccount {
        metadata,
        automount_service_account_token: Some(false),
        ..Default::default()
    }
}

/// The metadata of an object that is deleted with its KafkaCluster.
fn metadata(cluster: &ValidCluster, name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(cluster.key.namespace.clone()),
        labels: Some(labels::cluster(&cluster.key.name)),
        owner_references: Some(vec![cluster.owner.clone()]),
        ..Default::default()
    }
}

/// The labels by which a StatefulSet selects its pods.
fn pod_selector(cluster: &ValidCluster, group: &NodeGroup) -> BTreeMap<String, String> {
    let mut selector = labels::cluster(&cluster.key.name);
    selector.insert(labels::POOL.into(), group.pool.name.clone());
    selector.insert(labels::ZONE.into(), group.zone.clone());
    selector
}
