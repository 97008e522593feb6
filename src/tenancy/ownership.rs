//! Decides which object holds a name in a cluster: the owner that Kafka records or, if none is
//! recorded, the oldest object that may have the name. An object never changes or deletes anything
//! in Kafka unless it is proven to be the owner.

use crate::api::kafka_cluster::TopicNames;
use crate::clusters::Cluster;
use crate::kubernetes::KubeResult;
use crate::runtime::services::Services;
use crate::tenancy::admission::may_have;
use crate::tenancy::claims::Claim;
use crate::tenancy::tenants::{Tenant, Tenants};
use freehold_kafka::metadata_image::MetadataImage;
use freehold_kafka::ownership::{Owned, Owner};
use k8s_openapi::jiff::Timestamp;
use kube::Resource;
use std::sync::Arc;

/// The record of an object as the owner of something in Kafka.
pub fn owner_of<O: Resource>(object: &O) -> Owner {
    let meta = object.meta();
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    Owner {
        namespace: text(&meta.namespace),
        name: text(&meta.name),
        uid: text(&meta.uid),
    }
}

/// Another object that holds the name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Other {
    /// It is the recorded owner or, where none is recorded, the oldest object that claims the name:
    /// `namespace/name`.
    Holds(String),
    /// It is the recorded owner, and the cluster no longer allows its namespace.
    Revoked(String),
    /// It is the recorded owner and is gone; the clean-up will soon delete what it had.
    Gone(String),
    /// A certificate for this name that was issued to a User of another namespace is valid until
    /// this time. Its bearer would have the rights of this principal.
    Certified(String, Timestamp),
}

/// The result of the question who holds a name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ownership {
    /// True if Kafka records this object as the owner.
    pub mine: bool,
    /// Recorded owners with this object's namespace and name but another uid: earlier objects of
    /// the same name.
    pub former: Vec<Owner>,
    pub other: Option<Other>,
}

impl Ownership {
    /// True if what Kafka has under the name belongs to this object. `known`: the object's status
    /// says so. The status counts only if Kafka records no owner: the object may be older than such
    /// records, or somebody deleted the record.
    pub fn is_proven(&self, known: bool) -> bool {
        self.mine || (known && self.former.is_empty() && self.other.is_none())
    }
}

/// Determines who holds the name that an object claims. `policy`: the names that objects of other
/// namespaces may have.
///
/// # Errors
/// Fails if a namespace's labels cannot be read.
pub async fn of<O: Tenant>(
    services: &Services,
    tenants: &Tenants<O>,
    cluster: &Cluster,
    owned: Owned,
    claim: &Claim,
    object: &O,
    policy: Option<&TopicNames>,
) -> KubeResult<Ownership> {
    let own = owner_of(object);
    let owners: Vec<Arc<Owner>> = cluster.mirror.read().owners(owned, &claim.name).to_vec();
    let mut ownership = Ownership {
        mine: owners.iter().any(|owner| **owner == own),
        ..Ownership::default()
    };
    for owner in owners.iter().filter(|owner| ***owner != own) {
        if owner.is_namesake(&own) {
            ownership.former.push((**owner).clone());
        } else if !tenants.is_there(services, &claim.cluster, owner) {
            ownership.other = Some(Other::Gone(owner.to_string()));
        } else if may_have(services, cluster, claim, &owner.namespace, policy).await? {
            // Both objects recorded themselves at the same time: the older one keeps the name.
            let yields = !ownership.mine
                || tenants
                    .claims()
                    .is_before(&owner.namespace, &owner.name, object);
            ownership.other = yields
                .then(|| Other::Holds(owner.to_string()))
                .or(ownership.other);
        } else {
            ownership.other = Some(Other::Revoked(owner.to_string()));
        }
    }
    if owned == Owned::Principal && !ownership.mine && ownership.other.is_none() {
        let certified = last_certificate(&cluster.mirror.read(), &claim.name, |owner| {
            owner.namespace != own.namespace
        });
        ownership.other = certified
            .filter(|(until, _)| *until > Timestamp::now())
            .map(|(until, owner)| Other::Certified(owner.to_string(), until));
    }
    if owners.is_empty() && ownership.other.is_none() {
        for (namespace, name) in tenants.claims().older(claim, object) {
            // An object that the cluster does not admit holds no name.
            if may_have(services, cluster, claim, &namespace, policy).await? {
                ownership.other = Some(Other::Holds(format!("{namespace}/{name}")));
                break;
            }
        }
    }
    Ok(ownership)
}

/// The end of the last certificate for a principal, and the User that it was issued to. Only owners
/// for which `counts` is true are considered.
pub fn last_certificate(
    image: &MetadataImage,
    principal: &str,
    counts: impl Fn(&Owner) -> bool,
) -> Option<(Timestamp, Arc<Owner>)> {
    let records = image
        .owners(Owned::Certificate, principal)
        .iter()
        .filter(|owner| counts(owner));
    records
        .filter_map(|owner| Some((certified_until(owner)?, Arc::clone(owner))))
        .max()
}

/// The end of the certificate that a record of [`Owned::Certificate`] is about; the record stores
/// it as its uid, in seconds since 1970.
pub fn certified_until(owner: &Owner) -> Option<Timestamp> {
    owner
        .uid
        .parse()
        .ok()
        .and_then(|second| Timestamp::from_second(second).ok())
}

/// The message for an object's status while another object holds the name.
pub fn words<O: Tenant>(other: &Other, what: &str) -> String {
    let kind = O::kind(&());
    match other {
        Other::Holds(holder) => format!(
            "{kind} {holder} has this name already; take another name or delete one of the two"
        ),
        Other::Revoked(holder) => format!(
            "this {what} is that of {kind} {holder}, whose namespace the cluster no longer allows; take another name, or ask the owner of the cluster"
        ),
        Other::Certified(holder, until) => format!(
            "a certificate for this {what}, which {kind} {holder} had, is valid until {until}: whoever has it would have your rights; take another name"
        ),
        Other::Gone(holder) => {
            format!("waiting until what {kind} {holder} had, which is gone, has been taken away")
        }
    }
}
