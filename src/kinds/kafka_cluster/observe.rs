//! Reads everything that a KafkaCluster's reconcile needs to know. Reads only.

use super::api::{Authentication, CertificateIssuer, DisruptionKind, KafkaCluster, SecretRef};
use super::authorities;
use super::clients;
use super::desired::server_properties::min_in_sync;
use super::desired::volumes::volume_name;
use super::identity::{self, Identity};
use super::reconcile::Error;
use super::validate;
use crate::certificates::KeyedCertificate;
use crate::kafka::load::Load;
use crate::kafka::metadata_image::{MetadataImage, TopicImage};
use crate::kafka::node_ids::Blocks;
use crate::kafka::restart::{self, TopicView};
use crate::kafka::topic_plan::THROTTLED;
use crate::kafka_admin::connection::{Connection, Endpoint};
use crate::kafka_admin::figures::Disks;
use crate::kafka_admin::tls::TlsSettings;
use crate::kafka_admin::{Admin, AdminError, ClusterDescription, LogFolders, QuorumDescription};
use crate::kinds::reference::ClusterKey;
use crate::kube_io::{self, Live, resource};
use crate::runtime::claims::Claim;
use crate::runtime::context::Context;
use crate::{labels, names};
use base64::prelude::{BASE64_STANDARD, Engine};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::jiff::Timestamp;
use kube::api::ApiResource;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

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
    /// The Secrets of `certificates.clientAuthorities` that there are, by name.
    pub client_authorities: BTreeMap<String, SecretFacts>,
    pub volumes: Vec<Live>,
    /// Volumes by the word of the brokers that use them.
    pub disks: BTreeMap<i32, Disks>,
    /// What is in the log folders of brokers with more than one, by their own word.
    pub folders: BTreeMap<i32, LogFolders>,
    /// How busy brokers are, where something is decided by it.
    pub loads: BTreeMap<i32, Load>,
    pub pods: Vec<PodFacts>,
    pub kafka: KafkaFacts,
    /// Nodes that the spec has no more, and that hold nothing: by the metadata, and by their own log folders.
    pub emptied: BTreeSet<i32>,
    /// What nodes show of their certificates while a CA takes the place of another.
    pub probes: Probes,
}

/// Nodes that passed a look at their certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Probes {
    /// They let in who has a certificate of the next cluster's CA.
    pub trust_next: BTreeSet<i32>,
    /// Their own certificate is of the CA that signs now.
    pub serve_current: BTreeSet<i32>,
    /// Their listener for clients' certificates lets in one of the next clients' CA.
    pub trust_next_clients: BTreeSet<i32>,
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
    pub resource_version: String,
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
    /// When it is to have ended, where it is deleted.
    pub ends_by: Option<Timestamp>,
    /// The Kubernetes node that it is on.
    pub host: Option<String>,
    /// Names of the volumes with records that it has.
    pub volumes: BTreeSet<String>,
    /// What it was started with.
    pub revision: Revision,
    /// Why it does not run, in Kubernetes' words.
    pub trouble: Option<String>,
}

/// What a pod is started with and keeps to its end: as its StatefulSet's template has it, or as the pod itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Revision {
    pub image: String,
    pub config: String,
    pub template: String,
    /// The part of the KafkaCluster's spec that all of this is made from.
    pub spec: String,
    /// The value of the annotation that asked for a restart.
    pub requested: Option<String>,
    /// The controllers of which it knows where they are; `None` where nothing says so.
    pub controllers: Option<BTreeSet<i32>>,
}

impl Revision {
    /// Of a pod, or of a pod template.
    pub fn of(pod: &serde_json::Value) -> Self {
        let annotation = |key: &str| pod["metadata"]["annotations"][key].as_str().map(str::to_owned);
        Self {
            image: pod["spec"]["containers"][0]["image"].as_str().unwrap_or_default().to_owned(),
            config: annotation(labels::CONFIG_HASH).unwrap_or_default(),
            template: annotation(labels::TEMPLATE_HASH).unwrap_or_default(),
            spec: annotation(labels::SPEC_HASH).unwrap_or_default(),
            requested: annotation(labels::RESTART),
            controllers: annotation(labels::CONTROLLERS).map(|ids| ids.split(',').filter_map(|id| id.parse().ok()).collect()),
        }
    }
}

