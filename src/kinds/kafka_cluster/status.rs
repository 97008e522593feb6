//! Computes the new status from the result of a reconcile or from its error. Pure.

use crate::api::conditions::{Reason, State, conditions, is_ready};
use crate::api::kafka_cluster::{
    ClusterState, DisruptionKind, DisruptionStatus, KafkaCluster, KafkaClusterStatus,
    ListenerStatus, NodePoolStatus, QuorumStatus, RefusedStatus, Role, VoterStatus, ZoneStatus,
};
use crate::kinds::attempts::Refusal;
use crate::kinds::error::Error;
use crate::kinds::kafka_cluster::configuration::config_key;
use crate::kinds::kafka_cluster::disruption::WaitingOn;
use crate::kinds::kafka_cluster::model::cluster::ValidCluster;
use crate::kinds::kafka_cluster::observed::{KafkaFacts, Observed};
use crate::kinds::kafka_cluster::plan::Plan;
use crate::kinds::kafka_cluster::preview;
use crate::kinds::kafka_cluster::readiness::InSync;
use crate::kinds::kafka_cluster::replacing;
use crate::kinds::kafka_cluster::resources::server_properties;
use crate::kinds::kafka_cluster::validate::is_paused;
use crate::kubernetes::labels;
use crate::kubernetes::names;
use crate::runtime::kind::Failure;
use crate::words;
use freehold_kafka::config::METADATA_VERSION;
use freehold_kafka::in_sync::{lag_words, voter_lags};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::collections::{BTreeMap, BTreeSet};

/// The maximum number of entries in a list of the status, because people read it.
const WAITING_MAX: usize = 10;

/// The maximum number of planned disruptions in the status; `freehold plan` lists all.
const PLAN_MAX: usize = 20;

/// The state of the cluster after a plan.
pub fn state(object: &KafkaCluster, observed: &Observed, plan: &Plan) -> State {
    if is_paused(object) {
        return State::reconciling(Reason::Paused, "spec.state is Paused: nothing is changed");
    }
    if object.spec.state == ClusterState::Hibernated
        && observed.pods.is_empty()
        && plan.waiting_on.is_empty()
        && plan.steps.is_empty()
    {
        return State::Ready;
    }
    if !plan.lost.is_empty() {
        return State::stalled(Reason::SecretLost, plan.lost.join("; "));
    }
    if let Some(lease) = &plan.lease {
        return disrupted(lease, &waiting_on(plan));
    }
    let refused = refused(object, plan);
    if plan.waiting_on.is_empty()
        && plan.steps.is_empty()
        && matches!(observed.kafka, KafkaFacts::Answered { .. })
    {
        return finished(&refused);
    }
    let mut waiting = waiting_on(plan);
    if waiting.is_empty() {
        waiting.push("the brokers to be seen in sync".into());
    }
    waiting.extend(
        refused
            .iter()
            .map(|refusal| format!("what is refused: {}", refusal.words())),
    );
    State::reconciling(
        reason(object, plan),
        format!("waiting for {}", waiting.join("; ")),
    )
}

/// The state while a disruption is under way.
fn disrupted(lease: &DisruptionStatus, waiting: &[String]) -> State {
    let waiting = if waiting.is_empty() {
        String::new()
    } else {
        format!(": waiting for {}", waiting.join("; "))
    };
    let (reason, words) = match lease.kind {
        DisruptionKind::Restart => (
            Reason::Restarting,
            format!(
                "restarting nodes {} because {}",
                words::ids(&lease.node_ids),
                lease.why
            ),
        ),
        DisruptionKind::Reassignment | DisruptionKind::Volumes => {
            (Reason::Reassigning, lease.why.clone())
        }
        DisruptionKind::Quorum => (Reason::ChangingQuorum, lease.why.clone()),
        DisruptionKind::Replacement => (Reason::Replacing, lease.why.clone()),
    };
    State::reconciling(reason, format!("{words}{waiting}"))
}

