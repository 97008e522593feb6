//! What is known of the Secrets of Users, by a watch of those that carry the label `freehold.dev/user`. Nothing secret is
//! kept: hashes, and the marks that Freehold put on them.

use super::api::User;
use crate::kube_io;
use crate::labels;
use crate::runtime::context::Context;
use crate::runtime::kind::Woken;
use futures::StreamExt;
use futures::stream::BoxStream;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher::Event;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};

/// A Secret without what is secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretFacts {
    pub uid: String,
    pub resource_version: String,
    /// Freehold made it.
    pub managed: bool,
    /// The User that its label names.
    pub user: String,
    /// Hash of its data as it is.
    pub content: String,
    pub marks: Marks,
}

/// What Freehold noted on a Secret when it wrote it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    pub inputs: String,
    /// Hash of the data that was written.
    pub content: String,
    /// Fingerprint of the SCRAM credential.
    pub credential: String,
    pub since: Option<Timestamp>,
    pub not_after: Option<Timestamp>,
    /// The last value of the annotation `freehold.dev/rotate` that was followed.
    pub rotated: Option<String>,
    pub given: Option<String>,
}

/// Facts by namespace and name.
#[derive(Default)]
pub struct UserSecrets {
    facts: RwLock<HashMap<(String, String), Box<SecretFacts>>>,
    /// Watched namespaces (`None`: all) whose Secrets have been listed.
    listed: RwLock<BTreeSet<Option<String>>>,
}

/// A hash of some parts; their lengths are in it, so that no two lists of parts are alike.
pub fn digest<'a>(parts: impl Iterator<Item = &'a [u8]>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(u64::try_from(part.len()).unwrap_or(0).to_be_bytes());
        hash.update(part);
    }
    crate::names::hex(&hash.finalize()[..12])
}

/// A hash of a Secret's data.
pub fn content<'a>(data: impl Iterator<Item = (&'a String, &'a ByteString)>) -> String {
    digest(data.flat_map(|(key, value)| [key.as_bytes(), value.0.as_slice()]))
}

/// The facts of a Secret; `None` where it has no user's label.
pub fn facts(secret: &Secret) -> Option<SecretFacts> {
    let user = secret.labels().get(labels::USER)?.clone();
    let annotations = secret.annotations();
    let text = |key: &str| annotations.get(key).cloned();
    let time = |key: &str| annotations.get(key).and_then(|text| text.parse().ok());
    Some(SecretFacts {
        uid: secret.uid().unwrap_or_default(),
        resource_version: secret.resource_version().unwrap_or_default(),
        managed: secret.labels().get(labels::MANAGED_BY).is_some_and(|manager| manager == "freehold"),
        user,
        content: content(secret.data.iter().flatten()),
        marks: Marks {
            inputs: text(labels::SECRET_INPUTS).unwrap_or_default(),
            content: text(labels::SECRET_CONTENT).unwrap_or_default(),
            credential: text(labels::SECRET_CREDENTIAL).unwrap_or_default(),
            since: time(labels::SECRET_SINCE),
            not_after: time(labels::SECRET_NOT_AFTER),
            rotated: text(labels::SECRET_ROTATED),
            given: text(labels::SECRET_GIVEN),
        },
    })
}

impl UserSecrets {
    pub fn get(&self, namespace: &str, name: &str) -> Option<SecretFacts> {
        let key = (namespace.to_owned(), name.to_owned());
        self.facts.read().unwrap_or_else(PoisonError::into_inner).get(&key).map(|facts| (**facts).clone())
    }

    /// True once every Secret of a namespace has been seen.
    pub fn knows(&self, namespace: &str) -> bool {
        let listed = self.listed.read().unwrap_or_else(PoisonError::into_inner);
        listed.iter().any(|listed| listed.as_ref().is_none_or(|listed| listed == namespace))
    }

    /// Notes a Secret, and what a write of ours made of it before the watch tells.
    pub fn put(&self, secret: &Secret) {
        let key = (secret.namespace().unwrap_or_default(), secret.name_any());
        let mut all = self.facts.write().unwrap_or_else(PoisonError::into_inner);
        match facts(secret) {
            // The watch may lag behind what was just written.
            Some(new)
                if all.get(&key).is_some_and(|old| kube_io::version(&old.resource_version) > kube_io::version(&new.resource_version)) => {}
            Some(new) => drop(all.insert(key, Box::new(new))),
            None => drop(all.remove(&key)),
        }
    }

    /// Forgets a Secret that is gone; tells which User it was of.
    pub fn remove(&self, namespace: &str, name: &str) -> Option<String> {
        let key = (namespace.to_owned(), name.to_owned());
        self.facts.write().unwrap_or_else(PoisonError::into_inner).remove(&key).map(|facts| facts.user)
    }

