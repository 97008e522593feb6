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
/// Memory for all objects together that wait for a check which runs alone: some ten of the largest
/// Pipelines, and more than can have their turn in time.
const KIB_WAITING_MAX: usize = 4 * 1024;
/// The bytes in which the request's uid is searched; it is near the start. So much of a body is
/// read before memory is waited for.
const HEAD_BYTES: usize = 4096;
/// Memory for all that a request says it will send is only taken once so much of it has come: who
/// only says so keeps nobody else out. Nearly every request is shorter.
const EARLY_BYTES: usize = 64 * 1024;

/// A share of the memory, until it is dropped.
#[derive(Default)]
pub struct Memory(Option<OwnedSemaphorePermit>);

impl Memory {
    fn add(&mut self, more: OwnedSemaphorePermit) {
        match &mut self.0 {
            Some(permit) => permit.merge(more),
            None => self.0 = Some(more),
        }
    }

    fn kib(&self) -> u32 {
        let permits = self.0.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        u32::try_from(permits).unwrap_or(u32::MAX)
    }
}

/// A body that was read to its end, and its memory.
pub struct Whole {
    pub bytes: Vec<u8>,
    pub memory: Memory,
}

/// Why a body is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    TooLarge,
    Broken,
    Late,
}

/// Limits the memory of all bodies that are being read and checked, and of the objects that wait.
pub struct Bodies {
    together: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

impl Default for Bodies {
    fn default() -> Self {
        Self {
            together: Arc::new(Semaphore::new(KIB_TOGETHER_MAX)),
            waiting: Arc::new(Semaphore::new(KIB_WAITING_MAX)),
        }
    }
}

/// The bytes for which memory is taken once `length` bytes have come of the `expected` ones.
fn reserved_at(length: usize, expected: usize) -> usize {
    match length {
        0..=HEAD_BYTES => 0,
        _ if length <= EARLY_BYTES => length,
        // If memory for all of it is taken at once, no two bodies wait for each other's rest.
        _ => length.max(expected),
    }
}

impl Bodies {
    /// Gives the memory of a body back, because its object waits for a check that runs alone: those
    /// that need no such check are not kept out. `None`: too many wait already.
    pub fn wait(&self, memory: Memory) -> Option<Memory> {
        let waiting = Arc::clone(&self.waiting);
        let permit = waiting.try_acquire_many_owned(memory.kib());
        permit.ok().map(|permit| Memory(Some(permit)))
    }

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
        // The API server says how much comes.
        let expected = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
        let mut chunks = body.into_data_stream();
        let (mut bytes, mut memory, mut reserved) = (Vec::new(), Memory::default(), 0);
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
                memory = Memory::default();
                continue;
            }
            let wanted = reserved_at(length, expected);
            if wanted > reserved {
                let kib = (wanted - reserved).div_ceil(1024);
                let kib = u32::try_from(kib).unwrap_or(u32::MAX);
                // The semaphore is never closed.
                if let Ok(more) = Arc::clone(&self.together).acquire_many_owned(kib).await {
                    memory.add(more);
                }
                reserved = wanted;
            }
            bytes.extend_from_slice(&chunk);
        }
        match too_large {
            true => Err(Refused::TooLarge),
            false => Ok(Whole { bytes, memory }),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_for_the_whole_is_taken_once_some_of_it_is_there() {
        assert_eq!(reserved_at(1, BYTES_MAX), 0);
        assert_eq!(reserved_at(HEAD_BYTES + 1, BYTES_MAX), HEAD_BYTES + 1);
        assert_eq!(reserved_at(EARLY_BYTES + 1, BYTES_MAX), BYTES_MAX);
        assert_eq!(reserved_at(EARLY_BYTES + 1, 0), EARLY_BYTES + 1);
    }
}
