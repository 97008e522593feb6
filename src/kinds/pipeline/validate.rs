//! What is wrong with a Pipeline, in the words of the API; what the cluster must have for it. Pure.

use crate::api::invalid::Invalid;
use crate::api::kafka_cluster::Authentication;
use crate::api::pipeline::PipelineSpec;
use crate::clusters::ClusterFacts;
use crate::kinds::pipeline::programs::Checked;
use crate::kinds::registration::Findings;
use freehold_pipeline::finding::Finding;

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

/// What the cluster must have: a listener for the User that is made.
pub fn check_cluster(spec: &PipelineSpec, cluster: &ClusterFacts) -> Vec<Invalid> {
    let serves = |wanted| cluster.listener(wanted).is_some();
    if spec.user_ref.is_some()
        || serves(Authentication::ScramSha512)
        || serves(Authentication::MutualTls)
    {
        return Vec::new();
    }
    vec![Invalid::new(
        "spec.clusterRef",
        "the cluster has no listener with authentication ScramSha512 or MutualTls, by which the \
         Pipeline would connect; add one to its spec.listeners",
    )]
}
