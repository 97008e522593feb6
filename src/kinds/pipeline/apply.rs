//! Writes on behalf of a Pipeline: its objects, its revisions, and at its end what is left.

use crate::api::pipeline::Pipeline;
use crate::api::topic::Topic;
use crate::clusters::Cluster;
use crate::kinds::attempts::{self, Attempts, Refusal};
use crate::kinds::error::Error;
use crate::kinds::pipeline::context::Context;
use crate::kinds::pipeline::desired;
use crate::kinds::pipeline::plan::{self, Applied, Step, Stops};
use crate::kinds::pipeline::pods;
use crate::kinds::pipeline::revisions::{self, Listed};
use crate::kubernetes::{self, KubeError, KubeResult, Live, Object, difference, labels, names};
use freehold_kafka_client::{AdminResult, RecordsBefore};
use freehold_pipeline::changes::changes;
use freehold_pipeline::definition::Delivery;
use freehold_pipeline::stages::Cut;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::jiff::Timestamp;
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
pub async fn one(
    context: &Context,
    object: &Pipeline,
    wanted: &Object,
    applied: &mut Applied,
) -> Result<(), Error> {
    let (client, namespace) = (&context.client, object.namespace().unwrap_or_default());
    let found = kubernetes::get(client, &namespace, &wanted.resource, wanted.name()).await?;
    found_as(context, object, wanted, found.as_ref(), applied).await
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
    applied: &mut Applied,
) -> Result<(), Error> {
    let mut attempts = context.attempts.of(object);
    let mut done = Ok(true);
    for step in plan::steps(wanted, found) {
        done = carry_out(context, object, &step, &mut attempts, applied).await;
        if done.is_err() {
            break;
        }
    }
    context.attempts.put(object, attempts);
    done.map(drop)
}

/// Carries out a step, and says whether it was done. It is not while it waits because it was refused,
/// or without effect, a short time ago; and a NetworkPolicy is not if it is without effect.
async fn carry_out(
    context: &Context,
    object: &Pipeline,
    step: &Step,
    attempts: &mut Attempts,
    applied: &mut Applied,
) -> Result<bool, Error> {
    let now = Timestamp::now();
    if let Some(refusal) = attempts.refusal(&step.what(), &step.wanted(), now) {
        applied.refused.push(refusal);
        return Ok(false);
    }
    let namespace = object.namespace().unwrap_or_default();
    let left = execute(&context.client, &namespace, step).await?;
    if let Some(what) = left {
        let refusal = attempts::without_effect(what);
        attempts.failed(step.wanted(), refusal.clone(), now);
        applied.refused.push(refusal);
        // Pods start with what else differs; never without what keeps others away from them.
        return Ok(!step.is_network_policy());
    }
    if step.is_repair() {
        attempts.repaired(step.what(), now);
        applied.drift.push(step.what());
    }
    Ok(true)
}

/// What differs after the step all the same, if anything does.
async fn execute(client: &Client, namespace: &str, step: &Step) -> KubeResult<Option<String>> {
    let (object, left) = match step {
        Step::Apply(object) | Step::PutRight(object, _) => {
            let applied = kubernetes::apply(client, namespace, object, labels::PIPELINE).await?;
            (object, difference::changed(object, &applied))
        }
        Step::RemoveFields(object, live, fields) => {
            let cleaned = kubernetes::remove(client, namespace, live, fields).await?;
            let left = difference::foreign(object, &cleaned).into_iter();
            (object, left.map(|field| field.path).collect())
        }
        Step::Delete(live) => {
            kubernetes::delete(client, namespace, live).await?;
            return Ok(None);
        }
    };
    Ok((!left.is_empty()).then(|| attempts::what_differs(object, &left)))
}

/// Brings the StatefulSets to the replicas that the spec says, while nothing else can be done.
///
/// # Errors
/// The API server refuses, or does not answer.
pub async fn scale(client: &Client, object: &Pipeline) -> KubeResult<()> {
    let wanted = |set: &StatefulSet| {
        let stage = set.labels().get(labels::STAGE)?;
        Some(match set.labels().contains_key(labels::REPLAY) {
            true => desired::replay_replicas(object),
            false => desired::replicas(object, stage),
        })
    };
    scale_to(client, object, wanted).await
}

