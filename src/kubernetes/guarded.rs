//! Reads objects of Freehold's kinds so that one unreadable object does not affect the others: a
//! typed list fails completely when one of its objects cannot be read. An unreadable object is
//! returned with the path of the invalid field.
//!
//! Fields that this version does not know are ignored. Invalid parts of a status are dropped:
//! another version wrote them, and the reconcile computes the status again. A spec is never read in
//! part. Metadata that no reconcile uses are dropped, so that large labels and annotations take no
//! memory.

use crate::kubernetes::labels;
use crate::words::{PART_CHARS_MAX, cut};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, Error as _};
use serde_json::Value;
use serde_path_to_error::Segment;
use std::borrow::Cow;

/// Maximum bytes of metadata and spec. The CustomResourceDefinition allows more in all fields
/// together, and etcd accepts 1.5 MB; an operator with 128 MiB beside its compiler could not hold a hundred objects of
/// that size.
pub const BYTES_MAX: usize = 256 * 1024;
/// Parts of a status that are dropped before the object counts as unreadable.
const LEFT_OUT_MAX: usize = 32;
/// The parts of a status that are never dropped: the disruption under way, and the replays of dead
/// letters. If another version wrote them, this version may not be able to continue them, and must
/// not begin a replay again.
const NEVER_LEFT_OUT: [&str; 3] = ["disruption", "replay", "replays"];

/// An object, or the metadata of one that cannot be read.
#[derive(Clone, Debug)]
pub enum Guarded<K> {
    Read(K),
    Unread(Box<Unread>),
}

/// An object that cannot be read.
#[derive(Clone, Debug, Default)]
pub struct Unread {
    pub meta: ObjectMeta,
    /// The status as it was read, so that the operator can write it back with another condition.
    pub status: Value,
    /// Path of the invalid field.
    pub field: String,
    pub why: String,
}

impl<K: DeserializeOwned> Guarded<K> {
    /// Reads an object from JSON. Objects above [`BYTES_MAX`] count as unreadable.
    pub fn of(mut value: Value) -> Self {
        slim(&mut value);
        let bytes = bytes(&value["metadata"]) + bytes(&value["spec"]);
        if bytes > BYTES_MAX {
            let why = format!(
                "{} KiB of metadata and spec; Freehold takes {} KiB: make several of it",
                bytes / 1024,
                BYTES_MAX / 1024
            );
            let meta = metadata(&value);
            return Self::Unread(Box::new(Unread {
                meta,
                status: value["status"].take(),
                field: "spec".into(),
                why,
            }));
        }
        let status = value["status"].clone();
        match read(&mut value) {
            Ok(object) => Self::Read(object),
            Err((field, why)) => Self::Unread(Box::new(Unread {
                meta: metadata(&value),
                status,
                field,
                why,
            })),
        }
    }

    /// # Errors
    /// The object cannot be read.
    pub fn read(self) -> Result<K, Box<Unread>> {
        match self {
            Self::Read(object) => Ok(object),
            Self::Unread(unread) => Err(unread),
        }
    }
}

/// Reads an object; drops the parts of its status that cannot be read.
fn read<K: DeserializeOwned>(value: &mut Value) -> Result<K, (String, String)> {
    let mut left_out = 0;
    loop {
        let error = match serde_path_to_error::deserialize(&*value) {
            Ok(object) => return Ok(object),
            Err(error) => error,
        };
        let path: Vec<Segment> = error.path().iter().cloned().collect();
        left_out += 1;
        if left_out > LEFT_OUT_MAX || !leave_out(value, &path) {
            let field = cut(error.path().to_string(), PART_CHARS_MAX);
            return Err((field, cut(error.inner().to_string(), PART_CHARS_MAX)));
        }
    }
}

