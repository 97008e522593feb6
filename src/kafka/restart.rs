//! Which nodes may be restarted together without taking a partition under `min.insync.replicas` or the metadata quorum
//! under its majority. Pure; the one place where this is decided.

use super::metadata_image::PartitionImage;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

/// A topic as a restart sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicView {
    pub name: Arc<str>,
    /// `min.insync.replicas` in force.
    pub min_in_sync: usize,
    /// Bytes of a replica of one of its partitions, about.
    pub partition_bytes: u64,
    /// The throttle of moves is on it.
    pub throttled: bool,
    /// A Topic manages it.
    pub claimed: bool,
    /// By index.
    pub partitions: Vec<PartitionImage>,
}

/// Brokers that hold a replica of anything.
pub fn holders(topics: &[TopicView]) -> BTreeSet<i32> {
    topics.iter().flat_map(|topic| &topic.partitions).flat_map(|partition| partition.replicas.iter().copied()).collect()
}

/// What is known of a cluster when a restart is decided.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    pub topics: &'a [TopicView],
    /// The quorum's voters, and those of them that follow closely.
    pub voters: &'a BTreeSet<i32>,
    pub caught_up: &'a BTreeSet<i32>,
    /// Nodes that do not serve, or are about to stop.
    pub down: &'a BTreeSet<i32>,
    /// Somebody agreed that what no restart can spare may be unavailable for its time: partitions with as many
    /// replicas as `min.insync.replicas` asks for or fewer, and a quorum of one or two.
    pub consent: bool,
}

/// Why nodes may not be restarted now.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Blocked {
    /// It may be allowed when others are in sync again.
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
    /// The brokers do not say.
    Unknown,
    /// It will never be allowed without consent.
    NeedsConsent {
        what: String,
    },
}

impl fmt::Display for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Partition { topic, partition, left, min } => {
                write!(f, "{topic}-{partition} would have {left} replicas in sync, and min.insync.replicas is {min}")
            }
            Self::Quorum { left, needed } => write!(f, "{left} controllers would be caught up, and the quorum needs {needed}"),
            Self::Unknown => write!(f, "the brokers do not say who is in sync"),
            Self::NeedsConsent { what } => write!(f, "{what}; set spec.rollout.allowUnavailable to true to let that happen"),
        }
    }
}

/// Replicas that stay in sync while `set` restarts.
fn left(partition: &PartitionImage, set: &BTreeSet<i32>, down: &BTreeSet<i32>) -> usize {
    let stays = |id: &&i32| !set.contains(id) && !down.contains(id) && !partition.removing.contains(id);
    partition.in_sync().iter().filter(stays).count()
}

/// The fewest voters that make a majority.
pub fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

/// Whether these nodes may be restarted together: for every partition that one of them holds,
/// |ISR − them − down − leaving| >= min.insync.replicas, and the quorum keeps a majority that is caught up.
///
/// # Errors
/// The first reason why not.
pub fn can_restart(set: &BTreeSet<i32>, view: &View<'_>) -> Result<(), Blocked> {
    for topic in view.topics {
        for (index, partition) in topic.partitions.iter().enumerate() {
            if !partition.replicas.iter().any(|id| set.contains(id)) {
                continue;
            }
            let (left, min) = (left(partition, set, view.down), topic.min_in_sync);
            // Nothing can spare this one, even with every replica in sync and one node at a time.
            let spared = partition.target().len() > min;
            match (left >= min, spared) {
                (true, _) => {}
                (false, false) if view.consent => {}
                (false, false) => {
                    let count = partition.target().len();
                    let what = format!("{}-{index} has {count} replicas, and min.insync.replicas is {min}", topic.name);
                    return Err(Blocked::NeedsConsent { what });
                }
                (false, true) => return Err(Blocked::Partition { topic: Arc::clone(&topic.name), partition: index, left, min }),
            }
        }
    }
    if set.iter().any(|id| view.voters.contains(id)) {
        let left = view.caught_up.iter().filter(|id| view.voters.contains(id) && !set.contains(id) && !view.down.contains(id)).count();
        let needed = majority(view.voters.len());
        match (left >= needed, view.voters.len() > 2) {
            (true, _) => {}
            (false, false) if view.consent => {}
            (false, false) => {
                let what = format!("a quorum of {} controllers cannot spare one", view.voters.len());
                return Err(Blocked::NeedsConsent { what });
            }
            (false, true) => return Err(Blocked::Quorum { left, needed }),
        }
    }
    Ok(())
}

