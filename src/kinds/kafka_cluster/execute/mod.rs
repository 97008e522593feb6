//! Executes the steps of a plan one after the other. It only writes; all decisions were made in the
//! plan.

pub mod secrets;

use crate::api::kafka_cluster::KafkaCluster;
use crate::kinds::attempts;
use crate::kinds::attempts::Refusal;
use crate::kinds::error::Error;
use crate::kinds::kafka_cluster::configuration;
use crate::kinds::kafka_cluster::context::Context;
use crate::kinds::kafka_cluster::disruption::WaitingOn;
use crate::kinds::kafka_cluster::model::cluster::ValidCluster;
use crate::kinds::kafka_cluster::model::ports::CONTROLLER_PORT;
use crate::kinds::kafka_cluster::observed::{Observed, PodFacts};
use crate::kinds::kafka_cluster::plan::Step;
use crate::kinds::kafka_cluster::rolling::elections;
use crate::kubernetes;
use crate::kubernetes::{KubeError, Live, Object, difference};
use crate::kubernetes::{labels, quantity};
use freehold_kafka_client::client::Client;
use freehold_kafka_client::{Admin, AdminError, ConfigChanges, ConfigResource, Each};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::json;
use std::sync::Arc;

/// What all steps of a plan need for their execution.
pub struct Scope<'a> {
    pub context: &'a Context,
    pub object: &'a KafkaCluster,
    pub cluster: &'a ValidCluster,
    pub observed: &'a Observed,
}

/// The result of a step.
#[derive(Default)]
pub struct Done {
    /// What to wait for, if the API server or Kafka refuses a step that is correct in itself.
    pub waiting_on: Option<WaitingOn>,
    /// The refused parts of the step, each with the value that was requested.
    pub refused: Vec<(String, Refusal)>,
    /// True if one of them is not a config of the spec but the throttle of replica moves.
    pub throttle_failed: bool,
}

impl Done {
    fn waits(waiting_on: Option<WaitingOn>) -> Self {
        Self {
            waiting_on,
            ..Self::default()
        }
    }
}

/// Executes one step.
///
/// # Errors
/// The API server or Kafka does not do it, or a certificate cannot be made.
pub async fn apply(scope: &Scope<'_>, step: &Step) -> Result<Done, Error> {
    let client = &scope.context.client;
    let namespace = &scope.cluster.key.namespace;
    if let Some(object) = secrets::object(scope, step)? {
        kubernetes::apply(client, namespace, &object, labels::CLUSTER).await?;
        return Ok(Done::default());
    }
    match step {
        Step::AddFinalizer => drop(kubernetes::set_finalizer(client, scope.object, true).await?),
        Step::Apply(object) | Step::PutRight { object, .. } => {
            let applied = kubernetes::apply(client, namespace, object, labels::CLUSTER).await?;
            return Ok(applied_as(object, &difference::changed(object, &applied)));
        }
        Step::RemoveFields {
            object,
            live,
            fields,
        } => {
            let cleaned = kubernetes::remove(client, namespace, live, fields).await?;
            let left = difference::foreign(object, &cleaned).into_iter();
            let left: Vec<_> = left.map(|field| field.path).collect();
            return Ok(applied_as(object, &left));
        }
        Step::Prune(live) | Step::DeleteVolume { claim: live, .. } => {
            kubernetes::delete(client, namespace, live).await?
        }
        Step::Release(live) => kubernetes::orphan(client, namespace, live).await?,
        Step::ChangeVolume {
            claim,
            bytes,
            class,
        } => {
            let waiting_on = change_volume(scope, claim, *bytes, class.as_deref()).await?;
            return Ok(Done::waits(waiting_on));
        }
        Step::RestartPod { pod, .. } => restart(scope, pod).await?,
        Step::SetInSync { pod, in_sync } => set_in_sync(scope, pod, *in_sync).await?,
        Step::AlterConfigs(_)
        | Step::Reassign(_)
        | Step::MoveFolders { .. }
        | Step::UpgradeFeatures(_)
        | Step::Unregister(_)
        | Step::AddVoter { .. }
        | Step::RemoveVoter { .. }
        | Step::ElectLeaders(_) => return ask_kafka(scope, step).await,
        // The Secret or the identity that they write was applied above, if there was one.
        Step::CreateIdentity { .. }
        | Step::UpdateIdentity(_)
        | Step::CreateAuthority { .. }
        | Step::RestoreSecret(_)
        | Step::WritePasswordKey { .. }
        | Step::RotateAuthority { .. }
        | Step::IssueOperatorCertificate { .. }
        | Step::IssueNodeCertificates { .. } => {}
    }
    Ok(Done::default())
}

