//! The linter of plans: rules that no plan may break, whatever its input. Every golden case, model
//! and property makes its plans with [`plan`] or [`keep_plan`]. The rules are computed from the
//! facts, independently of the code that plans; `tests/arbiter.rs` has a bad plan for each.

#![allow(dead_code, reason = "each test file uses a part of it")]

use freehold::api::kafka_cluster::{DisruptionKind, DisruptionStatus, KafkaCluster};
use freehold::kinds::kafka_cluster::model::cluster::ValidCluster;
use freehold::kinds::kafka_cluster::model::volume_names::claimed_volume;
use freehold::kinds::kafka_cluster::observed::{Observed, PodFacts};
use freehold::kinds::kafka_cluster::plan::{Plan, Step};
use freehold::kinds::kafka_cluster::step::RestartReason;
use freehold::kinds::kafka_cluster::{keep, plan};
use freehold::kubernetes::Live;
use freehold_kafka::in_sync;
use freehold_kafka::metadata_image::PartitionImage;
use freehold_kafka::safety::Answer;
use std::collections::BTreeSet;

/// Makes a plan and checks it.
///
/// # Panics
/// The plan breaks a rule.
pub fn plan(object: &KafkaCluster, cluster: &ValidCluster, observed: &Observed) -> Plan {
    let plan = plan::plan(object, cluster, observed);
    passes(&plan, faults(&plan, object, cluster, observed));
    plan
}

/// Makes the plan of a cluster that must not be changed, and checks it.
///
/// # Panics
/// The plan breaks a rule.
pub fn keep_plan(object: &KafkaCluster, cluster: &ValidCluster, observed: &Observed) -> Plan {
    let plan = keep::plan(object, cluster, observed);
    let mut found = faults(&plan, object, cluster, observed);
    found.extend(faults_of_kept(&plan, object));
    passes(&plan, found);
    plan
}

fn passes(plan: &Plan, found: Vec<String>) {
    let steps: Vec<_> = plan.steps.iter().map(ToString::to_string).collect();
    assert!(found.is_empty(), "{found:?} in {steps:#?}");
}

/// The rules that a plan breaks.
pub fn faults(
    plan: &Plan,
    object: &KafkaCluster,
    cluster: &ValidCluster,
    observed: &Observed,
) -> Vec<String> {
    let case = Case {
        plan,
        held: held(object),
        cluster,
        observed,
    };
    let mut faults: Vec<String> = plan
        .steps
        .iter()
        .flat_map(|step| {
            [
                case.without_lease(step),
                case.without_permit(step),
                case.deletes_what_is_needed(step),
                case.ends_a_node_that_serves(step),
                case.ends_a_volume(step),
                case.is_on_a_node_that_goes(step),
                without_precondition(step),
            ]
        })
        .flatten()
        .collect();
    faults.extend(case.too_few_stay());
    faults
}

/// The further rules that the plan of a cluster breaks that must not be changed: a disruption is
/// finished, none begins, and nothing else is changed.
pub fn faults_of_kept(plan: &Plan, object: &KafkaCluster) -> Vec<String> {
    let (before, after) = (held(object), &plan.lease);
    let begins = after
        .as_ref()
        .filter(|lease| before.is_none_or(|before| before.kind != lease.kind))
        .map(|lease| format!("a {:?} begins: {}", lease.kind, lease.why));
    let changes = plan
        .steps
        .iter()
        .filter(|step| !keeps(step))
        .map(|step| format!("it must not be changed: {step}"));
    let more = after.as_ref().zip(before).and_then(|(after, before)| {
        let more: Vec<i32> = after
            .node_ids
            .iter()
            .filter(|id| !before.node_ids.contains(id))
            .copied()
            .collect();
        (!more.is_empty()).then(|| format!("it takes in further nodes: {more:?}"))
    });
    begins.into_iter().chain(more).chain(changes).collect()
}

fn held(object: &KafkaCluster) -> Option<&DisruptionStatus> {
    object.status.as_ref()?.disruption.as_ref()
}

