//! Spec and observed world -> a valid cluster, or everything that is wrong with it at once. Pure.

use super::api::{CertificateIssuer, ClusterState, DataVolume, KafkaCluster, KafkaClusterSpec, NodePool, Role};
use super::observe::{KafkaFacts, Observed, PodFacts, SecretFacts};
use super::volumes;
use super::windows;
use crate::certificates;
use crate::kafka::config::{self, Definitions};
use crate::kafka::node_ids::{BLOCK, Blocks, Slot, allocate};
use crate::kafka::restart;
use crate::kinds::access;
use crate::kinds::error::Invalid;
use crate::kinds::reference::ClusterKey;
use crate::kube_io::Live;
use crate::{kube_io, names, quantity};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// A cluster whose every child can be made.
#[derive(Clone, Debug)]
pub struct ValidCluster {
    pub key: ClusterKey,
    pub owner: OwnerReference,
    pub spec: KafkaClusterSpec,
    pub image: String,
    /// The value of the annotation that asks for a restart of every node.
    pub restart: Option<String>,
    /// The value of the annotation that asks for new certificates.
    pub renew_certificates: Option<String>,
    /// A node that is to be emptied and given a new volume.
    pub replace: Option<i32>,
    /// No pods are to run.
    pub hibernated: bool,
    pub operator_namespace: String,
    pub blocks: Blocks,
    /// Node groups in the order of their first node id.
    pub groups: Vec<NodeGroup>,
    pub warnings: Vec<String>,
}

/// The nodes of one pool in one zone: one StatefulSet.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeGroup {
    pub stateful_set: String,
    pub pool: NodePool,
    pub zone: String,
    pub first_node_id: i32,
    /// Nodes that there should be.
    pub replicas: i32,
    /// Nodes that there are to be for now: those that leave stay until they hold nothing.
    pub running: i32,
    /// Bytes of heap.
    pub heap_bytes: u64,
    /// Volumes of each node for now, the first one first.
    pub volumes: Vec<DataVolume>,
    /// Volumes by node id to which nothing new may come.
    pub cordoned_volumes: BTreeMap<i32, BTreeSet<String>>,
}

impl NodeGroup {
    pub fn node_ids(&self) -> impl Iterator<Item = i32> + use<> {
        self.first_node_id..self.first_node_id + self.running
    }
    /// Those of them that stay.
    pub fn staying_ids(&self) -> impl Iterator<Item = i32> + use<> {
        self.first_node_id..self.first_node_id + self.replicas
    }
    /// Those of them that leave.
    pub fn leaving_ids(&self) -> impl Iterator<Item = i32> + use<> {
        self.first_node_id + self.replicas..self.first_node_id + self.running
    }
    pub fn is(&self, role: Role) -> bool {
        self.pool.roles.contains(&role)
    }
}

impl ValidCluster {
    /// Groups with a role.
    pub fn groups_of(&self, role: Role) -> impl Iterator<Item = &NodeGroup> {
        self.groups.iter().filter(move |group| group.is(role))
    }

    /// Number of nodes with a role.
    pub fn count(&self, role: Role) -> i32 {
        self.groups_of(role).map(|group| group.replicas).sum()
    }

    /// Host name of a node.
    pub fn host(&self, group: &NodeGroup, node_id: i32) -> String {
        names::host(&names::pod(&group.stateful_set, node_id), &self.key.name, &self.key.namespace)
    }
}

const MIB: u64 = 1024 * 1024;
/// A broker with less does not start.
const HEAP_BYTES_MIN: u64 = 192 * MIB;
/// Kafka gains nothing from more heap; the page cache does.
const HEAP_BYTES_MAX: u64 = 6 * 1024 * MIB;
pub const MEMORY_DEFAULT: &str = "1Gi";
/// Metaspace, threads, code and direct buffers beside the heap.
const BESIDE_HEAP_BYTES: u64 = 256 * MIB;

