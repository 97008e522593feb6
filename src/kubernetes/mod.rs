//! Reads, applies and deletes objects of Kubernetes; all other code uses these functions.
//!
//! Objects are applied completely, server-side, with one field manager, and only if they differ.
//! Deletes carry uid and resourceVersion, so that they never delete a newer object of the same
//! name.

pub mod labels;
pub mod names;
pub mod quantity;
pub mod restricted;

pub mod difference;
pub mod guarded;

use difference::Foreign;
use guarded::Guarded;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::jiff::Timestamp;
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, Preconditions,
};
use kube::{Client, Resource};
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// An error of the API server, with the request and the object.
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
    #[error(
        "{kind} {name} exists and was not made by Freehold for this object; rename one of the two"
    )]
    NotOurs { kind: String, name: String },
    /// See [`guarded`].
    #[error("{kind} {name} cannot be read by this version of Freehold: {field}: {why}")]
    Unreadable {
        kind: String,
        name: String,
        field: String,
        why: String,
    },
}

impl KubeError {
    /// For `map_err`: adds the request and the object to an error of the API server.
    pub fn request(verb: &'static str, kind: &str, name: &str) -> impl FnOnce(kube::Error) -> Self {
        let (kind, name) = (kind.to_owned(), name.to_owned());
        move |source| Self::Request {
            verb,
            kind,
            name,
            source: Box::new(source),
        }
    }

    /// True for errors that pass by themselves: no answer, too many requests, a conflict, an error
    /// of the server.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::NotOurs { .. } | Self::Unreadable { .. } => false,
            Self::Request { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => {
                    status.code == 409
                        || status.code == 429
                        || status.code >= 500
                        || status.code == 404
                }
                _ => true,
            },
        }
    }

    /// True if the operator has no permission: the namespace, or the Role in it, no longer exists.
    pub fn is_forbidden(&self) -> bool {
        matches!(self, Self::Request { source, .. } if matches!(source.as_ref(), kube::Error::Api(status) if status.code == 403))
    }

    /// The error and its causes as text for a status.
    pub fn words(&self) -> String {
        match self {
            Self::Request { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => format!("{self}: {}", status.message),
                other => format!("{self}: {other}"),
            },
            Self::NotOurs { .. } | Self::Unreadable { .. } => self.to_string(),
        }
    }
}

pub type KubeResult<T> = Result<T, KubeError>;

/// An object in its desired state.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    pub resource: ApiResource,
    pub value: Value,
}

impl Object {
    /// The desired state of a typed object. Adds the hash that shows when a field is removed from
    /// the desired state.
    pub fn of<K: Resource<DynamicType = ()> + Serialize>(object: &K) -> Self {
        let resource = ApiResource::erase::<K>(&());
        Self::of_value(
            resource,
            serde_json::to_value(object).expect("Kubernetes objects serialize"),
        )
    }

    /// The same for a JSON value.
    pub fn of_value(resource: ApiResource, mut value: Value) -> Self {
        let hash = crate::kubernetes::names::hex(&Sha256::digest(value.to_string())[..8]);
        value["metadata"]["annotations"][labels::APPLIED_HASH] = json!(hash);
        Self { resource, value }
    }

    pub fn name(&self) -> &str {
        self.value["metadata"]["name"].as_str().unwrap_or_default()
    }

    pub fn kind(&self) -> &str {
        &self.resource.kind
    }

    /// Whether it makes no pods: its replicas are 0.
    pub fn has_no_replicas(&self) -> bool {
        self.value["spec"]["replicas"] == 0
    }

    /// Sets an annotation, which does not change the hash.
    pub fn set_annotation(&mut self, key: &str, value: &str) {
        self.value["metadata"]["annotations"][key] = json!(value);
    }

    /// See [`Object::of`].
    pub fn hash(&self) -> &str {
        self.value["metadata"]["annotations"][labels::APPLIED_HASH]
            .as_str()
            .unwrap_or_default()
    }
}

