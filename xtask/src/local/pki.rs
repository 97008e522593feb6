//! Certificates and kubeconfigs of the local control plane. They are created once and kept until
//! `down`.

use super::{NODES, network};
use crate::layout::Layout;
use anyhow::Result;
use freehold_e2e::shell::{command, run, write_file};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
};
use std::path::Path;

/// The client certificates: file name, user, group.
fn clients() -> Vec<(String, String, &'static str)> {
    let mut clients = vec![
        ("admin".into(), "local-admin".into(), "system:masters"),
        (
            "controller-manager".into(),
            "system:kube-controller-manager".into(),
            "",
        ),
        ("scheduler".into(), "system:kube-scheduler".into(), ""),
        (
            "proxy".into(),
            "system:kube-proxy".into(),
            "system:node-proxier",
        ),
        ("addons".into(), "local-addons".into(), "system:masters"),
        (
            "apiserver-kubelet-client".into(),
            "kube-apiserver-kubelet-client".into(),
            "system:masters",
        ),
    ];
    clients.extend(NODES.iter().map(|node| {
        (
            node.name.into(),
            format!("system:node:{}", node.name),
            "system:nodes",
        )
    }));
    clients
}

fn subject(user: &str, group: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, user);
    if !group.is_empty() {
        name.push(DnType::OrganizationName, group);
    }
    name
}

pub fn write(layout: &Layout) -> Result<()> {
    let folder = layout.state.join("pki");
    if folder.join("complete").exists() {
        return Ok(());
    }
    let mut ca = CertificateParams::new(Vec::new())?;
    ca.distinguished_name = subject("freehold-local", "");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let issuer = CertifiedIssuer::self_signed(ca, KeyPair::generate()?)?;
    write_file(&folder.join("ca.crt"), issuer.pem())?;
    // The controller manager fills every ConfigMap kube-root-ca.crt with ca.crt. The CA's key is
    // not needed again.
    let mut serving = CertificateParams::new(vec![
        "kubernetes".to_owned(),
        "kubernetes.default".into(),
        "kubernetes.default.svc".into(),
        "kubernetes.default.svc.cluster.local".into(),
        "localhost".into(),
        "127.0.0.1".into(),
        network::host(),
        network::API_SERVICE.into(),
    ])?;
    serving.distinguished_name = subject("kube-apiserver", "");
    serving.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate()?;
    write_file(
        &folder.join("apiserver.crt"),
        serving.signed_by(&key, &issuer)?.pem(),
    )?;
    write_file(&folder.join("apiserver.key"), key.serialize_pem())?;
    for (file, user, group) in clients() {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name = subject(&user, group);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        write_file(
            &folder.join(format!("{file}.crt")),
            params.signed_by(&key, &issuer)?.pem(),
        )?;
        write_file(&folder.join(format!("{file}.key")), key.serialize_pem())?;
        write_file(
            &folder.join(format!("{file}.kubeconfig")),
            kubeconfig(&folder, &file),
        )?;
    }
    let service_account = KeyPair::generate()?;
    write_file(
        &folder.join("service-account.key"),
        service_account.serialize_pem(),
    )?;
    write_file(
        &folder.join("service-account.pub"),
        service_account.public_key_pem(),
    )?;
    run(&mut command(
        "chmod",
        ["-R", "go-rwx", &folder.to_string_lossy()],
    ))?;
    write_file(&folder.join("complete"), "")
}

fn kubeconfig(folder: &Path, file: &str) -> String {
    let folder = folder.display();
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: freehold-local\n  cluster:\n    \
         server: https://{host}:6443\n    \
         certificate-authority: {folder}/ca.crt\nusers:\n- name: {file}\n  user:\n    \
         client-certificate: {folder}/{file}.crt\n    \
         client-key: {folder}/{file}.key\ncontexts:\n- name: freehold-local\n  context:\n    \
         cluster: freehold-local\n    \
         user: {file}\ncurrent-context: freehold-local\n",
        host = network::host(),
    )
}
