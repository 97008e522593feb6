//! Objects that cannot be read ([`crate::kubernetes::guarded`]). Each gets a condition and an
//! event, and a line in the log. It does not stop other objects, and it stays in the cache as it
//! was when it could last be read.

use crate::api::conditions::{
    Condition, ConditionStatus, ConditionType, Reason, State, conditions,
};
use crate::kubernetes;
use crate::kubernetes::guarded::{Guarded, Unread};
use crate::kubernetes::labels;
use crate::runtime::events;
use crate::runtime::kind::{Kind, Notice};
use crate::runtime::namespaces::Life;
use crate::runtime::services::Services;
use crate::runtime::unread_names::UnreadNames;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::Resource;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::watcher::Event;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::sync::mpsc;

/// The objects of a kind in a namespace that cannot be read.
pub struct Unreadable {
    names: Arc<UnreadNames>,
    found: mpsc::UnboundedSender<Box<Unread>>,
}

fn key(meta: &ObjectMeta) -> (String, String) {
    (
        meta.namespace.clone().unwrap_or_default(),
        meta.name.clone().unwrap_or_default(),
    )
}

impl Unreadable {
    /// The receiver is for [`report`].
    pub fn new() -> (Self, mpsc::UnboundedReceiver<Box<Unread>>) {
        let (found, receiver) = mpsc::unbounded_channel();
        let names = Arc::default();
        (Self { names, found }, receiver)
    }

    pub fn names(&self) -> &Arc<UnreadNames> {
        &self.names
    }

    pub fn has(&self, meta: &ObjectMeta) -> bool {
        let (namespace, name) = key(meta);
        self.names.has(&namespace, &name)
    }

    fn note(&self, unread: Box<Unread>) {
        self.names.insert(&unread.meta);
        // Nobody receives any more when the process ends.
        let _ = self.found.send(unread);
    }

    /// An event of the watch, without objects that cannot be read. `known` gives the object as it
    /// was before, which then stays in the cache.
    pub fn sort<O>(
        &self,
        event: Event<Guarded<O>>,
        known: impl Fn(&ObjectMeta) -> Option<O>,
    ) -> Option<Event<O>>
    where
        O: Resource<DynamicType = ()> + DeserializeOwned,
    {
        let read = |object: Guarded<O>| match object.read() {
            Ok(object) => {
                self.names.remove(object.meta());
                Ok(object)
            }
            Err(unread) => {
                let known = known(&unread.meta);
                self.note(unread);
                Err(known)
            }
        };
        Some(match event {
            Event::Init => Event::Init,
            Event::InitDone => Event::InitDone,
            Event::Apply(object) => Event::Apply(read(object).ok()?),
            // An object that the list lacks would count as gone.
            Event::InitApply(object) => {
                Event::InitApply(read(object).or_else(|known| known.ok_or(())).ok()?)
            }
            Event::Delete(object) => {
                self.names.remove(object.meta());
                Event::Delete(
                    object
                        .read()
                        .or_else(|unread| known(&unread.meta).ok_or(()))
                        .ok()?,
                )
            }
        })
    }
}

/// Reports each object that cannot be read, for ever.
pub async fn report<K: Kind>(services: &Services, mut found: mpsc::UnboundedReceiver<Box<Unread>>) {
    while let Some(unread) = found.recv().await {
        report_one::<K>(services, *unread).await;
    }
}

fn words(unread: &Unread) -> String {
    let (field, why, version) = (&unread.field, &unread.why, env!("CARGO_PKG_VERSION"));
    format!(
        "{field}: {why}; Freehold {version} does not go on with this object until that is changed, \
         or Freehold is as new as it"
    )
}

/// The status with the condition added; `None` where the status has it already.
fn status(unread: &Unread, state: &State, now: &Time) -> Option<Value> {
    let all = unread.status["conditions"].as_array();
    let old: Vec<Condition> = all
        .into_iter()
        .flatten()
        .filter_map(|one| serde_json::from_value(one.clone()).ok())
        .collect();
    let (reason, message) = state.words();
    let generation = unread.meta.generation;
    let says_so = |one: &Condition| {
        (one.kind, one.status) == (ConditionType::Stalled, ConditionStatus::True)
            && (
                one.reason.as_str(),
                one.message.as_str(),
                one.observed_generation,
            ) == (reason.name(), message, generation)
    };
    if old.iter().any(says_so) {
        return None;
    }
    let mut status = if unread.status.is_object() {
        unread.status.clone()
    } else {
        json!({})
    };
    status["conditions"] = json!(conditions(state, generation, &old, now));
    status["reason"] = json!(reason.name());
    status["observedGeneration"] = json!(generation);
    Some(status)
}

