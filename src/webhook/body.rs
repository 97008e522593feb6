//! Reads the bodies of requests with limited memory, and discards those that are too large.

use axum::body::{Body, Bytes};
use futures::StreamExt;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The largest body. It has the object before and after the change, with managed fields; what the
/// CustomResourceDefinition and [`crate::kubernetes::guarded`] accept is far smaller.
pub const BYTES_MAX: usize = 2 * 1024 * 1024;
pub const TOO_LARGE: &str =
    "the object is too large: Freehold takes 256 KiB of metadata and spec; make several of it";
/// Memory for all bodies together: two of the largest.
const KIB_TOGETHER_MAX: usize = 4 * 1024;
/// The bytes in which the request's uid is searched; it is near the start.
const HEAD_BYTES: usize = 4096;

/// The result of reading a body.
pub enum Received {
    Whole(Vec<u8>, Vec<OwnedSemaphorePermit>),
    TooLarge { uid: String },
    Broken,
}

/// Limits the memory of all bodies that are being read.
pub struct Bodies(Arc<Semaphore>);

impl Default for Bodies {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(KIB_TOGETHER_MAX)))
    }
}

impl Bodies {
    /// Reads a body to its end. If it is too large, the rest is read and discarded, so that the API
    /// server gets the answer.
    pub async fn receive(&self, body: Body) -> Received {
        let mut chunks = body.into_data_stream();
        let (mut kept, mut permits, mut too_large) = (Vec::new(), Vec::new(), false);
        while let Some(chunk) = chunks.next().await {
            let Ok(chunk): Result<Bytes, _> = chunk else {
                return Received::Broken;
            };
            if too_large || kept.len() + chunk.len() > BYTES_MAX {
                if !too_large {
                    too_large = true;
                    kept.truncate(HEAD_BYTES);
                    kept.shrink_to_fit();
                    permits.clear();
                }
                let room = HEAD_BYTES.saturating_sub(kept.len()).min(chunk.len());
                kept.extend_from_slice(&chunk[..room]);
                continue;
            }
            let kib = u32::try_from(chunk.len().div_ceil(1024)).unwrap_or(u32::MAX);
            if let Ok(permit) = Arc::clone(&self.0).acquire_many_owned(kib).await {
                permits.push(permit);
            }
            kept.extend_from_slice(&chunk);
        }
        if too_large {
            Received::TooLarge { uid: uid(&kept) }
        } else {
            Received::Whole(kept, permits)
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
