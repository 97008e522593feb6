//! The world of the tenancy tests: an API server and a Kafka in memory, the real reconciles, and
//! what two tenants create in it.

use crate::api_server;

use api_server::{Api, client};
use freehold::api::kafka_cluster::KafkaCluster;
use freehold::api::reference::ClusterKey;
use freehold::api::topic::Topic;
use freehold::api::user::User;
use freehold::certificates::KeyedCertificate;
use freehold::clusters::{Cluster, ClusterEvent, ClusterFacts, PasswordKey};
use freehold::kinds::context::{Context, Settings};
use freehold::kinds::dependent::clean_up;
use freehold::kinds::dependent::events::{self, Dependent};
use freehold::kinds::dependent::outcome::REQUEUE_SOON;
use freehold::kinds::registration::Registered;
use freehold::kinds::topic::TopicKind;
use freehold::kinds::user::context::Context as UserContext;
use freehold::kinds::user::{UserKind, passwords, secrets};
use freehold::kinds::{topic, user};
use freehold::kubernetes::labels;
use freehold::runtime::kind::{Kind, Requeue, Requeued};
use freehold_kafka::acl::AclBinding;
use freehold_kafka::grants::{self, READ, TOPIC};
use freehold_kafka::metadata_record::Fingerprint;
use freehold_kafka::scram;
use freehold_kafka_client::batch::BatchedAdmin;
use freehold_kafka_client::fake::FakeCluster;
use freehold_kafka_client::mirror::Change;
use freehold_kafka_client::{Admin, NewTopic, QuotaChange, ScramChange};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use kube::Resource;
use kube::api::ObjectMeta;
use kube::runtime::reflector::{self, store::Writer};
use kube::runtime::watcher::Event;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use tokio::sync::broadcast::{self, error::TryRecvError};

pub const FINALIZER: &str = "freehold.dev/finalizer";

/// What the cluster's spec says of its tenants.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    pub admitted: BTreeSet<&'static str>,
    /// `access.rights` is Any.
    pub any: bool,
    /// `access.principalNames` gives each namespace the names that begin with its own: app to
    /// namespace a, and nothing to b.
    pub named: bool,
    /// `authorization.shadow` is Allowed.
    pub shadow: bool,
    pub paused: bool,
}

impl Policy {
    pub fn cluster(&self) -> KafkaCluster {
        let from = match self.admitted.iter().collect::<Vec<_>>().as_slice() {
            [] => json!({"from": "Same"}),
            [one] => {
                json!({"from": "Selector", "selector": {"matchLabels": {"kubernetes.io/metadata.name": one}}})
            }
            _ => json!({"from": "All"}),
        };
        let mut access =
            json!({"namespaces": from, "rights": if self.any { "Any" } else { "Own" }});
        if self.named {
            access["principalNames"] = json!({"prefix": "{namespace}"});
        }
        let shadow = if self.shadow { "Allowed" } else { "Denied" };
        let state = if self.paused { "Paused" } else { "Running" };
        serde_json::from_value(json!({
            "apiVersion": "freehold.dev/v1alpha1", "kind": "KafkaCluster", "metadata": {"name": "demo", "namespace": "kafka", "uid": "c"},
            "spec": {"version": "4.3.1", "state": state, "access": access,
                "authorization": {"superUsers": ["root"], "shadow": shadow},
                "listeners": [{"name": "scram", "port": 9094, "authentication": "ScramSha512"}, {"name": "tls", "port": 9093, "authentication": "MutualTls"}],
                "nodePools": [{"name": "all", "roles": ["controller", "broker"], "replicas": 3, "zones": ["a", "b", "c"], "storage": {"size": "1Gi"}}]}
        }))
        .unwrap()
    }

    /// True if the webhook lets an object of a tenant in.
    pub fn lets_in(&self, namespace: &str, plural: &str, name: &str) -> bool {
        match (plural, name) {
            ("users", "root") => false,
            ("users", "app") => namespace == "a" || (!self.named && self.shadow),
            ("users", _) => !self.named,
            _ => true,
        }
    }
}

pub fn key() -> ClusterKey {
    ClusterKey {
        namespace: "kafka".into(),
        name: "demo".into(),
    }
}

