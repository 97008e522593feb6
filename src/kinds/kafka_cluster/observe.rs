//! Reads everything that a KafkaCluster's reconcile needs to know. Reads only.

use super::api::{CertificateIssuer, KafkaCluster};
use super::clients;
use super::identity::{self, Identity};
use super::reconcile::Error;
use crate::certificates::KeyedCertificate;
use crate::kafka_admin::{Admin, AdminError, ClusterDescription, QuorumDescription, TopicDescription};
use crate::kube_io::{self, Live, resource};
use crate::runtime::context::Context;
use crate::{labels, names};
use base64::prelude::{BASE64_STANDARD, Engine};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::jiff::Timestamp;
use kube::api::ApiResource;
use std::collections::BTreeMap;

/// Everything that was seen, as plain data.
#[derive(Clone)]
pub struct Observed {
    pub now: Timestamp,
    pub image: Option<String>,
    pub operator_namespace: String,
    pub identity: Option<Identity>,
    /// Objects with the cluster's label, but for Secrets, volumes and pods.
    pub objects: Vec<Live>,
    pub secrets: BTreeMap<String, SecretFacts>,
    /// The Secret that `certificates.secretRef` names: `None` where there is none of that name.
    pub given_ca: Option<SecretFacts>,
    pub volumes: Vec<Live>,
    pub pods: Vec<PodFacts>,
    pub kafka: KafkaFacts,
}

/// A Secret's texts. No `Debug`: it holds keys.
#[derive(Clone)]
pub struct SecretFacts {
    pub live: Live,
    pub data: BTreeMap<String, String>,
}

impl SecretFacts {
    /// The certificate and key below two keys.
    pub fn keyed(&self, certificate: &str, key: &str) -> Option<KeyedCertificate> {
        Some(KeyedCertificate { certificate: self.data.get(certificate)?.clone(), key: self.data.get(key)?.clone() })
    }
}

/// A pod of the cluster.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodFacts {
    pub name: String,
    pub uid: String,
    pub stateful_set: String,
    pub node_id: i32,
    pub broker: bool,
    pub controller: bool,
    pub ip: Option<String>,
    /// The container is started and its readiness probe succeeds.
    pub containers_ready: bool,
    /// The readiness gate as it is now.
    pub in_sync: bool,
    pub deleting: bool,
    pub config_hash: String,
    /// Why it does not run, in Kubernetes' words.
    pub trouble: Option<String>,
}

/// What the brokers said.
#[derive(Clone, Debug, Default)]
pub enum KafkaFacts {
    /// Nobody was asked: no broker runs yet.
    #[default]
    NotAsked,
    Unavailable(String),
    Answered {
        cluster: ClusterDescription,
        quorum: QuorumDescription,
        topics: Vec<TopicDescription>,
    },
}

/// The types of objects that a KafkaCluster makes, but for Secrets, volumes and pods.
pub fn object_types() -> Vec<ApiResource> {
    vec![
        resource::<ConfigMap>(),
        resource::<Service>(),
        resource::<ServiceAccount>(),
        resource::<NetworkPolicy>(),
        resource::<PodDisruptionBudget>(),
        resource::<StatefulSet>(),
    ]
}

/// Reads the world of a cluster.
pub async fn observe(context: &Context, object: &KafkaCluster) -> Result<Observed, Error> {
    let client = &context.client;
    let name = object.metadata.name.clone().unwrap_or_default();
    let namespace = object.metadata.namespace.clone().unwrap_or_default();
    let selector = format!("{},{}={name}", labels::SELECTOR, labels::CLUSTER);
    let types = object_types();
    let lists = types.iter().map(|kind| kube_io::list(client, &namespace, kind, &selector));
    let (secret, volume, pod) = (resource::<Secret>(), resource::<PersistentVolumeClaim>(), resource::<Pod>());
    let (objects, secrets, volumes, pods) = futures::try_join!(
        futures::future::try_join_all(lists),
        kube_io::list(client, &namespace, &secret, &selector),
        kube_io::list(client, &namespace, &volume, &selector),
        kube_io::list(client, &namespace, &pod, &selector),
    )?;
    let objects: Vec<Live> = objects.into_iter().flatten().collect();
    let given_ca = match (&object.spec.certificates.issuer, &object.spec.certificates.secret_ref) {
        (CertificateIssuer::Secret, Some(reference)) => {
            let found = kube_io::get(client, &namespace, &resource::<Secret>(), &reference.name).await?;
            // Only Secrets that carry the cluster's label are read: naming another's is no way to use it.
            found.filter(|live| live.label(labels::CLUSTER) == Some(&name)).map(secret_facts)
        }
        _ => None,
    };
    let identity = objects
        .iter()
        .find(|live| live.resource.kind == "ConfigMap" && live.name() == names::identity(&name))
        .and_then(|live| serde_json::from_str(live.value["data"][identity::KEY].as_str()?).ok());
    let pods: Vec<PodFacts> = pods.iter().filter_map(pod_facts).collect();
    let secrets: BTreeMap<String, SecretFacts> = secrets.into_iter().map(|live| (live.name().to_owned(), secret_facts(live))).collect();
    let kafka = ask_kafka(context, object, &pods, &secrets, given_ca.as_ref()).await;
    Ok(Observed {
        now: Timestamp::now(),
        image: context.settings.images.get(&object.spec.version).cloned(),
        operator_namespace: context.settings.namespace.clone(),
        identity,
        objects,
        secrets,
        given_ca,
        volumes,
        pods,
        kafka,
    })
}

