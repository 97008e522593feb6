//! The sequence: observe, validate, desired, plan, apply, status; and the end of a cluster.

use super::api::{AutoscalingStatus, DeletionPolicy, DisruptionKind, DisruptionStatus, KafkaCluster, KafkaClusterStatus};
use super::apply::{self, Scope};
use super::clients::Connected;
use super::observe::{self, KafkaFacts, Observed};
use super::plan::{self, Plan, Step};
use super::validate::{self, ValidCluster};
use super::{authorities, autoscale, cleanup, status};
use crate::conditions::{Condition, ConditionType, Reason, State};
pub use crate::kinds::error::Error;
use crate::kinds::reference::ClusterKey;
use crate::kube_io::{self, resource};
use crate::labels;
use crate::names;
use crate::runtime::clusters::{Cluster, ClusterEvent, ClusterFacts};
use crate::runtime::context::Context;
use crate::runtime::kind::{Failure, Kind, Notice, Outcome, Requeue, Watch};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::runtime::reflector::Store;
use std::sync::Arc;
use std::time::Duration;

/// A cluster that is not Ready is looked at so often beside its pods' changes: brokers announce nothing by themselves.
const LOOK_SOON: Duration = Duration::from_millis(700);
/// Something ended, and the next thing may begin.
const LOOK_AT_ONCE: Duration = Duration::from_millis(20);
/// One that has not been Ready for [`PATIENCE`] waits for a person: then less often.
const LOOK_LATER: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(600);
/// A Ready cluster is looked at so often: a broker that falls out of sync is seen by then.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// Plans in one reconcile; identity and CAs come first, then certificates, then objects.
const ROUNDS_MAX: u32 = 4;

/// The kind, for the driver.
pub struct KafkaClusterKind;

impl Kind for KafkaClusterKind {
    type Object = KafkaCluster;
    type Status = KafkaClusterStatus;

    const CONCURRENCY: u16 = 16;
    const DEBOUNCE: Duration = Duration::from_millis(50);

    fn status(object: &KafkaCluster) -> Option<&KafkaClusterStatus> {
        object.status.as_ref()
    }
    fn conditions(status: &KafkaClusterStatus) -> &[Condition] {
        &status.conditions
    }
    fn watches() -> Vec<Watch> {
        let mut types = observe::object_types();
        types.extend([resource::<Secret>(), resource::<PersistentVolumeClaim>(), resource::<Pod>()]);
        types.into_iter().map(|resource| Watch { resource, label: labels::CLUSTER }).collect()
    }
    fn remember(context: &Context, store: &Store<KafkaCluster>) {
        context.kafka_clusters.add(store.clone());
    }
    fn gone(context: &Context, object: &KafkaCluster) {
        // Those who refer to it may still wait for it to answer.
        context.clusters.tell(ClusterEvent::Changed(ClusterKey::of(object)));
    }

    async fn reconcile(object: Arc<KafkaCluster>, context: Arc<Context>) -> Outcome<KafkaClusterStatus> {
        let now = Time(Timestamp::now());
        // What is under way is in its status: none of it may be old.
        if let Err(error) = context.ensure_current(&*object).await {
            return failed(&object, &error, &now);
        }
        if object.metadata.deletion_timestamp.is_some() {
            return end(&object, &context, &now).await;
        }
        match look(&object, &context).await {
            Ok((status, state, soon)) => {
                let status = status::with_conditions(status, &object, &state, &now);
                let mut notices = begun(&object, &status);
                notices.extend(scaled(&object, &status));
                let after = match state {
                    // What is under way is in the status now: it may be done.
                    _ if soon || !notices.is_empty() => LOOK_AT_ONCE,
                    State::Ready | State::Reconciling { reason: Reason::Resizing, .. } => LOOK_AGAIN,
                    _ if is_old(&status.conditions, &now) => LOOK_LATER,
                    _ => LOOK_SOON,
                };
                Outcome { status: Some(status), state, notices, requeue: Requeue::After(after) }
            }
            Err(error) => failed(&object, &error, &now),
        }
    }
}

