//! Builds that are cached: Kubernetes and related programs from their Go modules, Kafka's jars from
//! Maven Central, the operator and the runner of Pipelines.

use crate::cache::{Inputs, cached};
use crate::cargo::{Profile, cargo, target};
use crate::layout::{Layout, version};
use crate::prerequisites;
use crate::registries::fetch;
use anyhow::{Context, Result};
use freehold_e2e::shell::{self, command};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// A Go program: its name, its folder below deploy/local/go, its package, and its key in
/// versions.env.
const GO_PROGRAMS: [(&str, &str, &str, &str); 10] = [
    ("kubernetes", "kubernetes", ".", "KUBERNETES"),
    ("etcd", "etcd", "go.etcd.io/etcd/server/v3", "ETCD"),
    (
        "coredns",
        "coredns",
        "github.com/coredns/coredns",
        "COREDNS",
    ),
    ("csi-driver", "csi", ".", "CSI_PROVISIONER"),
    (
        "csi-provisioner",
        "csi",
        "github.com/kubernetes-csi/external-provisioner/v6/cmd/csi-provisioner",
        "CSI_PROVISIONER",
    ),
    (
        "csi-resizer",
        "csi",
        "github.com/kubernetes-csi/external-resizer/v2/cmd/csi-resizer",
        "CSI_RESIZER",
    ),
    (
        "kube-router",
        "kube-router",
        "github.com/cloudnativelabs/kube-router/v2/cmd/kube-router",
        "KUBE_ROUTER",
    ),
    ("helm", "helm", "helm.sh/helm/v3/cmd/helm", "HELM"),
    (
        "kubeconform",
        "kubeconform",
        "github.com/yannh/kubeconform/cmd/kubeconform",
        "KUBECONFORM",
    ),
    (
        "registry",
        "registry",
        "github.com/google/go-containerregistry/cmd/registry",
        "REGISTRY",
    ),
];

/// The components in the one Kubernetes binary, by the names with which it is called.
const COMPONENTS: [&str; 6] = [
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "kubectl",
];

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

fn go_program(
    layout: &Layout,
    name: &str,
    folder: &str,
    package: &str,
    key: &str,
) -> Result<PathBuf> {
    let version = version(&layout.repo, key)?;
    let source = layout.repo.join("deploy/local/go").join(folder);
    let inputs = Inputs::default().text(&version).path(&source)?.key();
    cached(
        &layout.cache,
        &format!("go/{name}"),
        &format!("{version}-{inputs}"),
        |folder| {
            let mut flags = "-s -w".to_owned();
            if name == "kubernetes" {
                let minor = version.split('.').nth(1).unwrap_or_default();
                for (field, value) in [
                    ("gitVersion", version.as_str()),
                    ("gitMajor", "1"),
                    ("gitMinor", minor),
                    ("gitTreeState", "clean"),
                ] {
                    flags.push_str(&format!(
                        " -X k8s.io/component-base/version.{field}={value}"
                    ));
                }
            }
            let log = layout.cache.join("logs").join(format!("go-{name}.log"));
            let words = ["build", "-mod=readonly", "-trimpath", "-buildvcs=false"];
            let mut build = command("go", words);
            build
                .args(["-ldflags", &flags, "-o"])
                .arg(folder.join(name))
                .arg(package)
                .env("CGO_ENABLED", "0")
                .current_dir(&source);
            fetch(&mut build, &log)
        },
    )
}

/// Kafka's jars of one version.
pub fn kafka_jars(layout: &Layout, kafka: &str) -> Result<PathBuf> {
    let log4j = version(&layout.repo, "LOG4J")?;
    let pom = layout.repo.join("deploy/images/kafka/pom.xml");
    let key = Inputs::default().text(&log4j).path(&pom)?.key();
    cached(
        &layout.cache,
        "kafka-jars",
        &format!("{kafka}-{key}"),
        |folder| {
            fetch(
                command("mvn", ["-q", "-B", "-f"]).arg(&pom).args([
                    format!("-Dkafka.version={kafka}"),
                    format!("-Dlog4j.version={log4j}"),
                    "dependency:copy-dependencies".into(),
                    "-DincludeScope=runtime".into(),
                    format!("-DoutputDirectory={}", folder.join("libs").display()),
                ]),
                &layout
                    .cache
                    .join("logs")
                    .join(format!("kafka-jars-{kafka}.log")),
            )
        },
    )
}

/// What is needed to run a broker by hand: Java, and the folder of Kafka's jars.
pub fn broker(layout: &Layout) -> Result<(PathBuf, PathBuf)> {
    let jars = kafka_jars(layout, &version(&layout.repo, "KAFKA")?)?;
    let jdk = prerequisites::jdk_of(layout, prerequisites::java_feature(layout)?)?;
    Ok((jdk.join("bin/java"), jars.join("libs")))
}

/// The classes of the tests' own Kafka clients, compiled for the Java of the images.
pub fn test_classes(layout: &Layout) -> Result<PathBuf> {
    java_classes(layout, "test-classes", &layout.repo.join("tests/e2e/java"))
}

