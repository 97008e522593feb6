//! Where the logs of partitions begin and end, and the deletion of records: each is asked of the
//! broker that leads the partition.

use crate::client::Client;
use crate::requests::{check, topic_name};
use crate::{AdminError, AdminResult, Each, Leaders, RecordsBefore};
use futures::future::join_all;
use kafka_protocol::messages as m;
use std::collections::{BTreeMap, HashMap};

/// Timestamps of ListOffsets that stand for the ends of a log.
pub const END: i64 = -1;
pub const START: i64 = -2;

/// How long a leader may wait for the followers. It deletes its own records at once.
const FOLLOWERS_LIMIT_MS: i32 = 2_000;

/// Offset of each partition.
type Offsets = BTreeMap<i32, i64>;

/// The offset of each partition at a timestamp. Sends one request to each leader.
pub async fn offsets(client: &Client, topics: &[Leaders], timestamp: i64) -> Each<Offsets> {
    use m::list_offsets_request::ListOffsetsPartition;
    let mut by_leader: BTreeMap<i32, BTreeMap<&str, Vec<ListOffsetsPartition>>> = BTreeMap::new();
    for topic in topics {
        for (partition, leader) in &topic.partitions {
            let asked = ListOffsetsPartition::default()
                .with_partition_index(*partition)
                .with_current_leader_epoch(-1)
                .with_timestamp(timestamp);
            let of_leader = by_leader.entry(*leader).or_default();
            of_leader.entry(&topic.topic).or_default().push(asked);
        }
    }
    let asked = by_leader.into_iter().map(|(leader, topics)| async move {
        let names: Vec<&str> = topics.keys().copied().collect();
        (
            names,
            client.send_to(leader, &list_request(topics), 7).await,
        )
    });
    let mut all: HashMap<String, AdminResult<Offsets>> = HashMap::new();
    for (names, answer) in join_all(asked).await {
        match answer {
            Err(error) => {
                let failed = names.into_iter();
                all.extend(failed.map(|name| (name.to_owned(), Err(error.clone()))));
            }
            Ok(response) => response
                .topics
                .iter()
                .for_each(|topic| add(&mut all, topic)),
        }
    }
    let missing = || Err(AdminError::Protocol("ListOffsets without the topic".into()));
    topics
        .iter()
        .map(|topic| match topic.partitions.is_empty() {
            true => Ok(BTreeMap::new()),
            false => all.remove(&topic.topic).unwrap_or_else(missing),
        })
        .collect()
}

fn list_request(
    topics: BTreeMap<&str, Vec<m::list_offsets_request::ListOffsetsPartition>>,
) -> m::ListOffsetsRequest {
    let topics = topics.into_iter().map(|(name, partitions)| {
        m::list_offsets_request::ListOffsetsTopic::default()
            .with_name(topic_name(name))
            .with_partitions(partitions)
    });
    // A client has the replica id -1. The field's default is 0, which is a broker.
    m::ListOffsetsRequest::default()
        .with_replica_id(m::BrokerId(-1))
        .with_topics(topics.collect())
}

/// Adds what one leader said of a topic: its offsets, or the error of the whole topic.
fn add(
    all: &mut HashMap<String, AdminResult<Offsets>>,
    topic: &m::list_offsets_response::ListOffsetsTopicResponse,
) {
    let known = all.entry(topic.name.0.to_string());
    let known = known.or_insert_with(|| Ok(BTreeMap::new()));
    for partition in &topic.partitions {
        match check("ListOffsets", partition.error_code, None) {
            Err(error) => *known = Err(error),
            Ok(()) => {
                if let Ok(offsets) = known {
                    offsets.insert(partition.partition_index, partition.offset);
                }
            }
        }
    }
}

/// Deletes the records before an offset of each partition. Sends one request to each leader.
pub async fn delete_records(client: &Client, before: &[RecordsBefore]) -> Each<()> {
    let mut by_leader: BTreeMap<i32, Vec<&RecordsBefore>> = BTreeMap::new();
    for one in before {
        by_leader.entry(one.leader).or_default().push(one);
    }
    let asked = by_leader.into_iter().map(|(leader, parts)| async move {
        let answer = client.send_to(leader, &delete_request(&parts), 2).await;
        (parts, answer)
    });
    let mut all = HashMap::new();
    for (parts, answer) in join_all(asked).await {
        for one in parts {
            let result = match &answer {
                Err(error) => Err(error.clone()),
                Ok(response) => deleted(response, one),
            };
            all.insert((&*one.topic, one.partition), result);
        }
    }
    let mut results = Vec::with_capacity(before.len());
    for one in before {
        let missing = || Err(AdminError::Protocol("DeleteRecords of it twice".into()));
        let result = all.remove(&(&*one.topic, one.partition));
        results.push(result.unwrap_or_else(missing));
    }
    results
}