fn failed(object: &KafkaCluster, error: &Error, now: &Time) -> Outcome<KafkaClusterStatus> {
    let (status, state) = status::failed(object, error);
    let status = Some(status::with_conditions(status, object, &state, now));
    match error {
        Error::Old => Outcome { status: None, state, notices: Vec::new(), requeue: Requeue::Anew },
        error if error.is_transient() => Outcome { status, state, notices: Vec::new(), requeue: Requeue::Backoff },
        // A spec that is wrong may become right by what it refers to: a Secret that is created, for example.
        _ => Outcome { status, state, notices: Vec::new(), requeue: Requeue::After(LOOK_AGAIN) },
    }
}

/// A disruption that begins, for those who watch events.
fn begun(object: &KafkaCluster, status: &KafkaClusterStatus) -> Vec<Notice> {
    let before = object.status.as_ref().and_then(|status| status.disruption.as_ref());
    let new = status
        .disruption
        .as_ref()
        .filter(|lease| before.is_none_or(|before| before.node_ids != lease.node_ids || before.kind != lease.kind));
    let notice = |lease: &DisruptionStatus| match lease.kind {
        DisruptionKind::Restart => {
            Notice { reason: Reason::Restarting, message: format!("restarting nodes {}: {}", status::ids(&lease.node_ids), lease.why) }
        }
        DisruptionKind::Reassignment | DisruptionKind::Volumes => Notice { reason: Reason::Reassigning, message: lease.why.clone() },
        DisruptionKind::Quorum => Notice { reason: Reason::ChangingQuorum, message: lease.why.clone() },
    };
    new.map(notice).into_iter().collect()
}

/// Pools whose load has come to another number of brokers.
fn scaled(object: &KafkaCluster, status: &KafkaClusterStatus) -> Vec<Notice> {
    let before = object.status.as_ref().map(|status| status.autoscaling.as_slice()).unwrap_or_default();
    let new = status.autoscaling.iter().filter(|one| !before.iter().any(|old| old.pool == one.pool && old.since == one.since));
    let words = |one: &AutoscalingStatus| format!("pool {} is to have {} brokers: {}", one.pool, one.replicas, one.why);
    new.map(|one| Notice { reason: Reason::Autoscaling, message: words(one) }).collect()
}

/// True when the Ready condition has been as it is for longer than [`PATIENCE`].
fn is_old(conditions: &[Condition], now: &Time) -> bool {
    let ready = conditions.iter().find(|condition| condition.kind == ConditionType::Ready);
    ready.is_some_and(|ready| now.0.duration_since(ready.last_transition_time.0).unsigned_abs() > PATIENCE)
}

async fn look(written: &KafkaCluster, context: &Context) -> Result<(KafkaClusterStatus, State, bool), Error> {
    let mut round = 1;
    let mut object = autoscale::effective(written);
    loop {
        let object = &mut object;
        let observed = observe::observe(context, object).await?;
        let cluster = validate::validate(object, &observed).map_err(Error::Invalid)?;
        let mut plan = plan::plan(object, &cluster, &observed);
        if validate::is_paused(object) {
            // Nothing begins; what was under way is remembered.
            plan.lease = object.status.as_ref().and_then(|status| status.disruption.clone());
        }
        if !validate::is_paused(object) {
            let scope = Scope { context, object, cluster: &cluster, observed: &observed };
            for step in &plan.steps {
                tracing::info!(cluster = %cluster.key, %step, "step");
                plan.waiting_on.extend(apply::apply(&scope, step).await?);
            }
            if !kube_io::has_finalizer(object) {
                // It was just added; the next round must not add it to the object as it was before.
                object.metadata.finalizers.get_or_insert_default().push(labels::FINALIZER.into());
            }
            if plan.look_again && round < ROUNDS_MAX {
                round += 1;
                continue;
            }
        }
        if cluster.hibernated {
            context.clusters.remove(&cluster.key);
            context.clients.forget(object.metadata.uid.as_deref().unwrap_or_default());
        }
        // Topics and Users come once brokers are configured: a topic takes its defaults when it is made.
        if !plan.steps.iter().any(|step| matches!(step, Step::AlterConfigs(_))) {
            publish(object, context, &cluster, &observed);
        }
        let soon = plan.look_soon;
        let (mut status, state) = conclude(object, &cluster, &observed, plan);
        status.autoscaling = autoscale::decide(written, &cluster, &observed, state == State::Ready);
        return Ok((status, state, soon));
    }
}

