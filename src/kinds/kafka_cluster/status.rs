//! What was learned, or the error -> the new status. Pure.

use super::api::{
    ClusterState, DisruptionKind, KafkaCluster, KafkaClusterStatus, ListenerStatus, NodePoolStatus, QuorumStatus, Role, VoterStatus,
    ZoneStatus,
};
use super::desired::server_properties;
use super::observe::{KafkaFacts, Observed};
use super::plan::{InSync, Plan, WaitingOn, config_key};
use super::preview;
use super::reconcile::Error;
use super::validate::{ValidCluster, is_paused};
use crate::conditions::{Reason, State, conditions, is_ready};
use crate::kafka::config::METADATA_VERSION;
use crate::kafka::in_sync::{lag_words, voter_lags};
use crate::labels;
use crate::names;
use crate::runtime::kind::Failure;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::collections::{BTreeMap, BTreeSet};

/// The most that is listed of what is waited for: a status is read by people.
const WAITING_MAX: usize = 10;

/// The most lines of what will disturb; `freehold plan` tells all.
const PLAN_MAX: usize = 20;

/// The state that a plan leaves.
pub fn state(object: &KafkaCluster, observed: &Observed, plan: &Plan) -> State {
    if is_paused(object) {
        return State::reconciling(Reason::Paused, "spec.state is Paused: nothing is changed");
    }
    if object.spec.state == ClusterState::Hibernated && observed.pods.is_empty() && plan.waiting_on.is_empty() && plan.steps.is_empty() {
        return State::Ready;
    }
    if let Some(lease) = &plan.lease {
        let waiting = waiting_on(plan);
        let waiting = if waiting.is_empty() { String::new() } else { format!(": waiting for {}", waiting.join("; ")) };
        return match lease.kind {
            DisruptionKind::Restart => {
                State::reconciling(Reason::Restarting, format!("restarting nodes {} because {}{waiting}", ids(&lease.node_ids), lease.why))
            }
            DisruptionKind::Reassignment | DisruptionKind::Volumes => {
                State::reconciling(Reason::Reassigning, format!("{}{waiting}", lease.why))
            }
            DisruptionKind::Quorum => State::reconciling(Reason::ChangingQuorum, format!("{}{waiting}", lease.why)),
        };
    }
    if plan.waiting_on.is_empty() && plan.steps.is_empty() && matches!(observed.kafka, KafkaFacts::Answered { .. }) {
        return State::Ready;
    }
    // The nodes are well; how large their volumes are is another matter.
    if !plan.waiting_on.is_empty() && plan.steps.is_empty() && plan.waiting_on.iter().all(|one| matches!(one, WaitingOn::Volume { .. })) {
        return State::reconciling(Reason::Resizing, format!("waiting for {}", waiting_on(plan).join("; ")));
    }
    let was_ready = object.status.as_ref().is_some_and(|status| status.kafka_version.is_some());
    let reason = if was_ready { Reason::Recovering } else { Reason::Starting };
    let mut waiting = waiting_on(plan);
    if waiting.is_empty() {
        waiting.push("the brokers to be seen in sync".into());
    }
    State::reconciling(reason, format!("waiting for {}", waiting.join("; ")))
}

fn waiting_on(plan: &Plan) -> Vec<String> {
    let mut waiting: Vec<_> = plan.waiting_on.iter().collect();
    waiting.sort_unstable();
    waiting.dedup();
    waiting.into_iter().take(WAITING_MAX).map(ToString::to_string).collect()
}

/// The status after a look that went well.
pub fn learned(object: &KafkaCluster, cluster: &ValidCluster, observed: &Observed, plan: &Plan, state: &State) -> KafkaClusterStatus {
    let old = object.status.clone().unwrap_or_default();
    let ready = matches!(state, State::Ready);
    let nodes = InSync::of(&observed.kafka);
    let in_sync = |role: Role| {
        let pods = observed.pods.iter().filter(|pod| if role == Role::Broker { pod.broker } else { pod.controller });
        pods.filter(|pod| nodes.counts(pod)).count()
    };
    KafkaClusterStatus {
        bootstrap: bootstrap(cluster),
        cluster_id: observed.identity.as_ref().map(|identity| identity.cluster_id.clone()).or(old.cluster_id.clone()),
        kafka_version: if ready { Some(cluster.spec.version.clone()) } else { old.kafka_version.clone() },
        version_since: match &old.version_since {
            Some(since) if !ready || old.kafka_version.as_ref() == Some(&cluster.spec.version) => Some(since.clone()),
            _ => ready.then_some(Time(observed.now)),
        },
        metadata_version: match &observed.kafka {
            KafkaFacts::Answered { features, .. } => features.get(METADATA_VERSION).copied(),
            _ => old.metadata_version,
        },
        brokers: format!("{}/{}", in_sync(Role::Broker), cluster.count(Role::Broker)),
        node_pools: node_pools(cluster, observed, &nodes),
        quorum: quorum(&observed.kafka).or(old.quorum.clone()),
        waiting_on: waiting_on(plan),
        plan: if ready { Vec::new() } else { preview::disruptions(object, cluster, observed).into_iter().take(PLAN_MAX).collect() },
        warnings: cluster.warnings.iter().chain(&plan.warnings).cloned().collect(),
        disruption: plan.lease.clone(),
        rebalance: plan.rebalance.clone(),
        rebalanced: plan.rebalanced.clone().or(old.rebalanced.clone()),
        // Without the annotation the same broker may be asked for again.
        replaced: plan.replaced.clone().or(old.replaced.clone().filter(|_| asks_to_replace(object))),
        dynamic_configs: dynamic_configs(cluster, observed, &old),
        ..concluded(object, old, state)
    }
}

