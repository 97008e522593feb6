//! Scaling out and in under load while operators die: new brokers are filled, leaving ones are
//! emptied first, and no record is lost.

use crate::load::{self, Load};
use crate::oracle;
use crate::rolls::{demo, pods, settled};
use crate::world::{LONG, Restore, asked, block_on, kubectl, super_admin};
use anyhow::{Context, Result};
use freehold_e2e::kubectl::Kubectl;
use freehold_e2e::shell;
use freehold_kafka::scram;
use freehold_kafka_client::{Admin, ScramChange};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(600);

/// Gives the quickstart's cluster the pools that it has now when the test fails: brokers that a
/// scale-out left are emptied and leave.
pub fn restore_pools(kubectl: &Kubectl) -> Restore {
    Restore::demo(
        kubectl,
        &json!({"nodePools": demo(kubectl)["spec"]["nodePools"]}),
    )
}

/// Gives a cluster a second pool of brokers with this size in all zones, or removes that pool.
pub fn set_extra(kubectl: &Kubectl, namespace: &str, cluster: &str, replicas: Option<u32>) {
    let zones = ["zone-a", "zone-b", "zone-c"];
    set_extra_in(kubectl, (namespace, cluster), &zones, replicas);
}

/// The same in these zones.
pub fn set_extra_in(
    kubectl: &Kubectl,
    (namespace, cluster): (&str, &str),
    zones: &[&str],
    replicas: Option<u32>,
) {
    let found = asked("the cluster", || {
        let found = kubectl.get("kafkacluster", namespace, cluster)?;
        found.context("it is not there")
    });
    let pools = found["spec"]["nodePools"].as_array().unwrap().iter();
    let mut pools: Vec<Value> = pools
        .filter(|pool| pool["name"] != "extra")
        .cloned()
        .collect();
    pools.extend(replicas.map(|replicas| {
        json!({"name": "extra", "roles": ["broker"], "replicas": replicas, "zones": zones,
            "storage": {"size": "1Gi", "whenScaled": "Delete"}, "jvm": {"heap": "256Mi"}})
    }));
    kubectl
        .merge(
            "kafkacluster",
            namespace,
            cluster,
            &json!({"spec": {"nodePools": pools}}),
        )
        .unwrap();
}

/// Names that no other test uses. In a HashMap of Java with up to 32 buckets the first of them comes
/// before the quickstart's User.
const WENT: [&str; 3] = ["went-17150", "went-9207", "went-13552"];

/// Users that were created and deleted. New brokers read the metadata log from its start; with
/// Kafka's own ScramDelta these three would take the place of the credential that remains (ADR 21).
fn users_that_went(kubectl: &Kubectl) {
    let admin = super_admin(kubectl, "kafka", "demo");
    for user in WENT.map(str::to_owned) {
        let (iterations, salt) = (scram::ITERATIONS, vec![7; 32]);
        let salted_password = scram::salted_password(&user, &salt, iterations).to_vec();
        let comes = ScramChange::Upsert {
            user: user.clone(),
            iterations,
            salt,
            salted_password,
        };
        for change in [comes, ScramChange::Delete { user }] {
            block_on(admin.alter_scram(&[change])).remove(0).unwrap();
        }
    }
}

/// A number for each broker.
type Counts = BTreeMap<i32, usize>;

/// Replicas and leaders of each registered broker. The broker that is asked may stop at any time;
/// then the caller asks again.
fn shares(kubectl: &Kubectl) -> Result<(Counts, Counts)> {
    let admin = super_admin(kubectl, "kafka", "demo");
    let cluster = block_on(admin.describe_cluster())?;
    let topics = block_on(admin.describe_topics())?;
    let mut held: Counts = cluster
        .brokers
        .iter()
        .map(|broker| (broker.id, 0))
        .collect();
    let mut led = held.clone();
    for partition in topics.iter().flat_map(|topic| &topic.partitions) {
        partition
            .replicas
            .iter()
            .for_each(|id| *held.entry(*id).or_default() += 1);
        *led.entry(partition.leader).or_default() += 1;
    }
    Ok((held, led))
}

fn within_one(counts: &Counts) -> bool {
    counts.values().max().unwrap() - counts.values().min().unwrap() <= 1
}

