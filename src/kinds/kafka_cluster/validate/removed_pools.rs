//! Handles pools that were removed from the spec, until their nodes are gone: a pool may be removed
//! from the spec before it is drained. Pure.
//!
//! The StatefulSet of such a pool describes its nodes and is not changed; if it is lost too, the
//! pods and claims describe them.

use crate::api::kafka_cluster::{
    Jvm, KafkaCluster, KafkaClusterSpec, NodePool, PodTemplate, Role, Storage, WhenScaled,
};
use crate::api::reference::ClusterKey;
use crate::kinds::kafka_cluster::model::cluster::NodeGroup;
use crate::kinds::kafka_cluster::model::heap::{HEAP_BYTES_MIN, heap};
use crate::kinds::kafka_cluster::observed::{
    KafkaFacts, Objects, Observed, PodFacts, StatefulSetFacts,
};
use crate::kinds::kafka_cluster::replacing::request;
use crate::kinds::kafka_cluster::storage;
use crate::kinds::kafka_cluster::validate;
use crate::kinds::kafka_cluster::validate::{live_nodes, running};
use crate::kubernetes::names;
use freehold_kafka::node_ids::{BLOCK, Blocks, Slot};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// The slots of pools that were removed from the spec, with their first node ids.
pub fn slots<'a>(
    spec: &'a KafkaClusterSpec,
    blocks: &'a Blocks,
) -> impl Iterator<Item = (&'a Slot, i32)> {
    let is_removed = |pool: &String| !spec.node_pools.iter().any(|one| one.name == *pool);
    blocks
        .iter()
        .filter(move |((pool, _), _)| is_removed(pool))
        .map(|(slot, first)| (slot, *first))
}

/// The node groups of pools that were removed from the spec: they do not change until they hold
/// nothing.
pub fn groups(
    spec: &KafkaClusterSpec,
    key: &ClusterKey,
    blocks: &Blocks,
    held: &BTreeSet<i32>,
    observed: &Observed,
) -> Vec<NodeGroup> {
    let mut groups = Vec::new();
    for ((name, zone), first_node_id) in slots(spec, blocks) {
        let stateful_set = names::stateful_set(&key.name, name, zone);
        let live = in_slot(
            live_nodes(&observed.objects, &observed.pods, &stateful_set),
            first_node_id,
            &stateful_set,
            &key.name,
            blocks,
        );
        let held = held
            .range(first_node_id..first_node_id + BLOCK)
            .next_back()
            .map_or(0, |last| last + 1 - first_node_id);
        let running = running(&live, first_node_id, 0, observed).max(held);
        let set = observed
            .objects
            .stateful_set(&stateful_set)
            .filter(|set| !set.live.is_deleting());
        if running == 0 && live.is_empty() {
            continue;
        }
        let Some(pool) = pool(name, &stateful_set, first_node_id, set, observed) else {
            continue;
        };
        let cordoned_volumes = storage::cordoned(&pool, &stateful_set, &observed.pods);
        let heap_bytes = heap(&pool).unwrap_or(HEAP_BYTES_MIN);
        let (volumes, zone) = (pool.storage.all(), zone.clone());
        groups.push(NodeGroup {
            stateful_set,
            pool,
            zone,
            first_node_id,
            replicas: 0,
            running,
            heap_bytes,
            volumes,
            cordoned_volumes,
            retained: set.map(|set| set.live.clone()),
        });
    }
    groups
}

/// A removed pool, rebuilt from its StatefulSet or else from its pods and claims. `None` if no
/// volume is left, because then no node could be created.
fn pool(
    name: &str,
    stateful_set: &str,
    first_node_id: i32,
    set: Option<&StatefulSetFacts>,
    observed: &Observed,
) -> Option<NodePool> {
    let ids = first_node_id..first_node_id + BLOCK;
    let pods = || {
        observed
            .pods
            .iter()
            .filter(|pod| pod.stateful_set == stateful_set)
    };
    let votes = matches!(&observed.kafka, KafkaFacts::Answered { quorum, .. } if quorum.voters.iter().any(|voter| ids.contains(&voter.id)));
    let controller = set.is_some_and(|set| set.controller)
        || pods().any(|pod| pod.controller)
        || (set.is_none() && votes);
    // Without a StatefulSet or pods, the node is known only because it holds replicas.
    let broker = set.is_some_and(|set| set.broker)
        || pods().any(|pod| pod.broker)
        || (set.is_none() && !controller);
    let roles = [(Role::Controller, controller), (Role::Broker, broker)]
        .into_iter()
        .filter_map(|(role, is)| is.then_some(role))
        .collect();
    let mut all = storage::left(stateful_set, set, observed);
    let at = all.iter().position(|volume| volume.name.is_empty())?;
    let first = all.remove(at);
    let storage = Storage {
        size: first.size,
        storage_class_name: first.storage_class_name,
        volume_attributes_class_name: first.volume_attributes_class_name,
        auto_grow: None,
        volumes: all,
        when_scaled: WhenScaled::Retain,
    };
    Some(NodePool {
        name: name.to_owned(),
        roles,
        replicas: 0,
        autoscaling: None,
        zones: Vec::new(),
        storage,
        resources: None,
        jvm: Jvm::default(),
        config: BTreeMap::new(),
        pod_template: PodTemplate::default(),
    })
}

/// The nodes of a StatefulSet. Empty if they belong to another slot of the present or a former spec
/// that has the same StatefulSet name.
pub fn in_slot(
    live: Range<i32>,
    first_node_id: i32,
    stateful_set: &str,
    cluster: &str,
    blocks: &Blocks,
) -> Range<i32> {
    let is_twin = |((pool, zone), first): (&Slot, &i32)| {
        *first != first_node_id
            && (*first..first + BLOCK).contains(&live.start)
            && names::stateful_set(cluster, pool, zone) == stateful_set
    };
    if blocks.iter().any(is_twin) {
        0..0
    } else {
        live
    }
}

/// The running nodes that shall leave: of pools that shrink, of removed pools, and the node that
/// the annotation asks to replace.
pub fn leaving(
    object: &KafkaCluster,
    blocks: &Blocks,
    objects: &Objects,
    pods: &[PodFacts],
) -> Vec<i32> {
    let cluster = object.metadata.name.as_deref().unwrap_or_default();
    let mut leaving: Vec<i32> = request::asked(object).into_iter().collect();
    for pool in &object.spec.node_pools {
        for (zone, replicas) in validate::zones(pool, blocks) {
            let live = live_nodes(
                objects,
                pods,
                &names::stateful_set(cluster, &pool.name, zone),
            );
            leaving.extend(live.start + replicas..live.end);
        }
    }
    for ((pool, zone), first) in slots(&object.spec, blocks) {
        let stateful_set = names::stateful_set(cluster, pool, zone);
        let live = live_nodes(objects, pods, &stateful_set);
        leaving.extend(in_slot(live, first, &stateful_set, cluster, blocks));
    }
    leaving
}
