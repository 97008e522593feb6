//! Reads the bodies of requests with limited memory, and discards those that are too large.

use axum::body::{Body, Bytes, HttpBody};
use futures::StreamExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// The largest body. It has the object before and after the change, with managed fields; what the
/// CustomResourceDefinition and [`crate::kubernetes::guarded`] accept is far smaller.
pub const BYTES_MAX: usize = 2 * 1024 * 1024;
pub const TOO_LARGE: &str =
    "the object is too large: Freehold takes 256 KiB of metadata and spec; make several of it";
/// Memory for all bodies together: two of the largest.
const KIB_TOGETHER_MAX: usize = 4 * 1024;
/// The bytes in which the request's uid is searched; it is near the start.
const HEAD_BYTES: usize = 4096;

/// A body that was read to its end, and the permits for its memory.
pub struct Whole {
    pub bytes: Vec<u8>,
    pub permits: Vec<OwnedSemaphorePermit>,
}

/// Why a body is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    TooLarge,
    Broken,
    Late,
}

/// Limits the memory of all bodies that are being read.
pub struct Bodies(Arc<Semaphore>);

impl Default for Bodies {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(KIB_TOGETHER_MAX)))
    }
}

impl Bodies {
    /// Reads a body to its end, for at most `limit`.
    ///
    /// # Errors
    /// Why it is not taken, with the request's uid: without the uid, the API server would take the
    /// answer for none, and accept the object.
    pub async fn receive(&self, body: Body, limit: Duration) -> Result<Whole, (Refused, String)> {
        let mut head = Vec::new();
        let received = timeout(limit, self.read(body, &mut head)).await;
        received
            .unwrap_or(Err(Refused::Late))
            .map_err(|refused| (refused, uid(&head)))
    }

    /// `head` gets the first bytes as soon as they are there, before any memory is waited for.
    async fn read(&self, body: Body, head: &mut Vec<u8>) -> Result<Whole, Refused> {
        // The API server says how much comes. If memory for all of it is taken at once, no two
        // bodies wait for each other's rest.
        let expected = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
        let mut chunks = body.into_data_stream();
        let (mut bytes, mut permits, mut reserved) = (Vec::new(), Vec::new(), 0);
        let mut too_large = expected > BYTES_MAX;
        while let Some(chunk) = chunks.next().await {
            let chunk: Bytes = chunk.map_err(|_| Refused::Broken)?;
            let room = HEAD_BYTES.saturating_sub(head.len()).min(chunk.len());
            head.extend_from_slice(&chunk[..room]);
            let length = bytes.len() + chunk.len();
            if too_large || length > BYTES_MAX {
                // The rest is read and discarded, so that the API server gets the answer.
                too_large = true;
                bytes = Vec::new();
                permits.clear();
                continue;
            }
            if length > reserved {
                let more = length.max(expected) - reserved;
                let kib = u32::try_from(more.div_ceil(1024)).unwrap_or(u32::MAX);
                permits.extend(Arc::clone(&self.0).acquire_many_owned(kib).await);
                reserved += more;
            }
            bytes.extend_from_slice(&chunk);
        }
        match too_large {
            true => Err(Refused::TooLarge),
            false => Ok(Whole { bytes, permits }),
        }
    }
}

/// The uid of the request in an AdmissionReview, from the start of its text; empty if there is
/// none.
pub fn uid(start: &[u8]) -> String {
    let text = String::from_utf8_lossy(&start[..start.len().min(HEAD_BYTES)]);
    let uid = || {
        let (_, rest) = text.split_once("\"request\"")?;
        let (_, rest) = rest.split_once("\"uid\"")?;
        let (_, rest) = rest.split_once('"')?;
        rest.split_once('"').map(|(uid, _)| uid.to_owned())
    };
    uid().unwrap_or_default()
}
