//! Which records of internal topics are deleted, and when it is time to look: Kafka keeps them
//! until every stage that reads them has processed them, as Kafka Streams does with its repartition
//! topics. Pure.
//!
//! A stage begins at its committed offset, or, without one, where the log begins. So records are
//! deleted exactly up to a committed offset: a stage whose group Kafka has forgotten then begins at
//! a record that was not processed, and a sink of S3 at the name of a file.

use crate::api::pipeline::Pipeline;
use crate::api::topic::Topic;
use crate::kinds::pipeline::desired::group;
use freehold_kafka::metadata_image::{TopicImage, id_text};
use freehold_kafka_client::{Committed, Leaders, RecordsBefore};
use freehold_pipeline::report::StageReport;
use freehold_pipeline::stages::{Cut, InternalTopic, Stage};
use kube::ResourceExt;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Time between two looks at the offsets of a Pipeline.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// While records flow, a partition waits until so many can be deleted: Kafka frees whole segments.
const RECORDS_MIN: i64 = 1_000;

/// When the offsets of a Pipeline were looked at.
#[derive(Clone, Copy, Debug, Default)]
pub struct Looks {
    last: Option<Instant>,
    /// Records have flowed since.
    is_due: bool,
}

impl Looks {
    /// The records that a partition must have to be deleted, if it is time to look. A Pipeline at
    /// rest is looked at once, and then all that is processed is deleted.
    pub fn due(&mut self, flows: bool, now: Instant) -> Option<i64> {
        self.is_due |= flows || self.last.is_none();
        let is_early = self.last.is_some_and(|last| now < last + LOOK_AGAIN);
        if is_early || !self.is_due {
            return None;
        }
        *self = Self {
            last: Some(now),
            is_due: flows,
        };
        Some(if flows { RECORDS_MIN } else { 1 })
    }

    /// The last look found out nothing.
    pub fn again(&mut self) {
        self.is_due = true;
    }
}

/// An internal topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Internal {
    pub leaders: Leaders,
    /// Where the log of each partition begins.
    pub starts: BTreeMap<i32, i64>,
    /// The groups of the stages that read it.
    pub readers: Vec<String>,
}

/// Whether a topic of Kafka is the one that this Pipeline has made.
pub fn is_own(
    object: &Pipeline,
    wanted: &InternalTopic,
    topic: &Topic,
    image: &TopicImage,
) -> bool {
    let namespace = object.namespace().unwrap_or_default();
    let uid = object.metadata.uid.as_deref().unwrap_or_default();
    let mut owners = topic.owner_references().iter();
    let status = topic.status.as_ref();
    !uid.is_empty()
        && owners.any(|owner| owner.uid == uid)
        && topic.spec.cluster_ref.key(&namespace) == object.spec.cluster_ref.key(&namespace)
        && topic.topic_name() == wanted.topic
        && status.and_then(|status| status.topic_id.as_deref()) == Some(&*id_text(image.id))
}

/// The groups of the stages that read a topic.
pub fn readers(object: &Pipeline, cut: &Cut, topic: &str) -> Vec<String> {
    let stages = cut.stages.iter().filter(|stage| reads(stage, topic));
    stages.map(|stage| group(object, &stage.name)).collect()
}

fn reads(stage: &Stage, topic: &str) -> bool {
    let sources = stage.definition.blocks.iter();
    let mut sources = sources.filter_map(|block| block.source.as_ref()?.kafka.as_ref());
    sources.any(|kafka| kafka.target.topic.as_deref() == Some(topic))
}

/// Whether records come to a stage that reads an internal topic, or wait there: a file of S3 is
/// committed long after its records came.
pub fn flows(cut: &Cut, reports: &[StageReport]) -> bool {
    let is_reader = |stage: &&Stage| cut.internal.iter().any(|one| reads(stage, &one.topic));
    let readers: Vec<&Stage> = cut.stages.iter().filter(is_reader).collect();
    reports.iter().any(|report| {
        let mut blocks = report.blocks.iter();
        let comes = blocks.any(|block| block.in_per_second > 0.0);
        let waits = report.lag.is_some_and(|lag| lag > 0);
        readers.iter().any(|stage| stage.name == report.stage) && (comes || waits)
    })
}

