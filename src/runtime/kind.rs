//! What a kind must say of itself for the driver to run it.

use super::claims::{Claim, Claims};
use super::clusters::ClusterEvent;
use super::context::Context;
use super::sweeps::Order;
use crate::conditions::{Condition, Reason, State};
use crate::kafka::metadata_image::Concerned;
use futures::stream::BoxStream;
use k8s_openapi::NamespaceResourceScope;
use kube::Resource;
use kube::api::ApiResource;
use kube::runtime::reflector::{ObjectRef, Store};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

/// When to look again without being woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requeue {
    /// Not at all: what it depends on wakes it, and a round comes by ([`super::sweeps`]).
    Woken,
    After(Duration),
    /// It failed in a way that may pass: with backoff.
    Backoff,
    /// At once, as the API server has the object.
    Anew,
}

/// Something that a person should hear of although the state stays as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    pub reason: Reason,
    pub message: String,
}

/// What a reconcile learned.
#[derive(Debug)]
pub struct Outcome<S> {
    /// `None` when the object is on its way out and has no status to keep.
    pub status: Option<S>,
    pub state: State,
    pub notices: Vec<Notice>,
    pub requeue: Requeue,
}

/// Objects whose changes wake the object that a label of theirs names.
#[derive(Clone, Debug)]
pub struct Watch {
    pub resource: ApiResource,
    /// The label with the owner's name.
    pub label: &'static str,
}

/// A resource kind.
pub trait Kind: Send + Sync + 'static {
    type Object: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned + Serialize + Send + Sync;
    type Status: Serialize + PartialEq + Clone + Debug + Send + Sync;

    /// Objects of one watched namespace that are looked at side by side.
    const CONCURRENCY: u16;
    /// Changes of an object within this time are looked at together.
    const DEBOUNCE: Duration;

    fn status(object: &Self::Object) -> Option<&Self::Status>;
    fn conditions(status: &Self::Status) -> &[Condition];
    fn watches() -> Vec<Watch> {
        Vec::new()
    }
    /// Other things that wake objects, in a namespace (`None`: in all).
    fn wakes(_context: &Arc<Context>, _namespace: Option<&str>) -> Option<BoxStream<'static, Woken<Self::Object>>> {
        None
    }
    fn remember(_context: &Context, _store: &Store<Self::Object>) {}
    /// An object is gone from the cache.
    fn gone(_context: &Context, _object: &Self::Object) {}
    /// The kind's claims, where its objects claim something in Kafka.
    fn claims(_context: &Context) -> Option<&Claims> {
        None
    }
    /// What an object claims in its cluster.
    fn claim(_object: &Self::Object) -> Option<Claim> {
        None
    }
    /// The name of the claim that a change of metadata concerns, and the other way round.
    fn concerned(_concerned: &Concerned) -> Option<&str> {
        None
    }
    fn concern(name: &str) -> Concerned {
        Concerned::Topic(name.into())
    }

    /// observe -> validate -> desired -> plan -> apply -> status, once.
    fn reconcile(object: Arc<Self::Object>, context: Arc<Context>) -> impl Future<Output = Outcome<Self::Status>> + Send;
}

/// Whom an event concerns.
#[derive(Debug, PartialEq)]
pub enum Woken<O: Resource<DynamicType = ()> + 'static> {
    All(Order),
    These(Vec<ObjectRef<O>>),
}

/// The objects of a kind that an event wakes.
pub fn woken<K: Kind>(context: &Context, event: ClusterEvent) -> Woken<K::Object> {
    match event {
        ClusterEvent::Changed(cluster) => Woken::All(Some(cluster)),
        ClusterEvent::Metadata(cluster, concerned) => {
            let claim = K::concerned(&concerned).map(|name| Claim { cluster, name: name.to_owned() });
            Woken::These(claim.zip(K::claims(context)).map(|(claim, claims)| claims.objects(&claim)).unwrap_or_default())
        }
    }
}

/// An error of a kind: what the driver and the status need to know of it.
pub trait Failure {
    fn reason(&self) -> Reason;
    /// True when it may pass by itself.
    fn is_transient(&self) -> bool;
    /// Without anything secret.
    fn words(&self) -> String;

    fn state(&self) -> State {
        if self.is_transient() { State::reconciling(self.reason(), self.words()) } else { State::stalled(self.reason(), self.words()) }
    }
}
