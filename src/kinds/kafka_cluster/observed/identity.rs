//! The identity of a cluster: what must survive everything else, namely its cluster id, the
//! assigned node ids and the controllers that it was formed with. Pure.
//!
//! The identity is stored in a ConfigMap without owner, so that it outlives the KafkaCluster. If it
//! is lost, it is rebuilt from the labels of the volumes.

use freehold_kafka::node_ids::{Blocks, Slot};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The key of the identity in its ConfigMap.
pub const KEY: &str = "identity.json";

/// The identity as it is stored, in JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// Kafka's cluster id: 16 bytes in URL-safe base64.
    pub cluster_id: String,
    /// The first node id of each group, by `pool/zone`.
    first_node_ids: BTreeMap<String, i32>,
    /// The directory id of each controller that forms the quorum (KIP-853), by node id.
    pub initial_controllers: BTreeMap<i32, String>,
    /// True once a majority of them has been observed in the quorum. From then on a node with an
    /// empty volume joins the quorum as an observer, and never forms a second one.
    pub formed: bool,
    /// The id of the key from which passwords are derived. `None`: the operator version that
    /// created this cluster had no separate key and used that of the clients' CA.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_key: Option<String>,
    /// True if `access.rights` defaults to Own. False for a cluster that was created when
    /// everything was allowed: its Users must not lose rights before its owner sets the field.
    #[serde(default)]
    pub own_rights: bool,
}

impl Identity {
    /// The identity of a new cluster.
    pub fn new(
        cluster_id: String,
        blocks: &Blocks,
        initial_controllers: BTreeMap<i32, String>,
        formed: bool,
    ) -> Self {
        let mut identity = Self {
            cluster_id,
            first_node_ids: BTreeMap::new(),
            initial_controllers,
            formed,
            password_key: None,
            own_rights: true,
        };
        identity.set_blocks(blocks);
        identity
    }

    /// The first node ids by pool and zone.
    pub fn blocks(&self) -> Blocks {
        self.first_node_ids
            .iter()
            .filter_map(|(slot, first)| Some((parse(slot)?, *first)))
            .collect()
    }

    /// Replaces the first node ids.
    pub fn set_blocks(&mut self, blocks: &Blocks) {
        self.first_node_ids = blocks
            .iter()
            .map(|((pool, zone), first)| (format!("{pool}/{zone}"), *first))
            .collect();
    }
}

fn parse(slot: &str) -> Option<Slot> {
    let (pool, zone) = slot.split_once('/')?;
    Some((pool.to_owned(), zone.to_owned()))
}
