//! The page of a kind in `docs/reference/`: every field of its CustomResourceDefinition, from the
//! descriptions and bounds in the schema. Pure.

use crate::reference::pages::cell;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Fields of an object that is listed once more are not listed again if there are so many.
const LISTED_AGAIN_MAX: usize = 3;

/// A field as the page shows it.
#[derive(Debug, PartialEq, Eq)]
struct Field {
    path: String,
    kind: String,
    /// What holds if nothing is said; `required` if it must be set.
    default: String,
    what: String,
    /// How it may change later; empty: freely.
    change: String,
}

/// The page.
pub fn page(definition: &CustomResourceDefinition) -> String {
    let definition = serde_json::to_value(definition).unwrap_or_default();
    let (group, names) = (&definition["spec"]["group"], &definition["spec"]["names"]);
    let (group, kind) = (words(group), words(&names["kind"]));
    let mut text = format!("# {kind}\n");
    let versions = definition["spec"]["versions"].as_array();
    for version in versions.into_iter().flatten() {
        let schema = &version["schema"]["openAPIV3Schema"];
        text += &format!(
            "\n`apiVersion: {group}/{}`, `kind: {kind}`. {}\n\n",
            words(&version["name"]),
            words(&schema["description"])
        );
        text += "Made from the CustomResourceDefinition by `cargo xtask generate`. `[]` stands \
                 for an item of a list,\n`.*` for a value of a map. A field without a text is \
                 Kubernetes' own, and means what it means there.\nThe last column says how a \
                 field may change once it is set; empty: freely.\n";
        for part in ["spec", "status"] {
            let mut fields = Vec::new();
            let mut seen = BTreeMap::new();
            list(part, &schema["properties"][part], &mut seen, &mut fields);
            text += &table(part, &fields);
        }
        text += &columns(version);
    }
    text
}

fn table(part: &str, fields: &[Field]) -> String {
    if fields.is_empty() {
        return String::new();
    }
    let is_spec = part == "spec";
    let mut text = format!("\n## {part}\n\n");
    text += if is_spec {
        "| field | type | default | what | change |\n| --- | --- | --- | --- | --- |\n"
    } else {
        "The operator alone writes it.\n\n| field | type | what |\n| --- | --- | --- |\n"
    };
    for field in fields {
        let (path, kind, what) = (&field.path, &field.kind, cell(&field.what));
        text += &if is_spec {
            let (default, change) = (&field.default, cell(&field.change));
            format!("| `{path}` | {kind} | {default} | {what} | {change} |\n")
        } else {
            format!("| `{path}` | {kind} | {what} |\n")
        };
    }
    text
}

/// The columns that `kubectl get` prints.
fn columns(version: &Value) -> String {
    let columns = version["additionalPrinterColumns"].as_array();
    let Some(columns) = columns.filter(|columns| !columns.is_empty()) else {
        return String::new();
    };
    let mut text = String::from(
        "\n## Columns\n\nWhat `kubectl get` prints. Those with a priority are printed with \
         `--output wide` alone.\n\n| column | field | priority |\n| --- | --- | --- |\n",
    );
    for column in columns {
        text += &format!(
            "| {} | `{}` | {} |\n",
            words(&column["name"]),
            cell(words(&column["jsonPath"]).trim_start_matches('.')),
            column["priority"]
                .as_i64()
                .map(|priority| priority.to_string())
                .unwrap_or_default()
        );
    }
    text
}

/// Adds the fields below a path. `seen`: objects that are listed already, by their fields.
fn list(path: &str, schema: &Value, seen: &mut BTreeMap<String, String>, out: &mut Vec<Field>) {
    let Some(fields) = schema["properties"].as_object() else {
        return;
    };
    let required = schema["required"].as_array();
    let is_required =
        |name: &str| required.is_some_and(|all| all.iter().any(|one| one.as_str() == Some(name)));
    for (name, field) in fields {
        let at = format!("{path}.{name}");
        out.push(Field {
            kind: kind(field),
            default: default(field, is_required(name)),
            what: words(&field["description"]).to_owned(),
            change: String::new(),
            path: at.clone(),
        });
        below(&at, field, seen, out);
    }
    for (target, change) in changes(path, schema) {
        if let Some(field) = out.iter_mut().find(|field| field.path == target) {
            field.change = [field.change.as_str(), &change]
                .into_iter()
                .filter(|part| !part.is_empty())
                .collect::<Vec<_>>()
                .join("; ");
        }
    }
}

