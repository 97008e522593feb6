//! Proof 4: the operator dies after each of its writes, to the API server and to Kafka, in a first rollout, a roll, a
//! scale-out, a scale-in and a CA's rotation, and the end is the same; the other operator, with nothing to do, writes
//! nothing all the while.
//!
//! A second operator, a process on this machine with a namespace of its own, is the one that dies. It keeps nothing in
//! memory between lives, so that dying after every write of one rollout passes through each state in which a single
//! death after the n-th write would have left the world.

use crate::oracle;
use crate::scaling::set_extra;
use crate::world::{LONG, Operator, block_on, kubectl, secret, super_admin};
use ground::kubectl::Kubectl;
use ground::shell;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::process::Child;
use std::time::{Duration, Instant};

const NAMESPACE: &str = "crash";
const DEATHS_MIN: u32 = 20;
/// Ten times what was seen.
const DEATHS_MAX: u32 = 400;
const IDLE: Duration = Duration::from_secs(180);
/// An operator looks at a cluster that is Ready every ten seconds: one that has not written by then has nothing to write.
const REST: Duration = Duration::from_secs(15);
/// Between two questions whether it is there already; deaths are seen at once.
const LOOK_PAUSE: Duration = Duration::from_secs(1);
/// Topics' coarse figures are looked at once a minute: what the tests before produced is told by then.
const SETTLING: Duration = Duration::from_secs(70);

const CLUSTER: &str = "apiVersion: freehold.dev/v1alpha1
kind: KafkaCluster
metadata: {name: crash, namespace: crash}
spec:
  version: 4.3.1
  deletionPolicy: Delete
  nodePools:
  - {name: nodes, roles: [controller, broker], replicas: 3, zones: [zone-a, zone-b, zone-c], storage: {size: 1Gi}, jvm: {heap: 320Mi}}
  listeners:
  - {name: scram, port: 9094, authentication: ScramSha512}
  certificates: {overlapMinutes: 0}
";

const TOPIC: &str = "apiVersion: freehold.dev/v1alpha1
kind: Topic
metadata: {name: crash, namespace: crash}
spec:
  clusterRef: {name: crash}
  partitions: 6
";

/// The version of all objects now.
fn version(kubectl: &Kubectl) -> String {
    let list = kubectl.run(&["get", "--raw", "/api/v1/namespaces/crash/configmaps?limit=1"]).unwrap();
    let list: Value = serde_json::from_str(&list).unwrap();
    list["metadata"]["resourceVersion"].as_str().unwrap().to_owned()
}

/// The specs of everything that the cluster is made of, less what is drawn or counted.
fn end_state(kubectl: &Kubectl) -> BTreeMap<String, Value> {
    let kinds = "statefulset,service,configmap,networkpolicy,poddisruptionbudget,serviceaccount,secret,pvc";
    let list = kubectl.json(&["get", kinds, "--namespace", NAMESPACE, "--selector", "freehold.dev/cluster=crash"]).unwrap();
    let mut state = BTreeMap::new();
    for item in list["items"].as_array().unwrap() {
        let name = format!("{}/{}", item["kind"].as_str().unwrap(), item["metadata"]["name"].as_str().unwrap());
        let mut kept =
            json!({"labels": item["metadata"]["labels"], "spec": item["spec"], "owned": item["metadata"]["ownerReferences"].is_array()});
        if let Some(data) = item["data"].as_object() {
            // A CA that has been replaced leaves what passwords are derived from.
            kept["keys"] = json!(data.keys().filter(|key| *key != "passwords.key").collect::<Vec<_>>());
        }
        if item["kind"] == "ConfigMap" {
            kept["server"] = item["data"]["server.properties"].clone();
        }
        if let Some(spec) = kept["spec"].as_object_mut() {
            for drawn in ["clusterIP", "clusterIPs", "volumeName"] {
                spec.remove(drawn);
            }
            // The cluster id, in the volumes' annotations.
            spec.remove("volumeClaimTemplates");
        }
        state.insert(name, kept);
    }
    state
}

/// Lives of an operator that dies after every write, until nothing is left to write and `done` holds; how many ended. Every
/// third of them first sees the world from before the life before.
fn live_and_die(kubectl: &Kubectl, image: &str, done: impl Fn() -> bool) -> u32 {
    let (mut deaths, mut before) = (0, version(kubectl));
    loop {
        let now = version(kubectl);
        let faults = [("FREEHOLD_FAULT_EXIT_AFTER_WRITES", "1"), ("FREEHOLD_FAULT_LISTS_AT", before.as_str())];
        let mut life = Operator::start(NAMESPACE, "crash", image, if deaths % 3 == 2 { &faults } else { &faults[..1] });
        before = now;
        match wait_for_death_or_rest(kubectl, &mut life.0, &done) {
            Some(code) => {
                assert_eq!(code, 137, "the operator ended otherwise than by the fault: see operator-crash.log");
                deaths += 1;
                assert!(deaths <= DEATHS_MAX, "the operator goes on writing for ever");
            }
            None => return deaths,
        }
    }
}

