//! Plans rolling restarts: which pods are outdated and why, which of them restart next, and when a
//! batch is complete. Pure.

pub mod elections;
pub mod leaders;

use crate::api::kafka_cluster::{HandedOver, OperatorUpgrade, Role};
use crate::kinds::kafka_cluster::disruption::{
    Facts, Lease, Mode, Needs, Priority, Progress, Report, WaitingOn, Wish, Work,
};
use crate::kinds::kafka_cluster::model::cluster::{NodeGroup, ValidCluster};
use crate::kinds::kafka_cluster::observed::{KafkaFacts, Observed, PodFacts, Revision};
use crate::kinds::kafka_cluster::quorum;
use crate::kinds::kafka_cluster::readiness::InSync;
use crate::kinds::kafka_cluster::step::{RestartReason, Step};
use crate::kinds::kafka_cluster::storage;
use crate::kubernetes::{Object, labels, names};
use freehold_kafka::in_sync;
use freehold_kafka::safety::{self, Blocked, Permit, View};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::SignedDuration;
use std::collections::{BTreeMap, BTreeSet};

/// The time for handing over leadership before a restart. Partitions that a broker still leads
/// after it are left to its controlled shutdown.
const HAND_OVER_LIMIT: SignedDuration = SignedDuration::from_mins(1);

/// A pod that differs from how it would be started now.
#[derive(Clone, Debug)]
pub struct Outdated<'a> {
    pub pod: &'a PodFacts,
    pub zone: &'a str,
    pub reasons: Vec<RestartReason>,
    /// True if the spec has not changed since the pod was started: the difference comes from
    /// another version of the operator.
    pub by_operator: bool,
}

fn reasons(pod: &Revision, wanted: &Revision) -> Vec<RestartReason> {
    let mut reasons = Vec::new();
    if pod.image != wanted.image {
        reasons.push(RestartReason::Image {
            from: pod.image.clone(),
            to: wanted.image.clone(),
        });
    }
    if pod.config != wanted.config {
        reasons.push(RestartReason::Config);
    }
    if pod.template != wanted.template {
        reasons.push(RestartReason::PodTemplate);
    }
    if wanted.requested.is_some() && pod.requested != wanted.requested {
        reasons.push(RestartReason::Requested);
    }
    reasons
}

/// All reasons of these pods, each once, in words.
pub fn reasons_words<'a>(outdated: impl Iterator<Item = &'a Outdated<'a>>) -> String {
    let reasons: BTreeSet<_> = outdated
        .flat_map(|one| &one.reasons)
        .map(ToString::to_string)
        .collect();
    reasons.into_iter().collect::<Vec<_>>().join("; ")
}

/// The outdated pods, by node id.
pub fn outdated<'a>(
    cluster: &'a ValidCluster,
    desired: &[Object],
    observed: &'a Observed,
) -> BTreeMap<i32, Outdated<'a>> {
    let wanted = |group: &NodeGroup| {
        let set = desired
            .iter()
            .find(|object| object.kind() == "StatefulSet" && object.name() == group.stateful_set)?;
        Some(Revision::of_desired(set))
    };
    let mut all = BTreeMap::new();
    for group in &cluster.groups {
        let Some(wanted) = wanted(group) else {
            continue;
        };
        // A pod that is not a node any more is about to be removed.
        for pod in observed.pods.iter().filter(|pod| {
            pod.stateful_set == group.stateful_set && group.node_ids().any(|id| id == pod.node_id)
        }) {
            let mut reasons = reasons(&pod.revision, &wanted);
            if !quorum::knows_enough(cluster, pod) {
                reasons.push(RestartReason::Controllers);
            }
            if storage::waits_for_restart(observed, &pod.name, observed.now) {
                reasons.push(RestartReason::Volume);
            }
            if !reasons.is_empty() {
                // A restart that a request, a volume or other pools require is not caused by the
                // operator's version either.
                let wanted_by_others = [
                    RestartReason::Requested,
                    RestartReason::Volume,
                    RestartReason::Controllers,
                ];
                let asked = wanted_by_others
                    .iter()
                    .any(|reason| reasons.contains(reason));
                let by_operator =
                    !asked && (pod.revision.spec.is_empty() || pod.revision.spec == wanted.spec);
                all.insert(
                    pod.node_id,
                    Outdated {
                        pod,
                        zone: &group.zone,
                        reasons,
                        by_operator,
                    },
                );
            }
        }
    }
    all
}

/// The outdated pods that may restart, and those that wait until a person allows the changes of a
/// new version of Freehold.
fn free_and_held<'a>(facts: &Facts<'a>) -> (BTreeMap<i32, Outdated<'a>>, Vec<Outdated<'a>>) {
    let (mut free, mut held) = (BTreeMap::new(), Vec::new());
    for (id, one) in outdated(facts.cluster, facts.desired, facts.observed) {
        if one.by_operator && waits(facts.cluster) {
            held.push(one)
        } else {
            drop(free.insert(id, one))
        }
    }
    (free, held)
}