/// Stops all pods. The StatefulSets stay.
///
/// # Errors
/// The API server refuses, or does not answer.
pub async fn stop(client: &Client, object: &Pipeline) -> KubeResult<()> {
    scale_to(client, object, |_| Some(0)).await
}

/// Brings the StatefulSets of a Pipeline to these replicas; `None`: it is none of a stage.
async fn scale_to(
    client: &Client,
    object: &Pipeline,
    wanted: impl Fn(&StatefulSet) -> Option<i32>,
) -> KubeResult<()> {
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
        let wanted = wanted(&set)?;
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

/// Applies what is not as it should be, and deletes what is left of stages that are no more. What is
/// refused stops only what depends on it; `applied` tells it.
///
/// # Errors
/// The API server does not answer.
pub async fn all(
    context: &Context,
    object: &Pipeline,
    wanted: &[Object],
    applied: &mut Applied,
) -> Result<(), Error> {
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
    follow(context, object, &steps, applied).await?;
    // What was changed is looked at again.
    let settled = if steps.is_empty() { hashes } else { Vec::new() };
    context.settle(object, settled);
    Ok(())
}

/// Carries out steps, each unless it depends on one that was refused.
async fn follow(
    context: &Context,
    object: &Pipeline,
    steps: &[Step],
    applied: &mut Applied,
) -> Result<(), Error> {
    let (mut attempts, mut stops) = (context.attempts.of(object), Stops::default());
    let mut silent = Ok(());
    for step in steps {
        if stops.stops(step) {
            stops.after(step);
            continue;
        }
        match carry_out(context, object, step, &mut attempts, applied).await {
            Ok(true) => {}
            Ok(false) => stops.after(step),
            Err(error) if attempts::is_silent(&error) => {
                silent = Err(error);
                break;
            }
            Err(error) => {
                let refusal = Refusal::of(step.what(), &error);
                let (pipeline, namespace) = (object.name_any(), object.namespace());
                tracing::warn!(
                    pipeline,
                    namespace,
                    what = refusal.what,
                    why = refusal.why,
                    "refused"
                );
                if attempts::waits(&error) {
                    attempts.failed(step.wanted(), refusal.clone(), Timestamp::now());
                }
                applied.refused.push(refusal);
                stops.after(step);
            }
        }
    }
    attempts.keep(&applied.refused, Timestamp::now());
    context.attempts.put(object, attempts);
    silent
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

/// Fences the transactional ids of replicas that are gone: what one that was killed has left open
/// would hold its readers up until it times out, and one that still runs unseen could write.
///
/// # Errors
/// Kafka refuses, or does not answer.
pub async fn fence(
    cluster: &Cluster,
    object: &Pipeline,
    group: &str,
    ordinals: std::ops::Range<i32>,
) -> AdminResult<()> {
    if object.spec.delivery != Delivery::ExactlyOnce {
        return Ok(());
    }
    let ids: Vec<String> = ordinals.map(|one| format!("{group}.{one}")).collect();
    cluster.admin.direct().fence_producers(&ids).await
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::context::{Context as Shared, Settings};
    use http::{Method, Request, Response};
    use kube::client::Body;
    use serde_json::Value;
    use std::collections::BTreeMap;
    use std::convert::Infallible;
    use std::sync::{Arc, Mutex};

    /// An API server in memory: objects by path; what ends with one of `refused` is refused, and
    /// `policy` changes what it stores.
    #[derive(Default)]
    struct Server {
        objects: BTreeMap<String, Value>,
        refused: Vec<&'static str>,
        policy: Option<fn(&mut Value)>,
        written: Vec<String>,
    }

    impl Server {
        fn answer(&mut self, method: &Method, path: &str, body: Value) -> (u16, Value) {
            let short = path.rsplit('/').take(2).collect::<Vec<_>>();
            let short = format!("{} {}", short[1], short[0]);
            let failed = |code: u16, reason: &str| {
                let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
                    "code": code, "reason": reason, "message": "denied by a policy"});
                (code, status)
            };
            match *method {
                Method::GET if path.rsplit('/').nth(2) == Some("namespaces") => {
                    let of = format!("{path}/");
                    let items = self
                        .objects
                        .iter()
                        .filter(|(path, _)| path.starts_with(&of));
                    let items: Vec<&Value> = items.map(|(_, object)| object).collect();
                    (
                        200,
                        json!({"kind": "List", "apiVersion": "v1", "metadata": {}, "items": items}),
                    )
                }
                Method::GET => match self.objects.get(path) {
                    Some(object) => (200, object.clone()),
                    None => failed(404, "NotFound"),
                },
                Method::PATCH if self.refused.contains(&&*short) => failed(403, "Forbidden"),
                Method::PATCH => {
                    self.written.push(short);
                    let mut object = body;
                    if let Some(policy) = self.policy {
                        policy(&mut object);
                    }
                    self.objects.insert(path.to_owned(), object.clone());
                    (200, object)
                }
                Method::DELETE => {
                    self.written.push(format!("deleted {short}"));
                    self.objects.remove(path);
                    (200, json!({"kind": "Status", "status": "Success"}))
                }
                _ => unreachable!("{method} {path}"),
            }
        }
    }

    fn context(server: &Arc<Mutex<Server>>) -> Context {
        let server = Arc::clone(server);
        let service = move |request: Request<Body>| {
            let server = Arc::clone(&server);
            async move {
                let (parts, body) = request.into_parts();
                let bytes = body.collect_bytes().await.unwrap();
                let body = serde_json::from_slice(&bytes).unwrap_or_default();
                let path = parts.uri.path();
                let (code, answer) = server.lock().unwrap().answer(&parts.method, path, body);
                let body = Body::from(serde_json::to_vec(&answer).unwrap());
                Ok::<_, Infallible>(Response::builder().status(code).body(body).unwrap())
            }
        };
        let client = Client::new(tower::service_fn(service), "shop");
        Context::of(Arc::new(Shared::new(client, Settings::default())))
    }

    fn pipeline() -> Pipeline {
        serde_json::from_value(json!({
            "metadata": {"name": "orders", "namespace": "shop", "uid": "u", "generation": 1},
            "spec": {"clusterRef": {"name": "demo"}, "blocks": []},
        }))
        .unwrap()
    }

    fn wanted(resource: ApiResource, name: &str, rest: Value) -> Object {
        let mut value = json!({"apiVersion": resource.api_version, "kind": resource.kind, "metadata": {
            "name": name,
            "labels": {"app.kubernetes.io/managed-by": "freehold", labels::PIPELINE: "orders"},
            "ownerReferences": [{"uid": "u"}],
        }});
        for (key, field) in rest.as_object().unwrap() {
            value[key] = field.clone();
        }
        Object::of_value(resource, value)
    }

    /// The objects of two stages, in the order of `desired`.
    fn objects() -> Vec<Object> {
        let stage = |name: &str| {
            let spec = json!({"spec": {"replicas": 1}});
            [
                wanted(
                    kubernetes::resource::<ConfigMap>(),
                    name,
                    json!({"data": {"a": "1"}}),
                ),
                wanted(
                    kubernetes::resource::<PodDisruptionBudget>(),
                    name,
                    spec.clone(),
                ),
                wanted(kubernetes::resource::<NetworkPolicy>(), name, spec.clone()),
                wanted(kubernetes::resource::<StatefulSet>(), name, spec),
            ]
        };
        let account = kubernetes::resource::<ServiceAccount>();
        let account = wanted(account, "orders-pipeline", json!({}));
        [account]
            .into_iter()
            .chain(stage("a"))
            .chain(stage("b"))
            .collect()
    }

    async fn run(context: &Context, wanted: &[Object]) -> Applied {
        let mut applied = Applied::default();
        all(context, &pipeline(), wanted, &mut applied)
            .await
            .unwrap();
        applied
    }

    fn told(applied: &Applied) -> Vec<&str> {
        applied
            .refused
            .iter()
            .map(|refusal| &*refusal.what)
            .collect()
    }

    #[tokio::test]
    async fn a_refused_object_stops_only_what_depends_on_it_and_is_told() {
        let server = Arc::new(Mutex::new(Server {
            refused: vec!["poddisruptionbudgets a", "configmaps b"],
            ..Server::default()
        }));
        let context = context(&server);
        let applied = run(&context, &objects()).await;
        let expected = ["PodDisruptionBudget a", "ConfigMap b"];
        assert_eq!(told(&applied), expected);
        assert!(applied.refused[0].why.contains("denied by a policy"));
        let written = std::mem::take(&mut server.lock().unwrap().written);
        let expected = [
            "serviceaccounts orders-pipeline",
            "configmaps a",
            "networkpolicies a",
            "statefulsets a",
            "poddisruptionbudgets b",
            "networkpolicies b",
        ];
        assert_eq!(written, expected, "but not the StatefulSet of b");

        // A short time later they are still told, and not asked for again.
        server.lock().unwrap().refused.clear();
        assert_eq!(told(&run(&context, &objects()).await).len(), 2);
        assert_eq!(server.lock().unwrap().written, [""; 0]);
    }

    #[tokio::test]
    async fn no_pod_starts_without_its_network_policy() {
        let server = Arc::new(Mutex::new(Server {
            refused: vec!["networkpolicies a"],
            ..Server::default()
        }));
        let context = context(&server);
        let applied = run(&context, &objects()).await;
        assert_eq!(told(&applied), ["NetworkPolicy a"]);
        let written = server.lock().unwrap().written.clone();
        assert!(
            !written.contains(&"statefulsets a".to_owned()),
            "{written:?}"
        );
        assert!(
            written.contains(&"statefulsets b".to_owned()),
            "{written:?}"
        );
    }

    #[tokio::test]
    async fn what_is_left_of_another_graph_stays_until_all_pods_of_the_new_one_can_be_made() {
        let server = Arc::new(Mutex::new(Server::default()));
        let context = context(&server);
        run(&context, &objects()).await;
        let mut next = objects();
        next.truncate(5);
        let set = kubernetes::resource::<StatefulSet>();
        next.push(wanted(set, "c", json!({"spec": {"replicas": 1}})));
        server.lock().unwrap().refused = vec!["statefulsets c"];
        server.lock().unwrap().written.clear();
        assert_eq!(told(&run(&context, &next).await), ["StatefulSet c"]);
        assert_eq!(server.lock().unwrap().written, [""; 0]);
        next.pop();
        run(&context, &next).await;
        assert_eq!(
            server.lock().unwrap().written.len(),
            4,
            "those of b are deleted"
        );
    }

    #[tokio::test]
    async fn what_somebody_changed_is_told_and_what_a_policy_changes_is_not_fought() {
        let server = Arc::new(Mutex::new(Server::default()));
        let context = context(&server);
        assert_eq!(run(&context, &objects()).await, Applied::default());
        let path = "/apis/policy/v1/namespaces/shop/poddisruptionbudgets/a";
        server.lock().unwrap().objects.get_mut(path).unwrap()["spec"]["replicas"] = json!(7);
        let applied = run(&context, &objects()).await;
        let what = "PodDisruptionBudget a, spec.replicas";
        assert_eq!(
            (&*applied.drift, &*applied.refused),
            (&[what.to_owned()][..], &[][..])
        );
        assert_eq!(run(&context, &objects()).await, Applied::default());

        let policy: fn(&mut Value) = |object| {
            if object["kind"] == "PodDisruptionBudget" {
                object["spec"]["replicas"] = json!(7);
            }
        };
        server.lock().unwrap().policy = Some(policy);
        server.lock().unwrap().objects.get_mut(path).unwrap()["spec"]["replicas"] = json!(7);
        server.lock().unwrap().written.clear();
        context.settle(&pipeline(), Vec::new());
        for _ in 0..5 {
            let applied = run(&context, &objects()).await;
            assert_eq!((told(&applied), &*applied.drift), (vec![what], &[][..]));
            assert!(
                applied.refused[0]
                    .why
                    .contains("admission webhook or a policy")
            );
        }
        let written = &server.lock().unwrap().written;
        assert_eq!(*written, ["poddisruptionbudgets a"], "once");
    }
}
