//! `cargo xtask bench topics|users`: bursts of Topics or Users on the local cluster until they are
//! Ready, next to a baseline in the same run: the same admin calls by a plain client, and as many
//! empty writes of objects that no operator serves.
//!
//! With several kinds (`topics 10000 users 5000`) the objects of the first kind exist while the
//! next one is measured. Prints one line of JSON for each figure.
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on fails")]
#![allow(clippy::print_stdout, reason = "what was measured is printed")]

use freehold_kafka::{acl::AclBinding, grants, scram};
use freehold_kafka_client::client::Client as Bare;
use freehold_kafka_client::connection::Endpoint;
use freehold_kafka_client::tls::TlsSettings;
use freehold_kafka_client::{Admin, ConfigResource, NewTopic, ScramChange};
use futures::stream::{self, StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Namespace, Pod, Secret};
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams,
};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

/// The benchmark's own cluster. `cargo xtask bench` starts it with the heap that this many objects
/// need.
const CLUSTER: &str = "bench-scale";
/// The label of all objects that the benchmark creates. The next run finds the objects of a stopped
/// run by it.
const LABEL: &str = "bench=scale";
/// Concurrent requests of the benchmark itself.
const SIDE_BY_SIDE: usize = 64;
const LIMIT: Duration = Duration::from_secs(600);
/// Pause between two polls: they take CPU time from the same two cores.
const LOOK_PAUSE: Duration = Duration::from_millis(200);
/// Batch size of the plain client, the same as Freehold's.
const BATCH: usize = 200;

#[tokio::main]
async fn main() {
    let args: Vec<String> = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with("--"))
        .collect();
    let client = Client::try_default().await.unwrap();
    let mut benches: Vec<(Bench, Vec<usize>)> = Vec::new();
    for arg in &args {
        match arg.parse() {
            Ok(count) => benches.last_mut().unwrap().1.push(count),
            Err(_) => benches.push((
                Bench {
                    bare: bare(&client).await,
                    client: client.clone(),
                    kind: arg.clone(),
                },
                Vec::new(),
            )),
        }
    }
    for (bench, counts) in &benches {
        let (last, small) = counts.split_last().unwrap();
        for count in small {
            bench.floor(*count).await;
            bench.burst(*count).await;
            bench.delete(*count).await;
        }
        bench.floor(*last).await;
        bench.burst(*last).await;
        bench.rest(*last).await;
    }
    for (bench, counts) in &benches {
        bench.delete(counts[counts.len() - 1]).await;
    }
}

struct Bench {
    client: Client,
    bare: Bare,
    kind: String,
}

fn say(what: &str, count: usize, value: f64, unit: &str) {
    println!(
        "{}",
        json!({"what": what, "count": count, "value": (value * 1000.0).round() / 1000.0, "unit": unit})
    );
}

/// A client with the operator's certificate.
async fn bare(client: &Client) -> Bare {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), "kafka");
    let text = async |name: &str, key: &str| {
        let secret = secrets.get(&format!("{CLUSTER}-{name}")).await.unwrap();
        String::from_utf8(secret.data.unwrap()[key].0.clone()).unwrap()
    };
    let (certificate, key) = (
        text("operator-tls", "tls.crt").await,
        text("operator-tls", "tls.key").await,
    );
    let tls = TlsSettings::new(
        &text("cluster-ca", "tls.crt").await,
        Some((&certificate, &key)),
    )
    .unwrap();
    let pods: Api<Pod> = Api::namespaced(client.clone(), "kafka");
    let pods = pods
        .list(&ListParams::default().labels(&format!(
            "freehold.dev/cluster={CLUSTER},freehold.dev/broker=true"
        )))
        .await
        .unwrap();
    let endpoint = |pod: &Pod| {
        let name = pod.name_any();
        let ip: std::net::IpAddr = pod
            .status
            .as_ref()
            .unwrap()
            .pod_ip
            .as_ref()
            .unwrap()
            .parse()
            .unwrap();
        Endpoint {
            node_id: name.rsplit_once('-').unwrap().1.parse().unwrap(),
            address: (ip, 9091).into(),
            server_name: format!("{name}.{CLUSTER}-nodes.kafka.svc"),
        }
    };
    Bare::new(pods.iter().map(endpoint).collect(), tls, None)
}

