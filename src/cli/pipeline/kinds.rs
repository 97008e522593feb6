//! The kinds of documents that these commands read, each with its schema: those of the registry
//! have that of their CustomResourceDefinition, a PipelineTest that of its type.

use crate::api::GROUP;
use crate::api::invalid::Invalid;
use crate::cli::operator::MainError;
use crate::cli::pipeline::schema::{self, problems, prune};
use crate::kinds::definitions::definitions;
use freehold_pipeline_blocks::testing::TestSpec;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use schemars::generate::SchemaSettings;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A kind of the command line, which the API server does not know.
const TEST: &str = "PipelineTest";

/// Schemas by kind.
pub struct Kinds {
    schemas: BTreeMap<String, Value>,
    version: String,
}

impl Kinds {
    /// The schemas of all kinds.
    ///
    /// # Errors
    /// A definition cannot be written as JSON.
    pub fn new() -> Result<Self, MainError> {
        let (mut schemas, mut version) = (BTreeMap::new(), String::new());
        for definition in definitions() {
            version = served(&definition);
            let kind = definition.spec.names.kind.clone();
            let first = definition.spec.versions.into_iter().next();
            let schema = first.and_then(|version| version.schema);
            let schema = schema.and_then(|schema| schema.open_api_v3_schema);
            schemas.insert(kind, whole(serde_json::to_value(schema)?));
        }
        let settings =
            SchemaSettings::openapi3().with(|settings| settings.inline_subschemas = true);
        let spec = settings.into_generator().into_root_schema_for::<TestSpec>();
        let object = json!({"type": "object", "required": ["spec"], "properties": {"spec": spec}});
        schemas.insert(TEST.to_owned(), whole(object));
        Ok(Self {
            schemas,
            version: format!("{GROUP}/{version}"),
        })
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.schemas.keys().map(String::as_str)
    }

    /// The `apiVersion` of all of them.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Reads an object that the API server would take.
    ///
    /// # Errors
    /// Every field that is wrong.
    pub fn read<T: DeserializeOwned>(&self, kind: &str, object: Value) -> Result<T, Vec<Invalid>> {
        typed(self.checked(kind, object)?)
    }

    /// Reads a PipelineTest.
    ///
    /// # Errors
    /// Every field that is wrong.
    pub fn test(&self, object: Value) -> Result<TestSpec, Vec<Invalid>> {
        let mut object = self.checked(TEST, object)?;
        typed(object["spec"].take())
    }

    fn checked(&self, kind: &str, mut object: Value) -> Result<Value, Vec<Invalid>> {
        let schema = &self.schemas[kind];
        let mut found = Vec::new();
        if object["apiVersion"] != self.version {
            let why = format!("{}; give {}", object["apiVersion"], self.version);
            found.push(Invalid::new("apiVersion", why));
        }
        found.extend(name(schema, &object["metadata"]["name"]));
        found.extend(problems("", schema, &object));
        if !found.is_empty() {
            return Err(found);
        }
        prune(schema, &mut object);
        Ok(object)
    }
}

fn served(definition: &CustomResourceDefinition) -> String {
    let mut versions = definition.spec.versions.iter();
    versions
        .next()
        .map(|one| one.name.clone())
        .unwrap_or_default()
}

/// The schema with the fields that every object has.
fn whole(mut schema: Value) -> Value {
    let any = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    schema["properties"]["metadata"] = any;
    for field in ["apiVersion", "kind"] {
        schema["properties"][field] = json!({"type": "string"});
    }
    schema
}

/// What is wrong with the name of an object, by the rules of its definition that are about it.
fn name(schema: &Value, name: &Value) -> Option<Invalid> {
    let Some(name) = name.as_str().filter(|name| !name.is_empty()) else {
        return Some(Invalid::new("metadata.name", "it is missing; give a text"));
    };
    let rules = schema["x-kubernetes-validations"].as_array();
    let broken = rules.into_iter().flatten().find(|rule| {
        let bounds = rule["rule"].as_str().and_then(name_bounds);
        bounds.is_some_and(|(pattern, most)| {
            name.chars().count() > most || schema::pattern(pattern, name).is_some()
        })
    })?;
    let message = broken["message"].as_str().unwrap_or_default();
    let why = message.strip_prefix("metadata.name: ").unwrap_or(message);
    Some(Invalid::new("metadata.name", format!("{name:?}: {why}")))
}

/// Pattern and length of names, from a rule of the form that Freehold's definitions have.
fn name_bounds(rule: &str) -> Option<(&str, usize)> {
    let rest = rule.strip_prefix("self.metadata.name.matches('")?;
    let (pattern, rest) = rest.split_once("') && size(self.metadata.name) <= ")?;
    Some((pattern, rest.parse().ok()?))
}

