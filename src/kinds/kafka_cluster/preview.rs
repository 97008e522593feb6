//! Describes in words what a spec would change in a cluster, before anything is done. Pure.

use crate::api::kafka_cluster::KafkaCluster;
use crate::kinds::kafka_cluster::certificates::authorities;
use crate::kinds::kafka_cluster::model::cluster::ValidCluster;
use crate::kinds::kafka_cluster::moving;
use crate::kinds::kafka_cluster::observed::{KafkaFacts, Observed};
use crate::kinds::kafka_cluster::plan;
use crate::kinds::kafka_cluster::plan::Step;
use crate::kinds::kafka_cluster::quorum;
use crate::kinds::kafka_cluster::resources;
use crate::kinds::kafka_cluster::rolling;
use crate::kinds::kafka_cluster::rolling::Outdated;
use crate::words;
use freehold_kafka::metadata_image::PartitionImage;
use freehold_kafka::safety::{TopicView, View};
use std::collections::{BTreeMap, BTreeSet};

/// The lines of the preview: what changes at once, which nodes restart in which order and why,
/// which replicas move, and what comes last.
pub fn preview(object: &KafkaCluster, cluster: &ValidCluster, observed: &Observed) -> Vec<String> {
    let planned = plan::plan(object, cluster, observed);
    let mut lines: Vec<String> = Vec::new();
    let at_once = |step: &&Step| {
        !matches!(
            step,
            Step::SetInSync { .. }
                | Step::RestartPod { .. }
                | Step::ElectLeaders(_)
                | Step::Reassign(_)
                | Step::MoveFolders { .. }
                | Step::UpgradeFeatures(_)
                | Step::AddVoter { .. }
                | Step::RemoveVoter { .. }
        )
    };
    lines.extend(
        planned
            .steps
            .iter()
            .filter(at_once)
            .map(|step| format!("at once: {step}")),
    );
    lines.extend(before_moves(cluster, observed));
    lines.extend(moving::preview(object, cluster, observed));
    lines.extend(
        planned
            .warnings
            .iter()
            .map(|warning| format!("note: {warning}")),
    );
    lines.extend(
        planned
            .waiting_on
            .iter()
            .map(|waiting| format!("waits for {waiting}")),
    );
    if lines.is_empty() {
        lines.push("nothing: the cluster is as this spec says".into());
    }
    lines
}

/// The disruptions in the order in which they would come: restarts, controllers, replicas. Empty if
/// there are none.
pub fn disruptions(
    object: &KafkaCluster,
    cluster: &ValidCluster,
    observed: &Observed,
) -> Vec<String> {
    let mut lines = before_moves(cluster, observed);
    // Only the summary of the moves, because what each broker holds changes all the time.
    lines.extend(
        moving::preview(object, cluster, observed)
            .into_iter()
            .take(1),
    );
    lines
}

/// The restarts, then the controllers that join and leave.
fn before_moves(cluster: &ValidCluster, observed: &Observed) -> Vec<String> {
    let mut lines = Vec::new();
    if let (Some(identity), Some(trust)) = (
        &observed.identity,
        authorities::trust(&cluster.key.name, observed),
    ) {
        let desired = resources::desired(cluster, identity, &trust);
        let outdated = rolling::outdated(cluster, &desired, observed);
        let (held, free): (Vec<_>, Vec<_>) = outdated
            .into_values()
            .partition(|one| one.by_operator && rolling::waits(cluster));
        lines.extend(batches(cluster, observed, &free));
        if !held.is_empty() {
            lines.push(rolling::held_back(&held.iter().collect::<Vec<_>>()));
        }
    }
    lines.extend(quorum::preview(cluster, observed));
    lines
}

/// The topics as they would be with every replica in sync.
fn well(topics: &[TopicView]) -> Vec<TopicView> {
    let partition = |partition: &PartitionImage| PartitionImage::new(&partition.target());
    topics
        .iter()
        .map(|topic| TopicView {
            partitions: topic.partitions.iter().map(partition).collect(),
            ..topic.clone()
        })
        .collect()
}

/// The batches of restarts, on the assumption that all nodes are in sync before each batch.
fn batches(cluster: &ValidCluster, observed: &Observed, outdated: &[Outdated<'_>]) -> Vec<String> {
    let KafkaFacts::Answered { quorum, topics, .. } = &observed.kafka else {
        return outdated
            .iter()
            .map(|one| format!("restart of {}, once brokers answer", one.pod.name))
            .collect();
    };
    if outdated.is_empty() {
        return Vec::new();
    }
    let (topics, voters) = (
        well(topics),
        quorum.voters.iter().map(|voter| voter.id).collect(),
    );
    let (down, consent) = (BTreeSet::new(), cluster.spec.rollout.allow_unavailable);
    let view = View {
        topics: &topics,
        voters: &voters,
        caught_up: &voters,
        down: &down,
        consent,
    };
    let mut left: BTreeMap<i32, &Outdated<'_>> =
        outdated.iter().map(|one| (one.pod.node_id, one)).collect();
    let (mut lines, mut restarted) = (Vec::new(), BTreeSet::new());
    while !left.is_empty() {
        match rolling::next_batch(
            &rolling::candidates(&left, &restarted, cluster, observed),
            quorum.leader,
            &view,
        ) {
            Ok(batch) => {
                restarted.extend(&batch);
                let members: Vec<&Outdated<'_>> =
                    batch.iter().filter_map(|id| left.remove(id)).collect();
                let zone = members.first().map_or("", |one| one.zone);
                let (ids, reasons) = (
                    words::ids(&batch),
                    rolling::reasons_words(members.into_iter()),
                );
                lines.push(format!(
                    "restart {}: nodes {ids} in {zone}: {reasons}",
                    lines.len() + 1
                ));
            }
            Err(why) => {
                lines.push(format!(
                    "nodes {} cannot restart: {why}",
                    words::ids(left.keys())
                ));
                break;
            }
        }
    }
    lines
}