/// The state when nothing is left to do or to wait for, other than what was refused.
fn finished(refused: &[&Refusal]) -> State {
    let lasting = refused.iter().find(|refusal| !refusal.is_transient);
    let words = refused
        .iter()
        .take(WAITING_MAX)
        .map(|refusal| refusal.words())
        .collect::<Vec<_>>()
        .join("; ");
    match (lasting, refused.first()) {
        (Some(lasting), _) => State::stalled(lasting.reason, words),
        (None, Some(first)) => State::reconciling(first.reason, words),
        (None, None) => State::Ready,
    }
}

/// The refusals that affect the state. Transient ones do not, for a cluster that was Ready: it
/// stays Ready until it is known not to be.
fn refused<'a>(object: &KafkaCluster, plan: &'a Plan) -> Vec<&'a Refusal> {
    let was_ready = object
        .status
        .as_ref()
        .is_some_and(|status| is_ready(&status.conditions));
    plan.refused
        .iter()
        .filter(|refusal| !(refusal.is_transient && was_ready))
        .collect()
}

/// The reason for waiting. An unhealthy node takes precedence over planned work on nodes.
fn reason(object: &KafkaCluster, plan: &Plan) -> Reason {
    let was_ready = object
        .status
        .as_ref()
        .is_some_and(|status| status.kafka_version.is_some());
    let unwell = if was_ready {
        Reason::Recovering
    } else {
        Reason::Starting
    };
    let order = |reason: &Reason| match reason {
        Reason::Recovering | Reason::Starting => 0,
        Reason::WaitingForWindow => 1,
        Reason::WaitingForApproval => 2,
        Reason::Resizing => 4,
        _ => 3,
    };
    let of = |waiting: &WaitingOn| match waiting {
        WaitingOn::PodMissing { .. }
        | WaitingOn::PodTrouble { .. }
        | WaitingOn::PodStarting { .. }
        | WaitingOn::PodEnding { .. }
        | WaitingOn::Host { .. }
        | WaitingOn::InSync { .. }
        | WaitingOn::Quorum { .. }
        | WaitingOn::Kafka { .. } => unwell,
        WaitingOn::Window { .. } => Reason::WaitingForWindow,
        WaitingOn::Approval { .. } => Reason::WaitingForApproval,
        WaitingOn::Restart { .. } | WaitingOn::Outdated { .. } => Reason::Restarting,
        WaitingOn::Moves { .. } | WaitingOn::Replicas { .. } | WaitingOn::Leaving { .. } => {
            Reason::Reassigning
        }
        WaitingOn::Voters { .. } => Reason::ChangingQuorum,
        // The nodes are healthy; only the size of their volumes is not as desired.
        WaitingOn::Volume { .. } => Reason::Resizing,
        WaitingOn::Leaders { .. } | WaitingOn::Threads { .. } | WaitingOn::Removal { .. } => {
            Reason::Applying
        }
    };
    plan.waiting_on
        .iter()
        .map(of)
        .min_by_key(order)
        .unwrap_or(unwell)
}

fn waiting_on(plan: &Plan) -> Vec<String> {
    let mut waiting: Vec<_> = plan.waiting_on.iter().collect();
    waiting.sort_unstable();
    waiting.dedup();
    waiting
        .into_iter()
        .take(WAITING_MAX)
        .map(ToString::to_string)
        .collect()
}

