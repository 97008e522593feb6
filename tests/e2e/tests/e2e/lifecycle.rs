//! What users do with clusters, Topics and Users in the course of their lives.

use crate::kafka;
use crate::world::{
    LONG, Restore, access_ends, asked, block_on, client, delete_topic, endpoints, kubectl, refused,
    secret, small_cluster, super_admin, topic, user,
};
use anyhow::Context;
use freehold::certificates::new_authority;
use freehold_e2e::kubectl::Kubectl;
use freehold_e2e::{flow, promise, shell};
use freehold_kafka_client::client::Client;
use freehold_kafka_client::tls::TlsSettings;
use freehold_kafka_client::{Admin, NewTopic};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// An object that is there.
fn found(kubectl: &Kubectl, kind: &str, namespace: &str, name: &str) -> Value {
    asked(name, || {
        let found = kubectl.get(kind, namespace, name)?;
        found.context("it is not there")
    })
}

#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn a_retained_cluster_comes_back_with_its_records_and_identity_and_a_deleted_one_leaves_nothing() {
    let kubectl = kubectl();
    // Start with the older version, so that it is tested too.
    let _cluster = Restore::delete(&kubectl, "kafkacluster", "kafka", "keep");
    let hold = "  upgrade: {features: Hold}\n  rollout: {allowUnavailable: true}\n";
    kubectl
        .apply(&small_cluster("keep", "kafka", "4.2.1", hold))
        .unwrap();
    kubectl
        .apply(&topic("kept", "keep", "  partitions: 2\n"))
        .unwrap();
    let rights = "  authentication: {type: ScramSha512}\n  acls:\n  - {resource: {type: Topic, name: kept}, operations: [Read, Write, Describe]}\n  \
                  - {resource: {type: Group, name: shop-, pattern: Prefixed}, operations: [Read, Describe]}\n";
    kubectl.apply(&user("kept", "keep", rights)).unwrap();
    for (kind, namespace, name) in [
        ("kafkacluster", "kafka", "keep"),
        ("topic", "shop", "kept"),
        ("user", "shop", "kept"),
    ] {
        kubectl.wait_ready(kind, namespace, name, LONG).unwrap();
    }
    let client = client(&kubectl, "kept", "kept");
    flow::prove(&kubectl, &client, "kept", 100, flow::Before::Nothing, LONG).unwrap();
    // The whole cluster is upgraded to the newer version, and taken back.
    for version in ["4.3.1", "4.2.1"] {
        kubectl
            .merge(
                "kafkacluster",
                "kafka",
                "keep",
                &json!({"spec": {"version": version}}),
            )
            .unwrap();
        kubectl
            .wait_ready("kafkacluster", "kafka", "keep", LONG)
            .unwrap();
        let now = found(&kubectl, "kafkacluster", "kafka", "keep");
        assert_eq!(now["status"]["kafkaVersion"], version);
    }
    let before = found(&kubectl, "kafkacluster", "kafka", "keep");
    let ca = secret(&kubectl, "kafka", "keep-cluster-ca").unwrap();
    kubectl
        .delete("kafkacluster", "kafka", "keep", LONG)
        .unwrap();
    let kept = kubectl
        .run(&[
            "get",
            "pvc,secret,configmap",
            "--namespace",
            "kafka",
            "--selector",
            "freehold.dev/cluster=keep",
            "-o",
            "name",
        ])
        .unwrap();
    for name in [
        "persistentvolumeclaim/data-keep-all-zone-a-0",
        "secret/keep-cluster-ca",
        "secret/keep-clients-ca",
        "secret/keep-passwords",
        "configmap/keep-identity",
    ] {
        assert!(
            kept.lines().any(|line| line == name),
            "{name} is kept: {kept}"
        );
    }
    kubectl
        .apply(&small_cluster("keep", "kafka", "4.2.1", hold))
        .unwrap();
    kubectl
        .wait_ready("kafkacluster", "kafka", "keep", LONG)
        .unwrap();
    let after = found(&kubectl, "kafkacluster", "kafka", "keep");
    assert_eq!(before["status"]["clusterId"], after["status"]["clusterId"]);
    assert_eq!(
        before["status"]["nodePools"], after["status"]["nodePools"],
        "the same node ids"
    );
    assert!(
        secret(&kubectl, "kafka", "keep-cluster-ca").unwrap() == ca,
        "the same CA"
    );
    let read = flow::consume(
        &kubectl,
        &client,
        "kept-again",
        "shop-kept-again",
        100,
        LONG,
    )
    .unwrap();
    let got = read.len();
    promise!(got == 100, "{got} of 100 records are there again");

    kubectl
        .run(&[
            "patch",
            "kafkacluster",
            "keep",
            "--namespace",
            "kafka",
            "--type=merge",
            "-p",
            r#"{"spec":{"deletionPolicy":"Delete"}}"#,
        ])
        .unwrap();
    kubectl
        .delete("kafkacluster", "kafka", "keep", LONG)
        .unwrap();
    let words = [
        "get",
        "pvc,secret,configmap,pod",
        "--namespace",
        "kafka",
        "--selector",
        "freehold.dev/cluster=keep",
        "-o",
        "name",
    ];
    assert_eq!(asked("what is left", || kubectl.run(&words)), "");
    for (kind, name) in [("topic", "kept"), ("user", "kept")] {
        kubectl.delete(kind, "shop", name, LONG).unwrap();
    }
}

