//! Proof 5: invalid input is refused at admission, or leads to the condition Stalled with the field
//! and the remedy; nothing is changed.

use crate::tenants::NoWebhook;
use crate::world::{LONG, Restore, asked, kubectl, refusal, refused, small_cluster, topic, user};
use freehold_e2e::kubectl::Kubectl;
use serde_json::json;

/// The API server must accept this YAML, and the object must become Stalled with a message that
/// contains all of these words.
fn stalled(kubectl: &Kubectl, kind: &str, namespace: &str, name: &str, yaml: &str, words: &[&str]) {
    let _object = Restore::delete(kubectl, kind, namespace, name);
    kubectl.apply(yaml).unwrap();
    let (reason, message) = kubectl
        .wait_condition(kind, namespace, name, "Stalled", LONG)
        .unwrap();
    for word in words {
        assert!(
            message.contains(word),
            "expected {word:?} in {reason}: {message}"
        );
    }
    if kind == "kafkacluster" {
        let selector = format!("freehold.dev/cluster={name}");
        let words = [
            "get",
            "statefulset,pvc",
            "--namespace",
            namespace,
            "--selector",
            &selector,
            "-o",
            "name",
        ];
        let made = asked("what was made", || kubectl.run(&words));
        assert_eq!(made, "", "nothing is touched");
    }
    kubectl.delete(kind, namespace, name, LONG).unwrap();
}

/// The API server must refuse this JSON patch of the quickstart's cluster (as a dry run).
fn change_refused(kubectl: &Kubectl, change: &serde_json::Value, words: &str) {
    let patch = [
        "patch",
        "kafkacluster",
        "demo",
        "--namespace",
        "kafka",
        "--type=json",
        "--dry-run=server",
        "-p",
        &change.to_string(),
    ];
    refusal(words, || kubectl.run(&patch));
}

#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn clusters_that_cannot_be_are_refused_at_admission() {
    let kubectl = kubectl();
    let good = small_cluster("not-to-be", "kafka", "4.3.1", "");
    refused(
        &kubectl,
        &good.replace(
            "replicas: 1, zones: [zone-a]",
            "replicas: 4, zones: [zone-a, zone-b, zone-c]",
        ),
        "not divisible",
    );
    refused(
        &kubectl,
        &good.replace("port: 9094", "port: 9093"),
        "same port",
    );
    refused(
        &kubectl,
        &good.replace("port: 9094", "port: 9091"),
        "Freehold's own",
    );
    refused(
        &kubectl,
        &good.replace("name: not-to-be", &format!("name: {}", "b".repeat(41))),
        "at most 40 characters",
    );
    refused(
        &kubectl,
        &good.replace("roles: [controller, broker]", "roles: [broker]"),
        "one pool with replicas needs the role controller",
    );
    refused(
        &kubectl,
        &good.replace("  version: 4.3.1", "  version: 4.3.1\n  brokers: 3"),
        "brokers",
    );
    refused(&kubectl, &good.replace("size: 1Gi", "size: much"), "size");
    refused(
        &kubectl,
        &small_cluster(
            "not-to-be",
            "kafka",
            "4.3.1",
            "  config: {num.io.threads: {a: 1}}\n",
        ),
        "num.io.threads",
    );
    refused(
        &kubectl,
        &small_cluster(
            "not-to-be",
            "kafka",
            "4.3.1",
            "  config: {num.io.threads: [1]}\n",
        ),
        "num.io.threads",
    );
    refused(
        &kubectl,
        &small_cluster(
            "not-to-be",
            "kafka",
            "4.3.1",
            "  config: {max.connections.per.ip: 1}\n",
        ),
        "give 50 or more",
    );
    refused(
        &kubectl,
        &good.replace(
            "zones: [zone-a]",
            "zones: [zone-a], autoscaling: {maxReplicas: 3, cpuPercent: 50}",
        ),
        "controllers do not scale by load",
    );
    refused(
        &kubectl,
        &good.replace("size: 1Gi", "size: 1Gi, volumes: [{name: Fast, size: 1Gi}]"),
        "volumes[0].name",
    );
    let secret = "  certificates: {issuer: Secret}\n";
    refused(
        &kubectl,
        &small_cluster("not-to-be", "kafka", "4.3.1", secret),
        "needs secretRef",
    );
}

