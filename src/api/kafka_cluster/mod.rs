//! The KafkaCluster resource: its spec, its status, and every rule that the API server itself can
//! check.
#![allow(
    clippy::duplicated_attributes,
    reason = "printer columns have types and sources in common"
)]

mod pod_template;
mod pools;
pub mod resources;
mod status;

pub use pod_template::*;
pub use pools::*;
pub use status::*;

use crate::kubernetes::quantity;
use freehold_kafka::config_values;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A Kafka cluster (KRaft) on this Kubernetes.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "freehold.dev",
    version = "v1alpha1",
    kind = "KafkaCluster",
    plural = "kafkaclusters",
    shortname = "kc",
    category = "freehold",
    namespaced,
    status = "KafkaClusterStatus",
    doc = "A Kafka cluster (KRaft): node pools over zones, TLS on every listener, ACLs that deny by default.",
    validation = Rule::new("size(self.metadata.name) <= 40").message("metadata.name: at most 40 characters, so that the names of its pods fit"),
    validation = Rule::new("!self.metadata.name.contains('.')").message("metadata.name: no dots, because it is part of host names"),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.kafkaVersion"),
    printcolumn(name = "Brokers", type_ = "string", json_path = ".status.brokers"),
    printcolumn(name = "Quorum", type_ = "string", json_path = ".status.quorum.summary"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.reason"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.nodePools.exists(p, 'controller' in p.roles && p.replicas > 0)")
        .message("nodePools: one pool with replicas needs the role controller"),
    validation = Rule::new("self.nodePools.exists(p, 'broker' in p.roles)")
        .message("nodePools: one pool needs the role broker"),
    validation = Rule::new("oldSelf.nodePools.all(o, o.replicas == 0 || self.nodePools.exists(p, p.name == o.name))")
        .message("nodePools: a pool can be removed once its replicas are 0: set that first, so that its brokers are drained"),
    validation = Rule::new("!has(oldSelf.state) || oldSelf.state != 'Hibernated' || oldSelf.nodePools.all(o, self.nodePools.exists(p, p.name == o.name && p.replicas >= o.replicas && o.zones.all(z, z in p.zones)))")
        .message("nodePools: asleep, the cluster cannot empty nodes that leave; set state to Running first"),
    validation = Rule::new("!has(self.listeners) || self.listeners.all(l, self.listeners.exists_one(m, m.port == l.port))")
        .message("listeners: two listeners have the same port, give each its own"),
    validation = Rule::new("has(self.clusterId) == has(oldSelf.clusterId) && (!has(self.clusterId) || self.clusterId == oldSelf.clusterId)")
        .message("clusterId: immutable, the volumes carry it"),
)]
pub struct KafkaClusterSpec {
    /// Kafka's version, one of those that this Freehold knows (`freehold versions`). A newer one:
    /// nodes are restarted one batch after the other, then the version's features come into force;
    /// until that, the older version can be set again.
    pub version: String,
    /// The id of a cluster whose volumes are adopted; default: a new one. 22 characters of URL-safe
    /// base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[A-Za-z0-9_-]{22}$"))]
    pub cluster_id: Option<String>,
    /// Broker configs for all nodes, checked against the version's own list. Values are strings,
    /// numbers or booleans.
    #[serde(
        default,
        deserialize_with = "config_values::deserialize",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    #[schemars(schema_with = "config_values::schema")]
    pub config: BTreeMap<String, String>,
    /// Groups of equal nodes.
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    #[schemars(length(min = 1, max = 20))]
    pub node_pools: Vec<NodePool>,
    /// What pods of all pools need beside what Freehold gives them; a pool's own `podTemplate` goes
    /// over it.
    #[serde(default, skip_serializing_if = "PodTemplate::is_empty")]
    pub pod_template: PodTemplate,
    /// Where clients connect. Every listener speaks TLS.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    #[schemars(length(max = 10))]
    pub listeners: Vec<Listener>,
    /// Who signs the brokers' certificates, and for how long.
    #[serde(default)]
    pub certificates: Certificates,
    /// Authorization beside the Users' ACLs. Everything else is denied.
    #[serde(default)]
    pub authorization: Authorization,
    /// Whose Topics and Users may refer to this cluster, and what they may be named.
    #[serde(default)]
    pub access: Access,
    /// When and how the operator may disturb what runs.
    #[serde(default)]
    pub rollout: Rollout,
    /// How a new version's features come into force.
    #[serde(default)]
    pub upgrade: Upgrade,
    /// How replicas are moved.
    #[serde(default)]
    pub rebalance: Rebalance,
    /// What deleting this object leaves.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
    /// Paused: nothing is changed until it is Running again.
    #[serde(default)]
    pub state: ClusterState,
}

