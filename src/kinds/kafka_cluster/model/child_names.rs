//! Refuses names of children that would collide, for two node groups of one cluster or of two
//! clusters in one namespace, and names that Kubernetes does not accept. The webhook uses it too.
//! Pure.
//!
//! The names of clusters, pools and zones are joined by hyphens, and each may contain hyphens
//! itself: pool `a` in zone `b-c` and pool `a-b` in zone `c` would be one StatefulSet with one set
//! of volumes.

use crate::api::kafka_cluster::KafkaCluster;
use crate::kinds::error::Invalid;
use crate::kinds::kafka_cluster::model::cluster::NodeGroup;
use crate::kinds::kafka_cluster::model::volume_names::claim_name;
use crate::kubernetes::{labels, names};
use kube::ResourceExt;
use std::collections::{BTreeMap, BTreeSet};

/// Another cluster in the same namespace, with the names that it uses.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Neighbour {
    pub name: String,
    /// Creation time in seconds since 1970. Of two clusters that claim a name, the older one gets
    /// it.
    created: i64,
    /// What uses each name; the key is kind and name.
    taken: BTreeMap<String, String>,
    /// The StatefulSets in its status, which it has already created.
    held: BTreeSet<String>,
}

impl Neighbour {
    /// The names of a cluster, from its spec and its status.
    pub fn of(cluster: &KafkaCluster) -> Self {
        let name = cluster.name_any();
        let mut taken = BTreeMap::from([
            (
                config_map(&names::identity(&name)),
                "its identity".to_owned(),
            ),
            (
                config_map(&names::trust_bundle(&name)),
                "its trust bundle".to_owned(),
            ),
            (
                secret(&names::operator_certificate(&name)),
                "the operator's certificate".to_owned(),
            ),
        ]);
        let held = held(cluster);
        let of_spec = slots(cluster)
            .map(|(pool, zone)| (names::stateful_set(&name, pool, zone), words(pool, zone)));
        for (stateful_set, words) in held
            .iter()
            .map(|(set, words)| (set.clone(), words.clone()))
            .chain(of_spec)
        {
            taken.insert(
                secret(&names::node_certificates(&stateful_set)),
                words.clone(),
            );
            taken.insert(config_map(&stateful_set), words);
        }
        Self {
            name,
            created: created(cluster),
            taken,
            held: held.into_keys().collect(),
        }
    }
}

fn config_map(name: &str) -> String {
    format!("ConfigMap {name}")
}

fn secret(name: &str) -> String {
    format!("Secret {name}")
}

fn words(pool: &str, zone: &str) -> String {
    format!("pool {pool} in zone {zone}")
}

/// Creation time in seconds since 1970. A cluster that is not created yet is the youngest.
fn created(cluster: &KafkaCluster) -> i64 {
    cluster
        .metadata
        .creation_timestamp
        .as_ref()
        .map_or(i64::MAX, |time| time.0.as_second())
}

fn slots(cluster: &KafkaCluster) -> impl Iterator<Item = (&str, &str)> {
    let pools = cluster.spec.node_pools.iter();
    pools.flat_map(|pool| {
        pool.zones
            .iter()
            .map(|zone| (pool.name.as_str(), zone.as_str()))
    })
}

/// The StatefulSets in the cluster's status, with words for their pool and zone.
fn held(cluster: &KafkaCluster) -> BTreeMap<String, String> {
    let name = cluster.name_any();
    let pools = cluster.status.iter().flat_map(|status| &status.node_pools);
    let zones = pools.flat_map(|pool| {
        pool.zones
            .iter()
            .map(move |zone| (pool.name.as_str(), zone.zone.as_str()))
    });
    zones
        .map(|(pool, zone)| (names::stateful_set(&name, pool, zone), words(pool, zone)))
        .collect()
}

/// True if the text is a valid value of a Kubernetes label, at most 63 characters.
fn is_label_value(text: &str) -> bool {
    let is_end = |character: Option<char>| {
        character.is_some_and(|character| character.is_ascii_alphanumeric())
    };
    text.len() <= 63
        && is_end(text.chars().next())
        && is_end(text.chars().next_back())
        && text
            .chars()
            .all(|character| character.is_ascii_alphanumeric() || "-_.".contains(character))
}

