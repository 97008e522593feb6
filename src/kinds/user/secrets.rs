//! A cache of the Secrets of Users, filled by a watch of the Secrets with the label
//! `freehold.dev/user`. It contains hashes and the annotations that Freehold writes, never the
//! values.

use crate::api::reference::ClusterKey;
use crate::api::user::User;
use crate::kubernetes;
use crate::kubernetes::labels;
use crate::runtime::kind::Requeued;
use futures::StreamExt;
use futures::stream::BoxStream;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher::Event;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};

/// Metadata and hashes of a Secret; never its values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretFacts {
    pub uid: String,
    pub resource_version: String,
    /// True if Freehold created it.
    pub managed: bool,
    /// The User that its label names.
    pub user: String,
    /// The hash of its present data.
    pub content: String,
    pub marks: Marks,
    /// True if its data differs from what was written although nobody has changed it since: a
    /// policy of the API server did. Known only until the operator restarts.
    pub imposed: bool,
}

/// What Freehold recorded in the annotations of a Secret when it wrote it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    pub inputs: String,
    /// The hash of the data that was written.
    pub content: String,
    /// The fingerprint of the SCRAM credential.
    pub credential: String,
    pub since: Option<Timestamp>,
    pub not_after: Option<Timestamp>,
    /// The last value of the annotation `freehold.dev/rotate` that was followed.
    pub rotated: Option<String>,
    pub given: Option<String>,
    /// The id of the key from which its password is derived.
    pub key: Option<String>,
}

/// The facts about Secrets, by namespace and name.
#[derive(Default)]
pub struct UserSecrets {
    facts: RwLock<HashMap<(String, String), Box<SecretFacts>>>,
    /// The watched namespaces (`None`: all) whose Secrets have been listed.
    listed: RwLock<BTreeSet<Option<String>>>,
}

/// A hash of some parts. It includes their lengths, so that two different lists of parts never give
/// the same input.
pub fn digest<'a>(parts: impl Iterator<Item = &'a [u8]>) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(u64::try_from(part.len()).unwrap_or(0).to_be_bytes());
        hash.update(part);
    }
    crate::kubernetes::names::hex(&hash.finalize()[..12])
}

/// A hash of a Secret's data.
pub fn content<'a>(data: impl Iterator<Item = (&'a String, &'a ByteString)>) -> String {
    digest(data.flat_map(|(key, value)| [key.as_bytes(), value.0.as_slice()]))
}

/// The facts about a Secret; `None` if it lacks the label of a User.
pub fn facts(secret: &Secret) -> Option<SecretFacts> {
    let user = secret.labels().get(labels::USER)?.clone();
    let annotations = secret.annotations();
    let text = |key: &str| annotations.get(key).cloned();
    let time = |key: &str| annotations.get(key).and_then(|text| text.parse().ok());
    Some(SecretFacts {
        uid: secret.uid().unwrap_or_default(),
        resource_version: secret.resource_version().unwrap_or_default(),
        managed: secret
            .labels()
            .get(labels::MANAGED_BY)
            .is_some_and(|manager| manager == "freehold"),
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
            key: text(labels::SECRET_KEY),
        },
        imposed: false,
    })
}

impl UserSecrets {
    /// The facts about a Secret from the cache.
    pub fn get(&self, namespace: &str, name: &str) -> Option<SecretFacts> {
        let key = (namespace.to_owned(), name.to_owned());
        self.facts
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&key)
            .map(|facts| (**facts).clone())
    }

    /// True once all Secrets of a namespace have been listed.
    pub fn knows(&self, namespace: &str) -> bool {
        let listed = self.listed.read().unwrap_or_else(PoisonError::into_inner);
        listed
            .iter()
            .any(|listed| listed.as_ref().is_none_or(|listed| listed == namespace))
    }

    /// Records the Secret that the API server returned for our write, before the watch delivers it.
    pub fn put_written(&self, secret: &Secret) {
        self.note(
            secret,
            facts(secret).map(|facts| SecretFacts {
                imposed: facts.content != facts.marks.content,
                ..facts
            }),
        );
    }

    /// Records a Secret that the watch delivered.
    pub fn put(&self, secret: &Secret) {
        self.note(secret, facts(secret));
    }

    fn note(&self, secret: &Secret, facts: Option<SecretFacts>) {
        let key = (secret.namespace().unwrap_or_default(), secret.name_any());
        let mut all = self.facts.write().unwrap_or_else(PoisonError::into_inner);
        let version = |facts: &SecretFacts| kubernetes::version(&facts.resource_version);
        // The watch may be behind our last write, and does not know whether the data was changed by
        // a policy.
        let is_known = |old: &SecretFacts, new| {
            version(old) > version(new) || (version(old) == version(new) && old.imposed)
        };
        match facts {
            Some(new) if all.get(&key).is_some_and(|old| is_known(old, &new)) => {}
            Some(new) => drop(all.insert(key, Box::new(new))),
            None => drop(all.remove(&key)),
        }
    }

    /// Removes a Secret that is gone and returns the name of its User.
    pub fn remove(&self, namespace: &str, name: &str) -> Option<String> {
        let key = (namespace.to_owned(), name.to_owned());
        self.facts
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&key)
            .map(|facts| facts.user)
    }

    /// The namespaces and names of the known Secrets in a namespace (`None`: in all).
    fn known(&self, namespace: Option<&str>) -> HashSet<(String, String)> {
        let all = self.facts.read().unwrap_or_else(PoisonError::into_inner);
        all.keys()
            .filter(|(of, _)| namespace.is_none_or(|namespace| namespace == of))
            .cloned()
            .collect()
    }

    fn is_listed(&self, namespace: Option<&str>) -> bool {
        self.listed
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(&namespace.map(str::to_owned))
    }

    fn note_listed(&self, namespace: Option<&str>) {
        self.listed
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(namespace.map(str::to_owned));
    }
}

