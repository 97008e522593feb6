//! The values of the charts are in three places: values.yaml, values.schema.json and the templates.
//! This test compares them. (tests/e2e/tests/e2e/delivery.rs renders the templates with Helm
//! itself.)
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/freehold")
}

fn read(name: &str) -> String {
    fs::read_to_string(chart().join(name)).unwrap()
}

fn values() -> Value {
    serde_saphyr::from_str(&read("values.yaml")).unwrap()
}

fn schema() -> Value {
    serde_json::from_str(&read("values.schema.json")).unwrap()
}

/// Values of Helm itself, which no chart lists in values.yaml.
const OF_HELM: &str = "global";

/// Finds keys that only one side has, as paths, as deep as the schema describes the keys.
fn compare(path: &str, values: &Map<String, Value>, schema: &Value, wrong: &mut Vec<String>) {
    let Some(properties) = schema["properties"].as_object() else {
        return;
    };
    assert_eq!(
        schema["additionalProperties"], false,
        "{path}: a mistyped key is refused"
    );
    let keys: BTreeSet<&String> = values.keys().chain(properties.keys()).collect();
    for key in keys.into_iter().filter(|key| *key != OF_HELM) {
        let path = format!("{path}.{key}");
        match (values.get(key), properties.get(key)) {
            (None, _) => wrong.push(format!("values.yaml lacks {path}")),
            (_, None) => wrong.push(format!("values.schema.json lacks {path}")),
            (Some(Value::Object(values)), Some(schema)) => compare(&path, values, schema, wrong),
            _ => {}
        }
    }
}

#[test]
fn values_and_their_schema_have_the_same_keys() {
    let (values, schema) = (values(), schema());
    let mut wrong = Vec::new();
    compare("", values.as_object().unwrap(), &schema, &mut wrong);
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn templates(folder: &Path, out: &mut Vec<(PathBuf, String)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            templates(&path, out);
        } else {
            out.push((path.clone(), fs::read_to_string(&path).unwrap()));
        }
    }
}

#[test]
fn templates_use_every_value_and_no_other() {
    let mut all = Vec::new();
    templates(&chart().join("templates"), &mut all);
    let (values, mut used) = (values(), BTreeSet::new());
    for (path, text) in &all {
        for rest in text.split(".Values.").skip(1) {
            let name: String = rest
                .chars()
                .take_while(|letter| letter.is_ascii_alphanumeric() || *letter == '.')
                .collect();
            let name = name.trim_end_matches('.');
            let mut value = &values;
            for key in name.split('.') {
                value = value
                    .get(key)
                    .unwrap_or_else(|| panic!("{}: values.yaml has no {name}", path.display()));
            }
            used.insert(name.split('.').next().unwrap().to_owned());
        }
    }
    for key in values.as_object().unwrap().keys() {
        assert!(used.contains(key), "no template uses {key}");
    }
}

#[test]
fn example_values_are_of_the_schema_s_keys() {
    let mut seen = 0;
    for entry in fs::read_dir(chart().join("ci")).unwrap() {
        let path = entry.unwrap().path();
        let values: Value = serde_saphyr::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        for key in values.as_object().unwrap().keys() {
            assert!(
                schema()["properties"][key].is_object(),
                "{}: {key}",
                path.display()
            );
        }
        seen += 1;
    }
    assert!(seen >= 4, "only {seen} examples");
}
