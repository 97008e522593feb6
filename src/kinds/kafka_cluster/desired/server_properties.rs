//! A node group's server.properties. Pure.
//!
//! `@NODE_ID@` and `@POD_NAME@` are filled in by the image's launcher, which alone knows them.

use super::super::api::{Authentication, KafkaClusterSpec, Listener, Role};
use super::super::validate::{self, NodeGroup, ValidCluster};
use super::volumes::log_folder;
use super::{CONTROLLER_PORT, INTERNAL_PORT};
use crate::certificates::{NODE_NAME, OPERATOR_NAME, ORGANIZATION};
use crate::kafka::config::{self, CORDONED};
use crate::names;
use std::collections::BTreeMap;

pub const DATA_FOLDER: &str = "/var/lib/kafka/data";
pub const TLS_FOLDER: &str = "/etc/kafka/tls";
const CONTROLLER: &str = "CONTROLLER";
const INTERNAL: &str = "INTERNAL";

/// What a node reads at its start: what Freehold sets wins over the pool's own, those over the cluster's, those over
/// defaults. What a broker takes while it runs is not among them: see [`dynamic_configs`].
pub fn server_properties(cluster: &ValidCluster, group: &NodeGroup) -> BTreeMap<String, String> {
    let mut properties = defaults(validate::sum(&cluster.spec, Role::Broker));
    properties.extend(cluster.spec.config.clone());
    properties.retain(|key, _| !is_dynamic(cluster, key));
    let own = group.pool.config.iter().filter(|(key, _)| !(group.is(Role::Broker) && is_dynamic(cluster, key)));
    properties.extend(own.map(|(key, value)| (key.clone(), value.clone())));
    properties.extend(owned(cluster, group));
    properties
}

fn is_dynamic(cluster: &ValidCluster, key: &str) -> bool {
    config::definitions(&cluster.spec.version).is_some_and(|definitions| config::is_dynamic(definitions, key))
}

/// The configs that brokers take while they run (KIP-226), by node id; those of every broker under the empty name.
pub fn dynamic_configs(cluster: &ValidCluster) -> BTreeMap<String, BTreeMap<String, String>> {
    let dynamic = |configs: BTreeMap<String, String>| configs.into_iter().filter(|(key, _)| is_dynamic(cluster, key)).collect();
    let mut shared = defaults(validate::sum(&cluster.spec, Role::Broker));
    shared.extend(cluster.spec.config.clone());
    let mut all = BTreeMap::from([(String::new(), dynamic(shared))]);
    for group in cluster.groups_of(Role::Broker) {
        let own: BTreeMap<_, _> = dynamic(group.pool.config.clone());
        if !own.is_empty() {
            all.extend(group.node_ids().map(|id| (id.to_string(), own.clone())));
        }
        // A broker that leaves is given nothing new, nor is a volume (KIP-1066).
        if config::can_cordon(&cluster.spec.version) {
            let mut cordon = |id: i32, what: String| drop(all.entry(id.to_string()).or_default().insert(CORDONED.to_owned(), what));
            for (id, volumes) in &group.cordoned_volumes {
                cordon(*id, volumes.iter().map(|volume| log_folder(volume)).collect::<Vec<_>>().join(","));
            }
            group
                .leaving_ids()
                .chain(cluster.replace.filter(|id| group.node_ids().any(|node| node == *id)))
                .for_each(|id| cordon(id, "*".to_owned()));
        }
    }
    all
}

/// `min.insync.replicas` of topics that set none.
pub fn min_in_sync(spec: &KafkaClusterSpec) -> i16 {
    let key = "min.insync.replicas";
    let set = spec.config.get(key).cloned().or_else(|| defaults(validate::sum(spec, Role::Broker)).remove(key));
    set.and_then(|value| value.trim().parse().ok()).unwrap_or(1)
}

/// What a node reads where the spec says nothing else.
pub fn defaults(brokers: u32) -> BTreeMap<String, String> {
    let mut all = replication_defaults(brokers);
    let own = [
        ("auto.create.topics.enable", "false"),
        // Kafka's own way lets up to a thousand leaders go back at once, in the middle of whatever is done: Freehold does it, few at a
        // time (`elections.rs`).
        ("auto.leader.rebalance.enable", "false"),
        // A broker that comes back is let in at its next heartbeat.
        ("broker.heartbeat.interval.ms", "500"),
        // A follower that hears of a new leader before that one does is refused, and would wait for a second, often twice, in
        // which nothing that all replicas must have is acknowledged.
        ("replica.fetch.backoff.ms", "50"),
        // What a broker is elected for is asked for with its followers' next fetch, and one that asks a broker which led
        // nothing busy until then waits for the answer to the last for half a second otherwise.
        ("replica.fetch.wait.max.ms", "100"),
    ];
    all.extend(own.map(|(key, value)| (key.to_owned(), value.to_owned())));
    all
}

/// The defaults that follow from a part of the spec, the number of brokers.
pub fn replication_defaults(brokers: u32) -> BTreeMap<String, String> {
    let copies = brokers.min(3);
    let in_sync = copies.saturating_sub(1).max(1);
    let pairs = [
        ("default.replication.factor", copies),
        ("min.insync.replicas", in_sync),
        ("offsets.topic.replication.factor", copies),
        ("transaction.state.log.replication.factor", copies),
        ("transaction.state.log.min.isr", in_sync),
        ("share.coordinator.state.topic.replication.factor", copies),
        ("share.coordinator.state.topic.min.isr", in_sync),
    ];
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_string())).collect()
}

