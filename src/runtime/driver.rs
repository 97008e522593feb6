//! Runs a kind: watches, reconciles, writes status and events, counts, waits.

use super::context::Context;
use super::health::Health;
use super::kind::{Kind, Outcome, Requeue};
use super::{backoff, events};
use crate::conditions::{Condition, ConditionStatus, ConditionType, State};
use crate::{kinds, labels};
use futures::stream::{BoxStream, SelectAll};
use futures::{FutureExt, Stream, StreamExt};
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::core::PartialObjectMeta;
use kube::runtime::controller::{Action, Config};
use kube::runtime::reflector::{ObjectRef, Store, store};
use kube::runtime::{Controller, Predicate, WatchStreamExt, predicates, watcher};
use kube::{Resource, ResourceExt};
use serde_json::json;
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// A watch is renewed at least so often: a dead connection is noticed by then (the default is 290 s).
const WATCH_TIMEOUT_SECS: u32 = 60;
/// Changes that come together are looked at together.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// Objects of one kind and namespace that are looked at side by side.
const CONCURRENCY: u16 = 16;

struct Driver<K: Kind> {
    context: Arc<Context>,
    failures: Mutex<HashMap<String, u32>>,
    kind: std::marker::PhantomData<K>,
}

/// Runs the kind in one namespace (`None`: all) until `stop` says so; what is under way is finished.
pub async fn run<K: Kind>(context: Arc<Context>, namespace: Option<String>, health: Health, mut stop: watch::Receiver<bool>) {
    let client = context.client.clone();
    let kind = K::Object::kind(&()).into_owned();
    let api: Api<K::Object> = match &namespace {
        Some(namespace) => Api::namespaced(client, namespace),
        None => Api::all(client),
    };
    let (reader, writer) = store();
    context.remember::<K>(&reader);
    let changed = Predicate::<K::Object>::combine(predicates::generation, predicates::annotations).combine(predicates::finalizers);
    let objects = watcher(api, watcher::Config::default().timeout(WATCH_TIMEOUT_SECS))
        .default_backoff()
        .reflect(writer)
        .inspect(beat(health.clone(), format!("{kind} in {namespace:?}")))
        .applied_objects()
        .predicate_filter(changed, kube::runtime::PredicateConfig::default());
    let triggers = SelectAll::from_iter([children::<K>(&context, namespace.as_deref(), &health), clusters::<K>(&context, reader.clone())]);
    let driver = Arc::new(Driver::<K> { context, failures: Mutex::default(), kind: std::marker::PhantomData });
    Controller::for_stream(objects, reader)
        .with_config(Config::default().concurrency(CONCURRENCY).debounce(DEBOUNCE))
        .reconcile_on(triggers)
        .graceful_shutdown_on(async move {
            // An error means that the sender is gone, which is an end as well.
            let _ = stop.wait_for(|stop| *stop).await;
        })
        .run(reconcile::<K>, |_, error: &Infallible, _| match *error {}, driver)
        .for_each(|_| futures::future::ready(()))
        .await;
}

fn beat<T>(health: Health, name: String) -> impl FnMut(&Result<T, watcher::Error>) {
    move |event| {
        if let Err(error) = event {
            tracing::warn!(watch = name, %error, "a watch failed");
        }
        health.saw(&name, event.is_ok());
    }
}

/// Changes of what the objects own: metadata alone, by label.
fn children<K: Kind>(context: &Arc<Context>, namespace: Option<&str>, health: &Health) -> BoxStream<'static, ObjectRef<K::Object>> {
    let streams = K::watches().into_iter().map(|watch| {
        let api: Api<PartialObjectMeta<DynamicObject>> = match namespace {
            Some(namespace) => Api::namespaced_with(context.client.clone(), namespace, &watch.resource),
            None => Api::all_with(context.client.clone(), &watch.resource),
        };
        let config = watcher::Config::default().labels(labels::SELECTOR).timeout(WATCH_TIMEOUT_SECS);
        watcher(api, config)
            .default_backoff()
            .inspect(beat(health.clone(), format!("{} in {namespace:?}", watch.resource.kind)))
            .touched_objects()
            .filter_map(move |object| async move {
                let object = object.ok()?;
                let owner = object.labels().get(watch.label)?.clone();
                Some(ObjectRef::new(&owner).within(&object.namespace()?))
            })
            .boxed()
    });
    SelectAll::from_iter(streams).chain(futures::stream::pending()).boxed()
}