/// Names of the volumes with records that a pod, or a pod template, has.
pub fn volumes_of(pod: &serde_json::Value) -> BTreeSet<String> {
    let mounts = pod["spec"]["containers"][0]["volumeMounts"].as_array();
    let names = mounts.into_iter().flatten().filter_map(|mount| volume_name(mount["name"].as_str()?));
    names.map(str::to_owned).collect()
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
        /// By the metadata log, read as far as it was committed when the quorum was asked.
        topics: Vec<TopicView>,
        /// Dynamic configs by node id; those of every broker under the empty name.
        configs: BTreeMap<String, BTreeMap<String, String>>,
        /// Levels of features in force.
        features: BTreeMap<String, i16>,
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
    let certificates = &object.spec.certificates;
    // Only Secrets that carry the cluster's label are read: naming another's is no way to use it.
    let (namespace, name) = (&namespace, &name);
    let given = |reference: SecretRef| async move {
        let found = kube_io::get(client, namespace, &resource::<Secret>(), &reference.name).await?;
        Ok::<_, Error>(found.filter(|live| live.label(labels::CLUSTER) == Some(name)).map(|live| (reference.name, secret_facts(live))))
    };
    let given_ca = match (&certificates.issuer, &certificates.secret_ref) {
        (CertificateIssuer::Secret, Some(reference)) => given(reference.clone()).await?.map(|(_, secret)| secret),
        _ => None,
    };
    let client_authorities = futures::future::try_join_all(certificates.client_authorities.iter().cloned().map(given)).await?;
    let identity = objects
        .iter()
        .find(|live| live.resource.kind == "ConfigMap" && live.name() == names::identity(name))
        .and_then(|live| serde_json::from_str(live.value["data"][identity::KEY].as_str()?).ok());
    let pods: Vec<PodFacts> = pods.iter().filter_map(pod_facts).collect();
    let secrets: BTreeMap<String, SecretFacts> = secrets.into_iter().map(|live| (live.name().to_owned(), secret_facts(live))).collect();
    let kafka = ask_kafka(context, object, &pods, &secrets).await;
    let connected = context.clients.get(object, &pods, &secrets).ok().flatten();
    let disks = connected.as_ref().map(|connected| connected.figures.disks()).unwrap_or_default();
    let loads = match connected.as_ref().filter(|_| loads_matter(object)) {
        Some(connected) => tokio::time::timeout(clients::ASK_LIMIT, connected.client.loads()).await.unwrap_or_default(),
        None => BTreeMap::new(),
    };
    let folders = match &connected {
        Some(connected) => folders(connected.client.as_ref(), &pods).await,
        None => BTreeMap::new(),
    };
    let probes = probes(object, &pods, &secrets).await;
    let blocks = identity.as_ref().map(Identity::blocks).unwrap_or_default();
    let emptied = match &connected {
        Some(connected) => emptied(connected.client.as_ref(), &leaving(object, &blocks, &objects, &pods), &pods, &kafka).await,
        None => BTreeSet::new(),
    };
    Ok(Observed {
        emptied,
        disks,
        folders,
        loads,
        probes,
        now: Timestamp::now(),
        image: context.settings.images.get(&object.spec.version).cloned(),
        operator_namespace: context.settings.namespace.clone(),
        identity,
        objects,
        secrets,
        given_ca,
        client_authorities: client_authorities.into_iter().flatten().collect(),
        volumes,
        pods,
        kafka,
    })
}

/// Asks the brokers that have more than one log folder.
async fn folders(client: &impl Admin, pods: &[PodFacts]) -> BTreeMap<i32, LogFolders> {
    let several = pods.iter().filter(|pod| pod.broker && pod.containers_ready && !pod.deleting && pod.volumes.len() > 1);
    let ask = several.map(|pod| async move {
        let asked = tokio::time::timeout(clients::ASK_LIMIT, client.log_folders_of(pod.node_id)).await;
        Some((pod.node_id, asked.ok()?.ok()?))
    });
    futures::future::join_all(ask).await.into_iter().flatten().collect()
}

/// Replicas move as fast as brokers can bear, or a pool scales by its load.
fn loads_matter(object: &KafkaCluster) -> bool {
    let lease = object.status.as_ref().and_then(|status| status.disruption.as_ref());
    let moves = lease.is_some_and(|lease| matches!(lease.kind, DisruptionKind::Reassignment | DisruptionKind::Volumes));
    (moves && object.spec.rebalance.fixed_rate().is_none()) || object.spec.node_pools.iter().any(|pool| pool.autoscaling.is_some())
}

