//! The checks of a spec, each for a part of it. Pure.

use crate::api::kafka_cluster::{
    CertificateIssuer, DataVolume, KafkaCluster, KafkaClusterSpec, NodePool, Role,
};
use crate::certificates;
use crate::kinds::amounts;
use crate::kinds::kafka_cluster::model::cluster::NodeGroup;
use crate::kinds::kafka_cluster::observed::{KafkaFacts, Observed, SecretFacts};
use crate::kinds::kafka_cluster::storage;
use crate::kinds::kafka_cluster::validate::sum;
use crate::kubernetes::quantity;
use freehold_kafka::config::{self, Checked, Definitions, Plugins};
use freehold_kafka::config_limits::{self, Together};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::BTreeMap;

/// Refuses a version that cannot read the cluster's metadata.
pub fn check_version(
    object: &KafkaCluster,
    observed: &Observed,
    invalid: &mut impl FnMut(&str, String),
) {
    let status = object.status.as_ref();
    let (Some(running), wanted) = (
        status.and_then(|status| status.kafka_version.as_deref()),
        object.spec.version.as_str(),
    ) else {
        return;
    };
    let Some(definitions) = config::definitions(wanted) else {
        return;
    };
    if config::order(wanted) >= config::order(running) {
        return;
    }
    let answered = if let KafkaFacts::Answered { features, .. } = &observed.kafka {
        features.get(config::METADATA_VERSION).copied()
    } else {
        None
    };
    let Some(level) = answered.or_else(|| status.and_then(|status| status.metadata_version)) else {
        return invalid(
            "spec.version",
            format!(
                "the cluster runs {running}, and its metadata.version is not known yet; set {running}"
            ),
        );
    };
    let readable = definitions
        .features
        .get(config::METADATA_VERSION)
        .copied()
        .unwrap_or(0);
    if level > readable {
        invalid(
            "spec.version",
            format!(
                "metadata.version is at level {level}, and Kafka {wanted} reads up to {readable}: nodes of it would not start; set {running}"
            ),
        );
    }
}

/// Refuses configs that are wrong together. A pool may set one of them and the cluster the other, so
/// what each pool's nodes get is checked, and the field is named in which one of the two is written.
fn check_together(spec: &KafkaClusterSpec, invalid: &mut impl FnMut(&str, String)) {
    let mut of_cluster: BTreeMap<(&str, String), Vec<&str>> = BTreeMap::new();
    for pool in &spec.node_pools {
        for one in config_limits::refuse_together(&spec.config, &pool.config) {
            let Together { key, is_own, why } = one;
            if is_own {
                invalid(&format!("spec.nodePools[{}].config[{key}]", pool.name), why);
            } else {
                let pools = of_cluster.entry((key, why)).or_default();
                pools.push(&pool.name);
            }
        }
    }
    for ((key, why), pools) in of_cluster {
        // The other pools set the other of the two.
        let of_some = if pools.len() < spec.node_pools.len() {
            format!(", for the nodes of pool {}", pools.join(", "))
        } else {
            String::new()
        };
        invalid(&format!("spec.config[{key}]"), format!("{why}{of_some}"));
    }
}

pub fn check_configs(
    spec: &KafkaClusterSpec,
    definitions: &Definitions,
    invalid: &mut impl FnMut(&str, String),
    warnings: &mut Vec<String>,
) {
    check_together(spec, invalid);
    let none = BTreeMap::new();
    let check: fn(&Definitions, &Plugins, &str, &str) -> Checked = config::check_broker_config;
    let pools = spec.node_pools.iter().map(|pool| {
        let check: fn(&Definitions, &Plugins, &str, &str) -> Checked = config::check_pool_config;
        (
            format!("spec.nodePools[{}].config", pool.name),
            &pool.config,
            &spec.config,
            check,
        )
    });
    for (field, values, under, check) in
        std::iter::once(("spec.config".to_owned(), &spec.config, &none, check)).chain(pools)
    {
        let plugins = Plugins::of(definitions, under.iter().chain(values));
        for (key, value) in values {
            match check(definitions, &plugins, key, value) {
                Checked::Good => {}
                Checked::ForPlugins(words) => warnings.push(format!("{field}[{key}]: {words}")),
                Checked::Refused(why) => invalid(&format!("{field}[{key}]"), why),
            }
            let deprecated = definitions
                .broker
                .get(key)
                .map(|definition| &definition.deprecated)
                .filter(|words| !words.is_empty());
            warnings.extend(deprecated.map(|words| format!("{field}[{key}]: {words}")));
        }
    }
}

