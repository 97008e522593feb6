//! Records that flow: Kafka's own VerifiableProducer and VerifiableConsumer in Jobs that mount a User's Secret and
//! nothing else of the cluster.

use crate::kubectl::Kubectl;
use crate::shell;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Who produces or consumes, where, and with what.
#[derive(Clone, Debug)]
pub struct Client {
    pub namespace: String,
    /// The User's Secret.
    pub secret: String,
    /// An image with Kafka's tools.
    pub image: String,
    pub topic: String,
}

/// Properties that take everything from the mounted client.properties (KIP-297, KIP-421).
pub fn properties(secret: &Value, more: &str) -> String {
    let mut text =
        "config.providers=file\nconfig.providers.file.class=org.apache.kafka.common.config.provider.FileConfigProvider\n".to_owned();
    let scram = secret["data"]["password"].is_string();
    let mut keys = vec!["security.protocol", "ssl.truststore.type", "ssl.truststore.certificates"];
    keys.extend(["socket.connection.setup.timeout.ms", "socket.connection.setup.timeout.max.ms"]);
    keys.extend(if scram {
        &["sasl.mechanism", "sasl.jaas.config"][..]
    } else {
        &["ssl.keystore.type", "ssl.keystore.certificate.chain", "ssl.keystore.key"][..]
    });
    for key in keys {
        text.push_str(&format!("{key}=${{file:/etc/kafka-user/client.properties:{key}}}\n"));
    }
    text + more
}

/// The spec of a pod that runs a tool of Kafka with the mounted Secret, and the properties of a ConfigMap. It passes Pod
/// Security `restricted`.
pub fn pod(client: &Client, config_map: &str, tool: &str, args: &[&str]) -> Value {
    let tool = format!("org.apache.kafka.tools.{tool}");
    let mut words = vec!["-Xmx192m", &tool, "--bootstrap-server", "$(BOOTSTRAP)", "--topic", &client.topic];
    words.extend(["--command-config", "/etc/client/client.properties"]);
    words.extend(args);
    json!({
        "automountServiceAccountToken": false, "enableServiceLinks": false, "terminationGracePeriodSeconds": 5,
        "securityContext": {"runAsNonRoot": true, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{
            "name": "client", "image": client.image, "args": words,
            "env": [{"name": "BOOTSTRAP", "valueFrom": {"secretKeyRef": {"name": client.secret, "key": "bootstrapServers"}}}],
            "resources": {"limits": {"memory": "512Mi"}, "requests": {"cpu": "50m", "memory": "256Mi"}},
            "securityContext": {"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}},
            "volumeMounts": [
                {"name": "user", "mountPath": "/etc/kafka-user", "readOnly": true},
                {"name": "client", "mountPath": "/etc/client", "readOnly": true},
                {"name": "tmp", "mountPath": "/tmp"}]}],
        "volumes": [
            {"name": "user", "secret": {"secretName": client.secret}},
            {"name": "client", "configMap": {"name": config_map}},
            {"name": "tmp", "emptyDir": {}}]
    })
}

/// Starts a tool of Kafka in a Job. Its pod passes Pod Security `restricted`.
pub fn start(kubectl: &Kubectl, client: &Client, job: &str, tool: &str, args: &[&str], more: &str) -> Result<()> {
    let namespace = &client.namespace;
    let secret = kubectl.get("secret", namespace, &client.secret)?.with_context(|| format!("no Secret {}", client.secret))?;
    let mut pod = pod(client, job, tool, args);
    pod["restartPolicy"] = json!("Never");
    let objects = json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": job, "namespace": namespace},
         "data": {"client.properties": properties(&secret, more)}},
        {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": job, "namespace": namespace},
         "spec": {"backoffLimit": 0, "template": {"spec": pod}}}
    ]});
    kubectl.delete("job", namespace, job, Duration::from_secs(60))?;
    kubectl.apply(&objects.to_string()).map(|_| ())
}

