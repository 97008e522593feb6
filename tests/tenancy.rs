//! Two namespaces share a cluster. The test runs every order of events: admitted and refused,
//! created, deleted with and without their finalizers, the cluster paused, removed and restored,
//! the operator restarted. The real reconciles run against an API server and a Kafka in memory;
//! after each step the test compares what Kafka holds with what the policy allows.
//!
//! `FREEHOLD_CASES` multiplies the number of orders; the default is 1.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod world;

use crate::api_server;

use freehold::api::pipeline::Pipeline;
use freehold::kinds::context::Settings;
use freehold::kinds::dependent::clean_up;
use freehold::kinds::kafka_cluster::cleanup;
use freehold::kinds::pipeline::PipelineKind;
use freehold::kinds::registration::Registered;
use freehold::kubernetes::labels;
use freehold::runtime::kind::Kind;
use freehold::runtime::unread_names::UnreadNames;
use freehold_kafka::acl::AclBinding;
use freehold_kafka::grants::{self, DESCRIBE, READ, TOPIC};
use freehold_kafka::ownership::{Owned, Owner, mark};
use freehold_kafka_client::Admin;
use futures::{FutureExt, StreamExt, stream};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::env;
use std::sync::Arc;
use std::time::Duration;
use world::{FINALIZER, Held, Holding, Policy, World, key, path, share};

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
    /// The cluster's policy for the names of principals starts to allow `app` to namespace a alone,
    /// or is removed.
    PrincipalNames,
    /// The cluster allows shadow mode, or no longer.
    Shadow,
    /// The cluster is Paused, or Running again.
    Paused,
    /// The objects of the namespace disappear without cleanup, because somebody removed their
    /// finalizers.
    Vanish(&'static str),
    /// The cluster is deleted (its volumes stay), or restored.
    Away,
    /// The webhook goes away, or comes back.
    Webhook,
    Restart,
}

const HAPPENINGS: [Happening; 15] = [
    Happening::Admission("a"),
    Happening::Admission("b"),
    Happening::Objects("a"),
    Happening::Objects("b"),
    Happening::Vanish("a"),
    Happening::Vanish("b"),
    Happening::Share("a"),
    Happening::Share("b"),
    Happening::Rights,
    Happening::PrincipalNames,
    Happening::Shadow,
    Happening::Paused,
    Happening::Away,
    Happening::Webhook,
    Happening::Restart,
];

/// The ACLs with which a User consumes a topic.
fn consume(topic: &str) -> Vec<AclBinding> {
    grants::allow("User:app", TOPIC, &[topic.to_owned()], &[READ, DESCRIBE])
}

impl World {
    /// Carries out the event, and updates what the policy expects.
    async fn happen(&mut self, event: Happening) {
        match event {
            Happening::Admission(namespace) => {
                if !self.policy.admitted.remove(namespace) {
                    self.policy.admitted.insert(namespace);
                }
            }
            Happening::Objects(namespace) if !self.is_live(namespace) => self.create(namespace),
            Happening::Objects(namespace) => self.delete(namespace),
            Happening::Vanish(namespace) => {
                self.vanish(namespace);
                self.owner.take_if(|(owner, _)| *owner == namespace);
            }
            Happening::Share(namespace) => self.toggle_share(namespace),
            Happening::Rights => self.policy.any = !self.policy.any,
            Happening::PrincipalNames => self.policy.named = !self.policy.named,
            Happening::Shadow => self.policy.shadow = !self.policy.shadow,
            Happening::Paused => self.policy.paused = !self.policy.paused,
            Happening::Away => self.away = !self.away,
            Happening::Webhook => self.webhook = !self.webhook,
            Happening::Restart => self.restart().await,
        }
        self.end_topics();
        self.publish();
        let before = self.held();
        self.settle().await;
        if self.away {
            assert_eq!(
                self.held(),
                before,
                "nothing is asked of a cluster that is away"
            );
        } else {
            self.check(&before);
        }
    }

