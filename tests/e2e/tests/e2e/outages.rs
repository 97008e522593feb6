//! What others do to the ground under a load: nodes are drained, one dies, a zone is cut off, the API server does not answer.

use crate::load::{self, Load};
use crate::oracle;
use crate::rolls::{pods, settled};
use crate::world::{LONG, client, kubectl, topic};
use ground::flow;
use ground::kubectl::Kubectl;
use ground::shell::{self, command};
use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const RATE: i64 = 150;
/// How long a zone is cut off, or the API server away; in `cargo xtask soak` as long as this says.
fn away(soak: Duration) -> Duration {
    if load::soaks() { soak } else { Duration::from_secs(30) }
}

/// Done at the end, whatever happens to the test.
struct Finally(Command);

impl Drop for Finally {
    fn drop(&mut self) {
        let done = self.0.stdin(Stdio::null()).status();
        assert!(done.is_ok_and(|status| status.success()) || std::thread::panicking(), "{:?} failed", self.0);
    }
}

#[test]
#[ignore = "needs the ground: cargo xtask test"]
fn drained_nodes_take_turns() {
    let kubectl = kubectl();
    settled(&kubectl);
    let (before, mark) = (pods(&kubectl), oracle::mark(&kubectl, "kafka", "demo"));
    let load = Load::start(&kubectl, "drain", RATE);
    let selector = "--pod-selector=freehold.dev/cluster=demo";
    let words = |node| ["drain", node, selector, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=300s"];
    kubectl.run(&words("node-a")).unwrap();
    // The second waits for the first one's broker, which has nowhere to go until its node is back.
    let log: PathBuf = std::env::temp_dir().join(format!("freehold-drain-{}.log", std::process::id()));
    let mut second = kubectl.command(&words("node-b")).stdout(Stdio::null()).stderr(File::create(&log).unwrap()).spawn().unwrap();
    shell::wait_for("an eviction to be refused", LONG, || {
        let said = std::fs::read_to_string(&log)?;
        Ok((!said.contains("disruption budget")).then_some(said))
    })
    .unwrap();
    assert_eq!(pods(&kubectl).get("demo-nodes-zone-b-100"), before.get("demo-nodes-zone-b-100"), "the second broker stays");
    kubectl.run(&["uncordon", "node-a"]).unwrap();
    assert!(second.wait().unwrap().success(), "{}", std::fs::read_to_string(&log).unwrap());
    kubectl.run(&["uncordon", "node-b"]).unwrap();
    std::fs::remove_file(&log).unwrap();
    settled(&kubectl);
    let after = pods(&kubectl);
    let moved = before.iter().filter(|(name, uid)| after.get(*name) != Some(*uid)).count();
    assert_eq!(moved, 2, "two brokers were evicted: {before:?} {after:?}");
    let done = load.finish(&kubectl);
    let seen = oracle::replay(&kubectl, "kafka", "demo", mark);
    assert!(seen.violations.is_empty(), "{:#?}", seen.violations);
    println!("drain: two nodes one after the other, {done}; {} states replayed", seen.states);
}

/// A process of the ground does nothing more until the end.
fn stop(name: &str) -> Finally {
    let run = std::env::var("FREEHOLD_RUN").expect("cargo xtask test sets it");
    let pid = std::fs::read_to_string(format!("{run}/pids/{name}")).unwrap();
    let signal = |signal: &str| command("kill", [signal, pid.split(' ').next().unwrap()]);
    shell::run(&mut signal("-STOP")).unwrap();
    Finally(signal("-CONT"))
}

/// The letter of a zone, b or c, whose node does not run this Job.
fn zone_without(kubectl: &Kubectl, job: &str) -> char {
    let job = format!("job-name={job}");
    let node = kubectl.run(&["get", "pods", "-n", "shop", "-l", &job, "-o", "jsonpath={.items[0].spec.nodeName}"]).unwrap();
    if node == "node-c" { 'b' } else { 'c' }
}

/// Ends every process of a pod, as a machine does that loses its power.
fn kill_pod(uid: &str) {
    let of_pod = |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|groups| groups.contains(uid));
    let pids: Vec<u32> =
        std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok()).filter(of_pod).collect();
    assert!(!pids.is_empty(), "no process of pod {uid}");
    for pid in pids {
        // Another of them may have taken it along.
        let _ = shell::run(&mut command("kill", ["-KILL", &pid.to_string()]));
    }
}

/// Waits until the status says this of what it waits for.
fn says(kubectl: &Kubectl, words: &str) {
    shell::wait_for(&format!("the status to say {words:?}"), LONG, || {
        let cluster = kubectl.get("kafkacluster", "kafka", "demo")?.unwrap_or_default();
        let waiting_on = cluster["status"]["waitingOn"].to_string();
        Ok((!waiting_on.contains(words)).then_some(waiting_on))
    })
    .unwrap();
}

