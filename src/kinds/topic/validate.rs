//! Spec and observed world -> a valid topic, or everything that is wrong. Pure.

use super::api::Topic;
use super::observe::Observed;
use crate::conditions::Reason;
use crate::kafka::config;
use crate::kafka::metadata_image::INTERNAL_TOPICS;
use crate::kinds::access;
use crate::kinds::error::Invalid;
use crate::runtime::clusters::ClusterFacts;

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

/// What is wrong whatever the world is: for the webhook too.
pub fn check(object: &Topic, cluster: &ClusterFacts, at_home: bool) -> Vec<Invalid> {
    let mut invalids = Vec::new();
    let spec = &object.spec;
    let name = topic_name(object);
    match config::definitions(&cluster.version) {
        None => invalids.push(Invalid::new("spec.clusterRef", format!("the cluster runs {}, which is not known", cluster.version))),
        Some(definitions) => {
            for (key, value) in spec.config.iter() {
                if let Some(why) = config::refuse_topic_config(definitions, key, value) {
                    invalids.push(Invalid::new(format!("spec.config[{key}]"), why));
                }
            }
        }
    }
    if let Some(replicas) = spec.replicas.filter(|replicas| u32::try_from(*replicas).unwrap_or(0) > cluster.brokers) {
        let brokers = cluster.brokers;
        invalids
            .push(Invalid::new("spec.replicas", format!("{replicas} is above the number of brokers, {brokers}; set {brokers} or fewer")));
    }
    let in_sync = spec.config.get("min.insync.replicas").map(|value| value.trim().parse::<i16>());
    match (spec.replicas, in_sync) {
        (Some(replicas), Some(Ok(in_sync))) if in_sync > replicas => invalids.push(Invalid::new(
            "spec.config[min.insync.replicas]",
            format!("{in_sync} is above spec.replicas, {replicas}: nothing could be produced; lower it"),
        )),
        (Some(replicas), None) if cluster.min_in_sync > replicas => invalids.push(Invalid::new(
            "spec.replicas",
            format!(
                "{replicas} is below the cluster's min.insync.replicas, {}: nothing could be produced; raise it, or set spec.config[min.insync.replicas]",
                cluster.min_in_sync
            ),
        )),
        _ => {}
    }
    if INTERNAL_TOPICS.contains(&name) {
        invalids.push(Invalid::new("spec.topicName", format!("{name} is Kafka's own; take another name")));
    }
    if let Some(why) = cluster
        .access
        .topic_names
        .as_ref()
        .filter(|_| !at_home)
        .and_then(|policy| access::refuse_name(policy, object.metadata.namespace.as_deref().unwrap_or_default(), name, false))
    {
        invalids.push(Invalid::new("spec.topicName", format!("{name}: {why}")).because(Reason::NameNotAllowed));
    }
    invalids
}

/// Checks everything.
///
/// # Errors
/// All that is wrong, not only the first.
pub fn validate(object: &Topic, observed: &Observed) -> Result<ValidTopic, Vec<Invalid>> {
    let mut invalids = check(object, &observed.cluster, observed.at_home);
    if let Some(older) = &observed.older {
        let why = format!("Topic {older} is older and manages this topic; take another name or delete one of the two");
        invalids.push(Invalid::new("spec.topicName", why).because(Reason::NameTaken));
    }
    if !invalids.is_empty() {
        return Err(invalids);
    }
    Ok(ValidTopic {
        name: topic_name(object).to_owned(),
        partitions: object.spec.partitions,
        replicas: object.spec.replicas.unwrap_or(-1),
        config: object.spec.config.clone().into(),
    })
}