    fn toggle_share(&mut self, namespace: &'static str) {
        if !self.shares.remove(namespace) {
            self.shares.insert(namespace);
        }
        let place = path(namespace, "topics", "orders");
        if self.api.lock().unwrap().objects.contains_key(&place) {
            let shared = self.shares.contains(namespace);
            self.change(namespace, "topics", "orders", |object| {
                object["spec"]["share"] = if shared { share(namespace) } else { json!([]) };
                object["metadata"]["generation"] =
                    json!(object["metadata"]["generation"].as_i64().unwrap() + 1);
            });
        }
    }

    /// A topic is deleted with its Topic if that may decide it, and kept if not. A Paused cluster
    /// keeps the Topic waiting.
    fn end_topics(&mut self) {
        for namespace in std::mem::take(&mut self.ending) {
            let admitted = self.policy.admitted.contains(namespace);
            if self.policy.paused && admitted && !self.away {
                self.ending.insert(namespace);
            } else if self.owner.take_if(|(of, _)| *of == namespace).is_some() {
                self.exists &= self.away || !admitted;
            }
        }
    }

    /// True if a namespace may have principal `app`.
    fn may_bear(&self, namespace: &str) -> bool {
        self.policy.admitted.contains(namespace) && (!self.policy.named || namespace == "a")
    }

    /// The first of the namespaces for which `may` is true to create an object of this name.
    fn first(
        &self,
        plural: &str,
        name: &str,
        may: impl Fn(&str) -> bool,
    ) -> Option<(&'static str, String)> {
        let all = self.live.iter();
        let all = all.filter(|(of, kind, called)| *kind == plural && *called == name && may(of));
        let created = |namespace: &str| {
            let metadata = self.metadata(namespace, plural, name);
            metadata["creationTimestamp"].as_str().unwrap().to_owned()
        };
        let (namespace, _, _) = all.min_by_key(|(of, _, _)| created(of))?;
        Some((*namespace, self.uid(namespace, plural, name)))
    }

    /// Updates who should have principal `app` and topic `orders`.
    fn expect(&mut self) {
        let stays = |(namespace, uid): &(&'static str, String)| {
            self.live.contains(&(*namespace, "users", "app"))
                && self.uid(namespace, "users", "app") == *uid
                && self.may_bear(namespace)
        };
        self.bearer = self.bearer.clone().filter(stays);
        // A Paused cluster gives nothing.
        if self.policy.paused {
            return;
        }
        if self.bearer.is_none() {
            self.bearer = self.first("users", "app", |of| self.may_bear(of));
        }
        // A topic that exists without an owner may belong to anybody, so nobody takes it over.
        if self.owner.is_none() && !self.exists {
            self.owner = self.first("topics", "orders", |of| self.policy.admitted.contains(of));
            self.exists |= self.owner.is_some();
        }
    }

    /// What the cluster allows to the bearer of principal `app`.
    fn allowed(&self) -> Holding {
        let Some((namespace, uid)) = &self.bearer else {
            return Holding::default();
        };
        let namespace = *namespace;
        let mut acls = BTreeSet::new();
        // Topic orders belongs to the namespace or is shared with it; topics x-… have no owner.
        let shares =
            |owner: &str| self.shares.contains(owner) && self.policy.admitted.contains(owner);
        let is_own = |owner: &(&str, String)| owner.0 == namespace || shares(owner.0);
        if self.policy.any || self.owner.as_ref().is_some_and(is_own) {
            acls.extend(consume("orders"));
        }
        if self.policy.any {
            acls.extend(consume(&format!("x-{namespace}")));
        }
        if namespace == "b" && self.policy.shadow {
            acls.extend(grants::shadow("User:app"));
        }
        let quotas = (namespace == "a").then(|| ("request_percentage".to_owned(), 50.0));
        let given = self.given.get(uid).filter(|_| namespace == "a");
        let scram = given.map(|(_, fingerprint)| fingerprint.clone());
        Holding {
            acls,
            scram,
            quotas: quotas.into_iter().collect(),
        }
    }

