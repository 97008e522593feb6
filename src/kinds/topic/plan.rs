//! Wanted topic and observed world -> the steps between them. Pure.

use super::api::{Adoption, Topic, TopicDeletionPolicy};
use super::observe::Observed;
use super::validate::topic_name;
use crate::conditions::Reason;
use crate::kafka::metadata_image::{TopicImage, id_text};
use crate::kafka::topic_plan::{self, THROTTLE_RATES, TopicChange, WantedTopic};
use crate::kinds::drift;
use crate::kinds::error::Invalid;
use crate::{kube_io, labels};
use std::fmt;

/// One write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    AddFinalizer,
    /// The brokers' throttle for replicas that move, bytes per second.
    SetThrottle(i64),
    Change(TopicChange),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddFinalizer => write!(f, "add the finalizer"),
            Self::SetThrottle(rate) => write!(f, "set the brokers' throttle to {rate} bytes per second"),
            Self::Change(change) => write!(f, "{change}"),
        }
    }
}

/// What to do, and what somebody else did that it undoes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub steps: Vec<Step>,
    pub drift: Vec<String>,
}

/// The id of the topic that this object made or took over.
fn managed(object: &Topic) -> Option<&str> {
    object.status.as_ref()?.topic_id.as_deref()
}

/// Plans the next steps.
///
/// # Errors
/// What the topic cannot become, or that it is not this object's.
pub fn plan(object: &Topic, wanted: &WantedTopic, observed: &Observed) -> Result<Plan, Vec<Invalid>> {
    let mut plan = Plan::default();
    let found = observed.topic.as_ref();
    let differences = found.map(|topic| topic_plan::differences(wanted, topic)).unwrap_or_default();
    let settled = object.status.as_ref().is_some_and(|status| drift::was_settled(&status.conditions, object.metadata.generation));
    match (found, managed(object)) {
        (Some(topic), None) if !kube_io::has_finalizer(object) => adopt(object, topic, &differences)?,
        (Some(topic), Some(id)) if id_text(topic.id) != id => {
            if object.spec.adoption == Adoption::Never {
                let why = format!(
                    "topic {} was deleted and made again by somebody else (id {}, not {id}), and adoption is Never",
                    wanted.name,
                    id_text(topic.id)
                );
                return Err(vec![Invalid::new("spec.adoption", why).because(Reason::NotOurs)]);
            }
            plan.drift.push(format!("the topic was deleted and made again (id {}, not {id})", id_text(topic.id)));
            plan.drift.extend(differences);
        }
        (Some(_), Some(_)) if settled => plan.drift = differences,
        (None, Some(id)) => plan.drift.push(format!("the topic was deleted (id {id}) with what it held")),
        _ => {}
    }
    let changes =
        topic_plan::changes(wanted, found, &observed.brokers).map_err(|refusal| vec![Invalid::new(refusal.field, refusal.why)])?;
    if !kube_io::has_finalizer(object) {
        plan.steps.push(Step::AddFinalizer);
    }
    let rate = observed.cluster.throttle_bytes;
    let throttled = THROTTLE_RATES.iter().all(|key| observed.brokers_config.get(*key) == Some(&rate.to_string()));
    if !throttled && changes.iter().any(|change| matches!(change, TopicChange::Reassign(_))) {
        plan.steps.push(Step::SetThrottle(rate));
    }
    plan.steps.extend(changes.into_iter().map(Step::Change));
    Ok(plan)
}

/// Whether a topic that exists and that this object did not make becomes its own.
fn adopt(object: &Topic, topic: &TopicImage, differences: &[String]) -> Result<(), Vec<Invalid>> {
    let name = topic_name(object);
    let why = match object.spec.adoption {
        Adoption::Always => return Ok(()),
        Adoption::IfIdentical if differences.is_empty() => return Ok(()),
        Adoption::IfIdentical => format!(
            "topic {name} exists (id {}) and differs: {}; make the spec as it is, or set adoption: Always to change the topic, or take another name",
            topic.id,
            differences.join("; ")
        ),
        Adoption::Never => format!("topic {name} exists (id {}) and adoption is Never; take another name", topic.id),
    };
    Err(vec![Invalid::new("spec.adoption", why).because(Reason::NotOurs)])
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
    let Some(found) = &observed.topic else { return End::Release };
    // Only the topic that this object manages is deleted: not one that somebody else made under its name.
    let ours = managed(object).is_none_or(|id| *id == id_text(found.id)) && observed.older.is_none();
    if !ours || object.spec.deletion_policy == TopicDeletionPolicy::Retain {
        return End::Release;
    }
    let annotations = object.metadata.annotations.as_ref();
    let confirmed = annotations.and_then(|all| all.get(labels::CONFIRM_DELETE)).is_some_and(|name| name == topic_name(object));
    if observed.holds_records && !confirmed { End::Refuse } else { End::Delete(found.id) }
}
