//! Runs a kind: watches, reconciles, writes status and events, counts, waits.

use super::cache::{Cache, Change};
use super::claims::Claim;
use super::clusters::ClusterEvent;
use super::context::Context;
use super::health::Health;
use super::kind::{Kind, Notice, Outcome, Requeue, Woken, woken};
use super::sweeps::{self, Sweeps};
use super::{backoff, events};
use crate::conditions::{Condition, ConditionStatus, ConditionType, State};
use crate::{kube_io, labels};
use futures::stream::{BoxStream, SelectAll};
use futures::{FutureExt, Stream, StreamExt, TryStreamExt};
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::core::PartialObjectMeta;
use kube::runtime::controller::{Action, Config};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::{Controller, WatchStreamExt, watcher};
use kube::{Resource, ResourceExt};
use serde_json::json;
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// A watch is renewed at least so often: a dead connection is noticed by then (the default is 290 s).
const WATCH_TIMEOUT_SECS: u32 = 60;

struct Driver<K: Kind> {
    context: Arc<Context>,
    failures: Mutex<HashMap<String, u32>>,
    /// Objects as they were after our own last write, until the watch has caught up with it.
    written: Written<K::Object>,
    sweeps: Arc<Sweeps<K::Object>>,
}

/// By namespace and name. Without it a reconcile that comes right after another would see the world before that one.
struct Written<O>(Mutex<HashMap<(String, String), Arc<O>>>);

impl<O: Resource> Written<O> {
    fn key(object: &O) -> (String, String) {
        (object.namespace().unwrap_or_default(), object.name_any())
    }

    fn version(object: &O) -> u64 {
        kube_io::version(object.meta().resource_version.as_deref().unwrap_or_default())
    }

    fn put(&self, object: O) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(Self::key(&object), Arc::new(object));
    }

    /// The newer of what the watch and what a write of ours told.
    fn newest(&self, watched: Arc<O>) -> Arc<O> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = Self::key(&watched);
        match all.get(&key) {
            Some(known) if known.meta().uid == watched.meta().uid && Self::version(known) > Self::version(&watched) => Arc::clone(known),
            _ => {
                all.remove(&key);
                watched
            }
        }
    }

    /// The watch told of the object as it is now.
    fn saw(&self, watched: &O) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = Self::key(watched);
        if all.get(&key).is_some_and(|known| Self::version(known) <= Self::version(watched)) {
            all.remove(&key);
        }
    }

    fn forget(&self, gone: &O) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&Self::key(gone));
    }
}

/// Runs the kind in one namespace (`None`: all) until `stop` says so; what is under way is finished.
pub async fn run<K: Kind>(context: Arc<Context>, namespace: Option<String>, health: Health, mut stop: watch::Receiver<bool>) {
    let client = context.client.clone();
    let kind = K::Object::kind(&()).into_owned();
    let api: Api<K::Object> = match &namespace {
        Some(namespace) => Api::namespaced(client, namespace),
        None => Api::all(client),
    };
    let mut cache = Cache::default();
    let reader = cache.reader();
    K::remember(&context, &reader);
    let written = Written(Mutex::default());
    let driver = Arc::new(Driver::<K> { context: Arc::clone(&context), failures: Mutex::default(), written, sweeps: Arc::default() });
    let noting = Arc::clone(&driver);
    let objects = watcher(api, watcher::Config::default().timeout(WATCH_TIMEOUT_SECS))
        .default_backoff()
        .modify(forget_what_nothing_depends_on)
        .inspect(beat(health.clone(), format!("{kind} in {namespace:?}")))
        .map_ok(move |event| {
            let was_listed = cache.is_listed();
            let (listed, listing) = (matches!(event, watcher::Event::InitDone), matches!(event, watcher::Event::InitApply(_)));
            let mut changes = cache.take(event);
            if listed {
                let versions = cache.reader().state().into_iter().map(|object| Written::version(&*object));
                noting.context.listed_until(versions.max().unwrap_or_default());
            }
            changes.iter().for_each(|change| note::<K>(&noting, change));
            if !was_listed || listing {
                changes.clear();
            }
            if !was_listed && cache.is_listed() {
                noting.sweeps.order(None);
            }
            futures::stream::iter(changes.into_iter().filter(Change::matters).filter_map(|change| change.now).map(Ok))
        })
        .try_flatten();
    let mut triggers = SelectAll::from_iter([
        children::<K>(&context, namespace.as_deref(), &health),
        clusters::<K>(&context, reader.clone(), Arc::clone(&driver.sweeps)),
        sweeps::ordered::<K>(Arc::clone(&driver.sweeps), reader.clone()),
        sweeps::rounds(reader.clone()),
    ]);
    let (sweeps, wakes) = (Arc::clone(&driver.sweeps), K::wakes(&context, namespace.as_deref()));
    triggers.extend(wakes.map(|wakes| wakes.flat_map(move |woken| futures::stream::iter(sweeps.heed(woken))).boxed()));
    Controller::for_stream(objects, reader)
        .with_config(Config::default().concurrency(K::CONCURRENCY).debounce(K::DEBOUNCE))
        .reconcile_on(triggers)
        .graceful_shutdown_on(async move {
            // An error means that the sender is gone, which is an end as well.
            let _ = stop.wait_for(|stop| *stop).await;
        })
        .run(reconcile::<K>, |_, error: &Infallible, _| match *error {}, driver)
        .for_each(|_| futures::future::ready(()))
        .await;
}

