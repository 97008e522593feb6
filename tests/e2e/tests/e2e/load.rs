//! A load that goes on while something is done to the cluster, and the proof afterwards: every record that was acknowledged
//! is read back, once, where it was acknowledged, in order; and no producer saw an error.

use crate::world::{LONG, client, kubectl};
use ground::flow::{self, Client};
use ground::kubectl::Kubectl;
use ground::shell;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const LIMIT: Duration = Duration::from_secs(600);

/// Something that no earlier run had.
pub fn id() -> String {
    now().as_secs().to_string()
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

/// A producer on topic orders of the quickstart.
pub struct Load {
    client: Client,
    job: String,
}

/// What came of it.
pub struct Done {
    pub records: usize,
    /// The longest time without an acknowledgement of a partition, in milliseconds.
    pub worst_gap: i64,
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} records acknowledged and read back, no error, worst gap of a partition {} ms", self.records, self.worst_gap)
    }
}

impl Load {
    /// Starts it, and waits until records flow. Keys go round, so that every partition gets its share all the time.
    pub fn start(kubectl: &Kubectl, name: &str, records: usize, rate: i64) -> Self {
        let client = client(kubectl, "shop-app", "orders");
        let job = format!("{name}-produce");
        let (records, rate) = (records.to_string(), rate.to_string());
        let args = ["--acks", "-1", "--max-messages", &records, "--throughput", &rate, "--repeating-keys", "60"];
        flow::start(kubectl, &client, &job, "VerifiableProducer", &args, flow::SAFE_PRODUCER).unwrap();
        shell::wait_for("records to flow", LONG, || {
            let log = flow::log(kubectl, &client, &job).unwrap_or_default();
            Ok((log.matches("producer_send_success").count() < 200).then(|| "few yet".into()))
        })
        .unwrap();
        Self { client, job }
    }

    /// Waits for its end, which must come after now, and reads everything back.
    pub fn finish(self, kubectl: &Kubectl) -> Done {
        let until = i64::try_from(now().as_millis()).unwrap();
        assert!(flow::finished(kubectl, &self.client, &self.job, LIMIT).unwrap(), "the producer failed");
        let events = flow::events(kubectl, &self.client, &self.job).unwrap();
        let failed = events.iter().filter(|event| event["name"] == "producer_send_error").count();
        assert_eq!(failed, 0, "errors at the producer");
        let last = events.iter().filter_map(|event| event["timestamp"].as_i64()).max().unwrap();
        assert!(last > until, "the load ended {} ms too early: it must go on for all of it", until - last);
        let acknowledged = flow::acknowledged(&events);
        let mut ends: BTreeMap<i64, i64> = BTreeMap::new();
        for (partition, offset) in acknowledged.values() {
            let end = ends.entry(*partition).or_insert(0);
            *end = (*end).max(offset + 1);
        }
        let held = usize::try_from(ends.values().sum::<i64>()).unwrap();
        let group = format!("shop-{}-{}", self.job, id());
        let mut read = flow::consume(kubectl, &self.client, &format!("{}-read", self.job), &group, held, LIMIT).unwrap();
        let places: BTreeSet<(i64, i64)> = acknowledged.values().copied().collect();
        read.retain(|(partition, offset, _)| places.contains(&(*partition, *offset)));
        assert_eq!(read.len(), acknowledged.len(), "acknowledged records that were read back");
        flow::check(&acknowledged, &read).unwrap();
        Done { records: acknowledged.len(), worst_gap: worst_gap(&events) }
    }
}

fn worst_gap(events: &[Value]) -> i64 {
    let (mut last, mut worst): (BTreeMap<i64, i64>, i64) = (BTreeMap::new(), 0);
    for event in events.iter().filter(|event| event["name"] == "producer_send_success") {
        let (Some(partition), Some(at)) = (event["partition"].as_i64(), event["timestamp"].as_i64()) else { continue };
        if let Some(before) = last.insert(partition, at) {
            worst = worst.max(at - before);
        }
    }
    worst
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
