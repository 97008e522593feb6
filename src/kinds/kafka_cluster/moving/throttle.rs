//! Decides how fast replicas may move: at the rate of the spec, or as fast as brokers can bear.
//! Pure.
//!
//! The rate that a broker can bear is not known beforehand. The rate rises by half as long as no
//! broker is under pressure (the kernel's term for work that waits for a CPU or a disk) and no
//! other replica falls behind. Otherwise it is halved.

use crate::api::kafka_cluster::{KafkaCluster, ThrottleStatus};
use crate::kinds::kafka_cluster::model::cluster::ValidCluster;
use crate::kinds::kafka_cluster::observed::{KafkaFacts, Observed};
use crate::kinds::kafka_cluster::step::Step;
use freehold_kafka::load::Load;
use freehold_kafka::safety::TopicView;
use freehold_kafka::topic_plan::{RATE_START, THROTTLED};
use freehold_kafka_client::{ConfigChanges, ConfigResource, Reassignment};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::SignedDuration;
use std::collections::BTreeSet;

const RATE_MIN: u64 = 4 * 1024 * 1024;
const RATE_MAX: u64 = 1024 * 1024 * 1024;
/// Share of the time. A broker whose work waits longer than this is slowed down by moves …
const BUSY: f64 = 0.5;
/// … and a broker whose work waits less than this is not.
const CALM: f64 = 0.25;
/// The share of its CPUs that a broker may use before the rate is lowered.
const CPU_MAX: f64 = 0.8;
/// The time after which the effect of a new rate can be measured.
const PERIOD: SignedDuration = SignedDuration::from_secs(10);

/// The throttle that should be in force now.
pub fn plan(object: &KafkaCluster, cluster: &ValidCluster, observed: &Observed) -> ThrottleStatus {
    let last = object
        .status
        .as_ref()
        .and_then(|status| status.rebalance.as_ref()?.throttle.clone());
    let new = |bytes_per_second| ThrottleStatus {
        bytes_per_second,
        since: Time(observed.now),
    };
    if let Some(fixed) = cluster.spec.rebalance.fixed_rate() {
        return last
            .filter(|last| last.bytes_per_second == fixed)
            .unwrap_or_else(|| new(fixed));
    }
    let Some(last) = last else {
        return new(RATE_START);
    };
    if observed.now < last.since.0 + PERIOD {
        return last;
    }
    let KafkaFacts::Answered {
        cluster: described,
        topics,
        ..
    } = &observed.kafka
    else {
        return last;
    };
    let serving = described
        .brokers
        .iter()
        .filter(|broker| !broker.fenced)
        .map(|broker| broker.id)
        .collect();
    match next(
        last.bytes_per_second,
        observed.loads.values(),
        falls_behind(topics, &serving),
    ) {
        same if same == last.bytes_per_second => last,
        other => new(other),
    }
}

fn next<'a>(rate: u64, loads: impl Iterator<Item = &'a Load>, falls_behind: bool) -> u64 {
    let (mut worst, mut known) = (0.0_f64, false);
    for load in loads {
        // A broker without a free CPU counts as one whose work waits.
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

/// True if a replica that does not move is out of sync although its broker serves.
fn falls_behind(topics: &[TopicView], serving: &BTreeSet<i32>) -> bool {
    let resting = topics
        .iter()
        .flat_map(|topic| &topic.partitions)
        .filter(|partition| !partition.is_moving());
    resting.into_iter().any(|partition| {
        let in_sync = partition.in_sync();
        in_sync.len() < partition.replicas.len()
            && partition
                .replicas
                .iter()
                .any(|id| serving.contains(id) && !in_sync.contains(id))
    })
}

/// The changes that set these configs of all brokers to the rate.
pub fn rates(keys: &[&str], rate: u64, observed: &Observed) -> ConfigChanges {
    let KafkaFacts::Answered { configs, .. } = &observed.kafka else {
        return ConfigChanges::new();
    };
    let rate = rate.to_string();
    let set = |key: &&&str| configs.get("").and_then(|configs| configs.get(**key)) != Some(&rate);
    keys.iter()
        .filter(set)
        .map(|key| ((*key).to_owned(), Some(rate.clone())))
        .collect()
}

/// Sets the throttle on the topics that move: the rates of brokers apply to these topics alone.
pub fn throttle_topics(next: &[Reassignment], topics: &[TopicView]) -> Option<Step> {
    let names: BTreeSet<&str> = next.iter().map(|one| one.topic.as_str()).collect();
    // The reconcile of a Topic throttles that topic itself.
    set_throttled(
        topics
            .iter()
            .filter(|topic| names.contains(&*topic.name) && !topic.throttled && !topic.claimed),
        Some("*"),
    )
}

/// Removes the throttle from topics that no longer move.
pub fn release(topics: &[TopicView]) -> Option<Step> {
    let idle = |topic: &&TopicView| {
        topic.throttled
            && !topic.claimed
            && !topic
                .partitions
                .iter()
                .any(|partition| partition.is_moving())
    };
    set_throttled(topics.iter().filter(idle), None)
}

/// `replicas`: the replicas of each topic to throttle, `*` for all; `None` removes the throttle.
fn set_throttled<'a>(
    topics: impl Iterator<Item = &'a TopicView>,
    replicas: Option<&str>,
) -> Option<Step> {
    let keys = || {
        THROTTLED
            .iter()
            .map(|key| ((*key).to_owned(), replicas.map(str::to_owned)))
            .collect()
    };
    let changes: Vec<_> = topics
        .map(|topic| (ConfigResource::Topic(topic.name.to_string()), keys()))
        .collect();
    (!changes.is_empty()).then_some(Step::AlterConfigs(changes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use freehold_kafka::metadata_image::PartitionImage;
    use freehold_kafka::metadata_record::PartitionFields;

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
        assert_eq!(
            rate(16, &[(0.1, 0.0, 0.0), (0.2, 0.3, 0.1)], false),
            16,
            "neither calm nor busy"
        );
        assert_eq!(rate(16, &[(0.1, 0.0, 0.0), (0.2, 0.0, 0.6)], false), 8);
        assert_eq!(rate(16, &[(0.9, 0.0, 0.0)], false), 8, "no CPU to spare");
        assert_eq!(
            rate(16, &[(0.1, 0.0, 0.0)], true),
            8,
            "another replica falls behind"
        );
        assert_eq!(rate(16, &[], false), 16, "nobody says");
        assert_eq!(
            (
                rate(5, &[(1.0, 1.0, 1.0)], true),
                rate(900, &[(0.0, 0.0, 0.0)], false)
            ),
            (4, 1024),
            "within its limits"
        );
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
            vec![TopicView {
                partitions: vec![PartitionImage::of(fields)],
                ..TopicView::default()
            }]
        };
        assert!(falls_behind(&view(&[1], &[]), &[1, 2].into()));
        assert!(
            !falls_behind(&view(&[1], &[]), &[1].into()),
            "its broker is away"
        );
        assert!(!falls_behind(&view(&[1], &[2]), &[1, 2].into()), "it moves");
        assert!(!falls_behind(&view(&[1, 2], &[]), &[1, 2].into()));
    }
}
