//! etcd, kube-apiserver, kube-controller-manager and kube-scheduler in the root network namespace.

use super::{network, process};
use crate::layout::Layout;
use anyhow::Result;
use freehold_e2e::shell::{self, command, write_file};
use std::path::Path;

const ETCD_CLIENT: &str = "http://127.0.0.1:23790";
const ETCD_PEER: &str = "http://127.0.0.1:23800";

/// Logs the operator's requests with user, object and time: tests read from it that an idle
/// operator writes nothing.
const AUDIT_POLICY: &str = "apiVersion: audit.k8s.io/v1\nkind: Policy\n\
omitStages: [RequestReceived]\nrules:\n\
    - level: None\n  verbs: [watch]\n- level: Metadata\n  userGroups: [\"system:serviceaccounts:freehold-system\"]\n- level: None\n";

/// Starts what is not running. The controller manager and the scheduler start when the API server
/// is ready, because they give up after ten seconds without it.
pub fn start(layout: &Layout, bin: &Path) -> Result<()> {
    let pki = layout.state.join("pki");
    let file = |name: &str| pki.join(name).display().to_string();
    let etcd = command(
        &bin.join("etcd").to_string_lossy(),
        [
            format!("--data-dir={}", layout.state.join("etcd").display()),
            format!("--listen-client-urls={ETCD_CLIENT}"),
            format!("--advertise-client-urls={ETCD_CLIENT}"),
            format!("--listen-peer-urls={ETCD_PEER}"),
            format!("--initial-advertise-peer-urls={ETCD_PEER}"),
            format!("--initial-cluster=default={ETCD_PEER}"),
            "--unsafe-no-fsync".into(),
            "--log-level=warn".into(),
        ],
    );
    process::start(layout, "etcd", etcd)?;
    let policy = layout.state.join("audit-policy.yaml");
    write_file(&policy, AUDIT_POLICY)?;
    let apiserver = command(
        &bin.join("kube-apiserver").to_string_lossy(),
        [
            format!("--etcd-servers={ETCD_CLIENT}"),
            "--bind-address=0.0.0.0".into(),
            "--secure-port=6443".into(),
            format!("--advertise-address={}", network::host()),
            format!("--service-cluster-ip-range={}", network::SERVICE_RANGE),
            format!("--client-ca-file={}", file("ca.crt")),
            format!("--tls-cert-file={}", file("apiserver.crt")),
            format!("--tls-private-key-file={}", file("apiserver.key")),
            format!(
                "--kubelet-client-certificate={}",
                file("apiserver-kubelet-client.crt")
            ),
            format!(
                "--kubelet-client-key={}",
                file("apiserver-kubelet-client.key")
            ),
            "--kubelet-preferred-address-types=InternalIP".into(),
            "--authorization-mode=Node,RBAC".into(),
            "--enable-admission-plugins=NodeRestriction".into(),
            // The API server has routes to pods, but not to Services, so it calls webhooks at their
            // pods.
            "--enable-aggregator-routing=true".into(),
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local".into(),
            format!(
                "--service-account-signing-key-file={}",
                file("service-account.key")
            ),
            format!("--service-account-key-file={}", file("service-account.pub")),
            format!("--audit-policy-file={}", policy.display()),
            format!(
                "--audit-log-path={}",
                layout.logs().join("audit.json").display()
            ),
            "--audit-log-maxsize=200".into(),
            "--anonymous-auth=true".into(),
            "--event-ttl=2h".into(),
            "--profiling=false".into(),
        ],
    );
    process::start(layout, "kube-apiserver", apiserver)?;
    wait_ready(layout, bin)?;
    let manager = command(
        &bin.join("kube-controller-manager").to_string_lossy(),
        [
            format!("--kubeconfig={}", file("controller-manager.kubeconfig")),
            format!(
                "--service-account-private-key-file={}",
                file("service-account.key")
            ),
            format!("--root-ca-file={}", file("ca.crt")),
            "--use-service-account-credentials=true".into(),
            "--leader-elect=false".into(),
            "--bind-address=127.0.0.1".into(),
            "--kube-api-qps=100".into(),
            "--kube-api-burst=200".into(),
        ],
    );
    process::start(layout, "kube-controller-manager", manager)?;
    let scheduler = command(
        &bin.join("kube-scheduler").to_string_lossy(),
        [
            format!("--kubeconfig={}", file("scheduler.kubeconfig")),
            "--leader-elect=false".into(),
            "--bind-address=127.0.0.1".into(),
        ],
    );
    process::start(layout, "kube-scheduler", scheduler)
}

/// A kubectl command that uses the local API server as administrator.
pub fn kubectl(layout: &Layout, bin: &Path) -> std::process::Command {
    let mut kubectl = std::process::Command::new(bin.join("kubectl"));
    kubectl
        .arg("--kubeconfig")
        .arg(layout.kubeconfig())
        .stdin(std::process::Stdio::null());
    kubectl
}

fn wait_ready(layout: &Layout, bin: &Path) -> Result<()> {
    shell::wait_for("API server", super::START_LIMIT, || {
        shell::output(kubectl(layout, bin).args(["get", "--raw", "/readyz"])).map(|_| None)
    })
}