/// Uids of the pods of the first pool, sorted.
fn nodes(kubectl: &Kubectl) -> Vec<String> {
    let words =
        ["get", "pods", "--namespace", NAMESPACE, "--selector", "freehold.dev/pool=nodes", "-o", "jsonpath={.items[*].metadata.uid}"];
    let mut uids: Vec<_> = kubectl.run(&words).unwrap_or_default().split(' ').map(str::to_owned).collect();
    uids.sort_unstable();
    uids
}

/// Brokers that hold replicas of the topic.
fn holders(kubectl: &Kubectl) -> BTreeSet<i32> {
    let topics = block_on(super_admin(kubectl, NAMESPACE, "crash").describe_topics()).unwrap_or_default();
    let replicas = topics.iter().filter(|topic| topic.name == "crash").flat_map(|topic| &topic.partitions);
    replicas.flat_map(|partition| partition.replicas.clone()).collect()
}

/// A roll, three brokers more, three fewer, another CA: an operator that dies after every write ends each as it should, and
/// no partition was ever under its `min.insync.replicas`.
fn day_two(kubectl: &Kubectl, image: &str) {
    let annotate = |text: &str| kubectl.run(&["annotate", "kafkacluster", "crash", "--namespace", NAMESPACE, text]).unwrap();
    let mut lived = Vec::new();
    let topic = || ground::kubectl::not_ready(&kubectl.get("topic", NAMESPACE, "crash").unwrap().unwrap_or_default()).is_none();
    lived.push(("a topic", live_and_die(kubectl, image, topic)));
    let (mark, before) = (oracle::mark(kubectl, NAMESPACE, "crash"), nodes(kubectl));

    annotate("freehold.dev/restart=1");
    lived.push(("a roll", live_and_die(kubectl, image, || nodes(kubectl).iter().all(|uid| !before.contains(uid)))));
    let once = nodes(kubectl);

    let pools = |replicas| set_extra(kubectl, NAMESPACE, "crash", replicas);
    pools(Some(3));
    lived.push(("three brokers more", live_and_die(kubectl, image, || holders(kubectl).len() == 6)));
    pools(Some(0));
    let volumes = || kubectl.run(&["get", "pvc", "--namespace", NAMESPACE, "--selector", "freehold.dev/pool=extra", "-o", "name"]).unwrap();
    lived.push(("three fewer", live_and_die(kubectl, image, || holders(kubectl).len() == 3 && volumes().is_empty())));
    pools(None);
    let gone = || kubectl.get("statefulset", NAMESPACE, "crash-extra-zone-a").unwrap().is_none();
    lived.push(("their pool gone", live_and_die(kubectl, image, gone)));

    let ca = || secret(kubectl, NAMESPACE, "crash-cluster-ca").unwrap();
    let first = ca()["tls.crt"].clone();
    annotate("freehold.dev/rotate-ca=1");
    let rotated = || {
        let now = ca();
        now["tls.crt"] != first && !now.contains_key("next.crt") && !now.contains_key("previous.crt")
    };
    lived.push(("another CA", live_and_die(kubectl, image, rotated)));
    assert_eq!(nodes(kubectl), once, "each node was restarted once");
    let seen = oracle::replay(kubectl, NAMESPACE, "crash", mark);
    assert!(seen.violations.is_empty(), "{:#?}", seen.violations);
    // What the scenarios leave behind, so that the end is that of the first rollout.
    annotate("freehold.dev/restart-");
    live_and_die(kubectl, image, || true);
    assert!(lived.iter().all(|(_, deaths)| *deaths > 0), "{lived:?}");
    println!("day two, deaths of the operator after every write: {lived:?}; {} states of partitions replayed", seen.states);
}

fn gone(kubectl: &Kubectl) {
    kubectl.delete("kafkacluster", NAMESPACE, "crash", LONG).unwrap();
    shell::wait_for("everything of the cluster to go", LONG, || {
        let left = kubectl.run(&[
            "get",
            "statefulset,pod,secret,pvc,configmap,service",
            "--namespace",
            NAMESPACE,
            "--selector",
            "freehold.dev/cluster=crash",
            "-o",
            "name",
        ])?;
        Ok((!left.is_empty()).then_some(left))
    })
    .unwrap();
}