#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn changes_that_would_lose_something_are_refused_at_admission() {
    let kubectl = kubectl();
    let change = |path: &str, value: serde_json::Value| json!([{"op": "replace", "path": path, "value": value}]);
    change_refused(
        &kubectl,
        &change("/spec/nodePools/0/roles", json!(["controller"])),
        "immutable",
    );
    change_refused(
        &kubectl,
        &change("/spec/nodePools/0/replicas", json!(0)),
        "one pool with replicas needs the role controller",
    );
    change_refused(
        &kubectl,
        &json!([{"op": "add", "path": "/spec/clusterId", "value": "AAAAAAAAAAAAAAAAAAAAAA"}]),
        "immutable",
    );
}

/// Clusters that are invalid in any environment, with words of the refusal, the field first.
fn bad_clusters(name: &str) -> Vec<(String, &'static [&'static str])> {
    let cluster = |more: &str| small_cluster(name, "kafka", "4.3.1", more);
    let grows = "size: 1Gi, autoGrow: {maxSize: 512Mi}}";
    let further = "size: 1Gi, volumes: [{name: more, size: 1Gi, autoGrow: {maxSize: 512Mi}}]}";
    let window = |cron: &str| {
        cluster(&format!(
            "  rollout: {{maintenanceWindows: [{{cron: {cron}, durationMinutes: 60}}]}}\n"
        ))
    };
    vec![
        (
            cluster("  config: {min.insync.replica: \"1\"}\n"),
            &[
                "spec.config[min.insync.replica]",
                "nearest is min.insync.replicas",
            ],
        ),
        (
            cluster("  config: {log.dirs: /data}\n"),
            &["spec.config[log.dirs]", "use nodePools[].storage"],
        ),
        (
            cluster("  config: {num.io.threads: many}\n"),
            &["spec.config[num.io.threads]", "whole number"],
        ),
        (
            cluster("  config: {default.replication.factor: \"3\"}\n"),
            &[
                "default.replication.factor",
                "above the number of brokers, 1",
            ],
        ),
        (
            small_cluster(name, "kafka", "9.9.9", ""),
            &["spec.version", "4.3.1"],
        ),
        (
            cluster("").replace("jvm: {heap: 320Mi}", "jvm: {heap: 4Gi}"),
            &["jvm.heap", "resources.limits.memory"],
        ),
        (
            cluster("").replace("size: 1Gi}", grows),
            &[
                "spec.nodePools[all].storage.autoGrow.maxSize",
                "below size, 1Gi",
            ],
        ),
        (
            cluster("").replace("size: 1Gi}", further),
            &[
                "spec.nodePools[all].storage.volumes[more].autoGrow.maxSize",
                "below size, 1Gi",
            ],
        ),
        (
            cluster("").replace("jvm: {heap: 320Mi}", "jvm: {heap: 99999999999G}"),
            &["jvm.heap", "resources.limits.memory"],
        ),
        (
            window("at two every night"),
            &["spec.rollout.maintenanceWindows[0]", "five fields"],
        ),
        (
            window("0 25 * * *"),
            &["spec.rollout.maintenanceWindows[0]", "0 25 * * *"],
        ),
        (
            cluster("").replace("from: All}", "from: All}, topicNames: {pattern: \"a(\"}"),
            &["spec.access.topicNames.pattern", "regular expression"],
        ),
    ]
}

#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn clusters_that_cannot_be_made_are_refused_at_admission() {
    let kubectl = kubectl();
    for (yaml, words) in bad_clusters("not-to-be-made") {
        words
            .iter()
            .for_each(|word| drop(refused(&kubectl, &yaml, word)));
    }
}