/// Changes of the cluster that objects refer to.
fn clusters<K: Kind>(context: &Arc<Context>, reader: Store<K::Object>) -> BoxStream<'static, ObjectRef<K::Object>> {
    let changes = receive(context.clusters.subscribe());
    changes
        .flat_map(move |cluster| {
            let concerned: Vec<_> = reader
                .state()
                .into_iter()
                .filter(|object| cluster.is_none() || K::cluster(object) == cluster)
                .map(|object| ObjectRef::from_obj(&*object))
                .collect();
            futures::stream::iter(concerned)
        })
        .boxed()
}

/// `None` when some messages were lost: then every object is concerned.
fn receive(
    receiver: tokio::sync::broadcast::Receiver<kinds::reference::ClusterKey>,
) -> impl Stream<Item = Option<kinds::reference::ClusterKey>> {
    use tokio::sync::broadcast::error::RecvError;
    futures::stream::unfold(receiver, |mut receiver| async move {
        match receiver.recv().await {
            Ok(cluster) => Some((Some(cluster), receiver)),
            Err(RecvError::Lagged(_)) => Some((None, receiver)),
            Err(RecvError::Closed) => futures::future::pending().await,
        }
    })
}

async fn reconcile<K: Kind>(object: Arc<K::Object>, driver: Arc<Driver<K>>) -> Result<Action, Infallible> {
    let start = Instant::now();
    let context = Arc::clone(&driver.context);
    let kind = K::Object::kind(&());
    let name = format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any());
    // A defect in one object's reconcile must not stop the others.
    let outcome = std::panic::AssertUnwindSafe(K::reconcile(Arc::clone(&object), Arc::clone(&context))).catch_unwind().await;
    let Ok(Outcome { status, state, requeue }) = outcome else {
        tracing::error!(%kind, name, "a reconcile panicked: this is a defect");
        return Ok(Action::requeue(backoff::LAST));
    };
    context.metrics.reconciled(&kind, state.words().0, start.elapsed());
    let (reason, message) = state.words();
    tracing::debug!(%kind, name, %reason, why = message, took = ?start.elapsed(), "reconciled");
    let mut written = true;
    if let Some(status) = status
        && K::status(&object) != Some(&status)
    {
        written = write_status::<K>(&context, &object, &status).await;
        let before = K::status(&object).map(K::conditions).unwrap_or_default();
        if written && announces(before, &state) {
            tracing::info!(%kind, name, %reason, why = message, "state changed");
            events::changed::<K>(&context.client, &object, &state).await;
        }
    }
    let requeue = if written { requeue } else { Requeue::Backoff };
    Ok(Action::requeue(driver.delay(&name, requeue)))
}

/// True when the reason of the Ready condition is another than before.
fn announces(before: &[Condition], state: &State) -> bool {
    let ready = before.iter().find(|condition| condition.kind == ConditionType::Ready);
    let same_status = ready.is_some_and(|ready| (ready.status == ConditionStatus::True) == matches!(state, State::Ready));
    !same_status || ready.is_some_and(|ready| ready.reason != state.words().0.name())
}

async fn write_status<K: Kind>(context: &Context, object: &K::Object, status: &K::Status) -> bool {
    let api: Api<K::Object> = Api::namespaced(context.client.clone(), &object.namespace().unwrap_or_default());
    // The uid makes the write fail where the object was replaced by another of its name.
    let patch = json!({
        "apiVersion": K::Object::api_version(&()), "kind": K::Object::kind(&()),
        "metadata": {"name": object.name_any(), "uid": object.uid()}, "status": status
    });
    let params = PatchParams::apply(labels::FIELD_MANAGER).force();
    match api.patch_status(&object.name_any(), &params, &Patch::Apply(&patch)).await {
        Ok(_) => true,
        Err(kube::Error::Api(answer)) if answer.code == 404 => true,
        Err(error) => {
            tracing::warn!(name = object.name_any(), %error, "cannot write the status");
            false
        }
    }
}

impl<K: Kind> Driver<K> {
    fn delay(&self, name: &str, requeue: Requeue) -> Duration {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        match requeue {
            Requeue::After(delay) => {
                failures.remove(name);
                delay
            }
            Requeue::Backoff => {
                let count = failures.entry(name.to_owned()).or_default();
                *count = count.saturating_add(1);
                backoff::delay(*count, rand::random())
            }
        }
    }
}