/// What is needed to run Kafka's own `kafka-reassign-partitions` on generated clusters: the path of
/// Java and a class path, with a colon in between.
pub fn reassign_tool(layout: &Layout) -> Result<String> {
    let classes = java_classes(layout, "bench-classes", &layout.repo.join("benches/java"))?;
    let jars = kafka_jars(layout, &version(&layout.repo, "KAFKA")?)?;
    let java =
        prerequisites::jdk_of(layout, prerequisites::java_feature(layout)?)?.join("bin/java");
    Ok(format!(
        "{}:{}:{}",
        java.display(),
        classes.display(),
        jars.join("libs/*").display()
    ))
}

/// What is needed to run MirrorMaker 2 with the transform of the benchmark: the path of Java and a
/// class path, with a colon in between.
pub fn mirror(layout: &Layout) -> Result<String> {
    let source = layout.repo.join("benches/mirror");
    let classes = java_classes(layout, "mirror-classes", &source.join("java"))?;
    let mirror = mirror_jars(layout, &source.join("pom.xml"))?;
    let (java, libs) = broker(layout)?;
    Ok(format!(
        "{}:{}:{}:{}:{}",
        java.display(),
        classes.display(),
        // The names of the transforms, where Connect looks for them.
        source.display(),
        mirror.join("libs/*").display(),
        libs.join("*").display()
    ))
}

/// What MirrorMaker 2 has beside Kafka's jars.
fn mirror_jars(layout: &Layout, pom: &Path) -> Result<PathBuf> {
    let kafka = version(&layout.repo, "KAFKA")?;
    let key = Inputs::default().path(pom)?.key();
    let log = layout.cache.join("logs/mirror-jars.log");
    let build = |folder: &Path| {
        let mut copy = command("mvn", ["-q", "-B", "-f"]);
        copy.arg(pom).args([
            format!("-Dkafka.version={kafka}"),
            "dependency:copy-dependencies".into(),
            "-DincludeScope=runtime".into(),
            "-DexcludeTransitive=true".into(),
            format!("-DoutputDirectory={}", folder.join("libs").display()),
        ]);
        fetch(&mut copy, &log)
    };
    cached(
        &layout.cache,
        "mirror-jars",
        &format!("{kafka}-{key}"),
        build,
    )
}

/// Compiles Java sources against Kafka's jars.
fn java_classes(layout: &Layout, name: &str, source: &Path) -> Result<PathBuf> {
    let jars = kafka_jars(layout, &version(&layout.repo, "KAFKA")?)?;
    let javac =
        prerequisites::jdk_of(layout, prerequisites::java_feature(layout)?)?.join("bin/javac");
    let key = Inputs::default()
        .text(&jars.to_string_lossy())
        .path(source)?
        .key();
    cached(&layout.cache, name, &key, |folder| {
        let mut compile = command(
            &javac.to_string_lossy(),
            ["-encoding", "UTF-8", "--release", "17", "-cp"],
        );
        compile.arg(jars.join("libs/*")).arg("-d").arg(folder);
        for file in std::fs::read_dir(source)? {
            compile.arg(file?.path());
        }
        shell::logged(&mut compile, &layout.cache.join(format!("logs/{name}.log")))
    })
}

/// What is built together for the local cluster: in two commands, cargo could give a dependency
/// other features in each, and compile it and what needs it (VRL) twice. The operator of tests can
/// fail on purpose; what is published cannot.
const LOCAL: [&str; 6] = [
    "--package",
    "freehold",
    "--package",
    "freehold-runner",
    "--features",
    "freehold/fault-injection",
];

/// What is published is built one by one, so that none gets a feature that another asks for.
const OPERATOR: [&str; 2] = ["--package", "freehold"];
const RUNNER: [&str; 2] = ["--package", "freehold-runner"];

/// Builds the operator's binary.
pub fn operator(layout: &Layout, profile: Profile) -> Result<PathBuf> {
    match profile {
        Profile::Local => binary(layout, profile.name(), &LOCAL, "freehold"),
        Profile::Release => binary(layout, profile.name(), &OPERATOR, "freehold"),
    }
}

/// Builds the binary of the runner. What is published has a profile of its own.
pub fn runner(layout: &Layout, profile: Profile) -> Result<PathBuf> {
    match profile {
        Profile::Local => binary(layout, profile.name(), &LOCAL, "freehold-runner"),
        Profile::Release => binary(layout, "runner", &RUNNER, "freehold-runner"),
    }
}

/// Builds packages in a profile of Cargo.toml, and returns the path of one binary.
fn binary(layout: &Layout, profile: &str, packages: &[&str], name: &str) -> Result<PathBuf> {
    let log = layout.cache.join(format!("logs/cargo-{profile}.log"));
    let mut build = cargo(
        layout,
        ["build", "--locked", "--bins", "--profile", profile],
    )?;
    shell::logged(build.args(packages), &log)?;
    Ok(target(layout)?.join(profile).join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_in_what_tests_run_and_not_in_what_is_published() {
        let has_faults = |packages: &[&str]| packages.contains(&"freehold/fault-injection");
        assert!(has_faults(&LOCAL));
        assert!(!has_faults(&OPERATOR) && !has_faults(&RUNNER));
    }
}