/// Field managers and kubectl's own copy are half of an object's size.
fn forget_what_nothing_depends_on<O: Resource>(object: &mut O) {
    let meta = object.meta_mut();
    meta.managed_fields = None;
    if let Some(annotations) = &mut meta.annotations {
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    }
}

/// Keeps what is known beside the cache in step with it, before anything is reconciled.
fn note<K: Kind>(driver: &Driver<K>, change: &Change<K::Object>) {
    let context = &driver.context;
    if let Some(object) = &change.now {
        driver.written.saw(object);
        if let Some((claims, claim)) = K::claims(context).zip(K::claim(object)) {
            claims.set(object, claim);
        }
    } else if let Some(gone) = &change.before {
        driver.written.forget(gone);
        K::gone(context, gone);
        if let Some(Claim { cluster, name }) = K::claims(context).and_then(|claims| claims.remove(&**gone)) {
            // Another object may hold the claim now.
            context.clusters.tell(ClusterEvent::Metadata(cluster, K::concern(&name)));
        }
    }
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

/// Changes of the cluster that objects refer to, and of what it holds.
fn clusters<K: Kind>(
    context: &Arc<Context>,
    reader: Store<K::Object>,
    sweeps: Arc<Sweeps<K::Object>>,
) -> BoxStream<'static, ObjectRef<K::Object>> {
    if K::claims(context).is_none() {
        return futures::stream::pending().boxed();
    }
    let context = Arc::clone(context);
    receive(context.clusters.subscribe())
        .flat_map(move |event| {
            let mut concerned = sweeps.heed(event.map_or(Woken::All(None), |event| woken::<K>(&context, event)));
            concerned.retain(|object| reader.get(object).is_some());
            futures::stream::iter(concerned)
        })
        .boxed()
}

/// `None` when some messages were lost: then every object is concerned.
fn receive(receiver: tokio::sync::broadcast::Receiver<ClusterEvent>) -> impl Stream<Item = Option<ClusterEvent>> {
    use tokio::sync::broadcast::error::RecvError;
    futures::stream::unfold(receiver, |mut receiver| async move {
        match receiver.recv().await {
            Ok(event) => Some((Some(event), receiver)),
            Err(RecvError::Lagged(_)) => Some((None, receiver)),
            Err(RecvError::Closed) => futures::future::pending().await,
        }
    })
}

