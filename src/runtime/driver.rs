//! Runs a kind in a namespace: watches objects, reconciles them, writes status and events, counts,
//! requeues.

use crate::api::conditions::{Condition, ConditionStatus, ConditionType, State};
use crate::kubernetes;
use crate::kubernetes::guarded::Guarded;
use crate::kubernetes::labels;
use crate::runtime::cache::{Cache, Change};
use crate::runtime::health::{Health, is_refusal};
use crate::runtime::kind::{Kind, Notice, Outcome, Requeue};
use crate::runtime::namespaces::Life;
use crate::runtime::resync;
use crate::runtime::resync::Resync;
use crate::runtime::services::Services;
use crate::runtime::unread;
use crate::runtime::unread::Unreadable;
use crate::runtime::written::{Written, version};
use crate::runtime::{backoff, events};
use crate::words::{MESSAGE_CHARS_MAX, cut};
use futures::stream::{BoxStream, SelectAll};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::core::PartialObjectMeta;
use kube::runtime::controller::{Action, Config};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher::Event;
use kube::runtime::{Controller, WatchStreamExt, watcher};
use kube::{Resource, ResourceExt};
use serde_json::json;
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// A watch is renewed at least this often, so that a dead connection is noticed within this time
/// (the default is 290 s).
const WATCH_TIMEOUT_SECS: u32 = 60;

struct Driver<K: Kind> {
    context: Arc<K::Context>,
    /// Failures in a row, by the object's full name.
    failures: Mutex<HashMap<String, u32>>,
    written: Written<K::Object>,
    resync: Arc<Resync<K::Object, K::Group>>,
    unreadable: Unreadable,
}

/// Objects in one answer to a list: few enough for the operator's memory even where each is as
/// large as the API server allows.
const PAGE: u32 = 100;

/// Runs the kind in one namespace (`None`: all) until `stop` is true. Reconciles that are under way
/// then are finished.
pub async fn run<K: Kind>(
    context: Arc<K::Context>,
    namespace: Option<String>,
    health: Health,
    mut stop: watch::Receiver<bool>,
) {
    let kind = K::Object::kind(&()).into_owned();
    let mut cache = Cache::default();
    let reader = cache.reader();
    K::remember(&context, namespace.as_deref(), &reader);
    let written = Written::default();
    let (unreadable, found) = Unreadable::new();
    K::remember_unread(&context, unreadable.names());
    let driver = Arc::new(Driver::<K> {
        context: Arc::clone(&context),
        failures: Mutex::default(),
        written,
        resync: Arc::default(),
        unreadable,
    });
    let reporting = Arc::clone(&context);
    let reporting =
        tokio::spawn(async move { unread::report::<K>((*reporting).as_ref(), found).await });
    let (noting, sorting, known) = (Arc::clone(&driver), Arc::clone(&driver), reader.clone());
    let (watching, watched) = (Arc::clone(&context), namespace.clone());
    let objects = watcher(
        api::<K>(&context, namespace.as_deref()),
        watcher::Config::default()
            .timeout(WATCH_TIMEOUT_SECS)
            .page_size(PAGE),
    )
    .default_backoff()
    .inspect(beat(health.clone(), format!("{kind} in {namespace:?}")))
    .then(move |event| empty_where_gone::<K>(Arc::clone(&watching), watched.clone(), event))
    .flat_map(futures::stream::iter)
    .try_filter_map(move |event| {
        let known = |meta: &ObjectMeta| {
            let key = ObjectRef::new(meta.name.as_deref()?).within(meta.namespace.as_deref()?);
            known.get(&key).map(Arc::unwrap_or_clone)
        };
        futures::future::ready(Ok(sorting.unreadable.sort(event, known)))
    })
    .map_ok(move |event| {
        futures::stream::iter(handle::<K>(&noting, &mut cache, event).into_iter().map(Ok))
    })
    .try_flatten();
    let triggers = triggers(&driver, namespace.as_deref(), &health, &reader);
    Controller::for_stream(objects, reader)
        .with_config(
            Config::default()
                .concurrency(K::CONCURRENCY)
                .debounce(K::DEBOUNCE),
        )
        .reconcile_on(triggers)
        .graceful_shutdown_on(async move {
            // An error means that the sender is gone, which is an end as well.
            let _ = stop.wait_for(|stop| *stop).await;
        })
        .run(
            reconcile::<K>,
            |_, error: &Infallible, _| match *error {},
            driver,
        )
        .for_each(|_| futures::future::ready(()))
        .await;
    reporting.abort();
}

