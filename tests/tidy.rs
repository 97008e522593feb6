//! Rules of the design that a machine can see (docs/ARCHITECTURE.md, invariants; CONTRIBUTING.md).
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
    for folder in ["src", "xtask/src", "tests"] {
        files(&repo().join(folder), ".rs", &mut all);
    }
    all.into_iter().map(|path| (path.clone(), fs::read_to_string(&path).unwrap())).collect()
}

/// Without its tests.
fn production(text: &str) -> &str {
    text.split("#[cfg(test)]").next().unwrap()
}

const PURE: [&str; 7] = ["api.rs", "validate.rs", "desired.rs", "plan.rs", "status.rs", "identity.rs", "names.rs"];

fn is_pure(path: &Path) -> bool {
    let text = path.strip_prefix(repo()).unwrap().to_string_lossy().into_owned();
    let file = path.file_name().unwrap().to_string_lossy();
    let kind = text.starts_with("src/kinds/") && (PURE.contains(&file.as_ref()) || text.contains("/desired/"));
    kind || text.starts_with("src/kafka/")
        || ["src/conditions.rs", "src/names.rs", "src/labels.rs", "src/kinds/access.rs"].contains(&text.as_str())
}

#[test]
fn pure_files_have_no_io_clock_randomness_or_environment() {
    let mut checked = 0;
    for (path, text) in sources().iter().filter(|(path, _)| is_pure(path)) {
        checked += 1;
        for forbidden in
            ["async ", ".await", "kube::Client", "Timestamp::now", "SystemTime", "Instant::now", "rand::", "std::env", "std::fs", "tokio"]
        {
            assert!(!production(text).contains(forbidden), "{} is pure and has {forbidden:?}", path.display());
        }
    }
    assert!(checked > 25, "only {checked} pure files found: the layout changed, and this test with it");
}

#[test]
fn every_kind_has_the_same_files() {
    for kind in ["kafka_cluster", "topic", "user"] {
        let folder = repo().join("src/kinds").join(kind);
        for file in ["api.rs", "observe.rs", "validate.rs", "plan.rs", "apply.rs", "status.rs", "reconcile.rs"] {
            assert!(folder.join(file).exists(), "{kind} has no {file}");
        }
        assert!(folder.join("desired.rs").exists() || folder.join("desired/mod.rs").exists(), "{kind} has no desired");
    }
}

#[test]
fn only_apply_and_the_end_write_and_only_the_runtime_writes_status() {
    for (path, text) in sources() {
        let text = production(&text);
        let name = path.strip_prefix(repo()).unwrap().to_string_lossy().into_owned();
        if !name.starts_with("src/kinds/") {
            continue;
        }
        let writes = ["kube_io::apply(", "kube_io::delete(", ".upsert_scram(", ".create_topic(", ".create_acls("];
        let may_write = name.ends_with("/apply.rs") || name.ends_with("/cleanup.rs");
        assert!(may_write || !writes.iter().any(|write| text.contains(write)), "{name} writes");
        let gate = name.ends_with("kafka_cluster/apply.rs");
        assert!(gate || !text.contains("patch_status"), "{name} writes a status");
    }
}

#[test]
fn files_are_short_and_say_what_they_are() {
    for (path, text) in sources() {
        let lines = production(&text).lines().count();
        assert!(lines <= 600, "{} has {lines} lines of production code", path.display());
        assert!(text.starts_with("//!"), "{} does not begin with what it is", path.display());
    }
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
fn versions_are_said_once() {
    let text = fs::read_to_string(repo().join("deploy/versions.env")).unwrap();
    let version = |key: &str| text.lines().find_map(|line| line.strip_prefix(&format!("{key}="))).unwrap().to_owned();
    let modules = [
        ("kubernetes", "k8s.io/kubernetes", "KUBERNETES"),
        ("etcd", "go.etcd.io/etcd/server/v3", "ETCD"),
        ("coredns", "github.com/coredns/coredns", "COREDNS"),
        ("helm", "helm.sh/helm/v3", "HELM"),
        ("kubeconform", "github.com/yannh/kubeconform", "KUBECONFORM"),
        ("csi", "github.com/kubernetes-csi/external-provisioner/v6", "CSI_PROVISIONER"),
        ("csi", "github.com/kubernetes-csi/external-resizer/v2", "CSI_RESIZER"),
    ];
    for (folder, module, key) in modules {
        let module_file = fs::read_to_string(repo().join("deploy/local/go").join(folder).join("go.mod")).unwrap();
        let pinned = format!("{module} {}", version(key));
        assert!(module_file.contains(&pinned), "deploy/local/go/{folder}/go.mod does not pin {pinned}");
        assert!(repo().join("deploy/local/go").join(folder).join("go.sum").exists(), "{folder} has no checksums");
    }
    for key in ["KAFKA", "KAFKA_PREVIOUS"] {
        assert!(freehold::kafka::config::VERSIONS.contains(&version(key).as_str()), "{key} has no config list");
    }
}
