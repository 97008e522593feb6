//! Leader election: a standby takes over after a clean stop and after a kill.
//!
//! Two operators as processes on this machine, with a namespace of their own: a kill is a kill there, and no kubelet
//! starts the killed one again.

use crate::world::{LONG, Operator, kafka_image, kubectl, namespace};
use ground::kubectl::Kubectl;
use ground::shell::{self, command};
use std::time::Instant;

const NAMESPACE: &str = "leader";

fn holder(kubectl: &Kubectl) -> String {
    let lease = kubectl.get("lease", NAMESPACE, "freehold").unwrap().unwrap_or_default();
    lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned()
}

fn wait_for_holder(kubectl: &Kubectl, wanted: &str) -> f64 {
    let start = Instant::now();
    shell::wait_for(&format!("{wanted} to lead"), LONG, || Ok(Some(holder(kubectl)).filter(|holder| holder != wanted))).unwrap();
    start.elapsed().as_secs_f64()
}

#[test]
#[ignore = "needs the ground: cargo xtask test"]
fn a_standby_takes_over_after_a_clean_stop_and_after_a_kill() {
    let kubectl = kubectl();
    let image = kafka_image(&kubectl);
    namespace(&kubectl, NAMESPACE);
    let start = |identity: &str| Operator::start(NAMESPACE, identity, &image, &[]);
    let mut first = start("first");
    wait_for_holder(&kubectl, "first");
    let mut second = start("second");
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert_eq!(holder(&kubectl), "first", "a standby stands by");

    shell::run(&mut command("kill", ["-TERM", &first.0.id().to_string()])).unwrap();
    println!("takeover after a clean stop: {:.1} s (aim: 5)", wait_for_holder(&kubectl, "second"));
    assert!(first.0.wait().unwrap().success(), "a clean stop is a success");

    let _third = start("third");
    std::thread::sleep(std::time::Duration::from_secs(3));
    second.0.kill().unwrap();
    println!("takeover after a kill: {:.1} s (aim: 15)", wait_for_holder(&kubectl, "third"));
    kubectl.delete("namespace", "", NAMESPACE, LONG).unwrap();
}
