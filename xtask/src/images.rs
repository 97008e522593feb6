//! Container images, built by buildah from the Containerfiles in deploy/images on a base made of Debian packages,
//! kept as archives in the cache, and imported into the nodes' containerd.

use crate::builds;
use crate::cache::{Inputs, cached};
use crate::layout::{Layout, version};
use crate::local::{NODES, nodes};
use crate::prerequisites;
use anyhow::{Context, Result};
use ground::kubectl::Kubectl;
use ground::shell::{self, command};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the images' names begin; there is no such registry.
const REGISTRY: &str = "localhost/freehold";

/// An image in the cache: its name with tag, and the archive.
#[derive(Clone, Debug)]
pub struct Image {
    pub name: String,
    pub archive: PathBuf,
}

/// What a runtime needs of Debian: package and libraries. The operator: a C library with its resolver.
const OPERATOR_BASE: [(&str, &[&str]); 2] = [
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
/// Java: that, and what Debian's own JDK links to.
const JAVA_BASE: [(&str, &[&str]); 4] =
    [OPERATOR_BASE[0], OPERATOR_BASE[1], ("zlib1g", &["libz.so.1"]), ("libstdc++6", &["libstdc++.so.6"])];

fn buildah(layout: &Layout) -> Command {
    let mut buildah = command("buildah", ["--root"]);
    buildah.arg(layout.cache.join("buildah")).arg("--runroot").arg(layout.run.join("buildah"));
    buildah.env("STORAGE_DRIVER", "overlay").env("BUILDAH_ISOLATION", "chroot");
    buildah
}

/// Builds `context/Containerfile` into an archive in the cache.
fn build(layout: &Layout, repository: &str, tag: &str, args: &[(&str, &str)], prepare: impl FnOnce(&Path) -> Result<()>) -> Result<Image> {
    let name = format!("{REGISTRY}/{repository}:{tag}");
    let folder = cached(&layout.cache, &format!("images/{repository}"), tag, |folder| {
        let context = layout.run.join(format!("context-{repository}-{tag}"));
        if context.exists() {
            fs::remove_dir_all(&context)?;
        }
        fs::create_dir_all(&context)?;
        prepare(&context)?;
        let log = layout.cache.join("logs").join(format!("image-{repository}.log"));
        let _ = fs::remove_file(&log);
        let mut bud = buildah(layout);
        bud.args(["bud", "--layers=false", "--pull-never", "--tag", &name]);
        for (key, value) in args {
            bud.arg("--build-arg").arg(format!("{key}={value}"));
        }
        shell::logged(bud.arg(&context), &log)?;
        fs::remove_dir_all(&context)?;
        let archive = format!("docker-archive:{}:{name}", folder.join("image.tar").display());
        shell::logged(buildah(layout).args(["push", &name, &archive]), &log)?;
        // Nothing is built on what was built on a base: its archive is all of it that is needed.
        if !args.is_empty() {
            shell::logged(buildah(layout).args(["rmi", &name]), &log)?;
        }
        Ok(())
    })?;
    Ok(Image { name, archive: folder.join("image.tar") })
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    shell::run(command("cp", ["-aL"]).arg(from).arg(to))
}

/// A root file system of a few Debian libraries, in buildah's store (the builds start from it, nobody runs it).
fn base(layout: &Layout, name: &str, parts: &[(&str, &[&str])]) -> Result<String> {
    let key = Inputs::default().text(&format!("{parts:?}")).key();
    let image = build(layout, name, &key, &[], |context| {
        let packages = context.join("packages");
        fs::create_dir_all(&packages)?;
        shell::run(command("apt-get", ["download", "-q"]).args(parts.iter().map(|(package, _)| package)).current_dir(&packages))?;
        let unpacked = context.join("unpacked");
        for package in fs::read_dir(&packages)? {
            shell::run(command("dpkg", ["-x"]).arg(package?.path()).arg(&unpacked))?;
        }
        let rootfs = context.join("rootfs");
        let libraries = rootfs.join("lib/x86_64-linux-gnu");
        for folder in [&libraries, &rootfs.join("etc"), &rootfs.join("tmp"), &rootfs.join("lib64"), &rootfs.join("usr/lib")] {
            fs::create_dir_all(folder)?;
        }
        for library in parts.iter().flat_map(|(_, libraries)| *libraries) {
            let places = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"];
            let found = places.iter().map(|place| unpacked.join(place).join(library)).find(|path| path.exists());
            copy_tree(&found.with_context(|| format!("no {library} in Debian's packages"))?, &libraries)?;
        }
        symlink("/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2", rootfs.join("lib64/ld-linux-x86-64.so.2"))?;
        fs::write(rootfs.join("etc/passwd"), "root:x:0:0::/:\nfreehold:x:10001:10001::/tmp:\n")?;
        fs::write(rootfs.join("etc/group"), "root:x:0:\nfreehold:x:10001:\n")?;
        fs::write(rootfs.join("etc/nsswitch.conf"), "passwd: files\ngroup: files\nhosts: files dns\n")?;
        fs::remove_dir_all(&packages)?;
        fs::remove_dir_all(&unpacked)?;
        shell::run(command("chmod", ["1777"]).arg(rootfs.join("tmp")))?;
        fs::write(context.join("Containerfile"), "FROM scratch\nCOPY rootfs/ /\n")?;
        Ok(())
    })?;
    in_store(layout, &image)
}

/// The base with a JDK: the build stage of the Kafka image.
fn jdk_base(layout: &Layout, base: &str, feature: u32) -> Result<String> {
    let image = build(layout, "jdk", &format!("{feature}-2"), &[], |context| {
        let home = prerequisites::jdk_of(layout, feature)?;
        // Debian's JDK has links into /etc, and one to sources that are not there.
        let mut tar = command("tar", ["--create", "--dereference", "--exclude=./lib/src.zip", "--directory"]);
        shell::run(tar.arg(&home).arg("--file").arg(context.join("jdk.tar")).arg("."))?;
        fs::write(context.join("Containerfile"), format!("FROM {base}\nADD jdk.tar /opt/jdk/\nENV PATH=/opt/jdk/bin\n"))?;
        Ok(())
    })?;
    in_store(layout, &image)
}

/// Makes sure that buildah's own store has what the cache has.
fn in_store(layout: &Layout, image: &Image) -> Result<String> {
    if !shell::succeeds(buildah(layout).args(["inspect", "--type", "image", &image.name])) {
        shell::run(buildah(layout).arg("pull").arg(format!("docker-archive:{}", image.archive.display())))?;
    }
    Ok(image.name.clone())
}

/// The Kafka image of one version on one Java (`feature`): 25 with an AOT cache, 17 with class-data sharing.
pub fn kafka(layout: &Layout, kafka: &str, feature: u32) -> Result<Image> {
    let jars = builds::kafka_jars(layout, kafka)?;
    let source = layout.repo.join("deploy/images/kafka");
    let base = base(layout, "base-java", &JAVA_BASE)?;
    let key = Inputs::default().text(kafka).text(&base).text(&jars.to_string_lossy()).text(&feature.to_string()).path(&source)?.key();
    let jdk = jdk_base(layout, &base, feature)?;
    build(layout, "kafka", &format!("{kafka}-java{feature}-{key}"), &[("JDK_BASE", &jdk), ("RUNTIME_BASE", &base)], |context| {
        for entry in fs::read_dir(&source)? {
            copy_tree(&entry?.path(), context)?;
        }
        copy_tree(&jars.join("libs"), context)
    })
}

/// The image of the operator's release binary.
pub fn operator(layout: &Layout, binary: &Path) -> Result<Image> {
    let source = layout.repo.join("deploy/images/operator/Containerfile");
    let base = base(layout, "base", &OPERATOR_BASE)?;
    let key = Inputs::default().text(&base).path(binary)?.path(&source)?.key();
    build(layout, "freehold", &key, &[("RUNTIME_BASE", &base)], |context| {
        copy_tree(&source, context)?;
        copy_tree(binary, context)
    })
}

/// The pods' sandbox.
pub fn ground(layout: &Layout) -> Result<Vec<Image>> {
    let pause = build(layout, "pause", "1", &[], |context| {
        let source = layout.repo.join("deploy/images/pause/pause.c");
        shell::run(command("gcc", ["-Os", "-static", "-s", "-o"]).arg(context.join("pause")).arg(source))?;
        fs::write(context.join("Containerfile"), "FROM scratch\nCOPY pause /pause\nUSER 10001:10001\nENTRYPOINT [\"/pause\"]\n")?;
        Ok(())
    })?;
    anyhow::ensure!(pause.name == nodes::PAUSE_IMAGE, "the ground's image names differ");
    Ok(vec![pause])
}

/// The versions of Kafka that Freehold runs, newest first.
pub fn kafka_versions(layout: &Layout) -> Result<[String; 2]> {
    Ok([version(&layout.repo, "KAFKA")?, version(&layout.repo, "KAFKA_PREVIOUS")?])
}

/// Imports images into every node that lacks them, the nodes side by side.
pub fn load(layout: &Layout, images: &[Image]) -> Result<()> {
    on_every_node(layout, &|ctr| {
        shell::wait_for("containerd", std::time::Duration::from_secs(60), || shell::run(ctr().arg("ls")).map(|()| None))?;
        let present = shell::output(ctr().args(["ls", "--quiet"]))?;
        for image in images.iter().filter(|image| !present.lines().any(|line| line == image.name)) {
            shell::run(ctr().arg("import").arg(&image.archive))?;
        }
        Ok(())
    })
}

/// Takes images of earlier builds from the nodes, but for those that something in Kubernetes names.
pub fn forget(layout: &Layout, kubectl: &Kubectl, wanted: &[Image]) -> Result<()> {
    let objects = kubectl.run(&["get", "pods,replicasets,statefulsets", "--all-namespaces", "--output", "json"])?;
    let is_old = |name: &str| name.starts_with(REGISTRY) && !wanted.iter().any(|image| image.name == name) && !objects.contains(name);
    on_every_node(layout, &|ctr| {
        let list = shell::output(ctr().arg("ls"))?;
        // Reference, type, digest: an image has its id for another reference.
        let lines: Vec<(&str, &str)> = list
            .lines()
            .skip(1)
            .filter_map(|line| {
                let mut words = line.split_whitespace();
                Some((words.next()?, words.nth(1)?))
            })
            .collect();
        let old: BTreeSet<&str> = lines.iter().filter(|(name, _)| is_old(name)).map(|(_, digest)| *digest).collect();
        let names = lines.iter().filter(|(name, digest)| old.contains(digest) && (is_old(name) || name.starts_with("sha256:")));
        for (name, _) in names {
            shell::run(ctr().args(["rm", "--sync", name]))?;
        }
        Ok(())
    })
}

/// The nodes side by side; `work` is given what makes a command about a node's images.
fn on_every_node(layout: &Layout, work: &(dyn Fn(&dyn Fn() -> Command) -> Result<()> + Sync)) -> Result<()> {
    std::thread::scope(|scope| {
        let nodes: Vec<_> = NODES
            .iter()
            .map(|node| {
                scope.spawn(move || {
                    work(&|| {
                        let mut ctr = command("ctr", ["--address"]);
                        ctr.arg(nodes::socket(layout, node)).args(["--namespace", "k8s.io", "images"]);
                        ctr
                    })
                })
            })
            .collect();
        nodes.into_iter().try_for_each(|node| node.join().map_err(|_| anyhow::anyhow!("the work on a node panicked"))?)
    })
}