pub struct World {
    pub api: Arc<Mutex<Api>>,
    pub kafka: Arc<FakeCluster>,
    pub admin: Arc<BatchedAdmin>,
    pub context: Arc<Context>,
    of_users: Arc<UserContext>,
    users: Writer<User>,
    topics: Writer<Topic>,
    pub policy: Policy,
    pub shares: BTreeSet<&'static str>,
    pub away: bool,
    pub webhook: bool,
    made: u32,
    pub clients_ca: KeyedCertificate,
    /// The racks of the brokers.
    pub racks: BTreeMap<i32, String>,
    /// What principals that somebody created by hand had at first.
    pub by_hand: BTreeMap<String, Holding>,
    /// The objects of tenants that should exist, without those that are being deleted.
    pub live: BTreeSet<(&'static str, &'static str, &'static str)>,
    /// The namespaces whose Topic is being deleted and waits for the cluster.
    pub ending: BTreeSet<&'static str>,
    /// Expected by the policy: the namespace whose User is principal `app`, and the one whose Topic
    /// manages topic `orders`, each with the object's uid.
    pub bearer: Option<(&'static str, String)>,
    pub owner: Option<(&'static str, String)>,
    pub exists: bool,
    /// The password that each User `app` was given, by its uid, and the fingerprint of its
    /// credential.
    pub given: BTreeMap<String, (String, String)>,
    /// What is reconciled, and when.
    pub announced: Announced,
}

/// The objects that a tenant creates: those of an application, and some that name resources of
/// others, with Freehold's finalizer in the manifest.
pub fn manifests(namespace: &str) -> Vec<(&'static str, &'static str, Value)> {
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
    let external = json!({"authentication": {"type": "ExternalTls", "subject": "app"}, "authorization": {"mode": "Shadow"}});
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

/// What has been announced to the operator. The driver reconciles nothing else, apart from its
/// resync, which takes minutes.
pub struct Announced {
    /// Only what was announced is reconciled; otherwise everything is.
    pub alone: bool,
    events: broadcast::Receiver<ClusterEvent>,
    /// Changes of the metadata, which the operator turns into events in a task of its own.
    changes: broadcast::Receiver<Change>,
    /// What the watch has told last of each object.
    seen: BTreeMap<String, Value>,
    /// The objects whose turn it is, by path.
    queue: BTreeSet<String>,
    /// Those that asked for another reconcile soon.
    soon: BTreeSet<String>,
}

impl Announced {
    fn of(context: &Context, kafka: &FakeCluster) -> Self {
        Self {
            alone: false,
            events: context.clusters.subscribe(),
            changes: kafka.state().mirror.subscribe(),
            seen: BTreeMap::new(),
            queue: BTreeSet::new(),
            soon: BTreeSet::new(),
        }
    }

    /// The watch gives an object; see `runtime::cache::Change::matters`.
    fn saw(&mut self, place: String, meta: &ObjectMeta) {
        let told = json!([meta.uid, meta.generation, meta.annotations, meta.finalizers]);
        if self.seen.get(&place) != Some(&told) {
            self.queue.insert(place.clone());
            self.seen.insert(place, told);
        }
    }

    fn next(&mut self) -> Option<ClusterEvent> {
        match self.changes.try_recv() {
            Ok(Change::One(concerned)) => return Some(ClusterEvent::Metadata(key(), concerned)),
            Ok(Change::All) => return Some(ClusterEvent::Changed(key())),
            Err(TryRecvError::Empty) => {}
            Err(error) => panic!("{error}"),
        }
        match self.events.try_recv() {
            Ok(event) => Some(event),
            Err(TryRecvError::Empty) => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// Whether it is the turn of an object.
    fn takes(&mut self, place: &str) -> bool {
        let is_announced = self.queue.remove(place);
        is_announced || !self.alone
    }

    fn asked(&mut self, place: &str, requeue: &Requeue) {
        let is_soon = match requeue {
            Requeue::Backoff | Requeue::Anew => true,
            Requeue::After(time) => *time <= REQUEUE_SOON,
            Requeue::OnChange => false,
        };
        if is_soon {
            self.soon.insert(place.to_owned());
        }
    }

    /// The next pass: those that asked for it have their turn as well.
    fn begin(&mut self) {
        self.queue.append(&mut self.soon);
    }
}

fn place<K: Kind>(plural: &str, object: &K::Object) -> String {
    let meta = object.meta();
    path(
        meta.namespace.as_deref().unwrap(),
        plural,
        meta.name.as_deref().unwrap(),
    )
}

/// The paths of the objects that are reconciled after an event.
fn requeued<K: Dependent>(
    context: &Context,
    plural: &str,
    event: ClusterEvent,
    objects: &[K::Object],
) -> Vec<String> {
    let all = objects.iter();
    match events::requeued::<K>(context, event) {
        Requeued::All => all.map(|object| place::<K>(plural, object)).collect(),
        Requeued::Group(group) => all
            .filter(|object| K::group(object).as_ref() == Some(&group))
            .map(|object| place::<K>(plural, object))
            .collect(),
        Requeued::These(these) => these
            .iter()
            .map(|one| path(one.namespace.as_deref().unwrap(), plural, &one.name))
            .collect(),
    }
}

pub fn path(namespace: &str, plural: &str, name: &str) -> String {
    format!("/apis/freehold.dev/v1alpha1/namespaces/{namespace}/{plural}/{name}")
}

pub fn share(namespace: &str) -> Value {
    json!([{"namespaces": [if namespace == "a" { "b" } else { "a" }], "operations": ["Consume"]}])
}

pub fn hand_made(principal: &str) -> AclBinding {
    grants::allow(
        &format!("User:{principal}"),
        TOPIC,
        &["ledger".to_owned()],
        &[READ],
    )
    .remove(0)
}

/// What a principal has in Kafka.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Holding {
    pub acls: BTreeSet<AclBinding>,
    /// The fingerprint of its SCRAM credential.
    pub scram: Option<String>,
    pub quotas: BTreeMap<String, f64>,
}

/// What principals have, and which topics there are.
#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    pub principals: BTreeMap<String, Holding>,
    pub topics: BTreeSet<String>,
}

impl World {
    pub async fn new(webhook: bool) -> Self {
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
            let quotas = BTreeMap::from([("consumer_byte_rate".to_owned(), Some(1024.0))]);
            let user = user.to_owned();
            kafka.alter_quotas(&[QuotaChange { user, quotas }]).await;
        }
        let admin = Arc::new(BatchedAdmin::new(Arc::clone(&kafka) as Arc<dyn Admin>));
        let context = Arc::new(Context::new(client(&api), Settings::default()));
        let of_users = UserKind::context(&context);
        let (users, topics) = (reflector::store().1, reflector::store().1);
        let announced = Announced::of(&context, &kafka);
        let mut world = Self {
            api,
            kafka,
            admin,
            context,
            of_users,
            users,
            topics,
            policy: Policy::default(),
            shares: BTreeSet::new(),
            away: false,
            webhook,
            made: 0,
            clients_ca: KeyedCertificate {
                certificate: String::new(),
                key: String::new(),
            },
            racks: BTreeMap::new(),
            by_hand: BTreeMap::new(),
            live: BTreeSet::new(),
            ending: BTreeSet::new(),
            bearer: None,
            owner: None,
            exists: false,
            given: BTreeMap::new(),
            announced,
        };
        world.by_hand = world.held().principals;
        assert_eq!(world.by_hand.len(), 2);
        world.restart().await;
        world
    }

    /// Starts a new operator without any cache.
    pub async fn restart(&mut self) {
        self.restart_with(Settings::default()).await;
    }

    pub async fn restart_with(&mut self, settings: Settings) {
        self.context = Arc::new(Context::new(client(&self.api), settings));
        // A first list leads to a resync.
        self.announced = Announced {
            alone: self.announced.alone,
            ..Announced::of(&self.context, &self.kafka)
        };
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
        ClusterFacts::of_spec(&self.policy.cluster())
    }

    pub fn publish(&self) {
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
            racks: self.racks.clone(),
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

    /// Updates the caches with the objects of some namespaces, and reconciles nothing.
    pub fn cache(&mut self, namespaces: &[&str]) {
        let is_of = |meta: &ObjectMeta| namespaces.contains(&meta.namespace.as_deref().unwrap());
        let mut users = self.objects::<UserKind>("users");
        users.retain(|user| is_of(user.meta()));
        Self::note::<UserKind>(&self.of_users, &mut self.users, &users);
        let mut topics = self.objects::<TopicKind>("topics");
        topics.retain(|topic| is_of(topic.meta()));
        Self::note::<TopicKind>(&self.context, &mut self.topics, &topics);
    }

    /// Notes the password of User `a/app` as its Secret has it. It is the same as long as the User
    /// is the same one.
    pub fn note_given(&mut self, uid: &str) {
        let secret =
            self.api.lock().unwrap().objects["/api/v1/namespaces/a/secrets/app-kafka"].clone();
        let secret: Secret = serde_json::from_value(secret).unwrap();
        let since = &secret.metadata.annotations.unwrap()[labels::SECRET_SINCE];
        let since = since.parse::<Timestamp>().unwrap();
        let password = String::from_utf8(secret.data.unwrap()["password"].0.clone()).unwrap();
        let noted = self.given.entry(uid.to_owned()).or_insert_with(|| {
            let salt = passwords::derive("k", "salt", uid, since);
            let salted = scram::salted_password(&password, salt.as_bytes(), scram::ITERATIONS);
            let fingerprint = Fingerprint::of(&scram::stored_key(&salted));
            (password.clone(), fingerprint.to_string())
        });
        assert_eq!(noted.0, password, "nobody asked for another password");
    }

    /// Reconciles those of the objects whose turn it is.
    async fn reconcile<K: Dependent>(
        &mut self,
        context: &Arc<K::Context>,
        plural: &str,
        objects: Vec<K::Object>,
    ) {
        for object in objects {
            let place = place::<K>(plural, &object);
            if !self.announced.takes(&place) {
                continue;
            }
            let outcome = K::reconcile(Arc::new(object.clone()), Arc::clone(context)).await;
            self.announced.asked(&place, &outcome.requeue);
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

    /// Takes in what was announced: for each object that the watch or an event tells of, that it is
    /// its turn.
    fn take_events(&mut self, users: &[User], topics: &[Topic]) {
        for user in users {
            self.announced
                .saw(place::<UserKind>("users", user), user.meta());
        }
        for topic in topics {
            let place = place::<TopicKind>("topics", topic);
            self.announced.saw(place, topic.meta());
        }
        while let Some(event) = self.announced.next() {
            let of_users = requeued::<UserKind>(&self.context, "users", event.clone(), users);
            let of_topics = requeued::<TopicKind>(&self.context, "topics", event, topics);
            self.announced.queue.extend(of_users);
            self.announced.queue.extend(of_topics);
        }
    }

    /// The Secrets that are gone, as the watch of Users' Secrets tells of them.
    fn note_gone_secrets(&mut self) {
        for (namespace, name) in [
            ("a", "app"),
            ("b", "app"),
            ("a", "hand"),
            ("b", "hand"),
            ("a", "root"),
            ("b", "root"),
        ] {
            let secret = format!("{name}-kafka");
            let place = format!("/api/v1/namespaces/{namespace}/secrets/{secret}");
            let is_gone = !self.api.lock().unwrap().objects.contains_key(&place);
            if is_gone && self.of_users.secrets.get(namespace, &secret).is_some() {
                self.of_users.secrets.remove(namespace, &secret);
                self.announced.queue.insert(path(namespace, "users", name));
            }
        }
    }

    /// Reconciles until nothing changes any more, and nothing is announced.
    pub async fn settle(&mut self) {
        for _ in 0..40 {
            let before = self.marker();
            let (users, topics) = (
                self.objects::<UserKind>("users"),
                self.objects::<TopicKind>("topics"),
            );
            Self::note::<UserKind>(&self.of_users, &mut self.users, &users);
            Self::note::<TopicKind>(&self.context, &mut self.topics, &topics);
            self.note_gone_secrets();
            self.take_events(&users, &topics);
            let (of_users, of_all) = (Arc::clone(&self.of_users), Arc::clone(&self.context));
            self.reconcile::<UserKind>(&of_users, "users", users.clone())
                .await;
            self.reconcile::<TopicKind>(&of_all, "topics", topics.clone())
                .await;
            clean_up::after_the_gone(&self.context, &key()).await;
            // The driver drops what is not in its cache.
            self.announced.queue.clear();
            self.take_events(&users, &topics);
            if before == self.marker() && self.announced.queue.is_empty() {
                return;
            }
            self.announced.begin();
        }
        panic!("it never settles");
    }

    pub fn is_live(&self, namespace: &str) -> bool {
        self.live.iter().any(|(of, _, _)| *of == namespace)
    }

    /// The objects of a tenant. One of the same name that is being deleted is in the way of a new
    /// one, and the webhook refuses what the cluster does not allow.
    pub fn create(&mut self, namespace: &'static str) {
        self.made += 1;
        let facts = self.facts();
        for (plural, name, spec) in manifests(namespace) {
            let place = path(namespace, plural, name);
            if self.api.lock().unwrap().objects.contains_key(&place) {
                continue;
            }
            let kind = if plural == "users" { "User" } else { "Topic" };
            let mut object = json!({"apiVersion": "freehold.dev/v1alpha1", "kind": kind, "spec": spec, "metadata": {
                "name": name, "namespace": namespace, "uid": format!("{namespace}-{plural}-{name}-{}", self.made), "generation": 1,
                "creationTimestamp": format!("2026-01-01T00:00:{:02}Z", self.made), "finalizers": [FINALIZER]}});
            if (name, self.shares.contains(namespace)) == ("orders", true) {
                object["spec"]["share"] = share(namespace);
            }
            let invalids = if plural == "users" {
                let object = serde_json::from_value(object.clone()).unwrap();
                user::validate::check(&object, &facts, false)
            } else {
                let object = serde_json::from_value(object.clone()).unwrap();
                topic::validate::check(&object, &facts, false)
            };
            let lets_in = self.policy.lets_in(namespace, plural, name);
            assert_eq!(invalids.is_empty(), lets_in, "{place}: {invalids:?}");
            if !self.webhook || lets_in {
                self.api.lock().unwrap().put(&place, object);
                self.live.insert((namespace, plural, name));
            }
        }
    }

    pub fn delete(&mut self, namespace: &'static str) {
        let mut api = self.api.lock().unwrap();
        for (plural, name, _) in manifests(namespace) {
            let place = path(namespace, plural, name);
            if !self.live.remove(&(namespace, plural, name)) {
                continue;
            }
            if plural == "topics" {
                self.ending.insert(namespace);
            }
            let mut object = api.objects[&place].clone();
            object["metadata"]["deletionTimestamp"] = json!("2026-01-02T00:00:00Z");
            object["metadata"]["generation"] =
                json!(object["metadata"]["generation"].as_i64().unwrap() + 1);
            api.put(&place, object);
        }
    }

    /// Removes the objects of a namespace without a clean-up.
    pub fn vanish(&mut self, namespace: &'static str) {
        let mut api = self.api.lock().unwrap();
        for (plural, name, _) in manifests(namespace) {
            api.remove(&path(namespace, plural, name));
        }
        self.live.retain(|(of, _, _)| *of != namespace);
        self.ending.remove(namespace);
    }

    pub fn metadata(&self, namespace: &str, plural: &str, name: &str) -> Value {
        self.api.lock().unwrap().objects[&path(namespace, plural, name)]["metadata"].clone()
    }

    pub fn uid(&self, namespace: &str, plural: &str, name: &str) -> String {
        let metadata = self.metadata(namespace, plural, name);
        metadata["uid"].as_str().unwrap().to_owned()
    }

    /// What Kafka holds, without the records of owners.
    pub fn held(&self) -> Held {
        let state = self.kafka.state();
        let principals = state.image.principals().map(|(name, principal)| {
            let holding = Holding {
                acls: principal.acls().cloned().collect(),
                scram: principal.scram.map(|scram| scram.to_string()),
                quotas: principal.quotas.clone(),
            };
            (name.to_string(), holding)
        });
        let topics = state.image.topics().map(|(name, _)| name.to_string());
        Held {
            principals: principals.collect(),
            topics: topics.collect(),
        }
    }

    pub fn held_by(&self, principal: &str) -> Holding {
        let mut held = self.held().principals;
        held.remove(principal).unwrap_or_default()
    }

    pub fn reason(&self, namespace: &str, plural: &str, name: &str) -> String {
        let object = self.api.lock().unwrap().objects[&path(namespace, plural, name)].clone();
        object["status"]["conditions"][0]["reason"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    /// Creates a User in a namespace, older than all others.
    pub fn user(&self, namespace: &str, name: &str, spec: Value) {
        self.put(namespace, "users", name, spec);
    }

    /// Creates an object in a namespace, older than all others.
    pub fn put(&self, namespace: &str, plural: &str, name: &str, spec: Value) {
        let mut all = json!({"clusterRef": {"name": "demo", "namespace": "kafka"}});
        all.as_object_mut()
            .unwrap()
            .extend(spec.as_object().unwrap().clone());
        let kind = if plural == "users" { "User" } else { "Topic" };
        let metadata = json!({"name": name, "namespace": namespace, "uid": format!("{namespace}-{name}"), "generation": 1,
            "creationTimestamp": "2025-01-01T00:00:00Z"});
        let object = json!({"apiVersion": "freehold.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": all});
        let place = path(namespace, plural, name);
        self.api.lock().unwrap().put(&place, object);
    }

    pub fn change(
        &self,
        namespace: &str,
        plural: &str,
        name: &str,
        change: impl FnOnce(&mut Value),
    ) {
        let (place, mut api) = (path(namespace, plural, name), self.api.lock().unwrap());
        let mut object = api.objects[&place].clone();
        change(&mut object);
        api.put(&place, object);
    }

    pub fn rights_of(&self, principal: &str) -> usize {
        self.held_by(principal).acls.len()
    }
}
