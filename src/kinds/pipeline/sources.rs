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
/// Stages that are kept of a topic, with those of earlier revisions.
const READERS_MAX: usize = 50;
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

/// What is known of the topics, from what was known and what Kafka has now (`found`: id and
/// partitions; `None`: it is not there). A topic that is not there keeps its entry: it may come back as
/// another one. An id that a topic had before is an old answer.
pub fn topics(
    object: &Pipeline,
    stages: &[Stage],
    found: impl Fn(&str) -> Option<(String, i32)>,
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
        let known = known.map(|known| with_readers(object, stages, known));
        match (known, found(topic)) {
            (None, found) => {
                let (topic_id, partitions) = found?;
                Some(ReadTopic {
                    name: (*topic).to_owned(),
                    topic_id,
                    partitions: Some(partitions),
                    ..ReadTopic::default()
                })
            }
            (Some(known), Some((id, partitions))) if known.topic_id == id => Some(ReadTopic {
                partitions: Some(partitions),
                ..known
            }),
            (Some(known), Some((id, partitions))) if !known.former.contains(&id) => {
                Some(ReadTopic {
                    partitions: Some(partitions),
                    ..anew(&known, id, now)
                })
            }
            (Some(known), _) => Some(known),
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
        ..known.clone()
    }
}

/// A topic of which a version before did not say which stages have read it: those that run now. Of one
/// that was made anew it is not known whether they went on.
fn with_readers(object: &Pipeline, stages: &[Stage], known: &ReadTopic) -> ReadTopic {
    let mut known = known.clone();
    if known.read_by.is_empty() {
        let status = object.status.iter().flat_map(|status| &status.stages);
        let names: BTreeSet<&str> = status.map(|stage| &*stage.name).collect();
        let id = known.former.first().unwrap_or(&known.topic_id).clone();
        let readers = stages.iter().filter(|stage| reads(stage, &known.name));
        let readers = readers.filter(|stage| names.contains(&*stage.name));
        known.read_by = readers
            .map(|stage| (stage.name.clone(), id.clone()))
            .collect();
    }
    known
}

fn reads(stage: &Stage, topic: &str) -> bool {
    kafka_sources(stage).any(|(name, _)| name == topic)
}

/// Notes which stages read the topics. A stage has read one once it has a pod (`has_pod`), and has gone
/// on with one that was made anew once all of its replicas read (`goes_on`): each partition was placed
/// then.
pub fn note_readers(
    stages: &[Stage],
    topics: &mut [ReadTopic],
    has_pod: impl Fn(&str) -> bool,
    goes_on: impl Fn(&str) -> bool,
) {
    for topic in topics {
        for stage in stages.iter().filter(|stage| reads(stage, &topic.name)) {
            let reads = match topic.read_by.contains_key(&stage.name) {
                true => goes_on(&stage.name),
                false => has_pod(&stage.name),
            };
            if reads {
                let id = topic.topic_id.clone();
                topic.read_by.insert(stage.name.clone(), id);
            }
        }
        let is_present = |name: &str| stages.iter().any(|stage| stage.name == name);
        let surplus = topic.read_by.len().saturating_sub(READERS_MAX);
        let old = topic.read_by.keys().filter(|name| !is_present(name));
        let old: Vec<String> = old.take(surplus).cloned().collect();
        topic.read_by.retain(|name, _| !old.contains(name));
    }
}