/// What is wrong whatever the world is, and what is allowed but unwise: for the webhook too. `image`: that of the version.
pub fn check(spec: &KafkaClusterSpec, image: Option<&String>) -> (Vec<Invalid>, Vec<String>) {
    let mut invalids = Vec::new();
    let mut warnings = Vec::new();
    let mut invalid = |field: &str, why: String| invalids.push(Invalid::new(field, why));
    match (config::definitions(&spec.version), image) {
        (None, _) => invalid("spec.version", format!("{:?} is not known; use one of {}", spec.version, config::VERSIONS.join(", "))),
        (Some(_), None) => invalid("spec.version", format!("no image is configured for {}; set images.kafka in the chart", spec.version)),
        (Some(definitions), Some(_)) => check_configs(spec, definitions, &mut invalid, &mut warnings),
    }
    check_replication(spec, &mut invalid);
    check_storage(spec, &mut invalid);
    for pool in &spec.node_pools {
        let field = format!("spec.nodePools[{}]", pool.name);
        if pool.per_zone() > BLOCK {
            invalid(&format!("{field}.replicas"), format!("more than {BLOCK} nodes in a zone; add a pool"));
        }
        if let Err((inner, why)) = heap(pool) {
            invalid(&format!("{field}.{inner}"), why);
        }
    }
    let controllers = sum(spec, Role::Controller);
    if controllers == 0 {
        invalid("spec.nodePools", "no controllers are left; give a pool of controllers replicas".into());
    }
    if controllers > 0 && controllers.is_multiple_of(2) {
        warnings.push(format!("{controllers} controllers tolerate no more failures than {}: an odd number is better", controllers - 1));
    }
    if spec.listeners.is_empty() {
        warnings.push("no listeners: only the operator can connect; add one to spec.listeners".into());
    }
    if spec.certificates.renew_before_days >= spec.certificates.validity_days {
        invalid(
            "spec.certificates.renewBeforeDays",
            "not below validityDays, so that certificates would be issued for ever; lower it".into(),
        );
    }
    if let Some(pattern) = spec.access.topic_names.as_ref().and_then(|names| names.pattern.as_ref())
        && let Err(why) = access::name_pattern(pattern)
    {
        invalid("spec.access.topicNames.pattern", format!("not a regular expression: {}", why.replace('\n', " ")));
    }
    for (index, window) in spec.rollout.maintenance_windows.iter().enumerate() {
        if let Err(why) = windows::schedule(window) {
            invalid(&format!("spec.rollout.maintenanceWindows[{index}]"), why);
        }
    }
    (invalids, warnings)
}

/// Checks everything.
///
/// # Errors
/// All that is wrong, not only the first.
pub fn validate(object: &KafkaCluster, observed: &Observed) -> Result<ValidCluster, Vec<Invalid>> {
    let spec = &object.spec;
    let key = ClusterKey::of(object);
    let (mut invalids, mut warnings) = check(spec, observed.image.as_ref());
    let mut invalid = |field: &str, why: String| invalids.push(Invalid::new(field, why));
    check_version(object, observed, &mut invalid);
    check_identity(spec, observed, &mut invalid);
    check_authority(spec, observed.given_ca.as_ref(), &key.name, &mut invalid);
    check_client_authorities(spec, observed, &key.name, &mut invalid);
    let slots = slots(spec);
    let given = observed
        .identity
        .as_ref()
        .map(super::identity::Identity::blocks)
        .unwrap_or_else(|| super::plan::blocks_of_volumes(&observed.volumes));
    let blocks = allocate(&given, slots);
    let groups = groups(&sorted(spec), &key, &blocks, observed);
    check_leaving_volumes(&spec.version, &groups, &mut invalid);
    let replace = replace(object).filter(|id| is_replaceable(*id, &groups, &mut warnings));
    if !invalids.is_empty() {
        return Err(invalids);
    }
    let annotation = |key: &str| object.metadata.annotations.as_ref().and_then(|all| all.get(key)).cloned();
    Ok(ValidCluster {
        key,
        owner: kube_io::owner(object),
        spec: sorted(spec),
        image: observed.image.clone().unwrap_or_default(),
        replace,
        hibernated: is_hibernated(object, &groups),
        restart: annotation(crate::labels::RESTART),
        renew_certificates: annotation(crate::labels::RENEW_CERTIFICATES),
        operator_namespace: observed.operator_namespace.clone(),
        blocks,
        groups,
        warnings,
    })
}

/// The spec with its lists in the order of names: the order in which somebody wrote them means nothing.
fn sorted(spec: &KafkaClusterSpec) -> KafkaClusterSpec {
    let mut spec = spec.clone();
    spec.listeners.sort_by(|a, b| a.name.cmp(&b.name));
    spec.node_pools.sort_by(|a, b| a.name.cmp(&b.name));
    spec.authorization.super_users.sort_unstable();
    for pool in &mut spec.node_pools {
        pool.roles.sort_unstable();
        pool.zones.sort_unstable();
    }
    spec
}

/// Reconciling is stopped by the spec.
pub fn is_paused(object: &KafkaCluster) -> bool {
    object.spec.state == ClusterState::Paused
}

