//! Validates a Topic against the observed state: returns a valid topic, or all errors. Pure.

use crate::api::conditions::Reason;
use crate::api::invalid::Invalid;
use crate::api::topic::{Topic, TopicDeletionPolicy};
use crate::clusters::ClusterFacts;
use crate::kinds::topic::observe::Observed;
use crate::tenancy::access;
use crate::tenancy::ownership;
use crate::tenancy::ownership::Other;
use freehold_kafka::config;
use freehold_kafka::metadata_image::INTERNAL_TOPICS;

/// A topic whose spec is valid.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidTopic {
    pub name: String,
    pub partitions: i32,
    /// The number of replicas; -1 is the cluster's default.
    pub replicas: i16,
    pub config: std::collections::BTreeMap<String, String>,
}

/// The errors that do not depend on the observed state; the webhook uses them too.
pub fn check(object: &Topic, cluster: &ClusterFacts, at_home: bool) -> Vec<Invalid> {
    let mut invalids = Vec::new();
    let spec = &object.spec;
    let name = object.topic_name();
    match config::definitions(&cluster.version) {
        None => invalids.push(Invalid::new(
            "spec.clusterRef",
            format!("the cluster runs {}, which is not known", cluster.version),
        )),
        Some(definitions) => {
            for (key, value) in spec.config.iter() {
                if let Some(why) = config::refuse_topic_config(definitions, key, value) {
                    invalids.push(Invalid::new(format!("spec.config[{key}]"), why));
                }
            }
        }
    }
    if let Some(replicas) = spec
        .replicas
        .filter(|replicas| u32::try_from(*replicas).unwrap_or(0) > cluster.brokers)
    {
        let brokers = cluster.brokers;
        invalids.push(Invalid::new(
            "spec.replicas",
            format!("{replicas} is above the number of brokers, {brokers}; set {brokers} or fewer"),
        ));
    }
    if INTERNAL_TOPICS.contains(&name) {
        invalids.push(Invalid::new(
            "spec.topicName",
            format!("{name} is Kafka's own; take another name"),
        ));
    }
    if let Some(why) = cluster
        .access
        .topic_names
        .as_ref()
        .filter(|_| !at_home)
        .and_then(|policy| {
            access::refuse_name(
                policy,
                object.metadata.namespace.as_deref().unwrap_or_default(),
                name,
                false,
            )
        })
    {
        invalids.push(
            Invalid::new("spec.topicName", format!("{name}: {why}"))
                .because(Reason::NameNotAllowed),
        );
    }
    invalids
}

/// Warnings about settings that are allowed but unwise; the webhook uses them too.
pub fn warnings(object: &Topic, cluster: &ClusterFacts) -> Vec<String> {
    let mut warnings = Vec::new();
    let spec = &object.spec;
    let own = spec
        .config
        .get("min.insync.replicas")
        .and_then(|value| value.trim().parse::<i16>().ok());
    let in_sync = own.unwrap_or(cluster.min_in_sync);
    // Since 3.7 Kafka requires no more in-sync replicas than the topic has.
    if let Some(replicas) = spec.replicas.filter(|replicas| *replicas < in_sync) {
        warnings.push(format!(
            "spec.replicas: {replicas} is below min.insync.replicas, {in_sync}, for which Kafka then takes {replicas}: nothing is acknowledged \
             with acks=all while one of them is away, and brokers that hold one restart only where the KafkaCluster's \
             spec.rollout.allowUnavailable is true; {} or more are safe",
            in_sync + 1
        ));
    }
    if !cluster.deletes_topics && spec.deletion_policy == TopicDeletionPolicy::Delete {
        warnings.push(
            "spec.deletionPolicy: Delete deletes nothing while the KafkaCluster's config delete.topic.enable is false; set Retain".into(),
        );
    }
    warnings
}

