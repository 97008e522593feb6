//! Produces and consumes records: Kafka's VerifiableProducer and VerifiableConsumer run in Jobs
//! that mount a User's Secret and nothing else of the cluster.

use crate::kubectl::Kubectl;
use crate::{shell, verdict};
use anyhow::{Context, Error, Result, anyhow, ensure};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A client: its namespace, Secret, image and topic.
#[derive(Clone, Debug)]
pub struct Client {
    pub namespace: String,
    /// The User's Secret.
    pub secret: String,
    /// An image with Kafka's tools.
    pub image: String,
    pub topic: String,
}

/// JVM options of a client. It runs for seconds or does little: optimized compilation would take
/// CPU time from the system under test.
pub const JVM_OPTIONS: [&str; 2] = ["-Xmx192m", "-XX:TieredStopAtLevel=1"];

/// How long a client may take to end. A producer waits for the records in flight, and one that is
/// killed before that loses the acknowledgements that the test compares.
pub const GRACE_SECS: u32 = 60;

/// Properties that read every value from the mounted client.properties (KIP-297, KIP-421).
pub fn properties(secret: &Value, more: &str) -> String {
    let mut text =
        "config.providers=file\nconfig.providers.file.class=org.apache.kafka.common.config.provider.FileConfigProvider\n".to_owned();
    let scram = secret["data"]["password"].is_string();
    let mut keys = vec![
        "security.protocol",
        "ssl.truststore.type",
        "ssl.truststore.certificates",
    ];
    keys.extend([
        "socket.connection.setup.timeout.ms",
        "socket.connection.setup.timeout.max.ms",
    ]);
    keys.extend(if scram {
        &["sasl.mechanism", "sasl.jaas.config"][..]
    } else {
        &[
            "ssl.keystore.type",
            "ssl.keystore.certificate.chain",
            "ssl.keystore.key",
        ][..]
    });
    for key in keys {
        text.push_str(&format!(
            "{key}=${{file:/etc/kafka-user/client.properties:{key}}}\n"
        ));
    }
    text + more
}

/// The spec of a pod that runs one of Kafka's tools with the mounted Secret and the properties of a
/// ConfigMap. It satisfies Pod Security `restricted`.
pub fn pod(client: &Client, config_map: &str, tool: &str, args: &[&str]) -> Value {
    let tool = format!("org.apache.kafka.tools.{tool}");
    let mut words = JVM_OPTIONS.to_vec();
    words.extend([
        tool.as_str(),
        "--bootstrap-server",
        "$(BOOTSTRAP)",
        "--topic",
        &client.topic,
    ]);
    words.extend(["--command-config", "/etc/client/client.properties"]);
    words.extend(args);
    json!({
        "automountServiceAccountToken": false, "enableServiceLinks": false, "terminationGracePeriodSeconds": GRACE_SECS,
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

/// Starts one of Kafka's tools in a Job. Its pod satisfies Pod Security `restricted`.
pub fn start(
    kubectl: &Kubectl,
    client: &Client,
    job: &str,
    tool: &str,
    args: &[&str],
    more: &str,
) -> Result<()> {
    let namespace = &client.namespace;
    let secret = kubectl
        .get("secret", namespace, &client.secret)?
        .with_context(|| format!("no Secret {}", client.secret))?;
    let mut pod = pod(client, job, tool, args);
    pod["restartPolicy"] = json!("Never");
    let objects = json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": job, "namespace": namespace},
         "data": {"client.properties": properties(&secret, more)}},
        {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": job, "namespace": namespace},
         "spec": {"backoffLimit": 0, "template": {"spec": pod}}}
    ]});
    kubectl.delete("job", namespace, job, Duration::from_secs(300))?;
    kubectl.apply(&objects.to_string()).map(|_| ())
}

/// The events that a tool printed, one JSON object in each line.
pub fn events(kubectl: &Kubectl, client: &Client, job: &str) -> Result<Vec<Value>> {
    let log = log(kubectl, client, job)?;
    Ok(log
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect())
}

/// All output of a Job's pod.
pub fn log(kubectl: &Kubectl, client: &Client, job: &str) -> Result<String> {
    kubectl.run(&[
        "logs",
        "--namespace",
        &client.namespace,
        &format!("job/{job}"),
        "--tail=-1",
    ])
}

fn has_failed(job: &Value) -> bool {
    job["status"]["failed"].as_i64().unwrap_or(0) > 0
}

