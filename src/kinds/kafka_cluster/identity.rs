//! What of a cluster must survive everything: its id, the node ids given, the controllers it was formed with. Pure.
//!
//! Kept in a ConfigMap without owner, so that it outlives the KafkaCluster; what the volumes' labels say rebuilds it.

use crate::kafka::node_ids::{Blocks, Slot};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Key in the ConfigMap.
pub const KEY: &str = "identity.json";

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// Kafka's cluster id: 16 bytes in URL-safe base64.
    pub cluster_id: String,
    /// First node id by `pool/zone`.
    first_node_ids: BTreeMap<String, i32>,
    /// Node id -> directory id of the controllers that form the quorum (KIP-853).
    pub initial_controllers: BTreeMap<i32, String>,
    /// True once all of them have been seen in the quorum. From then on an empty volume joins the quorum as an
    /// observer, and never forms a second one.
    pub formed: bool,
}

impl Identity {
    pub fn new(cluster_id: String, blocks: &Blocks, initial_controllers: BTreeMap<i32, String>, formed: bool) -> Self {
        let mut identity = Self { cluster_id, first_node_ids: BTreeMap::new(), initial_controllers, formed };
        identity.set_blocks(blocks);
        identity
    }

    pub fn blocks(&self) -> Blocks {
        self.first_node_ids.iter().filter_map(|(slot, first)| Some((parse(slot)?, *first))).collect()
    }

    pub fn set_blocks(&mut self, blocks: &Blocks) {
        self.first_node_ids = blocks.iter().map(|((pool, zone), first)| (format!("{pool}/{zone}"), *first)).collect();
    }
}

fn parse(slot: &str) -> Option<Slot> {
    let (pool, zone) = slot.split_once('/')?;
    Some((pool.to_owned(), zone.to_owned()))
}