/// Of a controller's vote two others must be left.
fn is_replaceable(id: i32, groups: &[NodeGroup], warnings: &mut Vec<String>) -> bool {
    let controllers: i32 = groups.iter().filter(|group| group.is(Role::Controller)).map(|group| group.replicas).sum();
    let group = groups.iter().find(|group| group.node_ids().any(|node| node == id));
    let why = match group {
        None => "there is no such node",
        Some(group) if group.is(Role::Controller) && controllers < 3 => "its vote cannot be spared: there are fewer than three controllers",
        Some(_) => return true,
    };
    warnings.push(format!("{}: node {id} cannot be replaced: {why}", crate::labels::REPLACE));
    false
}

/// The node that the annotation names and that has not been replaced by it yet.
pub fn replace(object: &KafkaCluster) -> Option<i32> {
    let asked = object.metadata.annotations.as_ref()?.get(crate::labels::REPLACE)?;
    let followed = object.status.as_ref().and_then(|status| status.replaced.as_ref());
    if Some(asked) == followed { None } else { asked.trim().parse().ok() }
}

/// Asked to sleep, and nothing is under way that would be left half done.
fn is_hibernated(object: &KafkaCluster, groups: &[NodeGroup]) -> bool {
    let busy = object.status.as_ref().is_some_and(|status| status.disruption.is_some());
    let leaving = groups.iter().any(|group| group.leaving_ids().next().is_some());
    object.spec.state == ClusterState::Hibernated && !busy && !leaving
}

fn slots(spec: &KafkaClusterSpec) -> impl Iterator<Item = Slot> + '_ {
    spec.node_pools.iter().flat_map(|pool| pool.zones.iter().map(|zone| (pool.name.clone(), zone.clone())))
}

pub fn sum(spec: &KafkaClusterSpec, role: Role) -> u32 {
    spec.node_pools.iter().filter(|pool| pool.roles.contains(&role)).map(|pool| pool.replicas).sum()
}

/// A version that cannot read the cluster's metadata is refused.
fn check_version(object: &KafkaCluster, observed: &Observed, invalid: &mut impl FnMut(&str, String)) {
    let status = object.status.as_ref();
    let (Some(running), wanted) = (status.and_then(|status| status.kafka_version.as_deref()), object.spec.version.as_str()) else { return };
    let Some(definitions) = config::definitions(wanted) else { return };
    if config::order(wanted) >= config::order(running) {
        return;
    }
    let told =
        if let KafkaFacts::Answered { features, .. } = &observed.kafka { features.get(config::METADATA_VERSION).copied() } else { None };
    let Some(level) = told.or_else(|| status.and_then(|status| status.metadata_version)) else {
        return invalid("spec.version", format!("the cluster runs {running}, and its metadata.version is not known yet; set {running}"));
    };
    let readable = definitions.features.get(config::METADATA_VERSION).copied().unwrap_or(0);
    if level > readable {
        invalid(
            "spec.version",
            format!(
                "metadata.version is at level {level}, and Kafka {wanted} reads up to {readable}: nodes of it would not start; set {running}"
            ),
        );
    }
}

fn check_configs(spec: &KafkaClusterSpec, definitions: &Definitions, invalid: &mut impl FnMut(&str, String), warnings: &mut Vec<String>) {
    let pools = spec.node_pools.iter().map(|pool| (format!("spec.nodePools[{}].config", pool.name), &pool.config));
    for (field, values) in std::iter::once(("spec.config".to_owned(), &spec.config)).chain(pools) {
        for (key, value) in values {
            if let Some(why) = config::refuse_broker_config(definitions, key, value) {
                invalid(&format!("{field}[{key}]"), why);
            }
            let deprecated = definitions.broker.get(key).map(|definition| &definition.deprecated).filter(|words| !words.is_empty());
            warnings.extend(deprecated.map(|words| format!("{field}[{key}]: {words}")));
        }
    }
}

/// Replication factors and min.insync.replicas against the number of brokers.
fn check_replication(spec: &KafkaClusterSpec, invalid: &mut impl FnMut(&str, String)) {
    let brokers = sum(spec, Role::Broker);
    if brokers == 0 {
        invalid("spec.nodePools", "no brokers are left; give a pool of brokers replicas".into());
    }
    let keys = [
        "default.replication.factor",
        "offsets.topic.replication.factor",
        "transaction.state.log.replication.factor",
        "share.coordinator.state.topic.replication.factor",
        "min.insync.replicas",
    ];
    for key in keys {
        if let Some(value) = spec.config.get(key).and_then(|value| value.trim().parse::<u32>().ok())
            && value > brokers
        {
            invalid(&format!("spec.config[{key}]"), format!("{value} is above the number of brokers, {brokers}; lower it or add brokers"));
        }
    }
}

