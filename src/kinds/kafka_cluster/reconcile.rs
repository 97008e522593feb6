//! Runs the steps of a reconcile: observe, validate, desired, plan, apply, status. Also deletes a
//! cluster.

use crate::api::conditions::{Condition, ConditionType, Reason, State};
use crate::api::kafka_cluster::{
    AutoscalingStatus, DisruptionKind, DisruptionStatus, KafkaCluster, KafkaClusterStatus,
};
use crate::api::reference::ClusterKey;
use crate::clusters::ClusterEvent;
use crate::kinds::attempts::{self, Attempts, Refusal};
use crate::kinds::dependent::clean_up;
use crate::kinds::drift;
pub use crate::kinds::error::Error;
use crate::kinds::kafka_cluster::configuration;
use crate::kinds::kafka_cluster::context::Context;
use crate::kinds::kafka_cluster::deletion::end;
use crate::kinds::kafka_cluster::execute;
use crate::kinds::kafka_cluster::execute::Scope;
use crate::kinds::kafka_cluster::intervals::{
    PATIENCE, REQUEUE_AT_ONCE, REQUEUE_LATER, REQUEUE_READY, REQUEUE_SOON,
};
use crate::kinds::kafka_cluster::model::cluster::ValidCluster;
use crate::kinds::kafka_cluster::observe;
use crate::kinds::kafka_cluster::observed::Observed;
use crate::kinds::kafka_cluster::plan;
use crate::kinds::kafka_cluster::plan::{Plan, Step};
use crate::kinds::kafka_cluster::publish::{Accepted, publish, rights_of_age};
use crate::kinds::kafka_cluster::refusals;
use crate::kinds::kafka_cluster::refusals::Stops;
use crate::kinds::kafka_cluster::validate;
use crate::kinds::kafka_cluster::{facts, keep, scaling, status};
use crate::kubernetes;
use crate::kubernetes::labels;
use crate::kubernetes::resource;
use crate::runtime::compute::compute;
use crate::runtime::kind::{Failure, Kind, Notice, Outcome, Requeue, Watch};
use crate::words;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::runtime::reflector::Store;
use std::sync::Arc;
use std::time::Duration;

/// The number of plans in one reconcile: identity and CAs come first, then certificates, then
/// objects.
const ROUNDS_MAX: u32 = 4;

/// The KafkaCluster kind, for the driver.
pub struct KafkaClusterKind;

impl Kind for KafkaClusterKind {
    type Object = KafkaCluster;
    type Status = KafkaClusterStatus;
    type Context = Context;
    type Group = ();

    const CONCURRENCY: u16 = 16;
    const DEBOUNCE: Duration = Duration::from_millis(50);
    const STATUS_IS_A_LEASE: bool = true;

    fn status(object: &KafkaCluster) -> Option<&KafkaClusterStatus> {
        object.status.as_ref()
    }
    fn conditions(status: &KafkaClusterStatus) -> &[Condition] {
        &status.conditions
    }
    fn watches() -> Vec<Watch> {
        let mut types = observe::object_types();
        types.extend([
            resource::<Secret>(),
            resource::<PersistentVolumeClaim>(),
            resource::<Pod>(),
        ]);
        types
            .into_iter()
            .map(|resource| Watch {
                resource,
                label: labels::CLUSTER,
            })
            .collect()
    }
    fn remember(context: &Context, namespace: Option<&str>, store: &Store<KafkaCluster>) {
        context.kafka_clusters.add(namespace, store.clone());
    }
    fn gone(context: &Context, object: &KafkaCluster) {
        // Needed here too: an object without our finalizer is gone without a call of `end`.
        context.clusters.remove(&ClusterKey::of(object));
        context
            .inventory
            .forget(&ClusterKey::of(object).to_string());
        context
            .clients
            .forget(object.metadata.uid.as_deref().unwrap_or_default());
        context.attempts.put(object, Attempts::default());
        // Objects that refer to this cluster may still wait for it; they must be reconciled.
        context
            .clusters
            .announce(ClusterEvent::Changed(ClusterKey::of(object)));
    }

