//! Builds server.properties of a node group, and the dynamic configs of brokers. Pure.
//!
//! The image's launcher replaces `@NODE_ID@` and `@POD_NAME@`, because only the pod knows them.

use crate::api::kafka_cluster::{Authentication, KafkaClusterSpec, Listener, Role};
use crate::certificates::{NODE_NAME, OPERATOR_NAME, ORGANIZATION};
use crate::kinds::kafka_cluster::model::cluster::{NodeGroup, ValidCluster};
use crate::kinds::kafka_cluster::model::ports::{CONTROLLER_PORT, INTERNAL_PORT};
use crate::kinds::kafka_cluster::model::volume_names::log_folder;
use crate::kubernetes::names;
use freehold_kafka::config::{self, CORDONED};
use std::collections::BTreeMap;

/// The folder in the container with the node's certificates.
pub const TLS_FOLDER: &str = "/etc/kafka/tls";
const CONTROLLER: &str = "CONTROLLER";
const INTERNAL: &str = "INTERNAL";

/// The properties that a node reads at its start. Freehold's own win over those of the pool, those
/// over the cluster's, and those over the defaults. Dynamic configs are not included: see
/// [`dynamic_configs`]. Thread counts are an exception: a broker must start with its final number,
/// because it would refuse the dynamic config if that changed the number too much in one step, and
/// with it all other cluster-wide dynamic configs.
pub fn server_properties(cluster: &ValidCluster, group: &NodeGroup) -> BTreeMap<String, String> {
    let mut properties = defaults(cluster.brokers_for_defaults());
    properties.extend(cluster.spec.config.clone());
    let read_at_start =
        |key: &str| !is_dynamic(cluster, key) || config::threads_default(key).is_some();
    properties.retain(|key, _| read_at_start(key));
    let own = group
        .pool
        .config
        .iter()
        .filter(|(key, _)| !group.is(Role::Broker) || read_at_start(key));
    properties.extend(own.map(|(key, value)| (key.clone(), value.clone())));
    properties.extend(owned(cluster, group));
    properties
}

fn is_dynamic(cluster: &ValidCluster, key: &str) -> bool {
    config::definitions(&cluster.spec.version)
        .is_some_and(|definitions| config::is_dynamic(definitions, key))
}

/// The configs that brokers take while they run (KIP-226), by node id; the cluster-wide ones are
/// under the empty name.
pub fn dynamic_configs(cluster: &ValidCluster) -> BTreeMap<String, BTreeMap<String, String>> {
    let dynamic = |configs: BTreeMap<String, String>| {
        configs
            .into_iter()
            .filter(|(key, _)| is_dynamic(cluster, key))
            .collect()
    };
    let mut shared = defaults(cluster.brokers_for_defaults());
    shared.extend(cluster.spec.config.clone());
    let mut all = BTreeMap::from([(String::new(), dynamic(shared))]);
    for group in cluster.groups_of(Role::Broker) {
        let own: BTreeMap<_, _> = dynamic(group.pool.config.clone());
        if !own.is_empty() {
            all.extend(group.node_ids().map(|id| (id.to_string(), own.clone())));
        }
        // A leaving broker, or a volume to be removed, is cordoned: it gets no new replicas
        // (KIP-1066).
        if config::can_cordon(&cluster.spec.version) {
            let mut cordon = |id: i32, what: String| {
                drop(
                    all.entry(id.to_string())
                        .or_default()
                        .insert(CORDONED.to_owned(), what),
                )
            };
            for (id, volumes) in &group.cordoned_volumes {
                cordon(
                    *id,
                    volumes
                        .iter()
                        .map(|volume| log_folder(volume))
                        .collect::<Vec<_>>()
                        .join(","),
                );
            }
            group
                .leaving_ids()
                .chain(cluster.replace.filter(|id| {
                    cluster.cordons_replaced && group.node_ids().any(|node| node == *id)
                }))
                .for_each(|id| cordon(id, "*".to_owned()));
        }
    }
    all
}

