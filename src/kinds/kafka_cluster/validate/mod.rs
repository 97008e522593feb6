//! Validates the spec against the observed state: returns a valid cluster, or all errors at once.
//! Pure.

pub mod checks;
pub mod groups;
pub mod removed_pools;

pub use crate::kinds::kafka_cluster::validate::groups::{live_nodes, running, zones};

use crate::api::kafka_cluster::{
    Access, ClusterState, KafkaCluster, KafkaClusterSpec, NodePool, Role,
};
use crate::api::reference::ClusterKey;
use crate::kinds::error::Invalid;
use crate::kinds::kafka_cluster::disruption::windows;
use crate::kinds::kafka_cluster::identity;
use crate::kinds::kafka_cluster::model::child_names;
use crate::kinds::kafka_cluster::model::cluster::NodeGroup;
use crate::kinds::kafka_cluster::model::cluster::ValidCluster;
use crate::kinds::kafka_cluster::model::heap::{heap, memory};
use crate::kinds::kafka_cluster::observed::Observed;
use crate::kinds::kafka_cluster::replacing;
use crate::kinds::kafka_cluster::resources::pod_template;
use crate::kinds::kafka_cluster::validate::checks::{
    check_authority, check_client_authorities, check_configs, check_identity,
    check_leaving_volumes, check_replication, check_resources, check_sizes, check_storage,
    check_version,
};
use crate::kinds::kafka_cluster::validate::groups::{groups, slots};
use crate::kubernetes;
use crate::kubernetes::quantity;
use crate::tenancy::access::name_pattern;
use freehold_kafka::config::{self};
use freehold_kafka::jvm_options;
use freehold_kafka::node_ids::{BLOCK, allocate};

/// The errors and warnings that do not depend on the observed state; the webhook uses them too.
/// `image`: the image of the spec's version.
pub fn check(spec: &KafkaClusterSpec, image: Option<&String>) -> (Vec<Invalid>, Vec<String>) {
    let mut invalids = Vec::new();
    let mut warnings = Vec::new();
    let mut invalid = |field: &str, why: String| invalids.push(Invalid::new(field, why));
    check_known_version(spec, image, &mut invalid, &mut warnings);
    check_replication(spec, &mut invalid);
    check_storage(spec, &mut invalid);
    if spec.rebalance.fixed_rate() == Some(0) {
        invalid(
            "spec.rebalance.throttle",
            "0 bytes a second let nothing move; give more, or set rebalance.mode to Never".into(),
        );
    }
    pod_template::check("spec.podTemplate", &spec.pod_template, false, &mut invalid);
    for pool in &spec.node_pools {
        check_pool(spec, pool, &mut invalid);
    }
    let controllers = sum(spec, Role::Controller);
    if controllers == 0 {
        invalid(
            "spec.nodePools",
            "no controllers are left; give a pool of controllers replicas".into(),
        );
    }
    if controllers > 0 && controllers.is_multiple_of(2) {
        warnings.push(format!(
            "{controllers} controllers tolerate no more failures than {}: an odd number is better",
            controllers - 1
        ));
    }
    if spec.listeners.is_empty() {
        warnings
            .push("no listeners: only the operator can connect; add one to spec.listeners".into());
    }
    if spec.certificates.renew_before_days >= spec.certificates.validity_days {
        invalid(
            "spec.certificates.renewBeforeDays",
            "not below validityDays, so that certificates would be issued for ever; lower it"
                .into(),
        );
    }
    check_access(&spec.access, &mut invalid);
    for (index, window) in spec.rollout.maintenance_windows.iter().enumerate() {
        if let Err(why) = windows::schedule(window) {
            invalid(&format!("spec.rollout.maintenanceWindows[{index}]"), why);
        }
    }
    (invalids, warnings)
}

/// Refuses a version that Freehold does not know or has no image for, and its invalid configs.
fn check_known_version(
    spec: &KafkaClusterSpec,
    image: Option<&String>,
    invalid: &mut impl FnMut(&str, String),
    warnings: &mut Vec<String>,
) {
    match (config::definitions(&spec.version), image) {
        (None, _) => invalid(
            "spec.version",
            format!(
                "{:?} is not known; use one of {}",
                spec.version,
                config::VERSIONS.join(", ")
            ),
        ),
        (Some(_), None) => invalid(
            "spec.version",
            format!(
                "no image is configured for {}; set kafkaImages of the chart",
                spec.version
            ),
        ),
        (Some(definitions), Some(_)) => check_configs(spec, definitions, invalid, warnings),
    }
}

