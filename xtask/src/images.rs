//! Container images: buildah builds them from the Containerfiles in deploy/images on a base of
//! Debian packages; they are stored as archives in the cache and imported into the containerd of
//! each node.

use crate::builds;
use crate::cache::{Inputs, cached};
use crate::layout::{Layout, version};
use crate::local::{NODES, nodes};
use crate::prerequisites;
use crate::registries::fetch;
use anyhow::{Context, Result};
use freehold_e2e::kubectl::Kubectl;
use freehold_e2e::shell::{self, command};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Prefix of the images' names. There is no registry of this name.
const REGISTRY: &str = "localhost/freehold";

/// An image in the cache: its name with the tag, and its archive.
#[derive(Clone, Debug)]
pub struct Image {
    pub name: String,
    pub archive: PathBuf,
}

/// What each image needs from Debian: packages and their libraries. The operator and the runner need
/// the C library with its resolver.
const BINARY_BASE: [(&str, &[&str]); 2] = [
    (
        "libc6",
        &[
            "ld-linux-x86-64.so.2",
            "libc.so.6",
            "libm.so.6",
            "libdl.so.2",
            "libpthread.so.0",
            "librt.so.1",
            "libresolv.so.2",
            "libnss_dns.so.2",
            "libnss_files.so.2",
        ],
    ),
    ("libgcc-s1", &["libgcc_s.so.1"]),
];
/// Java needs the same, and the libraries to which Debian's JDK links.
const JAVA_BASE: [(&str, &[&str]); 4] = [
    BINARY_BASE[0],
    BINARY_BASE[1],
    ("zlib1g", &["libz.so.1"]),
    ("libstdc++6", &["libstdc++.so.6"]),
];

/// A buildah command that uses the store in the cache.
pub fn buildah(layout: &Layout) -> Command {
    let mut buildah = command("buildah", ["--root"]);
    buildah
        .arg(layout.cache.join("buildah"))
        .arg("--runroot")
        .arg(layout.run.join("buildah"));
    buildah
        .env("STORAGE_DRIVER", "overlay")
        .env("BUILDAH_ISOLATION", "chroot");
    buildah
}

/// Builds `context/Containerfile` into an archive in the cache.
fn build(
    layout: &Layout,
    repository: &str,
    tag: &str,
    args: &[(&str, &str)],
    prepare: impl FnOnce(&Path) -> Result<()>,
) -> Result<Image> {
    let name = format!("{REGISTRY}/{repository}:{tag}");
    let folder = cached(
        &layout.cache,
        &format!("images/{repository}"),
        tag,
        |folder| {
            let context = layout.run.join(format!("context-{repository}-{tag}"));
            if context.exists() {
                fs::remove_dir_all(&context)?;
            }
            fs::create_dir_all(&context)?;
            prepare(&context)?;
            // Pods run as another user than the one that builds, whose umask may give other users
            // no read permission.
            shell::run(command("chmod", ["-R", "go+rX"]).arg(&context))?;
            let log = layout
                .cache
                .join("logs")
                .join(format!("image-{repository}.log"));
            let _ = fs::remove_file(&log);
            let mut bud = buildah(layout);
            bud.args(["bud", "--layers=false", "--pull-never", "--tag", &name]);
            for (key, value) in args {
                bud.arg("--build-arg").arg(format!("{key}={value}"));
            }
            shell::logged(bud.arg(&context), &log)?;
            fs::remove_dir_all(&context)?;
            let archive = format!(
                "docker-archive:{}:{name}",
                folder.join("image.tar").display()
            );
            shell::logged(buildah(layout).args(["push", &name, &archive]), &log)?;
            // No other image is built on this one, so its archive is all that is needed.
            if !args.is_empty() {
                shell::logged(buildah(layout).args(["rmi", &name]), &log)?;
            }
            Ok(())
        },
    )?;
    Ok(Image {
        name,
        archive: folder.join("image.tar"),
    })
}

/// Copies a file, or a folder with its content.
pub fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    shell::run(command("cp", ["-aL"]).arg(from).arg(to))
}

