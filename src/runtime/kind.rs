//! What a kind gives the driver: its types, what requeues its objects, and its reconcile.

use crate::api::conditions::{Condition, Reason, State};
use crate::runtime::services::Services;
use crate::runtime::unread_names::UnreadNames;
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

/// When an object is reconciled again if nothing else requeues it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requeue {
    /// Only by a change of the object or of what it depends on, and by the resync
    /// ([`crate::runtime::resync`]).
    OnChange,
    After(Duration),
    /// After a failure that may pass: with backoff.
    Backoff,
    /// At once, with the object read again from the API server.
    Anew,
}

/// News about an object whose state stays as it is; published as an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    pub reason: Reason,
    pub message: String,
}

/// The result of a reconcile.
#[derive(Debug)]
pub struct Outcome<S> {
    /// `None`: the status stays as it is, or the object is gone.
    pub status: Option<S>,
    pub state: State,
    pub notices: Vec<Notice>,
    pub requeue: Requeue,
}

/// Child objects: a change of one requeues the object that its label names.
#[derive(Clone, Debug)]
pub struct Watch {
    pub resource: ApiResource,
    /// The label with the owner's name.
    pub label: &'static str,
}

/// The objects to reconcile after an event.
#[derive(Debug)]
pub enum Requeued<O: Resource<DynamicType = ()> + 'static, G> {
    All,
    /// Every object of a group ([`Kind::Group`]).
    Group(G),
    These(Vec<ObjectRef<O>>),
}

/// A resource kind.
pub trait Kind: Send + Sync + 'static {
    type Object: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Serialize
        + Send
        + Sync;
    type Status: Serialize + PartialEq + Clone + Debug + Send + Sync;
    /// What the reconciles of this kind share.
    type Context: AsRef<Services> + Send + Sync + 'static;
    /// Names the objects that are reconciled together after an event, such as all objects that
    /// refer to one cluster. `()` where there are no such groups.
    type Group: Clone + Debug + Ord + Send + Sync + 'static;

    /// How many objects of one watched namespace are reconciled at the same time.
    const CONCURRENCY: u16;
    /// Changes of an object within this time lead to one reconcile.
    const DEBOUNCE: Duration;
    /// Its status says what is under way. It is written only where nobody has written the object
    /// since it was read, so that the late write of an earlier leader fails.
    const STATUS_IS_A_LEASE: bool = false;

    fn status(object: &Self::Object) -> Option<&Self::Status>;
    fn conditions(status: &Self::Status) -> &[Condition];
    /// The group of an object.
    fn group(_object: &Self::Object) -> Option<Self::Group> {
        None
    }
    /// The kinds of its child objects.
    fn watches() -> Vec<Watch> {
        Vec::new()
    }
    /// Whatever else requeues its objects, in a namespace (`None`: in all). The driver drops
    /// objects that are not in its cache.
    fn triggers(
        _context: &Arc<Self::Context>,
        _namespace: Option<&str>,
    ) -> Vec<BoxStream<'static, Requeued<Self::Object, Self::Group>>> {
        Vec::new()
    }
    /// Takes the cache of a namespace (`None`: of all), for a kind whose objects are looked up by
    /// others.
    fn remember(_context: &Self::Context, _namespace: Option<&str>, _store: &Store<Self::Object>) {}
    /// Takes the names of the objects in that cache that cannot be read, for a kind where others act
    /// for such an object meanwhile.
    fn remember_unread(_context: &Self::Context, _names: &Arc<UnreadNames>) {}
    /// An object is new in the cache, or has changed. Called before it is reconciled.
    fn noted(_context: &Self::Context, _object: &Self::Object) {}
    /// An object is gone from the cache.
    fn gone(_context: &Self::Context, _object: &Self::Object) {}

    /// observe -> validate -> desired -> plan -> apply -> status, once.
    fn reconcile(
        object: Arc<Self::Object>,
        context: Arc<Self::Context>,
    ) -> impl Future<Output = Outcome<Self::Status>> + Send;
}

/// An error of a kind: what the driver and the status need to know of it.
pub trait Failure {
    fn reason(&self) -> Reason;
    /// True when it may pass by itself.
    fn is_transient(&self) -> bool;
    /// The message for people, without anything secret.
    fn words(&self) -> String;

    fn state(&self) -> State {
        if self.is_transient() {
            State::reconciling(self.reason(), self.words())
        } else {
            State::stalled(self.reason(), self.words())
        }
    }
}
