//! A StatefulSet for each node pool and zone. Pure.
//!
//! OnDelete: the operator, not the StatefulSet controller, chooses which pods restart and when. Ordinals start at the
//! group's first node id, so that a pod's index is its node id.

use super::super::api::{KafkaClusterSpec, Role};
use super::super::identity::Identity;
use super::super::validate::{NodeGroup, ValidCluster, sum};
use super::server_properties::replication_defaults;
use super::{config_maps, containers, metadata, pod_selector, volumes};
use crate::{labels, names};
use k8s_openapi::api::apps::v1::{
    StatefulSet, StatefulSetOrdinals, StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec, StatefulSetUpdateStrategy,
};
use k8s_openapi::api::core::v1::{
    ConfigMap, PodReadinessGate, PodSecurityContext, PodSpec, PodTemplateSpec, SeccompProfile, TopologySpreadConstraint,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// Non-root, and the owner of the volumes.
const USER_ID: i64 = 10_001;
/// A broker hands its partitions over before it ends.
const GRACE_SECONDS: i64 = 120;

pub fn stateful_set(cluster: &ValidCluster, group: &NodeGroup, identity: &Identity, config: &ConfigMap) -> StatefulSet {
    let selector = pod_selector(cluster, group);
    let mut metadata = metadata(cluster, &group.stateful_set);
    metadata.labels = Some(selector.clone());
    let retain = "Retain".to_owned();
    StatefulSet {
        metadata,
        spec: Some(StatefulSetSpec {
            service_name: Some(names::nodes_service(&cluster.key.name)),
            replicas: Some(if cluster.hibernated { 0 } else { group.running }),
            ordinals: Some(StatefulSetOrdinals { start: Some(group.first_node_id) }),
            pod_management_policy: Some("Parallel".into()),
            update_strategy: Some(StatefulSetUpdateStrategy { type_: Some("OnDelete".into()), rolling_update: None }),
            persistent_volume_claim_retention_policy: Some(StatefulSetPersistentVolumeClaimRetentionPolicy {
                when_deleted: Some(retain.clone()),
                when_scaled: Some(retain),
            }),
            revision_history_limit: Some(2),
            selector: LabelSelector { match_labels: Some(selector), match_expressions: None },
            template: template(cluster, group, config),
            volume_claim_templates: Some(volumes::claims(cluster, group, identity)),
            ..Default::default()
        }),
        status: None,
    }
}

fn hash(text: &str) -> String {
    names::hex(&Sha256::digest(text)[..8])
}

/// What a node has from its start and keeps to its end, as annotations by which a pod that is out of date is known. The
/// image is in the pod itself.
fn revision(cluster: &ValidCluster, group: &NodeGroup, template: &PodTemplateSpec, config: &ConfigMap) -> BTreeMap<String, String> {
    let server = config.data.as_ref().and_then(|data| data.get(config_maps::SERVER)).map(String::as_str).unwrap_or_default();
    // Where controllers are is for a node's first contact, and for the time when it knows no leader: it need not know all.
    let server: Vec<_> = server.lines().filter(|line| !line.starts_with("controller.quorum.bootstrap.servers=")).collect();
    let mut template = template.clone();
    for container in template.spec.iter_mut().flat_map(|spec| &mut spec.containers) {
        container.image = None;
    }
    let template = serde_json::to_string(&template).expect("a pod template serializes");
    let mut all = BTreeMap::from([
        (labels::CONFIG_HASH.to_owned(), hash(&server.join("\n"))),
        (labels::TEMPLATE_HASH.to_owned(), hash(&template)),
        (labels::SPEC_HASH.to_owned(), hash(&what_pods_depend_on(&cluster.spec, group))),
    ]);
    let controllers: Vec<_> = cluster.groups_of(Role::Controller).flat_map(NodeGroup::node_ids).map(|id| id.to_string()).collect();
    all.insert(labels::CONTROLLERS.to_owned(), controllers.join(","));
    all.extend(cluster.restart.clone().map(|value| (labels::RESTART.to_owned(), value)));
    all
}

/// The part of a spec that a change of the spec must be in to change a pod of this group: where it is the same and the pod's
/// template is another, this operator makes pods otherwise than the one before it.
fn what_pods_depend_on(spec: &KafkaClusterSpec, group: &NodeGroup) -> String {
    let pool = &group.pool;
    let mut config = replication_defaults(sum(spec, Role::Broker));
    config.extend(spec.config.clone());
    let mut all = vec![
        json!([spec.version, config, spec.listeners, spec.authorization.super_users]),
        json!([pool.name, pool.roles, pool.resources, pool.jvm, pool.config, pool.pod_template]),
    ];
    // Further volumes come and go some time after the spec has said so.
    all.extend(group.volumes.iter().skip(1).map(|volume| json!(volume.name)));
    json!(all).to_string()
}

fn template(cluster: &ValidCluster, group: &NodeGroup, config: &ConfigMap) -> PodTemplateSpec {
    let custom = &group.pool.pod_template;
    let mut pod_labels = custom.labels.clone();
    pod_labels.extend(pod_selector(cluster, group));
    pod_labels.insert(labels::BROKER.into(), group.is(Role::Broker).to_string());
    pod_labels.insert(labels::CONTROLLER.into(), group.is(Role::Controller).to_string());
    let mut node_selector = custom.node_selector.clone();
    node_selector.insert("topology.kubernetes.io/zone".into(), group.zone.clone());
    let metadata = ObjectMeta { labels: Some(pod_labels), annotations: Some(custom.annotations.clone()), ..Default::default() };
    let mut template = PodTemplateSpec {
        metadata: Some(metadata),
        spec: Some(PodSpec {
            service_account_name: Some(cluster.key.name.clone()),
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            containers: vec![containers::kafka(cluster, group)],
            volumes: Some(volumes::volumes(group)),
            readiness_gates: Some(vec![PodReadinessGate { condition_type: labels::IN_SYNC.into() }]),
            security_context: Some(PodSecurityContext {
                run_as_non_root: Some(true),
                run_as_user: Some(USER_ID),
                run_as_group: Some(USER_ID),
                fs_group: Some(USER_ID),
                // Volumes of terabytes are not walked through at each start.
                fs_group_change_policy: Some("OnRootMismatch".into()),
                seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".into(), localhost_profile: None }),
                ..Default::default()
            }),
            node_selector: Some(node_selector),
            topology_spread_constraints: Some(vec![spread(cluster)]),
            tolerations: Some(custom.tolerations.clone()).filter(|list| !list.is_empty()),
            priority_class_name: custom.priority_class_name.clone(),
            termination_grace_period_seconds: Some(GRACE_SECONDS),
            ..Default::default()
        }),
    };
    let revision = revision(cluster, group, &template, config);
    template.metadata.get_or_insert_default().annotations.get_or_insert_default().extend(revision);
    template
}

/// Nodes of a cluster on different machines, as far as there are enough.
fn spread(cluster: &ValidCluster) -> TopologySpreadConstraint {
    let selector: BTreeMap<_, _> = labels::cluster(&cluster.key.name);
    TopologySpreadConstraint {
        max_skew: 1,
        topology_key: "kubernetes.io/hostname".into(),
        when_unsatisfiable: "ScheduleAnyway".into(),
        label_selector: Some(LabelSelector { match_labels: Some(selector), match_expressions: None }),
        ..Default::default()
    }
}
