//! Builds the topic as Kafka should have it, from the valid Topic. Pure; it cannot fail.

use crate::kinds::topic::validate::ValidTopic;
use freehold_kafka::topic_plan::WantedTopic;

/// The topic as Kafka should have it.
pub fn desired(topic: &ValidTopic) -> WantedTopic {
    let ValidTopic {
        name,
        partitions,
        replicas,
        config,
    } = topic.clone();
    WantedTopic {
        name,
        partitions,
        replicas,
        config,
    }
}