async fn reconcile<K: Kind>(object: Arc<K::Object>, driver: Arc<Driver<K>>) -> Result<Action, Infallible> {
    let start = Instant::now();
    driver.sweeps.looked_at(&ObjectRef::from_obj(&*object));
    let object = driver.written.newest(object);
    let context = Arc::clone(&driver.context);
    let kind = K::Object::kind(&());
    let name = format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any());
    // A defect in one object's reconcile must not stop the others.
    let outcome = std::panic::AssertUnwindSafe(K::reconcile(Arc::clone(&object), Arc::clone(&context))).catch_unwind().await;
    let Ok(Outcome { status, state, notices, requeue }) = outcome else {
        tracing::error!(%kind, name, "a reconcile panicked: this is a defect");
        return Ok(Action::requeue(backoff::LAST));
    };
    context.metrics.reconciled(&kind, state.words().0, start.elapsed());
    let (reason, message) = state.words();
    tracing::debug!(%kind, name, %reason, why = message, took = ?start.elapsed(), "reconciled");
    let mut written = true;
    let status = status.filter(|status| K::status(&object) != Some(status));
    // A status that was made of an old object would put its old facts in the place of those that are there.
    let (anew, from_list) = (requeue == Requeue::Anew, status.is_some() && context.is_from_list(&*object));
    if anew || from_list {
        match kube_io::current(&context.client, &*object).await {
            Ok(Some(current)) if !anew && K::status(&current) == K::status(&object) => {}
            Ok(Some(mut current)) => {
                forget_what_nothing_depends_on(&mut current);
                driver.written.put(current);
                return Ok(driver.action(&name, Requeue::Anew));
            }
            // It is another by now, and the watch will tell.
            Ok(None) => return Ok(driver.action(&name, Requeue::Woken)),
            Err(error) => {
                tracing::warn!(%kind, name, %error, "cannot see whether it is still there");
                return Ok(driver.action(&name, Requeue::Backoff));
            }
        }
    }
    if let Some(status) = status {
        written = write_status::<K>(&driver, &object, &status).await;
        let before = K::status(&object).map(K::conditions).unwrap_or_default();
        if written && announces(before, &state) {
            tracing::info!(%kind, name, %reason, why = message, "state changed");
            let warns = matches!(state, State::Stalled { .. });
            events::publish::<K>(&context.client, &object, &Notice { reason, message: message.to_owned() }, warns).await;
        }
    }
    for notice in notices {
        tracing::info!(%kind, name, reason = %notice.reason, what = notice.message, "notice");
        events::publish::<K>(&context.client, &object, &notice, true).await;
    }
    let requeue = if written { requeue } else { Requeue::Backoff };
    Ok(driver.action(&name, requeue))
}

/// True when the reason of the Ready condition is another than before. An object that is Ready at first sight is no news:
/// ten thousand of them would be ten thousand events.
fn announces(before: &[Condition], state: &State) -> bool {
    if before.is_empty() && *state == State::Ready {
        return false;
    }
    let ready = before.iter().find(|condition| condition.kind == ConditionType::Ready);
    let same_status = ready.is_some_and(|ready| (ready.status == ConditionStatus::True) == matches!(state, State::Ready));
    !same_status || ready.is_some_and(|ready| ready.reason != state.words().0.name())
}

async fn write_status<K: Kind>(driver: &Driver<K>, object: &K::Object, status: &K::Status) -> bool {
    let api: Api<K::Object> = Api::namespaced(driver.context.client.clone(), &object.namespace().unwrap_or_default());
    // The uid makes the write fail where the object was replaced by another of its name.
    let patch = json!({
        "apiVersion": K::Object::api_version(&()), "kind": K::Object::kind(&()),
        "metadata": {"name": object.name_any(), "uid": object.uid()}, "status": status
    });
    let params = PatchParams::apply(labels::FIELD_MANAGER).force();
    match api.patch_status(&object.name_any(), &params, &Patch::Apply(&patch)).await {
        Ok(mut written) => {
            forget_what_nothing_depends_on(&mut written);
            driver.written.put(written);
            true
        }
        Err(kube::Error::Api(answer)) if answer.code == 404 => true,
        Err(error) => {
            tracing::warn!(name = object.name_any(), %error, "cannot write the status");
            false
        }
    }
}

impl<K: Kind> Driver<K> {
    fn action(&self, name: &str, requeue: Requeue) -> Action {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        match requeue {
            Requeue::Backoff => {
                let count = failures.entry(name.to_owned()).or_default();
                *count = count.saturating_add(1);
                Action::requeue(backoff::delay(*count, rand::random()))
            }
            Requeue::Anew => Action::requeue(Duration::ZERO),
            Requeue::After(delay) => {
                failures.remove(name);
                Action::requeue(delay)
            }
            Requeue::Woken => {
                failures.remove(name);
                Action::await_change()
            }
        }
    }
}
