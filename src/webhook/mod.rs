//! The admission webhook: at `kubectl apply` it reports the errors that a reconcile would report
//! later. Every replica runs the same checks of `validate.rs`. If the webhook is down, the
//! reconcile still checks each object.
//!
//! The webhook always answers in time: it refuses an object that is too large or takes too long to
//! check, and gives the reason. If the API server got no answer, it would accept the object
//! (`failurePolicy: Ignore`).

mod body;
mod certificate;
mod listener;

pub use certificate::{ServingCertificate, keep};

use crate::api::GROUP;
use crate::api::bounds;
use crate::api::invalid::Invalid;
use crate::api::kafka_cluster::KafkaCluster;
use crate::api::reference::{ClusterKey, ClusterRef};
use crate::clusters::ClusterFacts;
use crate::kinds::context::Settings;
use crate::kinds::registration::{CheckInChild, Entry, Findings, Review, Served};
use crate::kinds::{REGISTRY, definitions};
use crate::kubernetes::guarded::Guarded;
use crate::runtime::answer_cache::AnswerCache;
use crate::runtime::compute::{Asker, alone};
use crate::words::{LISTED_MAX, MESSAGE_CHARS_MAX, PART_CHARS_MAX, cut, listed};
use axum::body::Body;
use axum::routing::post;
use axum::{Json, Router};
use body::{Bodies, Memory, Refused, Whole};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, ListParams};
use kube::core::DynamicObject;
use kube::core::admission::{AdmissionRequest, AdmissionResponse, AdmissionReview};
use kube::{Client, ResourceExt};
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// How long facts of a cluster are cached: a burst of objects asks for its cluster once, and
/// changes of the cluster are seen soon.
const KEEP: Duration = Duration::from_secs(5);
/// The API server waits 5 s (`timeoutSeconds`). Of these, the body may take this long, …
const BODY_LIMIT: Duration = Duration::from_secs(2);
/// … and the answer, with the checks, this long. They request at most one cluster; the longest
/// check of a program takes 2 s of CPU time.
const ANSWER_LIMIT: Duration = Duration::from_secs(4);

/// Built once, because a review must be quick.
static KINDS: LazyLock<Vec<(&Entry, CustomResourceDefinition)>> = LazyLock::new(|| {
    REGISTRY
        .iter()
        .map(|entry| (entry, entry.definition()))
        .collect()
});

fn kind_of(name: &str) -> Option<&'static (&'static Entry, CustomResourceDefinition)> {
    KINDS
        .iter()
        .find(|(_, definition)| definition.spec.names.kind == name)
}

/// Why the cluster of an object is not known.
enum Unknown {
    /// It does not exist, or may not be read: the reconcile reports it.
    NotThere,
    /// The API server did not answer.
    NoAnswer(String),
}

/// The state that the checks need.
struct Checks {
    client: Client,
    settings: Settings,
    clusters: AnswerCache<ClusterKey, Option<Arc<ClusterFacts>>>,
    published: AnswerCache<(), Arc<Value>>,
    bodies: Bodies,
}

impl Checks {
    fn new(client: Client, settings: Settings) -> Self {
        Self {
            client,
            settings,
            clusters: AnswerCache::new(KEEP),
            published: AnswerCache::new(KEEP),
            bodies: Bodies::default(),
        }
    }

    async fn cluster(&self, key: &ClusterKey) -> Result<Arc<ClusterFacts>, Unknown> {
        if !self.settings.serves_clusters(&key.namespace) {
            return Err(Unknown::NotThere);
        }
        let ask = async {
            let api: Api<Guarded<KafkaCluster>> =
                Api::namespaced(self.client.clone(), &key.namespace);
            match api.get_opt(&key.name).await {
                Ok(found) => Ok(found
                    .and_then(|found| found.read().ok())
                    .map(|cluster| Arc::new(ClusterFacts::of_spec(&cluster)))),
                Err(kube::Error::Api(answer)) if answer.code == 403 => Ok(None),
                Err(error) => Err(Unknown::NoAnswer(error.to_string())),
            }
        };
        self.clusters.get(key, ask).await?.ok_or(Unknown::NotThere)
    }

