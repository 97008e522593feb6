//! Decides which objects of a dependent kind are reconciled after an event, and keeps their claims
//! in step with the cache.

use crate::api::reference::ClusterKey;
use crate::clusters::ClusterEvent;
use crate::kinds::context::Context;
use crate::runtime::kind::{Kind, Requeued};
use crate::tenancy::claims::Claim;
use crate::tenancy::tenants::{Tenant, Tenants};
use freehold_kafka::metadata_image::Concerned;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use kube::runtime::reflector::ObjectRef;
use std::collections::HashSet;
use std::sync::Arc;

/// A kind whose objects refer to a KafkaCluster and claim a name in it.
pub trait Dependent: Kind<Object: Tenant, Context: AsRef<Context>, Group = ClusterKey> {
    fn tenants(context: &Context) -> &Tenants<Self::Object>;
    /// The claimed name that a change in Kafka concerns; `None` for a name of another kind.
    fn name_of(change: &Concerned) -> Option<&str>;
    /// The change in Kafka that concerns a claimed name.
    fn change_of(name: &str) -> Concerned;
    /// The objects whose reconcile depends on a topic that an object of another kind claims.
    fn dependents(_context: &Context, _topic: &Claim) -> Vec<ObjectRef<Self::Object>> {
        Vec::new()
    }
}

/// For [`Kind::noted`]: records the claim of an object that is new in the cache or has changed.
pub fn noted<K: Dependent>(context: &Context, object: &K::Object) {
    K::tenants(context).claims().set(object, object.claim());
}

/// For [`Kind::gone`]: removes the claim of an object that is gone from the cache, and announces
/// it, because another object may hold the name now.
pub fn gone<K: Dependent>(context: &Context, object: &K::Object) {
    if let Some(Claim { cluster, name }) = K::tenants(context).claims().remove(object) {
        context
            .clusters
            .announce(ClusterEvent::Metadata(cluster, K::change_of(&name)));
    }
}

/// The objects to reconcile after an event.
pub fn requeued<K: Dependent>(
    context: &Context,
    event: ClusterEvent,
) -> Requeued<K::Object, ClusterKey> {
    let claims = K::tenants(context).claims();
    match event {
        ClusterEvent::Changed(cluster) => Requeued::Group(cluster),
        ClusterEvent::Namespace(namespace) => {
            Requeued::These(touched_by::<K>(context, &namespace).into_iter().collect())
        }
        ClusterEvent::Metadata(cluster, change) => {
            let claim = |name: &str| Claim {
                cluster: cluster.clone(),
                name: name.to_owned(),
            };
            let mut objects = K::name_of(&change)
                .map(|name| claims.objects(&claim(name)))
                .unwrap_or_default();
            if let Concerned::Topic(name) = &change {
                objects.extend(K::dependents(context, &claim(name)));
            }
            Requeued::These(objects)
        }
    }
}

/// The objects that may be concerned when a cluster admits or refuses a namespace: those in it,
/// those that claim the same names, and those with rights that its Topics share.
fn touched_by<K: Dependent>(context: &Context, namespace: &str) -> HashSet<ObjectRef<K::Object>> {
    let claims = K::tenants(context).claims();
    let mut objects = HashSet::new();
    for claim in claims.of_namespace(namespace) {
        objects.extend(claims.objects(&claim));
    }
    for topic in context.topics.claims().of_namespace(namespace) {
        objects.extend(K::dependents(context, &topic));
    }
    objects
}

/// For [`Kind::triggers`]: changes of the clusters that objects refer to, and of what the clusters
/// hold.
pub fn trigger<K: Dependent>(
    context: &Arc<K::Context>,
) -> BoxStream<'static, Requeued<K::Object, ClusterKey>> {
    let context = Arc::clone(context);
    let shared: &Context = (*context).as_ref();
    let events = receive(shared.clusters.subscribe());
    events
        .map(move |event| {
            event.map_or(Requeued::All, |event| {
                requeued::<K>((*context).as_ref(), event)
            })
        })
        .boxed()
}

