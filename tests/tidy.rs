//! Checks the rules of the design that can be checked automatically (docs/ARCHITECTURE.md,
//! invariants; CONTRIBUTING.md).
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::path::{Path, PathBuf};

fn repo() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn files(folder: &Path, ending: &str, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, ending, out);
        } else if path.to_string_lossy().ends_with(ending) {
            out.push(path);
        }
    }
}

fn sources() -> Vec<(PathBuf, String)> {
    let mut all = Vec::new();
    for folder in ["src", "crates", "runner", "xtask/src", "tests"] {
        files(&repo().join(folder), ".rs", &mut all);
    }
    all.into_iter()
        .map(|path| (path.clone(), fs::read_to_string(&path).unwrap()))
        .collect()
}

/// The text without its tests.
fn production(text: &str) -> &str {
    text.split("#[cfg(test)]").next().unwrap()
}

fn relative(path: &Path) -> String {
    path.strip_prefix(repo())
        .unwrap()
        .to_string_lossy()
        .into_owned()
}

/// Whether the module comment at the top of the file has the word for it.
fn says_it_is_pure(text: &str) -> bool {
    let head = text.lines().take_while(|line| line.starts_with("//!"));
    head.flat_map(|line| line.split(|letter: char| !letter.is_alphabetic()))
        .any(|word| word.eq_ignore_ascii_case("pure"))
}

/// Files that must be pure because of their place: Kafka's rules, the API types, and for each kind
/// the files that decide.
fn is_pure_by_layout(name: &str) -> bool {
    let of_a_kind = name
        .strip_prefix("src/kinds/")
        .and_then(|rest| rest.split('/').nth(1));
    let decides = of_a_kind.is_some_and(|part| {
        [
            "validate",
            "desired",
            "resources",
            "plan",
            "status",
            "preview",
        ]
        .contains(&part.trim_end_matches(".rs"))
    });
    decides || name.starts_with("crates/kafka/src/") || name.starts_with("src/api/")
}

#[test]
fn pure_files_have_no_io_clock_randomness_or_environment() {
    let (mut by_layout, mut by_word) = (0, 0);
    for (path, text) in sources() {
        let name = relative(&path);
        let layout = is_pure_by_layout(&name);
        let says_so = name.starts_with("src/") && says_it_is_pure(&text);
        if !(layout || says_so) {
            continue;
        }
        by_layout += u32::from(layout);
        by_word += u32::from(!layout);
        for forbidden in [
            "async ",
            ".await",
            "kube::Client",
            "Timestamp::now",
            "SystemTime",
            "Instant::now",
            "rand::",
            "std::env",
            "std::fs",
            "tokio",
        ] {
            assert!(
                !production(&text).contains(forbidden),
                "{name} is pure and has {forbidden:?}"
            );
        }
    }
    assert!(
        by_layout > 50,
        "only {by_layout} files are pure by the layout: it changed, and this test with it"
    );
    assert!(
        by_word > 20,
        "only {by_word} other files say that they are pure"
    );
}

/// The crate of Kafka's rules cannot do I/O, because it depends on no runtime, no client and no
/// clock.
#[test]
fn kafkas_rules_depend_on_nothing_that_does_io() {
    let manifest = fs::read_to_string(repo().join("crates/kafka/Cargo.toml")).unwrap();
    let dependencies = manifest
        .split("[dependencies]")
        .nth(1)
        .unwrap()
        .split("\n[")
        .next()
        .unwrap();
    assert!(dependencies.lines().count() > 3, "it has dependencies");
    for forbidden in [
        "tokio", "kube", "freehold", "futures", "rand", "reqwest", "hyper",
    ] {
        assert!(
            !dependencies.lines().any(|line| line.starts_with(forbidden)),
            "crates/kafka depends on {forbidden}"
        );
    }
}

/// Ways to read or to change a field of an object as JSON.
const RAW_JSON: [&str; 4] = [
    ".value[",
    ".value.pointer(",
    ".value.get(",
    ".value.as_object",
];

#[test]
fn raw_json_ends_where_objects_are_observed() {
    let may_read = |name: &str| {
        name.starts_with("src/kubernetes/")
            || ["/observe/", "/observed/", "/observe.rs", "/observed.rs"]
                .iter()
                .any(|place| name.contains(place))
    };
    let mut readers = 0;
    for (path, text) in sources() {
        let name = relative(&path);
        if !name.starts_with("src/") {
            continue;
        }
        // A chain of calls may be broken into several lines.
        let text: String = production(&text).split_whitespace().collect();
        let found = RAW_JSON.iter().find(|raw| text.contains(**raw));
        assert!(
            may_read(&name) || found.is_none(),
            "{name} reads raw JSON ({found:?}): observed/ has typed facts, and kubernetes/ has \
             functions that change an object"
        );
        readers += u32::from(found.is_some());
    }
    assert!(
        readers >= 3,
        "only {readers} files read raw JSON: the field has another name now"
    );
}

