//! Ends a Pipeline: its pods go first, then its consumer groups, then what is left in its internal
//! topics. Its User and its other objects go with it, by their owner references.

use crate::api::conditions::{Reason, State};
use crate::api::pipeline::Pipeline;
use crate::clusters::Cluster;
use crate::kinds::dependent::lookup;
use crate::kinds::dependent::outcome::{REQUEUE_LATER, REQUEUE_SOON, Reconciled};
use crate::kinds::error::Error;
use crate::kinds::pipeline::context::Context;
use crate::kinds::pipeline::status::Learned;
use crate::kinds::pipeline::{apply, pods, replay, revisions};
use crate::kubernetes;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use std::time::Duration;

/// How often Kafka is asked whether the members of a group are gone, and for how long.
const REQUEUE_GROUPS: Duration = Duration::from_secs(2);
const GROUPS_PATIENCE: SignedDuration = SignedDuration::from_secs(120);

/// Handles the deletion of a Pipeline. `None`: the finalizer is removed.
///
/// # Errors
/// The API server or Kafka refuses, or does not answer.
pub async fn end(
    object: &Pipeline,
    context: &Context,
    now: Timestamp,
) -> Result<Option<Reconciled<Learned>>, Error> {
    if !kubernetes::has_finalizer(object) {
        return Ok(None);
    }
    context.ensure_current(object).await?;
    let (client, namespace) = (&context.client, object.namespace().unwrap_or_default());
    apply::end_pods(client, object).await?;
    let waits = |why: String, after| {
        let state = State::reconciling(Reason::Deleting, why);
        Ok(Some(Reconciled::waiting(state, after)))
    };
    let left = pods::list(client, object).await?.len();
    if left > 0 {
        return waits(format!("waiting for {left} pods to end"), REQUEUE_SOON);
    }
    let key = object.spec.cluster_ref.key(&namespace);
    match lookup::cluster(context, &key, &namespace).await? {
        Ok(cluster) => {
            let mut groups = revisions::groups(client, object).await?;
            groups.extend(replay::group_left(object));
            let in_use = apply::end_groups(&cluster, &groups).await?;
            if !in_use.is_empty() && !is_patience_over(object, now) {
                let why = format!(
                    "waiting for the consumers of {} to be gone",
                    in_use.join(", ")
                );
                return waits(why, REQUEUE_GROUPS);
            }
            if !in_use.is_empty() {
                let pipeline = object.name_any();
                tracing::warn!(
                    namespace,
                    pipeline,
                    ?in_use,
                    "consumer groups that somebody still uses are left"
                );
            }
            fence(object, &cluster).await;
        }
        Err(dependence) if dependence.strands_nothing(context).await? => {}
        Err(dependence) => {
            return Ok(Some(Reconciled::waiting(dependence.state(), REQUEUE_LATER)));
        }
    }
    apply::confirm_topics(context, object).await?;
    kubernetes::set_finalizer(client, object, false).await?;
    Ok(None)
}

/// Fences the transactional ids of its pods: they are gone, and one that was killed may have left a
/// transaction open. That ends by itself, too: the end of the Pipeline does not wait for it.
async fn fence(object: &Pipeline, cluster: &Cluster) {
    for stage in object.status.iter().flat_map(|status| &status.stages) {
        let members = 0..stage.members.unwrap_or_default();
        if let Err(error) = apply::fence(cluster, object, &stage.group, members).await {
            let group = &stage.group;
            tracing::warn!(group, %error, "producers of the group are not fenced");
        }
    }
}

/// Whether its groups have had the time in which Kafka forgets a member that was killed, and more.
fn is_patience_over(object: &Pipeline, now: Timestamp) -> bool {
    let since = object.metadata.deletion_timestamp.as_ref();
    since.is_some_and(|since| now.duration_since(since.0) > GROUPS_PATIENCE)
}