/// Handles an event of the watch of a namespace (`None`: of all). Returns the Users to reconcile:
/// all of them once the first list has ended. `unseen`: Secrets that were known when a list began
/// and have not been in it so far. Those left at its end were deleted while the watch was down.
fn take(
    known: &UserSecrets,
    namespace: Option<&str>,
    unseen: &mut HashSet<(String, String)>,
    event: Event<Secret>,
) -> Requeued<User, ClusterKey> {
    let user = |namespace: &str, name: &str| ObjectRef::new(name).within(namespace);
    let of = |secret: &Secret| {
        Some(user(
            &secret.namespace()?,
            secret.labels().get(labels::USER)?,
        ))
    };
    let was_listed = known.is_listed(namespace);
    Requeued::These(match event {
        Event::Init => {
            *unseen = known.known(namespace);
            Vec::new()
        }
        Event::Apply(secret) | Event::InitApply(secret) => {
            let (namespace, name) = (secret.namespace().unwrap_or_default(), secret.name_any());
            unseen.remove(&(namespace.clone(), name.clone()));
            // The User that the Secret belonged to before has none now, so it is reconciled too.
            let before = known
                .get(&namespace, &name)
                .map(|facts| user(&namespace, &facts.user));
            known.put(&secret);
            let now = of(&secret);
            before
                .filter(|before| now.as_ref() != Some(before))
                .into_iter()
                .chain(now)
                .filter(|_| was_listed)
                .collect()
        }
        Event::Delete(secret) => {
            known.remove(&secret.namespace().unwrap_or_default(), &secret.name_any());
            of(&secret).into_iter().collect()
        }
        Event::InitDone => {
            known.note_listed(namespace);
            let gone = unseen.drain().filter_map(|(namespace, name)| {
                Some(user(&namespace, &known.remove(&namespace, &name)?))
            });
            let gone = gone.collect();
            if !was_listed {
                return Requeued::All;
            }
            gone
        }
    })
}

/// Watches the Secrets of Users in a namespace (`None`: in all). Yields the Users that they name.
pub fn watch(
    client: &Client,
    known: Arc<UserSecrets>,
    namespace: Option<&str>,
) -> BoxStream<'static, Requeued<User, ClusterKey>> {
    let api: Api<Secret> = namespace.map_or_else(
        || Api::all(client.clone()),
        |namespace| Api::namespaced(client.clone(), namespace),
    );
    let (namespace, mut unseen) = (namespace.map(str::to_owned), HashSet::new());
    watcher(
        api,
        watcher::Config::default().labels(labels::USER).timeout(60),
    )
    .default_backoff()
    .map(move |event| match event {
        Ok(event) => take(&known, namespace.as_deref(), &mut unseen, event),
        Err(error) => {
            tracing::warn!(%error, "the watch of Users' Secrets failed");
            Requeued::These(Vec::new())
        }
    })
    .boxed()
}

/// The values of a Secret that are UTF-8 text.
pub fn texts(secret: &Secret) -> BTreeMap<String, String> {
    let data = secret.data.iter().flatten();
    data.filter_map(|(key, value)| Some((key.clone(), String::from_utf8(value.0.clone()).ok()?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn secret(name: &str) -> Secret {
        let metadata =
            json!({"name": name, "namespace": "n", "labels": {labels::USER: format!("of-{name}")}});
        serde_json::from_value(json!({"metadata": metadata})).unwrap()
    }

    #[test]
    fn a_secret_deleted_while_the_watch_was_down_is_missed_at_the_next_list() {
        let (known, mut unseen) = (UserSecrets::default(), HashSet::new());
        let mut users = |event| match take(&known, None, &mut unseen, event) {
            Requeued::All | Requeued::Group(_) => vec!["all".to_owned()],
            Requeued::These(users) => users.into_iter().map(|user| user.name).collect(),
        };
        assert!(users(Event::Init).is_empty());
        assert!(
            ["a", "b"]
                .iter()
                .all(|name| users(Event::InitApply(secret(name))).is_empty()),
            "the first list's end requeues all"
        );
        assert_eq!(users(Event::InitDone), ["all"]);
        assert!(users(Event::Init).is_empty());
        assert_eq!(users(Event::InitApply(secret("b"))), ["of-b"]);
        assert_eq!(users(Event::InitDone), ["of-a"]);
        let mut handed_on = secret("b");
        handed_on
            .metadata
            .labels
            .get_or_insert_default()
            .insert(labels::USER.into(), "another".into());
        assert_eq!(users(Event::Apply(handed_on)), ["of-b", "another"]);
        assert!(known.get("n", "a").is_none() && known.get("n", "b").is_some());
        assert!(known.knows("n"));
    }

    #[test]
    fn what_a_policy_made_of_a_write_is_known_until_somebody_changes_it() {
        let known = UserSecrets::default();
        let of_version = |version: &str| {
            let mut secret = secret("a");
            secret.metadata.resource_version = Some(version.into());
            secret.metadata.annotations = Some(
                [(
                    labels::SECRET_CONTENT.to_owned(),
                    "what was written".to_owned(),
                )]
                .into(),
            );
            secret
        };
        let imposed = || known.get("n", "a").unwrap().imposed;
        known.put_written(&of_version("7"));
        assert!(imposed());
        known.put(&of_version("7"));
        assert!(imposed(), "the watch tells of the same");
        known.put(&of_version("8"));
        assert!(!imposed(), "somebody changed it");
    }
}