/// Waits until a Job has finished; true if it succeeded.
pub fn finished(kubectl: &Kubectl, client: &Client, job: &str, limit: Duration) -> Result<bool> {
    let mut good = false;
    shell::wait_for(&format!("Job {job}"), limit, || {
        let found = kubectl
            .get("job", &client.namespace, job)?
            .context("the Job is gone")?;
        good = found["status"]["succeeded"] == 1;
        Ok((!good && !has_failed(&found)).then(|| found["status"].to_string()))
    })?;
    Ok(good)
}

/// Waits until a Job has printed these words `times` times.
///
/// # Errors
/// The Job failed before, or did not print them within `limit`.
pub fn wait_for_output(
    kubectl: &Kubectl,
    client: &Client,
    job: &str,
    words: &str,
    times: usize,
    limit: Duration,
) -> Result<()> {
    let mut failed = None;
    shell::wait_for(&format!("{words:?} from Job {job}"), limit, || {
        let log = log(kubectl, client, job).unwrap_or_default();
        if log.matches(words).count() >= times {
            return Ok(None);
        }
        let found = kubectl
            .get("job", &client.namespace, job)?
            .context("the Job is gone")?;
        failed = has_failed(&found).then_some(log);
        Ok(failed.is_none().then(|| "few yet".into()))
    })?;
    ensure!(
        failed.is_none(),
        "Job {job} failed: {}",
        failed.unwrap_or_default()
    );
    Ok(())
}

/// Idempotent, acknowledged by all in-sync replicas, and retried for as long as needed: also to
/// find the cluster again when its only broker restarts.
pub const SAFE_PRODUCER: &str = "enable.idempotence=true\nacks=all\nretries=2147483647\ndelivery.timeout.ms=300000\nmax.block.ms=300000\n";

/// The number of keys, which the producer uses in turn. With this number each of up to six
/// partitions gets at least every twelfth record; a longer gap without one means that the partition
/// was not served. (With sixty keys, one of six partitions gets none of 34 records.)
const KEYS: &str = "12";

/// Starts to produce `count` records, `rate` in each second; -1 means as fast as possible. Every
/// partition gets its share, because the read back compares each partition with what was
/// acknowledged there.
pub fn start_producer(
    kubectl: &Kubectl,
    client: &Client,
    job: &str,
    count: usize,
    rate: i64,
) -> Result<()> {
    let (count, rate) = (count.to_string(), rate.to_string());
    let args = [
        "--acks",
        "-1",
        "--max-messages",
        &count,
        "--throughput",
        &rate,
        "--repeating-keys",
        KEYS,
    ];
    start(
        kubectl,
        client,
        job,
        "VerifiableProducer",
        &args,
        SAFE_PRODUCER,
    )
}

/// Errors of `KafkaProducer.send` for a record that it had not accepted yet when it was closed.
const CLOSED_WHILE_SENDING: [&str; 2] = [
    "Producer closed while send in progress",
    "Cannot perform operation after producer has been closed",
];

/// Whether the producer was told to end just when it wanted to send: such a record was never
/// accepted, so it is not lost.
pub fn is_closed_while_sending(event: &Value) -> bool {
    let message = event["message"].as_str().unwrap_or_default();
    is_error(event) && CLOSED_WHILE_SENDING.contains(&message)
}

fn is_error(event: &Value) -> bool {
    event["name"] == "producer_send_error"
}

/// Whether the producer has seen no error.
///
/// # Errors
/// It has; with the first ones.
pub fn ensure_no_error(events: &[Value]) -> Result<()> {
    let failed: Vec<&Value> = events.iter().filter(|event| is_error(event)).collect();
    ensure!(
        failed.is_empty(),
        "{} errors at the producer, among them {:?}",
        failed.len(),
        &failed[..failed.len().min(3)]
    );
    Ok(())
}

/// The records that a producer's events report as acknowledged: value -> partition and offset.
pub fn acknowledged(events: &[Value]) -> BTreeMap<i64, (i64, i64)> {
    let good = events
        .iter()
        .filter(|event| event["name"] == "producer_send_success");
    good.filter_map(|event| {
        Some((
            number(&event["value"])?,
            (event["partition"].as_i64()?, event["offset"].as_i64()?),
        ))
    })
    .collect()
}

fn number(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.parse().ok())
}

const COMMITTED: &str = "isolation.level=read_committed\n";

/// Partition, offset and value of a record.
pub type Read = (i64, i64, i64);

/// A reader that has got nothing for this time is at the end of what there is. It had all the time
/// of its test before, and consumers ask for new records twice a second.
const STILL: Duration = Duration::from_secs(60);
/// Pause between two looks at a reader: its log may have a hundred thousand lines.
const STILL_PAUSE: Duration = Duration::from_secs(5);

