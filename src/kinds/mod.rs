//! The registry of resource kinds: one line each. A folder for each kind holds the same file names.

pub mod access;
pub mod dependence;
pub mod drift;
pub mod error;
pub mod kafka_cluster;
pub mod look;
pub mod reference;
pub mod topic;
pub mod user;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

/// The API group of every kind.
pub const GROUP: &str = "freehold.dev";

/// Every kind's CustomResourceDefinition with the file name that `crds/` keeps it under.
pub fn definitions() -> Vec<(&'static str, CustomResourceDefinition)> {
    vec![
        ("kafkaclusters.yaml", kafka_cluster::api::KafkaCluster::crd()),
        ("topics.yaml", topic::api::Topic::crd()),
        ("users.yaml", user::api::User::crd()),
    ]
}
