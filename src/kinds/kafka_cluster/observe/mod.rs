//! Reads everything that the reconcile of a KafkaCluster needs. It never writes. Raw JSON is
//! converted to typed facts here.

pub mod kafka;
pub mod probes;

use crate::api::kafka_cluster::{CertificateIssuer, KafkaCluster, SecretRef};
use crate::clusters::connections::Connected;
use crate::kinds::error::Error;
use crate::kinds::kafka_cluster::certificates::overwritten;
use crate::kinds::kafka_cluster::configuration;
use crate::kinds::kafka_cluster::connections;
use crate::kinds::kafka_cluster::context::Context;
use crate::kinds::kafka_cluster::model::child_names::Neighbour;
use crate::kinds::kafka_cluster::observed;
use crate::kinds::kafka_cluster::observed::{
    Claim, Identity, KafkaFacts, Objects, Observed, PodFacts, SecretFacts, StatefulSetFacts,
    pod_facts, secret_facts,
};
use crate::kinds::kafka_cluster::validate::removed_pools;
use crate::kinds::pods_not_made;
use crate::kubernetes;
use crate::kubernetes::{Live, labels, names, resource};
use crate::tenancy::ownership::last_certificate;
use freehold_kafka::load::Load;
use freehold_kafka::metadata_image::MetadataImage;
use freehold_kafka_client::figures::Disks;
use freehold_kafka_client::{Admin, LogFolders};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{
    ConfigMap, PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount,
};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::jiff::Timestamp;
use kube::api::ApiResource;
use std::collections::{BTreeMap, BTreeSet};

/// The types of a KafkaCluster's child objects, except Secrets, volumes and pods.
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

/// Reads the observed state of a cluster from Kubernetes and Kafka.
///
/// # Errors
/// The API server does not answer. What Kafka does not answer is part of the observed state.
pub async fn observe(context: &Context, object: &KafkaCluster) -> Result<Observed, Error> {
    let name = object.metadata.name.as_deref().unwrap_or_default();
    let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
    let Children {
        objects,
        mut secrets,
        volumes,
        foreign_claims,
        pods,
    } = children(context, namespace, name).await?;
    let Given {
        authority,
        client_authorities,
    } = given(context, object).await?;
    overwritten::set_aside(name, &mut secrets, &client_authorities);
    let identity: Option<Identity> = objects
        .config(&names::identity(name), observed::identity::KEY)
        .and_then(|text| serde_json::from_str(text).ok());
    let Asked {
        kafka,
        disks,
        loads,
        folders,
        threads,
        certified,
        connected,
    } = ask(context, object, &pods, &secrets).await;
    let probes = probes::probes(object, &pods, &secrets).await;
    let not_created = not_created(context, namespace, &objects, &pods).await;
    let blocks = identity.as_ref().map(Identity::blocks).unwrap_or_default();
    let emptied = match &connected {
        Some(connected) => {
            let leaving = removed_pools::leaving(object, &blocks, &objects, &pods);
            kafka::emptied(connected.client.as_ref(), &leaving, &pods, &kafka).await
        }
        None => BTreeSet::new(),
    };
    Ok(Observed {
        emptied,
        disks,
        folders,
        threads,
        attempts: context.attempts.of(object),
        certified,
        lost_since: context.lost.of(object, Timestamp::now()),
        loads,
        probes,
        now: Timestamp::now(),
        image: context.settings.images.get(&object.spec.version).cloned(),
        operator_namespace: context.settings.namespace.clone(),
        image_pull_secrets: context.settings.image_pull_secrets.clone(),
        cluster_domain: context.settings.cluster_domain.clone(),
        identity,
        objects,
        retained: retained_secrets(context, object, &secrets),
        secrets,
        given_ca: authority,
        client_authorities,
        volumes,
        foreign_claims,
        neighbours: neighbours(context, object),
        pods,
        not_created,
        kafka,
    })
}

