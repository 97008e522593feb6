//! Two namespaces share a cluster. The test runs every order of events: admitted and refused,
//! created, deleted with and without their finalizers, the cluster removed and restored, the
//! operator restarted. The real reconciles run against an API server and a Kafka in memory; after
//! each step the test compares what Kafka holds with what the policy allows.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use crate::api_server;

use api_server::{Api, client};
use freehold::api::kafka_cluster::KafkaCluster;
use freehold::api::reference::ClusterKey;
use freehold::api::topic::Topic;
use freehold::api::user::User;
use freehold::certificates::KeyedCertificate;
use freehold::clusters::{Cluster, ClusterFacts, PasswordKey};
use freehold::kinds::context::{Context, Settings};
use freehold::kinds::dependent::clean_up;
use freehold::kinds::registration::Registered;
use freehold::kinds::topic::TopicKind;
use freehold::kinds::user::context::Context as UserContext;
use freehold::kinds::user::{UserKind, secrets};
use freehold::kinds::{topic, user};
use freehold::runtime::kind::{Kind, Requeued};
use freehold_kafka::acl::AclBinding;
use freehold_kafka::grants::{self, READ, TOPIC};
use freehold_kafka::ownership::Owned;
use freehold_kafka_client::batch::BatchedAdmin;
use freehold_kafka_client::fake::FakeCluster;
use freehold_kafka_client::{Admin, NewTopic, ScramChange};
use futures::{FutureExt, StreamExt, stream};
use kube::Resource;
use kube::runtime::reflector::{self, store::Writer};
use kube::runtime::watcher::Event;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

const FINALIZER: &str = "freehold.dev/finalizer";

fn cluster(admitted: &BTreeSet<&str>, rights: &str) -> KafkaCluster {
    let from = match admitted.iter().collect::<Vec<_>>().as_slice() {
        [] => json!({"from": "Same"}),
        [one] => {
            json!({"from": "Selector", "selector": {"matchLabels": {"kubernetes.io/metadata.name": one}}})
        }
        _ => json!({"from": "All"}),
    };
    serde_json::from_value(json!({
        "apiVersion": "freehold.dev/v1alpha1", "kind": "KafkaCluster", "metadata": {"name": "demo", "namespace": "kafka", "uid": "c"},
        "spec": {"version": "4.3.1", "access": {"namespaces": from, "rights": rights}, "authorization": {"superUsers": ["root"]},
            "listeners": [{"name": "scram", "port": 9094, "authentication": "ScramSha512"}, {"name": "tls", "port": 9093, "authentication": "MutualTls"}],
            "nodePools": [{"name": "all", "roles": ["controller", "broker"], "replicas": 3, "zones": ["a", "b", "c"], "storage": {"size": "1Gi"}}]}
    }))
    .unwrap()
}

fn key() -> ClusterKey {
    ClusterKey {
        namespace: "kafka".into(),
        name: "demo".into(),
    }
}