pub fn secret_facts(live: Live) -> SecretFacts {
    let decode = |value: &serde_json::Value| String::from_utf8(BASE64_STANDARD.decode(value.as_str()?).ok()?).ok();
    let fields = live.value["data"].as_object();
    let data = fields.into_iter().flatten().filter_map(|(key, value)| Some((key.clone(), decode(value)?))).collect();
    SecretFacts { live, data }
}

/// A pod's facts; `None` for a pod that is none of a StatefulSet of ours.
pub fn pod_facts(live: &Live) -> Option<PodFacts> {
    let name = live.name();
    let (stateful_set, ordinal) = name.rsplit_once('-')?;
    let status = &live.value["status"];
    let condition = |kind: &str| {
        let all = status["conditions"].as_array();
        all.into_iter().flatten().find(|condition| condition["type"] == kind)
    };
    let holds = |kind: &str| condition(kind).is_some_and(|condition| condition["status"] == "True");
    let scheduled = condition("PodScheduled").filter(|condition| condition["status"] == "False");
    let container = &status["containerStatuses"][0];
    let waiting = &container["state"]["waiting"];
    let restarts = container["restartCount"].as_i64().unwrap_or(0);
    let trouble = if let Some(scheduled) = scheduled {
        Some(format!("not scheduled: {}", scheduled["message"].as_str().unwrap_or("no reason given")))
    } else if let Some(reason) = waiting["reason"].as_str().filter(|reason| !["ContainerCreating", "PodInitializing"].contains(reason)) {
        let message = waiting["message"].as_str().unwrap_or_default();
        Some(format!("{reason}: {message}"))
    } else if restarts > 0 && container["ready"] == false {
        let last = &container["lastState"]["terminated"];
        Some(format!(
            "restarted {restarts} times, last with exit code {} ({})",
            last["exitCode"],
            last["reason"].as_str().unwrap_or("unknown")
        ))
    } else {
        None
    };
    Some(PodFacts {
        name: name.to_owned(),
        uid: live.uid().to_owned(),
        stateful_set: stateful_set.to_owned(),
        node_id: ordinal.parse().ok()?,
        broker: live.label(labels::BROKER) == Some("true"),
        controller: live.label(labels::CONTROLLER) == Some("true"),
        ip: status["podIP"].as_str().map(str::to_owned),
        containers_ready: holds("ContainersReady"),
        in_sync: holds(labels::IN_SYNC),
        deleting: live.is_deleting(),
        config_hash: live.annotation(labels::CONFIG_HASH).unwrap_or_default().to_owned(),
        trouble,
    })
}

async fn ask_kafka(
    context: &Context,
    object: &KafkaCluster,
    pods: &[PodFacts],
    secrets: &BTreeMap<String, SecretFacts>,
    given_ca: Option<&SecretFacts>,
) -> KafkaFacts {
    let admin = match context.clients.get(object, pods, secrets, given_ca) {
        Ok(Some(connected)) => connected.client,
        Ok(None) => return KafkaFacts::NotAsked,
        Err(error) => return KafkaFacts::Unavailable(error.to_string()),
    };
    let asked = async { futures::try_join!(admin.describe_cluster(), admin.describe_quorum(), admin.describe_topics()) };
    let answer = match tokio::time::timeout(clients::ASK_LIMIT, asked).await {
        Ok(answer) => answer,
        Err(_) => Err(AdminError::Deadline(clients::ASK_LIMIT.as_secs())),
    };
    match answer {
        Ok((cluster, quorum, topics)) => KafkaFacts::Answered { cluster, quorum, topics },
        Err(error) => KafkaFacts::Unavailable(error.to_string()),
    }
}
