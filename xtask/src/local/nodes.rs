//! The three nodes: containerd, kubelet and kube-proxy of each, in its network namespace and
//! cgroups.

use super::control_plane::{self, kubectl};
use super::{NODES, Node, network, process};
use crate::layout::Layout;
use anyhow::Result;
use freehold_e2e::shell::{self, command, write_file};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The image of every pod's sandbox; `images` builds it from scratch.
pub const PAUSE_IMAGE: &str = "localhost/freehold/pause:1";
const CGROUPS: &str = "/sys/fs/cgroup";
const CGROUP_ROOT: &str = "freehold-local";
/// How long killed processes and their cgroups may take to go: a busy disk can take a minute.
const END_LIMIT: Duration = Duration::from_secs(120);

pub fn socket(layout: &Layout, node: &Node) -> PathBuf {
    layout.run.join(node.name).join("containerd.sock")
}

pub fn start(layout: &Layout, bin: &Path, node: &Node) -> Result<()> {
    make_cgroups(node)?;
    start_containerd(layout, node)?;
    start_kubelet(layout, bin, node)?;
    start_proxy(layout, bin, node)
}

pub fn in_node(node: &Node, program: &Path, args: Vec<String>) -> std::process::Command {
    let mut words = node.enter();
    let first = words.remove(0);
    words.push(program.display().to_string());
    words.extend(args);
    command(&first, words)
}

fn start_containerd(layout: &Layout, node: &Node) -> Result<()> {
    let run = layout.run.join(node.name);
    let config = run.join("containerd.toml");
    let conf_dir = run.join("cni");
    write_file(
        &conf_dir.join("10-bridge.conflist"),
        format!(
            r#"{{"cniVersion":"1.0.0","name":"pods","plugins":[
{{"type":"bridge","bridge":"cni0","isGateway":true,"hairpinMode":true,"ipam":{{"type":"host-local","dataDir":"{data}","ranges":[[{{"subnet":"{pods}"}}]],"routes":[{{"dst":"0.0.0.0/0"}}]}}}},
{{"type":"portmap","capabilities":{{"portMappings":true}}}}]}}"#,
            data = run.join("ipam").display(),
            pods = node.pods(),
        ),
    )?;
    // The image store is in the cache, so that an imported image is still there after the next
    // `up`.
    write_file(
        &config,
        format!(
            r#"version = 2
root = "{root}"
state = "{state}"
[grpc]
  address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{conf}"
"#,
            root = layout.cache.join("containerd").join(node.name).display(),
            state = run.join("containerd").display(),
            socket = socket(layout, node).display(),
            conf = conf_dir.display(),
        ),
    )?;
    let daemon = in_node(
        node,
        Path::new("containerd"),
        vec!["--config".into(), config.display().to_string()],
    );
    process::start(layout, &format!("containerd-{}", node.name), daemon)
}

fn start_kubelet(layout: &Layout, bin: &Path, node: &Node) -> Result<()> {
    let state = layout.state.join(node.name);
    fs::create_dir_all(&state)?;
    let resolv = state.join("resolv.conf");
    write_file(&resolv, "")?;
    let config = state.join("kubelet.yaml");
    write_file(
        &config,
        format!(
            "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n\
             address: {address}\nauthentication:\n  \
             anonymous: {{enabled: false}}\n  webhook: {{enabled: true}}\n  \
             x509: {{clientCAFile: {ca}}}\nauthorization: {{mode: Webhook}}\n\
             cgroupDriver: cgroupfs\ncgroupRoot: /{CGROUP_ROOT}/{name}\nclusterDNS: [{dns}]\n\
             clusterDomain: cluster.local\n\
             containerRuntimeEndpoint: unix://{socket}\nresolvConf: {resolv}\nfailSwapOn: false\n\
             healthzPort: 0\n\
             localStorageCapacityIsolation: false\nenforceNodeAllocatable: []\n\
             imageGCHighThresholdPercent: 100\n\
             imageMinimumGCAge: 240h\ncontainerLogMaxSize: 200Mi\n\
             evictionHard: {{memory.available: 50Mi, nodefs.available: 1%, imagefs.available: 1%, nodefs.inodesFree: 1%}}\n\
             podLogsDir: {state}/pod-logs\nvolumePluginDir: {state}/volume-plugins\n\
             registerNode: true\nmaxPods: 100\n\
             nodeStatusUpdateFrequency: 5s\nserializeImagePulls: false\nsyncFrequency: 4s\n\
             logging: {{verbosity: 1}}\n\
             fileCheckFrequency: 1m\nkubeAPIQPS: 100\nkubeAPIBurst: 200\n",
            address = node.address(),
            ca = layout.state.join("pki/ca.crt").display(),
            name = node.name,
            dns = network::DNS_SERVICE,
            socket = socket(layout, node).display(),
            resolv = resolv.display(),
            state = state.display(),
        ),
    )?;
    let kubelet = in_node(
        node,
        &bin.join("kubelet"),
        vec![
            format!("--config={}", config.display()),
            format!(
                "--kubeconfig={}",
                layout
                    .state
                    .join(format!("pki/{}.kubeconfig", node.name))
                    .display()
            ),
            format!("--root-dir={}", state.join("kubelet").display()),
            format!("--cert-dir={}", state.join("kubelet-pki").display()),
            format!("--hostname-override={}", node.name),
            format!("--node-ip={}", node.address()),
            format!(
                "--node-labels=topology.kubernetes.io/zone={},topology.kubernetes.io/region=local",
                node.zone
            ),
        ],
    );
    process::start(layout, &format!("kubelet-{}", node.name), kubelet)
}