/// A listener for clients.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!(self.port in [8080, 9090, 9091])")
        .message("port: 8080, 9090 and 9091 are Freehold's own (probes, controllers, brokers); take another, for example 9093"),
    validation = Rule::new("!(self.name in ['controller', 'internal'])")
        .message("name: controller and internal are Freehold's own listeners"),
)]
pub struct Listener {
    /// Name, part of the bootstrap Service's port name.
    #[schemars(regex(pattern = r"^[a-z][a-z0-9]*$"), length(max = 15))]
    pub name: String,
    /// Port on every broker and on the bootstrap Service.
    #[schemars(range(min = 1024, max = 65535))]
    pub port: u16,
    /// How far it reaches.
    #[serde(default, rename = "type")]
    pub kind: ListenerType,
    /// How clients prove who they are.
    pub authentication: Authentication,
}

/// How far a listener reaches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ListenerType {
    /// Inside this Kubernetes.
    #[default]
    Internal,
}

/// How clients of a listener prove who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Authentication {
    /// A certificate of the cluster's clients' CA.
    MutualTls,
    /// SASL SCRAM-SHA-512 over TLS.
    ScramSha512,
}

/// Who signs the brokers' certificates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(self.issuer == 'Secret') == has(self.secretRef)")
        .message("certificates: issuer Secret needs secretRef, and SelfSigned has none"),
)]
pub struct Certificates {
    /// SelfSigned: a CA that Freehold makes. Secret: a CA that a Secret gives.
    #[serde(default)]
    pub issuer: CertificateIssuer,
    /// Secret of type kubernetes.io/tls with `tls.crt` and `tls.key` of a CA, labelled
    /// `freehold.dev/cluster: <name>`. Those above it, up to the root, may follow in `tls.crt` or
    /// be in `ca.crt`: nodes send what is in between, and clients are told the root. Where another
    /// CA comes into it, that one takes the place of the old one in the steps of a rotation, with
    /// both trusted meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretRef>,
    /// Further CAs whose certificates listeners with MutualTls accept, for Users with ExternalTls:
    /// Secrets with their PEM under `ca.crt`, labelled `freehold.dev/cluster: <name>`. Such a CA
    /// can make a certificate in the name of any User.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    #[schemars(length(max = 10))]
    pub client_authorities: Vec<SecretRef>,
    /// Minutes for which two CAs are trusted side by side when one takes the place of the other,
    /// once before and once after the new one signs: clients must have read the new trust by then.
    /// Default: a week.
    #[serde(default = "Certificates::default_overlap_minutes")]
    #[schemars(range(max = 525600))]
    pub overlap_minutes: u32,
    /// Days that a node's certificate is valid.
    #[serde(default = "Certificates::default_validity_days")]
    #[schemars(range(min = 2, max = 3650))]
    pub validity_days: u32,
    /// Days before its end that a certificate is issued anew. Nodes take it without a restart.
    #[serde(default = "Certificates::default_renew_before_days")]
    #[schemars(range(min = 1, max = 3649))]
    pub renew_before_days: u32,
}

impl Certificates {
    fn default_overlap_minutes() -> u32 {
        7 * 24 * 60
    }
    fn default_validity_days() -> u32 {
        365
    }
    fn default_renew_before_days() -> u32 {
        90
    }
}

impl Default for Certificates {
    fn default() -> Self {
        Self {
            issuer: CertificateIssuer::default(),
            secret_ref: None,
            client_authorities: Vec::new(),
            overlap_minutes: Self::default_overlap_minutes(),
            validity_days: Self::default_validity_days(),
            renew_before_days: Self::default_renew_before_days(),
        }
    }
}

