//! Reads what a Pipeline depends on: the cluster, the Topics that it names, and its User.

use crate::api::conditions::{ConditionStatus, ConditionType, Reason, State, is_ready};
use crate::api::pipeline::Pipeline;
use crate::api::topic::Topic;
use crate::api::user::{User, UserAuthenticationType};
use crate::clusters::Cluster;
use crate::kinds::drift;
use crate::kinds::error::Error;
use crate::kinds::pipeline::context::Context;
use crate::kinds::pipeline::desired::{group, replicas};
use crate::kinds::pipeline::purge::{self, Internal};
use crate::kinds::pipeline::status::Runs;
use crate::kinds::pipeline::{lacking, revisions, tenants};
use crate::kinds::pods_not_made;
use crate::kubernetes::{self, KubeError, KubeResult, labels, names};
use crate::words;
use freehold_kafka::acl::AclBinding;
use freehold_kafka::metadata_image::id_text;
use freehold_kafka_client::{AdminResult, Committed, Leaders, RecordsBefore};
use freehold_pipeline::block::Block;
use freehold_pipeline::definition::Definition;
use freehold_pipeline::outside::{secrets, tls};
use freehold_pipeline::rights::Rights;
use freehold_pipeline::stages::{Cut, InternalTopic, Role, Stage};
use freehold_pipeline::topics::{TopicNames, TopicTarget};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, ResourceExt};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Partitions of an internal topic if those of no source are known.
const PARTITIONS_DEFAULT: i32 = 6;

/// The User's Secret: its name, and the hash of its content.
pub struct Credential {
    pub secret: String,
    pub hash: String,
}

/// The partitions of a topic in Kafka; `None`: it is not there.
pub fn partition_count(cluster: &Cluster, topic: &str) -> Option<i32> {
    let image = cluster.mirror.read();
    i32::try_from(image.topic(topic)?.partitions.len()).ok()
}

/// The id of a topic in Kafka; `None`: it is not there.
pub fn topic_id(cluster: &Cluster, topic: &str) -> Option<String> {
    let image = cluster.mirror.read();
    Some(id_text(image.topic(topic)?.id))
}

/// The topics that blocks and `errors` name.
fn targets(definition: &Definition) -> Vec<&TopicTarget> {
    let mut all: Vec<&TopicTarget> = Vec::new();
    for block in &definition.blocks {
        if let Ok(work) = block.work() {
            all.extend(work.reads());
            all.extend(work.writes());
        }
    }
    all.extend(definition.errors.dead_letter.as_ref());
    all
}

/// The names in Kafka of the Topics that a Pipeline names.
///
/// # Errors
/// What to wait for: a Topic that does not exist.
pub fn topics(context: &Context, object: &Pipeline) -> Result<TopicNames, State> {
    let namespace = object.namespace().unwrap_or_default();
    let key = object.spec.cluster_ref.key(&namespace);
    let definition = object.spec.definition();
    let mut names = BTreeMap::new();
    let mut missing = Vec::new();
    let referred = targets(&definition).into_iter();
    for reference in referred.filter_map(|target| target.topic_ref.as_ref()) {
        match context.topics.get(&namespace, &reference.name) {
            Some(topic) if topic.spec.cluster_ref.key(&namespace) != key => {
                let why = format!(
                    "Topic {} is of another cluster; name one of this cluster",
                    reference.name
                );
                return Err(State::stalled(Reason::InvalidSpec, why));
            }
            Some(topic) => {
                names.insert(reference.name.clone(), topic.topic_name().to_owned());
            }
            None => missing.push(reference.name.clone()),
        }
    }
    if missing.is_empty() {
        return Ok(TopicNames(names));
    }
    missing.dedup();
    Err(State::reconciling(
        Reason::WaitingForTopic,
        format!(
            "waiting for Topic {}: there is none of that name in namespace {namespace}; create it, \
             or name a topic of Kafka by topic in the place of topicRef",
            missing.join(", ")
        ),
    ))
}