#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn a_topic_follows_its_spec_and_its_records_are_deleted_only_after_a_confirmation() {
    let kubectl = kubectl();
    kubectl
        .apply(&topic(
            "living",
            "demo",
            "  partitions: 2\n  config: {retention.ms: \"1000000\", max.message.bytes: \"2000\"}\n",
        ))
        .unwrap();
    kubectl.wait_ready("topic", "shop", "living", LONG).unwrap();
    let admin = super_admin(&kubectl, "kafka", "demo");
    // The operator follows the controllers; the brokers, which are asked here, come after them.
    let has = |partitions: usize, retention: &str, bytes: Option<&str>| {
        shell::wait_for("the brokers to know the topic as it is now", LONG, || {
            let config = block_on(kafka::config(&admin, "living"))?;
            let set = |key: &str| config.get(key).map(String::as_str);
            let found = block_on(kafka::topic(&admin, "living"))?;
            let is_so = set("retention.ms") == Some(retention)
                && set("max.message.bytes") == bytes
                && found.is_some_and(|found| found.partitions.len() == partitions);
            Ok((!is_so).then(|| format!("{config:?}")))
        })
        .unwrap();
    };
    has(2, "1000000", Some("2000"));
    kubectl
        .apply(&topic(
            "living",
            "demo",
            "  partitions: 4\n  config: {retention.ms: \"2000000\"}\n",
        ))
        .unwrap();
    kubectl.wait_ready("topic", "shop", "living", LONG).unwrap();
    // What left the spec is a default again.
    has(4, "2000000", None);

    let rights = "  authentication: {type: ScramSha512}\n  acls:\n  - {resource: {type: Topic, name: living}, operations: [Write, Describe]}\n";
    kubectl.apply(&user("writer", "demo", rights)).unwrap();
    kubectl.wait_ready("user", "shop", "writer", LONG).unwrap();
    let client = client(&kubectl, "writer", "living");
    flow::start_producer(&kubectl, &client, "living-produce", 10, -1).unwrap();
    assert!(flow::finished(&kubectl, &client, "living-produce", LONG).unwrap());
    kubectl
        .run(&[
            "delete",
            "topic",
            "living",
            "--namespace",
            "shop",
            "--wait=false",
        ])
        .unwrap();
    let (reason, message) = kubectl
        .wait_condition("topic", "shop", "living", "Stalled", LONG)
        .unwrap();
    assert_eq!(reason, "TopicHoldsRecords");
    assert!(
        message.contains("freehold.dev/confirm-delete: living"),
        "{message}"
    );
    delete_topic(&kubectl, "shop", "living");
    shell::wait_for("the topic to be gone from Kafka", LONG, || {
        let left = block_on(kafka::topic(
            &super_admin(&kubectl, "kafka", "demo"),
            "living",
        ))?;
        Ok(left.is_some().then(|| "it is there".into()))
    })
    .unwrap();
    kubectl.delete("user", "shop", "writer", LONG).unwrap();
}

#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn a_user_has_its_rights_its_secret_comes_back_and_nothing_of_it_stays() {
    let kubectl = kubectl();
    let rights = |operations: &str| {
        format!(
            "  authentication: {{type: ScramSha512}}\n  acls:\n  - {{resource: {{type: Topic, name: orders}}, operations: [{operations}]}}\n"
        )
    };
    kubectl
        .apply(&user("resident", "demo", &rights("Read, Describe")))
        .unwrap();
    kubectl
        .wait_ready("user", "shop", "resident", LONG)
        .unwrap();
    let acls = || {
        block_on(kafka::acls(
            &super_admin(&kubectl, "kafka", "demo"),
            Some("User:resident"),
        ))
    };
    let until = |count: usize| {
        shell::wait_for("ACLs", LONG, || {
            Ok(Some(acls()?.len())
                .filter(|found| *found != count)
                .map(|found| format!("{found} ACLs")))
        })
        .unwrap();
    };
    until(2);
    kubectl
        .apply(&user("resident", "demo", &rights("Read")))
        .unwrap();
    kubectl
        .wait_ready("user", "shop", "resident", LONG)
        .unwrap();
    until(1);
    let password = || {
        let found = asked("the Secret", || secret(&kubectl, "shop", "resident-kafka"));
        found["password"].clone()
    };
    let before = password();
    kubectl
        .delete("secret", "shop", "resident-kafka", LONG)
        .unwrap();
    // It comes back.
    let password = password();
    assert!(
        password == before,
        "the Secret came back with another password"
    );
    shell::wait_for("the password to be let in", LONG, || {
        block_on(crate::world::scram_admin(&kubectl, "resident", &password).describe_cluster())?;
        Ok(None)
    })
    .unwrap();
    kubectl.delete("user", "shop", "resident", LONG).unwrap();
    until(0);
    access_ends("the password to be gone", || {
        let users = block_on(kafka::scram_users(&super_admin(&kubectl, "kafka", "demo")))?;
        Ok(users.contains_key("resident"))
    });
}

