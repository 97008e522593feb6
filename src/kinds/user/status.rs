//! Computes a User's new status from the result of a reconcile or from its error. Pure.

use crate::api::conditions::{State, conditions};
use crate::api::user::principal;
use crate::api::user::{CredentialStatus, User, UserStatus};
use crate::kinds::drift;
use freehold_kafka::acl::AclBinding;
use freehold_kafka::grants;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// What a reconcile has learned.
#[derive(Clone, Debug, Default)]
pub struct Learned {
    /// The ACLs in force.
    pub acls: Option<Vec<AclBinding>>,
    /// The id of the cluster in which they are in force.
    pub cluster_id: Option<String>,
    pub credential: Option<CredentialStatus>,
    /// The requests that would be refused without shadow mode; `None` if the brokers were not
    /// asked.
    pub would_be_refused: Option<Vec<String>>,
    /// The changes of others that were undone.
    pub drift: Vec<String>,
    /// Warnings about settings that are allowed but probably not intended; `None` if they were not
    /// checked.
    pub warnings: Option<Vec<String>>,
    /// True if everything that it had in Kafka was revoked.
    pub revoked: bool,
}

/// The new status. Values that were not learned keep their old value.
pub fn status(object: &User, learned: &Learned, state: &State, now: &Time) -> UserStatus {
    let old = object.status.clone().unwrap_or_default();
    let Learned {
        acls,
        cluster_id,
        credential,
        would_be_refused,
        drift,
        warnings,
        revoked,
    } = learned;
    let ready = *state == State::Ready;
    UserStatus {
        observed_generation: object.metadata.generation,
        conditions: conditions(state, object.metadata.generation, &old.conditions, now),
        reason: if ready {
            String::new()
        } else {
            state.words().0.to_string()
        },
        warnings: warnings.clone().unwrap_or(old.warnings),
        principal: Some(principal(object.principal_name())),
        secret: if ready {
            Some(object.secret_name())
        } else {
            old.secret
        },
        grants: acls
            .as_ref()
            .map_or(if *revoked { Vec::new() } else { old.grants }, |acls| {
                grants::words(acls)
            }),
        acls: acls
            .as_ref()
            .map(|acls| i32::try_from(acls.len()).unwrap_or(i32::MAX))
            .or(old.acls.filter(|_| !revoked)),
        cluster_id: cluster_id.clone().or(old.cluster_id),
        would_be_refused: would_be_refused.clone().unwrap_or(old.would_be_refused),
        credential: credential.clone().or(old.credential),
        drift: drift::status(drift, old.drift, now),
    }
}
