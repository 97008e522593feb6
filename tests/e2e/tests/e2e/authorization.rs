//! Shadow mode, CAs that somebody else keeps, and certificates that Freehold issues: on a cluster of its own.

use crate::kafka;
use crate::world::{LONG, Operator, block_on, endpoints, kafka_image, kubectl, namespace, secret, small_cluster};
use freehold::certificates::{Purpose, issue, new_authority};
use freehold::kafka_admin::client::Client as Bare;
use freehold::kafka_admin::sasl::ScramLogin;
use freehold::kafka_admin::tls::TlsSettings;
use freehold::kafka_admin::{Admin, NewTopic};
use ground::kubectl::Kubectl;
use ground::shell;
use k8s_openapi::jiff::Timestamp;
use serde_json::json;
use std::collections::BTreeMap;

const NAMESPACE: &str = "authorization";

#[test]
#[ignore = "needs the ground: cargo xtask test"]
fn shadow_mode_reports_and_a_further_ca_is_trusted_without_a_restart() {
    let kubectl = kubectl();
    let image = kafka_image(&kubectl);
    namespace(&kubectl, NAMESPACE);
    kubectl.apply(&small_cluster("own", NAMESPACE, "4.3.1", "  deletionPolicy: Delete\n")).unwrap();
    let _operator = Operator::start(NAMESPACE, "authorization", &image, &[]);
    kubectl.wait_ready("kafkacluster", NAMESPACE, "own", LONG).unwrap();
    shadow(&kubectl);
    foreign_ca(&kubectl);
    stores(&kubectl);
    new_authorities(&kubectl);
    kubectl.delete("user", NAMESPACE, "--all", LONG).unwrap();
    kubectl.delete("kafkacluster", NAMESPACE, "own", LONG).unwrap();
    kubectl.delete("namespace", "", NAMESPACE, LONG).unwrap();
}

fn user(name: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: freehold.dev/v1alpha1, kind: User, metadata: {{name: {name}, namespace: {NAMESPACE}}}, \
         spec: {{clusterRef: {{name: own}}, {spec}}}}}"
    )
}

fn patch(kubectl: &Kubectl, kind: &str, name: &str, spec: &serde_json::Value) {
    kubectl.merge(kind, NAMESPACE, name, &json!({"spec": spec})).unwrap();
}

fn new_topic(name: &str) -> NewTopic {
    NewTopic { name: name.into(), partitions: 1, replicas: 1, config: BTreeMap::new() }
}

/// Waits until the User's status lists what would be refused just so.
fn reported(kubectl: &Kubectl, wanted: impl Fn(&str) -> bool) {
    shell::wait_for("the report of what would be refused", LONG, || {
        let refused = kubectl.get("user", NAMESPACE, "mover")?.unwrap_or_default()["status"]["wouldBeRefused"].to_string();
        Ok((!wanted(&refused)).then_some(refused))
    })
    .unwrap();
}

fn shadow(kubectl: &Kubectl) {
    kubectl.apply(&user("mover", "authentication: {type: ScramSha512}, authorization: {mode: Shadow}")).unwrap();
    let (_, message) = kubectl.wait_condition("user", NAMESPACE, "mover", "Stalled", LONG).unwrap();
    assert!(message.contains("spec.authorization.mode") && message.contains("spec.authorization.shadow"), "{message}");
    patch(kubectl, "kafkacluster", "own", &json!({"authorization": {"shadow": "Allowed"}}));
    kubectl.wait_ready("user", NAMESPACE, "mover", LONG).unwrap();

    let secret = secret(kubectl, NAMESPACE, "mover-kafka").unwrap();
    let login = ScramLogin { user: "mover".into(), password: secret["password"].clone() };
    let tls = TlsSettings::new(&secret["ca.crt"], None).unwrap();
    let client = Bare::new(endpoints(kubectl, NAMESPACE, "own", "broker", 9094), tls, Some(login));
    block_on(async {
        client.create_topics(&[new_topic("moved")]).await.remove(0).unwrap();
        // It may be asked for by its name; a list of all topics is filtered, not refused, and stays so.
        kafka::topic(&client, "moved").await.unwrap();
    });
    reported(kubectl, |refused| refused.contains("Create, Describe on Topic moved"));
    let events = kubectl.run(&["get", "events", "--namespace", NAMESPACE, "--field-selector", "reason=WouldBeRefused", "-o", "name"]);
    assert!(!events.unwrap().is_empty(), "an event tells of what is new");
    // A right that is given is no longer listed.
    patch(kubectl, "user", "mover", &json!({"grants": [{"consume": {"topics": ["moved"]}}]}));
    reported(kubectl, |refused| refused.contains("\"Create on Topic moved"));
    patch(kubectl, "user", "mover", &json!({"authorization": {"mode": "Enforce"}}));
    reported(kubectl, |refused| refused == "null");
    block_on(async {
        assert!(kafka::topic(&client, "moved").await.unwrap().is_some());
        let refused = client.create_topics(&[new_topic("another")]).await.remove(0).unwrap_err();
        assert!(refused.is("TopicAuthorizationFailed"), "{refused}");
    });
}

