//! An in-memory copy of a cluster's metadata, which [`super::follower`] keeps up to date. Reads
//! cost no request, and subscribers are notified of changes.

use freehold_kafka::metadata_image::{Concerned, MetadataImage};
use freehold_kafka::metadata_record::MetadataRecord;
use std::collections::HashSet;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;
use tokio::sync::{broadcast, watch};

/// Changes that a slow subscriber may lag behind. If it lags further, it must reconcile everything.
const CHANGES_MAX: usize = 8 * 1024;

/// The resources whose metadata changed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    One(Concerned),
    /// The whole image was replaced from a snapshot.
    All,
}

/// The copy of the metadata.
pub struct Mirror {
    image: RwLock<MetadataImage>,
    /// The next offset to apply; `None` until the first load is done.
    position: watch::Sender<Option<i64>>,
    changes: broadcast::Sender<Change>,
}

impl Default for Mirror {
    fn default() -> Self {
        Self {
            image: RwLock::default(),
            position: watch::channel(None).0,
            changes: broadcast::channel(CHANGES_MAX).0,
        }
    }
}

impl Mirror {
    /// The metadata as of now. Hold the guard only briefly: the follower waits for it.
    pub fn read(&self) -> RwLockReadGuard<'_, MetadataImage> {
        self.image.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// True once the image contains everything that was committed when the first load began.
    pub fn is_loaded(&self) -> bool {
        self.position.borrow().is_some()
    }

    /// Receives every later change. A receiver that lags by more than `CHANGES_MAX` gets an
    /// error.
    pub fn subscribe(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    /// Waits at most `limit` until the metadata satisfies `expected`. Returns false if that did not
    /// happen.
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

    /// Waits at most `limit` until everything before `offset` is in the image. Returns false if
    /// that did not happen.
    pub async fn reaches(&self, offset: i64, limit: Duration) -> bool {
        let mut position = self.position.subscribe();
        let reached =
            position.wait_for(|position| position.is_some_and(|position| position >= offset));
        tokio::time::timeout(limit, reached)
            .await
            .is_ok_and(|reached| reached.is_ok())
    }

    /// Applies committed records; `next` is the offset after them.
    pub fn advance(&self, records: Vec<MetadataRecord>, next: i64) {
        let mut concerned = Vec::new();
        if !records.is_empty() {
            let mut image = self.image.write().unwrap_or_else(PoisonError::into_inner);
            records
                .into_iter()
                .for_each(|record| image.apply(record, &mut concerned));
        }
        self.position.send_replace(Some(next));
        let once: HashSet<Concerned> = concerned.into_iter().collect();
        for change in once {
            // An error means that there is no subscriber yet.
            let _ = self.changes.send(Change::One(change));
        }
    }

    /// Notifies subscribers of a change of this resource that is not in the metadata.
    pub fn touch(&self, concerned: Concerned) {
        let _ = self.changes.send(Change::One(concerned));
    }

    /// Replaces the image.
    pub fn replace(&self, image: MetadataImage, next: i64) {
        *self.image.write().unwrap_or_else(PoisonError::into_inner) = image;
        self.position.send_replace(Some(next));
        let _ = self.changes.send(Change::All);
    }
}
