//! Reads what a Topic's reconcile needs, nearly all of it from memory. It never writes.

use crate::api::topic::Topic;
use crate::clusters::{Cluster, ClusterFacts};
use crate::kinds::context::Context;
use crate::kinds::dependent::lookup;
use crate::kinds::dependent::lookup::Dependence;
use crate::kinds::error::Error;
use crate::kinds::topic::deletion;
use crate::tenancy::ownership;
use crate::tenancy::ownership::Ownership;
use crate::tenancy::tenants::Tenant;
use freehold_kafka::metadata_image::{MetadataImage, TopicImage};
use freehold_kafka::ownership::Owned;
use freehold_kafka::replication::Brokers;
use freehold_kafka_client::Leaders;
use freehold_kafka_client::figures::Figure;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The observed state of a Topic, as plain data.
#[derive(Clone)]
pub struct Observed {
    pub cluster: Arc<ClusterFacts>,
    /// True if the object is in the cluster's own namespace.
    pub at_home: bool,
    pub topic: Option<TopicImage>,
    pub figure: Option<Figure>,
    /// The brokers; only filled if replicas move.
    pub brokers: Brokers,
    /// The cluster-wide dynamic configs at present, with the throttle of replica moves.
    pub brokers_config: BTreeMap<String, String>,
    /// True if the topic holds records, or may. Only determined if the object is being deleted and
    /// it matters.
    pub holds_records: bool,
    /// Who owns the topic.
    pub ownership: Ownership,
}

/// Reads the observed state; `Err(Dependence)` while the cluster cannot be used.
pub async fn observe(
    context: &Context,
    object: &Topic,
) -> Result<Result<(Observed, Cluster), Dependence>, Error> {
    let namespace = object.metadata.namespace.clone().unwrap_or_default();
    let claim = object.claim();
    let cluster = match lookup::cluster(context, &claim.cluster, &namespace).await? {
        Ok(cluster) => cluster,
        Err(dependence) => return Ok(Err(dependence)),
    };
    let policy = cluster.facts.access.topic_names.as_ref();
    let ownership = ownership::of(
        context,
        &context.topics,
        &cluster,
        Owned::Topic,
        &claim,
        object,
        policy,
    )
    .await?;
    let name = object.topic_name();
    let (topic, brokers, brokers_config) = {
        let image = cluster.mirror.read();
        let topic = image.topic(name).cloned();
        let factor = object
            .spec
            .replicas
            .and_then(|replicas| usize::try_from(replicas).ok());
        let moves = |topic: &TopicImage| {
            topic
                .partitions
                .iter()
                .any(|partition| partition.is_moving() || Some(partition.replicas.len()) != factor)
        };
        let brokers = if factor.is_some() && topic.as_ref().is_some_and(moves) {
            brokers(&image, &cluster.facts)
        } else {
            Brokers::default()
        };
        (
            topic,
            brokers,
            image.broker_configs().get("").cloned().unwrap_or_default(),
        )
    };
    let holds_records = match &topic {
        Some(topic) => holds_records(object, topic, &cluster).await?,
        None => false,
    };
    let observed = Observed {
        cluster: Arc::clone(&cluster.facts),
        at_home: claim.cluster.namespace == namespace,
        figure: cluster.figures.get(name),
        topic,
        brokers,
        brokers_config,
        holds_records,
        ownership,
    };
    Ok(Ok((observed, cluster)))
}

/// True if the topic of an object that is being deleted holds records, or may; false if that does
/// not matter.
async fn holds_records(
    object: &Topic,
    topic: &TopicImage,
    cluster: &Cluster,
) -> Result<bool, Error> {
    if object.metadata.deletion_timestamp.is_none() || !deletion::asks_for_records(object) {
        return Ok(false);
    }
    // The records of a partition without a leader cannot be counted, but the partition may come
    // back with them.
    if deletion::leaderless(topic).next().is_some() {
        return Ok(true);
    }
    let leaders = Leaders::of(object.topic_name(), topic);
    Ok(cluster.admin.count_records(leaders).await? > 0)
}

/// The serving brokers, and the number of replicas on each.
fn brokers(image: &MetadataImage, facts: &ClusterFacts) -> Brokers {
    let mut replicas = BTreeMap::new();
    for id in image
        .topics()
        .flat_map(|(_, topic)| &topic.partitions)
        .flat_map(|partition| &partition.replicas)
    {
        *replicas.entry(*id).or_insert(0) += 1;
    }
    Brokers {
        racks: facts.racks.clone(),
        replicas,
    }
}
