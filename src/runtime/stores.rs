//! The caches of a kind in all watched namespaces, as one.

use futures::FutureExt;
use kube::Resource;
use kube::runtime::reflector::{ObjectRef, Store};
use std::sync::{Arc, PoisonError, RwLock};

/// The caches of a kind, one for each watched namespace, with its name; `None`: one for all.
pub struct Stores<O: Resource<DynamicType = ()> + Clone + 'static>(
    RwLock<Vec<(Option<String>, Store<O>)>>,
);

impl<O: Resource<DynamicType = ()> + Clone + 'static> Default for Stores<O> {
    fn default() -> Self {
        Self(RwLock::default())
    }
}

impl<O: Resource<DynamicType = ()> + Clone + 'static> Stores<O> {
    /// Adds the cache of a namespace, or of all.
    pub fn add(&self, namespace: Option<&str>, store: Store<O>) {
        self.0
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .push((namespace.map(str::to_owned), store));
    }

    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<O>> {
        let key = ObjectRef::new(name).within(namespace);
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .find_map(|(_, store)| store.get(&key))
    }

    /// Every object of a namespace.
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<O>> {
        let stores = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let all = stores.iter().flat_map(|(_, store)| store.state());
        all.filter(|object| object.meta().namespace.as_deref() == Some(namespace))
            .collect()
    }

    /// Every object.
    pub fn all(&self) -> Vec<Arc<O>> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .flat_map(|(_, store)| store.state())
            .collect()
    }

    /// True once every watched namespace has been listed.
    pub fn are_ready(&self) -> bool {
        let stores = self.0.read().unwrap_or_else(PoisonError::into_inner);
        !stores.is_empty() && stores.iter().all(|(_, store)| is_ready(store))
    }

    /// True once this namespace has been listed: what is not in the caches then does not exist.
    pub fn is_listed(&self, namespace: &str) -> bool {
        let stores = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let mut own = stores
            .iter()
            .filter(|(of, _)| of.as_deref().is_none_or(|of| of == namespace));
        own.any(|(_, store)| is_ready(store))
    }
}

fn is_ready<O: Resource<DynamicType = ()> + Clone + 'static>(store: &Store<O>) -> bool {
    store.wait_until_ready().now_or_never().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::runtime::reflector;
    use kube::runtime::watcher::Event;

    #[test]
    fn a_namespace_is_listed_when_its_own_cache_is() {
        let stores = Stores::<ConfigMap>::default();
        let (shop, mut writer) = reflector::store();
        let (other, _silent) = reflector::store();
        stores.add(Some("shop"), shop);
        stores.add(Some("other"), other);
        assert!(!stores.is_listed("shop"));
        writer.apply_watcher_event(&Event::InitDone);
        assert!(stores.is_listed("shop") && !stores.is_listed("other"));
        assert!(!stores.is_listed("unwatched") && !stores.are_ready());
        let (all, mut writer) = reflector::store();
        stores.add(None, all);
        writer.apply_watcher_event(&Event::InitDone);
        assert!(stores.is_listed("unwatched"));
    }
}