/// Calls that change something in Kubernetes or in Kafka.
const WRITES: [&str; 26] = [
    "kubernetes::apply(",
    "kubernetes::remove(",
    "kubernetes::delete(",
    "kubernetes::orphan(",
    "api.patch(",
    "api.replace(",
    "api.create(",
    "api.delete(",
    ".create_topic(",
    ".create_partitions(",
    ".alter_config(",
    ".alter_configs(",
    ".reassign(",
    ".elect_preferred_leaders(",
    ".move_folders(",
    ".unregister_broker(",
    ".add_voter(",
    ".remove_voter(",
    ".upgrade_features(",
    ".create_acls(",
    ".delete_groups(",
    ".delete_records(",
    ".remove_members(",
    ".fence_producers(",
    ".alter_scram(",
    ".alter_quotas(",
];

/// Names of the files that may write on behalf of a kind.
const WRITERS: [&str; 5] = [
    "apply.rs",
    "execute/mod.rs",
    "cleanup.rs",
    "elections.rs",
    "revocation.rs",
];

#[test]
fn only_the_writers_of_a_kind_write_and_only_the_runtime_writes_status() {
    let mut writers = 0;
    for (path, text) in sources() {
        let (name, text) = (relative(&path), production(&text));
        if !["src/kinds/", "src/tenancy/", "src/clusters/", "src/api/"]
            .iter()
            .any(|folder| name.starts_with(folder))
        {
            continue;
        }
        let written = WRITES.iter().find(|write| text.contains(**write));
        let may_write = WRITERS.iter().any(|writer| name.ends_with(writer));
        assert!(may_write || written.is_none(), "{name} writes: {written:?}");
        writers += u32::from(written.is_some());
        // A pod's readiness gate is part of its status.
        let gate = name.starts_with("src/kinds/kafka_cluster/") && name.ends_with("execute/mod.rs");
        assert!(
            gate || !text.contains("patch_status"),
            "{name} writes a status"
        );
    }
    assert!(
        writers >= 5,
        "only {writers} files write: the calls have other names now, and this test must know them"
    );
}

#[test]
fn files_are_short_and_say_what_they_are() {
    for (path, text) in sources() {
        let lines = production(&text).lines().count();
        // A test file holds many cases of one model, and is read one case at a time.
        let max = if relative(&path).starts_with("tests/") {
            1000
        } else {
            600
        };
        assert!(
            lines <= max,
            "{} has {lines} lines of production code",
            path.display()
        );
        assert!(
            text.starts_with("//!"),
            "{} does not begin with what it is",
            path.display()
        );
    }
}

/// A function of more lines does several things, and each of them has a name.
const FUNCTION_LINES_MAX: usize = 70;

/// The functions of a formatted file: name and number of lines, from `fn` to the closing brace.
fn functions(text: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let rest = line.trim_start();
        let indent = &line[..line.len() - rest.len()];
        let words: Vec<&str> = rest.split(' ').collect();
        let is_modifier = |word: &&&str| {
            word.starts_with("pub") || ["async", "const", "super)", "crate)"].contains(*word)
        };
        let skipped = words.iter().take_while(is_modifier).count();
        let (Some(&"fn"), Some(name)) = (words.get(skipped), words.get(skipped + 1)) else {
            continue;
        };
        if rest.ends_with(';') || rest.ends_with('}') {
            continue;
        }
        let end = format!("{indent}}}");
        // A function of a trait may have no body.
        let is_end = |line: &&str| {
            **line == *end || (line.starts_with(&format!("{indent})")) && line.ends_with(';'))
        };
        let length = lines[start..]
            .iter()
            .position(is_end)
            .map_or(0, |last| last + 1);
        let name: String = name
            .chars()
            .take_while(|letter| letter.is_alphanumeric() || *letter == '_')
            .collect();
        found.push((name, length));
    }
    found
}

#[test]
fn functions_are_short() {
    let (mut count, mut long) = (0, Vec::new());
    for (path, text) in sources() {
        let name = relative(&path);
        let in_src = name.starts_with("crates/") && name.contains("/src/");
        let is_product = in_src || name.starts_with("src/") || name.starts_with("runner/src/");
        if !is_product {
            continue;
        }
        for (function, lines) in functions(production(&text)) {
            count += 1;
            if lines > FUNCTION_LINES_MAX {
                long.push(format!("{name}: {function} has {lines} lines"));
            }
        }
    }
    assert!(long.is_empty(), "{}", long.join("\n"));
    assert!(
        count > 1000,
        "only {count} functions found: this test does not see them any more"
    );
}

