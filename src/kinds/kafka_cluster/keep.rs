//! Plans what continues for a cluster that must not be changed because it is paused, its spec is
//! invalid, or its version has no image any more: readiness gates, renewal of certificates, and the
//! end of the running disruption. The plan is computed from what runs, not from the spec. Pure.
//!
//! *Keep* works from what runs, *change* from the accepted spec.

use crate::api::kafka_cluster::{Certificates, KafkaCluster, NodePool, Role};
use crate::api::reference::ClusterKey;
use crate::kinds::kafka_cluster::certificates::authorities;
use crate::kinds::kafka_cluster::certificates::nodes;
use crate::kinds::kafka_cluster::disruption::{Facts, Lease, Mode, Pending};
use crate::kinds::kafka_cluster::model::authority::Trust;
use crate::kinds::kafka_cluster::model::cluster::{NodeGroup, ValidCluster};
use crate::kinds::kafka_cluster::observed::{Observed, StatefulSetFacts};
use crate::kinds::kafka_cluster::plan;
use crate::kinds::kafka_cluster::plan::Plan;
use crate::kinds::kafka_cluster::readiness;
use crate::kubernetes;
use crate::kubernetes::{labels, names};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

/// The running cluster according to its StatefulSets; `None` if there are none. Only the fields
/// that [`plan`] uses are reliable, because the rest of the spec was not accepted.
pub fn cluster(object: &KafkaCluster, observed: &Observed) -> Option<ValidCluster> {
    let identity = observed.identity.as_ref()?;
    let sets = observed.objects.stateful_sets().iter();
    let mut groups: Vec<NodeGroup> = sets.filter_map(|set| group(object, set)).collect();
    groups.sort_by_key(|group| group.first_node_id);
    let mut spec = object.spec.clone();
    spec.node_pools = groups.iter().map(|group| group.pool.clone()).collect();
    if spec.certificates.renew_before_days >= spec.certificates.validity_days {
        let Certificates {
            validity_days,
            renew_before_days,
            ..
        } = Certificates::default();
        (
            spec.certificates.validity_days,
            spec.certificates.renew_before_days,
        ) = (validity_days, renew_before_days);
    }
    let annotation = |key: &str| {
        object
            .metadata
            .annotations
            .as_ref()
            .and_then(|all| all.get(key))
            .cloned()
    };
    (!groups.is_empty()).then(|| ValidCluster {
        key: ClusterKey::of(object),
        owner: kubernetes::owner(object),
        spec,
        image: String::new(),
        restart: None,
        renew_certificates: annotation(labels::RENEW_CERTIFICATES),
        replace: None,
        cordons_replaced: false,
        lost: BTreeSet::new(),
        hibernated: false,
        operator_namespace: observed.operator_namespace.clone(),
        cluster_domain: observed.cluster_domain.clone(),
        serving: BTreeSet::new(),
        image_pull_secrets: Vec::new(),
        blocks: identity.blocks(),
        groups,
        warnings: Vec::new(),
    })
}

fn group(object: &KafkaCluster, set: &StatefulSetFacts) -> Option<NodeGroup> {
    let (name, zone) = (set.live.label(labels::POOL)?, set.live.label(labels::ZONE)?);
    let running = set.replicas?;
    let known = object
        .spec
        .node_pools
        .iter()
        .find(|pool| pool.name == name)
        .cloned();
    let made = || {
        serde_json::from_value(json!({"name": name, "roles": [], "replicas": 0, "zones": [zone], "storage": {"size": "1Gi"}})).ok()
    };
    let pool: NodePool = known.or_else(made)?;
    let roles = [
        (Role::Controller, set.controller),
        (Role::Broker, set.broker),
    ]
    .into_iter()
    .filter_map(|(role, is)| is.then_some(role))
    .collect();
    Some(NodeGroup {
        stateful_set: set.name().to_owned(),
        pool: NodePool { roles, ..pool },
        zone: zone.to_owned(),
        first_node_id: set.first_ordinal.unwrap_or(0),
        replicas: running,
        running,
        heap_bytes: 0,
        volumes: Vec::new(),
        cordoned_volumes: BTreeMap::new(),
        retained: None,
    })
}

/// Plans the steps that do not depend on changes of the spec.
pub fn plan(object: &KafkaCluster, cluster: &ValidCluster, observed: &Observed) -> Plan {
    let lease = Lease::running(object);
    let made = trust(cluster, observed)
        .map(|trust| nodes::report(cluster, observed, &trust))
        .unwrap_or_default();
    let pending = Pending::of(&made.upkeep);
    let facts = Facts {
        object,
        cluster,
        observed,
        desired: &[],
        pending,
        lease,
        mode: Mode::Keep,
    };
    plan::decide(&facts, made, &[readiness::report])
}

/// The certificates that nodes and clients trust at present. A missing Secret of
/// `clientAuthorities` must not reduce that trust.
fn trust(cluster: &ValidCluster, observed: &Observed) -> Option<Trust> {
    let trust = authorities::trust(&cluster.key.name, observed)?;
    let sets = cluster
        .groups
        .iter()
        .map(|group| names::node_certificates(&group.stateful_set));
    let in_force = sets
        .filter_map(|secret| observed.secrets.get(&secret)?.data.get("clients-ca.crt"))
        .max_by_key(|bundle| bundle.len());
    Some(Trust {
        clients_ca: in_force.cloned().unwrap_or(trust.clients_ca),
        ..trust
    })
}
