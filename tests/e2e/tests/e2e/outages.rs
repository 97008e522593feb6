//! Outages of the local cluster under load: nodes are drained, one dies, a zone is cut off, the API
//! server does not answer.

use crate::load::{self, Load};
use crate::oracle;
use crate::rolls::{pods, settled};
use crate::scaling::{restore_pools, set_extra};
use crate::world::{LONG, Restore, asked, client, kubectl, topic};
use anyhow::Context;
use freehold_e2e::flow;
use freehold_e2e::kubectl::Kubectl;
use freehold_e2e::shell::{self, command};
use k8s_openapi::jiff::Timestamp;
use serde_json::json;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long a zone is cut off or the API server is down: longer than a broker's session (9 s) and
/// the leader lease of the operator (10 s). In `cargo xtask soak` as long as `soak` says.
fn away(soak: Duration) -> Duration {
    if load::soaks() {
        soak
    } else {
        Duration::from_secs(18)
    }
}

/// A command that runs at the end, even if the test fails.
struct Finally(Command);

impl Drop for Finally {
    fn drop(&mut self) {
        let done = self.0.stdin(Stdio::null()).status();
        assert!(
            done.is_ok_and(|status| status.success()) || std::thread::panicking(),
            "{:?} failed",
            self.0
        );
    }
}

#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn drained_nodes_take_turns() {
    let kubectl = kubectl();
    settled(&kubectl);
    let (before, mark) = (pods(&kubectl), oracle::mark(&kubectl, "kafka", "demo"));
    let load = Load::start(&kubectl, "drain", load::rate());
    let selector = "--pod-selector=freehold.dev/cluster=demo";
    let words = |node| {
        [
            "drain",
            node,
            selector,
            "--ignore-daemonsets",
            "--delete-emptydir-data",
            "--timeout=300s",
        ]
    };
    let _nodes = ["node-a", "node-b"].map(|node| Restore::new(&kubectl, &["uncordon", node]));
    kubectl.run(&words("node-a")).unwrap();
    // The second drain waits for the first node's broker, which cannot run anywhere until its node
    // is back.
    let log: PathBuf =
        std::env::temp_dir().join(format!("freehold-drain-{}.log", std::process::id()));
    let mut second = kubectl
        .command(&words("node-b"))
        .stdout(Stdio::null())
        .stderr(File::create(&log).unwrap())
        .spawn()
        .unwrap();
    shell::wait_for("an eviction to be refused", LONG, || {
        let said = std::fs::read_to_string(&log)?;
        Ok((!said.contains("disruption budget")).then_some(said))
    })
    .unwrap();
    assert_eq!(
        pods(&kubectl).get("demo-nodes-zone-b-100"),
        before.get("demo-nodes-zone-b-100"),
        "the second broker stays"
    );
    kubectl.run(&["uncordon", "node-a"]).unwrap();
    assert!(
        second.wait().unwrap().success(),
        "{}",
        std::fs::read_to_string(&log).unwrap()
    );
    kubectl.run(&["uncordon", "node-b"]).unwrap();
    std::fs::remove_file(&log).unwrap();
    settled(&kubectl);
    let after = pods(&kubectl);
    let moved = before
        .iter()
        .filter(|(name, uid)| after.get(*name) != Some(*uid))
        .count();
    assert_eq!(moved, 2, "two brokers were evicted: {before:?} {after:?}");
    let done = load.finish(&kubectl);
    let seen = oracle::replay(&kubectl, "kafka", "demo", mark);
    oracle::assert_sound(&seen);
    println!(
        "drain: two nodes one after the other, {done}; {} states replayed",
        seen.states
    );
}

/// Stops a process of the local cluster until the returned value is dropped.
fn stop(name: &str) -> Finally {
    let run = std::env::var("FREEHOLD_RUN").expect("cargo xtask test sets it");
    let pid = std::fs::read_to_string(format!("{run}/pids/{name}")).unwrap();
    let signal = |signal: &str| command("kill", [signal, pid.split(' ').next().unwrap()]);
    shell::run(&mut signal("-STOP")).unwrap();
    Finally(signal("-CONT"))
}

/// The letter of the zone, b or c, whose node does not run this Job.
fn zone_without(kubectl: &Kubectl, job: &str) -> char {
    let job = format!("job-name={job}");
    let words = [
        "get",
        "pods",
        "-n",
        "shop",
        "-l",
        &job,
        "-o",
        "jsonpath={.items[0].spec.nodeName}",
    ];
    let node = asked("the producer's node", || kubectl.run(&words));
    if node == "node-c" { 'b' } else { 'c' }
}

