//! What a cluster needs in addition to Kubernetes: DNS (CoreDNS, in the network of the control
//! plane) and a default StorageClass with dynamic volumes that really grow (a small CSI driver,
//! csi-provisioner, csi-resizer). All run as processes with a kubeconfig, so they need no images.

use super::control_plane::kubectl;
use super::{NODES, network, process};
use crate::layout::Layout;
use anyhow::Result;
use freehold_e2e::shell::{self, command, write_file};
use std::path::Path;

/// The name of the driver in deploy/local/go/csi.
const CSI_DRIVER: &str = "csi.local.freehold.dev";
const DNS_PORT: u16 = 5353;

pub fn start(layout: &Layout, bin: &Path) -> Result<()> {
    let folder = layout.state.join("addons");
    // No cache: a negative answer that is cached for seconds would be the slowest part of a
    // cluster's start.
    write_file(
        &folder.join("Corefile"),
        format!(
            ".:{DNS_PORT} {{\n  bind {host}\n  errors\n  \
             kubernetes cluster.local in-addr.arpa {{\n    kubeconfig {kubeconfig}\n    \
             pods insecure\n    ttl 5\n  }}\n}}\n",
            host = network::host(),
            kubeconfig = layout.state.join("pki/addons.kubeconfig").display(),
        ),
    )?;
    let coredns = command(
        &bin.join("coredns").to_string_lossy(),
        [
            "-conf".to_owned(),
            folder.join("Corefile").display().to_string(),
        ],
    );
    process::start(layout, "coredns", coredns)?;
    write_file(&folder.join("addons.yaml"), manifests())?;
    shell::wait_for("the addons' objects", super::START_LIMIT, || {
        shell::run(
            kubectl(layout, bin)
                .args(["apply", "--server-side", "--force-conflicts", "-f"])
                .arg(folder.join("addons.yaml")),
        )
        .map(|()| None)
    })?;
    start_storage(layout, bin)
}

/// The driver serves every node; provisioner and resizer watch the claims and call it.
fn start_storage(layout: &Layout, bin: &Path) -> Result<()> {
    let socket = layout.run.join("csi.sock");
    let mut driver = command(
        &bin.join("csi-driver").to_string_lossy(),
        [
            format!("--volumes={}", layout.state.join("volumes").display()),
            format!("--socket={}", socket.display()),
        ],
    );
    for node in &NODES {
        let root = layout.state.join(node.name).join("kubelet");
        driver.arg(format!(
            "--node={}={}={}",
            node.name,
            node.zone,
            root.display()
        ));
    }
    process::start(layout, "csi-driver", driver)?;
    for (name, options) in [
        (
            "csi-provisioner",
            ["--default-fstype=xfs", "--extra-create-metadata"].as_slice(),
        ),
        ("csi-resizer", &[]),
    ] {
        let mut sidecar = command(
            &bin.join(name).to_string_lossy(),
            [
                format!("--csi-address={}", socket.display()),
                format!(
                    "--kubeconfig={}",
                    layout.state.join("pki/addons.kubeconfig").display()
                ),
                "--feature-gates=VolumeAttributesClass=true".into(),
                "--kube-api-qps=50".into(),
                "--kube-api-burst=100".into(),
                "--retry-interval-max=5s".into(),
            ],
        );
        sidecar.args(options);
        process::start(layout, name, sidecar)?;
    }
    Ok(())
}

fn manifests() -> String {
    let objects = serde_json::json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "kube-dns", "namespace": "kube-system"}, "spec": {
            "clusterIP": network::DNS_SERVICE,
            "ports": [
                {"name": "dns", "port": 53, "targetPort": DNS_PORT, "protocol": "UDP"},
                {"name": "dns-tcp", "port": 53, "targetPort": DNS_PORT, "protocol": "TCP"}]}},
        {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {
            "name": "kube-dns", "namespace": "kube-system", "labels": {"kubernetes.io/service-name": "kube-dns"}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [network::host()], "conditions": {"ready": true}}],
            "ports": [
                {"name": "dns", "port": DNS_PORT, "protocol": "UDP"},
                {"name": "dns-tcp", "port": DNS_PORT, "protocol": "TCP"}]},
        {"apiVersion": "storage.k8s.io/v1", "kind": "CSIDriver", "metadata": {"name": CSI_DRIVER}, "spec": {
            "attachRequired": false, "fsGroupPolicy": "File"}},
        {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "local", "annotations": {
            "storageclass.kubernetes.io/is-default-class": "true"}},
            "provisioner": CSI_DRIVER, "volumeBindingMode": "WaitForFirstConsumer", "reclaimPolicy": "Delete",
            "allowVolumeExpansion": true},
    ]});
    objects.to_string()
}
