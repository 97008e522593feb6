//! Says what keeps brokers that are to leave, where no moves are under way that empty them. Without
//! that, the cluster would be Ready with brokers that its spec does not have. Pure.

use crate::api::kafka_cluster::Role;
use crate::kinds::kafka_cluster::disruption::{Facts, Instead, Report, Stays, WaitingOn};
use crate::kinds::kafka_cluster::model::cluster::{NodeGroup, ValidCluster};
use freehold_kafka::safety::{self, TopicView};
use std::collections::{BTreeMap, BTreeSet};

fn leaving(cluster: &ValidCluster) -> BTreeSet<i32> {
    let groups = cluster.groups_of(Role::Broker);
    groups.flat_map(NodeGroup::leaving_ids).collect()
}

fn waiting(nodes: BTreeSet<i32>, why: Stays) -> Option<WaitingOn> {
    (!nodes.is_empty()).then_some(WaitingOn::Leaving { nodes, why })
}

/// The brokers that are not emptied because spec.rebalance.mode is Never.
pub fn never(cluster: &ValidCluster, topics: &[TopicView]) -> Vec<WaitingOn> {
    let holders = safety::holders(topics);
    let of = |mut nodes: BTreeSet<i32>, instead: Instead| {
        nodes.retain(|id| holders.contains(id));
        waiting(nodes, Stays::Never { instead })
    };
    let replaced = cluster.replace.into_iter().collect();
    let all = [
        of(leaving(cluster), Instead::PutBack),
        of(replaced, Instead::KeepVolume),
    ];
    all.into_iter().flatten().collect()
}

/// The brokers that still hold something though no moves are wished for that. Of a broker that is to
/// be replaced only lost partitions count. If nobody can take its replicas, the cluster stays Ready
/// with a warning that names the way out: the broker serves, the cluster is as its spec says, and
/// nobody has to be called at night for a request that can be carried out later. `moves`: the report of
/// the moves, which names what it waits for itself.
pub fn held(facts: &Facts<'_>, topics: &[TopicView], moves: &Report) -> Vec<WaitingOn> {
    let Facts {
        cluster, observed, ..
    } = *facts;
    let (leaving, replaced) = (leaving(cluster), cluster.replace.into_iter().collect());
    let is_stranded = |waiting: &WaitingOn| matches!(waiting, WaitingOn::Replicas { .. });
    if (leaving.is_empty() && cluster.replace.is_none())
        || !facts.pending.is_empty()
        || moves.wishes.iter().any(|wish| !wish.nodes.is_empty())
        || moves.waiting.iter().any(is_stranded)
    {
        return Vec::new();
    }
    let mut held: BTreeMap<i32, usize> = leaving.iter().map(|id| (*id, 0)).collect();
    for id in topics
        .iter()
        .flat_map(|topic| &topic.partitions)
        .filter(|partition| partition.leader >= 0)
        .flat_map(|partition| partition.replicas.iter())
    {
        if let Some(count) = held.get_mut(id) {
            *count += 1;
        }
    }
    let replicas: usize = held.values().sum();
    let (holders, mut empty): (BTreeSet<i32>, BTreeSet<i32>) =
        leaving.iter().copied().partition(|id| held[id] > 0);
    let voters = observed.kafka.answer().map(|answer| &answer.quorum.voters);
    let votes = |id: i32| voters.into_iter().flatten().any(|voter| voter.id == id);
    let lost = with_lost(&leaving, topics);
    empty.retain(|id| !lost.0.contains(id) && !observed.emptied.contains(id) && !votes(*id));
    let of_lost = |(nodes, partitions): (BTreeSet<i32>, Vec<String>), instead: Instead| {
        waiting(
            nodes,
            Stays::Lost {
                partitions,
                instead,
            },
        )
    };
    let all = [
        of_lost(lost, Instead::PutBack),
        of_lost(with_lost(&replaced, topics), Instead::KeepVolume),
        waiting(holders, Stays::Holds { replicas }),
        waiting(empty, Stays::Logs),
    ];
    all.into_iter().flatten().collect()
}

/// Those of these nodes that hold partitions without a leader, and these partitions.
fn with_lost(nodes: &BTreeSet<i32>, topics: &[TopicView]) -> (BTreeSet<i32>, Vec<String>) {
    let (mut holders, mut names) = (BTreeSet::new(), Vec::new());
    for topic in topics {
        let all = topic.partitions.iter().enumerate();
        for (index, partition) in all.filter(|(_, partition)| partition.leader < 0) {
            let ids = partition.replicas.iter().copied();
            let ids: Vec<i32> = ids.filter(|id| nodes.contains(id)).collect();
            if !ids.is_empty() {
                names.push(format!("{}-{index}", topic.name));
            }
            holders.extend(ids);
        }
    }
    (holders, names)
}
