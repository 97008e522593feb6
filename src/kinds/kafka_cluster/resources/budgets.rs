//! Builds the PodDisruptionBudgets: one for brokers, one for controllers. Pure.
//!
//! A pod counts as available only while its readiness gate is true, so an eviction waits until the
//! nodes that are away are in sync again. A combined node is only in the brokers' budget, because a
//! pod in two budgets cannot be evicted at all.

use crate::api::kafka_cluster::Role;
use crate::kinds::kafka_cluster::model::cluster::ValidCluster;
use crate::kinds::kafka_cluster::resources::metadata;
use crate::kubernetes::{labels, names};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// The PodDisruptionBudgets of a cluster; each allows one unavailable pod.
pub fn budgets(cluster: &ValidCluster) -> Vec<PodDisruptionBudget> {
    let mut budgets = vec![budget(
        cluster,
        &names::brokers_budget(&cluster.key.name),
        labels::BROKER,
        None,
    )];
    if cluster
        .groups_of(Role::Controller)
        .any(|group| !group.is(Role::Broker))
    {
        budgets.push(budget(
            cluster,
            &names::controllers_budget(&cluster.key.name),
            labels::CONTROLLER,
            Some(labels::BROKER),
        ));
    }
    budgets
}

fn budget(
    cluster: &ValidCluster,
    name: &str,
    role: &str,
    without: Option<&str>,
) -> PodDisruptionBudget {
    let mut selector = labels::cluster(&cluster.key.name);
    selector.insert(role.to_owned(), "true".into());
    let without = without.map(|label| {
        vec![LabelSelectorRequirement {
            key: label.to_owned(),
            operator: "NotIn".into(),
            values: Some(vec!["true".into()]),
        }]
    });
    PodDisruptionBudget {
        metadata: metadata(cluster, name),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(LabelSelector {
                match_labels: Some(selector),
                match_expressions: without,
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}
