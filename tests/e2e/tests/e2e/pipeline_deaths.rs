//! The operator dies after each of its writes while a Pipeline is made, changed, scaled, rolled
//! back, paused and deleted; the result is that of an operator that lives.

use crate::dying::{Dying, NO_REST, REST, assert_same};
use crate::world::{
    LONG, Operator, asked, kafka_image, kubectl, leave, namespace, runner_image, small_cluster,
};
use freehold_e2e::kubectl::{Kubectl, condition_of, not_ready};
use freehold_e2e::shell;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::process::Command;

const NAMESPACE: &str = "dying";
/// The kinds of a Pipeline's objects.
const KINDS: &str =
    "user,topic,statefulset,configmap,serviceaccount,networkpolicy,poddisruptionbudget";

/// A topic that is read, one that is written, and a Pipeline between them.
fn objects(program: &str, isolate: bool, replicas: u32) -> String {
    let topic = |name: &str| {
        format!(
            "apiVersion: freehold.dev/v1alpha1
kind: Topic
metadata: {{name: {name}, namespace: {NAMESPACE}}}
spec: {{clusterRef: {{name: {NAMESPACE}}}, partitions: 2, replicas: 1}}
---
"
        )
    };
    format!(
        "{}{}apiVersion: freehold.dev/v1alpha1
kind: Pipeline
metadata: {{name: flow, namespace: {NAMESPACE}}}
spec:
  clusterRef: {{name: {NAMESPACE}}}
  replicas: {replicas}
  errors: {{policy: Skip}}
  blocks:
  - {{name: in, source: {{kafka: {{topicRef: {{name: flow-in}}}}}}}}
  - {{name: change, from: [in], isolate: {isolate}, transform: {{vrl: '{program}'}}}}
  - {{name: out, from: [change], sink: {{kafka: {{topicRef: {{name: flow-out}}}}}}}}
",
        topic("flow-in"),
        topic("flow-out"),
    )
}

fn flow(kubectl: &Kubectl) -> Option<Value> {
    asked("the Pipeline", || {
        kubectl.get("pipeline", NAMESPACE, "flow")
    })
}

/// Whether the Pipeline is Ready with this revision, and each of its stages has so many pods.
fn runs(kubectl: &Kubectl, revision: i64, pods: &[i64]) -> bool {
    let Some(object) = flow(kubectl) else {
        return false;
    };
    let status = &object["status"];
    let stages = status["stages"].as_array().into_iter().flatten();
    let ready: Vec<i64> = stages.filter_map(|stage| stage["ready"].as_i64()).collect();
    not_ready(&object).is_none() && status["revision"] == revision && ready == pods
}

/// The pods and objects of the Pipeline that are there, by name.
fn left(kubectl: &Kubectl, kinds: &str) -> String {
    let selector = "freehold.dev/pipeline=flow";
    let words = [
        "get",
        kinds,
        "--namespace",
        NAMESPACE,
        "--selector",
        selector,
        "--output",
        "name",
    ];
    asked("what is left", || kubectl.run(&words))
        .trim()
        .to_owned()
}

/// The Pipeline's objects, without what is drawn, counted, or of one Pipeline object alone.
fn end_state(kubectl: &Kubectl) -> BTreeMap<String, Value> {
    let selector = "freehold.dev/pipeline=flow";
    let words = [
        "get",
        KINDS,
        "--namespace",
        NAMESPACE,
        "--selector",
        selector,
    ];
    let list = kubectl.json(&words).unwrap();
    let object = |item: &Value| {
        let name = format!(
            "{}/{}",
            item["kind"].as_str().unwrap(),
            item["metadata"]["name"].as_str().unwrap()
        );
        let mut spec = item["spec"].clone();
        // A hash of the stage with the Pipeline's uid, and one of the password.
        if let Some(annotations) = spec.pointer_mut("/template/metadata/annotations") {
            *annotations = Value::Null;
        }
        let document = item["data"]["stage.json"].as_str();
        let stage = document.map(|text| {
            let mut stage: Value = serde_json::from_str(text).unwrap();
            for drawn in ["uid", "revision"] {
                stage.as_object_mut().unwrap().remove(drawn);
            }
            // Kafka draws the ids of topics, and the internal one is made anew.
            let topics = stage["topics"].as_object_mut().into_iter().flatten();
            topics.for_each(|(_, ids)| ids["id"] = Value::Null);
            stage
        });
        let owners = item["metadata"]["ownerReferences"].as_array();
        let labels = &item["metadata"]["labels"];
        let kept =
            json!({"labels": labels, "spec": spec, "stage": stage, "owned": owners.is_some()});
        (name, kept)
    };
    list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(object)
        .collect()
}

