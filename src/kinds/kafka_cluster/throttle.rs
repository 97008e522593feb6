//! How fast replicas may move: the spec's number, or as much as brokers can spare. Pure.
//!
//! Nobody knows beforehand what a broker can spare. The rate rises by half as long as no broker is under pressure (the
//! kernel's word for work that waits for a CPU or a disk) and no other replica falls behind, and is halved when one is.

use super::api::{KafkaCluster, ThrottleStatus};
use super::observe::{KafkaFacts, Observed};
use super::validate::ValidCluster;
use crate::kafka::load::Load;
use crate::kafka::restart::TopicView;
use crate::kafka::topic_plan::RATE_START;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::SignedDuration;
use std::collections::BTreeSet;

const RATE_MIN: u64 = 4 * 1024 * 1024;
const RATE_MAX: u64 = 1024 * 1024 * 1024;
/// Share of the time: a broker whose work waits longer than this is slowed down by what moves …
const BUSY: f64 = 0.5;
/// … and one whose work waits less than this is not.
const CALM: f64 = 0.25;
/// Share of its CPUs that a broker may use before it has none to spare.
const CPU_MAX: f64 = 0.8;
/// What a change of the rate does shows by then.
const PERIOD: SignedDuration = SignedDuration::from_secs(10);

/// The throttle to be in force now.
pub fn plan(object: &KafkaCluster, cluster: &ValidCluster, observed: &Observed) -> ThrottleStatus {
    let last = object.status.as_ref().and_then(|status| status.rebalance.as_ref()?.throttle.clone());
    let new = |bytes_per_second| ThrottleStatus { bytes_per_second, since: Time(observed.now) };
    if let Some(fixed) = cluster.spec.rebalance.fixed_rate() {
        return last.filter(|last| last.bytes_per_second == fixed).unwrap_or_else(|| new(fixed));
    }
    let Some(last) = last else { return new(RATE_START) };
    if observed.now < last.since.0 + PERIOD {
        return last;
    }
    let KafkaFacts::Answered { cluster: described, topics, .. } = &observed.kafka else { return last };
    let serving = described.brokers.iter().filter(|broker| !broker.fenced).map(|broker| broker.id).collect();
    match next(last.bytes_per_second, observed.loads.values(), falls_behind(topics, &serving)) {
        same if same == last.bytes_per_second => last,
        other => new(other),
    }
}

fn next<'a>(rate: u64, loads: impl Iterator<Item = &'a Load>, falls_behind: bool) -> u64 {
    let (mut worst, mut known) = (0.0_f64, false);
    for load in loads {
        // A broker that has no CPU to spare is as good as one whose work waits.
        let cpu = if load.cpu > CPU_MAX { 1.0 } else { 0.0 };
        worst = worst.max(load.cpu_pressure).max(load.io_pressure).max(cpu);
        known = true;
    }
    if falls_behind || worst > BUSY {
        (rate / 2).max(RATE_MIN)
    } else if known && worst < CALM {
        (rate + rate / 2).min(RATE_MAX)
    } else {
        rate
    }
}

/// A replica that does not move is out of sync although its broker serves.
fn falls_behind(topics: &[TopicView], serving: &BTreeSet<i32>) -> bool {
    let resting = topics.iter().flat_map(|topic| &topic.partitions).filter(|partition| !partition.is_moving());
    resting.into_iter().any(|partition| {
        let in_sync = partition.in_sync();
        in_sync.len() < partition.replicas.len() && partition.replicas.iter().any(|id| serving.contains(id) && !in_sync.contains(id))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::metadata_image::PartitionImage;
    use crate::kafka::metadata_record::PartitionFields;

    const MIB: u64 = 1024 * 1024;

    fn rate(rate: u64, loads: &[(f64, f64, f64)], behind: bool) -> u64 {
        let load = |(cpu, cpu_pressure, io_pressure): &(f64, f64, f64)| Load {
            cpu: *cpu,
            cpu_pressure: *cpu_pressure,
            io_pressure: *io_pressure,
            ..Load::default()
        };
        let loads: Vec<Load> = loads.iter().map(load).collect();
        next(rate * MIB, loads.iter(), behind) / MIB
    }

    #[test]
    fn the_rate_rises_while_brokers_have_something_to_spare_and_falls_when_one_has_not() {
        assert_eq!(rate(16, &[(0.1, 0.0, 0.0), (0.2, 0.2, 0.1)], false), 24);
        assert_eq!(rate(16, &[(0.1, 0.0, 0.0), (0.2, 0.3, 0.1)], false), 16, "neither calm nor busy");
        assert_eq!(rate(16, &[(0.1, 0.0, 0.0), (0.2, 0.0, 0.6)], false), 8);
        assert_eq!(rate(16, &[(0.9, 0.0, 0.0)], false), 8, "no CPU to spare");
        assert_eq!(rate(16, &[(0.1, 0.0, 0.0)], true), 8, "another replica falls behind");
        assert_eq!(rate(16, &[], false), 16, "nobody says");
        assert_eq!((rate(5, &[(1.0, 1.0, 1.0)], true), rate(900, &[(0.0, 0.0, 0.0)], false)), (4, 1024), "within its limits");
    }

    #[test]
    fn a_replica_falls_behind_only_where_its_broker_serves_and_it_does_not_move() {
        let view = |in_sync: &[i32], adding: &[i32]| {
            let fields = PartitionFields {
                replicas: Some(vec![1, 2]),
                in_sync: Some(in_sync.to_vec()),
                adding: Some(adding.to_vec()),
                ..PartitionFields::default()
            };
            vec![TopicView { partitions: vec![PartitionImage::of(fields)], ..TopicView::default() }]
        };
        assert!(falls_behind(&view(&[1], &[]), &[1, 2].into()));
        assert!(!falls_behind(&view(&[1], &[]), &[1].into()), "its broker is away");
        assert!(!falls_behind(&view(&[1], &[2]), &[1, 2].into()), "it moves");
        assert!(!falls_behind(&view(&[1, 2], &[]), &[1, 2].into()));
    }
}
