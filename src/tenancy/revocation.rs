//! Revokes what a principal has in Kafka, and deletes records of owners. Topics keep their data.

use crate::clusters::Cluster;
use crate::tenancy::ownership::owner_of;
use freehold_kafka::acl::{self, AclBinding};
use freehold_kafka::ownership::{Owned, Owner, mark};
use freehold_kafka_client::{AdminResult, QuotaChange, ScramChange};
use kube::Resource;
use std::sync::Arc;
use std::time::Duration;

/// The time to wait for a change in the metadata log, where it normally is milliseconds after its
/// answer. If it is not there in time, the object is reconciled again.
pub const SEEN_LIMIT: Duration = Duration::from_secs(3);

/// Deletes a principal's ACLs, credential and quotas. Returns true once the metadata log shows none
/// of them.
///
/// # Errors
/// The error that the brokers return.
pub async fn revoke(cluster: &Cluster, name: &str) -> AdminResult<bool> {
    let principal = cluster
        .mirror
        .read()
        .principal(name)
        .cloned()
        .unwrap_or_default();
    let acls: Vec<_> = principal.acls().cloned().collect();
    // What is refused here does not keep the rest, but for a Deny, which outlasts the Allow that it
    // limits.
    let mut rights = Ok(());
    for some in acl::changes(&[], &acls).deletions() {
        if rights.is_ok() {
            rights = cluster.admin.delete_acls(some).await;
        }
    }
    let credential = match principal.scram {
        Some(_) => {
            let user = name.to_owned();
            cluster
                .admin
                .alter_scram(ScramChange::Delete { user })
                .await
        }
        None => Ok(()),
    };
    rights.and(credential)?;
    if !principal.quotas.is_empty() {
        let quotas = principal
            .quotas
            .keys()
            .map(|key| (key.clone(), None))
            .collect();
        cluster
            .admin
            .alter_quotas(QuotaChange {
                user: name.to_owned(),
                quotas,
            })
            .await?;
    }
    Ok(cluster
        .mirror
        .wait(SEEN_LIMIT, |image| image.principal(name).is_none())
        .await)
}

/// Deletes some of a principal's ACLs. Those that allow go before those that deny.
///
/// # Errors
/// The error that the brokers return.
pub async fn withdraw(cluster: &Cluster, acls: &[AclBinding]) -> AdminResult<()> {
    for some in acl::changes(&[], acls).deletions() {
        cluster.admin.delete_acls(some).await?;
    }
    Ok(())
}

/// Deletes the records of owners.
///
/// # Errors
/// The error that the brokers return.
pub async fn disown(
    cluster: &Cluster,
    owned: Owned,
    name: &str,
    owners: &[Owner],
) -> AdminResult<()> {
    if owners.is_empty() {
        return Ok(());
    }
    cluster
        .admin
        .delete_acls(
            owners
                .iter()
                .map(|owner| mark(owned, name, owner))
                .collect(),
        )
        .await?;
    let left = |owner: &Owner, known: &[Arc<Owner>]| known.iter().any(|known| **known == *owner);
    cluster
        .mirror
        .wait(SEEN_LIMIT, |image| {
            !owners
                .iter()
                .any(|owner| left(owner, image.owners(owned, name)))
        })
        .await;
    Ok(())
}

/// Deletes what an owner has under a principal's name, and its record. If another owner is recorded
/// too, the credential, ACLs and quotas belong to that one and stay. Returns true once the metadata
/// log shows that it is done.
///
/// # Errors
/// The error that the brokers return.
pub async fn revoke_owner(cluster: &Cluster, name: &str, owner: &Owner) -> AdminResult<bool> {
    let alone = cluster.mirror.read().owners(Owned::Principal, name).len() <= 1;
    if alone && !revoke(cluster, name).await? {
        return Ok(false);
    }
    disown(cluster, Owned::Principal, name, std::slice::from_ref(owner)).await?;
    Ok(true)
}

/// True if Kafka records this object as the owner of the name.
pub fn is_owner<O: Resource>(cluster: &Cluster, owned: Owned, name: &str, object: &O) -> bool {
    let own = owner_of(object);
    cluster
        .mirror
        .read()
        .owners(owned, name)
        .iter()
        .any(|owner| **owner == own)
}