fn delete_request(parts: &[&RecordsBefore]) -> m::DeleteRecordsRequest {
    use m::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
    let mut topics: BTreeMap<&str, Vec<DeleteRecordsPartition>> = BTreeMap::new();
    for one in parts {
        let partition = DeleteRecordsPartition::default()
            .with_partition_index(one.partition)
            .with_offset(one.offset);
        topics.entry(&one.topic).or_default().push(partition);
    }
    let topics = topics.into_iter().map(|(name, partitions)| {
        DeleteRecordsTopic::default()
            .with_name(topic_name(name))
            .with_partitions(partitions)
    });
    m::DeleteRecordsRequest::default()
        .with_topics(topics.collect())
        .with_timeout_ms(FOLLOWERS_LIMIT_MS)
}

fn deleted(response: &m::DeleteRecordsResponse, one: &RecordsBefore) -> AdminResult<()> {
    let mut topics = response.topics.iter();
    let topic = topics.find(|topic| *topic.name.0 == *one.topic);
    let partition = topic.and_then(|topic| {
        let mut partitions = topic.partitions.iter();
        partitions.find(|partition| partition.partition_index == one.partition)
    });
    match partition {
        Some(partition) => check("DeleteRecords", partition.error_code, None),
        None => Err(AdminError::Protocol(
            "DeleteRecords without the partition".into(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use m::delete_records_response::{DeleteRecordsPartitionResult, DeleteRecordsTopicResult};
    use m::list_offsets_response::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse};

    fn before(topic: &str, partition: i32, offset: i64) -> RecordsBefore {
        RecordsBefore {
            topic: topic.into(),
            partition,
            leader: 1,
            offset,
        }
    }

    #[test]
    fn a_request_has_each_topic_once_with_its_own_offsets() {
        let parts = [before("a", 0, 5), before("b", 2, 7), before("a", 1, 6)];
        let request = delete_request(&parts.iter().collect::<Vec<_>>());
        let found: Vec<_> = request
            .topics
            .iter()
            .map(|topic| {
                let partitions = topic.partitions.iter();
                let offsets = partitions.map(|one| (one.partition_index, one.offset));
                (topic.name.0.to_string(), offsets.collect::<Vec<_>>())
            })
            .collect();
        let expected = [("a", vec![(0, 5), (1, 6)]), ("b", vec![(2, 7)])];
        assert_eq!(
            found,
            expected.map(|(name, parts)| (name.to_owned(), parts))
        );
        assert!(request.timeout_ms > 0);
    }

    #[test]
    fn each_partition_has_its_own_result() {
        let result = |partition, error| {
            DeleteRecordsPartitionResult::default()
                .with_partition_index(partition)
                .with_error_code(error)
        };
        let topic = DeleteRecordsTopicResult::default()
            .with_name(topic_name("a"))
            .with_partitions(vec![result(0, 0), result(1, 1)]);
        let response = m::DeleteRecordsResponse::default().with_topics(vec![topic]);
        assert!(deleted(&response, &before("a", 0, 5)).is_ok());
        let behind_the_end = deleted(&response, &before("a", 1, 5)).unwrap_err();
        assert!(behind_the_end.is("OffsetOutOfRange"), "{behind_the_end}");
        for unknown in [before("a", 2, 5), before("b", 0, 5)] {
            let error = deleted(&response, &unknown).unwrap_err();
            assert!(matches!(error, AdminError::Protocol(_)), "{error}");
        }
    }

    #[test]
    fn a_partition_that_failed_fails_its_topic() {
        let partition = |index, error, offset| {
            ListOffsetsPartitionResponse::default()
                .with_partition_index(index)
                .with_error_code(error)
                .with_offset(offset)
        };
        let topic = |name, partitions| {
            ListOffsetsTopicResponse::default()
                .with_name(topic_name(name))
                .with_partitions(partitions)
        };
        let mut all = HashMap::new();
        // Two leaders say something of the same topic.
        add(&mut all, &topic("a", vec![partition(0, 0, 3)]));
        add(&mut all, &topic("a", vec![partition(1, 0, 4)]));
        add(&mut all, &topic("b", vec![partition(1, 6, -1)]));
        add(&mut all, &topic("b", vec![partition(0, 0, 4)]));
        let offsets = all.remove("a").unwrap().unwrap();
        assert_eq!(offsets, BTreeMap::from([(0, 3), (1, 4)]));
        assert!(all.remove("b").unwrap().is_err());
    }
}
