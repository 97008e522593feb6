//! One tenant must not affect the others: objects as large as the API server accepts, objects that
//! this version cannot read, and namespaces that are deleted with everything in them.

use crate::kafka;
use crate::world::{
    LONG, Operator, access_ends, asked, block_on, client, kafka_image, kubectl, namespace, refusal,
    small_cluster, super_admin, topic, user,
};
use freehold_e2e::flow;
use freehold_e2e::kubectl::Kubectl;
use freehold_e2e::{promise, shell};
use serde_json::{Value, json};
use std::time::Instant;

const HOOK: &str = "freehold-freehold-system";

/// Disables the webhook until it is dropped.
pub struct NoWebhook(Value);

impl NoWebhook {
    pub fn new(kubectl: &Kubectl) -> Self {
        let mut kept = asked("the webhook", || {
            kubectl.json(&["get", "validatingwebhookconfiguration", HOOK])
        });
        kept["metadata"] = json!({"name": HOOK, "labels": kept["metadata"]["labels"], "annotations": kept["metadata"]["annotations"]});
        let away = Self(kept);
        kubectl
            .run(&["delete", "validatingwebhookconfiguration", HOOK])
            .unwrap();
        shell::wait_for("the API server to forget the webhook", LONG, || {
            let bad = topic(
                "webhook-is-away",
                "demo",
                "  partitions: 1\n  replicas: 5\n",
            );
            Ok(kubectl
                .feed(&["create", "--dry-run=server", "-f", "-"], &bad)
                .err()
                .map(|error| error.to_string()))
        })
        .unwrap();
        away
    }
}

impl Drop for NoWebhook {
    fn drop(&mut self) {
        let (kubectl, object) = (kubectl(), self.0.to_string());
        let back = shell::wait_for("the webhook to be back", LONG, || {
            let made = kubectl.feed(&["create", "-f", "-"], &object);
            let why = made.err().map(|error| error.to_string());
            Ok(why.filter(|why| !why.contains("AlreadyExists")))
        });
        assert!(back.is_ok() || std::thread::panicking(), "{back:?}");
    }
}

/// The numbers of restarts of the operator's containers.
fn restarts(kubectl: &Kubectl) -> Vec<Value> {
    let words = [
        "get",
        "pods",
        "--namespace",
        "freehold-system",
        "--selector",
        "app.kubernetes.io/name=freehold",
    ];
    let pods = asked("the operators", || kubectl.json(&words));
    let mut all: Vec<_> = pods["items"].as_array().unwrap().iter().collect();
    all.sort_by_key(|pod| pod["metadata"]["name"].to_string());
    all.iter()
        .map(|pod| {
            json!([
                pod["metadata"]["name"],
                pod["status"]["containerStatuses"][0]["restartCount"]
            ])
        })
        .collect()
}

/// The seconds until each of ten Topics is Ready, the slowest last.
fn seconds_to_ready(kubectl: &Kubectl, prefix: &str) -> Vec<f64> {
    let mut all: Vec<f64> = (0..10)
        .map(|index| {
            let name = format!("{prefix}-{index}");
            let start = Instant::now();
            kubectl
                .apply(&topic(&name, "demo", "  partitions: 1\n"))
                .unwrap();
            kubectl.wait_ready("topic", "shop", &name, LONG).unwrap();
            start.elapsed().as_secs_f64()
        })
        .collect();
    all.sort_by(f64::total_cmp);
    all
}

fn hostile(kind: &str, name: &str, namespace: &str, spec: &Value) -> Value {
    json!({"apiVersion": "freehold.dev/v1alpha1", "kind": kind, "metadata": {"name": name, "namespace": namespace, "labels": {"hostile": "yes"}}, "spec": spec})
}

