//! Kafka brokers.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::types::RDKafkaErrorCode;

use super::{Folder, free_port, signal, tail, until};

const GET_JARS: &str = "run `cargo xtask up` once: it fetches Kafka's jars into the cache";

/// Brokers that are also controllers. They end with this value, or with the test process.
pub struct Kafka {
    brokers: Vec<Broker>,
    /// Those that were started again since.
    ended: Vec<Broker>,
    folder: Folder,
}

struct Broker {
    /// A shell that ends the broker when its standard input closes: also if the tests are killed.
    guard: Child,
    pid: u32,
    port: u16,
}

/// The ports of a broker.
#[derive(Clone, Copy)]
struct Ports {
    client: u16,
    /// Clients of this listener are sent to the proxy.
    behind_proxy: u16,
    proxy: u16,
    /// SASL_SSL with SCRAM.
    secure: u16,
    controller: u16,
}

/// Who may use the listener with SASL_SSL.
pub const USER: &str = "stage";
pub const PASSWORD: &str = "a secret with = and spaces";

/// Java, as `cargo xtask test` found or installed it; else the one of the path.
fn java_path() -> String {
    std::env::var("FREEHOLD_JAVA").unwrap_or_else(|_| "java".to_owned())
}

/// Kafka's jars, as `cargo xtask test` fetched them; else those of the cache.
fn libs() -> PathBuf {
    if let Some(libs) = std::env::var_os("FREEHOLD_KAFKA_LIBS") {
        return PathBuf::from(libs);
    }
    let versions = fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../deploy/versions.env"
    ));
    let versions = versions.unwrap();
    let kafka = versions
        .lines()
        .find_map(|line| line.strip_prefix("KAFKA="))
        .unwrap();
    let cache = std::env::var_os("FREEHOLD_CACHE").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/freehold"),
        PathBuf::from,
    );
    let jars = cache.join("kafka-jars");
    let entries = fs::read_dir(&jars);
    let entries = entries.unwrap_or_else(|error| panic!("{}: {error}; {GET_JARS}", jars.display()));
    let of_version = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        name.starts_with(&format!("{kafka}-")) && path.join("libs").is_dir()
    };
    let found = entries.map(|entry| entry.unwrap().path()).find(of_version);
    found
        .unwrap_or_else(|| panic!("no jars of Kafka {kafka} in {}; {GET_JARS}", jars.display()))
        .join("libs")
}

fn block_on<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(future)
}

fn java(libs: &Path, log: &Path) -> Command {
    let mut java = Command::new(java_path());
    java.args([
        "-Xmx512m",
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        "-cp",
    ])
    .arg(format!("{}/*", libs.display()))
    .stdin(Stdio::null())
    .stdout(fs::File::create(log).unwrap())
    .stderr(fs::File::options().append(true).open(log).unwrap());
    java
}

impl Kafka {
    /// Starts brokers and waits until they answer. `proxy` is the port of a proxy that leads to the
    /// first broker's second listener.
    pub fn start(name: &str, count: u16, proxy: Option<u16>) -> Self {
        let (folder, libs) = (Folder::new(name), libs());
        let ports: Vec<_> = (0..count)
            .map(|_| Ports {
                client: free_port(),
                behind_proxy: free_port(),
                proxy: proxy.unwrap_or(1),
                secure: free_port(),
                controller: free_port(),
            })
            .collect();
        write_certificates(&folder.0);
        let brokers = (0..usize::from(count))
            .map(|at| Broker::start(&folder.0, &libs, at, &ports))
            .collect();
        let kafka = Self {
            brokers,
            ended: Vec::new(),
            folder,
        };
        let client: BaseConsumer = kafka.client().create().unwrap();
        until("the brokers answer", Duration::from_secs(60), || {
            let metadata = client.fetch_metadata(None, Duration::from_secs(2));
            metadata.is_ok_and(|metadata| metadata.brokers().len() == usize::from(count))
        });
        kafka
    }

