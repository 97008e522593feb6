//! The admission webhook: says at `kubectl apply` what a reconcile would say later. It runs the same checks of
//! `validate.rs`, on every replica; with the webhook down objects are still checked when they are reconciled.

mod certificate;
mod listener;

pub use certificate::{ServingCertificate, keep};

use crate::kinds::error::Invalid;
use crate::kinds::kafka_cluster::api::KafkaCluster;
use crate::kinds::kafka_cluster::validate;
use crate::kinds::reference::{ClusterKey, ClusterRef};
use crate::kinds::topic::api::Topic;
use crate::kinds::user::api::User;
use crate::kinds::{topic, user};
use crate::runtime::clusters::ClusterFacts;
use crate::runtime::context::Settings;
use crate::runtime::kept::Kept;
use axum::routing::post;
use axum::{Json, Router};
use kube::api::Api;
use kube::core::DynamicObject;
use kube::core::admission::{AdmissionResponse, AdmissionReview};
use kube::{Client, ResourceExt};
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// A burst of objects asks for its cluster once; a changed cluster counts by then.
const KEEP: Duration = Duration::from_secs(5);

/// What the checks know of clusters.
struct Checks {
    client: Client,
    settings: Settings,
    clusters: Kept<ClusterKey, Option<Arc<ClusterFacts>>>,
}

impl Checks {
    /// `None`: no such cluster, or none that may be read; the reconcile tells.
    async fn cluster(&self, key: &ClusterKey) -> Option<Arc<ClusterFacts>> {
        if !self.settings.watches(&key.namespace) {
            return None;
        }
        let ask = async {
            let api: Api<KafkaCluster> = Api::namespaced(self.client.clone(), &key.namespace);
            Ok::<_, kube::Error>(api.get_opt(&key.name).await?.map(|cluster| Arc::new(ClusterFacts::of_spec(&cluster))))
        };
        self.clusters.get(key, ask).await.ok().flatten()
    }

    /// What is wrong with the object, and what is allowed but unwise.
    async fn check(&self, object: &DynamicObject) -> (Vec<Invalid>, Vec<String>) {
        let value = serde_json::to_value(object).unwrap_or_default();
        match object.types.as_ref().map(|types| types.kind.as_str()) {
            Some("KafkaCluster") => match serde_json::from_value::<KafkaCluster>(value) {
                Ok(cluster) => validate::check(&cluster.spec, self.settings.images.get(&cluster.spec.version)),
                Err(_) => Default::default(),
            },
            Some(kind) => (self.check_of_cluster(kind, object, value).await, Vec::new()),
            None => Default::default(),
        }
    }

    /// A Topic or a User, against the cluster that it names.
    async fn check_of_cluster(&self, kind: &str, object: &DynamicObject, value: Value) -> Vec<Invalid> {
        let namespace = object.namespace().unwrap_or_default();
        let reference: Option<ClusterRef> = serde_json::from_value(object.data["spec"]["clusterRef"].clone()).ok();
        let Some(key) = reference.map(|reference| reference.key(&namespace)) else { return Vec::new() };
        let Some(cluster) = self.cluster(&key).await else { return Vec::new() };
        let at_home = key.namespace == namespace;
        match kind {
            "Topic" => {
                serde_json::from_value::<Topic>(value).map(|topic| topic::validate::check(&topic, &cluster, at_home)).unwrap_or_default()
            }
            "User" => serde_json::from_value::<User>(value).map(|user| user::validate::check(&user, &cluster, at_home)).unwrap_or_default(),
            _ => Vec::new(),
        }
    }

    async fn review(&self, review: AdmissionReview<DynamicObject>) -> AdmissionReview<DynamicObject> {
        let Ok(request) = review.try_into() else {
            return AdmissionResponse::invalid("not an AdmissionReview with a request").into_review();
        };
        let request: kube::core::admission::AdmissionRequest<DynamicObject> = request;
        let mut response = AdmissionResponse::from(&request);
        let Some(object) = request.object.filter(|object| object.metadata.deletion_timestamp.is_none()) else {
            return response.into_review();
        };
        let (invalids, warnings) = self.check(&object).await;
        response.warnings = Some(warnings).filter(|warnings| !warnings.is_empty());
        if invalids.is_empty() {
            return response.into_review();
        }
        response.deny(invalids.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")).into_review()
    }
}

/// Serves until the process ends.
///
/// # Errors
/// An address that cannot be bound.
pub async fn serve(address: SocketAddr, client: Client, settings: Settings, certificate: ServingCertificate) -> std::io::Result<()> {
    let checks = Arc::new(Checks { client, settings, clusters: Kept::new(KEEP) });
    let review = move |Json(review): Json<AdmissionReview<DynamicObject>>| {
        let checks = Arc::clone(&checks);
        async move { Json(checks.review(review).await) }
    };
    let app = Router::new().route("/validate", post(review));
    axum::serve(listener::TlsListener::bind(address, certificate).await?, app).await
}
