//! A cache of the objects of a kind, filled by a watch, and the changes that each event of the
//! watch made.

use kube::Resource;
use kube::api::ObjectMeta;
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher::Event;
use std::sync::Arc;

/// A cache that is filled by the events of a watch.
pub struct Cache<O: Resource<DynamicType = ()> + Clone + 'static> {
    writer: Writer<O>,
    listed: bool,
    /// Changes that the list under way has brought so far: each object as it was before, and its
    /// reference.
    new: Vec<(Option<Arc<O>>, ObjectRef<O>)>,
}

/// An object before and after an event; `None`: it was not there, or it is gone.
#[derive(Debug)]
pub struct Change<O> {
    pub before: Option<Arc<O>>,
    pub now: Option<O>,
}

impl<O: Resource<DynamicType = ()> + Clone + 'static> Default for Cache<O> {
    fn default() -> Self {
        Self {
            writer: Writer::default(),
            listed: false,
            new: Vec::new(),
        }
    }
}

impl<O: Resource<DynamicType = ()> + Clone + 'static> Cache<O> {
    pub fn reader(&self) -> Store<O> {
        self.writer.as_reader()
    }

    /// True once a first list is complete.
    pub fn is_listed(&self) -> bool {
        self.listed
    }

    /// Takes in an event; gives the changes that it makes. An object that a new list lacks was
    /// deleted while the watch was down. Until the list is complete, the reader has the objects as
    /// they were before; then the changes are given again.
    pub fn take(&mut self, event: Event<O>) -> Vec<Change<O>> {
        let reader = self.reader();
        let former = matches!(event, Event::InitDone).then(|| reader.state());
        let known = |object: &O| reader.get(&ObjectRef::from_obj(object));
        let before = match &event {
            Event::Apply(object) | Event::InitApply(object) | Event::Delete(object) => {
                known(object)
            }
            Event::Init | Event::InitDone => None,
        };
        self.writer.apply_watcher_event(&event);
        self.listed |= matches!(event, Event::InitDone);
        match event {
            Event::Apply(object) => vec![Change {
                before,
                now: Some(object),
            }],
            Event::InitApply(object) => {
                let reference = ObjectRef::from_obj(&object);
                let change = Change {
                    before: before.clone(),
                    now: Some(object),
                };
                if self.listed && change.matters() {
                    self.new.push((before, reference));
                }
                vec![change]
            }
            Event::Delete(object) => vec![Change {
                before: before.or(Some(Arc::new(object))),
                now: None,
            }],
            Event::Init => {
                self.new.clear();
                Vec::new()
            }
            Event::InitDone => {
                let gone = former
                    .into_iter()
                    .flatten()
                    .filter(|object| known(object).is_none());
                let gone = gone.map(|object| Change {
                    before: Some(object),
                    now: None,
                });
                let new = std::mem::take(&mut self.new).into_iter();
                new.map(|(before, one)| Change {
                    before,
                    now: reader.get(&one).map(Arc::unwrap_or_clone),
                })
                .chain(gone)
                .collect()
            }
        }
    }
}

impl<O: Resource> Change<O> {
    /// False when nothing but the status, the labels or the managed fields of the object changed.
    pub fn matters(&self) -> bool {
        let (Some(before), Some(now)) = (&self.before, &self.now) else {
            return true;
        };
        relevant(before.meta()) != relevant(now.meta())
    }
}

/// The metadata whose change leads to a reconcile.
fn relevant(meta: &ObjectMeta) -> impl PartialEq {
    (
        &meta.uid,
        meta.generation,
        &meta.annotations,
        &meta.finalizers,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::{Value, json};

    fn object(name: &str, more: &Value) -> ConfigMap {
        let mut metadata = json!({"name": name, "namespace": "n", "uid": name, "generation": 1});
        metadata
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        serde_json::from_value(json!({"metadata": metadata})).unwrap()
    }

    fn plain(name: &str) -> ConfigMap {
        object(name, &json!({}))
    }

    /// A cache that has listed these.
    fn listed(names: &[&str]) -> Cache<ConfigMap> {
        let mut cache = Cache::default();
        cache.take(Event::Init);
        assert!(!cache.is_listed());
        names
            .iter()
            .for_each(|name| assert!(cache.take(Event::InitApply(plain(name)))[0].matters()));
        assert!(cache.take(Event::InitDone).is_empty() && cache.is_listed());
        cache
    }

    #[test]
    fn a_change_of_status_or_labels_does_not_matter() {
        let mut cache = listed(&["a"]);
        let mut matters = |more: &Value| cache.take(Event::Apply(object("a", more)))[0].matters();
        assert!(!matters(&json!({"resourceVersion": "2"})));
        assert!(matters(&json!({"generation": 2})));
        assert!(!matters(&json!({"generation": 2, "labels": {"a": "b"}})));
        assert!(matters(
            &json!({"generation": 2, "annotations": {"a": "b"}})
        ));
        assert!(matters(&json!({"generation": 2, "finalizers": ["f"]})));
        assert!(matters(
            &json!({"generation": 2, "finalizers": ["f"], "uid": "another"})
        ));
    }

    #[test]
    fn what_a_later_list_lacks_is_gone() {
        let mut cache = listed(&["a", "b"]);
        cache.take(Event::Init);
        assert!(!cache.take(Event::InitApply(plain("b")))[0].matters());
        let gone = cache.take(Event::InitDone);
        assert_eq!(gone.len(), 1, "the other is as it was");
        assert!(gone[0].now.is_none());
        assert_eq!(gone[0].before.as_deref(), Some(&plain("a")));
        assert_eq!(cache.reader().len(), 1);
    }

    #[test]
    fn changes_of_a_later_list_are_given_when_the_reader_has_them() {
        let mut cache = listed(&["a", "b"]);
        cache.take(Event::Init);
        let newer = object("a", &json!({"generation": 2}));
        for one in [newer.clone(), plain("b"), plain("c")] {
            cache.take(Event::InitApply(one));
        }
        assert_eq!(
            cache.reader().get(&ObjectRef::from_obj(&newer)).as_deref(),
            Some(&plain("a")),
            "the list is not whole"
        );
        let changes = cache.take(Event::InitDone);
        let changes: Vec<_> = changes
            .iter()
            .map(|change| (change.before.as_deref(), change.now.as_ref()))
            .collect();
        assert_eq!(
            changes,
            [(Some(&plain("a")), Some(&newer)), (None, Some(&plain("c")))]
        );
    }

    #[test]
    fn a_deleted_object_is_given_as_it_was() {
        let mut cache = listed(&["a"]);
        let gone = cache.take(Event::Delete(plain("a")));
        assert_eq!(
            (gone[0].before.as_deref(), gone[0].now.is_none()),
            (Some(&plain("a")), true)
        );
        assert!(cache.reader().is_empty());
    }
}
