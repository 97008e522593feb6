//! Proof 4: the operator dies after each of its writes to the API server and to Kafka, during a
//! first rollout and a rolling restart (in a soak also during a scale-out, a scale-in and the
//! rotation of a CA), and the result is the same. The other operator, which has nothing to do,
//! writes nothing meanwhile.

use crate::dying::{Dying, NO_REST, REST, assert_same};
use crate::load;
use crate::oracle;
use crate::scaling::set_extra;
use crate::world::{LONG, Operator, asked, block_on, kubectl, secret, super_admin};
use freehold_e2e::kubectl::{Kubectl, not_ready};
use freehold_e2e::shell;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const NAMESPACE: &str = "crash";
const DEATHS_MIN: u32 = 20;
/// Two intervals of the slowest reconcile of everything, which runs once a minute.
const IDLE: Duration = Duration::from_secs(120);
/// How long to look for such a time.
const IDLE_LIMIT: Duration = Duration::from_secs(600);
/// Pause between two looks at the audit log.
const LOOK_PAUSE: Duration = Duration::from_secs(10);

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

/// One partition has one leader: a rolling restart moves its leadership away and back, and restarts
/// the other two nodes without that. The steps of a soak need one partition for each broker.
fn topic() -> String {
    let partitions = if load::soaks() { 6 } else { 1 };
    format!(
        "apiVersion: freehold.dev/v1alpha1\nkind: Topic\nmetadata: {{name: crash, namespace: crash}}\nspec:\n  \
         clusterRef: {{name: crash}}\n  partitions: {partitions}\n"
    )
}

/// The specs of all child objects of the cluster, without values that are random or counters.
fn end_state(kubectl: &Kubectl) -> BTreeMap<String, Value> {
    let kinds =
        "statefulset,service,configmap,networkpolicy,poddisruptionbudget,serviceaccount,secret,pvc";
    let list = kubectl
        .json(&[
            "get",
            kinds,
            "--namespace",
            NAMESPACE,
            "--selector",
            "freehold.dev/cluster=crash",
        ])
        .unwrap();
    let mut state = BTreeMap::new();
    for item in list["items"].as_array().unwrap() {
        let name = format!(
            "{}/{}",
            item["kind"].as_str().unwrap(),
            item["metadata"]["name"].as_str().unwrap()
        );
        let mut kept = json!({"labels": item["metadata"]["labels"], "spec": item["spec"], "owned": item["metadata"]["ownerReferences"].is_array()});
        if let Some(data) = item["data"].as_object() {
            kept["keys"] = json!(data.keys().collect::<Vec<_>>());
        }
        if item["kind"] == "ConfigMap" {
            kept["server"] = item["data"]["server.properties"].clone();
        }
        if let Some(spec) = kept["spec"].as_object_mut() {
            for drawn in ["clusterIP", "clusterIPs", "volumeName"] {
                spec.remove(drawn);
            }
            // The annotations of the volumes contain the cluster id.
            spec.remove("volumeClaimTemplates");
        }
        state.insert(name, kept);
    }
    state
}

/// An operator that dies after every write, until the cluster is Ready, `done` is true, and it has
/// nothing to write for `rest`; returns the number of deaths.
fn live_and_die(kubectl: &Kubectl, image: &str, rest: Duration, done: impl Fn() -> bool) -> u32 {
    let dying = Dying {
        kubectl,
        namespace: NAMESPACE,
        image,
        environment: &[],
    };
    dying.until(rest, || {
        let cluster = kubectl.get("kafkacluster", NAMESPACE, "crash");
        let is_ready = |cluster: Value| not_ready(&cluster).is_none();
        // A question without an answer is asked again.
        cluster.is_ok_and(|cluster| cluster.is_some_and(is_ready)) && done()
    })
}

/// The uids of the first pool's pods, sorted.
fn nodes(kubectl: &Kubectl) -> Vec<String> {
    let words = [
        "get",
        "pods",
        "--namespace",
        NAMESPACE,
        "--selector",
        "freehold.dev/pool=nodes",
        "-o",
        "jsonpath={.items[*].metadata.uid}",
    ];
    let mut uids: Vec<_> = asked("the pods", || kubectl.run(&words))
        .split(' ')
        .map(str::to_owned)
        .collect();
    uids.sort_unstable();
    uids
}