/// As many of `candidates` as may be restarted together, the first ones first.
///
/// # Errors
/// Why not even one of them may.
pub fn batch(candidates: &[i32], view: &View<'_>) -> Result<BTreeSet<i32>, Blocked> {
    let mut chosen = BTreeSet::new();
    let mut why = None;
    for id in candidates {
        chosen.insert(*id);
        if let Err(blocked) = can_restart(&chosen, view) {
            chosen.remove(id);
            why.get_or_insert(blocked);
        }
        // Consent is to what one node takes with it, not to many at once.
        if view.consent && !chosen.is_empty() && can_restart(&chosen, &View { consent: false, ..*view }).is_err() {
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
    use crate::kafka::metadata_record::PartitionFields;

    fn partition(replicas: &[i32], in_sync: &[i32], removing: &[i32]) -> PartitionImage {
        PartitionImage::of(PartitionFields {
            replicas: Some(replicas.to_vec()),
            in_sync: Some(in_sync.to_vec()),
            removing: Some(removing.to_vec()),
            ..PartitionFields::default()
        })
    }

    /// Every subset of these ids.
    fn subsets(ids: &[i32]) -> Vec<BTreeSet<i32>> {
        (0..1_u32 << ids.len())
            .map(|mask| ids.iter().enumerate().filter(|(bit, _)| mask >> bit & 1 == 1).map(|(_, id)| *id).collect())
            .collect()
    }

    fn list(set: &BTreeSet<i32>) -> Vec<i32> {
        set.iter().copied().collect()
    }

    /// Every state of a partition on up to five brokers against the definition, word for word.
    #[test]
    fn the_rule_is_the_definition_for_every_state_of_five_brokers() {
        let ids = [0, 1, 2, 3, 4];
        let (none, mut checked, mut allowed) = (BTreeSet::new(), 0_u64, 0_u64);
        for replicas in subsets(&ids).iter().filter(|replicas| !replicas.is_empty()) {
            for in_sync in subsets(&list(replicas)) {
                for removing in subsets(&list(replicas)).iter().filter(|removing| removing.len() < replicas.len() && removing.len() < 2) {
                    let partitions = vec![partition(&list(replicas), &list(&in_sync), &list(removing))];
                    for min_in_sync in 1..=3 {
                        let topics = [TopicView { name: "t".into(), min_in_sync, partitions: partitions.clone(), ..TopicView::default() }];
                        for down in subsets(&ids).iter().filter(|down| down.len() < 3) {
                            for set in subsets(&ids).iter().filter(|set| !set.is_empty()) {
                                let view = View { topics: &topics, voters: &none, caught_up: &none, down, consent: false };
                                let holds = !set.is_disjoint(replicas);
                                let stay: BTreeSet<_> =
                                    in_sync.iter().filter(|id| !set.contains(id) && !down.contains(id) && !removing.contains(id)).collect();
                                let expected = !holds || stay.len() >= min_in_sync;
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
        assert!(checked > 500_000 && allowed > 10_000 && allowed < checked, "{allowed} of {checked}");
    }

    #[test]
    fn the_quorum_keeps_a_majority_that_is_caught_up_for_every_state_of_five_voters() {
        let ids = [0, 1, 2, 3, 4];
        for voters in subsets(&ids).iter().filter(|voters| !voters.is_empty()) {
            for caught_up in subsets(&list(voters)) {
                for down in subsets(&ids) {
                    for set in subsets(&ids).iter().filter(|set| !set.is_empty()) {
                        let view = View { topics: &[], voters, caught_up: &caught_up, down: &down, consent: false };
                        let stay = caught_up.iter().filter(|id| !set.contains(id) && !down.contains(id)).count();
                        let expected = set.is_disjoint(voters) || 2 * stay > voters.len();
                        assert_eq!(can_restart(set, &view).is_ok(), expected, "{voters:?} {caught_up:?} {down:?} {set:?}");
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
        let view = View { topics: &topics, voters: &voters, caught_up: &voters, down: &none, consent: false };
        let refused = batch(&[1, 2], &view).unwrap_err();
        assert!(refused.to_string().contains("single-0 has 1 replicas") && refused.to_string().contains("spec.rollout.allowUnavailable"));
        let view = View { consent: true, ..view };
        assert_eq!(batch(&[1, 2], &view), Ok(BTreeSet::from([1])));
    }

    #[test]
    fn a_batch_is_as_large_as_the_rule_allows() {
        let spread =
            (0..6).map(|first| partition(&[first, (first + 6) % 12, (first + 3) % 12], &[first, (first + 6) % 12, (first + 3) % 12], &[]));
        let topics = [TopicView { name: "t".into(), min_in_sync: 2, partitions: spread.collect(), ..TopicView::default() }];
        let none = BTreeSet::new();
        let view = View { topics: &topics, voters: &none, caught_up: &none, down: &none, consent: false };
        assert_eq!(batch(&[0, 1, 2], &view), Ok(BTreeSet::from([0, 1, 2])));
        assert_eq!(batch(&[0, 6], &view), Ok(BTreeSet::from([0])), "they share a partition");
    }
}