/// The `min.insync.replicas` of topics that do not set it, for this number of brokers.
pub fn min_in_sync(spec: &KafkaClusterSpec, brokers: u32) -> i16 {
    let key = "min.insync.replicas";
    let set = spec
        .config
        .get(key)
        .cloned()
        .or_else(|| defaults(brokers).remove(key));
    set.and_then(|value| value.trim().parse().ok()).unwrap_or(1)
}

/// The defaults of configs that the spec does not set.
pub fn defaults(brokers: u32) -> BTreeMap<String, String> {
    let mut all = replication_defaults(brokers);
    let own = [
        ("auto.create.topics.enable", "false"),
        // Kafka's own rebalance moves up to a thousand leaders back at once, even during other
        // work. Freehold does it with a few at a time (`elections.rs`).
        ("auto.leader.rebalance.enable", "false"),
        // A broker that comes back is unfenced at its next heartbeat.
        ("broker.heartbeat.interval.ms", "500"),
        // A follower that learns of a new leader before the leader itself does is refused. With
        // Kafka's default it would wait for a second, often twice, and no write with acks=all would
        // be acknowledged during that time.
        ("replica.fetch.backoff.ms", "50"),
        // Followers ask a newly elected leader with their next fetch. A follower that fetches from
        // a broker which led no busy partition until then would otherwise wait half a second for
        // the answer to its previous fetch.
        ("replica.fetch.wait.max.ms", "100"),
    ];
    all.extend(own.map(|(key, value)| (key.to_owned(), value.to_owned())));
    all
}

/// The defaults that depend on the number of brokers.
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
    pairs
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_string()))
        .collect()
}