/// The ids of the topics of a stage, for its document. Former ones are only for a stage that has read
/// one of them and has not gone on yet: to any other one a partition without an offset is new, and not
/// lost.
pub fn ids(stage: &Stage, topics: &[ReadTopic]) -> BTreeMap<String, TopicIds> {
    let of = |(topic, _): (&str, &KafkaSource)| {
        let known = topics.iter().find(|known| known.name == topic)?;
        let last = known.read_by.get(&stage.name);
        let is_behind = last.is_some_and(|last| *last != known.topic_id);
        let ids = TopicIds {
            id: known.topic_id.clone(),
            former: match is_behind {
                true => known.former.clone(),
                false => Vec::new(),
            },
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

/// The partitions that each stage reads: of several topics the most. `None`: it reads no topic, or one
/// of which they were never known. A topic that is not there has as many as before. A stage is left out
/// of which only a version before has known them.
pub fn partitions(
    object: &Pipeline,
    stages: &[Stage],
    of_topic: impl Fn(&str) -> Option<i32>,
) -> BTreeMap<String, Option<i32>> {
    let of_stage = |stage: &Stage| {
        let counts: Vec<Option<i32>> = kafka_sources(stage)
            .map(|(topic, _)| of_topic(topic).or_else(|| known(object, topic)?.partitions))
            .collect();
        let is_of_version_before = kafka_sources(stage)
            .zip(&counts)
            .filter(|(_, count)| count.is_none())
            .any(|((topic, _), _)| known(object, topic).is_some());
        let all: Option<Vec<i32>> = counts.into_iter().collect();
        let most = all.and_then(|all| all.into_iter().max());
        (!is_of_version_before).then(|| (stage.name.clone(), most.filter(|most| *most > 0)))
    };
    stages.iter().filter_map(of_stage).collect()
}

/// What the status knows of a topic.
fn known<'a>(object: &'a Pipeline, topic: &str) -> Option<&'a ReadTopic> {
    let mut topics = object.status.iter().flat_map(|status| &status.topics);
    topics.find(|known| known.name == topic)
}

fn stage_status<'a>(object: &'a Pipeline, stage: &str) -> Option<&'a StageStatus> {
    let mut stages = object.status.iter().flat_map(|status| &status.stages);
    stages.find(|known| known.name == stage)
}

/// The stages of which a topic has other partitions than the status says. Kafka gives a member with an
/// instance id that comes back the partitions that it had, and no others, and its client does not
/// notice: the members must leave, and join anew.
pub fn changed(
    object: &Pipeline,
    stages: &[Stage],
    of_topic: impl Fn(&str) -> Option<i32>,
) -> BTreeSet<String> {
    let has_changed = |stage: &&Stage| {
        let Some(of_stage) = stage_status(object, &stage.name) else {
            return false;
        };
        let mut most = None;
        let mut is_counted = true;
        for (topic, _) in kafka_sources(stage) {
            let Some(now) = of_topic(topic) else {
                return false;
            };
            most = most.max(Some(now));
            match known(object, topic) {
                Some(known) if known.partitions.is_some_and(|known| known != now) => return true,
                // A version before has counted by stage.
                Some(known) => is_counted &= known.partitions.is_some(),
                None => {}
            }
        }
        !is_counted && of_stage.partitions.is_some() && of_stage.partitions != most
    };
    let changed = stages.iter().filter(has_changed);
    changed.map(|stage| stage.name.clone()).collect()
}

/// Leaves the counts as the status has them for stages whose members have not joined anew: it is tried
/// again.
pub fn not_joined(
    object: &Pipeline,
    stages: &[Stage],
    waits: &BTreeSet<String>,
    topics: &mut [ReadTopic],
    partitions: &mut BTreeMap<String, Option<i32>>,
) {
    let waiting = || stages.iter().filter(|stage| waits.contains(&stage.name));
    for topic in topics {
        if waiting().any(|stage| reads(stage, &topic.name))
            && let Some(known) = known(object, &topic.name)
        {
            topic.partitions = known.partitions;
        }
    }
    for stage in waiting() {
        if let Some(known) = stage_status(object, &stage.name) {
            partitions.insert(stage.name.clone(), known.partitions);
        }
    }
}