/// Kills every process of a pod, as a machine does that loses power.
fn kill_pod(uid: &str) {
    let of_pod = |pid: &u32| {
        std::fs::read_to_string(format!("/proc/{pid}/cgroup"))
            .is_ok_and(|groups| groups.contains(uid))
    };
    let pids: Vec<u32> = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
        .filter(of_pod)
        .collect();
    assert!(!pids.is_empty(), "no process of pod {uid}");
    for pid in pids {
        // An error means that the process has already ended with another one.
        let _ = shell::run(&mut command("kill", ["-KILL", &pid.to_string()]));
    }
}

/// Waits until the status says that it waits for this.
fn says(kubectl: &Kubectl, words: &str) {
    shell::wait_for(&format!("the status to say {words:?}"), LONG, || {
        let cluster = kubectl
            .get("kafkacluster", "kafka", "demo")?
            .unwrap_or_default();
        let waiting_on = cluster["status"]["waitingOn"].to_string();
        Ok((!waiting_on.contains(words)).then_some(waiting_on))
    })
    .unwrap();
}

/// Sets the condition that Kubernetes itself sets when it has had no contact with a kubelet for 50
/// seconds.
fn is_silent(kubectl: &Kubectl, node: &str) {
    let ready = json!({"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown", "message": "Kubelet stopped posting node status.",
        "lastTransitionTime": Timestamp::from_second(Timestamp::now().as_second()).unwrap()});
    let status = json!({"status": {"conditions": [ready]}}).to_string();
    kubectl
        .run(&["patch", "node", node, "--subresource=status", "-p", &status])
        .unwrap();
}

/// The kubelet of a node stops and its broker is killed. The status says what the user can do until
/// Kubernetes knows that the node is gone; then that the zone of the volume has no other node; then
/// there is one, and the broker is back on it.
#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn a_dead_node_s_broker_comes_back_where_its_volume_can_be() {
    let kubectl = kubectl();
    settled(&kubectl);
    let mark = oracle::mark(&kubectl, "kafka", "demo");
    let load = Load::start(&kubectl, "dead", load::rate());
    let letter = zone_without(&kubectl, "dead-produce");
    let (node, id) = (
        format!("node-{letter}"),
        if letter == 'b' { 100 } else { 200 },
    );
    let pod = format!("demo-nodes-zone-{letter}-{id}");
    let host = || {
        let found = asked("the broker's pod", || kubectl.get("pod", "kafka", &pod));
        found.unwrap_or_default()["spec"]["nodeName"]
            .as_str()
            .map(str::to_owned)
    };
    let start = Instant::now();
    let away = {
        let _goes_on = stop(&format!("kubelet-{node}"));
        kill_pod(&pods(&kubectl)[&pod]);
        // Kubernetes does this by itself after five minutes.
        kubectl
            .run(&[
                "delete",
                "pod",
                &pod,
                "--namespace",
                "kafka",
                "--grace-period=1",
                "--wait=false",
            ])
            .unwrap();
        says(
            &kubectl,
            &format!(
                "node {node} to say that pod {pod} has ended; if that node is gone for good, delete it, or taint it"
            ),
        );
        is_silent(&kubectl, &node);
        let taint =
            |sign: &str| format!("node.kubernetes.io/out-of-service=nodeshutdown:NoExecute{sign}");
        let _back = Finally(kubectl.command(&["taint", "nodes", &node, &taint("-")]));
        kubectl.run(&["taint", "nodes", &node, &taint("")]).unwrap();
        says(
            &kubectl,
            &format!("annotate the cluster with freehold.dev/replace={id}"),
        );
        let zone = |letter| {
            let labels = [
                "topology.kubernetes.io/zone",
                "topology.local.freehold.dev/zone",
            ]
            .map(|key| format!("{key}=zone-{letter}"));
            kubectl.command(&[
                "label",
                "nodes",
                "node-a",
                "--overwrite",
                &labels[0],
                &labels[1],
            ])
        };
        let _as_before = Finally(zone('a'));
        shell::run(&mut zone(letter)).unwrap();
        shell::wait_for("the broker on another node", LONG, || {
            Ok(host().filter(|host| host != "node-a"))
        })
        .unwrap();
        settled(&kubectl);
        start.elapsed()
    };
    // Move the pod back, so that no later test finds two brokers on one node.
    shell::wait_for("the node to be Ready", LONG, || {
        let found = kubectl.get("node", "", &node)?.unwrap_or_default();
        Ok(freehold_e2e::kubectl::not_ready(&found))
    })
    .unwrap();
    kubectl.delete("pod", "kafka", &pod, LONG).unwrap();
    shell::wait_for("the broker on its own node", LONG, || {
        Ok((host().as_ref() != Some(&node)).then(|| format!("{:?}", host())))
    })
    .unwrap();
    settled(&kubectl);
    let done = load.finish(&kubectl);
    let seen = oracle::replay(&kubectl, "kafka", "demo", mark);
    oracle::assert_sound(&seen);
    println!(
        "dead: a broker in sync on another node after {:.1} s, {done}; {} states replayed",
        away.as_secs_f64(),
        seen.states
    );
}

