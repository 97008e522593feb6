//! The linter of plans: rules that no plan may break, whatever its input. Every golden case, model
//! and property makes its plans with [`plan`].

#![allow(dead_code, reason = "each test file uses a part of it")]

use freehold::api::kafka_cluster::{DisruptionKind, KafkaCluster};
use freehold::kinds::kafka_cluster::model::cluster::ValidCluster;
use freehold::kinds::kafka_cluster::observed::{KafkaFacts, Observed};
use freehold::kinds::kafka_cluster::plan;
use freehold::kinds::kafka_cluster::plan::{Plan, Step};
use freehold::kinds::kafka_cluster::step::RestartReason;
use std::collections::BTreeSet;

/// Makes a plan and checks it.
///
/// # Panics
/// The plan breaks a rule.
pub fn plan(object: &KafkaCluster, cluster: &ValidCluster, observed: &Observed) -> Plan {
    let plan = plan::plan(object, cluster, observed);
    let found = faults(&plan, object, observed);
    let steps: Vec<_> = plan.steps.iter().map(ToString::to_string).collect();
    assert!(found.is_empty(), "{found:?} in {steps:#?}");
    plan
}

/// The rules that a plan breaks.
pub fn faults(plan: &Plan, object: &KafkaCluster, observed: &Observed) -> Vec<String> {
    let held = object
        .status
        .as_ref()
        .and_then(|status| status.disruption.as_ref());
    let mut faults = Vec::new();
    faults.extend(two_disruptions(plan, held.map(|lease| lease.kind)));
    faults.extend(
        plan.steps
            .iter()
            .filter_map(|step| without_permit(step, observed)),
    );
    faults.extend(plan.steps.iter().filter_map(without_precondition));
    faults.extend(step_on_a_node_that_goes(plan));
    faults
}

/// The kind of disruption to which a step belongs; `None` for a step that needs no lease.
fn kind(step: &Step) -> Option<DisruptionKind> {
    match step {
        Step::RestartPod { pod, .. } if pod.stuck.is_some() => None,
        Step::RestartPod { reasons, .. } if reasons.contains(&RestartReason::Replaced) => {
            Some(DisruptionKind::Replacement)
        }
        Step::RestartPod { .. } => Some(DisruptionKind::Restart),
        Step::Reassign(_) => Some(DisruptionKind::Reassignment),
        Step::MoveFolders { .. } => Some(DisruptionKind::Volumes),
        _ => None,
    }
}

/// Finds steps of two disruptions, or of one that is not in the status.
fn two_disruptions(plan: &Plan, held: Option<DisruptionKind>) -> Vec<String> {
    let kinds = plan
        .steps
        .iter()
        .filter_map(|step| Some((kind(step)?, step)));
    kinds
        .filter(|(kind, _)| Some(*kind) != held)
        .map(|(kind, step)| format!("a step of a {kind:?} while {held:?} is under way: {step}"))
        .collect()
}

/// Finds a step that disturbs a node without a permit, or although the brokers say that the node is
/// needed.
fn without_permit(step: &Step, observed: &Observed) -> Option<String> {
    let (node, permit) = match step {
        Step::RestartPod { pod, permit, .. } => (pod.node_id, permit),
        Step::RemoveVoter { id, permit, .. } => (*id, permit),
        Step::DeleteVolume { claim, permit } => {
            (claim.name().rsplit_once('-')?.1.parse().ok()?, permit)
        }
        _ => return None,
    };
    if !permit.covers(node) {
        return Some(format!("the permit is not for node {node}: {step}"));
    }
    let KafkaFacts::Answered { topics, .. } = &observed.kafka else {
        return None;
    };
    let mounted = observed
        .pods
        .iter()
        .any(|pod| pod.node_id == node && !pod.deleting && pod.containers_ready);
    let in_sync = topics
        .iter()
        .flat_map(|topic| &topic.partitions)
        .any(|one| one.leader >= 0 && one.in_sync().contains(&node));
    let deletes = matches!(step, Step::DeleteVolume { .. }) && in_sync && !mounted;
    deletes.then(|| format!("the volume of node {node}, which is in sync, would go: {step}"))
}

/// A step may delete or change only the exact object that was observed.
fn without_precondition(step: &Step) -> Option<String> {
    let live = match step {
        Step::Prune(live) | Step::Release(live) | Step::RemoveFields { live, .. } => live,
        Step::DeleteVolume { claim, .. } | Step::ChangeVolume { claim, .. } => claim,
        Step::RestartPod { pod, .. } => {
            return pod.uid.is_empty().then(|| format!("no uid: {step}"));
        }
        _ => return None,
    };
    live.uid().is_empty().then(|| format!("no uid: {step}"))
}

/// Finds a node that joins the quorum or restarts while the same plan removes it.
fn step_on_a_node_that_goes(plan: &Plan) -> Vec<String> {
    let removed: BTreeSet<i32> = plan
        .steps
        .iter()
        .filter_map(|step| match step {
            Step::RemoveVoter { id, .. } | Step::Unregister(id) => Some(*id),
            _ => None,
        })
        .collect();
    let on = |step: &&Step| match step {
        Step::AddVoter { id, .. } => removed.contains(id),
        Step::RestartPod { pod, .. } => removed.contains(&pod.node_id),
        _ => false,
    };
    plan.steps
        .iter()
        .filter(on)
        .map(|step| format!("on a node that goes: {step}"))
        .collect()
}
