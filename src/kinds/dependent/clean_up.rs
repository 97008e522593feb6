//! Cleans up in Kafka after objects that could not do it themselves: they are gone, or the cluster
//! no longer admits them.

use crate::api::reference::ClusterKey;
use crate::api::topic::Topic;
use crate::api::user::User;
use crate::clusters::Cluster;
use crate::kinds::context::Context;
use crate::kinds::error::Error;
use crate::kubernetes;
use crate::runtime::kind::Failure;
use crate::tenancy::admission::is_admitted;
use crate::tenancy::ownership;
use crate::tenancy::revocation::{disown, revoke_owner};
use freehold_kafka::ownership::{Owned, Owner};
use k8s_openapi::jiff::Timestamp;
use std::collections::BTreeSet;
use std::sync::Arc;

/// The number of owners to clean up after in one reconcile of a cluster; the next one continues.
const GONE_MAX: usize = 100;

/// Cleans up after Topics and Users that were deleted, alone or with their namespace, while the
/// cluster did not answer. The cache may be stale, so the API server is asked before anything is
/// deleted.
pub async fn after_the_gone(context: &Context, key: &ClusterKey) {
    let Some(cluster) = context
        .clusters
        .get(key)
        .filter(|cluster| cluster.mirror.is_loaded())
    else {
        return;
    };
    let is_gone = |owned: Owned, owner: &Owner| match owned {
        Owned::Topic => !context.topics.is_there(context, key, owner),
        Owned::Principal => !context.users.is_there(context, key, owner),
        Owned::Certificate => {
            ownership::certified_until(owner).is_none_or(|until| until < Timestamp::now())
        }
    };
    let gone: Vec<_> = cluster
        .mirror
        .read()
        .all_owners()
        .filter(|(owned, _, owner)| is_gone(*owned, owner))
        .take(GONE_MAX)
        .cloned()
        .collect();
    revoke_who_is_not_admitted(context, key, &cluster).await;
    for (owned, name, owner) in gone {
        // A failure for one owner does not stop the others.
        if let Err(error) = after_one(context, key, &cluster, owned, &name, &owner).await {
            tracing::warn!(cluster = %key, name = &*name, %owner, why = error.words(), "cannot clean up after what may be gone");
        }
    }
}

/// Revokes what a principal has if the cluster does not allow the namespace of its owner. A User
/// that the operator watches and can read does that itself; here only the recorded owner counts.
async fn revoke_who_is_not_admitted(context: &Context, key: &ClusterKey, cluster: &Cluster) {
    let of_principals = |(owned, _, _): &&(Owned, Arc<str>, Arc<Owner>)| *owned == Owned::Principal;
    let namespaces: BTreeSet<String> = {
        let image = cluster.mirror.read();
        let all: BTreeSet<&str> = image
            .all_owners()
            .filter(of_principals)
            .map(|(_, _, owner)| owner.namespace.as_str())
            .collect();
        all.into_iter().map(str::to_owned).collect()
    };
    for namespace in namespaces {
        // Without an answer nothing is revoked.
        if is_admitted(context, cluster, key, &namespace)
            .await
            .unwrap_or(true)
        {
            continue;
        }
        let owners: Vec<_> = cluster
            .mirror
            .read()
            .all_owners()
            .filter(of_principals)
            .filter(|(_, _, owner)| owner.namespace == namespace)
            .cloned()
            .collect();
        for (_, name, owner) in owners {
            tracing::info!(cluster = %key, principal = &*name, user = %owner, "its namespace is not allowed: credential, ACLs and quotas are taken away");
            if let Err(error) = revoke_owner(cluster, &name, &owner).await {
                tracing::warn!(cluster = %key, principal = &*name, %error, "cannot take away what it has");
            }
        }
    }
}

async fn after_one(
    context: &Context,
    key: &ClusterKey,
    cluster: &Cluster,
    owned: Owned,
    name: &str,
    owner: &Owner,
) -> Result<(), Error> {
    let (client, namespace) = (&context.client, &owner.namespace);
    let found = match owned {
        // The certificate has expired, so it does not matter whether its User exists.
        Owned::Certificate => None,
        Owned::Topic => {
            kubernetes::get(
                client,
                namespace,
                &kubernetes::resource::<Topic>(),
                &owner.name,
            )
            .await?
        }
        Owned::Principal => {
            kubernetes::get(
                client,
                namespace,
                &kubernetes::resource::<User>(),
                &owner.name,
            )
            .await?
        }
    };
    if found
        .is_some_and(|found| found.uid() == owner.uid && refers_to(&found.value, namespace, key))
    {
        return Ok(());
    }
    if owned == Owned::Principal {
        tracing::info!(cluster = %key, principal = name, user = %owner, "the User is gone: its credential, ACLs and quotas are taken away");
        revoke_owner(cluster, name, owner).await?;
        return Ok(());
    }
    Ok(disown(cluster, owned, name, std::slice::from_ref(owner)).await?)
}

fn refers_to(object: &serde_json::Value, namespace: &str, key: &ClusterKey) -> bool {
    let reference = &object["spec"]["clusterRef"];
    reference["name"] == key.name.as_str()
        && reference["namespace"].as_str().unwrap_or(namespace) == key.namespace
}
