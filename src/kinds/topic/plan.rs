//! Wanted topic and observed world -> the steps between them. Pure.

use super::api::{Topic, TopicDeletionPolicy};
use super::observe::Observed;
use super::validate::topic_name;
use crate::kafka::topic_plan::{self, TopicChange, TopicRefusal, WantedTopic};
use crate::{kube_io, labels};

/// One write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    AddFinalizer,
    Change(TopicChange),
}

/// Plans the next steps.
///
/// # Errors
/// What the topic cannot become.
pub fn plan(object: &Topic, wanted: &WantedTopic, observed: &Observed) -> Result<Vec<Step>, TopicRefusal> {
    // A topic that exists and that this object did not make is somebody's: adoption comes in a later version.
    let managed = object.status.as_ref().and_then(|status| status.topic_id.as_ref());
    if let (Some((found, _)), None) = (&observed.topic, managed)
        && !kube_io::has_finalizer(object)
    {
        let why = format!("topic {} exists and was not made by this Topic (id {}); take another name", found.name, found.id);
        return Err(TopicRefusal { field: "spec.topicName", why });
    }
    let changes = topic_plan::changes(wanted, observed.topic.as_ref().map(|(topic, config)| (topic, config)))?;
    let finalizer = (!kube_io::has_finalizer(object)).then_some(Step::AddFinalizer);
    Ok(finalizer.into_iter().chain(changes.into_iter().map(Step::Change)).collect())
}

/// What the end of a Topic does to the topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The topic stays, or there is none.
    Release,
    Delete(uuid::Uuid),
    /// It holds records, and nobody confirmed.
    Refuse,
}

/// Decides the end.
pub fn end(object: &Topic, observed: &Observed) -> End {
    let Some((found, _)) = &observed.topic else { return End::Release };
    let managed = object.status.as_ref().and_then(|status| status.topic_id.as_ref());
    // Only the topic that this object manages is deleted: not one that somebody else made under its name.
    let ours = managed.is_none_or(|id| *id == found.id.to_string()) && observed.older.is_none();
    if !ours || object.spec.deletion_policy == TopicDeletionPolicy::Retain {
        return End::Release;
    }
    let annotations = object.metadata.annotations.as_ref();
    let confirmed = annotations.and_then(|all| all.get(labels::CONFIRM_DELETE)).is_some_and(|name| name == topic_name(object));
    if observed.holds_records && !confirmed { End::Refuse } else { End::Delete(found.id) }
}