#[test]
fn the_length_of_a_function_is_counted_by_its_braces() {
    let text = "impl A {\n    pub(super) async fn long<T>(\n        a: T,\n    ) {\n        b\n    }\n}\nfn short() {}\n";
    assert_eq!(functions(text), [("long".to_owned(), 5)]);
}

#[test]
fn names_are_nouns_of_the_field() {
    for (path, _) in sources() {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        for word in ["util", "helper", "common", "manager", "misc"] {
            assert!(!name.contains(word), "{}: no {word}", path.display());
        }
    }
}

#[test]
fn java_sources_compile_under_every_locale() {
    let mut sources = Vec::new();
    for folder in ["deploy/images", "benches", "tests/e2e/java", "xtask/java"] {
        files(&repo().join(folder), ".java", &mut sources);
    }
    assert!(
        sources.len() >= 8,
        "only {} Java sources found",
        sources.len()
    );
    for path in sources {
        let text = fs::read_to_string(&path).unwrap();
        // Before Java 18 javac reads sources in the locale's encoding, and a container has no
        // locale.
        assert!(
            text.is_ascii(),
            "{} has characters that are not ASCII",
            path.display()
        );
    }
    for (file, compiler) in [
        ("xtask/src/builds.rs", "javac.to_string_lossy()"),
        ("deploy/images/kafka/Build.java", "bin/javac\""),
    ] {
        let text = fs::read_to_string(repo().join(file)).unwrap();
        // However its lines are broken.
        let text: String = text.split_whitespace().collect();
        let calls: Vec<&str> = text.split(compiler).skip(1).collect();
        assert!(
            !calls.is_empty(),
            "{file} calls no compiler: this test is not about it any more"
        );
        let says_it = |call: &&str| {
            call.split(';')
                .next()
                .is_some_and(|call| call.contains(r#""-encoding","UTF-8""#))
        };
        assert!(
            calls.iter().all(says_it),
            "{file} does not say the sources' encoding"
        );
    }
}

#[test]
fn versions_are_said_once() {
    let text = fs::read_to_string(repo().join("deploy/versions.env")).unwrap();
    let version = |key: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(&format!("{key}=")))
            .unwrap()
            .to_owned()
    };
    let modules = [
        ("kubernetes", "k8s.io/kubernetes", "KUBERNETES"),
        ("etcd", "go.etcd.io/etcd/server/v3", "ETCD"),
        ("coredns", "github.com/coredns/coredns", "COREDNS"),
        ("helm", "helm.sh/helm/v3", "HELM"),
        ("kubeconform", "github.com/yannh/kubeconform", "KUBECONFORM"),
        (
            "kube-router",
            "github.com/cloudnativelabs/kube-router/v2",
            "KUBE_ROUTER",
        ),
        (
            "registry",
            "github.com/google/go-containerregistry",
            "REGISTRY",
        ),
        (
            "csi",
            "github.com/kubernetes-csi/external-provisioner/v6",
            "CSI_PROVISIONER",
        ),
        (
            "csi",
            "github.com/kubernetes-csi/external-resizer/v2",
            "CSI_RESIZER",
        ),
    ];
    for (folder, module, key) in modules {
        let module_file =
            fs::read_to_string(repo().join("deploy/local/go").join(folder).join("go.mod")).unwrap();
        let pinned = format!("{module} {}", version(key));
        assert!(
            module_file.contains(&pinned),
            "deploy/local/go/{folder}/go.mod does not pin {pinned}"
        );
        assert!(
            repo()
                .join("deploy/local/go")
                .join(folder)
                .join("go.sum")
                .exists(),
            "{folder} has no checksums"
        );
    }
    for key in ["KAFKA", "KAFKA_PREVIOUS"] {
        assert!(
            freehold_kafka::config::VERSIONS.contains(&version(key).as_str()),
            "{key} has no config list"
        );
    }
}

#[test]
fn every_file_of_tests_is_in_the_one_program() {
    let all = fs::read_to_string(repo().join("tests/all.rs")).unwrap();
    for entry in fs::read_dir(repo().join("tests")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        if path.extension().is_some_and(|ending| ending == "rs") && name != "all" {
            let line = format!("mod {name};");
            assert!(
                all.lines().any(|found| found == line),
                "tests/all.rs has no {line}"
            );
        }
    }
}
