//! The observed state of a cluster as plain data: everything that its reconcile knows. Raw JSON of
//! its objects is converted to typed facts here, once in a reconcile. Pure.

pub mod claims;
pub mod identity;
pub mod kafka;
pub mod objects;
pub mod pods;
pub mod secrets;
pub mod trouble;

pub use claims::{Claim, Requested};
pub use identity::Identity;
pub use kafka::KafkaFacts;
pub use objects::{ClaimTemplate, Objects, StatefulSetFacts};
pub use pods::{PodFacts, Revision, Stuck, listeners_of, pod_facts, volumes_of};
pub use secrets::{SecretFacts, secret_facts};

use crate::kinds::attempts::Attempts;
use crate::kinds::kafka_cluster::model::child_names::Neighbour;
use crate::kubernetes::names::ClusterDomain;
use freehold_kafka::load::Load;
use freehold_kafka_client::LogFolders;
use freehold_kafka_client::figures::Disks;
use k8s_openapi::jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};

/// The observed state of a cluster.
#[derive(Clone)]
pub struct Observed {
    pub now: Timestamp,
    pub image: Option<String>,
    pub operator_namespace: String,
    /// Names of the Secrets for pulling images.
    pub image_pull_secrets: Vec<String>,
    pub cluster_domain: ClusterDomain,
    pub identity: Option<Identity>,
    /// The objects with the cluster's label, except Secrets, volumes and pods.
    pub objects: Objects,
    pub secrets: BTreeMap<String, SecretFacts>,
    /// Cached Secrets with keys that existed when this operator observed them before, and do not
    /// exist now, or were overwritten.
    pub retained: BTreeMap<String, SecretFacts>,
    /// The Secret that `certificates.secretRef` names; `None` if it does not exist.
    pub given_ca: Option<SecretFacts>,
    /// The existing Secrets of `certificates.clientAuthorities`, by name.
    pub client_authorities: BTreeMap<String, SecretFacts>,
    pub volumes: Vec<Claim>,
    /// The volume claims of other clusters in the namespace, existing or deleted, with the name of
    /// the cluster: cluster name by claim name.
    pub foreign_claims: BTreeMap<String, String>,
    /// The other KafkaClusters in the namespace.
    pub neighbours: Vec<Neighbour>,
    /// The disks of brokers, as the brokers report them.
    pub disks: BTreeMap<i32, Disks>,
    /// The contents of the log folders of brokers with more than one, as the brokers report them.
    pub folders: BTreeMap<i32, LogFolders>,
    /// The present sizes of thread pools that will change, by broker and config.
    pub threads: BTreeMap<i32, BTreeMap<String, u32>>,
    /// The failed attempts and the repairs so far.
    pub attempts: Attempts,
    /// Super users in whose name a User of another namespace has a valid certificate, with words on
    /// that User and the end of the certificate.
    pub certified: BTreeMap<String, String>,
    /// The time since which this operator has observed a node as lost without interruption, by node
    /// id.
    pub lost_since: BTreeMap<i32, Timestamp>,
    /// The load of brokers, if a decision depends on it.
    pub loads: BTreeMap<i32, Load>,
    pub pods: Vec<PodFacts>,
    /// Why StatefulSets do not create missing pods, by the set's name, in the words of Kubernetes.
    pub not_created: BTreeMap<String, String>,
    pub kafka: KafkaFacts,
    /// Nodes that were removed from the spec and hold nothing, according to the metadata and their
    /// own log folders.
    pub emptied: BTreeSet<i32>,
    /// The results of the certificate probes during the rotation of a CA.
    pub probes: Probes,
}

/// The nodes that passed each certificate probe.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Probes {
    /// They accept a client with a certificate of the next cluster CA.
    pub trust_next: BTreeSet<i32>,
    /// Their own certificate is signed by the current CA.
    pub serve_current: BTreeSet<i32>,
    /// Their mutual TLS listener accepts a client with a certificate of the next clients' CA.
    pub trust_next_clients: BTreeSet<i32>,
}
