//! Carries out what is decided about a replay of dead letters: asks its runner, and ends it.

use crate::api::pipeline::Pipeline;
use crate::api::replay::ReplayStatus;
use crate::clusters::Cluster;
use crate::kinds::error::Error;
use crate::kinds::pipeline::context::Context;
use crate::kinds::pipeline::pods::PodFacts;
use crate::kinds::pipeline::wanted::Replaying;
use crate::kinds::pipeline::{apply, pods, replay, runners};
use k8s_openapi::jiff::Timestamp;
use std::slice::from_ref;

/// What is known of a replay whose objects are to be there. `waits`: what keeps them from being
/// made. `pods`: those of the Pipeline.
pub async fn look(
    object: &Pipeline,
    known: &ReplayStatus,
    replaying: &Replaying,
    waits: Option<String>,
    pods: &[PodFacts],
) -> ReplayStatus {
    let pod = pods.iter().find(|pod| replay::is_its_pod(known, pod));
    // Its runner says the name of the stage whose blocks it runs.
    let asked = pod.map(|pod| PodFacts {
        stage: replaying.stage.name.clone(),
        ..pod.clone()
    });
    let asked: Vec<PodFacts> = asked.into_iter().collect();
    let reports = runners::ask(object, from_ref(&replaying.stage), &asked).await;
    replay::running(object, known, waits, pod, reports.first())
}

/// Ends a replay: its objects go, then its consumer group. What Kafka refuses is tried again later:
/// nothing else of the Pipeline waits for it.
///
/// # Errors
/// The API server refuses, or does not answer.
pub async fn end(
    context: &Context,
    object: &Pipeline,
    cluster: &Cluster,
    known: &ReplayStatus,
) -> Result<ReplayStatus, Error> {
    apply::end_replay(&context.client, object).await?;
    let left = pods::list(&context.client, object).await?;
    if left.iter().any(|pod| pod.replays) {
        return Ok(known.clone());
    }
    let group = replay::replay_group(object, known);
    // Its only member has the name of the group.
    if let Err(error) = apply::end_instances(cluster, &group, from_ref(&group)).await {
        tracing::debug!(group, %error, "the replay's member is not removed, or was gone");
    }
    match apply::end_groups(cluster, from_ref(&group)).await {
        Ok(in_use) if in_use.is_empty() => Ok(replay::finished(known, Timestamp::now())),
        Ok(_) => {
            tracing::debug!(group, "the replay's consumer group still has a member");
            Ok(known.clone())
        }
        Err(error) => {
            tracing::warn!(group, %error, "the replay's consumer group is not deleted");
            Ok(known.clone())
        }
    }
}