    pub fn bootstrap(&self) -> String {
        let hosts: Vec<_> = self
            .brokers
            .iter()
            .map(|broker| format!("127.0.0.1:{}", broker.port))
            .collect();
        hosts.join(",")
    }

    pub fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", self.bootstrap())
            .set("reconnect.backoff.max.ms", "500");
        config
    }

    /// The process of a broker.
    pub fn pid(&self, at: usize) -> u32 {
        self.brokers[at].pid
    }

    pub fn create_topic(&self, name: &str, partitions: i32, config: &[(&str, &str)]) {
        let replicas = i32::try_from(self.brokers.len()).unwrap();
        let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(replicas));
        for (key, value) in config {
            topic = topic.set(key, value);
        }
        // A test that stopped a broker may have just let it go on: an attempt that it keeps to
        // itself is made again.
        until("the topic is created", Duration::from_secs(60), || {
            self.try_to_create(&topic)
        });
        let client: BaseConsumer = self.client().create().unwrap();
        until("the topic has leaders", Duration::from_secs(20), || {
            let metadata = client.fetch_metadata(Some(name), Duration::from_secs(2));
            metadata.is_ok_and(|metadata| {
                let known = metadata.topics().first();
                let known = known.map_or(&[][..], |topic| topic.partitions());
                known.len() == usize::try_from(partitions).unwrap()
                    && known.iter().all(|partition| partition.leader() >= 0)
            })
        });
    }

    /// Whether the topic exists now; false if no broker answered in time.
    fn try_to_create(&self, topic: &NewTopic<'_>) -> bool {
        let admin: AdminClient<DefaultClientContext> = self.client().create().unwrap();
        let options = AdminOptions::new()
            .request_timeout(Some(Duration::from_secs(10)))
            .operation_timeout(Some(Duration::from_secs(5)));
        let created = match block_on(admin.create_topics([topic], &options)) {
            Ok(mut results) => results.remove(0),
            Err(error) => {
                eprintln!("topic {}: {error}", topic.name);
                return false;
            }
        };
        match created {
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => true,
            Err((_, RDKafkaErrorCode::RequestTimedOut)) => false,
            Err((_, code)) => panic!("topic {}: {code}", topic.name),
        }
    }

    /// Deletes a topic, and waits until the broker does not know it any more.
    pub fn delete_topic(&self, name: &str) {
        let admin: AdminClient<DefaultClientContext> = self.client().create().unwrap();
        let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(5)));
        until("the topic is deleted", Duration::from_secs(60), || {
            let deleted = block_on(admin.delete_topics(&[name], &options));
            let deleted = deleted.map(|mut results| results.remove(0));
            matches!(
                deleted,
                Ok(Ok(_) | Err((_, RDKafkaErrorCode::UnknownTopicOrPartition)))
            )
        });
        until("the topic is gone", Duration::from_secs(20), || {
            let client: BaseConsumer = self.client().create().unwrap();
            let metadata = client.fetch_metadata(None, Duration::from_secs(2));
            metadata
                .is_ok_and(|metadata| metadata.topics().iter().all(|topic| topic.name() != name))
        });
    }

    /// Gives a topic more partitions, and waits until they have leaders.
    pub fn grow_topic(&self, name: &str, partitions: usize) {
        let admin: AdminClient<DefaultClientContext> = self.client().create().unwrap();
        let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(5)));
        let _ =
            block_on(admin.create_partitions(&[NewPartitions::new(name, partitions)], &options));
        until(
            "the partitions have leaders",
            Duration::from_secs(20),
            || {
                let client: BaseConsumer = self.client().create().unwrap();
                let metadata = client.fetch_metadata(Some(name), Duration::from_secs(2));
                metadata.is_ok_and(|metadata| {
                    let known = metadata.topics()[0].partitions();
                    known.len() == partitions && known.iter().all(|one| one.leader() >= 0)
                })
            },
        );
    }

    /// Gives [`USER`] a right for a topic, and waits until it is in force. Whoever has no right for
    /// a topic that somebody has one for may do nothing with it.
    pub fn allow(&self, topic: &str, operation: &str) {
        let user = format!("User:{USER}");
        let add = [
            "--add",
            "--allow-principal",
            &user,
            "--operation",
            operation,
        ];
        let (is_added, log) = self.acls(topic, &add);
        assert!(is_added, "{log}");
        let listed = format!("operation={}", operation.to_uppercase());
        until("the right is in force", Duration::from_secs(60), || {
            self.acls(topic, &["--list"]).1.contains(&listed)
        });
    }

    /// Whether the command for rights of a topic was successful, and what it said.
    fn acls(&self, topic: &str, arguments: &[&str]) -> (bool, String) {
        let log = self.folder.0.join("acls.log");
        let done = java(&libs(), &log)
            .args(["org.apache.kafka.tools.AclCommand", "--bootstrap-server"])
            .args([&self.bootstrap(), "--topic", topic])
            .args(arguments)
            .status();
        (done.unwrap().success(), tail(&log, usize::MAX))
    }

    /// Kills the only broker, changes what is in its folder of data, and starts it again.
    pub fn restart(&mut self, change: impl FnOnce(&Path)) {
        let Broker { pid, port, .. } = self.brokers[0];
        signal("KILL", pid);
        until("the broker has ended", Duration::from_secs(10), || {
            TcpListener::bind(("127.0.0.1", port)).is_ok()
        });
        change(&self.folder.0.join("data-1"));
        let again = Broker::run(&self.folder.0, &libs(), 1, port);
        let before = std::mem::replace(&mut self.brokers[0], again);
        self.ended.push(before);
        let client: BaseConsumer = self.client().create().unwrap();
        until("the broker answers", Duration::from_secs(60), || {
            let metadata = client.fetch_metadata(None, Duration::from_secs(2));
            metadata.is_ok_and(|metadata| !metadata.brokers().is_empty())
        });
    }

    /// The folder of the brokers' files. It is gone when they end.
    pub fn folder(&self) -> &Path {
        &self.folder.0
    }

    /// For a test that has failed: shows the ends of the brokers' logs, and lets those go on that
    /// the test has stopped.
    pub fn after_failure(&self) {
        for (id, broker) in (1..).zip(&self.brokers) {
            let pid = broker.pid.to_string();
            let _ = Command::new("kill").args(["-CONT", &pid]).status();
            let log = self.folder.0.join(format!("broker-{id}.log"));
            eprintln!("--- broker {id}:\n{}", tail(&log, 3_000));
        }
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.after_failure();
        }
    }
}

