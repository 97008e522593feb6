//! What somebody else changed in an object and the operator put right, as status shows it. Pure.

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