/// A broker's machine dies with its volume: the kubelet stops, every process of the pod is killed,
/// and the PersistentVolume and the pod are deleted. Then another machine takes its place.
fn lose(kubectl: &Kubectl, pool: &str, letter: char, id: i32) {
    let pod = format!("demo-{pool}-zone-{letter}-{id}");
    let _goes_on = stop(&format!("kubelet-node-{letter}"));
    kill_pod(&pods(kubectl)[&pod]);
    let claim = asked("the broker's claim", || {
        let found = kubectl.get("pvc", "kafka", &format!("data-{pod}"))?;
        found.context("it is not there")
    });
    let volume = claim["spec"]["volumeName"].as_str().unwrap();
    kubectl
        .run(&["delete", "pv", volume, "--wait=false"])
        .unwrap();
    // The finalizers would wait for the claim.
    kubectl
        .run(&[
            "patch",
            "pv",
            volume,
            "--type=merge",
            "-p",
            r#"{"metadata":{"finalizers":null}}"#,
        ])
        .unwrap();
    kubectl
        .run(&[
            "delete",
            "pod",
            &pod,
            "--namespace",
            "kafka",
            "--force",
            "--grace-period=0",
        ])
        .unwrap();
}

/// The machine of the node that is being restarted dies: the node is replaced, and the rolling
/// restart finishes.
fn lost_in_a_roll(kubectl: &Kubectl) {
    let before = pods(kubectl);
    let disrupted = |kubectl: &Kubectl| -> anyhow::Result<Option<i64>> {
        let status = &kubectl
            .get("kafkacluster", "kafka", "demo")?
            .unwrap_or_default()["status"];
        Ok(status["disruption"]["nodeIds"][0].as_i64())
    };
    let start = Instant::now();
    kubectl
        .run(&[
            "annotate",
            "kafkacluster",
            "demo",
            "--namespace",
            "kafka",
            "--overwrite",
            &format!("freehold.dev/restart={}", load::id()),
        ])
        .unwrap();
    let mut id = 0;
    shell::wait_for("a node to be restarted", LONG, || {
        let found = disrupted(kubectl)?;
        id = found.unwrap_or_default();
        let pod = format!("demo-nodes-zone-{}-{id}", zone_of(id));
        let another = pods(kubectl)
            .get(&pod)
            .is_some_and(|uid| before.get(&pod) != Some(uid));
        let runs = another
            && kubectl
                .get("pod", "kafka", &pod)?
                .is_some_and(|pod| pod["status"]["phase"] == "Running");
        Ok((found.is_none() || !runs).then(|| format!("{found:?}")))
    })
    .unwrap();
    lose(kubectl, "nodes", zone_of(id), i32::try_from(id).unwrap());
    shell::wait_for("every pod to be another", LONG, || {
        let now = pods(kubectl);
        let same: Vec<_> = before
            .iter()
            .filter(|(name, uid)| now.get(*name).is_none_or(|now| now == *uid))
            .collect();
        Ok((!same.is_empty()).then(|| format!("{same:?}")))
    })
    .unwrap();
    settled(kubectl);
    println!(
        "lost in a roll: node {id}; the roll had ended {:.1} s after it began",
        start.elapsed().as_secs_f64()
    );
}

