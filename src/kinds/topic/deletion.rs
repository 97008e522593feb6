//! The conditions for deleting a topic with its Topic: the policy, a confirmation, and whether
//! records can be counted. Pure.

use crate::api::topic::{Topic, TopicDeletionPolicy};
use crate::kubernetes::labels;
use freehold_kafka::metadata_image::TopicImage;

/// True if the deletion depends on whether the topic holds records: not if the topic is retained,
/// nor after a confirmation. A topic with a lost partition, whose records nobody can count, must be
/// deletable.
pub fn asks_for_records(object: &Topic) -> bool {
    object.spec.deletion_policy != TopicDeletionPolicy::Retain && !is_confirmed(object)
}

/// True if the annotation confirms the deletion of the topic with its records.
pub fn is_confirmed(object: &Topic) -> bool {
    let annotations = object.metadata.annotations.as_ref();
    annotations
        .and_then(|all| all.get(labels::CONFIRM_DELETE))
        .is_some_and(|name| name == object.topic_name())
}

/// The indexes of the partitions without a leader.
pub fn leaderless(topic: &TopicImage) -> impl Iterator<Item = usize> + '_ {
    topic
        .partitions
        .iter()
        .enumerate()
        .filter(|(_, partition)| partition.leader < 0)
        .map(|(index, _)| index)
}