/// Whether what is looked at stays the same for a minute, scaled by how busy the machine is. It tells
/// a loss from slowness when a wait has run out: a reader that is only slow still advances. A look
/// that fails tells nothing, so that nothing stands still then.
pub fn stands_still<T: PartialEq>(mut look: impl FnMut() -> Result<T>) -> bool {
    let start = Instant::now();
    let Ok(first) = look() else { return false };
    while start.elapsed() < verdict::scaled(STILL) {
        std::thread::sleep(STILL_PAUSE);
        if !look().is_ok_and(|now| now == first) {
            return false;
        }
    }
    true
}

/// The error for a promise that is broken. It is noted, so that no second try hides it.
fn broken(what: &str) -> Error {
    verdict::broken(&what);
    anyhow!("a promise is broken: {what}")
}

/// Reads `count` records from the beginning with a consumer group, as (partition, offset, value).
pub fn consume(
    kubectl: &Kubectl,
    client: &Client,
    job: &str,
    group: &str,
    count: usize,
    limit: Duration,
) -> Result<Vec<Read>> {
    let events = read(kubectl, client, job, group, count, limit, "")?;
    records(&events)
}

/// The same, but only records of committed transactions.
pub fn consume_committed(
    kubectl: &Kubectl,
    client: &Client,
    job: &str,
    group: &str,
    count: usize,
    limit: Duration,
) -> Result<Vec<Read>> {
    let events = read(kubectl, client, job, group, count, limit, COMMITTED)?;
    records(&events)
}

/// Reads `count` records of committed transactions from the beginning, as text.
pub fn consume_text(
    kubectl: &Kubectl,
    client: &Client,
    job: &str,
    group: &str,
    count: usize,
    limit: Duration,
) -> Result<Vec<String>> {
    let events = read(kubectl, client, job, group, count, limit, COMMITTED)?;
    Ok(texts(&events))
}

/// The values of records, as a consumer's events report them.
fn texts(events: &[Value]) -> Vec<String> {
    let records = events.iter().filter(|event| event["name"] == "record_data");
    let texts = records.filter_map(|event| event["value"].as_str());
    texts.map(str::to_owned).collect()
}

/// The events of a consumer that has read `count` records. One that stands still before, though it
/// has partitions, ends as a broken promise, also if it has got nothing at all.
fn read(
    kubectl: &Kubectl,
    client: &Client,
    job: &str,
    group: &str,
    count: usize,
    limit: Duration,
    more: &str,
) -> Result<Vec<Value>> {
    // A new group of the classic protocol waits three seconds for further members.
    let protocol = ["--group-protocol", "consumer"];
    let count = count.to_string();
    let args = [
        &protocol[..],
        &[
            "--group-id",
            group,
            "--max-messages",
            &count,
            "--reset-policy",
            "earliest",
            "--verbose",
        ],
    ]
    .concat();
    start(kubectl, client, job, "VerifiableConsumer", &args, more)?;
    let good = finished(kubectl, client, job, limit)
        .map_err(|error| short(kubectl, client, job, &count, error))?;
    let mut events = Vec::new();
    shell::wait_for(&format!("the output of Job {job}"), limit, || {
        events = self::events(kubectl, client, job)?;
        Ok(None)
    })?;
    ensure!(
        good,
        "the consumer failed: {:?}",
        log(kubectl, client, job)?
            .lines()
            .rev()
            .take(5)
            .collect::<Vec<_>>()
    );
    Ok(events)
}

/// The records that a consumer's events report. An existing topic may hold records of others, for
/// example of benchmarks, whose values are not numbers.
fn records(events: &[Value]) -> Result<Vec<Read>> {
    let records = events
        .iter()
        .filter(|event| event["name"] == "record_data" && number(&event["value"]).is_some());
    records
        .map(|event| {
            let of = |key: &str| {
                number(&event[key]).with_context(|| format!("a record without {key}: {event}"))
            };
            Ok((of("partition")?, of("offset")?, of("value")?))
        })
        .collect()
}