/// Prints percentiles of several durations in milliseconds.
fn say_times(what: &str, count: usize, mut took: Vec<f64>) {
    took.sort_by(f64::total_cmp);
    say(&format!("{what}: p50"), count, took[took.len() / 2], "ms");
    say(
        &format!("{what}: worst of {}", took.len()),
        count,
        took[took.len() - 1],
        "ms",
    );
}

/// True for the short form, which only shows that the benchmark works.
fn is_short() -> bool {
    std::env::var_os("FREEHOLD_BENCH_SHORT").is_some()
}

/// How many single changes are measured.
fn rounds() -> u32 {
    if is_short() { 5 } else { 100 }
}

impl Bench {
    fn kind_name(&self) -> &'static str {
        if self.kind == "topics" {
            "Topic"
        } else {
            "User"
        }
    }

    fn api(&self, namespace: &str) -> Api<DynamicObject> {
        let resource = ApiResource {
            group: "freehold.dev".into(),
            version: "v1alpha1".into(),
            api_version: "freehold.dev/v1alpha1".into(),
            kind: self.kind_name().into(),
            plural: self.kind.clone(),
        };
        Api::namespaced_with(self.client.clone(), namespace, &resource)
    }

    fn object(&self, index: usize) -> DynamicObject {
        let spec = if self.kind == "topics" {
            json!({"clusterRef": {"name": CLUSTER, "namespace": "kafka"}, "partitions": 1, "config": {"retention.ms": "3600000"}})
        } else {
            json!({"clusterRef": {"name": CLUSTER, "namespace": "kafka"}, "authentication": {"type": "ScramSha512"},
                "grants": [{"produce": {"topics": ["orders"]}}], "acls": [{"resource": {"type": "Group", "name": "shop-"}, "operations": ["Read"]}]})
        };
        let (key, value) = LABEL.split_once('=').unwrap();
        let metadata = json!({"name": format!("bench-{index:05}"), "labels": {key: value}});
        serde_json::from_value(json!({"apiVersion": "freehold.dev/v1alpha1", "kind": self.kind_name(), "metadata": metadata, "spec": spec}))
            .unwrap()
    }

    async fn create(&self, namespace: &str, count: usize) {
        let api = self.api(namespace);
        let create = |index: usize| {
            let (api, object) = (api.clone(), self.object(index));
            async move {
                api.create(&PostParams::default(), &object)
                    .await
                    .map(|_| ())
            }
        };
        stream::iter(0..count)
            .map(create)
            .buffer_unordered(SIDE_BY_SIDE)
            .try_collect::<Vec<_>>()
            .await
            .unwrap();
    }

    /// The baseline: the same admin calls by a plain client; and objects in a namespace that no
    /// operator serves, created and written as often as an operator writes them.
    async fn floor(&self, count: usize) {
        let kafka = if self.kind == "topics" {
            self.bare_topics(count).await
        } else {
            self.bare_users(count).await
        };
        let floor = json!({"metadata": {"name": "bench-floor"}});
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let _ = namespaces
            .create(
                &PostParams::default(),
                &serde_json::from_value(floor).unwrap(),
            )
            .await;
        let start = Instant::now();
        self.create("bench-floor", count).await;
        let created = start.elapsed().as_secs_f64();
        let api = self.api("bench-floor");
        // Writes a finalizer and a status; for a User also a Secret.
        let write = |index: usize| {
            let (api, name) = (api.clone(), format!("bench-{index:05}"));
            let secrets: Option<Api<Secret>> =
                (self.kind == "users").then(|| Api::namespaced(self.client.clone(), "bench-floor"));
            async move {
                let patch = json!({"metadata": {"annotations": {"bench": "1"}}});
                api.patch(&name, &PatchParams::default(), &Patch::Merge(&patch))
                    .await?;
                if let Some(secrets) = secrets {
                    let secret = json!({"metadata": {"name": format!("{name}-kafka")}, "stringData": {"a": "x".repeat(2000)}});
                    secrets
                        .create(
                            &PostParams::default(),
                            &serde_json::from_value(secret).unwrap(),
                        )
                        .await?;
                }
                self.write_status(&api, &name, json!({})).await
            }
        };
        let start = Instant::now();
        stream::iter(0..count)
            .map(write)
            .buffer_unordered(SIDE_BY_SIDE)
            .try_collect::<Vec<_>>()
            .await
            .unwrap();
        let written = start.elapsed().as_secs_f64();
        say("floor: bare admin calls", count, kafka, "s");
        say("floor: creations of objects", count, created, "s");
        say("floor: empty writes of objects", count, written, "s");
        say(
            "floor, one after the other",
            count,
            kafka + created + written,
            "s",
        );
        self.floor_of_a_change(&api, count).await;
        api.delete_collection(&DeleteParams::default(), &ListParams::default())
            .await
            .unwrap();
        namespaces
            .delete("bench-floor", &DeleteParams::default())
            .await
            .unwrap();
        wait("the floor to be gone", async || {
            namespaces.get_opt("bench-floor").await.unwrap().is_none()
        })
        .await;
    }

    /// The baseline of a change: a spec is written, the same change is made in Kafka, and a status
    /// is written, one after the other without an operator.
    async fn floor_of_a_change(&self, api: &Api<DynamicObject>, count: usize) {
        let topic = NewTopic {
            name: "floor-change".into(),
            partitions: 1,
            replicas: -1,
            config: BTreeMap::new(),
        };
        self.bare.create_topics(&[topic]).await.remove(0).unwrap();
        let mut took = Vec::new();
        for round in 0..rounds() {
            let name = format!("bench-{:05}", (round as usize * 97) % count);
            let start = Instant::now();
            api.patch(
                &name,
                &PatchParams::default(),
                &Patch::Merge(&self.change(round)),
            )
            .await
            .unwrap();
            let result = if self.kind == "topics" {
                let resource = ConfigResource::Topic("floor-change".into());
                let change = BTreeMap::from([(
                    "segment.ms".to_owned(),
                    Some((604_800_000 + round).to_string()),
                )]);
                self.bare.alter_configs(&[(resource, change)]).await
            } else {
                let topic = [format!("orders-{round}")];
                self.bare
                    .create_acls(&grants::allow(
                        "User:floor",
                        grants::TOPIC,
                        &topic,
                        &[grants::WRITE],
                    ))
                    .await
            };
            result
                .into_iter()
                .for_each(|result| result.map(|_| ()).unwrap());
            self.write_status(api, &name, json!({"observedGeneration": round}))
                .await
                .unwrap();
            took.push(start.elapsed().as_secs_f64() * 1000.0);
        }
        let rules = |round: u32| {
            grants::allow(
                "User:floor",
                grants::TOPIC,
                &[format!("orders-{round}")],
                &[grants::WRITE],
            )
        };
        self.bare
            .delete_acls(&(0..rounds()).flat_map(rules).collect::<Vec<_>>())
            .await;
        self.delete_topics(1).await;
        say_times("floor of one change", count, took);
    }

    async fn write_status(
        &self,
        api: &Api<DynamicObject>,
        name: &str,
        status: Value,
    ) -> kube::Result<()> {
        let status = json!({"apiVersion": "freehold.dev/v1alpha1", "kind": self.kind_name(), "status": status});
        api.patch_status(
            name,
            &PatchParams::apply("bench").force(),
            &Patch::Apply(&status),
        )
        .await
        .map(|_| ())
    }

    /// The patch of the spec for one round.
    fn change(&self, round: u32) -> Value {
        if self.kind == "topics" {
            json!({"spec": {"config": {"retention.ms": (4_000_000 + round).to_string()}}})
        } else {
            json!({"spec": {"grants": [{"admin": {"groups": [format!("shop-{round}")]}}]}})
        }
    }

    async fn bare_topics(&self, count: usize) -> f64 {
        let config = BTreeMap::from([("retention.ms".to_owned(), "3600000".to_owned())]);
        let topic = |index: usize| NewTopic {
            name: format!("floor-{index:05}"),
            partitions: 1,
            replicas: -1,
            config: config.clone(),
        };
        let all: Vec<_> = (0..count).map(topic).collect();
        let start = Instant::now();
        for batch in all.chunks(BATCH) {
            for result in self.bare.create_topics(batch).await {
                result.unwrap();
            }
        }
        let took = start.elapsed().as_secs_f64();
        self.delete_topics(count).await;
        took
    }

    /// Deletes `count` topics of the plain client.
    async fn delete_topics(&self, count: usize) {
        let mut ids = Vec::new();
        wait("the bare client's topics to be seen", async || {
            let topics = self.bare.describe_topics().await.unwrap();
            ids = topics
                .into_iter()
                .filter(|topic| topic.name.starts_with("floor-"))
                .map(|topic| topic.id)
                .collect();
            ids.len() == count
        })
        .await;
        for batch in ids.chunks(BATCH) {
            for result in self.bare.delete_topics(batch).await {
                result.unwrap();
            }
        }
    }

    async fn bare_users(&self, count: usize) -> f64 {
        let name = |index: usize| format!("floor-{index:05}");
        let start = Instant::now();
        let mut acls: Vec<AclBinding> = Vec::new();
        for batch in (0..count).collect::<Vec<_>>().chunks(BATCH) {
            let salt = vec![7; 32];
            let upsert = |index: &usize| ScramChange::Upsert {
                user: name(*index),
                iterations: scram::ITERATIONS,
                salt: salt.clone(),
                salted_password: scram::salted_password("floor", &salt, scram::ITERATIONS).to_vec(),
            };
            let changes: Vec<_> = batch.iter().map(upsert).collect();
            let bindings: Vec<_> = batch
                .iter()
                .flat_map(|index| rules(&format!("User:{}", name(*index))))
                .collect();
            for result in self
                .bare
                .alter_scram(&changes)
                .await
                .into_iter()
                .chain(self.bare.create_acls(&bindings).await)
            {
                result.unwrap();
            }
            acls.extend(bindings);
        }
        let took = start.elapsed().as_secs_f64();
        for batch in acls.chunks(BATCH * 3) {
            self.bare.delete_acls(batch).await;
        }
        for batch in (0..count).collect::<Vec<_>>().chunks(BATCH) {
            self.bare
                .alter_scram(
                    &batch
                        .iter()
                        .map(|index| ScramChange::Delete { user: name(*index) })
                        .collect::<Vec<_>>(),
                )
                .await;
        }
        took
    }

    /// Measures the time from the first creation until the last object is Ready.
    async fn burst(&self, count: usize) {
        let api = self.api("shop");
        let audit = audit_length();
        let start = Instant::now();
        let (first, ready) = tokio::join!(self.create("shop", count), self.ready(&api, count));
        let () = first;
        let took = ready.duration_since(start).as_secs_f64();
        say(
            "from the first creation to the last Ready",
            count,
            took,
            "s",
        );
        let (writes, reads) = requests(audit, &self.kind);
        say(
            "writes of the operator to the API server, an object",
            count,
            writes as f64 / count as f64,
            "",
        );
        say(
            "reads of the operator from the API server, an object",
            count,
            reads as f64 / count as f64,
            "",
        );
        say(
            "resident memory of the leading operator",
            count,
            resident_mb(),
            "MB",
        );
    }

    /// Measures a single change while the other objects are unchanged, restarts of the operator,
    /// and idle time.
    async fn rest(&self, count: usize) {
        self.change_one(&self.api("shop"), count).await;
        self.restart("TERM", count).await;
        if !is_short() {
            self.restart("KILL", count).await;
        }
        self.idle(count).await;
    }

    async fn delete(&self, count: usize) {
        let api = self.api("shop");
        let start = Instant::now();
        let ours = ListParams::default().labels(LABEL);
        api.delete_collection(&DeleteParams::default(), &ours)
            .await
            .unwrap();
        wait("the objects to be gone", async || {
            api.list_metadata(&ours).await.unwrap().items.is_empty()
        })
        .await;
        say("deletion of all", count, start.elapsed().as_secs_f64(), "s");
    }

    /// The time when `count` of the benchmark's objects are Ready.
    async fn ready(&self, api: &Api<DynamicObject>, count: usize) -> Instant {
        let mut ready = HashSet::new();
        let mut events = Box::pin(
            watcher(api.clone(), watcher::Config::default().labels(LABEL))
                .default_backoff()
                .applied_objects(),
        );
        let seen = async {
            while let Some(Ok(object)) = events.next().await {
                if is_ready(&object) {
                    ready.insert(object.name_any());
                }
                if ready.len() == count {
                    return;
                }
            }
        };
        tokio::time::timeout(LIMIT, seen).await.unwrap();
        Instant::now()
    }

    async fn change_one(&self, api: &Api<DynamicObject>, count: usize) {
        let mut took = Vec::new();
        for round in 0..rounds() {
            let name = format!("bench-{:05}", (round as usize * 97) % count);
            let mut events = Box::pin(
                watcher(
                    api.clone(),
                    watcher::Config::default().fields(&format!("metadata.name={name}")),
                )
                .default_backoff()
                .applied_objects(),
            );
            events.next().await.unwrap().unwrap();
            let start = Instant::now();
            let changed = api
                .patch(
                    &name,
                    &PatchParams::default(),
                    &Patch::Merge(&self.change(round)),
                )
                .await
                .unwrap();
            let generation = changed.metadata.generation;
            loop {
                let object = tokio::time::timeout(LIMIT, events.next())
                    .await
                    .unwrap()
                    .unwrap()
                    .unwrap();
                if object.metadata.generation == generation && is_ready(&object) {
                    break;
                }
            }
            took.push(start.elapsed().as_secs_f64() * 1000.0);
        }
        say_times("one changed while the others rest, to Ready", count, took);
    }

    /// Terminates the leader (as in a rollout) or kills it, and waits until the next leader has
    /// checked every object. The kubelet waits before it restarts a container that has exited
    /// before; by then a standby leads.
    async fn restart(&self, signal: &str, count: usize) {
        wait("a standby", async || operators().len() > 1).await;
        let audit = audit_length();
        let leader = operators().into_iter().max_by_key(resident_kb).unwrap();
        let start = Instant::now();
        std::process::Command::new("kill")
            .args(["-s", signal, &leader])
            .status()
            .unwrap();
        let kind = self.kind_name();
        let mut leads = None;
        wait("the next operator to have checked all", async || {
            let mut checked = 0.0;
            // The new leader is the restarted container of the same pod, or the standby.
            for pid in operators().into_iter().filter(|pid| *pid != leader) {
                let text = metrics(&operator_address(&pid).unwrap_or_default()).await;
                if leads.is_none() && metric(&text, "freehold_leader", "") == 1.0 {
                    leads = Some(Instant::now());
                }
                checked += metric(
                    &text,
                    "freehold_reconciles_total",
                    &format!("kind=\"{kind}\",reason=\"Ready\""),
                );
            }
            checked >= count as f64
        })
        .await;
        let what = format!("a restart by SIG{signal}");
        say(
            &format!("{what}, until all are checked by the next leader"),
            count,
            start.elapsed().as_secs_f64(),
            "s",
        );
        say(
            "of it, from leading until all are checked",
            count,
            leads.unwrap().elapsed().as_secs_f64(),
            "s",
        );
        tokio::time::sleep(Duration::from_secs(3)).await;
        let (writes, _) = requests(audit, &self.kind);
        say("writes to the API server in it", count, writes as f64, "");
        say(
            "resident memory of the leading operator after it",
            count,
            resident_mb(),
            "MB",
        );
    }

    async fn idle(&self, count: usize) {
        let seconds: u32 = if is_short() { 3 } else { 30 };
        let audit = audit_length();
        let (operator, broker) = (cpu_seconds(&operators()), cpu_seconds(&brokers()));
        tokio::time::sleep(Duration::from_secs(seconds.into())).await;
        let (operator, broker) = (
            cpu_seconds(&operators()) - operator,
            cpu_seconds(&brokers()) - broker,
        );
        let (writes, reads) = requests(audit, &self.kind);
        say(
            &format!("idle: requests about them to the API server in {seconds} s"),
            count,
            (writes + reads) as f64,
            "",
        );
        say(
            "idle: processor of the operators",
            count,
            operator / f64::from(seconds) * 100.0,
            "% of a core",
        );
        say(
            "idle: processor of the three brokers",
            count,
            broker / f64::from(seconds) * 100.0,
            "% of a core",
        );
    }
}