/// The API for the kind's objects, in one namespace (`None`: all).
fn api<K: Kind>(context: &K::Context, namespace: Option<&str>) -> Api<Guarded<K::Object>> {
    let services: &Services = context.as_ref();
    let client = services.client.clone();
    match namespace {
        Some(namespace) => Api::namespaced(client, namespace),
        None => Api::all(client),
    }
}

/// The objects to reconcile for another reason than a change of their own: a child object has
/// changed, the kind asks for it, or it is their turn.
fn triggers<K: Kind>(
    driver: &Driver<K>,
    namespace: Option<&str>,
    health: &Health,
    reader: &Store<K::Object>,
) -> SelectAll<BoxStream<'static, ObjectRef<K::Object>>> {
    let mut triggers = SelectAll::from_iter([
        children::<K>(&driver.context, namespace, health),
        resync::ordered::<K>(Arc::clone(&driver.resync), reader.clone()),
        resync::rounds(reader.clone()),
    ]);
    let of_kind = K::triggers(&driver.context, namespace).into_iter();
    triggers.extend(of_kind.map(|trigger| {
        let (resync, reader) = (Arc::clone(&driver.resync), reader.clone());
        let known = move |object: &ObjectRef<K::Object>| reader.get(object).is_some();
        trigger
            .flat_map(move |requeued| futures::stream::iter(resync.handle(requeued)))
            .filter(move |object| futures::future::ready(known(object)))
            .boxed()
    }));
    triggers
}

/// Takes in an event of the watch; gives the objects to reconcile.
fn handle<K: Kind>(
    driver: &Driver<K>,
    cache: &mut Cache<K::Object>,
    event: Event<K::Object>,
) -> Vec<K::Object> {
    let was_listed = cache.is_listed();
    let (listed, listing) = (
        matches!(event, Event::InitDone),
        matches!(event, Event::InitApply(_)),
    );
    let changes = cache.take(event);
    if listed {
        let versions = cache
            .reader()
            .state()
            .into_iter()
            .map(|object| version(&*object));
        driver
            .services()
            .listed_until(versions.max().unwrap_or_default());
    }
    changes.iter().for_each(|change| note::<K>(driver, change));
    if !was_listed && cache.is_listed() {
        driver.resync.order(None);
    }
    // The first list leads to a resync. The objects of a later one come once it is complete, when
    // the reader has them.
    if !was_listed || listing {
        return Vec::new();
    }
    changes
        .into_iter()
        .filter(Change::matters)
        .filter_map(|change| change.now)
        .collect()
}

/// An event of a watch. Where the API server refuses the watch because the namespace is gone, the
/// answer is an empty list: then the objects that were there count as gone.
async fn empty_where_gone<K: Kind>(
    context: Arc<K::Context>,
    namespace: Option<String>,
    event: watcher::Result<Event<Guarded<K::Object>>>,
) -> Vec<watcher::Result<Event<Guarded<K::Object>>>> {
    let services: &Services = (*context).as_ref();
    if let (Err(error), Some(namespace)) = (&event, &namespace)
        && is_refusal(error)
        && matches!(
            services.namespaces.life(&services.client, namespace).await,
            Ok(Life::Gone)
        )
    {
        return vec![Ok(Event::Init), Ok(Event::InitDone)];
    }
    vec![event]
}

/// Updates what is kept beside the cache, before anything is reconciled.
fn note<K: Kind>(driver: &Driver<K>, change: &Change<K::Object>) {
    let context = &driver.context;
    if let Some(object) = &change.now {
        driver.written.saw(object);
        K::noted(context, object);
    } else if let Some(gone) = &change.before {
        driver.written.forget(gone);
        driver
            .failures
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&full_name(&**gone));
        K::gone(context, gone);
    }
}

fn beat<T>(health: Health, name: String) -> impl FnMut(&Result<T, watcher::Error>) {
    move |event| {
        if let Err(error) = event {
            tracing::warn!(watch = name, %error, "a watch failed");
        }
        health.saw(&name, event.as_ref().err());
    }
}

/// Changes of child objects. Only their metadata is read, and only of those with our label.
fn children<K: Kind>(
    context: &K::Context,
    namespace: Option<&str>,
    health: &Health,
) -> BoxStream<'static, ObjectRef<K::Object>> {
    let services: &Services = context.as_ref();
    let streams = K::watches().into_iter().map(|watch| {
        let api: Api<PartialObjectMeta<DynamicObject>> = match namespace {
            Some(namespace) => {
                Api::namespaced_with(services.client.clone(), namespace, &watch.resource)
            }
            None => Api::all_with(services.client.clone(), &watch.resource),
        };
        let config = watcher::Config::default()
            .labels(labels::SELECTOR)
            .timeout(WATCH_TIMEOUT_SECS);
        watcher(api, config)
            .default_backoff()
            .inspect(beat(
                health.clone(),
                format!("{} in {namespace:?}", watch.resource.kind),
            ))
            .touched_objects()
            .filter_map(move |object| async move {
                let object = object.ok()?;
                let owner = object.labels().get(watch.label)?.clone();
                Some(ObjectRef::new(&owner).within(&object.namespace()?))
            })
            .boxed()
    });
    SelectAll::from_iter(streams)
        .chain(futures::stream::pending())
        .boxed()
}