/// The events that a tool printed, one JSON object a line.
pub fn events(kubectl: &Kubectl, client: &Client, job: &str) -> Result<Vec<Value>> {
    let log = log(kubectl, client, job)?;
    Ok(log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

/// Everything that a Job's pod printed.
pub fn log(kubectl: &Kubectl, client: &Client, job: &str) -> Result<String> {
    kubectl.run(&["logs", "--namespace", &client.namespace, &format!("job/{job}"), "--tail=-1"])
}

fn has_failed(job: &Value) -> bool {
    job["status"]["failed"].as_i64().unwrap_or(0) > 0
}

/// Waits until a Job is over; true when it succeeded.
pub fn finished(kubectl: &Kubectl, client: &Client, job: &str, limit: Duration) -> Result<bool> {
    let mut good = false;
    shell::wait_for(&format!("Job {job}"), limit, || {
        let found = kubectl.get("job", &client.namespace, job)?.context("the Job is gone")?;
        good = found["status"]["succeeded"] == 1;
        Ok((!good && !has_failed(&found)).then(|| found["status"].to_string()))
    })?;
    Ok(good)
}

/// Waits until a Job has printed this so often.
///
/// # Errors
/// It failed before, or did not come to it within `limit`.
pub fn wait_for_output(kubectl: &Kubectl, client: &Client, job: &str, words: &str, times: usize, limit: Duration) -> Result<()> {
    let mut failed = None;
    shell::wait_for(&format!("{words:?} from Job {job}"), limit, || {
        let log = log(kubectl, client, job).unwrap_or_default();
        if log.matches(words).count() >= times {
            return Ok(None);
        }
        let found = kubectl.get("job", &client.namespace, job)?.context("the Job is gone")?;
        failed = has_failed(&found).then_some(log);
        Ok(failed.is_none().then(|| "few yet".into()))
    })?;
    ensure!(failed.is_none(), "Job {job} failed: {}", failed.unwrap_or_default());
    Ok(())
}

/// Idempotent, acknowledged by all in-sync replicas, tried again for as long as it takes: also to find the cluster again, where
/// its only broker restarts.
pub const SAFE_PRODUCER: &str = "enable.idempotence=true\nacks=all\nretries=2147483647\ndelivery.timeout.ms=300000\nmax.block.ms=300000\n";

/// Keys go round. With so many, each of up to six partitions gets every twelfth record at least: what is longer without one than that
/// was not served. (With sixty, one of six gets none of 34 records.)
const KEYS: &str = "12";

/// Starts producing `count` records; `rate` a second, -1 for as fast as it goes. Every partition gets its share: who reads back counts
/// what partitions hold by what was acknowledged there.
pub fn start_producer(kubectl: &Kubectl, client: &Client, job: &str, count: usize, rate: i64) -> Result<()> {
    let (count, rate) = (count.to_string(), rate.to_string());
    let args = ["--acks", "-1", "--max-messages", &count, "--throughput", &rate, "--repeating-keys", KEYS];
    start(kubectl, client, job, "VerifiableProducer", &args, SAFE_PRODUCER)
}

/// What a producer was told: value -> partition and offset of each acknowledged record.
pub fn acknowledged(events: &[Value]) -> BTreeMap<i64, (i64, i64)> {
    let good = events.iter().filter(|event| event["name"] == "producer_send_success");
    good.filter_map(|event| Some((number(&event["value"])?, (event["partition"].as_i64()?, event["offset"].as_i64()?)))).collect()
}

fn number(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.parse().ok())
}

/// Partition, offset and value of a record.
pub type Read = (i64, i64, i64);

/// Reads `count` records back from the beginning with a consumer group, and gives them as (partition, offset, value).
pub fn consume(kubectl: &Kubectl, client: &Client, job: &str, group: &str, count: usize, limit: Duration) -> Result<Vec<Read>> {
    read(kubectl, client, job, group, count, limit, "")
}

/// The same of what transactions have committed.
pub fn consume_committed(kubectl: &Kubectl, client: &Client, job: &str, group: &str, count: usize, limit: Duration) -> Result<Vec<Read>> {
    read(kubectl, client, job, group, count, limit, "isolation.level=read_committed\n")
}

fn read(kubectl: &Kubectl, client: &Client, job: &str, group: &str, count: usize, limit: Duration, more: &str) -> Result<Vec<Read>> {
    let args = ["--group-id", group, "--max-messages", &count.to_string(), "--reset-policy", "earliest", "--verbose"];
    start(kubectl, client, job, "VerifiableConsumer", &args, more)?;
    let good = finished(kubectl, client, job, limit)?;
    let events = events(kubectl, client, job)?;
    ensure!(good, "the consumer failed: {:?}", log(kubectl, client, job)?.lines().rev().take(5).collect::<Vec<_>>());
    let records = events.iter().filter(|event| event["name"] == "record_data");
    records
        .map(|event| {
            let of = |key: &str| number(&event[key]).with_context(|| format!("a record without {key}: {event}"));
            Ok((of("partition")?, of("offset")?, of("value")?))
        })
        .collect()
}

/// Checks what was read against what was acknowledged: nothing lost, nothing twice, each partition in order.
pub fn check(acknowledged: &BTreeMap<i64, (i64, i64)>, read: &[(i64, i64, i64)]) -> Result<()> {
    let values: BTreeSet<i64> = read.iter().map(|(_, _, value)| *value).collect();
    let lost: Vec<_> = acknowledged.keys().filter(|value| !values.contains(value)).take(10).collect();
    ensure!(lost.is_empty(), "acknowledged and not read back: {lost:?} …");
    ensure!(values.len() == read.len(), "{} records were read twice", read.len() - values.len());
    let mut last: BTreeMap<i64, (i64, i64)> = BTreeMap::new();
    for (partition, offset, value) in read {
        let place = acknowledged.get(value);
        ensure!(place.is_none_or(|place| place == &(*partition, *offset)), "record {value} is not where it was acknowledged");
        if let Some((before_offset, before_value)) = last.insert(*partition, (*offset, *value)) {
            ensure!(before_offset < *offset && before_value < *value, "partition {partition}: {before_value} then {value}");
        }
    }
    Ok(())
}

/// What a topic held before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// Nothing: then what is read must be what was acknowledged, and no record more.
    Nothing,
    /// Perhaps records of an earlier run.
    Anything,
}