/// Where the CA comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum CertificateIssuer {
    #[default]
    SelfSigned,
    Secret,
}

/// A Secret of the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Authorization beside the Users' ACLs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Authorization {
    /// Principals that may do everything, by the names of their Users (metadata.name, `username` or
    /// `subject`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 50),
        inner(regex(pattern = r"^[A-Za-z0-9._@/-]+$"), length(min = 1, max = 64))
    )]
    pub super_users: Vec<String>,
    /// Whether Users may be in shadow mode: let through where they have no right, and reported.
    #[serde(default)]
    pub shadow: ShadowPolicy,
}

/// Whether Users may be in shadow mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ShadowPolicy {
    #[default]
    Denied,
    /// Whoever may write Users then gives them every right: for the time of a migration.
    Allowed,
}

/// Whose Topics and Users may refer to a cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Access {
    /// Namespaces of Topics and Users, and of the pods that connect.
    #[serde(default)]
    pub namespaces: NamespaceAccess,
    /// What topics of other namespaces may be named. Default: anything that Kafka takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic_names: Option<TopicNames>,
    /// What principals Users of other namespaces may be. Default: any name that no other User has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal_names: Option<TopicNames>,
    /// What Users of other namespaces may be given rights on. Default: Own; for a cluster from
    /// before that was the default, Any until this is set, and a warning lists which Users would
    /// lose what.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rights: Option<RightsPolicy>,
}

/// A naming policy. `{namespace}` stands for the namespace of the Topic or User. The cluster's own
/// namespace is free of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.prefix) != has(self.pattern)").message("a naming policy: give either prefix or pattern"))]
pub struct TopicNames {
    /// What names must begin with, for example `{namespace}.`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 200))]
    pub prefix: Option<String>,
    /// Regular expression that whole names must match, for example `{namespace}\.[a-z.]+`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 200))]
    pub pattern: Option<String>,
}

/// What Users of other namespaces may be given rights on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RightsPolicy {
    /// Anything that they name.
    Any,
    /// Topics of the Topics in their namespace, topics that are shared with it
    /// (`Topic.spec.share`), names that `topicNames` allows it, and groups and transactional ids
    /// that begin with its name; nothing on the cluster itself.
    #[serde(alias = "OwnNames")]
    Own,
}

/// When and how the operator may disturb what runs. A restart that would take a partition under
/// `min.insync.replicas`, or the quorum under its majority, is never begun.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rollout {
    /// When restarts and moves may begin; none: at any time. A pod that cannot start is repaired at
    /// any time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub maintenance_windows: Vec<MaintenanceWindow>,
    /// Agrees that partitions with no more replicas than `min.insync.replicas`, and a quorum of one
    /// or two controllers, are unavailable while their node restarts: no restart could spare them.
    #[serde(default)]
    pub allow_unavailable: bool,
    /// What happens when a new version of Freehold makes pods otherwise than the one before.
    #[serde(default)]
    pub operator_upgrade: OperatorUpgrade,
    /// Minutes after which a node that is lost is replaced by itself, as by the annotation
    /// `freehold.dev/replace`: Kubernetes says that its pod runs nowhere and that no machine can
    /// have its volume. The volume is deleted, and a new one filled from the other replicas; never
    /// where it may hold the only copy of a partition. Default: nothing is replaced unless somebody
    /// asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 43200))]
    pub replace_lost_nodes_after_minutes: Option<u32>,
}

/// A time at which a disruption may begin.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MaintenanceWindow {
    /// When it opens, as in a CronJob: minute, hour, day of month, month, day of week (0 and 7 are
    /// Sunday), for example `0 2 * * Sat`; or `@daily` and its like.
    #[schemars(length(min = 6, max = 100))]
    pub cron: String,
    /// How long it is open.
    #[schemars(range(min = 1, max = 10080))]
    pub duration_minutes: u32,
    /// IANA time zone of the schedule.
    #[serde(default = "MaintenanceWindow::default_time_zone")]
    #[schemars(length(min = 1, max = 64))]
    pub time_zone: String,
}

impl MaintenanceWindow {
    fn default_time_zone() -> String {
        "UTC".to_owned()
    }
}

