//! How a block names a topic.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// A Topic object of the Pipeline's namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct TopicRef {
    /// `metadata.name` of the Topic.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// A topic: give `topicRef` for one that has a Topic object, or `topic` for its name in Kafka.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "camelCase")]
pub struct TopicTarget {
    /// A Topic object of this namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic_ref: Option<TopicRef>,
    /// Name of the topic in Kafka.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^[a-zA-Z0-9._-]+$"), length(min = 1, max = 249))]
    pub topic: Option<String>,
}

impl TopicTarget {
    /// A topic by its name in Kafka.
    pub fn named(topic: impl Into<String>) -> Self {
        Self {
            topic_ref: None,
            topic: Some(topic.into()),
        }
    }

    /// Its name in Kafka; `None` if it gives neither name nor Topic, or both.
    pub fn resolve<'a>(&'a self, names: &'a TopicNames) -> Option<&'a str> {
        match (&self.topic_ref, &self.topic) {
            (Some(reference), None) => Some(names.of(&reference.name)),
            (None, Some(topic)) => Some(topic),
            _ => None,
        }
    }
}

impl fmt::Display for TopicTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.topic_ref.as_ref().map(|reference| &reference.name);
        f.write_str(self.topic.as_ref().or(name).map_or("?", String::as_str))
    }
}

/// Names in Kafka of Topic objects, by `metadata.name`. A Topic that is not in it is named like its
/// object, which is the default of a Topic.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicNames(pub BTreeMap<String, String>);

impl TopicNames {
    /// The name in Kafka of the Topic object `name`.
    pub fn of<'a>(&'a self, name: &'a str) -> &'a str {
        self.0.get(name).map_or(name, String::as_str)
    }
}
