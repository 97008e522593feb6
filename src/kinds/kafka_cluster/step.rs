//! The steps of a plan, as data. Each step is one write. Pure.

use crate::kinds::attempts::what_differs;
use crate::kinds::kafka_cluster::model::authority::Trust;
use crate::kinds::kafka_cluster::model::authority::{Issuer, Rotation};
use crate::kinds::kafka_cluster::observed::Identity;
use crate::kinds::kafka_cluster::observed::PodFacts;
use crate::kubernetes::difference::Foreign;
use crate::kubernetes::names;
use crate::kubernetes::{Live, Object, labels, quantity};
use freehold_kafka::node_ids::Blocks;
use freehold_kafka::safety::Permit;
use freehold_kafka_client::{ConfigChanges, ConfigResource, Election, FolderMove, Reassignment};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// One write to Kubernetes or Kafka.
#[derive(Debug)]
pub enum Step {
    AddFinalizer,
    /// Creates the identity; ids that are `None` are chosen at random.
    CreateIdentity {
        cluster_id: Option<String>,
        blocks: Blocks,
        controllers: BTreeMap<i32, Option<String>>,
        formed: bool,
        password_key: Option<String>,
        own_rights: bool,
    },
    UpdateIdentity(Identity),
    CreateAuthority {
        secret: String,
        issuer: Issuer,
        /// The certificates of the lost CA.
        beside: Option<String>,
    },
    /// Restores a Secret with the content that was observed last.
    RestoreSecret(String),
    WritePasswordKey {
        secret: String,
        origin: Origin,
    },
    IssueOperatorCertificate {
        secret: String,
    },
    /// One step of a CA rotation.
    RotateAuthority {
        secret: String,
        issuer: Issuer,
        rotation: Rotation,
    },
    IssueNodeCertificates {
        secret: String,
        nodes: BTreeMap<i32, Vec<String>>,
        trust: Trust,
    },
    Apply(Box<Object>),
    /// Applies an object again because somebody changed these fields.
    PutRight {
        object: Box<Object>,
        fields: Vec<String>,
    },
    /// Removes fields that somebody else added to parts of the object that Freehold owns as a
    /// whole.
    RemoveFields {
        object: Box<Object>,
        live: Box<Live>,
        fields: Vec<Foreign>,
    },
    Prune(Box<Live>),
    /// Deletes a StatefulSet without its pods, which its replacement adopts.
    Release(Box<Live>),
    /// Requests a larger size or another VolumeAttributesClass for a volume.
    ChangeVolume {
        claim: Box<Live>,
        bytes: Option<u64>,
        class: Option<String>,
    },
    SetInSync {
        pod: Box<PodFacts>,
        in_sync: bool,
    },
    /// Sets (`Some`) and removes (`None`) dynamic configs.
    AlterConfigs(Vec<(ConfigResource, ConfigChanges)>),
    /// Deletes the pod; its StatefulSet recreates it.
    RestartPod {
        pod: Box<PodFacts>,
        reasons: Vec<RestartReason>,
        permit: Permit,
    },
    /// Deletes a volume claim and the data on its volume.
    DeleteVolume {
        claim: Box<Live>,
        permit: Permit,
    },
    ElectLeaders(Vec<Election>),
    Reassign(Vec<Reassignment>),
    /// Moves replicas between the log folders of their broker.
    MoveFolders {
        broker: i32,
        moves: Vec<FolderMove>,
    },
    /// Raises feature levels to those of the running version.
    UpgradeFeatures(BTreeMap<String, i16>),
    /// Removes the registration of a broker that is gone.
    Unregister(i32),
    /// Turns an observer into a voter of the quorum.
    AddVoter {
        id: i32,
        directory: uuid::Uuid,
        host: String,
    },
    RemoveVoter {
        id: i32,
        directory: uuid::Uuid,
        permit: Permit,
    },
}

impl Step {
    /// The object or field that the step is about, for people.
    pub fn what(&self) -> String {
        match self {
            Self::Apply(object) => format!("{} {}", object.kind(), object.name()),
            Self::PutRight { object, fields } => what_differs(object, fields),
            Self::RemoveFields { object, fields, .. } => {
                what_differs(object, fields.iter().map(|field| &field.path))
            }
            Self::Prune(live)
            | Self::Release(live)
            | Self::ChangeVolume { claim: live, .. }
            | Self::DeleteVolume { claim: live, .. } => {
                format!("{} {}", live.resource.kind, live.name())
            }
            Self::CreateAuthority { secret, .. }
            | Self::RestoreSecret(secret)
            | Self::WritePasswordKey { secret, .. }
            | Self::IssueOperatorCertificate { secret }
            | Self::RotateAuthority { secret, .. }
            | Self::IssueNodeCertificates { secret, .. } => format!("Secret {secret}"),
            Self::SetInSync { pod, .. } | Self::RestartPod { pod, .. } => {
                format!("Pod {}", pod.name)
            }
            other => other.to_string(),
        }
    }

