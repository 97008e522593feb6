//! Takes a pool of brokers out of the spec in any look, also while replicas move onto it. Its brokers
//! are emptied, then their pods go, then their registrations; nothing of it is left.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use crate::fixture;
use crate::linter;
use crate::moves;

use fixture::{Kafka, Pod, World, cluster, live, node_claim, observe};
use freehold::api::kafka_cluster::{KafkaCluster, KafkaClusterStatus};
use freehold::kinds::kafka_cluster::observed::{Claim, KafkaFacts, Objects, Observed};
use freehold::kinds::kafka_cluster::plan::{Plan, Step};
use freehold::kinds::kafka_cluster::validate::validate;
use freehold::kubernetes::Live;
use freehold_kafka::metadata_image::PartitionImage;
use freehold_kafka::metadata_record::PartitionFields;
use proptest::prelude::*;
use std::collections::BTreeSet;

const LOOKS_MAX: usize = 600;
const ZONES: [&str; 3] = ["a", "b", "c"];
/// The brokers of the pool that stays, and of the one that is removed.
const STAY: [i32; 3] = [0, 100, 200];
const LEAVE: [i32; 3] = [600, 700, 800];
const CONTROLLERS: [i32; 3] = [300, 400, 500];

fn object() -> KafkaCluster {
    let pool = |name: &str, role: &str| {
        format!(
            "  - {{name: {name}, roles: [{role}], replicas: 3, zones: [a, b, c], storage: {{size: 1Gi}}}}\n"
        )
    };
    cluster(&format!(
        "apiVersion: freehold.dev/v1alpha1\nkind: KafkaCluster\nmetadata: {{name: c, namespace: n, finalizers: [freehold.dev/finalizer]}}\nspec:\n  \
         version: 4.3.1\n  nodePools:\n{}{}{}",
        pool("b", "broker"),
        pool("c", "controller"),
        pool("d", "broker")
    ))
}

fn zone(id: i32) -> usize {
    usize::try_from(id / 100).unwrap() % 3
}

/// The StatefulSet of a broker.
fn set_of(id: i32) -> String {
    let pool = if LEAVE.contains(&id) { "d" } else { "b" };
    format!("c-{pool}-{}", ZONES[zone(id)])
}

fn is(live: &Live, kind: &str, name: &str) -> bool {
    live.resource.kind == kind && live.name() == name
}

struct Model {
    object: KafkaCluster,
    base: Observed,
    objects: Vec<Live>,
    partitions: Vec<PartitionImage>,
    /// Brokers that have a pod, and those that are registered.
    pods: BTreeSet<i32>,
    registered: BTreeSet<i32>,
    emptied: BTreeSet<i32>,
}

impl Model {
    /// For each zone of a partition: true if the pool that is removed has its replica.
    fn new(placements: &[[bool; 3]]) -> Self {
        let object = object();
        let brokers: BTreeSet<i32> = STAY.into_iter().chain(LEAVE).collect();
        let kafka = Kafka {
            unfenced: brokers.iter().copied().collect(),
            leader: CONTROLLERS[0],
            voters: CONTROLLERS.map(|id| (id, 100)).into(),
            min_in_sync: Some(2),
            ..Kafka::default()
        };
        let nodes = brokers.iter().copied().chain(CONTROLLERS);
        let (base, _) = observe(&object, &World::running(nodes.map(Pod::up), kafka));
        let partition = |(index, leaves): (usize, &[bool; 3])| {
            let at = |zone: usize| {
                if leaves[zone] {
                    LEAVE[zone]
                } else {
                    STAY[zone]
                }
            };
            let mut replicas = [at(0), at(1), at(2)];
            replicas.rotate_left(index % 3);
            PartitionImage::new(&replicas)
        };
        Self {
            object,
            objects: base.objects.all().to_vec(),
            partitions: placements.iter().enumerate().map(partition).collect(),
            pods: brokers.clone(),
            registered: brokers,
            emptied: BTreeSet::new(),
            base,
        }
    }

    fn holds(&self, id: i32) -> bool {
        let mut partitions = self.partitions.iter();
        partitions.any(|partition| partition.replicas.contains(&id))
    }

    fn plan(&self) -> Plan {
        let mut observed = self.base.clone();
        observed.objects = Objects::of(self.objects.clone());
        observed
            .pods
            .retain(|pod| CONTROLLERS.contains(&pod.node_id) || self.pods.contains(&pod.node_id));
        let claim = |id: &i32| -> Claim {
            let (set, pool) = (set_of(*id), if LEAVE.contains(id) { "d" } else { "b" });
            node_claim(pool, &format!("{set}-{id}"), &format!("claim-{id}"))
        };
        observed.volumes = STAY.iter().chain(&LEAVE).map(claim).collect();
        observed.emptied.clone_from(&self.emptied);
        let KafkaFacts::Answered {
            cluster, topics, ..
        } = &mut observed.kafka
        else {
            panic!("no answer")
        };
        topics[0].partitions.clone_from(&self.partitions);
        topics[0].partition_bytes = 1 << 20;
        cluster
            .brokers
            .retain(|broker| self.registered.contains(&broker.id));
        for broker in &mut cluster.brokers {
            broker.rack = Some(ZONES[zone(broker.id)].into());
            broker.fenced = !self.pods.contains(&broker.id);
        }
        let valid = validate(&self.object, &observed).unwrap();
        linter::plan(&self.object, &valid, &observed)
    }

