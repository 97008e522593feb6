//! What was learned, or the error -> a User's new status. Pure.

use super::api::{CredentialStatus, User, UserStatus};
use super::validate::{principal, principal_name, secret_name};
use crate::conditions::{State, conditions};
use crate::kafka::acl::AclBinding;
use crate::kafka::grants;
use crate::kinds::drift;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// What a look came to.
#[derive(Clone, Debug, Default)]
pub struct Learned {
    /// The rules in force.
    pub acls: Option<Vec<AclBinding>>,
    pub credential: Option<CredentialStatus>,
    /// In shadow mode; `None` where the brokers were not asked.
    pub would_be_refused: Option<Vec<String>>,
    /// What was put right.
    pub drift: Vec<String>,
}

/// The status with a state. What was not learned stays as it was.
pub fn status(object: &User, learned: &Learned, state: &State, now: &Time) -> UserStatus {
    let old = object.status.clone().unwrap_or_default();
    let Learned { acls, credential, would_be_refused, drift } = learned;
    let ready = *state == State::Ready;
    UserStatus {
        observed_generation: object.metadata.generation,
        conditions: conditions(state, object.metadata.generation, &old.conditions, now),
        reason: if ready { String::new() } else { state.words().0.to_string() },
        principal: Some(principal(principal_name(object))),
        secret: if ready { Some(secret_name(object)) } else { old.secret },
        grants: acls.as_ref().map_or(old.grants, |acls| grants::words(acls)),
        acls: acls.as_ref().map(|acls| i32::try_from(acls.len()).unwrap_or(i32::MAX)).or(old.acls),
        would_be_refused: would_be_refused.clone().unwrap_or(old.would_be_refused),
        credential: credential.clone().or(old.credential),
        drift: drift::status(drift, old.drift, now),
    }
}
