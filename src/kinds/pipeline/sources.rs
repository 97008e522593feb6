//! The topics that a Pipeline reads, by their ids in Kafka: a topic that is deleted and made anew has
//! the same name, another id and other records. And how many partitions a stage reads. Pure.

use crate::api::conditions::Reason;
use crate::api::pipeline::{Pipeline, PipelineState, ReadTopic, StageStatus};
use crate::runtime::kind::Notice;
use freehold_pipeline::source::{KafkaSource, OnGap};
use freehold_pipeline::stage_document::TopicIds;
use freehold_pipeline::stages::Stage;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::SignedDuration;
use std::collections::{BTreeMap, BTreeSet};

/// Earlier ids of a topic that are kept: offsets of one before them are older than a group's
/// offsets become.
const FORMER_MAX: usize = 10;
/// Topics that are kept in the status, with those that an earlier revision has read.
const TOPICS_MAX: usize = 100;
/// How long the status warns of a topic that was made anew.
const WARN_FOR: SignedDuration = SignedDuration::from_hours(24);

fn kafka_sources(stage: &Stage) -> impl Iterator<Item = (&str, &KafkaSource)> {
    let blocks = stage.definition.blocks.iter();
    blocks.filter_map(|block| {
        let kafka = block.source.as_ref()?.kafka.as_ref()?;
        Some((kafka.target.topic.as_deref()?, kafka))
    })
}

