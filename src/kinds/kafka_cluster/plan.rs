//! Valid cluster and observed world -> the steps that bring them together, and what is waited for. Pure.

use super::api::{DisruptionStatus, KafkaCluster, RebalanceStatus, Role};
use super::authorities::{self, Rotation, Signs};
use super::desired::server_properties::dynamic_configs;
use super::desired::{self, Trust};
use super::disruption::{self, RestartReason};
use super::features;
use super::folders;
use super::identity::Identity;
use super::leaders;
use super::moves;
use super::observe::{KafkaFacts, Observed, PodFacts, SecretFacts};
use super::quorum;
use super::validate::{NodeGroup, ValidCluster};
use super::volumes;
use crate::certificates::{self, KeyedCertificate};
use crate::kafka::in_sync;
use crate::kafka::node_ids::Blocks;
use crate::kafka::restart::Blocked;
use crate::kafka_admin::{ConfigChanges, ConfigResource, Election, FolderMove, Reassignment};
use crate::kube_io::difference::differs;
use crate::kube_io::{self, Live, Object};
use crate::{labels, names};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// A pod that has not ended so long after it should have is on a node that does not answer.
const ENDING_LIMIT: SignedDuration = SignedDuration::from_secs(30);

/// Everything to do now.
#[derive(Debug, Default)]
pub struct Plan {
    pub steps: Vec<Step>,
    pub waiting_on: Vec<WaitingOn>,
    /// After these steps there is more to plan at once: what they make, the rest depends on.
    pub look_again: bool,
    /// The disruption that is under way from now on.
    pub lease: Option<DisruptionStatus>,
    /// The value of the annotation by which a broker is replaced in this plan.
    pub replaced: Option<String>,
    /// Replicas that move, or would.
    pub rebalance: Option<RebalanceStatus>,
    /// When moves ended, in this look.
    pub rebalanced: Option<Time>,
    /// One ended, and the next may begin: there is no reason to wait.
    pub look_soon: bool,
    /// What a person should know although nothing waits for it.
    pub warnings: Vec<String>,
}

/// One write.
#[derive(Debug)]
pub enum Step {
    AddFinalizer,
    /// Draws the ids that are `None`.
    CreateIdentity {
        cluster_id: Option<String>,
        blocks: Blocks,
        controllers: BTreeMap<i32, Option<String>>,
        formed: bool,
    },
    UpdateIdentity(Identity),
    CreateAuthority {
        secret: String,
        signs: Signs,
    },
    IssueOperatorCertificate {
        secret: String,
    },
    /// One step from a CA to the next.
    RotateAuthority {
        secret: String,
        signs: Signs,
        rotation: Rotation,
    },
    IssueNodeCertificates {
        secret: String,
        nodes: BTreeMap<i32, Vec<String>>,
        trust: Trust,
    },
    Apply(Box<Object>),
    Prune(Box<Live>),
    /// Deletes a StatefulSet and leaves its pods to the one that takes its place.
    Release(Box<Live>),
    /// Asks for a larger volume, or for another VolumeAttributesClass.
    ChangeVolume {
        claim: Box<Live>,
        bytes: Option<u64>,
        class: Option<String>,
    },
    SetInSync {
        pod: Box<PodFacts>,
        in_sync: bool,
    },
    /// Sets (`Some`) and removes (`None`) configs that brokers take while they run.
    AlterConfigs(Vec<(ConfigResource, ConfigChanges)>),
    /// Deletes the pod; its StatefulSet makes it anew.
    RestartPod {
        pod: Box<PodFacts>,
        reasons: Vec<RestartReason>,
    },
    ElectLeaders(Vec<Election>),
    Reassign(Vec<Reassignment>),
    /// Moves replicas between the log folders of their broker.
    MoveFolders {
        broker: i32,
        moves: Vec<FolderMove>,
    },
    /// Raises features to the levels of the version that runs.
    UpgradeFeatures(BTreeMap<String, i16>),
    /// Takes a broker that is gone from the cluster's list.
    Unregister(i32),
    /// Makes an observer a voter of the quorum.
    AddVoter {
        id: i32,
        directory: uuid::Uuid,
        host: String,
    },
    RemoveVoter {
        id: i32,
        directory: uuid::Uuid,
    },
}