/// Three ACLs.
fn rules(principal: &str) -> Vec<AclBinding> {
    let mut all = grants::allow(
        principal,
        grants::TOPIC,
        &["orders".to_owned()],
        &[grants::WRITE, grants::DESCRIBE],
    );
    all.extend(grants::allow(
        principal,
        grants::GROUP,
        &["shop-".to_owned()],
        &[grants::READ],
    ));
    all
}

fn is_ready(object: &DynamicObject) -> bool {
    let conditions = object.data["status"]["conditions"].as_array();
    let ready = conditions
        .into_iter()
        .flatten()
        .find(|condition| condition["type"] == "Ready");
    ready.is_some_and(|ready| {
        ready["status"] == "True"
            && ready["observedGeneration"] == json!(object.metadata.generation)
    })
}

async fn wait(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !done().await {
        assert!(start.elapsed() < LIMIT, "{what}: not within {LIMIT:?}");
        tokio::time::sleep(LOOK_PAUSE).await;
    }
}

/// The current end of the audit log.
fn audit_length() -> u64 {
    std::fs::metadata(std::env::var("FREEHOLD_AUDIT_LOG").unwrap())
        .unwrap()
        .len()
}

/// The operator's writes and single reads since that position: of the kind, its status and the
/// Users' Secrets.
fn requests(since: u64, kind: &str) -> (usize, usize) {
    use std::io::{Read, Seek, SeekFrom};
    let mut file = std::fs::File::open(std::env::var("FREEHOLD_AUDIT_LOG").unwrap()).unwrap();
    file.seek(SeekFrom::Start(since)).unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    let (mut writes, mut reads) = (0, 0);
    for event in text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
    {
        let resource = event["objectRef"]["resource"].as_str().unwrap_or_default();
        let about = resource == kind
            || resource == "events"
            || (kind == "users"
                && resource == "secrets"
                && event["objectRef"]["namespace"] == "shop");
        match event["verb"].as_str() {
            _ if !about => {}
            Some("get" | "list") => reads += 1,
            _ => writes += 1,
        }
    }
    (writes, reads)
}