/// What is known of the topics, from what was known and what Kafka has now (`id`; `None`: it is not
/// there). A topic that is not there keeps its entry: it may come back as another one. An id that a
/// topic had before is an old answer.
pub fn topics(
    object: &Pipeline,
    stages: &[Stage],
    id: impl Fn(&str) -> Option<String>,
    now: &Time,
) -> Vec<ReadTopic> {
    let status = object.status.as_ref();
    let before = status.map(|status| &*status.topics).unwrap_or_default();
    let read: BTreeSet<&str> = stages
        .iter()
        .flat_map(kafka_sources)
        .map(|(topic, _)| topic)
        .collect();
    let present = read.iter().filter_map(|topic| {
        let known = before.iter().find(|known| known.name == *topic);
        match (known, id(topic)) {
            (None, id) => Some(ReadTopic {
                name: (*topic).to_owned(),
                topic_id: id?,
                ..ReadTopic::default()
            }),
            (Some(known), Some(id)) if known.topic_id != id && !known.former.contains(&id) => {
                Some(anew(known, id, now))
            }
            (Some(known), _) => Some(known.clone()),
        }
    });
    // The groups of earlier revisions have their offsets still.
    let earlier = before.iter().filter(|known| !read.contains(&*known.name));
    let earlier = earlier.cloned().collect::<Vec<_>>();
    let mut all: Vec<ReadTopic> = present.chain(earlier).take(TOPICS_MAX).collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

fn anew(known: &ReadTopic, id: String, now: &Time) -> ReadTopic {
    let former = std::iter::once(&known.topic_id).chain(&known.former);
    ReadTopic {
        name: known.name.clone(),
        topic_id: id,
        former: former.take(FORMER_MAX).cloned().collect(),
        made_anew_at: Some(now.clone()),
    }
}

/// The ids of the topics of a stage, for its document.
pub fn ids(stage: &Stage, topics: &[ReadTopic]) -> BTreeMap<String, TopicIds> {
    let of = |(topic, _): (&str, &KafkaSource)| {
        let known = topics.iter().find(|known| known.name == topic)?;
        let ids = TopicIds {
            id: known.topic_id.clone(),
            former: known.former.clone(),
        };
        Some((topic.to_owned(), ids))
    };
    kafka_sources(stage).filter_map(of).collect()
}

/// The Events for topics that were made anew since the status was written.
pub fn notices(object: &Pipeline, stages: &[Stage], topics: &[ReadTopic]) -> Vec<Notice> {
    let status = object.status.as_ref();
    let before = status.map(|status| &*status.topics).unwrap_or_default();
    let is_new = |topic: &&ReadTopic| {
        let known = before.iter().find(|known| known.name == topic.name);
        known.is_some_and(|known| known.topic_id != topic.topic_id)
    };
    let notice = |topic: &ReadTopic| Notice {
        reason: Reason::TopicMadeAnew,
        message: format!(
            "{} (it was {}, it is {})",
            words(stages, topic),
            topic.former.first().map_or("", String::as_str),
            topic.topic_id
        ),
    };
    topics.iter().filter(is_new).map(notice).collect()
}

fn words(stages: &[Stage], topic: &ReadTopic) -> String {
    let mut sources = stages.iter().flat_map(kafka_sources);
    let source = sources.find(|(name, _)| *name == topic.name);
    let then = match source.map(|(_, source)| source.on_gap) {
        Some(OnGap::Stop) => {
            "the stage that reads it stops until source.kafka.onGap says where to go on: Earliest \
             or Latest"
        }
        Some(OnGap::Earliest) => "it is read from its first record (onGap: Earliest)",
        Some(OnGap::Latest) => "only what is written from now on is read (onGap: Latest)",
        None => "no source reads it now",
    };
    format!("topic {} was deleted and made anew; {then}", topic.name)
}

/// What the status warns of: topics that were made anew, and stages that have fewer replicas than
/// the spec asks for.
pub fn warnings(object: &Pipeline, topics: &[ReadTopic], now: &Time) -> Vec<String> {
    let is_recent = |at: &Time| now.0.duration_since(at.0) < WARN_FOR;
    let anew = topics.iter().filter_map(|topic| {
        let at = topic.made_anew_at.as_ref()?;
        // What follows from it the stage says itself, as long as it is so.
        let name = &topic.name;
        is_recent(at).then(|| format!("topic {name} was deleted and made anew, at {}", at.0))
    });
    let (asked, scaled) = (object.spec.replicas, object.spec.scaling.is_some());
    let runs = object.spec.state == PipelineState::Running;
    let status = object.status.iter().flat_map(|status| &status.stages);
    let capped = status.filter_map(|stage| {
        let partitions = stage
            .partitions
            .filter(|most| *most < asked && !scaled && runs)?;
        Some(format!(
            "spec.replicas: stage {} has {partitions} of {asked} replicas: it reads {partitions} \
             partitions, and more replicas would have nothing to do",
            stage.name
        ))
    });
    anew.chain(capped).collect()
}

/// The partitions that each stage reads, with its topics' partitions: of several topics the most. A
/// stage is left out that reads no topic, or one of which they are not known.
pub fn partitions(
    stages: &[Stage],
    of_topic: impl Fn(&str) -> Option<i32>,
) -> BTreeMap<String, i32> {
    let of_stage = |stage: &Stage| {
        let of_topics: Option<Vec<i32>> = kafka_sources(stage)
            .map(|(topic, _)| of_topic(topic))
            .collect();
        let most = of_topics?.into_iter().max().filter(|most| *most > 0)?;
        Some((stage.name.clone(), most))
    };
    stages.iter().filter_map(of_stage).collect()
}

/// The stages whose topics have other partitions than the status says, with what it says. Kafka gives
/// a member with an instance id that comes back the partitions that it had, and no others, and its
/// client does not notice: the members must leave, and join anew.
pub fn changed(object: &Pipeline, partitions: &BTreeMap<String, i32>) -> BTreeMap<String, i32> {
    let status = object.status.iter().flat_map(|status| &status.stages);
    let changed = status.filter_map(|stage| {
        let (known, now) = (stage.partitions?, partitions.get(&stage.name)?);
        (known != *now).then(|| (stage.name.clone(), known))
    });
    changed.collect()
}

/// The Pipeline with the partitions of its stages in its status, from which the replicas follow;
/// `None`: they are there already.
pub fn with_partitions(
    object: &Pipeline,
    partitions: &BTreeMap<String, i32>,
) -> Option<Box<Pipeline>> {
    let known = |stage: &str| {
        let mut stages = object.status.iter().flat_map(|status| &status.stages);
        stages.find(|known| known.name == stage)?.partitions
    };
    if partitions
        .iter()
        .all(|(stage, most)| known(stage) == Some(*most))
    {
        return None;
    }
    let mut object = Box::new(object.clone());
    let stages = &mut object.status.get_or_insert_default().stages;
    for (name, most) in partitions {
        match stages.iter_mut().find(|stage| stage.name == *name) {
            Some(stage) => stage.partitions = Some(*most),
            None => stages.push(StageStatus {
                name: name.clone(),
                partitions: Some(*most),
                ..StageStatus::default()
            }),
        }
    }
    Some(object)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::pipeline::desired::replicas;
    use freehold_pipeline::graph::Graph;
    use freehold_pipeline::stages::cut;
    use freehold_pipeline::topics::TopicNames;
    use k8s_openapi::jiff::Timestamp;
    use serde_json::json;

    fn pipeline(on_gap: &str, replicas: i32) -> Pipeline {
        serde_json::from_value(json!({
            "metadata": {"name": "orders", "namespace": "shop"},
            "spec": {"clusterRef": {"name": "demo"}, "replicas": replicas, "blocks": [
                {"name": "in", "source": {"kafka": {"topic": "orders", "onGap": on_gap}}},
                {"name": "out", "from": ["in"], "sink": {"kafka": {"topic": "clean"}}},
            ]},
        }))
        .unwrap()
    }

    fn stages(object: &Pipeline) -> Vec<Stage> {
        let definition = object.spec.definition();
        let graph = Graph::of(&definition).unwrap();
        let names = TopicNames::default();
        cut(&graph, &definition, &names, "shop", "orders").stages
    }

    fn at(second: i64) -> Time {
        Time(Timestamp::from_second(second).unwrap())
    }

    /// What is known after Kafka had these ids of the topic, one after the other.
    fn after(object: &mut Pipeline, ids: &[Option<&str>]) -> Vec<Vec<Notice>> {
        let stages = stages(object);
        let mut told = Vec::new();
        for (second, id) in (0..).zip(ids) {
            let id = |_: &str| id.map(str::to_owned);
            let known = topics(object, &stages, id, &at(second));
            told.push(notices(object, &stages, &known));
            object.status.get_or_insert_default().topics = known;
        }
        told
    }

    #[test]
    fn a_topic_that_is_made_anew_is_told_once_and_its_former_id_is_kept() {
        let mut object = pipeline("Stop", 1);
        let seen = [None, Some("a"), None, Some("b"), Some("b"), Some("a")];
        let told = after(&mut object, &seen);
        let counts: Vec<usize> = told.iter().map(Vec::len).collect();
        assert_eq!(counts, [0, 0, 0, 1, 0, 0], "an old answer is no new topic");
        assert_eq!(told[3][0].reason, Reason::TopicMadeAnew);
        let words = &told[3][0].message;
        assert!(words.contains("topic orders was deleted"), "{words}");
        assert!(words.contains("source.kafka.onGap"), "{words}");
        assert!(words.ends_with("(it was a, it is b)"), "{words}");
        let stages = stages(&object);
        let known = &object.status.as_ref().unwrap().topics;
        let ids = ids(&stages[0], known);
        assert_eq!(
            (&*ids["orders"].id, &*ids["orders"].former),
            ("b", &["a".to_owned()][..])
        );
        let warned = |second| warnings(&object, known, &at(second));
        assert!(warned(100)[0].contains("orders was deleted and made anew, at"));
        assert!(!warned(100)[0].contains("stops"), "it may go on by now");
        assert_eq!(warned(100_000), Vec::<String>::new(), "a day later");
    }

    #[test]
    fn a_topic_that_is_read_no_more_is_remembered() {
        let mut object = pipeline("Latest", 1);
        after(&mut object, &[Some("a")]);
        let none = topics(&object, &[], |_| None, &at(1));
        object.status.as_mut().unwrap().topics = none;
        let told = after(&mut object, &[Some("b")]);
        assert!(told[0][0].message.contains("onGap: Latest"), "{told:?}");
    }

    #[test]
    fn a_stage_has_no_more_replicas_than_partitions_and_says_so() {
        let mut object = pipeline("Stop", 5);
        assert_eq!(replicas(&object, "in"), 5, "not known yet");
        let stages = stages(&object);
        let partitions = partitions(&stages, |topic| (topic == "orders").then_some(3));
        object = *with_partitions(&object, &partitions).unwrap();
        assert!(with_partitions(&object, &partitions).is_none());
        assert!(changed(&object, &partitions).is_empty());
        let grown = BTreeMap::from([("in".to_owned(), 8), ("new".to_owned(), 2)]);
        let before = BTreeMap::from([("in".to_owned(), 3)]);
        assert_eq!(changed(&object, &grown), before, "they join anew");
        assert_eq!(replicas(&object, "in"), 3);
        let warned = warnings(&object, &[], &at(0));
        let words = "spec.replicas: stage in has 3 of 5 replicas: it reads 3 partitions";
        assert!(warned[0].starts_with(words), "{warned:?}");
        object.spec.state = PipelineState::Paused;
        assert!(warnings(&object, &[], &at(0)).is_empty());
        object.spec.state = PipelineState::Running;
        object.spec.replicas = 2;
        assert_eq!(replicas(&object, "in"), 2);
        assert!(warnings(&object, &[], &at(0)).is_empty());
    }
}
