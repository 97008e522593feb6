//! Reads what a Topic's reconcile needs to know. Reads only.

use super::api::Topic;
use super::reconcile::Error;
use super::validate::topic_name;
use crate::kafka_admin::TopicDescription;
use crate::kinds::dependence::{self, Dependence};
use crate::runtime::context::Context;
use std::collections::BTreeMap;

/// Everything that was seen, as plain data.
#[derive(Clone, Debug)]
pub struct Observed {
    /// Version, number of brokers of the cluster.
    pub version: String,
    pub brokers: u32,
    /// The topic with the configs set on it.
    pub topic: Option<(TopicDescription, BTreeMap<String, String>)>,
    /// Only looked up when the object is being deleted.
    pub holds_records: bool,
    /// Another Topic, older, of the same cluster and name.
    pub older: Option<String>,
}

/// Reads; `Err(Dependence)` while the cluster cannot be asked.
pub async fn observe(context: &Context, object: &Topic) -> Result<Result<(Observed, dependence::Asked), Dependence>, Error> {
    let namespace = object.metadata.namespace.clone().unwrap_or_default();
    let key = object.spec.cluster_ref.key(&namespace);
    let asked = match dependence::cluster(context, &key, &namespace).await? {
        Ok(asked) => asked,
        Err(dependence) => return Ok(Err(dependence)),
    };
    let name = topic_name(object);
    let found = asked.admin.describe_topics(Some(&[name.to_owned()])).await?;
    let mut topic = None;
    let mut holds_records = false;
    if let Some(found) = found.into_iter().find(|topic| topic.name == name) {
        let config = asked.admin.topic_config(name).await?;
        if object.metadata.deletion_timestamp.is_some() {
            holds_records = asked.admin.topic_holds_records(&found).await?;
        }
        topic = Some((found, config));
    }
    let older = dependence::older(&context.topics.all(), object, |other| {
        let other_key = other.spec.cluster_ref.key(other.metadata.namespace.as_deref().unwrap_or_default());
        other_key == key && topic_name(other) == name
    });
    let observed = Observed { version: asked.facts.version.clone(), brokers: asked.facts.brokers, topic, holds_records, older };
    Ok(Ok((observed, asked)))
}
