//! Completes what is known of the topics that a User of a namespace has rights on: who owns them,
//! and what their Topics share.

use crate::api::reference::ClusterKey;
use crate::clusters::Cluster;
use crate::kinds::context::Context;
use crate::kubernetes::KubeResult;
use crate::tenancy::admission::may_have;
use crate::tenancy::claims::Claim;
use crate::tenancy::rights::Standings;
use std::collections::BTreeSet;

/// Removes what Topics share that the cluster no longer allows. Returns the topics whose Topic is
/// in no cache, so that it is not known what it shares.
///
/// # Errors
/// Fails if a namespace's labels cannot be read.
pub async fn complete(
    context: &Context,
    cluster: &Cluster,
    key: &ClusterKey,
    namespace: &str,
    all: &mut Standings,
) -> KubeResult<BTreeSet<String>> {
    let mut unknown = BTreeSet::new();
    for (topic, standing) in all {
        let Some((owner, of)) = standing.owner.as_ref().filter(|(_, of)| of != namespace) else {
            continue;
        };
        let name = owner.rsplit('/').next().unwrap_or_default();
        let is_known = context.topics.get(of, name).is_some();
        if is_known && standing.shared.is_empty() {
            continue;
        }
        let claim = Claim {
            cluster: key.clone(),
            name: topic.clone(),
        };
        let policy = cluster.facts.access.topic_names.as_ref();
        if !may_have(context, cluster, &claim, of, policy).await? {
            standing.shared.clear();
        } else if !is_known {
            unknown.insert(topic.clone());
        }
    }
    Ok(unknown)
}