/// Removes a list item, or else a whole field, from the status. False: the path is not in the
/// status, or the part must not be dropped.
fn leave_out(value: &mut Value, path: &[Segment]) -> bool {
    let [
        Segment::Map { key: status },
        Segment::Map { key },
        rest @ ..,
    ] = path
    else {
        return false;
    };
    if status != "status" || NEVER_LEFT_OUT.contains(&key.as_str()) {
        return false;
    }
    let Some(fields) = value["status"].as_object_mut() else {
        return false;
    };
    match (rest.first(), fields.get_mut(key)) {
        (Some(Segment::Seq { index }), Some(Value::Array(items))) if *index < items.len() => {
            drop(items.remove(*index))
        }
        (_, Some(_)) => drop(fields.remove(key)),
        (_, None) => return false,
    }
    true
}

fn metadata(value: &Value) -> ObjectMeta {
    value
        .get("metadata")
        .and_then(|meta| ObjectMeta::deserialize(meta).ok())
        .unwrap_or_default()
}

/// Removes metadata that no reconcile reads. Managed fields and kubectl's last-applied annotation
/// alone are half of an object's size.
fn slim(value: &mut Value) {
    let Some(meta) = value.get_mut("metadata").and_then(Value::as_object_mut) else {
        return;
    };
    for unused in ["managedFields", "labels", "ownerReferences"] {
        meta.remove(unused);
    }
    if let Some(annotations) = meta.get_mut("annotations").and_then(Value::as_object_mut) {
        annotations.retain(|key, value| {
            labels::ASKED.contains(&key.as_str())
                && value
                    .as_str()
                    .is_some_and(|value| value.len() <= labels::ASKED_CHARS_MAX)
        });
    }
}

/// Approximate size of the value as JSON, in bytes.
fn bytes(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 8,
        Value::String(text) => text.len() + 2,
        Value::Array(items) => items.iter().map(|item| bytes(item) + 1).sum(),
        Value::Object(fields) => fields
            .iter()
            .map(|(key, value)| key.len() + bytes(value) + 4)
            .sum(),
    }
}

impl<'de, K: DeserializeOwned> Deserialize<'de> for Guarded<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        // Without metadata it is no object, and has no name to report.
        if !value["metadata"].is_object() {
            return Err(D::Error::custom("an object without metadata"));
        }
        Ok(Self::of(value))
    }
}

impl<K: Resource<DynamicType = ()>> Resource for Guarded<K> {
    type DynamicType = ();
    type Scope = K::Scope;

