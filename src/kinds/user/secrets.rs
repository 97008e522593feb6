//! What is known of the Secrets of Users, by a watch of those that carry the label `freehold.dev/user`. Nothing secret is
//! kept: hashes, and the marks that Freehold put on them.

use super::api::User;
use crate::kube_io;
use crate::labels;
use crate::runtime::context::Context;
use futures::StreamExt;
use futures::stream::BoxStream;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet, HashMap};
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
    facts: RwLock<HashMap<(String, String), SecretFacts>>,
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
        self.facts.read().unwrap_or_else(PoisonError::into_inner).get(&key).cloned()
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
            Some(new) => drop(all.insert(key, new)),
            None => drop(all.remove(&key)),
        }
    }

    /// Forgets a Secret that is gone.
    pub fn remove(&self, namespace: &str, name: &str) {
        self.facts.write().unwrap_or_else(PoisonError::into_inner).remove(&(namespace.to_owned(), name.to_owned()));
    }
}

/// Watches the Secrets of Users in a namespace (`None`: in all) and wakes the Users that they name.
pub fn watch(context: &Arc<Context>, namespace: Option<&str>) -> BoxStream<'static, ObjectRef<User>> {
    let client = context.client.clone();
    let api: Api<Secret> = namespace.map_or_else(|| Api::all(client.clone()), |namespace| Api::namespaced(client.clone(), namespace));
    let context = Arc::clone(context);
    let namespace = namespace.map(str::to_owned);
    watcher(api, watcher::Config::default().labels(labels::USER).timeout(60))
        .default_backoff()
        .filter_map(move |event| {
            let woken = match event {
                Ok(watcher::Event::Apply(secret) | watcher::Event::InitApply(secret)) => {
                    context.user_secrets.put(&secret);
                    Some(secret)
                }
                Ok(watcher::Event::Delete(secret)) => {
                    context.user_secrets.remove(&secret.namespace().unwrap_or_default(), &secret.name_any());
                    Some(secret)
                }
                Ok(watcher::Event::InitDone) => {
                    context.user_secrets.listed.write().unwrap_or_else(PoisonError::into_inner).insert(namespace.clone());
                    None
                }
                Ok(watcher::Event::Init) => None,
                Err(error) => {
                    tracing::warn!(%error, "the watch of Users' Secrets failed");
                    None
                }
            };
            let woken = woken.and_then(|secret| Some(ObjectRef::new(secret.labels().get(labels::USER)?).within(&secret.namespace()?)));
            futures::future::ready(woken)
        })
        .boxed()
}

/// Texts of a Secret's data.
pub fn texts(secret: &Secret) -> BTreeMap<String, String> {
    let data = secret.data.iter().flatten();
    data.filter_map(|(key, value)| Some((key.clone(), String::from_utf8(value.0.clone()).ok()?))).collect()
}