/// The kubelet of a node does nothing more and its broker is dead: the status says what is to be done, until Kubernetes knows
/// that the node is gone; then that there is no other in the zone of the volume; then there is, and the broker is back on it.
#[test]
#[ignore = "needs the ground: cargo xtask test"]
fn a_dead_node_s_broker_comes_back_where_its_volume_can_be() {
    let kubectl = kubectl();
    settled(&kubectl);
    let mark = oracle::mark(&kubectl, "kafka", "demo");
    let load = Load::start(&kubectl, "dead", RATE);
    let letter = zone_without(&kubectl, "dead-produce");
    let (node, id) = (format!("node-{letter}"), if letter == 'b' { 100 } else { 200 });
    let pod = format!("demo-nodes-zone-{letter}-{id}");
    let host = || {
        let found = kubectl.get("pod", "kafka", &pod).unwrap().unwrap_or_default();
        found["spec"]["nodeName"].as_str().map(str::to_owned)
    };
    let start = Instant::now();
    let away = {
        let _goes_on = stop(&format!("kubelet-{node}"));
        kill_pod(&pods(&kubectl)[&pod]);
        // What Kubernetes does by itself after five minutes.
        kubectl.run(&["delete", "pod", &pod, "--namespace", "kafka", "--grace-period=1", "--wait=false"]).unwrap();
        says(&kubectl, &format!("node {node} to say that pod {pod} has ended; if that node is gone for good, delete it, or taint it"));
        let taint = |sign: &str| format!("node.kubernetes.io/out-of-service=nodeshutdown:NoExecute{sign}");
        let _back = Finally(kubectl.command(&["taint", "nodes", &node, &taint("-")]));
        kubectl.run(&["taint", "nodes", &node, &taint("")]).unwrap();
        says(&kubectl, &format!("annotate the cluster with freehold.dev/replace={id}"));
        let zone = |letter| {
            let labels = ["topology.kubernetes.io/zone", "topology.local.freehold.dev/zone"].map(|key| format!("{key}=zone-{letter}"));
            kubectl.command(&["label", "nodes", "node-a", "--overwrite", &labels[0], &labels[1]])
        };
        let _as_before = Finally(zone('a'));
        shell::run(&mut zone(letter)).unwrap();
        shell::wait_for("the broker on another node", LONG, || Ok(host().filter(|host| host != "node-a"))).unwrap();
        settled(&kubectl);
        start.elapsed()
    };
    // Back where it belongs, so that no later test finds two brokers on one node.
    shell::wait_for("the node to be Ready", LONG, || {
        let found = kubectl.get("node", "", &node)?.unwrap_or_default();
        Ok(ground::kubectl::not_ready(&found))
    })
    .unwrap();
    kubectl.delete("pod", "kafka", &pod, LONG).unwrap();
    shell::wait_for("the broker on its own node", LONG, || Ok((host().as_ref() != Some(&node)).then(|| format!("{:?}", host())))).unwrap();
    settled(&kubectl);
    let done = load.finish(&kubectl);
    let seen = oracle::replay(&kubectl, "kafka", "demo", mark);
    assert!(seen.violations.is_empty(), "{:#?}", seen.violations);
    println!("dead: a broker in sync on another node after {:.1} s, {done}; {} states replayed", away.as_secs_f64(), seen.states);
}

#[test]
#[ignore = "needs the ground: cargo xtask test"]
fn a_zone_that_is_cut_off_comes_back() {
    let kubectl = kubectl();
    settled(&kubectl);
    let (before, mark) = (pods(&kubectl), oracle::mark(&kubectl, "kafka", "demo"));
    let away = away(Duration::from_secs(60));
    let load = Load::start(&kubectl, "cut", RATE);
    let link = format!("fh-node-{}", zone_without(&kubectl, "cut-produce"));
    let set = |state: &str| command("ip", ["link", "set", &link, state]);
    {
        let _up = Finally(set("up"));
        shell::run(&mut set("down")).unwrap();
        std::thread::sleep(away);
    }
    // By then the cluster may still be Ready in its status: who is out of sync is seen first.
    shell::wait_for("three brokers in sync", LONG, || {
        let cluster = kubectl.get("kafkacluster", "kafka", "demo")?.unwrap_or_default();
        Ok(ground::kubectl::not_ready(&cluster)
            .or((cluster["status"]["brokers"] != "3/3").then(|| cluster["status"]["brokers"].to_string())))
    })
    .unwrap();
    settled(&kubectl);
    let done = load.finish(&kubectl);
    let seen = oracle::replay(&kubectl, "kafka", "demo", mark);
    assert!(seen.violations.is_empty(), "{:#?}", seen.violations);
    assert_eq!(pods(&kubectl), before, "no pod was deleted for it");
    println!("cut: a zone away for {} s, {done}; {} states replayed", away.as_secs(), seen.states);
}

#[test]
#[ignore = "needs the ground: cargo xtask test"]
fn brokers_serve_on_while_the_api_server_does_not_answer() {
    let kubectl = kubectl();
    settled(&kubectl);
    let before = pods(&kubectl);
    let away = away(Duration::from_secs(600));
    // As many as last for longer than the API server is away: nobody can end it meanwhile.
    let (client, job) = (client(&kubectl, "shop-app", "orders"), "away-produce");
    let count = usize::try_from(RATE).unwrap() * usize::try_from(away.as_secs() + 20).unwrap();
    load::start_producer(&kubectl, &client, job, count, RATE);
    {
        let _goes_on = stop("kube-apiserver");
        std::thread::sleep(away);
    }
    shell::wait_for("the API server", LONG, || Ok(kubectl.run(&["get", "--raw", "/readyz"]).err().map(|error| error.to_string()))).unwrap();
    kubectl.apply(&topic("after-the-silence", "demo", "  partitions: 1\n")).unwrap();
    kubectl.wait_ready("topic", "shop", "after-the-silence", LONG).unwrap();
    kubectl.delete("topic", "shop", "after-the-silence", LONG).unwrap();
    settled(&kubectl);
    assert_eq!(pods(&kubectl), before, "no pod was touched");
    assert!(flow::finished(&kubectl, &client, job, LONG).unwrap(), "the producer came to its end");
    let done = load::read_back(&kubectl, &client, job, &flow::events(&kubectl, &client, job).unwrap());
    println!("away: an API server that did not answer for {} s, {done}", away.as_secs());
}
