//! Does the steps of a plan, one after the other. Writes only; no choice is left to make here.

use super::api::KafkaCluster;
use super::authorities::{self, Rotation, Signs};
use super::desired::CONTROLLER_PORT;
use super::elections;
use super::identity::{self, Identity};
use super::observe::{Observed, PodFacts};
use super::plan::{self, Step, WaitingOn};
use super::reconcile::Error;
use super::validate::ValidCluster;
use crate::certificates::{self, CertificateError, KeyedCertificate, NODE_NAME, OPERATOR_NAME, ORGANIZATION, Purpose};
use crate::kafka_admin::client::Client;
use crate::kafka_admin::{Admin, AdminError, Each};
use crate::kube_io::{self, KubeError, Live, Object};
use crate::runtime::context::Context;
use crate::{labels, names, quantity};
use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What steps are done for and with.
pub struct Scope<'a> {
    pub context: &'a Context,
    pub object: &'a KafkaCluster,
    pub cluster: &'a ValidCluster,
    pub observed: &'a Observed,
}

/// Does one step. What the API server refuses although nothing is wrong with it here is waited for.
pub async fn apply(scope: &Scope<'_>, step: &Step) -> Result<Option<WaitingOn>, Error> {
    let client = &scope.context.client;
    let namespace = &scope.cluster.key.namespace;
    let put = |object: Object| async move { kube_io::apply(client, namespace, &object, labels::CLUSTER).await };
    match step {
        Step::AddFinalizer => drop(kube_io::set_finalizer(client, scope.object, true).await?),
        Step::CreateIdentity { cluster_id, blocks, controllers, formed } => {
            let controllers = controllers.iter().map(|(id, directory)| (*id, directory.clone().unwrap_or_else(random_id))).collect();
            let cluster_id = cluster_id.clone().unwrap_or_else(random_id);
            put(identity_map(scope.cluster, &Identity::new(cluster_id, blocks, controllers, *formed))).await?;
        }
        Step::UpdateIdentity(identity) => put(identity_map(scope.cluster, identity)).await?,
        Step::CreateAuthority { secret, signs } => {
            let authority = authority(scope, *signs)?;
            put(secret_object(scope.cluster, secret, keyed(&authority), false)).await?;
        }
        Step::RotateAuthority { secret, signs, rotation } => put(rotated(scope, secret, *signs, rotation)?).await?,
        Step::IssueOperatorCertificate { secret } => {
            let issued = issue(scope, OPERATOR_NAME, &Purpose::Client)?;
            put(certificates_secret(scope.cluster, secret, keyed(&issued))).await?;
        }
        Step::IssueNodeCertificates { secret, nodes, trust, .. } => {
            // The nodes whose certificates are still good keep them.
            let mut data = scope.observed.secrets.get(secret).map(|found| found.data.clone()).unwrap_or_default();
            for (id, hosts) in nodes {
                let issued = issue(scope, NODE_NAME, &Purpose::Node { hosts })?;
                data.insert(format!("{id}.pem"), format!("{}{}", issued.certificate, issued.key));
            }
            data.insert("cluster-ca.crt".into(), trust.cluster_ca.clone());
            data.insert("clients-ca.crt".into(), trust.clients_ca.clone());
            put(certificates_secret(scope.cluster, secret, data)).await?;
        }
        Step::Apply(object) => kube_io::apply(client, namespace, object, labels::CLUSTER).await?,
        Step::Prune(live) => kube_io::delete(client, namespace, live).await?,
        Step::Release(live) => kube_io::orphan(client, namespace, live).await?,
        Step::ChangeVolume { claim, bytes, class } => return change_volume(scope, claim, *bytes, class.as_deref()).await,
        Step::AlterConfigs(changes) => all(admin(scope)?.alter_configs(changes).await)?,
        Step::RestartPod { pod, .. } => restart(scope, pod).await?,
        Step::Reassign(moves) => all(admin(scope)?.reassign(moves).await)?,
        Step::MoveFolders { broker, moves } => admin(scope)?.move_folders(*broker, moves).await?,
        Step::UpgradeFeatures(levels) => admin(scope)?.upgrade_features(levels).await?,
        Step::Unregister(id) => admin(scope)?.unregister_broker(*id).await?,
        Step::AddVoter { id, directory, host } => return voter(admin(scope)?.add_voter(*id, *directory, host, CONTROLLER_PORT).await),
        Step::RemoveVoter { id, directory } => return voter(admin(scope)?.remove_voter(*id, *directory).await),
        Step::ElectLeaders(elections) => elections::elect(admin(scope)?.as_ref(), elections, elections::LIMIT).await,
        Step::SetInSync { pod, in_sync } => set_in_sync(scope, pod, *in_sync).await?,
    }
    Ok(None)
}

