//! Writes on behalf of a Pipeline: its objects, its revisions, and at its end what is left.

use crate::api::pipeline::Pipeline;
use crate::api::topic::Topic;
use crate::clusters::Cluster;
use crate::kinds::error::Error;
use crate::kinds::pipeline::context::Context;
use crate::kinds::pipeline::desired;
use crate::kinds::pipeline::plan::{self, Step};
use crate::kinds::pipeline::pods;
use crate::kinds::pipeline::revisions::{self, Listed};
use crate::kubernetes::{self, KubeError, KubeResult, Live, Object, labels, names};
use freehold_kafka_client::{AdminResult, RecordsBefore};
use freehold_pipeline::changes::changes;
use freehold_pipeline::stages::Cut;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{ApiResource, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

/// The kinds of a Pipeline's objects that are deleted when they are not wanted any more.
fn kinds() -> [ApiResource; 7] {
    [
        kubernetes::resource::<StatefulSet>(),
        kubernetes::resource::<PodDisruptionBudget>(),
        kubernetes::resource::<ConfigMap>(),
        kubernetes::resource::<NetworkPolicy>(),
        kubernetes::resource::<ServiceAccount>(),
        kubernetes::resource::<Service>(),
        kubernetes::resource::<Secret>(),
    ]
}

/// Applies an object if it is not as it should be.
///
/// # Errors
/// The API server refuses, or does not answer; an object of that name is somebody else's.
pub async fn one(context: &Context, object: &Pipeline, wanted: &Object) -> Result<(), Error> {
    let (client, namespace) = (&context.client, object.namespace().unwrap_or_default());
    let found = kubernetes::get(client, &namespace, &wanted.resource, wanted.name()).await?;
    found_as(context, object, wanted, found.as_ref()).await
}

/// The same for an object that was just read.
///
/// # Errors
/// The API server refuses, or does not answer; an object of that name is somebody else's.
pub async fn found_as(
    context: &Context,
    object: &Pipeline,
    wanted: &Object,
    found: Option<&Live>,
) -> Result<(), Error> {
    let (client, namespace) = (&context.client, object.namespace().unwrap_or_default());
    match plan::step(wanted, found) {
        Some(step) => execute(client, &namespace, &step).await,
        None => Ok(()),
    }
}

async fn execute(client: &Client, namespace: &str, step: &Step) -> Result<(), Error> {
    match step {
        Step::Apply(object) => {
            kubernetes::apply(client, namespace, object, labels::PIPELINE).await?;
        }
        Step::RemoveFields(live, fields) => {
            kubernetes::remove(client, namespace, live, fields).await?;
        }
        Step::Delete(live) => kubernetes::delete(client, namespace, live).await?,
    }
    Ok(())
}

/// Brings the StatefulSets to the replicas that the spec says, while nothing else can be done.
///
/// # Errors
/// The API server refuses, or does not answer.
pub async fn scale(client: &Client, object: &Pipeline) -> KubeResult<()> {
    let namespace = object.namespace().unwrap_or_default();
    let sets: Api<StatefulSet> = Api::namespaced(client.clone(), &namespace);
    let selector = pods::selector(object);
    let found = sets
        .list(&ListParams::default().labels(&selector))
        .await
        .map_err(KubeError::request("list", "StatefulSet", &selector))?;
    let uid = object.metadata.uid.as_deref().unwrap_or_default();
    let own = found.items.into_iter().filter_map(|set| {
        let owned = set.owner_references().iter().any(|owner| owner.uid == uid);
        let stage = set.labels().get(labels::STAGE)?;
        let wanted = match set.labels().contains_key(labels::REPLAY) {
            true => desired::replay_replicas(object),
            false => desired::replicas(object, stage),
        };
        let is_other = set.spec.as_ref().and_then(|spec| spec.replicas) != Some(wanted);
        (owned && is_other).then_some((set, wanted))
    });
    for (set, wanted) in own {
        let (name, metadata) = (set.name_any(), &set.metadata);
        let patch = json!({
            "metadata": {"uid": metadata.uid, "resourceVersion": metadata.resource_version},
            "spec": {"replicas": wanted},
        });
        sets.patch(&name, &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .map_err(KubeError::request("scale", "StatefulSet", &name))?;
    }
    Ok(())
}

/// Applies what is not as it should be, and deletes what is left of stages that are no more.
///
/// # Errors
/// The API server refuses, or does not answer; an object of that name is somebody else's.
pub async fn all(context: &Context, object: &Pipeline, wanted: &[Object]) -> Result<(), Error> {
    let hashes: Vec<String> = wanted.iter().map(|one| one.hash().to_owned()).collect();
    if context.is_settled(object, &hashes) {
        return Ok(());
    }
    let (client, namespace) = (&context.client, object.namespace().unwrap_or_default());
    let mut found = Vec::new();
    for resource in kinds() {
        let selector = pods::selector(object);
        found.extend(kubernetes::list(client, &namespace, &resource, &selector).await?);
    }
    let uid = object.metadata.uid.as_deref().unwrap_or_default();
    let steps = plan::plan(wanted, &found, uid);
    for step in &steps {
        execute(client, &namespace, step).await?;
    }
    // What was changed is looked at again.
    let settled = if steps.is_empty() { hashes } else { Vec::new() };
    context.settle(object, settled);
    Ok(())
}

/// The number of the Pipeline's present revision, which is recorded if it is new; the oldest ones
/// above `revisionHistoryLimit` are deleted.
///
/// # Errors
/// The API server or Kafka refuses, or does not answer.
pub async fn record(
    client: &Client,
    object: &Pipeline,
    cluster: &Cluster,
    cut: &Cut,
) -> Result<i64, Error> {
    let all = revisions::listed(client, object).await?;
    let own: Vec<&Listed> = all.iter().filter(|one| one.is_own).collect();
    let newest = match own.last() {
        Some(newest) => revisions::get(client, object, &newest.name).await?,
        None => None,
    };
    let definition = object.spec.definition();
    let lines = match &newest {
        Some(newest) if newest.definition == definition => return Ok(newest.number),
        None => vec!["first revision".to_owned()],
        Some(newest) => {
            let mut lines = changes(&newest.definition, &definition);
            lines.extend(revisions::consequences(
                object,
                &newest.definition,
                &definition,
            ));
            lines
        }
    };
    let number = all.last().map_or(1, |last| last.number + 1);
    let by = revisions::applied_by(client, object).await?;
    let revision = revisions::revision(object, &definition, number, by, &lines);
    let name = names::revision(&object.name_any(), number);
    revisions::api(client, object)
        .create(&PostParams::default(), &revision)
        .await
        .map_err(KubeError::request("create", "ControllerRevision", &name))?;
    let kept = usize::try_from(object.spec.revision_history_limit).unwrap_or(usize::MAX);
    let (old, kept) = own.split_at(own.len().saturating_sub(kept));
    let kept = kept.iter().flat_map(|kept| kept.stages.iter());
    let kept: Vec<&String> = kept
        .chain(cut.stages.iter().map(|stage| &stage.name))
        .collect();
    for old in old {
        forget(client, object, cluster, old, &kept).await?;
    }
    Ok(number)
}

/// Deletes an old revision. Before it, the groups of stages behind internal topics that no other
/// revision has: such a stage would come back to an offset whose records are deleted. A group that
/// is in use keeps its revision until the next change.
async fn forget(
    client: &Client,
    object: &Pipeline,
    cluster: &Cluster,
    old: &Listed,
    kept: &[&String],
) -> Result<(), Error> {
    let found = revisions::get(client, object, &old.name).await?;
    let stages = found.map(|found| revisions::behind_internal_topics(object, &found.definition));
    let gone = stages
        .iter()
        .flatten()
        .filter(|stage| !kept.contains(stage));
    let groups: Vec<String> = gone.map(|stage| desired::group(object, stage)).collect();
    if !end_groups(cluster, &groups).await?.is_empty() {
        return Ok(());
    }
    Ok(delete_revision(&revisions::api(client, object), &old.name).await?)
}

async fn delete_revision(api: &Api<ControllerRevision>, name: &str) -> KubeResult<()> {
    match api.delete(name, &DeleteParams::default()).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => {
            other
                .map(|_| ())
                .map_err(KubeError::request("delete", "ControllerRevision", name))
        }
    }
}

/// Deletes the StatefulSets of a Pipeline that ends, and with them its pods.
///
/// # Errors
/// The API server refuses, or does not answer.
pub async fn end_pods(client: &Client, object: &Pipeline) -> KubeResult<()> {
    let namespace = object.namespace().unwrap_or_default();
    let uid = object.metadata.uid.as_deref().unwrap_or_default();
    let resource = kubernetes::resource::<StatefulSet>();
    let sets = kubernetes::list(client, &namespace, &resource, &pods::selector(object)).await?;
    let own = sets
        .iter()
        .filter(|set| set.is_owned_by(uid) && !set.is_deleting());
    for set in own {
        kubernetes::delete(client, &namespace, set).await?;
    }
    Ok(())
}

/// Deletes the objects of a replay of dead letters, and with them its pod.
///
/// # Errors
/// The API server refuses, or does not answer.
pub async fn end_replay(client: &Client, object: &Pipeline) -> KubeResult<()> {
    let namespace = object.namespace().unwrap_or_default();
    let uid = object.metadata.uid.as_deref().unwrap_or_default();
    let selector = format!("{},{}=true", pods::selector(object), labels::REPLAY);
    for resource in [
        kubernetes::resource::<StatefulSet>(),
        kubernetes::resource::<ConfigMap>(),
        kubernetes::resource::<NetworkPolicy>(),
    ] {
        let found = kubernetes::list(client, &namespace, &resource, &selector).await?;
        let own = found
            .iter()
            .filter(|one| one.is_owned_by(uid) && !one.is_deleting());
        for one in own {
            kubernetes::delete(client, &namespace, one).await?;
        }
    }
    Ok(())
}

/// Deletes consumer groups. Returns those that still have a member: one that was killed counts as
/// one until its session ends.
///
/// # Errors
/// Kafka refuses, or does not answer.
pub async fn end_groups(cluster: &Cluster, groups: &[String]) -> Result<Vec<String>, Error> {
    let mut in_use = Vec::new();
    let answers = cluster.admin.direct().delete_groups(groups).await;
    for (group, answer) in groups.iter().zip(answers) {
        match answer {
            Err(error) if error.is("NonEmptyGroup") => in_use.push(group.clone()),
            other => other?,
        }
    }
    Ok(in_use)
}

/// Removes replicas that are gone from a consumer group. Else Kafka would keep their partitions for
/// them until their sessions end: a member with an instance id does not leave by itself (KIP-345).
///
/// # Errors
/// Kafka refuses, or does not answer.
pub async fn end_members(
    cluster: &Cluster,
    group: &str,
    ordinals: std::ops::Range<i32>,
) -> AdminResult<()> {
    let instances: Vec<String> = ordinals.map(|one| format!("{group}.{one}")).collect();
    end_instances(cluster, group, &instances).await
}

/// Removes members from a consumer group by their instance ids.
///
/// # Errors
/// Kafka refuses, or does not answer.
pub async fn end_instances(
    cluster: &Cluster,
    group: &str,
    instances: &[String],
) -> AdminResult<()> {
    let admin = cluster.admin.direct();
    admin.remove_members(group, instances).await
}

/// Deletes records of internal topics that are processed.
///
/// # Errors
/// Kafka refuses, or does not answer.
pub async fn delete_records(cluster: &Cluster, before: &[RecordsBefore]) -> AdminResult<()> {
    if before.is_empty() {
        return Ok(());
    }
    let answers = cluster.admin.direct().delete_records(before).await;
    answers.into_iter().collect()
}

/// Confirms that what is left in the internal topics goes with the Pipeline.
///
/// # Errors
/// The API server refuses, or does not answer.
pub async fn confirm_topics(context: &Context, object: &Pipeline) -> KubeResult<()> {
    let (client, namespace) = (&context.client, object.namespace().unwrap_or_default());
    let resource = kubernetes::resource::<Topic>();
    let uid = object.metadata.uid.as_deref().unwrap_or_default();
    let topics = kubernetes::list(client, &namespace, &resource, &pods::selector(object)).await?;
    let api: Api<Topic> = Api::namespaced(client.clone(), &namespace);
    for topic in topics.iter().filter(|topic| topic.is_owned_by(uid)) {
        let Some(known) = context.topics.get(&namespace, topic.name()) else {
            continue;
        };
        if topic.annotation(labels::CONFIRM_DELETE) == Some(known.topic_name()) {
            continue;
        }
        let confirm = Patch::Merge(json!({"metadata": {
            "uid": topic.uid(),
            "annotations": {labels::CONFIRM_DELETE: known.topic_name()},
        }}));
        api.patch_metadata(topic.name(), &PatchParams::default(), &confirm)
            .await
            .map_err(KubeError::request(
                "confirm the end of",
                "Topic",
                topic.name(),
            ))?;
    }
    Ok(())
}
