//! Kafka's image with each Java version: its launcher formats an empty volume and starts a broker
//! that serves. The other tests run only the newest one.

use crate::world::{LONG, kubectl, namespace};
use freehold_e2e::shell;
use serde_json::{Value, json};

const NAMESPACE: &str = "images";

/// The configuration of one combined node, in the form that the launcher reads.
fn config(name: &str) -> Value {
    let server = "process.roles=broker,controller\nnode.id=@NODE_ID@\nlog.dirs=/data/log\n\
        listeners=INTERNAL://127.0.0.1:9091,CONTROLLER://127.0.0.1:9090\nadvertised.listeners=INTERNAL://127.0.0.1:9091\n\
        listener.security.protocol.map=INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT\ninter.broker.listener.name=INTERNAL\n\
        controller.listener.names=CONTROLLER\ncontroller.quorum.bootstrap.servers=127.0.0.1:9090\n\
        authorizer.class.name=dev.freehold.kafka.ShadowAuthorizer\nsuper.users=User:ANONYMOUS\n";
    let format = "cluster.id=MkU3OEVBNTcwNTJENDM2Qg\ninitial.controllers=1@127.0.0.1:9090:Zm9vYmFyYmF6cXV4cXV1eA\n";
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": NAMESPACE},
        "data": {"server.properties": server, "format.properties": format}})
}

/// The container is like that of a node: no locale, not root, only volumes are writable.
fn pod(name: &str, image: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": NAMESPACE}, "spec": {
        "automountServiceAccountToken": false, "enableServiceLinks": false, "terminationGracePeriodSeconds": 1,
        "securityContext": {"runAsNonRoot": true, "runAsUser": 10001, "runAsGroup": 10001, "fsGroup": 10001, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{"name": "kafka", "image": image, "imagePullPolicy": "Never",
            "args": ["-Xmx320m", "dev.freehold.kafka.Launcher", "/config"],
            "env": [{"name": "NODE_ID", "value": "1"}],
            "resources": {"limits": {"memory": "800Mi"}, "requests": {"cpu": "50m", "memory": "400Mi"}},
            "readinessProbe": {"httpGet": {"path": "/readyz", "port": 8080}, "periodSeconds": 1},
            "securityContext": {"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}},
            "volumeMounts": [
                {"name": "data", "mountPath": "/data"}, {"name": "config", "mountPath": "/config"}, {"name": "tmp", "mountPath": "/tmp"}]}],
        "volumes": [{"name": "data", "emptyDir": {}}, {"name": "config", "configMap": {"name": name}}, {"name": "tmp", "emptyDir": {}}]}})
}

#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn the_image_of_each_java_starts_a_broker_from_nothing() {
    let kubectl = kubectl();
    let images = std::env::var("FREEHOLD_KAFKA_IMAGES").expect("cargo xtask test sets it");
    let images: Vec<(&str, &str)> = images
        .split(',')
        .map(|pair| pair.split_once('=').unwrap())
        .collect();
    assert!(
        images.iter().any(|(java, _)| *java == "17"),
        "the image that a machine without a newer JDK builds is among {images:?}"
    );
    let _pods = namespace(&kubectl, NAMESPACE);
    for (java, image) in &images {
        let name = format!("java{java}");
        let objects = json!({"apiVersion": "v1", "kind": "List", "items": [config(&name), pod(&name, image)]});
        kubectl.apply(&objects.to_string()).unwrap();
    }
    for (java, _) in &images {
        let name = format!("java{java}");
        let ready = || -> anyhow::Result<Option<String>> {
            let pod = kubectl.get("pod", NAMESPACE, &name)?.unwrap_or_default();
            let status = &pod["status"]["containerStatuses"][0];
            assert_eq!(
                status["restartCount"].as_u64().unwrap_or(0),
                0,
                "Java {java}: {status}"
            );
            Ok((status["ready"] != true).then(|| pod["status"].to_string()))
        };
        shell::wait_for(&format!("a broker on Java {java}"), LONG, ready).unwrap();
        shell::wait_for(&format!("the words of Java {java}"), LONG, || {
            let log = kubectl.run(&["logs", "--namespace", NAMESPACE, &name])?;
            Ok((!log.contains("Kafka Server started")).then_some(log))
        })
        .unwrap();
    }
    crate::world::leave(&kubectl, "namespace", "", NAMESPACE);
}
