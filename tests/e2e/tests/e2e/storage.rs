//! Volumes that really grow while records flow, change their class, grow automatically before they
//! are full, and report it when they cannot.

use crate::load::{self, Load};
use crate::world::{
    LONG, Restore, asked, block_on, client, delete_topic, kubectl, super_admin, topic, user,
};
use anyhow::Context;
use freehold_e2e::flow;
use freehold_e2e::kubectl::Kubectl;
use freehold_e2e::shell;
use freehold_kafka_client::Admin;
use serde_json::{Value, json};
use std::time::Instant;

const POD: &str = "grown-all-zone-a-0";
const CLAIM: &str = "data-grown-all-zone-a-0";
const MIB: i64 = 1024 * 1024;
const DRIVER: &str = "csi.local.freehold.dev";

fn patch(kubectl: &Kubectl, storage: &Value, fixed: Option<&str>) {
    let mut pools = vec![
        json!({"name": "all", "roles": ["controller", "broker"], "replicas": 1, "zones": ["zone-a"],
        "storage": storage, "jvm": {"heap": "320Mi"}}),
    ];
    pools.extend(fixed.map(|size| {
        json!({"name": "fixed", "roles": ["controller"], "replicas": 1, "zones": ["zone-b"], "jvm": {"heap": "256Mi"},
            "storage": {"size": size, "storageClassName": "test-fixed"}})
    }));
    kubectl
        .merge(
            "kafkacluster",
            "kafka",
            "grown",
            &json!({"spec": {"nodePools": pools}}),
        )
        .unwrap();
}

fn claim(kubectl: &Kubectl) -> Value {
    found(kubectl, "pvc", CLAIM)
}

/// An object of the cluster's namespace that is there.
fn found(kubectl: &Kubectl, kind: &str, name: &str) -> Value {
    asked(name, || {
        let found = kubectl.get(kind, "kafka", name)?;
        found.context("it is not there")
    })
}

fn uid(kubectl: &Kubectl, kind: &str, name: &str) -> String {
    found(kubectl, kind, name)["metadata"]["uid"]
        .as_str()
        .unwrap()
        .to_owned()
}

/// The size of the volume in MiB, as the broker reports it.
fn disk(kubectl: &Kubectl) -> i64 {
    asked("the broker's folders", || {
        let folders = block_on(super_admin(kubectl, "kafka", "grown").log_folders_of(0))?;
        let folder = folders.0.values().next().context("no folder")?;
        Ok(folder.disk.context("no disk")?.total / MIB)
    })
}

fn waits_for(kubectl: &Kubectl, words: &str) {
    shell::wait_for(words, LONG, || {
        let status = kubectl
            .get("kafkacluster", "kafka", "grown")?
            .unwrap_or_default()["status"]
            .clone();
        Ok((!status["waitingOn"].to_string().contains(words))
            .then(|| status["waitingOn"].to_string()))
    })
    .unwrap();
}

fn classes() -> String {
    let attributes = |name: &str, key: &str, value: &str| {
        json!({"apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttributesClass", "metadata": {"name": name}, "driverName": DRIVER,
            "parameters": {key: value}})
    };
    json!({"apiVersion": "v1", "kind": "List", "items": [
        attributes("test-fast", "iops", "3000"), attributes("test-faster", "iops", "6000"), attributes("test-wrong", "colour", "red"),
        {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "test-fixed"}, "provisioner": DRIVER,
            "volumeBindingMode": "WaitForFirstConsumer", "allowVolumeExpansion": false}]})
    .to_string()
}

