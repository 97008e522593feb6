//! Specs as users write them are accepted and applied.

use crate::world::{LONG, Restore, asked, kubectl, small_cluster, topic, user};
use anyhow::Context;
use freehold_e2e::kubectl::Kubectl;
use serde_json::Value;

/// An object that is there.
fn found(kubectl: &Kubectl, kind: &str, namespace: &str, name: &str) -> Value {
    asked(name, || {
        let found = kubectl.get(kind, namespace, name)?;
        found.context("it is not there")
    })
}

#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn topics_and_users_are_taken_as_people_write_them() {
    let kubectl = kubectl();
    // More partitions than one step creates, fewer replicas than min.insync.replicas, and configs
    // without quotes.
    let spec = "  partitions: 2500\n  replicas: 1\n  config: {retention.ms: 604800000, preallocate: false, min.cleanable.dirty.ratio: 0.5}\n";
    // Brokers that join would have to take their share of its partitions.
    let _wide = Restore::delete(&kubectl, "topic", "shop", "wide");
    kubectl.apply(&topic("wide", "demo", spec)).unwrap();
    let named = "  username: Billing_App@example.com\n  authentication: {type: ScramSha512}\n  acls:\n  \
                 - {resource: {type: Topic, name: wide}, operations: [Read], host: \"2001:db8::1\"}\n";
    kubectl.apply(&user("billing", "demo", named)).unwrap();
    kubectl.wait_ready("topic", "shop", "wide", LONG).unwrap();
    kubectl.wait_ready("user", "shop", "billing", LONG).unwrap();
    let wide = found(&kubectl, "topic", "shop", "wide");
    assert_eq!(wide["status"]["partitions"], 2500);
    assert!(
        wide["status"]["warnings"][0]
            .as_str()
            .is_some_and(|words| words.contains("min.insync.replicas, 2")),
        "{}",
        wide["status"]
    );
    let billing = found(&kubectl, "user", "shop", "billing");
    assert_eq!(
        billing["status"]["principal"],
        "User:Billing_App@example.com"
    );
    assert_eq!(
        billing["status"]["grants"][0],
        "Allow Read on Topic wide from 2001:db8:0:0:0:0:0:1"
    );
    kubectl.delete("user", "shop", "billing", LONG).unwrap();
    kubectl.delete("topic", "shop", "wide", LONG).unwrap();
}

/// One small node with a memory request and no limit, JVM options and a pod template. Its pod is
/// created only once the PriorityClass exists; the API server reports the missing one only in the
/// events of the StatefulSet.
#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn a_pod_template_is_followed_and_a_pod_that_is_refused_is_told() {
    let kubectl = kubectl();
    let more = |class: &str| {
        format!(
            "  deletionPolicy: Delete\n  config: {{num.io.threads: 4, auto.create.topics.enable: false}}\n  podTemplate:\n    labels: {{team: kafka}}\n    \
             env: [{{name: REGION, value: eu}}]\n    volumes: [{{name: own, emptyDir: {{}}}}]\n    volumeMounts: [{{name: own, mountPath: /opt/own}}]\n    \
             securityContext: {{runAsUser: 20001, fsGroup: 20001}}\n    terminationGracePeriodSeconds: 60\n    startLimitSeconds: 600\n{class}"
        )
    };
    let cluster = |class: &str| {
        small_cluster("shaped", "kafka", "4.3.1", &more(class)).replace(
            "jvm: {heap: 320Mi}",
            "jvm: {heap: 320Mi, options: [\"-XX:MaxGCPauseMillis=50\"]}, resources: {requests: {memory: 640Mi, cpu: 100m}}",
        )
    };
    let _cluster = Restore::delete(&kubectl, "kafkacluster", "kafka", "shaped");
    kubectl
        .apply(&cluster("    priorityClassName: no-such-class\n"))
        .unwrap();
    freehold_e2e::shell::wait_for("the reason why there is no pod", LONG, || {
        let status = kubectl
            .get("kafkacluster", "kafka", "shaped")?
            .unwrap_or_default()["status"]["waitingOn"]
            .to_string();
        Ok((!status.contains("no PriorityClass with name no-such-class")).then_some(status))
    })
    .unwrap();
    kubectl.apply(&cluster("")).unwrap();
    kubectl
        .wait_ready("kafkacluster", "kafka", "shaped", LONG)
        .unwrap();
    let pod = found(&kubectl, "pod", "kafka", "shaped-all-zone-a-0");
    let container = &pod["spec"]["containers"][0];
    assert_eq!(
        container["resources"],
        serde_json::json!({"requests": {"memory": "640Mi", "cpu": "100m"}})
    );
    assert!(
        container["args"]
            .as_array()
            .unwrap()
            .iter()
            .any(|arg| arg == "-XX:MaxGCPauseMillis=50")
    );
    assert!(
        container["env"]
            .as_array()
            .unwrap()
            .iter()
            .any(|variable| variable["name"] == "REGION")
    );
    assert_eq!(
        (
            &pod["metadata"]["labels"]["team"],
            &pod["spec"]["securityContext"]["runAsUser"]
        ),
        (&"kafka".into(), &20001.into())
    );
    crate::world::leave(&kubectl, "kafkacluster", "kafka", "shaped");
}
