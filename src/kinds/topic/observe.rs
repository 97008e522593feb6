//! Reads what a Topic's reconcile needs to know. Reads only, and nearly all of it from memory.

use super::api::Topic;
use super::validate::topic_name;
use crate::kafka::metadata_image::{MetadataImage, TopicImage};
use crate::kafka::replication::Brokers;
use crate::kafka_admin::Leaders;
use crate::kafka_admin::figures::Figure;
use crate::kinds::dependence::{self, Dependence};
use crate::kinds::error::Error;
use crate::runtime::claims::Claim;
use crate::runtime::clusters::{Cluster, ClusterFacts};
use crate::runtime::context::Context;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Everything that was seen, as plain data.
#[derive(Clone)]
pub struct Observed {
    pub cluster: Arc<ClusterFacts>,
    /// The object is in the cluster's own namespace.
    pub at_home: bool,
    pub topic: Option<TopicImage>,
    pub figure: Option<Figure>,
    /// Only counted where replicas move.
    pub brokers: Brokers,
    /// The throttle of moving replicas that brokers have at present.
    pub brokers_config: BTreeMap<String, String>,
    /// Only looked up when the object is being deleted.
    pub holds_records: bool,
    /// Another Topic, older, of the same cluster and name.
    pub older: Option<String>,
}

/// What an object claims.
pub fn claim(object: &Topic) -> Claim {
    let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
    Claim { cluster: object.spec.cluster_ref.key(namespace), name: topic_name(object).to_owned() }
}

/// Reads; `Err(Dependence)` while the cluster cannot be asked.
pub async fn observe(context: &Context, object: &Topic) -> Result<Result<(Observed, Cluster), Dependence>, Error> {
    let namespace = object.metadata.namespace.clone().unwrap_or_default();
    let claim = claim(object);
    let cluster = match dependence::cluster(context, &claim.cluster, &namespace).await? {
        Ok(cluster) => cluster,
        Err(dependence) => return Ok(Err(dependence)),
    };
    let name = topic_name(object);
    let (topic, brokers, brokers_config) = {
        let image = cluster.mirror.read();
        let topic = image.topic(name).cloned();
        let factor = object.spec.replicas.and_then(|replicas| usize::try_from(replicas).ok());
        let moves =
            |topic: &TopicImage| topic.partitions.iter().any(|partition| partition.is_moving() || Some(partition.replicas.len()) != factor);
        let brokers =
            if factor.is_some() && topic.as_ref().is_some_and(moves) { brokers(&image, &cluster.facts) } else { Brokers::default() };
        (topic, brokers, image.broker_configs().get("").cloned().unwrap_or_default())
    };
    let mut holds_records = false;
    if let (true, Some(topic)) = (object.metadata.deletion_timestamp.is_some(), &topic) {
        holds_records = cluster.admin.count_records(Leaders::of(name, topic)).await? > 0;
    }
    let observed = Observed {
        cluster: Arc::clone(&cluster.facts),
        at_home: claim.cluster.namespace == namespace,
        figure: cluster.figures.get(name),
        topic,
        brokers,
        brokers_config,
        holds_records,
        older: context.topics.held_by_other(&claim, object),
    };
    Ok(Ok((observed, cluster)))
}

/// The brokers that serve, and how many replicas each holds.
fn brokers(image: &MetadataImage, facts: &ClusterFacts) -> Brokers {
    let mut replicas = BTreeMap::new();
    for id in image.topics().flat_map(|(_, topic)| &topic.partitions).flat_map(|partition| &partition.replicas) {
        *replicas.entry(*id).or_insert(0) += 1;
    }
    Brokers { racks: facts.racks.clone(), replicas }
}
