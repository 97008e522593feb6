//! Computes a Topic's new status from the result of a reconcile or from its error. Pure.

use crate::api::conditions::{State, conditions};
use crate::api::topic::{ReassignmentStatus, Topic, TopicStatus};
use crate::kinds::drift;
use freehold_kafka::metadata_image::{TopicImage, id_text};
use freehold_kafka::topic_plan::Progress;
use freehold_kafka_client::figures::Figure;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// What a reconcile has learned.
#[derive(Clone, Debug, Default)]
pub struct Learned {
    pub topic: Option<TopicImage>,
    pub figure: Option<Figure>,
    pub progress: Option<Progress>,
    /// The changes of others that were undone.
    pub drift: Vec<String>,
    /// Warnings about settings that are allowed but unwise; `None` if they were not checked.
    pub warnings: Option<Vec<String>>,
    /// True if the topic that it managed is gone.
    pub forgets: bool,
}

/// The new status. Values that were not learned keep their old value.
pub fn status(object: &Topic, learned: &Learned, state: &State, now: &Time) -> TopicStatus {
    let old = object.status.clone().unwrap_or_default();
    let Learned {
        topic,
        figure,
        progress,
        drift,
        warnings,
        forgets,
    } = learned;
    let count = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    TopicStatus {
        observed_generation: object.metadata.generation,
        conditions: conditions(state, object.metadata.generation, &old.conditions, now),
        reason: if *state == State::Ready {
            String::new()
        } else {
            state.words().0.to_string()
        },
        warnings: warnings.clone().unwrap_or(old.warnings),
        topic_name: Some(object.topic_name().to_owned()),
        topic_id: topic
            .as_ref()
            .map(|topic| id_text(topic.id))
            .or(old.topic_id.filter(|_| !forgets)),
        partitions: topic
            .as_ref()
            .map(|topic| count(topic.partitions.len()))
            .or(old.partitions),
        replicas: topic
            .as_ref()
            .and_then(|topic| topic.partitions.first())
            .map(|first| count(first.target().len()))
            .or(old.replicas),
        under_replicated: figure
            .map(|figure| figure.under_replicated)
            .or(old.under_replicated),
        bytes: figure.map(|figure| figure.bytes).or(old.bytes),
        records: figure.map(|figure| figure.records).or(old.records),
        reassignment: progress.map(|progress| ReassignmentStatus {
            replicas: progress.replicas,
            partitions: format!("{}/{}", progress.partitions_done, progress.partitions),
        }),
        drift: drift::status(drift, old.drift, now),
    }
}
