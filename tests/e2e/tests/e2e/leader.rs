//! Leader election: a standby takes over after a clean stop and after a kill.

use crate::world::{LONG, kubectl};
use ground::kubectl::Kubectl;
use ground::shell;
use std::time::Instant;

fn holder(kubectl: &Kubectl) -> String {
    let lease = kubectl.get("lease", "freehold-system", "freehold").unwrap().unwrap();
    lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned()
}

fn takeover(kubectl: &Kubectl, how: &[&str]) -> f64 {
    shell::wait_for("two operators", LONG, || {
        let deployment = kubectl.get("deployment", "freehold-system", "freehold")?.unwrap_or_default();
        Ok((deployment["status"]["readyReplicas"] != 2).then(|| deployment["status"].to_string()))
    })
    .unwrap();
    let before = holder(kubectl);
    let start = Instant::now();
    let mut words = vec!["delete", "pod", before.as_str(), "--namespace", "freehold-system", "--wait=false"];
    words.extend(how);
    kubectl.run(&words).unwrap();
    shell::wait_for("another leader", LONG, || {
        let now = holder(kubectl);
        Ok((now.is_empty() || now == before).then_some(now))
    })
    .unwrap();
    start.elapsed().as_secs_f64()
}

#[test]
#[ignore = "needs the ground: cargo xtask test"]
fn a_standby_takes_over_after_a_clean_stop_and_after_a_kill() {
    let kubectl = kubectl();
    println!("takeover after a clean stop: {:.1} s (aim: 5)", takeover(&kubectl, &[]));
    println!("takeover after a kill: {:.1} s (aim: 15)", takeover(&kubectl, &["--force", "--grace-period=0"]));
    // The new leader serves: a Topic of its time becomes Ready.
    kubectl.apply(&crate::world::topic("after-takeover", "demo", "  partitions: 1\n")).unwrap();
    kubectl.wait_ready("topic", "shop", "after-takeover", LONG).unwrap();
    kubectl.delete("topic", "shop", "after-takeover", LONG).unwrap();
}