/// Why a consumer has not read as many records as it should. If it has partitions and gets nothing
/// any more, then it is at their ends, and records are lost. If it still advances, or does not live,
/// then `error` says it all: the time was too short.
///
/// Its own output shows this. The ends of a topic would not: behind the last record of a transaction
/// there are markers that no consumer gets.
fn short(kubectl: &Kubectl, client: &Client, job: &str, wanted: &str, error: Error) -> Error {
    let mut seen = Vec::new();
    let is_still = stands_still(|| {
        let found = kubectl
            .get("job", &client.namespace, job)?
            .context("the Job is gone")?;
        let has_ended = found["status"]["succeeded"] == 1 || has_failed(&found);
        ensure!(!has_ended, "the Job has ended by now");
        seen = events(kubectl, client, job)?;
        Ok(read_at(&seen).len())
    });
    if !is_lost(is_still, &seen) {
        return error;
    }
    let places = read_at(&seen);
    let mut partitions: BTreeMap<i64, BTreeSet<i64>> = BTreeMap::new();
    for (partition, offset) in &places {
        partitions.entry(*partition).or_default().insert(*offset);
    }
    let partitions: Vec<_> = partitions
        .iter()
        .map(|(partition, offsets)| {
            let (count, first, last) = (offsets.len(), offsets.first(), offsets.last());
            let (first, last) = (first.unwrap_or(&-1), last.unwrap_or(&-1));
            format!("partition {partition}: {count} from offset {first} to {last}")
        })
        .collect();
    broken(&format!(
        "records are lost: topic {} ends after {} of {wanted} records ({}); {error}",
        client.topic,
        places.len(),
        partitions.join(", ")
    ))
}

/// Whether a consumer shows by its events that records are lost. One that has partitions and got
/// nothing at all shows it as well.
fn is_lost(is_still: bool, events: &[Value]) -> bool {
    is_still && assigned(events) > 0
}

/// Partition and offset of each record that a consumer has got, whatever its value is.
fn read_at(events: &[Value]) -> Vec<(i64, i64)> {
    let records = events.iter().filter(|event| event["name"] == "record_data");
    records
        .filter_map(|event| Some((event["partition"].as_i64()?, event["offset"].as_i64()?)))
        .collect()
}

/// The number of partitions that a consumer has by now.
fn assigned(events: &[Value]) -> usize {
    let mut held = BTreeSet::new();
    for event in events {
        let partitions = event["partitions"].as_array().into_iter().flatten();
        let partitions = partitions.filter_map(|one| one["partition"].as_i64());
        match event["name"].as_str() {
            Some("partitions_assigned") => held.extend(partitions),
            Some("partitions_revoked") => {
                for one in partitions {
                    held.remove(&one);
                }
            }
            _ => {}
        }
    }
    held.len()
}

/// Compares what was read with what was acknowledged: no record lost, none duplicated, each
/// partition in order.
///
/// # Errors
/// They do not agree: a broken promise.
pub fn check(acknowledged: &BTreeMap<i64, (i64, i64)>, read: &[(i64, i64, i64)]) -> Result<()> {
    compare(acknowledged, read).map_err(|why| broken(&why))
}

fn compare(
    acknowledged: &BTreeMap<i64, (i64, i64)>,
    read: &[(i64, i64, i64)],
) -> Result<(), String> {
    let values: BTreeSet<i64> = read.iter().map(|(_, _, value)| *value).collect();
    let lost: Vec<_> = acknowledged
        .iter()
        .filter(|(value, _)| !values.contains(value))
        .collect();
    if !lost.is_empty() {
        let (count, first) = (lost.len(), &lost[..lost.len().min(10)]);
        return Err(format!(
            "{count} of {} acknowledged records are not read back, among them (value, (partition, offset)) {first:?}",
            acknowledged.len()
        ));
    }
    if values.len() != read.len() {
        return Err(format!(
            "{} records were read twice",
            read.len() - values.len()
        ));
    }
    let mut last: BTreeMap<i64, (i64, i64)> = BTreeMap::new();
    for (partition, offset, value) in read {
        let place = acknowledged.get(value);
        if place.is_some_and(|place| place != &(*partition, *offset)) {
            return Err(format!(
                "record {value} was acknowledged at {place:?}, and is at {:?}",
                (partition, offset)
            ));
        }
        if let Some((before_offset, before_value)) = last.insert(*partition, (*offset, *value)) {
            let in_order = before_offset < *offset && before_value < *value;
            if !in_order {
                return Err(format!(
                    "partition {partition}: {before_value} then {value}"
                ));
            }
        }
    }
    Ok(())
}

/// What a topic held before the test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// No records: what is read must be exactly what was acknowledged.
    Nothing,
    /// Maybe records of an earlier run.
    Anything,
}

