//! What others do to the ground under a load: nodes are drained, a zone is cut off, the API server does not answer.

use crate::load::{self, Load};
use crate::oracle;
use crate::rolls::{pods, settled};
use crate::world::{LONG, client, kubectl, topic};
use ground::flow;
use ground::shell;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

const RATE: i64 = 150;
/// How long a zone is cut off, or the API server away; in `cargo xtask soak` as long as this says.
fn away(soak: Duration) -> Duration {
    if load::soaks() { soak } else { Duration::from_secs(30) }
}

/// Done at the end, whatever happens to the test.
struct Finally(Vec<&'static str>);

impl Drop for Finally {
    fn drop(&mut self) {
        let done = Command::new(self.0[0]).args(&self.0[1..]).stdin(Stdio::null()).status();
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

#[test]
#[ignore = "needs the ground: cargo xtask test"]
fn a_zone_that_is_cut_off_comes_back() {
    let kubectl = kubectl();
    settled(&kubectl);
    let (before, mark) = (pods(&kubectl), oracle::mark(&kubectl, "kafka", "demo"));
    let away = away(Duration::from_secs(60));
    let load = Load::start(&kubectl, "cut", RATE);
    // The producer's own zone stays.
    let producer =
        kubectl.run(&["get", "pods", "-n", "shop", "-l", "job-name=cut-produce", "-o", "jsonpath={.items[0].spec.nodeName}"]).unwrap();
    let (down, up) = match producer.as_str() {
        "node-c" => (["ip", "link", "set", "fh-node-b", "down"], vec!["ip", "link", "set", "fh-node-b", "up"]),
        _ => (["ip", "link", "set", "fh-node-c", "down"], vec!["ip", "link", "set", "fh-node-c", "up"]),
    };
    {
        let _up = Finally(up);
        assert!(Command::new(down[0]).args(&down[1..]).status().unwrap().success(), "{down:?}");
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
    let run = std::env::var("FREEHOLD_RUN").expect("cargo xtask test sets it");
    let pid = std::fs::read_to_string(format!("{run}/pids/kube-apiserver")).unwrap();
    let pid: &'static str = pid.split(' ').next().unwrap().to_owned().leak();
    {
        let _goes_on = Finally(vec!["kill", "-CONT", pid]);
        assert!(Command::new("kill").args(["-STOP", pid]).status().unwrap().success());
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
