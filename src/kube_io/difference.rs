//! Whether an object must be applied: compares what is desired with what is there, ignoring what the API server
//! added by itself. Pure.

use super::{Live, Object};
use crate::{labels, quantity};
use serde_json::Value;

/// True when the live object lacks something of the desired one, or was applied from another desired state.
pub fn differs(desired: &Object, live: &Live) -> bool {
    let hash = desired.value["metadata"]["annotations"][labels::APPLIED_HASH].as_str();
    live.annotation(labels::APPLIED_HASH) != hash || !holds(&live.value, &desired.value)
}

/// True when everything in `wanted` is in `found`. Null and empty values in `wanted` are what the API server leaves out.
fn holds(found: &Value, wanted: &Value) -> bool {
    match wanted {
        Value::Null => true,
        Value::Object(fields) => {
            fields.iter().all(|(key, value)| found.get(key).map_or_else(|| is_empty(value), |found| holds(found, value)))
        }
        Value::Array(items) => found.as_array().map_or(items.is_empty(), |found| {
            found.len() == items.len() && found.iter().zip(items).all(|(found, wanted)| holds(found, wanted))
        }),
        // The API server writes quantities its own way: `1Gi` for `1024Mi`.
        Value::String(text) => {
            found == wanted
                || found.as_str().is_some_and(|found| quantity::number(found).is_some_and(|is| Some(is) == quantity::number(text)))
        }
        scalar => found == scalar,
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(fields) => fields.values().all(is_empty),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;

    fn desired() -> Object {
        let map: ConfigMap = serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"x": "1"}
        }))
        .unwrap();
        Object::of(&map)
    }

    #[test]
    fn what_the_server_adds_is_no_difference() {
        let mut value = desired().value;
        value["metadata"]["uid"] = json!("u");
        value["metadata"]["managedFields"] = json!([{}]);
        assert!(!differs(&desired(), &Live { resource: desired().resource, value }));
    }

    #[test]
    fn a_changed_field_and_a_field_that_left_the_desired_state_are() {
        let mut changed = desired().value;
        changed["data"]["x"] = json!("2");
        assert!(differs(&desired(), &Live { resource: desired().resource, value: changed }));
        let mut older = desired().value;
        older["data"]["y"] = json!("2");
        older["metadata"]["annotations"][labels::APPLIED_HASH] = json!("another");
        assert!(differs(&desired(), &Live { resource: desired().resource, value: older }));
    }
}
