//! The operator's rights are those of the table in `src/reference/roles.rs`: the charts grant no
//! other, and each is used by code that exists.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use freehold::kinds::REGISTRY;
use freehold::kinds::registration::Entry;
use freehold::reference::roles::{self, Role};
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

/// The generated file of rules.
const RULES: &str = "_rules.tpl";

fn repo() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn of_operator() -> Vec<Role> {
    roles::of_operator(&REGISTRY.iter().collect::<Vec<&Entry>>())
}

/// The operator's templates that somebody writes, by their names.
fn templates() -> Vec<(String, String)> {
    let folder = repo().join("charts/freehold/templates");
    let files = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    files
        .filter(|path| path.is_file() && !path.ends_with(RULES))
        .map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, fs::read_to_string(path).unwrap())
        })
        .collect()
}

#[test]
fn no_template_grants_a_right_that_is_not_in_the_table() {
    let templates = templates();
    for (name, text) in &templates {
        for word in ["verbs:", "apiGroups:", "resourceNames:"] {
            assert!(
                !text.contains(word),
                "{name} has {word}: put the right into src/reference/roles.rs"
            );
        }
        // Each `rules:` takes its content from a generated template.
        for rest in text.split("rules:\n").skip(1) {
            let line = rest.lines().next().unwrap_or_default();
            assert!(
                line.contains("Rules\"") || line.contains("freehold.rules\""),
                "{name}: {line}"
            );
        }
    }
    for role in of_operator() {
        let include = format!("include \"{}\"", role.name);
        assert!(
            templates.iter().any(|(_, text)| text.contains(&include)),
            "no template has {include}"
        );
    }
}

/// Whether `src/` has a file or folder, or, for `module::name`, a function.
fn exists(code: &str) -> bool {
    let source = repo().join("src");
    let Some((module, name)) = code.split_once("::") else {
        return source.join(code).exists();
    };
    let places = [format!("{module}.rs"), format!("{module}/mod.rs")];
    places.iter().any(|place| {
        fs::read_to_string(source.join(place)).is_ok_and(|text| {
            text.contains(&format!("fn {name}(")) || text.contains(&format!("fn {name}<"))
        })
    })
}

#[test]
fn every_right_has_a_reason_and_is_used_by_code_that_exists() {
    let mut rights = 0;
    for role in of_operator() {
        for rule in &role.rules {
            rights += 1;
            assert!(rule.why.ends_with('.'), "{rule:?}");
            assert!(!rule.used_by.is_empty(), "{rule:?}");
            for code in &rule.used_by {
                assert!(exists(code), "{}: src has no {code}", role.title);
            }
        }
    }
    assert!(rights > 15, "only {rights} rights");
    assert!(!exists("kubernetes::no_such_function") && !exists("kinds/none.rs"));
}

/// In a namespace with Topics and Users and no cluster, the operator has no rights on anything that
/// runs.
#[test]
fn a_tenant_s_namespace_grants_nothing_of_clusters() {
    let tenants = of_operator();
    let tenants = tenants.iter().find(|role| role.title == "Role freehold");
    let rules = tenants.unwrap().rules.iter();
    let tenants: BTreeSet<&str> = rules
        .flat_map(|rule| &rule.resources)
        .map(String::as_str)
        .collect();
    assert_eq!(
        tenants,
        BTreeSet::from([
            "events",
            "secrets",
            "topics",
            "topics/status",
            "users",
            "users/finalizers",
            "users/status"
        ])
    );
}

/// Rights that reach beyond a namespace, and on every object of a kind.
#[test]
fn only_labels_of_namespaces_and_freehold_s_own_kinds_are_read_everywhere() {
    for role in of_operator() {
        let everywhere = role.title.starts_with("ClusterRole");
        for rule in role.rules.iter().filter(|_| everywhere) {
            let harmless = rule.group == "freehold.dev"
                || rule.resources == ["namespaces"]
                || !rule.names.is_empty();
            assert!(harmless, "{}: {rule:?}", role.title);
        }
    }
}