/// The other KafkaClusters in the namespace.
fn neighbours(context: &Context, object: &KafkaCluster) -> Vec<Neighbour> {
    let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
    let all = context.kafka_clusters.in_namespace(namespace);
    all.iter()
        .filter(|other| other.metadata.name != object.metadata.name)
        .map(|other| Neighbour::of(other))
        .collect()
}

/// The objects that belong to a cluster.
struct Children {
    objects: Objects,
    secrets: BTreeMap<String, SecretFacts>,
    volumes: Vec<Claim>,
    /// See [`Observed::foreign_claims`].
    foreign_claims: BTreeMap<String, String>,
    pods: Vec<PodFacts>,
}

async fn children(context: &Context, namespace: &str, name: &str) -> Result<Children, Error> {
    let client = &context.client;
    let selector = format!("{},{}={name}", labels::SELECTOR, labels::CLUSTER);
    let types = object_types();
    let lists = types
        .iter()
        .map(|kind| kubernetes::list(client, namespace, kind, &selector));
    let (secret, volume, pod) = (
        resource::<Secret>(),
        resource::<PersistentVolumeClaim>(),
        resource::<Pod>(),
    );
    let (objects, secrets, volumes, pods) = futures::try_join!(
        futures::future::try_join_all(lists),
        kubernetes::list(client, namespace, &secret, &selector),
        kubernetes::list(client, namespace, &volume, labels::SELECTOR),
        kubernetes::list(client, namespace, &pod, &selector),
    )?;
    let (volumes, foreign): (Vec<Live>, Vec<Live>) = volumes
        .into_iter()
        .partition(|live| live.label(labels::CLUSTER) == Some(name));
    let claim_of = |live: &Live| {
        Some((
            live.name().to_owned(),
            live.label(labels::CLUSTER)?.to_owned(),
        ))
    };
    Ok(Children {
        objects: Objects::of(objects.into_iter().flatten().collect()),
        secrets: secrets
            .into_iter()
            .map(|live| (live.name().to_owned(), secret_facts(live)))
            .collect(),
        volumes: volumes.into_iter().map(Claim::of).collect(),
        foreign_claims: foreign.iter().filter_map(claim_of).collect(),
        pods: pods.iter().filter_map(pod_facts).collect(),
    })
}

/// The Secrets that the spec names.
struct Given {
    /// See [`Observed::given_ca`].
    authority: Option<SecretFacts>,
    client_authorities: BTreeMap<String, SecretFacts>,
}

async fn given(context: &Context, object: &KafkaCluster) -> Result<Given, Error> {
    let certificates = &object.spec.certificates;
    let authority = match (&certificates.issuer, &certificates.secret_ref) {
        (CertificateIssuer::Secret, Some(reference)) => {
            given_secret(context, object, reference).await?
        }
        _ => None,
    };
    let references = certificates.client_authorities.iter();
    let client_authorities = references.map(|reference| given_secret(context, object, reference));
    let client_authorities = futures::future::try_join_all(client_authorities).await?;
    Ok(Given {
        authority: authority.map(|(_, secret)| secret),
        client_authorities: client_authorities.into_iter().flatten().collect(),
    })
}

/// A Secret that the spec names. Only Secrets with the cluster's label are used, so that a spec
/// cannot use a Secret of somebody else by naming it.
async fn given_secret(
    context: &Context,
    object: &KafkaCluster,
    reference: &SecretRef,
) -> Result<Option<(String, SecretFacts)>, Error> {
    let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
    let secret = resource::<Secret>();
    let found = kubernetes::get(&context.client, namespace, &secret, &reference.name).await?;
    Ok(found
        .filter(|live| live.label(labels::CLUSTER) == object.metadata.name.as_deref())
        .map(|live| (reference.name.clone(), secret_facts(live))))
}

