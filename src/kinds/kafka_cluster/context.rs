//! The state that all reconciles of KafkaClusters share, in addition to the context of all kinds.

use crate::kinds::attempts::Tried;
use crate::kinds::context::{Context as Shared, Settings};
use crate::kinds::kafka_cluster::connections::Clients;
use crate::kinds::kafka_cluster::replacing::lost_since::LostSince;
use crate::kinds::kafka_cluster::retained_secrets::RetainedSecrets;
use crate::kinds::pods_not_made;
use crate::runtime::answer_cache::AnswerCache;
use crate::runtime::services::Services;
use kube::Client;
use std::ops::Deref;
use std::sync::Arc;

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
            refusals: AnswerCache::new(pods_not_made::KEEP),
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