/// The status after a reconcile without an error.
pub fn learned(
    object: &KafkaCluster,
    cluster: &ValidCluster,
    observed: &Observed,
    plan: &Plan,
    state: &State,
) -> KafkaClusterStatus {
    let old = object.status.clone().unwrap_or_default();
    // Refused steps are reported, but the nodes still match the spec.
    let well = plan.waiting_on.is_empty()
        && plan.lease.is_none()
        && matches!(observed.kafka, KafkaFacts::Answered { .. });
    let ready = matches!(state, State::Ready) || (well && !plan.refused.is_empty());
    let runs = ready && !cluster.hibernated;
    let nodes = InSync::of(&observed.kafka);
    let brokers = observed.pods.iter().filter(|pod| pod.broker);
    let in_sync = brokers.filter(|pod| nodes.counts(pod)).count();
    KafkaClusterStatus {
        bootstrap: bootstrap(cluster),
        cluster_id: observed
            .identity
            .as_ref()
            .map(|identity| identity.cluster_id.clone())
            .or(old.cluster_id.clone()),
        kafka_version: if runs {
            Some(cluster.spec.version.clone())
        } else {
            old.kafka_version.clone()
        },
        version_since: version_since(cluster, observed, &old, runs),
        metadata_version: match &observed.kafka {
            KafkaFacts::Answered { features, .. } => features.get(METADATA_VERSION).copied(),
            _ => old.metadata_version,
        },
        brokers: format!("{}/{}", in_sync, cluster.count(Role::Broker)),
        node_pools: node_pools(cluster, observed, &nodes),
        quorum: quorum(&observed.kafka).or(old.quorum.clone()),
        waiting_on: waiting_on(plan),
        plan: if ready {
            Vec::new()
        } else {
            preview::disruptions(object, cluster, observed)
                .into_iter()
                .take(PLAN_MAX)
                .collect()
        },
        warnings: [cluster.warnings.as_slice(), &plan.warnings].concat(),
        refused: refusals(plan),
        disruption: plan.lease.clone(),
        rebalance: plan.rebalance.clone(),
        rebalanced: plan.rebalanced.clone().or(old.rebalanced.clone()),
        // The value is dropped with the annotation, so that a new annotation may name the same
        // broker again.
        replaced: plan
            .replaced
            .clone()
            .or(old.replaced.clone().filter(|_| asks_to_replace(object))),
        lost_nodes: replacing::lost_nodes(object, cluster, observed),
        dynamic_configs: dynamic_configs(cluster, observed, &old),
        ..concluded(object, old, state)
    }
}

/// The time since which all nodes run the version of the spec. `runs`: they do now.
fn version_since(
    cluster: &ValidCluster,
    observed: &Observed,
    old: &KafkaClusterStatus,
    runs: bool,
) -> Option<Time> {
    match &old.version_since {
        // No node runs the version during hibernation, so the soak time starts again.
        _ if cluster.hibernated => None,
        Some(since) if !runs || old.kafka_version.as_ref() == Some(&cluster.spec.version) => {
            Some(since.clone())
        }
        _ => runs.then_some(Time(observed.now)),
    }
}

/// The status after a reconcile that changed nothing because the spec is not valid: what was known
/// before, and the running disruption.
pub fn unchanged(
    object: &KafkaCluster,
    observed: &Observed,
    plan: &Plan,
    state: &State,
) -> KafkaClusterStatus {
    let old = object.status.clone().unwrap_or_default();
    KafkaClusterStatus {
        quorum: quorum(&observed.kafka).or(old.quorum.clone()),
        waiting_on: waiting_on(plan),
        refused: refusals(plan),
        disruption: plan.lease.clone(),
        rebalance: plan
            .rebalance
            .clone()
            .or(old.rebalance.clone().filter(|_| plan.lease.is_some())),
        // This reconcile did not check for lost nodes.
        lost_nodes: Vec::new(),
        ..concluded(object, old, state)
    }
}

/// The status after an error: what was known before, and the error.
pub fn failed(object: &KafkaCluster, error: &Error) -> (KafkaClusterStatus, State) {
    let old = object.status.clone().unwrap_or_default();
    let state = match error {
        // The API server or a broker does not answer for a moment: a cluster that was Ready stays
        // Ready until it is known not to be.
        error if error.is_transient() && is_ready(&old.conditions) => return (old, State::Ready),
        error => error.state(),
    };
    (concluded(object, old, &state), state)
}

fn concluded(object: &KafkaCluster, old: KafkaClusterStatus, state: &State) -> KafkaClusterStatus {
    KafkaClusterStatus {
        observed_generation: object.metadata.generation,
        reason: if matches!(state, State::Ready) {
            if object.spec.state == ClusterState::Hibernated {
                "Hibernated".into()
            } else {
                String::new()
            }
        } else {
            format!("{}: {}", state.words().0, first_words(state.words().1))
        },
        ..old
    }
}

/// The beginning of a message, short enough for a column of `kubectl get`.
fn first_words(message: &str) -> String {
    let mut words: String = message.chars().take(120).collect();
    if words.len() < message.len() {
        words.push('…');
    }
    words
}