impl Broker {
    fn start(folder: &Path, libs: &Path, at: usize, all: &[Ports]) -> Self {
        let (id, ports) = (at + 1, all[at]);
        let config = folder.join(format!("broker-{id}.properties"));
        fs::write(&config, properties(folder, id, ports, all)).unwrap();
        let log = folder.join(format!("broker-{id}.log"));
        let formatted = java(libs, &log)
            .args([
                "kafka.tools.StorageTool",
                "format",
                "-t",
                "MkU3OEVBNTcwNTJENDM2Qk",
                "--add-scram",
                &format!("SCRAM-SHA-512=[name={USER},password=\"{PASSWORD}\"]"),
                "-c",
            ])
            .arg(&config)
            .status();
        assert!(
            formatted.unwrap().success(),
            "cannot format: {}",
            fs::read_to_string(&log).unwrap()
        );
        Self::run(folder, libs, id, ports.client)
    }

    /// Starts the process of a broker that has its files.
    fn run(folder: &Path, libs: &Path, id: usize, port: u16) -> Self {
        let config = folder.join(format!("broker-{id}.properties"));
        let log = folder.join(format!("broker-{id}.log"));
        let java = format!(
            "'{}' -Xmx512m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -cp '{}/*' kafka.Kafka {} > {} 2>&1 & \
             echo $!; read _; kill -9 $!; wait; rm -rf '{}'",
            java_path(),
            libs.display(),
            config.display(),
            log.display(),
            folder.display()
        );
        let mut guard = Command::new("sh")
            .args(["-c", &java])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(guard.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        Self {
            guard,
            pid: line.trim().parse().unwrap(),
            port,
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
    }
}

fn properties(folder: &Path, id: usize, ports: Ports, all: &[Ports]) -> String {
    let voters: Vec<_> = (1..)
        .zip(all)
        .map(|(id, ports): (usize, _)| format!("{id}@127.0.0.1:{}", ports.controller))
        .collect();
    let replicas = all.len();
    let mut text = String::new();
    let _ = write!(
        text,
        "process.roles=broker,controller
node.id={id}
controller.quorum.voters={}
controller.listener.names=CONTROLLER
inter.broker.listener.name=CLIENT
listeners=CLIENT://127.0.0.1:{},PROXIED://127.0.0.1:{},SECURE://127.0.0.1:{secure},\
CONTROLLER://127.0.0.1:{}
advertised.listeners=CLIENT://127.0.0.1:{},PROXIED://127.0.0.1:{},SECURE://127.0.0.1:{secure}
listener.security.protocol.map=CLIENT:PLAINTEXT,PROXIED:PLAINTEXT,SECURE:SASL_SSL,\
CONTROLLER:PLAINTEXT
listener.name.secure.sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.secure.scram-sha-512.sasl.jaas.config=\
org.apache.kafka.common.security.scram.ScramLoginModule required;
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
allow.everyone.if.no.acl.found=true
listener.name.secure.ssl.keystore.type=PEM
listener.name.secure.ssl.keystore.location={folder}/broker.pem
log.dirs={folder}/data-{id}
offsets.topic.replication.factor={replicas}
offsets.topic.num.partitions=4
transaction.state.log.replication.factor={replicas}
transaction.state.log.num.partitions=4
transaction.state.log.min.isr=1
transaction.abort.timed.out.transaction.cleanup.interval.ms=500
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
auto.create.topics.enable=false
broker.session.timeout.ms=6000
num.network.threads=2
num.io.threads=4
",
        voters.join(","),
        ports.client,
        ports.behind_proxy,
        ports.controller,
        ports.client,
        ports.proxy,
        secure = ports.secure,
        folder = folder.display(),
    );
    text
}

/// Writes `ca.pem`, and `broker.pem` with a certificate for loopback and its key.
fn write_certificates(folder: &Path) {
    let (ca_key, key) = (
        rcgen::KeyPair::generate().unwrap(),
        rcgen::KeyPair::generate().unwrap(),
    );
    let mut ca = rcgen::CertificateParams::default();
    ca.distinguished_name
        .push(rcgen::DnType::CommonName, "test CA");
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_certificate = ca.self_signed(&ca_key).unwrap();
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let mut broker = rcgen::CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    broker
        .distinguished_name
        .push(rcgen::DnType::CommonName, "broker");
    let broker = broker.signed_by(&key, &issuer).unwrap();
    fs::write(folder.join("ca.pem"), ca_certificate.pem()).unwrap();
    let both = key.serialize_pem() + &broker.pem();
    fs::write(folder.join("broker.pem"), both).unwrap();
}

impl Kafka {
    /// The first broker's listener with SASL_SSL.
    pub fn secure(&self) -> String {
        let text = fs::read_to_string(self.folder.0.join("broker-1.properties")).unwrap();
        let rest = text.split("SECURE://").nth(1).unwrap();
        rest.split(',').next().unwrap().to_owned()
    }

    /// The port of the first broker's second listener.
    pub fn behind_proxy(&self) -> u16 {
        let text = fs::read_to_string(self.folder.0.join("broker-1.properties")).unwrap();
        let rest = text.split("PROXIED://127.0.0.1:").nth(1).unwrap();
        rest.split(',').next().unwrap().parse().unwrap()
    }
}