/// A CA is added to what the listeners trust: the broker takes it as it runs.
fn foreign_ca(kubectl: &Kubectl) {
    let authority = new_authority("of another house", Timestamp::now()).unwrap();
    let issued = issue(&authority, None, "partner", &Purpose::Client, Timestamp::now(), 30).unwrap();
    let spec = "authentication: {type: ExternalTls, subject: partner}, grants: [{consume: {topics: [moved]}}]";
    kubectl.apply(&user("outsider", spec)).unwrap();
    kubectl.wait_ready("user", NAMESPACE, "outsider", LONG).unwrap();
    let trust = secret(kubectl, NAMESPACE, "outsider-kafka").unwrap()["ca.crt"].clone();
    let tls = TlsSettings::new(&trust, Some((&issued.certificate, &issued.key))).unwrap();
    let client = || Bare::new(endpoints(kubectl, NAMESPACE, "own", "broker", 9093), tls.clone(), None);
    assert!(block_on(kafka::topic(&client(), "moved")).is_err(), "a CA that nobody named is not trusted");

    let restarts = || {
        let pods = kubectl.json(&["get", "pods", "--namespace", NAMESPACE, "--selector", "freehold.dev/cluster=own"]).unwrap();
        let pods = pods["items"].as_array().unwrap().iter();
        pods.map(|pod| (pod["metadata"]["uid"].to_string(), pod["status"]["containerStatuses"][0]["restartCount"].to_string()))
            .collect::<Vec<_>>()
    };
    let before = restarts();
    patch(kubectl, "kafkacluster", "own", &json!({"certificates": {"clientAuthorities": [{"name": "partner-ca"}]}}));
    let (_, message) = kubectl.wait_condition("kafkacluster", NAMESPACE, "own", "Stalled", LONG).unwrap();
    assert!(message.contains("spec.certificates.clientAuthorities[partner-ca]"), "{message}");
    let given = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "partner-ca", "namespace": NAMESPACE,
        "labels": {"freehold.dev/cluster": "own"}}, "stringData": {"ca.crt": authority.certificate}});
    kubectl.apply(&given.to_string()).unwrap();
    kubectl.wait_ready("kafkacluster", NAMESPACE, "own", LONG).unwrap();
    shell::wait_for("the broker to trust the other CA", LONG, || {
        Ok(block_on(kafka::topic(&client(), "moved"))
            .map_or_else(|error| Some(error.to_string()), |found| found.is_none().then(String::new)))
    })
    .unwrap();
    assert_eq!(restarts(), before, "nothing was restarted for it");
}

/// The stores of a User with a certificate open in the JVM's own tool.
fn stores(kubectl: &Kubectl) {
    kubectl.apply(&user("keyed", "authentication: {type: MutualTls}, secret: {pkcs12: true}")).unwrap();
    kubectl.wait_ready("user", NAMESPACE, "keyed", LONG).unwrap();
    use base64::prelude::{BASE64_STANDARD, Engine};
    let found = kubectl.get("secret", NAMESPACE, "keyed-kafka").unwrap().unwrap();
    let bytes = |key: &str| BASE64_STANDARD.decode(found["data"][key].as_str().unwrap()).unwrap();
    let password = String::from_utf8(bytes("pkcs12.password")).unwrap();
    for (store, entry) in [("truststore.p12", "trustedCertEntry"), ("keystore.p12", "PrivateKeyEntry")] {
        let file = std::env::temp_dir().join(format!("freehold-{}-{store}", std::process::id()));
        std::fs::write(&file, bytes(store)).unwrap();
        let listed = shell::output(
            shell::command("keytool", ["-list", "-storetype", "PKCS12", "-keystore", &file.to_string_lossy()])
                .args(["-storepass:env", "STORE_PASSWORD"])
                .env("STORE_PASSWORD", &password),
        );
        std::fs::remove_file(&file).unwrap();
        assert!(listed.unwrap().contains(entry), "{store} has no {entry}");
    }
}

