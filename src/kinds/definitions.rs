//! The CustomResourceDefinitions, and whether those of the API server have every field that this
//! operator knows. If they lack a field of a status, server-side apply refuses the whole status; a
//! field of a spec is dropped by the API server.

use crate::api::GROUP;
use crate::kinds::REGISTRY;
use crate::kinds::registration::Entry;
use crate::runtime::health::Health;
use http::Request;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Client;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

const VERSION: &str = "v1alpha1";
const PAUSE: Duration = Duration::from_secs(5);
/// Number of missing fields that a message names, because there may be hundreds.
const NAMED_MAX: usize = 5;

/// Every kind's CustomResourceDefinition.
pub fn definitions() -> Vec<CustomResourceDefinition> {
    REGISTRY.iter().map(Entry::definition).collect()
}

/// Waits, not ready, until the definitions are as new as this operator; an older operator goes on
/// meanwhile. If the API server cannot be asked, nothing waits for it.
pub async fn wait(client: &Client, health: &Health) {
    loop {
        let lacking = match lacking(client).await {
            Ok(lacking) => lacking,
            Err(error) => {
                tracing::warn!(
                    %error,
                    "cannot read the schemas of {GROUP}; the CustomResourceDefinitions are taken \
                     to be new enough"
                );
                Vec::new()
            }
        };
        if lacking.is_empty() {
            return health.waits_for(None);
        }
        let named = lacking[..lacking.len().min(NAMED_MAX)].join(", ");
        let more = if lacking.len() > NAMED_MAX {
            format!(" and {} more", lacking.len() - NAMED_MAX)
        } else {
            String::new()
        };
        let why = format!(
            "the CustomResourceDefinitions are older than this operator: they lack {named}{more}; \
             upgrade freehold-crds first"
        );
        tracing::error!("{why}");
        health.waits_for(Some(why));
        tokio::time::sleep(PAUSE).await;
    }
}

/// Fields that the API server's schemas lack (`/openapi/v3`, which every account may read).
///
/// # Errors
/// What the API server says.
pub async fn lacking(client: &Client) -> Result<Vec<String>, kube::Error> {
    let (mut lacking, mut published) = (Vec::new(), BTreeMap::new());
    for definition in definitions() {
        let kind = definition.spec.names.kind.as_str();
        for version in definition.spec.versions {
            if !published.contains_key(&version.name) {
                published.insert(version.name.clone(), schemas(client, &version.name).await?);
            }
            let is_of_kind = |schema: &&Value| {
                let of = schema["x-kubernetes-group-version-kind"].as_array();
                of.into_iter().flatten().any(|one| {
                    one["group"] == GROUP && one["version"] == *version.name && one["kind"] == kind
                })
            };
            let theirs = published[&version.name]
                .as_object()
                .and_then(|all| all.values().find(is_of_kind));
            let ours = version
                .schema
                .and_then(|schema| serde_json::to_value(schema.open_api_v3_schema?).ok());
            match (ours, theirs) {
                (Some(ours), Some(theirs)) => compare(kind, &ours, theirs, &mut lacking),
                _ => lacking.push(kind.to_owned()),
            }
        }
    }
    Ok(lacking)
}

/// The schemas of a version of the group, by name; null where the API server has none.
async fn schemas(client: &Client, version: &str) -> Result<Value, kube::Error> {
    let request = Request::get(format!("/openapi/v3/apis/{GROUP}/{version}"))
        .body(Vec::new())
        .map_err(kube::Error::HttpError)?;
    match client.request::<Value>(request).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Value::Null),
        answer => Ok(answer?["components"]["schemas"].take()),
    }
}

/// The schemas of the version that this operator speaks.
///
/// # Errors
/// No answer of the API server.
pub async fn published(client: &Client) -> Result<Value, kube::Error> {
    schemas(client, VERSION).await
}

/// Whether a field of a spec, by its path (`spec.a.b[0].c`), has the default of the API server's
/// schema: the field itself, or one that holds it.
pub fn is_default(schemas: &Value, kind: &str, path: &str, spec: &Value) -> bool {
    let is_of_kind = |schema: &&Value| {
        let of = schema["x-kubernetes-group-version-kind"].as_array();
        of.into_iter()
            .flatten()
            .any(|one| one["group"] == GROUP && one["kind"] == kind)
    };
    let Some(schema) = schemas
        .as_object()
        .and_then(|all| all.values().find(is_of_kind))
    else {
        return false;
    };
    let (mut schema, mut value) = (&schema["properties"]["spec"], spec);
    for part in path.split('.').skip(1) {
        let (name, indices) = part.split_once('[').map_or((part, ""), |(name, indices)| {
            (name, indices.trim_end_matches(']'))
        });
        let known = &schema["properties"][name];
        (schema, value) = (
            if known.is_null() {
                &schema["additionalProperties"]
            } else {
                known
            },
            &value[name],
        );
        if schema["default"] == *value && !value.is_null() {
            return true;
        }
        for index in indices
            .split("][")
            .filter_map(|index| index.parse::<usize>().ok())
        {
            (schema, value) = (&schema["items"], &value[index]);
        }
    }
    false
}

/// Adds the fields, as paths, that their schema lacks.
fn compare(path: &str, ours: &Value, theirs: &Value, lacking: &mut Vec<String>) {
    for (name, ours) in ours["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        match theirs["properties"].get(name) {
            Some(theirs) => compare(&path, ours, theirs, lacking),
            None => lacking.push(path),
        }
    }
    for inner in ["items", "additionalProperties"] {
        if ours[inner].is_object() {
            compare(path, &ours[inner], &theirs[inner], lacking);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_that_a_schema_lacks_are_listed_and_further_ones_are_ignored() {
        let leaf = json!({"type": "string"});
        let ours = json!({"properties": {
            "spec": {"properties": {"pools": {"items": {"properties": {"a": leaf, "new": leaf}}}}},
            "status": {"properties": {"plan": {"items": leaf}, "by": {"additionalProperties": {"properties": {"x": leaf}}}}}}});
        let theirs = json!({"properties": {
            "metadata": {}, "spec": {"properties": {"pools": {"items": {"properties": {"a": leaf, "old": leaf}}}}},
            "status": {"properties": {"by": {"additionalProperties": {}}}}}});
        let mut lacking = Vec::new();
        compare("Kind", &ours, &theirs, &mut lacking);
        assert_eq!(
            lacking,
            [
                "Kind.spec.pools.new",
                "Kind.status.by.x",
                "Kind.status.plan"
            ]
        );
        lacking.clear();
        compare("Kind", &ours, &ours, &mut lacking);
        assert!(lacking.is_empty());
    }
}
