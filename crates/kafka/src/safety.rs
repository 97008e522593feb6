//! Decides which nodes may be disturbed (restarted, removed from the quorum, or stripped of a
//! volume) without taking a partition below `min.insync.replicas` or the metadata quorum below its
//! majority. Pure. Only this module decides it: each step that disturbs a node requires a
//! [`Permit`], and only this module creates one.

use super::metadata_image::{MetadataImage, PartitionImage, TopicImage};
use super::topic_plan::THROTTLED;
use crate::description::{ClusterDescription, QuorumDescription, ReplicaState};
use crate::in_sync;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

/// Permission to disturb some nodes: to restart them, to remove them from the quorum, or to delete
/// volumes that they no longer need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permit {
    nodes: BTreeSet<i32>,
}

impl Permit {
    fn of(node: i32) -> Self {
        Self {
            nodes: [node].into(),
        }
    }

    /// True when the node may be disturbed.
    pub fn covers(&self, node: i32) -> bool {
        self.nodes.contains(&node)
    }
}

/// What the brokers report at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    pub cluster: &'a ClusterDescription,
    pub quorum: &'a QuorumDescription,
    pub topics: &'a [TopicView],
}

impl Answer<'_> {
    /// The brokers that are registered and not fenced.
    pub fn unfenced(&self) -> BTreeSet<i32> {
        self.cluster
            .brokers
            .iter()
            .filter(|broker| !broker.fenced)
            .map(|broker| broker.id)
            .collect()
    }

    /// True when the brokers report that this node serves: as an unfenced broker, as an in-sync
    /// replica of a partition with a leader, or as a voter that is caught up. The state of its pod
    /// does not matter then.
    pub fn serves(&self, node: i32) -> bool {
        let mut partitions = self.topics.iter().flat_map(|topic| &topic.partitions);
        self.unfenced().contains(&node)
            || in_sync::voters_that_ask(self.quorum).contains(&node)
            || partitions
                .any(|partition| partition.leader >= 0 && partition.in_sync().contains(&node))
    }

    fn votes(&self, node: i32) -> bool {
        self.quorum.voters.iter().any(|voter| voter.id == node)
    }

    fn holds_replicas(&self, node: i32) -> bool {
        self.topics
            .iter()
            .flat_map(|topic| &topic.partitions)
            .any(|partition| partition.replicas.contains(&node))
    }
}

/// Permission to recreate the pod of a node that does not serve. If no broker answers, no node is
/// known to serve, and the permission is given: otherwise a cluster that cannot start could not be
/// repaired.
pub fn can_repair(node: i32, answer: Option<Answer<'_>>) -> Option<Permit> {
    let serves = answer.is_some_and(|answer| answer.serves(node));
    (!serves).then(|| Permit::of(node))
}

/// Why the volumes of a node that is down may not be deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Irreplaceable {
    Serves,
    /// Partitions whose only copy may be on its volume.
    OnlyCopy(Vec<String>),
    /// Too few other controllers are caught up.
    Quorum {
        caught_up: usize,
        voters: usize,
    },
}

/// Permission to delete the volumes of a lost node. `keeps`: one of its volumes still exists and
/// may hold records.
///
/// # Errors
/// The reason why not.
pub fn can_replace(node: i32, keeps: bool, answer: Answer<'_>) -> Result<Permit, Irreplaceable> {
    if answer.serves(node) {
        return Err(Irreplaceable::Serves);
    }
    let unfenced = answer.unfenced();
    let only: Vec<String> = lost(answer.topics, |id| unfenced.contains(&id))
        .filter(|(_, partition)| partition.replicas.contains(&node))
        .map(|(name, _)| name)
        .collect();
    if keeps && !only.is_empty() {
        return Err(Irreplaceable::OnlyCopy(only));
    }
    // A voter that has just stopped still looks caught up, and what it has goes with its volume.
    let mut others = in_sync::voters(answer.quorum);
    others.remove(&node);
    let (caught_up, voters) = (others.len(), answer.quorum.voters.len());
    if answer.votes(node) && caught_up < majority(voters) {
        return Err(Irreplaceable::Quorum { caught_up, voters });
    }
    Ok(Permit::of(node))
}

