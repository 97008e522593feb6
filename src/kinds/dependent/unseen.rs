//! Takes what a cluster no longer allows from Users that cannot give it up themselves, because the
//! operator does not watch or cannot read them.

use crate::api::reference::ClusterKey;
use crate::clusters::Cluster;
use crate::kinds::context::Context;
use crate::kinds::dependent::standings;
use crate::kinds::dependent::turn::{Recorded, SLICE, Turn};
use crate::kinds::error::Error;
use crate::runtime::kind::Failure;
use crate::tenancy::revocation::withdraw;
use crate::tenancy::rights;
use freehold_kafka::acl::AclBinding;
use freehold_kafka::grants::{self, LITERAL, TOPIC};
use freehold_kafka::metadata_image::MetadataImage;
use freehold_kafka::ownership::{Owned, Owner};
use futures::future::join_all;

/// Takes the rights that the cluster no longer allows from principals whose User the operator does
/// not watch or cannot read. All that is known of such a User is its recorded owner, and what Kafka
/// has for it. Returns true if more is left.
pub async fn withdraw_from_unseen(context: &Context, key: &ClusterKey, cluster: &Cluster) -> bool {
    if !context.users.are_ready() || !context.topics.are_ready() {
        return false;
    }
    // If a second owner is recorded, it is not known yet whose the rights are.
    let of_unseen = |image: &MetadataImage, (owned, name, owner): &Recorded| {
        *owned == Owned::Principal
            && image.owners(Owned::Principal, name).len() == 1
            && !context.users.is_read(&owner.namespace, &owner.name)
    };
    let unseen: Vec<Recorded> = {
        let image = cluster.mirror.read();
        let all = image.all_owners();
        all.filter(|recorded| of_unseen(&image, recorded))
            .cloned()
            .collect()
    };
    let mut turn = Turn::begin();
    for slice in unseen.chunks(SLICE) {
        if turn.is_over() {
            return turn.has_more();
        }
        let slice = slice.iter().map(|(_, name, owner)| async move {
            let withdrawn = withdraw_from_one(context, key, cluster, name, owner).await;
            withdrawn.unwrap_or_else(|error| {
                tracing::warn!(cluster = %key, principal = &**name, user = %owner, why = error.words(), "cannot take away the rights that are no longer allowed");
                false
            })
        });
        turn.note(&join_all(slice).await);
    }
    false
}

/// Takes from one principal the rights that the cluster no longer allows. Returns true if there
/// were any.
async fn withdraw_from_one(
    context: &Context,
    key: &ClusterKey,
    cluster: &Cluster,
    name: &str,
    owner: &Owner,
) -> Result<bool, Error> {
    let namespace = &owner.namespace;
    let found: Vec<AclBinding> = {
        let image = cluster.mirror.read();
        let acls = image.principal(name).into_iter();
        acls.flat_map(|principal| principal.acls().cloned())
            .collect()
    };
    // A record counts until the clean-up has deleted it: it asks the API server first.
    let topics = rights::topics_of(found.iter());
    let mut all = context
        .sharing
        .of_topics(topics, namespace, &cluster.mirror.read(), |_| true);
    let unknown = standings::complete(context, cluster, key, namespace, &mut all).await?;
    let facts = &cluster.facts;
    let gone: Vec<_> = rights::withdrawn(&found, namespace, &facts.access, facts.shadow, key, &all)
        .into_iter()
        .filter(|acl| {
            let is_of_topic = acl.resource_type == TOPIC && acl.pattern_type == LITERAL;
            !(is_of_topic && unknown.contains(&acl.resource_name))
        })
        .collect();
    if gone.is_empty() {
        return Ok(false);
    }
    tracing::info!(cluster = %key, principal = name, user = %owner, acls = ?grants::words(&gone), "the cluster no longer allows these rights: they are taken away");
    withdraw(cluster, &gone).await?;
    Ok(true)
}