/// The partitions that an internal topic should have: what it has, else as many as the largest
/// source.
pub fn partitions(
    context: &Context,
    object: &Pipeline,
    names: &TopicNames,
    internal: &InternalTopic,
    cluster: &Cluster,
) -> i32 {
    let name = names::internal_topic(&object.name_any(), &internal.block);
    let namespace = object.namespace().unwrap_or_default();
    if let Some(topic) = context.topics.get(&namespace, &name) {
        return topic.spec.partitions;
    }
    let definition = object.spec.definition();
    let image = cluster.mirror.read();
    let of_source = |block: &Block| {
        let work = block.work().ok()?;
        let topic = image.topic(work.reads()?.resolve(names)?)?;
        i32::try_from(topic.partitions.len()).ok()
    };
    let sources = definition.blocks.iter().filter_map(of_source);
    sources.max().unwrap_or(PARTITIONS_DEFAULT)
}

/// The User whose credential the Pipeline has, and that credential.
///
/// # Errors
/// What to wait for; the API server does not answer.
pub async fn user(
    context: &Context,
    object: &Pipeline,
) -> Result<Result<(Arc<User>, Credential), State>, Error> {
    let namespace = object.namespace().unwrap_or_default();
    let name = tenants::user_name(object);
    let waits = |why: String| Ok(Err(State::reconciling(Reason::WaitingForUser, why)));
    let Some(user) = context.users.get(&namespace, &name) else {
        return waits(match object.spec.user_ref {
            Some(_) => format!(
                "spec.userRef: there is no User {name} in namespace {namespace}; create it, or \
                 remove userRef"
            ),
            None => format!("waiting for User {name} to be seen"),
        });
    };
    if user.spec.cluster_ref.key(&namespace) != object.spec.cluster_ref.key(&namespace) {
        return waits(format!(
            "spec.userRef: User {name} is of another cluster; name one of this cluster"
        ));
    }
    if user.spec.authentication.kind == UserAuthenticationType::ExternalTls {
        return waits(format!(
            "spec.userRef: the certificate of User {name} (ExternalTls) is in no Secret of its own; \
             name a User of type ScramSha512 or MutualTls"
        ));
    }
    let status = user.status.clone().unwrap_or_default();
    let current = status.observed_generation == user.metadata.generation;
    // A Pipeline that is Ready has the rights of its graph: it does not wait when others come.
    let conditions = object.status.as_ref().map(|status| &*status.conditions);
    let is_settled = drift::was_settled(conditions.unwrap_or_default(), object.metadata.generation);
    if !(current || is_settled) || !is_ready(&status.conditions) {
        let said = status.conditions.first().filter(|_| current);
        let said = said.map_or("it is being made", |condition| &condition.message);
        return waits(format!("waiting for User {name}: {said}"));
    }
    let secret = user.secret_name();
    let resource = kubernetes::resource::<Secret>();
    let found = kubernetes::get(&context.client, &namespace, &resource, &secret).await?;
    let Some(hash) = found
        .as_ref()
        .and_then(|live| live.annotation(labels::SECRET_CONTENT))
    else {
        return waits(format!("waiting for Secret {secret} of User {name}"));
    };
    let hash = hash.to_owned();
    Ok(Ok((user, Credential { secret, hash })))
}

/// Why the Pipeline's User is refused a right, if it is; nothing is waited for then.
pub fn refused_user(context: &Context, object: &Pipeline) -> Option<String> {
    let namespace = object.namespace().unwrap_or_default();
    let name = tenants::user_name(object);
    let user = context.users.get(&namespace, &name)?;
    let status = user.status.as_ref()?;
    let is_current = status.observed_generation == user.metadata.generation;
    let mut conditions = status.conditions.iter();
    let stalled = conditions
        .find(|one| one.kind == ConditionType::Stalled && one.status == ConditionStatus::True)?;
    is_current.then(|| format!("User {name}: {}", stalled.message))
}