impl Plan {
    /// True when every object is as it should be: only then may pods be made from them.
    pub fn is_applied(&self) -> bool {
        !self
            .steps
            .iter()
            .any(|step| matches!(step, Step::Apply(_) | Step::Release(_) | Step::UpdateIdentity(_) | Step::IssueNodeCertificates { .. }))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddFinalizer => write!(f, "add the finalizer"),
            Self::CreateIdentity { cluster_id, blocks, controllers, formed } => write!(
                f,
                "create the identity: cluster id {}, {} blocks of node ids, {} first controllers{}",
                cluster_id.as_deref().unwrap_or("new"),
                blocks.len(),
                controllers.len(),
                if *formed { ", quorum formed" } else { "" }
            ),
            Self::UpdateIdentity(identity) => write!(f, "update the identity: quorum formed: {}", identity.formed),
            Self::CreateAuthority { secret, .. } => write!(f, "create the CA in Secret {secret}"),
            Self::RotateAuthority { secret, rotation, .. } => match rotation {
                Rotation::Prepare { .. } => write!(f, "make the next CA in Secret {secret}, to be trusted too"),
                Rotation::Promote => write!(f, "let the next CA in Secret {secret} sign"),
                Rotation::Drop => write!(f, "trust the old CA in Secret {secret} no more"),
            },
            Self::IssueOperatorCertificate { secret } => write!(f, "issue the operator's certificate into Secret {secret}"),
            Self::IssueNodeCertificates { secret, nodes, .. } => {
                write!(f, "issue certificates of nodes {:?} into Secret {secret}", nodes.keys())
            }
            Self::Apply(object) => write!(f, "apply {} {}", object.kind(), object.name()),
            Self::Prune(live) => write!(f, "delete {} {}", live.resource.kind, live.name()),
            Self::Release(live) => write!(f, "make {} {} anew around its pods", live.resource.kind, live.name()),
            Self::ChangeVolume { claim, bytes, class } => {
                write!(f, "change volume {}:", claim.name())?;
                bytes.map_or(Ok(()), |bytes| write!(f, " {} large", crate::quantity::text(bytes)))?;
                class.as_ref().map_or(Ok(()), |class| write!(f, " class {class}"))
            }
            Self::AlterConfigs(changes) => {
                let words = |(resource, changes): &(ConfigResource, ConfigChanges)| {
                    let keys: Vec<_> = changes.keys().map(String::as_str).collect();
                    format!("{} of {resource}", keys.join(", "))
                };
                write!(f, "alter configs: {}", changes.iter().map(words).collect::<Vec<_>>().join("; "))
            }
            Self::RestartPod { pod, reasons } => {
                let reasons: Vec<_> = reasons.iter().map(ToString::to_string).collect();
                write!(f, "restart pod {}: {}", pod.name, reasons.join("; "))
            }
            Self::Reassign(moves) => write!(f, "reassign {} partitions", moves.len()),
            Self::MoveFolders { broker, moves } => write!(f, "move {} replicas of broker {broker} between its volumes", moves.len()),
            Self::UpgradeFeatures(levels) => {
                let levels: Vec<_> = levels.iter().map(|(name, level)| format!("{name} to {level}")).collect();
                write!(f, "upgrade features: {}", levels.join(", "))
            }
            Self::AddVoter { id, .. } => write!(f, "add controller {id} to the quorum"),
            Self::RemoveVoter { id, .. } => write!(f, "remove controller {id} from the quorum"),
            Self::Unregister(id) => write!(f, "unregister broker {id}"),
            Self::ElectLeaders(elections) => write!(f, "elect the preferred leaders of {} partitions", elections.len()),
            Self::SetInSync { pod, in_sync } => write!(f, "set {} of pod {} to {in_sync}", labels::IN_SYNC, pod.name),
        }
    }
}

