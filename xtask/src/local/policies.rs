//! Enforces NetworkPolicies with the policy engine of kube-router, one process in the network
//! namespace of each node. The bridge of the pods does not enforce them.

use super::nodes::in_node;
use super::{NODES, Node, network, process};
use crate::layout::Layout;
use anyhow::Result;
use freehold_e2e::shell::{self, command};
use std::path::Path;

/// The mark of kube-router on packets that a policy allows. A packet without it at the end of a
/// pod's chain is rejected.
const ALLOWED: &str = "0x10000";

/// Starts kube-router on every node, and waits until it filters forwarded packets. It exits if its
/// node is not registered yet.
pub fn start(layout: &Layout, bin: &Path) -> Result<()> {
    for node in &NODES {
        let_machine_pass(node)?;
    }
    shell::wait_for("NetworkPolicies to be enforced", super::START_LIMIT, || {
        NODES
            .iter()
            .try_for_each(|node| start_engine(layout, bin, node))?;
        let missing = NODES.iter().find(|node| {
            !shell::succeeds(&mut in_node(
                node,
                Path::new("iptables"),
                words("-S KUBE-NWPLCY-DEFAULT"),
            ))
        });
        Ok(missing.map(|node| format!("{} has no rules yet", node.name)))
    })
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

fn start_engine(layout: &Layout, bin: &Path, node: &Node) -> Result<()> {
    let mut args = words(
        "--run-firewall=true --run-router=false --run-service-proxy=false --enable-cni=false \
         --health-port=0",
    );
    args.push(format!(
        "--service-cluster-ip-range={}",
        network::SERVICE_RANGE
    ));
    args.push(format!("--hostname-override={}", node.name));
    args.push(format!(
        "--kubeconfig={}",
        layout.state.join("pki/addons.kubeconfig").display()
    ));
    process::start(
        layout,
        &format!("kube-router-{}", node.name),
        in_node(node, &bin.join("kube-router"), args),
    )
}

/// The machine itself is neither a pod nor a node: the API server, the tests and their operators on
/// it may reach every pod, as processes on a node may reach the pods of that node. Bridged frames
/// between pods of one node are filtered like routed packets.
fn let_machine_pass(node: &Node) -> Result<()> {
    let table = format!(
        "table ip freehold_local\ndelete table ip freehold_local\ntable ip freehold_local {{\n  \
         chain machine {{\n    type filter hook prerouting priority mangle;\n    \
         ip saddr {} meta mark set meta mark or {ALLOWED}\n  }}\n}}\n",
        network::host()
    );
    shell::run(&mut in_node(node, Path::new("nft"), vec![table]))?;
    // `ip netns exec` provides the /proc/sys of that network namespace.
    shell::run(&mut command(
        "ip",
        [
            "netns",
            "exec",
            &node.netns(),
            "sysctl",
            "-qw",
            "net.bridge.bridge-nf-call-iptables=1",
        ],
    ))
}
