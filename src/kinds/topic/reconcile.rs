//! Runs the steps of a Topic's reconcile: observe, validate, desired, plan, apply, status. Also
//! handles its deletion.

use crate::api::conditions::{Condition, Reason, State};
use crate::api::reference::ClusterKey;
use crate::api::topic::{Topic, TopicStatus};
use crate::clusters::{Cluster, ClusterEvent};
use crate::kinds::context::Context;
use crate::kinds::dependent::events;
use crate::kinds::dependent::events::Dependent;
use crate::kinds::dependent::lookup::cluster_that_refuses;
use crate::kinds::dependent::outcome;
use crate::kinds::dependent::outcome::{REQUEUE_LATER, REQUEUE_SOON, ROUNDS_MAX, Reconciled};
use crate::kinds::dependent::rounds::{Found, Round, give_way};
use crate::kinds::drift;
use crate::kinds::error::{Error, Invalid};
use crate::kinds::topic::observe::Observed;
use crate::kinds::topic::plan::{End, Step};
use crate::kinds::topic::status::Learned;
use crate::kinds::topic::{apply, desired, observe, plan, status, validate};
use crate::kubernetes;
use crate::runtime::kind::{Failure, Kind, Notice, Outcome, Requeue, Requeued};
use crate::tenancy::claims::Claim;
use crate::tenancy::ownership;
use crate::tenancy::ownership::Other;
use crate::tenancy::ownership::owner_of;
use crate::tenancy::revocation;
use crate::tenancy::revocation::SEEN_LIMIT;
use crate::tenancy::tenants::{Tenant, Tenants};
use freehold_kafka::metadata_image::{Concerned, MetadataImage, TopicImage};
use freehold_kafka::ownership::Owned;
use freehold_kafka::topic_plan::{self, TopicChange, WantedTopic};
use freehold_kafka_client::figures::Figure;
use futures::stream::BoxStream;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::runtime::reflector::Store;
use std::sync::Arc;
use std::time::Duration;

/// The Topic kind, for the driver.
pub struct TopicKind;

impl Kind for TopicKind {
    type Object = Topic;
    type Status = TopicStatus;
    type Context = Context;
    type Group = ClusterKey;

    const CONCURRENCY: u16 = 128;
    const DEBOUNCE: Duration = Duration::from_millis(1);

    fn status(object: &Topic) -> Option<&TopicStatus> {
        object.status.as_ref()
    }
    fn conditions(status: &TopicStatus) -> &[Condition] {
        &status.conditions
    }
    fn group(object: &Topic) -> Option<ClusterKey> {
        Some(object.claim().cluster)
    }
    fn triggers(
        context: &Arc<Context>,
        _namespace: Option<&str>,
    ) -> Vec<BoxStream<'static, Requeued<Topic, ClusterKey>>> {
        vec![events::trigger::<Self>(context)]
    }
    fn remember(context: &Context, namespace: Option<&str>, store: &Store<Topic>) {
        context.topics.add(namespace, store.clone());
    }
    fn noted(context: &Context, object: &Topic) {
        let (namespace, name) = (
            object.metadata.namespace.as_deref().unwrap_or_default(),
            object.metadata.name.as_deref().unwrap_or_default(),
        );
        if context.sharing.share(namespace, name, &object.spec.share) {
            // Requeues the Users whose rights depend on the topic.
            let Claim { cluster, name } = object.claim();
            context
                .clusters
                .announce(ClusterEvent::Metadata(cluster, Self::change_of(&name)));
        }
        events::noted::<Self>(context, object);
    }
    fn gone(context: &Context, object: &Topic) {
        let (namespace, name) = (
            object.metadata.namespace.as_deref().unwrap_or_default(),
            object.metadata.name.as_deref().unwrap_or_default(),
        );
        context.sharing.share(namespace, name, &[]);
        events::gone::<Self>(context, object);
    }

    async fn reconcile(object: Arc<Topic>, context: Arc<Context>) -> Outcome<TopicStatus> {
        let now = Time(Timestamp::now());
        let deleting = object.metadata.deletion_timestamp.is_some();
        let result = if deleting {
            let ended = end(&object, &context, now.0).await;
            outcome::end(&context, &*object, ended, now.0).await
        } else {
            run(&object, &context).await.map(Some)
        };
        outcome::outcome(result, |learned, state| {
            status::status(&object, learned, state, &now)
        })
    }
}

