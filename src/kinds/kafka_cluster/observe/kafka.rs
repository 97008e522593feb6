//! Reads from the brokers: the metadata that decisions are based on, and what each broker alone
//! knows about itself.

use crate::api::kafka_cluster::{DisruptionKind, KafkaCluster, Role};
use crate::api::reference::ClusterKey;
use crate::kinds::kafka_cluster::connections;
use crate::kinds::kafka_cluster::context::Context;
use crate::kinds::kafka_cluster::observed::KafkaFacts;
use crate::kinds::kafka_cluster::observed::pods::PodFacts;
use crate::kinds::kafka_cluster::observed::secrets::SecretFacts;
use crate::kinds::kafka_cluster::resources::server_properties::min_in_sync;
use crate::kinds::kafka_cluster::validate;
use crate::tenancy::claims::Claim;
use freehold_kafka::safety::{self};
use freehold_kafka_client::client::Client;
use freehold_kafka_client::{Admin, AdminError, LogFolders};
use std::collections::{BTreeMap, BTreeSet};

/// Asks the brokers for everything that decisions are based on.
pub async fn ask_kafka(
    context: &Context,
    object: &KafkaCluster,
    pods: &[PodFacts],
    secrets: &BTreeMap<String, SecretFacts>,
) -> KafkaFacts {
    let connected = match context.clients.get(object, pods, secrets) {
        Ok(Some(connected)) => connected,
        Ok(None) => return KafkaFacts::NotAsked,
        Err(error) => return KafkaFacts::Unavailable(error.to_string()),
    };
    let key = ClusterKey::of(object);
    let admin = &connected.client;
    let asked = async {
        let (cluster, quorum) =
            futures::try_join!(admin.describe_cluster(), admin.describe_quorum())?;
        // Decisions about replicas need the current state, so the mirror must have read the
        // metadata log up to the offset that the leader reports as committed.
        if !connected
            .mirror
            .reaches(quorum.high_watermark, connections::ASK_LIMIT)
            .await
        {
            return Err(AdminError::Unavailable(
                "the metadata log is not read to its end".into(),
            ));
        }
        Ok((cluster, quorum))
    };
    let answer = match tokio::time::timeout(connections::ASK_LIMIT, asked).await {
        Ok(answer) => answer,
        Err(_) => Err(AdminError::Deadline(connections::ASK_LIMIT.as_secs())),
    };
    match answer {
        Ok((cluster, quorum)) => {
            let image = connected.mirror.read();
            let mut topics = safety::views(
                &image,
                min_in_sync(&object.spec, validate::sum(&object.spec, Role::Broker)),
            );
            for topic in &mut topics {
                topic.claimed = context.topics.is_claimed(&Claim {
                    cluster: key.clone(),
                    name: topic.name.to_string(),
                });
                let replicas: usize = topic
                    .partitions
                    .iter()
                    .map(|partition| partition.replicas.len())
                    .sum();
                topic.partition_bytes =
                    connected.figures.bytes(&topic.name) / replicas.max(1) as u64;
            }
            let (configs, features) = (image.broker_configs().clone(), image.features().clone());
            KafkaFacts::Answered {
                cluster,
                quorum,
                topics,
                configs,
                features,
            }
        }
        Err(error) => KafkaFacts::Unavailable(error.to_string()),
    }
}

/// Asks the brokers that have more than one log folder for their contents.
pub async fn folders(client: &impl Admin, pods: &[PodFacts]) -> BTreeMap<i32, LogFolders> {
    let several = pods
        .iter()
        .filter(|pod| pod.broker && pod.containers_ready && !pod.deleting && pod.volumes.len() > 1);
    let ask = several.map(|pod| async move {
        let asked =
            tokio::time::timeout(connections::ASK_LIMIT, client.log_folders_of(pod.node_id)).await;
        Some((pod.node_id, asked.ok()?.ok()?))
    });
    futures::future::join_all(ask)
        .await
        .into_iter()
        .flatten()
        .collect()
}

/// Asks every broker for the present sizes of these thread pools.
pub async fn threads(
    client: &Client,
    keys: &[&str],
    pods: &[PodFacts],
) -> BTreeMap<i32, BTreeMap<String, u32>> {
    if keys.is_empty() {
        return BTreeMap::new();
    }
    let up = pods
        .iter()
        .filter(|pod| pod.broker && pod.containers_ready && !pod.deleting);
    let ask = up.map(|pod| async move {
        let asked = tokio::time::timeout(
            connections::ASK_LIMIT,
            client.broker_configs(pod.node_id, keys),
        )
        .await;
        let configs = asked.ok()?.ok()?;
        Some((
            pod.node_id,
            configs
                .into_iter()
                .filter_map(|(key, value)| Some((key, value.trim().parse().ok()?)))
                .collect(),
        ))
    });
    futures::future::join_all(ask)
        .await
        .into_iter()
        .flatten()
        .collect()
}

/// True if the load of brokers is needed: for an automatic throttle of moves, or for a pool with
/// autoscaling.
pub fn loads_matter(object: &KafkaCluster) -> bool {
    let lease = object
        .status
        .as_ref()
        .and_then(|status| status.disruption.as_ref());
    let moves = lease.is_some_and(|lease| {
        matches!(
            lease.kind,
            DisruptionKind::Reassignment | DisruptionKind::Volumes
        )
    });
    (moves && object.spec.rebalance.fixed_rate().is_none())
        || object
            .spec
            .node_pools
            .iter()
            .any(|pool| pool.autoscaling.is_some())
}

/// The leaving nodes that hold nothing: no replica in the metadata, no log of their own, no vote in
/// the quorum.
pub async fn emptied(
    client: &impl Admin,
    leaving: &[i32],
    pods: &[PodFacts],
    kafka: &KafkaFacts,
) -> BTreeSet<i32> {
    let KafkaFacts::Answered { topics, quorum, .. } = kafka else {
        return BTreeSet::new();
    };
    let mut held = safety::holders(topics);
    held.extend(quorum.voters.iter().map(|voter| voter.id));
    let mut emptied = BTreeSet::new();
    for id in leaving.iter().copied().filter(|id| !held.contains(id)) {
        // A running broker must confirm that it has no logs. For one that does not run, only the
        // metadata can tell.
        let runs = pods
            .iter()
            .any(|pod| pod.node_id == id && pod.broker && pod.containers_ready);
        if !runs
            || client
                .log_folders_of(id)
                .await
                .is_ok_and(|folders| folders.is_empty())
        {
            emptied.insert(id);
        }
    }
    emptied
}