/// Adds the fields of what a field holds: its own, its items', its values'.
fn below(path: &str, field: &Value, seen: &mut BTreeMap<String, String>, out: &mut Vec<Field>) {
    for (ending, inner) in [
        ("", field),
        ("[]", &field["items"]),
        (".*", &field["additionalProperties"]),
    ] {
        let Some(properties) = inner["properties"].as_object() else {
            continue;
        };
        let at = format!("{path}{ending}");
        let key = Value::Object(properties.clone()).to_string();
        if let (Some(other), Some(last)) = (seen.get(&key), out.last_mut()) {
            last.what += &format!(" Its fields are those of `{other}`.");
            continue;
        }
        if properties.len() > LISTED_AGAIN_MAX {
            seen.insert(key, at.clone());
        }
        if has_description(properties) {
            list(&at, inner, seen, out);
        } else {
            // An object of Kubernetes: its fields by name alone.
            let mut own = Vec::new();
            list(&at, inner, &mut BTreeMap::new(), &mut own);
            let parts = at.matches('.').count() + 1;
            own.retain(|field| field.path.matches('.').count() == parts);
            out.extend(own);
        }
    }
}

/// Whether any of these fields, or any below them, has a description.
fn has_description(fields: &Map<String, Value>) -> bool {
    fields.values().any(|field| {
        let inner = [field, &field["items"], &field["additionalProperties"]];
        !field["description"].is_null()
            || inner
                .iter()
                .filter_map(|inner| inner["properties"].as_object())
                .any(has_description)
    })
}

/// The rules of a schema about changes, each with the path of the field that it is about: their
/// messages begin with that field.
fn changes(path: &str, schema: &Value) -> Vec<(String, String)> {
    let rules = schema["x-kubernetes-validations"].as_array();
    rules
        .into_iter()
        .flatten()
        .filter(|rule| words(&rule["rule"]).contains("oldSelf"))
        .filter_map(|rule| words(&rule["message"]).split_once(": "))
        .map(|(field, change)| (format!("{path}.{field}"), change.to_owned()))
        .collect()
}

