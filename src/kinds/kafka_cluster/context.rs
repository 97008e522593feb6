//! The state that all reconciles of KafkaClusters share, in addition to the context of all kinds.

use crate::api::kafka_cluster::KafkaCluster;
use crate::kinds::context::{Context as Shared, Settings};
use crate::kinds::kafka_cluster::attempts::Attempts;
use crate::kinds::kafka_cluster::connections::Clients;
use crate::kinds::kafka_cluster::replacing::lost_since::LostSince;
use crate::kinds::kafka_cluster::retained_secrets::RetainedSecrets;
use crate::runtime::answer_cache::AnswerCache;
use crate::runtime::services::Services;
use kube::Client;
use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// While a pod is missing, the events of its StatefulSet are read at most once in this time.
const REFUSALS_KEEP: Duration = Duration::from_secs(5);

/// The context of KafkaCluster reconciles. Dereferences to the context of all kinds.
pub struct Context {
    shared: Arc<Shared>,
    pub clients: Clients,
    pub retained_secrets: RetainedSecrets,
    /// The reason why a StatefulSet creates no pods, by namespace and name.
    pub refusals: AnswerCache<(String, String), Option<String>>,
    /// The steps that were refused, for each KafkaCluster.
    pub attempts: Tried,
    pub lost: LostSince,
}

impl Context {
    /// Creates a context that is not shared, for a command that serves no other kind.
    pub fn new(client: Client, settings: Settings) -> Self {
        Self::of(Arc::new(Shared::new(client, settings)))
    }

    /// Creates the context of KafkaClusters on top of the shared one.
    pub fn of(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            clients: Clients::default(),
            retained_secrets: RetainedSecrets::default(),
            refusals: AnswerCache::new(REFUSALS_KEEP),
            attempts: Tried::default(),
            lost: LostSince::default(),
        }
    }
}

impl Deref for Context {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.shared
    }
}

impl AsRef<Services> for Context {
    fn as_ref(&self) -> &Services {
        (*self.shared).as_ref()
    }
}

/// The attempts of each KafkaCluster, by its uid.
#[derive(Default)]
pub struct Tried(Mutex<HashMap<String, Attempts>>);

impl Tried {
    /// The attempts of an object; empty if there are none.
    pub fn of(&self, object: &KafkaCluster) -> Attempts {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        object
            .metadata
            .uid
            .as_ref()
            .and_then(|uid| all.get(uid))
            .cloned()
            .unwrap_or_default()
    }

    /// Replaces the attempts of an object.
    pub fn put(&self, object: &KafkaCluster, attempts: Attempts) {
        let uid = object.metadata.uid.clone().unwrap_or_default();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if attempts == Attempts::default() {
            drop(all.remove(&uid))
        } else {
            drop(all.insert(uid, attempts))
        }
    }
}
