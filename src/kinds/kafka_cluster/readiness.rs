//! Decides which nodes are up and in sync: sets the readiness gates of pods and reports what is
//! waited for about nodes. Pure.

use crate::api::kafka_cluster::Role;
use crate::kinds::kafka_cluster::disruption::{Facts, Report, WaitingOn};
use crate::kinds::kafka_cluster::model::cluster::NodeGroup;
use crate::kinds::kafka_cluster::observed::{KafkaFacts, PodFacts};
use crate::kinds::kafka_cluster::step::Step;
use crate::kubernetes::{labels, names};
use crate::words;
use freehold_kafka::in_sync;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

/// A pod that has not terminated this long after its deadline is on a Kubernetes node that does not
/// answer.
const ENDING_LIMIT: SignedDuration = SignedDuration::from_secs(30);

const MIB: u64 = 1024 * 1024;
/// The heap that a broker needs before it holds anything, and for each replica. Measured: one with
/// 384 MiB ran out of heap with 10 000 replicas.
const HEAP_AT_REST_BYTES: u64 = 128 * MIB;
const HEAP_OF_REPLICA_BYTES: u64 = 40 * 1024;

/// Reports the readiness gate of every pod, and what is waited for about each node.
pub fn report(facts: &Facts<'_>) -> Report {
    let mut report = Report::default();
    let in_sync = InSync::of(&facts.observed.kafka);
    let nodes = facts
        .cluster
        .groups
        .iter()
        .flat_map(|group| group.node_ids().map(move |id| (group, id)));
    for (group, node_id) in nodes {
        let name = names::pod(&group.stateful_set, node_id);
        match facts.observed.pods.iter().find(|pod| pod.name == name) {
            None => {
                let why = facts.observed.not_created.get(&group.stateful_set).cloned();
                report.waiting.push(WaitingOn::PodMissing {
                    pod: name,
                    node_id,
                    why,
                });
            }
            Some(pod) => report_pod(pod, &in_sync, facts.observed.now, &mut report),
        }
    }
    report_answers(&facts.observed.kafka, &mut report);
    report.warnings.extend(left(facts));
    report
}

/// Warns about pods of nodes that have left, whose end cannot be confirmed. Nothing waits for them.
fn left(facts: &Facts<'_>) -> Vec<String> {
    let (groups, observed) = (&facts.cluster.groups, facts.observed);
    let nodes: BTreeSet<i32> = groups.iter().flat_map(NodeGroup::node_ids).collect();
    let pods = observed.pods.iter();
    pods.filter(|pod| !nodes.contains(&pod.node_id))
        .map(|pod| ending(pod, observed.now, false))
        .filter(|waiting| matches!(waiting, WaitingOn::Host { .. }))
        .map(|waiting| format!("a node that has left waits for {waiting}"))
        .collect()
}

/// Reports the state of the quorum, or why the brokers did not answer.
fn report_answers(kafka: &KafkaFacts, report: &mut Report) {
    match kafka {
        KafkaFacts::Unavailable(why) => report.waiting.push(WaitingOn::Kafka { why: why.clone() }),
        KafkaFacts::Answered { quorum, .. } => {
            let caught_up = in_sync::voters(quorum);
            let behind: BTreeSet<i32> = quorum
                .voters
                .iter()
                .map(|voter| voter.id)
                .filter(|id| !caught_up.contains(id))
                .collect();
            if !behind.is_empty() {
                report.waiting.push(WaitingOn::Quorum {
                    voters: caught_up.len(),
                    of: quorum.voters.len(),
                    behind,
                });
            }
        }
        KafkaFacts::NotAsked => {}
    }
}

