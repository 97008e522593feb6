//! Two topics with producers, and a copier that copies both in transactions, while a test disturbs
//! the cluster. Afterwards it is checked that every record is in its copy, once, in order.

use crate::load::Load;
use crate::world::{LONG, block_on, client, delete_topic, super_admin, topic, user};
use base64::prelude::{BASE64_STANDARD, Engine};
use freehold_e2e::flow::{self, Client};
use freehold_e2e::kubectl::Kubectl;
use freehold_e2e::{promise, shell};
use freehold_kafka_client::{Admin as _, Leaders};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

const PARTITIONS: u32 = 3;
const COPIER: &str = "TransactionalCopier";

/// A running ledger.
pub struct Ledger {
    name: &'static str,
    sources: Vec<Load>,
}

/// The result of a ledger.
pub struct Done {
    records: usize,
    transactions: usize,
    aborted: usize,
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            records,
            transactions,
            aborted,
        } = self;
        write!(
            f,
            "{records} records of two topics copied exactly once in {transactions} transactions, {aborted} begun again"
        )
    }
}

fn sources(name: &str) -> [String; 2] {
    ["left", "right"].map(|side| format!("{name}-{side}"))
}

/// The number of records in each of these topics.
pub fn held(kubectl: &Kubectl, names: &[String]) -> anyhow::Result<Vec<usize>> {
    let admin = super_admin(kubectl, "kafka", "demo");
    let topics = block_on(admin.describe_topics())?;
    let leaders = |name: &String| {
        let topic = topics.iter().find(|topic| topic.name == *name);
        let partitions = topic.map(|topic| &topic.partitions).into_iter().flatten();
        Leaders {
            topic: name.clone(),
            partitions: partitions.map(|one| (one.index, one.leader)).collect(),
        }
    };
    let leaders: Vec<Leaders> = names.iter().map(leaders).collect();
    let counts = block_on(admin.count_records(&leaders)).into_iter();
    counts.map(|count| Ok(usize::try_from(count?)?)).collect()
}

/// Runs `work` for all items at the same time.
fn side_by_side<T: Send, R: Send>(all: Vec<T>, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    let work = &work;
    std::thread::scope(|scope| {
        let under_way: Vec<_> = all
            .into_iter()
            .map(|one| scope.spawn(move || work(one)))
            .collect();
        under_way
            .into_iter()
            .map(|one| one.join().unwrap())
            .collect()
    })
}

impl Ledger {
    /// Starts the ledger on the quickstart's cluster with `rate` records a second in each topic,
    /// and waits until they are copied.
    pub fn start(kubectl: &Kubectl, name: &'static str, rate: i64) -> Self {
        let topics = sources(name)
            .map(|source| [source.clone(), format!("{source}-copy")])
            .concat();
        for one in &topics {
            kubectl
                .apply(&topic(
                    one,
                    "demo",
                    &format!("  partitions: {PARTITIONS}\n"),
                ))
                .unwrap();
        }
        let names = topics.join(", ");
        let rights = format!(
            "  authentication: {{type: ScramSha512}}\n  grants:\n  - {{produce: {{topics: [{names}]}}}}\n  \
             - {{consume: {{topics: [{names}], groups: [\"shop-*\"]}}}}\n  - {{transactional: {{ids: [shop-{name}]}}}}\n"
        );
        kubectl.apply(&user(name, "demo", &rights)).unwrap();
        for (kind, object) in topics
            .iter()
            .map(|one| ("topic", one.as_str()))
            .chain([("user", name)])
        {
            kubectl.wait_ready(kind, "shop", object, LONG).unwrap();
        }
        let sources = sources(name)
            .map(|source| Load::of(kubectl, client(kubectl, name, &source), &source, rate));
        let ledger = Self {
            name,
            sources: sources.into(),
        };
        ledger.start_copier(kubectl);
        shell::wait_for("records to be copied", LONG, || {
            Ok((ledger.copied(kubectl).0 == 0).then(|| "none yet".into()))
        })
        .unwrap();
        ledger
    }

    fn job(&self) -> String {
        format!("{}-copier", self.name)
    }

    fn client(&self, kubectl: &Kubectl) -> Client {
        client(kubectl, self.name, "")
    }

