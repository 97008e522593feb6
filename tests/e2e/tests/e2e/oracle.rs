//! Finds out what really happened to the replicas: replays the cluster's metadata log afterwards.
//! It checks every state of every partition, not a sample.

use crate::world::{LONG, block_on, endpoints, operator_tls};
use freehold_e2e::kubectl::Kubectl;
use freehold_e2e::promise;
use freehold_kafka::metadata_image::{MetadataImage, PartitionImage, TopicImage};
use freehold_kafka::metadata_record::MetadataRecord;
use freehold_kafka_client::follower::{self, Controllers, Position};
use std::collections::{BTreeMap, BTreeSet};

/// The metadata and the end of the log at one moment; a replay checks what comes after.
pub struct Mark {
    image: MetadataImage,
    end: Position,
}

pub fn mark(kubectl: &Kubectl, namespace: &str, cluster: &str) -> Mark {
    let (image, end) = block_on(follower::now(
        controllers(kubectl, namespace, cluster),
        LONG,
    ))
    .unwrap();
    Mark { image, end }
}

fn controllers(kubectl: &Kubectl, namespace: &str, cluster: &str) -> Controllers {
    Controllers {
        endpoints: endpoints(kubectl, namespace, cluster, "controller", 9090),
        tls: operator_tls(kubectl, namespace, cluster),
    }
}

/// What the log contains since a mark.
#[derive(Debug, Default)]
pub struct Seen {
    /// Number of partition states that were checked.
    pub states: usize,
    /// Number of leader changes.
    pub leader_moves: usize,
    /// Partitions whose leader changed more than twice, with their leaders in order, as text.
    pub restless: Vec<String>,
    /// Number of partitions that existed at some time, including those of topics that are deleted
    /// by now.
    pub partitions: usize,
    /// States under min.insync.replicas or without a leader, as text.
    pub violations: Vec<String>,
}

/// No partition was ever under its `min.insync.replicas` or without a leader.
pub fn assert_sound(seen: &Seen) {
    let (bad, all) = (seen.violations.len(), seen.states);
    promise!(
        seen.violations.is_empty(),
        "{bad} of {all} states of partitions: {:#?}",
        seen.violations
    );
}

/// A partition: the id of its topic, because a topic recreated under the same name is another one,
/// and its index.
type Id = (u128, usize);

/// Replays the log since `mark`: finds partitions that were under their `min.insync.replicas` or
/// had no leader.
pub fn replay(kubectl: &Kubectl, namespace: &str, cluster: &str, mark: Mark) -> Seen {
    let Mark { mut image, end } = mark;
    let mut seen = Seen::default();
    let mut leaders: BTreeMap<Id, i32> = partitions(&image).collect();
    let mut moves: BTreeMap<Id, (String, Vec<i32>)> = BTreeMap::new();
    let mut there: BTreeSet<Id> = leaders.keys().copied().collect();
    for (offset, record) in block_on(follower::history(
        controllers(kubectl, namespace, cluster),
        end,
    ))
    .unwrap()
    {
        image.apply(record.clone(), &mut Vec::new());
        let (MetadataRecord::Partition { topic, index, .. }
        | MetadataRecord::PartitionChange { topic, index, .. }) = &record
        else {
            continue;
        };
        let index = usize::try_from(*index).unwrap();
        let Some((name, found)) = image.topics().find(|(_, found)| found.id == *topic) else {
            continue;
        };
        let partition: &PartitionImage = &found.partitions[index];
        let id = (topic.as_u128(), index);
        let moved = leaders
            .insert(id, partition.leader)
            .is_some_and(|before| before != partition.leader);
        seen.states += 1;
        there.insert(id);
        if moved {
            seen.leader_moves += 1;
            let (_, led) = moves
                .entry(id)
                .or_insert_with(|| (format!("{name}-{index}"), Vec::new()));
            led.push(partition.leader);
        }
        let set = found
            .config
            .get("min.insync.replicas")
            .or_else(|| image.brokers_config("min.insync.replicas"));
        let min: usize = set.and_then(|value| value.parse().ok()).unwrap_or(1);
        if partition.in_sync().len() < min || partition.leader < 0 {
            let (in_sync, leader) = (partition.in_sync(), partition.leader);
            seen.violations.push(format!("offset {offset}: {name}-{index} has {in_sync:?} in sync, min {min}, leader {leader}"));
        }
    }
    seen.restless = moves
        .values()
        .filter(|(_, led)| led.len() > 2)
        .map(|(name, led)| format!("{name} {led:?}"))
        .collect();
    seen.partitions = there.len();
    seen
}

/// Partitions with their leaders.
fn partitions(image: &MetadataImage) -> impl Iterator<Item = (Id, i32)> {
    let of_topic = |topic: &TopicImage| {
        let id = topic.id.as_u128();
        topic
            .partitions
            .iter()
            .enumerate()
            .map(|(index, partition)| ((id, index), partition.leader))
            .collect::<Vec<_>>()
    };
    image.topics().flat_map(move |(_, topic)| of_topic(topic))
}