    async fn reconcile(
        object: Arc<KafkaCluster>,
        context: Arc<Context>,
    ) -> Outcome<KafkaClusterStatus> {
        let now = Time(Timestamp::now());
        // The running disruption is in the status, so a stale object must not be used.
        if let Err(error) = context.ensure_current(&*object).await {
            return failed(&object, &error, &now);
        }
        if object.metadata.deletion_timestamp.is_some() {
            return end(&object, &context, &now).await;
        }
        match rounds(&object, &context).await {
            Ok(Reconciled {
                status,
                state,
                soon,
                failed,
                drift,
            }) => {
                let status = status::with_conditions(status, &object, &state, &now);
                context.lost.note(&object, &status.lost_nodes);
                let mut notices = begun(&object, &status);
                notices.extend(scaled(&object, &status));
                let begins = !notices.is_empty();
                notices.extend(refused(&object, &status, &state));
                notices.extend(drift::notices(&drift));
                let after = match state {
                    // The new disruption is written to the status with this outcome, so its first
                    // step may follow at once.
                    _ if soon || begins => REQUEUE_AT_ONCE,
                    // A failed step may succeed without a change of the spec.
                    State::Ready if failed => REQUEUE_SOON,
                    State::Ready
                    | State::Reconciling {
                        reason: Reason::Resizing,
                        ..
                    } => REQUEUE_READY,
                    // The problem is in the status, and nothing is in progress.
                    State::Stalled { .. }
                    | State::Reconciling {
                        reason: Reason::Paused,
                        ..
                    } if status.waiting_on.is_empty() && status.disruption.is_none() => {
                        REQUEUE_READY
                    }
                    _ if is_old(&status.conditions, &now) => REQUEUE_LATER,
                    _ => REQUEUE_SOON,
                };
                Outcome {
                    status: Some(status),
                    state,
                    notices,
                    requeue: Requeue::After(after),
                }
            }
            Err(error) => failed(&object, &error, &now),
        }
    }
}

fn failed(object: &KafkaCluster, error: &Error, now: &Time) -> Outcome<KafkaClusterStatus> {
    let (status, state) = status::failed(object, error);
    let status = Some(status::with_conditions(status, object, &state, now));
    match error {
        Error::Old => Outcome {
            status: None,
            state,
            notices: Vec::new(),
            requeue: Requeue::Anew,
        },
        error if error.is_transient() => Outcome {
            status,
            state,
            notices: Vec::new(),
            requeue: Requeue::Backoff,
        },
        // An invalid spec may become valid when what it refers to changes, for example when a
        // Secret is created.
        _ => Outcome {
            status,
            state,
            notices: Vec::new(),
            requeue: Requeue::After(REQUEUE_READY),
        },
    }
}

/// The event for a disruption that begins.
fn begun(object: &KafkaCluster, status: &KafkaClusterStatus) -> Vec<Notice> {
    let before = object
        .status
        .as_ref()
        .and_then(|status| status.disruption.as_ref());
    let new = status.disruption.as_ref().filter(|lease| {
        before.is_none_or(|before| before.node_ids != lease.node_ids || before.kind != lease.kind)
    });
    let notice = |lease: &DisruptionStatus| match lease.kind {
        DisruptionKind::Restart => Notice {
            reason: Reason::Restarting,
            message: format!(
                "restarting nodes {}: {}",
                words::ids(&lease.node_ids),
                lease.why
            ),
        },
        DisruptionKind::Reassignment | DisruptionKind::Volumes => Notice {
            reason: Reason::Reassigning,
            message: lease.why.clone(),
        },
        DisruptionKind::Quorum => Notice {
            reason: Reason::ChangingQuorum,
            message: lease.why.clone(),
        },
        DisruptionKind::Replacement => Notice {
            reason: Reason::Replacing,
            message: lease.why.clone(),
        },
    };
    new.map(notice).into_iter().collect()
}

