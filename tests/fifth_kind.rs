//! Shows what it takes to add a kind: this kind is defined in this file alone, and the generic
//! driver reconciles it against an API server in memory.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use crate::api_server;

use api_server::{Api, client};
use freehold::api::conditions::{Condition, State, conditions};
use freehold::kinds::REGISTRY;
use freehold::kinds::context::{Context, Settings};
use freehold::kinds::registration::{Editors, Entry, Registered, Review, Served};
use freehold::kinds::rights::Right;
use freehold::reference;
use freehold::runtime::health::Health;
use freehold::runtime::kind::{Kind, Outcome, Requeue, Requeued};
use freehold::runtime::services::Services;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::{CustomResource, ResourceExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;

#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "freehold.dev",
    version = "v1alpha1",
    kind = "Mirror",
    namespaced,
    status = "MirrorStatus"
)]
struct MirrorSpec {
    /// The color of what is seen in it.
    color: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
struct MirrorStatus {
    conditions: Vec<Condition>,
    color: String,
}

struct MirrorKind;

/// The context of this kind; it contains the context of all kinds.
struct MirrorContext {
    shared: Arc<Context>,
}

/// How many times each object was reconciled.
static RECONCILES: Mutex<BTreeMap<String, u32>> = Mutex::new(BTreeMap::new());

impl AsRef<Services> for MirrorContext {
    fn as_ref(&self) -> &Services {
        (*self.shared).as_ref()
    }
}

impl Kind for MirrorKind {
    type Object = Mirror;
    type Status = MirrorStatus;
    type Context = MirrorContext;
    type Group = String;

    const CONCURRENCY: u16 = 4;
    const DEBOUNCE: Duration = Duration::from_millis(1);

    fn status(object: &Mirror) -> Option<&MirrorStatus> {
        object.status.as_ref()
    }
    fn conditions(status: &MirrorStatus) -> &[Condition] {
        &status.conditions
    }
    fn group(object: &Mirror) -> Option<String> {
        Some(object.spec.color.clone())
    }
    /// Requeues the blue objects once all have been reconciled.
    fn triggers(
        _: &Arc<MirrorContext>,
        _: Option<&str>,
    ) -> Vec<BoxStream<'static, Requeued<Mirror, String>>> {
        let blue = async {
            wait_until(|reconciles| reconciles.len() == 2).await;
            Requeued::Group("blue".to_owned())
        };
        vec![blue.into_stream().boxed()]
    }

    async fn reconcile(object: Arc<Mirror>, _: Arc<MirrorContext>) -> Outcome<MirrorStatus> {
        *RECONCILES
            .lock()
            .unwrap()
            .entry(object.name_any())
            .or_default() += 1;
        let old = object.status.clone().unwrap_or_default();
        let conditions = conditions(
            &State::Ready,
            object.metadata.generation,
            &old.conditions,
            &Time(Timestamp::now()),
        );
        let status = MirrorStatus {
            conditions,
            color: object.spec.color.clone(),
        };
        Outcome {
            status: Some(status),
            state: State::Ready,
            notices: Vec::new(),
            requeue: Requeue::OnChange,
        }
    }
}

impl Registered for MirrorKind {
    const SERVED: Served = Served::Watched;
    const EDITORS: Editors = Editors::Edit;
    const OWNS_OBJECTS: bool = false;
    const RIGHTS: &'static [Right] = &[Right {
        group: "example.com",
        resources: &["looms"],
        names: &[],
        verbs: &["get"],
        why: "Mirrors are woven on looms.",
        used_by: &["runtime/driver.rs"],
    }];

    fn context(shared: &Arc<Context>) -> Arc<MirrorContext> {
        Arc::new(MirrorContext {
            shared: Arc::clone(shared),
        })
    }
    fn review(object: Mirror) -> Review {
        let unwise = (object.spec.color == "grey").then(|| "grey is no color".to_owned());
        Review::Alone((Vec::new(), unwise.into_iter().collect()))
    }
}

async fn wait_until(holds: impl Fn(&BTreeMap<String, u32>) -> bool) {
    let waits = async {
        while !holds(&RECONCILES.lock().unwrap()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), waits)
        .await
        .unwrap();
}