#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn clusters_whose_secrets_cannot_serve_are_stalled_and_touch_nothing() {
    let kubectl = kubectl();
    let cluster = |more: &str| small_cluster("no-secret", "kafka", "4.3.1", more);
    let check = |yaml: &str, words: &[&str]| {
        stalled(&kubectl, "kafkacluster", "kafka", "no-secret", yaml, words)
    };
    check(
        &cluster("  certificates: {issuer: Secret, secretRef: {name: no-such}}\n"),
        &["secretRef", "no-such", "freehold.dev/cluster: no-secret"],
    );
    let keyless = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keyless", "namespace": "kafka", "labels": {"freehold.dev/cluster": "no-secret"}},
        "stringData": {"tls.crt": "x"}});
    let _keyless = Restore::delete(&kubectl, "secret", "kafka", "keyless");
    kubectl.apply(&keyless.to_string()).unwrap();
    check(
        &cluster("  certificates: {issuer: Secret, secretRef: {name: keyless}}\n"),
        &["keyless", "no key tls.key"],
    );
    kubectl.delete("secret", "kafka", "keyless", LONG).unwrap();
    // All the time the other objects were served.
    kubectl
        .wait_ready("kafkacluster", "kafka", "demo", LONG)
        .unwrap();
}

#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn what_is_unwise_is_allowed_with_a_warning() {
    let kubectl = kubectl();
    let more =
        "  state: Paused\n  deletionPolicy: Delete\n  config: {log.cleaner.enable: \"true\"}\n";
    let two = small_cluster("even", "kafka", "4.3.1", more).replace("replicas: 1", "replicas: 2");
    let _even = Restore::delete(&kubectl, "kafkacluster", "kafka", "even");
    kubectl.apply(&two).unwrap();
    let wanted = [
        "2 controllers tolerate no more failures than 1",
        "spec.config[log.cleaner.enable]: This configuration has been deprecated",
    ];
    freehold_e2e::shell::wait_for("the warnings", LONG, || {
        let cluster = kubectl
            .get("kafkacluster", "kafka", "even")?
            .unwrap_or_default();
        let warnings = cluster["status"]["warnings"].to_string();
        Ok((!wanted.iter().all(|words| warnings.contains(words))).then_some(warnings))
    })
    .unwrap();
    let words = [
        "get",
        "statefulset,secret",
        "--namespace",
        "kafka",
        "--selector",
        "freehold.dev/cluster=even",
        "-o",
        "name",
    ];
    let made = asked("what was made", || kubectl.run(&words));
    assert_eq!(made, "", "a Paused cluster is not touched");
    kubectl
        .delete("kafkacluster", "kafka", "even", LONG)
        .unwrap();
}

