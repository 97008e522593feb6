//! The Topics of the files, by namespace: what a Pipeline's `topicRef`s mean, and which mean
//! nothing.

use crate::api::topic::Topic;
use freehold_pipeline::block::{Block, Work};
use freehold_pipeline::definition::Definition;
use freehold_pipeline::finding::Finding;
use freehold_pipeline::nearest::instead;
use freehold_pipeline::topics::{TopicNames, TopicTarget};
use kube::ResourceExt;

/// Topics, each with its namespace if the file says it.
#[derive(Default)]
pub struct Topics(Vec<One>);

struct One {
    namespace: Option<String>,
    object: String,
    /// Its name in Kafka.
    name: String,
}

impl Topics {
    pub fn add(&mut self, topic: &Topic) {
        self.0.push(One {
            namespace: topic.namespace(),
            object: topic.name_any(),
            name: topic.topic_name().to_owned(),
        });
    }

    /// The Topics of a namespace. Where one side does not say its namespace, they are taken to be
    /// in the same: `kubectl --namespace` puts them there.
    fn of<'a>(&'a self, namespace: Option<&'a str>) -> impl Iterator<Item = &'a One> {
        self.0.iter().filter(move |one| {
            let sides = one.namespace.as_deref().zip(namespace);
            sides.is_none_or(|(one, other)| one == other)
        })
    }

    /// Names in Kafka of the Topics of a namespace.
    pub fn names(&self, namespace: Option<&str>) -> TopicNames {
        let topics = self.of(namespace);
        TopicNames(
            topics
                .map(|one| (one.object.clone(), one.name.clone()))
                .collect(),
        )
    }

    /// A warning for each `topicRef` that names no Topic of the files, if they have any.
    pub fn missing(&self, definition: &Definition, namespace: Option<&str>) -> Vec<Finding> {
        if self.0.is_empty() {
            return Vec::new();
        }
        let here: Vec<&str> = self.of(namespace).map(|one| one.object.as_str()).collect();
        let place = namespace.map(|name| format!(" in namespace {name}"));
        let place = place.unwrap_or_default();
        let mut warnings = Vec::new();
        for (field, block, target) in references(definition) {
            let Some(reference) = &target.topic_ref else {
                continue;
            };
            let name = &reference.name;
            if here.contains(&name.as_str()) {
                continue;
            }
            let mut elsewhere = self.0.iter().filter(|one| one.object == *name);
            let way_out = match elsewhere.next().and_then(|one| one.namespace.as_ref()) {
                Some(other) => format!("it is in {other}, and a Pipeline uses its own namespace's"),
                None => instead(name, here.iter().copied()),
            };
            let message = format!("no Topic {name}{place} in these files; {way_out}");
            let finding = Finding::warning(format!("{field}.topicRef.name"), message);
            warnings.push(match block {
                Some(block) => finding.of_block(&block.name),
                None => finding,
            });
        }
        warnings
    }
}

/// Every topic that a Pipeline names, with its field and its block.
fn references(definition: &Definition) -> Vec<(String, Option<&Block>, &TopicTarget)> {
    let mut all = Vec::new();
    for (index, block) in definition.blocks.iter().enumerate() {
        let Ok(work) = block.work() else {
            continue;
        };
        let part = match work {
            Work::Alert(_) => "to",
            _ => "kafka",
        };
        let field = format!("blocks[{index}].{}.{part}", work.field());
        let target = work.reads().or(work.writes());
        all.extend(target.map(|target| (field, Some(block), target)));
    }
    let dead_letter = definition.errors.dead_letter.as_ref();
    all.extend(dead_letter.map(|target| ("errors.deadLetter".to_owned(), None, target)));
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn topics(all: &[(&str, Option<&str>)]) -> Topics {
        let mut topics = Topics::default();
        for (name, namespace) in all {
            let topic = json!({"apiVersion": "freehold.dev/v1alpha1", "kind": "Topic",
                "metadata": {"name": name, "namespace": namespace},
                "spec": {"clusterRef": {"name": "demo"}, "partitions": 1,
                    "topicName": format!("kafka.{name}")}});
            topics.add(&serde_json::from_value(topic).unwrap());
        }
        topics
    }

    fn definition() -> Definition {
        let of = |name: &str| json!({"topicRef": {"name": name}});
        let definition = json!({"errors": {"deadLetter": of("bad")}, "blocks": [
            {"name": "in", "source": {"kafka": of("orders")}},
            {"name": "late", "from": ["in"], "alert": {"when": "true", "to": of("lates")}},
            {"name": "out", "from": ["in"], "sink": {"kafka": {"topic": "free"}}}]});
        serde_json::from_value(definition).unwrap()
    }

    #[test]
    fn each_reference_to_no_topic_is_a_warning_with_the_way_out() {
        let files = [
            ("orders", Some("shop")),
            ("late", Some("shop")),
            ("bad", Some("other")),
        ];
        let found = topics(&files).missing(&definition(), Some("shop"));
        let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(
            lines,
            [
                "spec.blocks[1].alert.to.topicRef.name (block late): no Topic lates in namespace \
                 shop in these files; did you mean late?",
                "spec.errors.deadLetter.topicRef.name: no Topic bad in namespace shop in these \
                 files; it is in other, and a Pipeline uses its own namespace's",
            ]
        );
        assert_eq!(topics(&[]).missing(&definition(), Some("shop")), []);
        let nowhere = topics(&[("orders", None), ("lates", None), ("bad", None)]);
        assert_eq!(nowhere.missing(&definition(), Some("shop")), []);
    }

    #[test]
    fn a_topic_of_another_namespace_does_not_name_a_topic_of_this_one() {
        let topics = topics(&[("orders", Some("other"))]);
        assert_eq!(topics.names(Some("shop")).of("orders"), "orders");
        assert_eq!(topics.names(Some("other")).of("orders"), "kafka.orders");
        assert_eq!(topics.names(None).of("orders"), "kafka.orders");
    }
}