fn mirror(name: &str, color: &str) -> Value {
    json!({"apiVersion": "freehold.dev/v1alpha1", "kind": "Mirror", "spec": {"color": color},
        "metadata": {"name": name, "namespace": "n", "uid": name, "generation": 1}})
}

fn path(name: &str) -> String {
    format!("/apis/freehold.dev/v1alpha1/namespaces/n/mirrors/{name}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_driver_runs_a_kind_that_it_does_not_know() {
    let api = Arc::new(Mutex::new(Api::default()));
    for (name, color) in [("sky", "blue"), ("rose", "red")] {
        api.lock().unwrap().put(&path(name), mirror(name, color));
    }
    let context = Arc::new(Context::new(client(&api), Settings::default()));
    let (stop, stopped) = watch::channel(false);
    let driver = Entry::of::<MirrorKind>().driver(&context);
    let running = tokio::spawn(driver(Some("n".into()), Health::default(), stopped));
    wait_until(|reconciles| reconciles.get("sky") == Some(&2)).await;
    stop.send(true).unwrap();
    running.await.unwrap();
    assert_eq!(
        RECONCILES.lock().unwrap()["rose"],
        1,
        "it is of another group"
    );
    for (name, color) in [("sky", "blue"), ("rose", "red")] {
        let status = api.lock().unwrap().objects[&path(name)]["status"].clone();
        assert_eq!(
            (&status["color"], &status["conditions"][0]["reason"]),
            (&json!(color), &json!("Ready"))
        );
    }
    assert_eq!(
        api.lock().unwrap().version,
        4,
        "one write of the status for each object, and none when nothing changed"
    );
    assert!(context.metrics.text().contains("kind=\"Mirror\""));
}

#[test]
fn its_entry_gives_its_definition_and_its_check() {
    let entry = Entry::of::<MirrorKind>();
    assert_eq!(
        entry.definition().metadata.name.as_deref(),
        Some("mirrors.freehold.dev")
    );
    let Ok(Review::Alone((invalids, warnings))) = entry.review(mirror("m", "grey")) else {
        panic!("it says enough")
    };
    assert_eq!(
        (invalids.len(), warnings),
        (0, vec!["grey is no color".to_owned()])
    );
    let unread = entry
        .review(json!({"metadata": {"name": "m"}, "spec": {"color": 1}}))
        .err()
        .unwrap();
    assert_eq!(unread.field, "spec.color");
}

#[test]
fn its_entry_gives_its_rules_in_the_charts_and_its_page() {
    let fifth = Entry::of::<MirrorKind>();
    let kinds: Vec<&Entry> = REGISTRY.iter().chain([&fifth]).collect();
    let files = reference::files(&kinds);
    let rules = &files["charts/freehold/templates/_rules.tpl"];
    for (rule, verbs) in [
        ("[topics, users, mirrors]", "[get, list, watch, patch]"),
        ("[topics/status, users/status, mirrors/status]", "[patch]"),
        (
            "[kafkaclusters, topics, users, pipelines, mirrors]",
            "[get, list, watch, patch]",
        ),
        ("[looms]", "[get]"),
    ] {
        let wanted = format!("  resources: {rule}\n  verbs: {verbs}\n");
        assert!(rules.contains(&wanted), "{wanted}{rules}");
    }
    assert!(rules.contains("# Mirrors are woven on looms.\n- apiGroups: [example.com]"));
    assert!(!rules.contains("mirrors/finalizers"), "it owns no objects");
    assert!(rules.contains(
        "  resources: [kafkaclusters, topics, users, pipelines, mirrors]\n  operations: [CREATE, UPDATE]"
    ));
    let people = &files["charts/freehold-crds/templates/cluster-roles.yaml"];
    assert_eq!(people.matches("mirrors").count(), 2, "view and edit");
    let page = &files["docs/reference/mirror.md"];
    assert!(
        page.contains("| `spec.color` | string | required | The color of what is seen in it. |"),
        "{page}"
    );
    assert!(files["docs/reference/rights.md"].contains("Mirrors are woven on looms."));
}