/// The Pipeline with the partitions of its stages in its status, from which the replicas follow;
/// `None`: they are there already.
pub fn with_partitions(
    object: &Pipeline,
    partitions: &BTreeMap<String, Option<i32>>,
) -> Option<Box<Pipeline>> {
    let is_known = |(stage, most): (&String, &Option<i32>)| {
        stage_status(object, stage).and_then(|known| known.partitions) == *most
    };
    if partitions.iter().all(is_known) {
        return None;
    }
    let mut object = Box::new(object.clone());
    let stages = &mut object.status.get_or_insert_default().stages;
    for (name, most) in partitions {
        match stages.iter_mut().find(|stage| stage.name == *name) {
            Some(stage) => stage.partitions = *most,
            None if most.is_some() => stages.push(StageStatus {
                name: name.clone(),
                partitions: *most,
                ..StageStatus::default()
            }),
            None => {}
        }
    }
    Some(object)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::pipeline::PipelineStatus;
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

    /// The status of a Pipeline whose stage runs.
    fn runs_status() -> PipelineStatus {
        PipelineStatus {
            stages: vec![StageStatus {
                name: "in".to_owned(),
                ..StageStatus::default()
            }],
            ..PipelineStatus::default()
        }
    }

    fn at(second: i64) -> Time {
        Time(Timestamp::from_second(second).unwrap())
    }

    /// What is known after Kafka had these ids of the topic, one after the other.
    fn after(object: &mut Pipeline, ids: &[Option<&str>]) -> Vec<Vec<Notice>> {
        let stages = stages(object);
        let mut told = Vec::new();
        for (second, id) in (0..).zip(ids) {
            let found = |_: &str| id.map(|id| (id.to_owned(), 3));
            let known = topics(object, &stages, found, &at(second));
            told.push(notices(object, &stages, &known));
            object.status.get_or_insert_default().topics = known;
        }
        told
    }

    #[test]
    fn a_topic_that_is_made_anew_is_told_once_and_its_former_id_is_kept() {
        let mut object = pipeline("Stop", 1);
        object.status = Some(runs_status());
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
    fn former_ids_are_for_a_stage_that_has_read_one_until_it_has_gone_on() {
        let mut object = pipeline("Stop", 1);
        let of = |object: &Pipeline| {
            let stages = stages(object);
            let topics = &object.status.as_ref().unwrap().topics;
            ids(&stages[0], topics)["orders"].former.clone()
        };
        // Its pod reads, or is about to.
        let note = |object: &mut Pipeline, reads: bool| {
            let stages = stages(object);
            let topics = &mut object.status.as_mut().unwrap().topics;
            note_readers(&stages, topics, |stage| stage == "in", |_| reads);
        };
        after(&mut object, &[Some("a"), Some("b")]);
        assert!(of(&object).is_empty(), "nobody has read it");
        note(&mut object, false);
        after(&mut object, &[Some("c")]);
        assert_eq!(of(&object), ["b", "a"]);
        note(&mut object, false);
        assert_eq!(of(&object), ["b", "a"], "its pod has stopped, or starts");
        note(&mut object, true);
        assert!(of(&object).is_empty(), "its offsets may expire from now on");
        // Another first block is another group, which has read nothing.
        after(&mut object, &[Some("d")]);
        assert_eq!(of(&object).len(), 3);
        object.spec.blocks[0].name = "first".to_owned();
        object.spec.blocks[1].from = vec!["first".to_owned()];
        after(&mut object, &[Some("d")]);
        assert!(of(&object).is_empty());
    }

    #[test]
    fn of_a_version_before_it_is_not_known_whether_a_stage_has_gone_on() {
        let mut object = pipeline("Stop", 1);
        object.status = Some(runs_status());
        object.status.as_mut().unwrap().topics = vec![ReadTopic {
            name: "orders".to_owned(),
            topic_id: "b".to_owned(),
            former: vec!["a".to_owned()],
            ..ReadTopic::default()
        }];
        after(&mut object, &[Some("b")]);
        let topics = &object.status.as_ref().unwrap().topics;
        assert_eq!(ids(&stages(&object)[0], topics)["orders"].former, ["a"]);
    }

    /// A stage that reads two topics, with what the status has of it.
    fn of_two(counts: [Option<i32>; 2], most: i32) -> (Pipeline, Vec<Stage>) {
        let mut object = pipeline("Stop", 5);
        let also = json!({"name": "also", "source": {"kafka": {"topic": "more"}}});
        object
            .spec
            .blocks
            .push(serde_json::from_value(also).unwrap());
        object.spec.blocks[1].from.push("also".to_owned());
        let stages = stages(&object);
        assert_eq!(stages.len(), 1, "{stages:?}");
        let topic = |(name, partitions): (&str, Option<i32>)| ReadTopic {
            name: name.to_owned(),
            topic_id: "id".to_owned(),
            partitions,
            ..ReadTopic::default()
        };
        let mut status = runs_status();
        status.stages[0].partitions = Some(most);
        status.topics = ["orders", "more"]
            .into_iter()
            .zip(counts)
            .map(topic)
            .collect();
        object.status = Some(status);
        (object, stages)
    }

    #[test]
    fn a_smaller_topic_that_grows_lets_its_members_join_anew() {
        let counts =
            |orders, more| move |topic: &str| Some(if topic == "more" { more } else { orders });
        let (object, stages) = of_two([Some(6), Some(3)], 6);
        assert!(changed(&object, &stages, counts(6, 3)).is_empty());
        let waits = BTreeSet::from(["in".to_owned()]);
        assert_eq!(changed(&object, &stages, counts(6, 5)), waits);
        assert!(
            changed(&object, &stages, |_| None).is_empty(),
            "not known now"
        );
        // What Kafka refuses is tried again.
        let found = |topic: &str| Some(("id".to_owned(), counts(6, 5)(topic)?));
        let mut known = topics(&object, &stages, found, &at(0));
        let mut of_stages = partitions(&object, &stages, counts(6, 5));
        let count = |known: &[ReadTopic]| {
            let more = known.iter().find(|topic| topic.name == "more");
            more.unwrap().partitions
        };
        assert_eq!(count(&known), Some(5));
        not_joined(&object, &stages, &waits, &mut known, &mut of_stages);
        assert_eq!(count(&known), Some(3));
        // A version before has counted by stage alone.
        let (object, stages) = of_two([None, None], 6);
        assert!(changed(&object, &stages, counts(6, 5)).is_empty());
        assert_eq!(changed(&object, &stages, counts(7, 5)), waits);
    }

    #[test]
    fn the_cap_goes_with_the_topic_that_it_came_from() {
        let mut object = pipeline("Stop", 5);
        let all = |object: &Pipeline, of_topic: &dyn Fn(&str) -> Option<i32>| {
            let found = partitions(object, &stages(object), of_topic);
            let object = with_partitions(object, &found).unwrap_or_else(|| object.clone().into());
            replicas(&object, "in")
        };
        let three = |topic: &str| (topic == "orders").then_some(3);
        let found = partitions(&object, &stages(&object), three);
        object = *with_partitions(&object, &found).unwrap();
        let known = topics(&object, &stages(&object), |_| Some(("a".into(), 3)), &at(0));
        object.status.as_mut().unwrap().topics = known;
        assert_eq!(all(&object, &three), 3);
        assert_eq!(all(&object, &|_| None), 3, "it comes back");
        let mut other = object.clone();
        let to = |topic: &str| json!({"kafka": {"topic": topic}});
        other.spec.blocks[0].source = serde_json::from_value(to("unknown")).unwrap();
        assert_eq!(all(&other, &three), 5, "not known yet");
        let http = json!({"http": {"authentication": {"token": {"name": "a", "key": "b"}}}});
        other.spec.blocks[0].source = serde_json::from_value(http).unwrap();
        assert_eq!(all(&other, &three), 5, "it has no partitions");
    }

    #[test]
    fn a_stage_has_no_more_replicas_than_partitions_and_says_so() {
        let mut object = pipeline("Stop", 5);
        assert_eq!(replicas(&object, "in"), 5, "not known yet");
        let stages = stages(&object);
        let of_topic = |topic: &str| (topic == "orders").then_some(3);
        let partitions = partitions(&object, &stages, of_topic);
        object = *with_partitions(&object, &partitions).unwrap();
        assert!(with_partitions(&object, &partitions).is_none());
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
