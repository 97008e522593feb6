//! MirrorMaker 2 as a yardstick: its connector in a Connect worker, exactly once, with a transform
//! that does what our program does (benches/mirror). `cargo xtask bench pipeline` gives
//! `FREEHOLD_MIRROR`: the path of Java and a class path, with a colon in between.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::{Message as _, Offset, TopicPartitionList};
use serde_json::{Value, json};

use crate::events::{outputs, topic};
use crate::row::{Clock, Row, first};
use crate::support::broker::Kafka;
use crate::support::{Folder, free_port, tail, wait_for};
use crate::{LIMIT, PARTITIONS, stage};

/// Records that are compared with those of our stage.
const COMPARED: usize = 50;

/// The options of Kafka's own script for a worker.
const OPTIONS: [&str; 6] = [
    "-Xms256M",
    "-Xmx2G",
    "-XX:+UseG1GC",
    "-XX:MaxGCPauseMillis=20",
    "-XX:InitiatingHeapOccupancyPercent=35",
    "-XX:+ExplicitGCInvokesConcurrent",
];

/// A Connect worker.
struct Worker {
    /// A shell that ends the worker when its standard input closes: also if this process is killed.
    guard: Child,
    pid: u32,
    port: u16,
    folder: Folder,
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
        if std::thread::panicking() {
            eprintln!("--- worker:\n{}", tail(&self.log(), 5_000));
        }
    }
}

