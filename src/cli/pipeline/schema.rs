//! What is wrong with a document by its schema, in words and with the whole path: what the API
//! server would refuse, before anybody reads the document into types. Knows the keywords that the
//! definitions of Freehold's kinds use. Pure.

use crate::api::invalid::Invalid;
use crate::kubernetes::quantity;
use freehold_pipeline::duration::{self, Duration};
use freehold_pipeline::nearest::{instead, nearest};
use regex::Regex;
use serde_json::{Map, Value};

/// Letters of a wrong value that are shown.
const SHOWN_CHARS_MAX: usize = 40;

/// Everything that is wrong with a value.
pub fn problems(path: &str, schema: &Value, value: &Value) -> Vec<Invalid> {
    let mut found = Vec::new();
    walk(path, schema, value, &mut found);
    found
}

/// Removes what the API server removes: nulls of fields that may be left out.
pub fn prune(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|key, value| {
                let field = field(schema, key).unwrap_or(&Value::Null);
                let is_typed = field["type"].is_string() && field["nullable"] != true;
                !(value.is_null() && is_typed && !is_required(schema, key))
            });
            for (key, value) in fields {
                prune(field(schema, key).unwrap_or(&Value::Null), value);
            }
        }
        Value::Array(items) => items
            .iter_mut()
            .for_each(|item| prune(&schema["items"], item)),
        _ => {}
    }
}

/// The schema of a field of an object, or of a value of a map.
fn field<'a>(schema: &'a Value, key: &str) -> Option<&'a Value> {
    let values = schema.get("additionalProperties");
    let values = values.filter(|values| values.is_object());
    schema["properties"].get(key).or(values)
}

fn is_required(schema: &Value, key: &str) -> bool {
    let required = schema["required"].as_array();
    required.is_some_and(|required| required.iter().any(|name| name == key))
}

fn names(schema: &Value) -> impl Iterator<Item = &str> {
    let fields = schema["properties"].as_object().into_iter();
    fields.flat_map(Map::keys).map(String::as_str)
}

fn walk(path: &str, schema: &Value, value: &Value, found: &mut Vec<Invalid>) {
    let is_null = value.is_null() && schema["nullable"] == true;
    if is_null || schema["x-kubernetes-preserve-unknown-fields"] == true {
        return;
    }
    if let Some(why) = wrong_type(schema, value).or_else(|| out_of_bounds(schema, value)) {
        found.push(Invalid::new(path, why));
        return;
    }
    match value {
        Value::Object(fields) => object(path, schema, fields, found),
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                walk(&format!("{path}[{index}]"), &schema["items"], item, found);
            }
        }
        _ => {}
    }
}

fn object(path: &str, schema: &Value, fields: &Map<String, Value>, found: &mut Vec<Invalid>) {
    let below = |key: &str| match path {
        "" => key.to_owned(),
        path => format!("{path}.{key}"),
    };
    // A required field with a slip in its name is one error, not two.
    let mut meant = Vec::new();
    for (key, value) in fields {
        match field(schema, key) {
            // The API server leaves it out.
            Some(_) if value.is_null() && !is_required(schema, key) => {}
            Some(schema) => walk(&below(key), schema, value, found),
            None if schema["properties"].is_object() => {
                let left = names(schema).filter(|name| !fields.contains_key(*name));
                let near = nearest(key, left);
                let instead = match near {
                    Some(near) => format!("did you mean {near}?"),
                    None => format!("there are: {}", list(names(schema))),
                };
                let why = format!("there is no such field; {instead}");
                found.push(Invalid::new(below(key), why));
                meant.extend(near);
            }
            None => {}
        }
    }
    let required = schema["required"].as_array().into_iter().flatten();
    for key in required.filter_map(Value::as_str) {
        if !(fields.contains_key(key) || meant.contains(&key)) {
            let give = wanted(&schema["properties"][key], &Value::Null);
            found.push(Invalid::new(below(key), format!("it is missing; {give}")));
        }
    }
}

fn wrong_type(schema: &Value, value: &Value) -> Option<String> {
    let right = match schema["type"].as_str()? {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        _ => true,
    };
    let quotes = match schema["type"] == "string" {
        true => ". A text that begins with !, & or * needs quotes",
        false => "",
    };
    match (right, value) {
        (true, _) => None,
        (false, Value::Null) => Some(format!("it is empty; {}{quotes}", wanted(schema, value))),
        (false, _) => Some(wanted(schema, value)),
    }
}

