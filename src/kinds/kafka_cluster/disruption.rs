//! One disruption at a time: which pods are out of date and why, which of them may restart now, and when a batch is
//! over. Pure.
//!
//! What is under way is in the status (`disruption`) before anything is done, so that it survives the operator: the next
//! one goes on with it, or lets it go.

use super::api::{DisruptionKind, DisruptionStatus, KafkaCluster, OperatorUpgrade, Role};
use super::leaders;
use super::observe::{KafkaFacts, Observed, PodFacts, Revision};
use super::plan::{InSync, Plan, Step, WaitingOn};
use super::quorum;
use super::validate::{NodeGroup, ValidCluster};
use super::volumes;
use super::windows;
use crate::kafka::in_sync;
use crate::kafka::restart::{self, Blocked, View};
use crate::kube_io::Object;
use crate::names;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::SignedDuration;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What a broker still leads after this time is left to its own shutdown.
const HAND_OVER_LIMIT: SignedDuration = SignedDuration::from_mins(1);

/// Why a node must restart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RestartReason {
    Image {
        from: String,
        to: String,
    },
    /// Configuration that only a start reads.
    Config,
    PodTemplate,
    /// The annotation `freehold.dev/restart`.
    Requested,
    /// It gets a new volume.
    Replaced,
    /// Most of the controllers that are to vote came after it: without a leader it would not find the next one.
    Controllers,
    /// Its volume has grown, and its file system only grows when it is mounted anew.
    Volume,
}

impl fmt::Display for RestartReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Image { from, to } => write!(f, "image {from} becomes {to}"),
            Self::Config => write!(f, "configuration that only a start reads has changed"),
            Self::PodTemplate => write!(f, "the pod's template has changed"),
            Self::Replaced => write!(f, "it is given a new volume"),
            Self::Controllers => write!(f, "it does not know enough of the controllers that are to vote"),
            Self::Volume => write!(f, "its file system grows only when its volume is mounted anew"),
            Self::Requested => write!(f, "a restart was asked for"),
        }
    }
}

/// A pod that is not as it would be started today.
#[derive(Clone, Debug)]
pub struct Outdated<'a> {
    pub pod: &'a PodFacts,
    pub zone: &'a str,
    pub reasons: Vec<RestartReason>,
    /// The spec is the one that it was started with: this operator would start it otherwise than the one before.
    pub by_operator: bool,
}