/// Permission to remove a node completely: it holds no replica and is not a voter.
pub fn can_discard(node: i32, answer: Answer<'_>) -> Option<Permit> {
    (!answer.holds_replicas(node) && !answer.votes(node)).then(|| Permit::of(node))
}

/// Permission to delete a volume that a node runs without. The node is in sync for all its
/// replicas, so the volume cannot hold the only copy of anything.
pub fn can_discard_unmounted(node: i32, answer: Answer<'_>) -> Option<Permit> {
    let partitions = answer.topics.iter().flat_map(|topic| &topic.partitions);
    let misses = partitions.into_iter().any(|partition| {
        partition.replicas.contains(&node) && !partition.in_sync().contains(&node)
    });
    (!misses).then(|| Permit::of(node))
}

/// Permission to remove a voter: the remaining voters have a majority that is caught up.
pub fn can_remove_voter(voter: &ReplicaState, quorum: &QuorumDescription) -> Option<Permit> {
    let caught_up = in_sync::voters(quorum);
    let left: Vec<i32> = quorum
        .voters
        .iter()
        .map(|other| other.id)
        .filter(|id| *id != voter.id)
        .collect();
    let well = left.iter().filter(|id| caught_up.contains(id)).count();
    (!left.is_empty() && well >= majority(left.len())).then(|| Permit::of(voter.id))
}

/// What the decision about a restart needs of a topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicView {
    pub name: Arc<str>,
    /// `min.insync.replicas` in force.
    pub min_in_sync: usize,
    /// Approximate bytes of a replica of one of its partitions.
    pub partition_bytes: u64,
    /// The topic has the throttle of moves.
    pub throttled: bool,
    /// A Topic object manages it.
    pub claimed: bool,
    /// By partition index.
    pub partitions: Vec<PartitionImage>,
}

/// The lost partitions with their names: see [`PartitionImage::is_lost`].
pub fn lost<'a>(
    topics: &'a [TopicView],
    serves: impl Fn(i32) -> bool + Copy + 'a,
) -> impl Iterator<Item = (String, &'a PartitionImage)> {
    topics.iter().flat_map(move |topic| {
        let all = topic
            .partitions
            .iter()
            .enumerate()
            .filter(move |(_, partition)| partition.is_lost(serves));
        all.map(|(index, partition)| (format!("{}-{index}", topic.name), partition))
    })
}

/// Brokers that hold any replica.
pub fn holders(topics: &[TopicView]) -> BTreeSet<i32> {
    topics
        .iter()
        .flat_map(|topic| &topic.partitions)
        .flat_map(|partition| partition.replicas.iter().copied())
        .collect()
}

const MIN_IN_SYNC: &str = "min.insync.replicas";

/// Every topic, with its `min.insync.replicas` from its own config, else from the brokers' config,
/// else `default`.
pub fn views(image: &MetadataImage, default: i16) -> Vec<TopicView> {
    let number = |text: &str| text.trim().parse::<usize>().ok();
    let default = image
        .brokers_config(MIN_IN_SYNC)
        .and_then(number)
        .unwrap_or(usize::try_from(default).unwrap_or(1));
    let view = |(name, topic): (&Arc<str>, &TopicImage)| TopicView {
        name: Arc::clone(name),
        min_in_sync: topic
            .config
            .get(MIN_IN_SYNC)
            .and_then(number)
            .unwrap_or(default),
        partition_bytes: 0,
        throttled: THROTTLED.iter().any(|key| topic.config.get(key).is_some()),
        claimed: false,
        partitions: topic.partitions.clone(),
    };
    let mut views: Vec<_> = image.topics().map(view).collect();
    views.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    views
}

/// What is known of a cluster when a restart is decided.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    pub topics: &'a [TopicView],
    /// The voters of the quorum, and those of them that are caught up.
    pub voters: &'a BTreeSet<i32>,
    pub caught_up: &'a BTreeSet<i32>,
    /// Nodes that do not serve, or are about to stop.
    pub down: &'a BTreeSet<i32>,
    /// A user agreed that a restart may make the following unavailable while it lasts: partitions
    /// with no more replicas than `min.insync.replicas`, and a quorum of one or two voters.
    pub consent: bool,
}