/// Ids of the processes whose command line contains these words.
fn processes(words: &str) -> Vec<String> {
    let all = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let holds = |pid: &String| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line)
            .replace('\0', " ")
            .contains(words)
    };
    all.filter(|name| name.chars().all(|c| c.is_ascii_digit()))
        .filter(holds)
        .collect()
}

fn operators() -> Vec<String> {
    processes("freehold operator")
}

/// Brokers of the benchmark's cluster, by the host name in their environment.
fn brokers() -> Vec<String> {
    let is_ours = |pid: &String| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        String::from_utf8_lossy(&environment)
            .split('\0')
            .any(|variable| variable.starts_with(&format!("POD_NAME={CLUSTER}-")))
    };
    processes("dev.freehold.kafka.Launcher")
        .into_iter()
        .filter(is_ours)
        .collect()
}

fn resident_kb(pid: &String) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap_or("0");
    line.trim()
        .trim_end_matches(" kB")
        .trim()
        .parse()
        .unwrap_or(0)
}

/// In units of 1 000 000 bytes; the kernel's kB are 1024.
fn resident_mb() -> f64 {
    operators().iter().map(resident_kb).max().unwrap_or(0) as f64 * 1024.0 / 1e6
}

/// CPU time of all these processes together.
fn cpu_seconds(pids: &[String]) -> f64 {
    let ticks = |pid: &String| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields: Vec<&str> = stat
            .rsplit_once(')')
            .map_or("", |(_, rest)| rest)
            .split_whitespace()
            .collect();
        let field = |index: usize| {
            fields
                .get(index)
                .and_then(|field| field.parse::<f64>().ok())
                .unwrap_or(0.0)
        };
        field(11) + field(12)
    };
    pids.iter().map(ticks).sum::<f64>() / 100.0
}

/// The IP address of an operator's pod, from its network namespace.
fn operator_address(pid: &String) -> Option<String> {
    let trie = std::fs::read_to_string(format!("/proc/{pid}/net/fib_trie")).ok()?;
    let lines: Vec<&str> = trie.lines().collect();
    let local = lines
        .windows(2)
        .filter(|pair| pair[1].contains("/32 host LOCAL"))
        .filter_map(|pair| pair[0].split("|-- ").nth(1));
    local
        .map(str::trim)
        .find(|address| !address.starts_with("127."))
        .map(str::to_owned)
}

async fn metrics(address: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let Ok(mut stream) = tokio::net::TcpStream::connect((address, 8080)).await else {
        return String::new();
    };
    let request = format!("GET /metrics HTTP/1.0\r\nHost: {address}\r\n\r\n");
    let mut text = String::new();
    let _ = stream.write_all(request.as_bytes()).await;
    let _ = stream.read_to_string(&mut text).await;
    text
}

fn metric(text: &str, name: &str, labels: &str) -> f64 {
    let lines = text
        .lines()
        .filter(|line| line.starts_with(name) && line.contains(labels));
    lines
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
        .sum()
}