/// Checks replication factors and min.insync.replicas against the number of brokers.
pub fn check_replication(spec: &KafkaClusterSpec, invalid: &mut impl FnMut(&str, String)) {
    let brokers = sum(spec, Role::Broker);
    if brokers == 0 {
        invalid(
            "spec.nodePools",
            "no brokers are left; give a pool of brokers replicas".into(),
        );
    }
    let keys = [
        "default.replication.factor",
        "offsets.topic.replication.factor",
        "transaction.state.log.replication.factor",
        "share.coordinator.state.topic.replication.factor",
        "min.insync.replicas",
    ];
    for key in keys {
        if let Some(value) = spec
            .config
            .get(key)
            .and_then(|value| value.trim().parse::<u32>().ok())
            && value > brokers
        {
            invalid(
                &format!("spec.config[{key}]"),
                format!(
                    "{value} is above the number of brokers, {brokers}; lower it or add brokers"
                ),
            );
        }
    }
}

/// The field of a pool that describes one of its volumes.
fn storage_field(pool: &NodePool, volume: &DataVolume) -> String {
    let inner = if volume.name.is_empty() {
        String::new()
    } else {
        format!(".volumes[{}]", volume.name)
    };
    format!("spec.nodePools[{}].storage{inner}", pool.name)
}

/// Refuses a size below what volumes have. One that they have not reached can be taken back.
pub fn check_sizes(
    spec: &KafkaClusterSpec,
    groups: &[NodeGroup],
    observed: &Observed,
    invalid: &mut impl FnMut(&str, String),
) {
    for pool in &spec.node_pools {
        for volume in pool.storage.all() {
            let smallest = groups
                .iter()
                .filter(|group| group.pool.name == pool.name)
                .filter_map(|group| storage::smallest(group, &volume.name, observed))
                .max();
            if let (Some(smallest), Some(size)) = (smallest, quantity::bytes(&volume.size))
                && size < smallest
            {
                let smallest = quantity::text(smallest);
                let why = format!(
                    "a volume cannot shrink, and there are volumes of {smallest}; give {smallest} or more"
                );
                invalid(&format!("{}.size", storage_field(pool, &volume)), why);
            }
        }
    }
}

/// Warns of sizes that are smaller than before; only the reconcile knows what volumes have.
pub fn smaller_sizes(old: &KafkaClusterSpec, new: &KafkaClusterSpec) -> Vec<String> {
    let sizes = |spec: &KafkaClusterSpec| {
        let volumes = spec.node_pools.iter().flat_map(|pool| {
            let field = |volume: &DataVolume| format!("{}.size", storage_field(pool, volume));
            let volumes = pool.storage.all().into_iter();
            let volumes = volumes.map(move |volume| (field(&volume), volume.size));
            volumes.collect::<Vec<_>>()
        });
        volumes.collect::<BTreeMap<_, _>>()
    };
    let old = sizes(old);
    let warning = |(field, size): (String, Quantity)| {
        let before = old.get(&field)?;
        (quantity::bytes(&size)? < quantity::bytes(before)?).then(|| {
            format!(
                "{field}: below {}: a volume cannot shrink, so that this is refused later unless no volume has reached the size of before",
                before.0
            )
        })
    };
    sizes(new).into_iter().filter_map(warning).collect()
}

pub fn check_storage(spec: &KafkaClusterSpec, invalid: &mut impl FnMut(&str, String)) {
    for (pool, volume) in spec.node_pools.iter().flat_map(|pool| {
        pool.storage
            .all()
            .into_iter()
            .map(move |volume| (pool, volume))
    }) {
        let field = storage_field(pool, &volume);
        let size = quantity::bytes(&volume.size).filter(|size| *size > 0);
        if size.is_none() {
            invalid(
                &format!("{field}.size"),
                "not a quantity such as 500Gi".into(),
            );
        }
        let Some(grow) = &volume.auto_grow else {
            continue;
        };
        match quantity::bytes(&grow.max_size) {
            None => invalid(
                &format!("{field}.autoGrow.maxSize"),
                "not a quantity such as 2Ti".into(),
            ),
            Some(most) if size.is_some_and(|size| most < size) => {
                invalid(
                    &format!("{field}.autoGrow.maxSize"),
                    format!("below size, {}; raise it", volume.size.0),
                );
            }
            Some(_) => {}
        }
    }
}