    fn apply(&mut self, plan: Plan, dies: bool) {
        for step in plan.steps {
            match step {
                Step::Reassign(moves) => {
                    for one in moves {
                        let found = &mut self.partitions[usize::try_from(one.partition).unwrap()];
                        let next = moves::partition(found.origin(), one.replicas.as_deref());
                        *found = PartitionImage::of(PartitionFields {
                            replicas: Some(next.replicas.to_vec()),
                            adding: Some(next.adding.to_vec()),
                            removing: Some(next.removing.to_vec()),
                            in_sync: Some(next.in_sync().to_vec()),
                            leader: Some(found.leader),
                        });
                        if next.adding.is_empty() && next.removing.is_empty() {
                            let order = one.replicas.unwrap_or_else(|| next.replicas.to_vec());
                            *found = led(&order, found.leader);
                        }
                    }
                }
                Step::ElectLeaders(elections) => {
                    for one in elections {
                        let found = &mut self.partitions[usize::try_from(one.partition).unwrap()];
                        let order = one.order.unwrap_or_else(|| found.replicas.to_vec());
                        *found = PartitionImage::new(&order);
                    }
                }
                Step::Apply(object) => {
                    if object.kind() == "StatefulSet" {
                        let replicas = object.value["spec"]["replicas"].as_i64().unwrap();
                        self.scale(object.name(), replicas);
                    }
                    self.objects
                        .retain(|live| !is(live, object.kind(), object.name()));
                    self.objects.push(live(*object));
                }
                Step::Prune(gone) => {
                    if gone.resource.kind == "StatefulSet" {
                        self.scale(gone.name(), 0);
                    }
                    self.objects
                        .retain(|live| !is(live, &gone.resource.kind, gone.name()));
                }
                Step::UpdateIdentity(identity) => self.base.identity = Some(identity),
                Step::Unregister(id) => {
                    assert!(!self.pods.contains(&id) && !self.holds(id), "broker {id}");
                    self.registered.remove(&id);
                }
                Step::AlterConfigs(_)
                | Step::IssueNodeCertificates { .. }
                | Step::SetInSync { .. } => {}
                other => panic!("{other}"),
            }
        }
        if !dies {
            self.object.status = Some(KafkaClusterStatus {
                disruption: plan.lease,
                ..KafkaClusterStatus::default()
            });
        }
    }

    /// The StatefulSet runs this number of pods from now on.
    fn scale(&mut self, set: &str, replicas: i64) {
        if replicas > 0 {
            return;
        }
        for id in self
            .pods
            .clone()
            .into_iter()
            .filter(|id| set_of(*id) == set)
        {
            assert!(LEAVE.contains(&id), "broker {id} stays");
            assert!(!self.holds(id), "broker {id} holds partitions");
            self.pods.remove(&id);
        }
    }

    /// Some of the moves under way finish.
    fn time_passes(&mut self, choice: usize) {
        let moving: Vec<usize> = (0..self.partitions.len())
            .filter(|index| self.partitions[*index].is_moving())
            .collect();
        let finish = moving.iter().skip(choice % 3).step_by(2);
        for index in finish.chain(moving.first()) {
            let found = &mut self.partitions[*index];
            if found.is_moving() {
                *found = led(&found.target(), found.leader);
            }
        }
        let is_removed = self.object.spec.node_pools.len() == 2;
        let leaving = LEAVE.into_iter().filter(|_| is_removed);
        self.emptied = leaving.filter(|id| !self.holds(*id)).collect();
    }
}

/// A partition that does not move. Its leader stays, if it can.
fn led(replicas: &[i32], leader: i32) -> PartitionImage {
    let stays = replicas.contains(&leader);
    PartitionImage::of(PartitionFields {
        replicas: Some(replicas.to_vec()),
        in_sync: Some(replicas.to_vec()),
        leader: Some(if stays { leader } else { replicas[0] }),
        ..PartitionFields::default()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: fixture::cases(18), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_pool_that_is_removed_at_any_time_is_emptied_and_goes(
        placements in prop::collection::vec(any::<[bool; 3]>(), 1..40),
        chances in prop::collection::vec((0..9_usize, prop::bool::weighted(0.3)), 1..40),
        at in 0..12_usize,
    ) {
        let mut model = Model::new(&placements);
        for look in 0..LOOKS_MAX {
            if look == at {
                model.object.spec.node_pools.retain(|pool| pool.name != "d");
            }
            let (choice, dies) = chances[look % chances.len()];
            let plan = model.plan();
            if look > at && plan.lease.is_none() && model.registered == BTreeSet::from(STAY) {
                break;
            }
            model.apply(plan, dies && look % 7 != 0);
            model.time_passes(choice);
        }
        let plan = model.plan();
        let steps: Vec<String> = plan.steps.iter().map(ToString::to_string).collect();
        prop_assert_eq!(&model.registered, &BTreeSet::from(STAY), "{:?} {:?}", plan.waiting_on, steps);
        prop_assert_eq!(&model.pods, &BTreeSet::from(STAY));
        prop_assert!(plan.lease.is_none(), "{:?}", plan.lease);
        for partition in &model.partitions {
            let zones: BTreeSet<usize> = partition.replicas.iter().map(|id| zone(*id)).collect();
            prop_assert!(zones.len() == 3 && !partition.is_moving(), "{:?}", partition);
        }
    }
}