/// What is waited for, as data.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WaitingOn {
    PodMissing {
        pod: String,
    },
    PodTrouble {
        pod: String,
        why: String,
    },
    PodStarting {
        pod: String,
    },
    PodEnding {
        pod: String,
    },
    /// Nobody says that a pod has ended: its Kubernetes node does not answer.
    Host {
        pod: String,
        host: String,
    },
    InSync {
        node_id: i32,
    },
    Quorum {
        voters: usize,
        of: usize,
    },
    Kafka {
        why: String,
    },
    /// Controllers that still vote.
    Voters {
        leaving: Vec<i32>,
    },
    /// A restart that would harm.
    Restart {
        why: Blocked,
    },
    /// Replicas that move.
    Moves {
        replicas: usize,
    },
    /// Somebody who approves a plan.
    Approval {
        hash: String,
    },
    /// Nodes that are still to be restarted.
    Outdated {
        nodes: usize,
    },
    /// A maintenance window.
    Window {
        opens: Option<Time>,
    },
    /// Partitions that shall be led by their preferred replicas again.
    Leaders {
        partitions: usize,
    },
    /// A volume that changes, or cannot.
    Volume {
        claim: String,
        why: String,
    },
    /// Another, older object of the same name is on its way out.
    Removal {
        kind: String,
        name: String,
    },
}

impl fmt::Display for WaitingOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PodMissing { pod } => write!(f, "pod {pod} to be created"),
            Self::PodTrouble { pod, why } => write!(f, "pod {pod}: {why}"),
            Self::PodStarting { pod } => write!(f, "pod {pod} to start"),
            Self::PodEnding { pod } => write!(f, "pod {pod} to end"),
            Self::Host { pod, host } => write!(
                f,
                "node {host} to say that pod {pod} has ended; if that node is gone for good, delete it, or taint it with \
                 node.kubernetes.io/out-of-service=nodeshutdown:NoExecute, and the pod starts again where its volume can be"
            ),
            Self::InSync { node_id } => write!(f, "node {node_id} to be in sync"),
            Self::Quorum { voters, of } => write!(f, "the quorum: {voters} of {of} voters have caught up"),
            Self::Kafka { why } => write!(f, "an answer of the brokers: {why}"),
            Self::Voters { leaving } => write!(f, "controllers {} to leave the quorum", super::status::ids(leaving)),
            Self::Restart { why } => write!(f, "a moment at which a restart harms nothing: {why}"),
            Self::Moves { replicas } => write!(f, "{replicas} replicas to be moved"),
            Self::Approval { hash } => write!(f, "an approval of the moves: annotate with {}={hash}", labels::APPROVE_REBALANCE),
            Self::Outdated { nodes } => write!(f, "{nodes} nodes to be restarted"),
            Self::Window { opens: Some(opens) } => write!(f, "the maintenance window that opens at {}", opens.0),
            Self::Window { opens: None } => write!(f, "a maintenance window; none of spec.rollout.maintenanceWindows ever opens"),
            Self::Leaders { partitions } => write!(f, "{partitions} partitions to be led by their preferred replicas"),
            Self::Volume { claim, why } => write!(f, "volume {claim}, which {why}"),
            Self::Removal { kind, name } => write!(f, "the old {kind} {name} to be gone"),
        }
    }
}

/// First node ids by what the volumes' labels say: what is left when everything else is lost.
pub fn blocks_of_volumes(volumes: &[Live]) -> Blocks {
    let block = |live: &Live| {
        let slot = (live.label(labels::POOL)?.to_owned(), live.label(labels::ZONE)?.to_owned());
        Some((slot, live.label(labels::FIRST_NODE_ID)?.parse().ok()?))
    };
    volumes.iter().filter_map(block).collect()
}

