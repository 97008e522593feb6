//! Rolls over generated clusters, against a model of what restarts do: every batch obeys the rule, every node restarts
//! once, the roll ends, and an operator that dies between any two looks changes none of that.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod fixture;

use fixture::{Kafka, Pod, World, cluster, observe};
use freehold::kinds::kafka_cluster::api::{KafkaCluster, KafkaClusterStatus};
use freehold::kinds::kafka_cluster::plan::{self, Plan, Step};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const MIN_IN_SYNC: usize = 2;
const LOOKS_MAX: usize = 400;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Up,
    Ending,
    Gone,
    Starting,
    CatchingUp,
}

/// A cluster of combined nodes, as it would be in the world.
struct Model {
    object: KafkaCluster,
    phases: BTreeMap<i32, Phase>,
    /// Nodes that run the new configuration.
    new: BTreeSet<i32>,
    restarts: BTreeMap<i32, u32>,
    /// Replicas, and who leads.
    partitions: Vec<(Vec<i32>, i32)>,
    controller: i32,
    elected: usize,
}

fn object(per_zone: u32) -> KafkaCluster {
    let replicas = 3 * per_zone;
    cluster(&format!(
        "apiVersion: freehold.dev/v1alpha1\nkind: KafkaCluster\nmetadata: {{name: c, namespace: n, finalizers: [freehold.dev/finalizer]}}\nspec:\n  \
         version: 4.3.1\n  nodePools:\n  - {{name: p, roles: [controller, broker], replicas: {replicas}, zones: [a, b, c], storage: {{size: 1Gi}}}}\n  \
         rebalance: {{mode: Never}}\n"
    ))
}

impl Model {
    fn new(per_zone: i32, placements: &[(usize, usize, usize)]) -> Self {
        let nodes: Vec<i32> = (0..3).flat_map(|zone| (0..per_zone).map(move |index| zone * 100 + index)).collect();
        let partitions = placements.iter().map(|(first, second, third)| {
            let mut replicas = vec![nodes[first % nodes.len()]];
            for choice in [second, third] {
                let free: Vec<i32> = nodes.iter().copied().filter(|id| replicas.iter().all(|taken| taken / 100 != id / 100)).collect();
                replicas.push(free[choice % free.len()]);
            }
            let leader = replicas[0];
            (replicas, leader)
        });
        Self {
            object: object(u32::try_from(per_zone).unwrap()),
            partitions: partitions.collect(),
            controller: nodes[nodes.len() / 2],
            phases: nodes.into_iter().map(|id| (id, Phase::Up)).collect(),
            new: BTreeSet::new(),
            restarts: BTreeMap::new(),
            elected: 0,
        }
    }

    fn is(&self, id: i32, phase: Phase) -> bool {
        self.phases[&id] == phase
    }

    fn in_sync(&self, replicas: &[i32]) -> Vec<i32> {
        replicas.iter().copied().filter(|id| self.is(*id, Phase::Up)).collect()
    }

    fn world(&self) -> World {
        let pods = self.phases.iter().filter(|(_, phase)| **phase != Phase::Gone).map(|(id, phase)| Pod {
            node: *id,
            ready: matches!(phase, Phase::Up | Phase::CatchingUp | Phase::Ending),
            in_sync: *phase == Phase::Up,
            deleting: *phase == Phase::Ending,
            config: (!self.new.contains(id)).then(|| "old".to_owned()),
            ..Pod::default()
        });
        let of = |up: bool| {
            let serves = |phase: &Phase| matches!(phase, Phase::Up | Phase::CatchingUp);
            self.phases.iter().filter(move |(_, phase)| serves(phase) == up).map(|(id, _)| *id).collect::<Vec<_>>()
        };
        let partitions = self.partitions.iter().map(|(replicas, leader)| {
            let mut in_sync = self.in_sync(replicas);
            in_sync.sort_by_key(|id| id != leader);
            (replicas.clone(), in_sync)
        });
        let voters = self.phases.keys().map(|id| (*id, if of(true).contains(id) { 1000 } else { 1 }));
        let kafka = Kafka {
            unfenced: of(true),
            fenced: of(false),
            leader: self.controller,
            voters: voters.collect(),
            partitions: partitions.collect(),
            min_in_sync: Some(MIN_IN_SYNC),
            unconfigured: false,
        };
        World::running(pods, kafka)
    }