    /// Namespaces and names of those that are known in a namespace (`None`: in all).
    fn known(&self, namespace: Option<&str>) -> HashSet<(String, String)> {
        let all = self.facts.read().unwrap_or_else(PoisonError::into_inner);
        all.keys().filter(|(of, _)| namespace.is_none_or(|namespace| namespace == of)).cloned().collect()
    }

    fn is_listed(&self, namespace: Option<&str>) -> bool {
        self.listed.read().unwrap_or_else(PoisonError::into_inner).contains(&namespace.map(str::to_owned))
    }

    fn note_listed(&self, namespace: Option<&str>) {
        self.listed.write().unwrap_or_else(PoisonError::into_inner).insert(namespace.map(str::to_owned));
    }
}

/// Takes in what the watch of a namespace (`None`: of all) tells, and whom it concerns: all Users once the first list has ended.
/// `unseen`: what was known when a list began and was not in it so far; when the list ends it went while nobody watched.
fn take(known: &UserSecrets, namespace: Option<&str>, unseen: &mut HashSet<(String, String)>, event: Event<Secret>) -> Woken<User> {
    let user = |namespace: &str, name: &str| ObjectRef::new(name).within(namespace);
    let of = |secret: &Secret| Some(user(&secret.namespace()?, secret.labels().get(labels::USER)?));
    let was_listed = known.is_listed(namespace);
    Woken::These(match event {
        Event::Init => {
            *unseen = known.known(namespace);
            Vec::new()
        }
        Event::Apply(secret) | Event::InitApply(secret) => {
            unseen.remove(&(secret.namespace().unwrap_or_default(), secret.name_any()));
            known.put(&secret);
            of(&secret).filter(|_| was_listed).into_iter().collect()
        }
        Event::Delete(secret) => {
            known.remove(&secret.namespace().unwrap_or_default(), &secret.name_any());
            of(&secret).into_iter().collect()
        }
        Event::InitDone => {
            known.note_listed(namespace);
            let gone = unseen.drain().filter_map(|(namespace, name)| Some(user(&namespace, &known.remove(&namespace, &name)?)));
            let gone = gone.collect();
            if !was_listed {
                return Woken::All(None);
            }
            gone
        }
    })
}

/// Watches the Secrets of Users in a namespace (`None`: in all) and wakes the Users that they name.
pub fn watch(context: &Arc<Context>, namespace: Option<&str>) -> BoxStream<'static, Woken<User>> {
    let client = context.client.clone();
    let api: Api<Secret> = namespace.map_or_else(|| Api::all(client.clone()), |namespace| Api::namespaced(client.clone(), namespace));
    let context = Arc::clone(context);
    let (namespace, mut unseen) = (namespace.map(str::to_owned), HashSet::new());
    watcher(api, watcher::Config::default().labels(labels::USER).timeout(60))
        .default_backoff()
        .map(move |event| match event {
            Ok(event) => take(&context.user_secrets, namespace.as_deref(), &mut unseen, event),
            Err(error) => {
                tracing::warn!(%error, "the watch of Users' Secrets failed");
                Woken::These(Vec::new())
            }
        })
        .boxed()
}

/// Texts of a Secret's data.
pub fn texts(secret: &Secret) -> BTreeMap<String, String> {
    let data = secret.data.iter().flatten();
    data.filter_map(|(key, value)| Some((key.clone(), String::from_utf8(value.0.clone()).ok()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn secret(name: &str) -> Secret {
        let metadata = json!({"name": name, "namespace": "n", "labels": {labels::USER: format!("of-{name}")}});
        serde_json::from_value(json!({"metadata": metadata})).unwrap()
    }

    #[test]
    fn a_secret_that_went_while_nobody_watched_is_missed_at_the_next_list() {
        let (known, mut unseen) = (UserSecrets::default(), HashSet::new());
        let mut told = |event| match take(&known, None, &mut unseen, event) {
            Woken::All(_) => vec!["all".to_owned()],
            Woken::These(users) => users.into_iter().map(|user| user.name).collect(),
        };
        assert!(told(Event::Init).is_empty());
        assert!(["a", "b"].iter().all(|name| told(Event::InitApply(secret(name))).is_empty()), "the first list's end wakes all");
        assert_eq!(told(Event::InitDone), ["all"]);
        assert!(told(Event::Init).is_empty());
        assert_eq!(told(Event::InitApply(secret("b"))), ["of-b"]);
        assert_eq!(told(Event::InitDone), ["of-a"]);
        assert!(known.get("n", "a").is_none() && known.get("n", "b").is_some());
        assert!(known.knows("n"));
    }
}
