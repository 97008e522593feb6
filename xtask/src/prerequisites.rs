//! What the machine must have: `up` installs missing Debian packages if it runs as root; compilers
//! must be installed already.

use crate::layout::{Layout, version};
use crate::registries::fetch;
use anyhow::{Result, bail};
use freehold_e2e::shell::{self, command, line};
use std::path::{Path, PathBuf};

/// A Debian package, and a file that shows that it is installed.
const PACKAGES: [(&str, &str); 16] = [
    ("containerd", "/usr/bin/containerd"),
    ("runc", "/usr/sbin/runc"),
    ("containernetworking-plugins", "/usr/lib/cni/bridge"),
    ("buildah", "/usr/bin/buildah"),
    ("nftables", "/usr/sbin/nft"),
    ("iptables", "/usr/sbin/iptables"),
    ("ipset", "/usr/sbin/ipset"),
    ("conntrack", "/usr/sbin/conntrack"),
    ("iproute2", "/sbin/ip"),
    ("procps", "/sbin/sysctl"),
    ("xfsprogs", "/usr/sbin/mkfs.xfs"),
    ("mount", "/usr/sbin/losetup"),
    ("gcc", "/usr/bin/gcc"),
    ("make", "/usr/bin/make"),
    // OpenSSL, which the runner links, is configured by Perl with its core modules.
    ("perl", "/usr/bin/prove"),
    ("maven", "/usr/bin/mvn"),
];

/// What the tests need besides: an MQTT broker and a client of it.
const TEST_PACKAGES: [(&str, &str); 2] = [
    ("mosquitto", "/usr/sbin/mosquitto"),
    ("mosquitto-clients", "/usr/bin/mosquitto_pub"),
];

/// What compilers, images and a cluster write beside what is cached already, in GiB.
const FREE_DISK: u64 = 10;

/// Installs missing packages. An error names what cannot be installed, and the remedy.
pub fn ensure(layout: &Layout) -> Result<()> {
    if shell::output(&mut line("id -u"))? != "0" {
        bail!(
            "the local Kubernetes needs root (network namespaces, cgroups): run it with sudo, or \
             give --context NAME for a cluster that you have"
        );
    }
    // First, because it deletes what old compilers left.
    crate::cargo::target(layout)?;
    enough_disk(&layout.cache)?;
    install(layout, &PACKAGES)?;
    if !shell::succeeds(&mut line("go version")) {
        bail!(
            "Go 1.26 or newer is missing: install it from https://go.dev/dl and put its bin folder \
             on PATH"
        );
    }
    Ok(())
}

/// The same for the tests.
pub fn ensure_for_tests(layout: &Layout) -> Result<()> {
    ensure(layout)?;
    install(layout, &TEST_PACKAGES)
}

/// Installs the packages whose file is missing.
fn install(layout: &Layout, packages: &[(&'static str, &str)]) -> Result<()> {
    let missing: Vec<_> = packages
        .iter()
        .filter(|(_, file)| !Path::new(file).exists())
        .map(|(name, _)| *name)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    apt_install(layout, &missing)
}

/// Installs Debian packages from up-to-date lists.
pub fn apt_install(layout: &Layout, packages: &[&str]) -> Result<()> {
    println!("installing {}", packages.join(", "));
    let log = layout.cache.join("logs/apt.log");
    let apt = |words: &[&str]| {
        fetch(
            command("apt-get", words).env("DEBIAN_FRONTEND", "noninteractive"),
            &log,
        )
    };
    apt(&["update", "-q"])?;
    let mut words = vec!["install", "-q", "-y", "--no-install-recommends"];
    words.extend(packages);
    apt(&words)
}

fn enough_disk(cache: &Path) -> Result<()> {
    std::fs::create_dir_all(cache)?;
    let words = [
        "--output=avail",
        "--block-size=1G",
        &cache.to_string_lossy(),
    ];
    let table = shell::output(&mut command("df", words))?;
    let free: u64 = table.lines().last().unwrap_or_default().trim().parse()?;
    if free < FREE_DISK {
        bail!(
            "the disk of {} has {free} GiB free, and {FREE_DISK} are needed: delete what you do not \
             need there or elsewhere (the folder is only a cache), or name a folder on another disk \
             in FREEHOLD_CACHE",
            cache.display()
        );
    }
    Ok(())
}

/// The Java version of the Kafka image: 25 if the machine has it, else Debian's 17.
pub fn java_feature(layout: &Layout) -> Result<u32> {
    let wanted: u32 = version(&layout.repo, "JAVA")?.parse()?;
    if find_jdk(wanted).is_some() {
        return Ok(wanted);
    }
    let fallback = version(&layout.repo, "JAVA_FALLBACK")?.parse()?;
    println!(
        "no JDK {wanted} here: the Kafka image gets Debian's Java {fallback}, and brokers \
         start slower"
    );
    Ok(fallback)
}

/// A JDK of one feature version. Installs Debian's JDK if that version is requested and missing.
pub fn jdk_of(layout: &Layout, feature: u32) -> Result<PathBuf> {
    if find_jdk(feature).is_none() {
        apt_install(layout, &[&format!("openjdk-{feature}-jdk-headless")])?;
    }
    match find_jdk(feature) {
        Some(home) => Ok(home),
        None => bail!("no JDK {feature}: install one below /usr/lib/jvm or name it in JAVA_HOME"),
    }
}

/// A JDK (with jlink) of this feature version, at JAVA_HOME or below /usr/lib/jvm.
pub fn find_jdk(feature: u32) -> Option<PathBuf> {
    let mut homes: Vec<PathBuf> = std::env::var_os("JAVA_HOME")
        .map(PathBuf::from)
        .into_iter()
        .collect();
    if let Ok(entries) = std::fs::read_dir("/usr/lib/jvm") {
        homes.extend(entries.flatten().map(|entry| entry.path()));
    }
    homes.sort();
    homes.into_iter().find(|home| {
        let release = std::fs::read_to_string(home.join("release")).unwrap_or_default();
        release.contains(&format!("JAVA_VERSION=\"{feature}")) && home.join("bin/jlink").exists()
    })
}
