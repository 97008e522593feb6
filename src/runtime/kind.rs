//! What a kind must say of itself for the driver to run it.

use super::context::Context;
use crate::conditions::{Condition, Reason, State};
use crate::kinds::reference::ClusterKey;
use k8s_openapi::NamespaceResourceScope;
use kube::Resource;
use kube::api::ApiResource;
use kube::runtime::reflector::Store;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

/// When to look again without being woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requeue {
    After(Duration),
    /// It failed in a way that may pass: with backoff.
    Backoff,
}

/// What a reconcile learned.
#[derive(Debug)]
pub struct Outcome<S> {
    /// `None` when the object is on its way out and has no status to keep.
    pub status: Option<S>,
    pub state: State,
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

    fn status(object: &Self::Object) -> Option<&Self::Status>;
    fn conditions(status: &Self::Status) -> &[Condition];
    fn watches() -> Vec<Watch>;
    /// The cluster whose changes wake the object.
    fn cluster(object: &Self::Object) -> Option<ClusterKey>;
    fn remember(_context: &Context, _store: Store<Self::Object>) {}

    /// observe -> validate -> desired -> plan -> apply -> status, once.
    fn reconcile(object: Arc<Self::Object>, context: Arc<Context>) -> impl Future<Output = Outcome<Self::Status>> + Send;
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
