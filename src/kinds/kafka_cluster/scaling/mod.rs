//! Decides the number of brokers of pools with autoscaling, from their load. Pure.
//!
//! The chosen number is stored in the status. Everything else sees a spec with that number of
//! replicas, so that brokers are added, filled, drained and removed as if a person had written it.

use crate::api::conditions::{ConditionStatus, ConditionType};
use crate::api::kafka_cluster::{Autoscaling, AutoscalingStatus, KafkaCluster, NodePool, Role};
use crate::kinds::kafka_cluster::model::cluster::ValidCluster;
use crate::kinds::kafka_cluster::observed::Observed;
use crate::kinds::kafka_cluster::resources::server_properties::replication_defaults;
use crate::kinds::kafka_cluster::validate::sum;
use crate::kubernetes::quantity;
use freehold_kafka::load::Load;
use freehold_kafka_client::figures::Disks;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::SignedDuration;

/// A pool gets more brokers only if its load is above its target by more than this factor.
const OUT_ABOVE: f64 = 1.1;
/// A pool gets fewer brokers only if the load of the others would be below this part of its target.
const IN_BELOW: f64 = 0.8;
/// The time before the load is trusted: brokers that have just started use more CPU than later.
const SETTLED: SignedDuration = SignedDuration::from_secs(60);

/// The object with the numbers of replicas that the autoscaling has chosen.
pub fn effective(object: &KafkaCluster) -> KafkaCluster {
    let mut effective = object.clone();
    for pool in &mut effective.spec.node_pools {
        if let (Some(autoscaling), Some(known)) = (&pool.autoscaling, known(object, pool)) {
            pool.replicas = bounded(pool, autoscaling, known.replicas);
        }
    }
    // Default replication factors are computed from the spec's own number of brokers, so that no
    // node restarts because of the load.
    if effective.spec.node_pools != object.spec.node_pools {
        for (key, value) in replication_defaults(sum(&object.spec, Role::Broker)) {
            effective.spec.config.entry(key).or_insert(value);
        }
    }
    effective
}

/// The number that the autoscaling has chosen for the pool so far.
fn known<'a>(object: &'a KafkaCluster, pool: &NodePool) -> Option<&'a AutoscalingStatus> {
    object
        .status
        .iter()
        .flat_map(|status| &status.autoscaling)
        .find(|known| known.pool == pool.name)
}

/// The number of replicas within the pool's bounds, and the same in every zone.
fn bounded(pool: &NodePool, autoscaling: &Autoscaling, replicas: u32) -> u32 {
    let zones = u32::try_from(pool.zones.len()).unwrap_or(1).max(1);
    replicas
        .next_multiple_of(zones)
        .min(autoscaling.max_replicas)
        .max(pool.replicas)
}

/// Decides the numbers of brokers. `object` is as the user wrote it, `cluster` has the effective
/// numbers. `idle`: nothing is in progress or waited for.
pub fn decide(
    object: &KafkaCluster,
    cluster: &ValidCluster,
    observed: &Observed,
    idle: bool,
) -> Vec<AutoscalingStatus> {
    let mut all = Vec::new();
    for pool in &object.spec.node_pools {
        let Some(autoscaling) = &pool.autoscaling else {
            continue;
        };
        let known = known(object, pool);
        let current = known.map_or(pool.replicas, |known| {
            bounded(pool, autoscaling, known.replicas)
        });
        let since = known.map(|known| &known.since);
        let change = (idle && is_due(object, autoscaling, since, observed))
            .then(|| {
                change(
                    pool,
                    autoscaling,
                    current,
                    &ratios(pool, autoscaling, cluster, observed)?,
                )
            })
            .flatten();
        all.extend(match change {
            Some((replicas, why)) => Some(AutoscalingStatus {
                pool: pool.name.clone(),
                replicas,
                why,
                since: Time(observed.now),
            }),
            None => known.map(|known| AutoscalingStatus {
                replicas: current,
                ..known.clone()
            }),
        });
    }
    all
}

/// True if the cooldown is over, and the brokers have run long enough for a reliable load.
fn is_due(
    object: &KafkaCluster,
    autoscaling: &Autoscaling,
    since: Option<&Time>,
    observed: &Observed,
) -> bool {
    let cooldown = SignedDuration::from_mins(autoscaling.cooldown_minutes.into());
    let conditions = object.status.iter().flat_map(|status| &status.conditions);
    let ready = conditions.into_iter().find(|condition| {
        condition.kind == ConditionType::Ready && condition.status == ConditionStatus::True
    });
    let settled = ready
        .is_some_and(|ready| observed.now >= ready.last_transition_time.0 + cooldown.max(SETTLED));
    settled && since.is_none_or(|since| observed.now >= since.0 + cooldown)
}

/// A load relative to its target.
struct Ratio {
    load: f64,
    words: String,
}