/// A root file system of a few Debian libraries in buildah's store. Other builds start from it; no
/// container runs it.
fn base(layout: &Layout, name: &str, parts: &[(&str, &[&str])]) -> Result<String> {
    let key = Inputs::default().text(&format!("{parts:?}")).key();
    let image = build(layout, name, &key, &[], |context| {
        let packages = context.join("packages");
        fs::create_dir_all(&packages)?;
        fetch(
            command("apt-get", ["download", "-q"])
                .args(parts.iter().map(|(package, _)| package))
                .current_dir(&packages),
            &layout.cache.join("logs/apt.log"),
        )?;
        let unpacked = context.join("unpacked");
        for package in fs::read_dir(&packages)? {
            shell::run(command("dpkg", ["-x"]).arg(package?.path()).arg(&unpacked))?;
        }
        let rootfs = context.join("rootfs");
        let libraries = rootfs.join("lib/x86_64-linux-gnu");
        for folder in [
            &libraries,
            &rootfs.join("etc"),
            &rootfs.join("tmp"),
            &rootfs.join("lib64"),
            &rootfs.join("usr/lib"),
        ] {
            fs::create_dir_all(folder)?;
        }
        for library in parts.iter().flat_map(|(_, libraries)| *libraries) {
            let places = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"];
            let found = places
                .iter()
                .map(|place| unpacked.join(place).join(library))
                .find(|path| path.exists());
            copy_tree(
                &found.with_context(|| format!("no {library} in Debian's packages"))?,
                &libraries,
            )?;
        }
        symlink(
            "/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
            rootfs.join("lib64/ld-linux-x86-64.so.2"),
        )?;
        fs::write(
            rootfs.join("etc/passwd"),
            "root:x:0:0::/:\nfreehold:x:10001:10001::/tmp:\n",
        )?;
        fs::write(rootfs.join("etc/group"), "root:x:0:\nfreehold:x:10001:\n")?;
        fs::write(
            rootfs.join("etc/nsswitch.conf"),
            "passwd: files\ngroup: files\nhosts: files dns\n",
        )?;
        fs::remove_dir_all(&packages)?;
        fs::remove_dir_all(&unpacked)?;
        shell::run(command("chmod", ["1777"]).arg(rootfs.join("tmp")))?;
        fs::write(
            context.join("Containerfile"),
            "FROM scratch\nCOPY rootfs/ /\n",
        )?;
        Ok(())
    })?;
    in_store(layout, &image)
}

/// The base with a JDK, for the build stage of the Kafka image.
fn jdk_base(layout: &Layout, base: &str, feature: u32) -> Result<String> {
    let image = build(layout, "jdk", &format!("{feature}-2"), &[], |context| {
        let home = prerequisites::jdk_of(layout, feature)?;
        // Debian's JDK has links into /etc, and a link to sources that are not installed.
        let mut tar = command(
            "tar",
            [
                "--create",
                "--dereference",
                "--exclude=./lib/src.zip",
                "--directory",
            ],
        );
        shell::run(
            tar.arg(&home)
                .arg("--file")
                .arg(context.join("jdk.tar"))
                .arg("."),
        )?;
        fs::write(
            context.join("Containerfile"),
            format!("FROM {base}\nADD jdk.tar /opt/jdk/\nENV PATH=/opt/jdk/bin\n"),
        )?;
        Ok(())
    })?;
    in_store(layout, &image)
}

/// Makes sure that an image in the cache is also in buildah's own store; returns its name.
pub fn in_store(layout: &Layout, image: &Image) -> Result<String> {
    if !shell::succeeds(buildah(layout).args(["inspect", "--type", "image", &image.name])) {
        shell::run(
            buildah(layout)
                .arg("pull")
                .arg(format!("docker-archive:{}", image.archive.display())),
        )?;
    }
    Ok(image.name.clone())
}

/// The Kafka image of one version with one Java (`feature`): 25 with an AOT cache, 17 with
/// class-data sharing.
pub fn kafka(layout: &Layout, kafka: &str, feature: u32) -> Result<Image> {
    let jars = builds::kafka_jars(layout, kafka)?;
    let source = layout.repo.join("deploy/images/kafka");
    let base = base(layout, "base-java", &JAVA_BASE)?;
    let key = Inputs::default()
        .text(kafka)
        .text(&base)
        .text(&jars.to_string_lossy())
        .text(&feature.to_string())
        .path(&source)?
        .key();
    let jdk = jdk_base(layout, &base, feature)?;
    build(
        layout,
        "kafka",
        &format!("{kafka}-java{feature}-{key}"),
        &[("JDK_BASE", &jdk), ("RUNTIME_BASE", &base)],
        |context| {
            for entry in fs::read_dir(&source)? {
                copy_tree(&entry?.path(), context)?;
            }
            copy_tree(&jars.join("libs"), context)
        },
    )
}

/// The image of the newest Kafka with the Java of this machine's clusters, and with the one that
/// machines without it fall back to.
pub fn of_each_java(layout: &Layout) -> Result<Vec<(u32, Image)>> {
    let newest = version(&layout.repo, "KAFKA")?;
    let features = BTreeSet::from([
        version(&layout.repo, "JAVA_FALLBACK")?.parse()?,
        prerequisites::java_feature(layout)?,
    ]);
    features
        .into_iter()
        .map(|feature| Ok((feature, kafka(layout, &newest, feature)?)))
        .collect()
}

/// The image of the operator's binary.
pub fn operator(layout: &Layout, binary: &Path) -> Result<Image> {
    of_binary(layout, "freehold", &operator_source(layout), binary)
}

/// The image of the runner's binary.
pub fn runner(layout: &Layout, binary: &Path) -> Result<Image> {
    of_binary(layout, "runner", &runner_source(layout), binary)
}

