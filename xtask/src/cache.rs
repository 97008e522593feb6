//! The build cache: one folder for each build, with the hash of its inputs as key. A folder is
//! complete or absent.
//!
//! A build writes into a temporary folder, which is renamed when it is complete, together with a
//! manifest of the hashes of its files. A folder whose files do not match its manifest is deleted
//! and built again.

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

const MANIFEST: &str = "MANIFEST.sha256";
/// Number of builds of one thing that are kept, the last used ones: two versions of Kafka in their
/// present form and in that before each of two changes.
const KEPT: usize = 6;

/// The hash of a list of inputs: texts, files and whole folders.
#[derive(Default)]
pub struct Inputs(Sha256);

impl Inputs {
    pub fn text(mut self, text: &str) -> Self {
        self.0.update(text.len().to_le_bytes());
        self.0.update(text.as_bytes());
        self
    }

    /// Adds a file, or a folder with everything below it in the order of names.
    pub fn path(mut self, path: &Path) -> Result<Self> {
        if path.is_dir() {
            let mut entries: Vec<_> = fs::read_dir(path)?.collect::<std::io::Result<_>>()?;
            entries.sort_by_key(fs::DirEntry::file_name);
            for entry in entries {
                self = self
                    .text(&entry.file_name().to_string_lossy())
                    .path(&entry.path())?;
            }
            return Ok(self);
        }
        let content = fs::read(path).with_context(|| format!("read {}", path.display()))?;
        self.0.update(content.len().to_le_bytes());
        self.0.update(&content);
        Ok(self)
    }

    /// Twelve hexadecimal digits: enough to distinguish builds, and short enough for a tag.
    pub fn key(self) -> String {
        hex(&self.0.finalize())[..12].to_owned()
    }
}

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The folder `<cache>/<name>/<key>`. `build(folder)` builds it if it is missing or incomplete.
pub fn cached(
    cache: &Path,
    name: &str,
    key: &str,
    build: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let home = cache.join(name);
    let folder = home.join(key);
    if verified(&folder) {
        fs::File::options()
            .append(true)
            .open(folder.join(MANIFEST))?
            .set_modified(SystemTime::now())?;
        return Ok(folder);
    }
    let start = Instant::now();
    let part = home.join(format!("{key}.part"));
    if part.exists() {
        fs::remove_dir_all(&part)?;
    }
    fs::create_dir_all(&part)?;
    build(&part).with_context(|| format!("build {name}"))?;
    fs::write(part.join(MANIFEST), manifest(&part)?)?;
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::rename(&part, &folder)?;
    forget(&home)?;
    println!("  built {name} in {:.0} s", start.elapsed().as_secs_f64());
    Ok(folder)
}

/// Removes all builds of one thing except the last used ones. A folder without a manifest is
/// incomplete, and may be a build that is running.
fn forget(home: &Path) -> Result<()> {
    let mut builds: Vec<(SystemTime, PathBuf)> = Vec::new();
    for entry in fs::read_dir(home)? {
        let folder = entry?.path();
        if let Ok(manifest) = fs::metadata(folder.join(MANIFEST)) {
            builds.push((manifest.modified()?, folder));
        }
    }
    builds.sort();
    for (_, folder) in builds.iter().rev().skip(KEPT) {
        fs::remove_dir_all(folder)?;
    }
    Ok(())
}

fn files(folder: &Path, below: &Path, out: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder.join(below))? {
        let entry = entry?;
        let path = below.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            files(folder, &path, out)?;
        } else if entry.file_type()?.is_file() && entry.file_name() != MANIFEST {
            out.push(path);
        }
    }
    Ok(())
}

fn manifest(folder: &Path) -> Result<String> {
    let mut paths = Vec::new();
    files(folder, Path::new(""), &mut paths)?;
    paths.sort();
    let mut text = String::new();
    for path in paths {
        let mut hash = Sha256::new();
        std::io::copy(&mut fs::File::open(folder.join(&path))?, &mut hash)?;
        text.push_str(&format!("{}  {}\n", hex(&hash.finalize()), path.display()));
    }
    Ok(text)
}

/// True if the folder exists and its files match its manifest.
fn verified(folder: &Path) -> bool {
    let Ok(expected) = fs::read_to_string(folder.join(MANIFEST)) else {
        return false;
    };
    manifest(folder).is_ok_and(|found| found == expected)
}
