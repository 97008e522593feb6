//! The sequence: observe, validate, desired, plan, apply, status; and the end of a Topic.

use super::api::{Topic, TopicStatus};
use super::plan::End;
use super::{apply, desired, observe, plan, status, validate};
use crate::conditions::{Condition, Reason, State};
use crate::kafka::topic_plan::TopicRefusal;
use crate::kafka_admin::{AdminError, TopicDescription};
use crate::kinds::dependence::Dependence;
use crate::kinds::kafka_cluster::validate::Invalid;
use crate::kinds::reference::ClusterKey;
use crate::kube_io::{self, KubeError};
use crate::labels;
use crate::runtime::context::Context;
use crate::runtime::kind::{Failure, Kind, Outcome, Requeue, Watch};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::runtime::reflector::Store;
use std::sync::Arc;
use std::time::Duration;

/// A topic that was just changed is looked at again: brokers' caches follow the controller within a moment.
const LOOK_SOON: Duration = Duration::from_millis(200);
/// Drift is found by then.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Kube(#[from] KubeError),
    #[error(transparent)]
    Admin(#[from] AdminError),
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Invalid(Vec<Invalid>),
    #[error("{}: {}", .0.field, .0.why)]
    Refused(TopicRefusal),
}

impl Failure for Error {
    fn reason(&self) -> Reason {
        match self {
            Self::Kube(error) if error.is_transient() => Reason::KubernetesUnavailable,
            Self::Kube(_) => Reason::KubernetesRefused,
            Self::Admin(AdminError::Unavailable(_) | AdminError::Deadline(_)) => Reason::KafkaUnavailable,
            Self::Admin(_) => Reason::KafkaRefused,
            Self::Invalid(all) if all.iter().any(|invalid| invalid.field == "spec.topicName") => Reason::NameTaken,
            Self::Refused(refusal) if refusal.field == "spec.topicName" => Reason::NotOurs,
            Self::Invalid(_) | Self::Refused(_) => Reason::InvalidSpec,
        }
    }
    fn is_transient(&self) -> bool {
        match self {
            Self::Kube(error) => error.is_transient(),
            Self::Admin(error) => error.is_transient(),
            Self::Invalid(_) | Self::Refused(_) => false,
        }
    }
    fn words(&self) -> String {
        match self {
            Self::Kube(error) => error.words(),
            other => other.to_string(),
        }
    }
}

/// The kind, for the driver.
pub struct TopicKind;

/// What a look came to: the topic as seen, the state, and whether to look again soon.
struct Look {
    topic: Option<TopicDescription>,
    state: State,
    soon: bool,
}

impl Kind for TopicKind {
    type Object = Topic;
    type Status = TopicStatus;

    fn status(object: &Topic) -> Option<&TopicStatus> {
        object.status.as_ref()
    }
    fn conditions(status: &TopicStatus) -> &[Condition] {
        &status.conditions
    }
    fn watches() -> Vec<Watch> {
        Vec::new()
    }
    fn cluster(object: &Topic) -> Option<ClusterKey> {
        Some(object.spec.cluster_ref.key(object.metadata.namespace.as_deref().unwrap_or_default()))
    }
    fn remember(context: &Context, store: Store<Topic>) {
        context.topics.add(store);
    }

    async fn reconcile(object: Arc<Topic>, context: Arc<Context>) -> Outcome<TopicStatus> {
        let now = Time(Timestamp::now());
        let deleting = object.metadata.deletion_timestamp.is_some();
        let result = if deleting { end(&object, &context).await } else { look(&object, &context).await.map(Some) };
        match result {
            Ok(None) => Outcome { status: None, state: State::Ready, requeue: Requeue::After(LOOK_AGAIN) },
            Ok(Some(Look { topic, state, soon })) => {
                let status = status::status(&object, topic.as_ref(), &state, &now);
                Outcome { status: Some(status), state, requeue: Requeue::After(if soon { LOOK_SOON } else { LOOK_AGAIN }) }
            }
            Err(error) => {
                let state = error.state();
                let status = status::status(&object, None, &state, &now);
                let requeue = if error.is_transient() { Requeue::Backoff } else { Requeue::After(LOOK_AGAIN) };
                Outcome { status: Some(status), state, requeue }
            }
        }
    }
}

async fn look(object: &Topic, context: &Context) -> Result<Look, Error> {
    let (observed, asked) = match observe::observe(context, object).await? {
        Ok(observed) => observed,
        Err(dependence) => return Ok(Look { topic: None, state: dependence.state_of::<TopicKind>(object), soon: false }),
    };
    let topic = validate::validate(object, &observed).map_err(Error::Invalid)?;
    let wanted = desired::desired(&topic);
    let steps = plan::plan(object, &wanted, &observed).map_err(Error::Refused)?;
    for step in &steps {
        tracing::info!(topic = topic.name, ?step, "step");
        apply::apply(&context.client, asked.admin.as_ref(), object, &topic.name, step).await?;
    }
    let seen = observed.topic.map(|(topic, _)| topic);
    let changed = steps.iter().any(|step| *step != plan::Step::AddFinalizer);
    if changed {
        return Ok(Look { topic: seen, state: State::reconciling(Reason::Applying, "the topic is being changed"), soon: true });
    }
    Ok(Look { topic: seen, state: State::Ready, soon: false })
}

/// `None`: the finalizer is gone.
async fn end(object: &Topic, context: &Context) -> Result<Option<Look>, Error> {
    if !kube_io::has_finalizer(object) {
        return Ok(None);
    }
    match observe::observe(context, object).await? {
        // What is gone, or never let us in, cannot strand its Topics.
        Err(Dependence::Missing(_) | Dependence::Forbidden { .. }) => {}
        Err(waiting) => return Ok(Some(Look { topic: None, state: waiting.state(), soon: false })),
        Ok((observed, asked)) => match plan::end(object, &observed) {
            End::Release => {}
            End::Delete(id) => asked.admin.delete_topic(id).await?,
            End::Refuse => {
                let name = validate::topic_name(object);
                let why = format!(
                    "topic {name} holds records; to delete them with it, annotate this Topic with {}: {name}",
                    labels::CONFIRM_DELETE
                );
                let topic = observed.topic.map(|(topic, _)| topic);
                return Ok(Some(Look { topic, state: State::stalled(Reason::TopicHoldsRecords, why), soon: false }));
            }
        },
    }
    kube_io::set_finalizer(&context.client, object, false).await?;
    Ok(None)
}