/// Why nodes may not be restarted now.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Blocked {
    /// It may be allowed once more replicas are in sync.
    Partition {
        topic: Arc<str>,
        partition: usize,
        left: usize,
        min: usize,
    },
    Quorum {
        left: usize,
        needed: usize,
    },
    /// The brokers did not answer.
    Unknown,
    /// It is never allowed without the user's consent.
    NeedsConsent {
        what: String,
    },
}

impl fmt::Display for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Partition {
                topic,
                partition,
                left,
                min,
            } => {
                write!(
                    f,
                    "{topic}-{partition} would have {left} replicas in sync, and min.insync.replicas is {min}"
                )
            }
            Self::Quorum { left, needed } => write!(
                f,
                "{left} controllers would be caught up, and the quorum needs {needed}"
            ),
            Self::Unknown => write!(f, "the brokers do not say who is in sync"),
            Self::NeedsConsent { what } => write!(
                f,
                "{what}; set spec.rollout.allowUnavailable to true to let that happen"
            ),
        }
    }
}

/// Number of replicas that stay in sync while the nodes in `set` restart.
fn left(partition: &PartitionImage, set: &BTreeSet<i32>, down: &BTreeSet<i32>) -> usize {
    let stays =
        |id: &&i32| !set.contains(id) && !down.contains(id) && !partition.removing.contains(id);
    partition.in_sync().iter().filter(stays).count()
}

/// The smallest number of voters that is a majority.
pub fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

/// Whether these nodes may be restarted together: for every partition of which one of them holds a
/// replica, |ISR − set − down − removing| >= min.insync.replicas, and the quorum keeps a majority
/// that is caught up. A partition that is already lost does not count.
///
/// # Errors
/// The first reason why not.
pub fn can_restart(set: &BTreeSet<i32>, view: &View<'_>) -> Result<Permit, Blocked> {
    for topic in view.topics {
        for (index, partition) in topic.partitions.iter().enumerate() {
            let holds = partition.replicas.iter().any(|id| set.contains(id));
            if !holds || partition.is_lost(|id| !view.down.contains(&id)) {
                continue;
            }
            let (left, min) = (left(partition, set, view.down), topic.min_in_sync);
            // With no more replicas than the minimum no restart can spare the partition, even with
            // every replica in sync and one node at a time.
            let spared = partition.target().len() > min;
            match (left >= min, spared) {
                (true, _) => {}
                (false, false) if view.consent => {}
                (false, false) => {
                    let count = partition.target().len();
                    let what = format!(
                        "{}-{index} has {count} replicas, and min.insync.replicas is {min}",
                        topic.name
                    );
                    return Err(Blocked::NeedsConsent { what });
                }
                (false, true) => {
                    return Err(Blocked::Partition {
                        topic: Arc::clone(&topic.name),
                        partition: index,
                        left,
                        min,
                    });
                }
            }
        }
    }
    if set.iter().any(|id| view.voters.contains(id)) {
        let left = view
            .caught_up
            .iter()
            .filter(|id| view.voters.contains(id) && !set.contains(id) && !view.down.contains(id))
            .count();
        let needed = majority(view.voters.len());
        match (left >= needed, view.voters.len() > 2) {
            (true, _) => {}
            (false, false) if view.consent => {}
            (false, false) => {
                let what = format!(
                    "a quorum of {} controllers cannot spare one",
                    view.voters.len()
                );
                return Err(Blocked::NeedsConsent { what });
            }
            (false, true) => return Err(Blocked::Quorum { left, needed }),
        }
    }
    Ok(Permit { nodes: set.clone() })
}