#[test]
#[ignore = "needs the ground: cargo xtask test"]
fn dying_after_every_write_ends_the_same_and_an_idle_operator_writes_nothing() {
    let kubectl = kubectl();
    let image = crate::world::kafka_image(&kubectl);
    let idle_since = Instant::now();
    let audit_start = audit(&kubectl).len();
    crate::world::namespace(&kubectl, NAMESPACE);

    kubectl.apply(CLUSTER).unwrap();
    let deaths = live_and_die(&kubectl, &image, || true);
    println!("the operator died {deaths} times on the way to Ready");
    assert!(deaths >= DEATHS_MIN, "only {deaths} deaths");
    let disturbed = end_state(&kubectl);
    kubectl.apply(TOPIC).unwrap();
    day_two(&kubectl, &image);
    let after = end_state(&kubectl);
    for (name, object) in &disturbed {
        assert_eq!(&after[name], object, "{name} after day two");
    }
    kubectl.run(&["annotate", "topic", "crash", "--namespace", NAMESPACE, "freehold.dev/confirm-delete=crash"]).unwrap();
    kubectl.run(&["delete", "topic", "crash", "--namespace", NAMESPACE, "--wait=false"]).unwrap();
    {
        let _operator = Operator::start(NAMESPACE, "crash", &image, &[]);
        kubectl.delete("topic", NAMESPACE, "crash", LONG).unwrap();
        gone(&kubectl);
        kubectl.apply(CLUSTER).unwrap();
        kubectl.wait_ready("kafkacluster", NAMESPACE, "crash", LONG).unwrap();
        let undisturbed = end_state(&kubectl);
        assert_eq!(disturbed.keys().collect::<Vec<_>>(), undisturbed.keys().collect::<Vec<_>>());
        for (name, object) in &undisturbed {
            assert_eq!(&disturbed[name], object, "{name}");
        }
        gone(&kubectl);
    }
    kubectl.delete("namespace", "", NAMESPACE, LONG).unwrap();

    std::thread::sleep((SETTLING + IDLE).saturating_sub(idle_since.elapsed()));
    let settled = (Timestamp::now() - SignedDuration::try_from(idle_since.elapsed()).unwrap()
        + SignedDuration::try_from(SETTLING).unwrap())
    .to_string();
    let writes: Vec<_> = audit(&kubectl)[audit_start..]
        .iter()
        .filter(|event| is_write(event) && event["requestReceivedTimestamp"].as_str().unwrap_or_default() > settled.as_str())
        .map(|event| event["requestURI"].to_string())
        .collect();
    assert!(writes.is_empty(), "idle for {} s, and yet it wrote: {writes:?}", idle_since.elapsed().as_secs());
    println!("no write of the idle operator in {} s", idle_since.elapsed().as_secs());
}

/// The exit code of a life that ended; `None` once the cluster is Ready and the operator has nothing more to write.
fn wait_for_death_or_rest(kubectl: &Kubectl, life: &mut Child, done: impl Fn() -> bool) -> Option<i32> {
    let mut ready_since: Option<Instant> = None;
    let start = Instant::now();
    let mut look_at = start + LOOK_PAUSE;
    loop {
        if let Some(status) = life.try_wait().unwrap() {
            return status.code();
        }
        if Instant::now() > look_at {
            let cluster = kubectl.get("kafkacluster", NAMESPACE, "crash").unwrap();
            let ready = cluster.is_some_and(|cluster| ground::kubectl::not_ready(&cluster).is_none()) && done();
            ready_since = if ready { ready_since.or_else(|| Some(Instant::now())) } else { None };
            if ready_since.is_some_and(|since| since.elapsed() > REST) {
                return None;
            }
            look_at = Instant::now() + LOOK_PAUSE;
        }
        assert!(start.elapsed() < LONG, "neither Ready nor dead: see operator-crash.log");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Requests of the operator's ServiceAccount, from the API server's audit log.
fn audit(_: &Kubectl) -> Vec<Value> {
    let log = std::env::var("FREEHOLD_AUDIT_LOG").expect("cargo xtask test sets it");
    let text = std::fs::read_to_string(log).unwrap();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn is_write(event: &Value) -> bool {
    let verb = event["verb"].as_str().unwrap_or_default();
    // A leader renews its lease: that is how a standby knows that it lives.
    !["get", "list", "watch"].contains(&verb) && event["objectRef"]["resource"] != "leases"
}
