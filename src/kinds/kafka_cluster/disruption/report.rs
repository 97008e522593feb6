//! The report of a concern about the facts of a reconcile: its wishes, what it waits for, warnings,
//! and the steps that disrupt nothing. Pure.

use crate::api::kafka_cluster::{KafkaCluster, RebalanceStatus};
use crate::kinds::attempts::Refusal;
use crate::kinds::kafka_cluster::disruption::lease::{Lease, Work};
use crate::kinds::kafka_cluster::disruption::waiting::WaitingOn;
use crate::kinds::kafka_cluster::model::cluster::{NodeGroup, ValidCluster};
use crate::kinds::kafka_cluster::observed::Observed;
use crate::kinds::kafka_cluster::step;
use crate::kinds::kafka_cluster::step::Step;
use crate::kubernetes::Object;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::collections::BTreeSet;

/// The facts of one reconcile. Every concern sees all of them, but not the wishes of other
/// concerns.
pub struct Facts<'a> {
    pub object: &'a KafkaCluster,
    pub cluster: &'a ValidCluster,
    pub observed: &'a Observed,
    /// The desired objects of the cluster.
    pub desired: &'a [Object],
    pub pending: Pending,
    /// The disruption that was running when the reconcile began.
    pub lease: Option<Lease>,
    pub mode: Mode,
}

/// Which changes this reconcile may make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The spec is valid: the cluster is changed until it matches the spec.
    Change,
    /// The cluster is paused or its spec is not valid: a running disruption is finished, and none
    /// begins.
    Keep,
}

/// The steps of this plan that still change what pods are made from. A pod that ended before them
/// would come back unchanged.
#[derive(Clone, Debug, Default)]
pub struct Pending {
    any: bool,
    stateful_sets: BTreeSet<String>,
}

impl Pending {
    /// The steps of a plan that still change what pods are made from.
    pub fn of(steps: &[Step]) -> Self {
        let stateful_sets = steps
            .iter()
            .filter_map(step::makes_pods_of)
            .map(str::to_owned)
            .collect();
        Self {
            any: steps.iter().any(step::makes_pods),
            stateful_sets,
        }
    }

    /// True if this plan changes nothing that any pod is made from.
    pub fn is_empty(&self) -> bool {
        !self.any
    }

    /// True if this plan changes nothing that pods of this group are made from. A refused step of
    /// another group does not count.
    pub fn is_empty_for(&self, group: &NodeGroup) -> bool {
        !self.stateful_sets.contains(&group.stateful_set)
    }
}

/// The result of asking a concern.
#[derive(Debug, Default)]
pub struct Report {
    pub wishes: Vec<Wish>,
    pub waiting: Vec<WaitingOn>,
    /// Messages for people about things that nothing waits for.
    pub warnings: Vec<String>,
    /// Steps that disrupt nothing.
    pub upkeep: Vec<Step>,
    /// Steps that are not tried now because they were refused a short time ago.
    pub refused: Vec<Refusal>,
    /// What is lost and how to repair it; everything that depends on it waits for a person.
    pub lost: Vec<String>,
    /// The replicas that move, or that would move after approval.
    pub rebalance: Option<RebalanceStatus>,
    /// The time at which moves of replicas ended, if they ended in this reconcile.
    pub rebalanced: Option<Time>,
    /// The value of the annotation that asks for the replacement of a broker, once it is followed.
    pub replaced: Option<String>,
    /// True if the next reconcile should follow at once, for example because a disruption has
    /// ended.
    pub soon: bool,
}

impl Report {
    /// Adds the report of another concern.
    pub fn add(&mut self, other: Self) {
        let Self {
            wishes,
            waiting,
            warnings,
            upkeep,
            refused,
            lost,
            rebalance,
            rebalanced,
            replaced,
            soon,
        } = other;
        self.wishes.extend(wishes);
        self.waiting.extend(waiting);
        self.warnings.extend(warnings);
        self.upkeep.extend(upkeep);
        self.refused.extend(refused);
        self.lost.extend(lost);
        self.rebalance = rebalance.or(self.rebalance.take());
        self.rebalanced = rebalanced.or(self.rebalanced.take());
        self.replaced = replaced.or(self.replaced.take());
        self.soon |= soon;
    }
}

/// A change that would disrupt the cluster.
#[derive(Debug)]
pub struct Wish {
    pub priority: Priority,
    /// The nodes that it repairs, restarts or drains. A reason to wait that concerns only these
    /// nodes never blocks the wish.
    pub nodes: BTreeSet<i32>,
    pub needs: Needs,
    pub grant: Grant,
    /// The status of the moves of replicas, reported once the wish is ready.
    pub rebalance: Option<RebalanceStatus>,
}

impl Wish {
    /// A wish to disrupt the nodes of this lease.
    pub fn of(priority: Priority, lease: Lease, needs: Needs) -> Self {
        Self {
            priority,
            nodes: lease.nodes.clone(),
            needs,
            grant: Grant::Lease(lease),
            rebalance: None,
        }
    }

    /// A wish for steps that this reconcile completes, and that are about no node in particular.
    pub fn now(priority: Priority, report: Report, needs: Needs) -> Self {
        Self {
            priority,
            nodes: BTreeSet::new(),
            needs,
            grant: Grant::Now(report),
            rebalance: None,
        }
    }

    /// True if the wish is for a disruption of the same kind as `work`.
    pub fn is_for(&self, work: &Work) -> bool {
        let kind = std::mem::discriminant::<Work>;
        matches!(&self.grant, Grant::Lease(lease) if kind(&lease.work) == kind(work))
    }
}

/// The order in which wishes are granted, first to last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Give a new volume to a node whose volume is lost, or that was drained.
    Replace,
    /// Recreate a pod that cannot start in its present form.
    Repair,
    /// Restart nodes to apply their desired configuration and image. This takes minutes and may
    /// carry a security fix.
    Roll,
    /// Add and remove quorum voters; drain the brokers that leave. This may take hours.
    Remove,
    /// Move replicas to improve their distribution.
    Balance,
    /// Return leadership to preferred replicas.
    Lead,
    /// Raise Kafka's feature levels to those of the version.
    Upgrade,
    /// Delete the volumes of nodes that have left.
    Discard,
}

/// The conditions under which a wish may begin.
#[derive(Clone, Copy, Debug, Default)]
pub struct Needs {
    /// Everything that pods are made from has been applied.
    pub applied: bool,
    /// Nothing is waited for that concerns other nodes.
    pub calm: bool,
    /// No step of this plan changes a config: a broker may not have received a config that was just
    /// set.
    pub configured: bool,
    /// The plan has no other step, except changes of volumes.
    pub idle: bool,
    /// A maintenance window is open.
    pub window: bool,
}

/// The result of granting a wish.
#[derive(Debug)]
pub enum Grant {
    /// A disruption that takes longer than this reconcile. Its first step follows after the lease
    /// is in the status.
    Lease(Lease),
    /// Steps that this reconcile completes.
    Now(Report),
    /// Nothing happens until a person approves; the list names what is waited for until then.
    Asks(Vec<WaitingOn>),
}

/// The progress of the disruption that was running.
#[derive(Debug, Default)]
pub struct Progress {
    pub report: Report,
    /// The lease from now on; `None` if the disruption has ended.
    pub lease: Option<Lease>,
}

impl Progress {
    /// The disruption has ended.
    pub fn ended(report: Report) -> Self {
        Self {
            report,
            lease: None,
        }
    }

    /// The disruption continues with this lease.
    pub fn goes_on(report: Report, lease: Lease) -> Self {
        Self {
            report,
            lease: Some(lease),
        }
    }
}