/// Plans the next steps.
pub fn plan(object: &KafkaCluster, cluster: &ValidCluster, observed: &Observed) -> Plan {
    let mut plan = Plan::default();
    if !kube_io::has_finalizer(object) {
        plan.steps.push(Step::AddFinalizer);
    }
    let name = &cluster.key.name;
    for signs in Signs::ALL {
        let secret = signs.secret(name);
        if !observed.secrets.contains_key(&secret) {
            plan.steps.push(Step::CreateAuthority { secret, signs });
        }
    }
    let identity = plan_identity(object, cluster, observed, &mut plan);
    let (Some(identity), Some(trust)) = (identity, trust(cluster, observed)) else {
        plan.look_again = true;
        return plan;
    };
    plan_certificates(cluster, observed, &trust, &mut plan);
    authorities::plan(object, cluster, observed, &mut plan);
    let desired = desired::desired(cluster, &identity, &trust);
    plan_objects(cluster, &desired, observed, &mut plan);
    if cluster.hibernated {
        let left = observed.pods.iter().map(|pod| WaitingOn::PodEnding { pod: pod.name.clone() });
        plan.waiting_on.extend(left);
        return plan;
    }
    plan_pods(cluster, observed, &mut plan);
    plan_configs(object, cluster, observed, &mut plan);
    disruption::plan(object, cluster, &desired, observed, &mut plan);
    quorum::plan(object, cluster, observed, &mut plan);
    moves::plan(object, cluster, observed, &mut plan);
    folders::plan(object, cluster, observed, &mut plan);
    plan_leaders(observed, &mut plan);
    features::plan(object, cluster, observed, &mut plan);
    volumes::plan(cluster, observed, &mut plan);
    volumes::discard(cluster, observed, &mut plan);
    plan
}

/// The identity to work with; `None` until it is made.
fn plan_identity(object: &KafkaCluster, cluster: &ValidCluster, observed: &Observed, plan: &mut Plan) -> Option<Identity> {
    let controllers = cluster.groups_of(Role::Controller).flat_map(NodeGroup::node_ids);
    let Some(identity) = &observed.identity else {
        let known = object.status.as_ref().and_then(|status| status.cluster_id.clone());
        let on_volumes = observed.volumes.iter().find_map(|volume| volume.annotation(labels::CLUSTER_ID)).map(str::to_owned);
        let cluster_id = known.or(on_volumes).or_else(|| cluster.spec.cluster_id.clone());
        // With volumes there may be a quorum on them: an empty volume must not form another one.
        let formed = !observed.volumes.is_empty();
        let controllers = controllers.map(|id| (id, None)).collect();
        plan.steps.push(Step::CreateIdentity { cluster_id, blocks: cluster.blocks.clone(), controllers, formed });
        return None;
    };
    let mut wanted = identity.clone();
    wanted.set_blocks(&cluster.blocks);
    if let KafkaFacts::Answered { quorum, .. } = &observed.kafka {
        let voters = in_sync::voters(quorum);
        wanted.formed |= !identity.initial_controllers.is_empty() && identity.initial_controllers.keys().all(|id| voters.contains(id));
    }
    if wanted != *identity {
        plan.steps.push(Step::UpdateIdentity(wanted.clone()));
    }
    Some(wanted)
}

/// The CA that issues nodes' certificates.
pub fn cluster_authority(cluster: &ValidCluster, observed: &Observed) -> Option<KeyedCertificate> {
    observed.secrets.get(&names::cluster_ca(&cluster.key.name))?.keyed("tls.crt", "tls.key")
}

/// The CA that issues clients' certificates.
pub fn clients_authority(cluster: &ValidCluster, observed: &Observed) -> Option<KeyedCertificate> {
    observed.secrets.get(&names::clients_ca(&cluster.key.name))?.keyed("tls.crt", "tls.key")
}