/// An object as the API server returned it.
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
    pub fn created(&self) -> Option<Timestamp> {
        self.text("creationTimestamp").parse().ok()
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
    /// The desired state of a StatefulSet that stays as it is, with another number of pods. Of
    /// `metadata` it has the name, the namespace and the owners. With the same number of pods it
    /// also has the same hash.
    pub fn scaled(&self, metadata: &ObjectMeta, replicas: i32) -> Object {
        let mut spec = self.value["spec"].clone();
        let is_same = spec["replicas"] == replicas;
        spec["replicas"] = json!(replicas);
        let metadata = json!({
            "name": metadata.name, "namespace": metadata.namespace,
            "labels": self.value["metadata"]["labels"], "ownerReferences": metadata.owner_references,
        });
        let value = json!({
            "apiVersion": self.resource.api_version, "kind": self.resource.kind, "spec": spec,
            "metadata": metadata,
        });
        let mut object = Object::of_value(self.resource.clone(), value);
        if let (true, Some(hash)) = (is_same, self.annotation(labels::APPLIED_HASH)) {
            object.set_annotation(labels::APPLIED_HASH, hash);
        }
        object
    }
    /// True when an owner reference has this uid.
    pub fn is_owned_by(&self, uid: &str) -> bool {
        self.value["metadata"]["ownerReferences"]
            .as_array()
            .is_some_and(|owners| owners.iter().any(|owner| owner["uid"] == uid))
    }
}

fn api(client: &Client, namespace: &str, resource: &ApiResource) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), namespace, resource)
}

/// The API resource of a type.
pub fn resource<K: Resource<DynamicType = ()>>() -> ApiResource {
    ApiResource::erase::<K>(&())
}

/// All objects of a type that match a label selector.
pub async fn list(
    client: &Client,
    namespace: &str,
    resource: &ApiResource,
    selector: &str,
) -> KubeResult<Vec<Live>> {
    let list = api(client, namespace, resource)
        .list(&ListParams::default().labels(selector))
        .await
        .map_err(KubeError::request("list", &resource.kind, selector))?;
    Ok(list
        .items
        .into_iter()
        .map(|object| live(object, resource))
        .collect())
}

/// One object; `None` if it does not exist.
pub async fn get(
    client: &Client,
    namespace: &str,
    resource: &ApiResource,
    name: &str,
) -> KubeResult<Option<Live>> {
    let found = api(client, namespace, resource)
        .get_opt(name)
        .await
        .map_err(KubeError::request("get", &resource.kind, name))?;
    Ok(found.map(|object| live(object, resource)))
}

/// Adds apiVersion and kind, which the items of a list do not have.
fn live(object: DynamicObject, resource: &ApiResource) -> Live {
    let mut value = serde_json::to_value(object).expect("what was read serializes");
    value["apiVersion"] = json!(resource.api_version);
    value["kind"] = json!(resource.kind);
    Live {
        resource: resource.clone(),
        value,
    }
}

/// Applies an object completely and returns the result. An existing object of the same name counts
/// as foreign, and is left alone, unless it has Freehold's label and the same value of
/// `owner_label`, or the same owner.
pub async fn apply(
    client: &Client,
    namespace: &str,
    object: &Object,
    owner_label: &str,
) -> KubeResult<Live> {
    let wanted = &object.value["metadata"]["labels"];
    if let Some(live) = get(client, namespace, &object.resource, object.name()).await? {
        let ours = [labels::MANAGED_BY, owner_label]
            .iter()
            .all(|key| live.label(key).is_some() && live.label(key) == wanted[*key].as_str());
        // A user may have removed the labels; then the owner reference decides.
        let owner = object.value["metadata"]["ownerReferences"][0]["uid"].as_str();
        if !ours && !owner.is_some_and(|owner| live.is_owned_by(owner)) {
            return Err(KubeError::NotOurs {
                kind: object.kind().to_owned(),
                name: object.name().to_owned(),
            });
        }
    }
    api(client, namespace, &object.resource)
        .patch(
            object.name(),
            &PatchParams::apply(labels::FIELD_MANAGER).force(),
            &Patch::Apply(&object.value),
        )
        .await
        .map(|applied| live(applied, &object.resource))
        .map_err(KubeError::request("apply", object.kind(), object.name()))
}

