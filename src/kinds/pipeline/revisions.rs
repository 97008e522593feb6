//! The revisions of a Pipeline: each accepted graph is an immutable ControllerRevision, with its
//! number, who applied it, and what it changed.

use crate::api::pipeline::Pipeline;
use crate::kinds::pipeline::desired::group;
use crate::kubernetes::{self, KubeError, KubeResult, labels, names};
use freehold_pipeline::definition::Definition;
use freehold_pipeline::graph::Graph;
use freehold_pipeline::stages::{Cut, Stage, cut};
use freehold_pipeline::topics::TopicNames;
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::api::ListParams;
use kube::core::PartialObjectMeta;
use kube::{Api, Client, ResourceExt};
use std::collections::{BTreeMap, BTreeSet};

/// Lines of a diff that are recorded.
const CHANGES_MAX: usize = 30;

/// A revision.
#[derive(Clone, Debug)]
pub struct Revision {
    pub number: i64,
    pub definition: Definition,
    /// The field manager that applied it: `kubectl-client-side-apply`, `argocd-controller`.
    pub applied_by: String,
    /// What it changed, a line for each change.
    pub changes: Vec<String>,
    /// Name of its object.
    pub name: String,
    /// When it was made.
    pub since: Option<Time>,
}

/// A revision without its graph: a Pipeline has many, and each may have 128 KiB.
#[derive(Clone, Debug)]
pub struct Listed {
    pub number: i64,
    /// Name of its object.
    pub name: String,
    /// False: it is of an earlier Pipeline of this name.
    pub is_own: bool,
    /// The names of its stages.
    pub stages: Vec<String>,
}

/// All revisions of the Pipelines that had this name, the oldest first.
///
/// # Errors
/// The API server refuses, or does not answer.
pub async fn listed(client: &Client, object: &Pipeline) -> KubeResult<Vec<Listed>> {
    let selector = selector(object);
    let found = api(client, object)
        .list_metadata(&ListParams::default().labels(&selector))
        .await
        .map_err(KubeError::request("list", "ControllerRevision", &selector))?;
    let uid = object.metadata.uid.as_deref().unwrap_or_default();
    let prefix = names::revision_prefix(&object.name_any());
    let listed = |one: PartialObjectMeta<ControllerRevision>| {
        let name = one.name_any();
        let stages = one.annotations().get(labels::STAGES);
        let stages = stages.map(|stages| stages.split(',').map(str::to_owned).collect());
        Some(Listed {
            number: name.strip_prefix(&prefix)?.parse().ok()?,
            is_own: one.owner_references().iter().any(|owner| owner.uid == uid),
            stages: stages.unwrap_or_default(),
            name,
        })
    };
    let mut all: Vec<Listed> = found.items.into_iter().filter_map(listed).collect();
    all.sort_by_key(|one| one.number);
    Ok(all)
}

/// The consumer groups of a Pipeline: those of the stages that run, and of the stages of its
/// revisions.
///
/// # Errors
/// The API server refuses, or does not answer.
pub async fn groups(client: &Client, object: &Pipeline) -> KubeResult<Vec<String>> {
    let status = object.status.clone().unwrap_or_default();
    let mut groups: BTreeSet<String> = status.stages.into_iter().map(|stage| stage.group).collect();
    let revisions = listed(client, object).await?;
    let own = revisions.iter().filter(|one| one.is_own);
    let stages = own.flat_map(|one| &one.stages);
    groups.extend(stages.map(|stage| group(object, stage)));
    // Whoever may write the status must not name another's group.
    let prefix = group(object, "");
    Ok(groups
        .into_iter()
        .filter(|group| group.starts_with(&prefix) && *group != prefix)
        .collect())
}

/// A revision; `None`: it is gone, or this version cannot read it.
///
/// # Errors
/// The API server refuses, or does not answer.
pub async fn get(client: &Client, object: &Pipeline, name: &str) -> KubeResult<Option<Revision>> {
    let found = api(client, object)
        .get_opt(name)
        .await
        .map_err(KubeError::request("get", "ControllerRevision", name))?;
    Ok(found.and_then(|found| read(&found)))
}

