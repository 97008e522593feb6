//! What a Pipeline gets from Kafka through other objects: the User whose credential it has, and the
//! Topics of its isolated blocks. Pure.

use crate::api::kafka_cluster::Authentication;
use crate::api::pipeline::Pipeline;
use crate::api::user::{User, UserAuthenticationType};
use crate::clusters::ClusterFacts;
use crate::kinds::user::validate::listener;
use crate::kubernetes::{self, Live, Object, labels, names};
use freehold_pipeline::rights::Rights;
use freehold_pipeline::stages::InternalTopic;
use kube::ResourceExt;
use serde_json::{Value, json};

/// Kafka deletes nothing by itself in an internal topic: a record can be old when it comes. The
/// operator deletes what is processed.
const NO_RETENTION: &str = "-1";
/// Kafka frees whole segments. 50 MiB is what Kafka Streams has for such topics.
const INTERNAL_SEGMENT_BYTES: &str = "52428800";

/// The name of the User whose credential a Pipeline has.
pub fn user_name(object: &Pipeline) -> String {
    match &object.spec.user_ref {
        Some(user) => user.name.clone(),
        None => names::of_pipeline(&object.name_any()),
    }
}

/// The User of a Pipeline without `userRef`, with exactly the rights that its graph needs.
pub fn user(object: &Pipeline, cluster: &ClusterFacts, rights: &Rights) -> Object {
    let authentication = if cluster.listener(Authentication::ScramSha512).is_some() {
        UserAuthenticationType::ScramSha512
    } else {
        UserAuthenticationType::MutualTls
    };
    let namespace = object.namespace().unwrap_or_default();
    let below = format!("{}*", rights.prefix);
    let mut grants = Vec::new();
    if !rights.read.is_empty() {
        grants.push(json!({"consume": {"topics": rights.read, "groups": [below]}}));
    }
    if !rights.write.is_empty() {
        grants.push(json!({"produce": {"topics": rights.write}}));
    }
    if rights.transactional {
        grants.push(json!({"transactional": {"ids": [below]}}));
    }
    let value = json!({
        "apiVersion": "freehold.dev/v1alpha1", "kind": "User",
        "metadata": metadata(object, &names::of_pipeline(&object.name_any())),
        "spec": {
            "clusterRef": object.spec.cluster_ref,
            "username": names::pipeline_principal(&namespace, &object.name_any()),
            "authentication": {"type": authentication},
            "grants": grants,
        },
    });
    Object::of_value(kubernetes::resource::<User>(), value)
}

/// These rights, and those that the User has now. Pods of the revision before need theirs until the
/// last one is replaced.
pub fn with_granted(rights: &Rights, user: &Live) -> Rights {
    let mut all = rights.clone();
    let user = serde_json::from_value::<User>(user.value.clone());
    for grant in user.iter().flat_map(|user| &user.spec.grants) {
        let read = grant.consume.iter().flat_map(|grant| &grant.topics);
        all.read.extend(read.cloned());
        let written = grant.produce.iter().flat_map(|grant| &grant.topics);
        all.write.extend(written.cloned());
        all.transactional |= grant.transactional.is_some();
    }
    all
}

/// The Topic of what flows to an isolated block. Whoever deletes the Pipeline deletes what is still
/// in it.
pub fn topic(object: &Pipeline, internal: &InternalTopic, partitions: i32) -> Object {
    let value = json!({
        "apiVersion": "freehold.dev/v1alpha1", "kind": "Topic",
        "metadata": metadata(object, &names::internal_topic(&object.name_any(), &internal.block)),
        "spec": {
            "clusterRef": object.spec.cluster_ref,
            "topicName": internal.topic,
            "partitions": partitions,
            "config": {
                "cleanup.policy": "delete",
                "retention.ms": NO_RETENTION,
                "retention.bytes": NO_RETENTION,
                "segment.bytes": INTERNAL_SEGMENT_BYTES,
            },
        },
    });
    Object::of_value(kubernetes::resource::<crate::api::topic::Topic>(), value)
}

fn metadata(object: &Pipeline, name: &str) -> Value {
    json!({
        "name": name, "namespace": object.namespace(),
        "labels": labels::pipeline(&object.name_any()),
        "ownerReferences": [kubernetes::owner(object)],
    })
}

/// How the runners connect: `client.json`, without a secret. `None`: the cluster has no listener
/// for this User.
pub fn client_settings(user: &User, cluster: &ClusterFacts, folder: &str) -> Option<Value> {
    let kind = user.spec.authentication.kind;
    let listener = listener(user, cluster)?;
    let file = |key: &str| {
        let keys = &user.spec.secret.keys;
        format!("{folder}/{}", keys.get(key).map_or(key, String::as_str))
    };
    let mut kafka = json!({"bootstrap": listener.bootstrap, "tls": {"ca": file("ca.crt")}});
    if kind == UserAuthenticationType::ScramSha512 {
        kafka["scram"] = json!({
            "user": user.principal_name(),
            "passwordFile": file("password"),
        });
    } else {
        kafka["tls"]["client"] = json!({
            "certificate": file("user.crt"),
            "key": file("user.key"),
        });
    }
    Some(json!({"kafka": kafka}))
}

/// Ports of the cluster's listeners that the runners may reach.
pub fn ports(cluster: &ClusterFacts) -> Vec<u16> {
    let listeners = cluster.listeners.iter();
    let mut ports: Vec<u16> = listeners
        .filter_map(|listener| listener.bootstrap.rsplit_once(':')?.1.parse().ok())
        .collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::kafka_cluster::KafkaCluster;

    #[test]
    fn a_user_keeps_what_pods_of_the_revision_before_need() {
        let cluster: KafkaCluster = serde_json::from_value(json!({
            "metadata": {"name": "demo", "namespace": "kafka"},
            "spec": {"version": "4.3.1", "nodePools": [],
                "listeners": [{"name": "scram", "port": 9094, "authentication": "ScramSha512"}]},
        }))
        .unwrap();
        let facts = ClusterFacts::of_spec(&cluster);
        let object: Pipeline = serde_json::from_value(json!({
            "metadata": {"name": "orders", "namespace": "shop"},
            "spec": {"clusterRef": {"name": "demo", "namespace": "kafka"}, "blocks": []},
        }))
        .unwrap();
        let rights = |read: &str, write: &str, transactional| Rights {
            read: [read.to_owned()].into(),
            write: [write.to_owned()].into(),
            prefix: "shop.orders.".to_owned(),
            transactional,
        };
        let (old, new) = (rights("a", "b", true), rights("a", "c", false));
        let made = user(&object, &facts, &old);
        let made = Live {
            resource: made.resource,
            value: made.value,
        };
        assert_eq!(
            with_granted(&old, &made),
            old,
            "a settled one changes nothing"
        );
        let both = with_granted(&new, &made);
        assert_eq!(both.write, ["b".to_owned(), "c".to_owned()].into());
        assert!(both.transactional);
    }
}