/// What to give in the place of a value of another type.
fn wanted(schema: &Value, value: &Value) -> String {
    let shown = shown(value);
    match (schema["type"].as_str().unwrap_or_default(), value) {
        ("object", _) => format!("give an object: {}", example(schema, &shown)),
        ("array", Value::Object(_)) => "give a list: a hyphen before each item".to_owned(),
        ("array", _) => format!("give a list: [{shown}]"),
        ("string", Value::Number(_) | Value::Bool(_)) => {
            format!("give a text, in quotes: \"{shown}\"")
        }
        ("string", _) if schema["enum"].is_array() => format!("give one of {}", variants(schema)),
        ("string", _) => "give a text".to_owned(),
        ("boolean", _) => "give true or false".to_owned(),
        ("integer", _) => "give a whole number".to_owned(),
        ("number", _) => "give a number".to_owned(),
        _ => "give a value".to_owned(),
    }
}

/// An object with the field that a bare value was probably meant for: the first one that is
/// required, else the first that takes any text.
fn example(schema: &Value, shown: &str) -> String {
    let is_text = |name: &&str| {
        let field = &schema["properties"][*name];
        field["type"] == "string" && field["enum"].is_null()
    };
    let required = schema["required"][0].as_str();
    match required.or_else(|| names(schema).find(is_text)) {
        Some(name) => format!("{{{name}: {shown}}}"),
        None => {
            let all: Vec<String> = names(schema).map(|name| format!("{name}: …")).collect();
            match all.is_empty() {
                true => "{name: …}".to_owned(),
                false => format!("{{{}}}", all.join(", ")),
            }
        }
    }
}

fn shown(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(_) | Value::Bool(_) => value.to_string(),
        Value::Null | Value::Array(_) | Value::Object(_) => "…".to_owned(),
    };
    match text.chars().count() > SHOWN_CHARS_MAX || text.contains(char::is_control) {
        true => "…".to_owned(),
        false => text,
    }
}

fn variants(schema: &Value) -> String {
    let all = schema["enum"].as_array().into_iter().flatten();
    list(all.filter_map(Value::as_str))
}

fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

fn out_of_bounds(schema: &Value, value: &Value) -> Option<String> {
    match value {
        Value::String(text) => text_bounds(schema, text),
        Value::Number(number) => {
            let number = number.as_f64()?;
            let least = schema["minimum"].as_f64().filter(|least| number < *least);
            let most = schema["maximum"].as_f64().filter(|most| number > *most);
            least
                .map(|least| format!("{value}; at least {least}"))
                .or(most.map(|most| format!("{value}; at most {most}")))
        }
        Value::Array(items) => size(schema, items.len(), "Items", "items"),
        Value::Object(fields) => size(schema, fields.len(), "Properties", "fields"),
        Value::Null | Value::Bool(_) => None,
    }
}

fn text_bounds(schema: &Value, text: &str) -> Option<String> {
    if let Some(known) = schema["enum"].as_array() {
        let known: Vec<&str> = known.iter().filter_map(Value::as_str).collect();
        let is_known = known.contains(&text);
        return (!is_known).then(|| format!("there is no {text:?}; {}", instead(text, known)));
    }
    let wrong = size(schema, text.chars().count(), "Length", "characters");
    wrong.or_else(|| pattern(schema["pattern"].as_str()?, text))
}

/// Why a text does not match a pattern.
pub fn pattern(pattern: &str, text: &str) -> Option<String> {
    let matches = Regex::new(pattern).is_ok_and(|regex| regex.is_match(text));
    match (matches, pattern) {
        (true, _) => None,
        (false, duration::PATTERN) => text.parse::<Duration>().err(),
        (false, quantity::PATTERN) => {
            let why = "is not a quantity such as 500m, 2 or 256Mi";
            Some(format!("{text:?} {why}"))
        }
        (false, _) => Some(format!("{text:?} does not match {pattern}")),
    }
}

