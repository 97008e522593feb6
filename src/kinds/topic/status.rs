//! What was learned, or the error -> a Topic's new status. Pure.

use super::api::{Topic, TopicStatus};
use super::validate::topic_name;
use crate::conditions::{State, conditions};
use crate::kafka_admin::TopicDescription;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// The status with a state; `topic` where the topic was seen.
pub fn status(object: &Topic, topic: Option<&TopicDescription>, state: &State, now: &Time) -> TopicStatus {
    let old = object.status.clone().unwrap_or_default();
    let count = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    TopicStatus {
        observed_generation: object.metadata.generation,
        conditions: conditions(state, object.metadata.generation, &old.conditions, now),
        reason: if *state == State::Ready { String::new() } else { state.words().0.to_string() },
        topic_name: Some(topic_name(object).to_owned()),
        topic_id: topic.map(|topic| topic.id.to_string()).or(old.topic_id),
        partitions: topic.map(|topic| count(topic.partitions.len())).or(old.partitions),
        replicas: topic.and_then(|topic| topic.partitions.first()).map(|partition| count(partition.replicas.len())).or(old.replicas),
    }
}