/// Executes a step that is a request to Kafka; others do nothing here.
async fn ask_kafka(scope: &Scope<'_>, step: &Step) -> Result<Done, Error> {
    match step {
        Step::AlterConfigs(changes) => return alter_configs(scope, changes).await,
        Step::Reassign(moves) => all(admin(scope)?.reassign(moves).await)?,
        Step::MoveFolders { broker, moves } => admin(scope)?.move_folders(*broker, moves).await?,
        Step::UpgradeFeatures(levels) => admin(scope)?.upgrade_features(levels).await?,
        Step::Unregister(id) => admin(scope)?.unregister_broker(*id).await?,
        Step::AddVoter {
            id,
            directory,
            host,
        } => {
            let answer = admin(scope)?
                .add_voter(*id, *directory, host, CONTROLLER_PORT)
                .await;
            return Ok(voter(answer));
        }
        Step::RemoveVoter { id, directory, .. } => {
            return Ok(voter(admin(scope)?.remove_voter(*id, *directory).await));
        }
        Step::ElectLeaders(elections) => {
            elections::elect(admin(scope)?.as_ref(), elections, elections::LIMIT).await
        }
        _ => {}
    }
    Ok(Done::default())
}

/// The result for an object in which these fields still differ after it was applied.
fn applied_as(object: &Object, left: &[String]) -> Done {
    let refusal =
        (!left.is_empty()).then(|| attempts::without_effect(attempts::what_differs(object, left)));
    Done {
        refused: refusal
            .map(|refusal| (object.hash().to_owned(), refusal))
            .into_iter()
            .collect(),
        ..Done::default()
    }
}

/// Kafka refuses all configs of a resource if one of them is wrong. Then each config is sent in its
/// own request, so that only the wrong one is refused.
async fn alter_configs(
    scope: &Scope<'_>,
    changes: &[(ConfigResource, ConfigChanges)],
) -> Result<Done, Error> {
    let (admin, mut done) = (admin(scope)?, Done::default());
    for ((resource, configs), answer) in changes.iter().zip(admin.alter_configs(changes).await) {
        let Err(error) = answer else { continue };
        let mut failed = Vec::new();
        if error.is_transient() || configs.len() == 1 {
            failed.extend(
                configs
                    .iter()
                    .map(|(key, value)| (key, value, error.clone())),
            );
        } else {
            for (key, value) in configs {
                let one = [(
                    resource.clone(),
                    ConfigChanges::from([(key.clone(), value.clone())]),
                )];
                failed.extend(
                    all(admin.alter_configs(&one).await)
                        .err()
                        .map(|error| (key, value, error)),
                );
            }
        }
        for (key, value, error) in failed {
            let field = configuration::field(scope.cluster, resource, key);
            done.throttle_failed |= !configuration::is_of_spec(scope.cluster, resource, key);
            done.refused.push((
                value.clone().unwrap_or_default(),
                Refusal::of(field, &error.into()),
            ));
        }
    }
    Ok(done)
}

