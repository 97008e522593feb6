//! What was learned, or the error -> a User's new status. Pure.

use super::api::{User, UserStatus};
use super::validate::{principal, secret_name};
use crate::conditions::{State, conditions};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// The status with a state; `acls` where Kafka was seen.
pub fn status(object: &User, acls: Option<usize>, state: &State, now: &Time) -> UserStatus {
    let old = object.status.clone().unwrap_or_default();
    let ready = *state == State::Ready;
    UserStatus {
        observed_generation: object.metadata.generation,
        conditions: conditions(state, object.metadata.generation, &old.conditions, now),
        reason: if ready { String::new() } else { state.words().0.to_string() },
        principal: Some(principal(object.metadata.name.as_deref().unwrap_or_default())),
        secret: if ready { Some(secret_name(object)) } else { old.secret },
        acls: acls.map(|count| i32::try_from(count).unwrap_or(i32::MAX)).or(old.acls),
    }
}
