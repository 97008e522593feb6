//! Valid topic -> the topic as Kafka should have it. Pure; cannot fail.

use super::validate::ValidTopic;
use crate::kafka::topic_plan::WantedTopic;

pub fn desired(topic: &ValidTopic) -> WantedTopic {
    let ValidTopic { name, partitions, replicas, config } = topic.clone();
    WantedTopic { name, partitions, replicas, config }
}
