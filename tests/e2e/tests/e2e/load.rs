//! A load that continues while a test disturbs the cluster. Afterwards it is checked that every
//! acknowledged record is read back once, in order, from where it was acknowledged, and that no
//! producer saw an error.

use crate::world::{LONG, client, delete_topic, kubectl, topic, user};
use freehold_e2e::flow::{self, Client};
use freehold_e2e::kubectl::Kubectl;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::path::PathBuf;
use std::process::Child;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(600);
/// A limit in case nobody stops the producer.
const RECORDS_MAX: usize = 200_000;
/// This many acknowledgements show that records flow: each partition has had some.
const FLOWING: usize = 60;
/// A producer that lives has an acknowledgement within this time, on a busy machine too.
const ALIVE_MS: i64 = 20_000;

/// A text that no earlier run has used.
pub fn id() -> String {
    Timestamp::now().as_second().to_string()
}

/// A producer, on a topic of the quickstart's cluster or another one, until it is stopped.
pub struct Load {
    client: Client,
    job: String,
    /// The topic was created for the load, and is deleted with it.
    own_topic: bool,
    /// Follows the output of the producer.
    follower: Child,
    log: PathBuf,
}

/// The result of a load.
pub struct Done {
    pub records: usize,
    pub worst_gap: Gap,
    /// Value -> partition and offset.
    pub acknowledged: BTreeMap<i64, (i64, i64)>,
}

/// The longest time in which a partition had no acknowledgement.
#[derive(Default)]
pub struct Gap {
    milliseconds: i64,
    partition: i64,
    /// The end of that time, in milliseconds since 1970.
    until: i64,
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let until = Timestamp::from_millisecond(self.until).unwrap_or_default();
        write!(
            f,
            "worst gap of a partition {} ms (partition {}, until {until:.3})",
            self.milliseconds, self.partition
        )
    }
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} records acknowledged and read back, no error, {}",
            self.records, self.worst_gap
        )
    }
}

impl Load {
    /// Starts a load in the quickstart's cluster with its own topic and User, and waits until
    /// records flow.
    pub fn start(kubectl: &Kubectl, name: &str, rate: i64) -> Self {
        let own = format!("load-{name}");
        kubectl
            .apply(&topic(&own, "demo", "  partitions: 6\n"))
            .unwrap();
        let rights = format!(
            "  authentication: {{type: ScramSha512}}\n  grants:\n  - {{produce: {{topics: [{own}]}}}}\n  \
             - {{consume: {{topics: [{own}], groups: [\"shop-*\"]}}}}\n"
        );
        kubectl.apply(&user(&own, "demo", &rights)).unwrap();
        for kind in ["topic", "user"] {
            kubectl.wait_ready(kind, "shop", &own, LONG).unwrap();
        }
        Self {
            own_topic: true,
            ..Self::of(kubectl, client(kubectl, &own, &own), name, rate)
        }
    }