/// Objects of every kind, each as large as the API server allows in a different field, with the
/// expected message.
fn hostile_objects() -> Vec<(&'static str, &'static str, String, Value)> {
    let of = json!({"name": "demo", "namespace": "kafka"});
    let long = |letter: &str, index: usize| format!("{letter}{index:03}{}", letter.repeat(240));
    let config = |count: usize, chars: usize| -> Value {
        (0..count)
            .map(|index| (long("k", index), json!("v".repeat(chars))))
            .collect::<serde_json::Map<_, _>>()
            .into()
    };
    let mut all = Vec::new();
    for index in 0..12 {
        let spec = json!({"clusterRef": of, "partitions": 1, "config": config(60, 4000)});
        all.push((
            "topic",
            "shop",
            format!("hostile-{index}"),
            hostile("Topic", &format!("hostile-{index}"), "shop", &spec),
        ));
        let spec = json!({"clusterRef": of, "partitions": 1, "config": config(60, 1000)});
        all.push((
            "topic",
            "shop",
            format!("large-{index}"),
            hostile("Topic", &format!("large-{index}"), "shop", &spec),
        ));
        let names: Vec<_> = (0..100).map(|name| long("t", name)).collect();
        let grants: Vec<_> = (0..48)
            .map(|_| json!({"produce": {"topics": names}}))
            .collect();
        let spec =
            json!({"clusterRef": of, "authentication": {"type": "ScramSha512"}, "grants": grants});
        all.push((
            "user",
            "shop",
            format!("hostile-{index}"),
            hostile("User", &format!("hostile-{index}"), "shop", &spec),
        ));
    }
    let pool = json!({"name": "all", "roles": ["controller", "broker"], "replicas": 1, "zones": ["zone-a"], "storage": {"size": "1Gi"}});
    for (name, count, chars) in [("hostile-0", 190, 4000), ("large-0", 190, 900)] {
        let spec = json!({"version": "4.3.1", "nodePools": [pool], "config": config(count, chars)});
        all.push((
            "kafkacluster",
            "kafka",
            name.into(),
            hostile("KafkaCluster", name, "kafka", &spec),
        ));
    }
    all
}

#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn hostile_objects_of_every_kind_harm_themselves_alone() {
    let kubectl = kubectl();
    // A CustomResourceDefinition cannot limit the length of config keys.
    let long = hostile(
        "Topic",
        "long",
        "shop",
        &json!({"clusterRef": {"name": "demo", "namespace": "kafka"}, "partitions": 1, "config": {"x".repeat(1_400_000): "1"}}),
    );
    let create = ["create", "--dry-run=server", "-f", "-"];
    refusal("256 KiB", || kubectl.feed(&create, &long.to_string()));
    let before = (restarts(&kubectl), seconds_to_ready(&kubectl, "before"));
    let objects = hostile_objects();
    // With the webhook each object is refused with a message and in time.
    for (_, _, _, object) in &objects {
        let object = object.to_string();
        refusal("validate.freehold.dev", || kubectl.feed(&create, &object));
    }
    let away = NoWebhook::new(&kubectl);
    for (_, _, _, object) in &objects {
        kubectl
            .feed(&["create", "-f", "-"], &object.to_string())
            .unwrap();
    }
    let after = seconds_to_ready(&kubectl, "beside");
    for (kind, namespace, name, _) in &objects {
        let (reason, message) = kubectl
            .wait_condition(kind, namespace, name, "Stalled", LONG)
            .unwrap();
        assert!(
            ["Unreadable", "InvalidSpec"].contains(&reason.as_str()) && message.contains("spec"),
            "{name}: {reason}: {message}"
        );
    }
    println!(
        "seconds until a Topic is Ready: {:.2} … {:.2} before, {:.2} … {:.2} beside hostile objects",
        before.1[0], before.1[9], after[0], after[9]
    );
    assert_eq!(
        restarts(&kubectl),
        before.0,
        "the operator goes on, within its memory"
    );
    for (kind, namespace) in [
        ("topic", "shop"),
        ("user", "shop"),
        ("kafkacluster", "kafka"),
    ] {
        kubectl
            .run(&[
                "delete",
                kind,
                "--namespace",
                namespace,
                "--selector",
                "hostile=yes",
                "--wait",
                "--timeout=300s",
            ])
            .unwrap();
    }
    drop(away);
    let names: Vec<_> = ["before", "beside"]
        .iter()
        .flat_map(|prefix| (0..10).map(move |index| format!("{prefix}-{index}")))
        .collect();
    let mut delete = vec!["delete", "topic", "--namespace", "shop", "--wait"];
    delete.extend(names.iter().map(String::as_str));
    kubectl.run(&delete).unwrap();
}

const TOPICS: &str = "topics.freehold.dev";
const ADOPTION: &str =
    "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/adoption/enum/-";

/// A CustomResourceDefinition with one more allowed value than the operator knows, until it is
/// dropped.
struct Newer;