/// What to delete: of each partition what all of its readers have processed, if that is at least
/// `least` records. `committed` is of all groups of the Pipeline: a stage of an earlier revision
/// stops if its next record is gone, so that its group counts until Kafka has forgotten it.
pub fn purge(
    topics: &[Internal],
    committed: &BTreeMap<String, Committed>,
    least: i64,
) -> Vec<RecordsBefore> {
    let mut before = Vec::new();
    for internal in topics {
        for (partition, leader) in &internal.leaders.partitions {
            let place = (internal.leaders.topic.clone(), *partition);
            let of_group = |group: &String| committed.get(group)?.get(&place);
            let is_known = |group: &String| of_group(group).is_some();
            if internal.readers.is_empty() || !internal.readers.iter().all(is_known) {
                continue;
            }
            let Some(start) = internal.starts.get(partition) else {
                continue;
            };
            let Some(processed) = committed.keys().filter_map(of_group).min() else {
                continue;
            };
            if processed - start >= least.max(1) {
                before.push(RecordsBefore {
                    topic: place.0,
                    partition: *partition,
                    leader: *leader,
                    offset: *processed,
                });
            }
        }
    }
    before
}

#[cfg(test)]
mod tests {
    use super::*;
    use freehold_kafka_client::Admin;
    use freehold_kafka_client::fake::FakeCluster;
    use freehold_pipeline::graph::Graph;
    use freehold_pipeline::report::BlockReport;
    use freehold_pipeline::stages::cut;
    use freehold_pipeline::topics::TopicNames;
    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;
    use serde_json::json;

    const TOPIC: &str = "shop.orders.slow";
    const READER: &str = "shop.orders.slow";

    fn pipeline() -> Pipeline {
        serde_json::from_value(json!({
            "metadata": {"name": "orders", "namespace": "shop", "uid": "u"},
            "spec": {"clusterRef": {"name": "demo"}, "blocks": [
                {"name": "in", "source": {"kafka": {"topic": "orders"}}},
                {"name": "slow", "from": ["in"], "isolate": true, "transform": {"vrl": "del(.a)"}},
                {"name": "out", "from": ["slow"], "sink": {"kafka": {"topic": "clean"}}},
                {"name": "files", "from": ["in"], "sink": {"s3": {
                    "bucket": "b", "credentials": {"name": "s"}}}},
            ]},
        }))
        .unwrap()
    }

    fn cut_of(object: &Pipeline) -> Cut {
        let definition = object.spec.definition();
        let graph = Graph::of(&definition).unwrap();
        cut(
            &graph,
            &definition,
            &TopicNames::default(),
            "shop",
            "orders",
        )
    }

    fn internal(starts: &[i64]) -> Internal {
        let partitions = (0..).zip(starts);
        Internal {
            leaders: Leaders {
                topic: TOPIC.to_owned(),
                partitions: (0..)
                    .zip(starts)
                    .map(|(partition, _)| (partition, 7))
                    .collect(),
            },
            starts: partitions
                .map(|(partition, start)| (partition, *start))
                .collect(),
            readers: vec![READER.to_owned()],
        }
    }

    fn committed(groups: &[(&str, &[i64])]) -> BTreeMap<String, Committed> {
        let place = |(partition, offset): (i32, &i64)| ((TOPIC.to_owned(), partition), *offset);
        let of = |offsets: &[i64]| (0..).zip(offsets).map(place).collect();
        let groups = groups.iter();
        groups
            .map(|(group, offsets)| ((*group).to_owned(), of(offsets)))
            .collect()
    }

    fn offsets(before: &[RecordsBefore]) -> Vec<(i32, i64)> {
        before
            .iter()
            .map(|one| (one.partition, one.offset))
            .collect()
    }

