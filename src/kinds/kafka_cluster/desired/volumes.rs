//! Volumes of a node's pod. Pure.

use super::super::identity::Identity;
use super::super::validate::{NodeGroup, ValidCluster};
use super::pod_selector;
use super::server_properties::{DATA_FOLDER, TLS_FOLDER};
use crate::{labels, names};
use k8s_openapi::api::core::v1::{
    ConfigMapVolumeSource, EmptyDirVolumeSource, PersistentVolumeClaim, PersistentVolumeClaimSpec, SecretVolumeSource, Volume, VolumeMount,
    VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::collections::BTreeMap;

pub const CONFIG_FOLDER: &str = "/etc/kafka/config";
const DATA: &str = "data";

/// Name of a pod's volume.
pub fn claim_name(pod: &str) -> String {
    format!("{DATA}-{pod}")
}

pub fn mounts() -> Vec<VolumeMount> {
    let mount = |name: &str, path: &str, read_only: bool| VolumeMount {
        name: name.into(),
        mount_path: path.into(),
        read_only: read_only.then_some(true),
        ..Default::default()
    };
    vec![mount(DATA, DATA_FOLDER, false), mount("config", CONFIG_FOLDER, true), mount("tls", TLS_FOLDER, true), mount("tmp", "/tmp", false)]
}

pub fn volumes(group: &NodeGroup) -> Vec<Volume> {
    let config = ConfigMapVolumeSource { name: group.stateful_set.clone(), default_mode: Some(0o444), ..Default::default() };
    let tls = SecretVolumeSource {
        secret_name: Some(names::node_certificates(&group.stateful_set)),
        default_mode: Some(0o440),
        ..Default::default()
    };
    vec![
        Volume { name: "config".into(), config_map: Some(config), ..Default::default() },
        Volume { name: "tls".into(), secret: Some(tls), ..Default::default() },
        Volume { name: "tmp".into(), empty_dir: Some(EmptyDirVolumeSource::default()), ..Default::default() },
    ]
}

/// A volume knows its cluster, pool, zone and first node id, so that identities can be rebuilt from volumes alone.
pub fn claim(cluster: &ValidCluster, group: &NodeGroup, identity: &Identity) -> PersistentVolumeClaim {
    let mut labels = pod_selector(cluster, group);
    labels.insert(labels::FIRST_NODE_ID.into(), group.first_node_id.to_string());
    let storage = &group.pool.storage;
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(DATA.into()),
            labels: Some(labels),
            annotations: Some(BTreeMap::from([(labels::CLUSTER_ID.to_owned(), identity.cluster_id.clone())])),
            ..Default::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".into()]),
            volume_mode: Some("Filesystem".into()),
            storage_class_name: storage.storage_class_name.clone(),
            volume_attributes_class_name: storage.volume_attributes_class_name.clone(),
            resources: Some(VolumeResourceRequirements {
                requests: Some(BTreeMap::from([("storage".to_owned(), storage.size.clone())])),
                limits: None,
            }),
            ..Default::default()
        }),
        status: None,
    }
}
