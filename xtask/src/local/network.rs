//! The local network: one bridge, a network namespace for each node, static routes between the pod
//! ranges of the nodes, and blackhole routes, so that no packet for a pod or a Service ever leaves
//! the machine by the default route.

use super::{NODES, Node};
use anyhow::Result;
use freehold_e2e::shell::{command, run, succeeds};

pub const NODE_PREFIX: &str = "172.30.98";
pub const POD_PREFIX: &str = "10.198";
pub const POD_RANGE: &str = "10.198.0.0/16";
pub const SERVICE_RANGE: &str = "10.199.0.0/16";
/// The address of the API server for pods: the first one of the Service range.
pub const API_SERVICE: &str = "10.199.0.1";
pub const DNS_SERVICE: &str = "10.199.0.10";
/// The beginnings of every address of the local cluster.
pub const PREFIXES: [&str; 3] = [NODE_PREFIX, POD_PREFIX, "10.199"];
pub const BRIDGE: &str = "fh-bridge";

/// The address of the root namespace on the bridge, on which API server and CoreDNS listen.
pub fn host() -> String {
    format!("{NODE_PREFIX}.1")
}

fn ip(words: &str) -> Result<()> {
    run(&mut command("ip", words.split_whitespace()))
}

fn ip_ok(words: &str) -> bool {
    succeeds(&mut command("ip", words.split_whitespace()))
}

pub fn up() -> Result<()> {
    if !ip_ok(&format!("link show {BRIDGE}")) {
        ip(&format!("link add {BRIDGE} type bridge"))?;
    }
    ip(&format!("addr replace {}/24 dev {BRIDGE}", host()))?;
    ip(&format!("link set {BRIDGE} up"))?;
    for range in [POD_RANGE, SERVICE_RANGE] {
        ip(&format!("route replace blackhole {range}"))?;
    }
    for node in &NODES {
        node_up(node)?;
    }
    Ok(())
}

fn node_up(node: &Node) -> Result<()> {
    let netns = node.netns();
    let outside = format!("fh-{}", node.name);
    if !succeeds(&mut command("ip", ["netns", "exec", &netns, "true"])) {
        let _ = ip_ok(&format!("netns delete {netns}"));
        ip(&format!("netns add {netns}"))?;
    }
    let inside = |words: &str| ip(&format!("-n {netns} {words}"));
    if !ip_ok(&format!("-n {netns} link show eth0")) {
        let _ = ip_ok(&format!("link delete {outside}"));
        ip(&format!(
            "link add {outside} type veth peer name eth0 netns {netns}"
        ))?;
    }
    ip(&format!("link set {outside} master {BRIDGE} up"))?;
    inside("link set lo up")?;
    inside(&format!("addr replace {}/24 dev eth0", node.address()))?;
    inside("link set eth0 up")?;
    for range in [POD_RANGE, SERVICE_RANGE] {
        inside(&format!("route replace blackhole {range}"))?;
    }
    for other in NODES.iter().filter(|other| other.index != node.index) {
        inside(&format!(
            "route replace {} via {}",
            other.pods(),
            other.address()
        ))?;
    }
    ip(&format!(
        "route replace {} via {}",
        node.pods(),
        node.address()
    ))?;
    for setting in [
        "net.ipv4.ip_forward=1",
        "net.ipv4.conf.all.route_localnet=1",
        "net.ipv4.conf.all.rp_filter=0",
        "net.ipv4.conf.default.rp_filter=0",
    ] {
        run(&mut command(
            "ip",
            ["netns", "exec", &netns, "sysctl", "-qw", setting],
        ))?;
    }
    Ok(())
}

pub fn down() -> Result<()> {
    for node in &NODES {
        let _ = ip_ok(&format!("link delete fh-{}", node.name));
        let _ = ip_ok(&format!("netns delete {}", node.netns()));
    }
    let _ = ip_ok(&format!("link delete {BRIDGE}"));
    for range in [POD_RANGE, SERVICE_RANGE] {
        let _ = ip_ok(&format!("route delete blackhole {range}"));
    }
    Ok(())
}
