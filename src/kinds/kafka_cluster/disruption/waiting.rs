//! Describes, as data, what a cluster waits for and which nodes each entry concerns. Pure.

use crate::kubernetes::labels;
use crate::words;
use freehold_kafka::safety::Blocked;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::collections::BTreeSet;
use std::fmt;

/// The number of topics that a message names at most; the others are only counted.
const TOPICS_NAMED_MAX: usize = 5;

/// Something that the cluster waits for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WaitingOn {
    PodMissing {
        pod: String,
        node_id: i32,
        /// The reason in the words of Kubernetes.
        why: Option<String>,
    },
    PodTrouble {
        pod: String,
        node_id: i32,
        why: String,
    },
    PodStarting {
        pod: String,
        node_id: i32,
    },
    PodEnding {
        pod: String,
        node_id: i32,
    },
    /// A pod that is terminating on a Kubernetes node that does not answer, so that its end cannot
    /// be confirmed.
    Host {
        pod: String,
        node_id: i32,
        host: String,
        /// True if another pod takes its place afterwards.
        starts_again: bool,
    },
    InSync {
        node_id: i32,
    },
    Quorum {
        voters: usize,
        of: usize,
        /// The voters that have not caught up.
        behind: BTreeSet<i32>,
    },
    Kafka {
        why: String,
    },
    /// Leaving controllers that are still voters.
    Voters {
        leaving: Vec<i32>,
    },
    /// A restart that would harm availability or data now.
    Restart {
        why: Blocked,
    },
    /// Replicas that are being moved.
    Moves {
        replicas: usize,
    },
    /// Topics whose replication factor is larger than the number of brokers that stay, each with
    /// that factor.
    Replicas {
        topics: Vec<(String, usize)>,
        brokers: usize,
    },
    /// Brokers that are to leave, or to be emptied, and still hold something.
    Leaving {
        nodes: BTreeSet<i32>,
        why: Stays,
    },
    /// The approval of a plan of moves, identified by its hash.
    Approval {
        hash: String,
    },
    /// Nodes that still have to be restarted.
    Outdated {
        nodes: usize,
    },
    /// A maintenance window; `opens` is `None` if none ever opens.
    Window {
        opens: Option<Time>,
    },
    /// Partitions that are not led by their preferred replica.
    Leaders {
        partitions: usize,
    },
    /// A volume that is being changed, or cannot be changed.
    Volume {
        claim: String,
        why: String,
    },
    /// A thread pool that is resized in steps.
    Threads {
        field: String,
        wanted: u32,
    },
    /// An older object of the same name that is still being deleted.
    Removal {
        kind: String,
        name: String,
    },
}

/// Why a broker that is to leave, or to be emptied, still holds something although nothing moves.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stays {
    /// spec.rebalance.mode is Never.
    Never { instead: Instead },
    /// It holds these partitions, which have no leader that they could be copied from.
    Lost {
        partitions: Vec<String>,
        instead: Instead,
    },
    /// It holds this number of replicas for another reason, for example because others move now.
    Holds { replicas: usize },
    /// It holds no replica any more, but its disk still has logs of some.
    Logs,
}

/// What a person can do instead of emptying a broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Instead {
    /// A broker that is to leave stays.
    PutBack,
    /// A broker that is to be replaced keeps its volume.
    KeepVolume,
}

/// Which part of the cluster a waiting reason concerns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum About {
    /// Nothing that other work has to wait for.
    Nothing,
    /// These nodes, and no others.
    Nodes(BTreeSet<i32>),
    /// A rolling restart that has not begun: it comes after repairs, replacements and removals of
    /// brokers.
    Roll,
    /// The whole cluster.
    Cluster,
}

impl WaitingOn {
    /// The part of the cluster that this reason concerns.
    pub fn about(&self) -> About {
        match self {
            Self::PodMissing { node_id, .. }
            | Self::PodTrouble { node_id, .. }
            | Self::PodStarting { node_id, .. }
            | Self::PodEnding { node_id, .. }
            | Self::Host { node_id, .. }
            | Self::InSync { node_id } => About::Nodes([*node_id].into()),
            Self::Quorum { behind, .. } => About::Nodes(behind.clone()),
            Self::Voters { leaving } => About::Nodes(leaving.iter().copied().collect()),
            Self::Threads { .. }
            | Self::Volume { .. }
            | Self::Replicas { .. }
            | Self::Leaving { .. } => About::Nothing,
            Self::Restart { .. } | Self::Outdated { .. } => About::Roll,
            Self::Kafka { .. }
            | Self::Moves { .. }
            | Self::Approval { .. }
            | Self::Window { .. }
            | Self::Leaders { .. }
            | Self::Removal { .. } => About::Cluster,
        }
    }

    /// True if it is about a disruption that has not begun, and not about anything that is unwell.
    pub fn is_planned(&self) -> bool {
        matches!(
            self,
            Self::Restart { .. } | Self::Outdated { .. } | Self::Window { .. }
        )
    }