/// See [`Observed::retained`].
fn retained_secrets(
    context: &Context,
    object: &KafkaCluster,
    secrets: &BTreeMap<String, SecretFacts>,
) -> BTreeMap<String, SecretFacts> {
    let name = object.metadata.name.as_deref().unwrap_or_default();
    let keys = [
        names::cluster_ca(name),
        names::clients_ca(name),
        names::password_key(name),
    ];
    let uid = object.metadata.uid.as_deref().unwrap_or_default();
    context.retained_secrets.keep(uid, &keys, secrets)
}

/// What the brokers answer; see [`Observed`].
struct Asked {
    kafka: KafkaFacts,
    disks: BTreeMap<i32, Disks>,
    loads: BTreeMap<i32, Load>,
    folders: BTreeMap<i32, LogFolders>,
    threads: BTreeMap<i32, BTreeMap<String, u32>>,
    certified: BTreeMap<String, String>,
    connected: Option<Connected>,
}

async fn ask(
    context: &Context,
    object: &KafkaCluster,
    pods: &[PodFacts],
    secrets: &BTreeMap<String, SecretFacts>,
) -> Asked {
    let kafka = kafka::ask_kafka(context, object, pods, secrets).await;
    let connected = context.clients.get(object, pods, secrets).ok().flatten();
    let loads = match connected.as_ref().filter(|_| kafka::loads_matter(object)) {
        Some(connected) => tokio::time::timeout(connections::ASK_LIMIT, connected.client.loads())
            .await
            .unwrap_or_default(),
        None => BTreeMap::new(),
    };
    let folders = match &connected {
        Some(connected) => kafka::folders(connected.client.as_ref(), pods).await,
        None => BTreeMap::new(),
    };
    let threads = match (&connected, &kafka) {
        (Some(connected), KafkaFacts::Answered { configs, .. }) => {
            let keys = configuration::threads_to_ask(object, pods, configs);
            kafka::threads(&connected.client, &keys, pods).await
        }
        _ => BTreeMap::new(),
    };
    let certified = connected
        .as_ref()
        .map(|connected| certified(object, &connected.mirror.read()));
    Asked {
        kafka,
        disks: connected
            .as_ref()
            .map(|connected| connected.figures.disks())
            .unwrap_or_default(),
        loads,
        folders,
        threads,
        certified: certified.unwrap_or_default(),
        connected,
    }
}

/// The super users in whose name a User of another namespace has a valid certificate.
fn certified(object: &KafkaCluster, image: &MetadataImage) -> BTreeMap<String, String> {
    let home = object.metadata.namespace.as_deref().unwrap_or_default();
    let holder = |name: &String| {
        let (until, owner) = last_certificate(image, name, |owner| owner.namespace != home)?;
        let words =
            format!("User {owner} has a certificate in this name, which is valid until {until}");
        (until > Timestamp::now()).then(|| (name.clone(), words))
    };
    object
        .spec
        .authorization
        .super_users
        .iter()
        .filter_map(holder)
        .collect()
}

/// Reads the events of StatefulSets that lack pods and have none that is being deleted. Only events
/// say why a pod was not created.
async fn not_created(
    context: &Context,
    namespace: &str,
    objects: &Objects,
    pods: &[PodFacts],
) -> BTreeMap<String, String> {
    let lacks = |set: &&StatefulSetFacts| {
        let wanted = set.replicas.and_then(|count| usize::try_from(count).ok());
        let own = || pods.iter().filter(|pod| pod.stateful_set == set.name());
        own().count() < wanted.unwrap_or(0) && !own().any(|pod| pod.deleting)
    };
    let mut all = BTreeMap::new();
    for set in objects.stateful_sets().iter().filter(lacks) {
        let key = (namespace.to_owned(), set.name().to_owned());
        let ask = pods_not_made::why(&context.client, namespace, set.name(), set.live.uid());
        match context.refusals.get(&key, ask).await {
            Ok(why) => all.extend(why.map(|why| (set.name().to_owned(), why))),
            // The missing pods are reported in any case, only without the reason.
            Err(error) => tracing::debug!(%error, set = set.name(), "cannot read events"),
        }
    }
    all
}