/// What nodes and clients trust; `None` until the CAs are made.
pub fn trust(cluster: &ValidCluster, observed: &Observed) -> Option<Trust> {
    let bundle = |signs: Signs| authorities::trusted(observed.secrets.get(&signs.secret(&cluster.key.name))?);
    let own = bundle(Signs::Clients)?;
    let cluster_ca = bundle(Signs::Nodes)?;
    let given = observed.client_authorities.values().filter_map(|secret| Some(format!("{}\n", secret.data.get("ca.crt")?.trim_end())));
    Some(Trust { cluster_ca, clients_ca: std::iter::once(own).chain(given).collect() })
}

fn plan_certificates(cluster: &ValidCluster, observed: &Observed, trust: &Trust, plan: &mut Plan) {
    let own = names::operator_certificate(&cluster.key.name);
    let secret = observed.secrets.get(&own);
    let certificate = secret.and_then(|secret| secret.data.get("tls.crt"));
    if asked_anew(cluster, secret) || !certificate.is_some_and(|certificate| is_current(cluster, observed, trust, certificate, &[])) {
        plan.steps.push(Step::IssueOperatorCertificate { secret: own });
    }
    for group in &cluster.groups {
        let nodes: BTreeMap<i32, Vec<String>> = group.node_ids().map(|id| (id, hosts(cluster, group, id))).collect();
        let secret = names::node_certificates(&group.stateful_set);
        let found = observed.secrets.get(&secret);
        let same_trust = found.is_some_and(|found| {
            found.data.get("cluster-ca.crt") == Some(&trust.cluster_ca) && found.data.get("clients-ca.crt") == Some(&trust.clients_ca)
        });
        let stale = |id: &i32, hosts: &Vec<String>| {
            let pem = found.and_then(|found: &SecretFacts| found.data.get(&format!("{id}.pem")));
            !pem.is_some_and(|pem| is_current(cluster, observed, trust, pem, hosts))
        };
        let all = !same_trust || asked_anew(cluster, found);
        let stale: BTreeMap<_, _> = nodes.into_iter().filter(|(id, hosts)| all || stale(id, hosts)).collect();
        if !stale.is_empty() {
            plan.steps.push(Step::IssueNodeCertificates { secret, nodes: stale, trust: trust.clone() });
        }
    }
}

/// The annotation asks for certificates that this Secret's are older than.
fn asked_anew(cluster: &ValidCluster, secret: Option<&SecretFacts>) -> bool {
    let followed = secret.and_then(|secret| secret.live.annotation(labels::RENEW_CERTIFICATES));
    cluster.renew_certificates.is_some() && cluster.renew_certificates.as_deref() != followed
}

/// Names under which a node is reached.
pub fn hosts(cluster: &ValidCluster, group: &NodeGroup, node_id: i32) -> Vec<String> {
    let mut hosts = vec![cluster.host(group, node_id)];
    if group.is(Role::Broker) {
        hosts.push(names::client_host(&names::pod(&group.stateful_set, node_id), &cluster.key.namespace));
        hosts.push(names::bootstrap_host(&cluster.key.name, &cluster.key.namespace));
    }
    let local: Vec<_> = hosts.iter().map(|host| format!("{host}.cluster.local")).collect();
    hosts.extend(local);
    hosts
}

fn is_current(cluster: &ValidCluster, observed: &Observed, trust: &Trust, pem: &str, hosts: &[String]) -> bool {
    let Ok(facts) = certificates::facts(pem) else { return false };
    let renew_before = SignedDuration::from_hours(24 * i64::from(cluster.spec.certificates.renew_before_days));
    let held: BTreeSet<_> = facts.hosts.iter().collect();
    facts.not_after > observed.now + renew_before && held == hosts.iter().collect() && certificates::signed_by(pem, &trust.cluster_ca)
}

