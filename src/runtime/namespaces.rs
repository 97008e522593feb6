//! Labels of namespaces, kept for a moment: many objects of a namespace ask for them together.

use crate::kube_io::{KubeError, KubeResult};
use k8s_openapi::api::core::v1::Namespace;
use kube::core::PartialObjectMeta;
use kube::{Api, Client};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// A changed label counts by then.
const KEEP: Duration = Duration::from_secs(10);

type Labels = Arc<BTreeMap<String, String>>;

#[derive(Default)]
pub struct Namespaces(Mutex<HashMap<String, (Instant, Labels)>>);

impl Namespaces {
    /// A namespace's labels; none where the operator has no right to read them (a namespaced install).
    ///
    /// # Errors
    /// No answer of the API server.
    pub async fn labels(&self, client: &Client, namespace: &str) -> KubeResult<Labels> {
        // Held while one asks: the others wait for its answer instead of asking too.
        let mut known = self.0.lock().await;
        if let Some((_, labels)) = known.get(namespace).filter(|(since, _)| since.elapsed() < KEEP) {
            return Ok(Arc::clone(labels));
        }
        let api: Api<PartialObjectMeta<Namespace>> = Api::all(client.clone());
        let labels = match api.get_metadata(namespace).await {
            Ok(found) => found.metadata.labels.unwrap_or_default(),
            Err(kube::Error::Api(answer)) if answer.code == 403 || answer.code == 404 => BTreeMap::new(),
            Err(error) => return Err(KubeError::request("get", "Namespace", namespace)(error)),
        };
        known.retain(|_, (since, _)| since.elapsed() < KEEP);
        let labels = Arc::new(labels);
        known.insert(namespace.to_owned(), (Instant::now(), Arc::clone(&labels)));
        Ok(labels)
    }
}