/// As many of the first `candidates` as may be restarted together.
///
/// # Errors
/// Why not even one of them may be restarted.
pub fn batch(candidates: &[i32], view: &View<'_>) -> Result<BTreeSet<i32>, Blocked> {
    let mut chosen = BTreeSet::new();
    let mut why = None;
    for id in candidates {
        chosen.insert(*id);
        if let Err(blocked) = can_restart(&chosen, view) {
            chosen.remove(id);
            why.get_or_insert(blocked);
        }
        // The user's consent covers one node at a time, not several at once.
        if view.consent
            && !chosen.is_empty()
            && can_restart(
                &chosen,
                &View {
                    consent: false,
                    ..*view
                },
            )
            .is_err()
        {
            break;
        }
    }
    match why {
        Some(blocked) if chosen.is_empty() => Err(blocked),
        _ => Ok(chosen),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata_record::PartitionFields;

    fn partition(replicas: &[i32], in_sync: &[i32], removing: &[i32]) -> PartitionImage {
        PartitionImage::of(PartitionFields {
            replicas: Some(replicas.to_vec()),
            in_sync: Some(in_sync.to_vec()),
            leader: in_sync.first().copied(),
            removing: Some(removing.to_vec()),
            ..PartitionFields::default()
        })
    }

    /// Every subset of these ids.
    fn subsets(ids: &[i32]) -> Vec<BTreeSet<i32>> {
        (0..1_u32 << ids.len())
            .map(|mask| {
                ids.iter()
                    .enumerate()
                    .filter(|(bit, _)| mask >> bit & 1 == 1)
                    .map(|(_, id)| *id)
                    .collect()
            })
            .collect()
    }

    fn list(set: &BTreeSet<i32>) -> Vec<i32> {
        set.iter().copied().collect()
    }

    /// Compares every state of a partition on up to five brokers with the definition.
    #[test]
    fn the_rule_is_the_definition_for_every_state_of_five_brokers() {
        let ids = [0, 1, 2, 3, 4];
        let (none, mut checked, mut allowed) = (BTreeSet::new(), 0_u64, 0_u64);
        for replicas in subsets(&ids).iter().filter(|replicas| !replicas.is_empty()) {
            for in_sync in subsets(&list(replicas)) {
                for removing in subsets(&list(replicas))
                    .iter()
                    .filter(|removing| removing.len() < replicas.len() && removing.len() < 2)
                {
                    let partitions =
                        vec![partition(&list(replicas), &list(&in_sync), &list(removing))];
                    for min_in_sync in 1..=3 {
                        let topics = [TopicView {
                            name: "t".into(),
                            min_in_sync,
                            partitions: partitions.clone(),
                            ..TopicView::default()
                        }];
                        for down in subsets(&ids).iter().filter(|down| down.len() < 3) {
                            for set in subsets(&ids).iter().filter(|set| !set.is_empty()) {
                                let view = View {
                                    topics: &topics,
                                    voters: &none,
                                    caught_up: &none,
                                    down,
                                    consent: false,
                                };
                                let holds = !set.is_disjoint(replicas);
                                let stay: BTreeSet<_> = in_sync
                                    .iter()
                                    .filter(|id| {
                                        !set.contains(id)
                                            && !down.contains(id)
                                            && !removing.contains(id)
                                    })
                                    .collect();
                                // Without an in-sync replica there is no leader: the partition is
                                // lost.
                                let expected =
                                    !holds || in_sync.is_empty() || stay.len() >= min_in_sync;
                                assert_eq!(
                                    can_restart(set, &view).is_ok(),
                                    expected,
                                    "replicas {replicas:?} in sync {in_sync:?} leaving {removing:?} min {min_in_sync} down {down:?} set {set:?}"
                                );
                                checked += 1;
                                allowed += u64::from(expected);
                            }
                        }
                    }
                }
            }
        }
        assert!(
            checked > 500_000 && allowed > 10_000 && allowed < checked,
            "{allowed} of {checked}"
        );
    }

    #[test]
    fn the_quorum_keeps_a_majority_that_is_caught_up_for_every_state_of_five_voters() {
        let ids = [0, 1, 2, 3, 4];
        for voters in subsets(&ids).iter().filter(|voters| !voters.is_empty()) {
            for caught_up in subsets(&list(voters)) {
                for down in subsets(&ids) {
                    for set in subsets(&ids).iter().filter(|set| !set.is_empty()) {
                        let view = View {
                            topics: &[],
                            voters,
                            caught_up: &caught_up,
                            down: &down,
                            consent: false,
                        };
                        let stay = caught_up
                            .iter()
                            .filter(|id| !set.contains(id) && !down.contains(id))
                            .count();
                        let expected = set.is_disjoint(voters) || 2 * stay > voters.len();
                        assert_eq!(
                            can_restart(set, &view).is_ok(),
                            expected,
                            "{voters:?} {caught_up:?} {down:?} {set:?}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn what_no_restart_can_spare_waits_for_consent_and_then_goes_alone() {
        let topics = [TopicView {
            name: "single".into(),
            min_in_sync: 1,
            partitions: vec![partition(&[1], &[1], &[]), partition(&[2], &[2], &[])],
            ..TopicView::default()
        }];
        let (none, voters) = (BTreeSet::new(), BTreeSet::from([1, 2, 3]));
        let view = View {
            topics: &topics,
            voters: &voters,
            caught_up: &voters,
            down: &none,
            consent: false,
        };
        let refused = batch(&[1, 2], &view).unwrap_err();
        assert!(
            refused.to_string().contains("single-0 has 1 replicas")
                && refused
                    .to_string()
                    .contains("spec.rollout.allowUnavailable")
        );
        let view = View {
            consent: true,
            ..view
        };
        assert_eq!(batch(&[1, 2], &view), Ok(BTreeSet::from([1])));
    }

    #[test]
    fn a_partition_that_is_lost_holds_up_no_restart_and_one_that_is_only_without_a_leader_for_the_moment_does()
     {
        let none = BTreeSet::new();
        let down = BTreeSet::from([2]);
        let allowed = |in_sync: &[i32], down: &BTreeSet<i32>| {
            let mut partition = partition(&[1, 2], in_sync, &[]);
            partition.leader = -1;
            let topics = [TopicView {
                name: "t".into(),
                min_in_sync: 1,
                partitions: vec![partition],
                ..TopicView::default()
            }];
            let view = View {
                topics: &topics,
                voters: &none,
                caught_up: &none,
                down,
                consent: false,
            };
            can_restart(&BTreeSet::from([1]), &view).is_ok()
        };
        assert!(allowed(&[], &none), "both came back with empty disks");
        assert!(
            allowed(&[2], &down),
            "who is in sync is away: the other one has nothing to give"
        );
        assert!(!allowed(&[1], &down), "it will lead in a moment");
    }

    #[test]
    fn a_batch_is_as_large_as_the_rule_allows() {
        let spread = (0..6).map(|first| {
            partition(
                &[first, (first + 6) % 12, (first + 3) % 12],
                &[first, (first + 6) % 12, (first + 3) % 12],
                &[],
            )
        });
        let topics = [TopicView {
            name: "t".into(),
            min_in_sync: 2,
            partitions: spread.collect(),
            ..TopicView::default()
        }];
        let none = BTreeSet::new();
        let view = View {
            topics: &topics,
            voters: &none,
            caught_up: &none,
            down: &none,
            consent: false,
        };
        assert_eq!(batch(&[0, 1, 2], &view), Ok(BTreeSet::from([0, 1, 2])));
        assert_eq!(
            batch(&[0, 6], &view),
            Ok(BTreeSet::from([0])),
            "they share a partition"
        );
    }

    /// A voter that has stopped looks caught up until the others have written more.
    #[test]
    fn a_lost_voter_does_not_count_for_the_majority_that_its_replacement_needs() {
        let voter = |id: i32, log_end_offset: i64, last_fetch_ms: i64| ReplicaState {
            id,
            directory: uuid::Uuid::nil(),
            log_end_offset,
            last_fetch_ms,
        };
        let cluster = ClusterDescription {
            cluster_id: "ID".into(),
            brokers: Vec::new(),
        };
        let replaced = |of_another: i64| {
            let quorum = QuorumDescription {
                leader: 1,
                high_watermark: 0,
                voters: vec![
                    voter(1, 1000, 60_000),
                    voter(2, of_another, 60_000),
                    voter(3, 1000, 0),
                ],
                observers: Vec::new(),
            };
            let answer = Answer {
                cluster: &cluster,
                quorum: &quorum,
                topics: &[],
            };
            can_replace(3, true, answer)
        };
        assert!(replaced(1000).is_ok());
        let (caught_up, voters) = (1, 3);
        assert_eq!(
            replaced(0),
            Err(Irreplaceable::Quorum { caught_up, voters })
        );
    }
}