fn full_name(object: &impl Resource) -> String {
    let meta = object.meta();
    format!(
        "{}/{}",
        meta.namespace.as_deref().unwrap_or_default(),
        meta.name.as_deref().unwrap_or_default()
    )
}

async fn reconcile<K: Kind>(
    object: Arc<K::Object>,
    driver: Arc<Driver<K>>,
) -> Result<Action, Infallible> {
    let start = Instant::now();
    driver.resync.reconciling(&ObjectRef::from_obj(&*object));
    if driver.unreadable.has(object.meta()) {
        // The cache has it as it was before, which is not what its last writer wants.
        return Ok(Action::await_change());
    }
    let object = driver.written.newest(object);
    let (kind, name) = (K::Object::kind(&()), full_name(&*object));
    // In a task of its own, so that a panic in one reconcile does not stop the others, and a long
    // computation does not delay them.
    let outcome = tokio::spawn(K::reconcile(
        Arc::clone(&object),
        Arc::clone(&driver.context),
    ))
    .await;
    let Ok(outcome) = outcome else {
        tracing::error!(%kind, name, "a reconcile panicked: this is a defect");
        return Ok(Action::requeue(backoff::LAST));
    };
    let (reason, message) = outcome.state.words();
    driver
        .services()
        .metrics
        .reconciled(&kind, reason, start.elapsed());
    tracing::debug!(%kind, name, %reason, why = message, took = ?start.elapsed(), "reconciled");
    let requeue = record::<K>(&driver, &object, outcome).await;
    Ok(driver.action(&name, requeue))
}

/// Writes the status and publishes the events of a reconcile; gives how the object is requeued.
async fn record<K: Kind>(
    driver: &Driver<K>,
    object: &K::Object,
    outcome: Outcome<K::Status>,
) -> Requeue {
    let Outcome {
        status,
        state,
        notices,
        requeue,
    } = outcome;
    let services = driver.services();
    let status = status.filter(|status| K::status(object) != Some(status));
    // A status that was made from an old object would replace newer facts by old ones.
    let (anew, from_list) = (
        requeue == Requeue::Anew,
        status.is_some() && services.is_from_list(object),
    );
    if anew || from_list {
        match current(driver, object).await {
            Ok(current) if !anew && K::status(&current) == K::status(object) => {}
            other => return requeue_with(driver, other),
        }
    }
    let mut written = true;
    if let Some(status) = status {
        written = match write_status::<K>(driver, object, &status).await {
            Wrote::Yes => true,
            Wrote::No => false,
            Wrote::Conflict => return requeue_with(driver, current(driver, object).await),
        };
        if written {
            announce::<K>(driver, object, &state).await;
        }
    }
    let (kind, name) = (K::Object::kind(&()), full_name(object));
    for notice in notices {
        let notice = Notice {
            message: cut(notice.message, MESSAGE_CHARS_MAX),
            ..notice
        };
        tracing::info!(%kind, name, reason = %notice.reason, what = notice.message, "notice");
        events::publish(&services.client, &object.object_ref(&()), &notice, true).await;
    }
    if written { requeue } else { Requeue::Backoff }
}

/// The object as the API server has it now; otherwise, how to requeue it.
async fn current<K: Kind>(driver: &Driver<K>, object: &K::Object) -> Result<K::Object, Requeue> {
    match kubernetes::current(&driver.services().client, object).await {
        Ok(Some(current)) => Ok(current),
        // It is another object by now, and the watch will give it.
        Ok(None) => Err(Requeue::OnChange),
        Err(error) => {
            let (kind, name) = (K::Object::kind(&()), full_name(object));
            tracing::warn!(%kind, name, error = error.words(), "cannot see whether it is still there");
            Err(Requeue::Backoff)
        }
    }
}

/// Requeues an object so that its next reconcile sees it as the API server has it.
fn requeue_with<K: Kind>(driver: &Driver<K>, current: Result<K::Object, Requeue>) -> Requeue {
    current.map_or_else(
        |requeue| requeue,
        |current| {
            driver.written.put(current);
            Requeue::Anew
        },
    )
}

