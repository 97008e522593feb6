//! Labels of namespaces, kept for a moment: many objects of a namespace ask for them together.

use super::kept::Kept;
use crate::kube_io::{KubeError, KubeResult};
use k8s_openapi::api::core::v1::Namespace;
use kube::core::PartialObjectMeta;
use kube::{Api, Client};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// A changed label counts by then.
const KEEP: Duration = Duration::from_secs(10);

type Labels = Arc<BTreeMap<String, String>>;

pub struct Namespaces(Kept<String, Labels>);

impl Default for Namespaces {
    fn default() -> Self {
        Self(Kept::new(KEEP))
    }
}

impl Namespaces {
    /// A namespace's labels; none where the operator has no right to read them (a namespaced install).
    ///
    /// # Errors
    /// No answer of the API server.
    pub async fn labels(&self, client: &Client, namespace: &str) -> KubeResult<Labels> {
        let ask = async {
            let api: Api<PartialObjectMeta<Namespace>> = Api::all(client.clone());
            match api.get_metadata(namespace).await {
                Ok(found) => Ok(Arc::new(found.metadata.labels.unwrap_or_default())),
                Err(kube::Error::Api(answer)) if answer.code == 403 || answer.code == 404 => Ok(Arc::default()),
                Err(error) => Err(KubeError::request("get", "Namespace", namespace)(error)),
            }
        };
        self.0.get(&namespace.to_owned(), ask).await
    }
}
