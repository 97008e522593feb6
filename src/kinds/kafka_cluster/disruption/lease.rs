//! The lease: the one disruption that is running, with the data that its kind needs to be resumed.
//! Pure.
//!
//! It is stored in the status (`status.disruption`). The driver writes that status only if nobody
//! has written the object since it was read, so that a late write of a former leader is rejected.

use crate::api::kafka_cluster::{DisruptionKind, DisruptionStatus, HandedOver, KafkaCluster};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::collections::BTreeSet;

/// The disruption that is running. No other begins while there is one.
#[derive(Clone, Debug, PartialEq)]
pub struct Lease {
    /// The ids of the nodes that are disrupted.
    pub nodes: BTreeSet<i32>,
    /// The reason, in words.
    pub why: String,
    pub since: Time,
    pub work: Work,
}

/// The kind of a disruption, with the data of that kind.
#[derive(Clone, Debug, PartialEq)]
pub enum Work {
    Restart {
        /// The leaderships that other brokers have until the nodes have restarted.
        handed_over: Vec<HandedOver>,
    },
    /// Nodes get new volumes.
    Replacement {
        handed_over: Vec<HandedOver>,
        /// The uids of the pods and volume claims to delete; each stays in this list until it is
        /// gone.
        removes: Vec<String>,
    },
    /// A controller joins the quorum or leaves it.
    Quorum,
    /// Replicas move between brokers.
    Reassignment {
        /// Their number at the beginning.
        total: Option<u32>,
        /// The leaderships that other brokers have for nodes of a restart that the moves took over.
        handed_over: Vec<HandedOver>,
    },
    /// Replicas move between the volumes of their broker.
    Volumes { total: Option<u32> },
}

impl Lease {
    /// The lease of the disruption that a cluster's status says is running.
    pub fn running(object: &KafkaCluster) -> Option<Self> {
        object.status.as_ref()?.disruption.as_ref().map(Self::of)
    }

    /// Reads the lease from its status.
    pub fn of(status: &DisruptionStatus) -> Self {
        let DisruptionStatus {
            kind,
            node_ids,
            why,
            since,
            total,
            handed_over,
            removes,
        } = status.clone();
        let work = match kind {
            DisruptionKind::Restart => Work::Restart { handed_over },
            DisruptionKind::Replacement => Work::Replacement {
                handed_over,
                removes,
            },
            DisruptionKind::Quorum => Work::Quorum,
            DisruptionKind::Reassignment => Work::Reassignment { total, handed_over },
            DisruptionKind::Volumes => Work::Volumes { total },
        };
        Self {
            nodes: node_ids.into_iter().collect(),
            why,
            since,
            work,
        }
    }

    /// The lease as it is stored in the status.
    pub fn status(self) -> DisruptionStatus {
        let (kind, total, handed_over, removes) = match self.work {
            Work::Restart { handed_over } => {
                (DisruptionKind::Restart, None, handed_over, Vec::new())
            }
            Work::Replacement {
                handed_over,
                removes,
            } => (DisruptionKind::Replacement, None, handed_over, removes),
            Work::Quorum => (DisruptionKind::Quorum, None, Vec::new(), Vec::new()),
            Work::Reassignment { total, handed_over } => {
                (DisruptionKind::Reassignment, total, handed_over, Vec::new())
            }
            Work::Volumes { total } => (DisruptionKind::Volumes, total, Vec::new(), Vec::new()),
        };
        let node_ids = self.nodes.into_iter().collect();
        DisruptionStatus {
            kind,
            node_ids,
            why: self.why,
            since: self.since,
            total,
            handed_over,
            removes,
        }
    }

    /// The leaderships that other brokers have in place of the lease's nodes.
    pub fn handed_over(&self) -> &[HandedOver] {
        match &self.work {
            Work::Restart { handed_over }
            | Work::Replacement { handed_over, .. }
            | Work::Reassignment { handed_over, .. } => handed_over,
            Work::Quorum | Work::Volumes { .. } => &[],
        }
    }

    pub fn is_restart(&self) -> bool {
        matches!(self.work, Work::Restart { .. })
    }

    pub fn is_replacement(&self) -> bool {
        matches!(self.work, Work::Replacement { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::jiff::Timestamp;

    #[test]
    fn a_lease_is_the_same_after_it_was_in_the_status() {
        let handed_over = vec![HandedOver {
            node_id: 1,
            partitions: vec!["orders:0,3".into()],
        }];
        let removes = vec!["uid".to_owned()];
        for work in [
            Work::Restart {
                handed_over: handed_over.clone(),
            },
            Work::Replacement {
                handed_over: handed_over.clone(),
                removes,
            },
            Work::Quorum,
            Work::Reassignment {
                total: Some(7),
                handed_over,
            },
            Work::Volumes { total: None },
        ] {
            let since = Time(Timestamp::UNIX_EPOCH);
            let lease = Lease {
                nodes: [3, 1].into(),
                why: "a test".into(),
                since,
                work,
            };
            assert_eq!(Lease::of(&lease.clone().status()), lease);
        }
    }
}
