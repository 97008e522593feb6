//! Volumes of a node's pod. Pure.

use super::super::api::DataVolume;
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

/// Name of a data volume in a pod: `data`, or `data-` and the name that the spec gives.
fn pod_volume(name: &str) -> String {
    if name.is_empty() { DATA.to_owned() } else { format!("{DATA}-{name}") }
}

/// The reverse; `None` for a volume without records.
pub fn volume_name(pod_volume: &str) -> Option<&str> {
    pod_volume.strip_prefix(DATA).and_then(|rest| if rest.is_empty() { Some(rest) } else { rest.strip_prefix('-') })
}

/// Name of a pod's claim.
pub fn claim_name(volume: &str, pod: &str) -> String {
    format!("{}-{pod}", pod_volume(volume))
}

/// The reverse: the volume that a claim of this pod is for; `None` for a claim of another pod.
pub fn claimed_volume<'a>(claim: &'a str, pod: &str) -> Option<&'a str> {
    claim.strip_suffix(pod)?.strip_suffix('-').and_then(volume_name)
}

/// Kafka's log folder on a volume.
pub fn log_folder(volume: &str) -> String {
    format!("{}/log", mount_path(volume))
}

fn mount_path(volume: &str) -> String {
    if volume.is_empty() { DATA_FOLDER.to_owned() } else { format!("{DATA_FOLDER}-{volume}") }
}

pub fn mounts(group: &NodeGroup) -> Vec<VolumeMount> {
    let mount = |name: &str, path: &str, read_only: bool| VolumeMount {
        name: name.into(),
        mount_path: path.into(),
        read_only: read_only.then_some(true),
        ..Default::default()
    };
    let mut mounts: Vec<_> =
        group.volumes.iter().map(|volume| mount(&pod_volume(&volume.name), &mount_path(&volume.name), false)).collect();
    mounts.extend([mount("config", CONFIG_FOLDER, true), mount("tls", TLS_FOLDER, true), mount("tmp", "/tmp", false)]);
    mounts
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

/// The templates of a group's claims.
pub fn claims(cluster: &ValidCluster, group: &NodeGroup, identity: &Identity) -> Vec<PersistentVolumeClaim> {
    group.volumes.iter().map(|volume| claim(cluster, group, identity, volume)).collect()
}

/// A volume knows its cluster, pool, zone and first node id, so that identities can be rebuilt from volumes alone.
fn claim(cluster: &ValidCluster, group: &NodeGroup, identity: &Identity, volume: &DataVolume) -> PersistentVolumeClaim {
    let mut labels = pod_selector(cluster, group);
    labels.insert(labels::FIRST_NODE_ID.into(), group.first_node_id.to_string());
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(pod_volume(&volume.name)),
            labels: Some(labels),
            annotations: Some(BTreeMap::from([(labels::CLUSTER_ID.to_owned(), identity.cluster_id.clone())])),
            ..Default::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".into()]),
            volume_mode: Some("Filesystem".into()),
            storage_class_name: volume.storage_class_name.clone(),
            volume_attributes_class_name: volume.volume_attributes_class_name.clone(),
            resources: Some(VolumeResourceRequirements {
                requests: Some(BTreeMap::from([("storage".to_owned(), volume.size.clone())])),
                limits: None,
            }),
            ..Default::default()
        }),
        status: None,
    }
}
