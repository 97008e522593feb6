//! The rounds of one reconcile of a Topic or a User: each observes, plans and executes, until
//! nothing is left to do.

use crate::clusters::Cluster;
use crate::kinds::dependent::outcome::Reconciled;
use crate::kinds::error::Error;
use crate::runtime::kind::Notice;
use crate::tenancy::ownership::{Other, Ownership, owner_of};
use crate::tenancy::revocation;
use freehold_kafka::ownership::Owned;
use kube::Resource;
use std::ops::ControlFlow;
use std::sync::Arc;

/// The result of a round: the result of the reconcile, or the object for the next round.
pub type Round<K, L> = ControlFlow<Reconciled<L>, Arc<K>>;

/// What the rounds have found so far.
#[derive(Default)]
pub struct Found {
    /// What somebody else had changed: only the first round can tell.
    pub drift: Vec<String>,
    pub notices: Vec<Notice>,
}

impl Found {
    /// Adds the drift that a plan has found, unless a plan before it has.
    pub fn add_drift(&mut self, drift: Vec<String>) {
        if self.drift.is_empty() {
            self.drift = drift;
        }
    }
}

/// Removes the object's record as owner if an older object has recorded itself too. Returns true if
/// that was so.
///
/// # Errors
/// Kafka refuses the change, or does not answer.
pub async fn give_way<K: Resource>(
    object: &K,
    cluster: &Cluster,
    owned: Owned,
    name: &str,
    ownership: &Ownership,
) -> Result<bool, Error> {
    let gives_way = ownership.mine && matches!(ownership.other, Some(Other::Holds(_)));
    if gives_way {
        revocation::disown(cluster, owned, name, &[owner_of(object)]).await?;
    }
    Ok(gives_way)
}