/// What happens when a new version of Freehold makes pods otherwise than the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OperatorUpgrade {
    /// Pods stay as they are; a warning in status says what would restart and why.
    #[default]
    Wait,
    /// They restart, as after any other change.
    Restart,
}

/// How replicas are moved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rebalance {
    /// When replicas move: off brokers that leave, onto new ones, and where brokers hold too unlike
    /// shares.
    #[serde(default)]
    pub mode: RebalanceMode,
    /// Topics that stay where they are, unless their broker leaves. A name that ends in `*` stands
    /// for all that begin so.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), inner(length(min = 1, max = 249)))]
    pub exclude_topics: Vec<String>,
    /// Bytes per second and broker for replicas that move, for example 50Mi. Auto: as much as
    /// brokers can spare, by what they say of their load.
    #[serde(default = "Rebalance::default_throttle")]
    #[schemars(
        regex(
            pattern = r"^(Auto|[+]?([0-9]+[.]?[0-9]*|[.][0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][-+]?[0-9]{1,3})?)$"
        ),
        length(max = 20)
    )]
    pub throttle: String,
    /// Minutes after moves have ended in which unlike shares alone begin no others. Brokers that
    /// join or leave do not wait.
    #[serde(default = "Rebalance::default_cooldown_minutes")]
    #[schemars(range(max = 43200))]
    pub cooldown_minutes: u32,
}

impl Rebalance {
    fn default_cooldown_minutes() -> u32 {
        60
    }
    fn default_throttle() -> String {
        "Auto".into()
    }

    /// The throttle's bytes per second; `None`: they are worked out.
    pub fn fixed_rate(&self) -> Option<u64> {
        (self.throttle != "Auto")
            .then(|| quantity::bytes(&Quantity(self.throttle.clone())).unwrap_or(u64::MAX))
    }
}

impl Default for Rebalance {
    fn default() -> Self {
        Self {
            mode: RebalanceMode::default(),
            exclude_topics: Vec::new(),
            throttle: Self::default_throttle(),
            cooldown_minutes: Self::default_cooldown_minutes(),
        }
    }
}

/// How a new version's features come into force.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Upgrade {
    /// Whether `metadata.version` and the other features are raised. After that the older version
    /// cannot read the metadata.
    #[serde(default)]
    pub features: FeatureUpgrade,
    /// Minutes that every node must have run the new version before.
    #[serde(default = "Upgrade::default_soak_minutes")]
    #[schemars(range(max = 43200))]
    pub soak_minutes: u32,
}

impl Upgrade {
    fn default_soak_minutes() -> u32 {
        60
    }
}

impl Default for Upgrade {
    fn default() -> Self {
        Self {
            features: FeatureUpgrade::default(),
            soak_minutes: Self::default_soak_minutes(),
        }
    }
}

/// Whether a new version's features come into force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FeatureUpgrade {
    /// By themselves, after the soak.
    #[default]
    Auto,
    /// They stay as they are until this is Auto.
    Hold,
}

/// When replicas move.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RebalanceMode {
    /// As soon as there is a reason, inside the maintenance windows.
    #[default]
    Auto,
    /// The plan waits in `status.rebalance` until the annotation `freehold.dev/approve-rebalance`
    /// names it.
    Propose,
    /// Not at all; what is under way is taken back.
    Never,
}

/// Namespaces that may refer to a cluster, as in the Gateway API.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NamespaceAccess {
    /// Same: the cluster's own. All. Selector: those whose labels match.
    #[serde(default)]
    pub from: AccessFrom,
    /// Labels, for Selector. Empty selects nothing.
    #[serde(default)]
    pub selector: LabelMatch,
}

/// How namespaces are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AccessFrom {
    #[default]
    Same,
    Selector,
    All,
}

/// Labels that all must match.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LabelMatch {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: BTreeMap<String, String>,
}

/// What deleting the object leaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// Volumes, CAs and the cluster's identity stay; an object of the same name takes them up
    /// again.
    #[default]
    Retain,
    /// Everything is deleted, records too.
    Delete,
}

/// What the operator does with a cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ClusterState {
    #[default]
    Running,
    /// Nothing is changed; status is still kept.
    Paused,
    /// No pods, all data: volumes, ids, certificates and Secrets stay. Running wakes it as it was.
    Hibernated,
}