    fn plan(&self) -> Plan {
        let (observed, valid) = observe(&self.object, &self.world());
        plan::plan(&self.object, &valid.unwrap(), &observed)
    }

    /// What the plan does to the world; the status is written at the end, unless the operator dies before.
    fn apply(&mut self, plan: Plan, dies: bool) {
        let batch: BTreeSet<i32> =
            plan.steps.iter().filter_map(|step| if let Step::RestartPod { pod, .. } = step { Some(pod.node_id) } else { None }).collect();
        self.check(&batch);
        for step in plan.steps {
            match step {
                Step::RestartPod { pod, .. } => {
                    let lease = self.object.status.as_ref().and_then(|status| status.disruption.as_ref());
                    assert!(lease.is_some_and(|lease| lease.node_ids.contains(&pod.node_id)), "no restart without a lease in status");
                    assert!(self.partitions.iter().all(|(_, leader)| *leader != pod.node_id), "it leads nothing any more");
                    self.phases.insert(pod.node_id, Phase::Ending);
                    *self.restarts.entry(pod.node_id).or_insert(0) += 1;
                }
                Step::ElectLeaders(elections) => {
                    for one in elections {
                        let index = usize::try_from(one.partition).unwrap();
                        let (replicas, leader) = &mut self.partitions[index];
                        if let Some(order) = one.order {
                            *replicas = order;
                        }
                        // Some elections fail; an operator that dies leaves the first of them undone.
                        if !dies || index > 0 {
                            *leader = replicas[0];
                        }
                        self.elected += 1;
                    }
                }
                Step::SetInSync { .. } => {}
                other => panic!("{other}"),
            }
        }
        if !dies {
            self.object.status = Some(KafkaClusterStatus { disruption: plan.lease, ..KafkaClusterStatus::default() });
        }
        self.lead();
    }

    /// The rule, worked out here once more.
    fn check(&self, batch: &BTreeSet<i32>) {
        if batch.is_empty() {
            return;
        }
        for (replicas, _) in self.partitions.iter().filter(|(replicas, _)| replicas.iter().any(|id| batch.contains(id))) {
            let left = self.in_sync(replicas).iter().filter(|id| !batch.contains(id)).count();
            assert!(left >= MIN_IN_SYNC, "{batch:?} leaves {left} of {replicas:?}");
        }
        let left = self.phases.iter().filter(|(id, phase)| **phase == Phase::Up && !batch.contains(id)).count();
        assert!(2 * left > self.phases.len(), "{batch:?} leaves {left} of {} voters", self.phases.len());
        let zones: BTreeSet<i32> = batch.iter().map(|id| id / 100).collect();
        assert_eq!(zones.len(), 1, "one zone at a time");
        if batch.contains(&self.controller) {
            assert_eq!(self.new.len() + batch.len(), self.phases.len(), "the active controller is the last");
        }
    }

    fn lead(&mut self) {
        let in_sync: Vec<Vec<i32>> = self.partitions.iter().map(|(replicas, _)| self.in_sync(replicas)).collect();
        for ((_, leader), in_sync) in self.partitions.iter_mut().zip(in_sync) {
            if !in_sync.contains(leader) {
                *leader = in_sync[0];
            }
        }
        if !self.is(self.controller, Phase::Up) {
            self.controller = *self.phases.iter().find(|(_, phase)| **phase == Phase::Up).unwrap().0;
        }
    }

