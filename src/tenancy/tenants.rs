//! Holds the objects of a kind that refers to clusters: their caches and their claims.

use crate::api::reference::ClusterKey;
use crate::api::topic::Topic;
use crate::api::user::User;
use crate::runtime::services::Services;
use crate::runtime::stores::Stores;
use crate::runtime::unread_names::UnreadNames;
use crate::tenancy::claims::{Claim, Claims};
use freehold_kafka::ownership::Owner;
use kube::Resource;
use kube::runtime::reflector::Store;
use std::sync::{Arc, PoisonError, RwLock};

/// An object that refers to a cluster and claims a name in it.
pub trait Tenant: Resource<DynamicType = ()> + Clone + Send + Sync + 'static {
    fn claim(&self) -> Claim;
}

impl Tenant for Topic {
    fn claim(&self) -> Claim {
        let namespace = self.metadata.namespace.as_deref().unwrap_or_default();
        Claim {
            cluster: self.spec.cluster_ref.key(namespace),
            name: self.topic_name().to_owned(),
        }
    }
}

impl Tenant for User {
    fn claim(&self) -> Claim {
        let namespace = self.metadata.namespace.as_deref().unwrap_or_default();
        Claim {
            cluster: self.spec.cluster_ref.key(namespace),
            name: self.principal_name().to_owned(),
        }
    }
}

/// The objects of a kind in all watched namespaces.
pub struct Tenants<O: Tenant> {
    objects: Stores<O>,
    /// The names of those that cannot be read, one set for each cache.
    unread: RwLock<Vec<Arc<UnreadNames>>>,
    claims: Claims,
}

impl<O: Tenant> Default for Tenants<O> {
    fn default() -> Self {
        Self {
            objects: Stores::default(),
            unread: RwLock::default(),
            claims: Claims::default(),
        }
    }
}

impl<O: Tenant> Tenants<O> {
    /// Adds the cache of a namespace, or of all.
    pub fn add(&self, namespace: Option<&str>, store: Store<O>) {
        self.objects.add(namespace, store);
    }

    /// Adds the names of those in a cache that cannot be read.
    pub fn add_unread(&self, names: &Arc<UnreadNames>) {
        self.unread
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Arc::clone(names));
    }

    /// True if the object is in the cache as its last writer wants it, so that it is reconciled.
    /// One that cannot be read stays in the cache as it was before.
    pub fn is_read(&self, namespace: &str, name: &str) -> bool {
        let unread = self.unread.read().unwrap_or_else(PoisonError::into_inner);
        self.get(namespace, name).is_some() && !unread.iter().any(|all| all.has(namespace, name))
    }

    /// The object from the cache.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<O>> {
        self.objects.get(namespace, name)
    }

    /// All objects in the caches.
    pub fn all(&self) -> Vec<Arc<O>> {
        self.objects.all()
    }

    /// True once the objects of all watched namespaces have been listed.
    pub fn are_ready(&self) -> bool {
        self.objects.are_ready()
    }

    /// True once the objects of this namespace have been listed.
    pub fn is_listed(&self, namespace: &str) -> bool {
        self.objects.is_listed(namespace)
    }

    /// The claims of all objects of the kind.
    pub fn claims(&self) -> &Claims {
        &self.claims
    }

    /// True if some object has this claim.
    pub fn is_claimed(&self, claim: &Claim) -> bool {
        self.claims.is_claimed(claim)
    }

    /// True if the object that Kafka records as an owner exists. An object in a namespace that the
    /// operator does not watch counts as existing, because nothing shows that it is gone.
    pub fn is_there(&self, services: &Services, cluster: &ClusterKey, owner: &Owner) -> bool {
        if !self.are_ready() || !services.watches(&owner.namespace) {
            return true;
        }
        let found = self.get(&owner.namespace, &owner.name);
        found.is_some_and(|found| {
            found.meta().uid.as_deref() == Some(&owner.uid) && found.claim().cluster == *cluster
        })
    }
}
