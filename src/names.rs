//! Names of everything that is made, one function each. Pure.

use sha2::{Digest, Sha256};

/// A StatefulSet's name is part of the label controller-revision-hash (63 characters): 52 leave room for the hash.
pub const STATEFUL_SET_CHARS_MAX: usize = 52;

/// Cuts a name that is too long and ends it in a hash of the whole, so that two never become one.
fn fit(name: String, max: usize) -> String {
    if name.len() <= max {
        return name;
    }
    let hash = hex(&Sha256::digest(&name)[..4]);
    let head: String = name.chars().take(max - 9).collect();
    format!("{}-{hash}", head.trim_end_matches('-'))
}

/// Bytes as lower-case hexadecimal digits: hashes are cut to as many as a name or a mark needs.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A zone as a part of a name: lower case, other characters as `-`.
fn zone_part(zone: &str) -> String {
    zone.to_ascii_lowercase().chars().map(|character| if character.is_ascii_alphanumeric() { character } else { '-' }).collect()
}

/// The StatefulSet of a pool in a zone; also its ConfigMap.
pub fn stateful_set(cluster: &str, pool: &str, zone: &str) -> String {
    fit(format!("{cluster}-{pool}-{}", zone_part(zone)), STATEFUL_SET_CHARS_MAX)
}

/// The pod of a node: its StatefulSet's ordinals are node ids.
pub fn pod(stateful_set: &str, node_id: i32) -> String {
    format!("{stateful_set}-{node_id}")
}

/// The headless Service that gives pods their host names.
pub fn nodes_service(cluster: &str) -> String {
    format!("{cluster}-nodes")
}

/// The Service that clients start from.
pub fn bootstrap_service(cluster: &str) -> String {
    format!("{cluster}-bootstrap")
}

/// A node's host name, as its certificate and its listeners say it.
pub fn host(pod: &str, cluster: &str, namespace: &str) -> String {
    format!("{pod}.{}.{namespace}.svc", nodes_service(cluster))
}

/// A broker's host name for clients: that of a Service of its own, whose address stays when the pod's changes.
pub fn client_host(pod: &str, namespace: &str) -> String {
    format!("{pod}.{namespace}.svc")
}

/// The bootstrap Service's host name.
pub fn bootstrap_host(cluster: &str, namespace: &str) -> String {
    format!("{}.{namespace}.svc", bootstrap_service(cluster))
}

/// ConfigMap with what must survive: cluster id, node id blocks, first controllers.
pub fn identity(cluster: &str) -> String {
    format!("{cluster}-identity")
}

/// Secret with the CA of brokers, controllers and the operator.
pub fn cluster_ca(cluster: &str) -> String {
    format!("{cluster}-cluster-ca")
}

/// Secret with the CA of clients' certificates.
pub fn clients_ca(cluster: &str) -> String {
    format!("{cluster}-clients-ca")
}

/// ConfigMap with the certificate that clients trust.
pub fn trust_bundle(cluster: &str) -> String {
    format!("{cluster}-ca")
}

/// Secret with the operator's own certificate.
pub fn operator_certificate(cluster: &str) -> String {
    format!("{cluster}-operator-tls")
}

/// Secret with the certificates of a StatefulSet's nodes.
pub fn node_certificates(stateful_set: &str) -> String {
    format!("{stateful_set}-tls")
}

pub fn brokers_budget(cluster: &str) -> String {
    format!("{cluster}-brokers")
}

pub fn controllers_budget(cluster: &str) -> String {
    format!("{cluster}-controllers")
}

/// The Secret of a User that names none.
pub fn user_secret(user: &str) -> String {
    format!("{user}-kafka")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_are_cut_and_stay_different() {
        let long = "c".repeat(40);
        let a = stateful_set(&long, "brokers", "eu-west-1a");
        let b = stateful_set(&long, "brokers", "eu-west-1b");
        assert!(a.len() <= STATEFUL_SET_CHARS_MAX && a != b, "{a} {b}");
        assert_eq!(stateful_set("prod", "brokers", "EU_West.1a"), "prod-brokers-eu-west-1a");
    }
}
