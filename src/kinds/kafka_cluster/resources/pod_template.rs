//! Merges the pod templates of cluster and pool, and refuses entries that would break what Freehold
//! owns. Pure.

use crate::api::kafka_cluster::{KafkaClusterSpec, NodePool, PodIds, PodTemplate, PodVolume};
use crate::kinds::kafka_cluster::model::volume_names::volume_name;
use crate::kinds::kafka_cluster::resources::server_properties::TLS_FOLDER;
use crate::kinds::kafka_cluster::resources::volumes::{CONFIG_FOLDER, OWNED_VOLUMES};
use crate::kubernetes::labels;
use k8s_openapi::api::core::v1::{Affinity, Volume};
use std::collections::{BTreeMap, BTreeSet};

/// Prefixes of labels and annotations that belong to Freehold or to StatefulSets.
const OWNED_PREFIXES: [&str; 3] = [
    "freehold.dev/",
    "statefulset.kubernetes.io/",
    "apps.kubernetes.io/",
];
/// Labels that select a cluster's pods, or name the revision of a StatefulSet that they belong to.
const OWNED_LABELS: [&str; 4] = [
    "app.kubernetes.io/name",
    "app.kubernetes.io/instance",
    labels::MANAGED_BY,
    "controller-revision-hash",
];
/// Environment variables that Freehold sets.
const OWNED_VARIABLES: [&str; 2] = ["POD_NAME", "NODE_ID"];
/// Environment variables that change how the JVM itself starts.
const JVM_VARIABLES: [&str; 7] = [
    "JAVA_TOOL_OPTIONS",
    "JDK_JAVA_OPTIONS",
    "_JAVA_OPTIONS",
    "CLASSPATH",
    "LD_PRELOAD",
    "LD_LIBRARY_PATH",
    "LD_AUDIT",
];
/// Folders of Freehold, of the image and of the system. A mount must not be at, above or below one
/// of them.
const OWNED_FOLDERS: [&str; 12] = [
    CONFIG_FOLDER,
    TLS_FOLDER,
    "/var/lib/kafka",
    "/tmp",
    "/opt/kafka",
    "/opt/jre",
    "/proc",
    "/sys",
    "/dev",
    "/usr",
    "/lib",
    "/bin",
];

/// The template of a pool's pods. Maps and lists are merged by key; the pool's entries win over the
/// cluster's.
pub fn merged(spec: &KafkaClusterSpec, pool: &NodePool) -> PodTemplate {
    let (base, over) = (spec.pod_template.clone(), pool.pod_template.clone());
    let maps = |mut base: BTreeMap<String, String>, over| {
        base.extend(over);
        base
    };
    let mut tolerations = base.tolerations;
    tolerations.extend(
        over.tolerations
            .into_iter()
            .filter(|one| !spec.pod_template.tolerations.contains(one)),
    );
    PodTemplate {
        labels: maps(base.labels, over.labels),
        annotations: maps(base.annotations, over.annotations),
        tolerations,
        node_selector: maps(base.node_selector, over.node_selector),
        priority_class_name: over.priority_class_name.or(base.priority_class_name),
        affinity: affinity(base.affinity, over.affinity),
        topology_spread_constraints: by_key(
            base.topology_spread_constraints,
            over.topology_spread_constraints,
            |one| (one.topology_key.clone(), one.when_unsatisfiable.clone()),
        ),
        image_pull_secrets: by_key(base.image_pull_secrets, over.image_pull_secrets, |one| {
            one.name.clone()
        }),
        security_context: match (base.security_context, over.security_context) {
            (Some(mut base), Some(over)) => {
                base.ids = over.ids.or(base.ids);
                base.run_as_user = over.run_as_user.or(base.run_as_user);
                base.run_as_group = over.run_as_group.or(base.run_as_group);
                base.fs_group = over.fs_group.or(base.fs_group);
                base.supplemental_groups.extend(over.supplemental_groups);
                Some(base)
            }
            (base, over) => over.or(base),
        },
        env: by_key(base.env, over.env, |one| one.name.clone()),
        volumes: by_key(base.volumes, over.volumes, |one| one.name.clone()),
        volume_mounts: by_key(base.volume_mounts, over.volume_mounts, |one| {
            one.mount_path.clone()
        }),
        termination_grace_period_seconds: over
            .termination_grace_period_seconds
            .or(base.termination_grace_period_seconds),
        start_limit_seconds: over.start_limit_seconds.or(base.start_limit_seconds),
        service_account: base.service_account,
    }
}