/// Whether a volume may grow, or take a class, the API server knows: its StorageClass says so.
async fn change_volume(scope: &Scope<'_>, claim: &Live, bytes: Option<u64>, class: Option<&str>) -> Result<Option<WaitingOn>, Error> {
    let mut spec = json!({});
    if let Some(bytes) = bytes {
        spec["resources"]["requests"]["storage"] = json!(quantity::text(bytes));
    }
    if let Some(class) = class {
        spec["volumeAttributesClassName"] = json!(class);
    }
    let patch = json!({"metadata": {"uid": claim.uid(), "resourceVersion": claim.resource_version()}, "spec": spec});
    let api: Api<PersistentVolumeClaim> = Api::namespaced(scope.context.client.clone(), &scope.cluster.key.namespace);
    match api.patch(claim.name(), &PatchParams::default(), &Patch::Merge(&patch)).await {
        Err(kube::Error::Api(answer)) if [403, 422].contains(&answer.code) => {
            Ok(Some(WaitingOn::Volume { claim: claim.name().to_owned(), why: format!("cannot change: {}", answer.message) }))
        }
        // Another look decides by what it is by then.
        Err(kube::Error::Api(answer)) if [404, 409].contains(&answer.code) => Ok(None),
        other => Ok(other.map(|_| None).map_err(KubeError::request("change", "PersistentVolumeClaim", claim.name()))?),
    }
}

/// A change of the quorum waits for the one before it to be committed: then it is asked for again.
fn voter(answer: Result<(), AdminError>) -> Result<Option<WaitingOn>, Error> {
    Ok(answer.err().map(|error| WaitingOn::Kafka { why: error.to_string() }))
}

/// 16 random bytes as Kafka writes its ids: URL-safe base64, never beginning with `-` (Kafka's Uuid.randomUuid).
fn random_id() -> String {
    loop {
        let id = BASE64_URL_SAFE_NO_PAD.encode(rand::random::<[u8; 16]>());
        if !id.starts_with('-') {
            return id;
        }
    }
}

fn issue(scope: &Scope<'_>, common_name: &str, purpose: &Purpose<'_>) -> Result<KeyedCertificate, CertificateError> {
    let authority = plan::cluster_authority(scope.cluster, scope.observed).ok_or(CertificateError::NotAuthority)?;
    let days = scope.cluster.spec.certificates.validity_days;
    certificates::issue(&authority, Some(ORGANIZATION), common_name, purpose, scope.observed.now, days)
}

/// The CA that a Secret gives, or a new one.
fn authority(scope: &Scope<'_>, signs: Signs) -> Result<KeyedCertificate, CertificateError> {
    let name = signs.common_name(&scope.cluster.key.name);
    authorities::given(signs, scope.cluster, scope.observed).map_or_else(|| certificates::new_authority(&name, scope.observed.now), Ok)
}

/// A CA's Secret after a step of its rotation.
fn rotated(scope: &Scope<'_>, name: &str, signs: Signs, rotation: &Rotation) -> Result<Object, CertificateError> {
    let Some(found) = scope.observed.secrets.get(name) else { return Err(CertificateError::NotAuthority) };
    let now = scope.observed.now;
    let mut data = found.data.clone();
    let mut followed = found.live.annotation(labels::CA_ROTATED).map(str::to_owned);
    match rotation {
        Rotation::Prepare { asked } => {
            let next = authority(scope, signs)?;
            let (organization, common_name) = match signs {
                Signs::Nodes => (Some(ORGANIZATION), OPERATOR_NAME),
                // A name with no rights.
                Signs::Clients => (None, "freehold-probe"),
            };
            let days = scope.cluster.spec.certificates.validity_days;
            let probe = certificates::issue(&next, organization, common_name, &Purpose::Client, now, days)?;
            for ((certificate, key), issued) in [(authorities::NEXT, next), (authorities::PROBE, probe)] {
                data.extend([(certificate.to_owned(), issued.certificate), (key.to_owned(), issued.key)]);
            }
            followed = asked.clone().or(followed);
        }
        Rotation::Promote => {
            let old = data.remove("tls.crt").zip(data.remove("tls.key"));
            let next = data.remove(authorities::NEXT.0).zip(data.remove(authorities::NEXT.1));
            let (Some((old_certificate, old_key)), Some((certificate, key))) = (old, next) else {
                return Err(CertificateError::NotAuthority);
            };
            data.remove(authorities::PROBE.0);
            data.remove(authorities::PROBE.1);
            // Passwords stay as they are.
            data.entry(authorities::PASSWORDS.to_owned()).or_insert(old_key);
            data.insert(authorities::PREVIOUS.to_owned(), old_certificate);
            data.extend([("tls.crt".to_owned(), certificate), ("tls.key".to_owned(), key)]);
        }
        Rotation::Drop => drop(data.remove(authorities::PREVIOUS)),
    }
    let mut object = secret_object(scope.cluster, name, data, false);
    let annotations = &mut object.value["metadata"]["annotations"];
    annotations[labels::CA_SINCE] = json!(now.to_string());
    if let Some(followed) = followed {
        annotations[labels::CA_ROTATED] = json!(followed);
    }
    Ok(object)
}