fn conclude(object: &KafkaCluster, cluster: &ValidCluster, observed: &Observed, plan: Plan) -> (KafkaClusterStatus, State) {
    // What was just done need not be seen first: only gates and objects, no answer of Kafka depends on it.
    let done = Plan { steps: Vec::new(), ..plan };
    let state = status::state(object, observed, &done);
    (status::learned(object, cluster, observed, &done, &state), state)
}

/// Lets Topics and Users of the cluster at its admin client, once brokers answer.
fn publish(object: &KafkaCluster, context: &Context, cluster: &ValidCluster, observed: &Observed) {
    let KafkaFacts::Answered { cluster: described, .. } = &observed.kafka else { return };
    let connected = context.clients.get(object, &observed.pods, &observed.secrets);
    let password_key = observed.secrets.get(&names::clients_ca(&cluster.key.name)).and_then(authorities::password_key);
    let (Ok(Some(connected)), Some(trust), Some(clients_ca), Some(password_key)) =
        (connected, plan::trust(cluster, observed), plan::clients_authority(cluster, observed), password_key)
    else {
        return;
    };
    let serving = described.brokers.iter().filter(|broker| !broker.fenced);
    let facts = ClusterFacts {
        racks: serving.map(|broker| (broker.id, broker.rack.clone().unwrap_or_default())).collect(),
        trust_bundle: trust.cluster_ca,
        clients_ca,
        password_key,
        ..ClusterFacts::of_spec(object)
    };
    let Connected { admin, mirror, figures, .. } = connected;
    context.clusters.publish(&cluster.key, Cluster { facts: Arc::new(facts), admin, mirror, figures });
}

/// The end: needs no valid spec, and takes what is gone as done.
async fn end(object: &KafkaCluster, context: &Context, now: &Time) -> Outcome<KafkaClusterStatus> {
    let key = ClusterKey::of(object);
    context.clusters.remove(&key);
    context.clients.forget(object.metadata.uid.as_deref().unwrap_or_default());
    if !kube_io::has_finalizer(object) {
        return Outcome { status: None, state: State::Ready, notices: Vec::new(), requeue: Requeue::After(LOOK_AGAIN) };
    }
    let keep = object.spec.deletion_policy == DeletionPolicy::Retain;
    match cleanup::step(&context.client, object, &key, keep).await {
        Ok(None) => Outcome { status: None, state: State::Ready, notices: Vec::new(), requeue: Requeue::After(LOOK_AGAIN) },
        Ok(Some(waiting)) => {
            let state = State::reconciling(Reason::Deleting, format!("waiting for {waiting}"));
            let (old, generation) = (object.status.clone().unwrap_or_default(), object.metadata.generation);
            let status = KafkaClusterStatus { observed_generation: generation, reason: format!("Deleting: waiting for {waiting}"), ..old };
            Outcome {
                status: Some(status::with_conditions(status, object, &state, now)),
                state,
                notices: Vec::new(),
                requeue: Requeue::After(LOOK_SOON),
            }
        }
        Err(error) => {
            let error = Error::Kube(error);
            let state = State::reconciling(error.reason(), error.words());
            let (status, _) = status::failed(object, &error);
            Outcome {
                status: Some(status::with_conditions(status, object, &state, now)),
                state,
                notices: Vec::new(),
                requeue: Requeue::Backoff,
            }
        }
    }
}