#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn a_topic_that_somebody_else_made_is_left_alone() {
    let kubectl = kubectl();
    let foreign = NewTopic {
        name: "foreign".into(),
        partitions: 1,
        replicas: 3,
        config: BTreeMap::new(),
    };
    block_on(super_admin(&kubectl, "kafka", "demo").create_topics(&[foreign]))
        .remove(0)
        .unwrap();
    let there = || {
        block_on(kafka::topic(
            &super_admin(&kubectl, "kafka", "demo"),
            "foreign",
        ))
    };
    shell::wait_for("the topic to be seen", LONG, || {
        Ok(there()?.is_none().then(|| "not yet".into()))
    })
    .unwrap();
    kubectl
        .apply(&topic("foreign", "demo", "  partitions: 3\n"))
        .unwrap();
    let (reason, _) = kubectl
        .wait_condition("topic", "shop", "foreign", "Stalled", LONG)
        .unwrap();
    assert_eq!(reason, "NotOurs");
    let list = [
        "exec",
        "--namespace",
        "freehold-system",
        "deploy/freehold",
        "--",
        "freehold",
        "unmanaged",
        "kafka/demo",
    ];
    let list = kubectl.run(&list).unwrap();
    assert!(
        list.lines().any(|line| line == "topic foreign") && !list.contains("topic orders"),
        "{list}"
    );
    kubectl.delete("topic", "shop", "foreign", LONG).unwrap();
    let left = asked("the topic", || Ok(there()?)).expect("it is left alone");
    assert_eq!(left.partitions.len(), 1);
    shell::wait_for("the topic to be deleted", LONG, || {
        block_on(super_admin(&kubectl, "kafka", "demo").delete_topics(&[left.id])).remove(0)?;
        Ok(None)
    })
    .unwrap();
}

#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn a_ca_that_a_secret_gives_signs_the_brokers() {
    let kubectl = kubectl();
    let authority = new_authority("given", Timestamp::now()).unwrap();
    let given = json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {"name": "given-ca", "namespace": "kafka", "labels": {"freehold.dev/cluster": "given"}},
        "stringData": {"tls.crt": authority.certificate, "tls.key": authority.key}});
    kubectl.apply(&given.to_string()).unwrap();
    let _cluster = Restore::delete(&kubectl, "kafkacluster", "kafka", "given");
    let more = "  deletionPolicy: Delete\n  certificates: {issuer: Secret, secretRef: {name: given-ca}, overlapMinutes: 0}\n";
    kubectl
        .apply(&small_cluster("given", "kafka", "4.3.1", more))
        .unwrap();
    kubectl
        .apply(&user(
            "given",
            "given",
            "  authentication: {type: MutualTls}\n",
        ))
        .unwrap();
    kubectl
        .wait_ready("kafkacluster", "kafka", "given", LONG)
        .unwrap();
    kubectl.wait_ready("user", "shop", "given", LONG).unwrap();
    let credentials = secret(&kubectl, "shop", "given-kafka").unwrap();
    assert_eq!(
        credentials["ca.crt"], authority.certificate,
        "clients trust the given CA"
    );
    let tls = TlsSettings::new(
        &authority.certificate,
        Some((&credentials["user.crt"], &credentials["user.key"])),
    )
    .unwrap();
    let admin = Client::new(
        endpoints(&kubectl, "kafka", "given", "broker", 9093),
        tls,
        None,
    );
    let cluster = asked("the cluster by its CA", || {
        Ok(block_on(admin.describe_cluster())?)
    });
    assert_eq!(cluster.brokers.len(), 1);

    // Another CA replaces it: a client that trusts the current content of the User's Secret can
    // connect all the time.
    let uid = || {
        let pod = found(&kubectl, "pod", "kafka", "given-all-zone-a-0");
        pod["metadata"]["uid"].clone()
    };
    let pod = uid();
    let another = new_authority("another", Timestamp::now()).unwrap();
    kubectl
        .merge(
            "secret",
            "kafka",
            "given-ca",
            &json!({"stringData": {"tls.crt": another.certificate, "tls.key": another.key}}),
        )
        .unwrap();
    shell::wait_for("the other CA to stand alone", LONG, || {
        let found = secret(&kubectl, "shop", "given-kafka")?;
        let tls = TlsSettings::new(
            &found["ca.crt"],
            Some((&found["user.crt"], &found["user.key"])),
        )?;
        let admin = Client::new(
            endpoints(&kubectl, "kafka", "given", "broker", 9093),
            tls,
            None,
        );
        if let Err(error) = block_on(admin.describe_cluster()) {
            // Read before a change, and used after it.
            let now = asked("the Secret as it is now", || {
                secret(&kubectl, "shop", "given-kafka")
            });
            assert!(now != found, "the Secret's content is not let in: {error}");
            return Ok(Some("it has changed meanwhile".into()));
        }
        Ok((found["ca.crt"] != another.certificate)
            .then(|| found["ca.crt"].matches("BEGIN").count().to_string()))
    })
    .unwrap();
    assert_eq!(uid(), pod, "nothing was restarted");
    kubectl.delete("user", "shop", "given", LONG).unwrap();
    kubectl
        .delete("kafkacluster", "kafka", "given", LONG)
        .unwrap();
    let given = asked("the given CA", || {
        kubectl.get("secret", "kafka", "given-ca")
    });
    assert!(given.is_some(), "what somebody gave is not ours to delete");
    kubectl.delete("secret", "kafka", "given-ca", LONG).unwrap();
}

