//! `cargo xtask images`: builds images for a user's own cluster from a clone. It builds the images
//! of the operator, of the runner and of Kafka, names them for a registry, pushes them on request, and prints the
//! values with which the chart uses them.

use crate::c_library::runtime_base;
use crate::cargo::Profile;
use crate::images::{self, Image};
use crate::install::repository_and_tag;
use crate::layout::Layout;
use crate::{builds, prerequisites};
use anyhow::{Context, Result, bail, ensure};
use freehold_e2e::shell::{self, command};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The path in a registry that is the default of the charts.
const CHART_REGISTRY: &str = "freehold";
const OPERATOR: &str = "freehold";
const RUNNER: &str = "runner";
const KAFKA: &str = "kafka";

#[derive(clap::Args)]
pub struct Options {
    /// Where the images' names begin: a registry and a path in it, such as
    /// registry.example.com/kafka-team. Without it they are named as the chart names them.
    #[arg(long)]
    registry: Option<String>,
    /// Push them to the registry. Log in by the engine first (`buildah login`, `docker login`).
    #[arg(long, requires = "registry")]
    push: bool,
    /// The tag of the images of the operator and the runner; without it the version of this clone.
    /// Kafka's images are tagged by Kafka's versions.
    #[arg(long)]
    tag: Option<String>,
    /// What builds and pushes. buildah takes its bases from Debian's packages, the others from
    /// public images. Without it the first that is on PATH, in this order.
    #[arg(long, value_enum)]
    engine: Option<Engine>,
    /// For which machines, such as linux/amd64. Without it for machines like this one.
    #[arg(long, value_delimiter = ',')]
    platform: Vec<String>,
    /// Versions of Kafka; without it all that Freehold runs.
    #[arg(long, value_delimiter = ',')]
    kafka: Vec<String>,
    /// Write the chart's values into this file too.
    #[arg(long)]
    values: Option<PathBuf>,
    /// The operator's binary, where it is compiled already. Without it this clone is compiled as it
    /// is published.
    #[arg(long)]
    binary: Option<PathBuf>,
    /// The runner's binary, likewise.
    #[arg(long)]
    runner_binary: Option<PathBuf>,
}

/// An image that is built from a clone, with the name that it gets.
struct Named {
    name: String,
    content: Content,
}

