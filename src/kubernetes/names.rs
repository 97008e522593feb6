//! The names of all objects that Freehold creates, one function for each. Pure.

use sha2::{Digest, Sha256};
use std::fmt;
use std::str::FromStr;

/// The name of a StatefulSet is part of the label controller-revision-hash (63 characters): 52
/// leave room for the hash.
pub const STATEFUL_SET_CHARS_MAX: usize = 52;

/// Shortens a name that is too long and appends a hash of the whole name, so that two names never
/// become the same.
fn fit(name: String, max: usize) -> String {
    if name.len() <= max {
        return name;
    }
    let hash = hex(&Sha256::digest(&name)[..4]);
    let head: String = name.chars().take(max - 9).collect();
    format!("{}-{hash}", head.trim_end_matches('-'))
}

/// Bytes as lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A zone as part of a name: lower case, with `-` for other characters.
fn zone_part(zone: &str) -> String {
    zone.to_ascii_lowercase()
        .chars()
        .map(|character| {
            if character.is_ascii_alphanumeric() {
                character
            } else {
                '-'
            }
        })
        .collect()
}

/// The StatefulSet of a pool in a zone, and its ConfigMap.
pub fn stateful_set(cluster: &str, pool: &str, zone: &str) -> String {
    fit(
        format!("{cluster}-{pool}-{}", zone_part(zone)),
        STATEFUL_SET_CHARS_MAX,
    )
}

/// The pod of a node: its StatefulSet's ordinals are node ids.
pub fn pod(stateful_set: &str, node_id: i32) -> String {
    format!("{stateful_set}-{node_id}")
}

/// The headless Service for the host names of pods.
pub fn nodes_service(cluster: &str) -> String {
    format!("{cluster}-nodes")
}

/// The Service for clients' bootstrap connections.
pub fn bootstrap_service(cluster: &str) -> String {
    format!("{cluster}-bootstrap")
}

/// The host name of a node in its certificate and its listeners.
pub fn host(pod: &str, cluster: &str, namespace: &str) -> String {
    format!("{pod}.{}.{namespace}.svc", nodes_service(cluster))
}

/// The host name of a broker for clients: that of the broker's own Service, whose address stays the
/// same when the pod's changes.
pub fn client_host(pod: &str, namespace: &str) -> String {
    format!("{pod}.{namespace}.svc")
}

/// The bootstrap Service's host name.
pub fn bootstrap_host(cluster: &str, namespace: &str) -> String {
    format!("{}.{namespace}.svc", bootstrap_service(cluster))
}

/// The DNS domain of Services: `clusterDomain` of the kubelets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterDomain(String);

impl Default for ClusterDomain {
    fn default() -> Self {
        Self("cluster.local".into())
    }
}

impl fmt::Display for ClusterDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ClusterDomain {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let domain = text.strip_suffix('.').unwrap_or(text);
        let is_label = |label: &str| {
            let is_well = |character: char| {
                character.is_ascii_lowercase() || character.is_ascii_digit() || character == '-'
            };
            (1..=63).contains(&label.len())
                && label.chars().all(is_well)
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if domain.len() <= 200 && domain.split('.').all(is_label) {
            Ok(Self(domain.to_owned()))
        } else {
            Err(format!("{text:?} is not a domain such as cluster.local"))
        }
    }
}

/// All forms of the host name of a Service: as used in its own namespace, in other namespaces, and
/// fully qualified.
pub fn host_forms(name: &str, namespace: &str, domain: &ClusterDomain) -> [String; 4] {
    [
        name.to_owned(),
        format!("{name}.{namespace}"),
        format!("{name}.{namespace}.svc"),
        format!("{name}.{namespace}.svc.{domain}"),
    ]
}

/// ConfigMap with the data that must never be lost: cluster id, node id blocks, first controllers.
pub fn identity(cluster: &str) -> String {
    format!("{cluster}-identity")
}