/// Publishes an event when the state of an object has changed.
async fn announce<K: Kind>(driver: &Driver<K>, object: &K::Object, state: &State) {
    let before = K::status(object).map(K::conditions).unwrap_or_default();
    if !announces(before, state) {
        return;
    }
    let (kind, name, (reason, message)) = (K::Object::kind(&()), full_name(object), state.words());
    tracing::info!(%kind, name, %reason, why = message, "state changed");
    let warns = matches!(state, State::Stalled { .. });
    let notice = Notice {
        reason,
        message: message.to_owned(),
    };
    events::publish(
        &driver.services().client,
        &object.object_ref(&()),
        &notice,
        warns,
    )
    .await;
}

/// True when the reason of the Ready condition has changed. An object that is Ready at its first
/// reconcile gets no event: ten thousand of them would be ten thousand events.
fn announces(before: &[Condition], state: &State) -> bool {
    if before.is_empty() && *state == State::Ready {
        return false;
    }
    let ready = before
        .iter()
        .find(|condition| condition.kind == ConditionType::Ready);
    let same_status = ready.is_some_and(|ready| {
        (ready.status == ConditionStatus::True) == matches!(state, State::Ready)
    });
    !same_status || ready.is_some_and(|ready| ready.reason != state.words().0.name())
}

/// The result of writing a status.
enum Wrote {
    Yes,
    No,
    /// Somebody wrote the object since it was read.
    Conflict,
}

async fn write_status<K: Kind>(
    driver: &Driver<K>,
    object: &K::Object,
    status: &K::Status,
) -> Wrote {
    let api: Api<Guarded<K::Object>> = Api::namespaced(
        driver.services().client.clone(),
        &object.namespace().unwrap_or_default(),
    );
    // The uid makes the write fail where the object was replaced by another of its name.
    let mut patch = json!({
        "apiVersion": K::Object::api_version(&()), "kind": K::Object::kind(&()),
        "metadata": {"name": object.name_any(), "uid": object.uid()}, "status": status
    });
    if K::STATUS_IS_A_LEASE {
        patch["metadata"]["resourceVersion"] = json!(object.resource_version());
    }
    let params = PatchParams::apply(labels::FIELD_MANAGER).force();
    match api
        .patch_status(&object.name_any(), &params, &Patch::Apply(&patch))
        .await
    {
        Ok(written) => {
            if let Ok(written) = written.read() {
                driver.written.put(written);
            }
            Wrote::Yes
        }
        Err(kube::Error::Api(answer)) if answer.code == 404 => Wrote::Yes,
        Err(kube::Error::Api(answer)) if answer.code == 409 && K::STATUS_IS_A_LEASE => {
            Wrote::Conflict
        }
        Err(error) => {
            tracing::warn!(name = object.name_any(), %error, "cannot write the status");
            Wrote::No
        }
    }
}