/// Produces `count` records and reads each of them back.
pub fn prove(
    kubectl: &Kubectl,
    client: &Client,
    name: &str,
    count: usize,
    before: Before,
    limit: Duration,
) -> Result<()> {
    let producer = format!("{name}-produce");
    start_producer(kubectl, client, &producer, count, -1)?;
    let good = finished(kubectl, client, &producer, limit)?;
    let acknowledged = acknowledged(&events(kubectl, client, &producer)?);
    ensure!(
        good,
        "the producer failed: {:?}",
        log(kubectl, client, &producer)?
            .lines()
            .rev()
            .take(5)
            .collect::<Vec<_>>()
    );
    ensure!(
        acknowledged.len() == count,
        "{} of {count} records were acknowledged",
        acknowledged.len()
    );
    let mut ends: BTreeMap<i64, i64> = BTreeMap::new();
    for (partition, offset) in acknowledged.values() {
        let end = ends.entry(*partition).or_default();
        *end = (*end).max(offset + 1);
    }
    let held = usize::try_from(ends.values().sum::<i64>())?;
    if before == Before::Nothing && held != count {
        return Err(broken(&format!(
            "topic {} holds {held} records, {count} were acknowledged",
            client.topic
        )));
    }
    // A new group each time: a group of an earlier run has committed offsets.
    let group = format!(
        "{}-{name}-{}",
        client.namespace,
        SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs()
    );
    let mut read = consume(
        kubectl,
        client,
        &format!("{name}-consume"),
        &group,
        held,
        limit,
    )?;
    let places: BTreeSet<(i64, i64)> = acknowledged.values().copied().collect();
    read.retain(|(partition, offset, _)| places.contains(&(*partition, *offset)));
    if read.len() != count {
        return Err(broken(&format!(
            "{} of {count} acknowledged records were read",
            read.len()
        )));
    }
    check(&acknowledged, &read)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Value -> partition and offset.
    fn acknowledged() -> BTreeMap<i64, (i64, i64)> {
        BTreeMap::from([(0, (0, 0)), (1, (1, 0)), (2, (0, 1))])
    }

    fn why(read: &[Read]) -> String {
        compare(&acknowledged(), read).err().unwrap_or_default()
    }

    #[test]
    fn records_that_are_read_where_they_were_acknowledged_are_well() {
        assert_eq!(why(&[(0, 0, 0), (0, 1, 2), (1, 0, 1)]), "");
    }

    #[test]
    fn a_record_that_is_lost_twice_elsewhere_or_out_of_order_is_named() {
        let lost = why(&[(0, 0, 0), (1, 0, 1)]);
        assert!(lost.starts_with("1 of 3 acknowledged records"), "{lost}");
        let twice = why(&[(0, 0, 0), (0, 1, 2), (0, 1, 2), (1, 0, 1)]);
        assert_eq!(twice, "1 records were read twice");
        let elsewhere = why(&[(0, 0, 0), (0, 7, 2), (1, 0, 1)]);
        assert!(elsewhere.starts_with("record 2 was"), "{elsewhere}");
        let disordered = why(&[(0, 1, 2), (0, 0, 0), (1, 0, 1)]);
        assert_eq!(disordered, "partition 0: 2 then 0");
    }

    #[test]
    fn a_consumer_that_stands_still_with_partitions_shows_a_loss_also_without_any_record() {
        let assigned =
            json!({"name": "partitions_assigned", "partitions": [{"topic": "t", "partition": 0}]});
        let assigned = [assigned];
        assert!(is_lost(true, &assigned));
        assert!(!is_lost(false, &assigned), "it is only slow");
        assert!(!is_lost(true, &[]), "it has no partitions yet");
        let record = json!({"name": "record_data", "key": null, "value": "{\"id\":1}", "partition": 0, "offset": 0});
        assert_eq!(texts(&[record]), [r#"{"id":1}"#]);
    }

    #[test]
    fn a_consumer_has_the_partitions_that_were_not_revoked() {
        let event = |name: &str, partitions: &[i64]| {
            let partitions = partitions.iter();
            let partitions = partitions.map(|one| json!({"topic": "a", "partition": one}));
            json!({"name": name, "partitions": partitions.collect::<Vec<_>>()})
        };
        let mut events = vec![event("partitions_assigned", &[0, 1])];
        assert_eq!(assigned(&events), 2);
        events.push(event("partitions_revoked", &[1]));
        // An event of another kind has a field of the same name.
        events.push(json!({"name": "records_consumed", "partitions": [{"partition": 1}]}));
        assert_eq!(assigned(&events), 1);
    }

    #[test]
    fn records_of_others_count_among_those_that_a_consumer_has_got() {
        let events = [
            json!({"name": "record_data", "partition": 0, "offset": 4, "value": "text"}),
            json!({"name": "record_data", "partition": 0, "offset": 5, "value": "7"}),
        ];
        assert_eq!(read_at(&events), [(0, 4), (0, 5)]);
        assert_eq!(records(&events).unwrap_or_default(), [(0, 5, 7)]);
    }
}
