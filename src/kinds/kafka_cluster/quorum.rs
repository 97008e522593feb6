//! Controllers that join the quorum and leave it, one at a time (KIP-853). Pure.
//!
//! One joins once it follows as an observer; one leaves once its broker, where it is one too, holds nothing, and every node knows
//! enough of those that stay. A node that came back with an empty volume is another voter of the same id: the old one leaves,
//! then it joins.

use super::api::{DisruptionKind, DisruptionStatus, KafkaCluster, Role};
use super::observe::{KafkaFacts, Observed, PodFacts};
use super::plan::{Plan, Step, WaitingOn};
use super::status;
use super::validate::{NodeGroup, ValidCluster};
use super::windows;
use crate::kafka::in_sync::{self, LAG_RECORDS_MAX};
use crate::kafka::restart::{self, majority};
use crate::kafka_admin::{QuorumDescription, ReplicaState};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::collections::BTreeSet;

/// Controllers that shall vote.
fn wanted(cluster: &ValidCluster) -> BTreeSet<i32> {
    cluster.groups_of(Role::Controller).flat_map(NodeGroup::staying_ids).filter(|id| cluster.replace != Some(*id)).collect()
}

/// A node that has lost the leader asks the controllers that it was started with, and no others: whichever of those that are to
/// vote are up, it must know one of them. One that leaves itself need not.
pub fn knows_enough(cluster: &ValidCluster, pod: &PodFacts) -> bool {
    let stays = cluster.groups.iter().flat_map(NodeGroup::staying_ids).any(|id| id == pod.node_id);
    !stays || pod.revision.controllers.as_ref().is_none_or(|known| enough(known, &wanted(cluster)))
}

/// Some of those that are known are in every majority.
fn enough(known: &BTreeSet<i32>, wanted: &BTreeSet<i32>) -> bool {
    wanted.difference(known).count() < majority(wanted.len())
}

/// What is next, if anything is; into the plan.
pub fn plan(object: &KafkaCluster, cluster: &ValidCluster, observed: &Observed, plan: &mut Plan) {
    let lease = object.status.as_ref().and_then(|status| status.disruption.clone());
    let ours = lease.filter(|lease| lease.kind == DisruptionKind::Quorum);
    let KafkaFacts::Answered { quorum, topics, .. } = &observed.kafka else { return };
    if plan.lease.is_some() && ours.is_none() {
        return;
    }
    let held = restart::holders(topics);
    let known = observed.pods.iter().all(|pod| knows_enough(cluster, pod));
    let runs = |id: i32| observed.pods.iter().any(|pod| pod.node_id == id && pod.containers_ready && !pod.deleting);
    let (wanted, stays) = (wanted(cluster), |id: i32| held.contains(&id) || !known);
    let change = next(&wanted, quorum, runs, stays);
    let leaving: Vec<i32> = quorum.voters.iter().map(|voter| voter.id).filter(|id| !wanted.contains(id) && !stays(*id)).collect();
    if !leaving.is_empty() {
        plan.waiting_on.push(WaitingOn::Voters { leaving });
    }
    plan.lease = match (change, ours) {
        (None, _) => None,
        (Some(change), Some(lease)) => {
            plan.steps.push(change.step(cluster));
            Some(DisruptionStatus { node_ids: vec![change.member().id], why: change.why(), ..lease })
        }
        (Some(_), None) if !plan.is_applied() => None,
        (Some(change), None) => windows::is_open(cluster, observed, plan).then(|| DisruptionStatus {
            kind: DisruptionKind::Quorum,
            node_ids: vec![change.member().id],
            why: change.why(),
            since: Time(observed.now),
            total: None,
            handed_over: Vec::new(),
        }),
    };
}

/// In words, for who asks before.
pub fn preview(cluster: &ValidCluster, observed: &Observed) -> Vec<String> {
    let KafkaFacts::Answered { quorum, .. } = &observed.kafka else { return Vec::new() };
    let (wanted, voters) = (wanted(cluster), quorum.voters.iter().map(|voter| voter.id).collect::<BTreeSet<_>>());
    let line =
        |ids: Vec<&i32>, what: &str| (!ids.is_empty()).then(|| format!("then: controllers {} {what}, one at a time", status::ids(ids)));
    let joining = line(wanted.difference(&voters).collect(), "join the quorum");
    joining.into_iter().chain(line(voters.difference(&wanted).collect(), "leave the quorum")).collect()
}