fn check_storage(spec: &KafkaClusterSpec, invalid: &mut impl FnMut(&str, String)) {
    for (pool, volume) in spec.node_pools.iter().flat_map(|pool| pool.storage.all().into_iter().map(move |volume| (pool, volume))) {
        let inner = if volume.name.is_empty() { String::new() } else { format!(".volumes[{}]", volume.name) };
        let field = format!("spec.nodePools[{}].storage{inner}", pool.name);
        let size = quantity::bytes(&volume.size);
        if size.is_none() {
            invalid(&format!("{field}.size"), "not a quantity such as 500Gi".into());
        }
        let Some(grow) = &volume.auto_grow else { continue };
        match quantity::bytes(&grow.max_size) {
            None => invalid(&format!("{field}.autoGrow.maxSize"), "not a quantity such as 2Ti".into()),
            Some(most) if size.is_some_and(|size| most < size) => {
                invalid(&format!("{field}.autoGrow.maxSize"), format!("below size, {}; raise it", volume.size.0));
            }
            Some(_) => {}
        }
    }
}

/// A volume can only be emptied for good where a broker can be told to put nothing new on it (KIP-1066).
fn check_leaving_volumes(version: &str, groups: &[NodeGroup], invalid: &mut impl FnMut(&str, String)) {
    if config::can_cordon(version) {
        return;
    }
    for group in groups {
        for volume in group.volumes.iter().filter(|volume| !group.pool.storage.has(&volume.name)) {
            let field = format!("spec.nodePools[{}].storage.volumes", group.pool.name);
            invalid(
                &field,
                format!("Kafka {version} cannot empty volume {}: put it back, and take it away with Kafka 4.3 or newer", volume.name),
            );
        }
    }
}

fn check_identity(spec: &KafkaClusterSpec, observed: &Observed, invalid: &mut impl FnMut(&str, String)) {
    if let (Some(wanted), Some(identity)) = (&spec.cluster_id, &observed.identity)
        && *wanted != identity.cluster_id
    {
        invalid(
            "spec.clusterId",
            format!("the volumes of this name belong to cluster {}; set that, or take another name", identity.cluster_id),
        );
    }
}

fn check_authority(spec: &KafkaClusterSpec, given: Option<&SecretFacts>, cluster: &str, invalid: &mut impl FnMut(&str, String)) {
    let (CertificateIssuer::Secret, Some(reference)) = (spec.certificates.issuer, &spec.certificates.secret_ref) else { return };
    let field = "spec.certificates.secretRef";
    let Some(secret) = given else {
        return invalid(
            field,
            format!("no Secret {} with the label freehold.dev/cluster: {cluster}; create it or label it", reference.name),
        );
    };
    for key in ["tls.crt", "tls.key"] {
        if !secret.data.contains_key(key) {
            return invalid(field, format!("Secret {} has no key {key}; it needs a CA's tls.crt and tls.key", reference.name));
        }
    }
    if let Some(authority) = secret.keyed("tls.crt", "tls.key")
        && let Err(error) = certificates::check_authority(&authority)
    {
        invalid(field, format!("Secret {}: {error}", reference.name));
    }
}

fn check_client_authorities(spec: &KafkaClusterSpec, observed: &Observed, cluster: &str, invalid: &mut impl FnMut(&str, String)) {
    for reference in &spec.certificates.client_authorities {
        let (field, name) = (format!("spec.certificates.clientAuthorities[{}]", reference.name), &reference.name);
        let secret = observed.client_authorities.get(name);
        match secret.map(|secret| secret.data.get("ca.crt")) {
            None => invalid(&field, format!("no Secret {name} with the label freehold.dev/cluster: {cluster}; create it or label it")),
            Some(None) => invalid(&field, format!("Secret {name} has no key ca.crt; it needs the CA's certificate there, as PEM")),
            Some(Some(pem)) => {
                if let Err(error) = certificates::check_trusted(pem) {
                    invalid(&field, format!("Secret {name}, ca.crt: {error}"));
                }
            }
        }
    }
}

/// Zones of a pool with the nodes that each is to have: none in a zone that the spec has no more.
pub fn zones<'a>(pool: &'a NodePool, blocks: &'a Blocks) -> impl Iterator<Item = (&'a str, i32)> {
    let left = blocks.keys().filter(|(name, zone)| *name == pool.name && !pool.zones.contains(zone));
    pool.zones.iter().map(|zone| (zone.as_str(), pool.per_zone())).chain(left.map(|(_, zone)| (zone.as_str(), 0)))
}

