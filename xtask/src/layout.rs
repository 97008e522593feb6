//! The folders: the repository, the cache (which survives `down`), and the state and run folders
//! (which do not).

use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The folders that every task works in.
#[derive(Clone, Debug)]
pub struct Layout {
    pub repo: PathBuf,
    /// Builds and the image stores of the containers, by version and inputs. `FREEHOLD_CACHE`
    /// changes the path.
    pub cache: PathBuf,
    /// etcd's data, kubelets' roots, volumes, logs.
    pub state: PathBuf,
    /// Sockets and process ids.
    pub run: PathBuf,
}

impl Layout {
    pub fn find() -> Result<Self> {
        let repo = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .context("xtask lies in the repository")?
            .to_owned();
        let cache = match std::env::var_os("FREEHOLD_CACHE") {
            Some(path) => PathBuf::from(path),
            None => PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?)
                .join(".cache/freehold"),
        };
        Ok(Self {
            repo,
            cache,
            state: "/var/lib/freehold-local".into(),
            run: "/run/freehold-local".into(),
        })
    }

    pub fn bin(&self) -> PathBuf {
        self.cache.join("bin")
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.state.join("pki/admin.kubeconfig")
    }

    pub fn logs(&self) -> PathBuf {
        self.state.join("logs")
    }
}

/// Reads `deploy/versions.env`, the only file with versions.
pub fn versions(repo: &Path) -> Result<BTreeMap<String, String>> {
    let path = repo.join("deploy/versions.env");
    let text =
        std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    Ok(text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned()))
        .collect())
}

/// Reads one version. An error names the missing key.
pub fn version(repo: &Path, key: &str) -> Result<String> {
    versions(repo)?
        .remove(key)
        .with_context(|| format!("deploy/versions.env has no {key}"))
}
