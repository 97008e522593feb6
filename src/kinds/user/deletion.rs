//! The end of a User, and of its access.

use crate::api::conditions::{Reason, State};
use crate::api::user::User;
use crate::clusters::Cluster;
use crate::kinds::dependent::lookup::{Dependence, cluster_that_refuses};
use crate::kinds::dependent::outcome;
use crate::kinds::dependent::outcome::{REQUEUE_LATER, REQUEUE_SOON, Reconciled};
use crate::kinds::drift;
use crate::kinds::error::Error;
use crate::kinds::user::context::Context;
use crate::kinds::user::status::Learned;
use crate::kinds::user::{observe, plan};
use crate::kubernetes;
use crate::runtime::kind::{Notice, Requeue};
use crate::tenancy::ownership::owner_of;
use crate::tenancy::revocation;
use freehold_kafka::ownership::Owned;
use k8s_openapi::jiff::Timestamp;

pub fn revoked(object: &User, state: State) -> Reconciled<Learned> {
    let name = object.principal_name();
    let message = format!(
        "credential, ACLs and quotas of principal User:{name} were taken away: {}",
        state.words().1
    );
    let notices = vec![Notice {
        reason: Reason::Revoked,
        message,
    }];
    Reconciled {
        learned: Learned {
            revoked: true,
            ..Learned::default()
        },
        state,
        notices,
        requeue: Requeue::After(REQUEUE_LATER),
    }
}

/// True if what Kafka has for a principal belongs to this object.
pub fn has(object: &User, cluster: &Cluster, name: &str) -> bool {
    let image = cluster.mirror.read();
    let (owners, own) = (image.owners(Owned::Principal, name), owner_of(object));
    owners.iter().any(|owner| **owner == own)
        || (owners.is_empty()
            && plan::is_known(object, &cluster.facts)
            && image.principal(name).is_some())
}

/// Deletes everything that Kafka has for it. Its Secret stays, so that the password is the same if
/// the User is admitted again.
pub async fn revoke(
    object: &User,
    context: &Context,
    cluster: &Cluster,
    state: State,
) -> Result<Reconciled<Learned>, Error> {
    context.ensure_current(object).await?;
    let name = object.principal_name();
    if !revocation::revoke_owner(cluster, name, &owner_of(object)).await? {
        return Ok(waiting(State::reconciling(
            Reason::Revoked,
            "waiting for Kafka to tell that the rights are gone",
        )));
    }
    Ok(revoked(object, state))
}

/// Handles the deletion of a User. `None`: the finalizer is removed.
pub async fn end(
    object: &User,
    context: &Context,
    now: Timestamp,
) -> Result<Option<Reconciled<Learned>>, Error> {
    if !kubernetes::has_finalizer(object) {
        return Ok(None);
    }
    context.ensure_current(object).await?;
    match observe::observe(context, object).await? {
        // A Paused cluster is not changed, but access is still revoked.
        Err(Dependence::Paused(key)) => {
            if let Some(cluster) = context
                .clusters
                .get(&key)
                .filter(|cluster| has(object, cluster, object.principal_name()))
            {
                let ends = State::reconciling(Reason::Deleting, "the User was deleted");
                let left = revoke(object, context, &cluster, ends).await?;
                if !left.learned.revoked {
                    return Ok(Some(left));
                }
            }
        }
        Err(dependence) => match cluster_that_refuses(context, &dependence) {
            Some(cluster) if has(object, &cluster, object.principal_name()) => {
                let left = revoke(object, context, &cluster, dependence.state()).await?;
                if !left.learned.revoked {
                    return Ok(Some(left));
                }
            }
            Some(_) => {}
            None if dependence.strands_nothing(context).await? => {}
            None => return Ok(Some(waiting(dependence.state()))),
        },
        // The principal belongs to another object or to none, so its rights stay.
        Ok((observed, cluster))
            if !observed
                .ownership
                .is_proven(plan::is_known(object, &observed.cluster))
                || observed.ownership.other.is_some() =>
        {
            let own = [owner_of(object)];
            revocation::disown(
                &cluster,
                Owned::Principal,
                object.principal_name(),
                &own[..usize::from(observed.ownership.mine)],
            )
            .await?;
        }
        Ok((observed, cluster)) => {
            let left = delete(object, &cluster, observed.ownership.mine, now).await?;
            if left.is_some() {
                return Ok(left);
            }
        }
    }
    kubernetes::set_finalizer(&context.client, object, false).await?;
    Ok(None)
}

/// Deletes the principal that belongs to a User that is being deleted, and then the record of its
/// owner, if Kafka has it (`is_recorded`). `None`: both are gone.
async fn delete(
    object: &User,
    cluster: &Cluster,
    is_recorded: bool,
    now: Timestamp,
) -> Result<Option<Reconciled<Learned>>, Error> {
    let name = object.principal_name();
    if !revocation::revoke(cluster, name).await? {
        return Ok(Some(waiting(State::reconciling(
            Reason::Deleting,
            "waiting for Kafka to tell that the rights are gone",
        ))));
    }
    let conditions = object
        .status
        .as_ref()
        .map(|status| status.conditions.as_slice())
        .unwrap_or_default();
    // The deletion has increased the generation by one.
    let before = object.metadata.generation.map(|generation| generation - 1);
    let late = outcome::late(&object.metadata, now);
    if let Some(left) = late.filter(|_| !drift::was_settled(conditions, before)) {
        let state = State::reconciling(Reason::Deleting, outcome::LATE_WORDS);
        return Ok(Some(Reconciled::waiting(state, left)));
    }
    let own = [owner_of(object)];
    let own = &own[..usize::from(is_recorded)];
    revocation::disown(cluster, Owned::Principal, name, own).await?;
    Ok(None)
}

/// The result while Kafka or another object must do something first.
pub fn waiting(state: State) -> Reconciled<Learned> {
    Reconciled::waiting(state, REQUEUE_SOON)
}
