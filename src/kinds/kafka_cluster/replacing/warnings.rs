//! Warns about lost partitions and lost nodes, with each way out. Pure.

use crate::api::kafka_cluster::LostNodeStatus;
use crate::kinds::kafka_cluster::disruption::Facts;
use crate::kinds::kafka_cluster::observed::Observed;
use crate::kinds::kafka_cluster::replacing::request;
use crate::kubernetes::labels;
use crate::words;
use freehold_kafka::safety;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use std::collections::BTreeSet;

/// The number of partitions that a message names at most.
const NAMES_MAX: usize = 5;
const REPLACE_LOST: &str = "spec.rollout.replaceLostNodesAfterMinutes";

/// Some of the names, and the number of the others.
pub fn names_of(names: &[String]) -> String {
    let more = names.len().saturating_sub(NAMES_MAX);
    let first = names[..names.len().min(NAMES_MAX)].join(", ");
    if more > 0 {
        format!("{first} and {more} more")
    } else {
        first
    }
}

/// Warns about partitions without a leader because none of their in-sync replicas serves. Nothing
/// waits for them.
pub fn of_lost_partitions(observed: &Observed) -> Option<String> {
    let answer = observed.kafka.answer()?;
    let unfenced = answer.unfenced();
    let (mut names, mut nodes) = (Vec::new(), BTreeSet::new());
    for (name, partition) in safety::lost(answer.topics, |id| unfenced.contains(&id)) {
        names.push(name);
        nodes.extend(partition.replicas.iter().copied());
    }
    (!names.is_empty()).then(|| {
        format!(
            "{} partitions have no leader, because no replica that was in sync serves (nodes {}): {}; bring these nodes back with their volumes, \
             or delete the Topics",
            names.len(),
            words::ids(&nodes),
            names_of(&names)
        )
    })
}

/// Said after what replaces a node while the brokers do not answer.
const UNLESS: &str = "; nothing is replaced before the brokers answer, because they alone know whether its volume has the only copy of a partition: \
                      bring back the other nodes first";

/// Says of each lost node until when it is waited for, and what replaces it at once; or why nothing
/// does.
pub fn of_lost_nodes(lost: &[LostNodeStatus], facts: &Facts<'_>) -> Vec<String> {
    let told = |lost: &LostNodeStatus| {
        let (id, since) = (lost.node_id, lost.since.0);
        let how = match request::irreplaceable(id, &facts.cluster.groups) {
            Some(why) => format!(
                "cannot be replaced: {why}; bring back its machine, or its volume on another one"
            ),
            None => how_replaced(id, since, facts),
        };
        format!("node {id} is lost since {}, and {how}", text(since))
    };
    lost.iter().map(told).collect()
}

/// Without fractions, which the status does not keep.
fn text(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// When and how a lost node is replaced.
fn how_replaced(id: i32, since: Timestamp, facts: &Facts<'_>) -> String {
    let observed = facts.observed;
    let (at_once, unless) = match observed.kafka.answer() {
        Some(_) => ("at once ", ""),
        None => ("", UNLESS),
    };
    let annotate = format!("annotate the cluster with {}={id}", labels::REPLACE);
    let rollout = &facts.cluster.spec.rollout;
    let Some(minutes) = rollout.replace_lost_nodes_after_minutes else {
        return format!(
            "is not replaced before somebody asks: {annotate}, or set {REPLACE_LOST}{unless}"
        );
    };
    let at = since + SignedDuration::from_mins(minutes.into());
    // This operator may have seen it for a shorter time than the status says.
    let when = if at > observed.now {
        format!("at {} at the earliest", text(at))
    } else {
        format!("when the operator has seen that for {minutes} minutes")
    };
    format!(
        "is replaced by itself {when} ({REPLACE_LOST}), or {at_once}when you {annotate}{unless}"
    )
}