/// Empties a broker, gives it a new volume and fills it again; returns the seconds it took.
fn replace(kubectl: &Kubectl, id: &str) -> f64 {
    let volume = || {
        let name = format!("data-demo-extra-zone-a-{id}");
        let found = asked("the volume", || kubectl.get("pvc", "kafka", &name));
        found.unwrap_or_default()["metadata"]["uid"]
            .as_str()
            .map(str::to_owned)
    };
    // Without the annotation, the same node can be requested again.
    kubectl
        .run(&[
            "annotate",
            "kafkacluster",
            "demo",
            "--namespace",
            "kafka",
            "freehold.dev/replace-",
        ])
        .unwrap();
    shell::wait_for("the replacement before to be forgotten", LIMIT, || {
        let status = kubectl
            .get("kafkacluster", "kafka", "demo")?
            .unwrap_or_default()["status"]
            .clone();
        Ok(status["replaced"].as_str().map(str::to_owned))
    })
    .unwrap();
    let (before, start) = (volume(), Instant::now());
    kubectl
        .run(&[
            "annotate",
            "kafkacluster",
            "demo",
            "--namespace",
            "kafka",
            "--overwrite",
            &format!("freehold.dev/replace={id}"),
        ])
        .unwrap();
    shell::wait_for(
        "a broker with a new volume that holds its share",
        LIMIT,
        || {
            let status = kubectl
                .get("kafkacluster", "kafka", "demo")?
                .unwrap_or_default()["status"]
                .clone();
            let (held, _) = shares(kubectl)?;
            let new = volume().is_some_and(|now| before.as_ref() != Some(&now));
            Ok((status["replaced"] != id || !new || !within_one(&held))
                .then(|| format!("{} {held:?}", status["reason"])))
        },
    )
    .unwrap();
    settled(kubectl);
    start.elapsed().as_secs_f64()
}

/// Waits until so many brokers hold like shares of the replicas.
pub fn hold_like_shares(kubectl: &Kubectl, brokers: usize) {
    let what = format!("{brokers} brokers that hold like shares");
    shell::wait_for(&what, LIMIT, || {
        let (held, _) = shares(kubectl)?;
        Ok((held.len() != brokers || !within_one(&held)).then(|| format!("{held:?}")))
    })
    .unwrap();
}

/// Waits until the second pool, which has no size any more, is empty and gone, with its volumes.
pub fn gone(kubectl: &Kubectl, before: &BTreeMap<String, String>) {
    shell::wait_for("three brokers that hold everything", LIMIT, || {
        let (held, _) = shares(kubectl)?;
        Ok(
            (held.len() != 3 || held.values().any(|count| *count == 0))
                .then(|| format!("{held:?}")),
        )
    })
    .unwrap();
    settled(kubectl);
    assert_eq!(
        &pods(kubectl),
        before,
        "the pool's pods are gone, the others stayed"
    );
    let left = |kind: &str| {
        let selector = "freehold.dev/cluster=demo,freehold.dev/pool=extra";
        let words = ["get", kind, "--namespace", "kafka", "--selector", selector];
        kubectl.run(&[&words[..], &["-o", "name"]].concat())
    };
    shell::wait_for("their volumes to be gone", LIMIT, || {
        let volumes = left("pvc")?;
        Ok((!volumes.is_empty()).then_some(volumes))
    })
    .unwrap();
    set_extra(kubectl, "kafka", "demo", None);
    settled(kubectl);
    shell::wait_for("the pool to be gone", LONG, || {
        let sets = left("statefulsets")?;
        Ok((!sets.is_empty()).then_some(sets))
    })
    .unwrap();
}

#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn a_broker_that_serves_is_replaced_under_load() {
    let kubectl = kubectl();
    settled(&kubectl);
    let before = pods(&kubectl);
    let mark = oracle::mark(&kubectl, "kafka", "demo");
    let load = Load::start(&kubectl, "replace", load::rate());
    let _pools = restore_pools(&kubectl);
    let extra = |replicas| set_extra_in(&kubectl, ("kafka", "demo"), &["zone-a"], Some(replicas));
    extra(1);
    hold_like_shares(&kubectl, 4);
    settled(&kubectl);
    let replaced = replace(&kubectl, "300");
    extra(0);
    gone(&kubectl, &before);
    let seen = oracle::replay(&kubectl, "kafka", "demo", mark);
    oracle::assert_sound(&seen);
    let done = load.finish(&kubectl);
    println!("a broker replaced in {replaced:.1} s, {done}");
}

