//! Who is in sync: brokers by the replicas that they hold, controllers by the metadata log. Pure.

use super::restart::TopicView;
use crate::kafka_admin::{ClusterDescription, QuorumDescription};
use std::collections::{BTreeMap, BTreeSet};

/// A voter that is fewer records behind than this follows: fetches happen several times a second.
pub const LAG_RECORDS_MAX: i64 = 100;

/// Brokers that are registered, unfenced and in the in-sync set of every replica they hold; those that are being added
/// do not count yet.
pub fn brokers(cluster: &ClusterDescription, topics: &[TopicView]) -> BTreeSet<i32> {
    let mut in_sync: BTreeSet<i32> = cluster.brokers.iter().filter(|broker| !broker.fenced).map(|broker| broker.id).collect();
    for partition in topics.iter().flat_map(|topic| &topic.partitions) {
        for replica in partition.replicas.iter().filter(|id| !partition.adding.contains(id)) {
            if !partition.in_sync().contains(replica) {
                in_sync.remove(replica);
            }
        }
    }
    in_sync
}

/// Records that each voter lags behind the leader; `None` while unknown.
pub fn voter_lags(quorum: &QuorumDescription) -> BTreeMap<i32, Option<i64>> {
    let end = quorum.voters.iter().find(|voter| voter.id == quorum.leader).map_or(-1, |leader| leader.log_end_offset);
    quorum
        .voters
        .iter()
        .map(|voter| (voter.id, (voter.log_end_offset >= 0 && end >= 0).then(|| (end - voter.log_end_offset).max(0))))
        .collect()
}

/// Voters that follow closely.
pub fn voters(quorum: &QuorumDescription) -> BTreeSet<i32> {
    voter_lags(quorum).into_iter().filter(|(_, lag)| lag.is_some_and(|lag| lag < LAG_RECORDS_MAX)).map(|(id, _)| id).collect()
}

/// A lag in words that seldom change: `caughtUp`, `>100`, `>1000`, … or `unknown`.
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
    use crate::kafka::metadata_image::PartitionImage;
    use crate::kafka::metadata_record::PartitionFields;
    use crate::kafka_admin::{BrokerDescription, ReplicaState};

    fn broker(id: i32, fenced: bool) -> BrokerDescription {
        BrokerDescription { id, fenced, rack: None }
    }

    #[test]
    fn a_broker_with_one_replica_out_of_sync_is_not_in_sync() {
        let cluster = ClusterDescription { cluster_id: "c".into(), brokers: vec![broker(1, false), broker(2, false), broker(3, true)] };
        let fields = PartitionFields { replicas: Some(vec![1, 2, 3]), in_sync: Some(vec![1]), ..PartitionFields::default() };
        let topic = TopicView { name: "t".into(), min_in_sync: 1, partitions: vec![PartitionImage::of(fields)], ..TopicView::default() };
        assert_eq!(brokers(&cluster, &[topic]), BTreeSet::from([1]));
        assert_eq!(brokers(&cluster, &[]), BTreeSet::from([1, 2]), "a fenced broker serves nobody");
    }

    #[test]
    fn a_voter_is_known_to_follow_only_by_its_own_offset() {
        let voter = |id, log_end_offset| ReplicaState { id, directory: uuid::Uuid::nil(), log_end_offset, last_fetch_ms: 0 };
        let quorum = QuorumDescription {
            leader: 1,
            high_watermark: 900,
            voters: vec![voter(1, 1000), voter(2, 950), voter(3, 10), voter(4, -1)],
            observers: vec![],
        };
        assert_eq!(voters(&quorum), BTreeSet::from([1, 2]));
        let words: Vec<_> = voter_lags(&quorum).into_values().map(lag_words).collect();
        assert_eq!(words, ["caughtUp", "caughtUp", ">100", "unknown"]);
    }
}
