//! Replicas that move between the volumes of their broker: off one that the spec has no more, onto one that is new. Pure.
//!
//! As with replicas that move between brokers, what is under way counts as done.

use super::api::{DisruptionKind, DisruptionStatus, KafkaCluster, RebalanceMode, Role};
use super::desired::volumes::log_folder;
use super::observe::Observed;
use super::plan::{Plan, Step, WaitingOn};
use super::validate::ValidCluster;
use super::{moves, status, throttle, windows};
use crate::kafka::folders::{self, Plan as Moves};
use crate::kafka_admin::ConfigResource;
use crate::quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::collections::BTreeMap;

/// Replicas of a broker that move at the same time.
const REPLICAS_MAX: usize = 20;
/// Bytes per second that a broker copies between its volumes.
const RATE: [&str; 1] = ["replica.alter.log.dirs.io.max.bytes.per.second"];

/// What is to move, by broker.
fn work(cluster: &ValidCluster, observed: &Observed) -> BTreeMap<i32, Moves> {
    let groups = cluster.groups_of(Role::Broker);
    let all = groups.flat_map(|group| {
        let stay = group.pool.storage.all().iter().map(|volume| log_folder(&volume.name)).collect();
        group.node_ids().filter_map(move |id| Some((id, folders::plan(observed.folders.get(&id)?, &stay))))
    });
    all.collect()
}

/// What moves come to in this look: the lease, steps and what is waited for, into the plan.
pub fn plan(object: &KafkaCluster, cluster: &ValidCluster, observed: &Observed, plan: &mut Plan) {
    let lease = object.status.as_ref().and_then(|status| status.disruption.clone());
    let ours = lease.filter(|lease| lease.kind == DisruptionKind::Volumes);
    if plan.lease.is_some() && ours.is_none() {
        return;
    }
    let work = work(cluster, observed);
    plan.lease = match ours {
        Some(lease) => go_on(&lease, work, object, cluster, observed, plan),
        None => begin(&work, cluster, observed, plan),
    };
}

fn begin(work: &BTreeMap<i32, Moves>, cluster: &ValidCluster, observed: &Observed, plan: &mut Plan) -> Option<DisruptionStatus> {
    let brokers: Vec<i32> = work.iter().filter(|(_, moves)| moves.needed && !moves.moves.is_empty()).map(|(id, _)| *id).collect();
    // What a config has just allowed, a broker may not know yet.
    let configures = plan.steps.iter().any(|step| matches!(step, Step::AlterConfigs(_)));
    if brokers.is_empty() || configures || !plan.waiting_on.is_empty() || !plan.is_applied() {
        return None;
    }
    if cluster.spec.rebalance.mode == RebalanceMode::Never {
        let brokers = status::ids(&brokers);
        plan.warnings.push(format!("spec.rebalance.mode is Never: volumes of brokers {brokers} are neither emptied nor filled"));
        return None;
    }
    if !windows::is_open(cluster, observed, plan) {
        return None;
    }
    let of = |count: &dyn Fn(&Moves) -> u64| brokers.iter().filter_map(|id| work.get(id)).map(count).sum::<u64>();
    let (replicas, bytes) = (of(&|moves| moves.moves.len() as u64), of(&|moves| moves.bytes));
    let volumes = quantity::words(bytes);
    Some(DisruptionStatus {
        kind: DisruptionKind::Volumes,
        why: format!("{replicas} replicas of brokers {} move between their volumes, about {volumes}", status::ids(&brokers)),
        node_ids: brokers,
        since: Time(observed.now),
        total: Some(u32::try_from(replicas).unwrap_or(u32::MAX)),
        handed_over: Vec::new(),
    })
}

/// The next replicas of each broker, until nothing is left and nothing moves.
fn go_on(
    lease: &DisruptionStatus,
    work: BTreeMap<i32, Moves>,
    object: &KafkaCluster,
    cluster: &ValidCluster,
    observed: &Observed,
    plan: &mut Plan,
) -> Option<DisruptionStatus> {
    // A broker that does not say what it holds is waited for, as long as it is one.
    let nodes = || cluster.groups.iter().flat_map(|group| group.node_ids());
    let silent = lease.node_ids.iter().any(|id| nodes().any(|node| node == *id) && !work.contains_key(id));
    let left: usize = work.values().map(|moves| moves.moves.len() + moves.under_way).sum();
    if left == 0 && !silent {
        return None;
    }
    plan.waiting_on.push(WaitingOn::Moves { replicas: left });
    let rate = throttle::plan(object, cluster, observed);
    let rates = moves::rates(&RATE, rate.bytes_per_second, observed);
    if !rates.is_empty() {
        plan.steps.push(Step::AlterConfigs(vec![(ConfigResource::Brokers, rates)]));
    }
    moves::progress(lease, left, Some(rate), observed, plan);
    for (broker, mut moves) in work {
        moves.moves.truncate(REPLICAS_MAX.saturating_sub(moves.under_way));
        if !moves.moves.is_empty() {
            plan.steps.push(Step::MoveFolders { broker, moves: moves.moves });
        }
    }
    Some(lease.clone())
}
