//! Bounds of a CustomResourceDefinition's spec: every text, list and map has one, so that the API
//! server refuses what would be too much for the operator. A field says its own where the default
//! is not right (`length`, `maxProperties`). Pure.
//!
//! The status has none: only the operator writes it, and `crate::words` bounds what it writes.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, ValidationRule,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use serde_json::Value;

/// A name with its domain, a host, a class.
const TEXT_CHARS_MAX: i64 = 253;
/// The value of a config or an annotation.
const VALUE_CHARS_MAX: i64 = 8192;
/// A quantity.
const NUMBER_CHARS_MAX: i64 = 32;
const ITEMS_MAX: i64 = 50;
const ENTRIES_MAX: i64 = 64;
/// Kubernetes' own labels and annotations have keys of up to 317 characters; Kafka's configs are
/// shorter.
const KEY_RULE: &str = "self.all(key, size(key) <= 317)";

/// The definition with a bound on everything in its spec.
pub fn bounded(mut definition: CustomResourceDefinition) -> CustomResourceDefinition {
    for version in &mut definition.spec.versions {
        let schema = version
            .schema
            .as_mut()
            .and_then(|schema| schema.open_api_v3_schema.as_mut());
        if let Some(spec) = schema.and_then(|schema| schema.properties.as_mut()?.get_mut("spec")) {
            bound(spec, TEXT_CHARS_MAX);
        }
    }
    definition
}

fn bound(schema: &mut JSONSchemaProps, chars_max: i64) {
    let kind = schema.type_.as_deref().unwrap_or_default();
    if schema.x_kubernetes_int_or_string == Some(true) {
        schema.max_length.get_or_insert(NUMBER_CHARS_MAX);
    } else if kind == "string" && schema.enum_.is_none() {
        schema.max_length.get_or_insert(chars_max);
    } else if kind == "array" {
        schema.max_items.get_or_insert(ITEMS_MAX);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        schema.max_properties.get_or_insert(ENTRIES_MAX);
        // CEL knows nothing of values without a type (configs: any scalar), and so nothing of their
        // map. Kafka's configs are looked at by their keys, and an object with long ones is too
        // large (`kube_io::guarded`).
        let typed = values.type_.is_some() || values.x_kubernetes_int_or_string == Some(true);
        let rule = ValidationRule {
            rule: KEY_RULE.into(),
            message: Some("keys: at most 317 characters each".into()),
            ..ValidationRule::default()
        };
        if typed {
            schema
                .x_kubernetes_validations
                .get_or_insert_default()
                .push(rule);
        }
        bound(values, VALUE_CHARS_MAX);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        bound(items, TEXT_CHARS_MAX);
    }
    schema
        .properties
        .iter_mut()
        .flat_map(std::collections::BTreeMap::values_mut)
        .for_each(|field| bound(field, TEXT_CHARS_MAX));
}

/// Paths of the fields of a spec that a definition does not have: they are of a newer one, and
/// would be ignored.
pub fn unknown_fields(definition: &CustomResourceDefinition, spec: &Value) -> Vec<String> {
    let mut unknown = Vec::new();
    for version in &definition.spec.versions {
        let schema = version
            .schema
            .as_ref()
            .and_then(|schema| schema.open_api_v3_schema.as_ref());
        if let Some(schema) = schema.and_then(|schema| schema.properties.as_ref()?.get("spec")) {
            compare("spec", schema, spec, &mut unknown);
        }
    }
    unknown
}