#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn another_clusters_volume_is_refused_and_kafka_starts_on_no_foreign_disk() {
    let kubectl = kubectl();
    // Cluster `taken` with pool `x-all` and cluster `taken-x` with pool `all` have the same names
    // for their objects.
    let first = small_cluster("taken", "kafka", "4.3.1", "").replace("name: all,", "name: x-all,");
    let second = small_cluster("taken-x", "kafka", "4.3.1", "  deletionPolicy: Delete\n");
    let _both =
        ["taken", "taken-x"].map(|name| Restore::delete(&kubectl, "kafkacluster", "kafka", name));
    kubectl.apply(&first).unwrap();
    kubectl
        .wait_ready("kafkacluster", "kafka", "taken", LONG)
        .unwrap();
    let words = "a name that cluster taken in this namespace has for pool x-all in zone zone-a";
    refused(&kubectl, &second, words);
    let taken = found(&kubectl, "kafkacluster", "kafka", "taken");
    let id = taken["status"]["clusterId"].as_str().unwrap().to_owned();
    kubectl
        .delete("kafkacluster", "kafka", "taken", LONG)
        .unwrap();

    // The operator that answers may not have seen yet that the other one is gone.
    shell::wait_for("the second cluster to be taken", LONG, || {
        Ok(kubectl.apply(&second).err().map(|error| error.to_string()))
    })
    .unwrap();
    let (reason, message) = kubectl
        .wait_condition("kafkacluster", "kafka", "taken-x", "Stalled", LONG)
        .unwrap();
    assert_eq!(reason, "InvalidSpec");
    assert!(
        message.contains("claim data-taken-x-all-zone-a-0 belongs to cluster taken"),
        "{message}"
    );
    assert!(
        kubectl
            .get("pod", "kafka", "taken-x-all-zone-a-0")
            .unwrap()
            .is_none(),
        "no pod is made on it"
    );

    // A user hands the claim over to the other cluster, but with a wrong cluster id.
    for (verb, pair) in [
        ("annotate", "freehold.dev/cluster-id=MkU3OEVBNTcwNTJENDM2Qg"),
        ("label", "freehold.dev/pool=all"),
        ("label", "freehold.dev/cluster=taken-x"),
    ] {
        kubectl
            .run(&[
                verb,
                "--overwrite",
                "pvc",
                "data-taken-x-all-zone-a-0",
                "--namespace",
                "kafka",
                pair,
            ])
            .unwrap();
    }
    let words = format!(
        "is that of node 0 of the cluster with id {id}, and this is node 0 of the cluster with id MkU3"
    );
    shell::wait_for("the launcher's words", LONG, || {
        let status = kubectl
            .get("kafkacluster", "kafka", "taken-x")?
            .unwrap_or_default()["status"]
            .clone();
        Ok((!status["waitingOn"].to_string().contains(&words))
            .then(|| status["waitingOn"].to_string()))
    })
    .unwrap();
    kubectl
        .delete("kafkacluster", "kafka", "taken-x", LONG)
        .unwrap();
    for (kind, name) in [
        ("secret", "taken-cluster-ca"),
        ("secret", "taken-clients-ca"),
        ("configmap", "taken-identity"),
    ] {
        kubectl.delete(kind, "kafka", name, LONG).unwrap();
    }
}
