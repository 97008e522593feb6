//! Cleans up in Kafka after objects that could not do it themselves: they are gone, or the cluster
//! no longer admits them.

use crate::api::reference::ClusterKey;
use crate::api::topic::Topic;
use crate::api::user::User;
use crate::clusters::Cluster;
use crate::kinds::context::Context;
use crate::kinds::dependent::turn::{Recorded, SLICE, Turn};
use crate::kinds::dependent::unseen::withdraw_from_unseen;
use crate::kinds::error::Error;
use crate::kubernetes;
use crate::runtime::kind::Failure;
use crate::tenancy::access;
use crate::tenancy::admission::is_admitted;
use crate::tenancy::ownership;
use crate::tenancy::revocation::{disown, revoke_owner};
use freehold_kafka::ownership::{Owned, Owner};
use futures::future::join_all;
use k8s_openapi::jiff::Timestamp;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Cleans up after Topics and Users that were deleted, alone or with their namespace, while the
/// cluster did not answer, and takes away what the cluster no longer allows from Users that cannot
/// do it themselves. The cache may be stale, so the API server is asked before anything is deleted.
/// Returns true if more is left, so that the cluster must be reconciled again at once.
pub async fn after_the_gone(context: &Context, key: &ClusterKey) -> bool {
    let Some(cluster) = context
        .clusters
        .get(key)
        .filter(|cluster| cluster.mirror.is_loaded())
    else {
        return false;
    };
    let refused = revoke_who_is_not_admitted(context, key, &cluster).await;
    let gone = after_all_gone(context, key, &cluster).await;
    let withdrawn = withdraw_from_unseen(context, key, &cluster).await;
    refused || gone || withdrawn
}

/// Cleans up after owners that are gone. Returns true if more is left.
async fn after_all_gone(context: &Context, key: &ClusterKey, cluster: &Cluster) -> bool {
    let is_gone = |owned: Owned, owner: &Owner| match owned {
        Owned::Topic => !context.topics.is_there(context, key, owner),
        Owned::Principal => !context.users.is_there(context, key, owner),
        Owned::Certificate => {
            ownership::certified_until(owner).is_none_or(|until| until < Timestamp::now())
        }
    };
    let mut gone: Vec<Recorded> = cluster
        .mirror
        .read()
        .all_owners()
        .filter(|(owned, _, owner)| is_gone(*owned, owner))
        .cloned()
        .collect();
    // Access ends first: a record without an object gives nobody a right.
    gone.sort_by_key(|(owned, name, _)| (*owned != Owned::Principal, *owned, Arc::clone(name)));
    let mut turn = Turn::begin();
    for slice in by_name(&gone).chunks(SLICE) {
        if turn.is_over() {
            return turn.has_more();
        }
        let slice = slice.iter().map(|of_one_name| async {
            let mut is_done = false;
            for recorded in *of_one_name {
                is_done |= after_one_or_warn(context, key, cluster, recorded).await;
            }
            is_done
        });
        turn.note(&join_all(slice).await);
    }
    false
}

/// The records of each name, of such as are in order. Owners of one name are cleaned up after one
/// after the other: the last one takes along what the name has, and knows it by being alone.
fn by_name(all: &[Recorded]) -> Vec<&[Recorded]> {
    all.chunk_by(|one, next| one.0 == next.0 && one.1 == next.1)
        .collect()
}

/// Cleans up after one owner. A failure does not stop the others; returns true if what it had was
/// taken away.
async fn after_one_or_warn(
    context: &Context,
    key: &ClusterKey,
    cluster: &Cluster,
    (owned, name, owner): &Recorded,
) -> bool {
    let result = after_one(context, key, cluster, *owned, name, owner).await;
    result.unwrap_or_else(|error| {
        tracing::warn!(cluster = %key, name = &**name, %owner, why = error.words(), "cannot clean up after what may be gone");
        false
    })
}

/// Revokes what a principal has if the cluster does not allow the namespace of its owner, or not
/// the principal's name in it. A User that the operator watches and can read does that itself; here
/// only the recorded owner counts. Returns true if more is left.
async fn revoke_who_is_not_admitted(
    context: &Context,
    key: &ClusterKey,
    cluster: &Cluster,
) -> bool {
    let all: Vec<Recorded> = cluster
        .mirror
        .read()
        .all_owners()
        .filter(|(owned, _, _)| *owned == Owned::Principal)
        .cloned()
        .collect();
    let mut admitted = BTreeMap::new();
    for (_, _, owner) in &all {
        if !admitted.contains_key(owner.namespace.as_str()) {
            // Without an answer nothing is revoked.
            let is_admitted = is_admitted(context, cluster, key, &owner.namespace).await;
            admitted.insert(owner.namespace.as_str(), is_admitted.unwrap_or(true));
        }
    }
    let is_refused = |(_, name, owner): &&Recorded| {
        !admitted[owner.namespace.as_str()] || is_name_refused(context, key, cluster, name, owner)
    };
    let mut refused: Vec<Recorded> = all.iter().filter(is_refused).cloned().collect();
    refused.sort_by_key(|(_, name, _)| Arc::clone(name));
    let mut turn = Turn::begin();
    for slice in by_name(&refused).chunks(SLICE) {
        if turn.is_over() {
            return turn.has_more();
        }
        let slice = slice.iter().map(|of_one_name| async move {
            let mut is_done = false;
            for (_, name, owner) in *of_one_name {
                tracing::info!(cluster = %key, principal = &**name, user = %owner, "its namespace or its name is not allowed: credential, ACLs and quotas are taken away");
                let revoked = revoke_owner(cluster, name, owner).await;
                is_done |= revoked.unwrap_or_else(|error| {
                    tracing::warn!(cluster = %key, principal = &**name, %error, "cannot take away what it has");
                    false
                });
            }
            is_done
        });
        turn.note(&join_all(slice).await);
    }
    false
}

/// True if the cluster does not allow a principal's name in the namespace of its owner. Only asked
/// of owners that are not reconciled: a User that can be read checks it itself, and a naming policy
/// takes time for ten thousand names.
fn is_name_refused(
    context: &Context,
    key: &ClusterKey,
    cluster: &Cluster,
    name: &str,
    owner: &Owner,
) -> bool {
    let (facts, at_home) = (&cluster.facts, owner.namespace == key.namespace);
    !context.users.is_read(&owner.namespace, &owner.name)
        && access::refuse_principal(
            &facts.access,
            &facts.super_users,
            at_home,
            &owner.namespace,
            name,
        )
        .is_some()
}

/// Cleans up after one owner. Returns true if what it had was taken away: it may be there after
/// all.
async fn after_one(
    context: &Context,
    key: &ClusterKey,
    cluster: &Cluster,
    owned: Owned,
    name: &str,
    owner: &Owner,
) -> Result<bool, Error> {
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
        return Ok(false);
    }
    if owned == Owned::Principal {
        tracing::info!(cluster = %key, principal = name, user = %owner, "the User is gone: its credential, ACLs and quotas are taken away");
        return Ok(revoke_owner(cluster, name, owner).await?);
    }
    disown(cluster, owned, name, std::slice::from_ref(owner)).await?;
    Ok(true)
}

fn refers_to(object: &serde_json::Value, namespace: &str, key: &ClusterKey) -> bool {
    let reference = &object["spec"]["clusterRef"];
    reference["name"] == key.name.as_str()
        && reference["namespace"].as_str().unwrap_or(namespace) == key.namespace
}
