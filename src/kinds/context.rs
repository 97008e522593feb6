//! What the reconciles of all kinds share. A kind that needs more has a context of its own around
//! this one.

use crate::api::kafka_cluster::KafkaCluster;
use crate::api::topic::Topic;
use crate::api::user::User;
use crate::clusters::Clusters;
use crate::clusters::inventory::Inventory;
use crate::kinds::error::Error;
use crate::kubernetes::names::ClusterDomain;
use crate::runtime::namespaces::is_watched;
use crate::runtime::services::Services;
use crate::runtime::stores::Stores;
use crate::tenancy::rights::Sharing;
use crate::tenancy::tenants::Tenants;
use k8s_openapi::NamespaceResourceScope;
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::ops::Deref;

/// What the operator was started with.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Its own namespace.
    pub namespace: String,
    /// Namespaces to watch; empty: all.
    pub watch_namespaces: Vec<String>,
    /// Those of them that have KafkaClusters; empty: all.
    pub cluster_namespaces: Vec<String>,
    /// Kafka image of each version.
    pub images: BTreeMap<String, String>,
    /// Image of the runner, for the pods of Pipelines; none: no Pipeline can run.
    pub runner_image: Option<String>,
    /// Secrets by which the images of Kafka and of the runner are pulled.
    pub image_pull_secrets: Vec<String>,
    pub cluster_domain: ClusterDomain,
}

impl Settings {
    pub fn watches(&self, namespace: &str) -> bool {
        is_watched(&self.watch_namespaces, namespace)
    }

    /// Whether KafkaClusters of a namespace are served.
    pub fn serves_clusters(&self, namespace: &str) -> bool {
        let named = &self.cluster_namespaces;
        if named.is_empty() {
            self.watches(namespace)
        } else {
            named.iter().any(|served| served == namespace)
        }
    }
}

/// Shared by all reconciles. It derefs to [`Services`]: the client, metrics and namespaces.
pub struct Context {
    services: Services,
    pub settings: Settings,
    pub clusters: Clusters,
    pub inventory: Inventory,
    pub kafka_clusters: Stores<KafkaCluster>,
    pub topics: Tenants<Topic>,
    pub users: Tenants<User>,
    pub sharing: Sharing,
}

impl Context {
    pub fn new(client: Client, settings: Settings) -> Self {
        let services = Services::new(client, settings.watch_namespaces.clone());
        let inventory = Inventory::new(&services.metrics);
        Self {
            services,
            settings,
            clusters: Clusters::default(),
            inventory,
            kafka_clusters: Stores::default(),
            topics: Tenants::default(),
            users: Tenants::default(),
            sharing: Sharing::default(),
        }
    }

    /// Fails unless a cached object is what the API server has now ([`Services::is_current`]).
    ///
    /// # Errors
    /// [`Error::Old`] where the API server has a newer one; what the API server answers.
    pub async fn ensure_current<O>(&self, object: &O) -> Result<(), Error>
    where
        O: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + Debug,
    {
        if self.is_current(object).await? {
            Ok(())
        } else {
            Err(Error::Old)
        }
    }
}

impl Deref for Context {
    type Target = Services;

    fn deref(&self) -> &Services {
        &self.services
    }
}

impl AsRef<Services> for Context {
    fn as_ref(&self) -> &Services {
        &self.services
    }
}

impl AsRef<Self> for Context {
    fn as_ref(&self) -> &Self {
        self
    }
}
