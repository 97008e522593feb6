//! What a stage that reaches outside Kafka gets of its process.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use freehold_pipeline::endpoint::secret_file;
use tokio::runtime::Handle;

use crate::figures::Figures;
use crate::flow::BlockFigures;

/// The arguments of the process, and what its threads share.
#[derive(Clone)]
pub struct Process {
    /// The number of the replica, from 0.
    pub ordinal: u32,
    /// The folder of secrets.
    pub secrets: PathBuf,
    /// The folder of `tls.crt` and `tls.key`.
    pub tls: PathBuf,
    /// Where a source by HTTPS listens.
    pub http_source: SocketAddr,
    /// The folder of the crash journal. `None`: there is none.
    pub work: Option<PathBuf>,
    pub figures: Arc<Figures>,
    pub blocks: BlockFigures,
    /// The process was asked to end.
    pub stop: Arc<AtomicBool>,
    pub runtime: Handle,
}

impl Process {
    /// Whether the process was asked to end.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// Reads a key of a Secret. A line end at its end is not part of it.
///
/// # Errors
/// Which file cannot be read, or is empty; never what is in it.
pub fn secret(folder: &Path, name: &str, key: &str) -> Result<Vec<u8>, String> {
    let why = |why: &str| format!("Secret {name}, key {key}: {why}");
    let mut value = std::fs::read(folder.join(secret_file(name, key)))
        .map_err(|error| why(&error.kind().to_string()))?;
    while value.last().is_some_and(|byte| b"\r\n".contains(byte)) {
        value.pop();
    }
    if value.is_empty() {
        return Err(why("it is empty"));
    }
    Ok(value)
}
