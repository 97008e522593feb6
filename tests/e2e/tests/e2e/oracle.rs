//! What really happened to the replicas: the cluster's metadata log, replayed afterwards. Every state that a partition was
//! ever in is looked at, not a sample.

use crate::world::{block_on, endpoints, secret};
use freehold::kafka::metadata_image::{MetadataImage, PartitionImage};
use freehold::kafka::metadata_record::MetadataRecord;
use freehold::kafka_admin::Admin;
use freehold::kafka_admin::follower::{self, Controllers};
use freehold::kafka_admin::tls::TlsSettings;
use ground::kubectl::Kubectl;
use std::collections::{BTreeMap, BTreeSet};

/// Where the log ends now: what comes after is ours to answer for.
pub fn mark(kubectl: &Kubectl, namespace: &str, cluster: &str) -> i64 {
    block_on(crate::world::super_admin(kubectl, namespace, cluster).describe_quorum()).unwrap().high_watermark
}

fn history(kubectl: &Kubectl, namespace: &str, cluster: &str) -> Vec<(i64, MetadataRecord)> {
    let own = secret(kubectl, namespace, &format!("{cluster}-operator-tls")).unwrap();
    let ca = secret(kubectl, namespace, &format!("{cluster}-cluster-ca")).unwrap();
    let tls = TlsSettings::new(&ca["tls.crt"], Some((&own["tls.crt"], &own["tls.key"]))).unwrap();
    let endpoints = endpoints(kubectl, namespace, cluster, "controller", 9090);
    block_on(follower::history(Controllers { endpoints, tls }, 0)).unwrap()
}

/// What the log tells of the time since a mark.
#[derive(Debug, Default)]
pub struct Seen {
    /// States of partitions that were looked at.
    pub states: usize,
    /// Changes of a partition's leader.
    pub leader_moves: usize,
    /// Partitions whose leader changed more than twice, and who led them in turn, in words.
    pub restless: Vec<String>,
    /// Partitions that there were at some time, those of topics that are gone by now as well.
    pub partitions: usize,
    /// States under min.insync.replicas, or without a leader, in words.
    pub violations: Vec<String>,
}

/// A partition: its topic's id, for one that is made anew under its name is another, and its index.
type Id = (u128, usize);

/// Replays the log: since `mark` no partition may have been under its `min.insync.replicas`, or led by nobody.
pub fn replay(kubectl: &Kubectl, namespace: &str, cluster: &str, mark: i64) -> Seen {
    let mut image = MetadataImage::default();
    let mut seen = Seen::default();
    let mut leaders: BTreeMap<Id, i32> = BTreeMap::new();
    let mut moves: BTreeMap<Id, (String, Vec<i32>)> = BTreeMap::new();
    let mut there: Option<BTreeSet<Id>> = None;
    for (offset, record) in history(kubectl, namespace, cluster) {
        if offset >= mark {
            there.get_or_insert_with(|| partitions(&image).collect());
        }
        image.apply(record.clone(), &mut Vec::new());
        let (MetadataRecord::Partition { topic, index, .. } | MetadataRecord::PartitionChange { topic, index, .. }) = &record else {
            continue;
        };
        let index = usize::try_from(*index).unwrap();
        let Some((name, found)) = image.topics().find(|(_, found)| found.id == *topic) else { continue };
        let partition: &PartitionImage = &found.partitions[index];
        let id = (topic.as_u128(), index);
        let moved = leaders.insert(id, partition.leader).is_some_and(|before| before != partition.leader);
        if offset < mark {
            continue;
        }
        seen.states += 1;
        there.get_or_insert_default().insert(id);
        if moved {
            seen.leader_moves += 1;
            let (_, led) = moves.entry(id).or_insert_with(|| (format!("{name}-{index}"), Vec::new()));
            led.push(partition.leader);
        }
        let set = found.config.get("min.insync.replicas").or_else(|| image.brokers_config("min.insync.replicas"));
        let min: usize = set.and_then(|value| value.parse().ok()).unwrap_or(1);
        if partition.in_sync().len() < min || partition.leader < 0 {
            let (in_sync, leader) = (partition.in_sync(), partition.leader);
            seen.violations.push(format!("offset {offset}: {name}-{index} has {in_sync:?} in sync, min {min}, leader {leader}"));
        }
    }
    seen.restless = moves.values().filter(|(_, led)| led.len() > 2).map(|(name, led)| format!("{name} {led:?}")).collect();
    seen.partitions = there.unwrap_or_else(|| partitions(&image).collect()).len();
    seen
}

fn partitions(image: &MetadataImage) -> impl Iterator<Item = Id> {
    image.topics().flat_map(|(_, topic)| (0..topic.partitions.len()).map(|index| (topic.id.as_u128(), index)))
}