pub fn operator_source(layout: &Layout) -> PathBuf {
    layout.repo.join("deploy/images/operator/Containerfile")
}

pub fn runner_source(layout: &Layout) -> PathBuf {
    layout.repo.join("deploy/images/runner/Containerfile")
}

/// An image of one binary on the C library; `source` is its Containerfile.
fn of_binary(layout: &Layout, repository: &str, source: &Path, binary: &Path) -> Result<Image> {
    let base = base(layout, "base", &BINARY_BASE)?;
    let key = Inputs::default()
        .text(&base)
        .path(binary)?
        .path(source)?
        .key();
    build(
        layout,
        repository,
        &key,
        &[("RUNTIME_BASE", &base)],
        |context| {
            copy_tree(source, context)?;
            copy_tree(binary, context)
        },
    )
}

/// The image of the pods' sandbox.
pub fn of_local_cluster(layout: &Layout) -> Result<Vec<Image>> {
    let pause = build(layout, "pause", "1", &[], |context| {
        let source = layout.repo.join("deploy/images/pause/pause.c");
        shell::run(
            command("gcc", ["-Os", "-static", "-s", "-o"])
                .arg(context.join("pause"))
                .arg(source),
        )?;
        fs::write(
            context.join("Containerfile"),
            "FROM scratch\nCOPY pause /pause\nUSER 10001:10001\nENTRYPOINT [\"/pause\"]\n",
        )?;
        Ok(())
    })?;
    anyhow::ensure!(
        pause.name == nodes::PAUSE_IMAGE,
        "the name of the pause image differs from that in local/nodes.rs"
    );
    Ok(vec![pause])
}

/// The versions of Kafka that Freehold runs, newest first.
pub fn kafka_versions(layout: &Layout) -> Result<[String; 2]> {
    Ok([
        version(&layout.repo, "KAFKA")?,
        version(&layout.repo, "KAFKA_PREVIOUS")?,
    ])
}

/// Imports images into every node that does not have them, on all nodes at the same time.
pub fn load(layout: &Layout, images: &[Image]) -> Result<()> {
    on_every_node(layout, &|ctr| {
        shell::wait_for("containerd", std::time::Duration::from_secs(60), || {
            shell::run(ctr().arg("ls")).map(|()| None)
        })?;
        let present = shell::output(ctr().args(["ls", "--quiet"]))?;
        for image in images
            .iter()
            .filter(|image| !present.lines().any(|line| line == image.name))
        {
            shell::run(ctr().arg("import").arg(&image.archive))?;
        }
        Ok(())
    })
}

/// Deletes images of earlier builds from the nodes, except those that an object of Kubernetes
/// refers to.
pub fn forget(layout: &Layout, kubectl: &Kubectl, wanted: &[Image]) -> Result<()> {
    let objects = kubectl.run(&[
        "get",
        "pods,replicasets,statefulsets",
        "--all-namespaces",
        "--output",
        "json",
    ])?;
    let is_old = |name: &str| {
        name.starts_with(REGISTRY)
            && !wanted.iter().any(|image| image.name == name)
            && !objects.contains(name)
    };
    on_every_node(layout, &|ctr| {
        let list = shell::output(ctr().arg("ls"))?;
        // Columns: reference, type, digest. An image is also listed with its id as reference.
        let lines: Vec<(&str, &str)> = list
            .lines()
            .skip(1)
            .filter_map(|line| {
                let mut words = line.split_whitespace();
                Some((words.next()?, words.nth(1)?))
            })
            .collect();
        let old: BTreeSet<&str> = lines
            .iter()
            .filter(|(name, _)| is_old(name))
            .map(|(_, digest)| *digest)
            .collect();
        let names = lines.iter().filter(|(name, digest)| {
            old.contains(digest) && (is_old(name) || name.starts_with("sha256:"))
        });
        for (name, _) in names {
            shell::run(ctr().args(["rm", "--sync", name]))?;
        }
        Ok(())
    })
}

/// Runs `work` for all nodes at the same time. Its argument makes a command for the images of the
/// node.
fn on_every_node(
    layout: &Layout,
    work: &(dyn Fn(&dyn Fn() -> Command) -> Result<()> + Sync),
) -> Result<()> {
    std::thread::scope(|scope| {
        let nodes: Vec<_> = NODES
            .iter()
            .map(|node| {
                scope.spawn(move || {
                    work(&|| {
                        let mut ctr = command("ctr", ["--address"]);
                        ctr.arg(nodes::socket(layout, node)).args([
                            "--namespace",
                            "k8s.io",
                            "images",
                        ]);
                        ctr
                    })
                })
            })
            .collect();
        nodes.into_iter().try_for_each(|node| {
            node.join()
                .map_err(|_| anyhow::anyhow!("the work on a node panicked"))?
        })
    })
}
