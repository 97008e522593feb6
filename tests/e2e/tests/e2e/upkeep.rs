//! One problem never blocks the rest: what another client adds to an object is removed and
//! reported, a config that Kafka refuses blocks only itself, and the readiness gates of a Paused
//! cluster are still updated.

use crate::kafka;
use crate::rolls::demo as cluster;
use crate::world::{LONG, Restore, asked, block_on, kubectl, super_admin, topic};
use anyhow::Context;
use freehold_e2e::kubectl::Kubectl;
use freehold_e2e::shell;
use serde_json::{Value, json};
use std::time::Duration;

/// The messages of the cluster's events with a reason.
fn events(kubectl: &Kubectl, reason: &str) -> anyhow::Result<String> {
    let selector = format!("involvedObject.name=demo,reason={reason}");
    kubectl.run(&[
        "get",
        "events",
        "--namespace",
        "kafka",
        "--field-selector",
        &selector,
        "-o",
        "jsonpath={.items[*].message}",
    ])
}

#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn what_somebody_adds_to_an_object_goes_and_is_told() {
    let kubectl = kubectl();
    kubectl
        .wait_ready("kafkacluster", "kafka", "demo", LONG)
        .unwrap();
    let pods = || {
        kubectl.run(&[
            "get",
            "pods",
            "--namespace",
            "kafka",
            "--selector",
            "freehold.dev/cluster=demo",
            "-o",
            "jsonpath={.items[*].metadata.uid}",
        ])
    };
    let before = asked("the pods", pods);
    let more = json!({"zz": "added"});
    let port = json!({"name": "zz", "port": 9999, "protocol": "TCP"});
    let changes = [
        (
            "service",
            "demo-bootstrap",
            json!({"spec": {"selector": more}}),
        ),
        (
            "service",
            "demo-bootstrap",
            json!({"spec": {"ports": [port]}}),
        ),
        (
            "poddisruptionbudget",
            "demo-brokers",
            json!({"spec": {"selector": {"matchLabels": more}}}),
        ),
        (
            "networkpolicy",
            "demo-brokers",
            json!({"spec": {"podSelector": {"matchLabels": more}}}),
        ),
        (
            "statefulset",
            "demo-nodes-zone-a",
            json!({"spec": {"template": {"spec": {"containers": [{"name": "kafka", "env": [{"name": "zz", "value": "added"}]}]}}}}),
        ),
    ];
    for (kind, name, patch) in &changes {
        // A strategic merge patch adds to lists, as `kubectl patch` and `kubectl set env` do.
        kubectl
            .run(&[
                "patch",
                kind,
                name,
                "--namespace",
                "kafka",
                "-p",
                &patch.to_string(),
            ])
            .unwrap();
    }
    // Additions that are allowed are left alone.
    kubectl
        .run(&[
            "annotate",
            "service",
            "demo-bootstrap",
            "--namespace",
            "kafka",
            "team=shop",
        ])
        .unwrap();
    shell::wait_for("what was added to be gone", LONG, || {
        let mut left = Vec::new();
        for (kind, name, _) in &changes {
            let found = kubectl.get(kind, "kafka", name)?;
            let spec = found.context("it is not there")?["spec"].to_string();
            if spec.contains("zz") {
                left.push(format!("{kind} {name}"));
            }
        }
        Ok((!left.is_empty()).then(|| left.join(", ")))
    })
    .unwrap();
    shell::wait_for("the event that tells of it", LONG, || {
        let told = events(&kubectl, "DriftCorrected")?;
        let wanted = ["Service demo-bootstrap, spec.selector", "env[zz]"];
        Ok((!wanted.iter().all(|words| told.contains(words))).then_some(told))
    })
    .unwrap();
    let version = |kind: &str, name: &str| {
        let found = asked(name, || {
            let found = kubectl.get(kind, "kafka", name)?;
            found.context("it is not there")
        });
        found["metadata"]["generation"].clone()
    };
    let generations = || {
        changes
            .iter()
            .map(|(kind, name, _)| version(kind, name))
            .collect::<Vec<_>>()
    };
    let settled = generations();
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(generations(), settled, "and nothing is applied again");
    let service = kubectl
        .get("service", "kafka", "demo-bootstrap")
        .unwrap()
        .unwrap();
    assert_eq!(service["metadata"]["annotations"]["team"], "shop");
    kubectl
        .run(&[
            "annotate",
            "service",
            "demo-bootstrap",
            "--namespace",
            "kafka",
            "team-",
        ])
        .unwrap();
    kubectl
        .wait_ready("kafkacluster", "kafka", "demo", LONG)
        .unwrap();
    assert_eq!(asked("the pods", pods), before, "no pod restarts for it");
    assert!(
        cluster(&kubectl)["status"]["refused"].is_null(),
        "{}",
        cluster(&kubectl)["status"]["refused"]
    );
}