pub fn secret_facts(live: Live) -> SecretFacts {
    let decode = |value: &serde_json::Value| String::from_utf8(BASE64_STANDARD.decode(value.as_str()?).ok()?).ok();
    let fields = live.value["data"].as_object();
    let data = fields.into_iter().flatten().filter_map(|(key, value)| Some((key.clone(), decode(value)?))).collect();
    SecretFacts { live, data }
}

/// What the scheduler says, and what there is to do where the volume is out of reach: with a node that is gone, or in a place
/// that has none left.
fn unscheduled(message: &str, node_id: &str) -> String {
    let out_of_reach = message.contains("volume node affinity") || message.contains("taint");
    let way_out = format!(
        "; it can only be where its volume is: bring the node back, or add one there; where the volume is lost, annotate the cluster with {}={node_id}",
        labels::REPLACE
    );
    format!("not scheduled: {message}{}", if out_of_reach { way_out.as_str() } else { "" })
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
        Some(unscheduled(scheduled["message"].as_str().unwrap_or("no reason given"), ordinal))
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
        resource_version: live.value["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned(),
        stateful_set: stateful_set.to_owned(),
        node_id: ordinal.parse().ok()?,
        broker: live.label(labels::BROKER) == Some("true"),
        controller: live.label(labels::CONTROLLER) == Some("true"),
        ip: status["podIP"].as_str().map(str::to_owned),
        containers_ready: holds("ContainersReady"),
        in_sync: holds(labels::IN_SYNC),
        deleting: live.is_deleting(),
        ends_by: live.value["metadata"]["deletionTimestamp"].as_str().and_then(|time| time.parse().ok()),
        host: live.value["spec"]["nodeName"].as_str().map(str::to_owned),
        volumes: volumes_of(&live.value),
        revision: Revision::of(&live.value),
        trouble,
    })
}

async fn ask_kafka(context: &Context, object: &KafkaCluster, pods: &[PodFacts], secrets: &BTreeMap<String, SecretFacts>) -> KafkaFacts {
    let connected = match context.clients.get(object, pods, secrets) {
        Ok(Some(connected)) => connected,
        Ok(None) => return KafkaFacts::NotAsked,
        Err(error) => return KafkaFacts::Unavailable(error.to_string()),
    };
    let key = ClusterKey::of(object);
    let admin = &connected.client;
    let asked = async {
        let (cluster, quorum) = futures::try_join!(admin.describe_cluster(), admin.describe_quorum())?;
        // What is decided about replicas is decided by what is true now: the log as far as the leader says it is committed.
        if !connected.mirror.reaches(quorum.high_watermark, clients::ASK_LIMIT).await {
            return Err(AdminError::Unavailable("the metadata log is not read to its end".into()));
        }
        Ok((cluster, quorum))
    };
    let answer = match tokio::time::timeout(clients::ASK_LIMIT, asked).await {
        Ok(answer) => answer,
        Err(_) => Err(AdminError::Deadline(clients::ASK_LIMIT.as_secs())),
    };
    match answer {
        Ok((cluster, quorum)) => {
            let image = connected.mirror.read();
            let mut topics = views(&image, min_in_sync(&object.spec));
            for topic in &mut topics {
                topic.claimed = context.topics.is_claimed(&Claim { cluster: key.clone(), name: topic.name.to_string() });
                let replicas: usize = topic.partitions.iter().map(|partition| partition.replicas.len()).sum();
                topic.partition_bytes = connected.figures.bytes(&topic.name) / replicas.max(1) as u64;
            }
            let (configs, features) = (image.broker_configs().clone(), image.features().clone());
            KafkaFacts::Answered { cluster, quorum, topics, configs, features }
        }
        Err(error) => KafkaFacts::Unavailable(error.to_string()),
    }
}