impl Dependent for TopicKind {
    fn tenants(context: &Context) -> &Tenants<Topic> {
        &context.topics
    }
    fn name_of(change: &Concerned) -> Option<&str> {
        match change {
            Concerned::Topic(name) => Some(name),
            Concerned::Principal(_) => None,
        }
    }
    fn change_of(name: &str) -> Concerned {
        Concerned::Topic(name.into())
    }
}

async fn run(object: &Arc<Topic>, context: &Context) -> Result<Reconciled<Learned>, Error> {
    let mut object = Arc::clone(object);
    let (mut found, mut created) = (Found::default(), false);
    for _ in 0..ROUNDS_MAX {
        match round(&object, context, &mut found, &mut created).await? {
            Round::Continue(changed) => object = changed,
            Round::Break(done) => return Ok(done),
        }
    }
    let state = State::reconciling(Reason::Applying, "the topic is being changed");
    Ok(unfinished(found, state, REQUEUE_SOON, false))
}

/// One round: observe, validate, plan, apply. `created`: a round before has created the topic.
async fn round(
    object: &Arc<Topic>,
    context: &Context,
    found: &mut Found,
    created: &mut bool,
) -> Result<Round<Topic, Learned>, Error> {
    let (observed, cluster) = match observe::observe(context, object).await? {
        Ok(observed) => observed,
        Err(dependence) => {
            let done = dependence.reconciled::<TopicKind, _>(&**object, context);
            return Ok(Round::Break(done));
        }
    };
    let (name, ownership) = (object.topic_name(), &observed.ownership);
    if let (false, Some(other @ Other::Gone(_))) = (ownership.mine, &ownership.other) {
        let words = ownership::words::<Topic>(other, "topic");
        let state = State::reconciling(Reason::Applying, words);
        return Ok(Round::Break(Reconciled::waiting(state, REQUEUE_SOON)));
    }
    let topic = match validate::validate(object, &observed) {
        Ok(topic) => topic,
        Err(invalids) => {
            give_way(&**object, &cluster, Owned::Topic, name, ownership).await?;
            return Err(Error::Invalid(invalids));
        }
    };
    if !ownership.former.is_empty() {
        // An earlier Topic with this name was deleted without its clean-up. Its record is removed,
        // so that the topic has no owner.
        context.ensure_current(&**object).await?;
        revocation::disown(&cluster, Owned::Topic, name, &ownership.former).await?;
        return Ok(Round::Continue(Arc::clone(object)));
    }
    let wanted = desired::desired(&topic);
    let mut plan = plan::plan(object, &wanted, &observed).map_err(Error::Invalid)?;
    found.add_drift(std::mem::take(&mut plan.drift));
    if plan.forgets {
        let state = State::reconciling(Reason::Applying, "the topic is made anew");
        let found = std::mem::take(found);
        return Ok(Round::Break(unfinished(found, state, Duration::ZERO, true)));
    }
    if plan.steps.is_empty() {
        let found = std::mem::take(found);
        let done = settled(object, &wanted, observed, found, *created, plan.refused);
        return Ok(Round::Break(done));
    }
    context.ensure_current(&**object).await?;
    if plan.adopts {
        found.notices.push(Notice {
            reason: Reason::Adopted,
            message: format!("topic {} existed and was taken over", topic.name),
        });
    }
    *created |= plan
        .steps
        .iter()
        .any(|step| matches!(step, Step::Change(TopicChange::Create(_))));
    let (changed, refused) =
        act(context, &cluster, object, &wanted, &observed, &plan.steps).await?;
    let Some(error) = refused else {
        return Ok(Round::Continue(changed));
    };
    let topic = cluster.mirror.read().topic(&wanted.name).cloned();
    let found = std::mem::take(found);
    Ok(Round::Break(refused_beside(found, &error, &wanted, topic)))
}