/// Checks the names of a cluster against its own and those of its neighbours.
pub fn check(cluster: &KafkaCluster, neighbours: &[Neighbour]) -> Vec<Invalid> {
    let mut invalids = Vec::new();
    let name = cluster.name_any();
    if !name.starts_with(|first: char| first.is_ascii_lowercase()) {
        let why = "begins with a digit, and names of Services must not; make the cluster under a name that begins with a letter";
        invalids.push(Invalid::new("metadata.name", why));
    }
    let (held, created) = (held(cluster), created(cluster));
    let mut mine: BTreeMap<String, (&str, &str)> = BTreeMap::new();
    for (pool, zone) in slots(cluster) {
        let field = format!("spec.nodePools[{pool}]");
        if !is_label_value(zone) {
            invalids.push(Invalid::new(
                format!("{field}.zones"),
                format!("{zone:?} is no value of the label topology.kubernetes.io/zone; give one that nodes have"),
            ));
            continue;
        }
        let stateful_set = names::stateful_set(&name, pool, zone);
        if let Some((other_pool, other_zone)) = mine.insert(stateful_set.clone(), (pool, zone))
            && (other_pool, other_zone) != (pool, zone)
        {
            let way_out = if pool == other_pool {
                "give one of the zones a pool of its own"
            } else {
                "rename one of the pools"
            };
            let other = words(other_pool, other_zone);
            invalids.push(Invalid::new(
                field,
                format!(
                    "zone {zone} makes nodes named {stateful_set}, and so does {other}; {way_out}"
                ),
            ));
            continue;
        }
        let taken = |neighbour: &&Neighbour| {
            let keys = [
                config_map(&stateful_set),
                secret(&names::node_certificates(&stateful_set)),
            ];
            let what = keys.iter().find_map(|key| neighbour.taken.get(key))?;
            let older = (neighbour.created, &neighbour.name) < (created, &name);
            // The cluster that already has these nodes keeps the name, even if it is the younger
            // one.
            let is_theirs = neighbour.held.contains(&stateful_set)
                || (older && !held.contains_key(&stateful_set));
            is_theirs.then(|| (neighbour.name.clone(), what.clone()))
        };
        if let Some((other, what)) = neighbours
            .iter()
            .filter(|other| other.name != name)
            .find_map(|other| taken(&other))
        {
            let why = format!(
                "zone {zone} makes nodes named {stateful_set}, a name that cluster {other} in this namespace has for {what}; \
                 rename this pool, or make the cluster in another namespace"
            );
            invalids.push(Invalid::new(field, why));
        }
    }
    invalids
}

/// Refuses a new group whose name still belongs to a group that was removed from the spec and has
/// nodes left.
pub fn check_groups(groups: &[NodeGroup], invalid: &mut impl FnMut(&str, String)) {
    for (index, group) in groups.iter().enumerate() {
        let other = groups[..index]
            .iter()
            .find(|other| other.stateful_set == group.stateful_set);
        let Some(other) = other else { continue };
        let (new, old) = if group.replicas == 0 {
            (other, group)
        } else {
            (group, other)
        };
        let why = format!(
            "zone {} makes nodes named {}, and nodes of pool {} in zone {} have that name until they are gone; wait, or rename this pool",
            new.zone, new.stateful_set, old.pool.name, old.zone
        );
        // If both groups are in the spec, `check` refuses that already.
        if old.replicas == 0 {
            invalid(&format!("spec.nodePools[{}]", new.pool.name), why);
        }
    }
}