/// The Topics of isolated blocks that are not Ready yet.
pub fn waiting_topics(
    context: &Context,
    object: &Pipeline,
    internal: &[InternalTopic],
) -> Option<State> {
    let namespace = object.namespace().unwrap_or_default();
    let topic = |block: &str| -> Option<Arc<Topic>> {
        let name = names::internal_topic(&object.name_any(), block);
        context.topics.get(&namespace, &name)
    };
    let waits = |topic: &Topic| {
        let status = topic.status.clone().unwrap_or_default();
        (!is_ready(&status.conditions)).then(|| {
            let said = status.conditions.first();
            said.map_or("it is being made".to_owned(), |said| said.message.clone())
        })
    };
    let why = internal.iter().find_map(|one| match topic(&one.block) {
        None => Some(format!("{}: it is being made", one.topic)),
        Some(topic) => waits(&topic).map(|why| format!("{}: {why}", one.topic)),
    })?;
    Some(State::reconciling(
        Reason::WaitingForTopic,
        format!("waiting for topic {why}"),
    ))
}

/// Why pods of stages are not made, by stage. That they are missing is told in any case.
pub async fn not_made(
    context: &Context,
    object: &Pipeline,
    runs: &Runs,
) -> BTreeMap<String, String> {
    let namespace = object.namespace().unwrap_or_default();
    let mut all = BTreeMap::new();
    for stage in &runs.stages {
        let pods = runs.pods.iter().filter(|pod| pod.stage == *stage).count();
        if usize::try_from(replicas(object, stage)).is_ok_and(|wanted| pods >= wanted) {
            continue;
        }
        let name = names::stage(&object.name_any(), stage);
        let ask = async {
            let sets: Api<StatefulSet> = Api::namespaced(context.client.clone(), &namespace);
            match sets
                .get_metadata_opt(&name)
                .await?
                .and_then(|set| set.uid())
            {
                Some(uid) => pods_not_made::why(&context.client, &namespace, &name, &uid).await,
                None => Ok(None),
            }
        };
        let key = (namespace.clone(), name.clone());
        match context.not_made.get(&key, ask).await {
            Ok(why) => all.extend(why.map(|why| (stage.clone(), why))),
            Err(error) => tracing::debug!(%error, name, "cannot read events"),
        }
    }
    all
}

/// The records of internal topics that are to be deleted: of a partition at least `least`.
///
/// # Errors
/// Kafka or the API server refuses, or does not answer.
pub async fn processed(
    context: &Context,
    object: &Pipeline,
    cluster: &Cluster,
    cut: &Cut,
    least: i64,
) -> Result<Vec<RecordsBefore>, Error> {
    let mut topics = internal_topics(context, object, cluster, cut).await?;
    if topics.is_empty() {
        return Ok(Vec::new());
    }
    let groups = revisions::groups(&context.client, object).await?;
    let readers = topics.iter().flat_map(|topic| topic.readers.clone());
    let groups: BTreeSet<String> = groups.into_iter().chain(readers).collect();
    let groups: Vec<String> = groups.into_iter().collect();
    let leaders: Vec<Leaders> = topics.iter().map(|topic| topic.leaders.clone()).collect();
    let admin = cluster.admin.direct();
    let committed: Vec<_> = admin.committed_offsets(&groups).await;
    let starts = admin.log_starts(&leaders).await;
    for (topic, starts) in topics.iter_mut().zip(starts) {
        // A topic that does not say it, such as one with a partition without a leader, waits.
        topic.starts = starts.unwrap_or_default();
    }
    let committed: AdminResult<Vec<Committed>> = committed.into_iter().collect();
    let committed = groups.into_iter().zip(committed?).collect();
    Ok(purge::purge(&topics, &committed, least))
}

