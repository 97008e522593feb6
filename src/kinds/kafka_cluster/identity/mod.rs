//! Plans the identity of a cluster: what must survive everything else, namely its cluster id, the
//! assigned node ids and the controllers that it was formed with. Pure.
//!
//! The identity is stored in a ConfigMap without owner, so that it outlives the KafkaCluster. If it
//! is lost, it is rebuilt from the labels of the volumes.

pub mod password_key;

use crate::api::kafka_cluster::{KafkaCluster, RightsPolicy, Role};
use crate::kinds::kafka_cluster::certificates::authorities;
use crate::kinds::kafka_cluster::disruption::Report;
use crate::kinds::kafka_cluster::model::cluster::{NodeGroup, ValidCluster};
use crate::kinds::kafka_cluster::observed::Identity;
use crate::kinds::kafka_cluster::observed::{Claim, KafkaFacts, Observed};
use crate::kinds::kafka_cluster::step::Step;
use crate::kubernetes::{labels, names};
use freehold_kafka::in_sync;
use freehold_kafka::node_ids::Blocks;
use freehold_kafka::safety::majority;

/// The first node ids according to the labels of the volumes, from which they can be restored when
/// everything else is lost.
pub fn blocks_of_volumes(volumes: &[Claim]) -> Blocks {
    let block = |claim: &Claim| {
        let live = &claim.live;
        let slot = (
            live.label(labels::POOL)?.to_owned(),
            live.label(labels::ZONE)?.to_owned(),
        );
        Some((slot, live.label(labels::FIRST_NODE_ID)?.parse().ok()?))
    };
    volumes.iter().filter_map(block).collect()
}

/// The identity for this reconcile, with the steps that create or update it. `None` until it
/// exists.
pub fn report(
    object: &KafkaCluster,
    cluster: &ValidCluster,
    observed: &Observed,
) -> (Option<Identity>, Report) {
    let mut report = Report::default();
    let controllers = cluster
        .groups_of(Role::Controller)
        .flat_map(NodeGroup::node_ids);
    let Some(identity) = &observed.identity else {
        let known = object
            .status
            .as_ref()
            .and_then(|status| status.cluster_id.clone());
        let on_volumes = observed
            .volumes
            .iter()
            .find_map(|volume| volume.live.annotation(labels::CLUSTER_ID))
            .map(str::to_owned);
        let cluster_id = known
            .or(on_volumes)
            .or_else(|| cluster.spec.cluster_id.clone());
        // If there are volumes, they may contain a quorum: a node with an empty volume must not
        // form another one.
        let formed = !observed.volumes.is_empty();
        let controllers = controllers.map(|id| (id, None)).collect();
        // For a cluster that existed before, it is no longer known whether its passwords had a key
        // of their own.
        let password_key =
            authorities::is_known(object, observed).then(|| password_key::UNKNOWN.to_owned());
        // Users must not lose rights because somebody deleted a ConfigMap.
        let had = object.status.as_ref().and_then(|status| status.rights);
        let own_rights = password_key.is_none() || had == Some(RightsPolicy::Own);
        let blocks = cluster.blocks.clone();
        report.upkeep.push(Step::CreateIdentity {
            cluster_id,
            blocks,
            controllers,
            formed,
            password_key,
            own_rights,
        });
        return (None, report);
    };
    let mut wanted = identity.clone();
    wanted.set_blocks(&cluster.blocks);
    wanted.own_rights |= cluster.spec.access.rights.is_some();
    if let KafkaFacts::Answered { quorum, .. } = &observed.kafka {
        // A majority is enough for the quorum to be formed. Initial controllers that come later, or
        // never, are missing voters, and the quorum's own plan repairs them.
        let (first, voters) = (&identity.initial_controllers, in_sync::voters(quorum));
        let voting = first.keys().filter(|id| voters.contains(id)).count();
        wanted.formed |= !first.is_empty() && voting >= majority(first.len());
    }
    let key = observed
        .secrets
        .get(&names::password_key(&cluster.key.name))
        .and_then(password_key::of);
    wanted.password_key = key.map(|key| key.id).or(wanted.password_key);
    if wanted != *identity {
        report.upkeep.push(Step::UpdateIdentity(wanted.clone()));
    }
    (Some(wanted), report)
}
