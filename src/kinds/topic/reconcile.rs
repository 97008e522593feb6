//! The sequence: observe, validate, desired, plan, apply, status; and the end of a Topic.

use super::api::{Topic, TopicStatus};
use super::plan::{End, Step};
use super::status::Learned;
use super::{apply, desired, observe, plan, status, validate};
use crate::conditions::{Condition, Reason, State};
use crate::kafka::metadata_image::{Concerned, MetadataImage};
use crate::kafka::topic_plan::{self, TopicChange};
use crate::kafka_admin::figures::Figure;
use crate::kinds::drift;
use crate::kinds::error::Error;
use crate::kinds::look::{self, LOOK_AGAIN, LOOK_SOON, Look, ROUNDS_MAX, SEEN_LIMIT};
use crate::kube_io;
use crate::labels;
use crate::runtime::claims::{Claim, Claims};
use crate::runtime::context::Context;
use crate::runtime::kind::{Kind, Outcome, Requeue};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use std::sync::Arc;
use std::time::Duration;

/// The kind, for the driver.
pub struct TopicKind;

impl Kind for TopicKind {
    type Object = Topic;
    type Status = TopicStatus;

    const CONCURRENCY: u16 = 128;
    const DEBOUNCE: Duration = Duration::from_millis(1);

    fn status(object: &Topic) -> Option<&TopicStatus> {
        object.status.as_ref()
    }
    fn conditions(status: &TopicStatus) -> &[Condition] {
        &status.conditions
    }
    fn claims(context: &Context) -> Option<&Claims> {
        Some(&context.topics)
    }
    fn claim(object: &Topic) -> Option<Claim> {
        Some(observe::claim(object))
    }
    fn concerned(concerned: &Concerned) -> Option<&str> {
        match concerned {
            Concerned::Topic(name) => Some(name),
            Concerned::Principal(_) => None,
        }
    }
    fn concern(name: &str) -> Concerned {
        Concerned::Topic(name.into())
    }

    async fn reconcile(object: Arc<Topic>, context: Arc<Context>) -> Outcome<TopicStatus> {
        let now = Time(Timestamp::now());
        let deleting = object.metadata.deletion_timestamp.is_some();
        let result = if deleting { end(&object, &context, now.0).await } else { look(&object, &context).await.map(Some) };
        look::outcome(result, |learned, state| status::status(&object, learned, state, &now))
    }
}

async fn look(object: &Arc<Topic>, context: &Context) -> Result<Look<Learned>, Error> {
    let mut object = Arc::clone(object);
    let mut drift = Vec::new();
    let mut created = false;
    for _ in 0..ROUNDS_MAX {
        let (observed, cluster) = match observe::observe(context, &object).await? {
            Ok(observed) => observed,
            Err(dependence) => return Ok(dependence.look::<TopicKind, _>(&object, context)),
        };
        let topic = validate::validate(&object, &observed).map_err(Error::Invalid)?;
        let wanted = desired::desired(&topic);
        let plan = plan::plan(&object, &wanted, &observed).map_err(Error::Invalid)?;
        if drift.is_empty() {
            drift = plan.drift;
        }
        if plan.forgets {
            let (state, notices) = (State::reconciling(Reason::Applying, "the topic is made anew"), drift::notices(&drift));
            let learned = Learned { drift, forgets: true, ..Learned::default() };
            return Ok(Look { learned, state, notices, requeue: Requeue::After(Duration::ZERO) });
        }
        if plan.steps.is_empty() {
            let progress = observed.topic.as_ref().and_then(|topic| topic_plan::progress(&wanted, topic));
            let state = match progress {
                None => State::Ready,
                Some(progress) => State::reconciling(
                    Reason::Reassigning,
                    format!("{} of {} partitions have {} replicas", progress.partitions_done, progress.partitions, progress.replicas),
                ),
            };
            let notices = drift::notices(&drift);
            // What was just made is empty: not a write of its own a minute later.
            let figure = observed.figure.or(created.then(Figure::default));
            let learned = Learned { topic: observed.topic, figure, progress, drift, forgets: false };
            return Ok(Look { learned, state, notices, requeue: Requeue::Woken });
        }
        context.ensure_current(&*object).await?;
        created |= plan.steps.iter().any(|step| matches!(step, Step::Change(TopicChange::Create(_))));
        for step in &plan.steps {
            tracing::debug!(topic = topic.name, %step, "step");
            if let Some(changed) = apply::apply(&context.client, &cluster.admin, &object, &topic.name, step).await? {
                object = Arc::new(changed);
            }
        }
        if plan.steps.iter().any(|step| *step != Step::AddFinalizer) {
            let done = |image: &MetadataImage| {
                let left = topic_plan::changes(&wanted, image.topic(&wanted.name), &observed.brokers);
                left.is_ok_and(|changes| changes.is_empty())
            };
            cluster.mirror.wait(SEEN_LIMIT, done).await;
        }
    }
    let state = State::reconciling(Reason::Applying, "the topic is being changed");
    let notices = drift::notices(&drift);
    Ok(Look { learned: Learned { drift, ..Learned::default() }, state, notices, requeue: Requeue::After(LOOK_SOON) })
}

/// `None`: the finalizer is gone.
async fn end(object: &Topic, context: &Context, now: Timestamp) -> Result<Option<Look<Learned>>, Error> {
    if !kube_io::has_finalizer(object) {
        return Ok(None);
    }
    context.ensure_current(object).await?;
    let waiting = |state, after| Look { learned: Learned::default(), state, notices: Vec::new(), requeue: Requeue::After(after) };
    match observe::observe(context, object).await? {
        Err(dependence) if dependence.strands_nothing(context).await? => {}
        Err(dependence) => return Ok(Some(waiting(dependence.state(), LOOK_AGAIN))),
        Ok((observed, cluster)) => match plan::end(object, &observed, now) {
            End::Release => {}
            End::Wait(left) => return Ok(Some(waiting(State::reconciling(Reason::Deleting, look::LATE_WORDS), left))),
            End::Delete(id) => {
                let name = validate::topic_name(object);
                tracing::debug!(topic = name, %id, "delete the topic");
                cluster.admin.delete_topic(id).await?;
                cluster.mirror.wait(SEEN_LIMIT, |image| image.topic(name).is_none_or(|topic| topic.id != id)).await;
            }
            End::Refuse => {
                let name = validate::topic_name(object);
                let why = format!(
                    "topic {name} holds records; to delete them with it, annotate this Topic with {}: {name}",
                    labels::CONFIRM_DELETE
                );
                let learned = Learned { topic: observed.topic, figure: observed.figure, ..Learned::default() };
                let state = State::stalled(Reason::TopicHoldsRecords, why);
                return Ok(Some(Look { learned, state, notices: Vec::new(), requeue: Requeue::After(LOOK_AGAIN) }));
            }
        },
    }
    kube_io::set_finalizer(&context.client, object, false).await?;
    Ok(None)
}
