//! What is made from the registry of kinds is as the registry says: rules in the charts, pages,
//! definitions; and every kind has a folder with the usual files.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use freehold::kinds::REGISTRY;
use freehold::kinds::registration::Entry;
use freehold::reference;
use std::fs;
use std::path::PathBuf;

fn repo() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn generated_files_are_as_the_registry_says() {
    let kinds: Vec<&Entry> = REGISTRY.iter().collect();
    let files = reference::files(&kinds);
    assert!(files.len() >= 9, "only {} files", files.len());
    let stale: Vec<&String> = files
        .iter()
        .filter(|(path, text)| fs::read_to_string(repo().join(path)).ok().as_ref() != Some(text))
        .map(|(path, _)| path)
        .collect();
    assert!(
        stale.is_empty(),
        "not as generated: {stale:#?}; run `cargo xtask generate`"
    );
}

#[test]
fn a_kind_that_is_taken_out_of_the_registry_leaves_no_rule() {
    let kinds: Vec<&Entry> = REGISTRY.iter().collect();
    let charts = |kinds: &[&Entry]| -> String {
        let files = reference::files(kinds).into_iter();
        let charts = files.filter(|(path, _)| path.starts_with("charts/"));
        charts.map(|(_, text)| text).collect()
    };
    assert!(charts(&kinds).contains("pipelines"));
    let without_the_last = charts(&kinds[..kinds.len() - 1]);
    assert!(
        !without_the_last.contains("pipelines"),
        "{without_the_last}"
    );
    assert!(without_the_last.contains("topics"));
}

#[test]
fn every_page_of_the_reference_is_in_its_list() {
    let list = fs::read_to_string(repo().join("docs/reference/README.md")).unwrap();
    for entry in fs::read_dir(repo().join("docs/reference")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(
            name == "README.md" || list.contains(&format!("({name})")),
            "docs/reference/README.md does not name {name}"
        );
    }
}

#[test]
fn every_kind_has_its_generated_definition() {
    for entry in &REGISTRY {
        for folder in ["crds", "charts/freehold-crds/templates"] {
            let file = repo()
                .join(folder)
                .join(format!("{}.yaml", entry.resource().plural));
            assert!(
                file.exists(),
                "{} is missing: run `cargo xtask generate`",
                file.display()
            );
        }
    }
}

/// The page deletes objects, deletes definitions, and removes finalizers by hand.
#[test]
fn every_kind_is_uninstalled_and_has_a_health_check() {
    let read = |path: &str| fs::read_to_string(repo().join(path)).unwrap();
    let (page, checks) = (
        read("docs/guide/uninstall.md"),
        read("deploy/argocd/health-checks.yaml"),
    );
    let line = |begin: &str| {
        page.lines()
            .filter(|line| line.starts_with(begin))
            .collect()
    };
    let (deleted, by_hand): (String, String) = (line("kubectl delete "), line("for kind in "));
    for entry in &REGISTRY {
        let resource = entry.resource();
        let (kind, plural) = (&resource.kind, &resource.plural);
        assert!(deleted.contains(plural), "no {kind} is deleted");
        assert!(by_hand.contains(plural), "{kind} keeps its finalizer");
        let definition = format!("{plural}.{}", resource.group);
        assert!(page.contains(&definition), "{definition} is not deleted");
        let check = format!("resource.customizations.health.{}_{kind}:", resource.group);
        assert!(checks.contains(&check), "no {check}");
    }
}

/// The folder of a kind: `KafkaCluster` is in `kafka_cluster`.
fn folder(kind: &str) -> String {
    let mut folder = String::new();
    for letter in kind.chars() {
        if letter.is_uppercase() && !folder.is_empty() {
            folder.push('_');
        }
        folder.extend(letter.to_lowercase());
    }
    folder
}

#[test]
fn every_kind_has_the_same_files() {
    for entry in &REGISTRY {
        let folder = folder(&entry.resource().kind);
        let has = |path: String| {
            repo().join(format!("src/{path}.rs")).exists()
                || repo().join(format!("src/{path}/mod.rs")).exists()
        };
        for file in [
            "observe",
            "validate",
            "plan",
            "status",
            "reconcile",
            "registration",
        ] {
            assert!(
                has(format!("kinds/{folder}/{file}")),
                "src/kinds/{folder} has no {file}"
            );
        }
        assert!(has(format!("api/{folder}")), "src/api has no {folder}");
    }
}

/// A kind refers only to kinds before it, because `freehold uninstall` goes through them from the
/// end.
#[test]
fn every_kind_comes_before_the_kinds_that_refer_to_it() {
    let plurals: Vec<String> = REGISTRY
        .iter()
        .map(|entry| entry.resource().plural)
        .collect();
    assert_eq!(
        plurals.first().map(String::as_str),
        Some("kafkaclusters"),
        "{plurals:?}"
    );
}