#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn dying_after_every_write_a_pipeline_ends_the_same() {
    let kubectl = kubectl();
    let (image, runner) = (kafka_image(&kubectl), runner_image(&kubectl));
    let environment = [("FREEHOLD_RUNNER_IMAGE", runner.as_str())];
    let _pods = namespace(&kubectl, NAMESPACE);
    let policy = "  deletionPolicy: Delete\n";
    kubectl
        .apply(&small_cluster(NAMESPACE, NAMESPACE, "4.3.1", policy))
        .unwrap();
    {
        let _operator = Operator::start(NAMESPACE, NAMESPACE, &image, &environment);
        kubectl
            .wait_ready("kafkacluster", NAMESPACE, NAMESPACE, LONG)
            .unwrap();
    }
    let dying = Dying {
        kubectl: &kubectl,
        namespace: NAMESPACE,
        image: &image,
        environment: &environment,
    };
    let deaths = life(&kubectl, &dying);
    println!("deaths of the operator after every write of a Pipeline: {deaths:?}");
    assert!(deaths.iter().all(|(_, deaths)| *deaths > 0), "{deaths:?}");
    let disturbed = end_state(&kubectl);
    kubectl
        .run(&[
            "delete",
            "pipeline",
            "flow",
            "--namespace",
            NAMESPACE,
            "--wait=false",
        ])
        .unwrap();
    let ends = dying.until(NO_REST, || flow(&kubectl).is_none());
    println!("and {ends} at its deletion");
    assert!(ends > 0);

    let _operator = Operator::start(NAMESPACE, NAMESPACE, &image, &environment);
    shell::wait_for("nothing of it is left", LONG, || {
        let left = left(&kubectl, &format!("{KINDS},pod,controllerrevision"));
        Ok((!left.is_empty()).then_some(left))
    })
    .unwrap();
    kubectl.apply(&objects(". = 3", true, 1)).unwrap();
    shell::wait_for("it runs again", LONG, || {
        Ok((!runs(&kubectl, 1, &[1, 1])).then(|| format!("{:?}", flow(&kubectl))))
    })
    .unwrap();
    let undisturbed = end_state(&kubectl);
    assert_same(&disturbed, &undisturbed);
    kubectl.delete("pipeline", NAMESPACE, "flow", LONG).unwrap();
    for (kind, name) in [
        ("topic", "flow-in"),
        ("topic", "flow-out"),
        ("kafkacluster", NAMESPACE),
    ] {
        kubectl.delete(kind, NAMESPACE, name, LONG).unwrap();
    }
    leave(&kubectl, "namespace", "", NAMESPACE);
}

/// Each step under an operator that dies, with the number of its deaths.
fn life(kubectl: &Kubectl, dying: &Dying<'_>) -> Vec<(&'static str, u32)> {
    let mut deaths = Vec::new();
    let mut step = |what, done: &dyn Fn() -> bool| deaths.push((what, dying.until(NO_REST, done)));
    kubectl.apply(&objects(". = 1", false, 1)).unwrap();
    step("made", &|| runs(kubectl, 1, &[1]));
    kubectl.apply(&objects(". = 2", true, 1)).unwrap();
    step("changed", &|| runs(kubectl, 2, &[1, 1]));
    let scale = [
        "scale",
        "pipeline",
        "flow",
        "--replicas=2",
        "--namespace",
        NAMESPACE,
    ];
    kubectl.run(&scale).unwrap();
    step("scaled", &|| runs(kubectl, 2, &[2, 2]));
    let binary = std::env::var("FREEHOLD_BINARY").expect("cargo xtask test sets it");
    let object = format!("{NAMESPACE}/flow");
    let mut back = Command::new(binary);
    shell::run(back.args(["pipeline", "rollback", &object, "--to", "1"])).unwrap();
    step("rolled back", &|| runs(kubectl, 3, &[2]));
    let pause = json!({"spec": {"state": "Paused"}});
    kubectl
        .merge("pipeline", NAMESPACE, "flow", &pause)
        .unwrap();
    step("paused", &|| {
        let object = flow(kubectl).unwrap_or_default();
        let ready = condition_of(&object, "Ready").cloned().unwrap_or_default();
        ready["reason"] == "Paused" && left(kubectl, "pod").is_empty()
    });
    kubectl.apply(&objects(". = 3", true, 1)).unwrap();
    let run = json!({"spec": {"state": "Running"}});
    kubectl.merge("pipeline", NAMESPACE, "flow", &run).unwrap();
    step("goes on", &|| runs(kubectl, 4, &[1, 1]));
    dying.until(REST, || runs(kubectl, 4, &[1, 1]));
    deaths
}