    /// The same on the topic of the client.
    pub fn of(kubectl: &Kubectl, client: Client, name: &str, rate: i64) -> Self {
        let job = format!("{name}-produce");
        start_producer(kubectl, &client, &job, RECORDS_MAX, rate);
        let log = std::env::temp_dir().join(format!("freehold-{job}-{}.log", std::process::id()));
        let words = [
            "logs",
            "--namespace",
            &client.namespace,
            &format!("job/{job}"),
            "--follow",
            "--tail=-1",
        ];
        let follower = kubectl
            .command(&words)
            .stdout(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Self {
            client,
            job,
            own_topic: false,
            follower,
            log,
        }
    }

    /// Stops the producer and reads everything back.
    pub fn finish(mut self, kubectl: &Kubectl) -> Done {
        let ending = Timestamp::now().as_millisecond();
        // A suspended Job terminates its pod: the producer waits for the records in flight.
        kubectl
            .merge(
                "job",
                &self.client.namespace,
                &self.job,
                &json!({"spec": {"suspend": true}}),
            )
            .unwrap();
        assert!(
            self.follower.wait().unwrap().success(),
            "its log was followed to the end"
        );
        let text = std::fs::read_to_string(&self.log).unwrap();
        std::fs::remove_file(&self.log).unwrap();
        // The producer would retry, but other clients would give up.
        let refused = text
            .lines()
            .find(|line| line.contains("failed authentication"));
        assert!(
            refused.is_none(),
            "a node refused the producer's credential: {refused:?}"
        );
        let mut events: Vec<Value> = text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect();
        events.retain(|event| {
            !flow::is_closed_while_sending(event) || event["timestamp"].as_i64() < Some(ending)
        });
        // The pod goes with its log, and on a busy machine the log's last lines with it: then the
        // producer was alive until it was told to end.
        let came_to_its_end = events
            .iter()
            .any(|event| event["name"] == "shutdown_complete");
        let last = events
            .iter()
            .filter_map(|event| event["timestamp"].as_i64())
            .max();
        let was_alive = last.is_some_and(|last| last > ending - ALIVE_MS);
        assert!(
            came_to_its_end || was_alive,
            "the producer ended before it was told to: {:?}",
            events.last()
        );
        let done = read_back(kubectl, &self.client, &self.job, &events);
        if self.own_topic {
            delete_topic(kubectl, "shop", &self.client.topic);
            kubectl
                .delete("user", "shop", &self.client.topic, LONG)
                .unwrap();
        }
        done
    }
}

/// Starts a producer of at most `count` records, and waits until they flow.
pub fn start_producer(kubectl: &Kubectl, client: &Client, job: &str, count: usize, rate: i64) {
    flow::start_producer(kubectl, client, job, count, rate).unwrap();
    flow::wait_for_output(kubectl, client, job, "producer_send_success", FLOWING, LONG).unwrap();
}

/// Reads back what the producer's events report as acknowledged; each record once, in order, where
/// it was acknowledged.
pub fn read_back(kubectl: &Kubectl, client: &Client, job: &str, events: &[Value]) -> Done {
    flow::ensure_no_error(events).unwrap();
    let acknowledged = flow::acknowledged(events);
    read_acknowledged(kubectl, client, &format!("{job}-read"), &acknowledged);
    Done {
        records: acknowledged.len(),
        worst_gap: worst_gap(events),
        acknowledged,
    }
}

/// Reads what was acknowledged; each record once, in order, where it was acknowledged.
///
/// The topic may hold more: the last acknowledgements of a producer may be lost with its log. A
/// consumer that has read those has not read as many others, which it reads in the next round.
pub fn read_acknowledged(
    kubectl: &Kubectl,
    client: &Client,
    job: &str,
    acknowledged: &BTreeMap<i64, (i64, i64)>,
) {
    let mut ends: BTreeMap<i64, i64> = BTreeMap::new();
    for (partition, offset) in acknowledged.values() {
        let end = ends.entry(*partition).or_insert(0);
        *end = (*end).max(offset + 1);
    }
    let held = usize::try_from(ends.values().sum::<i64>()).unwrap();
    let group = format!("shop-{job}-{}", id());
    let places: BTreeSet<(i64, i64)> = acknowledged.values().copied().collect();
    let (mut read, mut wanted) = (Vec::new(), held);
    while wanted > 0 {
        let round = flow::consume(kubectl, client, job, &group, wanted, LIMIT)
            .unwrap_or_else(|error| panic!("{wanted} records are not read back: {error}"));
        read.extend(round.into_iter().filter(|(partition, offset, _)| {
            // Nothing that others have written.
            places.contains(&(*partition, *offset))
        }));
        let found: BTreeSet<(i64, i64)> =
            read.iter().map(|(at, offset, _)| (*at, *offset)).collect();
        wanted = places.len() - found.len();
    }
    assert_eq!(
        read.len(),
        acknowledged.len(),
        "acknowledged records that were read back"
    );
    flow::check(acknowledged, &read).unwrap();
}

fn worst_gap(events: &[Value]) -> Gap {
    let (mut last, mut worst): (BTreeMap<i64, i64>, Gap) = (BTreeMap::new(), Gap::default());
    for event in events
        .iter()
        .filter(|event| event["name"] == "producer_send_success")
    {
        let (Some(partition), Some(until)) =
            (event["partition"].as_i64(), event["timestamp"].as_i64())
        else {
            continue;
        };
        let milliseconds = last
            .insert(partition, until)
            .map_or(0, |before| until - before);
        if milliseconds > worst.milliseconds {
            worst = Gap {
                milliseconds,
                partition,
                until,
            };
        }
    }
    worst
}

/// Records a second. Few records test as much as many, and leave CPU time to the system under test.
pub fn rate() -> i64 {
    if soaks() { 150 } else { 50 }
}

/// True in `cargo xtask soak`.
pub fn soaks() -> bool {
    std::env::var_os("FREEHOLD_SOAK").is_some()
}

/// Kills the leading operator `times` times, with a pause in between; a standby takes over each
/// time.
pub fn kill_operators(times: u32, pause: Duration) {
    let kubectl = kubectl();
    for nth in 0..times {
        if nth > 0 {
            std::thread::sleep(pause);
        }
        let lease = kubectl
            .get("lease", "freehold-system", "freehold")
            .unwrap()
            .unwrap();
        let holder = lease["spec"]["holderIdentity"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        // An error means that it has just ended by itself.
        let _ = kubectl.run(&[
            "delete",
            "pod",
            "--namespace",
            "freehold-system",
            &holder,
            "--grace-period=0",
            "--force",
        ]);
    }
}
