//! A load that goes on while something is done to the cluster, and the proof afterwards: every record that was acknowledged
//! is read back, once, where it was acknowledged, in order; and no producer saw an error.

use crate::world::{LONG, client, delete_topic, kubectl, topic, user};
use ground::flow::{self, Client};
use ground::kubectl::Kubectl;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::path::PathBuf;
use std::process::Child;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(600);
/// Bounded, should nobody end it.
const RECORDS_MAX: usize = 200_000;
/// What `KafkaProducer.send` says of a record that it had not taken yet when it was closed.
const CLOSED_WHILE_SENDING: [&str; 2] =
    ["Producer closed while send in progress", "Cannot perform operation after producer has been closed"];

/// Something that no earlier run had.
pub fn id() -> String {
    Timestamp::now().as_second().to_string()
}

/// A producer, on a topic of the quickstart's cluster or of another, until it is told to end.
pub struct Load {
    client: Client,
    job: String,
    /// The topic was made for it, and goes with it.
    own_topic: bool,
    /// Follows what it prints.
    follower: Child,
    log: PathBuf,
}

/// What came of it.
pub struct Done {
    pub records: usize,
    pub worst_gap: Gap,
    /// Value -> partition and offset.
    pub acknowledged: BTreeMap<i64, (i64, i64)>,
}

/// The longest time without an acknowledgement of a partition.
#[derive(Default)]
pub struct Gap {
    milliseconds: i64,
    partition: i64,
    /// When it was over, in milliseconds since 1970.
    until: i64,
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let until = Timestamp::from_millisecond(self.until).unwrap_or_default();
        write!(f, "worst gap of a partition {} ms (partition {}, until {until:.3})", self.milliseconds, self.partition)
    }
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} records acknowledged and read back, no error, {}", self.records, self.worst_gap)
    }
}

impl Load {
    /// Starts it on a topic of its own in the quickstart's cluster, and waits until records flow.
    pub fn start(kubectl: &Kubectl, name: &str, rate: i64) -> Self {
        let own = format!("load-{name}");
        kubectl.apply(&topic(&own, "demo", "  partitions: 6\n")).unwrap();
        let rights = "  authentication: {type: ScramSha512}\n  grants:\n  - {produce: {topics: [\"load-*\"]}}\n  \
                      - {consume: {topics: [\"load-*\"], groups: [\"shop-*\"]}}\n";
        kubectl.apply(&user("load", "demo", rights)).unwrap();
        for (kind, name) in [("topic", own.as_str()), ("user", "load")] {
            kubectl.wait_ready(kind, "shop", name, LONG).unwrap();
        }
        Self { own_topic: true, ..Self::of(kubectl, client(kubectl, "load", &own), name, rate) }
    }

    /// The same on a topic that the client names.
    pub fn of(kubectl: &Kubectl, client: Client, name: &str, rate: i64) -> Self {
        let job = format!("{name}-produce");
        start_producer(kubectl, &client, &job, RECORDS_MAX, rate);
        let log = std::env::temp_dir().join(format!("freehold-{job}-{}.log", std::process::id()));
        let words = ["logs", "--namespace", &client.namespace, &format!("job/{job}"), "--follow", "--tail=-1"];
        let follower = kubectl.command(&words).stdout(File::create(&log).unwrap()).spawn().unwrap();
        Self { client, job, own_topic: false, follower, log }
    }