/// The brokers that hold replicas of the topic.
fn holders(kubectl: &Kubectl) -> BTreeSet<i32> {
    let topics =
        block_on(super_admin(kubectl, NAMESPACE, "crash").describe_topics()).unwrap_or_default();
    let replicas = topics
        .iter()
        .filter(|topic| topic.name == "crash")
        .flat_map(|topic| &topic.partitions);
    replicas
        .flat_map(|partition| partition.replicas.clone())
        .collect()
}

/// A rolling restart; in `cargo xtask soak` also three more brokers, three fewer, another CA. An
/// operator that dies after every write finishes each of them, and no partition was ever under its
/// `min.insync.replicas`. (Moves and rotations under an operator that dies are also covered by
/// tests/moves.rs, and on the local cluster by `scaling` and `authorization`.)
fn day_two(kubectl: &Kubectl, image: &str) {
    let annotate = |text: &str| {
        kubectl
            .run(&[
                "annotate",
                "kafkacluster",
                "crash",
                "--namespace",
                NAMESPACE,
                text,
            ])
            .unwrap()
    };
    let mut lived = Vec::new();
    let topic = || {
        let topic = kubectl.get("topic", NAMESPACE, "crash");
        topic.is_ok_and(|topic| not_ready(&topic.unwrap_or_default()).is_none())
    };
    lived.push(("a topic", live_and_die(kubectl, image, NO_REST, topic)));
    let (mark, before) = (oracle::mark(kubectl, NAMESPACE, "crash"), nodes(kubectl));

    annotate("freehold.dev/restart=1");
    lived.push((
        "a roll",
        live_and_die(kubectl, image, NO_REST, || {
            // A pod that is being made anew is no other pod.
            let now = nodes(kubectl);
            now.len() == before.len() && now.iter().all(|uid| !before.contains(uid))
        }),
    ));
    let once = nodes(kubectl);

    if load::soaks() {
        scale_and_rotate(kubectl, image, &mut lived);
    }
    // Remove what the scenarios leave behind, so that the end state is that of the first rollout.
    annotate("freehold.dev/restart-");
    live_and_die(kubectl, image, REST, || true);
    assert_eq!(nodes(kubectl), once, "each node was restarted once");
    let seen = oracle::replay(kubectl, NAMESPACE, "crash", mark);
    oracle::assert_sound(&seen);
    assert!(lived.iter().all(|(_, deaths)| *deaths > 0), "{lived:?}");
    println!(
        "day two, deaths of the operator after every write: {lived:?}; {} states of partitions replayed",
        seen.states
    );
}

