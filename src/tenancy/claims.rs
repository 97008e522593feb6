//! Records which object claims which name in Kafka, and orders the objects that claim the same
//! name: the oldest comes first.

use crate::api::reference::ClusterKey;
use k8s_openapi::jiff::Timestamp;
use kube::runtime::reflector::ObjectRef;
use kube::{Resource, ResourceExt};
use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, PoisonError, RwLock};

/// What an object claims: the name of a topic or a principal in a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Claim {
    pub cluster: ClusterKey,
    pub name: String,
}

/// An object that claims a name. Two with the same namespace and name are equal, even if they were
/// created at different times.
#[derive(Clone, Debug)]
struct Holder {
    created: Option<Timestamp>,
    namespace: Box<str>,
    name: Box<str>,
}

impl PartialEq for Holder {
    fn eq(&self, other: &Self) -> bool {
        (&self.namespace, &self.name) == (&other.namespace, &other.name)
    }
}

impl Eq for Holder {}

impl Hash for Holder {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.namespace, &self.name).hash(state);
    }
}

impl Holder {
    fn of<O: Resource>(object: &O) -> Self {
        let created = object.meta().creation_timestamp.as_ref().map(|time| time.0);
        Self {
            created,
            namespace: object.namespace().unwrap_or_default().into(),
            name: object.name_any().into(),
        }
    }

    /// Older objects come first.
    fn is_before(&self, other: &Self) -> bool {
        (self.created, &self.namespace, &self.name) < (other.created, &other.namespace, &other.name)
    }
}

/// The claims of all objects of a kind.
#[derive(Default)]
pub struct Claims(RwLock<State>);

/// There may be ten thousand objects, so each text is stored once, and lists have no spare
/// capacity.
#[derive(Default)]
struct State {
    /// The objects that claim a name, the oldest first.
    holders: HashMap<Arc<Claim>, Vec<Arc<Holder>>>,
    by_object: HashMap<Arc<Holder>, Arc<Claim>>,
}

impl State {
    fn add(&mut self, claim: Arc<Claim>, holder: Arc<Holder>) {
        // Nearly always there is only one object.
        let holders = self
            .holders
            .entry(Arc::clone(&claim))
            .or_insert_with(|| Vec::with_capacity(1));
        holders.insert(
            holders.partition_point(|other| other.is_before(&holder)),
            Arc::clone(&holder),
        );
        self.by_object.insert(holder, claim);
    }

    fn remove(&mut self, holder: &Holder) -> Option<Arc<Claim>> {
        let claim = self.by_object.remove(holder)?;
        if let Some(holders) = self.holders.get_mut(&claim) {
            holders.retain(|other| **other != *holder);
            if holders.is_empty() {
                self.holders.remove(&claim);
            }
        }
        Some(claim)
    }
}

impl Claims {
    /// Records an object's claim.
    pub fn set<O: Resource>(&self, object: &O, claim: Claim) {
        let holder = Holder::of(object);
        let mut state = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if state
            .by_object
            .get_key_value(&holder)
            .is_some_and(|(by, known)| **known == claim && by.created == holder.created)
        {
            return;
        }
        state.remove(&holder);
        state.add(Arc::new(claim), Arc::new(holder));
    }

    /// Removes an object and returns its claim.
    pub fn remove<O: Resource>(&self, object: &O) -> Option<Claim> {
        self.0
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&Holder::of(object))
            .map(Arc::unwrap_or_clone)
    }

    /// The objects that claim the same name and are older, the oldest first: namespace and name.
    pub fn older<O: Resource>(&self, claim: &Claim, object: &O) -> Vec<(String, String)> {
        let (state, own) = (
            self.0.read().unwrap_or_else(PoisonError::into_inner),
            Holder::of(object),
        );
        let holders = state.holders.get(claim).into_iter().flatten();
        // The object itself may not be in the claims yet.
        let older = holders.filter(|other| ***other != own && other.is_before(&own));
        older
            .map(|holder| (holder.namespace.to_string(), holder.name.to_string()))
            .collect()
    }

    /// True if an object with this namespace and name that has a claim is older than `other`.
    pub fn is_before<O: Resource>(&self, namespace: &str, name: &str, other: &O) -> bool {
        let key = Holder {
            created: None,
            namespace: namespace.into(),
            name: name.into(),
        };
        let state = self.0.read().unwrap_or_else(PoisonError::into_inner);
        state
            .by_object
            .get_key_value(&key)
            .is_some_and(|(holder, _)| holder.is_before(&Holder::of(other)))
    }

    /// The claims of all objects of a namespace.
    pub fn of_namespace(&self, namespace: &str) -> Vec<Arc<Claim>> {
        let state = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let of_namespace = |holder: &Holder| &*holder.namespace == namespace;
        let claims = state.by_object.iter();
        claims
            .filter(|(holder, _)| of_namespace(holder))
            .map(|(_, claim)| Arc::clone(claim))
            .collect()
    }

    /// True if some object has this claim.
    pub fn is_claimed(&self, claim: &Claim) -> bool {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .holders
            .contains_key(claim)
    }

    /// All objects with this claim.
    pub fn objects<O: Resource<DynamicType = ()>>(&self, claim: &Claim) -> Vec<ObjectRef<O>> {
        let state = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let holders = state.holders.get(claim).into_iter().flatten();
        holders
            .map(|holder| ObjectRef::new(&holder.name).within(&holder.namespace))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;

    fn object(name: &str, created: &str) -> ConfigMap {
        serde_json::from_value(
            json!({"metadata": {"name": name, "namespace": "n", "creationTimestamp": created}}),
        )
        .unwrap()
    }

    #[test]
    fn the_older_come_first_and_when_they_go_the_next_does() {
        let claims = Claims::default();
        let claim = Claim {
            cluster: ClusterKey {
                namespace: "k".into(),
                name: "c".into(),
            },
            name: "t".into(),
        };
        let (old, new) = (
            object("b", "2026-01-01T00:00:00Z"),
            object("a", "2026-01-02T00:00:00Z"),
        );
        claims.set(&new, claim.clone());
        assert!(claims.older(&claim, &new).is_empty());
        claims.set(&old, claim.clone());
        assert_eq!(
            claims.older(&claim, &new),
            [("n".to_owned(), "b".to_owned())]
        );
        assert!(claims.is_before("n", "b", &new) && !claims.is_before("n", "a", &old));
        assert!(claims.older(&claim, &old).is_empty());
        assert_eq!(claims.of_namespace("n").len(), 2);
        assert_eq!(claims.remove(&old), Some(claim.clone()));
        assert!(claims.older(&claim, &new).is_empty());
        assert!(claims.is_claimed(&claim));
        claims.remove(&new);
        assert!(!claims.is_claimed(&claim));
    }
}