    /// The readable KafkaClusters of a namespace. Empty if they cannot be listed: the reconcile
    /// reports that.
    async fn clusters_of(&self, namespace: &str) -> Vec<KafkaCluster> {
        if !self.settings.watches(namespace) {
            return Vec::new();
        }
        let api: Api<Guarded<KafkaCluster>> = Api::namespaced(self.client.clone(), namespace);
        let all = api
            .list(&ListParams::default())
            .await
            .map(|list| list.items)
            .unwrap_or_default();
        all.into_iter()
            .filter_map(|found| found.read().ok())
            .collect()
    }

    /// The errors and warnings of an object. `is_new`: its spec is not the one that the API server
    /// has already. `memory`: that of the body.
    async fn check(&self, object: &DynamicObject, is_new: bool, memory: Memory) -> Findings {
        let value = serde_json::to_value(object).unwrap_or_default();
        let Some(kind) = object
            .types
            .as_ref()
            .filter(|types| types.api_version.starts_with(GROUP))
            .map(|types| types.kind.as_str())
        else {
            return Default::default();
        };
        let (mut invalids, mut warnings) = self.check_fields(kind, &value["spec"]).await;
        let Some((entry, _)) = kind_of(kind) else {
            invalids.push(Invalid::new(
                "kind",
                format!("this Freehold knows no {kind}; upgrade it first"),
            ));
            return (invalids, warnings);
        };
        warnings.extend(self.not_served(entry, &object.namespace().unwrap_or_default()));
        let (wrong, unwise) = match entry.review(value) {
            Err(invalid) => (vec![invalid], Vec::new()),
            Ok(review) => self.findings(review, object, is_new, memory).await,
        };
        invalids.extend(wrong);
        warnings.extend(unwise);
        (invalids, warnings)
    }

    /// What the check of a kind finds.
    async fn findings(
        &self,
        review: Review,
        object: &DynamicObject,
        is_new: bool,
        memory: Memory,
    ) -> Findings {
        match review {
            Review::Alone(findings) => findings,
            Review::AmongClusters(check) => {
                let clusters = self
                    .clusters_of(&object.namespace().unwrap_or_default())
                    .await;
                check(&self.settings, &clusters)
            }
            Review::OfCluster(reference, check) => {
                self.check_of_cluster(object, &reference, check).await
            }
            Review::InChildAndOfCluster(in_child, reference, check) => {
                // All tenants share the child, and an annotation changes no program.
                let (mut wrong, mut unwise) = match is_new {
                    true => self.check_in_child(in_child, memory).await,
                    false => Findings::default(),
                };
                let (more, unwiser) = self.check_of_cluster(object, &reference, check).await;
                wrong.extend(more);
                unwise.extend(unwiser);
                (wrong, unwise)
            }
        }
    }

    /// What a check in the child finds, when it is its turn.
    async fn check_in_child(&self, in_child: Box<CheckInChild>, memory: Memory) -> Findings {
        let Some(_waiting) = self.bodies.wait(memory) else {
            let why = "many Pipelines are being checked at present; nothing was changed: try again";
            return (vec![Invalid::new("spec.blocks", why)], Vec::new());
        };
        alone(Asker::Review, in_child).await
    }

    /// Says that nobody acts on an object in a namespace whose objects of this kind are not served.
    fn not_served(&self, entry: &Entry, namespace: &str) -> Option<String> {
        let served = match entry.served {
            Served::Watched => true,
            Served::WithClusters => self.settings.serves_clusters(namespace),
        };
        (!served && self.settings.watches(namespace)).then(|| {
            let kind = entry.resource().kind;
            format!(
                "metadata.namespace: Freehold serves no {kind} in {namespace}, and does nothing \
                 with this one: name the namespace in clusterNamespaces of its chart"
            )
        })
    }

    /// Checks an object against the cluster that it refers to.
    async fn check_of_cluster(
        &self,
        object: &DynamicObject,
        reference: &ClusterRef,
        check: impl FnOnce(&ClusterFacts, bool) -> Findings,
    ) -> Findings {
        let namespace = object.namespace().unwrap_or_default();
        let key = reference.key(&namespace);
        match self.cluster(&key).await {
            Ok(cluster) => check(&cluster, key.namespace == namespace),
            Err(Unknown::NotThere) => Default::default(),
            Err(Unknown::NoAnswer(why)) => {
                let why =
                    format!("KafkaCluster {key} cannot be read at present ({why}); try again");
                (vec![Invalid::new("spec.clusterRef", why)], Vec::new())
            }
        }
    }