/// Sets the conditions, the only part of the status that needs the time.
pub fn with_conditions(
    mut status: KafkaClusterStatus,
    object: &KafkaCluster,
    state: &State,
    now: &Time,
) -> KafkaClusterStatus {
    let old = object
        .status
        .as_ref()
        .map(|status| status.conditions.as_slice())
        .unwrap_or_default();
    status.conditions = conditions(state, object.metadata.generation, old, now);
    status
}

fn bootstrap(cluster: &ValidCluster) -> Vec<ListenerStatus> {
    let host = names::bootstrap_host(&cluster.key.name, &cluster.key.namespace);
    let listeners = cluster.spec.listeners.iter();
    listeners
        .map(|listener| ListenerStatus {
            name: listener.name.clone(),
            address: format!("{host}:{}", listener.port),
        })
        .collect()
}

fn node_pools(
    cluster: &ValidCluster,
    observed: &Observed,
    in_sync: &InSync,
) -> Vec<NodePoolStatus> {
    let mut pools: BTreeMap<&str, NodePoolStatus> = BTreeMap::new();
    let mut counts: BTreeMap<&str, (usize, i32)> = BTreeMap::new();
    for group in &cluster.groups {
        let name = group.pool.name.as_str();
        let pool = pools.entry(name).or_insert_with(|| NodePoolStatus {
            name: name.to_owned(),
            ..Default::default()
        });
        pool.zones.push(ZoneStatus {
            zone: group.zone.clone(),
            node_ids: group.node_ids().collect(),
        });
        let ready = observed
            .pods
            .iter()
            .filter(|pod| pod.stateful_set == group.stateful_set && in_sync.counts(pod));
        let count = counts.entry(name).or_default();
        count.0 += ready.count();
        count.1 += group.running;
    }
    let summary = |mut pool: NodePoolStatus| {
        let (ready, all) = counts.get(pool.name.as_str()).copied().unwrap_or_default();
        pool.ready = format!("{ready}/{all}");
        pool
    };
    pools.into_values().map(summary).collect()
}

fn quorum(kafka: &KafkaFacts) -> Option<QuorumStatus> {
    let KafkaFacts::Answered { quorum, .. } = kafka else {
        return None;
    };
    let voters: Vec<_> = voter_lags(quorum)
        .into_iter()
        .map(|(node_id, lag)| VoterStatus {
            node_id,
            lag: lag_words(lag),
        })
        .collect();
    let caught_up = voters
        .iter()
        .filter(|voter| voter.lag == "caughtUp")
        .count();
    Some(QuorumStatus {
        summary: format!("{caught_up}/{}", voters.len()),
        leader: (quorum.leader >= 0).then_some(quorum.leader),
        voters,
    })
}

/// The refused steps, each once. Transient refusals are not listed.
fn refusals(plan: &Plan) -> Vec<RefusedStatus> {
    let lasting = plan.refused.iter().filter(|refusal| !refusal.is_transient);
    lasting
        .map(|refusal| (refusal.what.clone(), refusal.status()))
        .collect::<BTreeMap<_, _>>()
        .into_values()
        .take(WAITING_MAX)
        .collect()
}

fn asks_to_replace(object: &KafkaCluster) -> bool {
    object
        .metadata
        .annotations
        .as_ref()
        .is_some_and(|all| all.contains_key(labels::REPLACE))
}

/// The keys of the dynamic configs that Freehold owns: those of the spec, and former ones that
/// Kafka still has, or may have.
fn dynamic_configs(
    cluster: &ValidCluster,
    observed: &Observed,
    old: &KafkaClusterStatus,
) -> Vec<String> {
    let keys = |configs: &BTreeMap<String, BTreeMap<String, String>>| {
        configs
            .iter()
            .flat_map(|(resource, configs)| configs.keys().map(|key| config_key(resource, key)))
            .collect::<BTreeSet<_>>()
    };
    let mut ours = keys(&server_properties::dynamic_configs(cluster));
    ours.extend(observed.attempts.set().iter().cloned());
    if let KafkaFacts::Answered { configs, .. } = &observed.kafka {
        let found = keys(configs);
        ours.extend(
            old.dynamic_configs
                .iter()
                .filter(|key| found.contains(*key))
                .cloned(),
        );
    } else {
        ours.extend(old.dynamic_configs.iter().cloned());
    }
    ours.into_iter().collect()
}