    /// The value that the step would set, as text; a different text is a new attempt.
    pub fn wanted(&self) -> String {
        match self {
            Self::Apply(object)
            | Self::PutRight { object, .. }
            | Self::RemoveFields { object, .. } => object.hash().to_owned(),
            other => other.to_string(),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddFinalizer => write!(f, "add the finalizer"),
            Self::CreateIdentity { .. } | Self::UpdateIdentity(_) => self.fmt_identity(f),
            Self::CreateAuthority { .. }
            | Self::RestoreSecret(_)
            | Self::WritePasswordKey { .. }
            | Self::RotateAuthority { .. }
            | Self::IssueOperatorCertificate { .. }
            | Self::IssueNodeCertificates { .. } => self.fmt_secret(f),
            Self::Apply(_)
            | Self::PutRight { .. }
            | Self::RemoveFields { .. }
            | Self::Prune(_)
            | Self::DeleteVolume { .. }
            | Self::Release(_)
            | Self::ChangeVolume { .. } => self.fmt_object(f),
            Self::AlterConfigs(_)
            | Self::Reassign(_)
            | Self::MoveFolders { .. }
            | Self::UpgradeFeatures(_)
            | Self::AddVoter { .. }
            | Self::RemoveVoter { .. }
            | Self::Unregister(_)
            | Self::ElectLeaders(_) => self.fmt_request(f),
            Self::RestartPod { pod, reasons, .. } => {
                let reasons: Vec<_> = reasons.iter().map(ToString::to_string).collect();
                write!(f, "restart pod {}: {}", pod.name, reasons.join("; "))
            }
            Self::SetInSync { pod, in_sync } => write!(
                f,
                "set {} of pod {} to {in_sync}",
                labels::IN_SYNC,
                pod.name
            ),
        }
    }
}

/// The words for groups of steps; each writes nothing for steps of another group.
impl Step {
    fn fmt_identity(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateIdentity {
                cluster_id,
                blocks,
                controllers,
                formed,
                ..
            } => write!(
                f,
                "create the identity: cluster id {}, {} blocks of node ids, {} first controllers{}",
                cluster_id.as_deref().unwrap_or("new"),
                blocks.len(),
                controllers.len(),
                if *formed { ", quorum formed" } else { "" }
            ),
            Self::UpdateIdentity(identity) => {
                write!(f, "update the identity: quorum formed: {}", identity.formed)
            }
            _ => Ok(()),
        }
    }

    fn fmt_secret(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateAuthority {
                secret,
                beside: None,
                ..
            } => write!(f, "create the CA in Secret {secret}"),
            Self::CreateAuthority { secret, .. } => write!(
                f,
                "create the CA in Secret {secret} beside the one that is lost"
            ),
            Self::RestoreSecret(secret) => write!(f, "put Secret {secret} back as it was"),
            Self::WritePasswordKey { secret, origin } => match origin {
                Origin::New => write!(f, "create the key of passwords in Secret {secret}"),
                Origin::ClientsAuthority => {
                    write!(f, "keep the key of passwords in Secret {secret}")
                }
                Origin::Asked => write!(f, "make another key of passwords in Secret {secret}"),
            },
            Self::RotateAuthority {
                secret, rotation, ..
            } => match rotation {
                Rotation::Prepare { .. } => {
                    write!(f, "make the next CA in Secret {secret}, to be trusted too")
                }
                Rotation::Promote => write!(f, "let the next CA in Secret {secret} sign"),
                Rotation::Drop => write!(f, "trust the old CA in Secret {secret} no more"),
                Rotation::Chain => {
                    write!(f, "take the certificates above the CA in Secret {secret}")
                }
            },
            Self::IssueOperatorCertificate { secret } => {
                write!(f, "issue the operator's certificate into Secret {secret}")
            }
            Self::IssueNodeCertificates { secret, nodes, .. } if nodes.is_empty() => {
                write!(f, "let nodes trust other CAs, in Secret {secret}")
            }
            Self::IssueNodeCertificates { secret, nodes, .. } => {
                write!(
                    f,
                    "issue certificates of nodes {:?} into Secret {secret}",
                    nodes.keys()
                )
            }
            _ => Ok(()),
        }
    }

    fn fmt_object(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Apply(object) => write!(f, "apply {} {}", object.kind(), object.name()),
            Self::PutRight { .. } => write!(f, "put right {}", self.what()),
            Self::RemoveFields { fields, .. } => {
                let managers: BTreeSet<&str> =
                    fields.iter().map(|field| field.manager.as_str()).collect();
                write!(
                    f,
                    "remove what {} added: {}",
                    managers.into_iter().collect::<Vec<_>>().join(", "),
                    self.what()
                )
            }
            Self::Prune(live) => write!(f, "delete {} {}", live.resource.kind, live.name()),
            Self::DeleteVolume { claim, .. } => {
                write!(f, "delete {} {}", claim.resource.kind, claim.name())
            }
            Self::Release(live) => write!(
                f,
                "make {} {} anew around its pods",
                live.resource.kind,
                live.name()
            ),
            Self::ChangeVolume {
                claim,
                bytes,
                class,
            } => {
                write!(f, "change volume {}:", claim.name())?;
                bytes.map_or(Ok(()), |bytes| {
                    write!(f, " {} large", quantity::text(bytes))
                })?;
                class
                    .as_ref()
                    .map_or(Ok(()), |class| write!(f, " class {class}"))
            }
            _ => Ok(()),
        }
    }

    /// A request to Kafka.
    fn fmt_request(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AlterConfigs(changes) => {
                let words = |(resource, changes): &(ConfigResource, ConfigChanges)| {
                    let keys: Vec<_> = changes.keys().map(String::as_str).collect();
                    format!("{} of {resource}", keys.join(", "))
                };
                write!(
                    f,
                    "alter configs: {}",
                    changes.iter().map(words).collect::<Vec<_>>().join("; ")
                )
            }
            Self::Reassign(moves) => write!(f, "reassign {} partitions", moves.len()),
            Self::MoveFolders { broker, moves } => write!(
                f,
                "move {} replicas of broker {broker} between its volumes",
                moves.len()
            ),
            Self::UpgradeFeatures(levels) => {
                let levels: Vec<_> = levels
                    .iter()
                    .map(|(name, level)| format!("{name} to {level}"))
                    .collect();
                write!(f, "upgrade features: {}", levels.join(", "))
            }
            Self::AddVoter { id, .. } => write!(f, "add controller {id} to the quorum"),
            Self::RemoveVoter { id, .. } => write!(f, "remove controller {id} from the quorum"),
            Self::Unregister(id) => write!(f, "unregister broker {id}"),
            Self::ElectLeaders(elections) => write!(
                f,
                "elect the preferred leaders of {} partitions",
                elections.len()
            ),
            _ => Ok(()),
        }
    }
}

