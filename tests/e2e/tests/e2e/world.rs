//! Code that the tests share: kubectl, clients of the local cluster, objects as YAML, the
//! operator's admin client.

use anyhow::{Context, Result, ensure};
use freehold_e2e::flow::{Client, stands_still};
use freehold_e2e::kubectl::{Kubectl, condition_of};
use freehold_e2e::{promise, shell};
use freehold_kafka_client::client::Client as Admin;
use freehold_kafka_client::connection::Endpoint;
use freehold_kafka_client::sasl::ScramLogin;
use freehold_kafka_client::tls::TlsSettings;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::time::Duration;

/// A time limit for what takes seconds on an idle machine.
pub const LONG: Duration = Duration::from_secs(300);

pub fn kubectl() -> Kubectl {
    Kubectl::from_env().unwrap()
}

/// A command that puts something back if the test fails before it has done so itself, so that the
/// tests after it find the local cluster as it was.
pub struct Restore(Command);

impl Restore {
    pub fn new(kubectl: &Kubectl, words: &[&str]) -> Self {
        Self(kubectl.command(words))
    }

    /// By a merge patch of the quickstart's cluster.
    pub fn demo(kubectl: &Kubectl, spec: &Value) -> Self {
        let patch = json!({"spec": spec}).to_string();
        let words = ["patch", "kafkacluster", "demo", "--namespace", "kafka"];
        let how = ["--type=merge", "-p", &patch];
        Self::new(kubectl, &[&words[..], &how].concat())
    }

    /// By a deletion, without waiting.
    pub fn delete(kubectl: &Kubectl, kind: &str, namespace: &str, name: &str) -> Self {
        let words = ["delete", kind, name, "--namespace", namespace];
        let how = ["--ignore-not-found", "--wait=false"];
        Self::new(kubectl, &[&words[..], &how].concat())
    }
}

impl Drop for Restore {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The test has failed already: an error here would hide why.
            let _ = self.0.output();
        }
    }
}

/// The answer to a question that changes nothing. A busy API server may not answer at once: then it
/// is asked again.
pub fn asked<T>(what: &str, mut question: impl FnMut() -> Result<T>) -> T {
    let mut answer = None;
    shell::wait_for(what, LONG, || {
        answer = Some(question()?);
        Ok(None)
    })
    .unwrap();
    answer.unwrap()
}

/// Waits until an access has ended. One that is there at the end of the time is a broken promise:
/// no slowness explains it. Without an answer nobody knows, and the wait has run out.
pub fn access_ends(what: &str, mut is_let_in: impl FnMut() -> Result<bool>) {
    let mut is_open = false;
    let waited = shell::wait_for(what, LONG, || {
        is_open = false;
        is_open = is_let_in()?;
        Ok(is_open.then(|| "it is let in".into()))
    });
    promise!(
        waited.is_ok() || !is_open,
        "{what}: it is let in all the time, for more than {} s",
        LONG.as_secs()
    );
    waited.unwrap();
}

/// What to make of a wait for records that come one by one, and of those that are not there. If
/// none of them comes any more, they are lost; as long as some come, the time was too short.
pub fn comes_in_time(waited: Result<()>, left: impl Fn() -> Vec<i64>) {
    let stays = || -> Result<Vec<i64>> {
        let left = left();
        ensure!(!left.is_empty(), "all are there by now");
        Ok(left)
    };
    promise!(
        waited.is_ok() || !stands_still(stays),
        "records are lost: {:?}",
        left()
    );
    waited.unwrap();
}

/// The Kafka image of the quickstart's brokers.
pub fn kafka_image(kubectl: &Kubectl) -> String {
    let name = "demo-nodes-zone-a";
    let set = asked("the quickstart's StatefulSet", || {
        kubectl
            .get("statefulset", "kafka", name)?
            .context("it is not there")
    });
    set["spec"]["template"]["spec"]["containers"][0]["image"]
        .as_str()
        .unwrap()
        .to_owned()
}

