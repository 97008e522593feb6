//! Messages by MQTT: a real broker on this machine, and a Pipeline that reads it, and publishes to it
//! again, while its pods are killed.

use crate::world::{LONG, client, comes_in_time, kill_pod, kubectl, topic, user, wait_degraded};
use freehold_e2e::flow;
use freehold_e2e::kubectl::Kubectl;
use freehold_e2e::shell;
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const NAMESPACE: &str = "shop";
const MESSAGES: i64 = 2_000;

/// mosquitto, at the address by which pods reach this machine. It ends with this value.
pub struct Broker {
    process: Child,
    host: String,
    port: u16,
    folder: PathBuf,
}

impl Broker {
    pub fn start(host: String) -> Self {
        let folder = std::env::temp_dir().join(format!("freehold-mqtt-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let passwords = folder.join("passwords");
        let words = ["-b", "-c", passwords.to_str().unwrap(), "me", "hush"];
        shell::run(&mut shell::command("mosquitto_passwd", words)).unwrap();
        let (process, port) = run(&host, &folder);
        let mut broker = Self {
            process,
            host,
            port,
            folder,
        };
        shell::wait_for("mosquitto takes a message", LONG, || {
            // Somebody else may have taken the port.
            if broker.process.try_wait()?.is_some() {
                (broker.process, broker.port) = run(&broker.host, &broker.folder);
            }
            let mut first = broker.publisher("first");
            Ok((!shell::succeeds(first.args(["-m", "1"]))).then(|| "see its log".into()))
        })
        .unwrap();
        broker
    }

    pub fn url(&self) -> String {
        format!("mqtt://{}:{}", self.host, self.port)
    }

    /// Publishes each line at QoS 1, and waits until the broker has them.
    pub fn publish(&self, topic: &str, lines: &str) {
        let mut publisher = self.publisher(topic);
        let mut publisher = publisher
            .arg("-l")
            .stdin(Stdio::piped())
            .spawn()
            .expect("apt-get install mosquitto-clients");
        let mut input = publisher.stdin.take().unwrap();
        input.write_all(lines.as_bytes()).unwrap();
        drop(input);
        assert!(publisher.wait().unwrap().success(), "mosquitto_pub");
    }

    fn publisher(&self, topic: &str) -> Command {
        let port = self.port.to_string();
        let words = ["-h", &self.host, "-p", &port, "-u", "me", "-P", "hush"];
        let mut publisher = Command::new("mosquitto_pub");
        publisher.args(words).args(["-q", "1", "-t", topic]);
        publisher
    }
}

/// Starts mosquitto at a port that was free a moment ago.
fn run(host: &str, folder: &Path) -> (Child, u16) {
    let free = TcpListener::bind((host, 0)).unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let config = folder.join("config");
    let text = format!(
        "listener {port} {host}\npassword_file {}\nmax_queued_messages 0\nuser root\n",
        folder.join("passwords").display()
    );
    fs::write(&config, text).unwrap();
    let logs = std::env::var("FREEHOLD_LOGS").expect("cargo xtask test sets it");
    let log = shell::log_file(&Path::new(&logs).join("mosquitto.log")).unwrap();
    let process = Command::new("/usr/sbin/mosquitto")
        .arg("-c")
        .arg(&config)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .expect("apt-get install mosquitto");
    (process, port)
}

/// A subscriber, and the numbers that it gets. It ends with this value.
struct Subscriber {
    process: Child,
    taken: Arc<Mutex<BTreeSet<i64>>>,
}

impl Subscriber {
    fn start(broker: &Broker, topic: &str) -> Self {
        let port = broker.port.to_string();
        let words = ["-h", &broker.host, "-p", &port, "-u", "me", "-P", "hush"];
        let mut process = Command::new("mosquitto_sub")
            .args(words)
            .args(["-q", "1", "-t", topic, "-i", "subscriber", "-c"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("apt-get install mosquitto-clients");
        let taken = Arc::<Mutex<BTreeSet<i64>>>::default();
        let seen = Arc::clone(&taken);
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                seen.lock().unwrap().insert(line.parse().unwrap());
            }
        });
        // What is published before it has subscribed does not reach it.
        shell::wait_for("the subscriber gets messages", LONG, || {
            broker.publish(topic, "-1\n");
            std::thread::sleep(Duration::from_millis(200));
            let is_so = taken.lock().unwrap().contains(&-1);
            Ok((!is_so).then(String::new))
        })
        .unwrap();
        Self { process, taken }
    }

    /// Every number was published; a kill may double some.
    fn has_all(&self) {
        let left = || {
            let taken = self.taken.lock().unwrap();
            let left = (0..MESSAGES).filter(|number| !taken.contains(number));
            left.collect::<Vec<_>>()
        };
        let waited = shell::wait_for("every message is published", LONG, || {
            let left = left().len();
            Ok((left > 0).then(|| format!("{left} are not there")))
        });
        comes_in_time(waited, left);
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The address of this machine, as pods see it: the API server is a process of it.
pub fn host(kubectl: &Kubectl) -> String {
    let words = [
        "get",
        "endpointslice",
        "kubernetes",
        "--namespace",
        "default",
    ];
    let slice = kubectl.json(&words).unwrap();
    let address = &slice["endpoints"][0]["addresses"][0];
    address.as_str().unwrap().to_owned()
}

fn pipeline(broker: &Broker) -> String {
    let url = broker.url();
    format!(
        "apiVersion: v1
kind: Secret
metadata: {{name: feed-broker, namespace: {NAMESPACE}}}
stringData: {{username: me, password: wrong}}
---
apiVersion: v1
kind: Secret
metadata: {{name: feed-back, namespace: {NAMESPACE}}}
stringData: {{username: me, password: hush}}
---
apiVersion: freehold.dev/v1alpha1
kind: Pipeline
metadata: {{name: feed, namespace: {NAMESPACE}}}
spec:
  clusterRef: {{name: demo, namespace: kafka}}
  blocks:
  - name: sensors
    source: {{mqtt: {{url: '{url}', topics: ['sensors/#'], basic: {{name: feed-broker}}}}}}
  - {{name: numbers, from: [sensors], filter: {{when: 'is_integer(.)'}}}}
  - {{name: out, from: [numbers], sink: {{kafka: {{topicRef: {{name: feed-out}}}}}}}}
  - name: back
    from: [numbers]
    sink: {{mqtt: {{url: '{url}', topic: numbers/all, basic: {{name: feed-back}}, delivery: AtLeastOnce}}}}
"
    )
}

#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn messages_by_mqtt_are_in_kafka_and_back_although_pods_are_killed() {
    let kubectl = kubectl();
    remove(&kubectl);
    let broker = Broker::start(host(&kubectl));
    let spec = "  partitions: 3\n  replicas: 3\n  config: {min.insync.replicas: \"2\"}\n";
    kubectl.apply(&topic("feed-out", "demo", spec)).unwrap();
    let rights = "  authentication: {type: ScramSha512}\n  grants:\n  - {consume: {topics: [feed-out], groups: [\"shop-*\"]}}\n";
    kubectl.apply(&user("feeder", "demo", rights)).unwrap();
    kubectl.apply(&pipeline(&broker)).unwrap();
    wait_degraded(&kubectl, NAMESPACE, "feed", "sensors", "not authorized");
    let patch = serde_json::json!({"stringData": {"password": "hush"}});
    kubectl
        .merge("secret", NAMESPACE, "feed-broker", &patch)
        .unwrap();
    kill(&kubectl, "feed-sensors-0");
    kubectl
        .wait_ready("pipeline", NAMESPACE, "feed", LONG)
        .unwrap();
    let subscriber = Subscriber::start(&broker, "numbers/all");
    // The broker keeps what comes while the pod is away: the session is there.
    for part in 0..4 {
        let numbers = part * MESSAGES / 4..(part + 1) * MESSAGES / 4;
        let lines: String = numbers.map(|number| format!("{number}\n")).collect();
        broker.publish(&format!("sensors/{part}"), &lines);
        if part < 2 {
            kill(&kubectl, "feed-sensors-0");
            kill(&kubectl, "feed-back-0");
        }
    }
    arrived(&kubectl);
    subscriber.has_all();
    kubectl.delete("pipeline", NAMESPACE, "feed", LONG).unwrap();
    remove(&kubectl);
}

fn kill(kubectl: &Kubectl, pod: &str) {
    kill_pod(kubectl, NAMESPACE, pod);
    std::thread::sleep(Duration::from_secs(1));
}

/// Every message is there; a kill may double some. A message that never comes ends its round as a
/// broken promise.
fn arrived(kubectl: &Kubectl) {
    let mut left: BTreeSet<i64> = (0..MESSAGES).collect();
    for round in 1.. {
        let to = client(kubectl, "feeder", "feed-out");
        let (job, group) = (format!("feed-{round}"), "shop-feed");
        let read = flow::consume_committed(kubectl, &to, &job, group, left.len(), LONG).unwrap();
        for (_, _, value) in read {
            left.remove(&value);
        }
        if left.is_empty() {
            break;
        }
    }
    println!("mqtt: {MESSAGES} messages, none lost");
}

fn remove(kubectl: &Kubectl) {
    kubectl.delete("pipeline", NAMESPACE, "feed", LONG).unwrap();
    for name in ["feed-broker", "feed-back"] {
        kubectl.delete("secret", NAMESPACE, name, LONG).unwrap();
    }
    kubectl.delete("user", NAMESPACE, "feeder", LONG).unwrap();
    if kubectl
        .get("topic", NAMESPACE, "feed-out")
        .unwrap()
        .is_some()
    {
        crate::world::delete_topic(kubectl, NAMESPACE, "feed-out");
    }
}
