//! Runs cargo with a cached target folder. Dependencies are compiled once for each compiler, into a
//! target folder below the cache: a fresh clone compiles only our own crates, and a new lock file
//! only what it changes. What old lock files left in it is never used again, so a folder that is too
//! large starts empty.
//!
//! cargo identifies a crate of a workspace by its path in it, and detects changed sources by their
//! times. In a folder that two clones share, it would take the build of one clone's sources for
//! that of the other. Therefore one clone at a time uses the folder, under a lock, and a clone that
//! follows another one builds our own crates again. If `CARGO_TARGET_DIR` is set, that folder is
//! used and none of this applies.

use crate::cache::Inputs;
use crate::layout::Layout;
use anyhow::{Context, Result};
use freehold_e2e::shell::{self, command};
use serde_json::Value;
use std::fs::{self, File, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::{Instant, SystemTime};

/// A target folder that is larger starts empty, in bytes: the whole test leaves half of it.
const LARGEST: u64 = 20 << 30;
/// Variables that set the target folder. cargo itself detects other changes of flags (RUSTFLAGS).
const TARGET_VARIABLES: [&str; 2] = ["CARGO_TARGET_DIR", "CARGO_BUILD_TARGET_DIR"];

/// Incremental compilation doubles the folder, and a clone cannot use what another one left: off if
/// the caller does not set it.
const INCREMENTAL: &str = "CARGO_INCREMENTAL";

/// How the operator and the runner are compiled: for tests and trials in a third of the time; for
/// benchmarks like a release.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    #[default]
    Local,
    Release,
}

impl Profile {
    /// The name of the operator's profile in Cargo.toml and of its output folder.
    pub fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Release => "release",
        }
    }
}

/// A target folder with the lock, which is held until this process ends.
struct Target {
    folder: PathBuf,
    _lock: Option<Lock>,
}

/// A file lock. It is released by name when it is dropped: to close the file would not be enough
/// while a child that another thread is starting still has a copy of it.
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

