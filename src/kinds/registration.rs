//! What the operator must know of a kind beside how to reconcile it: where it is served, who may
//! edit it, how the webhook checks it. A kind implements [`Registered`]; the table in
//! [`crate::kinds`] is made of [`Entry`]s.

use crate::api::bounds;
use crate::api::invalid::Invalid;
use crate::api::kafka_cluster::KafkaCluster;
use crate::api::reference::ClusterRef;
use crate::clusters::ClusterFacts;
use crate::kinds::context::{Context, Settings};
use crate::kinds::rights::Right;
use crate::kubernetes::guarded::{Guarded, Unread};
use crate::runtime::driver;
use crate::runtime::health::Health;
use crate::runtime::kind::Kind;
use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use kube::api::ApiResource;
use serde_json::Value;
use std::sync::Arc;
use tokio::sync::watch;

/// The namespaces where a kind is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// All watched namespaces.
    Watched,
    /// Those of them that have KafkaClusters (`clusterNamespaces`).
    WithClusters,
}

/// The people who may write objects of a kind, by the roles that Kubernetes gives them in a
/// namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Editors {
    /// Role `edit`, and so `admin` too.
    Edit,
    Admin,
}

/// What the webhook answers: what is wrong with an object, and what is allowed but unwise.
pub type Findings = (Vec<Invalid>, Vec<String>);

/// A check against the operator's settings and the KafkaClusters of the object's namespace.
pub type CheckAmongClusters = dyn FnOnce(&Settings, &[KafkaCluster]) -> Findings + Send;
/// A check against a cluster. The flag: the object is in the cluster's own namespace.
pub type CheckOfCluster = dyn FnOnce(&ClusterFacts, bool) -> Findings + Send;

/// A check that waits for a child process.
pub type CheckInChild = dyn FnOnce() -> Findings + Send;

/// How the webhook checks an object that it could read.
pub enum Review {
    /// The object says enough.
    Alone(Findings),
    AmongClusters(Box<CheckAmongClusters>),
    /// With the cluster that the object refers to.
    OfCluster(ClusterRef, Box<CheckOfCluster>),
    /// First a check that waits for a child process, then one with the cluster.
    InChildAndOfCluster(Box<CheckInChild>, ClusterRef, Box<CheckOfCluster>),
}

/// A kind that the operator serves.
pub trait Registered: Kind<Object: CustomResourceExt> {
    const SERVED: Served;
    const EDITORS: Editors;
    /// Its objects own child objects, with owner references that block deletion.
    const OWNS_OBJECTS: bool;
    /// The rights that its steps need on other resources than its own, where it is served.
    const RIGHTS: &'static [Right];

    /// The kind's context, around the one of all kinds.
    fn context(shared: &Arc<Context>) -> Arc<Self::Context>;
    fn review(object: Self::Object) -> Review;
}

/// Runs a kind in a namespace (`None`: in all) until the last argument is true.
pub type Driver =
    Box<dyn Fn(Option<String>, Health, watch::Receiver<bool>) -> BoxFuture<'static, ()> + Send>;

/// A kind in the registry.
pub struct Entry {
    pub served: Served,
    pub editors: Editors,
    pub owns_objects: bool,
    pub rights: &'static [Right],
    definition: fn() -> CustomResourceDefinition,
    resource: fn() -> ApiResource,
    driver: fn(&Arc<Context>) -> Driver,
    review: fn(Value) -> Result<Review, Invalid>,
}

impl Entry {
    pub const fn of<K: Registered>() -> Self {
        Self {
            served: K::SERVED,
            editors: K::EDITORS,
            owns_objects: K::OWNS_OBJECTS,
            rights: K::RIGHTS,
            definition: definition::<K>,
            resource: resource::<K>,
            driver: driver::<K>,
            review: review::<K>,
        }
    }

    /// The CustomResourceDefinition, with bounds on every field.
    pub fn definition(&self) -> CustomResourceDefinition {
        (self.definition)()
    }

    pub fn resource(&self) -> ApiResource {
        (self.resource)()
    }

    /// The kind's driver, with a context that its namespaces share.
    pub fn driver(&self, shared: &Arc<Context>) -> Driver {
        (self.driver)(shared)
    }

    /// How the webhook checks an object.
    ///
    /// # Errors
    /// The field that this version cannot read.
    pub fn review(&self, object: Value) -> Result<Review, Invalid> {
        (self.review)(object)
    }
}

fn definition<K: Registered>() -> CustomResourceDefinition {
    bounds::bounded(K::Object::crd())
}

fn resource<K: Registered>() -> ApiResource {
    ApiResource::erase::<K::Object>(&())
}

fn driver<K: Registered>(shared: &Arc<Context>) -> Driver {
    let context = K::context(shared);
    Box::new(move |namespace, health, stop| {
        driver::run::<K>(Arc::clone(&context), namespace, health, stop).boxed()
    })
}

fn review<K: Registered>(object: Value) -> Result<Review, Invalid> {
    let object = Guarded::<K::Object>::of(object).read().map_err(|unread| {
        let Unread { field, why, .. } = *unread;
        Invalid::new(field, why)
    })?;
    Ok(K::review(object))
}