impl<K: Kind> Driver<K> {
    fn services(&self) -> &Services {
        (*self.context).as_ref()
    }

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
            Requeue::OnChange => {
                failures.remove(name);
                Action::await_change()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::kafka_cluster::{KafkaCluster, KafkaClusterStatus};
    use crate::api::topic::{Topic, TopicStatus};
    use http::{Method, Request, Response};
    use kube::Client;
    use kube::client::Body;
    use kube::core::Status;
    use serde_json::Value;

    struct Leased;
    struct Plain;

    impl Kind for Leased {
        type Object = KafkaCluster;
        type Status = KafkaClusterStatus;
        type Context = Services;
        type Group = ();
        const CONCURRENCY: u16 = 1;
        const DEBOUNCE: Duration = Duration::ZERO;
        const STATUS_IS_A_LEASE: bool = true;
        fn status(object: &KafkaCluster) -> Option<&KafkaClusterStatus> {
            object.status.as_ref()
        }
        fn conditions(status: &KafkaClusterStatus) -> &[Condition] {
            &status.conditions
        }
        async fn reconcile(_: Arc<KafkaCluster>, _: Arc<Services>) -> Outcome<KafkaClusterStatus> {
            Outcome {
                status: None,
                state: State::Ready,
                notices: Vec::new(),
                requeue: Requeue::OnChange,
            }
        }
    }

    impl Kind for Plain {
        type Object = Topic;
        type Status = TopicStatus;
        type Context = Services;
        type Group = ();
        const CONCURRENCY: u16 = 1;
        const DEBOUNCE: Duration = Duration::ZERO;
        fn status(object: &Topic) -> Option<&TopicStatus> {
            object.status.as_ref()
        }
        fn conditions(status: &TopicStatus) -> &[Condition] {
            &status.conditions
        }
        async fn reconcile(_: Arc<Topic>, _: Arc<Services>) -> Outcome<TopicStatus> {
            Outcome {
                status: None,
                state: State::Ready,
                notices: Vec::new(),
                requeue: Requeue::OnChange,
            }
        }
    }

    /// An API server on which others have written every object, and that has no namespace `gone`;
    /// what it was asked to write.
    fn services() -> (Arc<Services>, Arc<Mutex<Vec<Value>>>) {
        let writes: Arc<Mutex<Vec<Value>>> = Arc::default();
        let noted = Arc::clone(&writes);
        let answer = move |request: Request<Body>| {
            let noted = Arc::clone(&noted);
            async move {
                let (gone, patches) = (
                    request.uri().path().ends_with("/gone"),
                    *request.method() == Method::PATCH,
                );
                let body = request.into_body().collect_bytes().await.unwrap();
                let (code, value) = if patches {
                    let patch: Value = serde_json::from_slice(&body).unwrap();
                    let answer = if patch["metadata"]["resourceVersion"].is_null() {
                        (200, patch.clone())
                    } else {
                        (
                            409,
                            json!({"kind": "Status", "status": "Failure", "reason": "Conflict", "message": "", "code": 409}),
                        )
                    };
                    noted.lock().unwrap().push(patch);
                    answer
                } else if gone {
                    (
                        404,
                        json!({"kind": "Status", "status": "Failure", "reason": "NotFound", "message": "", "code": 404}),
                    )
                } else {
                    (
                        200,
                        json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": {"name": "n"}}),
                    )
                };
                let answer = Response::builder()
                    .status(code)
                    .body(Body::from(value.to_string().into_bytes()))
                    .unwrap();
                Ok::<_, Infallible>(answer)
            }
        };
        (
            Arc::new(Services::new(
                Client::new(tower::service_fn(answer), "n"),
                Vec::new(),
            )),
            writes,
        )
    }

    fn driver<K: Kind<Context = Services>>(context: Arc<Services>) -> Driver<K> {
        let (unreadable, _) = Unreadable::new();
        Driver {
            context,
            failures: Mutex::default(),
            written: Written::default(),
            resync: Arc::default(),
            unreadable,
        }
    }

    fn object<O: serde::de::DeserializeOwned>(spec: &Value) -> O {
        serde_json::from_value(json!({"metadata": {"name": "o", "namespace": "n", "uid": "u", "resourceVersion": "7"}, "spec": spec}))
            .unwrap()
    }

    #[tokio::test]
    async fn a_status_that_is_a_lease_is_not_written_over_a_newer_object() {
        let (context, writes) = services();
        let pool = json!({"name": "b", "roles": ["broker"], "replicas": 1, "zones": ["z"], "storage": {"size": "1Gi"}});
        let cluster = object(&json!({"version": "4.3.1", "nodePools": [pool]}));
        let wrote =
            write_status::<Leased>(&driver(Arc::clone(&context)), &cluster, &Default::default())
                .await;
        assert!(matches!(wrote, Wrote::Conflict));
        let topic = object(&json!({"clusterRef": {"name": "c"}, "partitions": 1}));
        let wrote =
            write_status::<Plain>(&driver(Arc::clone(&context)), &topic, &Default::default()).await;
        assert!(
            matches!(wrote, Wrote::Yes),
            "this status says nothing that is under way"
        );
        let versions: Vec<_> = writes
            .lock()
            .unwrap()
            .iter()
            .map(|patch| patch["metadata"]["resourceVersion"].clone())
            .collect();
        assert_eq!(versions, [json!("7"), Value::Null]);
    }

    #[tokio::test]
    async fn the_watch_of_a_namespace_that_is_gone_gives_an_empty_list() {
        let (context, _) = services();
        let refused = || {
            Err(watcher::Error::InitialListFailed(kube::Error::Api(
                Box::new(Status {
                    code: 403,
                    ..Status::default()
                }),
            )))
        };
        let events = async |namespace: &str, event| {
            let given =
                empty_where_gone::<Plain>(Arc::clone(&context), Some(namespace.to_owned()), event)
                    .await;
            given
                .into_iter()
                .map(|event| {
                    event
                        .map(|event| format!("{event:?}"))
                        .unwrap_or_else(|_| "error".into())
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(events("gone", refused()).await, ["Init", "InitDone"]);
        assert_eq!(
            events("there", refused()).await,
            ["error"],
            "a right that is missing says nothing of what is there"
        );
        assert_eq!(
            events("gone", Err(watcher::Error::NoResourceVersion)).await,
            ["error"]
        );
    }
}