/// The events for pools whose number of brokers the autoscaling has changed.
fn scaled(object: &KafkaCluster, status: &KafkaClusterStatus) -> Vec<Notice> {
    let before = object
        .status
        .as_ref()
        .map(|status| status.autoscaling.as_slice())
        .unwrap_or_default();
    let new = status.autoscaling.iter().filter(|one| {
        !before
            .iter()
            .any(|old| old.pool == one.pool && old.since == one.since)
    });
    let words = |one: &AutoscalingStatus| {
        format!(
            "pool {} is to have {} brokers: {}",
            one.pool, one.replicas, one.why
        )
    };
    new.map(|one| Notice {
        reason: Reason::Autoscaling,
        message: words(one),
    })
    .collect()
}

/// The events for steps that are newly refused, unless the change of the Ready condition already
/// reports them.
fn refused(object: &KafkaCluster, status: &KafkaClusterStatus, state: &State) -> Vec<Notice> {
    let old = object.status.clone().unwrap_or_default();
    let said = old.conditions.iter().any(|condition| {
        condition.kind == ConditionType::Ready && condition.reason == state.words().0.name()
    });
    if matches!(state, State::Stalled { .. }) && !said {
        return Vec::new();
    }
    let new = status
        .refused
        .iter()
        .filter(|one| !old.refused.iter().any(|old| old.what == one.what));
    new.map(|one| Notice {
        reason: Reason::Refused,
        message: format!("{}: {}", one.what, one.why),
    })
    .collect()
}

/// True if the Ready condition has not changed for longer than [`PATIENCE`].
fn is_old(conditions: &[Condition], now: &Time) -> bool {
    let ready = conditions
        .iter()
        .find(|condition| condition.kind == ConditionType::Ready);
    ready.is_some_and(|ready| {
        now.0
            .duration_since(ready.last_transition_time.0)
            .unsigned_abs()
            > PATIENCE
    })
}

/// The result of one observe, plan and apply.
struct Reconciled {
    status: KafkaClusterStatus,
    state: State,
    /// The next reconcile must follow at once.
    soon: bool,
    /// A step failed with a transient error.
    failed: bool,
    /// What somebody else had changed and this reconcile has repaired.
    drift: Vec<String>,
}

async fn rounds(written: &KafkaCluster, context: &Context) -> Result<Reconciled, Error> {
    let mut round = 1;
    let mut object = scaling::effective(written);
    let mut drift = Vec::new();
    loop {
        let object = &mut object;
        let observed = observe::observe(context, object).await?;
        let (mut plan, cluster) = match compute(|| plan_change(object, &observed)) {
            Ok(planned) => planned,
            Err(valid) => return keep(object, context, &observed, *valid).await,
        };
        let configures = follow(
            &Scope {
                context,
                object,
                cluster: &cluster,
                observed: &observed,
            },
            &mut plan,
        )
        .await?;
        drift.append(&mut plan.drift);
        if !kubernetes::has_finalizer(object) {
            // The finalizer was just added. The next round must know that, and not add it to the
            // object in its old version.
            object
                .metadata
                .finalizers
                .get_or_insert_default()
                .push(labels::FINALIZER.into());
        }
        if plan.plan_again && round < ROUNDS_MAX {
            round += 1;
            continue;
        }
        if cluster.hibernated {
            context.clusters.remove(&cluster.key);
            context
                .clients
                .forget(object.metadata.uid.as_deref().unwrap_or_default());
        }
        // Topics and Users may begin only after the brokers are configured, because a topic takes
        // its defaults when it is created. An already published cluster is published again at once,
        // so that revoked access takes effect without a delay.
        let publishes = !configures || context.clusters.get(&cluster.key).is_some();
        let more = publishes && serve(object, context, &cluster, &observed, Accepted::Spec).await;
        let (soon, failed) = (
            plan.requeue_at_once || more,
            plan.refused.iter().any(|refusal| refusal.is_transient),
        );
        plan.warnings
            .extend(rights_of_age(object, context, &cluster.key, &observed));
        let (mut status, state) = conclude(object, &cluster, &observed, plan);
        status.rights = Some(facts::rights(object, observed.identity.as_ref()));
        status.autoscaling = scaling::decide(written, &cluster, &observed, state == State::Ready);
        return Ok(Reconciled {
            status,
            state,
            soon,
            failed,
            drift,
        });
    }
}