/// The revisions of a Pipeline, the oldest first. Those of an earlier Pipeline of its name, and
/// those that this version cannot read, are left out.
///
/// # Errors
/// The API server refuses, or does not answer.
pub async fn list(client: &Client, object: &Pipeline) -> KubeResult<Vec<Revision>> {
    let selector = selector(object);
    let found = api(client, object)
        .list(&ListParams::default().labels(&selector))
        .await
        .map_err(KubeError::request("list", "ControllerRevision", &selector))?;
    let uid = object.metadata.uid.as_deref().unwrap_or_default();
    let mut all: Vec<Revision> = found
        .items
        .into_iter()
        .filter(|one| one.owner_references().iter().any(|owner| owner.uid == uid))
        .filter_map(|one| read(&one))
        .collect();
    all.sort_by_key(|revision| revision.number);
    Ok(all)
}

fn selector(object: &Pipeline) -> String {
    format!("{}={}", labels::PIPELINE, object.name_any())
}

/// The API of a Pipeline's revisions.
pub fn api(client: &Client, object: &Pipeline) -> Api<ControllerRevision> {
    Api::namespaced(client.clone(), &object.namespace().unwrap_or_default())
}

fn read(object: &ControllerRevision) -> Option<Revision> {
    let data = object.data.as_ref()?;
    let text = |key: &str| object.annotations().get(key).cloned().unwrap_or_default();
    Some(Revision {
        number: object.revision,
        definition: serde_json::from_value(data.0.clone()).ok()?,
        applied_by: text(labels::APPLIED_BY),
        changes: text(labels::CHANGES).lines().map(str::to_owned).collect(),
        name: object.name_any(),
        since: object.metadata.creation_timestamp.clone(),
    })
}

/// The object of a revision.
pub fn revision(
    object: &Pipeline,
    definition: &Definition,
    number: i64,
    applied_by: String,
    changes: &[String],
) -> ControllerRevision {
    let lines = changes.iter().take(CHANGES_MAX);
    let lines: Vec<&str> = lines.map(String::as_str).collect();
    let data = serde_json::to_value(definition).expect("a definition serializes");
    ControllerRevision {
        metadata: ObjectMeta {
            name: Some(names::revision(&object.name_any(), number)),
            namespace: object.namespace(),
            labels: Some(labels::pipeline(&object.name_any())),
            annotations: Some(BTreeMap::from([
                (labels::APPLIED_BY.to_owned(), applied_by),
                (labels::CHANGES.to_owned(), lines.join("\n")),
                (
                    labels::STAGES.to_owned(),
                    stages(object, definition).join(","),
                ),
            ])),
            owner_references: Some(vec![kubernetes::owner(object)]),
            ..Default::default()
        },
        revision: number,
        data: Some(RawExtension(data)),
    }
}

/// The field manager that wrote the spec last; empty if nobody is recorded.
pub async fn applied_by(client: &Client, object: &Pipeline) -> KubeResult<String> {
    let name = object.name_any();
    let pipelines: Api<Pipeline> =
        Api::namespaced(client.clone(), &object.namespace().unwrap_or_default());
    let found: Option<PartialObjectMeta<Pipeline>> = pipelines
        .get_metadata_opt(&name)
        .await
        .map_err(KubeError::request("get", "Pipeline", &name))?;
    let managers = found.and_then(|found| found.metadata.managed_fields);
    let own = labels::FIELD_MANAGER;
    let wrote = managers.into_iter().flatten().filter(|entry| {
        let fields = entry.fields_v1.as_ref();
        let spec = fields.is_some_and(|fields| fields.0.get("f:spec").is_some());
        spec && entry.subresource.is_none() && entry.manager.as_deref().is_some_and(|by| by != own)
    });
    let last = wrote.max_by_key(|entry| entry.time.as_ref().map(|time| time.0));
    Ok(last.and_then(|entry| entry.manager).unwrap_or_default())
}