    #[test]
    fn what_is_processed_goes_exactly_to_the_committed_offset() {
        let topics = [internal(&[0, 500, 1_500])];
        let known = committed(&[(READER, &[5_000, 600, 1_500])]);
        let found = purge(&topics, &known, RECORDS_MIN);
        assert_eq!(offsets(&found), [(0, 5_000)], "few records wait for others");
        assert_eq!((&*found[0].topic, found[0].leader), (TOPIC, 7));
        let found = purge(&topics, &known, 1);
        assert_eq!(offsets(&found), [(0, 5_000), (1, 600)], "at rest all go");
    }

    #[test]
    fn without_a_committed_offset_of_each_reader_nothing_goes() {
        let topics = [internal(&[0, 0])];
        assert_eq!(purge(&topics, &committed(&[]), 1), []);
        let other = committed(&[("shop.orders.old", &[9_000, 9_000])]);
        assert_eq!(purge(&topics, &other, 1), [], "another group says nothing");
        let half = committed(&[(READER, &[9_000])]);
        assert_eq!(offsets(&purge(&topics, &half, 1)), [(0, 9_000)]);
        let unread = Internal {
            readers: Vec::new(),
            ..internal(&[0])
        };
        assert_eq!(purge(&[unread], &half, 1), []);
    }

    #[test]
    fn a_stage_of_an_earlier_revision_finds_what_it_has_not_processed() {
        let known = committed(&[(READER, &[9_000, 9_000]), ("shop.orders.old", &[4_000])]);
        let found = purge(&[internal(&[0, 0])], &known, 1);
        assert_eq!(offsets(&found), [(0, 4_000), (1, 9_000)]);
    }

    #[test]
    fn only_the_stages_behind_internal_topics_count_and_a_users_topic_is_none() {
        let object = pipeline();
        let cut = cut_of(&object);
        let topics: Vec<&str> = cut.internal.iter().map(|one| &*one.topic).collect();
        assert_eq!(
            topics,
            [TOPIC],
            "the files are made of the user's own topic"
        );
        assert_eq!(readers(&object, &cut, TOPIC), [READER]);
        let report = |stage: &str, rate| StageReport {
            stage: stage.to_owned(),
            blocks: vec![BlockReport {
                in_per_second: rate,
                ..BlockReport::default()
            }],
            ..StageReport::default()
        };
        assert!(flows(&cut, &[report("in", 0.0), report("slow", 0.5)]));
        let others = [report("in", 9.0), report("files", 9.0), report("slow", 0.0)];
        assert!(!flows(&cut, &others));
        let waits = StageReport {
            lag: Some(1),
            ..report("slow", 0.0)
        };
        assert!(flows(&cut, &[waits]));
    }

    #[test]
    fn a_topic_that_this_pipeline_has_not_made_is_left_alone() {
        let object = pipeline();
        let cut = cut_of(&object);
        let mut image = TopicImage {
            id: uuid::Uuid::from_u128(5),
            ..TopicImage::default()
        };
        let topic = |change: fn(&mut serde_json::Value)| -> Topic {
            let mut topic = json!({
                "metadata": {"name": "orders-slow", "namespace": "shop", "ownerReferences": [{
                    "apiVersion": "freehold.dev/v1alpha1", "kind": "Pipeline", "name": "orders",
                    "uid": "u",
                }]},
                "spec": {"clusterRef": {"name": "demo"}, "topicName": TOPIC, "partitions": 1},
                "status": {"topicId": id_text(uuid::Uuid::from_u128(5))},
            });
            change(&mut topic);
            serde_json::from_value(topic).unwrap()
        };
        let own =
            |topic: &Topic, image: &TopicImage| is_own(&object, &cut.internal[0], topic, image);
        assert!(own(&topic(|_| {}), &image));
        let others: [fn(&mut serde_json::Value); 4] = [
            |topic| topic["metadata"]["ownerReferences"][0]["uid"] = "earlier".into(),
            |topic| topic["spec"]["topicName"] = "orders".into(),
            |topic| topic["spec"]["clusterRef"]["name"] = "other".into(),
            |topic| topic["status"] = json!({}),
        ];
        for change in others {
            assert!(!own(&topic(change), &image));
        }
        image.id = uuid::Uuid::from_u128(6);
        assert!(!own(&topic(|_| {}), &image), "it was made again");
    }

