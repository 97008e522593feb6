//! A copy of a cluster's metadata in memory, kept up by [`super::follower`]: reads cost nothing, changes are pushed.

use crate::kafka::metadata_image::{Concerned, MetadataImage};
use crate::kafka::metadata_record::MetadataRecord;
use std::collections::HashSet;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;
use tokio::sync::{broadcast, watch};

/// Changes that a slow listener may lag behind; then it looks at everything.
const CHANGES_MAX: usize = 8 * 1024;

/// Whom a change of the metadata concerns.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    One(Concerned),
    /// It was read anew from a snapshot.
    All,
}

/// The copy.
pub struct Mirror {
    image: RwLock<MetadataImage>,
    /// The next offset to apply; `None` until the first load is done.
    position: watch::Sender<Option<i64>>,
    changes: broadcast::Sender<Change>,
}

impl Default for Mirror {
    fn default() -> Self {
        Self { image: RwLock::default(), position: watch::channel(None).0, changes: broadcast::channel(CHANGES_MAX).0 }
    }
}

impl Mirror {
    /// The metadata as known now. Short: the follower waits for it.
    pub fn read(&self) -> RwLockReadGuard<'_, MetadataImage> {
        self.image.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// True once everything that was committed when the first load began is in it.
    pub fn is_loaded(&self) -> bool {
        self.position.borrow().is_some()
    }

    pub fn subscribe(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    /// Waits until the metadata is as `expected` says, at most for `limit`; false when it did not come to that.
    pub async fn wait(&self, limit: Duration, expected: impl Fn(&MetadataImage) -> bool) -> bool {
        let mut position = self.position.subscribe();
        let came = async {
            while !expected(&self.read()) {
                if position.changed().await.is_err() {
                    return false;
                }
            }
            true
        };
        tokio::time::timeout(limit, came).await.unwrap_or(false)
    }

    /// Waits until everything before `offset` is in it, at most for `limit`; false when it did not come to that.
    pub async fn reaches(&self, offset: i64, limit: Duration) -> bool {
        let mut position = self.position.subscribe();
        let reached = position.wait_for(|position| position.is_some_and(|position| position >= offset));
        tokio::time::timeout(limit, reached).await.is_ok_and(|reached| reached.is_ok())
    }

    /// Takes committed records in; `next` is the offset after them.
    pub fn advance(&self, records: Vec<MetadataRecord>, next: i64) {
        let mut concerned = Vec::new();
        if !records.is_empty() {
            let mut image = self.image.write().unwrap_or_else(PoisonError::into_inner);
            records.into_iter().for_each(|record| image.apply(record, &mut concerned));
        }
        self.position.send_replace(Some(next));
        let once: HashSet<Concerned> = concerned.into_iter().collect();
        for change in once {
            // Nobody may listen yet.
            let _ = self.changes.send(Change::One(change));
        }
    }

    /// Says that somebody is concerned by something beside the metadata.
    pub fn touch(&self, concerned: Concerned) {
        let _ = self.changes.send(Change::One(concerned));
    }

    /// Puts another image in the place of the old one.
    pub fn replace(&self, image: MetadataImage, next: i64) {
        *self.image.write().unwrap_or_else(PoisonError::into_inner) = image;
        self.position.send_replace(Some(next));
        let _ = self.changes.send(Change::All);
    }
}