/// Reports the readiness gate of a pod, and what is waited for about its node.
fn report_pod(pod: &PodFacts, in_sync: &InSync, now: Timestamp, report: &mut Report) {
    let (pod_name, node_id) = (|| pod.name.clone(), pod.node_id);
    if pod.deleting {
        report.waiting.push(ending(pod, now, true));
    } else if let Some(why) = &pod.trouble {
        report.waiting.push(WaitingOn::PodTrouble {
            pod: pod_name(),
            node_id,
            why: why.clone(),
        });
    } else if !pod.containers_ready && pod.waits_too_long(now) {
        report.waiting.push(WaitingOn::PodTrouble {
            pod: pod_name(),
            node_id,
            why: format!(
                "its volume or its image does not come to its node; see the events of the pod; where the volume is lost, annotate the cluster \
                 with {}={node_id}",
                labels::REPLACE
            ),
        });
    } else if !pod.containers_ready {
        report.waiting.push(WaitingOn::PodStarting {
            pod: pod_name(),
            node_id,
        });
    }
    let is = in_sync.says(pod);
    // If the brokers cannot be asked, the gate keeps its value: a missing answer is no reason to
    // change it.
    if let Some(is) = is
        .or((!pod.containers_ready).then_some(false))
        .filter(|is| *is != pod.in_sync)
    {
        report.upkeep.push(Step::SetInSync {
            pod: Box::new(pod.clone()),
            in_sync: is,
        });
    }
    if pod.containers_ready && is == Some(false) {
        report.waiting.push(WaitingOn::InSync {
            node_id: pod.node_id,
        });
    }
}

/// What is waited for while a pod terminates: its Kubernetes node, if that should have confirmed the
/// end long ago. `starts_again`: another pod takes its place afterwards.
pub fn ending(pod: &PodFacts, now: Timestamp, starts_again: bool) -> WaitingOn {
    let is_late = |ends_by: Timestamp| now.duration_since(ends_by) > ENDING_LIMIT;
    let host = pod
        .host
        .clone()
        .filter(|_| pod.deleting && pod.ends_by.is_some_and(is_late));
    let (pod, node_id) = (pod.name.clone(), pod.node_id);
    match host {
        Some(host) => WaitingOn::Host {
            pod,
            node_id,
            host,
            starts_again,
        },
        None => WaitingOn::PodEnding { pod, node_id },
    }
}

/// The brokers and voters in sync according to the brokers' answers, computed once for all pods.
/// `None` without answers.
pub struct InSync(Option<(BTreeSet<i32>, BTreeSet<i32>)>);

impl InSync {
    /// Computes the nodes in sync from the brokers' answers.
    pub fn of(kafka: &KafkaFacts) -> Self {
        let KafkaFacts::Answered {
            cluster,
            quorum,
            topics,
            ..
        } = kafka
        else {
            return Self(None);
        };
        Self(Some((
            in_sync::brokers(cluster, topics),
            in_sync::voters(quorum),
        )))
    }

    /// True if a node is in sync in all its roles; `None` without answers of the brokers.
    pub fn says(&self, pod: &PodFacts) -> Option<bool> {
        let (brokers, voters) = self.0.as_ref()?;
        let broker = !pod.broker || brokers.contains(&pod.node_id);
        let controller = !pod.controller || voters.contains(&pod.node_id);
        Some(pod.containers_ready && broker && controller)
    }

    /// True if the status counts the node as ready. Without answers of the brokers, the last value
    /// of the gate counts.
    pub fn counts(&self, pod: &PodFacts) -> bool {
        pod.containers_ready && self.says(pod).unwrap_or(pod.in_sync)
    }
}

/// Warns about brokers that hold more replicas than their heap has room for, before the heap runs
/// out.
pub fn heap(facts: &Facts<'_>) -> Report {
    let Facts {
        cluster, observed, ..
    } = *facts;
    let KafkaFacts::Answered { topics, .. } = &observed.kafka else {
        return Report::default();
    };
    let mut replicas: BTreeMap<i32, u64> = BTreeMap::new();
    for id in topics
        .iter()
        .flat_map(|topic| &topic.partitions)
        .flat_map(|partition| partition.replicas.iter())
    {
        *replicas.entry(*id).or_default() += 1;
    }
    let mut warnings = Vec::new();
    for group in cluster.groups_of(Role::Broker) {
        let room = group.heap_bytes.saturating_sub(HEAP_AT_REST_BYTES) / HEAP_OF_REPLICA_BYTES;
        // Rounded to hundreds and without the present count, so that the status is not written
        // again for each new partition.
        let (room, heap, pool) = (room / 100 * 100, group.heap_bytes / MIB, &group.pool.name);
        let over: Vec<i32> = group
            .node_ids()
            .filter(|id| replicas.get(id).is_some_and(|count| *count > room))
            .collect();
        if !over.is_empty() {
            warnings.push(format!(
                "nodes {} hold more than {room} replicas each, for which a heap of {heap} Mi has room: raise spec.nodePools[{pool}].jvm.heap, and \
                 resources.limits.memory with it, or add brokers",
                words::ids(&over)
            ));
        }
    }
    Report {
        warnings,
        ..Report::default()
    }
}