    /// `before`: what Kafka held before the last event.
    fn check(&mut self, before: &Held) {
        self.expect();
        let app = self.bearer.clone().filter(|(of, _)| *of == "a");
        if let Some((_, uid)) = app.filter(|_| !self.policy.paused) {
            self.note_given(&uid);
        }
        let (allowed, held) = (self.allowed(), self.held());
        let is_a = self.bearer.as_ref().is_some_and(|(of, _)| *of == "a");
        let wanted = if self.policy.paused {
            // Nothing is given, and what is no longer allowed is taken.
            let had = before.principals.get("app").cloned().unwrap_or_default();
            Holding {
                acls: &had.acls & &allowed.acls,
                scram: had.scram.filter(|_| is_a),
                quotas: had.quotas.into_iter().filter(|_| is_a).collect(),
            }
        } else {
            allowed
        };
        let mut principals = self.by_hand.clone();
        if wanted != Holding::default() {
            principals.insert("app".into(), wanted);
        }
        assert_eq!(
            held.principals, principals,
            "app is {:?}'s, and the others are not ours",
            self.bearer
        );
        let orders = self.exists.then_some("orders");
        let topics = orders.into_iter().chain(["legacy"]).map(str::to_owned);
        assert_eq!(held.topics, topics.collect::<BTreeSet<_>>());
        self.check_records();
        self.check_statuses();
    }

    /// The records of owners say the same.
    fn check_records(&self) {
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
    }

    /// Every status says the same. While the cluster is Paused, only those of Users with a name
    /// that is refused.
    fn check_statuses(&self) {
        for (namespace, plural, name) in &self.live {
            let is_user = *plural == "users";
            let refused = *name == "root"
                || (self.policy.named && is_user && (*name, *namespace) != ("app", "a"));
            let wanted = if !self.policy.admitted.contains(namespace) {
                "NamespaceNotAllowed"
            } else if refused {
                "NameNotAllowed"
            } else if self.policy.paused {
                continue;
            } else if is_user && *name == "app" {
                self.bearing(namespace)
            } else {
                self.owning(namespace, plural, name)
            };
            assert_eq!(
                self.reason(namespace, plural, name),
                wanted,
                "{plural} {namespace}/{name}"
            );
        }
    }

    /// The reason of an admitted User `app`.
    fn bearing(&self, namespace: &str) -> &'static str {
        let bears = self.bearer.as_ref().is_some_and(|(of, _)| *of == namespace);
        match (bears, self.policy.any) {
            (false, _) => "NameTaken",
            (true, false) => "RightNotAllowed",
            (true, true) if namespace == "b" && !self.policy.shadow => "InvalidSpec",
            (true, true) => "Ready",
        }
    }

    /// The reason of an admitted object that wants what may belong to nobody. Two objects want it:
    /// the older one is told that it is not theirs.
    fn owning(&self, namespace: &str, plural: &str, name: &str) -> &'static str {
        let admitted = |of: &str| self.policy.admitted.contains(of);
        let is_first = self
            .first(plural, name, admitted)
            .is_some_and(|(of, _)| of == namespace);
        match self.owner.as_ref().filter(|_| name == "orders") {
            Some((of, _)) if *of == namespace => "Ready",
            Some((of, _)) if !admitted(of) => "NotOurs",
            None if is_first => "NotOurs",
            _ => "NameTaken",
        }
    }
}