/// The result after Kafka has refused a step on which no other depends. What the others have put
/// right is told all the same, and the status has the topic as they have left it.
fn refused_beside(
    found: Found,
    error: &Error,
    wanted: &WantedTopic,
    topic: Option<TopicImage>,
) -> Reconciled<Learned> {
    let found = Found {
        drift: plan::put_right(found.drift, wanted, topic.as_ref()),
        ..found
    };
    let done = unfinished(found, error.state(), REQUEUE_LATER, false);
    Reconciled {
        learned: Learned {
            topic,
            ..done.learned
        },
        ..done
    }
}

/// The result while the topic is not as it should be. `forgets`: the topic in the status is not the
/// one that will be made.
fn unfinished(found: Found, state: State, after: Duration, forgets: bool) -> Reconciled<Learned> {
    let Found { drift, mut notices } = found;
    notices.extend(drift::notices(&drift));
    Reconciled {
        learned: Learned {
            drift,
            forgets,
            ..Learned::default()
        },
        state,
        notices,
        requeue: Requeue::After(after),
    }
}

/// The result when nothing is left to do, other than to wait for replicas. `refused`: what of the
/// spec cannot be done.
fn settled(
    object: &Topic,
    wanted: &WantedTopic,
    observed: Observed,
    found: Found,
    created: bool,
    refused: Vec<Invalid>,
) -> Reconciled<Learned> {
    let progress = observed
        .topic
        .as_ref()
        .and_then(|topic| topic_plan::progress(wanted, topic));
    let state = match progress {
        _ if !refused.is_empty() => Error::Invalid(refused).state(),
        None => State::Ready,
        Some(progress) => State::reconciling(
            Reason::Reassigning,
            format!(
                "{} of {} partitions have {} replicas",
                progress.partitions_done, progress.partitions, progress.replicas
            ),
        ),
    };
    let Found { drift, mut notices } = found;
    notices.extend(drift::notices(&drift));
    let learned = Learned {
        topic: observed.topic,
        // A topic that was just created is empty. Writing that now saves another write of the
        // status a minute later.
        figure: observed.figure.or(created.then(Figure::default)),
        progress,
        drift,
        warnings: Some(validate::warnings(object, &observed.cluster)),
        forgets: false,
    };
    Reconciled {
        learned,
        state,
        notices,
        requeue: Requeue::OnChange,
    }
}

/// True if no later step depends on this one.
fn is_apart(step: &Step) -> bool {
    matches!(
        step,
        Step::Change(TopicChange::AddPartitions { .. } | TopicChange::AlterConfig(_))
    )
}

/// Executes the steps and waits until the metadata log shows them. Returns the object after that,
/// and the refusal of a step on which no other depends: the others are executed.
///
/// # Errors
/// The first other error.
async fn act(
    context: &Context,
    cluster: &Cluster,
    object: &Arc<Topic>,
    wanted: &WantedTopic,
    observed: &Observed,
    steps: &[Step],
) -> Result<(Arc<Topic>, Option<Error>), Error> {
    let (mut object, mut refused) = (Arc::clone(object), None);
    let mut changed: Vec<TopicChange> = Vec::new();
    for step in steps {
        let name = &wanted.name;
        tracing::debug!(topic = name, %step, "step");
        let applied = apply::apply(&context.client, &cluster.admin, &object, name, step).await;
        match applied {
            // A config that Kafka refuses must not stop the repair of replicas.
            Err(error) if is_apart(step) && !error.is_transient() => {
                apply::throttle(&cluster.admin, name, step).await?;
                refused = refused.or(Some(error));
            }
            applied => {
                object = applied?.map_or(object, Arc::new);
                if let Step::Change(change) = step {
                    changed.push(change.clone());
                }
            }
        }
    }
    if steps.iter().all(|step| *step == Step::AddFinalizer) {
        return Ok((object, refused));
    }
    let own = owner_of(&*object);
    let done = |image: &MetadataImage| {
        let owners = image.owners(Owned::Topic, &wanted.name);
        if !owners.iter().any(|owner| **owner == own) {
            return false;
        }
        let left = topic_plan::changes(wanted, image.topic(&wanted.name), &observed.brokers);
        topic_plan::are_seen(&changed, &left.steps)
    };
    cluster.mirror.wait(SEEN_LIMIT, done).await;
    Ok((object, refused))
}