/// Validates a Topic.
///
/// # Errors
/// Returns all errors, not only the first.
pub fn validate(object: &Topic, observed: &Observed) -> Result<ValidTopic, Vec<Invalid>> {
    let mut invalids = check(object, &observed.cluster, observed.at_home);
    match &observed.ownership.other {
        Some(other @ (Other::Holds(_) | Other::Certified(..))) => {
            invalids.push(
                Invalid::new("spec.topicName", ownership::words::<Topic>(other, "topic"))
                    .because(Reason::NameTaken),
            );
        }
        // The topic's data must not be given to another namespace.
        Some(other @ Other::Revoked(_)) => {
            invalids.push(
                Invalid::new("spec.topicName", ownership::words::<Topic>(other, "topic"))
                    .because(Reason::NotOurs),
            );
        }
        Some(Other::Gone(_)) | None => {}
    }
    if !invalids.is_empty() {
        return Err(invalids);
    }
    Ok(ValidTopic {
        name: object.topic_name().to_owned(),
        partitions: object.spec.partitions,
        replicas: object.spec.replicas.unwrap_or(-1),
        config: object.spec.config.clone().into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::kafka_cluster::KafkaCluster;
    use serde_json::{Value, json};

    fn cluster(config: &Value) -> ClusterFacts {
        let cluster: KafkaCluster = serde_json::from_value(json!({
            "apiVersion": "freehold.dev/v1alpha1", "kind": "KafkaCluster", "metadata": {"name": "demo", "namespace": "kafka"},
            "spec": {"version": "4.3.1", "config": config, "nodePools": [
                {"name": "all", "roles": ["controller", "broker"], "replicas": 3, "zones": ["a", "b", "c"], "storage": {"size": "1Gi"}}]}
        }))
        .unwrap();
        ClusterFacts::of_spec(&cluster)
    }

    fn topic(more: &Value) -> Topic {
        let mut spec =
            json!({"clusterRef": {"name": "demo", "namespace": "kafka"}, "partitions": 2});
        spec.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let value = json!({"apiVersion": "freehold.dev/v1alpha1", "kind": "Topic", "metadata": {"name": "t", "namespace": "shop"}, "spec": spec});
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn fewer_replicas_than_min_in_sync_are_allowed_with_a_warning() {
        let cluster = cluster(&json!({}));
        for (spec, words) in [
            (
                json!({"replicas": 1}),
                Some("1 is below min.insync.replicas, 2"),
            ),
            (
                json!({"replicas": 2, "config": {"min.insync.replicas": 3}}),
                Some("2 is below min.insync.replicas, 3"),
            ),
            (
                json!({"replicas": 1, "config": {"min.insync.replicas": "1"}}),
                None,
            ),
            (json!({"replicas": 2}), None),
            (json!({}), None),
        ] {
            let topic = topic(&spec);
            assert_eq!(check(&topic, &cluster, true), [], "{spec}");
            let warnings = warnings(&topic, &cluster);
            assert_eq!(
                warnings.len(),
                usize::from(words.is_some()),
                "{spec}: {warnings:?}"
            );
            assert!(
                words
                    .is_none_or(|words| warnings[0].contains(words)
                        && warnings[0].contains("allowUnavailable")),
                "{warnings:?}"
            );
        }
    }

    #[test]
    fn a_topic_that_kafka_would_not_delete_says_so_from_the_start() {
        for config in [
            json!({"delete.topic.enable": false}),
            json!({"delete.topic.enable": "FALSE"}),
        ] {
            let warnings = warnings(&topic(&json!({})), &cluster(&config));
            assert!(
                warnings.len() == 1 && warnings[0].contains("delete.topic.enable"),
                "{warnings:?}"
            );
        }
        assert_eq!(
            warnings(
                &topic(&json!({"deletionPolicy": "Retain"})),
                &cluster(&json!({"delete.topic.enable": false}))
            ),
            [""; 0]
        );
        assert_eq!(
            warnings(
                &topic(&json!({})),
                &cluster(&json!({"delete.topic.enable": true}))
            ),
            [""; 0]
        );
    }

    #[test]
    fn configs_are_taken_as_people_write_them() {
        let read = |config: &Value| topic(&json!({"config": config}));
        let cluster = cluster(&json!({}));
        let good = read(
            &json!({"retention.ms": 604_800_000, "min.cleanable.dirty.ratio": 0.5, "preallocate": false, "cleanup.policy": "compact"}),
        );
        assert_eq!(check(&good, &cluster, true), []);
        assert_eq!(
            (
                good.spec.config.get("retention.ms"),
                good.spec.config.get("preallocate")
            ),
            (Some("604800000"), Some("false"))
        );
        let wrong = check(
            &read(&json!({"cleanup.policy": ["compact", "delete"], "retention.ms": {"days": 7}})),
            &cluster,
            true,
        );
        let words: Vec<_> = wrong.iter().map(ToString::to_string).collect();
        assert_eq!(
            words,
            [
                "spec.config[cleanup.policy]: a list; give a string, a number, true or false",
                "spec.config[retention.ms]: an object; give a string, a number, true or false"
            ]
        );
    }
}