/// The image of the runner, which the operator of the local cluster was given.
pub fn runner_image(kubectl: &Kubectl) -> String {
    let words = ["get", "deployment", "--namespace", "freehold-system"];
    let found = asked("the operator's Deployment", || kubectl.json(&words));
    let environment = &found["items"][0]["spec"]["template"]["spec"]["containers"][0]["env"];
    let mut all = environment.as_array().unwrap().iter();
    let image = all.find(|one| one["name"] == "FREEHOLD_RUNNER_IMAGE");
    image.unwrap()["value"].as_str().unwrap().to_owned()
}

/// A client with the Secret of a User in namespace shop.
pub fn client(kubectl: &Kubectl, user: &str, topic: &str) -> Client {
    Client {
        namespace: "shop".into(),
        secret: format!("{user}-kafka"),
        image: kafka_image(kubectl),
        topic: topic.into(),
    }
}

/// The values of a Secret as text.
pub fn secret(kubectl: &Kubectl, namespace: &str, name: &str) -> Result<BTreeMap<String, String>> {
    let found = kubectl
        .get("secret", namespace, name)?
        .with_context(|| format!("no Secret {namespace}/{name}"))?;
    let data = found["data"].as_object().context("data")?;
    let decode = |value: &Value| -> Result<String> {
        use base64::prelude::{BASE64_STANDARD, Engine};
        Ok(String::from_utf8(
            BASE64_STANDARD.decode(value.as_str().context("text")?)?,
        )?)
    };
    data.iter()
        .map(|(key, value)| Ok((key.clone(), decode(value)?)))
        .collect()
}

/// Deletes a Topic although its topic holds records. The Kafka topic must have the same name.
pub fn delete_topic(kubectl: &Kubectl, namespace: &str, name: &str) {
    let confirm = format!("freehold.dev/confirm-delete={name}");
    kubectl
        .run(&[
            "annotate",
            "--overwrite",
            "topic",
            name,
            "--namespace",
            namespace,
            &confirm,
        ])
        .unwrap();
    kubectl.delete("topic", namespace, name, LONG).unwrap();
}

/// Deletes an object that a test leaves behind, without waiting: no other test uses its name, and
/// `lifecycle`, `failures`, `crash` and `tenants` cover what a deletion leaves.
pub fn leave(kubectl: &Kubectl, kind: &str, namespace: &str, name: &str) {
    kubectl
        .run(&[
            "delete",
            kind,
            name,
            "--namespace",
            namespace,
            "--ignore-not-found",
            "--wait=false",
        ])
        .unwrap();
}

/// Waits until a request is refused with these words; returns the whole refusal. A webhook that
/// does not answer in time lets an object in, or asks to try again: so give a dry run.
pub fn refusal(words: &str, request: impl Fn() -> Result<String>) -> String {
    let mut said = String::new();
    shell::wait_for(&format!("a refusal with {words:?}"), LONG, || {
        let Err(error) = request() else {
            return Ok(Some("it is let in".into()));
        };
        said = error.to_string();
        let is_so = said.contains(words) && !said.contains("try again");
        Ok((!is_so).then(|| said.chars().take(1_000).collect()))
    })
    .unwrap();
    said
}

/// The same for an object that is applied.
pub fn refused(kubectl: &Kubectl, yaml: &str, words: &str) -> String {
    let apply = ["apply", "--server-side", "--force-conflicts"];
    let dry = ["--field-manager=test", "--dry-run=server", "-f", "-"];
    refusal(words, || kubectl.feed(&[&apply[..], &dry].concat(), yaml))
}

/// Kills a pod. One that was killed a moment ago may not be there again yet.
pub fn kill_pod(kubectl: &Kubectl, namespace: &str, pod: &str) {
    let words = [
        "delete",
        "pod",
        pod,
        "--namespace",
        namespace,
        "--force",
        "--grace-period=0",
    ];
    shell::wait_for(&format!("pod {pod} to be killed"), LONG, || {
        Ok(kubectl.run(&words).err().map(|error| error.to_string()))
    })
    .unwrap();
}