impl Worker {
    fn start(mirror: &str, name: &str, kafka: &Kafka) -> Self {
        let (java, classes) = mirror.split_once(':').unwrap();
        let (folder, port) = (Folder::new(name), free_port());
        let config = folder.0.join("worker.properties");
        fs::write(&config, properties(name, &kafka.bootstrap(), port)).unwrap();
        let line = "\"$@\" > \"$LOG\" 2>&1 & echo $!; read _; kill -9 $!; wait";
        let mut guard = Command::new("sh")
            .args(["-c", line, "sh", java])
            .args(OPTIONS)
            .args(["-Dlog4j2.level=WARN", "-cp", classes])
            .arg("org.apache.kafka.connect.cli.ConnectDistributed")
            .arg(&config)
            .env("LOG", folder.0.join("worker.log"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(guard.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        let pid = line.trim().parse().unwrap();
        Self {
            guard,
            pid,
            port,
            folder,
        }
    }

    fn log(&self) -> PathBuf {
        self.folder.0.join("worker.log")
    }

    /// The answer of the worker's REST interface.
    fn ask(&self, method: &str, path: &str, body: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        write!(
            stream,
            "{method} {path} HTTP/1.0\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// Starts the connector, as soon as the worker takes it.
    fn connect(&self, config: &Value) {
        let config = config.to_string();
        let put = || {
            self.ask("PUT", "/connectors/mirror/config", &config)
                .unwrap_or_else(|error| error.to_string())
        };
        let is_taken = |answer: &String| {
            assert!(!answer.contains(" 400 "), "{answer}");
            answer.contains(" 201 ") || answer.contains(" 200 ")
        };
        wait_for("the worker takes the connector", LIMIT / 10, put, is_taken);
    }

    /// A task that has failed never copies anything.
    fn check(&self) {
        if let Ok(status) = self.ask("GET", "/connectors/mirror/status", "") {
            assert!(!status.contains("FAILED"), "{status}");
        }
    }
}

fn properties(name: &str, bootstrap: &str, port: u16) -> String {
    let bytes = "org.apache.kafka.connect.converters.ByteArrayConverter";
    format!(
        "bootstrap.servers={bootstrap}
group.id={name}
listeners=http://127.0.0.1:{port}
key.converter={bytes}
value.converter={bytes}
exactly.once.source.support=enabled
config.storage.topic={name}-configs
offset.storage.topic={name}-offsets
status.storage.topic={name}-status
config.storage.replication.factor=1
offset.storage.replication.factor=1
status.storage.replication.factor=1
offset.storage.partitions=1
status.storage.partitions=1
producer.compression.type=lz4
plugin.discovery=service_load
"
    )
}

/// Nothing but the records is copied, in transactions of at most 2000.
fn connector(row: &Row<'_>, name: &str, bootstrap: &str) -> Value {
    json!({
        "connector.class": "org.apache.kafka.connect.mirror.MirrorSourceConnector",
        "tasks.max": "1",
        "exactly.once.support": "required",
        "source.cluster.alias": name,
        "target.cluster.alias": "copy",
        "source.cluster.bootstrap.servers": bootstrap,
        "target.cluster.bootstrap.servers": bootstrap,
        "topics": topic(row.bytes),
        "source.consumer.isolation.level": "read_committed",
        // A transaction for what a read returns. Its default of 500 records is slower, and 10 000
        // take more memory.
        "source.consumer.max.poll.records": "2000",
        "transaction.boundary": "poll",
        "emit.offset-syncs.enabled": "false",
        "refresh.topics.enabled": "false",
        "sync.topic.acls.enabled": "false",
        "sync.topic.configs.enabled": "false",
        "replication.factor": "1",
        "transforms": "program",
        "transforms.program.type": "dev.freehold.bench.Program",
        "transforms.program.program": row.program,
    })
}

/// Measures it by what a reader of its topic sees.
pub fn measure(kafka: &Kafka, mirror: &str, row: &Row<'_>, records: u64) {
    let name = format!("mirror-{}-{}", row.program, row.bytes);
    let to = format!("{name}.{}", topic(row.bytes));
    kafka.create_topic(&to, PARTITIONS, &[]);
    let reader = reader(kafka, &to, 0..PARTITIONS);
    let worker = Worker::start(mirror, &name, kafka);
    worker.connect(&connector(row, &name, &kafka.bootstrap()));
    let (expected, began, mut seen, mut clock) =
        (outputs(row.program, records), Instant::now(), 0, None);
    while seen < expected {
        match reader.poll(Duration::from_secs(5)) {
            Some(record) => {
                record.unwrap();
                seen += 1;
            }
            None => worker.check(),
        }
        if clock.is_none() && seen >= first(expected) {
            clock = Some((Clock::start(worker.pid), seen));
        }
        assert!(
            began.elapsed() < LIMIT,
            "{seen} of {expected} records in {LIMIT:?}"
        );
    }
    let (clock, before) = clock.unwrap();
    clock.stop(row, (expected - before) * records / expected);
    let more = reader.poll(Duration::from_secs(1));
    assert!(more.is_none(), "more records than {expected}");
    drop(worker);
    let ours = stage::output(row);
    assert_eq!(
        some(kafka, &to),
        some(kafka, &ours),
        "{to} and {ours} differ"
    );
}

fn reader(kafka: &Kafka, topic: &str, partitions: std::ops::Range<i32>) -> BaseConsumer {
    let mut config = kafka.client();
    config
        .set("group.id", "reader")
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed");
    let (consumer, mut assigned): (BaseConsumer, _) =
        (config.create().unwrap(), TopicPartitionList::new());
    for partition in partitions {
        assigned
            .add_partition_offset(topic, partition, Offset::Beginning)
            .unwrap();
    }
    consumer.assign(&assigned).unwrap();
    consumer
}

/// Keys and values of the first records of a partition.
fn some(kafka: &Kafka, topic: &str) -> Vec<(Vec<u8>, Value)> {
    let reader = reader(kafka, topic, 0..1);
    let next = || {
        let record = reader.poll(Duration::from_secs(10))?.unwrap();
        let value = serde_json::from_slice(record.payload().unwrap()).unwrap();
        Some((record.key().unwrap().to_vec(), value))
    };
    std::iter::from_fn(next).take(COMPARED).collect()
}