impl Newer {
    fn new(kubectl: &Kubectl) -> Self {
        let patch = json!([{"op": "add", "path": ADOPTION, "value": "WhenEmpty"}]).to_string();
        kubectl
            .run(&[
                "patch",
                "customresourcedefinition",
                TOPICS,
                "--type=json",
                "--patch",
                &patch,
            ])
            .unwrap();
        Self
    }
}

impl Drop for Newer {
    fn drop(&mut self) {
        let kubectl = kubectl();
        let _ = kubectl.run(&[
            "delete",
            "topic",
            "newer",
            "--namespace",
            "shop",
            "--ignore-not-found",
            "--wait=false",
        ]);
        let last = ADOPTION.replace('-', "3");
        let patch = json!([{"op": "test", "path": last, "value": "WhenEmpty"}, {"op": "remove", "path": last}]).to_string();
        let _ = kubectl.run(&[
            "patch",
            "customresourcedefinition",
            TOPICS,
            "--type=json",
            "--patch",
            &patch,
        ]);
    }
}

#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn an_object_of_a_newer_version_says_so_itself_and_the_others_are_served() {
    let kubectl = kubectl();
    let newer = Newer::new(&kubectl);
    let object = topic("newer", "demo", "  partitions: 1\n  adoption: WhenEmpty\n");
    shell::wait_for("the API server to take the new value", LONG, || {
        let answer = kubectl
            .feed(&["create", "--dry-run=server", "-f", "-"], &object)
            .err()
            .map(|error| error.to_string());
        Ok(answer.filter(|answer| !answer.contains("validate.freehold.dev")))
    })
    .unwrap();
    let create = ["create", "--dry-run=server", "-f", "-"];
    let refused = refusal("spec.adoption", || kubectl.feed(&create, &object));
    assert!(refused.contains("WhenEmpty"), "{refused}");
    {
        let _away = NoWebhook::new(&kubectl);
        kubectl.feed(&["create", "-f", "-"], &object).unwrap();
        let (reason, message) = kubectl
            .wait_condition("topic", "shop", "newer", "Stalled", LONG)
            .unwrap();
        assert!(
            reason == "Unreadable" && message.contains("spec.adoption"),
            "{reason}: {message}"
        );
    }
    // A leader that starts while the object exists still serves the others.
    kubectl
        .run(&[
            "rollout",
            "restart",
            "deployment/freehold",
            "--namespace",
            "freehold-system",
        ])
        .unwrap();
    kubectl
        .run(&[
            "rollout",
            "status",
            "deployment/freehold",
            "--namespace",
            "freehold-system",
            "--timeout=300s",
        ])
        .unwrap();
    kubectl
        .apply(&topic("beside-newer", "demo", "  partitions: 1\n"))
        .unwrap();
    kubectl
        .wait_ready("topic", "shop", "beside-newer", LONG)
        .unwrap();
    kubectl
        .delete("topic", "shop", "beside-newer", LONG)
        .unwrap();
    kubectl.delete("topic", "shop", "newer", LONG).unwrap();
    drop(newer);
}

/// An operator with the chart's rights in two namespaces only, and all its own objects in a third
/// one.
fn limited_operator(kubectl: &Kubectl, home: &str, watched: &[&str], image: &str) -> Operator {
    let account = format!("system:serviceaccount:{home}:operator");
    kubectl
        .run(&["create", "serviceaccount", "operator", "--namespace", home])
        .unwrap();
    let bind = |namespace: &str, kind: &str, role: &str, name: &str| {
        let flag = format!("--{kind}={role}");
        let subject = format!("--serviceaccount={home}:operator");
        kubectl
            .run(&[
                "create",
                "rolebinding",
                name,
                "--namespace",
                namespace,
                &flag,
                &subject,
            ])
            .unwrap();
    };
    bind(home, "clusterrole", "cluster-admin", "operator");
    let roles = kubectl
        .json(&[
            "get",
            "roles",
            "--namespace",
            "shop",
            "--selector",
            "app.kubernetes.io/name=freehold",
        ])
        .unwrap();
    for namespace in watched {
        for role in roles["items"].as_array().unwrap() {
            let name = role["metadata"]["name"].as_str().unwrap();
            let copy = json!({"apiVersion": role["apiVersion"], "kind": "Role", "metadata": {"name": name, "namespace": namespace}, "rules": role["rules"]});
            kubectl.apply(&copy.to_string()).unwrap();
            bind(namespace, "role", name, name);
        }
    }
    let beyond = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": home},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "freehold-freehold-system-ending"},
        "subjects": [{"kind": "ServiceAccount", "name": "operator", "namespace": home}]});
    kubectl.apply(&beyond.to_string()).unwrap();
    let mut config = kubectl
        .json(&["config", "view", "--raw", "--minify", "--flatten"])
        .unwrap();
    let token = kubectl
        .run(&[
            "create",
            "token",
            "operator",
            "--namespace",
            home,
            "--duration=2h",
        ])
        .unwrap();
    for user in config["users"].as_array_mut().unwrap() {
        user["user"] = json!({"token": token.trim()});
    }
    let file = Operator::log(home, "config").with_extension("kubeconfig");
    shell::write_file(&file, config.to_string()).unwrap();
    let namespaces = [&[home], watched].concat().join(",");
    println!("the operator is {account}");
    Operator::start(
        &namespaces,
        "limited",
        image,
        &[("KUBECONFIG", &file.to_string_lossy())],
    )
}