fn words(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The type with its bounds, or the values that there are.
fn kind(field: &Value) -> String {
    if let Some(values) = field["enum"].as_array() {
        let values: Vec<String> = values
            .iter()
            .filter(|value| !value.is_null())
            .map(|value| format!("`{}`", words(value)))
            .collect();
        return values.join(", ");
    }
    if field["x-kubernetes-int-or-string"] == true {
        return "integer or string".to_owned();
    }
    match words(&field["type"]) {
        "array" => {
            let items = kind(&field["items"]);
            format!("list of {items}")
        }
        "object" if field["additionalProperties"].is_object() => {
            let values = kind(&field["additionalProperties"]);
            format!("map of {values}")
        }
        number @ ("integer" | "number") => format!("{number}{}", range(field)),
        "" => "any".to_owned(),
        other => other.to_owned(),
    }
}

fn range(field: &Value) -> String {
    let bound = |key: &str| field[key].as_f64().map(|bound| bound.to_string());
    match (bound("minimum"), bound("maximum")) {
        (Some(min), Some(max)) => format!(", {min} to {max}"),
        (Some(min), None) => format!(", at least {min}"),
        (None, Some(max)) => format!(", at most {max}"),
        (None, None) => String::new(),
    }
}

fn default(field: &Value, is_required: bool) -> String {
    match &field["default"] {
        Value::Null if is_required => "required".to_owned(),
        Value::Null => String::new(),
        // The fields say their own.
        Value::Object(_) => String::new(),
        Value::Array(items) if items.is_empty() => String::new(),
        Value::String(text) => format!("`{text}`"),
        other => format!("`{other}`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::definitions::definitions;
    use serde_json::json;

    fn fields(schema: &Value) -> Vec<Field> {
        let mut out = Vec::new();
        list("spec", schema, &mut BTreeMap::new(), &mut out);
        out
    }

    #[test]
    fn a_field_has_its_type_bounds_default_and_how_it_may_change() {
        let schema = json!({
            "required": ["name", "partitions"],
            "properties": {
                "name": {"type": "string", "description": "Its name."},
                "partitions": {"type": "integer", "minimum": 1.0, "maximum": 9.0, "default": 3},
                "policy": {"enum": ["Keep", "Drop", null], "default": "Keep"},
                "pools": {"type": "array", "items": {"type": "object", "properties": {
                    "size": {"description": "a | b\nc"}}}},
            },
            "x-kubernetes-validations": [
                {"rule": "self.name == oldSelf.name", "message": "name: immutable; make another"},
                {"rule": "self.partitions > 0", "message": "partitions: some"},
            ],
        });
        let all = fields(&schema);
        let lines: Vec<String> = all
            .iter()
            .map(|field| {
                let Field {
                    path,
                    kind,
                    default,
                    what,
                    change,
                } = field;
                format!("{path}/{kind}/{default}/{}/{change}", cell(what))
            })
            .collect();
        assert_eq!(
            lines,
            [
                "spec.name/string/required/Its name./immutable; make another",
                "spec.partitions/integer, 1 to 9/`3`//",
                "spec.policy/`Keep`, `Drop`/`Keep`//",
                "spec.pools/list of object////",
                "spec.pools[].size/any//a \\| b c/",
            ]
            .map(|line| line.replace("object////", "object///"))
        );
    }

    #[test]
    fn fields_of_kubernetes_are_named_and_not_what_is_below_them() {
        let inner = json!({"a": {"properties": {"deep": {"type": "string"}}}, "b": {}});
        let schema = json!({"properties": {"pod": {"description": "p", "properties": inner}}});
        let paths: Vec<String> = fields(&schema)
            .into_iter()
            .map(|field| field.path)
            .collect();
        assert_eq!(paths, ["spec.pod", "spec.pod.a", "spec.pod.b"]);
    }

    /// A rule about changes whose field is not found would be missing on the page.
    #[test]
    fn every_rule_about_changes_is_on_its_field() {
        fn rules(schema: &Value) -> usize {
            let own = changes("", schema).len();
            let mut inner = vec![&schema["items"], &schema["additionalProperties"]];
            inner.extend(
                schema["properties"]
                    .as_object()
                    .into_iter()
                    .flat_map(Map::values),
            );
            let inner = inner.into_iter().filter(|inner| inner.is_object());
            own + inner.map(rules).sum::<usize>()
        }
        let mut all = 0;
        for definition in definitions() {
            let page = page(&definition);
            let value = serde_json::to_value(&definition).unwrap();
            for version in value["spec"]["versions"].as_array().unwrap() {
                let spec = &version["schema"]["openAPIV3Schema"]["properties"]["spec"];
                let on_fields: usize = fields(spec)
                    .iter()
                    .map(|field| usize::from(!field.change.is_empty()))
                    .sum();
                assert!(on_fields > 0);
                all += rules(spec);
                check(spec, "spec", &page);
            }
        }
        assert!(all > 8, "only {all} rules about changes");
    }

    fn check(schema: &Value, path: &str, page: &str) {
        for (field, change) in changes(path, schema) {
            let row = page
                .lines()
                .find(|line| line.starts_with(&format!("| `{field}` |")));
            assert!(
                row.is_some_and(|row| row.contains(&cell(&change))),
                "{field}: {change}: {row:?}"
            );
        }
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            check(field, &format!("{path}.{name}"), page);
            check(&field["items"], &format!("{path}.{name}[]"), page);
        }
    }
}