fn typed<T: DeserializeOwned>(value: Value) -> Result<T, Vec<Invalid>> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        vec![Invalid::new(
            error.path().to_string(),
            error.inner().to_string(),
        )]
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::pipeline::Pipeline;

    fn object(metadata: &Value, spec: &Value) -> Value {
        json!({"apiVersion": "freehold.dev/v1alpha1", "kind": "Pipeline",
            "metadata": metadata, "spec": spec})
    }

    fn refused(object: Value) -> String {
        let found = Kinds::new().unwrap().read::<Pipeline>("Pipeline", object);
        let found = found.unwrap_err();
        let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
        lines.join("\n")
    }

    #[test]
    fn a_pipeline_that_the_api_server_refuses_is_refused_in_words() {
        let source = json!({"name": "in", "source": {"kafka": {"topic": "a"}}});
        let spec = json!({"clusterRef": {"name": "demo"}, "replicas": 101,
            "blocks": [source, {"name": "out", "form": ["in"],
                "sink": {"kafka": {"topic": "payments eur"}}}]});
        let text = refused(object(&json!({"name": "Payments_1"}), &spec));
        for line in [
            "metadata.name: \"Payments_1\": lower-case letters, digits and hyphens",
            "spec.replicas: 101; at most 100",
            "spec.blocks[1].form: there is no such field; did you mean from?",
            "spec.blocks[1].sink.kafka.topic: \"payments eur\" does not match ^[a-zA-Z0-9._-]+$",
        ] {
            assert!(text.contains(line), "{line} is not in:\n{text}");
        }
        let mut other = object(&json!({"name": "p".repeat(41)}), &json!({}));
        other["apiVersion"] = "freehold.dev/v1".into();
        let text = refused(other);
        for line in [
            "apiVersion: \"freehold.dev/v1\"; give freehold.dev/v1alpha1",
            "at most 40",
            "spec.blocks: it is missing; give a list: […]",
            "spec.clusterRef: it is missing; give an object: {name: …}",
        ] {
            assert!(text.contains(line), "{line} is not in:\n{text}");
        }
    }

    #[test]
    fn a_wrong_type_is_said_without_the_names_of_types_and_with_the_whole_path() {
        let block = |block: Value| json!({"clusterRef": {"name": "demo"}, "blocks": [block]});
        let alert = json!({"when": "true", "onError": "fail", "to": {"topic": "t"}});
        for (spec, says) in [
            (
                block(json!({"name": "a", "source": {"kafka": {"topicRef": "eur"}}})),
                "spec.blocks[0].source.kafka.topicRef: give an object: {name: eur}",
            ),
            (
                block(json!({"name": "a", "alert": {"when": "true", "to": "late"}})),
                "spec.blocks[0].alert.to: give an object: {topic: late}",
            ),
            (
                block(json!({"name": "a", "from": "in"})),
                "spec.blocks[0].from: give a list: [in]",
            ),
            (
                block(json!({"name": "a", "alert": alert})),
                "spec.blocks[0].alert.onError: there is no \"fail\"; did you mean Fail?",
            ),
            (
                block(json!({"name": "a", "filter": {"when": true}})),
                "spec.blocks[0].filter.when: give a text, in quotes: \"true\"",
            ),
            (
                block(json!({"name": "a", "filter": {"when": null}})),
                "spec.blocks[0].filter.when: it is empty; give a text. A text that begins with !",
            ),
            (
                json!({"clusterRef": "demo", "blocks": [{"name": "a"}]}),
                "spec.clusterRef: give an object: {name: demo}",
            ),
        ] {
            let text = refused(object(&json!({"name": "a"}), &spec));
            assert!(text.starts_with(says) && !text.contains('\n'), "{text}");
        }
    }

    #[test]
    fn a_test_is_checked_by_its_type_and_may_expect_a_record_without_a_value() {
        let kinds = Kinds::new().unwrap();
        let test = |case: Value| {
            let spec = json!({"pipeline": "p", "cases": [case]});
            let object = json!({"apiVersion": "freehold.dev/v1alpha1", "kind": TEST,
                "metadata": {"name": "t"}, "spec": spec});
            kinds.test(object)
        };
        for (case, says) in [
            (
                json!({"name": "a", "inputs": [], "expect": {"other": [{"vlue": 1}]}}),
                "spec.cases[0].expect.other[0].vlue: there is no such field; did you mean value?",
            ),
            (
                json!({"name": "a", "inputs": [], "expect": {"other": [{"body": 1}]}}),
                "spec.cases[0].expect.other[0].body: there is no such field; there are: headers, \
                 key, text, timestamp, value",
            ),
            (
                json!({"name": "a", "inputs": [{"source": "in", "key": 1}]}),
                "spec.cases[0].inputs[0].key: give a text, in quotes: \"1\"",
            ),
            (
                json!({"name": "a", "inputs": [{"soruce": "in", "source": "in"}]}),
                "spec.cases[0].inputs[0].soruce: there is no such field; there are:",
            ),
        ] {
            let found = test(case).unwrap_err();
            assert!(found[0].to_string().starts_with(says), "{found:?}");
        }
        let spec = test(json!({"name": "a", "inputs": [], "expect": {"other": [{"value": null}]}}));
        let expected = &spec.unwrap().cases[0].expect["other"][0];
        assert_eq!(expected.value, Some(Value::Null));
    }
}
