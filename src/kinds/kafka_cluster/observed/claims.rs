//! Volume claims as plain data: what is requested of a volume, and what it is.
//!
//! A field that cannot be read counts as absent, so that one odd claim never stops a reconcile.
//! Pure.

use crate::api::kafka_cluster::DataVolume;
use crate::kubernetes::{Live, quantity};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

/// What a claim, or a claim template of a StatefulSet, requests.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Requested {
    pub size: Option<Quantity>,
    pub storage_class_name: Option<String>,
    pub volume_attributes_class_name: Option<String>,
}

impl Requested {
    /// Reads a claim or a claim template.
    pub fn of(claim: &Value) -> Self {
        let spec = &claim["spec"];
        Self {
            size: text(&spec["resources"]["requests"]["storage"]).map(Quantity),
            storage_class_name: text(&spec["storageClassName"]),
            volume_attributes_class_name: text(&spec["volumeAttributesClassName"]),
        }
    }

    /// The size in bytes; `None` if there is none that can be read.
    pub fn bytes(&self) -> Option<u64> {
        quantity::bytes(self.size.as_ref()?)
    }

    /// The volume of this name that is requested; `None` if no size is.
    pub fn volume(&self, name: &str) -> Option<DataVolume> {
        Some(DataVolume {
            name: name.to_owned(),
            size: self.size.clone()?,
            storage_class_name: self.storage_class_name.clone(),
            volume_attributes_class_name: self.volume_attributes_class_name.clone(),
            auto_grow: None,
        })
    }
}

/// A volume claim.
#[derive(Clone, Debug, PartialEq)]
pub struct Claim {
    /// The claim as it was read: for its name and labels, and for the preconditions of writes.
    pub live: Live,
    pub requested: Requested,
    /// The size of the volume in bytes; `None` until it is bound.
    pub capacity: Option<u64>,
    /// True if the volume is gone: the claim is in the phase Lost.
    pub is_volume_gone: bool,
    /// How far the present change of the size is, in the words of Kubernetes; empty if there is
    /// none.
    pub resize_stage: String,
    /// The VolumeAttributesClass that the volume has.
    pub current_class: Option<String>,
    /// True if the volume cannot take the requested VolumeAttributesClass.
    pub is_class_infeasible: bool,
    /// The conditions whose status is True.
    conditions: Vec<ClaimCondition>,
}

/// A condition of a claim that holds.
#[derive(Clone, Debug, PartialEq)]
pub struct ClaimCondition {
    kind: String,
    pub message: Option<String>,
    pub since: Option<Timestamp>,
}

impl Claim {
    /// Reads a claim.
    pub fn of(live: Live) -> Self {
        let status = &live.value["status"];
        let conditions = status["conditions"].as_array().into_iter().flatten();
        Self {
            requested: Requested::of(&live.value),
            capacity: text(&status["capacity"]["storage"])
                .and_then(|size| quantity::bytes(&Quantity(size))),
            is_volume_gone: status["phase"] == "Lost",
            resize_stage: text(&status["allocatedResourceStatuses"]["storage"]).unwrap_or_default(),
            current_class: text(&status["currentVolumeAttributesClassName"]),
            is_class_infeasible: status["modifyVolumeStatus"]["status"] == "Infeasible",
            conditions: conditions.filter_map(ClaimCondition::of).collect(),
            live,
        }
    }

    /// The claim's name.
    pub fn name(&self) -> &str {
        self.live.name()
    }

    /// The claim's uid.
    pub fn uid(&self) -> &str {
        self.live.uid()
    }

    /// True if the claim is being deleted.
    pub fn is_deleting(&self) -> bool {
        self.live.is_deleting()
    }

    /// The condition of this type, if it holds.
    pub fn condition(&self, kind: &str) -> Option<&ClaimCondition> {
        self.conditions
            .iter()
            .find(|condition| condition.kind == kind)
    }
}

impl ClaimCondition {
    fn of(condition: &Value) -> Option<Self> {
        Some(Self {
            kind: text(&condition["type"]).filter(|_| condition["status"] == "True")?,
            message: text(&condition["message"]),
            since: condition["lastTransitionTime"]
                .as_str()
                .and_then(|time| time.parse().ok()),
        })
    }
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::resource;
    use k8s_openapi::api::core::v1::PersistentVolumeClaim;
    use serde_json::json;

    fn claim(value: Value) -> Claim {
        Claim::of(Live {
            resource: resource::<PersistentVolumeClaim>(),
            value,
        })
    }

    #[test]
    fn a_field_that_cannot_be_read_counts_as_absent() {
        let odd = claim(json!({"metadata": {"name": "data-x"},
            "spec": {"resources": {"requests": {"storage": 7}}, "storageClassName": ["fast"]},
            "status": {"capacity": {"storage": "much"}, "conditions": {"type": "Resizing"}, "phase": 1}}));
        assert_eq!(odd.requested, Requested::default());
        assert_eq!(
            (odd.name(), odd.requested.bytes(), odd.capacity),
            ("data-x", None, None)
        );
        assert!(!odd.is_volume_gone && odd.condition("Resizing").is_none());
        assert_eq!(odd.requested.volume("x"), None);
    }

    #[test]
    fn only_conditions_that_hold_count() {
        let condition = |status: &str| {
            json!({"type": "Resizing", "status": status, "message": "m",
            "lastTransitionTime": "2026-01-01T00:00:00Z"})
        };
        let of = |status: &str| claim(json!({"status": {"conditions": [condition(status)]}}));
        assert!(of("False").condition("Resizing").is_none());
        let holds = of("True");
        let holds = holds.condition("Resizing").unwrap();
        assert_eq!(holds.message.as_deref(), Some("m"));
        assert_eq!(holds.since, "2026-01-01T00:00:00Z".parse().ok());
    }
}
