//! Spec and observed world -> a valid topic, or everything that is wrong. Pure.

use super::api::Topic;
use super::observe::Observed;
use crate::kafka::config;
use crate::kinds::kafka_cluster::validate::Invalid;

/// A topic that can be made.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidTopic {
    pub name: String,
    pub partitions: i32,
    /// -1: the cluster's default.
    pub replicas: i16,
    pub config: std::collections::BTreeMap<String, String>,
}

/// The topic's name in Kafka.
pub fn topic_name(object: &Topic) -> &str {
    object.spec.topic_name.as_deref().or(object.metadata.name.as_deref()).unwrap_or_default()
}

/// Checks everything.
///
/// # Errors
/// All that is wrong, not only the first.
pub fn validate(object: &Topic, observed: &Observed) -> Result<ValidTopic, Vec<Invalid>> {
    let mut invalids = Vec::new();
    let mut invalid = |field: String, why: String| invalids.push(Invalid { field, why });
    let spec = &object.spec;
    match config::definitions(&observed.version) {
        None => invalid("spec.clusterRef".into(), format!("the cluster runs {}, which is not known", observed.version)),
        Some(definitions) => {
            for (key, value) in &spec.config {
                if let Some(why) = config::refuse_topic_config(definitions, key, value) {
                    invalid(format!("spec.config[{key}]"), why);
                }
            }
        }
    }
    if let Some(replicas) = spec.replicas.filter(|replicas| u32::try_from(*replicas).unwrap_or(0) > observed.brokers) {
        let brokers = observed.brokers;
        invalid("spec.replicas".into(), format!("{replicas} is above the number of brokers, {brokers}; set {brokers} or fewer"));
    }
    if let (Some(replicas), Some(in_sync)) =
        (spec.replicas, spec.config.get("min.insync.replicas").and_then(|value| value.parse::<i16>().ok()))
        && in_sync > replicas
    {
        invalid(
            "spec.config[min.insync.replicas]".into(),
            format!("{in_sync} is above spec.replicas, {replicas}: nothing could be produced; lower it"),
        );
    }
    if let Some(older) = &observed.older {
        invalid(
            "spec.topicName".into(),
            format!("Topic {older} is older and manages this topic; take another name or delete one of the two"),
        );
    }
    if !invalids.is_empty() {
        return Err(invalids);
    }
    Ok(ValidTopic {
        name: topic_name(object).to_owned(),
        partitions: spec.partitions,
        replicas: spec.replicas.unwrap_or(-1),
        config: spec.config.clone(),
    })
}