fn compare(path: &str, schema: &JSONSchemaProps, value: &Value, unknown: &mut Vec<String>) {
    if schema.x_kubernetes_preserve_unknown_fields == Some(true) {
        return;
    }
    let values = match &schema.additional_properties {
        Some(JSONSchemaPropsOrBool::Schema(values)) => Some(values),
        _ => None,
    };
    for (key, value) in value.as_object().into_iter().flatten() {
        let path = format!("{path}.{key}");
        match (
            schema
                .properties
                .as_ref()
                .and_then(|fields| fields.get(key)),
            values,
        ) {
            (Some(field), _) => compare(&path, field, value, unknown),
            (None, Some(values)) => compare(&path, values, value, unknown),
            (None, None) => unknown.push(path),
        }
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items {
        for (index, value) in value.as_array().into_iter().flatten().enumerate() {
            compare(&format!("{path}[{index}]"), items, value, unknown);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::definitions::definitions;
    use serde_json::json;

    /// Paths of what has no bound, and how many texts, lists and maps there are.
    fn unbounded(path: &str, schema: &Value, found: &mut Vec<String>) -> usize {
        let kind = schema["type"].as_str().unwrap_or_default();
        let number = schema["x-kubernetes-int-or-string"] == true;
        let (map, list) = (schema["additionalProperties"].is_object(), kind == "array");
        let scalar = schema["x-kubernetes-preserve-unknown-fields"] == true
            && (&schema["maxItems"], &schema["maxProperties"]) == (&json!(0), &json!(0));
        // A field of a later version: whatever is in it is refused.
        let refused = schema["x-kubernetes-validations"][0]["rule"] == "false";
        let text = number || scalar || (kind == "string" && schema["enum"].is_null());
        let keyed = || {
            schema["x-kubernetes-validations"]
                .as_array()
                .is_some_and(|rules| rules.iter().any(|rule| rule["rule"] == KEY_RULE))
        };
        let free = (text && schema["maxLength"].is_null())
            || (list && schema["maxItems"].is_null())
            || (map
                && (schema["maxProperties"].is_null()
                    || !(keyed() || schema["additionalProperties"]["type"].is_null())))
            || (schema["x-kubernetes-preserve-unknown-fields"] == true && !(scalar || refused))
            || !(number
                || scalar
                || ["object", "array", "string", "integer", "number", "boolean"].contains(&kind));
        if free {
            found.push(path.to_owned());
        }
        let mut count = usize::from(text || list || map);
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            count += unbounded(&format!("{path}.{name}"), field, found);
        }
        for inner in ["items", "additionalProperties"] {
            if schema[inner].is_object() {
                count += unbounded(&format!("{path}.{inner}"), &schema[inner], found);
            }
        }
        count
    }

    #[test]
    fn every_text_list_and_map_of_every_spec_is_bounded() {
        for definition in definitions() {
            let kind = definition.spec.names.kind.clone();
            let mut found = Vec::new();
            let definition = serde_json::to_value(definition).unwrap();
            for version in definition["spec"]["versions"].as_array().unwrap() {
                let spec = &version["schema"]["openAPIV3Schema"]["properties"]["spec"];
                assert!(
                    unbounded("spec", spec, &mut found) > 4,
                    "{kind}: the walk finds its texts, lists and maps"
                );
            }
            assert!(found.is_empty(), "{kind}: no bound for {found:?}");
        }
    }

    #[test]
    fn a_bound_of_its_own_stays() {
        let topics = definitions()
            .into_iter()
            .find(|one| one.spec.names.kind == "Topic")
            .unwrap();
        let topics = serde_json::to_value(topics).unwrap();
        let spec = &topics["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
            ["properties"];
        assert_eq!(spec["topicName"]["maxLength"], 249);
        assert_eq!(spec["config"]["maxProperties"], 200);
    }

    #[test]
    fn fields_of_a_newer_definition_are_told_by_their_path() {
        let clusters = definitions()
            .into_iter()
            .find(|one| one.spec.names.kind == "KafkaCluster")
            .unwrap();
        let pool = json!({"name": "b", "new": 1, "config": {"a": "b"}, "resources": {"limits": {"cpu": 1}}});
        let spec = json!({"version": "4.3.1", "nodePools": [pool], "mirror": {}});
        assert_eq!(
            unknown_fields(&clusters, &spec),
            ["spec.mirror", "spec.nodePools[0].new"]
        );
    }

    #[test]
    fn a_block_type_that_is_not_served_is_refused_whole_and_not_by_its_fields() {
        let pipelines = definitions()
            .into_iter()
            .find(|one| one.spec.names.kind == "Pipeline")
            .unwrap();
        let block = json!({"name": "a", "window": {"size": "5m"}, "form": []});
        let spec = json!({"blocks": [block]});
        assert_eq!(unknown_fields(&pipelines, &spec), ["spec.blocks[0].form"]);
    }
}
