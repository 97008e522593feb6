//! Plans which controllers join the quorum and which leave it, one at a time (KIP-853). Pure.
//!
//! A controller joins after it follows the log as an observer. It leaves after its broker, if it is
//! one too, holds nothing, and after every node knows enough of the controllers that stay. A node
//! that came back with an empty volume is another voter with the same id: first the old voter is
//! removed, then the new one joins.

use crate::api::kafka_cluster::Role;
use crate::kinds::kafka_cluster::disruption::{
    Facts, Lease, Mode, Needs, Priority, Progress, Report, WaitingOn, Wish, Work,
};
use crate::kinds::kafka_cluster::model::cluster::{NodeGroup, ValidCluster};
use crate::kinds::kafka_cluster::observed::{KafkaFacts, Observed, PodFacts};
use crate::kinds::kafka_cluster::step::Step;
use crate::words;
use freehold_kafka::in_sync::{self, LAG_RECORDS_MAX};
use freehold_kafka::safety::{self, Answer, Permit, majority};
use freehold_kafka_client::{QuorumDescription, ReplicaState};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::collections::BTreeSet;

/// The controllers that shall be voters.
fn wanted(cluster: &ValidCluster) -> BTreeSet<i32> {
    cluster
        .groups_of(Role::Controller)
        .flat_map(NodeGroup::staying_ids)
        .filter(|id| cluster.replace != Some(*id))
        .collect()
}

/// True if the pod knows enough controllers. A node that has lost the leader asks only the
/// controllers that it was started with, so at least one of them must be up whenever a majority of
/// the wanted voters is up. A node that is leaving does not need to know them.
pub fn knows_enough(cluster: &ValidCluster, pod: &PodFacts) -> bool {
    let stays = cluster
        .groups
        .iter()
        .flat_map(NodeGroup::staying_ids)
        .any(|id| id == pod.node_id);
    !stays
        || pod
            .revision
            .controllers
            .as_ref()
            .is_none_or(|known| enough(known, &wanted(cluster)))
}

/// True if every majority of the wanted voters contains a known controller.
fn enough(known: &BTreeSet<i32>, wanted: &BTreeSet<i32>) -> bool {
    wanted.difference(known).count() < majority(wanted.len())
}

/// The facts that decide on the next change of the quorum.
struct View<'a> {
    quorum: &'a QuorumDescription,
    wanted: BTreeSet<i32>,
    /// Nodes that hold replicas; they stay voters.
    holders: BTreeSet<i32>,
    /// True if every node knows enough of the wanted controllers.
    known: bool,
    /// The nodes that are up.
    up: BTreeSet<i32>,
}

impl<'a> View<'a> {
    fn of(facts: &Facts<'a>) -> Option<Self> {
        let Facts {
            cluster, observed, ..
        } = *facts;
        let Answer { quorum, topics, .. } = observed.kafka.answer()?;
        let up = observed
            .pods
            .iter()
            .filter(|pod| pod.containers_ready && !pod.deleting)
            .map(|pod| pod.node_id)
            .collect();
        let known = observed.pods.iter().all(|pod| knows_enough(cluster, pod));
        Some(Self {
            quorum,
            wanted: wanted(cluster),
            holders: safety::holders(topics),
            known,
            up,
        })
    }

    fn stays(&self, id: i32) -> bool {
        self.holders.contains(&id) || !self.known
    }

    /// The next change, only of nodes for which `may` is true.
    fn next(&self, may: impl Fn(i32) -> bool) -> Option<Change> {
        next(
            &self.wanted,
            self.quorum,
            |id| self.up.contains(&id),
            |id| self.stays(id),
            may,
        )
    }

    /// The controllers that are still voters and must leave now.
    fn leaving(&self) -> Option<WaitingOn> {
        let voters = self.quorum.voters.iter().map(|voter| voter.id);
        let leaving: Vec<i32> = voters
            .filter(|id| !self.wanted.contains(id) && !self.stays(*id))
            .collect();
        (!leaving.is_empty()).then_some(WaitingOn::Voters { leaving })
    }
}