/// Waits until the condition Degraded of a Pipeline says this of a block; returns its message. It
/// may say something else before, for example of a broker that is slow.
pub fn wait_degraded(
    kubectl: &Kubectl,
    namespace: &str,
    pipeline: &str,
    block: &str,
    words: &str,
) -> String {
    let begin = format!("block {block}: ");
    let mut message = String::new();
    shell::wait_for(&format!("{begin}{words}"), LONG, || {
        let object = kubectl.get("pipeline", namespace, pipeline)?;
        let degraded = object.and_then(|object| condition_of(&object, "Degraded").cloned());
        let degraded = degraded.unwrap_or_default();
        message = degraded["message"].as_str().unwrap_or_default().to_owned();
        let is_so = message.starts_with(&begin) && message.contains(words);
        Ok((!is_so).then(|| degraded.to_string()))
    })
    .unwrap();
    message
}

/// Serves HTTP at this address of this machine until the test process ends; returns its URL without
/// a path.
pub fn serve(host: &str, routes: axum::Router) -> String {
    let listener = std::net::TcpListener::bind((host, 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            axum::serve(listener, routes).await.unwrap();
        });
    });
    url
}

/// Addresses of a cluster's pods with a port. The local cluster's routes make pods reachable from
/// the test process.
pub fn endpoints(
    kubectl: &Kubectl,
    namespace: &str,
    cluster: &str,
    role: &str,
    port: u16,
) -> Vec<Endpoint> {
    let selector = format!("freehold.dev/cluster={cluster},freehold.dev/{role}=true");
    let words = [
        "get",
        "pods",
        "--namespace",
        namespace,
        "--selector",
        &selector,
    ];
    let pods = asked("the cluster's pods", || kubectl.json(&words));
    let pods = pods["items"].as_array().unwrap();
    pods.iter()
        .filter_map(|pod| {
            let name = pod["metadata"]["name"].as_str().unwrap();
            // A pod that was just created has no address yet.
            let ip: std::net::IpAddr = pod["status"]["podIP"].as_str()?.parse().unwrap();
            Some(Endpoint {
                node_id: name.rsplit_once('-').unwrap().1.parse().unwrap(),
                address: (ip, port).into(),
                server_name: format!("{name}.{cluster}-nodes.{namespace}.svc"),
            })
        })
        .collect()
}

/// An admin client that logs in to the quickstart's cluster as a SCRAM user.
pub fn scram_admin(kubectl: &Kubectl, user: &str, password: &str) -> Admin {
    let ca = secret(kubectl, "shop", "shop-app-kafka").unwrap()["ca.crt"].clone();
    let login = ScramLogin {
        user: user.into(),
        password: password.into(),
    };
    Admin::new(
        endpoints(kubectl, "kafka", "demo", "broker", 9094),
        TlsSettings::new(&ca, None).unwrap(),
        Some(login),
    )
}

/// An admin client with the operator's certificate, which is a super user.
pub fn super_admin(kubectl: &Kubectl, namespace: &str, cluster: &str) -> Admin {
    Admin::new(
        endpoints(kubectl, namespace, cluster, "broker", 9091),
        operator_tls(kubectl, namespace, cluster),
        None,
    )
}

/// The operator's certificate for a cluster, and the CA that it trusts.
pub fn operator_tls(kubectl: &Kubectl, namespace: &str, cluster: &str) -> TlsSettings {
    let read = |which: &str| {
        let name = format!("{cluster}-{which}");
        asked(&format!("Secret {namespace}/{name}"), || {
            secret(kubectl, namespace, &name)
        })
    };
    let (own, ca) = (read("operator-tls"), read("cluster-ca"));
    TlsSettings::new(&ca["tls.crt"], Some((&own["tls.crt"], &own["tls.key"]))).unwrap()
}