/// Plays an order of events. `alone`: after each, only what the operator hears of is reconciled.
async fn play(webhook: bool, alone: bool, events: Vec<Happening>) {
    let mut world = World::new(webhook).await;
    world.announced.alone = alone;
    for (index, event) in events.iter().enumerate() {
        let step = std::panic::AssertUnwindSafe(world.happen(*event))
            .catch_unwind()
            .await;
        assert!(
            step.is_ok(),
            "with the webhook {} at first, {}, after {:?}",
            if webhook { "up" } else { "down" },
            if alone { "by announcements" } else { "all" },
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

/// A certificate stays valid after its User is deleted: its holder must not act as another tenant's
/// User of the same name.
#[test]
fn a_name_is_nobody_elses_while_a_certificate_in_it_is_valid() {
    runtime().block_on(async {
        let mut world = World::new(true).await;
        world.clients_ca =
            freehold::certificates::new_authority("clients", k8s_openapi::jiff::Timestamp::now())
                .unwrap();
        world.policy.admitted = BTreeSet::from(["a", "b"]);
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
        world.policy.admitted = BTreeSet::from(["a", "b"]);
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
        assert!(world.rights_of("other") > 0 && world.held_by("other").scram.is_some());
        // The operator no longer watches the namespace, and then the cluster no longer admits it.
        let watched = ["a", "kafka"].map(str::to_owned).to_vec();
        world.restart_with(Settings { watch_namespaces: watched, ..Settings::default() }).await;
        world.policy.admitted.remove("b");
        world.publish();
        clean_up::after_the_gone(&world.context, &key()).await;
        assert_eq!((world.rights_of("other"), world.held_by("other").scram.is_some()), (0, false));
    });
}

/// A Paused cluster gives nothing, but takes what it no longer allows, also from Users at home.
#[test]
fn a_paused_cluster_takes_away_what_it_no_longer_allows() {
    runtime().block_on(async {
        let mut world = World::new(false).await;
        let shadow = |principal: &str| grants::shadow(principal).remove(0);
        world.policy.admitted = BTreeSet::from(["a", "b"]);
        world.policy.shadow = true;
        world.publish();
        world.create("b");
        let home = json!({"authentication": {"type": "ScramSha512"}, "authorization": {"mode": "Shadow"},
            "grants": [{"produce": {"topics": ["any"]}}]});
        world.user("kafka", "home", home);
        world.settle().await;
        for user in ["app", "home"] {
            let mark = shadow(&format!("User:{user}"));
            assert!(world.held_by(user).acls.contains(&mark), "{user}");
        }
        let rights = world.rights_of("home");
        (world.policy.paused, world.policy.shadow) = (true, false);
        world.publish();
        world.settle().await;
        assert!(!world.held_by("home").acls.contains(&shadow("User:home")));
        assert_eq!(world.rights_of("home"), rights - 1, "the others stay");
        assert!(!world.held_by("app").acls.contains(&shadow("User:app")));
        assert!(world.rights_of("app") > 0, "the others stay");
        // Its name is not allowed any more.
        world.policy.named = true;
        world.publish();
        world.settle().await;
        assert_eq!(world.held_by("app"), Holding::default());
        assert_eq!(world.reason("b", "users", "app"), "NameNotAllowed");
        assert_eq!(world.rights_of("home"), rights - 1, "no policy for those at home");
    });
}

/// The operator no longer watches the namespace of a User, and then the cluster no longer allows
/// its name.
#[test]
fn a_name_that_is_no_longer_allowed_is_revoked_without_its_user() {
    runtime().block_on(async {
        let mut world = World::new(false).await;
        world.policy.admitted = BTreeSet::from(["a", "b"]);
        world.publish();
        for (namespace, name) in [("b", "other"), ("b", "b-other"), ("kafka", "home")] {
            let spec = json!({"authentication": {"type": "ScramSha512"}});
            world.user(namespace, name, spec);
        }
        world.settle().await;
        let watched = ["a".to_owned()].to_vec();
        world
            .restart_with(Settings {
                watch_namespaces: watched,
                ..Settings::default()
            })
            .await;
        world.policy.named = true;
        world.publish();
        clean_up::after_the_gone(&world.context, &key()).await;
        let has = |name| world.held_by(name).scram.is_some();
        assert_eq!(
            (has("other"), has("b-other"), has("home")),
            (false, true, true)
        );
    });
}

/// The User stays in the cache as it was before, and only its owner is known when the operator does
/// not watch it.
#[test]
fn rights_that_are_no_longer_allowed_go_though_nobody_can_read_the_user() {
    let resources = |world: &World| {
        let acls = world.held_by("other").acls;
        let names: BTreeSet<_> = acls.into_iter().map(|acl| acl.resource_name).collect();
        names.into_iter().collect::<Vec<_>>().join(" ")
    };
    let mark = grants::SHADOW_MARK;
    let is_watched = |watched: &[&str]| {
        runtime().block_on(async {
        let mut world = World::new(false).await;
        world.policy.admitted = BTreeSet::from(["a", "b"]);
        (world.policy.any, world.policy.shadow) = (true, true);
        world.shares.insert("a");
        world.publish();
        world.create("a");
        let grants = json!([{"consume": {"topics": ["orders", "x-other"]}}]);
        let spec = json!({"authentication": {"type": "ScramSha512"}, "authorization": {"mode": "Shadow"}, "grants": grants});
        world.user("b", "other", spec);
        world.settle().await;
        assert_eq!(resources(&world), format!("{mark} orders x-other"));
        if watched.contains(&"b") {
            let unread = Arc::new(UnreadNames::default());
            let meta = serde_json::from_value(world.metadata("b", "users", "other")).unwrap();
            unread.insert(&meta);
            world.context.users.add_unread(&unread);
        } else {
            let watch_namespaces = watched.iter().map(|name| (*name).to_owned()).collect();
            let settings = Settings { watch_namespaces, ..Settings::default() };
            world.restart_with(settings).await;
        }
        let clean_up = async |world: &mut World| {
            world.publish();
            world.cache(watched);
            clean_up::after_the_gone(&world.context, &key()).await
        };
        assert!(!clean_up(&mut world).await);
        assert_eq!(resources(&world), format!("{mark} orders x-other"), "all is allowed");
        world.policy.shadow = false;
        clean_up(&mut world).await;
        assert_eq!(resources(&world), "orders x-other");
        world.policy.any = false;
        clean_up(&mut world).await;
        assert_eq!(resources(&world), "orders", "what is shared stays");
        world.toggle_share("a");
        clean_up(&mut world).await;
        let is_known = watched.contains(&"a");
        // What a Topic that nobody watches shares is not known.
        assert_eq!(resources(&world), if is_known { "" } else { "orders" });
        assert!(world.held_by("other").scram.is_some());
        world.policy.named = true;
        clean_up(&mut world).await;
        assert_eq!(world.held_by("other"), Holding::default());
    })
    };
    is_watched(&["a", "b", "kafka"]);
    is_watched(&["a", "kafka"]);
    is_watched(&["kafka"]);
}

/// Owners that are there by the API server, though not in the cache, are no progress: the cluster
/// would be reconciled again and again, at once.
#[test]
fn a_clean_up_that_takes_nothing_away_is_not_repeated_at_once() {
    let paused = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    paused.block_on(async {
        let mut world = World::new(true).await;
        world.policy.admitted = BTreeSet::from(["a"]);
        world.publish();
        world.cache(&["kafka"]);
        let record = async |world: &World, name: &str| {
            let owner = Owner {
                namespace: "a".into(),
                name: name.to_owned(),
                uid: format!("a-{name}"),
            };
            let mark = mark(Owned::Principal, name, &owner);
            world.kafka.create_acls(&[mark]).await;
        };
        for number in 0..160 {
            let name = format!("there-{number}");
            let spec = json!({"authentication": {"type": "ScramSha512"}});
            world.user("a", &name, spec);
            record(&world, &name).await;
        }
        world.api.lock().unwrap().latency = Some(Duration::from_secs(3));
        let clean_up = async |world: &World| clean_up::after_the_gone(&world.context, &key()).await;
        assert!(!clean_up(&world).await, "nothing was taken away");
        record(&world, "gone").await;
        assert!(clean_up(&world).await, "one was");
        assert_eq!(world.kafka.state().image.all_owners().count(), 160);
    });
}

/// Its credential is revoked: pods that run on would fail for ever. What has records stays.
#[test]
fn a_pipeline_whose_namespace_is_no_longer_allowed_has_no_pods_until_it_is_again() {
    runtime().block_on(async {
        let mut world = World::new(true).await;
        let set = "/apis/apps/v1/namespaces/b/statefulsets/p-main";
        let stages = json!({
            "apiVersion": "apps/v1", "kind": "StatefulSet",
            "metadata": {"name": "p-main", "namespace": "b", "uid": "s", "labels": {labels::STAGE: "main"},
                "ownerReferences": [{"apiVersion": "freehold.dev/v1alpha1", "kind": "Pipeline", "name": "p", "uid": "p"}]},
            "spec": {"replicas": 2, "serviceName": "p", "selector": {}, "template": {}}});
        world.api.lock().unwrap().put(set, stages);
        let mut pipeline: Pipeline = serde_json::from_value(json!({
            "apiVersion": "freehold.dev/v1alpha1", "kind": "Pipeline",
            "metadata": {"name": "p", "namespace": "b", "uid": "p", "generation": 1},
            "spec": {"clusterRef": {"name": "demo", "namespace": "kafka"}, "replicas": 2, "blocks": [
                {"name": "in", "source": {"kafka": {"topic": "a"}}},
                {"name": "out", "from": ["in"], "sink": {"kafka": {"topic": "b"}}}]}}))
        .unwrap();
        // What it has, and what it says of itself.
        let reconcile = async |world: &mut World, pipeline: &mut Pipeline| {
            world.publish();
            world.cache(&["a", "b", "kafka"]);
            let context = PipelineKind::context(&world.context);
            let outcome = PipelineKind::reconcile(Arc::new(pipeline.clone()), context).await;
            pipeline.status = outcome.status.or(pipeline.status.clone());
            let replicas = world.api.lock().unwrap().objects[set]["spec"]["replicas"].clone();
            let conditions = serde_json::to_value(&pipeline.status).unwrap()["conditions"].clone();
            let words = ["reason", "message"].map(|key| conditions[0][key].as_str().unwrap().to_owned());
            (replicas.as_i64().unwrap(), words)
        };
        let (replicas, [reason, why]) = reconcile(&mut world, &mut pipeline).await;
        assert_eq!((replicas, reason.as_str()), (0, "NamespaceNotAllowed"));
        assert!(why.contains("spec.access.namespaces must") && why.contains("pods are stopped"), "{why}");
        // Nothing brings them back while the cluster is away, and with an operator that has just
        // started and has not listed anything.
        world.away = true;
        assert_eq!(reconcile(&mut world, &mut pipeline.clone()).await.0, 0);
        world.restart().await;
        let unlisted = PipelineKind::context(&world.context);
        PipelineKind::reconcile(Arc::new(pipeline.clone()), unlisted).await;
        assert_eq!(reconcile(&mut world, &mut pipeline).await.0, 0);
        world.away = false;
        world.policy.admitted.insert("b");
        for _ in 0..2 {
            reconcile(&mut world, &mut pipeline).await;
        }
        assert_eq!(reconcile(&mut world, &mut pipeline).await.0, 2);
    });
}

/// One refusal of Kafka does not stop what it is not about.
#[test]
fn a_refused_acl_stops_neither_the_credential_nor_the_quotas() {
    runtime().block_on(async {
        let mut world = World::new(true).await;
        world.kafka.state().refused_acls = vec!["User:home".into()];
        let home = json!({"authentication": {"type": "ScramSha512"}, "quotas": {"requestPercent": 50},
            "grants": [{"consume": {"topics": ["any"]}}]});
        world.user("kafka", "home", home);
        world.settle().await;
        let Holding {
            acls,
            scram,
            quotas,
        } = world.held_by("home");
        assert_eq!((acls.len(), scram.is_some(), quotas.len()), (0, true, 1));
        assert_eq!(world.reason("kafka", "users", "home"), "KafkaRefused");
        world.kafka.state().refused_acls.clear();
        world.settle().await;
        assert_eq!(world.rights_of("home"), 2);
        // Nor does it keep a right that is no longer in the spec.
        world.kafka.state().refused_acls = vec!["User:home".into()];
        world.change("kafka", "users", "home", |object| {
            object["spec"]["grants"] = json!([{"consume": {"topics": ["other"]}}]);
        });
        world.settle().await;
        assert_eq!(world.rights_of("home"), 0);
        world.kafka.state().refused_acls.clear();
        world.settle().await;
        assert_eq!(world.rights_of("home"), 2);
    });
}

#[test]
fn a_refused_config_does_not_stop_the_repair_of_replicas() {
    runtime().block_on(async {
        let mut world = World::new(true).await;
        world.racks = (1..=3).map(|id| (id, format!("r{id}"))).collect();
        world.publish();
        let spec = json!({"partitions": 1, "replicas": 2});
        world.put("kafka", "topics", "grows", spec);
        world.settle().await;
        assert_eq!(world.reason("kafka", "topics", "grows"), "Ready");
        world.kafka.state().refused_configs = vec!["max.message.bytes".into()];
        world.change("kafka", "topics", "grows", |object| {
            object["spec"]["replicas"] = json!(3);
            object["spec"]["partitions"] = json!(2);
            object["spec"]["config"] = json!({"max.message.bytes": 5});
        });
        world.settle().await;
        let replicas = |world: &World| {
            let state = world.kafka.state();
            let partitions = state.image.topic("grows").unwrap().partitions.iter();
            partitions
                .map(|partition| partition.replicas.len())
                .collect::<Vec<_>>()
        };
        assert_eq!(replicas(&world), [3, 3]);
        assert_eq!(world.reason("kafka", "topics", "grows"), "KafkaRefused");
        world.kafka.state().refused_configs.clear();
        world.settle().await;
        assert_eq!(world.reason("kafka", "topics", "grows"), "Ready");
    });
}

/// A thousand Users that were deleted while the cluster was away do not keep their access for
/// minutes.
#[test]
fn all_who_are_gone_lose_their_access_in_one_reconcile() {
    runtime().block_on(async {
        let mut world = World::new(true).await;
        world.policy.admitted = BTreeSet::from(["a"]);
        world.publish();
        world.settle().await;
        for number in 0..250 {
            let name = format!("gone-{number}");
            let owner = Owner {
                namespace: "a".into(),
                name: name.clone(),
                uid: "u".into(),
            };
            let topic = ["orders".to_owned()];
            let mut acls = grants::allow(&format!("User:{name}"), TOPIC, &topic, &[READ]);
            acls.push(mark(Owned::Principal, &name, &owner));
            world.kafka.create_acls(&acls).await;
        }
        let more = clean_up::after_the_gone(&world.context, &key()).await;
        assert_eq!(world.kafka.state().image.all_owners().count(), 0);
        assert_eq!(
            (world.held().principals, more),
            (world.by_hand.clone(), false)
        );
    });
}

/// Two objects may have recorded themselves as owners of one name at the same time.
#[test]
fn two_owners_of_one_name_who_are_gone_leave_nothing() {
    runtime().block_on(async {
        for admitted in [BTreeSet::from(["a", "b"]), BTreeSet::new()] {
            let mut world = World::new(true).await;
            world.policy.admitted = admitted;
            world.publish();
            world.settle().await;
            let topic = ["orders".to_owned()];
            let mut acls = grants::allow("User:twice", TOPIC, &topic, &[READ]);
            for namespace in ["a", "b"] {
                let owner = Owner {
                    namespace: namespace.into(),
                    name: "twice".into(),
                    uid: "u".into(),
                };
                acls.push(mark(Owned::Principal, "twice", &owner));
            }
            world.kafka.create_acls(&acls).await;
            clean_up::after_the_gone(&world.context, &key()).await;
            assert_eq!(world.kafka.state().image.all_owners().count(), 0);
            assert_eq!(world.rights_of("twice"), 0);
        }
    });
}

/// A KafkaCluster that was never served owns nothing that was there before it: neither volumes,
/// nor Secrets, nor the identity of a cluster of this name whose volumes stayed.
#[test]
fn a_cluster_that_was_never_served_deletes_nothing_of_the_one_before() {
    runtime().block_on(async {
        let world = World::new(true).await;
        let place = |plural: &str, name: &str| format!("/api/v1/namespaces/kafka/{plural}/{name}");
        let old = [
            ("persistentvolumeclaims", "PersistentVolumeClaim", "data-0"),
            ("secrets", "Secret", "demo-cluster-ca"),
            ("configmaps", "ConfigMap", "demo-identity"),
        ];
        let put = |plural: &str, kind: &str, name: &str, month: u8| {
            let object = json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": "kafka", "uid": name,
                "labels": {labels::CLUSTER: "demo"}, "creationTimestamp": format!("2026-{month:02}-01T00:00:00Z")}});
            world.api.lock().unwrap().put(&place(plural, name), object);
        };
        old.iter().for_each(|(plural, kind, name)| put(plural, kind, name, 1));
        put("secrets", "Secret", "demo-new", 3);
        let mut cluster = serde_json::to_value(Policy::default().cluster()).unwrap();
        cluster["metadata"]["creationTimestamp"] = json!("2026-02-01T00:00:00Z");
        cluster["metadata"]["deletionTimestamp"] = json!("2026-04-01T00:00:00Z");
        let end = async |cluster: &Value| {
            let mut cluster = cluster.clone();
            cluster["metadata"]["finalizers"] = json!([FINALIZER]);
            let at = "/apis/freehold.dev/v1alpha1/namespaces/kafka/kafkaclusters/demo";
            world.api.lock().unwrap().put(at, cluster.clone());
            let object = serde_json::from_value(cluster).unwrap();
            let client = api_server::client(&world.api);
            for _ in 0..3 {
                let now = k8s_openapi::jiff::Timestamp::now();
                let left = cleanup::step(&client, &object, &key(), false, now)
                    .await
                    .unwrap();
                if left.is_none() {
                    break;
                }
            }
            !world.api.lock().unwrap().objects.contains_key(at)
        };
        let is_there = |plural: &str, name: &str| {
            world.api.lock().unwrap().objects.contains_key(&place(plural, name))
        };
        assert!(end(&cluster).await);
        for (plural, _, name) in old {
            assert!(is_there(plural, name), "{name}");
        }
        assert!(!is_there("secrets", "demo-new"));
        // One that was Paused from the beginning knows the identity and has run nothing.
        cluster["status"] = json!({"clusterId": "q1Sh-9_ISia_zwGINzRvyQ"});
        assert!(end(&cluster).await);
        for (plural, _, name) in old {
            assert!(is_there(plural, name), "{name}");
        }
        cluster["status"]["kafkaVersion"] = json!("4.3.1");
        assert!(end(&cluster).await);
        for (plural, _, name) in old {
            assert!(!is_there(plural, name), "{name} is its own");
        }
    });
}