fn plan_objects(cluster: &ValidCluster, desired: &[Object], observed: &Observed, plan: &mut Plan) {
    for object in desired {
        let live = observed.objects.iter().find(|live| live.resource.kind == object.kind() && live.name() == object.name());
        match live {
            Some(live) if live.is_deleting() => {
                plan.waiting_on.push(WaitingOn::Removal { kind: object.kind().to_owned(), name: object.name().to_owned() });
            }
            Some(live) if live.is_owned_by(&cluster.owner.uid) && !differs(object, live) => {}
            // A node that leaves is known by its StatefulSet alone: that one stays until it is gone.
            Some(live) if object.kind() == "StatefulSet" && volumes::needs_new_template(object, live) => {
                let leaving = cluster.groups.iter().any(|group| group.stateful_set == live.name() && group.leaving_ids().next().is_some());
                if !leaving {
                    plan.steps.push(Step::Release(Box::new(live.clone())));
                    plan.waiting_on.push(WaitingOn::Removal { kind: object.kind().to_owned(), name: object.name().to_owned() });
                }
            }
            _ => plan.steps.push(Step::Apply(Box::new(object.clone()))),
        }
    }
    let wanted: BTreeSet<_> = desired.iter().map(|object| (object.kind().to_owned(), object.name().to_owned())).collect();
    for live in observed.objects.iter().filter(|live| live.is_owned_by(&cluster.owner.uid) && !live.is_deleting()) {
        // A StatefulSet goes when it has no pods: they hold partitions. The spec's rules let go of a pool at 0 replicas alone.
        let pods = live.resource.kind == "StatefulSet" && (live.value["spec"]["replicas"] != 0 || live.value["status"]["replicas"] != 0);
        if !pods && !wanted.contains(&(live.resource.kind.clone(), live.name().to_owned())) {
            plan.steps.push(Step::Prune(Box::new(live.clone())));
        }
    }
}

fn plan_pods(cluster: &ValidCluster, observed: &Observed, plan: &mut Plan) {
    let in_sync = InSync::of(&observed.kafka);
    for group in &cluster.groups {
        for id in group.node_ids() {
            let name = names::pod(&group.stateful_set, id);
            match observed.pods.iter().find(|pod| pod.name == name) {
                None => plan.waiting_on.push(WaitingOn::PodMissing { pod: name }),
                Some(pod) => plan_pod(pod, &in_sync, observed.now, plan),
            }
        }
    }
    match &observed.kafka {
        KafkaFacts::Unavailable(why) => plan.waiting_on.push(WaitingOn::Kafka { why: why.clone() }),
        KafkaFacts::Answered { quorum, .. } => {
            let (voters, of) = (in_sync::voters(quorum).len(), quorum.voters.len());
            if voters < of {
                plan.waiting_on.push(WaitingOn::Quorum { voters, of });
            }
        }
        KafkaFacts::NotAsked => {}
    }
}

/// Keys of dynamic configs as status keeps them.
pub fn config_key(resource: &str, key: &str) -> String {
    if resource.is_empty() { key.to_owned() } else { format!("{resource}/{key}") }
}

