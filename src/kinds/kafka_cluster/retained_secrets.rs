//! Caches the Secrets with keys that this operator has observed, so that a deleted one can be
//! restored with the same content.

use crate::kinds::kafka_cluster::observed::SecretFacts;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

/// The cached Secrets by the cluster's uid, then by name.
#[derive(Default)]
pub struct RetainedSecrets(Mutex<HashMap<String, BTreeMap<String, SecretFacts>>>);

impl RetainedSecrets {
    /// Caches the Secrets of these names that exist, and returns the cached ones of those that do
    /// not.
    pub fn keep(
        &self,
        uid: &str,
        names: &[String],
        there: &BTreeMap<String, SecretFacts>,
    ) -> BTreeMap<String, SecretFacts> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = all.entry(uid.to_owned()).or_default();
        for name in names {
            if let Some(found) = there.get(name).filter(|found| found.is_whole()) {
                kept.insert(name.clone(), found.clone());
            }
        }
        let missing = |name: &String| !there.get(name).is_some_and(SecretFacts::is_whole);
        kept.iter()
            .filter(|(name, _)| missing(name))
            .map(|(name, secret)| (name.clone(), secret.clone()))
            .collect()
    }

    /// Removes the cached Secrets of a cluster.
    pub fn forget(&self, uid: &str) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(uid);
    }
}