/// The ratio for each target; `None` if a broker of the pool does not report its load.
fn ratios(
    pool: &NodePool,
    autoscaling: &Autoscaling,
    cluster: &ValidCluster,
    observed: &Observed,
) -> Option<Vec<Ratio>> {
    let groups = cluster
        .groups
        .iter()
        .filter(|group| group.pool.name == pool.name);
    let ids: Vec<i32> = groups.flat_map(|group| group.staying_ids()).collect();
    let loads: Option<Vec<Load>> = ids
        .iter()
        .map(|id| observed.loads.get(id).copied())
        .collect();
    let loads = loads.filter(|loads| !loads.is_empty())?;
    let mean = |of: &dyn Fn(&Load) -> f64| loads.iter().map(of).sum::<f64>() / loads.len() as f64;
    let mut ratios = Vec::new();
    if let Some(target) = autoscaling.cpu_percent {
        let percent = mean(&|load| load.cpu) * 100.0;
        ratios.push(Ratio {
            load: percent / f64::from(target),
            words: format!("{percent:.0} % of their CPUs, {target} % are wanted"),
        });
    }
    if let Some(target) = autoscaling
        .bytes_per_second
        .as_ref()
        .and_then(quantity::bytes)
    {
        let bytes = mean(&|load| load.bytes);
        let words = format!(
            "{} a second, {} are wanted",
            quantity::words(bytes as u64),
            quantity::words(target)
        );
        ratios.push(Ratio {
            load: bytes / target as f64,
            words,
        });
    }
    if let Some(target) = autoscaling.disk_percent {
        let disks: Option<Vec<&Disks>> = ids.iter().map(|id| observed.disks.get(id)).collect();
        let fullest = |disks: &Disks| {
            disks
                .values()
                .map(|disk| disk.used_percent())
                .max()
                .unwrap_or(0) as f64
        };
        let percent = disks?.into_iter().map(fullest).sum::<f64>() / ids.len() as f64;
        ratios.push(Ratio {
            load: percent / f64::from(target),
            words: format!("{percent:.0} % of their volumes, {target} % are wanted"),
        });
    }
    Some(ratios)
}

/// A new number of replicas, and why; `None` if it does not change.
fn change(
    pool: &NodePool,
    autoscaling: &Autoscaling,
    current: u32,
    ratios: &[Ratio],
) -> Option<(u32, String)> {
    let worst = ratios.iter().max_by(|a, b| a.load.total_cmp(&b.load))?;
    let step = u32::try_from(pool.zones.len()).unwrap_or(1);
    if worst.load > OUT_ABOVE {
        // At most doubled at once: the effect on the load is observed before the next change.
        let wanted = (f64::from(current) * worst.load.min(2.0)).ceil() as u32;
        let wanted = bounded(pool, autoscaling, wanted);
        return (wanted > current)
            .then(|| (wanted, format!("{current} brokers use {}", worst.words)));
    }
    let fewer = current
        .checked_sub(step)
        .filter(|fewer| *fewer >= pool.replicas && *fewer > 0)?;
    let left = worst.load * f64::from(current) / f64::from(fewer);
    (left < IN_BELOW).then(|| (fewer, format!("{current} brokers use only {}", worst.words)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
    use serde_json::json;

    fn pool(replicas: u32, zones: usize, most: u32) -> NodePool {
        let zones: Vec<_> = (0..zones).map(|zone| format!("z{zone}")).collect();
        let autoscaling = json!({"maxReplicas": most, "cpuPercent": 50});
        serde_json::from_value(json!({"name": "b", "roles": ["broker"], "replicas": replicas, "zones": zones, "storage": {"size": "1Gi"}, "autoscaling": autoscaling})).unwrap()
    }

    fn after(pool: &NodePool, current: u32, load: f64) -> Option<u32> {
        let ratio = Ratio {
            load,
            words: "x".into(),
        };
        change(pool, pool.autoscaling.as_ref().unwrap(), current, &[ratio])
            .map(|(replicas, _)| replicas)
    }

    #[test]
    fn brokers_are_added_in_steps_of_all_zones_up_to_the_most_and_given_back_one_step_at_a_time() {
        let pool = pool(3, 3, 12);
        assert_eq!(after(&pool, 3, 1.05), None, "about as wanted");
        assert_eq!(after(&pool, 3, 1.2), Some(6));
        assert_eq!(after(&pool, 6, 5.0), Some(12), "twice as many at most");
        assert_eq!(after(&pool, 9, 5.0), Some(12));
        assert_eq!(after(&pool, 12, 5.0), None, "no more are allowed");
        assert_eq!(after(&pool, 9, 0.6), None, "six would be at 0.9");
        assert_eq!(after(&pool, 9, 0.5), Some(6));
        assert_eq!(after(&pool, 3, 0.0), None, "replicas is the fewest");
    }

    #[test]
    fn what_the_load_has_come_to_stays_within_bounds_that_change() {
        let pool = pool(3, 3, 9);
        let autoscaling = pool.autoscaling.as_ref().unwrap();
        assert_eq!(
            [1, 6, 7, 99].map(|known| bounded(&pool, autoscaling, known)),
            [3, 6, 9, 9]
        );
        let quantity = Autoscaling {
            bytes_per_second: Some(Quantity("1Mi".into())),
            ..autoscaling.clone()
        };
        assert_eq!(quantity.cooldown_minutes, 30);
    }
}