/// The machine of a leaving broker dies: the other replicas restore what it held, and the pool is
/// removed.
fn lost_in_a_scale_in(kubectl: &Kubectl) {
    let before = pods(kubectl);
    let _pools = restore_pools(kubectl);
    set_extra(kubectl, "kafka", "demo", Some(3));
    settled(kubectl);
    let start = Instant::now();
    set_extra(kubectl, "kafka", "demo", Some(0));
    shell::wait_for("replicas to move away", LONG, || {
        let status = &kubectl
            .get("kafkacluster", "kafka", "demo")?
            .unwrap_or_default()["status"];
        Ok((!status["reason"].to_string().contains("Reassigning"))
            .then(|| status["reason"].to_string()))
    })
    .unwrap();
    lose(kubectl, "extra", 'b', 400);
    shell::wait_for("the brokers to be gone", LONG, || {
        let now = pods(kubectl);
        let status = &kubectl
            .get("kafkacluster", "kafka", "demo")?
            .unwrap_or_default()["status"];
        Ok((now != before).then(|| format!("{:?} {}", now.keys(), status["reason"])))
    })
    .unwrap();
    settled(kubectl);
    set_extra(kubectl, "kafka", "demo", None);
    settled(kubectl);
    println!(
        "lost in a scale-in: node 400; its brokers were gone {:.1} s after the pool was scaled to 0",
        start.elapsed().as_secs_f64()
    );
}

fn zone_of(id: i64) -> char {
    ['a', 'b', 'c'][usize::try_from(id / 100).unwrap() % 3]
}

/// First by the annotation, then, only in a soak, automatically (tests/lost_nodes.rs checks when
/// that happens, and that the steps are the same). A topic with one replica loses a partition with
/// the first machine: this is reported, blocks nothing, and its Topic can be deleted.
#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn a_broker_whose_machine_and_volume_are_gone_is_replaced() {
    let kubectl = kubectl();
    settled(&kubectl);
    kubectl
        .apply(&topic(
            "lonely",
            "demo",
            "  partitions: 3\n  replicas: 1\n  config: {min.insync.replicas: \"1\"}\n",
        ))
        .unwrap();
    let _lonely = Restore::delete(&kubectl, "topic", "shop", "lonely");
    kubectl.wait_ready("topic", "shop", "lonely", LONG).unwrap();
    let (before, mark) = (pods(&kubectl), oracle::mark(&kubectl, "kafka", "demo"));
    let load = Load::start(&kubectl, "lost", load::rate());
    let _by_itself = Restore::demo(
        &kubectl,
        &json!({"rollout": {"replaceLostNodesAfterMinutes": null}}),
    );
    let status = || crate::rolls::demo(&kubectl)["status"].clone();
    let claim = |letter: char, id: i32| {
        let name = format!("data-demo-nodes-zone-{letter}-{id}");
        let found = asked("the claim", || kubectl.get("pvc", "kafka", &name));
        found.unwrap_or_default()["metadata"]["uid"]
            .as_str()
            .map(str::to_owned)
    };
    let replaced = |letter: char, id: i32, old: Option<String>| {
        shell::wait_for(&format!("node {id} with a new volume"), LONG, || {
            Ok(claim(letter, id)
                .is_none_or(|now| Some(now) == old)
                .then(|| status()["waitingOn"].to_string()))
        })
        .unwrap();
        shell::wait_for("three nodes in sync, that vote", LONG, || {
            let now = status();
            let well = now["brokers"] == "3/3"
                && now["quorum"]["summary"] == "3/3"
                && now["disruption"].is_null();
            Ok((!well).then(|| {
                format!(
                    "{} {} {}",
                    now["brokers"], now["quorum"]["summary"], now["reason"]
                )
            }))
        })
        .unwrap();
        settled(&kubectl);
    };
    let told = |id: i32| {
        shell::wait_for(
            &format!("the status to say that node {id} is lost"),
            LONG,
            || {
                let lost = status()["lostNodes"].clone();
                Ok((lost[0]["nodeId"] != id).then(|| lost.to_string()))
            },
        )
        .unwrap();
    };

    let (start, old) = (Instant::now(), claim('a', 0));
    lose(&kubectl, "nodes", 'a', 0);
    told(0);
    shell::wait_for("the lost partition to be told", LONG, || {
        let warnings = status()["warnings"].to_string();
        Ok((!warnings.contains("lonely-")).then_some(warnings))
    })
    .unwrap();
    kubectl
        .run(&[
            "annotate",
            "kafkacluster",
            "demo",
            "--namespace",
            "kafka",
            "--overwrite",
            "freehold.dev/replace=0",
        ])
        .unwrap();
    replaced('a', 0, old);
    shell::wait_for("the annotation to be answered", LONG, || {
        let replaced = status()["replaced"].clone();
        Ok((replaced != "0").then(|| replaced.to_string()))
    })
    .unwrap();
    let by_annotation = start.elapsed();
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
    crate::world::delete_topic(&kubectl, "shop", "lonely");

    if load::soaks() {
        let patch = |minutes: Option<u32>| {
            let patch = json!({"spec": {"rollout": {"replaceLostNodesAfterMinutes": minutes}}});
            kubectl
                .merge("kafkacluster", "kafka", "demo", &patch)
                .unwrap();
        };
        patch(Some(1));
        settled(&kubectl);
        let (start, old) = (Instant::now(), claim('c', 200));
        lose(&kubectl, "nodes", 'c', 200);
        told(200);
        replaced('c', 200, old);
        println!(
            "lost: in sync on a new volume {:.1} s after the second machine died, by itself after a minute",
            start.elapsed().as_secs_f64()
        );
        lost_in_a_roll(&kubectl);
        lost_in_a_scale_in(&kubectl);
        patch(None);
    }
    settled(&kubectl);

    let done = load.finish(&kubectl);
    let mut seen = oracle::replay(&kubectl, "kafka", "demo", mark);
    // The partition without another replica was lost with its volume. No other partition may have
    // been below its minimum.
    seen.violations.retain(|one| !one.contains(": lonely-"));
    oracle::assert_sound(&seen);
    assert_eq!(
        pods(&kubectl).get("demo-nodes-zone-b-100"),
        before.get("demo-nodes-zone-b-100"),
        "the other one was not touched"
    );
    println!(
        "lost: in sync on a new volume {:.1} s after the first machine died, by the annotation; {done}; {} states replayed",
        by_annotation.as_secs_f64(),
        seen.states
    );
}