/// Both CAs are replaced while clients connect all the time by what is in their Secrets: none is ever refused, no node is
/// restarted, and a password stays.
fn new_authorities(kubectl: &Kubectl) {
    let ca = |which: &str| secret(kubectl, NAMESPACE, &format!("own-{which}-ca")).unwrap();
    let before = (ca("cluster"), ca("clients"), secret(kubectl, NAMESPACE, "mover-kafka").unwrap()["password"].clone());
    let uids = || kubectl.run(&["get", "pods", "--namespace", NAMESPACE, "-o", "jsonpath={.items[*].metadata.uid}"]).unwrap();
    let pods = uids();
    kubectl.apply(&user("certified", "authentication: {type: MutualTls}")).unwrap();
    kubectl.wait_ready("user", NAMESPACE, "certified", LONG).unwrap();
    // First the nodes' own certificates alone: their CA stays.
    let nodes = || secret(kubectl, NAMESPACE, "own-all-zone-a-tls").unwrap();
    let served = nodes();
    kubectl.run(&["annotate", "kafkacluster", "own", "--namespace", NAMESPACE, "freehold.dev/renew-certificates=1"]).unwrap();
    shell::wait_for("new certificates of the nodes", LONG, || Ok((nodes() == served).then(|| "they are the old ones".into()))).unwrap();
    assert!(nodes()["cluster-ca.crt"] == served["cluster-ca.crt"], "the CA stays");
    patch(kubectl, "kafkacluster", "own", &json!({"certificates": {"overlapMinutes": 1}}));
    kubectl.run(&["annotate", "kafkacluster", "own", "--namespace", NAMESPACE, "freehold.dev/rotate-ca=1"]).unwrap();
    let (mut connected, start) = (0, std::time::Instant::now());
    loop {
        for (user, port) in [("mover", 9094), ("certified", 9093)] {
            let found = secret(kubectl, NAMESPACE, &format!("{user}-kafka")).unwrap();
            let login = found.get("password").map(|password| ScramLogin { user: user.into(), password: password.clone() });
            let own = found.get("user.crt").zip(found.get("user.key"));
            let tls = TlsSettings::new(&found["ca.crt"], own.map(|(certificate, key)| (certificate.as_str(), key.as_str()))).unwrap();
            let client = Bare::new(endpoints(kubectl, NAMESPACE, "own", "broker", port), tls, login);
            block_on(client.describe_cluster()).unwrap_or_else(|error| panic!("{user} after {connected} connections: {error}"));
            connected += 1;
        }
        let (nodes, clients) = (ca("cluster"), ca("clients"));
        let done = |now: &BTreeMap<String, String>, before: &BTreeMap<String, String>| {
            now["tls.crt"] != before["tls.crt"] && !now.contains_key("previous.crt") && !now.contains_key("next.crt")
        };
        if done(&nodes, &before.0) && done(&clients, &before.1) {
            break;
        }
        assert!(start.elapsed() < 2 * LONG, "{:?} {:?}", nodes.keys(), clients.keys());
    }
    let took = start.elapsed().as_secs_f64();
    kubectl.wait_ready("kafkacluster", NAMESPACE, "own", LONG).unwrap();
    assert_eq!(uids(), pods, "nothing was restarted for it");
    let now = secret(kubectl, NAMESPACE, "mover-kafka").unwrap();
    assert_eq!(now["password"], before.2, "the password outlives the CA");
    assert_eq!(now["ca.crt"].trim(), ca("cluster")["tls.crt"].trim(), "the new CA stands alone");
    println!("authorities: both CAs replaced in {took:.0} s, {connected} connections meanwhile, none refused, nothing restarted");
}