/// The stream of events; `None` if some were lost, so that all objects must be reconciled.
pub fn receive(
    receiver: tokio::sync::broadcast::Receiver<ClusterEvent>,
) -> impl Stream<Item = Option<ClusterEvent>> {
    use tokio::sync::broadcast::error::RecvError;
    futures::stream::unfold(receiver, |mut receiver| async move {
        match receiver.recv().await {
            Ok(event) => Some((Some(event), receiver)),
            Err(RecvError::Lagged(_)) => Some((None, receiver)),
            Err(RecvError::Closed) => futures::future::pending().await,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::topic::Topic;
    use crate::api::user::User;
    use crate::kinds::context::Settings;
    use crate::kinds::topic::TopicKind;
    use crate::kinds::user::UserKind;
    use freehold_kafka::metadata_image::MetadataImage;
    use http::{Request, Response};
    use kube::Client;
    use kube::client::Body;
    use serde_json::json;
    use std::convert::Infallible;

    fn context() -> Context {
        let answer = |_: Request<Body>| async { Ok::<_, Infallible>(Response::new(Body::empty())) };
        Context::new(
            Client::new(tower::service_fn(answer), "n"),
            Settings::default(),
        )
    }

    fn topic() -> Topic {
        let spec = json!({"clusterRef": {"name": "c"}, "partitions": 1, "topicName": "orders"});
        serde_json::from_value(
            json!({"metadata": {"name": "t", "namespace": "n", "uid": "u"}, "spec": spec}),
        )
        .unwrap()
    }

    fn user() -> User {
        let spec = json!({"clusterRef": {"name": "c"}, "authentication": {"type": "ScramSha512"},
            "grants": [{"consume": {"topics": ["orders"]}}]});
        serde_json::from_value(
            json!({"metadata": {"name": "app", "namespace": "n", "uid": "u"}, "spec": spec}),
        )
        .unwrap()
    }

    /// The names of the objects to reconcile after an event.
    fn names<K: Dependent>(context: &Context, event: ClusterEvent) -> Vec<String> {
        match requeued::<K>(context, event) {
            Requeued::All => vec!["all".into()],
            Requeued::Group(cluster) => vec![format!("all of {cluster}")],
            Requeued::These(objects) => objects.into_iter().map(|object| object.name).collect(),
        }
    }

    /// The same, each with its namespace.
    fn places<K: Dependent>(context: &Context, event: ClusterEvent) -> Vec<String> {
        let Requeued::These(objects) = requeued::<K>(context, event) else {
            return Vec::new();
        };
        let place = |object: ObjectRef<K::Object>| {
            format!("{}/{}", object.namespace.unwrap_or_default(), object.name)
        };
        let mut places: Vec<_> = objects.into_iter().map(place).collect();
        places.sort();
        places
    }

    /// The namespace of the Topic is admitted or refused: that gives or takes what it shares with
    /// Users of other namespaces, and the name that another Topic wants too.
    #[tokio::test]
    async fn a_namespace_requeues_those_elsewhere_who_depend_on_what_is_in_it() {
        let context = context();
        let cluster = topic().claim().cluster;
        let elsewhere = |mut object: serde_json::Value| {
            object["metadata"]["namespace"] = json!("m");
            object["spec"]["clusterRef"]["namespace"] = json!("n");
            object
        };
        let reader: User =
            serde_json::from_value(elsewhere(serde_json::to_value(user()).unwrap())).unwrap();
        let rival: Topic =
            serde_json::from_value(elsewhere(serde_json::to_value(topic()).unwrap())).unwrap();
        noted::<TopicKind>(&context, &topic());
        noted::<TopicKind>(&context, &rival);
        noted::<UserKind>(&context, &reader);
        context
            .sharing
            .standings(&reader, &cluster, &MetadataImage::default(), |_| true);
        let event = || ClusterEvent::Namespace("n".into());
        assert_eq!(places::<UserKind>(&context, event()), ["m/app"]);
        assert_eq!(places::<TopicKind>(&context, event()), ["m/t", "n/t"]);
    }

    #[tokio::test]
    async fn an_event_requeues_the_objects_that_it_is_about() {
        let context = context();
        let cluster = ClusterKey {
            namespace: "n".into(),
            name: "c".into(),
        };
        let orders = || ClusterEvent::Metadata(cluster.clone(), Concerned::Topic("orders".into()));
        noted::<TopicKind>(&context, &topic());
        noted::<UserKind>(&context, &user());
        context
            .sharing
            .standings(&user(), &cluster, &MetadataImage::default(), |_| true);
        assert_eq!(names::<TopicKind>(&context, orders()), ["t"]);
        assert_eq!(
            names::<TopicKind>(&context, ClusterEvent::Namespace("n".into())),
            ["t"]
        );
        assert_eq!(
            names::<TopicKind>(&context, ClusterEvent::Changed(cluster.clone())),
            ["all of n/c"]
        );
        assert_eq!(
            names::<UserKind>(&context, orders()),
            ["app"],
            "its rights depend on the topic"
        );
        let principal =
            |name: &str| ClusterEvent::Metadata(cluster.clone(), Concerned::Principal(name.into()));
        assert_eq!(names::<UserKind>(&context, principal("app")), ["app"]);
        assert!(names::<UserKind>(&context, principal("other")).is_empty());
        let mut events = context.clusters.subscribe();
        gone::<TopicKind>(&context, &topic());
        assert_eq!(
            events.try_recv(),
            Ok(orders()),
            "another object may have the name now"
        );
        assert!(names::<TopicKind>(&context, orders()).is_empty());
    }
}
