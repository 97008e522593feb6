//! What is wrong with a Pipeline, in the words of the API; what the cluster must have for it. Pure.

use crate::api::invalid::Invalid;
use crate::api::kafka_cluster::Authentication;
use crate::api::pipeline::Pipeline;
use crate::clusters::ClusterFacts;
use crate::kinds::registration::Findings;
use crate::kubernetes::names;
use crate::tenancy::access;
use freehold_pipeline::finding::Finding;

/// The warnings of a Pipeline's check, or what it is refused for.
pub type Checked = Result<Vec<Finding>, Vec<Finding>>;

/// What is wrong, as the field and the way out, and the warnings.
pub fn findings(checked: Checked) -> Findings {
    match checked {
        Ok(warnings) => (
            Vec::new(),
            warnings.iter().map(ToString::to_string).collect(),
        ),
        Err(findings) => (findings.iter().map(invalid).collect(), Vec::new()),
    }
}

fn invalid(finding: &Finding) -> Invalid {
    let why = match &finding.block {
        Some(block) => format!("block {block}: {}", finding.message),
        None => finding.message.clone(),
    };
    Invalid::new(format!("spec.{}", finding.field), why)
}

/// What the cluster must have for the User that is made: a listener, and no policy against its
/// name.
pub fn check_cluster(object: &Pipeline, cluster: &ClusterFacts) -> Vec<Invalid> {
    let spec = &object.spec;
    if spec.user_ref.is_some() {
        return Vec::new();
    }
    let mut invalids = Vec::new();
    let serves = |wanted| cluster.listener(wanted).is_some();
    if !serves(Authentication::ScramSha512) && !serves(Authentication::MutualTls) {
        invalids.push(Invalid::new(
            "spec.clusterRef",
            "the cluster has no listener with authentication ScramSha512 or MutualTls, by which \
             the Pipeline would connect; add one to its spec.listeners",
        ));
    }
    let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
    let name = object.metadata.name.as_deref().unwrap_or_default();
    let refused = access::refuse_principal(
        &cluster.access,
        &cluster.super_users,
        spec.cluster_ref.key(namespace).namespace == namespace,
        namespace,
        &names::pipeline_principal(namespace, name),
    );
    invalids.extend(refused.map(|why| {
        let why = format!(
            "without it the Pipeline has a User of its own, whose principal the cluster does not \
             allow ({why}); name a User of this namespace"
        );
        Invalid::new("spec.userRef", why)
    }));
    invalids
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::kafka_cluster::KafkaCluster;
    use serde_json::json;

    #[test]
    fn a_policy_against_the_name_of_its_own_user_asks_for_another_user() {
        let cluster: KafkaCluster = serde_json::from_value(json!({
            "metadata": {"name": "demo", "namespace": "kafka"},
            "spec": {"version": "4.3.1", "nodePools": [], "access": {"principalNames": {"prefix": "{namespace}-"}},
                "listeners": [{"name": "scram", "port": 9094, "authentication": "ScramSha512"}]},
        }))
        .unwrap();
        let cluster = ClusterFacts::of_spec(&cluster);
        let fields = |namespace: &str, user: Option<&str>| {
            let mut object = json!({"metadata": {"name": "orders", "namespace": namespace},
                "spec": {"clusterRef": {"name": "demo", "namespace": "kafka"}, "blocks": []}});
            if let Some(user) = user {
                object["spec"]["userRef"] = json!({"name": user});
            }
            let object: Pipeline = serde_json::from_value(object).unwrap();
            let invalids = check_cluster(&object, &cluster);
            invalids
                .into_iter()
                .map(|invalid| invalid.field)
                .collect::<Vec<_>>()
        };
        assert_eq!(fields("shop", None), ["spec.userRef"]);
        assert!(fields("shop", Some("shop-orders")).is_empty());
        assert!(
            fields("kafka", None).is_empty(),
            "no policy for those at home"
        );
    }
}