/// Refuses the removal of a volume if the version cannot cordon it (KIP-1066): without that, it
/// could get new replicas while it is being emptied.
pub fn check_leaving_volumes(
    version: &str,
    groups: &[NodeGroup],
    invalid: &mut impl FnMut(&str, String),
) {
    if config::can_cordon(version) {
        return;
    }
    for group in groups {
        for volume in group
            .volumes
            .iter()
            .filter(|volume| !group.pool.storage.has(&volume.name))
        {
            let field = format!("spec.nodePools[{}].storage.volumes", group.pool.name);
            invalid(
                &field,
                format!(
                    "Kafka {version} cannot empty volume {}: put it back, and take it away with Kafka 4.3 or newer",
                    volume.name
                ),
            );
        }
    }
}

pub fn check_identity(
    spec: &KafkaClusterSpec,
    observed: &Observed,
    invalid: &mut impl FnMut(&str, String),
) {
    if let (Some(wanted), Some(identity)) = (&spec.cluster_id, &observed.identity)
        && *wanted != identity.cluster_id
    {
        invalid(
            "spec.clusterId",
            format!(
                "the volumes of this name belong to cluster {}; set that, or take another name",
                identity.cluster_id
            ),
        );
    }
}

pub fn check_authority(
    spec: &KafkaClusterSpec,
    given: Option<&SecretFacts>,
    cluster: &str,
    invalid: &mut impl FnMut(&str, String),
) {
    let (CertificateIssuer::Secret, Some(reference)) =
        (spec.certificates.issuer, &spec.certificates.secret_ref)
    else {
        return;
    };
    let field = "spec.certificates.secretRef";
    let Some(secret) = given else {
        return invalid(
            field,
            format!(
                "no Secret {} with the label freehold.dev/cluster: {cluster}; create it or label it",
                reference.name
            ),
        );
    };
    for key in ["tls.crt", "tls.key"] {
        if !secret.data.contains_key(key) {
            return invalid(
                field,
                format!(
                    "Secret {} has no key {key}; it needs a CA's tls.crt and tls.key",
                    reference.name
                ),
            );
        }
    }
    if let Some(authority) = secret.keyed("tls.crt", "tls.key")
        && let Err(error) = certificates::check_authority(&authority)
    {
        invalid(field, format!("Secret {}: {error}", reference.name));
    }
}

pub fn check_client_authorities(
    spec: &KafkaClusterSpec,
    observed: &Observed,
    cluster: &str,
    invalid: &mut impl FnMut(&str, String),
) {
    for reference in &spec.certificates.client_authorities {
        let (field, name) = (
            format!("spec.certificates.clientAuthorities[{}]", reference.name),
            &reference.name,
        );
        let secret = observed.client_authorities.get(name);
        match secret.map(|secret| secret.data.get("ca.crt")) {
            None => invalid(
                &field,
                format!(
                    "no Secret {name} with the label freehold.dev/cluster: {cluster}; create it or label it"
                ),
            ),
            Some(None) => invalid(
                &field,
                format!(
                    "Secret {name} has no key ca.crt; it needs the CA's certificate there, as PEM"
                ),
            ),
            Some(Some(pem)) => {
                if let Err(error) = certificates::check_trusted(pem) {
                    invalid(&field, format!("Secret {name}, ca.crt: {error}"));
                }
            }
        }
    }
}

/// Refuses invalid quantities, and requests above their limits: the API server would refuse the
/// pods.
pub fn check_resources(pool: &NodePool, invalid: &mut impl FnMut(&str, String)) {
    if let Some(resources) = &pool.resources {
        let field = format!("spec.nodePools[{}].resources", pool.name);
        amounts::check(resources, &field, invalid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_smaller_size_is_warned_of_by_its_field() {
        let spec = |size: &str, more: &str| -> KafkaClusterSpec {
            let storage = json!({"size": size, "volumes": [{"name": "more", "size": more}]});
            let pool = json!({"name": "all", "roles": ["controller", "broker"], "replicas": 3,
                "zones": ["a", "b", "c"], "storage": storage});
            serde_json::from_value(json!({"version": "4.3.1", "nodePools": [pool]})).unwrap()
        };
        let warnings = smaller_sizes(&spec("64Ti", "1Gi"), &spec("64Gi", "1024Mi"));
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(
            warnings[0].starts_with("spec.nodePools[all].storage.size: below 64Ti"),
            "{warnings:?}"
        );
        let warnings = smaller_sizes(&spec("1Gi", "2Gi"), &spec("2Gi", "1Gi"));
        assert!(
            warnings[0].starts_with("spec.nodePools[all].storage.volumes[more].size"),
            "{warnings:?}"
        );
    }
}
