//! What is built once and cached: Kubernetes and its neighbours from their Go modules, Kafka's jars from Maven
//! Central, the operator.

use crate::cache::{Inputs, cached};
use crate::layout::{Layout, version};
use crate::prerequisites;
use anyhow::{Context, Result};
use ground::shell::{self, command};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// A Go program: its name, folder below deploy/local/go, package, key in versions.env.
const GO_PROGRAMS: [(&str, &str, &str, &str); 8] = [
    ("kubernetes", "kubernetes", ".", "KUBERNETES"),
    ("etcd", "etcd", "go.etcd.io/etcd/server/v3", "ETCD"),
    ("coredns", "coredns", "github.com/coredns/coredns", "COREDNS"),
    ("csi-driver", "csi", ".", "CSI_PROVISIONER"),
    ("csi-provisioner", "csi", "github.com/kubernetes-csi/external-provisioner/v6/cmd/csi-provisioner", "CSI_PROVISIONER"),
    ("csi-resizer", "csi", "github.com/kubernetes-csi/external-resizer/v2/cmd/csi-resizer", "CSI_RESIZER"),
    ("helm", "helm", "helm.sh/helm/v3/cmd/helm", "HELM"),
    ("kubeconform", "kubeconform", "github.com/yannh/kubeconform/cmd/kubeconform", "KUBECONFORM"),
];

/// The names that the one Kubernetes binary answers to.
const COMPONENTS: [&str; 6] = ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl"];

/// A folder with all Go programs by name.
pub fn go_programs(layout: &Layout) -> Result<PathBuf> {
    let mut folders = Vec::new();
    for (name, folder, package, key) in GO_PROGRAMS {
        folders.push((name, go_program(layout, name, folder, package, key)?));
    }
    let bin = layout.bin();
    std::fs::create_dir_all(&bin)?;
    let link = |target: &Path, name: &str| -> Result<()> {
        let path = bin.join(name);
        if std::fs::read_link(&path).is_ok_and(|found| found == target) {
            return Ok(());
        }
        let part = bin.join(format!("{name}.part"));
        let _ = std::fs::remove_file(&part);
        symlink(target, &part)?;
        std::fs::rename(&part, &path).with_context(|| format!("link {}", path.display()))
    };
    for (name, folder) in &folders {
        link(&folder.join(name), name)?;
    }
    for component in COMPONENTS {
        link(&folders[0].1.join("kubernetes"), component)?;
    }
    Ok(bin)
}

fn go_program(layout: &Layout, name: &str, folder: &str, package: &str, key: &str) -> Result<PathBuf> {
    let version = version(&layout.repo, key)?;
    let source = layout.repo.join("deploy/local/go").join(folder);
    let inputs = Inputs::default().text(&version).path(&source)?.key();
    cached(&layout.cache, &format!("go/{name}"), &format!("{version}-{inputs}"), |folder| {
        let mut flags = "-s -w".to_owned();
        if name == "kubernetes" {
            let minor = version.split('.').nth(1).unwrap_or_default();
            for (field, value) in [("gitVersion", version.as_str()), ("gitMajor", "1"), ("gitMinor", minor), ("gitTreeState", "clean")] {
                flags.push_str(&format!(" -X k8s.io/component-base/version.{field}={value}"));
            }
        }
        let log = layout.cache.join("logs").join(format!("go-{name}.log"));
        shell::logged(
            command("go", ["build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags", &flags, "-o"])
                .arg(folder.join(name))
                .arg(package)
                .env("CGO_ENABLED", "0")
                .current_dir(&source),
            &log,
        )
    })
}

/// Kafka's jars of one version.
pub fn kafka_jars(layout: &Layout, kafka: &str) -> Result<PathBuf> {
    let log4j = version(&layout.repo, "LOG4J")?;
    let pom = layout.repo.join("deploy/images/kafka/pom.xml");
    let key = Inputs::default().text(&log4j).path(&pom)?.key();
    cached(&layout.cache, "kafka-jars", &format!("{kafka}-{key}"), |folder| {
        shell::logged(
            command("mvn", ["-q", "-B", "-f"]).arg(&pom).args([
                format!("-Dkafka.version={kafka}"),
                format!("-Dlog4j.version={log4j}"),
                "dependency:copy-dependencies".into(),
                "-DincludeScope=runtime".into(),
                format!("-DoutputDirectory={}", folder.join("libs").display()),
            ]),
            &layout.cache.join("logs").join(format!("kafka-jars-{kafka}.log")),
        )
    })
}

/// The classes of the tests' own Kafka clients, for the Java of the images.
pub fn test_classes(layout: &Layout) -> Result<PathBuf> {
    java_classes(layout, "test-classes", &layout.repo.join("tests/e2e/java"))
}

/// What asks Kafka's own `kafka-reassign-partitions` about generated clusters: a Java and a class path, with a colon in between.
pub fn reassign_tool(layout: &Layout) -> Result<String> {
    let classes = java_classes(layout, "bench-classes", &layout.repo.join("benches/java"))?;
    let jars = kafka_jars(layout, &version(&layout.repo, "KAFKA")?)?;
    let java = prerequisites::jdk_of(layout, prerequisites::java_feature(layout)?)?.join("bin/java");
    Ok(format!("{}:{}:{}", java.display(), classes.display(), jars.join("libs/*").display()))
}

/// Java sources beside Kafka's jars, compiled.
fn java_classes(layout: &Layout, name: &str, source: &Path) -> Result<PathBuf> {
    let jars = kafka_jars(layout, &version(&layout.repo, "KAFKA")?)?;
    let javac = prerequisites::jdk_of(layout, prerequisites::java_feature(layout)?)?.join("bin/javac");
    let key = Inputs::default().text(&jars.to_string_lossy()).path(source)?.key();
    cached(&layout.cache, name, &key, |folder| {
        let mut compile = command(&javac.to_string_lossy(), ["--release", "17", "-cp"]);
        compile.arg(jars.join("libs/*")).arg("-d").arg(folder);
        for file in std::fs::read_dir(source)? {
            compile.arg(file?.path());
        }
        shell::logged(&mut compile, &layout.cache.join(format!("logs/{name}.log")))
    })
}

/// The operator's release binary.
pub fn operator(layout: &Layout) -> Result<PathBuf> {
    let log = layout.cache.join("logs/cargo-release.log");
    shell::logged(
        command("cargo", ["build", "--release", "--locked", "--package", "freehold", "--bin", "freehold"]).current_dir(&layout.repo),
        &log,
    )?;
    Ok(layout.target().join("release/freehold"))
}

/// cargo-deny, which checks licences, bans and sources of dependencies.
pub fn cargo_deny(layout: &Layout) -> Result<PathBuf> {
    let version = version(&layout.repo, "CARGO_DENY")?;
    let folder = cached(&layout.cache, "cargo-deny", &version, |folder| {
        let target = layout.cache.join("cargo-deny-target");
        let log = layout.cache.join("logs/cargo-deny.log");
        let mut install = command("cargo", ["install", "cargo-deny", "--locked", "--no-default-features", "--version", &version, "--root"]);
        shell::logged(install.arg(folder).env("CARGO_TARGET_DIR", &target), &log)?;
        Ok(std::fs::remove_dir_all(target)?)
    })?;
    Ok(folder.join("bin/cargo-deny"))
}
