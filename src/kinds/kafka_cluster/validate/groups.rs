//! The groups of nodes that a spec asks for, beside the nodes that run. Pure.

use crate::api::kafka_cluster::{KafkaClusterSpec, NodePool};
use crate::api::reference::ClusterKey;
use crate::kinds::kafka_cluster::model::cluster::NodeGroup;
use crate::kinds::kafka_cluster::model::heap::heap;
use crate::kinds::kafka_cluster::observed::{KafkaFacts, Objects, Observed, PodFacts};
use crate::kinds::kafka_cluster::storage;
use crate::kinds::kafka_cluster::validate::removed_pools;
use crate::kubernetes::names;
use freehold_kafka::node_ids::{BLOCK, Blocks, Slot};
use freehold_kafka::safety;
use std::collections::BTreeSet;
use std::ops::Range;

/// The zones of a pool, each with its number of nodes; 0 for a zone that was removed from the spec.
pub fn zones<'a>(pool: &'a NodePool, blocks: &'a Blocks) -> impl Iterator<Item = (&'a str, i32)> {
    let left = blocks
        .keys()
        .filter(|(name, zone)| *name == pool.name && !pool.zones.contains(zone));
    pool.zones
        .iter()
        .map(|zone| (zone.as_str(), pool.per_zone()))
        .chain(left.map(|(_, zone)| (zone.as_str(), 0)))
}

pub fn groups(
    spec: &KafkaClusterSpec,
    key: &ClusterKey,
    blocks: &Blocks,
    observed: &Observed,
) -> Vec<NodeGroup> {
    let mut groups = Vec::new();
    let held_by_all = if let KafkaFacts::Answered { topics, .. } = &observed.kafka {
        safety::holders(topics)
    } else {
        BTreeSet::new()
    };
    for pool in &spec.node_pools {
        let Ok(heap_bytes) = heap(pool) else { continue };
        for (zone, replicas) in zones(pool, blocks) {
            let Some(first_node_id) = blocks.get(&(pool.name.clone(), zone.to_owned())).copied()
            else {
                continue;
            };
            let stateful_set = names::stateful_set(&key.name, &pool.name, zone);
            // A node that holds a replica still counts, even if its pod is gone: its replicas must
            // move first.
            let held = held_by_all
                .range(first_node_id..first_node_id + BLOCK)
                .next_back()
                .map_or(0, |last| last + 1 - first_node_id);
            let live = live_nodes(&observed.objects, &observed.pods, &stateful_set);
            let live =
                removed_pools::in_slot(live, first_node_id, &stateful_set, &key.name, blocks);
            let running = running(&live, first_node_id, replicas, observed).max(held);
            if running > 0 || !live.is_empty() || pool.zones.iter().any(|wanted| wanted == zone) {
                let cordoned_volumes = storage::cordoned(pool, &stateful_set, &observed.pods);
                let volumes = storage::mounted(
                    pool,
                    &stateful_set,
                    first_node_id..first_node_id + running,
                    observed,
                );
                let (pool, zone) = (pool.clone(), zone.to_owned());
                groups.push(NodeGroup {
                    stateful_set,
                    pool,
                    zone,
                    first_node_id,
                    replicas,
                    running,
                    heap_bytes,
                    volumes,
                    cordoned_volumes,
                    retained: None,
                });
            }
        }
    }
    groups.extend(removed_pools::groups(
        spec,
        key,
        blocks,
        &held_by_all,
        observed,
    ));
    groups.sort_by_key(|group| group.first_node_id);
    groups
}

/// The ids of the nodes that a StatefulSet shall run at present. While it is being replaced, its
/// pods exist without it, and their ids are used.
pub fn live_nodes(objects: &Objects, pods: &[PodFacts], stateful_set: &str) -> Range<i32> {
    let set = objects
        .stateful_set(stateful_set)
        .filter(|set| !set.live.is_deleting());
    let Some(set) = set else {
        let ids = || {
            pods.iter()
                .filter(|pod| pod.stateful_set == stateful_set && !pod.deleting)
                .map(|pod| pod.node_id)
        };
        return ids()
            .min()
            .zip(ids().max())
            .map_or(0..0, |(first, last)| first..last + 1);
    };
    let first = set.first_ordinal.unwrap_or(0);
    first..first + set.replicas.unwrap_or(0)
}

/// The number of nodes of a group for now: those that its StatefulSet already runs, without the
/// last ones that hold nothing any more.
pub fn running(live: &Range<i32>, first_node_id: i32, replicas: i32, observed: &Observed) -> i32 {
    let count = i32::try_from(live.len()).unwrap_or(i32::MAX);
    let mut running = if live.is_empty() {
        replicas
    } else {
        replicas.max(count).max(live.end - first_node_id)
    };
    while running > replicas && observed.emptied.contains(&(first_node_id + running - 1)) {
        running -= 1;
    }
    running
}

pub fn slots(spec: &KafkaClusterSpec) -> impl Iterator<Item = Slot> + '_ {
    spec.node_pools.iter().flat_map(|pool| {
        pool.zones
            .iter()
            .map(|zone| (pool.name.clone(), zone.clone()))
    })
}