/// The internal topics that exist and that this Pipeline has made. The API server is asked: objects
/// in the caches have no owners.
async fn internal_topics(
    context: &Context,
    object: &Pipeline,
    cluster: &Cluster,
    cut: &Cut,
) -> KubeResult<Vec<Internal>> {
    let namespace = object.namespace().unwrap_or_default();
    let api: Api<Topic> = Api::namespaced(context.client.clone(), &namespace);
    let mut topics = Vec::new();
    for wanted in &cut.internal {
        let name = names::internal_topic(&object.name_any(), &wanted.block);
        let found = api.get_opt(&name).await;
        let found = found.map_err(KubeError::request("get", "Topic", &name))?;
        topics.extend(found.map(|found| (wanted, found)));
    }
    let image = cluster.mirror.read();
    let internal = |(wanted, topic): (&InternalTopic, Topic)| {
        let found = image.topic(&wanted.topic)?;
        purge::is_own(object, wanted, &topic, found).then(|| Internal {
            leaders: Leaders::of(&wanted.topic, found),
            starts: BTreeMap::new(),
            readers: purge::readers(object, cut, &wanted.topic),
        })
    };
    Ok(topics.into_iter().filter_map(internal).collect())
}

/// A Secret that a block names and that does not exist, or lacks a key.
///
/// # Errors
/// The API server does not answer.
pub async fn waiting_secret(context: &Context, object: &Pipeline) -> KubeResult<Option<State>> {
    let namespace = object.namespace().unwrap_or_default();
    let api: Api<Secret> = Api::namespaced(context.client.clone(), &namespace);
    for block in &object.spec.blocks {
        for needed in secrets(block).into_iter().chain(tls(block)) {
            let found = api.get_opt(&needed.secret).await;
            let found = found.map_err(KubeError::request("get", "Secret", &needed.secret))?;
            let lacks = match found {
                None => Some(format!(
                    "there is none of that name in namespace {namespace}"
                )),
                Some(found) => {
                    let data = found.data.unwrap_or_default();
                    let mut keys = needed.keys.iter();
                    let lacks = keys.find(|key| !data.contains_key(*key));
                    lacks.map(|key| format!("it has no key {key}"))
                }
            };
            if let Some(lacks) = lacks {
                let (block, secret) = (&block.name, &needed.secret);
                let why = format!("block {block}: waiting for Secret {secret}: {lacks}; create it");
                return Ok(Some(State::reconciling(Reason::WaitingForSecret, why)));
            }
        }
    }
    Ok(None)
}

/// The rights in Kafka that the User lacks for its stages.
pub fn lacking(
    object: &Pipeline,
    cluster: &Cluster,
    user: &User,
    cut: &Cut,
    rights: &Rights,
) -> Option<State> {
    let reads = |stage: &&Stage| Role::of(&stage.definition.blocks) != Role::Ingest;
    let stages = cut.stages.iter().filter(reads);
    let groups: Vec<String> = stages.map(|stage| group(object, &stage.name)).collect();
    let why = lacks(cluster, user, rights, &groups)?;
    Some(State::reconciling(Reason::WaitingForUser, why))
}

/// The rights in Kafka that the User lacks, in words. A super user needs none.
pub fn lacks(cluster: &Cluster, user: &User, rights: &Rights, groups: &[String]) -> Option<String> {
    let name = user.principal_name();
    if cluster
        .facts
        .super_users
        .iter()
        .any(|super_user| super_user == name)
    {
        return None;
    }
    let image = cluster.mirror.read();
    let acls: Vec<AclBinding> = match image.principal(name) {
        Some(principal) => principal.acls().cloned().collect(),
        None => Vec::new(),
    };
    let lacking = lacking::lacking(rights, groups, &acls);
    let words = || {
        format!(
            "User {} lacks {}; add it to its spec.grants",
            user.name_any(),
            words::listed(lacking.iter().cloned())
        )
    };
    (!lacking.is_empty()).then(words)
}
