//! A cluster of the older version is upgraded under load, taken back while that is possible,
//! upgraded for good, hibernated and resumed, with the same records all the time. It is taken back
//! once its first node runs the newer version; in a soak once all of them do, which otherwise
//! `lifecycle` covers with a cluster of one node.

use crate::load::{self, Load};
use crate::oracle;
use crate::world::{
    LONG, Restore, asked, client, delete_topic, kafka_image, kubectl, small_cluster, topic, user,
};
use freehold_e2e::kubectl::Kubectl;
use freehold_e2e::shell;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(600);

fn patch(kubectl: &Kubectl, spec: &Value) {
    kubectl
        .merge("kafkacluster", "kafka", "aging", &json!({"spec": spec}))
        .unwrap();
}

fn status(kubectl: &Kubectl) -> Value {
    let found = asked("the cluster", || {
        kubectl.get("kafkacluster", "kafka", "aging")
    });
    found.unwrap_or_default()["status"].clone()
}

/// Waits until the cluster is Ready for its current spec and runs this version.
fn runs(kubectl: &Kubectl, version: &str) {
    kubectl
        .wait_ready("kafkacluster", "kafka", "aging", LIMIT)
        .unwrap();
    assert_eq!(status(kubectl)["kafkaVersion"], version);
}

/// Pods that run the newer version and are Ready.
fn newer(kubectl: &Kubectl) -> Vec<String> {
    let words = [
        "get",
        "pods",
        "--namespace",
        "kafka",
        "--selector",
        "freehold.dev/cluster=aging",
    ];
    let pods = asked("the cluster's pods", || kubectl.json(&words));
    let pods = pods["items"].as_array().unwrap().iter();
    let image = kafka_image(kubectl);
    let newer = pods.filter(|pod| {
        let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
        let ready = conditions
            .into_iter()
            .any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
        ready && pod["spec"]["containers"][0]["image"] == *image
    });
    newer
        .map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn a_cluster_is_upgraded_and_taken_back_until_its_metadata_is_the_new_one_s() {
    let kubectl = kubectl();
    let one = small_cluster(
        "aging",
        "kafka",
        "4.2.1",
        "  deletionPolicy: Delete\n  upgrade: {features: Hold}\n",
    );
    let three = one.replace(
        "replicas: 1, zones: [zone-a]",
        "replicas: 3, zones: [zone-a, zone-b, zone-c]",
    );
    let _cluster = Restore::delete(&kubectl, "kafkacluster", "kafka", "aging");
    kubectl.apply(&three).unwrap();
    kubectl
        .apply(&topic("aged", "aging", "  partitions: 6\n"))
        .unwrap();
    let rights = "  authentication: {type: ScramSha512}\n  grants:\n  - {produce: {topics: [aged]}}\n  - {consume: {topics: [aged], groups: [\"shop-*\"]}}\n";
    kubectl.apply(&user("aged", "aging", rights)).unwrap();
    for (kind, namespace, name) in [
        ("kafkacluster", "kafka", "aging"),
        ("topic", "shop", "aged"),
        ("user", "shop", "aged"),
    ] {
        kubectl.wait_ready(kind, namespace, name, LONG).unwrap();
    }
    let client = client(&kubectl, "aged", "aged");
    let old = status(&kubectl)["metadataVersion"].as_i64().unwrap();
    let mark = oracle::mark(&kubectl, "kafka", "aging");
    let (load, start) = (
        Load::of(&kubectl, client.clone(), "aged", load::rate()),
        Instant::now(),
    );

    // Upgrade and take back: the metadata still have the older version's format.
    let before = newer(&kubectl);
    assert!(before.is_empty(), "{before:?}");
    patch(&kubectl, &json!({"version": "4.3.1"}));
    if load::soaks() {
        runs(&kubectl, "4.3.1");
    } else {
        shell::wait_for("a node of the newer version that is in sync", LIMIT, || {
            Ok(newer(&kubectl).is_empty().then(|| "none yet".into()))
        })
        .unwrap();
    }
    patch(&kubectl, &json!({"version": "4.2.1"}));
    runs(&kubectl, "4.2.1");
    let left = newer(&kubectl);
    assert!(left.is_empty(), "{left:?}");

    // Upgrade for good.
    patch(&kubectl, &json!({"version": "4.3.1"}));
    runs(&kubectl, "4.3.1");
    assert_eq!(
        status(&kubectl)["metadataVersion"].as_i64(),
        Some(old),
        "features are held back"
    );
    assert!(
        status(&kubectl)["warnings"]
            .to_string()
            .contains("held back"),
        "{}",
        status(&kubectl)
    );
    patch(
        &kubectl,
        &json!({"upgrade": {"features": "Auto", "soakMinutes": 0}}),
    );
    shell::wait_for("the new version's features", LIMIT, || {
        let level = status(&kubectl)["metadataVersion"].as_i64();
        Ok((level <= Some(old)).then(|| format!("{level:?}")))
    })
    .unwrap();
    runs(&kubectl, "4.3.1");
    patch(&kubectl, &json!({"version": "4.2.1"}));
    let (_, message) = kubectl
        .wait_condition("kafkacluster", "kafka", "aging", "Stalled", LONG)
        .unwrap();
    assert!(
        message.contains("spec.version")
            && message.contains("metadata.version")
            && message.contains("set 4.3.1"),
        "{message}"
    );
    patch(&kubectl, &json!({"version": "4.3.1"}));
    runs(&kubectl, "4.3.1");
    let took = start.elapsed().as_secs_f64();
    let done = load.finish(&kubectl);
    let seen = oracle::replay(&kubectl, "kafka", "aging", mark);
    oracle::assert_sound(&seen);
    println!(
        "upgrade: forward, back and forward for good in {took:.0} s, {done}; {} states replayed",
        seen.states
    );

    // Hibernated: no pods. Running again: everything is there.
    patch(&kubectl, &json!({"state": "Hibernated"}));
    shell::wait_for("no pod to be left", LIMIT, || {
        let pods = kubectl.run(&[
            "get",
            "pods",
            "--namespace",
            "kafka",
            "--selector",
            "freehold.dev/cluster=aging",
            "-o",
            "name",
        ])?;
        Ok((!pods.is_empty()).then_some(pods))
    })
    .unwrap();
    kubectl
        .wait_ready("kafkacluster", "kafka", "aging", LONG)
        .unwrap();
    assert_eq!(status(&kubectl)["reason"], "Hibernated");
    let found = asked("the cluster", || {
        kubectl.get("kafkacluster", "kafka", "aging")
    });
    let mut moved = found.unwrap()["spec"]["nodePools"][0].clone();
    moved["zones"] = json!(["zone-b"]);
    let refused = kubectl.merge(
        "kafkacluster",
        "kafka",
        "aging",
        &json!({"spec": {"nodePools": [moved]}}),
    );
    assert!(
        refused
            .unwrap_err()
            .to_string()
            .contains("asleep, the cluster cannot empty nodes")
    );
    patch(&kubectl, &json!({"state": "Running"}));
    shell::wait_for("the cluster to wake", LIMIT, || {
        let found = status(&kubectl);
        Ok((found["brokers"] != "3/3" || found["reason"].is_string())
            .then(|| found["reason"].to_string()))
    })
    .unwrap();
    load::read_acknowledged(&kubectl, &client, "aged-again", &done.acknowledged);
    delete_topic(&kubectl, "shop", "aged");
    kubectl.delete("user", "shop", "aged", LONG).unwrap();
    crate::world::leave(&kubectl, "kafkacluster", "kafka", "aging");
}
