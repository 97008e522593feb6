//! Builds the volumes, mounts and claim templates of a node's pod. Pure.

use crate::api::kafka_cluster::{DataVolume, PodTemplate};
use crate::kinds::kafka_cluster::model::cluster::{NodeGroup, ValidCluster};
use crate::kinds::kafka_cluster::model::volume_names::mount_path;
use crate::kinds::kafka_cluster::model::volume_names::pod_volume;
use crate::kinds::kafka_cluster::observed::Identity;
use crate::kinds::kafka_cluster::resources::pod_selector;
use crate::kinds::kafka_cluster::resources::pod_template;
use crate::kinds::kafka_cluster::resources::server_properties::TLS_FOLDER;
use crate::kubernetes::{labels, names};
use k8s_openapi::api::core::v1::{
    ConfigMapVolumeSource, EmptyDirVolumeSource, PersistentVolumeClaim, PersistentVolumeClaimSpec,
    SecretVolumeSource, Volume, VolumeMount, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::collections::BTreeMap;

/// The folder in the container with the node's configuration.
pub const CONFIG_FOLDER: &str = "/etc/kafka/config";
/// The names of a pod's volumes that hold no data.
pub const OWNED_VOLUMES: [&str; 3] = ["config", "tls", "tmp"];

/// The mounts of the Kafka container.
pub fn mounts(group: &NodeGroup, template: &PodTemplate) -> Vec<VolumeMount> {
    let mount = |name: &str, path: &str, read_only: bool| VolumeMount {
        name: name.into(),
        mount_path: path.into(),
        read_only: read_only.then_some(true),
        ..Default::default()
    };
    let mut mounts: Vec<_> = group
        .volumes
        .iter()
        .map(|volume| mount(&pod_volume(&volume.name), &mount_path(&volume.name), false))
        .collect();
    mounts.extend([
        mount("config", CONFIG_FOLDER, true),
        mount("tls", TLS_FOLDER, true),
        mount("tmp", "/tmp", false),
    ]);
    mounts.extend(template.volume_mounts.iter().cloned());
    mounts
}

/// The volumes of a pod, without those of its claims.
pub fn volumes(group: &NodeGroup, template: &PodTemplate) -> Vec<Volume> {
    let config = ConfigMapVolumeSource {
        name: group.stateful_set.clone(),
        default_mode: Some(0o444),
        ..Default::default()
    };
    let tls = SecretVolumeSource {
        secret_name: Some(names::node_certificates(&group.stateful_set)),
        default_mode: Some(0o440),
        ..Default::default()
    };
    let own = [
        Volume {
            name: "config".into(),
            config_map: Some(config),
            ..Default::default()
        },
        Volume {
            name: "tls".into(),
            secret: Some(tls),
            ..Default::default()
        },
        Volume {
            name: "tmp".into(),
            empty_dir: Some(EmptyDirVolumeSource::default()),
            ..Default::default()
        },
    ];
    own.into_iter()
        .chain(template.volumes.iter().map(pod_template::volume))
        .collect()
}

/// The claim templates of a group.
pub fn claims(
    cluster: &ValidCluster,
    group: &NodeGroup,
    identity: &Identity,
) -> Vec<PersistentVolumeClaim> {
    group
        .volumes
        .iter()
        .map(|volume| claim(cluster, group, identity, volume))
        .collect()
}

/// A claim is labelled with its cluster, pool, zone and first node id, so that the identity can be
/// rebuilt from volumes alone.
fn claim(
    cluster: &ValidCluster,
    group: &NodeGroup,
    identity: &Identity,
    volume: &DataVolume,
) -> PersistentVolumeClaim {
    let mut labels = pod_selector(cluster, group);
    labels.insert(
        labels::FIRST_NODE_ID.into(),
        group.first_node_id.to_string(),
    );
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(pod_volume(&volume.name)),
            labels: Some(labels),
            annotations: Some(BTreeMap::from([(
                labels::CLUSTER_ID.to_owned(),
                identity.cluster_id.clone(),
            )])),
            ..Default::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".into()]),
            volume_mode: Some("Filesystem".into()),
            storage_class_name: volume.storage_class_name.clone(),
            volume_attributes_class_name: volume.volume_attributes_class_name.clone(),
            resources: Some(VolumeResourceRequirements {
                requests: Some(BTreeMap::from([(
                    "storage".to_owned(),
                    volume.size.clone(),
                )])),
                limits: None,
            }),
            ..Default::default()
        }),
        status: None,
    }
}