/// The result while topic deletion is off in Kafka: a person must decide. A change of the cluster
/// or of the object requeues the Topic.
fn deletion_is_off(object: &Topic, observed: Observed) -> Reconciled<Learned> {
    let learned = Learned {
        topic: observed.topic,
        figure: observed.figure,
        ..Learned::default()
    };
    let state = State::stalled(
        Reason::TopicDeletionDisabled,
        plan::deletion_is_off(object.topic_name()),
    );
    Reconciled {
        learned,
        state,
        notices: Vec::new(),
        requeue: Requeue::After(REQUEUE_LATER),
    }
}

async fn disown(object: &Topic, cluster: &Cluster) -> Result<(), Error> {
    let name = object.topic_name();
    if revocation::is_owner(cluster, Owned::Topic, name, object) {
        revocation::disown(cluster, Owned::Topic, name, &[owner_of(object)]).await?;
    }
    Ok(())
}

/// Handles the deletion of a Topic. `None`: the finalizer is removed.
async fn end(
    object: &Topic,
    context: &Context,
    now: Timestamp,
) -> Result<Option<Reconciled<Learned>>, Error> {
    if !kubernetes::has_finalizer(object) {
        return Ok(None);
    }
    context.ensure_current(object).await?;
    let waiting = Reconciled::waiting;
    match observe::observe(context, object).await? {
        Err(dependence) => match cluster_that_refuses(context, &dependence) {
            // Topics in Kafka stay when their namespace is no longer admitted.
            Some(cluster) => disown(object, &cluster).await?,
            None if dependence.strands_nothing(context).await? => {}
            None => return Ok(Some(waiting(dependence.state(), REQUEUE_LATER))),
        },
        Ok((observed, cluster)) => match plan::end(object, &observed, now) {
            End::Release => disown(object, &cluster).await?,
            End::Wait(left) => {
                return Ok(Some(waiting(
                    State::reconciling(Reason::Deleting, outcome::LATE_WORDS),
                    left,
                )));
            }
            End::Delete(id) => {
                let name = object.topic_name();
                tracing::debug!(topic = name, %id, "delete the topic");
                match cluster.admin.delete_topic(id).await {
                    Err(error) if error.is("TopicDeletionDisabled") => {
                        return Ok(Some(deletion_is_off(object, observed)));
                    }
                    other => other?,
                }
                cluster
                    .mirror
                    .wait(SEEN_LIMIT, |image| {
                        image.topic(name).is_none_or(|topic| topic.id != id)
                    })
                    .await;
                disown(object, &cluster).await?;
            }
            End::Off => return Ok(Some(deletion_is_off(object, observed))),
            End::Refuse => {
                let why = plan::refusal(object, observed.topic.as_ref());
                let learned = Learned {
                    topic: observed.topic,
                    figure: observed.figure,
                    ..Learned::default()
                };
                let state = State::stalled(Reason::TopicHoldsRecords, why);
                return Ok(Some(Reconciled {
                    learned,
                    state,
                    notices: Vec::new(),
                    requeue: Requeue::After(REQUEUE_LATER),
                }));
            }
        },
    }
    kubernetes::set_finalizer(&context.client, object, false).await?;
    Ok(None)
}