/// Refuses a group whose volume claims belong to another cluster, even a deleted one: its pods
/// would start on that cluster's data.
pub fn check_claims(
    groups: &[NodeGroup],
    foreign: &BTreeMap<String, String>,
    invalid: &mut impl FnMut(&str, String),
) {
    for group in groups {
        let claims = group.node_ids().flat_map(|id| {
            group
                .volumes
                .iter()
                .map(move |volume| claim_name(&volume.name, &names::pod(&group.stateful_set, id)))
        });
        if let Some((claim, cluster)) = claims
            .into_iter()
            .find_map(|claim| foreign.get_key_value(&claim))
        {
            let why = format!(
                "claim {claim} belongs to cluster {cluster} (its label {}), and what is on it too; rename this pool, or delete the claim if nobody needs its records",
                labels::CLUSTER
            );
            invalid(&format!("spec.nodePools[{}]", group.pool.name), why);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::kafka_cluster::{NodePoolStatus, ZoneStatus};
    use serde_json::json;

    fn cluster(name: &str, created: Option<&str>, slots: &[(&str, &str)]) -> KafkaCluster {
        let mut pools: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        slots
            .iter()
            .for_each(|(pool, zone)| pools.entry(pool).or_default().push(zone));
        let pool = |(name, zones): (&&str, &Vec<&str>)| json!({"name": name, "roles": ["broker"], "replicas": 0, "zones": zones, "storage": {"size": "1Gi"}});
        serde_json::from_value(json!({
            "apiVersion": "freehold.dev/v1alpha1", "kind": "KafkaCluster",
            "metadata": {"name": name, "namespace": "n", "creationTimestamp": created},
            "spec": {"version": "4.3.1", "nodePools": pools.iter().map(pool).collect::<Vec<_>>()}
        }))
        .unwrap()
    }

    fn wrong(cluster: &KafkaCluster, others: &[&KafkaCluster]) -> String {
        let neighbours: Vec<_> = others.iter().map(|other| Neighbour::of(other)).collect();
        check(cluster, &neighbours)
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("\n")
    }

    const OLD: Option<&str> = Some("2026-01-01T00:00:00Z");
    const NEW: Option<&str> = Some("2026-02-01T00:00:00Z");

    #[test]
    fn pools_and_zones_that_make_one_name_are_refused() {
        let folded = wrong(&cluster("c", OLD, &[("a", "b-c"), ("a-b", "c")]), &[]);
        assert_eq!(
            folded,
            "spec.nodePools[a-b]: zone c makes nodes named c-a-b-c, and so does pool a in zone b-c; rename one of the pools"
        );
        let zones = wrong(&cluster("c", OLD, &[("p", "a_b"), ("p", "A-b")]), &[]);
        assert!(
            zones.contains("c-p-a-b, and so does pool p in zone")
                && zones.ends_with("give one of the zones a pool of its own"),
            "{zones}"
        );
        assert_eq!(
            wrong(
                &cluster("c", OLD, &[("a", "b"), ("a", "c"), ("b", "c")]),
                &[]
            ),
            ""
        );
    }

    #[test]
    fn a_neighbour_that_has_the_name_keeps_it() {
        let older = cluster("kafka", OLD, &[("prod-brokers", "a")]);
        let mut younger = cluster("kafka-prod", NEW, &[("brokers", "a")]);
        let refused = wrong(&younger, &[&older]);
        assert!(
            refused.starts_with(
                "spec.nodePools[brokers]: zone a makes nodes named kafka-prod-brokers-a"
            ),
            "{refused}"
        );
        assert!(
            refused.contains("cluster kafka")
                && refused.contains("pool prod-brokers in zone a; rename this pool"),
            "{refused}"
        );
        assert_eq!(wrong(&older, &[&younger]), "", "it was first");
        assert!(
            !wrong(&cluster("kafka-prod", None, &[("brokers", "a")]), &[&older]).is_empty(),
            "one that is only asked for"
        );
        // The older cluster gets the pool later, when the younger one has already created the
        // nodes.
        let zones = vec![ZoneStatus {
            zone: "a".into(),
            node_ids: vec![0],
        }];
        let pool = NodePoolStatus {
            name: "brokers".into(),
            ready: "1/1".into(),
            zones,
        };
        younger.status.get_or_insert_default().node_pools.push(pool);
        assert_eq!(wrong(&younger, &[&older]), "");
        assert!(wrong(&older, &[&younger]).contains("cluster kafka-prod"));
        assert_eq!(
            wrong(
                &older,
                &[&older, &cluster("kafka-prod", NEW, &[("brokers", "b")])]
            ),
            "",
            "itself, and another zone"
        );
    }

    #[test]
    fn what_a_cluster_is_made_of_beside_its_nodes_has_names_too() {
        let identity = wrong(
            &cluster("a", NEW, &[("x", "identity")]),
            &[&cluster("a-x", OLD, &[("p", "z")])],
        );
        assert!(
            identity.contains("cluster a-x in this namespace has for its identity"),
            "{identity}"
        );
        let operator = wrong(
            &cluster("a", NEW, &[("x", "operator")]),
            &[&cluster("a-x", OLD, &[("p", "z")])],
        );
        assert!(
            operator.contains("for the operator's certificate"),
            "{operator}"
        );
    }

    #[test]
    fn names_that_kubernetes_does_not_take_are_refused() {
        let scale = wrong(&cluster("3scale", NEW, &[("p", "z")]), &[]);
        assert!(
            scale.starts_with("metadata.name: begins with a digit")
                && scale.contains("a name that begins with a letter"),
            "{scale}"
        );
        for zone in ["zone-", "zone ü", "_a", "a/b"] {
            assert!(
                wrong(&cluster("c", NEW, &[("p", zone)]), &[])
                    .contains("topology.kubernetes.io/zone"),
                "{zone}"
            );
        }
        assert_eq!(
            wrong(&cluster("c", NEW, &[("p", "EU_West.1a"), ("p", "1")]), &[]),
            ""
        );
    }
}