fn owned(cluster: &ValidCluster, group: &NodeGroup) -> BTreeMap<String, String> {
    let mut properties = BTreeMap::new();
    let mut set = |key: &str, value: String| {
        properties.insert(key.to_owned(), value);
    };
    let host = names::host("@POD_NAME@", &cluster.key.name, &cluster.key.namespace);
    let broker = group.is(Role::Broker);
    let controller = group.is(Role::Controller);
    let roles: Vec<_> = group.pool.roles.iter().map(|role| if *role == Role::Broker { "broker" } else { "controller" }).collect();
    set("process.roles", roles.join(","));
    set("node.id", "@NODE_ID@".into());
    // The first has the metadata too.
    set("log.dirs", group.volumes.iter().map(|volume| log_folder(&volume.name)).collect::<Vec<_>>().join(","));
    set("controller.listener.names", CONTROLLER.into());
    set("controller.quorum.bootstrap.servers", controllers(cluster).join(","));
    set("inter.broker.listener.name", INTERNAL.into());
    let mut ports = Vec::new();
    let mut protocols = vec![format!("{CONTROLLER}:SSL"), format!("{INTERNAL}:SSL")];
    if controller {
        ports.push((CONTROLLER.to_owned(), CONTROLLER_PORT));
    }
    if broker {
        set("broker.rack", group.zone.clone());
        ports.push((INTERNAL.to_owned(), INTERNAL_PORT));
        for listener in &cluster.spec.listeners {
            let protocol = match listener.authentication {
                Authentication::MutualTls => "SSL",
                Authentication::ScramSha512 => "SASL_SSL",
            };
            protocols.push(format!("{}:{protocol}", listener.name.to_uppercase()));
            ports.push((listener.name.to_uppercase(), listener.port));
        }
    }
    let join = |of: &dyn Fn(&str) -> String| {
        ports.iter().map(|(name, port)| format!("{name}://{}:{port}", of(name))).collect::<Vec<_>>().join(",")
    };
    set("listeners", join(&|_| String::new()));
    // Nodes know each other by their pods' names, clients know brokers by Services.
    let clients = names::client_host("@POD_NAME@", &cluster.key.namespace);
    set("advertised.listeners", join(&|name| if [CONTROLLER, INTERNAL].contains(&name) { host.clone() } else { clients.clone() }));
    set("listener.security.protocol.map", protocols.join(","));
    set("authorizer.class.name", "dev.freehold.kafka.ShadowAuthorizer".into());
    set("super.users", super_users(cluster));
    set("ssl.engine.factory.class", "dev.freehold.kafka.ReloadingSslEngineFactory".into());
    for name in [CONTROLLER, INTERNAL] {
        tls(&mut set, name, Some("cluster-ca.crt"));
    }
    if broker {
        for listener in &cluster.spec.listeners {
            client_listener(&mut set, listener);
        }
    }
    properties
}

fn controllers(cluster: &ValidCluster) -> Vec<String> {
    cluster
        .groups_of(Role::Controller)
        .flat_map(|group| group.node_ids().map(move |id| format!("{}:{CONTROLLER_PORT}", cluster.host(group, id))))
        .collect()
}

fn super_users(cluster: &ValidCluster) -> String {
    let mut users = vec![format!("User:CN={NODE_NAME},O={ORGANIZATION}"), format!("User:CN={OPERATOR_NAME},O={ORGANIZATION}")];
    users.extend(cluster.spec.authorization.super_users.iter().map(|user| format!("User:{user}")));
    users.join(";")
}

fn tls(set: &mut impl FnMut(&str, String), listener: &str, clients: Option<&str>) {
    let prefix = format!("listener.name.{}.ssl", listener.to_lowercase());
    set(&format!("{prefix}.keystore.type"), "PEM".into());
    set(&format!("{prefix}.keystore.location"), format!("{TLS_FOLDER}/@NODE_ID@.pem"));
    match clients {
        None => set(&format!("{prefix}.client.auth"), "none".into()),
        Some(authority) => {
            set(&format!("{prefix}.client.auth"), "required".into());
            set(&format!("{prefix}.truststore.type"), "PEM".into());
            set(&format!("{prefix}.truststore.location"), format!("{TLS_FOLDER}/{authority}"));
        }
    }
}

fn client_listener(set: &mut impl FnMut(&str, String), listener: &Listener) {
    let prefix = format!("listener.name.{}", listener.name.to_lowercase());
    match listener.authentication {
        Authentication::MutualTls => {
            tls(set, &listener.name, Some("clients-ca.crt"));
            // The common name alone: a client can never be `CN=…,O=…`, which is how nodes and operator are known.
            set(&format!("{prefix}.ssl.principal.mapping.rules"), "RULE:^CN=([^,]+).*$/$1/".into());
        }
        Authentication::ScramSha512 => {
            tls(set, &listener.name, None);
            set(&format!("{prefix}.sasl.enabled.mechanisms"), "SCRAM-SHA-512".into());
            let module = "org.apache.kafka.common.security.scram.ScramLoginModule required;";
            set(&format!("{prefix}.scram-sha-512.sasl.jaas.config"), module.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_with_the_number_of_brokers_is_told_apart_from_what_only_a_version_of_freehold_changes() {
        let same = |key: &String| (0..9).all(|brokers| defaults(brokers).get(key) == defaults(1).get(key));
        let (varying, fixed): (Vec<String>, Vec<String>) = defaults(1).into_keys().partition(|key| !same(key));
        assert!(varying.iter().eq(replication_defaults(1).keys()), "{varying:?}");
        assert!(!fixed.is_empty());
    }
}