fn check_pool(spec: &KafkaClusterSpec, pool: &NodePool, invalid: &mut impl FnMut(&str, String)) {
    let field = format!("spec.nodePools[{}]", pool.name);
    if pool.per_zone() > BLOCK {
        invalid(
            &format!("{field}.replicas"),
            format!("more than {BLOCK} nodes in a zone; add a pool"),
        );
    }
    check_resources(pool, invalid);
    let target = pool
        .autoscaling
        .as_ref()
        .and_then(|autoscaling| autoscaling.bytes_per_second.as_ref());
    if target.is_some_and(|target| quantity::bytes(target).is_none_or(|bytes| bytes == 0)) {
        invalid(
            &format!("{field}.autoscaling.bytesPerSecond"),
            "not a number of bytes above 0, such as 100Mi".into(),
        );
    }
    pod_template::check(
        &format!("{field}.podTemplate"),
        &pool.pod_template,
        true,
        invalid,
    );
    pod_template::check_merged(spec, pool, invalid);
    for option in &pool.jvm.options {
        if let Some(why) = jvm_options::refuse(option) {
            let named: String = option.chars().take(60).collect();
            invalid(&format!("{field}.jvm.options"), format!("{named:?}: {why}"));
        }
    }
    if let Some(why) = jvm_options::refuse_all(&pool.jvm.options) {
        invalid(&format!("{field}.jvm.options"), why);
    }
    match heap(pool) {
        // An invalid quantity was already reported for its own field.
        Err((inner, _))
            if inner.starts_with("resources.") && quantity::bytes(&memory(pool).1).is_none() => {}
        Err((inner, why)) => invalid(&format!("{field}.{inner}"), why),
        Ok(_) => {}
    }
}

/// Refuses patterns of names that are not regular expressions.
fn check_access(access: &Access, invalid: &mut impl FnMut(&str, String)) {
    for (field, names) in [
        ("topicNames", &access.topic_names),
        ("principalNames", &access.principal_names),
    ] {
        if let Some(pattern) = names.as_ref().and_then(|names| names.pattern.as_ref())
            && let Err(why) = name_pattern(pattern)
        {
            invalid(
                &format!("spec.access.{field}.pattern"),
                format!("not a regular expression: {}", why.replace('\n', " ")),
            );
        }
    }
}

/// Validates the spec and builds the cluster from it.
///
/// # Errors
/// Returns all errors, not only the first.
pub fn validate(object: &KafkaCluster, observed: &Observed) -> Result<ValidCluster, Vec<Invalid>> {
    let spec = &object.spec;
    let key = ClusterKey::of(object);
    let (mut invalids, mut warnings) = check(spec, observed.image.as_ref());
    let mut invalid = |field: &str, why: String| invalids.push(Invalid::new(field, why));
    check_version(object, observed, &mut invalid);
    check_identity(spec, observed, &mut invalid);
    check_authority(spec, observed.given_ca.as_ref(), &key.name, &mut invalid);
    check_client_authorities(spec, observed, &key.name, &mut invalid);
    for (name, holder) in &observed.certified {
        invalid(
            "spec.authorization.superUsers",
            format!("{name}: {holder}; take another name"),
        );
    }
    let slots = slots(spec);
    let given = observed
        .identity
        .as_ref()
        .map(crate::kinds::kafka_cluster::observed::Identity::blocks)
        .unwrap_or_else(|| identity::blocks_of_volumes(&observed.volumes));
    let blocks = allocate(&given, slots);
    let groups = groups(&sorted(spec), &key, &blocks, observed);
    check_leaving_volumes(&spec.version, &groups, &mut invalid);
    check_sizes(spec, &groups, observed, &mut invalid);
    child_names::check_claims(&groups, &observed.foreign_claims, &mut invalid);
    child_names::check_groups(&groups, &mut invalid);
    invalids.extend(child_names::check(object, &observed.neighbours));
    let asked = replacing::request::allowed(object, &groups, &mut warnings);
    let lost = replacing::lost(object, asked, &groups, observed);
    let replace = asked.filter(|id| !lost.contains(id));
    let cordons_replaced = replace.is_some_and(|id| !replacing::is_being_filled(id, observed));
    if !invalids.is_empty() {
        return Err(invalids);
    }
    let annotation = |key: &str| {
        object
            .metadata
            .annotations
            .as_ref()
            .and_then(|all| all.get(key))
            .cloned()
    };
    Ok(ValidCluster {
        key,
        owner: kubernetes::owner(object),
        spec: sorted(spec),
        image: observed.image.clone().unwrap_or_default(),
        replace,
        cordons_replaced,
        lost,
        hibernated: is_hibernated(object, &groups),
        restart: annotation(crate::kubernetes::labels::RESTART),
        renew_certificates: annotation(crate::kubernetes::labels::RENEW_CERTIFICATES),
        operator_namespace: observed.operator_namespace.clone(),
        image_pull_secrets: observed.image_pull_secrets.clone(),
        cluster_domain: observed.cluster_domain.clone(),
        serving: observed
            .pods
            .iter()
            .filter(|pod| pod.broker)
            .map(|pod| pod.listeners.clone())
            .collect(),
        blocks,
        groups,
        warnings,
    })
}