/// What a change means for records that were read already, or are on their way.
pub fn consequences(object: &Pipeline, old: &Definition, new: &Definition) -> Vec<String> {
    let (old, new) = (Reading::of(object, old), Reading::of(object, new));
    let mut lines = Vec::new();
    for (topic, group) in &new.groups {
        if let Some(before) = old.groups.get(topic).filter(|before| *before != group) {
            lines.push(format!(
                "topic {topic} is read by group {group}, no longer by {before}: again from start"
            ));
        }
    }
    let gone = old
        .internal
        .iter()
        .filter(|topic| !new.internal.contains(*topic));
    lines.extend(gone.map(|topic| {
        format!("topic {topic} is no longer read: records that are left in it are not processed")
    }));
    lines
}

/// What a revision reads.
#[derive(Default)]
struct Reading {
    /// The consumer group that reads each topic.
    groups: BTreeMap<String, String>,
    internal: Vec<String>,
}

/// The stages of a revision; none if its blocks are no graph. Each name of a Topic stands for its
/// topic: the names of stages do not depend on it.
fn cut_of(object: &Pipeline, definition: &Definition) -> Cut {
    let Ok(graph) = Graph::of(definition) else {
        return Cut::default();
    };
    let names = TopicNames::default();
    let namespace = object.namespace().unwrap_or_default();
    cut(&graph, definition, &names, &namespace, &object.name_any())
}

/// The names of a revision's stages that read internal topics alone.
pub fn behind_internal_topics(object: &Pipeline, definition: &Definition) -> Vec<String> {
    let Cut { stages, internal } = cut_of(object, definition);
    let is_internal = |topic: &str| internal.iter().any(|one| one.topic == topic);
    let is_behind = |stage: &Stage| {
        let sources = stage.definition.blocks.iter();
        let sources = sources.filter_map(|block| block.source.as_ref());
        let topics = sources.map(|source| source.kafka.as_ref()?.target.topic.as_deref());
        let topics: Vec<Option<&str>> = topics.collect();
        !topics.is_empty() && topics.iter().all(|topic| topic.is_some_and(is_internal))
    };
    let behind = stages.into_iter().filter(is_behind);
    behind.map(|stage| stage.name).collect()
}

/// The names of a revision's stages.
fn stages(object: &Pipeline, definition: &Definition) -> Vec<String> {
    let stages = cut_of(object, definition).stages.into_iter();
    stages.map(|stage| stage.name).collect()
}

impl Reading {
    fn of(object: &Pipeline, definition: &Definition) -> Self {
        let cut = cut_of(object, definition);
        let mut groups = BTreeMap::new();
        for stage in &cut.stages {
            for block in &stage.definition.blocks {
                let work = block.work().ok();
                let reads = work.as_ref().and_then(|work| work.reads());
                if let Some(topic) = reads.and_then(|target| target.topic.clone()) {
                    groups.insert(topic, group(object, &stage.name));
                }
            }
        }
        Self {
            groups,
            internal: cut.internal.into_iter().map(|one| one.topic).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_change_says_what_is_read_again_and_what_is_not_read_any_more() {
        let pipeline = |first: &str, isolate: bool| -> Pipeline {
            let blocks = json!([
                {"name": first, "source": {"kafka": {"topic": "orders"}}},
                {"name": "slow", "from": [first], "isolate": isolate, "filter": {"when": "true"}},
                {"name": "out", "from": ["slow"], "sink": {"kafka": {"topic": "out"}}},
            ]);
            let spec = json!({"clusterRef": {"name": "demo"}, "blocks": blocks});
            let metadata = json!({"name": "orders", "namespace": "shop"});
            serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
        };
        let old = pipeline("in", true);
        let behind = |object: &Pipeline| behind_internal_topics(object, &object.spec.definition());
        assert_eq!(behind(&old), ["slow"]);
        assert_eq!(behind(&pipeline("in", false)), Vec::<String>::new());
        let said =
            |new: &Pipeline| consequences(&old, &old.spec.definition(), &new.spec.definition());
        assert_eq!(said(&old), Vec::<String>::new());
        assert_eq!(
            said(&pipeline("orders", true)),
            [
                "topic orders is read by group shop.orders.orders, no longer by shop.orders.in: again from start"
            ]
        );
        assert_eq!(
            said(&pipeline("in", false)),
            [
                "topic shop.orders.slow is no longer read: records that are left in it are not processed"
            ]
        );
    }
}