/// Reports the wish for the next change of the quorum.
pub fn report(facts: &Facts<'_>) -> Report {
    let mut report = Report::default();
    let Some(view) = View::of(facts) else {
        return report;
    };
    match &facts.lease {
        // The restart or replacement waits until this node is in sync, and for that it must be a
        // voter. It has come back with another volume, so its change must happen during that
        // disruption.
        Some(Lease {
            nodes,
            work: Work::Restart { .. } | Work::Replacement { .. },
            ..
        }) if facts.mode == Mode::Change => {
            let own = view.next(|id| view.wanted.contains(&id) && nodes.contains(&id));
            report
                .upkeep
                .extend(own.map(|change| change.step(facts.cluster)));
        }
        Some(_) => {}
        None => {
            report.waiting.extend(view.leaving());
            report
                .wishes
                .extend(view.next(|_| true).map(|change| change.wish(&view, facts)));
        }
    }
    report
}

/// Continues with the next change, until there is none.
pub fn resume(held: &Lease, facts: &Facts<'_>) -> Progress {
    let mut report = Report::default();
    let Some(view) = View::of(facts) else {
        return Progress::goes_on(report, held.clone());
    };
    report.waiting.extend(view.leaving());
    let Some(change) = view.next(|_| true) else {
        return Progress::ended(report);
    };
    let lease = Lease {
        nodes: [change.member().id].into(),
        why: change.why(),
        ..held.clone()
    };
    report.upkeep.push(change.step(facts.cluster));
    Progress::goes_on(report, lease)
}

/// The changes in words, for the preview.
pub fn preview(cluster: &ValidCluster, observed: &Observed) -> Vec<String> {
    let KafkaFacts::Answered { quorum, .. } = &observed.kafka else {
        return Vec::new();
    };
    let (wanted, voters) = (
        wanted(cluster),
        quorum
            .voters
            .iter()
            .map(|voter| voter.id)
            .collect::<BTreeSet<_>>(),
    );
    let line = |ids: Vec<&i32>, what: &str| {
        (!ids.is_empty()).then(|| {
            format!(
                "then: controllers {} {what}, one at a time",
                words::ids(ids)
            )
        })
    };
    let joining = line(wanted.difference(&voters).collect(), "join the quorum");
    joining
        .into_iter()
        .chain(line(
            voters.difference(&wanted).collect(),
            "leave the quorum",
        ))
        .collect()
}

/// One change of the quorum.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Change {
    Join(ReplicaState),
    Leave(ReplicaState, Permit),
}

impl Change {
    fn member(&self) -> &ReplicaState {
        match self {
            Self::Join(member) | Self::Leave(member, _) => member,
        }
    }

    fn why(&self) -> String {
        match self {
            Self::Join(member) => format!("controller {} joins the quorum", member.id),
            Self::Leave(member, _) => format!("controller {} leaves the quorum", member.id),
        }
    }

    fn step(&self, cluster: &ValidCluster) -> Step {
        let ReplicaState { id, directory, .. } = *self.member();
        match self {
            Self::Join(_) => {
                let group = cluster
                    .groups
                    .iter()
                    .find(|group| group.node_ids().any(|node| node == id));
                Step::AddVoter {
                    id,
                    directory,
                    host: group
                        .map(|group| cluster.host(group, id))
                        .unwrap_or_default(),
                }
            }
            Self::Leave(_, permit) => Step::RemoveVoter {
                id,
                directory,
                permit: permit.clone(),
            },
        }
    }

    fn wish(&self, view: &View<'_>, facts: &Facts<'_>) -> Wish {
        let id = self.member().id;
        // A controller that joins, or becomes a voter again after its volume was lost, disrupts
        // nothing and needs no window: without it, the quorum tolerates one failure less.
        let window = !view.wanted.contains(&id);
        let lease = Lease {
            nodes: [id].into(),
            why: self.why(),
            since: Time(facts.observed.now),
            work: Work::Quorum,
        };
        let needs = Needs {
            applied: true,
            window,
            ..Needs::default()
        };
        Wish::of(Priority::Remove, lease, needs)
    }
}