fn owned(cluster: &ValidCluster, group: &NodeGroup) -> BTreeMap<String, String> {
    let mut properties = BTreeMap::new();
    let mut set = |key: &str, value: String| {
        properties.insert(key.to_owned(), value);
    };
    let broker = group.is(Role::Broker);
    let roles: Vec<_> = group
        .pool
        .roles
        .iter()
        .map(|role| {
            if *role == Role::Broker {
                "broker"
            } else {
                "controller"
            }
        })
        .collect();
    set("process.roles", roles.join(","));
    set("node.id", "@NODE_ID@".into());
    // The first folder also holds the metadata log.
    set(
        "log.dirs",
        group
            .volumes
            .iter()
            .map(|volume| log_folder(&volume.name))
            .collect::<Vec<_>>()
            .join(","),
    );
    set("controller.listener.names", CONTROLLER.into());
    set(
        "controller.quorum.bootstrap.servers",
        controllers(cluster).join(","),
    );
    set("inter.broker.listener.name", INTERNAL.into());
    if broker {
        set("broker.rack", group.zone.clone());
    }
    listeners(&mut set, cluster, group);
    set(
        "authorizer.class.name",
        "dev.freehold.kafka.ShadowAuthorizer".into(),
    );
    set("super.users", super_users(cluster));
    set(
        "ssl.engine.factory.class",
        "dev.freehold.kafka.ReloadingSslEngineFactory".into(),
    );
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

/// The ports of all listeners, their security protocols, and the host names that nodes and clients
/// use for them.
fn listeners(set: &mut impl FnMut(&str, String), cluster: &ValidCluster, group: &NodeGroup) {
    let mut ports = Vec::new();
    let mut protocols = vec![format!("{CONTROLLER}:SSL"), format!("{INTERNAL}:SSL")];
    if group.is(Role::Controller) {
        ports.push((CONTROLLER.to_owned(), CONTROLLER_PORT));
    }
    if group.is(Role::Broker) {
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
        ports
            .iter()
            .map(|(name, port)| format!("{name}://{}:{port}", of(name)))
            .collect::<Vec<_>>()
            .join(",")
    };
    set("listeners", join(&|_| String::new()));
    // Nodes reach each other by the host names of pods, clients reach brokers by the names of
    // Services.
    let host = names::host("@POD_NAME@", &cluster.key.name, &cluster.key.namespace);
    let clients = names::client_host("@POD_NAME@", &cluster.key.namespace);
    set(
        "advertised.listeners",
        join(&|name| {
            if [CONTROLLER, INTERNAL].contains(&name) {
                host.clone()
            } else {
                clients.clone()
            }
        }),
    );
    set("listener.security.protocol.map", protocols.join(","));
}

fn controllers(cluster: &ValidCluster) -> Vec<String> {
    cluster
        .groups_of(Role::Controller)
        .flat_map(|group| {
            group
                .node_ids()
                .map(move |id| format!("{}:{CONTROLLER_PORT}", cluster.host(group, id)))
        })
        .collect()
}

fn super_users(cluster: &ValidCluster) -> String {
    let mut users = vec![
        format!("User:CN={NODE_NAME},O={ORGANIZATION}"),
        format!("User:CN={OPERATOR_NAME},O={ORGANIZATION}"),
    ];
    users.extend(
        cluster
            .spec
            .authorization
            .super_users
            .iter()
            .map(|user| format!("User:{user}")),
    );
    users.join(";")
}

fn tls(set: &mut impl FnMut(&str, String), listener: &str, clients: Option<&str>) {
    let prefix = format!("listener.name.{}.ssl", listener.to_lowercase());
    set(&format!("{prefix}.keystore.type"), "PEM".into());
    set(
        &format!("{prefix}.keystore.location"),
        format!("{TLS_FOLDER}/@NODE_ID@.pem"),
    );
    match clients {
        None => set(&format!("{prefix}.client.auth"), "none".into()),
        Some(authority) => {
            set(&format!("{prefix}.client.auth"), "required".into());
            set(&format!("{prefix}.truststore.type"), "PEM".into());
            set(
                &format!("{prefix}.truststore.location"),
                format!("{TLS_FOLDER}/{authority}"),
            );
        }
    }
}

/// The mapping of a certificate's subject to a principal: only the first common name, in RFC 2253
/// order, wherever it is in the subject. A client can never become `CN=…,O=…`, the form that
/// identifies nodes and the operator, because the result contains no unescaped comma or plus sign.
/// A value ends at one of those, and a backslash escapes the next character: `O=x\,CN=y` is an
/// organization, not a common name.
const COMMON_NAME: &str =
    r"RULE:^(?:(?!CN=)(?:[^,+\\]|\\.)*[,+])*CN=((?:[^,+\\]|\\.)+)(?:[,+].*)?$/$1/";

fn client_listener(set: &mut impl FnMut(&str, String), listener: &Listener) {
    let prefix = format!("listener.name.{}", listener.name.to_lowercase());
    match listener.authentication {
        Authentication::MutualTls => {
            tls(set, &listener.name, Some("clients-ca.crt"));
            set(
                &format!("{prefix}.ssl.principal.mapping.rules"),
                COMMON_NAME.into(),
            );
        }
        Authentication::ScramSha512 => {
            tls(set, &listener.name, None);
            set(
                &format!("{prefix}.sasl.enabled.mechanisms"),
                "SCRAM-SHA-512".into(),
            );
            let module = "org.apache.kafka.common.security.scram.ScramLoginModule required;";
            set(
                &format!("{prefix}.scram-sha-512.sasl.jaas.config"),
                module.into(),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_with_the_number_of_brokers_is_told_apart_from_what_only_a_version_of_freehold_changes()
     {
        let same =
            |key: &String| (0..9).all(|brokers| defaults(brokers).get(key) == defaults(1).get(key));
        let (varying, fixed): (Vec<String>, Vec<String>) =
            defaults(1).into_keys().partition(|key| !same(key));
        assert!(
            varying.iter().eq(replication_defaults(1).keys()),
            "{varying:?}"
        );
        assert!(!fixed.is_empty());
    }
}