/// Runs a future to its end. All calls share one runtime, so that connections stay open between
/// them.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    static RUNTIME: LazyLock<tokio::runtime::Runtime> =
        LazyLock::new(|| tokio::runtime::Runtime::new().unwrap());
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

/// A cluster with one small combined node.
pub fn small_cluster(name: &str, namespace: &str, version: &str, more: &str) -> String {
    format!(
        "apiVersion: freehold.dev/v1alpha1\nkind: KafkaCluster\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  version: {version}\n  \
         nodePools:\n  - {{name: all, roles: [controller, broker], replicas: 1, zones: [zone-a], storage: {{size: 1Gi}}, jvm: {{heap: 320Mi}}}}\n  \
         listeners:\n  - {{name: tls, port: 9093, authentication: MutualTls}}\n  - {{name: scram, port: 9094, authentication: ScramSha512}}\n  \
         access: {{namespaces: {{from: All}}}}\n{more}"
    )
}

/// An operator that runs as a process on this machine, for a namespace of its own; it is killed
/// with the test.
pub struct Operator(pub Child);

impl Drop for Operator {
    fn drop(&mut self) {
        // An error means that it has already exited.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Operator {
    /// The log file of an operator.
    pub fn log(namespace: &str, identity: &str) -> PathBuf {
        let logs = std::env::var("FREEHOLD_LOGS").expect("cargo xtask test sets it");
        Path::new(&logs).join(format!("operator-{namespace}-{identity}.log"))
    }

    /// `namespaces`: the namespaces that it watches, separated by commas; the first one is its own.
    pub fn start(
        namespaces: &str,
        identity: &str,
        image: &str,
        environment: &[(&str, &str)],
    ) -> Self {
        let namespace = namespaces.split(',').next().unwrap();
        let binary = std::env::var("FREEHOLD_BINARY").expect("cargo xtask test sets it");
        let log = shell::log_file(&Self::log(namespace, identity)).unwrap();
        let mut command = Command::new(binary);
        command.args([
            "operator",
            "--watch-namespaces",
            namespaces,
            "--namespace",
            namespace,
            "--identity",
            identity,
        ]);
        command.args([
            "--http",
            "127.0.0.1:0",
            "--log-format",
            "human",
            "--images",
            &format!("4.3.1={image}"),
        ]);
        command.envs(environment.iter().copied());
        Self(
            command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log)
                .spawn()
                .unwrap(),
        )
    }
}

/// Creates a namespace with Pod Security `restricted`. First removes what a failed or killed run
/// left in a namespace of this name. If the test fails, its brokers end: they would load the machine
/// of the tests that follow. To be kept for as long as the test runs, and longer than its operator.
#[must_use]
pub fn namespace(kubectl: &Kubectl, name: &str) -> Restore {
    if kubectl.get("namespace", "", name).unwrap().is_some() {
        for kind in ["pipeline", "topic", "user", "kafkacluster"] {
            let left = kubectl
                .run(&["get", kind, "--namespace", name, "-o", "name"])
                .unwrap();
            for object in left.lines() {
                let patch = [
                    "patch",
                    object,
                    "--namespace",
                    name,
                    "--type=merge",
                    "-p",
                    r#"{"metadata":{"finalizers":null}}"#,
                ];
                // An error means that it is gone meanwhile.
                let _ = kubectl.run(&patch);
            }
        }
        kubectl.delete("namespace", "", name, LONG).unwrap();
    }
    let labels = json!({"pod-security.kubernetes.io/enforce": "restricted"});
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
    kubectl.apply(&namespace.to_string()).unwrap();
    let words = ["delete", "statefulsets", "--all", "--wait=false"];
    Restore::new(kubectl, &[&words[..], &["--namespace", name]].concat())
}