/// Why a node must restart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RestartReason {
    Image {
        from: String,
        to: String,
    },
    /// A configuration that nodes read only at their start.
    Config,
    PodTemplate,
    /// The annotation `freehold.dev/restart`.
    Requested,
    /// The node gets a new volume.
    Replaced,
    /// Most of the wanted voters were added after the node started: if the quorum lost its leader,
    /// the node might not find the next one.
    Controllers,
    /// Its volume has grown, but the file system grows only at the next mount.
    Volume,
}

impl fmt::Display for RestartReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Image { from, to } => write!(f, "image {from} becomes {to}"),
            Self::Config => write!(f, "configuration that only a start reads has changed"),
            Self::PodTemplate => write!(f, "the pod's template has changed"),
            Self::Replaced => write!(f, "it is given a new volume"),
            Self::Controllers => write!(
                f,
                "it does not know enough of the controllers that are to vote"
            ),
            Self::Volume => write!(
                f,
                "its file system grows only when its volume is mounted anew"
            ),
            Self::Requested => write!(f, "a restart was asked for"),
        }
    }
}

/// The origin of a password key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A random key for a cluster that has none yet, or that has lost its key.
    New,
    /// The key in use, which is that of the clients' CA.
    ClientsAuthority,
    /// A random key, because the annotation asks for a new one.
    Asked,
}

/// True if the step changes something that pods are made from. NetworkPolicies and
/// PodDisruptionBudgets are not part of that: they affect running pods.
pub fn makes_pods(step: &Step) -> bool {
    match step {
        Step::Apply(object) | Step::PutRight { object, .. } | Step::RemoveFields { object, .. } => {
            !["NetworkPolicy", "PodDisruptionBudget"].contains(&object.kind())
        }
        Step::Release(_) | Step::UpdateIdentity(_) | Step::IssueNodeCertificates { .. } => true,
        _ => false,
    }
}

/// The name of the StatefulSet whose pods are made from the step's object. The StatefulSet's
/// ConfigMap has the same name.
pub fn makes_pods_of(step: &Step) -> Option<&str> {
    match step {
        Step::Apply(object) | Step::PutRight { object, .. } | Step::RemoveFields { object, .. }
            if ["StatefulSet", "ConfigMap"].contains(&object.kind()) =>
        {
            Some(object.name())
        }
        Step::IssueNodeCertificates { secret, .. } => names::stateful_set_of_certificates(secret),
        Step::Release(live) => Some(live.name()),
        _ => None,
    }
}

/// True if the pods of only one StatefulSet are made from the step's object.
pub fn is_of_one_set(step: &Step) -> bool {
    match step {
        Step::Apply(object) | Step::PutRight { object, .. } | Step::RemoveFields { object, .. } => {
            object.kind() == "StatefulSet"
        }
        Step::Release(_) => true,
        _ => false,
    }
}

/// True if the step is a request to Kafka.
pub fn asks_kafka(step: &Step) -> bool {
    matches!(
        step,
        Step::AlterConfigs(_)
            | Step::ElectLeaders(_)
            | Step::Reassign(_)
            | Step::MoveFolders { .. }
            | Step::UpgradeFeatures(_)
            | Step::Unregister(_)
            | Step::AddVoter { .. }
            | Step::RemoveVoter { .. }
    )
}