fn keyed(certificate: &KeyedCertificate) -> BTreeMap<String, String> {
    BTreeMap::from([("tls.crt".to_owned(), certificate.certificate.clone()), ("tls.key".to_owned(), certificate.key.clone())])
}

/// `owned`: goes with the KafkaCluster. CAs and identity do not: they outlive it where its policy is Retain.
fn metadata(cluster: &ValidCluster, name: &str, owned: bool) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(cluster.key.namespace.clone()),
        labels: Some(labels::cluster(&cluster.key.name)),
        owner_references: owned.then(|| vec![cluster.owner.clone()]),
        ..Default::default()
    }
}

fn secret_object(cluster: &ValidCluster, name: &str, data: BTreeMap<String, String>, owned: bool) -> Object {
    let data = data.into_iter().map(|(key, value)| (key, k8s_openapi::ByteString(value.into_bytes()))).collect();
    Object::of(&Secret { metadata: metadata(cluster, name, owned), type_: Some("Opaque".into()), data: Some(data), ..Default::default() })
}

/// A Secret of certificates that a CA of ours has issued: it says which wish for new ones it follows.
fn certificates_secret(cluster: &ValidCluster, name: &str, data: BTreeMap<String, String>) -> Object {
    let mut object = secret_object(cluster, name, data, true);
    if let Some(asked) = &cluster.renew_certificates {
        object.value["metadata"]["annotations"][labels::RENEW_CERTIFICATES] = json!(asked);
    }
    object
}

fn identity_map(cluster: &ValidCluster, identity: &Identity) -> Object {
    let text = serde_json::to_string(identity).expect("an identity serializes");
    Object::of(&ConfigMap {
        metadata: metadata(cluster, &names::identity(&cluster.key.name), false),
        data: Some(BTreeMap::from([(identity::KEY.to_owned(), text)])),
        ..Default::default()
    })
}

fn all(results: Each<()>) -> Result<(), AdminError> {
    results.into_iter().collect()
}

/// The client with which the brokers were asked.
fn admin(scope: &Scope<'_>) -> Result<Arc<Client>, Error> {
    let observed = scope.observed;
    let connected = scope.context.clients.get(scope.object, &observed.pods, &observed.secrets);
    let connected = connected.map_err(|error| AdminError::Unavailable(error.to_string()))?;
    Ok(connected.ok_or_else(|| AdminError::Unavailable("no broker is ready".into()))?.client)
}

/// Deletes exactly the pod that was seen: Kafka hands its partitions over before it ends.
async fn restart(scope: &Scope<'_>, pod: &PodFacts) -> Result<(), KubeError> {
    let api: Api<Pod> = Api::namespaced(scope.context.client.clone(), &scope.cluster.key.namespace);
    let preconditions = Preconditions { uid: Some(pod.uid.clone()), resource_version: Some(pod.resource_version.clone()) };
    match api.delete(&pod.name, &DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() }).await {
        // It is another by now: the next look decides.
        Err(kube::Error::Api(answer)) if answer.code == 404 || answer.code == 409 => Ok(()),
        other => other.map(drop).map_err(KubeError::request("delete", "Pod", &pod.name)),
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
    match api.patch_status(&pod.name, &PatchParams::default(), &Patch::Strategic(&patch)).await {
        // It is gone, or another of its name is there: 422, because a uid does not change.
        Err(kube::Error::Api(answer)) if [404, 409, 422].contains(&answer.code) => Ok(()),
        other => other.map(|_| ()).map_err(KubeError::request("set the readiness gate of", "Pod", &pod.name)),
    }
}
