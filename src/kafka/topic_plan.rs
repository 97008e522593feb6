//! What must change in Kafka to make a topic as a spec says. Pure.

use crate::kafka_admin::TopicDescription;
use std::collections::BTreeMap;

/// A topic as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedTopic {
    pub name: String,
    pub partitions: i32,
    /// -1: the cluster's default.
    pub replicas: i16,
    pub config: BTreeMap<String, String>,
}

/// A change of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TopicChange {
    Create(WantedTopic),
    AddPartitions {
        count: i32,
    },
    /// `Some`: set; `None`: back to the default.
    AlterConfig(BTreeMap<String, Option<String>>),
}

/// Why a topic cannot become what it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicRefusal {
    pub field: &'static str,
    pub why: String,
}

/// The changes from what is found (with the configs set on the topic itself) to what is wanted.
///
/// # Errors
/// More partitions than wanted, or another replication factor than the one asked for: neither is changed here.
pub fn changes(
    wanted: &WantedTopic,
    found: Option<(&TopicDescription, &BTreeMap<String, String>)>,
) -> Result<Vec<TopicChange>, TopicRefusal> {
    let Some((topic, config)) = found else { return Ok(vec![TopicChange::Create(wanted.clone())]) };
    let partitions = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
    if partitions > wanted.partitions {
        let why = format!("the topic has {partitions} partitions, and a topic cannot lose any; set {partitions} or more");
        return Err(TopicRefusal { field: "spec.partitions", why });
    }
    let replicas = topic.partitions.first().map_or(0, |partition| partition.replicas.len());
    if wanted.replicas > 0 && replicas != usize::try_from(wanted.replicas).unwrap_or(0) {
        let why =
            format!("the topic has {replicas} replicas; changing them is not supported in this version: set {replicas}, or leave it out");
        return Err(TopicRefusal { field: "spec.replicas", why });
    }
    let mut changes = Vec::new();
    if partitions < wanted.partitions {
        changes.push(TopicChange::AddPartitions { count: wanted.partitions });
    }
    let set =
        wanted.config.iter().filter(|(key, value)| config.get(*key) != Some(value)).map(|(key, value)| (key.clone(), Some(value.clone())));
    let removed = config.keys().filter(|key| !wanted.config.contains_key(*key)).map(|key| (key.clone(), None));
    let altered: BTreeMap<_, _> = set.chain(removed).collect();
    if !altered.is_empty() {
        changes.push(TopicChange::AlterConfig(altered));
    }
    Ok(changes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka_admin::PartitionDescription;

    fn wanted() -> WantedTopic {
        let config = BTreeMap::from([("retention.ms".to_owned(), "1000".to_owned())]);
        WantedTopic { name: "t".into(), partitions: 3, replicas: 2, config }
    }

    fn found(partitions: i32) -> TopicDescription {
        let partitions = (0..partitions).map(|index| PartitionDescription { index, leader: 1, replicas: vec![1, 2], in_sync: vec![1, 2] });
        TopicDescription { name: "t".into(), id: uuid::Uuid::nil(), internal: false, partitions: partitions.collect() }
    }

    #[test]
    fn a_missing_topic_is_created_and_an_equal_one_left_alone() {
        assert_eq!(changes(&wanted(), None), Ok(vec![TopicChange::Create(wanted())]));
        assert_eq!(changes(&wanted(), Some((&found(3), &wanted().config))), Ok(vec![]));
    }

    #[test]
    fn a_config_that_left_the_spec_goes_back_to_its_default() {
        let config = BTreeMap::from([("retention.ms".to_owned(), "5".to_owned()), ("max.message.bytes".to_owned(), "9".to_owned())]);
        let altered = BTreeMap::from([("retention.ms".to_owned(), Some("1000".to_owned())), ("max.message.bytes".to_owned(), None)]);
        assert_eq!(
            changes(&wanted(), Some((&found(2), &config))),
            Ok(vec![TopicChange::AddPartitions { count: 3 }, TopicChange::AlterConfig(altered)])
        );
    }

    #[test]
    fn fewer_partitions_and_other_replicas_are_refused_by_field() {
        assert_eq!(changes(&wanted(), Some((&found(4), &wanted().config))).unwrap_err().field, "spec.partitions");
        let three = WantedTopic { replicas: 3, ..wanted() };
        assert_eq!(changes(&three, Some((&found(3), &wanted().config))).unwrap_err().field, "spec.replicas");
    }
}