/// Changes the size or the class of a volume. Only the API server knows from the StorageClass
/// whether that is allowed, so its refusal becomes something to wait for.
async fn change_volume(
    scope: &Scope<'_>,
    claim: &Live,
    bytes: Option<u64>,
    class: Option<&str>,
) -> Result<Option<WaitingOn>, Error> {
    let mut metadata = json!({"uid": claim.uid(), "resourceVersion": claim.resource_version()});
    let mut spec = json!({});
    if let Some(bytes) = bytes {
        let size = quantity::text(bytes);
        metadata["annotations"] = json!({labels::REQUESTED_SIZE: size});
        spec["resources"]["requests"]["storage"] = json!(size);
    }
    if let Some(class) = class {
        spec["volumeAttributesClassName"] = json!(class);
    }
    let patch = json!({"metadata": metadata, "spec": spec});
    let api: Api<PersistentVolumeClaim> =
        Api::namespaced(scope.context.client.clone(), &scope.cluster.key.namespace);
    match api
        .patch(claim.name(), &PatchParams::default(), &Patch::Merge(&patch))
        .await
    {
        Err(kube::Error::Api(answer)) if [403, 422].contains(&answer.code) => {
            Ok(Some(WaitingOn::Volume {
                claim: claim.name().to_owned(),
                why: format!("cannot change: {}", answer.message),
            }))
        }
        // The claim has changed or is gone; the next reconcile decides from its new state.
        Err(kube::Error::Api(answer)) if [404, 409].contains(&answer.code) => Ok(None),
        other => Ok(other.map(|_| None).map_err(KubeError::request(
            "change",
            "PersistentVolumeClaim",
            claim.name(),
        ))?),
    }
}

/// Kafka refuses a change of the quorum until the previous one is committed. The refusal is waited
/// for, and the change is requested again.
fn voter(answer: Result<(), AdminError>) -> Done {
    Done::waits(answer.err().map(|error| WaitingOn::Kafka {
        why: error.to_string(),
    }))
}

fn all(results: Each<()>) -> Result<(), AdminError> {
    results.into_iter().collect()
}

/// The client for the brokers of this cluster.
fn admin(scope: &Scope<'_>) -> Result<Arc<Client>, Error> {
    let observed = scope.observed;
    let connected = scope
        .context
        .clients
        .get(scope.object, &observed.pods, &observed.secrets);
    let connected = connected.map_err(|error| AdminError::Unavailable(error.to_string()))?;
    Ok(connected
        .ok_or_else(|| AdminError::Unavailable("no broker is ready".into()))?
        .client)
}

/// Deletes exactly the pod that was observed. Kafka's controlled shutdown hands its partitions over
/// before it ends.
async fn restart(scope: &Scope<'_>, pod: &PodFacts) -> Result<(), KubeError> {
    let api: Api<Pod> = Api::namespaced(scope.context.client.clone(), &scope.cluster.key.namespace);
    let preconditions = Preconditions {
        uid: Some(pod.uid.clone()),
        resource_version: Some(pod.resource_version.clone()),
    };
    match api
        .delete(
            &pod.name,
            &DeleteParams {
                preconditions: Some(preconditions),
                ..DeleteParams::default()
            },
        )
        .await
    {
        // The pod has changed or is gone; the next reconcile decides.
        Err(kube::Error::Api(answer)) if answer.code == 404 || answer.code == 409 => Ok(()),
        other => other
            .map(drop)
            .map_err(KubeError::request("delete", "Pod", &pod.name)),
    }
}

async fn set_in_sync(scope: &Scope<'_>, pod: &PodFacts, in_sync: bool) -> Result<(), KubeError> {
    let status = if in_sync { "True" } else { "False" };
    let condition = json!({
        "type": labels::IN_SYNC, "status": status, "lastTransitionTime": scope.observed.now,
        "reason": if in_sync { "InSync" } else { "OutOfSync" },
    });
    let patch = json!({"metadata": {"uid": pod.uid}, "status": {"conditions": [condition]}});
    let api: Api<Pod> = Api::namespaced(scope.context.client.clone(), &scope.cluster.key.namespace);
    match api
        .patch_status(
            &pod.name,
            &PatchParams::default(),
            &Patch::Strategic(&patch),
        )
        .await
    {
        // The pod is gone, or another pod has its name (422, because a uid is immutable).
        Err(kube::Error::Api(answer)) if [404, 409, 422].contains(&answer.code) => Ok(()),
        other => other.map(|_| ()).map_err(KubeError::request(
            "set the readiness gate of",
            "Pod",
            &pod.name,
        )),
    }
}