#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn brokers_join_and_leave_under_load_while_operators_die() {
    let kubectl = kubectl();
    settled(&kubectl);
    users_that_went(&kubectl);
    let before = pods(&kubectl);
    let mark = oracle::mark(&kubectl, "kafka", "demo");
    let load = Load::start(&kubectl, "scale", load::rate());
    let _pools = restore_pools(&kubectl);
    let kills = if load::soaks() { 10 } else { 2 };

    let start = Instant::now();
    set_extra(&kubectl, "kafka", "demo", Some(3));
    load::kill_operators(kills, Duration::from_secs(12));
    shell::wait_for("six brokers that hold like shares", LIMIT, || {
        let (held, led) = shares(&kubectl)?;
        Ok((held.len() != 6 || !within_one(&held) || !within_one(&led))
            .then(|| format!("{held:?} {led:?}")))
    })
    .unwrap();
    settled(&kubectl);
    let out = start.elapsed();
    let now = pods(&kubectl);
    assert!(
        before.iter().all(|(name, uid)| now.get(name) == Some(uid)),
        "who was there was not restarted"
    );

    let start = Instant::now();
    set_extra(&kubectl, "kafka", "demo", Some(0));
    load::kill_operators(kills, Duration::from_secs(12));
    gone(&kubectl, &before);
    let back = start.elapsed();

    let seen = oracle::replay(&kubectl, "kafka", "demo", mark);
    oracle::assert_sound(&seen);
    shell::wait_for("no throttle to be left", LONG, || {
        let admin = super_admin(&kubectl, "kafka", "demo");
        let names = block_on(admin.describe_topics())?.into_iter();
        let names: Vec<String> = names.map(|topic| topic.name).collect();
        let configs = block_on(crate::kafka::configs(&admin, &names))?;
        let throttled: Vec<_> = configs
            .iter()
            .filter(|(_, config)| config.keys().any(|key| key.contains("throttled")))
            .collect();
        Ok((!throttled.is_empty()).then(|| format!("{throttled:?}")))
    })
    .unwrap();
    let done = load.finish(&kubectl);
    println!(
        "scaling: three brokers to six in {:.1} s and back in {:.1} s with {} operators killed; {done}; {} states replayed, {} partitions",
        out.as_secs_f64(),
        back.as_secs_f64(),
        2 * kills,
        seen.states,
        seen.partitions
    );
}

/// Nodes that are controllers too: they become voters before they are filled, and are emptied
/// before they leave the quorum.
#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn combined_nodes_join_and_leave_under_load() {
    let kubectl = kubectl();
    settled(&kubectl);
    let before = pods(&kubectl);
    let mark = oracle::mark(&kubectl, "kafka", "demo");
    let load = Load::start(&kubectl, "combined", load::rate());
    let _pools = restore_pools(&kubectl);
    let replicas = |count: u32| {
        let patch =
            json!([{"op": "replace", "path": "/spec/nodePools/0/replicas", "value": count}])
                .to_string();
        kubectl
            .run(&[
                "patch",
                "kafkacluster",
                "demo",
                "--namespace",
                "kafka",
                "--type=json",
                "-p",
                &patch,
            ])
            .unwrap();
    };
    let reached = |nodes: usize| {
        shell::wait_for(
            &format!("{nodes} nodes that vote and hold like shares"),
            LIMIT,
            || {
                let quorum = block_on(super_admin(&kubectl, "kafka", "demo").describe_quorum())?;
                let (held, _) = shares(&kubectl)?;
                let done = held.len() == nodes && within_one(&held) && quorum.voters.len() == nodes;
                Ok((!done).then(|| format!("{held:?}, {} voters", quorum.voters.len())))
            },
        )
        .unwrap();
        settled(&kubectl);
    };
    let start = Instant::now();
    replicas(6);
    reached(6);
    let out = start.elapsed();
    let start = Instant::now();
    replicas(3);
    reached(3);
    let back = start.elapsed();
    assert_eq!(
        pods(&kubectl),
        before,
        "the three new ones are gone, the others were not restarted"
    );
    let done = load.finish(&kubectl);
    let seen = oracle::replay(&kubectl, "kafka", "demo", mark);
    oracle::assert_sound(&seen);
    println!(
        "combined: three nodes to six in {:.1} s and back in {:.1} s, {done}",
        out.as_secs_f64(),
        back.as_secs_f64()
    );
}
