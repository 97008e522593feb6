//! Which object manages what in Kafka: of several that claim the same, the oldest holds it.

use crate::kinds::reference::ClusterKey;
use k8s_openapi::jiff::Timestamp;
use kube::runtime::reflector::ObjectRef;
use kube::{Resource, ResourceExt};
use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, PoisonError, RwLock};

/// What an object claims: a topic or a principal of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Claim {
    pub cluster: ClusterKey,
    pub name: String,
}

/// An object. One is as good as another of its name, whenever it was made.
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
        Self { created, namespace: object.namespace().unwrap_or_default().into(), name: object.name_any().into() }
    }

    /// The older ones first.
    fn is_before(&self, other: &Self) -> bool {
        (self.created, &self.namespace, &self.name) < (other.created, &other.namespace, &other.name)
    }
}

/// The claims of all objects of a kind.
#[derive(Default)]
pub struct Claims(RwLock<State>);

/// Of ten thousand objects each: texts are kept once, and lists no longer than they are.
#[derive(Default)]
struct State {
    /// The oldest first.
    holders: HashMap<Arc<Claim>, Vec<Arc<Holder>>>,
    by_object: HashMap<Arc<Holder>, Arc<Claim>>,
}

impl State {
    fn add(&mut self, claim: Arc<Claim>, holder: Arc<Holder>) {
        // Nearly always there is one.
        let holders = self.holders.entry(Arc::clone(&claim)).or_insert_with(|| Vec::with_capacity(1));
        holders.insert(holders.partition_point(|other| other.is_before(&holder)), Arc::clone(&holder));
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
    /// Notes an object's claim.
    pub fn set<O: Resource>(&self, object: &O, claim: Claim) {
        let holder = Holder::of(object);
        let mut state = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if state.by_object.get_key_value(&holder).is_some_and(|(by, known)| **known == claim && by.created == holder.created) {
            return;
        }
        state.remove(&holder);
        state.add(Arc::new(claim), Arc::new(holder));
    }

    /// Forgets an object; tells what it claimed.
    pub fn remove<O: Resource>(&self, object: &O) -> Option<Claim> {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(&Holder::of(object)).map(Arc::unwrap_or_clone)
    }

    /// The object that holds a claim, where it is another than this one: `namespace/name`.
    pub fn held_by_other<O: Resource>(&self, claim: &Claim, object: &O) -> Option<String> {
        let state = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let (first, own) = (state.holders.get(claim)?.first()?, Holder::of(object));
        // One that is new here is compared by its own age.
        (**first != own && first.is_before(&own)).then(|| format!("{}/{}", first.namespace, first.name))
    }

    pub fn is_claimed(&self, claim: &Claim) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).holders.contains_key(claim)
    }

    /// Every object that claims this.
    pub fn objects<O: Resource<DynamicType = ()>>(&self, claim: &Claim) -> Vec<ObjectRef<O>> {
        let state = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let holders = state.holders.get(claim).into_iter().flatten();
        holders.map(|holder| ObjectRef::new(&holder.name).within(&holder.namespace)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;

    fn object(name: &str, created: &str) -> ConfigMap {
        serde_json::from_value(json!({"metadata": {"name": name, "namespace": "n", "creationTimestamp": created}})).unwrap()
    }

    #[test]
    fn the_oldest_holds_and_when_it_goes_the_next_does() {
        let claims = Claims::default();
        let claim = Claim { cluster: ClusterKey { namespace: "k".into(), name: "c".into() }, name: "t".into() };
        let (old, new) = (object("b", "2026-01-01T00:00:00Z"), object("a", "2026-01-02T00:00:00Z"));
        claims.set(&new, claim.clone());
        assert_eq!(claims.held_by_other(&claim, &new), None);
        claims.set(&old, claim.clone());
        assert_eq!(claims.held_by_other(&claim, &new), Some("n/b".into()));
        assert_eq!(claims.held_by_other(&claim, &old), None);
        assert_eq!(claims.remove(&old), Some(claim.clone()));
        assert_eq!(claims.held_by_other(&claim, &new), None);
        assert!(claims.is_claimed(&claim));
        claims.remove(&new);
        assert!(!claims.is_claimed(&claim));
    }
}
