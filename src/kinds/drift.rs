//! What somebody else changed and was put right: in status, and as an event. Pure.

use crate::conditions::{Condition, Reason, is_ready};
use crate::runtime::kind::Notice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What was put right.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DriftStatus {
    /// When.
    pub at: Time,
    /// What was found otherwise.
    pub found: String,
}

/// True when an object was as its spec says, so that what differs now was changed by somebody else.
pub fn was_settled(conditions: &[Condition], generation: Option<i64>) -> bool {
    is_ready(conditions) && conditions.iter().all(|condition| condition.observed_generation == generation)
}

/// What to tell of drift; nothing where there was none.
pub fn notices(found: &[String]) -> Vec<Notice> {
    let notice =
        Notice { reason: Reason::DriftCorrected, message: format!("changed by somebody else and put right: {}", found.join("; ")) };
    if found.is_empty() { Vec::new() } else { vec![notice] }
}

/// The newest drift.
pub fn status(found: &[String], old: Option<DriftStatus>, now: &Time) -> Option<DriftStatus> {
    if found.is_empty() { old } else { Some(DriftStatus { at: now.clone(), found: found.join("; ") }) }
}
