//! Plans the dynamic broker configs (KIP-226): sets those of the spec, removes those that were in
//! the spec before, and resizes thread pools in steps that Kafka accepts. Pure.

use crate::api::kafka_cluster::KafkaCluster;
use crate::kinds::attempts::Attempts;
use crate::kinds::kafka_cluster::disruption::{Facts, Report, WaitingOn};
use crate::kinds::kafka_cluster::model::cluster::ValidCluster;
use crate::kinds::kafka_cluster::observed::{KafkaFacts, Observed, PodFacts};
use crate::kinds::kafka_cluster::resources::server_properties::dynamic_configs;
use crate::kinds::kafka_cluster::step::Step;
use crate::kubernetes::names;
use freehold_kafka::config::{thread_keys, threads_default, threads_step};
use freehold_kafka_client::{ClusterDescription, ConfigChanges, ConfigResource};
use std::collections::{BTreeMap, BTreeSet};

/// Configs by broker id; the cluster-wide ones are under the empty name.
type All = BTreeMap<String, BTreeMap<String, String>>;

/// The key of a dynamic config in the status.
pub fn config_key(resource: &str, key: &str) -> String {
    if resource.is_empty() {
        key.to_owned()
    } else {
        format!("{resource}/{key}")
    }
}

/// The field of the spec that a config comes from, for messages.
pub fn field(cluster: &ValidCluster, resource: &ConfigResource, key: &str) -> String {
    match resource {
        ConfigResource::Brokers if cluster.spec.config.contains_key(key) => {
            format!("spec.config[{key}]")
        }
        ConfigResource::Broker(id) => {
            let group = cluster
                .groups
                .iter()
                .find(|group| group.node_ids().any(|node| node == *id));
            match group.filter(|group| group.pool.config.contains_key(key)) {
                Some(group) => format!("spec.nodePools[{}].config[{key}]", group.pool.name),
                None => format!("config {key} of {resource}"),
            }
        }
        ConfigResource::Brokers | ConfigResource::Topic(_) => format!("config {key} of {resource}"),
    }
}

/// True for a config that comes from the spec, or is a default for it. False for one that only
/// throttles moves of replicas.
pub fn is_of_spec(cluster: &ValidCluster, resource: &ConfigResource, key: &str) -> bool {
    let Some(name) = name(resource) else {
        return false;
    };
    threads_default(key).is_some()
        || dynamic_configs(cluster)
            .get(&name)
            .is_some_and(|configs| configs.contains_key(key))
}

/// The name of a resource of brokers.
fn name(resource: &ConfigResource) -> Option<String> {
    match resource {
        ConfigResource::Brokers => Some(String::new()),
        ConfigResource::Broker(id) => Some(id.to_string()),
        ConfigResource::Topic(_) => None,
    }
}

/// Records which configs of the spec are about to be set.
pub fn setting(
    attempts: &mut Attempts,
    cluster: &ValidCluster,
    changes: &[(ConfigResource, ConfigChanges)],
) {
    for (resource, configs) in changes {
        let set = configs.iter().filter(|(_, value)| value.is_some());
        let own = set.filter(|(key, _)| is_of_spec(cluster, resource, key));
        for (key, _) in own {
            attempts.altered(key_of(resource, key), true);
        }
    }
}

/// Records which configs were removed.
pub fn removed(attempts: &mut Attempts, changes: &[(ConfigResource, ConfigChanges)]) {
    for (resource, configs) in changes {
        for (key, _) in configs.iter().filter(|(_, value)| value.is_none()) {
            attempts.altered(key_of(resource, key), false);
        }
    }
}

fn key_of(resource: &ConfigResource, key: &str) -> String {
    config_key(&name(resource).unwrap_or_default(), key)
}

/// The dynamic configs that Kafka should have. A thread count that was removed from the spec also
/// returns to Kafka's default in steps, and the default stays set: a broker that was started with
/// another number would otherwise return to that one.
fn wanted(cluster: &ValidCluster, ours: &[String], found: &All) -> All {
    let mut all = dynamic_configs(cluster);
    for (resource, configs) in found {
        for key in configs
            .keys()
            .filter(|key| ours.contains(&config_key(resource, key)))
        {
            let shared = all.get("").and_then(|shared| shared.get(key)).cloned();
            let Some(default) = threads_default(key) else {
                continue;
            };
            all.entry(resource.clone())
                .or_default()
                .entry(key.clone())
                .or_insert_with(|| shared.unwrap_or_else(|| default.to_string()));
        }
    }
    all
}

/// The configs that the operator has set, according to the status.
fn ours(object: &KafkaCluster) -> &[String] {
    let status = object.status.as_ref();
    status
        .map(|status| status.dynamic_configs.as_slice())
        .unwrap_or_default()
}