/// Secret with the CA of brokers, controllers and the operator.
pub fn cluster_ca(cluster: &str) -> String {
    format!("{cluster}-cluster-ca")
}

/// Secret with the CA that signs clients' certificates.
pub fn clients_ca(cluster: &str) -> String {
    format!("{cluster}-clients-ca")
}

/// Secret with the key from which Users' passwords are derived.
pub fn password_key(cluster: &str) -> String {
    format!("{cluster}-passwords")
}

/// ConfigMap with the CA certificates that clients trust.
pub fn trust_bundle(cluster: &str) -> String {
    format!("{cluster}-ca")
}

/// Secret with the operator's own certificate.
pub fn operator_certificate(cluster: &str) -> String {
    format!("{cluster}-operator-tls")
}

/// Secret with the certificates of the nodes in a StatefulSet.
pub fn node_certificates(stateful_set: &str) -> String {
    format!("{stateful_set}-tls")
}

/// The StatefulSet whose nodes have their certificates in this Secret.
pub fn stateful_set_of_certificates(secret: &str) -> Option<&str> {
    secret.strip_suffix("-tls")
}

/// The PodDisruptionBudget of brokers.
pub fn brokers_budget(cluster: &str) -> String {
    format!("{cluster}-brokers")
}

/// The PodDisruptionBudget of controllers.
pub fn controllers_budget(cluster: &str) -> String {
    format!("{cluster}-controllers")
}

/// The Secret of a User that does not name one.
pub fn user_secret(user: &str) -> String {
    format!("{user}-kafka")
}

/// The StatefulSet of a stage of a Pipeline, its ConfigMap and its PodDisruptionBudget.
pub fn stage(pipeline: &str, stage: &str) -> String {
    fit(format!("{pipeline}-{stage}"), STATEFUL_SET_CHARS_MAX)
}

/// What a replay of dead letters is called among the stages: its pods are not those of the stage
/// whose blocks they run.
pub fn replay(stage: &str) -> String {
    format!("{stage}-replay")
}

/// The Secret with the certificate of a stage's HTTP source.
pub fn stage_certificate(pipeline: &str, name: &str) -> String {
    format!("{}-tls", stage(pipeline, name))
}

/// The User and the ServiceAccount of a Pipeline.
pub fn of_pipeline(pipeline: &str) -> String {
    format!("{pipeline}-pipeline")
}

/// The principal of a Pipeline that has no `userRef`. Two Pipelines never have the same: a
/// namespace has no dot.
pub fn pipeline_principal(namespace: &str, pipeline: &str) -> String {
    fit(format!("{namespace}.{pipeline}"), 64)
}

/// The Topic of what flows to an isolated block.
pub fn internal_topic(pipeline: &str, block: &str) -> String {
    format!("{pipeline}-{block}")
}

/// A revision of a Pipeline.
pub fn revision(pipeline: &str, number: i64) -> String {
    format!("{}{number}", revision_prefix(pipeline))
}

/// What the names of a Pipeline's revisions begin with; their numbers follow.
pub fn revision_prefix(pipeline: &str) -> String {
    format!("{pipeline}-r")
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
        assert_eq!(
            stateful_set("prod", "brokers", "EU_West.1a"),
            "prod-brokers-eu-west-1a"
        );
    }

    #[test]
    fn a_cluster_domain_is_one_of_dns() {
        assert_eq!(
            "k8s.example.org."
                .parse::<ClusterDomain>()
                .unwrap()
                .to_string(),
            "k8s.example.org"
        );
        assert_eq!(ClusterDomain::default(), "cluster.local".parse().unwrap());
        for wrong in ["", ".", "Cluster.local", "a..b", "-a.b", "a_b"] {
            assert!(
                wrong
                    .parse::<ClusterDomain>()
                    .unwrap_err()
                    .contains("such as cluster.local"),
                "{wrong}"
            );
        }
    }
}
