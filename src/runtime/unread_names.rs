//! The names of the objects in a cache that cannot be read. The cache has such an object as it was
//! before, if at all.

use kube::api::ObjectMeta;
use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Namespaces and names of objects that cannot be read.
#[derive(Default)]
pub struct UnreadNames(Mutex<HashSet<(String, String)>>);

fn key(meta: &ObjectMeta) -> (String, String) {
    (
        meta.namespace.clone().unwrap_or_default(),
        meta.name.clone().unwrap_or_default(),
    )
}

impl UnreadNames {
    fn names(&self) -> MutexGuard<'_, HashSet<(String, String)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn has(&self, namespace: &str, name: &str) -> bool {
        let names = self.names();
        !names.is_empty() && names.contains(&(namespace.to_owned(), name.to_owned()))
    }

    pub fn insert(&self, meta: &ObjectMeta) {
        self.names().insert(key(meta));
    }

    pub fn remove(&self, meta: &ObjectMeta) {
        self.names().remove(&key(meta));
    }
}
