//! Decides which nodes are in sync: brokers by the replicas that they hold, controllers by the
//! metadata log. Pure.

use super::safety::TopicView;
use crate::description::{ClusterDescription, QuorumDescription, ReplicaState};
use std::collections::{BTreeMap, BTreeSet};

/// A voter that lags less than this is caught up: it fetches several times a second.
pub const LAG_RECORDS_MAX: i64 = 100;

/// A fetch waits at most half a second. A voter without a fetch for this time is down or has no
/// connection to the leader.
const SILENCE_MS_MAX: i64 = 10_000;

/// Brokers that are registered, unfenced and in the in-sync set of every replica they hold.
/// Replicas that are being added are ignored. So are lost partitions: no broker can be in sync with
/// a partition that no broker has.
pub fn brokers(cluster: &ClusterDescription, topics: &[TopicView]) -> BTreeSet<i32> {
    let serving: BTreeSet<i32> = cluster
        .brokers
        .iter()
        .filter(|broker| !broker.fenced)
        .map(|broker| broker.id)
        .collect();
    let mut in_sync = serving.clone();
    let partitions = topics.iter().flat_map(|topic| &topic.partitions);
    for partition in partitions.filter(|partition| !partition.is_lost(|id| serving.contains(&id))) {
        for replica in partition
            .replicas
            .iter()
            .filter(|id| !partition.adding.contains(id))
        {
            if !partition.in_sync().contains(replica) {
                in_sync.remove(replica);
            }
        }
    }
    in_sync
}

/// How many records each voter lags behind the leader; `None` while unknown.
pub fn voter_lags(quorum: &QuorumDescription) -> BTreeMap<i32, Option<i64>> {
    let end = quorum
        .voters
        .iter()
        .find(|voter| voter.id == quorum.leader)
        .map_or(-1, |leader| leader.log_end_offset);
    quorum
        .voters
        .iter()
        .map(|voter| {
            (
                voter.id,
                (voter.log_end_offset >= 0 && end >= 0)
                    .then(|| (end - voter.log_end_offset).max(0)),
            )
        })
        .collect()
}

/// Voters that are caught up.
pub fn voters(quorum: &QuorumDescription) -> BTreeSet<i32> {
    voter_lags(quorum)
        .into_iter()
        .filter(|(_, lag)| lag.is_some_and(|lag| lag < LAG_RECORDS_MAX))
        .map(|(id, _)| id)
        .collect()
}

/// Voters that are caught up and have fetched from the leader recently. A voter that has stopped
/// still looks caught up for a while.
pub fn voters_that_ask(quorum: &QuorumDescription) -> BTreeSet<i32> {
    let newest = quorum
        .voters
        .iter()
        .chain(&quorum.observers)
        .map(|replica| replica.last_fetch_ms)
        .max()
        .unwrap_or(-1);
    let mut voters = voters(quorum);
    let asks = |voter: &&ReplicaState| {
        voter.id == quorum.leader || newest - voter.last_fetch_ms < SILENCE_MS_MAX
    };
    let asking: BTreeSet<i32> = quorum
        .voters
        .iter()
        .filter(asks)
        .map(|voter| voter.id)
        .collect();
    voters.retain(|id| asking.contains(id));
    voters
}

/// A lag as text that seldom changes: `caughtUp`, `>100`, `>1000`, … or `unknown`.
pub fn lag_words(lag: Option<i64>) -> String {
    match lag {
        None => "unknown".into(),
        Some(lag) if lag < LAG_RECORDS_MAX => "caughtUp".into(),
        Some(lag) => format!(">{}", 10_i64.pow(lag.ilog10())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::description::BrokerDescription;
    use crate::metadata_image::PartitionImage;
    use crate::metadata_record::PartitionFields;

    fn broker(id: i32, fenced: bool) -> BrokerDescription {
        BrokerDescription {
            id,
            fenced,
            rack: None,
        }
    }

    #[test]
    fn a_broker_with_one_replica_out_of_sync_is_not_in_sync() {
        let cluster = ClusterDescription {
            cluster_id: "c".into(),
            brokers: vec![broker(1, false), broker(2, false), broker(3, true)],
        };
        let fields = PartitionFields {
            replicas: Some(vec![1, 2, 3]),
            in_sync: Some(vec![1]),
            ..PartitionFields::default()
        };
        let topic = TopicView {
            name: "t".into(),
            min_in_sync: 1,
            partitions: vec![PartitionImage::of(fields)],
            ..TopicView::default()
        };
        assert_eq!(brokers(&cluster, &[topic]), BTreeSet::from([1]));
        assert_eq!(
            brokers(&cluster, &[]),
            BTreeSet::from([1, 2]),
            "a fenced broker serves nobody"
        );
    }

    #[test]
    fn a_partition_that_nobody_has_keeps_nobody_out_of_sync() {
        let cluster = ClusterDescription {
            cluster_id: "c".into(),
            brokers: vec![broker(1, false), broker(2, true)],
        };
        let topic = |in_sync: &[i32], leader| {
            let fields = PartitionFields {
                replicas: Some(vec![2, 1]),
                in_sync: Some(in_sync.to_vec()),
                leader: Some(leader),
                ..PartitionFields::default()
            };
            TopicView {
                name: "t".into(),
                min_in_sync: 1,
                partitions: vec![PartitionImage::of(fields)],
                ..TopicView::default()
            }
        };
        assert_eq!(
            brokers(&cluster, &[topic(&[], -1)]),
            BTreeSet::from([1]),
            "it came back with an empty disk"
        );
        assert_eq!(
            brokers(&cluster, &[topic(&[2], -1)]),
            BTreeSet::from([1]),
            "who has it is away"
        );
        assert_eq!(
            brokers(&cluster, &[topic(&[2], 2)]),
            BTreeSet::new(),
            "somebody leads: it can follow"
        );
    }

    #[test]
    fn a_voter_is_known_to_follow_only_by_its_own_offset() {
        let voter = |id, log_end_offset| ReplicaState {
            id,
            directory: uuid::Uuid::nil(),
            log_end_offset,
            last_fetch_ms: 0,
        };
        let quorum = QuorumDescription {
            leader: 1,
            high_watermark: 900,
            voters: vec![voter(1, 1000), voter(2, 950), voter(3, 10), voter(4, -1)],
            observers: vec![],
        };
        assert_eq!(voters(&quorum), BTreeSet::from([1, 2]));
        let mut silent = quorum.clone();
        silent.voters[0].last_fetch_ms = -1;
        silent.observers = vec![ReplicaState {
            last_fetch_ms: 10_001,
            ..voter(5, 900)
        }];
        assert_eq!(
            voters_that_ask(&silent),
            BTreeSet::from([1]),
            "2 has not asked for ten seconds, and 1 leads"
        );
        silent.voters[1].last_fetch_ms = 2;
        assert_eq!(voters_that_ask(&silent), BTreeSet::from([1, 2]));
        let words: Vec<_> = voter_lags(&quorum).into_values().map(lag_words).collect();
        assert_eq!(words, ["caughtUp", "caughtUp", ">100", "unknown"]);
    }
}