    /// Ends it, and reads everything back.
    pub fn finish(mut self, kubectl: &Kubectl) -> Done {
        let ending = Timestamp::now().as_millisecond();
        // A Job that is suspended tells its pod to end: the producer waits for what is under way.
        kubectl.merge("job", &self.client.namespace, &self.job, &json!({"spec": {"suspend": true}})).unwrap();
        assert!(self.follower.wait().unwrap().success(), "its log was followed to the end");
        let text = std::fs::read_to_string(&self.log).unwrap();
        std::fs::remove_file(&self.log).unwrap();
        // It would try again, and others would give up.
        let refused = text.lines().find(|line| line.contains("failed authentication"));
        assert!(refused.is_none(), "a node refused the producer's credential: {refused:?}");
        let mut events: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        // Told to end in the middle of a send: that record was never under way.
        let closed = |event: &Value| CLOSED_WHILE_SENDING.iter().any(|words| event["message"] == *words);
        events.retain(|event| !closed(event) || event["timestamp"].as_i64() < Some(ending));
        assert!(events.iter().any(|event| event["name"] == "shutdown_complete"), "the producer came to its end: {:?}", events.last());
        let done = read_back(kubectl, &self.client, &self.job, &events);
        if self.own_topic {
            delete_topic(kubectl, "shop", &self.client.topic);
        }
        done
    }
}

/// Starts a producer of at most so many records, and waits until they flow.
pub fn start_producer(kubectl: &Kubectl, client: &Client, job: &str, count: usize, rate: i64) {
    flow::start_producer(kubectl, client, job, count, rate).unwrap();
    flow::wait_for_output(kubectl, client, job, "producer_send_success", 200, LONG).unwrap();
}

/// Reads back what a producer was told; each record of it once, in order, where it was acknowledged.
pub fn read_back(kubectl: &Kubectl, client: &Client, job: &str, events: &[Value]) -> Done {
    let failed: Vec<&Value> = events.iter().filter(|event| event["name"] == "producer_send_error").collect();
    assert!(failed.is_empty(), "{} errors at the producer, among them {:?}", failed.len(), &failed[..failed.len().min(3)]);
    let acknowledged = flow::acknowledged(events);
    let mut ends: BTreeMap<i64, i64> = BTreeMap::new();
    for (partition, offset) in acknowledged.values() {
        let end = ends.entry(*partition).or_insert(0);
        *end = (*end).max(offset + 1);
    }
    let held = usize::try_from(ends.values().sum::<i64>()).unwrap();
    let group = format!("shop-{job}-{}", id());
    let mut read = flow::consume(kubectl, client, &format!("{job}-read"), &group, held, LIMIT).unwrap();
    let places: BTreeSet<(i64, i64)> = acknowledged.values().copied().collect();
    read.retain(|(partition, offset, _)| places.contains(&(*partition, *offset)));
    assert_eq!(read.len(), acknowledged.len(), "acknowledged records that were read back");
    flow::check(&acknowledged, &read).unwrap();
    Done { records: acknowledged.len(), worst_gap: worst_gap(events), acknowledged }
}

fn worst_gap(events: &[Value]) -> Gap {
    let (mut last, mut worst): (BTreeMap<i64, i64>, Gap) = (BTreeMap::new(), Gap::default());
    for event in events.iter().filter(|event| event["name"] == "producer_send_success") {
        let (Some(partition), Some(until)) = (event["partition"].as_i64(), event["timestamp"].as_i64()) else { continue };
        let milliseconds = last.insert(partition, until).map_or(0, |before| until - before);
        if milliseconds > worst.milliseconds {
            worst = Gap { milliseconds, partition, until };
        }
    }
    worst
}

/// True in `cargo xtask soak`.
pub fn soaks() -> bool {
    std::env::var_os("FREEHOLD_SOAK").is_some()
}

/// Ends the operator that leads, as often as asked, some seconds apart; another takes over each time.
pub fn kill_operators(times: u32, pause: Duration) {
    let kubectl = kubectl();
    for _ in 0..times {
        let lease = kubectl.get("lease", "freehold-system", "freehold").unwrap().unwrap();
        let holder = lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned();
        // It may have ended by itself in this moment.
        let _ = kubectl.run(&["delete", "pod", "--namespace", "freehold-system", &holder, "--grace-period=0", "--force"]);
        std::thread::sleep(pause);
    }
}