    fn start_copier(&self, kubectl: &Kubectl) {
        let (job, client) = (self.job(), self.client(kubectl));
        let secret = kubectl
            .get("secret", &client.namespace, &client.secret)
            .unwrap()
            .unwrap();
        let classes = std::env::var("FREEHOLD_TEST_CLASSES").expect("cargo xtask test sets it");
        let class = std::fs::read(Path::new(&classes).join(format!("{COPIER}.class"))).unwrap();
        let mut pod = flow::pod(&client, &job, COPIER, &[]);
        let [left, right] = sources(self.name);
        let (group, id) = (
            format!("shop-{}-copy", self.name),
            format!("shop-{}", self.name),
        );
        let words = [
            "-cp",
            "/etc/client:/opt/kafka/libs/*",
            COPIER,
            "/etc/client/client.properties",
            "$(BOOTSTRAP)",
            &id,
        ];
        pod["containers"][0]["args"] =
            json!([&flow::JVM_OPTIONS, &words[..], &[&group, &left, &right]].concat());
        pod["restartPolicy"] = json!("Never");
        let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": job, "namespace": client.namespace},
            "data": {"client.properties": flow::properties(&secret, "")},
            "binaryData": {format!("{COPIER}.class"): BASE64_STANDARD.encode(class)}});
        let run = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": job, "namespace": client.namespace},
            "spec": {"backoffLimit": 0, "template": {"spec": pod}}});
        kubectl
            .delete("job", &client.namespace, &job, LONG)
            .unwrap();
        kubectl
            .apply(&json!({"apiVersion": "v1", "kind": "List", "items": [config, run]}).to_string())
            .unwrap();
    }

    /// Number of copied records, of transactions, and of aborted transactions.
    fn copied(&self, kubectl: &Kubectl) -> (usize, usize, usize) {
        let events = flow::events(kubectl, &self.client(kubectl), &self.job()).unwrap_or_default();
        let committed: Vec<&Value> = events
            .iter()
            .filter(|event| event["name"] == "committed")
            .collect();
        let aborted = events
            .iter()
            .filter(|event| event["name"] == "aborted")
            .count();
        let records = committed
            .last()
            .and_then(|last| usize::try_from(last["records"].as_u64()?).ok())
            .unwrap_or(0);
        (records, committed.len(), aborted)
    }

    /// Stops the producers and reads everything back.
    pub fn finish(mut self, kubectl: &Kubectl) -> Done {
        let under_way = std::mem::take(&mut self.sources);
        let sent = side_by_side(under_way, |source| source.finish(kubectl));
        // The log of a producer may have lost its last lines: Kafka knows how many records it
        // wrote.
        let (mut all, mut copied, mut records) = (Vec::new(), 0, 0);
        let waited = shell::wait_for("everything to be copied", LONG, || {
            all = held(kubectl, &sources(self.name))?;
            (copied, records) = (self.copied(kubectl).0, all.iter().sum::<usize>());
            Ok((copied != records).then(|| format!("{copied} of {records}")))
        });
        // Fewer may be a copier that is slow. More are a loss in the source, or copied twice.
        promise!(
            copied <= records,
            "{copied} records of {} were copied, and there are {records}",
            self.name
        );
        waited.unwrap();
        let (_, transactions, aborted) = self.copied(kubectl);
        let client = self.client(kubectl);
        kubectl
            .delete("job", &client.namespace, &self.job(), LONG)
            .unwrap();
        let sent = sent.iter().zip(all);
        let pairs = sources(self.name).into_iter().zip(sent).collect();
        side_by_side(pairs, |(source, (done, held))| {
            let copy = Client {
                topic: format!("{source}-copy"),
                ..client.clone()
            };
            let (job, group) = (
                format!("{source}-read"),
                format!("shop-{source}-{}", crate::load::id()),
            );
            let read = flow::consume_committed(kubectl, &copy, &job, &group, held, LONG).unwrap();
            let values: BTreeSet<i64> = read.iter().map(|(.., value)| *value).collect();
            let lost = done.acknowledged.keys();
            let lost: Vec<_> = lost.filter(|value| !values.contains(value)).collect();
            let (topic, got, distinct) = (&copy.topic, read.len(), values.len());
            promise!(lost.is_empty(), "not in {topic}: {lost:?}");
            promise!(got == held, "{got} records in {topic}, {held} were written");
            promise!(distinct == got, "{} are twice in {topic}", got - distinct);
            for partition in 0..i64::from(PARTITIONS) {
                let of = |(at, _, value): &(i64, i64, i64)| (*at == partition).then_some(*value);
                let copied: Vec<i64> = read.iter().filter_map(of).collect();
                promise!(
                    copied.is_sorted(),
                    "partition {partition} of {topic} is not in order"
                );
            }
        });
        for source in sources(self.name) {
            for one in [source.clone(), format!("{source}-copy")] {
                delete_topic(kubectl, "shop", &one);
            }
        }
        kubectl.delete("user", "shop", self.name, LONG).unwrap();
        Done {
            records,
            transactions,
            aborted,
        }
    }
}
