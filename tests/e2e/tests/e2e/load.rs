//! A load that continues while a test disturbs the cluster. Afterwards it is checked that every
//! acknowledged record is read back once, in order, from where it was acknowledged, and that no
//! producer saw an error.

use crate::world::{LONG, Restore, asked, client, delete_topic, kubectl, topic, user};
use anyhow::Context;
use freehold_e2e::flow::{self, Client, Read};
use freehold_e2e::kubectl::Kubectl;
use freehold_e2e::{promise, shell};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io::{Read as _, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(600);
/// A limit in case nobody stops the producer.
const RECORDS_MAX: usize = 200_000;
/// This many acknowledgements show that records flow: each partition has had some.
const FLOWING: usize = 60;
/// The last bytes of a producer's log, which have its last events.
const TAIL_BYTES: u64 = 64 * 1024;

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
    /// A producer that nobody stops would load the cluster for half an hour.
    _producer: Restore,
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
        let producer = Restore::delete(kubectl, "job", &client.namespace, &job);
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
            _producer: producer,
        }
    }

    /// Waits until the producer has acknowledgements from now on, or has come to its end by itself.
    fn wait_until_alive(&self, kubectl: &Kubectl) {
        let now = Timestamp::now().as_millisecond();
        shell::wait_for("the producer to go on to its end", LONG, || {
            let last = last_events(&self.log)?;
            let goes_on = last.iter().any(|event| {
                event["name"] == "shutdown_complete"
                    || event["name"] == "producer_send_success"
                        && event["timestamp"].as_i64() > Some(now)
            });
            if goes_on {
                return Ok(None);
            }
            let job = kubectl.get("job", &self.client.namespace, &self.job)?;
            let status = job.unwrap_or_default()["status"].to_string();
            Ok(Some(format!("{status}, {:?}", last.last())))
        })
        .unwrap();
    }

    /// Stops the producer and reads everything back.
    pub fn finish(mut self, kubectl: &Kubectl) -> Done {
        self.wait_until_alive(kubectl);
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

/// The last events in a producer's log.
fn last_events(log: &Path) -> anyhow::Result<Vec<Value>> {
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    // The first line may be a part of one.
    let events = text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    Ok(events.collect())
}

/// Reads what was acknowledged; each record once, in order, where it was acknowledged.
pub fn read_acknowledged(
    kubectl: &Kubectl,
    client: &Client,
    job: &str,
    acknowledged: &BTreeMap<i64, (i64, i64)>,
) {
    let group = format!("shop-{job}-{}", id());
    let places: BTreeSet<(i64, i64)> = acknowledged.values().copied().collect();
    let read = read_places(kubectl, client, job, &group, &places);
    promise!(
        read.len() == acknowledged.len(),
        "{job}: {} acknowledged records were read back as {}",
        acknowledged.len(),
        read.len()
    );
    flow::check(acknowledged, &read).unwrap();
}

/// Reads the records at these partitions and offsets, and none of others. A record that is not
/// there is a broken promise.
///
/// The topic may hold more: the last acknowledgements of a producer may be lost with its log. A
/// consumer that has read those has not read as many others, which it reads in the next round.
pub fn read_places(
    kubectl: &Kubectl,
    client: &Client,
    job: &str,
    group: &str,
    places: &BTreeSet<(i64, i64)>,
) -> Vec<Read> {
    let mut ends: BTreeMap<i64, i64> = BTreeMap::new();
    for (partition, offset) in places {
        let end = ends.entry(*partition).or_insert(0);
        *end = (*end).max(offset + 1);
    }
    let held = usize::try_from(ends.values().sum::<i64>()).unwrap();
    let (mut read, mut wanted) = (Vec::new(), held);
    while wanted > 0 {
        let round = flow::consume(kubectl, client, job, group, wanted, LIMIT)
            .unwrap_or_else(|error| panic!("{wanted} records are not read back: {error}"));
        read.extend(
            round
                .into_iter()
                .filter(|(partition, offset, _)| places.contains(&(*partition, *offset))),
        );
        let found: BTreeSet<(i64, i64)> =
            read.iter().map(|(at, offset, _)| (*at, *offset)).collect();
        wanted = places.len() - found.len();
    }
    read
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
        let lease = asked("the operator's lease", || {
            let lease = kubectl.get("lease", "freehold-system", "freehold")?;
            lease.context("it is not there")
        });
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
