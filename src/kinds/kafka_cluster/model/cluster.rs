//! The validated cluster and its node groups. Pure.

use crate::api::kafka_cluster::DataVolume;
use crate::api::kafka_cluster::{KafkaClusterSpec, Listener, NodePool, Role};
use crate::api::reference::ClusterKey;
use crate::kubernetes::Live;
use crate::kubernetes::names;
use crate::kubernetes::names::ClusterDomain;
use freehold_kafka::node_ids::Blocks;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use std::collections::{BTreeMap, BTreeSet};

/// A cluster whose spec is valid: every child object can be built from it without errors.
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
    /// The node to drain and then give a new volume.
    pub replace: Option<i32>,
    /// True while no new replicas may be placed on that node. False for a node that came back with
    /// an empty volume, which must be filled first.
    pub cordons_replaced: bool,
    /// Nodes that get new volumes without being drained, because theirs are lost.
    pub lost: BTreeSet<i32>,
    /// True if no pods shall run.
    pub hibernated: bool,
    pub operator_namespace: String,
    /// Names of the Secrets for pulling images.
    pub image_pull_secrets: Vec<String>,
    pub cluster_domain: ClusterDomain,
    /// The distinct sets of listener ports on which running brokers serve clients: ports by
    /// listener name. A broker that has not restarted since the spec changed a listener's port
    /// still serves the old one.
    pub serving: BTreeSet<BTreeMap<String, u16>>,
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
    /// The number of nodes according to the spec.
    pub replicas: i32,
    /// The number of nodes that run for now, including leaving nodes until they hold nothing any
    /// more.
    pub running: i32,
    /// Size of the Java heap in bytes.
    pub heap_bytes: u64,
    /// The volumes of each node for now, in order.
    pub volumes: Vec<DataVolume>,
    /// Volumes, by node id, on which no new replicas may be placed.
    pub cordoned_volumes: BTreeMap<i32, BTreeSet<String>>,
    /// For a pool that was removed from the spec: its StatefulSet, of which only the number of pods
    /// changes.
    pub retained: Option<Live>,
}

impl NodeGroup {
    /// The ids of all nodes that run for now.
    pub fn node_ids(&self) -> impl Iterator<Item = i32> + use<> {
        self.first_node_id..self.first_node_id + self.running
    }
    /// The ids of the nodes that stay.
    pub fn staying_ids(&self) -> impl Iterator<Item = i32> + use<> {
        self.first_node_id..self.first_node_id + self.replicas
    }
    /// The ids of the nodes that leave.
    pub fn leaving_ids(&self) -> impl Iterator<Item = i32> + use<> {
        self.first_node_id + self.replicas..self.first_node_id + self.running
    }
    /// True if the nodes of this group have the role.
    pub fn is(&self, role: Role) -> bool {
        self.pool.roles.contains(&role)
    }
}

impl ValidCluster {
    /// The groups with this role.
    pub fn groups_of(&self, role: Role) -> impl Iterator<Item = &NodeGroup> {
        self.groups.iter().filter(move |group| group.is(role))
    }

    /// The number of nodes with this role according to the spec.
    pub fn count(&self, role: Role) -> i32 {
        self.groups_of(role).map(|group| group.replicas).sum()
    }

    /// The number of brokers from which default replication factors are computed. Leaving brokers
    /// count until they are gone: a default that changed earlier would restart every node, for a
    /// change that may never be completed.
    pub fn brokers_for_defaults(&self) -> u32 {
        u32::try_from(
            self.groups_of(Role::Broker)
                .map(|group| group.running)
                .sum::<i32>(),
        )
        .unwrap_or(0)
    }

    /// The ports, other than the one in the spec, on which brokers still serve a listener, without
    /// those that another listener of the spec uses.
    pub fn former_ports(&self, listener: &Listener) -> BTreeSet<u16> {
        let is_taken = |port: &u16| self.spec.listeners.iter().any(|other| other.port == *port);
        self.serving
            .iter()
            .filter_map(|ports| ports.get(&listener.name).copied())
            .filter(|port| !is_taken(port))
            .collect()
    }

    /// The host name of a node.
    pub fn host(&self, group: &NodeGroup, node_id: i32) -> String {
        names::host(
            &names::pod(&group.stateful_set, node_id),
            &self.key.name,
            &self.key.namespace,
        )
    }
}
