//! Drift: what somebody else changed in Kafka or Kubernetes and the operator put right. Status and
//! an event tell of it. Pure.

use crate::api::conditions::{Condition, Reason, is_ready};
use crate::api::drift::DriftStatus;
use crate::runtime::kind::Notice;
use crate::words::{MESSAGE_CHARS_MAX, cut, listed};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// True when the object was settled for this generation: a difference that is found now was made by
/// somebody else.
pub fn was_settled(conditions: &[Condition], generation: Option<i64>) -> bool {
    is_ready(conditions)
        && conditions
            .iter()
            .all(|condition| condition.observed_generation == generation)
}

/// The notice of what was put right; none where there was nothing.
pub fn notices(found: &[String]) -> Vec<Notice> {
    let notice = Notice {
        reason: Reason::DriftCorrected,
        message: format!(
            "changed by somebody else and put right: {}",
            listed(found.iter().cloned())
        ),
    };
    if found.is_empty() {
        Vec::new()
    } else {
        vec![notice]
    }
}

/// The newest drift.
pub fn status(found: &[String], old: Option<DriftStatus>, now: &Time) -> Option<DriftStatus> {
    if found.is_empty() {
        old
    } else {
        Some(DriftStatus {
            at: now.clone(),
            found: cut(listed(found.iter().cloned()), MESSAGE_CHARS_MAX),
        })
    }
}
