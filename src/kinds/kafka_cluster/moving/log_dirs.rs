//! Plans moves of replicas between the volumes of their broker: off a volume that was removed from
//! the spec, onto a new one. Pure.
//!
//! As with moves between brokers, a move that is in progress counts as done.

use crate::api::kafka_cluster::{RebalanceMode, Role};
use crate::kinds::kafka_cluster::disruption::{
    Facts, Lease, Mode, Needs, Priority, Progress, Report, WaitingOn, Wish, Work,
};
use crate::kinds::kafka_cluster::model::cluster::ValidCluster;
use crate::kinds::kafka_cluster::model::volume_names::log_folder;
use crate::kinds::kafka_cluster::moving;
use crate::kinds::kafka_cluster::moving::throttle;
use crate::kinds::kafka_cluster::observed::Observed;
use crate::kinds::kafka_cluster::step::Step;
use crate::kubernetes::quantity;
use crate::words;
use freehold_kafka::folders::{self, Plan as Moves};
use freehold_kafka_client::ConfigResource;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::collections::{BTreeMap, BTreeSet};

/// The number of replicas of a broker that move at the same time, at most.
const REPLICAS_MAX: usize = 20;
/// The config that limits the bytes per second that a broker copies between its volumes.
const RATE: [&str; 1] = ["replica.alter.log.dirs.io.max.bytes.per.second"];

/// The moves that are left and in progress, by broker id.
fn work(cluster: &ValidCluster, observed: &Observed) -> BTreeMap<i32, Moves> {
    let groups = cluster.groups_of(Role::Broker);
    let all = groups.flat_map(|group| {
        let stay = group
            .pool
            .storage
            .all()
            .iter()
            .map(|volume| log_folder(&volume.name))
            .collect();
        group
            .node_ids()
            .filter_map(move |id| Some((id, folders::plan(observed.folders.get(&id)?, &stay))))
    });
    all.collect()
}

/// Reports the wish for moves between volumes.
pub fn report(facts: &Facts<'_>) -> Report {
    let Facts {
        cluster, observed, ..
    } = *facts;
    let mut report = Report::default();
    if facts.lease.is_some() {
        return report;
    }
    let work = work(cluster, observed);
    let nodes: BTreeSet<i32> = work
        .iter()
        .filter(|(_, moves)| moves.needed && !moves.moves.is_empty())
        .map(|(id, _)| *id)
        .collect();
    if nodes.is_empty() {
        return report;
    }
    if cluster.spec.rebalance.mode == RebalanceMode::Never {
        let brokers = words::ids(&nodes);
        report.warnings.push(format!("spec.rebalance.mode is Never: volumes of brokers {brokers} are neither emptied nor filled"));
        return report;
    }
    let of = |count: &dyn Fn(&Moves) -> u64| {
        nodes
            .iter()
            .filter_map(|id| work.get(id))
            .map(count)
            .sum::<u64>()
    };
    let (replicas, bytes) = (
        of(&|moves| moves.moves.len() as u64),
        of(&|moves| moves.bytes),
    );
    let why = format!(
        "{replicas} replicas of brokers {} move between their volumes, about {}",
        words::ids(&nodes),
        quantity::words(bytes)
    );
    let work = Work::Volumes {
        total: Some(u32::try_from(replicas).unwrap_or(u32::MAX)),
    };
    let needs = Needs {
        applied: true,
        calm: true,
        configured: true,
        window: true,
        ..Needs::default()
    };
    let lease = Lease {
        nodes,
        why,
        since: Time(observed.now),
        work,
    };
    report.wishes.push(Wish {
        // Nothing is repaired by these moves, so they wait for every node, also for their own.
        nodes: BTreeSet::new(),
        ..Wish::of(Priority::Balance, lease, needs)
    });
    report
}

/// Continues the moves of each broker until none is left and none is in progress.
pub fn resume(held: &Lease, facts: &Facts<'_>) -> Progress {
    let Facts {
        object,
        cluster,
        observed,
        ..
    } = *facts;
    if facts.mode == Mode::Keep {
        return finish(held, observed);
    }
    let mut report = Report::default();
    let work = work(cluster, observed);
    // The lease waits for a broker that does not report its log directories, unless it leaves.
    let nodes = || cluster.groups.iter().flat_map(|group| group.staying_ids());
    let silent = held
        .nodes
        .iter()
        .any(|id| nodes().any(|node| node == *id) && !work.contains_key(id));
    let left: usize = work
        .values()
        .map(|moves| moves.moves.len() + moves.under_way)
        .sum();
    if left == 0 && !silent {
        return Progress::ended(report);
    }
    report.waiting.push(WaitingOn::Moves { replicas: left });
    let rate = throttle::plan(object, cluster, observed);
    let rates = throttle::rates(&RATE, rate.bytes_per_second, observed);
    if !rates.is_empty() {
        report
            .upkeep
            .push(Step::AlterConfigs(vec![(ConfigResource::Brokers, rates)]));
    }
    report.rebalance = Some(moving::progress(held, left, Some(rate), observed));
    for (broker, mut moves) in work {
        moves
            .moves
            .truncate(REPLICAS_MAX.saturating_sub(moves.under_way));
        if !moves.moves.is_empty() {
            report.upkeep.push(Step::MoveFolders {
                broker,
                moves: moves.moves,
            });
        }
    }
    Progress::goes_on(report, held.clone())
}

/// Waits for the moves in progress and begins no more.
fn finish(held: &Lease, observed: &Observed) -> Progress {
    let folders = observed
        .folders
        .values()
        .flat_map(|folders| folders.0.values());
    let replicas = folders
        .flat_map(|folder| &folder.replicas)
        .filter(|replica| replica.future)
        .count();
    let mut report = Report::default();
    if replicas == 0 {
        return Progress::ended(report);
    }
    report.waiting.push(WaitingOn::Moves { replicas });
    Progress::goes_on(report, held.clone())
}