/// Invalid Topics and Users: kind, object, and words of the refusal, the field first.
fn bad_objects(name: &str) -> Vec<(&'static str, String, &'static [&'static str])> {
    let scram = |more: &str| {
        user(
            name,
            "demo",
            &format!("  authentication: {{type: ScramSha512}}\n{more}"),
        )
    };
    vec![
        (
            "topic",
            topic(name, "demo", "  partitions: 1\n  replicas: 5\n"),
            &["spec.replicas", "above the number of brokers, 3"],
        ),
        (
            "topic",
            topic(name, "demo", "  partitions: 1\n  config: {retention: 1h}\n"),
            &["spec.config[retention]", "nearest"],
        ),
        (
            "topic",
            topic(
                name,
                "demo",
                "  partitions: 1\n  config: {retention.ms: 1h}\n",
            ),
            &["spec.config[retention.ms]", "whole number"],
        ),
        (
            "topic",
            topic(
                name,
                "demo",
                "  partitions: 1\n  config: {cleanup.policy: shred}\n",
            ),
            &["spec.config[cleanup.policy]", "shred"],
        ),
        (
            "user",
            scram("  acls:\n  - {resource: {type: Topic}, operations: [Read]}\n"),
            &["spec.acls[0].resource.name", "missing"],
        ),
        (
            "user",
            scram("  acls:\n  - {resource: {type: Cluster, name: x}, operations: [Describe]}\n"),
            &["spec.acls[0].resource.name", "leave it out"],
        ),
        (
            "user",
            scram(
                "  acls:\n  - {resource: {type: Topic, name: \"orders*\"}, operations: [Read]}\n",
            ),
            &[
                "spec.acls[0].resource.name",
                "give orders with pattern Prefixed",
            ],
        ),
        (
            "user",
            scram(
                "  acls:\n  - {resource: {type: Topic, name: orders}, operations: [Read], host: app.example.com}\n",
            ),
            &["spec.acls[0].host", "no IP address"],
        ),
        (
            "user",
            scram("  secret: {keys: {passwort: P}}\n"),
            &["spec.secret.keys[passwort]", "there is no such key"],
        ),
        (
            "user",
            scram("  secret: {keys: {password: username}}\n"),
            &["spec.secret.keys[password]", "another key's name"],
        ),
        (
            "user",
            scram("  secret: {metadata: {labels: {freehold.dev/user: x}}}\n"),
            &["spec.secret.metadata.labels", "remove it"],
        ),
        (
            "user",
            scram("  quotas: {consumerByteRate: \"0\"}\n"),
            &["spec.quotas.consumerByteRate", "above 0"],
        ),
    ]
}

#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn topics_and_users_that_cannot_be_are_refused_at_admission() {
    let kubectl = kubectl();
    refused(
        &kubectl,
        &topic("not-to-be", "demo", "  partitions: 0\n"),
        "partitions",
    );
    refused(
        &kubectl,
        &topic(
            "not-to-be",
            "demo",
            "  partitions: 1\n  topicName: \"a b\"\n",
        ),
        "topicName",
    );
    refused(
        &kubectl,
        &topic(
            "not-to-be",
            "demo",
            "  partitions: 1\n  topicName: __consumer_offsets\n",
        ),
        "Kafka's own",
    );
    refused(
        &kubectl,
        &topic("orders", "demo", "  partitions: 3\n  replicas: 3\n"),
        "cannot lose partitions",
    );
    refused(
        &kubectl,
        &topic("orders", "other", "  partitions: 6\n"),
        "clusterRef: immutable",
    );
    refused(
        &kubectl,
        &user("not-to-be", "demo", "  authentication: {type: Password}\n"),
        "authentication.type",
    );
    refused(
        &kubectl,
        &user(
            "not-to-be",
            "demo",
            "  authentication: {type: ExternalTls}\n",
        ),
        "needs the certificate's common name",
    );
    refused(
        &kubectl,
        &user(
            "not-to-be",
            "demo",
            "  authentication: {type: MutualTls, passwordSecretRef: {name: a}}\n",
        ),
        "only ScramSha512 has a password",
    );
    let grant = "  authentication: {type: ScramSha512}\n  grants:\n  - {produce: {topics: [a]}, consume: {topics: [a]}}\n";
    refused(
        &kubectl,
        &user("not-to-be", "demo", grant),
        "give one of produce, consume",
    );
    for (_, yaml, words) in bad_objects("not-to-be") {
        words
            .iter()
            .for_each(|word| drop(refused(&kubectl, &yaml, word)));
    }
}

#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn what_cannot_be_is_stalled_where_no_webhook_says_so() {
    let kubectl = kubectl();
    let _away = NoWebhook::new(&kubectl);
    for (yaml, words) in bad_clusters("unsaid") {
        stalled(&kubectl, "kafkacluster", "kafka", "unsaid", &yaml, words);
    }
    for (kind, yaml, words) in bad_objects("unsaid") {
        stalled(&kubectl, kind, "shop", "unsaid", &yaml, words);
    }
    let check =
        |yaml: &str, words: &[&str]| stalled(&kubectl, "topic", "shop", "unsaid", yaml, words);
    check(
        &topic("unsaid", "nobody", "  partitions: 1\n"),
        &["spec.clusterRef", "there is no KafkaCluster kafka/nobody"],
    );
    check(
        &topic("unsaid", "demo", "  partitions: 1\n  topicName: orders\n"),
        &["spec.topicName", "Topic shop/orders has this name already"],
    );
}
