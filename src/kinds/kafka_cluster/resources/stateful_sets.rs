//! Builds a StatefulSet for each node pool and zone. Pure.
//!
//! The update strategy is OnDelete: the operator, not the StatefulSet controller, chooses which
//! pods restart and when. Ordinals start at the group's first node id, so that a pod's ordinal is
//! its node id.

use crate::api::kafka_cluster::{PodIds, PodSecurity, PodTemplate, Role};
use crate::kinds::kafka_cluster::model::cluster::{NodeGroup, ValidCluster};
use crate::kinds::kafka_cluster::observed::Identity;
use crate::kinds::kafka_cluster::resources::pod_template;
use crate::kinds::kafka_cluster::resources::server_properties::replication_defaults;
use crate::kinds::kafka_cluster::resources::{
    config_maps, containers, metadata, pod_selector, volumes,
};
use crate::kubernetes::restricted::USER_ID;
use crate::kubernetes::{Live, Object};
use crate::kubernetes::{labels, names};
use freehold_kafka::config::threads_default;
use k8s_openapi::api::apps::v1::{
    StatefulSet, StatefulSetOrdinals, StatefulSetPersistentVolumeClaimRetentionPolicy,
    StatefulSetSpec, StatefulSetUpdateStrategy,
};
use k8s_openapi::api::core::v1::{
    ConfigMap, LocalObjectReference, PodReadinessGate, PodSecurityContext, PodSpec,
    PodTemplateSpec, SeccompProfile, TopologySpreadConstraint,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// The default grace period: a broker hands its partitions over before it ends.
const GRACE_SECONDS: i64 = 120;

/// The desired StatefulSet of a node group.
pub fn stateful_set(
    cluster: &ValidCluster,
    group: &NodeGroup,
    identity: &Identity,
    config: &ConfigMap,
) -> StatefulSet {
    let selector = pod_selector(cluster, group);
    let mut metadata = metadata(cluster, &group.stateful_set);
    metadata.labels = Some(selector.clone());
    let retain = "Retain".to_owned();
    StatefulSet {
        metadata,
        spec: Some(StatefulSetSpec {
            service_name: Some(names::nodes_service(&cluster.key.name)),
            replicas: Some(if cluster.hibernated { 0 } else { group.running }),
            ordinals: Some(StatefulSetOrdinals {
                start: Some(group.first_node_id),
            }),
            pod_management_policy: Some("Parallel".into()),
            update_strategy: Some(StatefulSetUpdateStrategy {
                type_: Some("OnDelete".into()),
                rolling_update: None,
            }),
            persistent_volume_claim_retention_policy: Some(
                StatefulSetPersistentVolumeClaimRetentionPolicy {
                    when_deleted: Some(retain.clone()),
                    when_scaled: Some(retain),
                },
            ),
            revision_history_limit: Some(2),
            selector: LabelSelector {
                match_labels: Some(selector),
                match_expressions: None,
            },
            template: template(cluster, group, config),
            volume_claim_templates: Some(volumes::claims(cluster, group, identity)),
            ..Default::default()
        }),
        status: None,
    }
}

/// The StatefulSet of a pool that was removed from the spec: unchanged, except for the number of
/// its pods.
pub fn retained(cluster: &ValidCluster, group: &NodeGroup, live: &Live) -> Object {
    let replicas = if cluster.hibernated { 0 } else { group.running };
    live.scaled(&metadata(cluster, &group.stateful_set), replicas)
}

fn hash(text: &str) -> String {
    names::hex(&Sha256::digest(text)[..8])
}

/// The annotations that record what a pod was started with. A pod whose annotations differ from the
/// desired ones is outdated.
fn revision(
    cluster: &ValidCluster,
    group: &NodeGroup,
    template: &PodTemplateSpec,
    config: &ConfigMap,
) -> BTreeMap<String, String> {
    let server = config
        .data
        .as_ref()
        .and_then(|data| data.get(config_maps::SERVER))
        .map(String::as_str)
        .unwrap_or_default();
    // The addresses of controllers are only for a node's first contact, and for times when it knows
    // no leader. It need not know all of them, so a change restarts nothing. Thread counts change
    // while nodes run, except those that a pool without brokers sets itself.
    let changes = |key: &str| {
        threads_default(key).is_some()
            && (group.is(Role::Broker) || !group.pool.config.contains_key(key))
    };
    let only_at_start = |line: &&str| {
        let key = line.split_once('=').map_or(*line, |(key, _)| key);
        key != "controller.quorum.bootstrap.servers" && !changes(key)
    };
    let server: Vec<_> = server.lines().filter(only_at_start).collect();
    let mut template = template.clone();
    for container in template
        .spec
        .iter_mut()
        .flat_map(|spec| &mut spec.containers)
    {
        container.image = None;
    }
    let template = serde_json::to_string(&template).expect("a pod template serializes");
    let mut all = BTreeMap::from([
        (labels::CONFIG_HASH.to_owned(), hash(&server.join("\n"))),
        (labels::TEMPLATE_HASH.to_owned(), hash(&template)),
        (
            labels::SPEC_HASH.to_owned(),
            hash(&what_pods_depend_on(cluster, group)),
        ),
    ]);
    let controllers: Vec<_> = cluster
        .groups_of(Role::Controller)
        .flat_map(NodeGroup::node_ids)
        .map(|id| id.to_string())
        .collect();
    all.insert(labels::CONTROLLERS.to_owned(), controllers.join(","));
    all.insert(labels::IMAGE.to_owned(), cluster.image.clone());
    all.extend(
        cluster
            .restart
            .clone()
            .map(|value| (labels::RESTART.to_owned(), value)),
    );
    all
}

/// The part of the spec that pods of this group depend on. If it is unchanged but the pod template
/// differs, the difference comes from another version of the operator.
fn what_pods_depend_on(cluster: &ValidCluster, group: &NodeGroup) -> String {
    let (spec, pool) = (&cluster.spec, &group.pool);
    let mut config = replication_defaults(cluster.brokers_for_defaults());
    config.extend(spec.config.clone());
    let mut all = vec![
        json!([
            spec.version,
            config,
            spec.listeners,
            spec.authorization.super_users
        ]),
        json!([
            pool.name,
            pool.roles,
            pool.resources,
            pool.jvm,
            pool.config,
            pool.pod_template
        ]),
    ];
    if !spec.pod_template.is_empty() {
        all.push(json!(spec.pod_template));
    }
    // Additional volumes are added and removed some time after the spec has changed.
    all.extend(
        group
            .volumes
            .iter()
            .skip(1)
            .map(|volume| json!(volume.name)),
    );
    json!(all).to_string()
}

fn template(cluster: &ValidCluster, group: &NodeGroup, config: &ConfigMap) -> PodTemplateSpec {
    let custom = &pod_template::merged(&cluster.spec, &group.pool);
    let mut pod_labels = custom.labels.clone();
    pod_labels.extend(pod_selector(cluster, group));
    pod_labels.insert(labels::BROKER.into(), group.is(Role::Broker).to_string());
    pod_labels.insert(
        labels::CONTROLLER.into(),
        group.is(Role::Controller).to_string(),
    );
    let mut node_selector = custom.node_selector.clone();
    node_selector.insert("topology.kubernetes.io/zone".into(), group.zone.clone());
    let metadata = ObjectMeta {
        labels: Some(pod_labels),
        annotations: Some(custom.annotations.clone()),
        ..Default::default()
    };
    let mut template = PodTemplateSpec {
        metadata: Some(metadata),
        spec: Some(PodSpec {
            service_account_name: Some(cluster.key.name.clone()),
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            containers: vec![containers::kafka(cluster, group, custom)],
            volumes: Some(volumes::volumes(group, custom)),
            readiness_gates: Some(vec![PodReadinessGate {
                condition_type: labels::IN_SYNC.into(),
            }]),
            security_context: Some(security(custom.security_context.as_ref())),
            node_selector: Some(node_selector),
            affinity: custom.affinity.clone(),
            topology_spread_constraints: Some(spread(cluster, custom)),
            image_pull_secrets: Some(pull_secrets(cluster, custom)).filter(|list| !list.is_empty()),
            tolerations: Some(custom.tolerations.clone()).filter(|list| !list.is_empty()),
            priority_class_name: custom.priority_class_name.clone(),
            termination_grace_period_seconds: Some(
                custom
                    .termination_grace_period_seconds
                    .map_or(GRACE_SECONDS, i64::from),
            ),
            ..Default::default()
        }),
    };
    let revision = revision(cluster, group, &template, config);
    template
        .metadata
        .get_or_insert_default()
        .annotations
        .get_or_insert_default()
        .extend(revision);
    template
}

/// The pull secrets of the operator's settings and those of the spec. A change of the settings is
/// not a change of the spec, and restarts nothing by itself.
fn pull_secrets(cluster: &ValidCluster, custom: &PodTemplate) -> Vec<LocalObjectReference> {
    let given = custom
        .image_pull_secrets
        .iter()
        .map(|secret| &secret.name)
        .filter(|name| !cluster.image_pull_secrets.contains(name));
    cluster
        .image_pull_secrets
        .iter()
        .chain(given)
        .map(|name| LocalObjectReference { name: name.clone() })
        .collect()
}

/// The security context: non-root, within Pod Security `restricted`, no matter who chooses the ids.
fn security(custom: Option<&PodSecurity>) -> PodSecurityContext {
    let custom = custom.cloned().unwrap_or_default();
    let id =
        |given: Option<i64>| given.or((custom.ids != Some(PodIds::Platform)).then_some(USER_ID));
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: id(custom.run_as_user),
        run_as_group: id(custom.run_as_group),
        fs_group: id(custom.fs_group),
        supplemental_groups: Some(custom.supplemental_groups).filter(|groups| !groups.is_empty()),
        // Otherwise Kubernetes would change the owner of every file at each start, which takes long
        // on volumes of terabytes.
        fs_group_change_policy: Some("OnRootMismatch".into()),
        seccomp_profile: Some(SeccompProfile {
            type_: "RuntimeDefault".into(),
            localhost_profile: None,
        }),
        ..Default::default()
    }
}

/// Spreads the nodes of a cluster over different machines if there are enough, unless the spec sets
/// its own spread over machines.
fn spread(cluster: &ValidCluster, custom: &PodTemplate) -> Vec<TopologySpreadConstraint> {
    let selector: BTreeMap<_, _> = labels::cluster(&cluster.key.name);
    let all = Some(LabelSelector {
        match_labels: Some(selector),
        match_expressions: None,
    });
    let machine = "kubernetes.io/hostname";
    let own = TopologySpreadConstraint {
        max_skew: 1,
        topology_key: machine.into(),
        when_unsatisfiable: "ScheduleAnyway".into(),
        label_selector: all.clone(),
        ..Default::default()
    };
    let given = &custom.topology_spread_constraints;
    let own = Some(own).filter(|_| given.iter().all(|one| one.topology_key != machine));
    let given = given.iter().map(|one| TopologySpreadConstraint {
        label_selector: one.label_selector.clone().or(all.clone()),
        ..one.clone()
    });
    own.into_iter().chain(given).collect()
}