impl Lock {
    /// `None` if somebody else has it.
    fn try_take(file: File) -> Result<Option<Self>> {
        match file.try_lock() {
            Ok(()) => Ok(Some(Self(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error.into()),
        }
    }
}

static TARGET: Mutex<Option<Target>> = Mutex::new(None);

/// A cargo command in the repository that builds into the folder of [`target`].
pub fn cargo<const N: usize>(layout: &Layout, args: [&str; N]) -> Result<Command> {
    let mut cargo = command("cargo", args);
    cargo
        .env("CARGO_TARGET_DIR", target(layout)?)
        .current_dir(&layout.repo);
    if std::env::var_os(INCREMENTAL).is_none() {
        cargo.env(INCREMENTAL, "0");
    }
    Ok(cargo)
}

/// The target folder. The first call chooses it for this process.
pub fn target(layout: &Layout) -> Result<PathBuf> {
    let mut chosen = TARGET.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(target) = chosen.as_ref() {
        return Ok(target.folder.clone());
    }
    let own = TARGET_VARIABLES
        .iter()
        .find_map(std::env::var_os)
        .filter(|folder| !folder.is_empty());
    let target =
        match own {
            Some(folder) => Target {
                folder: layout.repo.join(folder),
                _lock: None,
            },
            None => shared(&layout.cache.join("cargo"), &layout.repo, &key(layout)?)?
                .unwrap_or_else(|| Target {
                    folder: layout.repo.join("target"),
                    _lock: None,
                }),
        };
    let folder = target.folder.clone();
    *chosen = Some(target);
    Ok(folder)
}

fn key(layout: &Layout) -> Result<String> {
    let compiler =
        shell::output(command("rustc", ["--version", "--verbose"]).current_dir(&layout.repo))?;
    Ok(Inputs::default().text(&compiler).key())
}

/// The folder below `home` for this key, reserved for the clone at `repo`; `None` while another
/// clone uses it.
fn shared(home: &Path, repo: &Path, key: &str) -> Result<Option<Target>> {
    let folder = home.join(key);
    fs::create_dir_all(&folder)?;
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(folder.join("lock"))?;
    let lock = Lock::try_take(lock).with_context(|| format!("lock {}", folder.display()))?;
    let Some(lock) = lock else {
        println!(
            "another clone builds in {}: this one builds everything in its own target folder",
            folder.display()
        );
        return Ok(None);
    };
    forget_others(home, &folder)?;
    if size(&folder) > LARGEST {
        empty(&folder)?;
    }
    let (owner, clone) = (folder.join("owner"), identity(repo)?);
    let start = Instant::now();
    if fs::read_to_string(&owner).ok().as_ref() != Some(&clone) {
        // The order matters: if the process is killed in between, no owner is recorded.
        let _ = fs::remove_file(&owner);
        forget_own_crates(&folder, &members(repo)?)?;
        shell::write_file(&owner, clone)?;
        println!(
            "  our own crates are built anew: this clone is another than before ({:.1} s)",
            start.elapsed().as_secs_f64()
        );
    }
    Ok(Some(Target {
        folder,
        _lock: Some(lock),
    }))
}

/// Identifies a clone: another one at the same path has another inode or creation time.
fn identity(repo: &Path) -> Result<String> {
    let folder = fs::metadata(repo)?;
    let made = folder
        .created()
        .ok()
        .and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok())
        .unwrap_or_default();
    Ok(format!(
        "{} {}:{} {}",
        repo.display(),
        folder.dev(),
        folder.ino(),
        made.as_nanos()
    ))
}

/// The names of the workspace's crates.
fn members(repo: &Path) -> Result<Vec<String>> {
    let text = shell::output(
        command(
            "cargo",
            ["metadata", "--locked", "--no-deps", "--format-version", "1"],
        )
        .current_dir(repo),
    )?;
    let metadata: Value = serde_json::from_str(&text)?;
    let packages = metadata["packages"]
        .as_array()
        .context("cargo metadata has no packages")?;
    Ok(packages
        .iter()
        .filter_map(|package| Some(package["name"].as_str()?.to_owned()))
        .collect())
}

/// Deletes what cargo knows of these crates in every profile, so that it builds them again.
fn forget_own_crates(target: &Path, crates: &[String]) -> Result<()> {
    for profile in fs::read_dir(target)?.flatten() {
        let Ok(units) = fs::read_dir(profile.path().join(".fingerprint")) else {
            continue;
        };
        for unit in units.flatten() {
            // A crate name, and sixteen digits that distinguish its builds.
            let name = unit.file_name().to_string_lossy().into_owned();
            if name
                .rsplit_once('-')
                .is_some_and(|(name, _)| crates.iter().any(|own| own == name))
            {
                fs::remove_dir_all(unit.path())?;
            }
        }
    }
    Ok(())
}

/// Removes the folders of other compilers; never one that a clone is using.
fn forget_others(home: &Path, own: &Path) -> Result<()> {
    for folder in fs::read_dir(home)?.flatten().map(|entry| entry.path()) {
        let Ok(lock) = File::open(folder.join("lock")) else {
            continue;
        };
        if folder != own && Lock::try_take(lock)?.is_some() {
            fs::remove_dir_all(folder)?;
        }
    }
    Ok(())
}

/// Deletes everything that was compiled; the lock stays.
fn empty(folder: &Path) -> Result<()> {
    println!("  {} is too large: it starts empty", folder.display());
    for entry in fs::read_dir(folder)?.flatten() {
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// The bytes of the files below a folder. What cannot be read counts as nothing.
fn size(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else {
        return 0;
    };
    entries
        .flatten()
        .filter_map(|entry| {
            let metadata = entry.metadata().ok()?;
            Some(if metadata.is_dir() {
                size(&entry.path())
            } else {
                metadata.len()
            })
        })
        .sum()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
    use super::*;

    /// A folder for one test; it is deleted with the value.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let folder =
                std::env::temp_dir().join(format!("freehold-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&folder);
            fs::create_dir_all(&folder).unwrap();
            Self(folder)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// Creates a workspace with one crate that prints a word.
    fn clone(folder: &Path, word: &str) -> PathBuf {
        let repo = folder.join(word);
        fs::create_dir_all(repo.join("src")).unwrap();
        fs::write(
            repo.join("Cargo.toml"),
            "[package]\nname = \"says\"\nversion = \"0.1.0\"\nedition = \"2024\"\n",
        )
        .unwrap();
        fs::write(
            repo.join("Cargo.lock"),
            "version = 4\n\n[[package]]\nname = \"says\"\nversion = \"0.1.0\"\n",
        )
        .unwrap();
        fs::write(
            repo.join("src/main.rs"),
            format!("fn main() {{ print!(\"{word}\") }}\n"),
        )
        .unwrap();
        repo
    }

    fn says(repo: &Path, target: &Path) -> String {
        let mut run = command("cargo", ["run", "--quiet", "--locked", "--offline"]);
        run.env("CARGO_TARGET_DIR", target)
            .env_remove("CARGO_BUILD_TARGET_DIR")
            .current_dir(repo);
        shell::output(&mut run).unwrap()
    }

    #[test]
    fn a_clone_never_gets_what_was_built_of_another() {
        let folder = Folder::new("clones");
        // Both clones exist before the first build, so that file times cannot distinguish them.
        let (one, two) = (clone(&folder.0, "one"), clone(&folder.0, "two"));
        let home = folder.0.join("cargo");
        for (repo, word) in [(&one, "one"), (&two, "two"), (&one, "one")] {
            let target = shared(&home, repo, "key").unwrap().expect("nobody has it");
            assert_eq!(says(repo, &target.folder), word);
            // Another clone that builds meanwhile uses another folder.
            assert!(shared(&home, &two, "key").unwrap().is_none());
        }
    }

    #[test]
    fn only_our_own_crates_are_forgotten_and_in_every_profile() {
        let folder = Folder::new("crates");
        for profile in ["debug", "release"] {
            for unit in [
                "freehold-0011223344556677",
                "freehold-e2e-0011223344556677",
                "freehold-client-0011223344556677",
                "serde-00",
            ] {
                fs::create_dir_all(folder.0.join(profile).join(".fingerprint").join(unit)).unwrap();
            }
        }
        forget_own_crates(
            &folder.0,
            &["freehold".to_owned(), "freehold-e2e".to_owned()],
        )
        .unwrap();
        for profile in ["debug", "release"] {
            let mut left: Vec<_> = fs::read_dir(folder.0.join(profile).join(".fingerprint"))
                .unwrap()
                .flatten()
                .map(|unit| unit.file_name())
                .collect();
            left.sort();
            assert_eq!(left, ["freehold-client-0011223344556677", "serde-00"]);
        }
    }

    #[test]
    fn the_folders_of_other_compilers_go_but_for_one_that_is_in_use() {
        let folder = Folder::new("keys");
        let repo = clone(&folder.0, "word");
        let home = folder.0.join("cargo");
        let used = shared(&home, &repo, "first").unwrap().unwrap();
        for key in ["second", "third"] {
            drop(shared(&home, &repo, key).unwrap().unwrap());
        }
        let left = |key: &str| home.join(key).exists();
        assert!(left("first") && left("third") && !left("second"));
        drop(used);
        drop(shared(&home, &repo, "third").unwrap());
        assert!(!left("first"));
    }

    #[test]
    fn an_emptied_folder_keeps_its_lock() {
        let folder = Folder::new("large");
        fs::create_dir_all(folder.0.join("debug/deps")).unwrap();
        fs::write(folder.0.join("debug/deps/crate"), [0; 1000]).unwrap();
        fs::write(folder.0.join("lock"), "").unwrap();
        assert_eq!(size(&folder.0), 1000);
        empty(&folder.0).unwrap();
        assert_eq!(size(&folder.0), 0);
        assert!(folder.0.join("lock").exists());
    }
}