/// Removes fields that other clients added, if the object has not changed since it was read.
/// Returns the result.
pub async fn remove(
    client: &Client,
    namespace: &str,
    seen: &Live,
    fields: &[Foreign],
) -> KubeResult<Live> {
    let params = PatchParams {
        field_manager: Some(labels::FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    api(client, namespace, &seen.resource)
        .patch(
            seen.name(),
            &params,
            &Patch::Merge(&difference::removal(seen, fields)),
        )
        .await
        .map(|changed| live(changed, &seen.resource))
        .map_err(KubeError::request(
            "remove fields of",
            &seen.resource.kind,
            seen.name(),
        ))
}

/// Deletes exactly this object. If it is gone or was replaced, this is no error.
pub async fn delete(client: &Client, namespace: &str, live: &Live) -> KubeResult<()> {
    delete_with(client, namespace, live, DeleteParams::background()).await
}

/// The same, but the objects that it owns are kept.
pub async fn orphan(client: &Client, namespace: &str, live: &Live) -> KubeResult<()> {
    delete_with(client, namespace, live, DeleteParams::orphan()).await
}

async fn delete_with(
    client: &Client,
    namespace: &str,
    live: &Live,
    params: DeleteParams,
) -> KubeResult<()> {
    let preconditions = Preconditions {
        uid: Some(live.uid().to_owned()),
        resource_version: Some(live.resource_version().to_owned()),
    };
    let params = DeleteParams {
        preconditions: Some(preconditions),
        ..params
    };
    match api(client, namespace, &live.resource)
        .delete(live.name(), &params)
        .await
    {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other.map(|_| ()).map_err(KubeError::request(
            "delete",
            &live.resource.kind,
            live.name(),
        )),
    }
}

/// The API for the object's kind and namespace, and the object's name.
fn place<'a, K>(client: &Client, object: &'a K) -> (Api<Guarded<K>>, &'a str)
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
{
    let meta = object.meta();
    (
        Api::namespaced(
            client.clone(),
            meta.namespace.as_deref().unwrap_or_default(),
        ),
        meta.name.as_deref().unwrap_or_default(),
    )
}

/// The object, if it could be read.
///
/// # Errors
/// It could not be read.
pub fn understood<K: Resource<DynamicType = ()> + serde::de::DeserializeOwned>(
    object: Guarded<K>,
) -> KubeResult<K> {
    object.read().map_err(|unread| KubeError::Unreadable {
        kind: K::kind(&()).into_owned(),
        name: unread.meta.name.unwrap_or_default(),
        field: unread.field,
        why: unread.why,
    })
}

/// Adds or removes Freehold's finalizer, only on exactly this object. Returns the result; `None` if
/// the object is gone.
pub async fn set_finalizer<K>(client: &Client, object: &K, present: bool) -> KubeResult<Option<K>>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned,
{
    let (meta, (api, name)) = (object.meta(), place(client, object));
    let mut finalizers = meta.finalizers.clone().unwrap_or_default();
    finalizers.retain(|finalizer| finalizer != labels::FINALIZER);
    if present {
        finalizers.push(labels::FINALIZER.into());
    }
    let patch = json!({"metadata": {"finalizers": finalizers, "uid": meta.uid, "resourceVersion": meta.resource_version}});
    match api
        .patch(name, &PatchParams::default(), &Patch::Merge(&patch))
        .await
    {
        Ok(changed) => understood(changed).map(Some),
        Err(kube::Error::Api(status)) if status.code == 404 && !present => Ok(None),
        Err(error) => Err(KubeError::request(
            "set the finalizer of",
            &K::kind(&()),
            name,
        )(error)),
    }
}

/// The object as it is now; `None` if it is gone, was replaced by another one of that name, or has
/// another spec than the given one.
pub async fn current<K>(client: &Client, object: &K) -> KubeResult<Option<K>>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned,
{
    let (meta, (api, name)) = (object.meta(), place(client, object));
    let found = api
        .get_opt(name)
        .await
        .map_err(KubeError::request("get", &K::kind(&()), name))?;
    let found = found.map(understood).transpose()?;
    // The start of a deletion also increases the generation.
    Ok(found.filter(|found: &K| {
        (&found.meta().uid, found.meta().generation) == (&meta.uid, meta.generation)
    }))
}

/// A resourceVersion as a number: those of one resource grow (KEP-5504). Text that is not a number
/// counts as the oldest version.
pub fn version(text: &str) -> u64 {
    text.parse().unwrap_or(0)
}

/// True when the object has Freehold's finalizer.
pub fn has_finalizer<K: Resource>(object: &K) -> bool {
    object
        .meta()
        .finalizers
        .as_ref()
        .is_some_and(|list| list.iter().any(|finalizer| finalizer == labels::FINALIZER))
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