/// The plan and the valid cluster; `Err` if nothing may be changed: the valid cluster that is
/// paused, or why it is not valid.
fn plan_change(
    object: &KafkaCluster,
    observed: &Observed,
) -> Result<(Plan, ValidCluster), Box<Result<ValidCluster, Error>>> {
    match validate::validate(object, observed).map_err(Error::Invalid) {
        Ok(cluster) if !validate::is_paused(object) => {
            Ok((plan::plan(object, &cluster, observed), cluster))
        }
        valid => Err(Box::new(valid)),
    }
}

/// Reconciles a cluster that must not be changed: what runs is kept. `valid`: the valid cluster if
/// it is paused, or else the error.
async fn keep(
    object: &KafkaCluster,
    context: &Context,
    observed: &Observed,
    valid: Result<ValidCluster, Error>,
) -> Result<Reconciled, Error> {
    let mut plan = Plan {
        lease: object
            .status
            .as_ref()
            .and_then(|status| status.disruption.clone()),
        ..Plan::default()
    };
    let mut more = false;
    if let Some(running) = keep::cluster(object, observed) {
        plan = keep::plan(object, &running, observed);
        follow(
            &Scope {
                context,
                object,
                cluster: &running,
                observed,
            },
            &mut plan,
        )
        .await?;
        more = serve(object, context, &running, observed, Accepted::of(&valid)).await;
    }
    let (soon, failed, drift) = (
        plan.requeue_at_once || more,
        plan.refused.iter().any(|refusal| refusal.is_transient),
        std::mem::take(&mut plan.drift),
    );
    let (status, state) = match valid {
        Ok(cluster) => conclude(object, &cluster, observed, plan),
        Err(error) => {
            let state = error.state();
            (status::unchanged(object, observed, &plan, &state), state)
        }
    };
    Ok(Reconciled {
        status,
        state,
        soon,
        failed,
        drift,
    })
}

/// Publishes the cluster for its Topics and Users, and cleans up after those that are gone. Returns
/// true if more is left of them.
async fn serve(
    object: &KafkaCluster,
    context: &Context,
    cluster: &ValidCluster,
    observed: &Observed,
    accepted: Accepted,
) -> bool {
    publish(object, context, cluster, observed, accepted);
    clean_up::after_the_gone(context, &cluster.key).await
}

