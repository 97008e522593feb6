//! The local Kubernetes: a control plane in the root network namespace, and three nodes in three
//! zones, each in a network namespace of its own without a route to the outside. Every function can
//! be called again at any time: what runs correctly is left alone.

pub mod addons;
pub mod conflicts;
pub mod control_plane;
pub mod network;
pub mod nodes;
pub mod pki;
pub mod policies;
pub mod process;

use crate::layout::Layout;
use anyhow::Result;
use freehold_e2e::shell::{self, command};
use std::fs;
use std::path::Path;
use std::time::Duration;

/// How long each part of the local cluster may take to start while compilers use the machine.
pub const START_LIMIT: Duration = Duration::from_secs(600);

/// A node. Its zone is the second half of its name.
#[derive(Clone, Debug)]
pub struct Node {
    pub name: &'static str,
    pub zone: &'static str,
    pub index: u8,
}

pub const NODES: [Node; 3] = [
    Node {
        name: "node-a",
        zone: "zone-a",
        index: 1,
    },
    Node {
        name: "node-b",
        zone: "zone-b",
        index: 2,
    },
    Node {
        name: "node-c",
        zone: "zone-c",
        index: 3,
    },
];

impl Node {
    /// The name of the namespace in `ip netns`.
    pub fn netns(&self) -> String {
        format!("freehold-{}", self.name)
    }

    pub fn address(&self) -> String {
        format!("{}.{}", network::NODE_PREFIX, 10 + self.index)
    }

    pub fn pods(&self) -> String {
        format!("{}.{}.0/24", network::POD_PREFIX, self.index)
    }

    /// The prefix of a command that runs a program in the node's network. It uses `nsenter`,
    /// because `ip netns exec` creates a new mount namespace, in which containerd does not see what
    /// the kubelet mounts.
    pub fn enter(&self) -> Vec<String> {
        vec![
            "nsenter".into(),
            format!("--net=/run/netns/{}", self.netns()),
            "--".into(),
        ]
    }
}

/// Starts what is not running yet, and waits until all nodes are Ready.
pub fn up(layout: &Layout, bin: &Path) -> Result<()> {
    fs::create_dir_all(&layout.run)?;
    fs::create_dir_all(layout.logs())?;
    network::up()?;
    pki::write(layout)?;
    control_plane::start(layout, bin)?;
    for node in &NODES {
        nodes::start(layout, bin, node)?;
    }
    addons::start(layout, bin)?;
    nodes::wait_ready(layout, bin)?;
    policies::start(layout, bin)
}

/// Stops every process that `up` started, and removes namespaces, interfaces, mounts and cgroups.
pub fn down(layout: &Layout) -> Result<()> {
    for node in &NODES {
        process::stop(layout, &format!("kubelet-{}", node.name))?;
        process::stop(layout, &format!("kube-proxy-{}", node.name))?;
    }
    nodes::end_containers(layout)?;
    for node in &NODES {
        process::stop(layout, &format!("containerd-{}", node.name))?;
    }
    process::stop_all(layout)?;
    unmount_below(&layout.run)?;
    unmount_below(&layout.state)?;
    detach_below(&layout.state)?;
    unmount_below(&layout.cache)?;
    nodes::remove_cgroups()?;
    network::down()?;
    for folder in [&layout.run, &layout.state] {
        if folder.exists() {
            fs::remove_dir_all(folder)?;
        }
    }
    Ok(())
}

fn unmount_below(folder: &Path) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let prefix = format!("{}/", folder.display());
    for mount in mounts
        .lines()
        .rev()
        .filter_map(|line| line.split(' ').nth(1))
    {
        if mount.starts_with(&prefix) {
            shell::run(&mut command(
                "umount",
                ["--lazy", &mount.replace("\\040", " ")],
            ))?;
        }
    }
    Ok(())
}

/// Detaches the loop devices of the volumes' files.
fn detach_below(folder: &Path) -> Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    let prefix = format!("{}/", folder.display());
    for line in shell::output(&mut command(
        "losetup",
        ["--noheadings", "--output", "NAME,BACK-FILE"],
    ))?
    .lines()
    {
        let mut words = line.split_whitespace();
        if let (Some(device), Some(file)) = (words.next(), words.next())
            && file.starts_with(&prefix)
        {
            shell::run(&mut command("losetup", ["--detach", device]))?;
        }
    }
    Ok(())
}

/// Prints which of the local processes are running, and the nodes.
pub fn status(layout: &Layout) -> Result<()> {
    let names = process::names(layout);
    if names.is_empty() {
        println!("nothing runs; cargo xtask up starts it");
        return Ok(());
    }
    for name in &names {
        match process::alive(layout, name) {
            Some(pid) => println!("{name:<28} runs ({pid})"),
            None => println!(
                "{name:<28} ended; its log: {}",
                layout.logs().join(format!("{name}.log")).display()
            ),
        }
    }
    let nodes = shell::output(control_plane::kubectl(layout, &layout.bin()).args([
        "get",
        "nodes,pods",
        "--all-namespaces",
    ]))?;
    println!("\n{nodes}");
    Ok(())
}