/// The status after an error: everything that was known, and what went wrong.
pub fn failed(object: &KafkaCluster, error: &Error) -> (KafkaClusterStatus, State) {
    let old = object.status.clone().unwrap_or_default();
    let state = match error {
        // The API server or a broker is away for a moment: a cluster that was Ready stays so until it is known not to be.
        error if error.is_transient() && is_ready(&old.conditions) => return (old, State::Ready),
        error => error.state(),
    };
    (concluded(object, old, &state), state)
}

fn concluded(object: &KafkaCluster, old: KafkaClusterStatus, state: &State) -> KafkaClusterStatus {
    KafkaClusterStatus {
        observed_generation: object.metadata.generation,
        reason: if matches!(state, State::Ready) {
            if object.spec.state == ClusterState::Hibernated { "Hibernated".into() } else { String::new() }
        } else {
            format!("{}: {}", state.words().0, first_words(state.words().1))
        },
        ..old
    }
}

/// A column's worth of a message.
fn first_words(message: &str) -> String {
    let mut words: String = message.chars().take(120).collect();
    if words.len() < message.len() {
        words.push('…');
    }
    words
}

/// Puts the conditions in, the one thing that needs the time.
pub fn with_conditions(mut status: KafkaClusterStatus, object: &KafkaCluster, state: &State, now: &Time) -> KafkaClusterStatus {
    let old = object.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    status.conditions = conditions(state, object.metadata.generation, old, now);
    status
}

fn bootstrap(cluster: &ValidCluster) -> Vec<ListenerStatus> {
    let host = names::bootstrap_host(&cluster.key.name, &cluster.key.namespace);
    let listeners = cluster.spec.listeners.iter();
    listeners.map(|listener| ListenerStatus { name: listener.name.clone(), address: format!("{host}:{}", listener.port) }).collect()
}

fn node_pools(cluster: &ValidCluster, observed: &Observed, in_sync: &InSync) -> Vec<NodePoolStatus> {
    let mut pools: BTreeMap<&str, NodePoolStatus> = BTreeMap::new();
    let mut counts: BTreeMap<&str, (usize, i32)> = BTreeMap::new();
    for group in &cluster.groups {
        let name = group.pool.name.as_str();
        let pool = pools.entry(name).or_insert_with(|| NodePoolStatus { name: name.to_owned(), ..Default::default() });
        pool.zones.push(ZoneStatus { zone: group.zone.clone(), node_ids: group.node_ids().collect() });
        let ready = observed.pods.iter().filter(|pod| pod.stateful_set == group.stateful_set && in_sync.counts(pod));
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
    let KafkaFacts::Answered { quorum, .. } = kafka else { return None };
    let voters: Vec<_> = voter_lags(quorum).into_iter().map(|(node_id, lag)| VoterStatus { node_id, lag: lag_words(lag) }).collect();
    let caught_up = voters.iter().filter(|voter| voter.lag == "caughtUp").count();
    Some(QuorumStatus { summary: format!("{caught_up}/{}", voters.len()), leader: (quorum.leader >= 0).then_some(quorum.leader), voters })
}

fn asks_to_replace(object: &KafkaCluster) -> bool {
    object.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(labels::REPLACE))
}

/// Node ids in words.
pub fn ids<'a>(ids: impl IntoIterator<Item = &'a i32>) -> String {
    ids.into_iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The configs that are ours in Kafka: those of the spec, and those that were and are still there.
fn dynamic_configs(cluster: &ValidCluster, observed: &Observed, old: &KafkaClusterStatus) -> Vec<String> {
    let keys = |configs: &BTreeMap<String, BTreeMap<String, String>>| {
        configs.iter().flat_map(|(resource, configs)| configs.keys().map(|key| config_key(resource, key))).collect::<BTreeSet<_>>()
    };
    let mut ours = keys(&server_properties::dynamic_configs(cluster));
    if let KafkaFacts::Answered { configs, .. } = &observed.kafka {
        let found = keys(configs);
        ours.extend(old.dynamic_configs.iter().filter(|key| found.contains(*key)).cloned());
    } else {
        ours.extend(old.dynamic_configs.iter().cloned());
    }
    ours.into_iter().collect()
}