async fn report_one<K: Kind>(services: &Services, unread: Unread) {
    let kind = K::Object::kind(&());
    let (namespace, name) = key(&unread.meta);
    let object = Guarded::<K::Object>::Unread(Box::new(unread.clone()));
    let ends = unread.meta.deletion_timestamp.is_some() && kubernetes::has_finalizer(&object);
    if ends
        && matches!(
            services.namespaces.life(&services.client, &namespace).await,
            Ok(Life::Ending)
        )
    {
        tracing::info!(
            %kind, namespace, name,
            "cannot be read, and its namespace is being deleted: its finalizer is removed, and what \
             it had in Kafka stays"
        );
        if let Err(error) = kubernetes::set_finalizer(&services.client, &object, false).await {
            tracing::warn!(%kind, namespace, name, error = error.words(), "cannot remove its finalizer");
        }
        return;
    }
    let state = State::stalled(Reason::Unreadable, words(&unread));
    let Some(status) = status(&unread, &state, &Time(Timestamp::now())) else {
        return;
    };
    let (reason, message) = state.words();
    tracing::warn!(
        %kind, namespace, name, %reason, why = message,
        "cannot be read; the operator goes on with other objects"
    );
    let api: Api<Guarded<K::Object>> = Api::namespaced(services.client.clone(), &namespace);
    // The whole status: server-side apply removes our fields that are left out.
    let patch = json!({
        "apiVersion": K::Object::api_version(&()), "kind": kind,
        "metadata": {"name": name, "uid": unread.meta.uid, "resourceVersion": unread.meta.resource_version}, "status": status
    });
    let params = PatchParams::apply(labels::FIELD_MANAGER).force();
    if let Err(error) = api
        .patch_status(&name, &params, &Patch::Apply(&patch))
        .await
    {
        tracing::warn!(%kind, namespace, name, %error, "cannot write the status");
    }
    let notice = Notice {
        reason,
        message: message.to_owned(),
    };
    events::publish(&services.client, &object.object_ref(&()), &notice, true).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::topic::Topic;

    fn topic(name: &str, partitions: &Value) -> Guarded<Topic> {
        Guarded::of(
            json!({"metadata": {"name": name, "namespace": "n", "uid": "u", "generation": 2},
            "spec": {"clusterRef": {"name": "c"}, "partitions": partitions}, "status": {"topicId": "id", "reason": "x"}}),
        )
    }

    #[test]
    fn one_that_cannot_be_read_is_reported_and_stays_as_it_was_until_it_is_gone() {
        let (unreadable, mut reported) = Unreadable::new();
        let known = || topic("t", &json!(1)).read().ok();
        let sort = |event| unreadable.sort(event, |_| known());
        assert!(matches!(
            sort(Event::Apply(topic("a", &json!(1)))),
            Some(Event::Apply(_))
        ));
        assert!(reported.try_recv().is_err());
        assert!(sort(Event::Apply(topic("t", &json!("many")))).is_none());
        let unread = reported.try_recv().unwrap();
        assert_eq!(unread.field, "spec.partitions");
        assert!(unreadable.has(&unread.meta));
        let listed = sort(Event::InitApply(topic("t", &json!("many"))));
        assert!(
            matches!(listed, Some(Event::InitApply(one)) if one.spec.partitions == 1),
            "a list does not lack it"
        );
        assert!(
            unreadable
                .sort(Event::InitApply(topic("new", &json!("many"))), |_| None)
                .is_none()
        );
        assert!(matches!(
            sort(Event::Apply(topic("t", &json!(2)))),
            Some(Event::Apply(_))
        ));
        assert!(!unreadable.has(&unread.meta));
        assert!(matches!(
            sort(Event::Delete(topic("t", &json!("many")))),
            Some(Event::Delete(_))
        ));
    }

    #[test]
    fn the_condition_is_added_to_its_status_once() {
        let mut unread = *topic("t", &json!("many")).read().unwrap_err();
        let state = State::stalled(Reason::Unreadable, words(&unread));
        assert!(
            state.words().1.starts_with("spec.partitions: invalid type"),
            "{}",
            state.words().1
        );
        let now = Time(Timestamp::UNIX_EPOCH);
        let said = status(&unread, &state, &now).unwrap();
        assert_eq!(
            (&said["topicId"], &said["observedGeneration"]),
            (&json!("id"), &json!(2))
        );
        assert_eq!(said["conditions"][1]["type"], "Stalled");
        unread.status = said;
        assert_eq!(status(&unread, &state, &now), None);
    }
}