/// An event for a namespace, the cluster or the operator.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Happening {
    /// The cluster starts to admit the namespace, or stops.
    Admission(&'static str),
    /// The objects of the namespace are created, or deleted.
    Objects(&'static str),
    /// The Topic of the namespace is shared with the other namespace, or no longer.
    Share(&'static str),
    /// The cluster's `rights` change between Own and Any.
    Rights,
    /// The objects of the namespace disappear without cleanup, because somebody removed their
    /// finalizers.
    Vanish(&'static str),
    /// The cluster is deleted (its volumes stay), or restored.
    Away,
    Restart,
}

const HAPPENINGS: [Happening; 11] = [
    Happening::Admission("a"),
    Happening::Admission("b"),
    Happening::Objects("a"),
    Happening::Objects("b"),
    Happening::Vanish("a"),
    Happening::Vanish("b"),
    Happening::Share("a"),
    Happening::Share("b"),
    Happening::Rights,
    Happening::Away,
    Happening::Restart,
];

struct World {
    api: Arc<Mutex<Api>>,
    kafka: Arc<FakeCluster>,
    admin: Arc<BatchedAdmin>,
    context: Arc<Context>,
    of_users: Arc<UserContext>,
    users: Writer<User>,
    topics: Writer<Topic>,
    admitted: BTreeSet<&'static str>,
    shares: BTreeSet<&'static str>,
    any: bool,
    away: bool,
    webhook: bool,
    made: u32,
    clients_ca: KeyedCertificate,
    /// Expected by the policy: the namespace whose User is principal `app`, and the one whose Topic
    /// manages topic `orders`, each with the object's uid.
    bearer: Option<(&'static str, String)>,
    owner: Option<(&'static str, String)>,
    exists: bool,
}

/// The objects that a tenant creates: those of an application, and some that name resources of
/// others, with Freehold's finalizer in the manifest.
fn manifests(namespace: &str) -> Vec<(&'static str, &'static str, Value)> {
    let spec = |more: Value| {
        let mut spec = json!({"clusterRef": {"name": "demo", "namespace": "kafka"}});
        spec.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        spec
    };
    let user = |more: Value| {
        let mut all = json!({"authentication": {"type": "ScramSha512"}, "grants": [{"consume": {"topics": [format!("x-{namespace}"), "orders"]}}]});
        all.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        spec(all)
    };
    let external = json!({"authentication": {"type": "ExternalTls", "subject": "app"}});
    vec![
        (
            "users",
            "app",
            if namespace == "a" {
                user(json!({"quotas": {"requestPercent": 50}}))
            } else {
                user(external)
            },
        ),
        ("users", "hand", user(json!({}))),
        ("users", "root", user(json!({"adoption": "Always"}))),
        ("topics", "orders", spec(json!({"partitions": 1}))),
        ("topics", "legacy", spec(json!({"partitions": 1}))),
    ]
}

fn path(namespace: &str, plural: &str, name: &str) -> String {
    format!("/apis/freehold.dev/v1alpha1/namespaces/{namespace}/{plural}/{name}")
}

fn share(namespace: &str) -> Value {
    json!([{"namespaces": [if namespace == "a" { "b" } else { "a" }], "operations": ["Consume"]}])
}

fn hand_made(principal: &str) -> AclBinding {
    grants::allow(
        &format!("User:{principal}"),
        TOPIC,
        &["ledger".to_owned()],
        &[READ],
    )
    .remove(0)
}

/// ACLs by principal, topics, and SCRAM credentials by principal.
type Held = (
    BTreeMap<String, Vec<AclBinding>>,
    BTreeSet<String>,
    BTreeMap<String, String>,
);

impl World {
    async fn new(webhook: bool) -> Self {
        let (api, kafka) = (
            Arc::new(Mutex::new(Api::default())),
            Arc::new(FakeCluster::default()),
        );
        kafka
            .create_topics(&[NewTopic {
                name: "legacy".into(),
                partitions: 1,
                replicas: 1,
                config: BTreeMap::new(),
            }])
            .await;
        for user in ["hand", "root"] {
            kafka.create_acls(&[hand_made(user)]).await;
            let password = ScramChange::Upsert {
                user: user.into(),
                iterations: 4096,
                salt: vec![1],
                salted_password: vec![2],
            };
            kafka.alter_scram(&[password]).await;
        }
        let admin = Arc::new(BatchedAdmin::new(Arc::clone(&kafka) as Arc<dyn Admin>));
        let context = Arc::new(Context::new(client(&api), Settings::default()));
        let of_users = UserKind::context(&context);
        let (users, topics) = (reflector::store().1, reflector::store().1);
        let mut world = Self {
            api,
            kafka,
            admin,
            context,
            of_users,
            users,
            topics,
            admitted: BTreeSet::new(),
            shares: BTreeSet::new(),
            any: false,
            away: false,
            webhook,
            made: 0,
            clients_ca: KeyedCertificate {
                certificate: String::new(),
                key: String::new(),
            },
            bearer: None,
            owner: None,
            exists: false,
        };
        world.restart().await;
        world
    }

    /// Starts a new operator without any cache.
    async fn restart(&mut self) {
        self.restart_with(Settings::default()).await;
    }

    async fn restart_with(&mut self, settings: Settings) {
        self.context = Arc::new(Context::new(client(&self.api), settings));
        self.of_users = UserKind::context(&self.context);
        let (users, user_writer) = reflector::store();
        let (topics, topic_writer) = reflector::store();
        (self.users, self.topics) = (user_writer, topic_writer);
        self.context.users.add(None, users);
        self.context.topics.add(None, topics);
        let (clusters, mut cluster_writer) = reflector::store::<KafkaCluster>();
        cluster_writer.apply_watcher_event(&Event::InitDone);
        self.context.kafka_clusters.add(None, clusters);
        let mut requeued = secrets::watch(
            &self.context.client,
            Arc::clone(&self.of_users.secrets),
            None,
        );
        while !matches!(requeued.next().await, Some(Requeued::All)) {}
        self.publish();
    }

    fn facts(&self) -> ClusterFacts {
        ClusterFacts::of_spec(&cluster(
            &self.admitted,
            if self.any { "Any" } else { "Own" },
        ))
    }

    fn publish(&self) {
        if self.away {
            self.context.clusters.remove(&key());
            return;
        }
        let facts = ClusterFacts {
            password_key: PasswordKey {
                key: "k".into(),
                id: "1".into(),
                first: None,
            },
            clients_ca: self.clients_ca.clone(),
            ..self.facts()
        };
        let (admin, mirror) = (
            Arc::clone(&self.admin),
            Arc::clone(&self.kafka.state().mirror),
        );
        self.context.clusters.publish(
            &key(),
            Cluster {
                facts: Arc::new(facts),
                admin,
                mirror,
                figures: Arc::default(),
            },
        );
    }

    fn objects<K: Kind>(&self, plural: &str) -> Vec<K::Object> {
        let infix = format!("/{plural}/");
        let api = self.api.lock().unwrap();
        api.objects
            .iter()
            .filter(|(path, _)| path.contains(&infix))
            .map(|(_, object)| serde_json::from_value(object.clone()).unwrap())
            .collect()
    }

    /// Updates the cache and calls the hooks of the kind, as the driver does for watch events.
    fn note<K: Kind>(context: &K::Context, writer: &mut Writer<K::Object>, objects: &[K::Object]) {
        for gone in writer.as_reader().state() {
            if !objects
                .iter()
                .any(|object| object.meta().uid == gone.meta().uid)
            {
                K::gone(context, &gone);
            }
        }
        writer.apply_watcher_event(&Event::Init);
        for object in objects {
            K::noted(context, object);
            writer.apply_watcher_event(&Event::InitApply(object.clone()));
        }
        writer.apply_watcher_event(&Event::InitDone);
    }

    async fn reconcile<K: Kind>(
        &self,
        context: &Arc<K::Context>,
        plural: &str,
        objects: Vec<K::Object>,
    ) {
        for object in objects {
            let place = path(
                &object.meta().namespace.clone().unwrap(),
                plural,
                &object.meta().name.clone().unwrap(),
            );
            let outcome = K::reconcile(Arc::new(object.clone()), Arc::clone(context)).await;
            let mut api = self.api.lock().unwrap();
            if let (Some(status), Some(mut live)) =
                (outcome.status, api.objects.get(&place).cloned())
                && K::status(&object) != Some(&status)
            {
                live["status"] = serde_json::to_value(status).unwrap();
                api.put(&place, live);
            }
        }
    }

    /// A value that differs after each change.
    fn marker(&self) -> (u64, usize, i64) {
        let api = self.api.lock().unwrap();
        (api.version, api.objects.len(), self.kafka.state().offset())
    }

    /// Reconciles until nothing changes any more.
    async fn settle(&mut self) {
        for _ in 0..20 {
            let before = self.marker();
            let (users, topics) = (
                self.objects::<UserKind>("users"),
                self.objects::<TopicKind>("topics"),
            );
            Self::note::<UserKind>(&self.of_users, &mut self.users, &users);
            Self::note::<TopicKind>(&self.context, &mut self.topics, &topics);
            for (namespace, name) in [
                ("a", "app"),
                ("b", "app"),
                ("a", "hand"),
                ("b", "hand"),
                ("a", "root"),
                ("b", "root"),
            ] {
                let secret = format!("/api/v1/namespaces/{namespace}/secrets/{name}-kafka");
                if !self.api.lock().unwrap().objects.contains_key(&secret) {
                    self.of_users
                        .secrets
                        .remove(namespace, &format!("{name}-kafka"));
                }
            }
            self.reconcile::<UserKind>(&self.of_users, "users", users)
                .await;
            self.reconcile::<TopicKind>(&self.context, "topics", topics)
                .await;
            clean_up::after_the_gone(&self.context, &key()).await;
            let after = self.marker();
            if before == after {
                return;
            }
        }
        panic!("it never settles");
    }

    fn is_live(&self, namespace: &str) -> bool {
        self.api
            .lock()
            .unwrap()
            .objects
            .contains_key(&path(namespace, "users", "app"))
    }

    fn create(&mut self, namespace: &'static str) {
        self.made += 1;
        for (plural, name, spec) in manifests(namespace) {
            let kind = if plural == "users" { "User" } else { "Topic" };
            let object = json!({"apiVersion": "freehold.dev/v1alpha1", "kind": kind, "spec": spec, "metadata": {
                "name": name, "namespace": namespace, "uid": format!("{namespace}-{plural}-{name}-{}", self.made), "generation": 1,
                "creationTimestamp": format!("2026-01-01T00:00:{:02}Z", self.made), "finalizers": [FINALIZER]}});
            let facts = self.facts();
            let mut object = object;
            if (name, self.shares.contains(namespace)) == ("orders", true) {
                object["spec"]["share"] = share(namespace);
            }
            let invalids = match kind {
                "User" => user::validate::check(
                    &serde_json::from_value(object.clone()).unwrap(),
                    &facts,
                    false,
                ),
                _ => topic::validate::check(
                    &serde_json::from_value(object.clone()).unwrap(),
                    &facts,
                    false,
                ),
            };
            if !self.webhook || invalids.is_empty() {
                self.api
                    .lock()
                    .unwrap()
                    .put(&path(namespace, plural, name), object);
            }
        }
    }

    fn delete(&mut self, namespace: &str) {
        let mut api = self.api.lock().unwrap();
        for (plural, name, _) in manifests(namespace) {
            let place = path(namespace, plural, name);
            let Some(mut object) = api.objects.get(&place).cloned() else {
                continue;
            };
            object["metadata"]["deletionTimestamp"] = json!("2026-01-02T00:00:00Z");
            object["metadata"]["generation"] = json!(2);
            api.put(&place, object);
        }
    }

    fn uid(&self, namespace: &str, plural: &str, name: &str) -> String {
        self.api.lock().unwrap().objects[&path(namespace, plural, name)]["metadata"]["uid"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    /// Carries out the event, and updates what the policy expects.
    async fn happen(&mut self, event: Happening) {
        match event {
            Happening::Admission(namespace) => {
                if !self.admitted.remove(namespace) {
                    self.admitted.insert(namespace);
                }
                self.publish();
            }
            Happening::Objects(namespace) if !self.is_live(namespace) => self.create(namespace),
            Happening::Objects(namespace) => {
                self.delete(namespace);
                if self
                    .owner
                    .as_ref()
                    .is_some_and(|(owner, _)| *owner == namespace)
                {
                    // The topic is deleted with its Topic if that may decide it, and kept if not.
                    self.exists &= self.away || !self.admitted.contains(namespace);
                    self.owner = None;
                }
            }
            Happening::Vanish(namespace) => {
                let mut api = self.api.lock().unwrap();
                manifests(namespace)
                    .iter()
                    .for_each(|(plural, name, _)| api.remove(&path(namespace, plural, name)));
                self.owner.take_if(|(owner, _)| *owner == namespace);
            }
            Happening::Share(namespace) => {
                if !self.shares.remove(namespace) {
                    self.shares.insert(namespace);
                }
                let (place, mut api) = (
                    path(namespace, "topics", "orders"),
                    self.api.lock().unwrap(),
                );
                if let Some(mut object) = api.objects.get(&place).cloned() {
                    object["spec"]["share"] = if self.shares.contains(namespace) {
                        share(namespace)
                    } else {
                        json!([])
                    };
                    object["metadata"]["generation"] =
                        json!(object["metadata"]["generation"].as_i64().unwrap() + 1);
                    api.put(&place, object);
                }
            }
            Happening::Rights => {
                self.any = !self.any;
                self.publish();
            }
            Happening::Away => {
                self.away = !self.away;
                self.publish();
            }
            Happening::Restart => self.restart().await,
        }
        let before = self.held();
        self.settle().await;
        if self.away {
            assert_eq!(
                self.held(),
                before,
                "nothing is asked of a cluster that is away"
            );
        } else {
            self.check();
        }
    }

    /// What Kafka holds, without the records of owners.
    fn held(&self) -> Held {
        let state = self.kafka.state();
        let acls = state
            .image
            .principals()
            .map(|(name, principal)| (name.to_string(), principal.acls().cloned().collect()));
        let passwords = state
            .image
            .principals()
            .filter_map(|(name, principal)| Some((name.to_string(), principal.scram?.to_string())));
        (
            acls.collect(),
            state
                .image
                .topics()
                .map(|(name, _)| name.to_string())
                .collect(),
            passwords.collect(),
        )
    }

    fn reason(&self, namespace: &str, plural: &str, name: &str) -> String {
        let object = self.api.lock().unwrap().objects[&path(namespace, plural, name)].clone();
        object["status"]["conditions"][0]["reason"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    fn check(&mut self) {
        let created = |world: &Self, namespace: &str| {
            let object =
                world.api.lock().unwrap().objects[&path(namespace, "users", "app")].clone();
            object["metadata"]["creationTimestamp"]
                .as_str()
                .unwrap()
                .to_owned()
        };
        let mut eligible: Vec<_> = ["a", "b"]
            .into_iter()
            .filter(|of| self.admitted.contains(of) && self.is_live(of))
            .collect();
        eligible.sort_by_key(|namespace| created(self, namespace));
        let first = |world: &Self, plural, name| {
            eligible
                .first()
                .map(|namespace| (*namespace, world.uid(namespace, plural, name)))
        };
        let stays = |world: &Self, (namespace, uid): &(&str, String)| {
            eligible.contains(namespace) && world.uid(namespace, "users", "app") == *uid
        };
        if !self
            .bearer
            .as_ref()
            .is_some_and(|bearer| stays(self, bearer))
        {
            self.bearer = first(self, "users", "app");
        }
        // A topic that exists without an owner may belong to anybody, so nobody takes it over.
        if self.owner.is_none() && !self.exists {
            self.owner = first(self, "topics", "orders");
            self.exists |= self.owner.is_some();
        }
        let (acls, topics, passwords) = self.held();
        // Principals have exactly the rights of their User; principals that somebody created by
        // hand are unchanged.
        let named = |acls: &[AclBinding]| {
            acls.iter()
                .map(|acl| acl.resource_name.clone())
                .collect::<BTreeSet<_>>()
        };
        // Topic orders belongs to the namespace or is shared with it; topics x-… have no owner.
        let owner = self.owner.as_ref().map(|(namespace, _)| *namespace);
        let all = |namespace: &str| {
            self.any
                || owner.is_some_and(|owner| {
                    owner == namespace
                        || (self.shares.contains(owner) && self.admitted.contains(owner))
                })
        };
        let wanted = |namespace: &str| {
            let rights = [
                ("orders".to_owned(), all(namespace)),
                (format!("x-{namespace}"), self.any),
            ];
            rights
                .into_iter()
                .filter_map(|(topic, allowed)| allowed.then_some(topic))
                .collect::<BTreeSet<_>>()
        };
        let rights = self
            .bearer
            .as_ref()
            .map(|(namespace, _)| wanted(namespace))
            .unwrap_or_default();
        assert_eq!(
            acls.get("app").map(|acls| named(acls)).unwrap_or_default(),
            rights,
            "the rights of {:?}",
            self.bearer
        );
        assert_eq!(
            passwords.contains_key("app"),
            self.bearer
                .as_ref()
                .is_some_and(|(namespace, _)| *namespace == "a")
        );
        for user in ["hand", "root"] {
            assert_eq!(
                acls.get(user),
                Some(&vec![hand_made(user)]),
                "{user} is not ours"
            );
            assert_eq!(
                passwords[user],
                self.kafka
                    .state()
                    .image
                    .principal(user)
                    .unwrap()
                    .scram
                    .unwrap()
                    .to_string()
            );
        }
        assert!(
            acls.keys()
                .all(|name| ["app", "hand", "root"].contains(&name.as_str())),
            "{:?}",
            acls.keys()
        );
        assert!(
            topics.contains("legacy") && topics.contains("orders") == self.exists,
            "{topics:?}, and orders: {}",
            self.exists
        );
        // The records of owners say the same.
        let state = self.kafka.state();
        let uids = |owned, name: &str| {
            state
                .image
                .owners(owned, name)
                .iter()
                .map(|owner| owner.uid.clone())
                .collect::<Vec<_>>()
        };
        let recorded =
            |of: &Option<(&str, String)>| of.iter().map(|(_, uid)| uid.clone()).collect::<Vec<_>>();
        assert_eq!(uids(Owned::Principal, "app"), recorded(&self.bearer));
        assert_eq!(uids(Owned::Topic, "orders"), recorded(&self.owner));
        assert!(
            state
                .image
                .all_owners()
                .all(|(_, name, _)| ["app", "orders"].contains(&&**name))
        );
        drop(state);
        // Every status says the same.
        for namespace in ["a", "b"]
            .into_iter()
            .filter(|namespace| self.is_live(namespace))
        {
            let admitted = self.admitted.contains(namespace);
            let (bears, owns) = (
                self.bearer.as_ref().is_some_and(|(of, _)| *of == namespace),
                self.owner.as_ref().is_some_and(|(of, _)| *of == namespace),
            );
            let told = |admitted: bool, has: bool, other: &'static str| match (admitted, has) {
                (false, _) => "NamespaceNotAllowed",
                (true, true) => "Ready",
                (true, false) => other,
            };
            let revoked = self
                .owner
                .as_ref()
                .is_some_and(|(of, _)| !self.admitted.contains(of));
            let bearing = if bears && admitted && !self.any {
                "RightNotAllowed"
            } else {
                told(admitted, bears, "NameTaken")
            };
            assert_eq!(self.reason(namespace, "users", "app"), bearing);
            // Two objects want what belongs to neither: the older one gets this reason.
            let not_ours = if eligible.first() == Some(&namespace) {
                "NotOurs"
            } else {
                "NameTaken"
            };
            let unowned = if self.owner.is_none() {
                not_ours
            } else {
                "NameTaken"
            };
            assert_eq!(
                self.reason(namespace, "topics", "orders"),
                told(admitted, owns, if revoked { "NotOurs" } else { unowned })
            );
            assert_eq!(
                self.reason(namespace, "topics", "legacy"),
                told(admitted, false, not_ours)
            );
            assert_eq!(
                self.reason(namespace, "users", "hand"),
                told(admitted, false, not_ours)
            );
            let root = self
                .api
                .lock()
                .unwrap()
                .objects
                .contains_key(&path(namespace, "users", "root"));
            assert_eq!(
                root, !self.webhook,
                "a super user's name is refused where the webhook is up"
            );
            if root {
                assert_eq!(
                    self.reason(namespace, "users", "root"),
                    told(admitted, false, "NameNotAllowed")
                );
            }
        }
    }
}

async fn play(webhook: bool, events: Vec<Happening>) {
    let mut world = World::new(webhook).await;
    for (index, event) in events.iter().enumerate() {
        let step = std::panic::AssertUnwindSafe(world.happen(*event))
            .catch_unwind()
            .await;
        assert!(
            step.is_ok(),
            "with the webhook {} after {:?}",
            if webhook { "up" } else { "down" },
            &events[..=index]
        );
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

impl World {
    /// Creates a User in a namespace, older than all others.
    fn user(&self, namespace: &str, name: &str, spec: Value) {
        let mut all = json!({"clusterRef": {"name": "demo", "namespace": "kafka"}});
        all.as_object_mut()
            .unwrap()
            .extend(spec.as_object().unwrap().clone());
        let metadata = json!({"name": name, "namespace": namespace, "uid": format!("{namespace}-{name}"), "generation": 1,
            "creationTimestamp": "2025-01-01T00:00:00Z"});
        let object = json!({"apiVersion": "freehold.dev/v1alpha1", "kind": "User", "metadata": metadata, "spec": all});
        self.api
            .lock()
            .unwrap()
            .put(&path(namespace, "users", name), object);
    }

    fn change(&self, namespace: &str, plural: &str, name: &str, change: impl FnOnce(&mut Value)) {
        let (place, mut api) = (path(namespace, plural, name), self.api.lock().unwrap());
        let mut object = api.objects[&place].clone();
        change(&mut object);
        api.put(&place, object);
    }

    fn rights_of(&self, principal: &str) -> usize {
        self.held().0.get(principal).map_or(0, Vec::len)
    }
}

/// A certificate stays valid after its User is deleted: its holder must not act as another tenant's
/// User of the same name.
#[test]
fn a_name_is_nobody_elses_while_a_certificate_in_it_is_valid() {
    runtime().block_on(async {
        let mut world = World::new(true).await;
        world.clients_ca =
            freehold::certificates::new_authority("clients", k8s_openapi::jiff::Timestamp::now())
                .unwrap();
        world.admitted = BTreeSet::from(["a", "b"]);
        world.publish();
        world.user(
            "a",
            "late",
            json!({"authentication": {"type": "MutualTls"}}),
        );
        world.settle().await;
        assert_eq!(world.reason("a", "users", "late"), "Ready");
        world.change("a", "users", "late", |object| {
            object["metadata"]["deletionTimestamp"] = json!("2026-01-02T00:00:00Z")
        });
        world.settle().await;
        assert!(
            !world
                .api
                .lock()
                .unwrap()
                .objects
                .contains_key(&path("a", "users", "late"))
        );
        world.user(
            "b",
            "late",
            json!({"authentication": {"type": "ScramSha512"}}),
        );
        world.settle().await;
        assert_eq!(world.reason("b", "users", "late"), "NameTaken");
        let said =
            world.api.lock().unwrap().objects[&path("b", "users", "late")]["status"]["conditions"]
                [0]["message"]
                .to_string();
        assert!(
            said.contains("which User a/late had, is valid until"),
            "{said}"
        );
        world.user(
            "a",
            "late",
            json!({"authentication": {"type": "ScramSha512"}}),
        );
        world.settle().await;
        assert_eq!(
            world.reason("a", "users", "late"),
            "Ready",
            "it was its own namespace's"
        );
    });
}

/// Rights that are no longer allowed are removed, also from a User that cannot be read, is no
/// longer watched, or is invalid.
#[test]
fn rights_that_are_no_longer_allowed_go_whatever_the_user_says() {
    runtime().block_on(async {
        let mut world = World::new(false).await;
        world.admitted = BTreeSet::from(["a", "b"]);
        world.publish();
        world.create("a");
        world.settle().await;
        assert!(world.rights_of("app") > 0);
        // The User is invalid, so nothing else of it is applied; and the Topic that gave it the
        // right is deleted.
        world.change("a", "users", "app", |object| object["spec"]["authentication"]["passwordSecretRef"] = json!({"name": "nope"}));
        world.settle().await;
        assert!(world.rights_of("app") > 0, "what is allowed stays");
        world.change("a", "topics", "orders", |object| object["metadata"]["deletionTimestamp"] = json!("2026-01-02T00:00:00Z"));
        world.settle().await;
        assert_eq!((world.reason("a", "users", "app").as_str(), world.rights_of("app")), ("InvalidSpec", 0));

        world.create("b");
        world.settle().await;
        world.user("b", "other", json!({"authentication": {"type": "ScramSha512"}, "grants": [{"consume": {"topics": ["orders"]}}]}));
        world.settle().await;
        assert!(world.rights_of("other") > 0 && world.held().2.contains_key("other"));
        // The operator no longer watches the namespace, and then the cluster no longer admits it.
        let watched = ["a", "kafka"].map(str::to_owned).to_vec();
        world.restart_with(Settings { watch_namespaces: watched, ..Settings::default() }).await;
        world.admitted.remove("b");
        world.publish();
        clean_up::after_the_gone(&world.context, &key()).await;
        assert_eq!((world.rights_of("other"), world.held().2.contains_key("other")), (0, false));
    });
}

/// Every pair of events, starting from nothing and from two tenants that want the same names.
#[test]
fn what_kafka_holds_is_what_policy_allows_in_every_order() {
    let both = [
        Happening::Admission("a"),
        Happening::Admission("b"),
        Happening::Objects("a"),
        Happening::Objects("b"),
    ];
    let one = [
        Happening::Objects("a"),
        Happening::Admission("b"),
        Happening::Objects("b"),
    ];
    let orders = (0..HAPPENINGS.len().pow(2))
        .map(|number| [number % 11, number / 11].map(|index| HAPPENINGS[index]));
    let all = orders.flat_map(|last| {
        let first = [both.as_slice(), one.as_slice()].into_iter();
        first.flat_map(move |first| {
            [true, false].map(|webhook| (webhook, [first, last.as_slice()].concat()))
        })
    });
    runtime().block_on(
        stream::iter(all.collect::<Vec<_>>())
            .map(|(webhook, events)| play(webhook, events))
            .buffer_unordered(64)
            .collect::<()>(),
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, max_shrink_iters: 100, ..ProptestConfig::default() })]
    #[test]
    fn and_after_long_histories(webhook: bool, indices in proptest::collection::vec(0..HAPPENINGS.len(), 20)) {
        runtime().block_on(play(webhook, indices.into_iter().map(|index| HAPPENINGS[index]).collect()));
    }
}