fn size(schema: &Value, size: usize, keyword: &str, of: &str) -> Option<String> {
    let bound = |end: &str| schema[format!("{end}{keyword}")].as_u64();
    let size = u64::try_from(size).unwrap_or(u64::MAX);
    if let Some(least) = bound("min").filter(|least| size < *least) {
        return Some(match size {
            0 => format!("empty; at least {least} {of}"),
            _ => format!("{size} {of}; at least {least}"),
        });
    }
    let most = bound("max").filter(|most| size > *most)?;
    Some(format!("{size} {of}; at most {most}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn schema() -> Value {
        let name = json!({"type": "string", "maxLength": 5, "pattern": "^[a-z]+$"});
        let reference = json!({"type": "object", "required": ["name"],
            "properties": {"name": name}});
        json!({"type": "object", "required": ["name"], "properties": {
            "name": name,
            "count": {"type": "integer", "minimum": 0.0, "maximum": 100.0},
            "ratio": {"type": "number", "minimum": 0.5, "nullable": true},
            "last": {"type": "boolean"},
            "policy": {"type": "string", "enum": ["Skip", "Stop"]},
            "for": {"type": "string", "pattern": duration::PATTERN},
            "ref": reference,
            "target": {"type": "object", "properties": {
                "form": {"type": "string", "enum": ["A"]}, "topic": name}},
            "list": {"type": "array", "maxItems": 2, "minItems": 1, "items": reference},
            "map": {"type": "object", "additionalProperties": {"type": "string"}},
            "later": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "quantity": {"x-kubernetes-int-or-string": true, "pattern": quantity::PATTERN},
            "any": {},
        }})
    }

    #[test]
    fn each_keyword_is_checked_and_said_with_its_path_and_the_way_out() {
        for (value, says) in [
            (json!({}), "name: it is missing; give a text"),
            (
                json!({"name": null}),
                "name: it is empty; give a text. A text that begins with !, & or * needs quotes",
            ),
            (json!({"name": 1}), "name: give a text, in quotes: \"1\""),
            (json!({"name": "abcdef"}), "name: 6 characters; at most 5"),
            (
                json!({"name": "a b"}),
                "name: \"a b\" does not match ^[a-z]+$",
            ),
            (json!({"count": 101}), "count: 101; at most 100"),
            (json!({"count": -1}), "count: -1; at least 0"),
            (json!({"count": 1.5}), "count: give a whole number"),
            (json!({"ratio": 0.25}), "ratio: 0.25; at least 0.5"),
            (json!({"ratio": "1"}), "ratio: give a number"),
            (json!({"last": "yes"}), "last: give true or false"),
            (
                json!({"policy": "skip"}),
                "policy: there is no \"skip\"; did you mean Skip?",
            ),
            (
                json!({"policy": "Drop"}),
                "policy: there is no \"Drop\"; there are: Skip, Stop",
            ),
            (json!({"policy": {}}), "policy: give one of Skip, Stop"),
            (json!({"ref": "demo"}), "ref: give an object: {name: demo}"),
            (json!({"ref": {}}), "ref.name: it is missing; give a text"),
            (json!({"target": "a"}), "target: give an object: {topic: a}"),
            (json!({"list": "a"}), "list: give a list: [a]"),
            (
                json!({"list": {"name": "a"}}),
                "list: give a list: a hyphen before each item",
            ),
            (json!({"list": []}), "list: empty; at least 1 items"),
            (json!({"list": [{}, {}, {}]}), "list: 3 items; at most 2"),
            (
                json!({"list": [{"name": "a", "nmae": 1}]}),
                "list[0].nmae: there is no such field; there are: name",
            ),
            (
                json!({"nam": "a", "name": "a"}),
                "nam: there is no such field",
            ),
            (
                json!({"map": {"a": 1}}),
                "map.a: give a text, in quotes: \"1\"",
            ),
            (
                json!({"nmae": "a"}),
                "nmae: there is no such field; did you mean name?",
            ),
            (
                json!({"quantity": "x"}),
                "quantity: \"x\" is not a quantity such as 500m",
            ),
        ] {
            let mut value = value;
            if value.get("name").is_none()
                && !says.starts_with("name: it")
                && !says.starts_with("nmae")
            {
                value["name"] = "a".into();
            }
            let found = problems("", &schema(), &value);
            let [found] = &found[..] else {
                panic!("{value}: {found:?}");
            };
            assert!(found.to_string().starts_with(says), "{value}: {found}");
        }
        let found = problems("", &schema(), &json!({"name": "a", "for": "1.5h"}));
        assert!(found[0].why.contains("such as 100ms"), "{found:?}");
    }

    #[test]
    fn what_the_api_server_takes_is_taken_and_its_nulls_are_removed() {
        let mut value = json!({"name": "a", "count": 100, "ratio": null, "last": null,
            "list": [{"name": "b"}], "map": {"any": "text"}, "later": {"any": [1]},
            "quantity": 1, "any": null});
        assert_eq!(problems("", &schema(), &value), []);
        prune(&schema(), &mut value);
        assert_eq!(value.get("last"), None);
        assert!(value.get("ratio").is_some() && value.get("any").is_some());
    }
}
