//! Labels and life of namespaces. Labels are watched where the operator has the right to; otherwise
//! a namespace is read, and the answer is cached for a moment, because many objects of a namespace
//! ask for it together.

use crate::kubernetes::{KubeError, KubeResult};
use crate::runtime::answer_cache::AnswerCache;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::ListParams;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::Event;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::watch;

/// Where namespaces cannot be watched, a changed label is seen within this time.
const KEEP: Duration = Duration::from_secs(10);
const WATCH_TIMEOUT_SECS: u32 = 60;

type Labels = Arc<BTreeMap<String, String>>;

/// Whether a namespace is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    Living,
    /// It is being deleted, with everything in it.
    Ending,
    Gone,
    /// The operator has no right to read namespaces.
    Unknown,
}

/// Whether the operator watches a namespace. `watched`: those that it was started with; none: all.
pub fn is_watched(watched: &[String], namespace: &str) -> bool {
    watched.is_empty() || watched.iter().any(|one| one == namespace)
}

pub struct Namespaces {
    asked: AnswerCache<String, (Life, Labels)>,
    followed: RwLock<HashMap<String, Labels>>,
}

impl Default for Namespaces {
    fn default() -> Self {
        Self {
            asked: AnswerCache::new(KEEP),
            followed: RwLock::default(),
        }
    }
}

impl Namespaces {
    /// A namespace's labels; none where the operator has no right to read them (a namespaced
    /// install).
    ///
    /// # Errors
    /// No answer of the API server.
    pub async fn labels(&self, client: &Client, namespace: &str) -> KubeResult<Labels> {
        let followed = self
            .followed
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(namespace)
            .cloned();
        if let Some(labels) = followed {
            return Ok(labels);
        }
        Ok(self.get(client, namespace).await?.1)
    }

    /// # Errors
    /// No answer of the API server.
    pub async fn life(&self, client: &Client, namespace: &str) -> KubeResult<Life> {
        Ok(self.get(client, namespace).await?.0)
    }

    async fn get(&self, client: &Client, namespace: &str) -> KubeResult<(Life, Labels)> {
        let ask = async {
            let api: Api<PartialObjectMeta<Namespace>> = Api::all(client.clone());
            match api.get_metadata(namespace).await {
                Ok(found) => {
                    let life = if found.metadata.deletion_timestamp.is_some() {
                        Life::Ending
                    } else {
                        Life::Living
                    };
                    Ok((life, Arc::new(found.metadata.labels.unwrap_or_default())))
                }
                Err(kube::Error::Api(answer)) if answer.code == 404 => {
                    Ok((Life::Gone, Arc::default()))
                }
                Err(kube::Error::Api(answer)) if answer.code == 403 => {
                    Ok((Life::Unknown, Arc::default()))
                }
                Err(error) => Err(KubeError::request("get", "Namespace", namespace)(error)),
            }
        };
        self.asked.get(&namespace.to_owned(), ask).await
    }

    /// Takes in an event of the watch; gives the namespaces whose labels changed. `unseen`: the
    /// namespaces that were known when a list began and have not been in it so far.
    fn take(
        &self,
        unseen: &mut HashSet<String>,
        event: Event<PartialObjectMeta<Namespace>>,
    ) -> Vec<String> {
        let mut followed = self
            .followed
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Init => {
                *unseen = followed.keys().cloned().collect();
                Vec::new()
            }
            Event::Apply(namespace) | Event::InitApply(namespace) => {
                let (name, labels) = (
                    namespace.name_any(),
                    Arc::new(namespace.metadata.labels.unwrap_or_default()),
                );
                unseen.remove(&name);
                let before = followed.insert(name.clone(), Arc::clone(&labels));
                if before.is_some_and(|before| before == labels) {
                    Vec::new()
                } else {
                    vec![name]
                }
            }
            Event::Delete(namespace) => followed
                .remove(&namespace.name_any())
                .map(|_| namespace.name_any())
                .into_iter()
                .collect(),
            Event::InitDone => unseen
                .drain()
                .filter(|name| followed.remove(name).is_some())
                .collect(),
        }
    }
}

/// Watches the labels of all namespaces until `stop` is true; calls `changed` with each namespace
/// whose labels changed.
pub async fn follow(
    client: &Client,
    namespaces: &Namespaces,
    changed: impl Fn(String),
    mut stop: watch::Receiver<bool>,
) {
    match Api::<Namespace>::all(client.clone())
        .list_metadata(&ListParams::default().limit(1))
        .await
    {
        Err(kube::Error::Api(answer)) if answer.code == 403 => {
            tracing::info!(
                "the operator may not watch namespaces: a changed label counts at the next \
                 reconcile of its objects"
            );
            return;
        }
        // The watch asks again.
        Ok(_) | Err(_) => {}
    }
    let api: Api<PartialObjectMeta<Namespace>> = Api::all(client.clone());
    let mut events = watcher(api, watcher::Config::default().timeout(WATCH_TIMEOUT_SECS))
        .default_backoff()
        .boxed();
    let mut unseen = HashSet::new();
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        match event {
            Some(Ok(event)) => {
                namespaces
                    .take(&mut unseen, event)
                    .into_iter()
                    .for_each(&changed);
            }
            Some(Err(error)) => tracing::warn!(%error, "the watch of namespaces failed"),
            None => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_namespaces_whose_labels_changed_are_given() {
        let (namespaces, mut unseen) = (Namespaces::default(), HashSet::new());
        let namespace = |name: &str, team: &str| {
            let value = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"team": team}}});
            serde_json::from_value::<PartialObjectMeta<Namespace>>(value).unwrap()
        };
        let mut take = |event| namespaces.take(&mut unseen, event);
        take(Event::Init);
        assert_eq!(take(Event::InitApply(namespace("a", "x"))), ["a"]);
        assert_eq!(take(Event::InitApply(namespace("b", "x"))), ["b"]);
        assert!(take(Event::InitDone).is_empty());
        assert!(take(Event::Apply(namespace("a", "x"))).is_empty());
        assert_eq!(take(Event::Apply(namespace("a", "y"))), ["a"]);
        take(Event::Init);
        assert!(take(Event::InitApply(namespace("a", "y"))).is_empty());
        assert_eq!(take(Event::InitDone), ["b"], "it went while nobody watched");
        assert_eq!(take(Event::Delete(namespace("a", "y"))), ["a"]);
    }
}