#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn a_zone_that_is_cut_off_comes_back() {
    let kubectl = kubectl();
    settled(&kubectl);
    let (before, mark) = (pods(&kubectl), oracle::mark(&kubectl, "kafka", "demo"));
    let away = away(Duration::from_secs(60));
    let load = Load::start(&kubectl, "cut", load::rate());
    let link = format!("fh-node-{}", zone_without(&kubectl, "cut-produce"));
    let set = |state: &str| command("ip", ["link", "set", &link, state]);
    {
        let _up = Finally(set("up"));
        shell::run(&mut set("down")).unwrap();
        std::thread::sleep(away);
    }
    // The status may still say Ready by then, so first wait until the status shows the brokers that
    // are out of sync.
    shell::wait_for("three brokers in sync", LONG, || {
        let cluster = kubectl
            .get("kafkacluster", "kafka", "demo")?
            .unwrap_or_default();
        Ok(
            freehold_e2e::kubectl::not_ready(&cluster).or((cluster["status"]["brokers"] != "3/3")
                .then(|| cluster["status"]["brokers"].to_string())),
        )
    })
    .unwrap();
    settled(&kubectl);
    let done = load.finish(&kubectl);
    let seen = oracle::replay(&kubectl, "kafka", "demo", mark);
    oracle::assert_sound(&seen);
    assert_eq!(pods(&kubectl), before, "no pod was deleted for it");
    println!(
        "cut: a zone away for {} s, {done}; {} states replayed",
        away.as_secs(),
        seen.states
    );
}

#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn brokers_serve_on_while_the_api_server_does_not_answer() {
    let kubectl = kubectl();
    settled(&kubectl);
    let before = pods(&kubectl);
    let away = away(Duration::from_secs(600));
    // Enough records to last longer than the API server is down: nobody can stop the producer
    // meanwhile.
    let (client, job) = (client(&kubectl, "shop-app", "orders"), "away-produce");
    let _producer = Restore::delete(&kubectl, "job", "shop", job);
    let count =
        usize::try_from(load::rate()).unwrap() * usize::try_from(away.as_secs() + 12).unwrap();
    load::start_producer(&kubectl, &client, job, count, load::rate());
    {
        let _goes_on = stop("kube-apiserver");
        std::thread::sleep(away);
    }
    shell::wait_for("the API server", LONG, || {
        Ok(kubectl
            .run(&["get", "--raw", "/readyz"])
            .err()
            .map(|error| error.to_string()))
    })
    .unwrap();
    kubectl
        .apply(&topic("after-the-silence", "demo", "  partitions: 1\n"))
        .unwrap();
    kubectl
        .wait_ready("topic", "shop", "after-the-silence", LONG)
        .unwrap();
    kubectl
        .delete("topic", "shop", "after-the-silence", LONG)
        .unwrap();
    settled(&kubectl);
    assert_eq!(pods(&kubectl), before, "no pod was touched");
    assert!(
        flow::finished(&kubectl, &client, job, LONG).unwrap(),
        "the producer came to its end"
    );
    let events = asked("the producer's log", || {
        flow::events(&kubectl, &client, job)
    });
    let done = load::read_back(&kubectl, &client, job, &events);
    println!(
        "away: an API server that did not answer for {} s, {done}",
        away.as_secs()
    );
}