fn groups(spec: &KafkaClusterSpec, key: &ClusterKey, blocks: &Blocks, observed: &Observed) -> Vec<NodeGroup> {
    let mut groups = Vec::new();
    let held = if let KafkaFacts::Answered { topics, .. } = &observed.kafka { restart::holders(topics) } else { BTreeSet::new() };
    for pool in &spec.node_pools {
        let Ok(heap_bytes) = heap(pool) else { continue };
        for (zone, replicas) in zones(pool, blocks) {
            let Some(first_node_id) = blocks.get(&(pool.name.clone(), zone.to_owned())).copied() else { continue };
            let stateful_set = names::stateful_set(&key.name, &pool.name, zone);
            // Whoever holds a replica is a node, whatever became of its pod: it has to give it away first.
            let held = held.range(first_node_id..first_node_id + BLOCK).next_back().map_or(0, |last| last + 1 - first_node_id);
            let live = live_nodes(&observed.objects, &observed.pods, &stateful_set);
            let running = running(&live, first_node_id, replicas, observed).max(held);
            if running > 0 || !live.is_empty() || pool.zones.iter().any(|wanted| wanted == zone) {
                let cordoned_volumes = volumes::cordoned(pool, &stateful_set, &observed.pods);
                let volumes = volumes::mounted(pool, &stateful_set, first_node_id..first_node_id + running, observed);
                let (pool, zone) = (pool.clone(), zone.to_owned());
                groups.push(NodeGroup {
                    stateful_set,
                    pool,
                    zone,
                    first_node_id,
                    replicas,
                    running,
                    heap_bytes,
                    volumes,
                    cordoned_volumes,
                });
            }
        }
    }
    groups.sort_by_key(|group| group.first_node_id);
    groups
}

/// Ids of the nodes that a StatefulSet is to run at present. While it is made anew its pods are there without it, and tell.
pub fn live_nodes(objects: &[Live], pods: &[PodFacts], stateful_set: &str) -> Range<i32> {
    let live = objects.iter().find(|live| live.resource.kind == "StatefulSet" && live.name() == stateful_set);
    let Some(live) = live.filter(|live| !live.is_deleting()) else {
        let ids = || pods.iter().filter(|pod| pod.stateful_set == stateful_set && !pod.deleting).map(|pod| pod.node_id);
        return ids().min().zip(ids().max()).map_or(0..0, |(first, last)| first..last + 1);
    };
    let number = |path: &str| live.value.pointer(path).and_then(|value| i32::try_from(value.as_i64()?).ok()).unwrap_or(0);
    let (first, count) = (number("/spec/ordinals/start"), number("/spec/replicas"));
    first..first + count
}

/// Nodes of a group for now: what its StatefulSet runs already, less the last ones that hold nothing any more.
fn running(live: &Range<i32>, first_node_id: i32, replicas: i32, observed: &Observed) -> i32 {
    let count = i32::try_from(live.len()).unwrap_or(i32::MAX);
    let mut running = if live.is_empty() { replicas } else { replicas.max(count).max(live.end - first_node_id) };
    while running > replicas && observed.emptied.contains(&(first_node_id + running - 1)) {
        running -= 1;
    }
    running
}

/// Bytes of heap of a pool's nodes.
///
/// # Errors
/// The field of the pool that is wrong, and why.
fn heap(pool: &NodePool) -> Result<u64, (&'static str, String)> {
    let limit = pool.resources.as_ref().and_then(|resources| resources.limits.as_ref()).and_then(|limits| limits.get("memory"));
    let default = Quantity(MEMORY_DEFAULT.into());
    let Some(memory) = quantity::bytes(limit.unwrap_or(&default)) else {
        return Err(("resources.limits.memory", "not a quantity such as 2Gi".into()));
    };
    let field = "jvm.heap";
    let heap = match &pool.jvm.heap {
        Some(heap) => quantity::bytes(heap).ok_or_else(|| (field, "not a quantity such as 512Mi".to_owned()))?,
        None => (memory / 2).min(HEAP_BYTES_MAX),
    };
    if heap < HEAP_BYTES_MIN {
        return Err((field, format!("{} Mi are too few for a broker to start; give 192Mi or more", heap / MIB)));
    }
    if heap + BESIDE_HEAP_BYTES > memory {
        let (heap, memory) = (heap / MIB, memory / MIB);
        let why = format!(
            "a heap of {heap} Mi and the 256 Mi that a JVM needs beside it are above the memory limit, {memory} Mi; lower it or raise the limit"
        );
        return Err((field, why));
    }
    Ok(heap)
}