fn affinity(base: Option<Affinity>, over: Option<Affinity>) -> Option<Affinity> {
    match (base, over) {
        (Some(base), Some(over)) => Some(Affinity {
            node_affinity: over.node_affinity.or(base.node_affinity),
            pod_affinity: over.pod_affinity.or(base.pod_affinity),
            pod_anti_affinity: over.pod_anti_affinity.or(base.pod_anti_affinity),
        }),
        (base, over) => over.or(base),
    }
}

/// Replaces entries of `base` by those of `over` with the same key, and appends the others. The
/// order is kept, because a variable may refer to an earlier one.
fn by_key<T, K: PartialEq>(mut base: Vec<T>, over: Vec<T>, key: impl Fn(&T) -> K) -> Vec<T> {
    for one in over {
        let wanted = key(&one);
        match base.iter().position(|known| key(known) == wanted) {
            Some(place) => base[place] = one,
            None => base.push(one),
        }
    }
    base
}

/// True if two folders are the same, or one contains the other.
fn overlap(a: &str, b: &str) -> bool {
    let inside = |inner: &str, outer: &str| {
        inner
            .strip_prefix(outer)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    inside(a, b) || inside(b, a)
}

/// Refuses invalid entries of one template. [`check_merged`] checks the merged template.
pub fn check(
    field: &str,
    template: &PodTemplate,
    of_pool: bool,
    invalid: &mut impl FnMut(&str, String),
) {
    check_names(field, template, invalid);
    check_env(field, template, invalid);
    check_volumes(field, template, invalid);
    check_mounts(field, template, invalid);
    check_security(field, template, invalid);
    check_account(field, template, of_pool, invalid);
}

/// Checks labels, annotations and the node selector.
fn check_names(field: &str, template: &PodTemplate, invalid: &mut impl FnMut(&str, String)) {
    let mut names = |what: &str, map: &BTreeMap<String, String>, values: bool| {
        for (key, value) in map {
            let field = format!("{field}.{what}[{key}]");
            if OWNED_PREFIXES.iter().any(|prefix| key.starts_with(prefix))
                || (values && OWNED_LABELS.contains(&key.as_str()))
            {
                invalid(&field, "Freehold or Kubernetes sets it; remove it".into());
            } else if !is_label_key(key) || (values && !is_label_value(value)) {
                invalid(
                    &field,
                    "Kubernetes takes no such name or value; correct it".into(),
                );
            }
        }
    };
    names("labels", &template.labels, true);
    names("annotations", &template.annotations, false);
    names("nodeSelector", &template.node_selector, true);
    let zone = "topology.kubernetes.io/zone";
    if template.node_selector.contains_key(zone) {
        invalid(
            &format!("{field}.nodeSelector[{zone}]"),
            "Freehold sets it from the pool's zones; use those".into(),
        );
    }
}

fn check_env(field: &str, template: &PodTemplate, invalid: &mut impl FnMut(&str, String)) {
    for variable in &template.env {
        let name = variable.name.as_str();
        let field = format!("{field}.env[{name}]");
        let valid = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
            && name.len() <= 128;
        if OWNED_VARIABLES.contains(&name) {
            invalid(&field, "Freehold sets it; remove it".into());
        } else if JVM_VARIABLES.contains(&name) {
            invalid(
                &field,
                "it changes how the JVM starts; use jvm.options of the pool".into(),
            );
        } else if !valid {
            invalid(&field, "not a variable's name: letters, digits and _, at most 128, no digit first; correct it".into());
        } else if variable
            .value
            .as_ref()
            .is_some_and(|value| !value.is_empty())
            && variable.value_from.is_some()
        {
            invalid(&field, "give either value or valueFrom".into());
        }
    }
}

fn check_volumes(field: &str, template: &PodTemplate, invalid: &mut impl FnMut(&str, String)) {
    for volume in &template.volumes {
        let field = format!("{field}.volumes[{}]", volume.name);
        if OWNED_VOLUMES.contains(&volume.name.as_str()) || volume_name(&volume.name).is_some() {
            invalid(
                &field,
                "a volume of Freehold has this name; take another one".into(),
            );
        }
        let PodVolume {
            name: _,
            config_map,
            secret,
            empty_dir,
            persistent_volume_claim,
            projected,
            csi,
        } = volume;
        let given = [
            config_map.is_some(),
            secret.is_some(),
            empty_dir.is_some(),
            persistent_volume_claim.is_some(),
            projected.is_some(),
            csi.is_some(),
        ];
        if given.into_iter().filter(|given| *given).count() != 1 {
            invalid(
                &field,
                "give one of configMap, secret, emptyDir, persistentVolumeClaim, projected, csi"
                    .into(),
            );
        }
    }
}

fn check_mounts(field: &str, template: &PodTemplate, invalid: &mut impl FnMut(&str, String)) {
    for mount in &template.volume_mounts {
        let (path, field) = (
            mount.mount_path.trim_end_matches('/'),
            format!("{field}.volumeMounts[{}]", mount.mount_path),
        );
        let parts = || path.split('/').skip(1);
        if !path.starts_with('/')
            || path.contains([':', '\0'])
            || parts().any(|part| ["", ".", ".."].contains(&part))
        {
            invalid(
                &field,
                "not the absolute path of a folder; give one such as /opt/plugins".into(),
            );
        } else if let Some(owned) = OWNED_FOLDERS.iter().find(|owned| overlap(path, owned)) {
            invalid(
                &field,
                format!(
                    "{owned} is Freehold's, the image's or the system's; give another path such as /opt/plugins"
                ),
            );
        }
    }
}

fn check_security(field: &str, template: &PodTemplate, invalid: &mut impl FnMut(&str, String)) {
    if let Some(security) = template
        .security_context
        .as_ref()
        .filter(|security| security.ids == Some(PodIds::Platform))
        && (security.run_as_user.is_some()
            || security.run_as_group.is_some()
            || security.fs_group.is_some())
    {
        invalid(
            &format!("{field}.securityContext"),
            "with ids Platform the platform chooses them; remove runAsUser, runAsGroup and fsGroup"
                .into(),
        );
    }
}

fn check_account(
    field: &str,
    template: &PodTemplate,
    of_pool: bool,
    invalid: &mut impl FnMut(&str, String),
) {
    if of_pool && template.service_account.is_some() {
        invalid(
            &format!("{field}.serviceAccount"),
            "a cluster has one ServiceAccount; use spec.podTemplate.serviceAccount".into(),
        );
    }
    if let Some(account) = &template.service_account {
        for key in account
            .annotations
            .keys()
            .filter(|key| key.starts_with("freehold.dev/") || !is_label_key(key))
        {
            invalid(
                &format!("{field}.serviceAccount.annotations[{key}]"),
                "Freehold's, or no name that Kubernetes takes; correct it".into(),
            );
        }
    }
}

/// Refuses entries of the cluster's and the pool's template that do not fit together.
pub fn check_merged(
    spec: &KafkaClusterSpec,
    pool: &NodePool,
    invalid: &mut impl FnMut(&str, String),
) {
    let template = merged(spec, pool);
    let volumes: BTreeSet<&str> = template
        .volumes
        .iter()
        .map(|volume| volume.name.as_str())
        .collect();
    for mount in template
        .volume_mounts
        .iter()
        .filter(|mount| !volumes.contains(mount.name.as_str()))
    {
        let field = format!(
            "spec.nodePools[{}].podTemplate.volumeMounts[{}]",
            pool.name, mount.mount_path
        );
        invalid(
            &field,
            format!(
                "neither podTemplate has a volume {}; add it to volumes",
                mount.name
            ),
        );
    }
    let paths: Vec<&str> = template
        .volume_mounts
        .iter()
        .map(|mount| mount.mount_path.trim_end_matches('/'))
        .collect();
    for (index, path) in paths.iter().enumerate() {
        if let Some(other) = paths[..index].iter().find(|other| *other == path) {
            invalid(
                &format!(
                    "spec.nodePools[{}].podTemplate.volumeMounts[{path}]",
                    pool.name
                ),
                format!("{other} is mounted twice; remove one"),
            );
        }
    }
}

/// True for a valid label key: a name with an optional prefix (`prefix/name`), which is a DNS name.
fn is_label_key(key: &str) -> bool {
    let (prefix, name) = key
        .split_once('/')
        .map_or((None, key), |(prefix, name)| (Some(prefix), name));
    let dns = |prefix: &str| {
        !prefix.is_empty()
            && prefix.len() <= 253
            && prefix.split('.').all(|part| {
                let plain = part
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
                !part.is_empty() && plain && !part.starts_with('-') && !part.ends_with('-')
            })
    };
    !name.is_empty() && is_label_value(name) && prefix.is_none_or(dns)
}

fn is_label_value(value: &str) -> bool {
    let ends = |c: Option<char>| c.is_none_or(|c| c.is_ascii_alphanumeric());
    value.len() <= 63
        && value
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        && ends(value.chars().next())
        && ends(value.chars().next_back())
}

/// Converts an additional volume to the Kubernetes type.
pub fn volume(volume: &PodVolume) -> Volume {
    let PodVolume {
        name,
        config_map,
        secret,
        empty_dir,
        persistent_volume_claim,
        projected,
        csi,
    } = volume.clone();
    Volume {
        name,
        config_map,
        secret,
        empty_dir,
        persistent_volume_claim,
        projected,
        csi,
        ..Volume::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn spec(cluster: &Value, pool: &Value) -> KafkaClusterSpec {
        let pool = json!({"name": "all", "roles": ["controller", "broker"], "replicas": 3, "zones": ["a", "b", "c"],
            "storage": {"size": "1Gi"}, "podTemplate": pool});
        serde_json::from_value(
            json!({"version": "4.3.1", "podTemplate": cluster, "nodePools": [pool]}),
        )
        .unwrap()
    }

    fn invalids(cluster: &Value, pool: &Value) -> Vec<String> {
        let spec = spec(cluster, pool);
        let mut found = Vec::new();
        let mut invalid = |field: &str, why: String| found.push(format!("{field}: {why}"));
        check("spec.podTemplate", &spec.pod_template, false, &mut invalid);
        check(
            "spec.nodePools[all].podTemplate",
            &spec.node_pools[0].pod_template,
            true,
            &mut invalid,
        );
        check_merged(&spec, &spec.node_pools[0], &mut invalid);
        found
    }

    #[test]
    fn a_pool_s_template_goes_over_the_cluster_s_by_keys() {
        let spec = spec(
            &json!({"labels": {"team": "a", "cost": "1"}, "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
                "tolerations": [{"key": "kafka", "operator": "Exists"}], "startLimitSeconds": 600,
                "securityContext": {"runAsUser": 2000, "fsGroup": 2000}, "imagePullSecrets": [{"name": "hub"}],
                "affinity": {"nodeAffinity": {}, "podAffinity": {}}}),
            &json!({"labels": {"team": "b"}, "env": [{"name": "C", "value": "3"}, {"name": "A", "value": "4"}],
                "tolerations": [{"key": "kafka", "operator": "Exists"}, {"key": "big", "operator": "Exists"}],
                "securityContext": {"runAsUser": 3000}, "imagePullSecrets": [{"name": "hub"}, {"name": "other"}],
                "affinity": {"podAntiAffinity": {}}, "priorityClassName": "high"}),
        );
        let merged = merged(&spec, &spec.node_pools[0]);
        assert_eq!(
            merged.labels,
            BTreeMap::from([("cost".into(), "1".into()), ("team".into(), "b".into())])
        );
        let env: Vec<_> = merged
            .env
            .iter()
            .map(|one| format!("{}={}", one.name, one.value.as_deref().unwrap_or_default()))
            .collect();
        assert_eq!(env, ["A=4", "B=2", "C=3"]);
        assert_eq!(
            (
                merged.tolerations.len(),
                merged.image_pull_secrets.len(),
                merged.start_limit_seconds
            ),
            (2, 2, Some(600))
        );
        let security = merged.security_context.unwrap();
        assert_eq!(
            (security.run_as_user, security.fs_group),
            (Some(3000), Some(2000))
        );
        let affinity = merged.affinity.unwrap();
        assert!(
            affinity.node_affinity.is_some()
                && affinity.pod_affinity.is_some()
                && affinity.pod_anti_affinity.is_some()
        );
        assert_eq!(merged.priority_class_name.as_deref(), Some("high"));
    }

    #[test]
    fn what_breaks_what_freehold_owns_is_refused_by_its_field() {
        for (template, words) in [
            (
                json!({"labels": {"app.kubernetes.io/instance": "x"}}),
                "labels[app.kubernetes.io/instance]: Freehold or Kubernetes sets it",
            ),
            (
                json!({"labels": {"freehold.dev/broker": "x"}}),
                "labels[freehold.dev/broker]",
            ),
            (
                json!({"labels": {"team": "no value!"}}),
                "labels[team]: Kubernetes takes no such",
            ),
            (
                json!({"labels": {"-a": "x"}}),
                "labels[-a]: Kubernetes takes no such",
            ),
            (
                json!({"annotations": {"freehold.dev/config-hash": "x"}}),
                "annotations[freehold.dev/config-hash]",
            ),
            (
                json!({"nodeSelector": {"topology.kubernetes.io/zone": "a"}}),
                "nodeSelector[topology.kubernetes.io/zone]: Freehold sets it from",
            ),
            (
                json!({"env": [{"name": "NODE_ID", "value": "7"}]}),
                "env[NODE_ID]: Freehold sets it",
            ),
            (
                json!({"env": [{"name": "JAVA_TOOL_OPTIONS", "value": "-Xmx9g"}]}),
                "env[JAVA_TOOL_OPTIONS]: it changes how the JVM starts",
            ),
            (
                json!({"env": [{"name": "7UP", "value": "x"}]}),
                "env[7UP]: not a variable's name",
            ),
            (
                json!({"volumes": [{"name": "tls", "emptyDir": {}}]}),
                "volumes[tls]: a volume of Freehold",
            ),
            (
                json!({"volumes": [{"name": "data-more", "emptyDir": {}}]}),
                "volumes[data-more]: a volume of Freehold",
            ),
            (
                json!({"volumes": [{"name": "a"}]}),
                "volumes[a]: give one of",
            ),
            (
                json!({"volumes": [{"name": "a", "emptyDir": {}, "secret": {"secretName": "s"}}]}),
                "volumes[a]: give one of",
            ),
            (
                json!({"volumeMounts": [{"name": "a", "mountPath": "/opt/plugins"}]}),
                "neither podTemplate has a volume a",
            ),
            (
                json!({"securityContext": {"ids": "Platform", "runAsUser": 5}}),
                "securityContext: with ids Platform",
            ),
        ] {
            let found = invalids(&template, &json!({}));
            assert!(
                found.len() == 1 && found[0].starts_with("spec.") && found[0].contains(words),
                "{words:?} in {found:?}"
            );
        }
        let found = invalids(&json!({}), &json!({"serviceAccount": {}}));
        assert!(
            found.len() == 1 && found[0].contains("spec.nodePools[all].podTemplate.serviceAccount"),
            "{found:?}"
        );
    }

    #[test]
    fn mounts_keep_off_the_folders_of_freehold_the_image_and_the_system() {
        let mounts = |path: &str| {
            invalids(
                &json!({"volumes": [{"name": "a", "emptyDir": {}}], "volumeMounts": [{"name": "a", "mountPath": path}]}),
                &json!({}),
            )
        };
        for path in [
            "/",
            "/etc",
            "/etc/kafka/config",
            "/etc/kafka/tls/x",
            "/var",
            "/var/lib/kafka/data/log",
            "/tmp",
            "/opt",
            "/opt/kafka/libs",
            "plugins",
            "/opt/../tmp",
            "/a//b",
            "/a:b",
        ] {
            assert_eq!(mounts(path).len(), 1, "{path}: {:?}", mounts(path));
        }
        for path in [
            "/opt/plugins",
            "/opt/kafka-plugins",
            "/etc/ssl/private",
            "/var/lib/kafka-plugins",
            "/plugins/",
        ] {
            assert_eq!(mounts(path), [""; 0], "{path}");
        }
    }
}
