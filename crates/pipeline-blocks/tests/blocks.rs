//! Programs that are refused, with the line that is wrong, and what flows through blocks.
//!
//! `refused/<case>.yaml` is a Pipeline with what is said of it in `refused/<case>.txt`
//! (`UPDATE_GOLDEN=1` writes it anew); `flows/<case>.yaml` is a Pipeline and its tests.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use freehold_pipeline::definition::Definition;
use freehold_pipeline::finding::Finding;
use freehold_pipeline::topics::TopicNames;
use freehold_pipeline_blocks::testing::{self, TestSpec};
use freehold_pipeline_blocks::{functions, isolation};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Checks as the webhook does.
fn validate(definition: &Definition) -> Result<Vec<Finding>, Vec<Finding>> {
    let child = Command::new(env!("CARGO_BIN_EXE_check-pipeline"));
    isolation::check_in_child(child, definition, &TopicNames::default())
}

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

#[test]
fn each_bad_program_is_refused_with_its_block_and_line() {
    let mut differences = Vec::new();
    for case in cases("refused") {
        let definition: Definition =
            serde_saphyr::from_str(&fs::read_to_string(&case).unwrap()).unwrap();
        let findings = match validate(&definition) {
            Ok(_) => panic!("{} is not refused", case.display()),
            Err(findings) => findings,
        };
        let text: String = findings
            .iter()
            .map(|finding| format!("{finding}\n"))
            .collect();
        let expected = case.with_extension("txt");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&expected, &text).unwrap();
        }
        let was = fs::read_to_string(&expected).unwrap_or_default();
        if was != text {
            differences.push(format!("{}:\n{was}--- now:\n{text}", case.display()));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn records_flow_as_the_blocks_say() {
    let mut failed = Vec::new();
    for case in cases("flows") {
        let text = fs::read_to_string(&case).unwrap();
        let (definition, spec) = text.split_once("\n---\n").unwrap();
        let definition: Definition = serde_saphyr::from_str(definition).unwrap();
        let spec: TestSpec = serde_saphyr::from_str(spec).unwrap();
        let names = TopicNames::default();
        validate(&definition).unwrap();
        let has_program = definition.blocks.iter().any(|one| one.transform.is_some());
        let run =
            isolation::on_large_stack(move || testing::run(&spec, "test", &definition, &names));
        let (results, coverage) = run.unwrap().unwrap();
        assert!(!results.is_empty());
        // With marks each program compiles as it does without.
        assert_eq!(
            has_program,
            !coverage.lines.run.is_empty(),
            "{}",
            case.display()
        );
        for (name, differences) in results {
            if !differences.is_empty() {
                failed.push(format!(
                    "{}: {name}\n{}",
                    case.display(),
                    differences.join("\n")
                ));
            }
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn what_a_program_does_in_vain_is_a_warning() {
    let dropped = "%foo is dropped after the program: of %, it may change key, headers and \
                   timestamp; use a variable, or a field of the record";
    let nothing = "the program changes nothing of a record; assign with =, or make it a filter";
    for (block, says) in [
        (
            "transform: {vrl: '.x = %tpic'}",
            "%tpic is always null; did you mean %topic?",
        ),
        ("transform: {vrl: '%foo = 5'}", dropped),
        ("transform: {vrl: '%foo = .a'}", dropped),
        ("transform: {vrl: '.x == 1'}", nothing),
        (
            "filter: {when: '%kye == \"a\"'}",
            "%kye is always null; did you mean %key?",
        ),
        ("transform: {vrl: '.x = %topic'}", ""),
        ("transform: {vrl: '%headers.a = \"b\"'}", ""),
        ("transform: {vrl: 'del(.x)'}", ""),
        ("transform: {vrl: 'if .x == 1 { abort }'}", ""),
        ("transform: {vrl: 'assert!(.x == 1)'}", ""),
    ] {
        let text = format!(
            "blocks:\n- {{name: a, source: {{kafka: {{topic: a}}}}}}\n\
             - {{name: b, from: [a], {block}}}\n\
             - {{name: c, from: [b], sink: {{kafka: {{topic: c}}}}}}\n"
        );
        let definition: Definition = serde_saphyr::from_str(&text).unwrap();
        let warnings = validate(&definition).unwrap();
        let words: Vec<&str> = warnings.iter().map(|one| one.message.as_str()).collect();
        assert_eq!(words.join("\n"), says, "{block}");
    }
}

#[test]
fn what_a_test_names_wrongly_is_said_with_the_way_out() {
    let text = fs::read_to_string("tests/flows/text.yaml").unwrap();
    let (definition, spec) = text.split_once("\n---\n").unwrap();
    let definition: Definition = serde_saphyr::from_str(definition).unwrap();
    for (from, to, says) in [
        (
            "[{text: \"A=1 B=X\"}]",
            "[{value: \"A=1 B=X\"}]",
            "as-text[0].value: the value is a text; give text in the place of value: \"A=1 B=X\"",
        ),
        (
            "as-json: [",
            "as-jsno: [",
            "expect: there is no block as-jsno; did you mean as-json?",
        ),
        (
            "source: lines",
            "source: line",
            "there is no source line; did you mean lines?",
        ),
    ] {
        assert!(spec.contains(from), "{from}");
        let spec: TestSpec = serde_saphyr::from_str(&spec.replace(from, to)).unwrap();
        let run = || testing::run(&spec, "test", &definition, &TopicNames::default());
        let (results, _) = isolation::on_large_stack(run).unwrap().unwrap();
        let differences = results[0].1.join("\n");
        assert!(differences.contains(says), "{differences}");
    }
}

#[test]
fn a_wrong_field_of_a_record_in_a_test_is_refused() {
    let spec = "{pipeline: p, cases: [{name: a, inputs: [], expect: {out: [{vlue: 1}]}}]}";
    let error = serde_saphyr::from_str::<TestSpec>(spec).unwrap_err();
    assert!(error.to_string().contains("vlue"), "{error}");
}

#[test]
fn no_function_reads_the_environment_files_or_the_network() {
    let names: Vec<&str> = functions::all()
        .iter()
        .map(|function| function.identifier())
        .collect();
    for name in [
        "get_env_var",
        "get_hostname",
        "http_request",
        "dns_lookup",
        "reverse_dns",
        "get_secret",
        "log",
        "uuid_v4",
        "random_int",
    ] {
        assert!(!names.contains(&name), "{name}");
    }
    let nows = names.iter().filter(|name| **name == "now");
    assert_eq!(nows.count(), 1);
}

/// The worst that 64 KiB can say to the compiler: it ends in time, and the process lives.
#[test]
fn hostile_programs_end_the_compiler_and_not_the_process() {
    let long = 64 * 1024;
    let hostile = [
        "!".repeat(long - 4) + "true",
        "-".repeat(long - 1) + "1",
        "(".repeat(long),
        "a.".repeat(long / 2 - 1) + "b",
        ".a".repeat(long / 2),
        "true || ".repeat(long / 8 - 1) + "true",
        "true ||\n".repeat(long / 8 - 1) + "true",
        "1 +\n".repeat(long / 4 - 1) + "1",
        "!\n".repeat(long / 2 - 4) + "true",
        "if true { 1 } else ".repeat(long / 19 - 1) + "{ 1 }",
        "if true {\n1\n} else ".repeat(100) + "{ 1 }",
        "if true { ".repeat(60) + "1" + &" }".repeat(60),
        "true\n|| ".repeat(long / 8 - 1) + "true",
        "[1,\n".repeat(50) + &"]".repeat(50),
        "1,\n".repeat(long / 3),
        "!".repeat(200) + "true",
        "true || ".repeat(100) + "true",
        "x = ".repeat(200) + "1",
        ".a".repeat(200),
        "x = ".repeat(long / 4 - 1) + "1",
        "x =\n".repeat(long / 4 - 1) + "1",
        "\"".to_owned() + &"{{a}}".repeat(long / 5 - 1) + "\"",
        "a = 1\n".repeat(long / 6),
        "{\"a\":".repeat(long / 5),
        "f(".repeat(long / 2),
        "\u{0}".repeat(long),
        "é".repeat(long / 2),
    ];
    for (index, program) in hostile.into_iter().enumerate() {
        let quoted = serde_json::to_string(&program).unwrap();
        let text = format!(
            "blocks:\n- {{name: a, source: {{kafka: {{topic: a}}}}}}\n\
             - {{name: b, from: [a], transform: {{vrl: {quoted}}}}}\n\
             - {{name: c, from: [b], sink: {{kafka: {{topic: c}}}}}}\n"
        );
        let definition: Definition = serde_saphyr::from_str(&text).unwrap();
        if let Err(findings) = validate(&definition) {
            let words: String = findings[0].message.chars().take(200).collect();
            assert!(!words.contains("panicked"), "{index}: {words}");
            assert!(!words.contains("no CPU time"), "{index}: {words}");
        }
    }
}

#[test]
fn a_program_that_the_compiler_cannot_end_is_refused_with_its_block_and_the_way_out() {
    let deep = format!(
        "x = {}.a{}\nx",
        "to_string(\"a\" + string!(".repeat(16),
        "))".repeat(16)
    );
    let long: String = (0..4400).map(|n| format!(".a{n} = {n}\n")).collect();
    for program in [deep, long] {
        let quoted = serde_json::to_string(&program).unwrap();
        let text = format!(
            "blocks:\n- {{name: a, source: {{kafka: {{topic: a}}}}}}\n\
             - {{name: short, from: [a], transform: {{vrl: .a = 1}}}}\n\
             - {{name: b, from: [short], transform: {{vrl: {quoted}}}}}\n\
             - {{name: c, from: [b], sink: {{kafka: {{topic: c}}}}}}\n"
        );
        let definition: Definition = serde_saphyr::from_str(&text).unwrap();
        let findings = validate(&definition).unwrap_err();
        assert_eq!(findings[0].field, "blocks[2]");
        assert_eq!(findings[0].block.as_deref(), Some("b"));
        let message = &findings[0].message;
        assert!(message.contains("make its program shorter"), "{message}");
    }
}