enum Content {
    /// The operator's binary.
    Operator(PathBuf),
    /// The runner's binary.
    Runner(PathBuf),
    /// A version of Kafka.
    Kafka(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Engine {
    Buildah,
    Podman,
    Docker,
}

impl Engine {
    const ALL: [Self; 3] = [Self::Buildah, Self::Podman, Self::Docker];

    fn program(self) -> &'static str {
        match self {
            Self::Buildah => "buildah",
            Self::Podman => "podman",
            Self::Docker => "docker",
        }
    }
}

/// An operating system and a processor architecture, as registries name them.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Platform(String);

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Platform {
    fn of_this_machine() -> Self {
        let processor = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Self(format!("{}/{processor}", std::env::consts::OS))
    }

    fn processor(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }
}

/// Refuses a platform that cannot be built on `here`, and says what to do instead.
fn refuse_other_platforms(wanted: &[String], here: &Platform, registry: &str) -> Result<()> {
    let Some(other) = wanted.iter().find(|wanted| **wanted != here.0) else {
        return Ok(());
    };
    let other = Platform(other.clone());
    let (there, here_too) = (
        format!("{registry}/{}", other.processor()),
        format!("{registry}/{}", here.processor()),
    );
    bail!(
        "an image for {other} cannot be built on this machine, which is {here}: programs are \
         compiled for the machine that compiles them, and Kafka is started once to write its \
         start-up archive. Push from a {other} machine to --registry {there}, from this one to \
         --registry {here_too}, and join each pair by \
         `docker manifest create {registry}/… {here_too}/… {there}/…`"
    )
}

/// Checks that a registry accepts these names. Runs before anything is built.
fn check_names(registry: &str, tag: &str) -> Result<()> {
    ensure!(
        !registry.contains("://"),
        "--registry {registry}: leave out {}",
        registry.split_inclusive("://").next().unwrap_or_default()
    );
    let path = registry.split_once('/').map_or(registry, |(_, path)| path);
    let is_taken = |letter: char| {
        letter.is_ascii_lowercase() || letter.is_ascii_digit() || "._-/".contains(letter)
    };
    ensure!(
        !registry.is_empty()
            && !registry.ends_with('/')
            && path
                .chars()
                .all(|letter| is_taken(letter) || (path == registry && letter == ':')),
        "--registry {registry}: a host and a path of lower-case letters, digits, '.', '_', '-' \
         and '/', such as registry.example.com/kafka-team"
    );
    let of_tag = |letter: char| letter.is_ascii_alphanumeric() || "._-".contains(letter);
    ensure!(
        (1..=128).contains(&tag.len()) && tag.chars().all(of_tag) && !tag.starts_with(['.', '-']),
        "--tag {tag}: at most 128 letters, digits, '.', '_' and '-', and no '.' or '-' at the \
         beginning"
    );
    Ok(())
}

/// A registry on this machine uses HTTP; Docker assumes this too.
fn is_on_loopback(registry: &str) -> bool {
    let host = registry.split('/').next().unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    name == "localhost" || name.starts_with("127.") || name == "[::1]"
}

pub fn publish(layout: &Layout, options: &Options) -> Result<()> {
    let registry = options.registry.as_deref().unwrap_or(CHART_REGISTRY);
    let tag = options.tag.as_deref().unwrap_or(env!("CARGO_PKG_VERSION"));
    check_names(registry, tag)?;
    let here = Platform::of_this_machine();
    refuse_other_platforms(&options.platform, &here, registry)?;
    ensure!(
        std::env::consts::OS == "linux",
        "images are built on Linux: the operator is compiled for the machine that compiles it"
    );
    let known = images::kafka_versions(layout)?;
    if let Some(other) = options
        .kafka
        .iter()
        .find(|version| !known.contains(version))
    {
        bail!("--kafka {other}: Freehold runs {}", known.join(" and "));
    }
    let engine = engine(options.engine)?;
    let versions = if options.kafka.is_empty() {
        known.to_vec()
    } else {
        options.kafka.clone()
    };

    let images = wanted(layout, options, registry, tag, versions)?;
    build(layout, engine, &here, &images)?;
    for name in images.iter().map(|image| &image.name) {
        if options.push {
            let mut push = match engine {
                Engine::Buildah => images::buildah(layout),
                other => command(other.program(), [""; 0]),
            };
            shell::show(push.args(push_words(engine, registry)).arg(name))?;
        }
        println!("{} {name}", if options.push { "pushed" } else { "built" });
    }
    if engine == Engine::Buildah && options.push {
        // The archives in the cache are enough to create these names again.
        let names = images.iter().map(|image| &image.name);
        shell::run(images::buildah(layout).arg("rmi").args(names))?;
    }
    say_how_to_install(options, engine, layout, &values(&images, &known))
}

/// The images of a release. Programs that are not given are compiled.
fn wanted(
    layout: &Layout,
    options: &Options,
    registry: &str,
    tag: &str,
    versions: Vec<String>,
) -> Result<Vec<Named>> {
    let operator = match &options.binary {
        Some(binary) => binary.clone(),
        None => builds::operator(layout, Profile::Release)?,
    };
    let runner = match &options.runner_binary {
        Some(binary) => binary.clone(),
        None => builds::runner(layout, Profile::Release)?,
    };
    let kafka = versions.into_iter().map(|version| Named {
        name: format!("{registry}/{KAFKA}:{version}"),
        content: Content::Kafka(version),
    });
    let programs = [
        (OPERATOR, Content::Operator(operator)),
        (RUNNER, Content::Runner(runner)),
    ]
    .map(|(repository, content)| Named {
        name: format!("{registry}/{repository}:{tag}"),
        content,
    });
    Ok(kafka.chain(programs).collect())
}

/// Builds images into the engine's store.
fn build(layout: &Layout, engine: Engine, here: &Platform, images: &[Named]) -> Result<()> {
    if engine == Engine::Buildah {
        let java = java(layout)?;
        for Named { name, content } in images {
            let image = match content {
                Content::Operator(binary) => images::operator(layout, binary)?,
                Content::Runner(binary) => images::runner(layout, binary)?,
                Content::Kafka(version) => images::kafka(layout, version, java)?,
            };
            named(layout, &image, name)?;
        }
        return Ok(());
    }
    for Named { name, content } in images {
        let (binary, source) = match content {
            Content::Operator(binary) => (binary, images::operator_source(layout)),
            Content::Runner(binary) => (binary, images::runner_source(layout)),
            Content::Kafka(version) => {
                build_kafka(layout, engine, here, version, name)?;
                continue;
            }
        };
        build_binary(layout, engine, here, binary, &source, name)?;
    }
    Ok(())
}

/// The requested engine, or the first one that is installed.
fn engine(asked: Option<Engine>) -> Result<Engine> {
    let is_here = |engine: &Engine| shell::succeeds(&mut command(engine.program(), ["--version"]));
    let Some(asked) = asked else {
        let found = Engine::ALL.into_iter().find(is_here);
        return found.context("none of buildah, podman and docker is on PATH: install one of them");
    };
    ensure!(
        is_here(&asked),
        "{} is not on PATH: install it, or name another --engine",
        asked.program()
    );
    Ok(asked)
}

/// The Java version of the images, if buildah's bases can be built: they use Debian's packages and
/// support only one architecture.
fn java(layout: &Layout) -> Result<u32> {
    let is_debian = Path::new("/usr/bin/dpkg").exists() && Path::new("/usr/bin/apt-get").exists();
    let is_root = shell::output(&mut command("id", ["-u"]))? == "0";
    ensure!(
        is_debian && is_root && std::env::consts::ARCH == "x86_64",
        "with buildah the images are made of Debian's packages: that needs Debian, root and an \
         x86-64 processor. Run it with sudo there, or \
         give --engine podman or docker"
    );
    prerequisites::java_feature(layout)
}

/// Loads an image from the cache into buildah's store under another name.
fn named(layout: &Layout, image: &Image, name: &str) -> Result<()> {
    let own = images::in_store(layout, image)?;
    shell::run(images::buildah(layout).args(["tag", &own, name]))?;
    // If an image has two names, this removes only the first one.
    shell::run(images::buildah(layout).args(["rmi", &own]))
}

fn push_words(engine: Engine, registry: &str) -> Vec<String> {
    let mut words = vec!["push".to_owned()];
    if engine != Engine::Docker && is_on_loopback(registry) {
        words.push("--tls-verify=false".into());
    }
    words
}

/// The command that builds `context/Containerfile` with an engine other than buildah.
fn build_command(
    engine: Engine,
    here: &Platform,
    args: &[(&str, &str)],
    context: &Path,
    name: &str,
) -> Command {
    let mut build = command(
        engine.program(),
        ["build", "--platform", &here.0, "--tag", name],
    );
    for (key, value) in args {
        build.arg("--build-arg").arg(format!("{key}={value}"));
    }
    build
        .arg("--file")
        .arg(context.join("Containerfile"))
        .arg(context);
    build
}

/// Creates a folder for a build with these parts in it.
fn context(layout: &Layout, name: &str, parts: &[&Path]) -> Result<PathBuf> {
    let context = layout.cache.join("contexts").join(name);
    if context.exists() {
        fs::remove_dir_all(&context)?;
    }
    fs::create_dir_all(&context)?;
    for part in parts {
        images::copy_tree(part, &context)?;
    }
    // Pods run as another user than the one that builds, whose umask may give other users no read
    // permission.
    shell::run(command("chmod", ["-R", "go+rX"]).arg(&context))?;
    Ok(context)
}

/// The image of one binary; `source` is its Containerfile.
fn build_binary(
    layout: &Layout,
    engine: Engine,
    here: &Platform,
    binary: &Path,
    source: &Path,
    name: &str,
) -> Result<()> {
    let base = runtime_base(&fs::read(binary)?)?;
    let context = context(layout, "binary", &[binary, source])?;
    shell::show(&mut build_command(
        engine,
        here,
        &[("RUNTIME_BASE", base)],
        &context,
        name,
    ))?;
    Ok(fs::remove_dir_all(context)?)
}

fn build_kafka(
    layout: &Layout,
    engine: Engine,
    here: &Platform,
    version: &str,
    name: &str,
) -> Result<()> {
    ensure!(
        shell::succeeds(&mut command("mvn", ["--version"])),
        "mvn is not on PATH: install Maven, which gets Kafka's jars"
    );
    let jars = builds::kafka_jars(layout, version)?;
    let context = context(
        layout,
        KAFKA,
        &[
            &layout.repo.join("deploy/images/kafka/."),
            &jars.join("libs"),
        ],
    )?;
    shell::show(&mut build_command(engine, here, &[], &context, name))?;
    Ok(fs::remove_dir_all(context)?)
}

/// The chart's values for these images, as YAML. They remove the chart's default image of each
/// version that was not built.
fn values(images: &[Named], known: &[String]) -> String {
    let mut text = String::new();
    for Named { name, content } in images {
        let key = match content {
            Content::Operator(_) => "image",
            Content::Runner(_) => "runnerImage",
            Content::Kafka(_) => continue,
        };
        let (repository, tag) = repository_and_tag(name);
        text.push_str(&format!(
            "{key}:\n  repository: {repository}\n  tag: \"{tag}\"\n"
        ));
    }
    text.push_str("kafkaImages:\n");
    for version in known {
        let is_built =
            |image: &&Named| matches!(&image.content, Content::Kafka(built) if built == version);
        let name = images
            .iter()
            .find(is_built)
            .map_or("null", |image| &image.name);
        text.push_str(&format!("  \"{version}\": {name}\n"));
    }
    text
}

fn say_how_to_install(
    options: &Options,
    engine: Engine,
    layout: &Layout,
    values: &str,
) -> Result<()> {
    if let Some(file) = &options.values {
        shell::write_file(file, values)?;
    }
    if !options.push {
        let store = match engine {
            Engine::Buildah => format!(
                "buildah's store (buildah --root {})",
                layout.cache.join("buildah").display()
            ),
            other => format!("{}'s store", other.program()),
        };
        println!(
            "\nThey are in {store}; --registry with --push brings them where a cluster finds them."
        );
    }
    println!("\nThe chart's values for them:\n\n{values}");
    let file = options
        .values
        .as_deref()
        .unwrap_or_else(|| Path::new("values.yaml"));
    println!(
        "With these in {0}:\n\n  \
         kubectl create namespace freehold-system\n  \
         helm install freehold-crds charts/freehold-crds -n freehold-system\n  \
         helm install freehold charts/freehold -n freehold-system --values {0} \
         --set 'watchNamespaces={{kafka,shop}}'\n\n\
         (A registry that asks who pulls: imagePullSecrets and kafkaImagePullSecrets, \
         docs/guide/install.md.)",
        file.display()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
    use super::*;

    #[test]
    fn a_platform_that_cannot_be_built_here_is_refused_in_words() {
        let here = Platform("linux/amd64".into());
        refuse_other_platforms(&[], &here, "r/x").unwrap();
        refuse_other_platforms(&["linux/amd64".into()], &here, "r/x").unwrap();
        let refused =
            refuse_other_platforms(&["linux/amd64".into(), "linux/arm64".into()], &here, "r/x")
                .unwrap_err()
                .to_string();
        for words in [
            "linux/arm64 cannot be built on this machine, which is linux/amd64",
            "--registry r/x/arm64",
            "--registry r/x/amd64",
        ] {
            assert!(refused.contains(words), "{refused}");
        }
    }

    #[test]
    fn names_that_no_registry_takes_are_refused() {
        for good in [
            "freehold",
            "registry.example.com/kafka-team",
            "127.0.0.1:5000/a/b",
            "localhost:5000",
        ] {
            check_names(good, "0.1.0-rc.1").unwrap();
        }
        for bad in [
            "",
            "https://registry.example.com/kafka",
            "registry.example.com/Kafka",
            "registry.example.com/",
            "r.example.com/a:b",
        ] {
            check_names(bad, "0.1.0").unwrap_err();
        }
        for bad in ["", ".1", "-1", "a:b", "a b", &"x".repeat(129)] {
            check_names("freehold", bad).unwrap_err();
        }
    }

    #[test]
    fn a_registry_on_this_machine_is_told_from_others() {
        assert!(
            [
                "127.0.0.1:5000/x",
                "localhost:5000",
                "localhost/x",
                "[::1]:5000/x"
            ]
            .into_iter()
            .all(is_on_loopback)
        );
        assert!(
            ![
                "registry.example.com/localhost",
                "127-example.com/x",
                "10.0.0.1:5000"
            ]
            .into_iter()
            .any(is_on_loopback)
        );
        assert_eq!(
            push_words(Engine::Buildah, "127.0.0.1:5000/x"),
            ["push", "--tls-verify=false"]
        );
        assert_eq!(
            push_words(Engine::Podman, "registry.example.com/x"),
            ["push"]
        );
        assert_eq!(
            push_words(Engine::Docker, "127.0.0.1:5000/x"),
            ["push"],
            "docker does so by itself, and has no such option"
        );
    }

    #[test]
    fn other_engines_build_the_same_containerfiles() {
        let here = Platform("linux/arm64".into());
        let build = build_command(
            Engine::Docker,
            &here,
            &[("RUNTIME_BASE", "debian:trixie-slim")],
            Path::new("/c"),
            "r/freehold:1",
        );
        let words: Vec<_> = build
            .get_args()
            .map(|word| word.to_string_lossy().into_owned())
            .collect();
        let wanted = "build --platform linux/arm64 --tag r/freehold:1 --build-arg RUNTIME_BASE=debian:trixie-slim --file /c/Containerfile /c";
        assert_eq!(
            (
                build.get_program().to_string_lossy().as_ref(),
                words.join(" ").as_str()
            ),
            ("docker", wanted)
        );
    }

    #[test]
    fn values_name_the_images_as_the_chart_reads_them() {
        let known = ["4.3.1", "4.2.1", "4.1.2"].map(str::to_owned);
        let images = [
            ("r/kafka:4.2.1", Content::Kafka("4.2.1".into())),
            ("r/kafka:4.3.1", Content::Kafka("4.3.1".into())),
            ("r:5000/freehold:1.0", Content::Operator("/o".into())),
            ("r:5000/runner:1.0", Content::Runner("/r".into())),
        ]
        .map(|(name, content)| Named {
            name: name.into(),
            content,
        });
        let wanted = "image:\n  repository: r:5000/freehold\n  tag: \"1.0\"\n\
                      runnerImage:\n  repository: r:5000/runner\n  tag: \"1.0\"\n\
                      kafkaImages:\n  \"4.3.1\": r/kafka:4.3.1\n  \"4.2.1\": r/kafka:4.2.1\n  \
                      \"4.1.2\": null\n";
        assert_eq!(values(&images, &known), wanted);
    }
}