    #[test]
    fn a_pipeline_at_rest_is_looked_at_once_and_one_that_flows_twice_a_minute() {
        let (mut looks, begin) = (Looks::default(), Instant::now());
        let mut at = |seconds, flows| looks.due(flows, begin + Duration::from_secs(seconds));
        assert_eq!(at(0, false), Some(1), "what an earlier operator has left");
        assert!((1..300).all(|second| at(second, false).is_none()));
        let flowing: Vec<_> = (300..390).filter_map(|second| at(second, true)).collect();
        assert_eq!(flowing, [RECORDS_MIN; 3]);
        let at_rest: Vec<_> = (390..900).filter_map(|second| at(second, false)).collect();
        assert_eq!(at_rest, [1], "the rest, and then no request any more");
    }

    #[test]
    fn a_look_that_failed_is_made_again_later() {
        let (mut looks, begin) = (Looks::default(), Instant::now());
        assert!(looks.due(false, begin).is_some());
        looks.again();
        assert!(looks.due(false, begin + LOOK_AGAIN / 2).is_none());
        assert_eq!(looks.due(false, begin + LOOK_AGAIN), Some(1));
    }

    #[tokio::test]
    async fn what_is_deleted_is_not_deleted_again_and_the_end_of_the_log_is_the_limit() {
        let cluster = FakeCluster::default();
        let place = |partition| (TOPIC.to_owned(), partition);
        {
            let mut state = cluster.state();
            state.committed = committed(&[(READER, &[700, 900])]);
            state.log_ends = [(place(0), 800), (place(1), 600)].into();
        }
        let groups = [READER.to_owned()];
        let mut topic = internal(&[0, 0]);
        let found = async |topic: &mut Internal| {
            let leaders = std::slice::from_ref(&topic.leaders);
            topic.starts = cluster.log_starts(leaders).await.remove(0).unwrap();
            let offsets = cluster.committed_offsets(&groups).await.remove(0).unwrap();
            let known = BTreeMap::from([(READER.to_owned(), offsets)]);
            purge(std::slice::from_ref(topic), &known, 1)
        };
        let before = found(&mut topic).await;
        assert_eq!(offsets(&before), [(0, 700), (1, 900)]);
        let results = cluster.delete_records(&before).await;
        assert!(results[0].is_ok());
        let error = results[1].as_ref().unwrap_err();
        assert!(error.is("OffsetOutOfRange"), "{error}");
        let again = found(&mut topic).await;
        assert_eq!(offsets(&again), [(1, 900)]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn nothing_goes_that_any_group_has_not_processed(
            starts in vec(0_i64..3_000, 1..5),
            groups in btree_map("[a-c]", vec(0_i64..6_000, 0..5), 0..4),
            readers in vec("[a-c]", 0..3),
            least in 0_i64..2_000,
        ) {
            let offsets: Vec<(&str, &[i64])> =
                groups.iter().map(|(group, offsets)| (&**group, &**offsets)).collect();
            let known = committed(&offsets);
            let topic = Internal { readers: readers.clone(), ..internal(&starts) };
            let found = purge(&[topic], &known, least);
            for one in &found {
                let place = (one.topic.clone(), one.partition);
                let start = starts[usize::try_from(one.partition).unwrap()];
                prop_assert!(one.offset - start >= least.max(1));
                for group in known.values() {
                    prop_assert!(group.get(&place).is_none_or(|offset| one.offset <= *offset));
                }
                prop_assert!(!readers.is_empty());
                for reader in &readers {
                    prop_assert!(known[reader].contains_key(&place));
                }
            }
            let again = Internal {
                starts: found.iter().map(|one| (one.partition, one.offset)).collect(),
                readers,
                ..internal(&starts)
            };
            prop_assert_eq!(purge(&[again], &known, least), []);
        }
    }
}
