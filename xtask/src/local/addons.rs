//! What a cluster needs beside Kubernetes itself: DNS (CoreDNS, beside the control plane) and a default
//! StorageClass with dynamic volumes (local-path-provisioner). Both run as processes with a kubeconfig, so that
//! no image of theirs is needed.

use super::control_plane::kubectl;
use super::{NODES, network, process};
use crate::layout::Layout;
use anyhow::{Context, Result};
use ground::shell::{self, command, write_file};
use std::path::Path;
use std::time::Duration;

/// The image of local-path-provisioner's helper pods: busybox.
pub const BUSYBOX_IMAGE: &str = "localhost/freehold/busybox:1";
const DNS_PORT: u16 = 5353;

pub fn start(layout: &Layout, bin: &Path) -> Result<()> {
    let folder = layout.state.join("addons");
    // No cache: a negative answer kept for seconds would be the slowest part of a cluster's start.
    write_file(
        &folder.join("Corefile"),
        format!(
            ".:{DNS_PORT} {{\n  bind {host}\n  errors\n  kubernetes cluster.local in-addr.arpa {{\n    kubeconfig {kubeconfig}\n    pods insecure\n    ttl 5\n  }}\n}}\n",
            host = network::host(),
            kubeconfig = layout.state.join("pki/addons.kubeconfig").display(),
        ),
    )?;
    let coredns = command(&bin.join("coredns").to_string_lossy(), ["-conf".to_owned(), folder.join("Corefile").display().to_string()]);
    process::start(layout, "coredns", coredns)?;
    write_file(&folder.join("addons.yaml"), manifests(layout))?;
    shell::wait_for("the addons' objects", Duration::from_secs(60), || {
        shell::run(kubectl(layout, bin).args(["apply", "--server-side", "--force-conflicts", "-f"]).arg(folder.join("addons.yaml")))
            .map(|()| None)
    })?;
    let paths: Vec<_> =
        NODES.iter().map(|node| serde_json::json!({"node": node.name, "paths": [layout.state.join("volumes").join(node.name)]})).collect();
    write_file(&folder.join("config.json"), serde_json::json!({ "nodePathMap": paths }).to_string())?;
    let helper = folder.join("helper-pod.yaml");
    write_file(&helper, helper_pod())?;
    let mut provisioner = command(
        &bin.join("local-path-provisioner").to_string_lossy(),
        [
            "start".to_owned(),
            "--config".into(),
            folder.join("config.json").display().to_string(),
            "--service-account-name".into(),
            "default".into(),
            "--provisioner-name".into(),
            "rancher.io/local-path".into(),
            "--helper-image".into(),
            BUSYBOX_IMAGE.into(),
            "--helper-pod-file".into(),
            helper.display().to_string(),
            "--namespace".into(),
            "local-path-storage".into(),
            "--configmap-name".into(),
            "local-path-config".into(),
            "--worker-threads".into(),
            "4".into(),
        ],
    );
    provisioner.env("KUBECONFIG", layout.state.join("pki/addons.kubeconfig")).env("POD_NAMESPACE", "local-path-storage");
    provisioner.arg("--kubeconfig").arg(layout.state.join("pki/addons.kubeconfig"));
    process::start(layout, "local-path-provisioner", provisioner).context("local-path-provisioner")
}

fn helper_pod() -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: helper-pod\nspec:\n  priorityClassName: system-node-critical\n  tolerations:\n  \
         - {{key: node.kubernetes.io/disk-pressure, operator: Exists, effect: NoSchedule}}\n  containers:\n  - name: helper-pod\n    \
         image: {BUSYBOX_IMAGE}\n    imagePullPolicy: IfNotPresent\n"
    )
}

fn manifests(layout: &Layout) -> String {
    let setup = "#!/bin/sh\nset -eu\nmkdir -m 0777 -p \"$VOL_DIR\"\n";
    let teardown = "#!/bin/sh\nset -eu\nrm -rf \"$VOL_DIR\"\n";
    let _ = layout;
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
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "local-path-storage"}},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "local-path-config", "namespace": "local-path-storage"},
            "data": {"setup": setup, "teardown": teardown}},
        {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "local-path", "annotations": {
            "storageclass.kubernetes.io/is-default-class": "true"}},
            "provisioner": "rancher.io/local-path", "volumeBindingMode": "WaitForFirstConsumer", "reclaimPolicy": "Delete"},
    ]});
    objects.to_string()
}