#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn a_config_that_kafka_refuses_stops_itself_alone_and_thread_counts_change_in_steps() {
    let kubectl = kubectl();
    // The local retention is longer than the total one: every broker refuses it. 64 io threads are
    // the default doubled three times.
    let _config = Restore::demo(
        &kubectl,
        &json!({"config": {"log.local.retention.ms": null, "num.io.threads": null}}),
    );
    let config = json!({"log.local.retention.ms": "999999999999", "num.io.threads": "64"});
    kubectl
        .merge(
            "kafkacluster",
            "kafka",
            "demo",
            &json!({"spec": {"config": config}}),
        )
        .unwrap();
    let (reason, message) = kubectl
        .wait_condition("kafkacluster", "kafka", "demo", "Stalled", LONG)
        .unwrap();
    assert!(
        reason == "KafkaRefused" && message.contains("spec.config[log.local.retention.ms]"),
        "{reason}: {message}"
    );
    let admin = super_admin(&kubectl, "kafka", "demo");
    shell::wait_for("every broker to have 64 threads", LONG, || {
        let set = block_on(kafka::broker_config(&admin, "num.io.threads"))?;
        Ok((set.as_deref() != Some("64")).then(|| format!("{set:?}")))
    })
    .unwrap();
    // Everything else continues.
    kubectl
        .apply(&topic(
            "meanwhile",
            "demo",
            "  partitions: 1\n  replicas: 2\n",
        ))
        .unwrap();
    kubectl
        .wait_ready("topic", "shop", "meanwhile", LONG)
        .unwrap();
    kubectl.delete("topic", "shop", "meanwhile", LONG).unwrap();
    let config = json!({"log.local.retention.ms": null, "num.io.threads": null});
    kubectl
        .merge(
            "kafkacluster",
            "kafka",
            "demo",
            &json!({"spec": {"config": config}}),
        )
        .unwrap();
    kubectl
        .wait_ready("kafkacluster", "kafka", "demo", LONG)
        .unwrap();
    shell::wait_for("every broker to have the default again", LONG, || {
        let set = block_on(kafka::broker_config(&admin, "num.io.threads"))?;
        Ok((set.as_deref() != Some("8")).then(|| format!("{set:?}")))
    })
    .unwrap();
}

#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn a_paused_cluster_keeps_its_gates_and_makes_no_topic() {
    let kubectl = kubectl();
    kubectl
        .wait_ready("kafkacluster", "kafka", "demo", LONG)
        .unwrap();
    let state = |state: Value| {
        kubectl
            .merge(
                "kafkacluster",
                "kafka",
                "demo",
                &json!({"spec": {"state": state}}),
            )
            .unwrap()
    };
    let _running = Restore::demo(&kubectl, &json!({"state": "Running"}));
    state(json!("Paused"));
    shell::wait_for("the cluster to say that it is Paused", LONG, || {
        let reason = cluster(&kubectl)["status"]["reason"].to_string();
        Ok((!reason.contains("Paused")).then_some(reason))
    })
    .unwrap();
    kubectl
        .apply(&topic("waits", "demo", "  partitions: 1\n  replicas: 2\n"))
        .unwrap();
    shell::wait_for("the Topic to say so too", LONG, || {
        let found = kubectl.get("topic", "shop", "waits")?.unwrap_or_default();
        let said = found["status"]["conditions"].to_string();
        Ok((!said.contains("\"Paused\"")).then_some(said))
    })
    .unwrap();
    let words = [
        "get",
        "pods",
        "--namespace",
        "kafka",
        "--selector",
        "freehold.dev/cluster=demo",
        "-o",
        "name",
    ];
    let pods = asked("the pods", || kubectl.run(&words));
    let pod = pods.lines().next().unwrap();
    kubectl
        .run(&["delete", pod, "--namespace", "kafka"])
        .unwrap();
    shell::wait_for("the pod that was made anew to be Ready", LONG, || {
        let waited = kubectl.run(&[
            "wait",
            pod,
            "--namespace",
            "kafka",
            "--for=condition=Ready",
            "--timeout=60s",
        ]);
        Ok(waited.err().map(|error| error.to_string()))
    })
    .unwrap();
    let admin = super_admin(&kubectl, "kafka", "demo");
    let made = asked("the topic", || Ok(block_on(kafka::topic(&admin, "waits"))?));
    assert!(made.is_none(), "nothing is made in a Paused cluster");
    state(json!("Running"));
    kubectl.wait_ready("topic", "shop", "waits", LONG).unwrap();
    kubectl
        .wait_ready("kafkacluster", "kafka", "demo", LONG)
        .unwrap();
    kubectl.delete("topic", "shop", "waits", LONG).unwrap();
}