/// Produces `count` records and reads each back.
pub fn prove(kubectl: &Kubectl, client: &Client, name: &str, count: usize, before: Before, limit: Duration) -> Result<()> {
    let producer = format!("{name}-produce");
    start_producer(kubectl, client, &producer, count, -1)?;
    let good = finished(kubectl, client, &producer, limit)?;
    let acknowledged = acknowledged(&events(kubectl, client, &producer)?);
    ensure!(good, "the producer failed: {:?}", log(kubectl, client, &producer)?.lines().rev().take(5).collect::<Vec<_>>());
    ensure!(acknowledged.len() == count, "{} of {count} records were acknowledged", acknowledged.len());
    let mut ends: BTreeMap<i64, i64> = BTreeMap::new();
    for (partition, offset) in acknowledged.values() {
        let end = ends.entry(*partition).or_default();
        *end = (*end).max(offset + 1);
    }
    let held = usize::try_from(ends.values().sum::<i64>())?;
    ensure!(before == Before::Anything || held == count, "the topic holds {held} records, {count} were acknowledged");
    // A group of its own: one of an earlier run has its own offsets.
    let group = format!("shop-{name}-{}", SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs());
    let mut read = consume(kubectl, client, &format!("{name}-consume"), &group, held, limit)?;
    let places: BTreeSet<(i64, i64)> = acknowledged.values().copied().collect();
    read.retain(|(partition, offset, _)| places.contains(&(*partition, *offset)));
    ensure!(read.len() == count, "{} of {count} records were read", read.len());
    check(&acknowledged, &read)
}