/// Executes the steps of a plan. A step that fails stops the steps that depend on it. Returns true
/// if configs were set, or could not be set because of a transient error: they come into force only
/// later.
async fn follow(scope: &Scope<'_>, plan: &mut Plan) -> Result<bool, Error> {
    let (mut stops, mut configures) = (Stops::default(), false);
    let mut attempts = scope.observed.attempts.clone();
    let now = scope.observed.now;
    let steps = std::mem::take(&mut plan.steps);
    for step in &steps {
        if stops.stops(step) {
            continue;
        }
        tracing::info!(cluster = %scope.cluster.key, %step, "step");
        if let Step::AlterConfigs(changes) = step {
            configuration::setting(&mut attempts, scope.cluster, changes);
        }
        match execute::apply(scope, step).await {
            Ok(done) => {
                plan.waiting_on.extend(done.waiting_on);
                if done.refused.is_empty()
                    && matches!(step, Step::PutRight { .. } | Step::RemoveFields { .. })
                {
                    attempts.repaired(step.what(), now);
                    plan.drift.push(step.what());
                }
                if let (true, Step::RestoreSecret(secret)) = (done.refused.is_empty(), step) {
                    plan.drift
                        .push(format!("Secret {secret} was deleted or overwritten"));
                }
                if let Step::AlterConfigs(changes) = step {
                    configuration::removed(&mut attempts, changes);
                    let asked: usize = changes.iter().map(|(_, configs)| configs.len()).sum();
                    configures |= done
                        .refused
                        .iter()
                        .filter(|(_, refusal)| !refusal.is_transient)
                        .count()
                        < asked;
                }
                if done.throttle_failed {
                    stops.after_throttle();
                }
                for (wanted, refusal) in done.refused {
                    tracing::warn!(cluster = %scope.cluster.key, what = refusal.what, why = refusal.why, "refused");
                    if !refusal.is_transient {
                        attempts.failed(wanted, refusal.clone(), now);
                    }
                    plan.refused.push(refusal);
                }
            }
            Err(error) if refusals::ends_the_reconcile(step, &error) => return Err(error),
            Err(error) => {
                let refusal = Refusal::of(step.what(), &error);
                tracing::warn!(cluster = %scope.cluster.key, %step, why = refusal.why, "the step failed");
                configures |= matches!(step, Step::AlterConfigs(_));
                stops.after(
                    step,
                    matches!(&error, Error::Admin(error) if error.is_transient()),
                );
                if attempts::waits(&error) {
                    attempts.failed(step.wanted(), refusal.clone(), now);
                }
                plan.refused.push(refusal);
            }
        }
    }
    plan.steps = steps;
    attempts.keep(&plan.refused, now);
    scope.context.attempts.put(scope.object, attempts);
    Ok(configures)
}

fn conclude(
    object: &KafkaCluster,
    cluster: &ValidCluster,
    observed: &Observed,
    plan: Plan,
) -> (KafkaClusterStatus, State) {
    // The executed steps do not count as pending any more: they changed only gates and objects, and
    // no answer of Kafka depends on them.
    let done = Plan {
        steps: Vec::new(),
        ..plan
    };
    let state = status::state(object, observed, &done);
    (
        status::learned(object, cluster, observed, &done, &state),
        state,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clusters::{Cluster, ClusterFacts};
    use crate::kinds::context::Settings;
    use freehold_kafka_client::batch::BatchedAdmin;
    use freehold_kafka_client::fake::FakeCluster;
    use http::{Request, Response};
    use kube::client::Body;
    use serde_json::json;
    use std::convert::Infallible;

    #[tokio::test]
    async fn a_cluster_that_went_without_its_finalizer_is_forgotten() {
        let answer = |_: Request<Body>| async { Ok::<_, Infallible>(Response::new(Body::empty())) };
        let context = Context::new(
            kube::Client::new(tower::service_fn(answer), "n"),
            Settings::default(),
        );
        let pool = json!({"name": "b", "roles": ["broker"], "replicas": 1, "zones": ["z"], "storage": {"size": "1Gi"}});
        let object = json!({"metadata": {"name": "c", "namespace": "n", "uid": "u"}, "spec": {"version": "4.3.1", "nodePools": [pool]}});
        let object: KafkaCluster = serde_json::from_value(object).unwrap();
        let key = ClusterKey::of(&object);
        let admin = Arc::new(BatchedAdmin::new(Arc::new(FakeCluster::default())));
        let facts = Arc::new(ClusterFacts::of_spec(&object));
        context.clusters.publish(
            &key,
            Cluster {
                facts,
                admin,
                mirror: Arc::default(),
                figures: Arc::default(),
            },
        );
        let mut told = context.clusters.subscribe();
        KafkaClusterKind::gone(&context, &object);
        assert!(context.clusters.get(&key).is_none());
        assert_eq!(told.try_recv().unwrap(), ClusterEvent::Changed(key));
    }
}