fn start_proxy(layout: &Layout, bin: &Path, node: &Node) -> Result<()> {
    let config = layout.state.join(node.name).join("kube-proxy.yaml");
    write_file(
        &config,
        format!(
            "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n\
             mode: nftables\nclusterCIDR: {pods}\n\
             hostnameOverride: {name}\nclientConnection: {{kubeconfig: {kubeconfig}}}\n\
             conntrack: {{maxPerCore: 0}}\n\
             healthzBindAddress: {address}:10256\nmetricsBindAddress: {address}:10249\n\
             nftables: {{minSyncPeriod: 200ms, syncPeriod: 30s}}\n",
            pods = network::POD_RANGE,
            name = node.name,
            kubeconfig = layout.state.join("pki/proxy.kubeconfig").display(),
            address = node.address(),
        ),
    )?;
    let proxy = in_node(
        node,
        &bin.join("kube-proxy"),
        vec![format!("--config={}", config.display())],
    );
    process::start(layout, &format!("kube-proxy-{}", node.name), proxy)
}

fn hierarchies() -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(CGROUPS) else {
        return Vec::new();
    };
    let mut folders: Vec<PathBuf> = entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect();
    if Path::new(CGROUPS).join("cgroup.controllers").exists() {
        folders = vec![CGROUPS.into()];
    }
    folders
}

/// Creates the cgroup of a node in every hierarchy. A new cpuset is empty and is filled from its
/// parent.
fn make_cgroups(node: &Node) -> Result<()> {
    for hierarchy in hierarchies() {
        let mut folder = hierarchy;
        for part in [CGROUP_ROOT, node.name] {
            let parent = folder.clone();
            folder = folder.join(part);
            fs::create_dir_all(&folder)?;
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if folder.join(file).exists() {
                    fs::write(folder.join(file), fs::read(parent.join(file))?)?;
                }
            }
            if parent.join("cgroup.subtree_control").exists()
                && parent.join("cgroup.controllers").exists()
            {
                let all = fs::read_to_string(parent.join("cgroup.controllers"))?;
                let enable: Vec<_> = all
                    .split_whitespace()
                    .map(|name| format!("+{name}"))
                    .collect();
                let _ = fs::write(parent.join("cgroup.subtree_control"), enable.join(" "));
            }
        }
    }
    Ok(())
}

fn walk(folder: &Path, visit: &mut dyn FnMut(&Path)) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
    {
        walk(&entry.path(), visit);
    }
    visit(folder);
}

/// Kills the processes in the nodes' cgroups, then the shims that supervised them: those whose
/// command line has our sockets.
pub fn end_containers(layout: &Layout) -> Result<()> {
    shell::wait_for("the local nodes' containers to end", END_LIMIT, || {
        let mut left = Vec::new();
        for hierarchy in hierarchies() {
            walk(&hierarchy.join(CGROUP_ROOT), &mut |folder| {
                let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
                left.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
            });
        }
        left.extend(shims(layout));
        left.sort_unstable();
        left.dedup();
        for pid in &left {
            process::signal(*pid, "KILL");
        }
        Ok((!left.is_empty()).then(|| format!("processes {left:?} are left")))
    })
}

fn shims(layout: &Layout) -> Vec<u32> {
    let ours = layout.run.display().to_string();
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| {
            let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words = String::from_utf8_lossy(&words);
            words.contains("containerd-shim") && words.contains(&ours)
        })
        .collect()
}

/// Removes the nodes' cgroups. The kernel lets go of one a moment after its last process ended.
pub fn remove_cgroups() -> Result<()> {
    shell::wait_for("the local nodes' cgroups to go", END_LIMIT, || {
        let mut left = Vec::new();
        for root in hierarchies().iter().map(|folder| folder.join(CGROUP_ROOT)) {
            walk(&root, &mut |folder| {
                let _ = fs::remove_dir(folder);
            });
            if root.exists() {
                left.push(root.display().to_string());
            }
        }
        Ok((!left.is_empty()).then(|| format!("{} still in use", left.join(", "))))
    })
}

pub fn wait_ready(layout: &Layout, bin: &Path) -> Result<()> {
    let path = "jsonpath={range .items[*]}{.metadata.name}={.status.conditions[?(@.type==\"Ready\")].status} {end}";
    shell::wait_for("three nodes Ready", super::START_LIMIT, || {
        // A kubelet exits if its containerd listens but is not initialized yet, and a controller
        // manager if the API server does not answer for ten seconds: then start them again.
        control_plane::start(layout, bin)?;
        NODES.iter().try_for_each(|node| start(layout, bin, node))?;
        let seen = shell::output(kubectl(layout, bin).args(["get", "nodes", "-o", path]))?;
        Ok((seen.matches("=True").count() != NODES.len()).then_some(seen))
    })
}