/// The next change after which a majority is still caught up. Joins come before leaves, and the
/// active controller leaves last. `runs`: the node is up; `must_stay`: it may not leave yet; `may`:
/// it may change.
fn next(
    wanted: &BTreeSet<i32>,
    quorum: &QuorumDescription,
    runs: impl Fn(i32) -> bool,
    must_stay: impl Fn(i32) -> bool,
    may: impl Fn(i32) -> bool,
) -> Option<Change> {
    let caught_up = in_sync::voters(quorum);
    let end = quorum
        .voters
        .iter()
        .find(|voter| voter.id == quorum.leader)?
        .log_end_offset;
    let votes = |id: i32| quorum.voters.iter().any(|voter| voter.id == id);
    // A node that came back with another volume is listed twice for a while. The entry that fetched
    // last is the live one.
    let observer = |id: i32| {
        let last = quorum
            .observers
            .iter()
            .filter(|observer| observer.id == id)
            .max_by_key(|observer| observer.last_fetch_ms)?;
        let follows = last.log_end_offset >= 0 && end - last.log_end_offset < LAG_RECORDS_MAX;
        (follows && runs(id)).then_some(last)
    };
    if caught_up.len() + 1 >= majority(quorum.voters.len() + 1)
        && let Some(member) = wanted
            .iter()
            .filter(|id| may(**id) && !votes(**id))
            .find_map(|id| observer(*id))
    {
        return Some(Change::Join(member.clone()));
    }
    // A node with the same id but another volume has appeared, so the old voter will not come back.
    let is_stale = |voter: &ReplicaState| {
        let other = observer(voter.id).filter(|other| {
            other.directory != voter.directory && other.last_fetch_ms > voter.last_fetch_ms
        });
        !caught_up.contains(&voter.id) && other.is_some()
    };
    // No voter leaves before its replacement has joined.
    let enough = quorum.voters.len() > wanted.len() || wanted.iter().all(|id| votes(*id));
    let may_leave =
        |voter: &ReplicaState| enough && !wanted.contains(&voter.id) && !must_stay(voter.id);
    let mut leaves: Vec<&ReplicaState> = quorum
        .voters
        .iter()
        .filter(|voter| may(voter.id) && (is_stale(voter) || may_leave(voter)))
        .collect();
    leaves.sort_by_key(|voter| (voter.id == quorum.leader, voter.id));
    leaves.into_iter().find_map(|voter| {
        Some(Change::Leave(
            voter.clone(),
            safety::can_remove_voter(voter, quorum)?,
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: i32, directory: u128, log_end_offset: i64) -> ReplicaState {
        ReplicaState {
            id,
            directory: uuid::Uuid::from_u128(directory),
            log_end_offset,
            last_fetch_ms: i64::try_from(directory).unwrap(),
        }
    }

    fn quorum(voters: &[(i32, i64)], observers: &[(i32, i64)]) -> QuorumDescription {
        let all = |list: &[(i32, i64)]| list.iter().map(|(id, end)| member(*id, 1, *end)).collect();
        QuorumDescription {
            leader: 1,
            high_watermark: 1000,
            voters: all(voters),
            observers: all(observers),
        }
    }

    fn after(wanted: &[i32], quorum: &QuorumDescription) -> Option<String> {
        next(
            &wanted.iter().copied().collect(),
            quorum,
            |_| true,
            |id| id == 9,
            |_| true,
        )
        .map(|change| change.why())
    }

    const JOINS: &str = "controller 4 joins the quorum";

    #[test]
    fn an_observer_joins_once_it_follows_and_a_majority_stays() {
        let three = [(1, 1000), (2, 1000), (3, 1000)];
        assert_eq!(after(&[1, 2, 3], &quorum(&three, &[])), None);
        assert_eq!(
            after(&[1, 2, 3, 4], &quorum(&three, &[(4, 1000)])).as_deref(),
            Some(JOINS)
        );
        assert_eq!(
            after(&[1, 2, 3, 4], &quorum(&three, &[(4, 10)])),
            None,
            "it is behind"
        );
        assert_eq!(
            after(&[1, 2, 3, 4], &quorum(&three, &[])),
            None,
            "it is not seen"
        );
        assert_eq!(
            after(&[1, 2, 3], &quorum(&three, &[(4, 1000)])),
            None,
            "brokers observe too"
        );
        assert_eq!(
            after(&[1, 4], &quorum(&[(1, 1000)], &[(4, 1000)])).as_deref(),
            Some(JOINS),
            "one alone"
        );
        let one_down = [(1, 1000), (2, -1)];
        assert_eq!(
            after(&[1, 2, 4], &quorum(&one_down, &[(4, 1000)])).as_deref(),
            Some(JOINS),
            "two of three follow then"
        );
        let two_down = [(1, 1000), (2, -1), (3, -1)];
        assert_eq!(
            after(&[1, 2, 3, 4], &quorum(&two_down, &[(4, 1000)])),
            None,
            "two of four would be no majority"
        );
    }

    #[test]
    fn who_leaves_holds_nothing_and_the_active_controller_is_the_last() {
        let four = [(1, 1000), (2, 1000), (3, 1000), (9, 1000)];
        assert_eq!(
            after(&[2, 3, 9], &quorum(&four, &[])).as_deref(),
            Some("controller 1 leaves the quorum")
        );
        assert_eq!(
            after(&[3, 9], &quorum(&four, &[])).as_deref(),
            Some("controller 2 leaves the quorum")
        );
        assert_eq!(
            after(&[1, 2, 3], &quorum(&four, &[])),
            None,
            "its broker holds records"
        );
        assert_eq!(
            after(&[1, 3], &quorum(&[(1, 1000), (2, 1000), (3, -1)], &[])),
            None,
            "one of two would be no majority"
        );
        assert_eq!(
            after(&[1, 3], &quorum(&[(1, 1000), (2, -1), (3, 1000)], &[])).as_deref(),
            Some("controller 2 leaves the quorum")
        );
        assert_eq!(
            after(&[], &quorum(&[(1, 1000)], &[])),
            None,
            "the last one stays"
        );
        assert_eq!(
            after(&[1, 2, 4], &quorum(&[(1, 1000), (2, 1000), (3, 1000)], &[])),
            None,
            "4 takes its place, and is not there"
        );
    }

    #[test]
    fn enough_controllers_are_known_when_no_majority_is_unknown() {
        let enough = |known: &[i32], wanted: &[i32]| {
            enough(
                &known.iter().copied().collect(),
                &wanted.iter().copied().collect(),
            )
        };
        assert!(enough(&[1, 2, 3], &[1, 2, 3, 4, 5]), "three of five");
        assert!(
            !enough(&[1], &[1, 2, 3]),
            "the other two may elect one of theirs"
        );
        assert!(!enough(&[1, 2, 3], &[4]) && enough(&[1, 4], &[4]));
    }

    #[test]
    fn one_with_a_new_volume_leaves_and_joins_again() {
        let mut lost = quorum(&[(1, 1000), (2, 1000), (3, -1)], &[]);
        lost.observers = vec![member(3, 2, 1000)];
        let wanted = BTreeSet::from([1, 2, 3]);
        let change = next(&wanted, &lost, |_| true, |_| true, |_| true).unwrap();
        assert!(
            matches!(&change, Change::Leave(left, _) if *left == member(3, 1, -1)),
            "the old volume's vote: {change:?}"
        );
        // A restart or replacement that waits for this change must not wait for any other one.
        let (mut joins, more) = (lost.clone(), BTreeSet::from([1, 2, 3, 4]));
        joins.observers.push(member(4, 1, 1000));
        assert_eq!(
            next(&more, &joins, |_| true, |_| true, |_| true),
            Some(Change::Join(member(4, 1, 1000)))
        );
        assert_eq!(
            next(&more, &joins, |_| true, |_| true, |id| id == 3),
            Some(change)
        );
        lost.voters.pop();
        lost.observers.insert(0, member(3, 1, 999));
        let change = next(&wanted, &lost, |_| true, |_| true, |_| true).unwrap();
        assert_eq!(
            change,
            Change::Join(member(3, 2, 1000)),
            "the volume that it has now"
        );
        assert_eq!(
            next(&wanted, &lost, |id| id != 3, |_| true, |_| true),
            None,
            "its pod is not up"
        );
        lost.voters.push(member(3, 2, -1));
        lost.observers = vec![member(3, 1, 999)];
        assert_eq!(
            next(&wanted, &lost, |_| true, |_| true, |_| true),
            None,
            "what it was once is no reason to take its vote"
        );
    }
}
