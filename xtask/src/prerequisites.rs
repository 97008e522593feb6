//! What the machine must have: Debian packages are installed when root runs `up`, compilers must be there.

use crate::layout::{Layout, version};
use anyhow::{Result, bail};
use ground::shell::{self, command, line};
use std::path::{Path, PathBuf};

/// Debian package and the file that shows that it is there.
const PACKAGES: [(&str, &str); 14] = [
    ("containerd", "/usr/bin/containerd"),
    ("runc", "/usr/sbin/runc"),
    ("containernetworking-plugins", "/usr/lib/cni/bridge"),
    ("buildah", "/usr/bin/buildah"),
    ("nftables", "/usr/sbin/nft"),
    ("iptables", "/usr/sbin/iptables"),
    ("conntrack", "/usr/sbin/conntrack"),
    ("iproute2", "/sbin/ip"),
    ("procps", "/sbin/sysctl"),
    ("xfsprogs", "/usr/sbin/mkfs.xfs"),
    ("mount", "/usr/sbin/losetup"),
    ("gcc", "/usr/bin/gcc"),
    ("make", "/usr/bin/make"),
    ("maven", "/usr/bin/mvn"),
];

/// Installs missing packages; what cannot be installed is named together with the way out.
pub fn ensure(layout: &Layout) -> Result<()> {
    if shell::output(&mut line("id -u"))? != "0" {
        bail!(
            "the local Kubernetes needs root (network namespaces, cgroups): run it with sudo, or give --context NAME for a cluster you have"
        );
    }
    let missing: Vec<_> = PACKAGES.iter().filter(|(_, file)| !Path::new(file).exists()).map(|(name, _)| *name).collect();
    if !missing.is_empty() {
        println!("installing {}", missing.join(", "));
        let log = layout.logs().join("apt.log");
        let apt = |words: &[&str]| shell::logged(command("apt-get", words).env("DEBIAN_FRONTEND", "noninteractive"), &log);
        apt(&["update", "-q"])?;
        let mut words = vec!["install", "-q", "-y", "--no-install-recommends"];
        words.extend(&missing);
        apt(&words)?;
    }
    if !shell::succeeds(&mut line("go version")) {
        bail!("Go 1.26 or newer is missing: install it from https://go.dev/dl and put its bin folder on PATH");
    }
    Ok(())
}

/// The Java that the Kafka image runs: 25 where the machine has it, else Debian's 17.
pub fn java_feature(layout: &Layout) -> Result<u32> {
    let wanted: u32 = version(&layout.repo, "JAVA")?.parse()?;
    if find_jdk(wanted).is_some() {
        return Ok(wanted);
    }
    let fallback = version(&layout.repo, "JAVA_FALLBACK")?.parse()?;
    println!("no JDK {wanted} here: the Kafka image gets Debian's Java {fallback}, and brokers start slower");
    Ok(fallback)
}

/// A JDK of one feature version; Debian's is installed when it is the one asked for and missing.
pub fn jdk_of(layout: &Layout, feature: u32) -> Result<PathBuf> {
    if find_jdk(feature).is_none() {
        let package = format!("openjdk-{feature}-jdk-headless");
        shell::logged(&mut line(&format!("apt-get install -q -y --no-install-recommends {package}")), &layout.logs().join("apt.log"))?;
    }
    match find_jdk(feature) {
        Some(home) => Ok(home),
        None => bail!("no JDK {feature}: install one below /usr/lib/jvm or name it in JAVA_HOME"),
    }
}

/// A JDK (with jlink) of the wanted feature version, at JAVA_HOME or below /usr/lib/jvm.
pub fn find_jdk(feature: u32) -> Option<PathBuf> {
    let mut homes: Vec<PathBuf> = std::env::var_os("JAVA_HOME").map(PathBuf::from).into_iter().collect();
    if let Ok(entries) = std::fs::read_dir("/usr/lib/jvm") {
        homes.extend(entries.flatten().map(|entry| entry.path()));
    }
    homes.sort();
    homes.into_iter().find(|home| {
        let release = std::fs::read_to_string(home.join("release")).unwrap_or_default();
        release.contains(&format!("JAVA_VERSION=\"{feature}")) && home.join("bin/jlink").exists()
    })
}