/// Configs that brokers take while they run: those of the spec are set, those that were of the spec go.
fn plan_configs(object: &KafkaCluster, cluster: &ValidCluster, observed: &Observed, plan: &mut Plan) {
    let KafkaFacts::Answered { cluster: described, configs, .. } = &observed.kafka else { return };
    let wanted = dynamic_configs(cluster);
    let ours = object.status.as_ref().map(|status| status.dynamic_configs.as_slice()).unwrap_or_default();
    let none = BTreeMap::new();
    let mut changes = Vec::new();
    for resource in wanted.keys().chain(configs.keys()).collect::<BTreeSet<_>>() {
        let (wanted, found) = (wanted.get(resource).unwrap_or(&none), configs.get(resource).unwrap_or(&none));
        let set =
            wanted.iter().filter(|(key, value)| found.get(*key) != Some(value)).map(|(key, value)| (key.clone(), Some(value.clone())));
        let gone = found.keys().filter(|key| !wanted.contains_key(*key) && ours.contains(&config_key(resource, key)));
        let altered: ConfigChanges = set.chain(gone.map(|key| (key.clone(), None))).collect();
        let serves = |id: &i32| described.brokers.iter().any(|broker| broker.id == *id && !broker.fenced);
        let resource = match resource.parse::<i32>() {
            Err(_) => Some(ConfigResource::Brokers),
            // A broker is asked itself; one that is away later.
            Ok(id) => Some(id).filter(serves).map(ConfigResource::Broker),
        };
        changes.extend(resource.filter(|_| !altered.is_empty()).map(|resource| (resource, altered)));
    }
    if !changes.is_empty() {
        plan.steps.push(Step::AlterConfigs(changes));
    }
}

/// A broker that was away by itself, or by an eviction, leads again what it led. What is under way sees to its own leaders.
fn plan_leaders(observed: &Observed, plan: &mut Plan) {
    let KafkaFacts::Answered { topics, .. } = &observed.kafka else { return };
    if plan.lease.is_none() && plan.waiting_on.is_empty() && plan.is_applied() {
        leaders::elect(leaders::preferred(topics, |_| true), topics, plan);
    }
}

fn plan_pod(pod: &PodFacts, in_sync: &InSync, now: Timestamp, plan: &mut Plan) {
    let pod_name = || pod.name.clone();
    if pod.deleting {
        let host = pod.host.clone().filter(|_| pod.ends_by.is_some_and(|ends_by| now.duration_since(ends_by) > ENDING_LIMIT));
        plan.waiting_on.push(match host {
            Some(host) => WaitingOn::Host { pod: pod_name(), host },
            None => WaitingOn::PodEnding { pod: pod_name() },
        });
    } else if let Some(why) = &pod.trouble {
        plan.waiting_on.push(WaitingOn::PodTrouble { pod: pod_name(), why: why.clone() });
    } else if !pod.containers_ready {
        plan.waiting_on.push(WaitingOn::PodStarting { pod: pod_name() });
    }
    let is = in_sync.says(pod);
    // Where the brokers cannot be asked, the gate stays as it is: not knowing is no reason to change it.
    if let Some(is) = is.or((!pod.containers_ready).then_some(false)).filter(|is| *is != pod.in_sync) {
        plan.steps.push(Step::SetInSync { pod: Box::new(pod.clone()), in_sync: is });
    }
    if pod.containers_ready && is == Some(false) {
        plan.waiting_on.push(WaitingOn::InSync { node_id: pod.node_id });
    }
}

/// Who is in sync by what the brokers said, worked out once for all pods.
pub struct InSync(Option<(BTreeSet<i32>, BTreeSet<i32>)>);

impl InSync {
    pub fn of(kafka: &KafkaFacts) -> Self {
        let KafkaFacts::Answered { cluster, quorum, topics, .. } = kafka else { return Self(None) };
        Self(Some((in_sync::brokers(cluster, topics), in_sync::voters(quorum))))
    }

    /// Whether a node is in sync in each of its roles; `None` while nobody can say.
    pub fn says(&self, pod: &PodFacts) -> Option<bool> {
        let (brokers, voters) = self.0.as_ref()?;
        let broker = !pod.broker || brokers.contains(&pod.node_id);
        let controller = !pod.controller || voters.contains(&pod.node_id);
        Some(pod.containers_ready && broker && controller)
    }

    /// What a status counts: where nobody can say, what the gate said last.
    pub fn counts(&self, pod: &PodFacts) -> bool {
        pod.containers_ready && self.says(pod).unwrap_or(pod.in_sync)
    }
}
