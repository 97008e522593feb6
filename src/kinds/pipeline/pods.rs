//! The pods of a Pipeline: where its runners answer, and why a pod does not start.

use crate::api::pipeline::Pipeline;
use crate::kubernetes::{KubeError, KubeResult, labels, names};
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use std::collections::BTreeMap;

/// `spec.replicas` is at most this.
const REPLICAS_MAX: u32 = 100;

/// A pod, as far as a Pipeline is concerned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodFacts {
    pub name: String,
    pub stage: String,
    /// Number of the replica, from 0.
    pub ordinal: u32,
    /// What it was started with: hashes of the stage and of the credential.
    pub started_with: BTreeMap<String, String>,
    /// Its address; `None` while it has none, or is being deleted.
    pub address: Option<String>,
    pub ready: bool,
    /// Why its container does not run.
    pub trouble: Option<String>,
    /// It replays dead letters, and is no replica of a stage.
    pub replays: bool,
}

/// The pods of a Pipeline's StatefulSets. A pod that only carries the label is none of them.
///
/// # Errors
/// The API server refuses, or does not answer.
pub async fn list(client: &Client, object: &Pipeline) -> KubeResult<Vec<PodFacts>> {
    let selector = selector(object);
    let pods: Api<Pod> = Api::namespaced(client.clone(), &object.namespace().unwrap_or_default());
    let found = pods
        .list(&ListParams::default().labels(&selector))
        .await
        .map_err(KubeError::request("list", "Pod", &selector))?;
    let pipeline = object.name_any();
    let own = found.items.iter();
    Ok(own.filter_map(|pod| facts(pod, &pipeline)).collect())
}

/// The selector of a Pipeline's pods.
pub fn selector(object: &Pipeline) -> String {
    format!("{}={}", labels::PIPELINE, object.name_any())
}

/// `None`: it is not of the StatefulSet of a stage.
fn facts(pod: &Pod, pipeline: &str) -> Option<PodFacts> {
    let stage = pod.labels().get(labels::STAGE)?.clone();
    let set = names::stage(pipeline, &stage);
    let owners = pod.owner_references();
    let is_owned = owners.iter().any(|owner| {
        owner.kind == "StatefulSet" && owner.name == set && owner.controller == Some(true)
    });
    let name = pod.name_any();
    let ordinal = name.strip_prefix(&set)?.strip_prefix('-')?.parse().ok()?;
    if !is_owned || ordinal >= REPLICAS_MAX {
        return None;
    }
    let annotations = pod.annotations().iter();
    let started_with = annotations
        .filter(|(key, _)| [labels::STAGE_HASH, labels::CREDENTIAL_HASH].contains(&key.as_str()));
    let status = pod.status.clone().unwrap_or_default();
    let is_going = pod.metadata.deletion_timestamp.is_some();
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let condition = |kind: &str| conditions.iter().find(|found| found.type_ == kind);
    // An admission policy may have put others before it.
    let mut containers = status.container_statuses.iter().flatten();
    let container = containers.find(|container| container.name == "runner");
    let waiting = container
        .and_then(|container| container.state.as_ref()?.waiting.as_ref())
        .and_then(|waiting| waiting.reason.clone())
        .filter(|reason| reason != "ContainerCreating" && reason != "PodInitializing");
    let last = container
        .and_then(|container| container.last_state.as_ref()?.terminated.as_ref())
        .map(|last| match last.reason.as_deref() {
            Some("OOMKilled") => "it needed more memory than its limit".to_owned(),
            _ => format!("it ended with exit code {}", last.exit_code),
        });
    let unscheduled = condition("PodScheduled")
        .filter(|found| found.status == "False")
        .and_then(|found| found.message.clone());
    let trouble = match (waiting, last) {
        (Some(reason), Some(last)) => Some(format!("{reason}: {last}")),
        (Some(reason), None) => Some(reason),
        (None, _) => unscheduled,
    };
    Some(PodFacts {
        name,
        stage,
        ordinal,
        started_with: started_with
            .map(|(key, hash)| (key.clone(), hash.clone()))
            .collect(),
        address: status.pod_ip.filter(|_| !is_going),
        ready: !is_going && condition("Ready").is_some_and(|found| found.status == "True"),
        trouble,
        replays: pod.labels().contains_key(labels::REPLAY),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_that_does_not_start_says_why() {
        let named = |name: &str, status| {
            let pod = json!({
                "metadata": {
                    "name": name,
                    "labels": {"freehold.dev/stage": "in"},
                    "annotations": {"freehold.dev/stage-hash": "a", "other": "b"},
                    "ownerReferences": [{
                        "apiVersion": "apps/v1", "kind": "StatefulSet", "name": "orders-in",
                        "uid": "u", "controller": true,
                    }],
                },
                "status": status,
            });
            facts(&serde_json::from_value(pod).unwrap(), "orders")
        };
        for other in [
            "orders-in-100",
            "orders-in",
            "orders-in-x",
            "orders-other-0",
        ] {
            assert_eq!(named(other, json!({})), None, "{other} only has the label");
        }
        let pod = |status| named("orders-in-0", status).unwrap();
        let crashed = pod(json!({"containerStatuses": [{
            "name": "runner", "image": "", "imageID": "", "ready": false, "restartCount": 3,
            "state": {"waiting": {"reason": "CrashLoopBackOff"}},
            "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}},
        }]}));
        let why = "CrashLoopBackOff: it needed more memory than its limit";
        assert_eq!(crashed.trouble.as_deref(), Some(why));
        let full = pod(json!({"conditions": [
            {"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available"},
        ]}));
        assert_eq!(full.trouble.as_deref(), Some("0/3 nodes are available"));
        let runs = pod(json!({"podIP": "10.0.0.1", "conditions": [
            {"type": "Ready", "status": "True"},
        ]}));
        assert!(runs.ready && runs.trouble.is_none() && runs.address.is_some());
        assert_eq!((&*runs.stage, runs.ordinal), ("in", 0));
        assert_eq!(runs.started_with.len(), 1);
    }
}