#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn namespaces_that_are_deleted_end_within_a_minute_and_what_was_in_them_is_forgotten() {
    let kubectl = kubectl();
    let image = kafka_image(&kubectl);
    let (home, of_cluster, of_users) = ("ending-home", "ending-kafka", "ending-shop");
    let _pods = [home, of_cluster, of_users].map(|name| namespace(&kubectl, name));
    let _operator = limited_operator(&kubectl, home, &[of_cluster, of_users], &image);
    let there = |yaml: String, namespace: &str| {
        yaml.replace("namespace: shop", &format!("namespace: {namespace}"))
            .replace("namespace: kafka", &format!("namespace: {of_cluster}"))
    };
    kubectl
        .apply(&small_cluster("ending", of_cluster, "4.3.1", ""))
        .unwrap();
    let rights = "  authentication: {type: ScramSha512}\n  grants:\n  - {produce: {topics: [held]}}\n  - {consume: {topics: [held], groups: [\"ending-shop-*\"]}}\n";
    kubectl
        .apply(&there(
            topic("held", "ending", "  partitions: 1\n"),
            of_users,
        ))
        .unwrap();
    kubectl
        .apply(&there(user("held", "ending", rights), of_users))
        .unwrap();
    kubectl
        .apply(&there(topic("left", "ending", "  partitions: 1\n"), home))
        .unwrap();
    for (kind, namespace, name) in [
        ("kafkacluster", of_cluster, "ending"),
        ("topic", of_users, "held"),
        ("user", of_users, "held"),
        ("topic", home, "left"),
    ] {
        kubectl.wait_ready(kind, namespace, name, LONG).unwrap();
    }
    let client = flow::Client {
        namespace: of_users.into(),
        ..client(&kubectl, "held", "held")
    };
    flow::prove(&kubectl, &client, "held", 10, flow::Before::Nothing, LONG).unwrap();

    let ended = |namespace: &str| {
        let start = Instant::now();
        kubectl.delete("namespace", "", namespace, LONG).unwrap();
        println!(
            "{namespace} ended after {:.0} s (aim: 60)",
            start.elapsed().as_secs_f64()
        );
    };
    // The Topic holds records, and the rights of the User are removed.
    ended(of_users);
    let left = asked("the cluster", || {
        kubectl.get("kafkacluster", of_cluster, "ending")
    });
    assert_eq!(
        freehold_e2e::kubectl::not_ready(&left.unwrap()),
        None,
        "the cluster goes on"
    );
    let admin = super_admin(&kubectl, of_cluster, "ending");
    let held = asked("the topic", || Ok(block_on(kafka::topic(&admin, "held"))?));
    promise!(held.is_some(), "topic held is gone with its records");
    access_ends("the rights of the User to go", || {
        let rights = block_on(kafka::acls(&admin, Some("User:held")))?;
        Ok(!rights.is_empty())
    });
    ended(of_cluster);
    let (reason, message) = kubectl
        .wait_condition("topic", home, "left", "Stalled", LONG)
        .unwrap();
    assert!(
        reason == "ClusterNotFound" && message.contains(of_cluster),
        "{reason}: {message}"
    );
    kubectl.delete("topic", home, "left", LONG).unwrap();
    crate::world::leave(&kubectl, "namespace", "", home);
    kubectl
        .delete("clusterrolebinding", "", home, LONG)
        .unwrap();
}