fn reasons(pod: &Revision, wanted: &Revision) -> Vec<RestartReason> {
    let mut reasons = Vec::new();
    if pod.image != wanted.image {
        reasons.push(RestartReason::Image { from: pod.image.clone(), to: wanted.image.clone() });
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

/// All the reasons of some pods, each once.
pub fn reasons_words<'a>(outdated: impl Iterator<Item = &'a Outdated<'a>>) -> String {
    let reasons: BTreeSet<_> = outdated.flat_map(|one| &one.reasons).map(ToString::to_string).collect();
    reasons.into_iter().collect::<Vec<_>>().join("; ")
}

/// The pods that are out of date, by node id.
pub fn outdated<'a>(cluster: &'a ValidCluster, desired: &[Object], observed: &'a Observed) -> BTreeMap<i32, Outdated<'a>> {
    let wanted = |group: &NodeGroup| {
        let set = desired.iter().find(|object| object.kind() == "StatefulSet" && object.name() == group.stateful_set)?;
        Some(Revision::of(&set.value["spec"]["template"]))
    };
    let mut all = BTreeMap::new();
    for group in &cluster.groups {
        let Some(wanted) = wanted(group) else { continue };
        // One that is no node any more is on its way out.
        for pod in observed.pods.iter().filter(|pod| pod.stateful_set == group.stateful_set && group.node_ids().any(|id| id == pod.node_id))
        {
            let mut reasons = reasons(&pod.revision, &wanted);
            if !quorum::knows_enough(cluster, pod) {
                reasons.push(RestartReason::Controllers);
            }
            if volumes::waits_for_restart(observed, &pod.name, observed.now) {
                reasons.push(RestartReason::Volume);
            }
            if !reasons.is_empty() {
                // What other pools' changes ask of this pod is no operator's wish either.
                let wanted_by_others = [RestartReason::Requested, RestartReason::Volume, RestartReason::Controllers];
                let asked = wanted_by_others.iter().any(|reason| reasons.contains(reason));
                let by_operator = !asked && (pod.revision.spec.is_empty() || pod.revision.spec == wanted.spec);
                all.insert(pod.node_id, Outdated { pod, zone: &group.zone, reasons, by_operator });
            }
        }
    }
    all
}

/// What the roll comes to in this look: the lease, steps and what is waited for, into the plan.
pub fn plan(object: &KafkaCluster, cluster: &ValidCluster, desired: &[Object], observed: &Observed, plan: &mut Plan) {
    let lease = object.status.as_ref().and_then(|status| status.disruption.clone());
    let outdated = outdated(cluster, desired, observed);
    let (held, free): (Vec<_>, Vec<&Outdated<'_>>) = outdated.values().partition(|one| one.by_operator && waits(cluster));
    if !held.is_empty() {
        plan.warnings.push(held_back(&held));
    }
    let free: BTreeMap<i32, &Outdated<'_>> = free.into_iter().map(|one| (one.pod.node_id, one)).collect();
    plan.lease = match lease {
        // Whatever else is under way, what cannot start as it is is repaired.
        Some(lease) => {
            let restarts = lease.kind == DisruptionKind::Restart;
            let others = free.iter().filter(|(id, _)| !restarts || !lease.node_ids.contains(id));
            plan.steps.extend(others.filter(|(_, one)| is_stuck(one.pod)).map(|(_, one)| restart_step(one)));
            if restarts { go_on(&lease, &free, cluster, observed, plan) } else { Some(lease) }
        }
        None => begin(&free, cluster, observed, plan),
    };
    // Between two batches, and while something else is under way, the cluster is not as its spec says.
    if plan.lease.as_ref().is_none_or(|lease| lease.kind != DisruptionKind::Restart) && !free.is_empty() {
        plan.waiting_on.push(WaitingOn::Outdated { nodes: free.len() });
    }
}

/// What a new version of Freehold would change waits for somebody who allows it.
pub fn waits(cluster: &ValidCluster) -> bool {
    cluster.spec.rollout.operator_upgrade == OperatorUpgrade::Wait
}

/// What would restart, and why it does not.
pub fn held_back(held: &[&Outdated<'_>]) -> String {
    let pods: Vec<_> = held.iter().map(|one| one.pod.name.as_str()).collect();
    format!(
        "this version of Freehold would restart {} ({}); set spec.rollout.operatorUpgrade to Restart, or ask for it by the annotation {}",
        pods.join(", "),
        reasons_words(held.iter().copied()),
        crate::labels::RESTART
    )
}

/// With what is under way.
fn go_on(
    lease: &DisruptionStatus,
    outdated: &BTreeMap<i32, &Outdated<'_>>,
    cluster: &ValidCluster,
    observed: &Observed,
    plan: &mut Plan,
) -> Option<DisruptionStatus> {
    // Who is no node any more comes back no more.
    let nodes: BTreeSet<i32> = cluster.groups.iter().flat_map(NodeGroup::node_ids).collect();
    let members: BTreeSet<i32> = lease.node_ids.iter().copied().filter(|id| nodes.contains(id)).collect();
    let left: Vec<&Outdated<'_>> = members.iter().filter_map(|id| outdated.get(id).copied()).filter(|one| !one.pod.deleting).collect();
    if !left.is_empty() {
        // Where the spec has just changed again, a pod that ended now would come back as it was.
        if !plan.is_applied() || !seen_by_controllers(cluster, observed) {
            return Some(lease.clone());
        }
        let up: BTreeSet<i32> = left.iter().filter(|one| one.pod.containers_ready).map(|one| one.pod.node_id).collect();
        // Members that are down already are no obstacle to each other: the rule counts them as down.
        let topics = if let KafkaFacts::Answered { topics, .. } = &observed.kafka { topics.as_slice() } else { &[] };
        let patient = observed.now.duration_since(lease.since.0) < HAND_OVER_LIMIT;
        match allowed(&up, cluster, observed) {
            Ok(()) if patient && !leaders::elect(leaders::hand_over(lease, topics), topics, plan) => {}
            Ok(()) => plan.steps.extend(left.iter().filter(|one| ready_or_stuck(one.pod)).map(|one| restart_step(one))),
            // Nobody has restarted yet: who is next is decided anew, once leaders are back.
            Err(_) if left.len() == members.len() && (lease.handed_over.is_empty() || !topics.is_empty()) => {
                if leaders::elect(leaders::give_back(lease, topics), topics, plan) {
                    return None;
                }
            }
            Err(blocked) => plan.waiting_on.push(WaitingOn::Restart { why: blocked }),
        }
        return Some(lease.clone());
    }
    let in_sync = InSync::of(&observed.kafka);
    let pods = observed.pods.iter().filter(|pod| members.contains(&pod.node_id));
    if !pods.clone().all(|pod| !pod.deleting && in_sync.says(pod) == Some(true)) || pods.count() < members.len() {
        return Some(lease.clone());
    }
    // Back in sync; before the next batch it leads again what it led.
    let KafkaFacts::Answered { topics, .. } = &observed.kafka else { return Some(lease.clone()) };
    let mut elections = leaders::give_back(lease, topics);
    elections.extend(leaders::preferred(topics, |id| members.contains(&id)));
    if leaders::elect(elections, topics, plan) {
        plan.look_soon = true;
        return None;
    }
    Some(lease.clone())
}

fn restart_step(one: &Outdated<'_>) -> Step {
    Step::RestartPod { pod: Box::new(one.pod.clone()), reasons: one.reasons.clone() }
}

fn is_stuck(pod: &PodFacts) -> bool {
    pod.trouble.is_some() && !pod.containers_ready && !pod.deleting
}

/// A pod that starts is waited for, unless Kubernetes says that it will not: a log that is being recovered must not begin anew.
fn ready_or_stuck(pod: &PodFacts) -> bool {
    pod.containers_ready || pod.trouble.is_some()
}

/// The next batch, if there is one to begin.
fn begin(
    outdated: &BTreeMap<i32, &Outdated<'_>>,
    cluster: &ValidCluster,
    observed: &Observed,
    plan: &mut Plan,
) -> Option<DisruptionStatus> {
    if outdated.is_empty() || !plan.is_applied() || !seen_by_controllers(cluster, observed) {
        return None;
    }
    // One that cannot start as it is takes nothing with it: its repair waits for nobody.
    if let Some(stuck) = outdated.values().find(|one| is_stuck(one.pod)) {
        return Some(lease(&[stuck], observed));
    }
    if !windows::is_open(cluster, observed, plan) {
        return None;
    }
    // A node that is not in sync is waited for already: then none restarts on top of it.
    if !all_in_sync(cluster, observed) {
        return None;
    }
    let leader = if let KafkaFacts::Answered { quorum, .. } = &observed.kafka { quorum.leader } else { -1 };
    let next = candidates(outdated, &BTreeSet::new(), cluster, observed);
    match with_view(cluster, observed, |view| next_batch(&next, leader, view))? {
        Ok(batch) => {
            let members: Vec<_> = batch.iter().filter_map(|id| outdated.get(id).copied()).collect();
            let KafkaFacts::Answered { topics, .. } = &observed.kafka else { return None };
            Some(DisruptionStatus { handed_over: leaders::to_hand_over(&batch, topics), ..lease(&members, observed) })
        }
        Err(why) => {
            plan.waiting_on.push(WaitingOn::Restart { why });
            None
        }
    }
}

/// Those that could restart next, when `restarted` have: for a volume that is new, pods of a StatefulSet go one after the other.
pub fn candidates<'a>(
    outdated: &BTreeMap<i32, &'a Outdated<'a>>,
    restarted: &BTreeSet<i32>,
    cluster: &ValidCluster,
    observed: &Observed,
) -> BTreeMap<i32, &'a Outdated<'a>> {
    let may = |one: &Outdated<'_>| {
        let group = cluster.groups.iter().find(|group| group.stateful_set == one.pod.stateful_set);
        group.is_some_and(|group| volumes::may_restart(group, one.pod, restarted, observed))
    };
    outdated.iter().filter(|(_, one)| may(one)).map(|(id, one)| (*id, *one)).collect()
}

/// The nodes of one zone that restart next: as many as the rule allows, the active controller last of all.
///
/// # Errors
/// Why none may.
pub fn next_batch(outdated: &BTreeMap<i32, &Outdated<'_>>, leader: i32, view: &View<'_>) -> Result<BTreeSet<i32>, Blocked> {
    let mut zones: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    for one in outdated.values().filter(|one| one.pod.node_id != leader || outdated.len() == 1) {
        zones.entry(one.zone).or_default().push(one.pod.node_id);
    }
    let mut why = None;
    for candidates in zones.values() {
        match restart::batch(candidates, view) {
            Ok(batch) => return Ok(batch),
            Err(blocked) => drop(why.get_or_insert(blocked)),
        }
    }
    Err(why.unwrap_or(Blocked::Unknown))
}

fn lease(members: &[&Outdated<'_>], observed: &Observed) -> DisruptionStatus {
    DisruptionStatus {
        kind: DisruptionKind::Restart,
        node_ids: members.iter().map(|one| one.pod.node_id).collect(),
        why: reasons_words(members.iter().copied()),
        since: Time(observed.now),
        total: None,
        handed_over: Vec::new(),
    }
}

/// A pod that is deleted before the StatefulSet's controller knows the new template would come back as it was.
fn seen_by_controllers(cluster: &ValidCluster, observed: &Observed) -> bool {
    cluster.groups.iter().all(|group| {
        let set = observed.objects.iter().find(|live| live.resource.kind == "StatefulSet" && live.name() == group.stateful_set);
        set.is_some_and(|set| set.value["status"]["observedGeneration"] == set.value["metadata"]["generation"])
    })
}

fn all_in_sync(cluster: &ValidCluster, observed: &Observed) -> bool {
    let in_sync = InSync::of(&observed.kafka);
    cluster.groups.iter().flat_map(|group| group.node_ids().map(move |id| names::pod(&group.stateful_set, id))).all(|name| {
        let pod = observed.pods.iter().find(|pod| pod.name == name);
        pod.is_some_and(|pod| !pod.deleting && in_sync.says(pod) == Some(true))
    })
}

fn allowed(set: &BTreeSet<i32>, cluster: &ValidCluster, observed: &Observed) -> Result<(), Blocked> {
    if set.is_empty() {
        return Ok(());
    }
    let unknown = Blocked::Unknown;
    with_view(cluster, observed, |view| restart::can_restart(set, view)).unwrap_or(Err(unknown))
}

/// What the rule looks at; `None` while the brokers do not say.
fn with_view<T>(cluster: &ValidCluster, observed: &Observed, decide: impl FnOnce(&View<'_>) -> T) -> Option<T> {
    let KafkaFacts::Answered { cluster: described, quorum, topics, .. } = &observed.kafka else { return None };
    let serving: BTreeSet<i32> = described.brokers.iter().filter(|broker| !broker.fenced).map(|broker| broker.id).collect();
    let brokers: BTreeSet<i32> = cluster.groups_of(Role::Broker).flat_map(NodeGroup::node_ids).collect();
    let running: BTreeSet<i32> = observed.pods.iter().filter(|pod| pod.containers_ready && !pod.deleting).map(|pod| pod.node_id).collect();
    let nodes = cluster.groups.iter().flat_map(NodeGroup::node_ids);
    let down = nodes.filter(|id| !running.contains(id) || (brokers.contains(id) && !serving.contains(id))).collect();
    let voters = quorum.voters.iter().map(|voter| voter.id).collect();
    let caught_up = in_sync::voters(quorum);
    let consent = cluster.spec.rollout.allow_unavailable;
    Some(decide(&View { topics, voters: &voters, caught_up: &caught_up, down: &down, consent }))
}