/// How many times the usual number of orders is played.
fn cases() -> u32 {
    let cases = env::var("FREEHOLD_CASES").ok();
    cases.map_or(1, |cases| cases.parse().unwrap())
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
    let count = HAPPENINGS.len();
    // With more cases the webhook is up and down at the beginning of each order, instead of one of
    // the two.
    let all = (0..count * count).flat_map(|number| {
        let last = [number % count, number / count].map(|index| HAPPENINGS[index]);
        let first = [both.as_slice(), one.as_slice()].into_iter().enumerate();
        first.flat_map(move |(beginning, first)| {
            let events = [first, last.as_slice()].concat();
            let webhook = (number + beginning) % 2 == 0;
            let others = (cases() > 1).then(|| (!webhook, events.clone()));
            others.into_iter().chain([(webhook, events)])
        })
    });
    runtime().block_on(
        stream::iter(all.collect::<Vec<_>>())
            .map(|(webhook, events)| play(webhook, true, events))
            .buffer_unordered(64)
            .collect::<()>(),
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16 * cases(), max_shrink_iters: 100, ..ProptestConfig::default() })]
    #[test]
    fn and_after_long_histories(webhook: bool, alone: bool, indices in proptest::collection::vec(0..HAPPENINGS.len(), 20)) {
        runtime().block_on(play(webhook, alone, indices.into_iter().map(|index| HAPPENINGS[index]).collect()));
    }
}