    /// One node goes on by a phase.
    fn time_passes(&mut self, choice: usize) {
        let busy: Vec<i32> = self.phases.iter().filter(|(_, phase)| **phase != Phase::Up).map(|(id, _)| *id).collect();
        if busy.is_empty() {
            return;
        }
        let id = busy[choice % busy.len()];
        let next = match self.phases[&id] {
            Phase::Ending => Phase::Gone,
            Phase::Gone => Phase::Starting,
            Phase::Starting => Phase::CatchingUp,
            Phase::CatchingUp | Phase::Up => Phase::Up,
        };
        if next == Phase::Starting {
            self.new.insert(id);
        }
        self.phases.insert(id, next);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_roll_obeys_the_rule_restarts_each_node_once_and_ends(
        per_zone in 1..=3_i32,
        placements in prop::collection::vec((0..9_usize, 0..9_usize, 0..9_usize), 1..20),
        chances in prop::collection::vec((0..9_usize, prop::bool::weighted(0.2)), 1..50),
    ) {
        let mut model = Model::new(per_zone, &placements);
        let nodes = model.phases.len();
        let before: Vec<Vec<i32>> = model.partitions.iter().map(|(replicas, _)| replicas.clone()).collect();
        for look in 0..LOOKS_MAX {
            let (choice, dies) = chances[look % chances.len()];
            let plan = model.plan();
            let idle = plan.steps.is_empty() && plan.lease.is_none() && plan.waiting_on.is_empty();
            // The object's own status is what an operator that dies leaves behind.
            model.apply(plan, dies && look % 7 != 0);
            if idle && model.new.len() == nodes && model.object.status.as_ref().is_some_and(|status| status.disruption.is_none()) {
                break;
            }
            model.time_passes(choice);
        }
        prop_assert_eq!(model.new.len(), nodes, "the roll came to its end");
        prop_assert!(model.restarts.values().all(|count| *count == 1), "{:?}", model.restarts);
        prop_assert!(model.partitions.iter().all(|(replicas, leader)| *leader == replicas[0]), "everybody leads again");
        prop_assert_eq!(model.partitions.iter().map(|(replicas, _)| replicas).collect::<Vec<_>>(), before.iter().collect::<Vec<_>>());
    }
}

#[test]
fn a_pod_that_cannot_start_is_repaired_and_stops_the_others_until_then() {
    let mut model = Model::new(1, &[(0, 0, 0)]);
    let mut world = model.world();
    // The first one was restarted into what cannot start; the spec has changed since, so that all are out of date.
    world.pods[0] = Pod { node: 0, trouble: Some("ImagePullBackOff".into()), config: Some("broken".into()), ..Pod::default() };
    let kafka = world.kafka.as_mut().unwrap();
    (kafka.unfenced, kafka.fenced) = (vec![100, 200], vec![0]);
    kafka.partitions[0].1 = vec![100, 200];
    let look = |model: &Model| {
        let (observed, valid) = observe(&model.object, &world);
        plan::plan(&model.object, &valid.unwrap(), &observed)
    };
    let first = look(&model);
    assert!(!first.steps.iter().any(|step| matches!(step, Step::RestartPod { .. })), "the lease comes first");
    assert_eq!(first.lease.as_ref().unwrap().node_ids, [0]);
    model.object.status = Some(KafkaClusterStatus { disruption: first.lease, ..KafkaClusterStatus::default() });
    let second = look(&model);
    let restarted: Vec<_> =
        second.steps.iter().filter_map(|step| if let Step::RestartPod { pod, .. } = step { Some(pod.node_id) } else { None }).collect();
    assert_eq!(restarted, [0], "the broken one alone");
}

#[test]
fn outside_its_windows_and_without_consent_nothing_begins_and_it_says_what_it_waits_for() {
    let words = |plan: &Plan| plan.waiting_on.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    let mut model = Model::new(1, &[(0, 0, 0)]);
    let window = serde_json::json!({"maintenanceWindows": [{"cron": "0 2 * * *", "durationMinutes": 60}]});
    model.object.spec.rollout = serde_json::from_value(window).unwrap();
    let plan = model.plan();
    assert!(plan.lease.is_none() && words(&plan).contains("maintenance window that opens at 2026-06-01T02:00:00Z"), "{}", words(&plan));
    model.object.spec.rollout = Default::default();
    assert!(model.plan().lease.is_some());

    // With two replicas in sync needed of two, no restart can spare the partition.
    let mut world = model.world();
    world.kafka.as_mut().unwrap().partitions = vec![(vec![0, 100], vec![0, 100]), (vec![200], vec![200])];
    let look = |object: &KafkaCluster| {
        let (observed, valid) = observe(object, &world);
        plan::plan(object, &valid.unwrap(), &observed)
    };
    let plan = look(&model.object);
    assert!(plan.lease.is_none() && words(&plan).contains("spec.rollout.allowUnavailable"), "{}", words(&plan));
    model.object.spec.rollout.allow_unavailable = true;
    assert_eq!(look(&model.object).lease.unwrap().node_ids.len(), 1, "one at a time");
}