/// True for a step that may be done although nothing may be changed.
fn keeps(step: &Step) -> bool {
    match step {
        Step::SetInSync { .. }
        | Step::IssueOperatorCertificate { .. }
        | Step::IssueNodeCertificates { .. }
        | Step::AlterConfigs(_)
        | Step::ElectLeaders(_)
        | Step::AddVoter { .. }
        | Step::RemoveVoter { .. } => true,
        Step::AddFinalizer
        | Step::CreateIdentity { .. }
        | Step::UpdateIdentity(_)
        | Step::CreateAuthority { .. }
        | Step::RestoreSecret(_)
        | Step::WritePasswordKey { .. }
        | Step::RotateAuthority { .. }
        | Step::Apply(_)
        | Step::PutRight { .. }
        | Step::RemoveFields { .. }
        | Step::Prune(_)
        | Step::Release(_)
        | Step::ChangeVolume { .. }
        | Step::RestartPod { .. }
        | Step::DeleteVolume { .. }
        | Step::Reassign(_)
        | Step::MoveFolders { .. }
        | Step::UpgradeFeatures(_)
        | Step::Unregister(_) => false,
    }
}

/// A step may delete or change only the exact object that was observed, in the state in which it
/// was observed.
fn without_precondition(step: &Step) -> Option<String> {
    let (uid, version) = match step {
        Step::Prune(live) | Step::Release(live) | Step::RemoveFields { live, .. } => state(live),
        Step::DeleteVolume { claim, .. } | Step::ChangeVolume { claim, .. } => state(claim),
        Step::RestartPod { pod, .. } => (pod.uid.as_str(), pod.resource_version.as_str()),
        // Only the operator sets this condition, and the pod's other conditions change all the
        // time.
        Step::SetInSync { pod, .. } => (pod.uid.as_str(), "any"),
        _ => return None,
    };
    let missing = match (uid.is_empty(), version.is_empty()) {
        (true, _) => "uid",
        (false, true) => "resourceVersion",
        (false, false) => return None,
    };
    Some(format!("no {missing}: {step}"))
}

fn state(live: &Live) -> (&str, &str) {
    (live.uid(), live.resource_version())
}

fn is_replaced(reasons: &[RestartReason]) -> bool {
    reasons.contains(&RestartReason::Replaced)
}

/// True if a restart of this pod is the repair of what cannot start.
fn is_stuck(pod: &PodFacts) -> bool {
    pod.stuck.is_some() && !pod.containers_ready && !pod.deleting
}

fn node_of(claim: &Live) -> Option<i32> {
    claim.name().rsplit_once('-')?.1.parse().ok()
}

/// A plan and what it was made from.
struct Case<'a> {
    plan: &'a Plan,
    held: Option<&'a DisruptionStatus>,
    cluster: &'a ValidCluster,
    observed: &'a Observed,
}

