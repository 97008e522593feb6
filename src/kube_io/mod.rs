//! The one way that Freehold reads, applies and deletes objects of Kubernetes.
//!
//! Objects are applied whole, server-side, with one field manager; only when they differ. Deletes carry uid and
//! resourceVersion, so that a newer object of the same name is never hit.

pub mod difference;

use crate::labels;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, Preconditions};
use kube::{Client, Resource};
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// What the API server said, and about what.
#[derive(Debug, thiserror::Error)]
pub enum KubeError {
    #[error("cannot {verb} {kind} {name}")]
    Request {
        verb: &'static str,
        kind: String,
        name: String,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("{kind} {name} exists and was not made by Freehold for this object; rename one of the two")]
    NotOurs { kind: String, name: String },
}

impl KubeError {
    pub fn request(verb: &'static str, kind: &str, name: &str) -> impl FnOnce(kube::Error) -> Self {
        let (kind, name) = (kind.to_owned(), name.to_owned());
        move |source| Self::Request { verb, kind, name, source: Box::new(source) }
    }

    /// True for what goes away by itself: no answer, too many requests, a conflict, a server's own error.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::NotOurs { .. } => false,
            Self::Request { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => status.code == 409 || status.code == 429 || status.code >= 500 || status.code == 404,
                _ => true,
            },
        }
    }

    /// The error with its causes, for a status.
    pub fn words(&self) -> String {
        match self {
            Self::Request { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => format!("{self}: {}", status.message),
                other => format!("{self}: {other}"),
            },
            Self::NotOurs { .. } => self.to_string(),
        }
    }
}

pub type KubeResult<T> = Result<T, KubeError>;

/// An object as it should be.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    pub resource: ApiResource,
    pub value: Value,
}

impl Object {
    /// From a typed object. Adds the hash by which a field that leaves the desired state is noticed.
    pub fn of<K: Resource<DynamicType = ()> + Serialize>(object: &K) -> Self {
        let resource = ApiResource::erase::<K>(&());
        let mut value = serde_json::to_value(object).expect("Kubernetes objects serialize");
        let hash = crate::names::hex(&Sha256::digest(value.to_string())[..8]);
        value["metadata"]["annotations"][labels::APPLIED_HASH] = json!(hash);
        Self { resource, value }
    }

    pub fn name(&self) -> &str {
        self.value["metadata"]["name"].as_str().unwrap_or_default()
    }

    pub fn kind(&self) -> &str {
        &self.resource.kind
    }
}

/// An object as it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Live {
    pub resource: ApiResource,
    pub value: Value,
}

impl Live {
    fn text(&self, field: &str) -> &str {
        self.value["metadata"][field].as_str().unwrap_or_default()
    }
    pub fn name(&self) -> &str {
        self.text("name")
    }
    pub fn uid(&self) -> &str {
        self.text("uid")
    }
    pub fn resource_version(&self) -> &str {
        self.text("resourceVersion")
    }
    pub fn is_deleting(&self) -> bool {
        !self.value["metadata"]["deletionTimestamp"].is_null()
    }
    pub fn label(&self, key: &str) -> Option<&str> {
        self.value["metadata"]["labels"][key].as_str()
    }
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.value["metadata"]["annotations"][key].as_str()
    }
    /// True when an owner reference names this uid.
    pub fn is_owned_by(&self, uid: &str) -> bool {
        self.value["metadata"]["ownerReferences"].as_array().is_some_and(|owners| owners.iter().any(|owner| owner["uid"] == uid))
    }
}

fn api(client: &Client, namespace: &str, resource: &ApiResource) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), namespace, resource)
}

/// The resource of a type.
pub fn resource<K: Resource<DynamicType = ()>>() -> ApiResource {
    ApiResource::erase::<K>(&())
}

/// All objects of a type with a label.
pub async fn list(client: &Client, namespace: &str, resource: &ApiResource, selector: &str) -> KubeResult<Vec<Live>> {
    let list = api(client, namespace, resource).list(&ListParams::default().labels(selector)).await.map_err(KubeError::request(
        "list",
        &resource.kind,
        selector,
    ))?;
    Ok(list.items.into_iter().map(|object| live(object, resource)).collect())
}

/// One object, or `None`.
pub async fn get(client: &Client, namespace: &str, resource: &ApiResource, name: &str) -> KubeResult<Option<Live>> {
    let found = api(client, namespace, resource).get_opt(name).await.map_err(KubeError::request("get", &resource.kind, name))?;
    Ok(found.map(|object| live(object, resource)))
}