/// Reports the outdated pods: warnings, repairs, and the wish for the next batch.
pub fn report(facts: &Facts<'_>) -> Report {
    let mut report = Report::default();
    let (free, held) = free_and_held(facts);
    if !held.is_empty() {
        report
            .warnings
            .push(held_back(&held.iter().collect::<Vec<_>>()));
    }
    if free.is_empty() {
        return report;
    }
    // The cluster does not match its spec between two batches or during another disruption, so it
    // must not be Ready.
    report
        .waiting
        .push(WaitingOn::Outdated { nodes: free.len() });
    match &facts.lease {
        // A pod that cannot start in its present form is repaired even during another disruption.
        Some(lease) => {
            let others = free
                .iter()
                .filter(|(id, _)| !lease.is_restart() || !lease.nodes.contains(id));
            report.upkeep.extend(
                others.filter_map(|(_, one)| {
                    Some(restart_step(one, repair(one.pod, facts.observed)?))
                }),
            );
        }
        None => wish(&free, facts, &mut report),
    }
    report
}

/// True if changes of a new version of Freehold wait until a person allows them.
pub fn waits(cluster: &ValidCluster) -> bool {
    cluster.spec.rollout.operator_upgrade == OperatorUpgrade::Wait
}

/// The warning about pods that would restart, and what they wait for.
pub fn held_back(held: &[&Outdated<'_>]) -> String {
    let pods: Vec<_> = held.iter().map(|one| one.pod.name.as_str()).collect();
    format!(
        "this version of Freehold would restart {} ({}); set spec.rollout.operatorUpgrade to Restart, or ask for it by the annotation {}",
        pods.join(", "),
        reasons_words(held.iter().copied()),
        labels::RESTART
    )
}

/// Continues a restart: restarts the nodes of the lease when the safety rules allow it, and waits
/// until they are in sync again.
pub fn resume(lease: &Lease, facts: &Facts<'_>) -> Progress {
    let Facts {
        cluster, observed, ..
    } = *facts;
    let mut report = Report::default();
    // While nothing may be changed, a node that has not restarted yet is not restarted.
    let outdated = if facts.mode == Mode::Change {
        free_and_held(facts).0
    } else {
        BTreeMap::new()
    };
    // A removed node does not come back, and a leaving node does not have to: neither is waited
    // for.
    let nodes: BTreeSet<i32> = cluster
        .groups
        .iter()
        .flat_map(NodeGroup::staying_ids)
        .collect();
    let members: BTreeSet<i32> = lease.nodes.intersection(&nodes).copied().collect();
    let left: Vec<&Outdated<'_>> = members
        .iter()
        .filter_map(|id| outdated.get(id))
        .filter(|one| !one.pod.deleting && keeps_its_volumes(one.pod, observed))
        .collect();
    if !left.is_empty() {
        return restart(lease, &left, &members, facts);
    }
    let in_sync = InSync::of(&observed.kafka);
    let pods = observed
        .pods
        .iter()
        .filter(|pod| members.contains(&pod.node_id));
    if !pods
        .clone()
        .all(|pod| !pod.deleting && in_sync.says(pod) == Some(true))
        || pods.count() < members.len()
    {
        return Progress::goes_on(report, lease.clone());
    }
    // The nodes are in sync. Before the next batch they get back the leadership that they had.
    let KafkaFacts::Answered { topics, .. } = &observed.kafka else {
        return Progress::goes_on(report, lease.clone());
    };
    let mut elections = leaders::give_back(lease, topics);
    elections.extend(leaders::preferred(topics, |id| members.contains(&id)));
    if leaders::elect(elections, topics, &mut report) {
        report.soon = true;
        return Progress::ended(report);
    }
    Progress::goes_on(report, lease.clone())
}

/// Restarts the nodes in `left`, which are those of the lease's `members` that have not restarted
/// yet, after other brokers lead their partitions.
fn restart(
    lease: &Lease,
    left: &[&Outdated<'_>],
    members: &BTreeSet<i32>,
    facts: &Facts<'_>,
) -> Progress {
    let Facts {
        cluster, observed, ..
    } = *facts;
    let mut report = Report::default();
    // If the spec has just changed again, a pod that ended now would come back unchanged.
    if !facts.pending.is_empty() || !seen_by_controllers(cluster, observed) {
        return Progress::goes_on(report, lease.clone());
    }
    let up: BTreeSet<i32> = left
        .iter()
        .filter(|one| one.pod.containers_ready)
        .map(|one| one.pod.node_id)
        .collect();
    // Only members that are up are checked; the safety rule counts the others as down already.
    let topics = if let KafkaFacts::Answered { topics, .. } = &observed.kafka {
        topics.as_slice()
    } else {
        &[]
    };
    // A starting pod is waited for, unless Kubernetes reports that it cannot start: a log recovery
    // must not begin again. Such a repair harms nothing, so it waits for no other member.
    let repairs: Vec<Step> = left
        .iter()
        .filter(|one| !one.pod.containers_ready)
        .filter_map(|one| Some(restart_step(one, repair(one.pod, observed)?)))
        .collect();
    let is_whole = left.len() == members.len() && repairs.is_empty();
    report.upkeep.extend(repairs);
    let patient = observed.now.duration_since(lease.since.0) < HAND_OVER_LIMIT;
    match allowed(&up, cluster, observed) {
        Ok(_)
            if patient
                && !leaders::elect(leaders::hand_over(lease, topics), topics, &mut report) => {}
        Ok(permit) => {
            let up = left.iter().filter(|one| one.pod.containers_ready);
            let restarts = up.filter_map(|one| Some(restart_step(one, permit.clone()?)));
            report.upkeep.extend(restarts);
        }
        // No node has restarted yet, so the lease can end after leadership is given back, and the
        // next batch is chosen again.
        Err(_) if is_whole && (lease.handed_over().is_empty() || !topics.is_empty()) => {
            if leaders::elect(leaders::give_back(lease, topics), topics, &mut report) {
                return Progress::ended(report);
            }
        }
        Err(why) => report.waiting.push(WaitingOn::Restart { why }),
    }
    Progress::goes_on(report, lease.clone())
}

fn restart_step(one: &Outdated<'_>, permit: Permit) -> Step {
    Step::RestartPod {
        pod: Box::new(one.pod.clone()),
        reasons: one.reasons.clone(),
        permit,
    }
}

/// The permit to recreate a pod that is stuck: no in-sync replica, no vote and no volume is lost
/// with it.
fn repair(pod: &PodFacts, observed: &Observed) -> Option<Permit> {
    let is_stuck = pod.stuck.is_some() && !pod.containers_ready && !pod.deleting;
    safety::can_repair(pod.node_id, observed.kafka.answer())
        .filter(|_| is_stuck && keeps_its_volumes(pod, observed))
}

/// False while a claim of the pod is being deleted: the end of the pod would delete the volume, and
/// nobody has asked for that yet.
fn keeps_its_volumes(pod: &PodFacts, observed: &Observed) -> bool {
    storage::deleted_in_use(pod, observed).next().is_none()
}

/// Adds the wish for the next batch, or the reason why there is none.
fn wish(outdated: &BTreeMap<i32, Outdated<'_>>, facts: &Facts<'_>, report: &mut Report) {
    let Facts {
        cluster, observed, ..
    } = *facts;
    if !facts.pending.is_empty() || !seen_by_controllers(cluster, observed) {
        return;
    }
    let mut add = |priority: Priority, window: bool, lease: Lease| {
        let needs = Needs {
            applied: true,
            window,
            ..Needs::default()
        };
        report.wishes.push(Wish::of(priority, lease, needs));
    };
    // The repair of a pod that cannot start makes nothing else unavailable, so it waits for
    // nothing.
    if let Some(stuck) = outdated
        .values()
        .find(|one| repair(one.pod, observed).is_some())
    {
        return add(
            Priority::Repair,
            false,
            lease(&[stuck], Vec::new(), observed),
        );
    }
    // While a node is not in sync, it is waited for, and no other node may restart.
    if !all_in_sync(cluster, observed) {
        return;
    }
    let KafkaFacts::Answered { quorum, topics, .. } = &observed.kafka else {
        return;
    };
    let outdated: BTreeMap<i32, &Outdated<'_>> =
        outdated.iter().map(|(id, one)| (*id, one)).collect();
    let mut next = candidates(&outdated, &BTreeSet::new(), cluster, observed);
    next.retain(|_, one| keeps_its_volumes(one.pod, observed));
    if next.is_empty() {
        return;
    }
    match with_view(cluster, observed, |view| {
        next_batch(&next, quorum.leader, view)
    }) {
        Some(Ok(batch)) => {
            let members: Vec<_> = batch
                .iter()
                .filter_map(|id| outdated.get(id).copied())
                .collect();
            add(
                Priority::Roll,
                true,
                lease(&members, leaders::to_hand_over(&batch, topics), observed),
            );
        }
        Some(Err(why)) => report.waiting.push(WaitingOn::Restart { why }),
        None => {}
    }
}

/// The outdated pods that could restart next, after those in `restarted`. For a new volume, the
/// pods of a StatefulSet restart one after the other.
pub fn candidates<'a>(
    outdated: &BTreeMap<i32, &'a Outdated<'a>>,
    restarted: &BTreeSet<i32>,
    cluster: &ValidCluster,
    observed: &Observed,
) -> BTreeMap<i32, &'a Outdated<'a>> {
    let may = |one: &Outdated<'_>| {
        let group = cluster
            .groups
            .iter()
            .find(|group| group.stateful_set == one.pod.stateful_set);
        group.is_some_and(|group| storage::may_restart(group, one.pod, restarted, observed))
    };
    outdated
        .iter()
        .filter(|(_, one)| may(one))
        .map(|(id, one)| (*id, *one))
        .collect()
}