    fn kind((): &()) -> Cow<'_, str> {
        K::kind(&())
    }
    fn group((): &()) -> Cow<'_, str> {
        K::group(&())
    }
    fn version((): &()) -> Cow<'_, str> {
        K::version(&())
    }
    fn plural((): &()) -> Cow<'_, str> {
        K::plural(&())
    }
    fn meta(&self) -> &ObjectMeta {
        match self {
            Self::Read(object) => object.meta(),
            Self::Unread(unread) => &unread.meta,
        }
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        match self {
            Self::Read(object) => object.meta_mut(),
            Self::Unread(unread) => &mut unread.meta,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::kafka_cluster::KafkaCluster;
    use crate::api::topic::Topic;
    use kube::core::{ObjectList, WatchEvent};
    use serde_json::json;

    fn topic(spec: &Value, status: &Value) -> Value {
        json!({"apiVersion": "freehold.dev/v1alpha1", "kind": "Topic", "spec": spec, "status": status,
            "metadata": {"name": "t", "namespace": "n", "uid": "u", "generation": 3, "resourceVersion": "7", "labels": {"a": "b"},
                "annotations": {"freehold.dev/confirm-delete": "t", "other": "x"}, "managedFields": [{"manager": "m"}]}})
    }

    fn good() -> Value {
        json!({"clusterRef": {"name": "c"}, "partitions": 1})
    }

    fn with(mut spec: Value, key: &str, value: Value) -> Value {
        spec[key] = value;
        spec
    }

    fn unread(value: Value) -> Unread {
        *Guarded::<Topic>::of(value).read().unwrap_err()
    }

    #[test]
    fn a_field_of_a_newer_version_is_ignored_and_only_what_is_used_is_kept() {
        let read = Guarded::<Topic>::of(topic(
            &with(good(), "schemas", json!({"value": 1})),
            &json!({"new": [1]}),
        ))
        .read()
        .unwrap();
        assert_eq!(read.spec.partitions, 1);
        let annotations = read.metadata.annotations.unwrap();
        assert_eq!(
            annotations.keys().collect::<Vec<_>>(),
            ["freehold.dev/confirm-delete"]
        );
        assert!(read.metadata.labels.is_none() && read.metadata.managed_fields.is_none());
    }

    #[test]
    fn a_value_of_a_newer_version_makes_that_object_alone_unreadable_and_names_the_field() {
        let newer = topic(
            &with(good(), "adoption", json!("WhenEmpty")),
            &json!({"reason": "x"}),
        );
        let list = json!({"apiVersion": "freehold.dev/v1alpha1", "kind": "TopicList", "metadata": {"resourceVersion": "9"},
            "items": [newer, topic(&good(), &json!({}))]});
        let list: ObjectList<Guarded<Topic>> = serde_json::from_value(list).unwrap();
        let mut items = list.items.into_iter().map(Guarded::read);
        let unread = items.next().unwrap().unwrap_err();
        assert_eq!(
            (unread.field.as_str(), unread.meta.generation),
            ("spec.adoption", Some(3))
        );
        assert!(unread.why.contains("WhenEmpty"), "{}", unread.why);
        assert_eq!(unread.status, json!({"reason": "x"}));
        assert!(items.next().unwrap().is_ok());
        let event: WatchEvent<Guarded<Topic>> =
            serde_json::from_value(json!({"type": "MODIFIED", "object": newer})).unwrap();
        assert!(matches!(event, WatchEvent::Modified(Guarded::Unread(_))));
    }

    #[test]
    fn of_a_status_what_another_version_wrote_is_left_out() {
        let condition = |kind: &str| json!({"type": kind, "status": "True", "reason": "R", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let status = json!({"conditions": [condition("Suspended"), condition("Ready")], "partitions": "many", "topicName": "t"});
        let read = Guarded::<Topic>::of(topic(&good(), &status))
            .read()
            .unwrap()
            .status
            .unwrap();
        assert_eq!(
            (
                read.conditions.len(),
                read.partitions,
                read.topic_name.as_deref()
            ),
            (1, None, Some("t"))
        );
    }

    #[test]
    fn a_disruption_that_another_version_began_is_not_forgotten() {
        let pool = json!({"name": "b", "roles": ["broker"], "replicas": 1, "zones": ["z"], "storage": {"size": "1Gi"}});
        let disruption = json!({"kind": "Migration", "nodeIds": [1], "why": "w", "since": "2026-01-01T00:00:00Z"});
        let cluster = json!({"metadata": {"name": "c", "uid": "u"}, "spec": {"version": "4.3.1", "nodePools": [pool]},
            "status": {"disruption": disruption}});
        let unread = Guarded::<KafkaCluster>::of(cluster).read().unwrap_err();
        assert_eq!(unread.field, "status.disruption.kind");
    }

    #[test]
    fn one_that_is_too_large_is_not_kept_whatever_it_is_large_by() {
        let much = "x".repeat(BYTES_MAX);
        assert_eq!(
            unread(topic(
                &with(good(), "config", json!({"a": much})),
                &json!({})
            ))
            .field,
            "spec"
        );
        assert!(
            unread(topic(
                &with(good(), "config", json!({"a": much})),
                &json!({})
            ))
            .why
            .contains("KiB")
        );
        for annotation in ["other", "freehold.dev/rotate", "freehold.dev/other"] {
            let mut annotated = topic(&good(), &json!({}));
            annotated["metadata"]["annotations"][annotation] = json!(much);
            assert!(
                Guarded::<Topic>::of(annotated).read().is_ok(),
                "whoever may annotate {annotation} does not keep it from being read"
            );
        }
        assert!(
            unread(topic(&json!({"partitions": much}), &json!({})))
                .why
                .chars()
                .count()
                <= PART_CHARS_MAX + 1
        );
    }
}
