//! Checks a Pipeline whole: its scaling, its resources, its graph, and in a child process its
//! programs. The webhook, the reconcile and the command line ask here.

use crate::api::pipeline::{Pipeline, PipelineSpec};
use crate::clusters::Cluster;
use crate::kinds::amounts;
use crate::kinds::error::Error;
use crate::kinds::pipeline::context::Context;
use crate::kinds::pipeline::scaling;
use crate::kinds::pipeline::validate::{self, Checked};
use crate::runtime::compute::{Asker, alone};
use freehold_pipeline::finding::Finding;
use freehold_pipeline::topics::TopicNames;
use freehold_pipeline_blocks::isolation;
use std::process::Command;

/// The command that the child process runs.
pub const CHILD: &str = "check-pipeline";

/// Checks a Pipeline whole in a child of this program.
///
/// # Errors
/// All findings, if one of them is an error; else they are warnings.
pub fn in_child(spec: &PipelineSpec, names: &TopicNames) -> Checked {
    let program = std::env::current_exe()
        .map_err(|error| vec![Finding::error("blocks", format!("this program: {error}"))])?;
    let mut command = Command::new(program);
    command.arg(CHILD);
    let wrong = [scaling::findings(spec), resources(spec)].concat();
    match isolation::check_in_child(command, &spec.definition(), names) {
        Ok(warnings) if wrong.is_empty() => Ok(warnings),
        Ok(_) => Err(wrong),
        Err(found) => Err([wrong, found].concat()),
    }
}

/// What is wrong with the resources of a replica: the API server would refuse its pods.
fn resources(spec: &PipelineSpec) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(resources) = &spec.resources {
        amounts::check(resources, "resources", |field, why| {
            findings.push(Finding::error(field, why));
        });
    }
    findings
}

/// The warnings of the check.
///
/// # Errors
/// What the Pipeline is refused for.
pub async fn checked(
    object: &Pipeline,
    context: &Context,
    cluster: &Cluster,
    names: &TopicNames,
) -> Result<Vec<String>, Error> {
    let generation = object.metadata.generation.unwrap_or_default();
    let what = format!("{generation} {names:?}");
    let checked = match context.checked(object, &what) {
        Some(checked) => checked,
        None => {
            let (spec, names) = (object.spec.clone(), names.clone());
            let checked = alone(Asker::Reconcile, move || in_child(&spec, &names)).await;
            context.remember(object, what, checked.clone());
            checked
        }
    };
    let (mut invalids, warnings) = validate::findings(checked);
    invalids.extend(validate::check_cluster(object, &cluster.facts));
    match invalids.is_empty() {
        true => Ok(warnings),
        false => Err(Error::Invalid(invalids)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn resources_that_no_pod_can_have_are_refused() {
        let found = |resources: Value| {
            let spec = json!({
                "clusterRef": {"name": "demo"}, "blocks": [], "resources": resources,
            });
            resources_of(&serde_json::from_value(spec).unwrap())
        };
        let above = json!({"requests": {"memory": "1Gi"}, "limits": {"memory": "256Mi"}});
        let why = "spec.resources.requests.memory: 1Gi is above resources.limits.memory, 256Mi; \
                   lower it or raise the limit";
        assert_eq!(found(above), [why]);
        assert_eq!(found(json!({"limits": {"cpu": "much"}})).len(), 1);
        assert_eq!(found(json!({"requests": {"cpu": "-1"}})).len(), 1);
        let fits = json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "1Gi"}});
        assert_eq!(found(fits), [""; 0]);
    }

    fn resources_of(spec: &PipelineSpec) -> Vec<String> {
        resources(spec).iter().map(ToString::to_string).collect()
    }
}