/// Items of a list do not say what they are; a live object does.
fn live(object: DynamicObject, resource: &ApiResource) -> Live {
    let mut value = serde_json::to_value(object).expect("what was read serializes");
    value["apiVersion"] = json!(resource.api_version);
    value["kind"] = json!(resource.kind);
    Live { resource: resource.clone(), value }
}

/// Applies an object whole. One of the same name that does not carry Freehold's label and the same label `owner_label`
/// is somebody else's, and is left alone.
pub async fn apply(client: &Client, namespace: &str, object: &Object, owner_label: &str) -> KubeResult<()> {
    let wanted = &object.value["metadata"]["labels"];
    if let Some(live) = get(client, namespace, &object.resource, object.name()).await? {
        let ours =
            [labels::MANAGED_BY, owner_label].iter().all(|key| live.label(key).is_some() && live.label(key) == wanted[*key].as_str());
        if !ours {
            return Err(KubeError::NotOurs { kind: object.kind().to_owned(), name: object.name().to_owned() });
        }
    }
    api(client, namespace, &object.resource)
        .patch(object.name(), &PatchParams::apply(labels::FIELD_MANAGER).force(), &Patch::Apply(&object.value))
        .await
        .map(|_| ())
        .map_err(KubeError::request("apply", object.kind(), object.name()))
}

/// Deletes exactly the object that was seen. What is gone or was replaced counts as done.
pub async fn delete(client: &Client, namespace: &str, live: &Live) -> KubeResult<()> {
    delete_with(client, namespace, live, DeleteParams::background()).await
}

/// The same, and what it owns stays.
pub async fn orphan(client: &Client, namespace: &str, live: &Live) -> KubeResult<()> {
    delete_with(client, namespace, live, DeleteParams::orphan()).await
}

async fn delete_with(client: &Client, namespace: &str, live: &Live, params: DeleteParams) -> KubeResult<()> {
    let preconditions = Preconditions { uid: Some(live.uid().to_owned()), resource_version: Some(live.resource_version().to_owned()) };
    let params = DeleteParams { preconditions: Some(preconditions), ..params };
    match api(client, namespace, &live.resource).delete(live.name(), &params).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other.map(|_| ()).map_err(KubeError::request("delete", &live.resource.kind, live.name())),
    }
}

/// The objects beside this one, and its name among them.
fn place<'a, K>(client: &Client, object: &'a K) -> (Api<K>, &'a str)
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
{
    let meta = object.meta();
    (Api::namespaced(client.clone(), meta.namespace.as_deref().unwrap_or_default()), meta.name.as_deref().unwrap_or_default())
}

/// Adds or removes Freehold's finalizer, only on the object that was seen. Gives the object as it is then; `None` where
/// it is gone.
pub async fn set_finalizer<K>(client: &Client, object: &K, present: bool) -> KubeResult<Option<K>>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope> + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let (meta, (api, name)) = (object.meta(), place(client, object));
    let mut finalizers = meta.finalizers.clone().unwrap_or_default();
    finalizers.retain(|finalizer| finalizer != labels::FINALIZER);
    if present {
        finalizers.push(labels::FINALIZER.into());
    }
    let patch = json!({"metadata": {"finalizers": finalizers, "uid": meta.uid, "resourceVersion": meta.resource_version}});
    match api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await {
        Ok(changed) => Ok(Some(changed)),
        Err(kube::Error::Api(status)) if status.code == 404 && !present => Ok(None),
        Err(error) => Err(KubeError::request("set the finalizer of", &K::kind(&()), name)(error)),
    }
}

/// The object as it is now; `None`: it is gone, another by that name, or has another spec than was seen.
pub async fn current<K>(client: &Client, object: &K) -> KubeResult<Option<K>>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope> + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let (meta, (api, name)) = (object.meta(), place(client, object));
    let found = api.get_opt(name).await.map_err(KubeError::request("get", &K::kind(&()), name))?;
    // A deletion that begins is a generation of its own.
    Ok(found.filter(|found: &K| (&found.meta().uid, found.meta().generation) == (&meta.uid, meta.generation)))
}

/// A resourceVersion as the number that it is: those of one resource grow (KEP-5504). What is none counts as oldest.
pub fn version(text: &str) -> u64 {
    text.parse().unwrap_or(0)
}

/// True when the object carries Freehold's finalizer.
pub fn has_finalizer<K: Resource>(object: &K) -> bool {
    object.meta().finalizers.as_ref().is_some_and(|list| list.iter().any(|finalizer| finalizer == labels::FINALIZER))
}

/// The owner reference of a custom resource's children.
pub fn owner<K: Resource<DynamicType = ()>>(object: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: object.meta().name.clone().unwrap_or_default(),
        uid: object.meta().uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}
