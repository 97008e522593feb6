//! Finds out which topics cannot be read. Kafka's client says it once, and not that it is over.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::consumer::{Consumer as _, ConsumerGroupMetadata};
use rdkafka::error::{KafkaResult, RDKafkaErrorCode as Code};

use crate::blocks::Blocks;
use crate::consumer::StageConsumer;
use crate::producer::Producer;
use crate::stage_loop::{Ownership, StageError, StageLoop};

/// Time between two checks. A stage that starts has its partitions before the first one.
pub(crate) const CHECK_EVERY: Duration = Duration::from_secs(3);

/// How long the brokers may take to tell of one topic: the loop stands still meanwhile.
const PATIENCE: Duration = Duration::from_secs(1);

impl<P, B, F> StageLoop<'_, P, B, F>
where
    P: Producer<Group = ConsumerGroupMetadata>,
    B: Blocks,
    F: Fn() -> Result<P, StageError>,
{
    /// Asks the brokers for the topics while there is a sign that one cannot be read: an error, or
    /// no partition of it. More members than partitions are such a sign, too, and no problem.
    pub(super) fn check_sources(&mut self) {
        let now = Instant::now();
        if now < self.next_check {
            return;
        }
        self.next_check = now + CHECK_EVERY;
        let has_partition = |topic: &String| self.owned.iter().any(|owned| *owned.topic == **topic);
        let is_suspicious = self.source_failed
            || self.ownership != Ownership::Active
            || !self.config.topics.iter().all(has_partition);
        if !is_suspicious {
            self.figures.set_unreadable(BTreeMap::new());
            return;
        }
        // Without an answer nothing new is known.
        if !self.figures.is_disconnected()
            && let Ok(unreadable) = unreadable(self.consumer, &self.config.topics)
        {
            self.source_failed = !unreadable.is_empty();
            self.figures.set_unreadable(unreadable);
        }
    }
}

/// The topics that cannot be read, with why.
///
/// # Errors
/// The brokers did not tell.
pub(crate) fn unreadable(
    consumer: &StageConsumer,
    topics: &[String],
) -> KafkaResult<BTreeMap<String, String>> {
    let mut unreadable = BTreeMap::new();
    for topic in topics {
        let metadata = consumer.fetch_metadata(Some(topic), PATIENCE)?;
        let found = metadata.topics().iter().find(|found| found.name() == topic);
        if let Some(error) = found.and_then(|found| found.error()) {
            let why = format!("topic {topic}: {}", Code::from(error));
            unreadable.insert(topic.clone(), why);
        }
    }
    Ok(unreadable)
}

/// Whether an error of the consumer is about a topic that it reads.
pub(crate) fn is_about_source(code: Option<Code>) -> bool {
    matches!(
        code,
        Some(
            Code::UnknownTopicOrPartition
                | Code::UnknownTopic
                | Code::UnknownPartition
                | Code::TopicAuthorizationFailed
        )
    )
}