    /// True if it blocks a wish that repairs or removes these nodes. A reason that concerns only
    /// these nodes never blocks the wish. A wish for no particular node, such as moves that only
    /// balance, is blocked by every reason except those about [`About::Nothing`].
    pub fn holds_up(&self, subjects: &BTreeSet<i32>) -> bool {
        match self.about() {
            About::Nothing => false,
            About::Nodes(nodes) => !nodes.is_subset(subjects),
            About::Roll => subjects.is_empty(),
            About::Cluster => true,
        }
    }
}

/// The topics with their replication factors.
fn with_factors(topics: &[(String, usize)]) -> String {
    let topic = |(topic, replicas): &(String, usize)| format!("{topic} ({replicas} replicas)");
    named(topics.iter().map(topic))
}

/// The first names, and the number of the others.
fn named(names: impl ExactSizeIterator<Item = String>) -> String {
    let count = names.len();
    let first: Vec<_> = names.take(TOPICS_NAMED_MAX).collect();
    match count.saturating_sub(TOPICS_NAMED_MAX) {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

impl fmt::Display for Instead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PutBack => f.write_str("put the brokers back into spec.nodePools"),
            Self::KeepVolume => write!(f, "take the annotation {} away", labels::REPLACE),
        }
    }
}

impl fmt::Display for Stays {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Never { instead } => write!(
                f,
                "to give their replicas to others, which do not move because spec.rebalance.mode is Never: set it to Auto or Propose, \
                 move the replicas with kafka-reassign-partitions.sh, or {instead}"
            ),
            Self::Lost {
                partitions,
                instead,
            } => write!(
                f,
                "to give their replicas to others, which is impossible for {} without a leader: bring back the nodes of their replicas with \
                 their volumes, delete the Topics, or {instead}",
                named(partitions.iter().cloned())
            ),
            Self::Holds { replicas } => {
                write!(f, "to give their last {replicas} replicas to others")
            }
            Self::Logs => f.write_str("to delete the logs of replicas that they gave away"),
        }
    }
}

fn write_host(
    f: &mut fmt::Formatter<'_>,
    pod: &str,
    host: &str,
    starts_again: bool,
) -> fmt::Result {
    write!(
        f,
        "node {host} to say that pod {pod} has ended; if that node is gone for good, delete it, or taint it with \
         node.kubernetes.io/out-of-service=nodeshutdown:NoExecute"
    )?;
    if starts_again {
        f.write_str(", and the pod starts again where its volume can be")?;
    }
    Ok(())
}

impl fmt::Display for WaitingOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PodMissing { pod, why: None, .. } => write!(f, "pod {pod} to be created"),
            Self::PodMissing {
                pod,
                why: Some(why),
                ..
            } => write!(
                f,
                "pod {pod} to be created, which Kubernetes refuses: {why}"
            ),
            Self::PodTrouble { pod, why, .. } => write!(f, "pod {pod}: {why}"),
            Self::PodStarting { pod, .. } => write!(f, "pod {pod} to start"),
            Self::PodEnding { pod, .. } => write!(f, "pod {pod} to end"),
            Self::Host {
                pod,
                host,
                starts_again,
                ..
            } => write_host(f, pod, host, *starts_again),
            Self::InSync { node_id } => write!(f, "node {node_id} to be in sync"),
            Self::Quorum { voters, of, .. } => {
                write!(f, "the quorum: {voters} of {of} voters have caught up")
            }
            Self::Kafka { why } => write!(f, "an answer of the brokers: {why}"),
            Self::Voters { leaving } => {
                write!(f, "controllers {} to leave the quorum", words::ids(leaving))
            }
            Self::Restart { why } => write!(f, "a moment at which a restart harms nothing: {why}"),
            Self::Moves { replicas } => write!(f, "{replicas} replicas to be moved"),
            Self::Replicas { topics, brokers } => write!(
                f,
                "topics {} to have no more replicas than the {brokers} brokers that stay: lower spec.replicas of their Topics, \
                 reassign those that have none with kafka-reassign-partitions.sh, or put the brokers back into spec.nodePools",
                with_factors(topics)
            ),
            Self::Leaving { nodes, why } => write!(f, "brokers {} {why}", words::ids(nodes)),
            Self::Approval { hash } => write!(
                f,
                "an approval of the moves: annotate with {}={hash}",
                labels::APPROVE_REBALANCE
            ),
            Self::Outdated { nodes } => write!(f, "{nodes} nodes to be restarted"),
            Self::Window { opens: Some(opens) } => {
                write!(f, "the maintenance window that opens at {}", opens.0)
            }
            Self::Window { opens: None } => write!(
                f,
                "a maintenance window; none of spec.rollout.maintenanceWindows ever opens"
            ),
            Self::Leaders { partitions } => write!(
                f,
                "{partitions} partitions to be led by their preferred replicas"
            ),
            Self::Volume { claim, why } => write!(f, "volume {claim}, which {why}"),
            Self::Threads { field, wanted } => write!(
                f,
                "{field} to be {wanted}: Kafka at most doubles or halves it at a time"
            ),
            Self::Removal { kind, name } => write!(f, "the old {kind} {name} to be gone"),
        }
    }
}
