//! What was learned, or the error -> a Topic's new status. Pure.

use super::api::{ReassignmentStatus, Topic, TopicStatus};
use super::validate::topic_name;
use crate::conditions::{State, conditions};
use crate::kafka::metadata_image::{TopicImage, id_text};
use crate::kafka::topic_plan::Progress;
use crate::kafka_admin::figures::Figure;
use crate::kinds::drift;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// What a look came to.
#[derive(Clone, Debug, Default)]
pub struct Learned {
    pub topic: Option<TopicImage>,
    pub figure: Option<Figure>,
    pub progress: Option<Progress>,
    /// What was put right.
    pub drift: Vec<String>,
    /// The topic that it managed is gone.
    pub forgets: bool,
}

/// The status with a state. What was not learned stays as it was.
pub fn status(object: &Topic, learned: &Learned, state: &State, now: &Time) -> TopicStatus {
    let old = object.status.clone().unwrap_or_default();
    let Learned { topic, figure, progress, drift, forgets } = learned;
    let count = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    TopicStatus {
        observed_generation: object.metadata.generation,
        conditions: conditions(state, object.metadata.generation, &old.conditions, now),
        reason: if *state == State::Ready { String::new() } else { state.words().0.to_string() },
        topic_name: Some(topic_name(object).to_owned()),
        topic_id: topic.as_ref().map(|topic| id_text(topic.id)).or(old.topic_id.filter(|_| !forgets)),
        partitions: topic.as_ref().map(|topic| count(topic.partitions.len())).or(old.partitions),
        replicas: topic.as_ref().and_then(|topic| topic.partitions.first()).map(|first| count(first.target().len())).or(old.replicas),
        under_replicated: figure.map(|figure| figure.under_replicated).or(old.under_replicated),
        bytes: figure.map(|figure| figure.bytes).or(old.bytes),
        records: figure.map(|figure| figure.records).or(old.records),
        reassignment: progress.map(|progress| ReassignmentStatus {
            replicas: progress.replicas,
            partitions: format!("{}/{}", progress.partitions_done, progress.partitions),
        }),
        drift: drift::status(drift, old.drift, now),
    }
}
