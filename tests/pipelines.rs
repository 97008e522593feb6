//! `freehold lint`, `freehold test` and `freehold graph`, as a person runs them: the binary, on
//! files.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// A file for one test; it is deleted with the value.
struct File(PathBuf);

impl File {
    fn new(name: &str, text: &str) -> Self {
        let name = format!("freehold-pipelines-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::write(&path, text).unwrap();
        Self(path)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

const ORDERS: &str = "tests/pipelines/orders.yaml";
/// The examples of the guide, each with its tests and how many they are.
const EXAMPLES: [(&str, &str); 4] = [
    ("orders", "3 passed"),
    ("inbox", "2 passed"),
    ("sensors", "1 passed"),
    ("archive", "1 passed"),
];

/// A Pipeline that alerts on each late order, with its Topic and a test.
const LATE: &str = r#"
apiVersion: freehold.dev/v1alpha1
kind: Topic
metadata: {name: payments-eur, namespace: shop}
spec: {clusterRef: {name: demo}, partitions: 1}
---
apiVersion: freehold.dev/v1alpha1
kind: Pipeline
metadata: {name: payments, namespace: shop}
spec:
  clusterRef: {name: demo}
  blocks:
  - {name: in, source: {kafka: {topicRef: {name: payments-eur}}}}
  - {name: late, from: [in], alert: {when: .late == true, to: {topic: late}}}
  - {name: out, from: [in], sink: {kafka: {topic: out}}}
---
apiVersion: freehold.dev/v1alpha1
kind: PipelineTest
metadata: {name: payments}
spec:
  pipeline: payments
  cases:
  - name: late
    inputs: [{source: in, key: k, value: {late: true}}, {source: in, key: gone, value: null}]
    expect:
      out: [{value: {late: true}}, {key: gone, value: null}]
      late: [{value: {pipeline: shop/payments, block: late, group: k, since: 1767225600000,
        at: 1767225600000, record: {topic: payments-eur, partition: 0, offset: 0}}}]
"#;

/// A Pipeline whose test does not come to two of five lines with a statement.
const LINES: &str = "
apiVersion: freehold.dev/v1alpha1
kind: Pipeline
metadata: {name: parcels, namespace: shop}
spec:
  clusterRef: {name: demo}
  blocks:
  - {name: in, source: {kafka: {topic: parcels}}}
  - name: weigh
    from: [in]
    transform:
      vrl: |
        .seen = true
        if .grams == null {
          abort
        } else if .grams == 0 {
          .empty = true
        } else {
          .kilos = int(.grams) ?? 0
        }
  - {name: out, from: [weigh], sink: {kafka: {topic: weighed}}}
---
apiVersion: freehold.dev/v1alpha1
kind: PipelineTest
metadata: {name: parcels}
spec:
  pipeline: parcels
  cases:
  - name: weighed
    inputs: [{source: in, value: {grams: 3000}}]
    expect: {out: [{value: {seen: true, grams: 3000, kilos: 3000}}]}
";

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_freehold"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).args(args);
    command
}

/// Runs the binary: whether it succeeded, and all that it printed.
fn freehold(args: &[&str]) -> (bool, String) {
    let output = command(args).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let printed = text(&output.stdout) + &text(&output.stderr);
    (output.status.success(), printed)
}

#[test]
fn a_good_pipeline_passes_lint_and_its_tests() {
    let (passed, text) = freehold(&["lint", ORDERS]);
    assert!(passed && text.contains("Pipeline orders: ok"), "{text}");
    let junit = File::new("good.xml", "");
    let (passed, text) = freehold(&["test", ORDERS, "--junit", junit.0.to_str().unwrap()]);
    assert!(passed && text.contains("2 passed"), "{text}");
    assert!(
        text.contains("no record reached: other-out, region.other"),
        "{text}"
    );
    let xml = fs::read_to_string(&junit.0).unwrap();
    assert!(xml.contains("tests=\"2\" failures=\"0\""), "{xml}");
}

#[test]
fn the_examples_pass_lint_and_their_tests_reach_every_block() {
    for (name, count) in EXAMPLES {
        let quickstart = "deploy/examples/quickstart.yaml";
        let example = &format!("deploy/examples/pipelines/{name}.yaml");
        let tests = &format!("deploy/examples/pipelines/{name}-test.yaml");
        let (passed, text) = freehold(&["lint", "--strict", quickstart, example, tests]);
        assert!(passed && text.contains(&format!("{name}: ok")), "{text}");
        let (passed, text) = freehold(&["test", quickstart, example, tests]);
        assert!(passed && text.contains(count), "{text}");
        assert!(!text.contains("no record reached"), "{text}");
        assert!(!text.contains("not run of"), "{text}");
    }
}

#[test]
fn lines_of_programs_that_no_test_runs_are_listed() {
    let (file, junit) = (File::new("lines.yaml", LINES), File::new("lines.xml", ""));
    let (file, junit) = (file.0.to_str().unwrap(), junit.0.to_str().unwrap());
    let (passed, text) = freehold(&["test", file, "--junit", junit]);
    assert!(passed && text.contains("1 passed"), "{text}");
    let missed = "parcels: not run of block weigh: lines 3, 5";
    assert!(text.contains(missed), "{text}");
    let xml = fs::read_to_string(junit).unwrap();
    let property = "name=\"parcels: lines of programs run\" value=\"3 of 5\"";
    assert!(xml.contains(property), "{xml}");
}

#[test]
fn a_bad_program_is_shown_with_its_block_line_and_column() {
    let (passed, text) = freehold(&["lint", "tests/pipelines/wrong.yaml", ORDERS]);
    assert!(!passed, "{text}");
    for part in [
        "Pipeline wrong: error: spec.blocks[1].transform.vrl (block clean): line 1, column 10",
        "  1 | .total = to_float(.total)",
        "1 of 2 Pipelines refused",
    ] {
        assert!(text.contains(part), "{part} is not in:\n{text}");
    }
}

#[test]
fn replicas_and_scaling_together_are_refused() {
    let text = fs::read_to_string(ORDERS).unwrap();
    let both = "\n  replicas: 4\n  scaling: {min: 3, max: 2}\n  functions:";
    let text = text.replace("\n  functions:", both);
    let file = File::new("both.yaml", &text);
    let (passed, text) = freehold(&["lint", file.0.to_str().unwrap()]);
    assert!(!passed, "{text}");
    for part in [
        "error: spec.replicas: the lag decides (scaling); remove replicas",
        "error: spec.scaling.max: 2: less than min, 3",
    ] {
        assert!(text.contains(part), "{part} is not in:\n{text}");
    }
}

#[test]
fn a_failed_case_says_what_was_expected_and_what_came() {
    let text = fs::read_to_string(ORDERS).unwrap();
    let file = File::new("failed.yaml", &text.replace("REDACTED]1111", "HIDDEN]1111"));
    let junit = File::new("failed.xml", "");
    let (path, xml) = (file.0.to_str().unwrap(), junit.0.to_str().unwrap());
    let (passed, text) = freehold(&["test", path, "--junit", xml]);
    assert!(!passed && text.contains("1 of 2 failed"), "{text}");
    assert!(text.contains("FAILED orders: a card is masked"), "{text}");
    assert!(text.contains("eu-out[0].value: expected {"), "{text}");
    let xml = fs::read_to_string(&junit.0).unwrap();
    assert!(
        xml.contains("failures=\"1\"") && xml.contains("HIDDEN"),
        "{xml}"
    );
}

#[test]
fn wrong_inputs_are_named() {
    let text = fs::read_to_string(ORDERS).unwrap();
    let renamed = File::new(
        "renamed.yaml",
        &text.replace("pipeline: orders", "pipeline: order"),
    );
    let field = File::new("field.yaml", &text.replace("errors: {", "error: {"));
    let empty = File::new("empty.yaml", "apiVersion: v1\nkind: ConfigMap\n");
    let broken = File::new("broken.yaml", "spec: [");
    let untested = File::new(
        "untested.yaml",
        text.split("---\n")
            .take(3)
            .collect::<Vec<_>>()
            .join("---\n")
            .as_str(),
    );
    for (args, says) in [
        (["test", untested.0.to_str().unwrap()], "no test case"),
        (
            ["test", renamed.0.to_str().unwrap()],
            "spec.pipeline: no Pipeline order in the files; did you mean orders?",
        ),
        (
            ["lint", field.0.to_str().unwrap()],
            "spec.error: there is no such field; did you mean errors?",
        ),
        (
            ["lint", empty.0.to_str().unwrap()],
            "no Pipeline in these files",
        ),
        (["lint", broken.0.to_str().unwrap()], "broken.yaml"),
        (["lint", "tests/pipelines/none.yaml"], "No such file"),
    ] {
        let (passed, text) = freehold(&args);
        assert!(
            !passed && text.contains(says),
            "{args:?}: {says} is not in:\n{text}"
        );
    }
}

#[test]
fn a_graph_is_drawn_in_three_forms() {
    for (format, parts) in [
        (
            "text",
            vec![
                "orders (source orders)",
                "region (split) <- clean",
                "other-out (sink orders-other) <- region.other",
                "stages:\n  orders: orders, ",
            ],
        ),
        ("mermaid", vec!["flowchart LR", "-->|eu| b"]),
        ("dot", vec!["digraph \"orders\" {", "[label=\"other\"];"]),
    ] {
        let (passed, text) = freehold(&["graph", ORDERS, "--format", format]);
        assert!(passed, "{text}");
        for part in parts {
            assert!(text.contains(part), "{part} is not in:\n{text}");
        }
    }
}

/// Runs a command on [`LATE`] with some of its text replaced.
fn late(args: &[&str], name: &str, from: &str, to: &str) -> (bool, String) {
    assert!(LATE.contains(from), "{from}");
    let file = File::new(name, &LATE.replace(from, to));
    freehold(&[args, &[file.0.to_str().unwrap()]].concat())
}

#[test]
fn a_test_compares_every_field_that_it_gives() {
    for (name, from, to, says) in [
        ("late.yaml", "", "", "1 passed"),
        (
            "typo.yaml",
            "[{value: {late: true}}",
            "[{vlue: {late: true}}",
            "error: spec.cases[0].expect.out[0].vlue: there is no such field; did you mean value?",
        ),
        (
            "tombstone.yaml",
            "[{value: {late: true}}",
            "[{value: null}",
            "out[0].value: expected null, got {\"late\":true}",
        ),
        (
            "namespace.yaml",
            "pipeline: shop/payments",
            "pipeline: test/payments",
            "\"pipeline\":\"shop/payments\"",
        ),
    ] {
        let (passed, text) = late(&["test"], name, from, to);
        assert_eq!(passed, from.is_empty(), "{text}");
        assert!(text.contains(says), "{says} is not in:\n{text}");
    }
}

#[test]
fn lint_refuses_what_the_api_server_would_refuse() {
    for (name, from, to, says) in [
        (
            "name.yaml",
            "{name: payments, namespace: shop}\nspec:\n  clusterRef",
            "{name: Payments_1, namespace: shop}\nspec:\n  clusterRef",
            "error: metadata.name: \"Payments_1\": lower-case letters",
        ),
        (
            "topic.yaml",
            "{topic: out}",
            "{topic: payments eur}",
            "error: spec.blocks[2].sink.kafka.topic: \"payments eur\" does not match",
        ),
        (
            "replicas.yaml",
            "  blocks:",
            "  replicas: 101\n  blocks:",
            "error: spec.replicas: 101; at most 100",
        ),
        (
            "version.yaml",
            "v1alpha1\nkind: Pipeline\n",
            "v1\nkind: Pipeline\n",
            "error: apiVersion: \"freehold.dev/v1\"; give freehold.dev/v1alpha1",
        ),
        (
            "window.yaml",
            "sink: {kafka",
            "window: {size: 5m}, sink: {kafka",
            "spec.blocks[2].window (block out): blocks of type window are not served by this \
             version; remove the block",
        ),
        (
            "reference.yaml",
            "topicRef: {name: payments-eur}",
            "topicRef: payments-eur",
            "error: spec.blocks[0].source.kafka.topicRef: give an object: {name: payments-eur}",
        ),
        (
            "twice.yaml",
            "from: [in], sink",
            "from: [in], from: [late], sink",
            "from is there twice; remove one",
        ),
    ] {
        let (passed, text) = late(&["lint"], name, from, to);
        assert!(!passed && text.contains(says), "{says} is not in:\n{text}");
    }
}

#[test]
fn a_reference_to_no_topic_of_the_files_is_a_warning() {
    let source = "topicRef: {name: payments-eur}";
    let of_pipeline = "{name: payments, namespace: shop}\nspec:\n  clusterRef";
    for (name, from, to, says) in [
        (
            "unknown.yaml",
            source,
            "topicRef: {name: payments-euro}",
            "warning: spec.blocks[0].source.kafka.topicRef.name (block in): no Topic \
             payments-euro in namespace shop in these files; did you mean payments-eur?",
        ),
        (
            "elsewhere.yaml",
            of_pipeline,
            "{name: payments, namespace: shop2}\nspec:\n  clusterRef",
            "no Topic payments-eur in namespace shop2 in these files; it is in shop",
        ),
    ] {
        let (passed, text) = late(&["lint"], name, from, to);
        assert!(passed && text.contains(says), "{says} is not in:\n{text}");
        let (passed, text) = late(&["lint", "--strict"], name, from, to);
        assert!(
            !passed && text.contains("1 of 1 Pipelines refused"),
            "{text}"
        );
    }
}

#[test]
fn what_is_wrong_with_one_document_does_not_hide_the_others() {
    let kind = LATE.replace("kind: PipelineTest", "kind: PipelineTset");
    let kind = File::new("kind.yaml", &kind);
    let broken = File::new("brackets.yaml", "spec: [");
    let paths = [kind.0.to_str().unwrap(), broken.0.to_str().unwrap(), ORDERS];
    let (passed, text) = freehold(&[&["lint"], &paths[..]].concat());
    assert!(!passed, "{text}");
    for part in [
        "kind.yaml: skipped: there is no kind \"PipelineTset\"; did you mean PipelineTest?",
        "kind.yaml: Pipeline payments: ok",
        "brackets.yaml: error: line 1 column 7",
        "orders.yaml: Pipeline orders: ok",
        "freehold: 2 problems in the files",
    ] {
        assert!(text.contains(part), "{part} is not in:\n{text}");
    }
    let (passed, text) = freehold(&[&["test"], &paths[..]].concat());
    assert!(!passed && text.contains("ok     orders: a card"), "{text}");
    let (passed, text) = freehold(&["test", "tests/pipelines/wrong.yaml"]);
    assert!(!passed, "{text}");
    assert!(
        text.contains("error: spec.blocks[1].transform.vrl"),
        "{text}"
    );
    assert!(
        text.contains("freehold: 1 of 1 Pipelines refused"),
        "{text}"
    );
}

#[test]
fn standard_input_is_a_file_and_a_reader_may_stop_early() {
    let mut lint = command(&["lint", "-"]);
    lint.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut lint = lint.spawn().unwrap();
    let mut input = lint.stdin.take().unwrap();
    input.write_all(LATE.as_bytes()).unwrap();
    drop(input);
    let output = lint.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(text, "standard input: Pipeline payments: ok\n");

    let mut graph = command(&["graph", ORDERS]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = graph.stdout(writer).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.is_empty(), "{text}");
}

#[test]
fn revisions_and_replays_need_a_whole_name_and_a_cluster() {
    for (name, says) in [
        (
            "orders",
            "\"orders\" is not NAMESPACE/NAME, such as shop/orders",
        ),
        (
            "shop/orders",
            "no kubeconfig says where the API server is: set KUBECONFIG",
        ),
    ] {
        for args in [
            &["pipeline", "history", name][..],
            &["replay", name, "clean", "--dry-run"],
            &["replay", name, "clean", "--cancel"],
        ] {
            let mut asks = command(args);
            asks.env("KUBECONFIG", "/nonexistent");
            asks.env_remove("KUBERNETES_SERVICE_HOST");
            let output = asks.output().unwrap();
            let text = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success() && text.contains(says), "{text}");
        }
    }
}