/// The spec with its lists sorted, because their order has no meaning.
fn sorted(spec: &KafkaClusterSpec) -> KafkaClusterSpec {
    let mut spec = spec.clone();
    spec.listeners.sort_by(|a, b| a.name.cmp(&b.name));
    spec.node_pools.sort_by(|a, b| a.name.cmp(&b.name));
    spec.authorization.super_users.sort_unstable();
    for pool in &mut spec.node_pools {
        pool.roles.sort_unstable();
        pool.zones.sort_unstable();
    }
    spec
}

/// True if the spec pauses the cluster.
pub fn is_paused(object: &KafkaCluster) -> bool {
    object.spec.state == ClusterState::Paused
}

/// True if the cluster shall hibernate and nothing is in progress that would be left incomplete.
fn is_hibernated(object: &KafkaCluster, groups: &[NodeGroup]) -> bool {
    let busy = object
        .status
        .as_ref()
        .is_some_and(|status| status.disruption.is_some());
    let leaving = groups
        .iter()
        .any(|group| group.leaving_ids().next().is_some());
    object.spec.state == ClusterState::Hibernated && !busy && !leaving
}

/// The number of nodes with the role according to the spec.
pub fn sum(spec: &KafkaClusterSpec, role: Role) -> u32 {
    spec.node_pools
        .iter()
        .filter(|pool| pool.roles.contains(&role))
        .map(|pool| pool.replicas)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn invalids(pool: &Value, config: &Value) -> Vec<String> {
        let mut one = json!({"name": "all", "roles": ["controller", "broker"], "replicas": 3, "zones": ["a", "b", "c"], "storage": {"size": "1Gi"}});
        one.as_object_mut()
            .unwrap()
            .extend(pool.as_object().unwrap().clone());
        let spec = serde_json::from_value(
            json!({"version": "4.3.1", "config": config, "nodePools": [one]}),
        )
        .unwrap();
        check(&spec, Some(&"image".to_owned()))
            .0
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn amounts_that_no_pod_can_have_are_refused_by_their_field() {
        let none: [&str; 0] = [];
        assert_eq!(
            invalids(
                &json!({"resources": {"requests": {"memory": "2Gi"}, "limits": {"cpu": "50m"}}}),
                &json!({})
            ),
            none
        );
        for (pool, words) in [
            (
                json!({"jvm": {"heap": "99999999999G"}}),
                "spec.nodePools[all].jvm.heap: a heap of 8796093022207 Mi",
            ),
            (
                json!({"resources": {"requests": {"memory": "2Gi"}}, "jvm": {"heap": "2Gi"}}),
                "are above resources.requests.memory, 2048 Mi",
            ),
            (
                json!({"resources": {"limits": {"memory": "2Gi"}, "requests": {"memory": "4Gi"}}}),
                "spec.nodePools[all].resources.requests.memory: 4Gi is above",
            ),
            (
                json!({"resources": {"limits": {"cpu": 1}, "requests": {"cpu": "1500m"}}}),
                "spec.nodePools[all].resources.requests.cpu: 1500m is above resources.limits.cpu, 1",
            ),
            (
                json!({"resources": {"limits": {"memory": "2GB"}}}),
                "spec.nodePools[all].resources.limits.memory: \"2GB\" is not a quantity",
            ),
            (
                json!({"resources": {"limits": {"memory": "-2Gi"}}}),
                "below zero",
            ),
            (
                json!({"autoscaling": {"maxReplicas": 6, "bytesPerSecond": "0Mi"}}),
                "spec.nodePools[all].autoscaling.bytesPerSecond",
            ),
            (
                json!({"jvm": {"options": ["-XX:+UseZGC", "-Xmx9g"]}}),
                "spec.nodePools[all].jvm.options: \"-Xmx9g\": Freehold sets the size",
            ),
            (
                json!({"jvm": {"options": ["-XX:+UseZGC", "-XX:+UseParallelGC"]}}),
                "are several garbage collectors",
            ),
            (
                json!({"storage": {"size": "0"}}),
                "spec.nodePools[all].storage.size",
            ),
        ] {
            let found = invalids(&pool, &json!({}));
            assert!(
                found.len() == 1 && found[0].contains(words),
                "{words:?} in {found:?}"
            );
        }
    }

    #[test]
    fn configs_that_belong_together_are_checked_as_each_pools_nodes_get_them() {
        let (queued, request) = ("queued.max.request.bytes", "socket.request.max.bytes");
        let mib = |key: &str, number: u32| json!({key: (number * 1024 * 1024).to_string()});
        let pool = |name: &str, role: &str, config: &Value| {
            json!({"name": name, "roles": [role], "replicas": 3, "zones": ["a", "b", "c"],
                "storage": {"size": "1Gi"}, "config": config})
        };
        let found = |config: &Value, brokers: &Value, controllers: &Value| {
            let pools = [
                pool("b", "broker", brokers),
                pool("c", "controller", controllers),
            ];
            let spec = json!({"version": "4.3.1", "config": config, "nodePools": pools});
            let spec = serde_json::from_value(spec).unwrap();
            let invalids = check(&spec, Some(&"image".to_owned())).0;
            invalids.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let (none, one) = (json!({}), mib(request, 1));
        // Below the default of the other, which every pool overrides.
        assert_eq!(found(&mib(queued, 2), &one, &one), [""; 0]);
        let of_cluster = found(&mib(queued, 2), &none, &none);
        assert!(
            of_cluster.len() == 1
                && of_cluster[0].starts_with("spec.config[queued.max.request.bytes]")
                && of_cluster[0].ends_with("lower the one or raise the other"),
            "{of_cluster:?}"
        );
        let of_one = found(&mib(queued, 2), &one, &none);
        assert!(
            of_one.len() == 1
                && of_one[0].starts_with("spec.config[queued.max.request.bytes]")
                && of_one[0].ends_with("raise the other, for the nodes of pool c"),
            "{of_one:?}"
        );
        // Each of the two is good without the other.
        let merged = found(&one, &mib(queued, 2), &mib(request, 3));
        assert_eq!(merged, [""; 0]);
        let cluster = json!({queued: "2097152", request: "1048576"});
        let merged = found(&cluster, &none, &mib(request, 3));
        assert!(
            merged.len() == 1
                && merged[0].starts_with("spec.nodePools[c].config[socket.request.max.bytes]"),
            "{merged:?}"
        );
    }

    #[test]
    fn configs_are_taken_as_people_write_them() {
        let config = json!({"num.io.threads": 16, "auto.create.topics.enable": true, "log.cleaner.io.buffer.load.factor": 0.9,
            "remote.log.storage.manager.impl.prefix": "tiered.", "tiered.bucket": "records"});
        // The pool's keys may have a prefix that a config of the cluster defines.
        assert_eq!(
            invalids(
                &json!({"config": {"tiered.part.bytes": 5_242_880}}),
                &config
            ),
            [""; 0]
        );
        let found = invalids(
            &json!({"config": {"rsm.config.bucket": "records"}}),
            &json!({"log.dirs": ["a"], "num.io.threads": {"a": 1}}),
        );
        assert!(
            found
                .iter()
                .any(|one| one.starts_with("spec.config[num.io.threads]: an object")),
            "{found:?}"
        );
        assert_eq!(found.len(), 2, "{found:?}");
    }
}
