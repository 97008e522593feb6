//! The document that the operator gives a runner: one stage, and who it is.

use crate::definition::Definition;
use crate::replay::Replay;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The version of the document that this code writes and reads.
pub const VERSION: u32 = 1;
/// Largest document in bytes: a ConfigMap has at most 1 MiB.
pub const DOCUMENT_BYTES_MAX: usize = 1024 * 1024;

/// A stage of a Pipeline, as a runner reads it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StageDocument {
    /// [`VERSION`].
    pub version: u32,
    /// `<namespace>/<name>` of the Pipeline.
    pub pipeline: String,
    /// `metadata.uid` of the Pipeline: one that is made again with the same name is another one.
    #[serde(default)]
    pub uid: String,
    /// Number of the revision, from 1.
    pub revision: u64,
    /// Name of the stage.
    pub stage: String,
    /// Its consumer group, and the prefix of its transactional ids (`<group>.<ordinal>`).
    pub group: String,
    /// What it runs; every topic is named by its name in Kafka.
    pub definition: Definition,
    /// The ids of the topics that it reads, as far as they are known.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub topics: BTreeMap<String, TopicIds>,
    /// It replays dead letters in the place of reading its sources.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay: Option<Replay>,
}

/// The ids of a topic in Kafka: one that is deleted and made anew has the same name and another id.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TopicIds {
    pub id: String,
    /// Of the topics of this name that were deleted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub former: Vec<String>,
}

/// Why a document cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    #[error("the document has {0} bytes; at most {DOCUMENT_BYTES_MAX}")]
    TooLarge(usize),
    #[error(
        "the document is of version {0}; this runner reads version {VERSION}: use the runner of the operator that wrote it"
    )]
    Version(u64),
    #[error("the document is not JSON of a stage")]
    Malformed(#[source] serde_json::Error),
}

impl StageDocument {
    /// Reads a document.
    ///
    /// # Errors
    /// It is too large, of another version, or not a document. The version is read first, so that
    /// a newer document is named as such.
    pub fn read(bytes: &[u8]) -> Result<Self, DocumentError> {
        #[derive(Deserialize)]
        struct OnlyVersion {
            version: u64,
        }
        if bytes.len() > DOCUMENT_BYTES_MAX {
            return Err(DocumentError::TooLarge(bytes.len()));
        }
        let OnlyVersion { version } =
            serde_json::from_slice(bytes).map_err(DocumentError::Malformed)?;
        if version != u64::from(VERSION) {
            return Err(DocumentError::Version(version));
        }
        serde_json::from_slice(bytes).map_err(DocumentError::Malformed)
    }
}