/// The nodes of one zone that restart next: as many as the safety rule allows, and the active
/// controller last of all.
///
/// # Errors
/// Returns the reason why no node may restart.
pub fn next_batch(
    outdated: &BTreeMap<i32, &Outdated<'_>>,
    leader: i32,
    view: &View<'_>,
) -> Result<BTreeSet<i32>, Blocked> {
    let mut zones: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    for one in outdated
        .values()
        .filter(|one| one.pod.node_id != leader || outdated.len() == 1)
    {
        zones.entry(one.zone).or_default().push(one.pod.node_id);
    }
    let mut why = None;
    for candidates in zones.values() {
        match safety::batch(candidates, view) {
            Ok(batch) => return Ok(batch),
            Err(blocked) => drop(why.get_or_insert(blocked)),
        }
    }
    Err(why.unwrap_or(Blocked::Unknown))
}

fn lease(members: &[&Outdated<'_>], handed_over: Vec<HandedOver>, observed: &Observed) -> Lease {
    let nodes = members.iter().map(|one| one.pod.node_id).collect();
    Lease {
        nodes,
        why: reasons_words(members.iter().copied()),
        since: Time(observed.now),
        work: Work::Restart { handed_over },
    }
}

/// True if the StatefulSet controller has observed the current templates. A pod that was deleted
/// before that would come back unchanged.
fn seen_by_controllers(cluster: &ValidCluster, observed: &Observed) -> bool {
    cluster.groups.iter().all(|group| {
        let set = observed.objects.stateful_set(&group.stateful_set);
        set.is_some_and(|set| set.is_observed)
    })
}

fn all_in_sync(cluster: &ValidCluster, observed: &Observed) -> bool {
    let in_sync = InSync::of(&observed.kafka);
    cluster
        .groups
        .iter()
        .flat_map(|group| {
            group
                .node_ids()
                .map(move |id| names::pod(&group.stateful_set, id))
        })
        .all(|name| {
            let pod = observed.pods.iter().find(|pod| pod.name == name);
            pod.is_some_and(|pod| !pod.deleting && in_sync.says(pod) == Some(true))
        })
}

/// The permit to restart these nodes together; `None` if there are none.
fn allowed(
    set: &BTreeSet<i32>,
    cluster: &ValidCluster,
    observed: &Observed,
) -> Result<Option<Permit>, Blocked> {
    if set.is_empty() {
        return Ok(None);
    }
    with_view(cluster, observed, |view| safety::can_restart(set, view))
        .unwrap_or(Err(Blocked::Unknown))
        .map(Some)
}

/// Calls `decide` with the facts that the safety rule needs; `None` without answers of the brokers.
fn with_view<T>(
    cluster: &ValidCluster,
    observed: &Observed,
    decide: impl FnOnce(&View<'_>) -> T,
) -> Option<T> {
    let KafkaFacts::Answered {
        cluster: described,
        quorum,
        topics,
        ..
    } = &observed.kafka
    else {
        return None;
    };
    let serving: BTreeSet<i32> = described
        .brokers
        .iter()
        .filter(|broker| !broker.fenced)
        .map(|broker| broker.id)
        .collect();
    let brokers: BTreeSet<i32> = cluster
        .groups_of(Role::Broker)
        .flat_map(NodeGroup::node_ids)
        .collect();
    let running: BTreeSet<i32> = observed
        .pods
        .iter()
        .filter(|pod| pod.containers_ready && !pod.deleting)
        .map(|pod| pod.node_id)
        .collect();
    let nodes = cluster.groups.iter().flat_map(NodeGroup::node_ids);
    let down = nodes
        .filter(|id| !running.contains(id) || (brokers.contains(id) && !serving.contains(id)))
        .collect();
    let voters = quorum.voters.iter().map(|voter| voter.id).collect();
    let caught_up = in_sync::voters(quorum);
    let consent = cluster.spec.rollout.allow_unavailable;
    Some(decide(&View {
        topics,
        voters: &voters,
        caught_up: &caught_up,
        down: &down,
        consent,
    }))
}