/// Three more brokers, three fewer, another CA.
fn scale_and_rotate(kubectl: &Kubectl, image: &str, lived: &mut Vec<(&'static str, u32)>) {
    let pools = |replicas| set_extra(kubectl, NAMESPACE, "crash", replicas);
    pools(Some(3));
    lived.push((
        "three brokers more",
        live_and_die(kubectl, image, REST, || holders(kubectl).len() == 6),
    ));
    pools(Some(0));
    let no_volume = || {
        let words = ["get", "pvc", "--namespace", NAMESPACE, "-o", "name"];
        let of_pool = ["--selector", "freehold.dev/pool=extra"];
        let left = kubectl.run(&[&words[..], &of_pool].concat());
        left.is_ok_and(|left| left.is_empty())
    };
    lived.push((
        "three fewer",
        live_and_die(kubectl, image, REST, || {
            holders(kubectl).len() == 3 && no_volume()
        }),
    ));
    pools(None);
    let gone = || {
        let set = kubectl.get("statefulset", NAMESPACE, "crash-extra-zone-a");
        set.is_ok_and(|set| set.is_none())
    };
    lived.push(("their pool gone", live_and_die(kubectl, image, REST, gone)));

    let ca = || {
        let name = "crash-cluster-ca";
        asked(name, || secret(kubectl, NAMESPACE, name))
    };
    let first = ca()["tls.crt"].clone();
    kubectl
        .run(&[
            "annotate",
            "kafkacluster",
            "crash",
            "--namespace",
            NAMESPACE,
            "freehold.dev/rotate-ca=1",
        ])
        .unwrap();
    let rotated = || {
        let now = ca();
        now["tls.crt"] != first
            && !now.contains_key("next.crt")
            && !now.contains_key("previous.crt")
    };
    lived.push(("another CA", live_and_die(kubectl, image, REST, rotated)));
}

fn gone(kubectl: &Kubectl) {
    kubectl
        .delete("kafkacluster", NAMESPACE, "crash", LONG)
        .unwrap();
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
#[ignore = "needs the local cluster: cargo xtask test"]
fn dying_after_every_write_ends_the_same_and_an_idle_operator_writes_nothing() {
    let kubectl = kubectl();
    let image = crate::world::kafka_image(&kubectl);
    let idle_since = Timestamp::now();
    let audit_start = audit(&kubectl).len();
    let _pods = crate::world::namespace(&kubectl, NAMESPACE);

    kubectl.apply(CLUSTER).unwrap();
    let deaths = live_and_die(&kubectl, &image, REST, || true);
    println!("the operator died {deaths} times on the way to Ready");
    assert!(deaths >= DEATHS_MIN, "only {deaths} deaths");
    let disturbed = end_state(&kubectl);
    kubectl.apply(&topic()).unwrap();
    day_two(&kubectl, &image);
    let after = end_state(&kubectl);
    for (name, object) in &disturbed {
        assert_eq!(&after[name], object, "{name} after day two");
    }
    kubectl
        .run(&[
            "annotate",
            "topic",
            "crash",
            "--namespace",
            NAMESPACE,
            "freehold.dev/confirm-delete=crash",
        ])
        .unwrap();
    kubectl
        .run(&[
            "delete",
            "topic",
            "crash",
            "--namespace",
            NAMESPACE,
            "--wait=false",
        ])
        .unwrap();
    {
        let _operator = Operator::start(NAMESPACE, "crash", &image, &[]);
        kubectl.delete("topic", NAMESPACE, "crash", LONG).unwrap();
        gone(&kubectl);
        kubectl.apply(CLUSTER).unwrap();
        kubectl
            .wait_ready("kafkacluster", NAMESPACE, "crash", LONG)
            .unwrap();
        let undisturbed = end_state(&kubectl);
        assert_same(&disturbed, &undisturbed);
        gone(&kubectl);
    }
    crate::world::leave(&kubectl, "namespace", "", NAMESPACE);

    idles(&kubectl, idle_since, audit_start);
}

/// The demo's operator has only work that earlier tests left, and what a broker does that falls out
/// of sync while this test loads the machine. Between such writes it writes nothing for [`IDLE`]; an
/// operator that writes at each reconcile never has such a time.
fn idles(kubectl: &Kubectl, start: Timestamp, audit_start: usize) {
    let time = |event: &Value| -> Option<Timestamp> {
        event["requestReceivedTimestamp"].as_str()?.parse().ok()
    };
    let mut idle = Duration::ZERO;
    shell::wait_for("the idle operator to write nothing", IDLE_LIMIT, || {
        let writes: Vec<(Timestamp, String)> = audit(kubectl)[audit_start..]
            .iter()
            .filter(|event| is_write(event))
            .filter_map(|event| Some((time(event)?, event["requestURI"].to_string())))
            .filter(|(time, _)| *time > start)
            .collect();
        let last = writes.iter().map(|(time, _)| *time).max().unwrap_or(start);
        idle = Duration::try_from(Timestamp::now().duration_since(last)).unwrap_or_default();
        if idle >= IDLE {
            return Ok(None);
        }
        std::thread::sleep(IDLE.saturating_sub(idle).min(LOOK_PAUSE));
        let last = &writes[writes.len().saturating_sub(20)..];
        Ok(Some(format!("the last ones: {last:?}")))
    })
    .unwrap();
    println!("no write of the idle operator in {} s", idle.as_secs());
}

/// The requests of the operator's ServiceAccount in the API server's audit log.
fn audit(_: &Kubectl) -> Vec<Value> {
    let log = std::env::var("FREEHOLD_AUDIT_LOG").expect("cargo xtask test sets it");
    let text = std::fs::read_to_string(log).unwrap();
    text.lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}

fn is_write(event: &Value) -> bool {
    let verb = event["verb"].as_str().unwrap_or_default();
    // Renewals of the lease do not count: a leader renews it so that a standby knows that it is
    // alive.
    !["get", "list", "watch"].contains(&verb) && event["objectRef"]["resource"] != "leases"
}
