//! Plans, from the valid cluster and the observed state, the steps to do now and what is waited
//! for. Pure.
//!
//! First come the identity, CAs, keys and objects that everything else is made from, then the
//! reports of all concerns on the same facts, then the arbiter.

use crate::api::kafka_cluster::{DisruptionStatus, KafkaCluster, RebalanceStatus};
use crate::kinds::attempts::Refusal;
use crate::kinds::kafka_cluster::certificates::{authorities, nodes};
pub use crate::kinds::kafka_cluster::disruption::{About, WaitingOn};
use crate::kinds::kafka_cluster::disruption::{
    Facts, Lease, Mode, Pending, Progress, Report, Work, arbiter,
};
use crate::kinds::kafka_cluster::identity;
use crate::kinds::kafka_cluster::identity::password_key;
use crate::kinds::kafka_cluster::model::cluster::ValidCluster;
use crate::kinds::kafka_cluster::moving;
use crate::kinds::kafka_cluster::moving::log_dirs;
use crate::kinds::kafka_cluster::observed::Observed;
use crate::kinds::kafka_cluster::refusals;
use crate::kinds::kafka_cluster::rolling::leaders;
pub use crate::kinds::kafka_cluster::step::Step;
use crate::kinds::kafka_cluster::{
    configuration, objects, quorum, readiness, replacing, resources, rolling, storage, upgrading,
};
use crate::kubernetes;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// The plan of one reconcile.
#[derive(Debug, Default)]
pub struct Plan {
    pub steps: Vec<Step>,
    pub waiting_on: Vec<WaitingOn>,
    /// True if the rest of the plan depends on what these steps create, so that another round must
    /// follow at once.
    pub plan_again: bool,
    /// The disruption that runs from now on.
    pub lease: Option<DisruptionStatus>,
    /// The value of the annotation that asks for the replacement of a broker, if this plan follows
    /// it.
    pub replaced: Option<String>,
    /// The replicas that move, or that would move after approval.
    pub rebalance: Option<RebalanceStatus>,
    /// The time at which moves of replicas ended, if they ended in this reconcile.
    pub rebalanced: Option<Time>,
    /// True if the next reconcile should follow at once, for example because a disruption has
    /// ended.
    pub requeue_at_once: bool,
    /// What is lost, and what a person can do; everything that depends on it waits for that.
    pub lost: Vec<String>,
    /// Messages for people about things that nothing waits for.
    pub warnings: Vec<String>,
    /// Steps that were refused in this reconcile, and those that are not tried again yet after an
    /// earlier refusal.
    pub refused: Vec<Refusal>,
    /// What somebody else had changed and this reconcile has repaired.
    pub drift: Vec<String>,
}

/// The concerns, each asked with the same facts. None of them sees the wishes of another one.
const CONCERNS: [fn(&Facts<'_>) -> Report; 11] = [
    readiness::report,
    readiness::heap,
    configuration::report,
    replacing::report,
    rolling::report,
    quorum::report,
    moving::report,
    log_dirs::report,
    leaders::report,
    upgrading::report,
    storage::report,
];

/// Plans the next steps of a cluster.
pub fn plan(object: &KafkaCluster, cluster: &ValidCluster, observed: &Observed) -> Plan {
    let lease = Lease::running(object);
    let mut made = Report::default();
    if !kubernetes::has_finalizer(object) {
        made.upkeep.push(Step::AddFinalizer);
    }
    let before = made.upkeep.len();
    made.add(authorities::missing(object, cluster, observed));
    made.add(password_key::report(object, cluster, observed));
    let plan_again = made.upkeep.len() > before;
    let (identity, report) = identity::report(object, cluster, observed);
    made.add(report);
    let (Some(identity), Some(trust)) = (identity, authorities::trust(&cluster.key.name, observed))
    else {
        let plan_again = plan_again || !made.upkeep.is_empty();
        return Plan {
            plan_again,
            ..Plan::of(made, lease, observed)
        };
    };
    made.add(nodes::report(cluster, observed, &trust));
    made.add(authorities::report(object, cluster, observed));
    let desired = resources::desired(cluster, &identity, &trust);
    made.add(objects::report(cluster, &desired, observed));
    if cluster.hibernated {
        let pods = observed.pods.iter();
        made.waiting
            .extend(pods.map(|pod| readiness::ending(pod, observed.now, false)));
        return Plan {
            plan_again,
            ..Plan::of(made, None, observed)
        };
    }
    let pending = Pending::of(&made.upkeep);
    let facts = Facts {
        object,
        cluster,
        observed,
        desired: &desired,
        pending,
        lease,
        mode: Mode::Change,
    };
    Plan {
        plan_again,
        ..decide(&facts, made, &CONCERNS)
    }
}

/// The plan that results from the reports of all concerns. `made` is the report from before any
/// concern is asked.
pub fn decide(facts: &Facts<'_>, made: Report, concerns: &[fn(&Facts<'_>) -> Report]) -> Plan {
    let arbiter::Decision { mut report, lease } =
        arbiter::arbitrate(facts, made, concerns, |held| resume(held, facts));
    let at_once = replacing::followed_at_once(facts, lease.as_ref());
    report.replaced = report.replaced.or(at_once);
    Plan::of(report, lease, facts.observed)
}

/// Asks the concern of the running disruption for its progress.
fn resume(held: &Lease, facts: &Facts<'_>) -> Progress {
    match held.work {
        Work::Restart { .. } => rolling::resume(held, facts),
        Work::Replacement { .. } => replacing::resume(held, facts),
        Work::Quorum => quorum::resume(held, facts),
        Work::Reassignment { .. } => moving::resume(held, facts),
        Work::Volumes { .. } => log_dirs::resume(held, facts),
    }
}

impl Plan {
    fn of(report: Report, lease: Option<Lease>, observed: &Observed) -> Self {
        let Report {
            wishes: _,
            waiting,
            warnings,
            upkeep,
            mut refused,
            lost,
            rebalance,
            rebalanced,
            replaced,
            soon,
        } = report;
        let mut steps = upkeep;
        refusals::hold(observed, &mut steps, &mut refused);
        Self {
            steps,
            waiting_on: waiting,
            plan_again: false,
            lease: lease.map(Lease::status),
            replaced,
            rebalance,
            rebalanced,
            requeue_at_once: soon,
            lost,
            warnings,
            refused,
            drift: Vec::new(),
        }
    }
}
