//! What changed between two revisions of a Pipeline, in words, by block.

use crate::block::Block;
use crate::checks::programs;
use crate::definition::Definition;
use serde::Serialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Longest value that is shown.
const VALUE_CHARS_MAX: usize = 60;

/// One line for each change; empty if nothing changed.
pub fn changes(old: &Definition, new: &Definition) -> Vec<String> {
    let by_name = |definition: &Definition| -> BTreeMap<String, Block> {
        let blocks = definition.blocks.iter();
        blocks
            .map(|block| (block.name.clone(), block.clone()))
            .collect()
    };
    let (before, after) = (by_name(old), by_name(new));
    let mut lines = Vec::new();
    for (name, block) in &before {
        if !after.contains_key(name) {
            lines.push(format!("block {name} ({}) removed", block.type_name()));
        }
    }
    for (name, block) in &after {
        match before.get(name) {
            None => lines.push(format!("block {name} ({}) added", block.type_name())),
            Some(was) => lines.extend(of_block(was, block)),
        }
    }
    if old.delivery != new.delivery {
        lines.push(format!(
            "delivery: {:?} -> {:?}",
            old.delivery, new.delivery
        ));
    }
    let names: BTreeSet<&String> = old.functions.keys().chain(new.functions.keys()).collect();
    for name in names {
        match (old.functions.get(name), new.functions.get(name)) {
            (Some(was), Some(is)) if was != is => {
                lines.push(format!(
                    "function {name}: changed at line {}",
                    first_line(was, is)
                ));
            }
            (Some(_), None) => lines.push(format!("function {name} removed")),
            (None, Some(_)) => lines.push(format!("function {name} added")),
            _ => {}
        }
    }
    compare("errors", &json(&old.errors), &json(&new.errors), &mut lines);
    lines
}

fn of_block(was: &Block, is: &Block) -> Vec<String> {
    let name = &is.name;
    if was.type_name() != is.type_name() {
        return vec![format!(
            "block {name}: was a {}, is a {}",
            was.type_name(),
            is.type_name()
        )];
    }
    let mut lines = Vec::new();
    let programs_before: BTreeMap<String, &str> = programs(was).into_iter().collect();
    let mut shown: BTreeSet<String> = BTreeSet::new();
    for (field, program) in programs(is) {
        if let Some(before) = programs_before.get(&field)
            && *before != program
        {
            let line = first_line(before, program);
            lines.push(format!("block {name}: {field} changed at line {line}"));
            shown.insert(format!("block {name}: {field}"));
        }
    }
    let mut others = Vec::new();
    compare(
        &format!("block {name}:"),
        &json(was),
        &json(is),
        &mut others,
    );
    lines.extend(others.into_iter().filter(|line| {
        !shown.iter().any(|field| {
            line.strip_prefix(field.as_str())
                .is_some_and(|rest| rest.starts_with(':'))
        })
    }));
    lines
}

/// The first line that differs, from 1.
fn first_line(was: &str, is: &str) -> usize {
    let same = was
        .lines()
        .zip(is.lines())
        .take_while(|(was, is)| was == is);
    same.count() + 1
}

fn json(value: &impl Serialize) -> Value {
    // What derives Serialize and has text keys is JSON.
    serde_json::to_value(value).unwrap_or_default()
}

/// Appends a line for each field that differs.
fn compare(path: &str, was: &Value, is: &Value, lines: &mut Vec<String>) {
    let below = |key: &str| match path.ends_with(':') {
        true => format!("{path} {key}"),
        false => format!("{path}.{key}"),
    };
    match (was, is) {
        (Value::Object(before), Value::Object(after)) => {
            let keys: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
            for key in keys {
                let of = |map: &serde_json::Map<String, Value>| map.get(key).cloned();
                let (before, after) = (of(before), of(after));
                compare(
                    &below(key),
                    &before.unwrap_or_default(),
                    &after.unwrap_or_default(),
                    lines,
                );
            }
        }
        (Value::Array(before), Value::Array(after)) if before.len() == after.len() => {
            for (index, (before, after)) in before.iter().zip(after).enumerate() {
                compare(&format!("{path}[{index}]"), before, after, lines);
            }
        }
        (was, is) if was != is => lines.push(format!("{path}: {} -> {}", shown(was), shown(is))),
        _ => {}
    }
}

fn shown(value: &Value) -> String {
    let text = match value {
        Value::Null => "nothing".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    if text.chars().count() <= VALUE_CHARS_MAX {
        return text;
    }
    let start: String = text.chars().take(VALUE_CHARS_MAX).collect();
    format!("{start}…")
}
