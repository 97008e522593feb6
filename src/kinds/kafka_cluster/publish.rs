//! Publishes a cluster's facts and admin client for the reconciles of Topics and Users, and warns
//! about rights that a change of the spec would take from Users.

use crate::api::kafka_cluster::{Access, KafkaCluster, RightsPolicy};
use crate::api::reference::ClusterKey;
use crate::clusters::connections::Connected;
use crate::clusters::{Cluster, ClusterFacts};
use crate::kinds::error::Error;
use crate::kinds::kafka_cluster::certificates::{authorities, nodes};
use crate::kinds::kafka_cluster::context::Context;
use crate::kinds::kafka_cluster::facts;
use crate::kinds::kafka_cluster::identity::password_key;
use crate::kinds::kafka_cluster::model::cluster::ValidCluster;
use crate::kinds::kafka_cluster::observed::{KafkaFacts, Observed};
use crate::kinds::kafka_cluster::resources::server_properties::min_in_sync;
use crate::kinds::kafka_cluster::validate::is_paused;
use crate::kubernetes::names;
use crate::tenancy::rights;
use std::sync::Arc;

/// How much of a spec is published to Topics and Users.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    Spec,
    /// Only the access rules and super users: the rest of the spec is not valid. Revoked access
    /// takes effect at once.
    Access,
    Nothing,
}

impl Accepted {
    pub fn of(valid: &Result<ValidCluster, Error>) -> Self {
        match valid {
            Ok(_) => Self::Spec,
            Err(Error::Invalid(invalids))
                if !invalids
                    .iter()
                    .any(|invalid| invalid.field.starts_with("spec.access")) =>
            {
                Self::Access
            }
            Err(_) => Self::Nothing,
        }
    }
}

/// Publishes the cluster's facts and its admin client to Topics and Users, once brokers answer. For
/// the parts of the spec that were not accepted, the facts published last stay in force.
pub fn publish(
    object: &KafkaCluster,
    context: &Context,
    cluster: &ValidCluster,
    observed: &Observed,
    accepted: Accepted,
) {
    let KafkaFacts::Answered {
        cluster: described, ..
    } = &observed.kafka
    else {
        return;
    };
    let connected = context
        .clients
        .get(object, &observed.pods, &observed.secrets);
    let name = &cluster.key.name;
    let (trust, clients_ca) = (
        authorities::trust(name, observed),
        authorities::of_clients(name, observed),
    );
    let (Ok(Some(connected)), Some(trust), Some(clients_ca)) = (connected, trust, clients_ca)
    else {
        return;
    };
    // If the password key is lost, only the Users that need it report that; everything else
    // continues.
    let password_key = observed
        .secrets
        .get(&names::password_key(name))
        .and_then(password_key::of)
        .unwrap_or_default();
    let serving = described.brokers.iter().filter(|broker| !broker.fenced);
    let accepted = accepted_facts(object, context, cluster, observed, accepted);
    let facts = ClusterFacts {
        paused: is_paused(object),
        cluster_id: described.cluster_id.clone(),
        racks: serving
            .map(|broker| (broker.id, broker.rack.clone().unwrap_or_default()))
            .collect(),
        trust_bundle: trust.bundle,
        cluster_ca: nodes::cluster_authority(cluster, observed),
        clients_ca,
        password_key,
        ..accepted
    };
    let Connected {
        admin,
        mirror,
        figures,
        ..
    } = connected;
    context.clusters.publish(
        &cluster.key,
        Cluster {
            facts: Arc::new(facts),
            admin,
            mirror,
            figures,
        },
    );
}

/// The facts from the accepted parts of the spec, and for the others those published last.
fn accepted_facts(
    object: &KafkaCluster,
    context: &Context,
    cluster: &ValidCluster,
    observed: &Observed,
    accepted: Accepted,
) -> ClusterFacts {
    let min_in_sync = min_in_sync(&cluster.spec, cluster.brokers_for_defaults());
    let access = Access {
        rights: Some(facts::rights(object, observed.identity.as_ref())),
        ..object.spec.access.clone()
    };
    let of_spec = ClusterFacts {
        access,
        min_in_sync,
        ..ClusterFacts::of_spec(object)
    };
    match (accepted, context.clusters.get(&cluster.key)) {
        (Accepted::Spec, _) | (_, None) => of_spec,
        (Accepted::Access, Some(known)) => {
            let ClusterFacts {
                access,
                shadow,
                super_users,
                ..
            } = of_spec;
            ClusterFacts {
                access,
                shadow,
                super_users,
                ..(*known.facts).clone()
            }
        }
        (Accepted::Nothing, Some(known)) => (*known.facts).clone(),
    }
}

/// The number of lines about Users in a status; `freehold plan` lists all.
pub const LOSSES_MAX: usize = 20;

/// Warnings for a cluster that was created before `Own` was the default and whose spec does not set
/// `access.rights`: Users keep their rights until its owner sets the field. The lines say which
/// rights would be lost with `Own`.
pub fn rights_of_age(
    object: &KafkaCluster,
    context: &Context,
    key: &ClusterKey,
    observed: &Observed,
) -> Vec<String> {
    let unsaid = object.spec.access.rights.is_none()
        && facts::rights(object, observed.identity.as_ref()) == RightsPolicy::Any;
    let Some(cluster) = context.clusters.get(key).filter(|_| unsaid) else {
        return Vec::new();
    };
    let users = context.users.all();
    let access = &object.spec.access;
    let losses = rights::losses(
        users.iter().map(|user| &**user),
        access,
        key,
        &context.sharing,
        &cluster.mirror.read(),
    );
    let count = losses.len();
    let first = format!(
        "spec.access.rights is not set, and this cluster is from before Own was the default: its Users have any right that they name until you set Own or Any; with Own, {count} of them would lose some"
    );
    let more = (count > LOSSES_MAX)
        .then(|| format!("and {} more: freehold plan lists them", count - LOSSES_MAX));
    std::iter::once(first)
        .chain(losses.into_iter().take(LOSSES_MAX))
        .chain(more)
        .collect()
}
