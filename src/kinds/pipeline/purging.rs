//! Deletes what is processed in the internal topics of a Pipeline, as `purge` decides.

use crate::api::pipeline::Pipeline;
use crate::clusters::Cluster;
use crate::kinds::error::Error;
use crate::kinds::pipeline::context::Context;
use crate::kinds::pipeline::purge::{self, Looks};
use crate::kinds::pipeline::status::Runs;
use crate::kinds::pipeline::{apply, observe};
use freehold_pipeline::stages::Cut;
use kube::ResourceExt;
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// How long the deletion of processed records may hold a reconcile up: what the runners say must
/// be in the status soon.
const PURGE_LIMIT: Duration = Duration::from_secs(4);

/// Deletes what is processed in the internal topics, once in a while. A failure is tried again
/// later: nothing waits for it.
pub async fn purge(
    object: &Pipeline,
    context: &Context,
    cluster: &Cluster,
    cut: &Cut,
    runs: &Runs,
) {
    if cut.internal.is_empty() {
        return;
    }
    let flows = purge::flows(cut, &runs.reports);
    let due = context.looks(object, |looks| looks.due(flows, Instant::now()));
    let Some(least) = due else { return };
    let purged = timeout(PURGE_LIMIT, async {
        let before = observe::processed(context, object, cluster, cut, least).await?;
        apply::delete_records(cluster, &before).await?;
        Ok::<_, Error>(before.len())
    });
    let (namespace, pipeline) = (object.namespace(), object.name_any());
    match purged.await {
        Ok(Ok(partitions)) => {
            tracing::debug!(
                ?namespace,
                pipeline,
                partitions,
                "processed records are deleted"
            );
        }
        Ok(Err(error)) => {
            context.looks(object, Looks::again);
            tracing::warn!(?namespace, pipeline, %error, "cannot delete processed records");
        }
        Err(_) => {
            context.looks(object, Looks::again);
            tracing::warn!(
                ?namespace,
                pipeline,
                "processed records are not deleted yet: no answer"
            );
        }
    }
}