/// Plans the configs to set and to remove, and reports thread pools that have not reached their
/// size.
pub fn report(facts: &Facts<'_>) -> Report {
    let Facts {
        object,
        cluster,
        observed,
        ..
    } = *facts;
    let mut report = Report::default();
    let KafkaFacts::Answered {
        cluster: described,
        configs: found,
        ..
    } = &observed.kafka
    else {
        return report;
    };
    let mut ours = ours(object).to_vec();
    ours.extend(observed.attempts.set().iter().cloned());
    let all = wanted(cluster, &ours, found);
    let none = BTreeMap::new();
    let mut changes = Vec::new();
    for name in all.keys().chain(found.keys()).collect::<BTreeSet<_>>() {
        let Some(resource) = changeable(name, described) else {
            continue;
        };
        let (wanted, found) = (
            all.get(name).unwrap_or(&none),
            found.get(name).unwrap_or(&none),
        );
        let mut altered = ConfigChanges::new();
        for (key, value) in wanted
            .iter()
            .filter(|(key, value)| found.get(*key) != Some(value))
        {
            let field = field(cluster, &resource, key);
            let (next, unreached) = next_value(&resource, key, value, &all, described, observed);
            report
                .waiting
                .extend(unreached.map(|wanted| WaitingOn::Threads {
                    field: field.clone(),
                    wanted,
                }));
            // A value that was set a short time ago may not be in force yet.
            let Some(next) = next.filter(|next| found.get(key) != Some(next)) else {
                continue;
            };
            match observed.attempts.refusal(&field, &next, observed.now) {
                Some(refusal) => report.refused.push(refusal),
                None => drop(altered.insert(key.clone(), Some(next))),
            }
        }
        let gone = found
            .keys()
            .filter(|key| !wanted.contains_key(*key) && ours.contains(&config_key(name, key)));
        altered.extend(gone.map(|key| (key.clone(), None)));
        if !altered.is_empty() {
            changes.push((resource, altered));
        }
    }
    if !changes.is_empty() {
        report.upkeep.push(Step::AlterConfigs(changes));
        report.soon = !report.waiting.is_empty();
    }
    report
}

/// The resource of these configs, if it can be changed now. Configs of a single broker are changed
/// through that broker. One that is away gets them later.
fn changeable(name: &str, described: &ClusterDescription) -> Option<ConfigResource> {
    let Ok(id) = name.parse::<i32>() else {
        return Some(ConfigResource::Brokers);
    };
    let mut brokers = described.brokers.iter();
    brokers
        .any(|broker| broker.id == id && !broker.fenced)
        .then_some(ConfigResource::Broker(id))
}

/// The value to set next on the way to `value`, and the number of threads that is not reached with
/// it.
fn next_value(
    resource: &ConfigResource,
    key: &str,
    value: &str,
    wanted: &All,
    described: &ClusterDescription,
    observed: &Observed,
) -> (Option<String>, Option<u32>) {
    let number = threads_default(key).and_then(|_| value.trim().parse().ok());
    let Some(number) = number else {
        return (Some(value.to_owned()), None);
    };
    match threads(resource, key, number, wanted, described, observed) {
        Some(next) if next == number => (Some(value.to_owned()), None),
        next => (next.map(|next| next.to_string()), Some(number)),
    }
}

/// The next number of threads on the way to `number`. `None` while none of the brokers concerned
/// reports its present number.
fn threads(
    resource: &ConfigResource,
    key: &str,
    number: u32,
    wanted: &All,
    described: &ClusterDescription,
    observed: &Observed,
) -> Option<u32> {
    let has_own = |id: &i32| {
        wanted
            .get(&id.to_string())
            .is_some_and(|own| own.contains_key(key))
    };
    let serving = described
        .brokers
        .iter()
        .filter(|broker| !broker.fenced)
        .map(|broker| broker.id);
    let concerned: Vec<i32> = match resource {
        ConfigResource::Broker(id) => vec![*id],
        _ => serving.filter(|id| !has_own(id)).collect(),
    };
    let in_force: Vec<u32> = concerned
        .iter()
        .filter_map(|id| observed.threads.get(id)?.get(key).copied())
        .collect();
    // If every broker has its own number, the shared one changes none of them.
    let nobody = concerned.is_empty().then_some(number);
    nobody.or_else(|| (!in_force.is_empty()).then(|| threads_step(&in_force, number)))
}

/// The thread pools that will change, so that brokers must be asked for their present sizes.
pub fn threads_to_ask(object: &KafkaCluster, pods: &[PodFacts], found: &All) -> Vec<&'static str> {
    let spec = &object.spec;
    let name = object.metadata.name.as_deref().unwrap_or_default();
    let ours = ours(object);
    let set = |resource: &str, key: &str| found.get(resource).and_then(|configs| configs.get(key));
    let changes = |key: &&'static str| {
        let of_pools = spec
            .node_pools
            .iter()
            .filter_map(|pool| Some((pool, pool.config.get(*key)?)));
        let mut own = BTreeMap::new();
        for (pool, value) in of_pools {
            let sets: Vec<_> = pool
                .zones
                .iter()
                .map(|zone| names::stateful_set(name, &pool.name, zone))
                .collect();
            let nodes = pods
                .iter()
                .filter(|pod| pod.broker && sets.contains(&pod.stateful_set));
            own.extend(nodes.map(|pod| (pod.node_id.to_string(), value)));
        }
        let left = found.iter().any(|(resource, configs)| {
            let of_spec = if resource.is_empty() {
                spec.config.contains_key(*key)
            } else {
                own.contains_key(resource)
            };
            !of_spec && configs.contains_key(*key) && ours.contains(&config_key(resource, key))
        });
        left || spec
            .config
            .get(*key)
            .is_some_and(|value| set("", key) != Some(value))
            || own.iter().any(|(id, value)| set(id, key) != Some(*value))
    };
    thread_keys().filter(changes).collect()
}
