//! What the tests share: kubectl, the ground's clients, objects as YAML, the operator's own admin client.

use anyhow::{Context, Result};
use freehold::kafka_admin::client::Client as Admin;
use freehold::kafka_admin::connection::Endpoint;
use freehold::kafka_admin::sasl::ScramLogin;
use freehold::kafka_admin::tls::TlsSettings;
use ground::flow::Client;
use ground::kubectl::Kubectl;
use ground::shell;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::time::Duration;

/// For what takes seconds on an idle machine.
pub const LONG: Duration = Duration::from_secs(300);

pub fn kubectl() -> Kubectl {
    Kubectl::from_env().unwrap()
}

/// The image that the quickstart's brokers run.
pub fn kafka_image(kubectl: &Kubectl) -> String {
    let set = kubectl.get("statefulset", "kafka", "demo-nodes-zone-a").unwrap().unwrap();
    set["spec"]["template"]["spec"]["containers"][0]["image"].as_str().unwrap().to_owned()
}

/// A client that uses the Secret of a User in namespace shop.
pub fn client(kubectl: &Kubectl, user: &str, topic: &str) -> Client {
    Client { namespace: "shop".into(), secret: format!("{user}-kafka"), image: kafka_image(kubectl), topic: topic.into() }
}

/// A Secret's texts.
pub fn secret(kubectl: &Kubectl, namespace: &str, name: &str) -> Result<BTreeMap<String, String>> {
    let found = kubectl.get("secret", namespace, name)?.with_context(|| format!("no Secret {namespace}/{name}"))?;
    let data = found["data"].as_object().context("data")?;
    let decode = |value: &Value| -> Result<String> {
        use base64::prelude::{BASE64_STANDARD, Engine};
        Ok(String::from_utf8(BASE64_STANDARD.decode(value.as_str().context("text")?)?)?)
    };
    data.iter().map(|(key, value)| Ok((key.clone(), decode(value)?))).collect()
}

/// Deletes a Topic with the records that it holds; the Kafka topic has its name.
pub fn delete_topic(kubectl: &Kubectl, namespace: &str, name: &str) {
    let confirm = format!("freehold.dev/confirm-delete={name}");
    kubectl.run(&["annotate", "--overwrite", "topic", name, "--namespace", namespace, &confirm]).unwrap();
    kubectl.delete("topic", namespace, name, LONG).unwrap();
}

/// Addresses of a cluster's pods on a port. Pods are reached from here by the ground's routes.
pub fn endpoints(kubectl: &Kubectl, namespace: &str, cluster: &str, role: &str, port: u16) -> Vec<Endpoint> {
    let selector = format!("freehold.dev/cluster={cluster},freehold.dev/{role}=true");
    let pods = kubectl.json(&["get", "pods", "--namespace", namespace, "--selector", &selector]).unwrap();
    let pods = pods["items"].as_array().unwrap();
    pods.iter()
        .filter_map(|pod| {
            let name = pod["metadata"]["name"].as_str().unwrap();
            // One that has just been made has none yet.
            let ip: std::net::IpAddr = pod["status"]["podIP"].as_str()?.parse().unwrap();
            Some(Endpoint {
                node_id: name.rsplit_once('-').unwrap().1.parse().unwrap(),
                address: (ip, port).into(),
                server_name: format!("{name}.{cluster}-nodes.{namespace}.svc"),
            })
        })
        .collect()
}

/// An admin client that logs in as a SCRAM user of the quickstart's cluster.
pub fn scram_admin(kubectl: &Kubectl, user: &str, password: &str) -> Admin {
    let ca = secret(kubectl, "shop", "shop-app-kafka").unwrap()["ca.crt"].clone();
    let login = ScramLogin { user: user.into(), password: password.into() };
    Admin::new(endpoints(kubectl, "kafka", "demo", "broker", 9094), TlsSettings::new(&ca, None).unwrap(), Some(login))
}

/// An admin client with the operator's own certificate: sees everything.
pub fn super_admin(kubectl: &Kubectl, namespace: &str, cluster: &str) -> Admin {
    let own = secret(kubectl, namespace, &format!("{cluster}-operator-tls")).unwrap();
    let ca = secret(kubectl, namespace, &format!("{cluster}-cluster-ca")).unwrap();
    let tls = TlsSettings::new(&ca["tls.crt"], Some((&own["tls.crt"], &own["tls.key"]))).unwrap();
    Admin::new(endpoints(kubectl, namespace, cluster, "broker", 9091), tls, None)
}

/// Runs a future to its end. One runtime for all, so that connections live on from call to call.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| tokio::runtime::Runtime::new().unwrap());
    RUNTIME.block_on(future)
}

pub fn topic(name: &str, cluster: &str, spec: &str) -> String {
    format!(
        "apiVersion: freehold.dev/v1alpha1\nkind: Topic\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  clusterRef: {{name: {cluster}, namespace: kafka}}\n{spec}"
    )
}

pub fn user(name: &str, cluster: &str, spec: &str) -> String {
    format!(
        "apiVersion: freehold.dev/v1alpha1\nkind: User\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  clusterRef: {{name: {cluster}, namespace: kafka}}\n{spec}"
    )
}

/// A cluster of one small combined node.
pub fn small_cluster(name: &str, namespace: &str, version: &str, more: &str) -> String {
    format!(
        "apiVersion: freehold.dev/v1alpha1\nkind: KafkaCluster\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  version: {version}\n  \
         nodePools:\n  - {{name: all, roles: [controller, broker], replicas: 1, zones: [zone-a], storage: {{size: 1Gi}}, jvm: {{heap: 320Mi}}}}\n  \
         listeners:\n  - {{name: tls, port: 9093, authentication: MutualTls}}\n  - {{name: scram, port: 9094, authentication: ScramSha512}}\n  \
         access: {{namespaces: {{from: All}}}}\n{more}"
    )
}

/// An operator as a process on this machine, for a namespace of its own; ends with the test.
pub struct Operator(pub Child);

impl Drop for Operator {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Operator {
    /// What the operator of this name says.
    pub fn log(namespace: &str, identity: &str) -> PathBuf {
        let logs = std::env::var("FREEHOLD_LOGS").expect("cargo xtask test sets it");
        Path::new(&logs).join(format!("operator-{namespace}-{identity}.log"))
    }

    /// `namespaces`: those that it watches, separated by commas; the first is its own.
    pub fn start(namespaces: &str, identity: &str, image: &str, environment: &[(&str, &str)]) -> Self {
        let namespace = namespaces.split(',').next().unwrap();
        let binary = std::env::var("FREEHOLD_BINARY").expect("cargo xtask test sets it");
        let log = shell::log_file(&Self::log(namespace, identity)).unwrap();
        let mut command = Command::new(binary);
        command.args(["operator", "--watch-namespaces", namespaces, "--namespace", namespace, "--identity", identity]);
        command.args(["--http", "127.0.0.1:0", "--log-format", "human", "--images", &format!("4.3.1={image}")]);
        command.envs(environment.iter().copied());
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap())
    }
}

/// A namespace that Pod Security holds to `restricted`.
pub fn namespace(kubectl: &Kubectl, name: &str) {
    let labels = json!({"pod-security.kubernetes.io/enforce": "restricted"});
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
    kubectl.apply(&namespace.to_string()).unwrap();
}
