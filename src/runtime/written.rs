//! Objects after the operator's own last write, until the watch has caught up. Without them a
//! reconcile that follows right after a write would see the object as it was before that write.

use crate::kubernetes;
use kube::{Resource, ResourceExt};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// By namespace and name.
pub struct Written<O>(Mutex<HashMap<(String, String), Arc<O>>>);

impl<O> Default for Written<O> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

/// The resourceVersion of an object as a number.
pub fn version(object: &impl Resource) -> u64 {
    kubernetes::version(
        object
            .meta()
            .resource_version
            .as_deref()
            .unwrap_or_default(),
    )
}

impl<O: Resource> Written<O> {
    fn key(object: &O) -> (String, String) {
        (object.namespace().unwrap_or_default(), object.name_any())
    }

    /// Notes an object as a write of ours, or a read, gave it.
    pub fn put(&self, object: O) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(Self::key(&object), Arc::new(object));
    }

    /// The newer one of the object in the cache and the object after our own last write.
    pub fn newest(&self, watched: Arc<O>) -> Arc<O> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = Self::key(&watched);
        match all.get(&key) {
            Some(known)
                if known.meta().uid == watched.meta().uid
                    && version(&**known) > version(&*watched) =>
            {
                Arc::clone(known)
            }
            _ => {
                all.remove(&key);
                watched
            }
        }
    }

    /// Notes that the watch gave an object: an older one that we know of is no longer needed.
    pub fn saw(&self, watched: &O) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = Self::key(watched);
        if all
            .get(&key)
            .is_some_and(|known| version(&**known) <= version(watched))
        {
            all.remove(&key);
        }
    }

    pub fn forget(&self, gone: &O) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&Self::key(gone));
    }
}