/// One change of the quorum.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Change {
    Join(ReplicaState),
    Leave(ReplicaState),
}

impl Change {
    fn member(&self) -> &ReplicaState {
        match self {
            Self::Join(member) | Self::Leave(member) => member,
        }
    }

    fn why(&self) -> String {
        match self {
            Self::Join(member) => format!("controller {} joins the quorum", member.id),
            Self::Leave(member) => format!("controller {} leaves the quorum", member.id),
        }
    }

    fn step(&self, cluster: &ValidCluster) -> Step {
        let ReplicaState { id, directory, .. } = *self.member();
        let group = cluster.groups.iter().find(|group| group.node_ids().any(|node| node == id));
        match (self, group) {
            (Self::Join(_), Some(group)) => Step::AddVoter { id, directory, host: cluster.host(group, id) },
            _ => Step::RemoveVoter { id, directory },
        }
    }
}

/// The next change that leaves a caught-up majority: who joins comes before who leaves, the active controller leaves last.
/// `runs`: the node is up; `must_stay`: it may not leave yet.
fn next(wanted: &BTreeSet<i32>, quorum: &QuorumDescription, runs: impl Fn(i32) -> bool, must_stay: impl Fn(i32) -> bool) -> Option<Change> {
    let caught_up = in_sync::voters(quorum);
    let end = quorum.voters.iter().find(|voter| voter.id == quorum.leader)?.log_end_offset;
    let votes = |id: i32| quorum.voters.iter().any(|voter| voter.id == id);
    // One that came back with another volume is listed twice for a while: it is the one that asked last.
    let observer = |id: i32| {
        let last = quorum.observers.iter().filter(|observer| observer.id == id).max_by_key(|observer| observer.last_fetch_ms)?;
        let follows = last.log_end_offset >= 0 && end - last.log_end_offset < LAG_RECORDS_MAX;
        (follows && runs(id)).then_some(last)
    };
    if caught_up.len() + 1 >= majority(quorum.voters.len() + 1)
        && let Some(member) = wanted.iter().filter(|id| !votes(**id)).find_map(|id| observer(*id))
    {
        return Some(Change::Join(member.clone()));
    }
    // The same id with another volume: the one that votes will not come back.
    let is_stale = |voter: &ReplicaState| {
        let other = observer(voter.id).filter(|other| other.directory != voter.directory && other.last_fetch_ms > voter.last_fetch_ms);
        !caught_up.contains(&voter.id) && other.is_some()
    };
    // Nobody leaves before who takes its place has joined.
    let enough = quorum.voters.len() > wanted.len() || wanted.iter().all(|id| votes(*id));
    let may_leave = |voter: &ReplicaState| enough && !wanted.contains(&voter.id) && !must_stay(voter.id);
    let mut leaves: Vec<&ReplicaState> = quorum.voters.iter().filter(|voter| is_stale(voter) || may_leave(voter)).collect();
    leaves.sort_by_key(|voter| (voter.id == quorum.leader, voter.id));
    let spares = |voter: &&&ReplicaState| {
        let left = quorum.voters.iter().filter(|other| other.id != voter.id);
        let (left, well) = (left.clone().count(), left.filter(|other| caught_up.contains(&other.id)).count());
        left > 0 && well >= majority(left)
    };
    leaves.iter().find(spares).map(|voter| Change::Leave((*voter).clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: i32, directory: u128, log_end_offset: i64) -> ReplicaState {
        ReplicaState { id, directory: uuid::Uuid::from_u128(directory), log_end_offset, last_fetch_ms: i64::try_from(directory).unwrap() }
    }

    fn quorum(voters: &[(i32, i64)], observers: &[(i32, i64)]) -> QuorumDescription {
        let all = |list: &[(i32, i64)]| list.iter().map(|(id, end)| member(*id, 1, *end)).collect();
        QuorumDescription { leader: 1, high_watermark: 1000, voters: all(voters), observers: all(observers) }
    }

    fn after(wanted: &[i32], quorum: &QuorumDescription) -> Option<String> {
        next(&wanted.iter().copied().collect(), quorum, |_| true, |id| id == 9).map(|change| change.why())
    }

    const JOINS: &str = "controller 4 joins the quorum";

    #[test]
    fn an_observer_joins_once_it_follows_and_a_majority_stays() {
        let three = [(1, 1000), (2, 1000), (3, 1000)];
        assert_eq!(after(&[1, 2, 3], &quorum(&three, &[])), None);
        assert_eq!(after(&[1, 2, 3, 4], &quorum(&three, &[(4, 1000)])).as_deref(), Some(JOINS));
        assert_eq!(after(&[1, 2, 3, 4], &quorum(&three, &[(4, 10)])), None, "it is behind");
        assert_eq!(after(&[1, 2, 3, 4], &quorum(&three, &[])), None, "it is not seen");
        assert_eq!(after(&[1, 2, 3], &quorum(&three, &[(4, 1000)])), None, "brokers observe too");
        assert_eq!(after(&[1, 4], &quorum(&[(1, 1000)], &[(4, 1000)])).as_deref(), Some(JOINS), "one alone");
        let one_down = [(1, 1000), (2, -1)];
        assert_eq!(after(&[1, 2, 4], &quorum(&one_down, &[(4, 1000)])).as_deref(), Some(JOINS), "two of three follow then");
        let two_down = [(1, 1000), (2, -1), (3, -1)];
        assert_eq!(after(&[1, 2, 3, 4], &quorum(&two_down, &[(4, 1000)])), None, "two of four would be no majority");
    }

    #[test]
    fn who_leaves_holds_nothing_and_the_active_controller_is_the_last() {
        let four = [(1, 1000), (2, 1000), (3, 1000), (9, 1000)];
        assert_eq!(after(&[2, 3, 9], &quorum(&four, &[])).as_deref(), Some("controller 1 leaves the quorum"));
        assert_eq!(after(&[3, 9], &quorum(&four, &[])).as_deref(), Some("controller 2 leaves the quorum"));
        assert_eq!(after(&[1, 2, 3], &quorum(&four, &[])), None, "its broker holds records");
        assert_eq!(after(&[1, 3], &quorum(&[(1, 1000), (2, 1000), (3, -1)], &[])), None, "one of two would be no majority");
        assert_eq!(after(&[1, 3], &quorum(&[(1, 1000), (2, -1), (3, 1000)], &[])).as_deref(), Some("controller 2 leaves the quorum"));
        assert_eq!(after(&[], &quorum(&[(1, 1000)], &[])), None, "the last one stays");
        assert_eq!(after(&[1, 2, 4], &quorum(&[(1, 1000), (2, 1000), (3, 1000)], &[])), None, "4 takes its place, and is not there");
    }

    #[test]
    fn enough_controllers_are_known_when_no_majority_is_unknown() {
        let enough = |known: &[i32], wanted: &[i32]| enough(&known.iter().copied().collect(), &wanted.iter().copied().collect());
        assert!(enough(&[1, 2, 3], &[1, 2, 3, 4, 5]), "three of five");
        assert!(!enough(&[1], &[1, 2, 3]), "the other two may elect one of theirs");
        assert!(!enough(&[1, 2, 3], &[4]) && enough(&[1, 4], &[4]));
    }

    #[test]
    fn one_with_a_new_volume_leaves_and_joins_again() {
        let mut lost = quorum(&[(1, 1000), (2, 1000), (3, -1)], &[]);
        lost.observers = vec![member(3, 2, 1000)];
        let wanted = BTreeSet::from([1, 2, 3]);
        let change = next(&wanted, &lost, |_| true, |_| true).unwrap();
        assert_eq!(change, Change::Leave(member(3, 1, -1)), "the old volume's vote");
        lost.voters.pop();
        lost.observers.insert(0, member(3, 1, 999));
        let change = next(&wanted, &lost, |_| true, |_| true).unwrap();
        assert_eq!(change, Change::Join(member(3, 2, 1000)), "the volume that it has now");
        assert_eq!(next(&wanted, &lost, |id| id != 3, |_| true), None, "its pod is not up");
        lost.voters.push(member(3, 2, -1));
        lost.observers = vec![member(3, 1, 999)];
        assert_eq!(next(&wanted, &lost, |_| true, |_| true), None, "what it was once is no reason to take its vote");
    }
}