    /// Finds fields that the API server knows but this version of Freehold would ignore. Fields
    /// that the API server filled in by itself are no error.
    async fn check_fields(&self, kind: &str, spec: &Value) -> Findings {
        let unknown = kind_of(kind)
            .map(|(_, definition)| bounds::unknown_fields(definition, spec))
            .unwrap_or_default();
        if unknown.is_empty() {
            return Default::default();
        }
        let published = self
            .published
            .get(&(), async {
                definitions::published(&self.client).await.map(Arc::new)
            })
            .await;
        let why = |field: &String| {
            let version = env!("CARGO_PKG_VERSION");
            Invalid::new(
                field,
                format!(
                    "Freehold {version} does not know this field; leave it out, or upgrade \
                     Freehold first"
                ),
            )
        };
        match published {
            Ok(published) => {
                let set = |field: &&String| !definitions::is_default(&published, kind, field, spec);
                (unknown.iter().filter(set).map(why).collect(), Vec::new())
            }
            Err(_) => (
                Vec::new(),
                unknown.iter().map(|field| why(field).to_string()).collect(),
            ),
        }
    }

    async fn review(
        &self,
        review: AdmissionReview<DynamicObject>,
        until: Instant,
        memory: Memory,
    ) -> AdmissionReview<DynamicObject> {
        let Ok(request) = review.try_into() else {
            return AdmissionResponse::invalid("not an AdmissionReview with a request")
                .into_review();
        };
        let request: AdmissionRequest<DynamicObject> = request;
        let mut response = AdmissionResponse::from(&request);
        let old = request.old_object;
        let Some(object) = request
            .object
            .filter(|object| object.metadata.deletion_timestamp.is_none())
        else {
            return response.into_review();
        };
        let is_new = old.is_none_or(|old| old.data["spec"] != object.data["spec"]);
        let checked = timeout_at(until, self.check(&object, is_new, memory)).await;
        let Ok((invalids, warnings)) = checked else {
            let why = "the check of this object takes too long at present; nothing was changed: \
                       try again";
            return response.deny(why).into_review();
        };
        let warnings: Vec<_> = warnings
            .into_iter()
            .take(LISTED_MAX)
            .map(|warning| cut(warning, PART_CHARS_MAX))
            .collect();
        response.warnings = Some(warnings).filter(|warnings| !warnings.is_empty());
        if invalids.is_empty() {
            return response.into_review();
        }
        response
            .deny(cut(
                listed(invalids.iter().map(ToString::to_string)),
                2 * MESSAGE_CHARS_MAX,
            ))
            .into_review()
    }

    /// Answers a request of any size.
    async fn answer(&self, request: axum::extract::Request) -> AdmissionReview<DynamicObject> {
        let refuse = |uid: String, why: &str| {
            let mut response = AdmissionResponse::invalid(why);
            response.uid = uid;
            response.into_review()
        };
        let until = Instant::now() + ANSWER_LIMIT;
        match self.bodies.receive(request.into_body(), BODY_LIMIT).await {
            Err((refused, uid)) => {
                let why = match refused {
                    Refused::TooLarge => body::TOO_LARGE,
                    Refused::Late => "the object did not arrive in time; try again",
                    Refused::Broken => "the request broke off",
                };
                refuse(uid, why)
            }
            Ok(Whole { bytes, memory }) => match serde_json::from_slice(&bytes) {
                Ok(review) => {
                    drop(bytes);
                    self.review(review, until, memory).await
                }
                Err(error) => refuse(
                    body::uid(&bytes),
                    &cut(format!("not an AdmissionReview: {error}"), PART_CHARS_MAX),
                ),
            },
        }
    }
}

fn app(checks: Arc<Checks>) -> Router {
    let answer = move |request: axum::extract::Request<Body>| {
        let checks = Arc::clone(&checks);
        async move { Json(checks.answer(request).await) }
    };
    Router::new().route("/validate", post(answer))
}

/// Serves until the process ends.
///
/// # Errors
/// The address cannot be bound.
pub async fn serve(
    address: SocketAddr,
    client: Client,
    settings: Settings,
    certificate: ServingCertificate,
) -> std::io::Result<()> {
    let app = app(Arc::new(Checks::new(client, settings)));
    axum::serve(
        listener::TlsListener::bind(address, certificate).await?,
        app,
    )
    .await
}

#[cfg(test)]
mod tests;