impl Case<'_> {
    /// True if the disruption under way is of this kind and names the node.
    fn holds(&self, kind: DisruptionKind, node: i32) -> bool {
        self.held
            .is_some_and(|held| held.kind == kind && held.node_ids.contains(&node))
    }

    fn pod(&self, node: i32) -> Option<&PodFacts> {
        let mut pods = self.observed.pods.iter();
        pods.find(|pod| pod.node_id == node && !pod.deleting)
    }

    /// True if no node of the cluster has this claim mounted: its node was removed, or runs without
    /// it.
    fn is_unmounted(&self, claim: &Live, node: i32) -> bool {
        let mut groups = self.cluster.groups.iter();
        match self.pod(node) {
            Some(pod) => claimed_volume(claim.name(), &pod.name)
                .is_some_and(|volume| !pod.volumes.contains(volume)),
            None => !groups.any(|group| group.node_ids().any(|id| id == node)),
        }
    }

    /// Finds a step that belongs to a disruption which is not in the status, or not with this node
    /// or this object.
    fn without_lease(&self, step: &Step) -> Option<String> {
        let is_of = |kind: DisruptionKind| self.held.is_some_and(|held| held.kind == kind);
        let removes = |uid: &str| {
            self.held
                .is_some_and(|held| held.removes.iter().any(|one| one == uid))
        };
        let (kind, is_held) = match step {
            Step::RestartPod { pod, reasons, .. } if is_replaced(reasons) => {
                let kind = DisruptionKind::Replacement;
                (kind, self.holds(kind, pod.node_id) && removes(&pod.uid))
            }
            Step::RestartPod { pod, .. } => {
                let kind = DisruptionKind::Restart;
                (kind, self.holds(kind, pod.node_id) || is_stuck(pod))
            }
            Step::DeleteVolume { claim, .. } => {
                let kind = DisruptionKind::Replacement;
                let node = node_of(claim)?;
                let is_replaced = self.holds(kind, node) && removes(claim.uid());
                (kind, is_replaced || self.is_unmounted(claim, node))
            }
            Step::AddVoter { id, .. } | Step::RemoveVoter { id, .. } => {
                let kind = DisruptionKind::Quorum;
                let comes_back = self.holds(DisruptionKind::Restart, *id)
                    || self.holds(DisruptionKind::Replacement, *id);
                (kind, is_of(kind) || comes_back)
            }
            Step::Reassign(_) => {
                let kind = DisruptionKind::Reassignment;
                (kind, is_of(kind))
            }
            Step::MoveFolders { .. } => {
                let kind = DisruptionKind::Volumes;
                (kind, is_of(kind))
            }
            _ => return None,
        };
        let held = self.held.map(|held| (held.kind, &held.node_ids));
        (!is_held).then(|| format!("a step of a {kind:?} while {held:?} is under way: {step}"))
    }

    /// Finds a step whose permit is for another node.
    fn without_permit(&self, step: &Step) -> Option<String> {
        let (node, permit) = match step {
            Step::RestartPod { pod, permit, .. } => (pod.node_id, permit),
            Step::RemoveVoter { id, permit, .. } => (*id, permit),
            Step::DeleteVolume { claim, permit } => (node_of(claim)?, permit),
            _ => return None,
        };
        (!permit.covers(node)).then(|| format!("the permit is not for node {node}: {step}"))
    }

    /// Finds a claim that would be deleted although its node needs it, or although its volume may
    /// hold the only copy of a partition.
    fn deletes_what_is_needed(&self, step: &Step) -> Option<String> {
        let Step::DeleteVolume { claim, .. } = step else {
            return None;
        };
        let node = node_of(claim)?;
        let Some(answer) = self.observed.kafka.answer() else {
            return Some(format!("nobody says what node {node} holds: {step}"));
        };
        let held: Vec<&PartitionImage> = partitions(&answer)
            .filter(|partition| partition.replicas.contains(&node))
            .collect();
        let votes = answer.quorum.voters.iter().any(|voter| voter.id == node);
        let is_needed = !held.is_empty() || votes;
        if self.is_unmounted(claim, node) {
            // A node that runs without the volume has everything on its others.
            let has_all = self.pod(node).is_some()
                && held
                    .iter()
                    .all(|partition| partition.in_sync().contains(&node));
            return (is_needed && !has_all)
                .then(|| format!("node {node} may need what is on it: {step}"));
        }
        if is_needed && serves(&answer, node) {
            return Some(format!("node {node} serves from it: {step}"));
        }
        let others = in_sync::voters(answer.quorum)
            .into_iter()
            .filter(|id| *id != node);
        if votes && 2 * others.count() <= answer.quorum.voters.len() {
            return Some(format!("the quorum needs node {node}: {step}"));
        }
        let mut claims = self.observed.volumes.iter();
        let is_gone = claims.any(|one| one.uid() == claim.uid() && one.is_volume_gone);
        let unfenced = answer.unfenced();
        let is_elsewhere = |partition: &PartitionImage| {
            let leader = partition.leader;
            (leader >= 0 && leader != node)
                || partition
                    .in_sync()
                    .iter()
                    .any(|id| *id != node && unfenced.contains(id))
        };
        let is_only = !is_gone && !held.iter().all(|partition| is_elsewhere(partition));
        is_only.then(|| format!("the volume of node {node} may hold the only copy: {step}"))
    }

    /// Finds a node that the brokers need and that is taken for one that is down, or for one that
    /// holds nothing any more.
    fn ends_a_node_that_serves(&self, step: &Step) -> Option<String> {
        let Step::RestartPod { pod, reasons, .. } = step else {
            return None;
        };
        let answer = self.observed.kafka.answer()?;
        let node = pod.node_id;
        let votes = answer.quorum.voters.iter().any(|voter| voter.id == node);
        let holds = partitions(&answer).any(|partition| partition.replicas.contains(&node));
        let is_wrong = if is_replaced(reasons) {
            votes || holds
        } else {
            !pod.containers_ready
        };
        (is_wrong && serves(&answer, node)).then(|| format!("node {node} serves: {step}"))
    }

    /// Finds a restart that would delete a volume: its claim is being deleted, and Kubernetes keeps
    /// it until the pod ends.
    fn ends_a_volume(&self, step: &Step) -> Option<String> {
        let Step::RestartPod { pod, reasons, .. } = step else {
            return None;
        };
        let mut claims = self.observed.volumes.iter();
        let goes = claims
            .any(|claim| claim.is_deleting() && claimed_volume(claim.name(), &pod.name).is_some());
        (goes && pod.host.is_some() && !is_replaced(reasons))
            .then(|| format!("its volume goes with it: {step}"))
    }

    /// Finds a node that joins the quorum or restarts while the same plan removes it.
    fn is_on_a_node_that_goes(&self, step: &Step) -> Option<String> {
        let node = match step {
            Step::AddVoter { id, .. } => *id,
            Step::RestartPod { pod, .. } => pod.node_id,
            _ => return None,
        };
        let goes = self.plan.steps.iter().any(|other| match other {
            Step::RemoveVoter { id, .. } | Step::Unregister(id) => *id == node,
            _ => false,
        });
        goes.then(|| format!("on a node that goes: {step}"))
    }

    /// Finds restarts that together take a partition below `min.insync.replicas`, or the quorum
    /// below its majority. With the user's consent, what no restart can spare may be without.
    fn too_few_stay(&self) -> Vec<String> {
        let Some(answer) = self.observed.kafka.answer() else {
            return Vec::new();
        };
        let ends = |step: &Step| match step {
            Step::RestartPod { pod, .. } if pod.containers_ready => Some(pod.node_id),
            _ => None,
        };
        let batch: BTreeSet<i32> = self.plan.steps.iter().filter_map(ends).collect();
        let pods = self.observed.pods.iter();
        let mut away: BTreeSet<i32> = pods
            .filter(|pod| pod.deleting)
            .map(|pod| pod.node_id)
            .collect();
        away.extend(&batch);
        let consents = self.cluster.spec.rollout.allow_unavailable;
        let mut found = Vec::new();
        for topic in answer.topics {
            for partition in &topic.partitions {
                let holds = partition.replicas.iter().any(|id| batch.contains(id));
                let is_lost = partition.leader < 0;
                // A replica that is being removed may be gone before the nodes are back.
                let stays = |id: &&i32| !away.contains(id) && !partition.removing.contains(id);
                let left = partition.in_sync().iter().filter(stays).count();
                let spared = !consents || partition.target().len() > topic.min_in_sync;
                if holds && !is_lost && spared && left < topic.min_in_sync {
                    let replicas = &partition.replicas;
                    found.push(format!("{batch:?} leave {left} of {replicas:?} in sync"));
                }
            }
        }
        let voters: BTreeSet<i32> = answer.quorum.voters.iter().map(|voter| voter.id).collect();
        let left = in_sync::voters(answer.quorum);
        let left = left.difference(&away).count();
        let spared = !consents || voters.len() > 2;
        if !batch.is_disjoint(&voters) && spared && 2 * left <= voters.len() {
            found.push(format!("{batch:?} leave {left} of {} voters", voters.len()));
        }
        found
    }
}

fn partitions<'a>(answer: &Answer<'a>) -> impl Iterator<Item = &'a PartitionImage> {
    answer.topics.iter().flat_map(|topic| &topic.partitions)
}

/// True if the brokers say that the node serves: as a broker, as a replica in sync, or as a voter
/// that asks for records.
fn serves(answer: &Answer<'_>, node: i32) -> bool {
    let mut brokers = answer.cluster.brokers.iter();
    brokers.any(|broker| broker.id == node && !broker.fenced)
        || partitions(answer)
            .any(|partition| partition.leader >= 0 && partition.in_sync().contains(&node))
        || in_sync::voters_that_ask(answer.quorum).contains(&node)
}
