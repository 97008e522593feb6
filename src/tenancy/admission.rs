//! Decides whether a running cluster admits the objects of a namespace. The rules are in
//! [`crate::tenancy::access`]; this module reads the namespace's labels for them.

use crate::api::kafka_cluster::{AccessFrom, TopicNames};
use crate::api::reference::ClusterKey;
use crate::clusters::Cluster;
use crate::kubernetes::KubeResult;
use crate::runtime::services::Services;
use crate::tenancy::access;
use crate::tenancy::claims::Claim;
use std::sync::Arc;

/// True if a cluster allows objects of a namespace to refer to it.
///
/// # Errors
/// Fails if the namespace's labels cannot be read.
pub async fn is_admitted(
    services: &Services,
    cluster: &Cluster,
    key: &ClusterKey,
    namespace: &str,
) -> KubeResult<bool> {
    let access = &cluster.facts.access.namespaces;
    let labels = if access.from == AccessFrom::Selector && key.namespace != namespace {
        services
            .namespaces
            .labels(&services.client, namespace)
            .await?
    } else {
        Arc::default()
    };
    Ok(access::allowed(access, &key.namespace, namespace, &labels))
}

/// True if objects of a namespace may have the claimed name.
///
/// # Errors
/// Fails if the namespace's labels cannot be read.
pub async fn may_have(
    services: &Services,
    cluster: &Cluster,
    claim: &Claim,
    namespace: &str,
    policy: Option<&TopicNames>,
) -> KubeResult<bool> {
    let at_home = claim.cluster.namespace == namespace;
    let named = at_home
        || policy.is_none_or(|policy| {
            access::refuse_name(policy, namespace, &claim.name, false).is_none()
        });
    Ok(named && is_admitted(services, cluster, &claim.cluster, namespace).await?)
}
