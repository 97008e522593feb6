//! Pipelines that are refused, with what is said of each, and how graphs are cut into stages.
//!
//! A case is a file: `refused/<case>.yaml` with `refused/<case>.txt`, `cuts/<case>.yaml` with
//! `cuts/<case>.txt`. `UPDATE_GOLDEN=1` writes the texts anew.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use freehold_pipeline::checks::check;
use freehold_pipeline::definition::Definition;
use freehold_pipeline::finding::{Finding, Severity};
use freehold_pipeline::graph::Graph;
use freehold_pipeline::rights::Rights;
use freehold_pipeline::stage_document::{StageDocument, TopicIds, VERSION};
use freehold_pipeline::stages::cut;
use freehold_pipeline::topics::TopicNames;
use proptest::prelude::*;
use std::fs;
use std::path::{Path, PathBuf};

fn cases(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(folder);
    let mut cases: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "yaml"))
        .collect();
    cases.sort();
    assert!(!cases.is_empty());
    cases
}

fn definition(case: &Path) -> Definition {
    serde_saphyr::from_str(&fs::read_to_string(case).unwrap()).unwrap()
}

/// Compares with the text beside the case.
fn compare(case: &Path, text: &str, differences: &mut Vec<String>) {
    let expected = case.with_extension("txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&expected, text).unwrap();
    }
    let was = fs::read_to_string(&expected).unwrap_or_default();
    if was != text {
        differences.push(format!("{}:\n{was}--- now:\n{text}", case.display()));
    }
}

fn lines(findings: &[Finding]) -> String {
    findings
        .iter()
        .map(|finding| format!("{finding}\n"))
        .collect()
}

#[test]
fn each_bad_graph_is_refused_with_the_block_and_the_way_out() {
    let mut differences = Vec::new();
    for case in cases("refused") {
        let definition = definition(&case);
        let findings = check(&definition, &TopicNames::default()).expect_err("it is refused");
        let errors = |finding: &&Finding| finding.severity == Severity::Error;
        assert!(
            findings.iter().any(|finding| errors(&finding)),
            "{}",
            case.display()
        );
        compare(&case, &lines(&findings), &mut differences);
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn graphs_are_cut_into_stages_that_are_graphs_themselves() {
    let mut differences = Vec::new();
    for case in cases("cuts") {
        let definition = definition(&case);
        let names = TopicNames([("orders".to_owned(), "shop.orders".to_owned())].into());
        let (graph, warnings) = check(&definition, &names).unwrap();
        let cut = cut(&graph, &definition, &names, "shop", "flow");
        let mut text = lines(&warnings);
        let rights = Rights::of(&cut, "shop", "flow");
        text += &format!("{rights:?}\n");
        for internal in &cut.internal {
            text += &format!("{internal:?}\n");
        }
        for stage in &cut.stages {
            Graph::of(&stage.definition).expect("a stage is a graph");
            text += &format!("stage {}:\n", stage.name);
            text += &serde_saphyr::to_string(&stage.definition).unwrap();
        }
        compare(&case, &text, &mut differences);
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// The document of a stage with the blocks of a case.
fn document(case: &Path) -> StageDocument {
    StageDocument {
        version: VERSION,
        pipeline: "shop/flow".into(),
        uid: "u".into(),
        revision: 3,
        stage: "orders".into(),
        group: "shop.flow.orders".into(),
        definition: definition(case),
        topics: [(
            "orders".to_owned(),
            TopicIds {
                id: "b".into(),
                former: vec!["a".into()],
            },
        )]
        .into(),
        replay: None,
    }
}

#[test]
fn a_stage_document_is_read_as_it_was_written_and_another_version_is_named() {
    let document = document(&cases("cuts")[0]);
    let bytes = serde_json::to_vec(&document).unwrap();
    assert_eq!(StageDocument::read(&bytes).unwrap(), document);
    let newer = br#"{"version": 7, "unknown": true}"#;
    let error = StageDocument::read(newer).unwrap_err().to_string();
    assert!(error.contains("version 7"), "{error}");
    assert!(StageDocument::read(b"{").is_err());
    let large = vec![b' '; freehold_pipeline::stage_document::DOCUMENT_BYTES_MAX + 1];
    assert!(
        StageDocument::read(&large)
            .unwrap_err()
            .to_string()
            .contains("at most")
    );
}

proptest! {
    /// A document that somebody has broken is an error, or a graph, or findings: never a panic.
    #[test]
    fn a_broken_document_is_an_error(
        case in any::<prop::sample::Index>(),
        from in any::<prop::sample::Index>(),
        length in 0_usize..40,
        put in "[\\[\\]{}\":,a-z0-9~. -]{0,6}",
    ) {
        let cases = cases("cuts");
        let document = document(&cases[case.index(cases.len())]);
        let mut bytes = serde_json::to_vec(&document).unwrap();
        let from = from.index(bytes.len());
        let to = bytes.len().min(from + length);
        bytes.splice(from..to, put.into_bytes());
        if let Ok(read) = StageDocument::read(&bytes) {
            let names = TopicNames::default();
            if let Ok((graph, _)) = check(&read.definition, &names) {
                let cut = cut(&graph, &read.definition, &names, "shop", "flow");
                prop_assert!(!cut.stages.is_empty());
            }
        }
    }
}