/// Asks nodes by handshakes, where a CA takes the place of another.
async fn probes(object: &KafkaCluster, pods: &[PodFacts], secrets: &BTreeMap<String, SecretFacts>) -> Probes {
    let name = object.metadata.name.clone().unwrap_or_default();
    let (nodes_ca, clients_ca) = (secrets.get(&names::cluster_ca(&name)), secrets.get(&names::clients_ca(&name)));
    let Some(trusted) = nodes_ca.and_then(authorities::trusted) else { return Probes::default() };
    let mut probes = Probes::default();
    let nodes = || clients::nodes(object, pods);
    if let Some(probe) = nodes_ca.and_then(authorities::probe) {
        probes.trust_next = answer(nodes(), &trusted, &probe).await;
    }
    let own = secrets.get(&names::operator_certificate(&name)).and_then(|secret| secret.keyed("tls.crt", "tls.key"));
    if let (Some(current), Some(own)) = (nodes_ca.filter(|secret| secret.data.contains_key(authorities::PREVIOUS)), own) {
        let current = current.data.get("tls.crt").cloned().unwrap_or_default();
        probes.serve_current = answer(nodes(), &current, &own).await;
    }
    let listener = object.spec.listeners.iter().find(|listener| listener.authentication == Authentication::MutualTls);
    if let (Some(probe), Some(listener)) = (clients_ca.and_then(authorities::probe), listener) {
        probes.trust_next_clients = answer(clients::brokers(object, pods, listener.port), &trusted, &probe).await;
    }
    probes
}

/// The nodes that let a client with this certificate in, and whose own one is trusted by this.
async fn answer(endpoints: Vec<Endpoint>, trusted: &str, identity: &KeyedCertificate) -> BTreeSet<i32> {
    let Ok(tls) = TlsSettings::new(trusted, Some((&identity.certificate, &identity.key))) else { return BTreeSet::new() };
    let ask = endpoints.iter().map(|endpoint| {
        let tls = &tls;
        async move { Connection::open(endpoint, tls, None).await.is_ok().then_some(endpoint.node_id) }
    });
    futures::future::join_all(ask).await.into_iter().flatten().collect()
}

/// Nodes that run, and that the spec has no more.
fn leaving(object: &KafkaCluster, blocks: &Blocks, objects: &[Live], pods: &[PodFacts]) -> Vec<i32> {
    let cluster = object.metadata.name.as_deref().unwrap_or_default();
    let mut leaving: Vec<i32> = validate::replace(object).into_iter().collect();
    for pool in &object.spec.node_pools {
        for (zone, replicas) in validate::zones(pool, blocks) {
            let live = validate::live_nodes(objects, pods, &names::stateful_set(cluster, &pool.name, zone));
            leaving.extend(live.start + replicas..live.end);
        }
    }
    leaving
}

/// Leaving nodes that hold nothing: no replica in the metadata, no log of their own, no vote in the quorum.
async fn emptied(client: &impl Admin, leaving: &[i32], pods: &[PodFacts], kafka: &KafkaFacts) -> BTreeSet<i32> {
    let KafkaFacts::Answered { topics, quorum, .. } = kafka else { return BTreeSet::new() };
    let mut held = restart::holders(topics);
    held.extend(quorum.voters.iter().map(|voter| voter.id));
    let mut emptied = BTreeSet::new();
    for id in leaving.iter().copied().filter(|id| !held.contains(id)) {
        // One that runs must say so itself; of one that does not the metadata alone tells.
        let runs = pods.iter().any(|pod| pod.node_id == id && pod.broker && pod.containers_ready);
        if !runs || client.log_folders_of(id).await.is_ok_and(|folders| folders.is_empty()) {
            emptied.insert(id);
        }
    }
    emptied
}

const MIN_IN_SYNC: &str = "min.insync.replicas";

/// Every topic, with what its own config, the brokers' or `default` says of `min.insync.replicas`.
fn views(image: &MetadataImage, default: i16) -> Vec<TopicView> {
    let number = |text: &str| text.trim().parse::<usize>().ok();
    let default = image.brokers_config(MIN_IN_SYNC).and_then(number).unwrap_or(usize::try_from(default).unwrap_or(1));
    let view = |(name, topic): (&Arc<str>, &TopicImage)| TopicView {
        name: Arc::clone(name),
        min_in_sync: topic.config.get(MIN_IN_SYNC).and_then(number).unwrap_or(default),
        partition_bytes: 0,
        throttled: THROTTLED.iter().any(|key| topic.config.get(key).is_some()),
        claimed: false,
        partitions: topic.partitions.clone(),
    };
    let mut views: Vec<_> = image.topics().map(view).collect();
    views.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    views
}