#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn volumes_grow_under_load_and_say_so_where_they_cannot() {
    let kubectl = kubectl();
    kubectl.apply(&classes()).unwrap();
    let _cluster = Restore::delete(&kubectl, "kafkacluster", "kafka", "grown");
    let pool = "{name: all, roles: [controller, broker], replicas: 1, zones: [zone-a], jvm: {heap: 320Mi}, storage: {size: 512Mi}}";
    kubectl
        .apply(&format!(
            "apiVersion: freehold.dev/v1alpha1\nkind: KafkaCluster\nmetadata: {{name: grown, namespace: kafka}}\nspec:\n  version: 4.3.1\n  \
             nodePools:\n  - {pool}\n  listeners:\n  - {{name: scram, port: 9094, authentication: ScramSha512}}\n  \
             access: {{namespaces: {{from: All}}}}\n  deletionPolicy: Delete\n  rebalance: {{mode: Never}}\n"
        ))
        .unwrap();
    kubectl
        .apply(&topic("swollen", "grown", "  partitions: 2\n"))
        .unwrap();
    kubectl
        .apply(&topic("filling", "grown", "  partitions: 1\n"))
        .unwrap();
    let rights = "  authentication: {type: ScramSha512}\n  grants:\n  - {produce: {topics: [swollen, filling]}}\n  \
                  - {consume: {topics: [swollen], groups: [\"shop-*\"]}}\n";
    kubectl.apply(&user("grown", "grown", rights)).unwrap();
    for (kind, namespace, name) in [
        ("kafkacluster", "kafka", "grown"),
        ("topic", "shop", "swollen"),
        ("topic", "shop", "filling"),
        ("user", "shop", "grown"),
    ] {
        kubectl.wait_ready(kind, namespace, name, LONG).unwrap();
    }
    let (pod, small) = (uid(&kubectl, "pod", POD), disk(&kubectl));
    let load = Load::of(
        &kubectl,
        client(&kubectl, "grown", "swollen"),
        "grown",
        load::rate(),
    );
    let filler = client(&kubectl, "grown", "filling");
    let args = [
        "--num-records",
        "2000",
        "--record-size",
        "100000",
        "--throughput",
        "-1",
    ];
    flow::start(
        &kubectl,
        &filler,
        "grown-fill",
        "ProducerPerformance",
        &args,
        flow::SAFE_PRODUCER,
    )
    .unwrap();

    let start = Instant::now();
    patch(&kubectl, &json!({"size": "768Mi"}), None);
    kubectl
        .wait_ready("kafkacluster", "kafka", "grown", LONG)
        .unwrap();
    let (took, mut large) = (start.elapsed(), 0);
    shell::wait_for("the broker to see its larger volume", LONG, || {
        large = disk(&kubectl);
        Ok((large <= 690).then(|| format!("{large} MiB")))
    })
    .unwrap();
    assert!(
        small < 512 && large <= 768,
        "the broker's volume: {small} MiB, then {large} MiB"
    );
    shell::wait_for("the claim to say so", LONG, || {
        let capacity = claim(&kubectl)["status"]["capacity"]["storage"].clone();
        Ok((capacity != "768Mi").then(|| capacity.to_string()))
    })
    .unwrap();
    shell::wait_for("the next one to be as large", LONG, || {
        let set = found(&kubectl, "statefulset", "grown-all-zone-a");
        let claim = &set["spec"]["volumeClaimTemplates"][0]["spec"];
        let size = &claim["resources"]["requests"]["storage"];
        Ok((*size != "768Mi").then(|| size.to_string()))
    })
    .unwrap();
    // A size below what the volume has is refused; one that it cannot reach is taken back.
    patch(&kubectl, &json!({"size": "512Mi"}), None);
    shell::wait_for("a smaller size to be refused", LONG, || {
        let status = found(&kubectl, "kafkacluster", "grown")["status"].clone();
        let conditions = status["conditions"].to_string();
        Ok((!conditions.contains("a volume cannot shrink")).then_some(conditions))
    })
    .unwrap();
    patch(&kubectl, &json!({"size": "64Ti"}), None);
    waits_for(&kubectl, "to 64Ti");
    patch(&kubectl, &json!({"size": "768Mi"}), None);
    kubectl
        .wait_ready("kafkacluster", "kafka", "grown", LONG)
        .unwrap();
    // Kubernetes takes only a size above the one that the volume has.
    assert_eq!(
        claim(&kubectl)["spec"]["resources"]["requests"]["storage"],
        "769Mi"
    );

    // Changes the class of a volume in use. The driver refuses one class: this is reported, and
    // another class replaces it.
    for class in ["test-fast", "test-wrong", "test-faster"] {
        patch(
            &kubectl,
            &json!({"size": "768Mi", "volumeAttributesClassName": class}),
            None,
        );
        if class == "test-wrong" {
            waits_for(&kubectl, "colour");
            continue;
        }
        kubectl
            .wait_ready("kafkacluster", "kafka", "grown", LONG)
            .unwrap();
        assert_eq!(
            claim(&kubectl)["status"]["currentVolumeAttributesClassName"],
            class
        );
    }

    // The volume grows automatically before it is full. The operator asks for the usage of volumes
    // once a minute; meanwhile a further pool is added.
    assert!(
        flow::finished(&kubectl, &filler, "grown-fill", LONG).unwrap(),
        "{}",
        flow::log(&kubectl, &filler, "grown-fill").unwrap()
    );
    let grow = json!({"size": "768Mi", "volumeAttributesClassName": "test-faster", "autoGrow": {"abovePercent": 20, "maxSize": "900Mi"}});
    patch(&kubectl, &grow, Some("512Mi"));
    kubectl
        .wait_ready("kafkacluster", "kafka", "grown", LONG)
        .unwrap();
    shell::wait_for("the volume to grow by itself", LONG, || {
        let capacity = claim(&kubectl)["status"]["capacity"]["storage"].clone();
        Ok((capacity != "900Mi").then(|| capacity.to_string()))
    })
    .unwrap();
    kubectl
        .wait_ready("kafkacluster", "kafka", "grown", LONG)
        .unwrap();

    // A class that does not allow expansion: this is reported, and blocks nothing else.
    patch(&kubectl, &grow, Some("600Mi"));
    waits_for(&kubectl, "cannot change");
    // Once the StatefulSet is recreated, this is all that is left to wait for.
    shell::wait_for("the status to say so", LONG, || {
        let reason = kubectl
            .get("kafkacluster", "kafka", "grown")?
            .unwrap_or_default()["status"]["reason"]
            .to_string();
        Ok(
            (!reason.contains("Resizing: waiting for volume data-grown-fixed-zone-b-"))
                .then_some(reason),
        )
    })
    .unwrap();
    patch(&kubectl, &grow, Some("600Mi"));

    assert_eq!(uid(&kubectl, "pod", POD), pod, "the node ran all the time");
    let done = load.finish(&kubectl);
    println!(
        "storage: {small} MiB became {large} MiB in {:.1} s under load, no restart; {done}",
        took.as_secs_f64()
    );
    kubectl.delete("user", "shop", "grown", LONG).unwrap();
    delete_topic(&kubectl, "shop", "swollen");
    delete_topic(&kubectl, "shop", "filling");
    kubectl
        .delete("kafkacluster", "kafka", "grown", LONG)
        .unwrap();
    for (kind, name) in [
        ("storageclass", "test-fixed"),
        ("volumeattributesclass", "test-fast,test-wrong,test-faster"),
    ] {
        for name in name.split(',') {
            kubectl
                .run(&["delete", kind, name, "--timeout=300s"])
                .unwrap();
        }
    }
    shell::wait_for("its volumes to be gone", LONG, || {
        let left = kubectl.run(&["get", "pv", "-o", "jsonpath={.items[*].spec.claimRef.name}"])?;
        Ok(left.contains("grown").then_some(left))
    })
    .unwrap();
}
