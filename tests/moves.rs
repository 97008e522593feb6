//! Scales generated clusters against a model of reassignments. New brokers are filled, and leaving
//! ones are emptied before their pods are deleted, with as many moves as the lower bound says,
//! whatever dies between two reconciles.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use crate::fixture;
use crate::linter;

use fixture::{Kafka, Pod, World, change_objects, cluster, node_claim, observe};
use freehold::api::kafka_cluster::{
    DisruptionKind, DisruptionStatus, HandedOver, KafkaCluster, KafkaClusterStatus,
    MaintenanceWindow, RebalanceMode,
};
use freehold::kinds::kafka_cluster::model::cluster::ValidCluster;
use freehold::kinds::kafka_cluster::observed::{Claim, KafkaFacts, Observed, Stuck};
use freehold::kinds::kafka_cluster::plan::{Plan, Step, WaitingOn};
use freehold::kinds::kafka_cluster::preview;
use freehold::kinds::kafka_cluster::validate::validate;
use freehold_kafka::metadata_image::PartitionImage;
use freehold_kafka::metadata_record::PartitionFields;
use freehold_kafka::safety::TopicView;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const LOOKS_MAX: usize = 600;
const LARGE: &str = "large";

/// Three controllers, and a pool of brokers over three zones: nodes 0.., 100.., 200.. are brokers.
fn object(replicas: u32) -> KafkaCluster {
    cluster(&format!(
        "apiVersion: freehold.dev/v1alpha1\nkind: KafkaCluster\nmetadata: {{name: c, namespace: n, finalizers: [freehold.dev/finalizer]}}\nspec:\n  \
         version: 4.3.1\n  nodePools:\n  - {{name: b, roles: [broker], replicas: {replicas}, zones: [a, b, c], storage: {{size: 1Gi}}}}\n  \
         - {{name: c, roles: [controller], replicas: 3, zones: [a, b, c], storage: {{size: 1Gi}}}}\n"
    ))
}

struct Model {
    object: KafkaCluster,
    /// Running brokers in each zone.
    per_zone: i32,
    partitions: Vec<PartitionImage>,
    /// The first `large` partitions belong to a topic of their own, with 4 GiB each.
    large: usize,
    /// Number of replicas that were ever added to a partition.
    added: usize,
    /// Leaving brokers that were observed to be empty.
    emptied: BTreeSet<i32>,
    /// Brokers whose machines are lost.
    dead: BTreeSet<i32>,
    /// Those of them whose claims, and whose pods, were deleted.
    pruned: BTreeSet<i32>,
    restarted: BTreeSet<i32>,
    /// Number of new volumes that brokers were given.
    volumes: BTreeMap<i32, u32>,
    /// Brokers that serve and are not in sync.
    behind: BTreeSet<i32>,
    /// True if pods go when their StatefulSet shrinks, and the zones in which they have gone.
    shrinks: bool,
    shrunk: BTreeSet<i32>,
}

/// The state of a partition while these brokers are down.
fn without(dead: &BTreeSet<i32>, partition: &PartitionImage) -> PartitionImage {
    let in_sync: Vec<i32> = partition
        .in_sync()
        .iter()
        .copied()
        .filter(|id| !dead.contains(id))
        .collect();
    let leader = if in_sync.contains(&partition.leader) {
        partition.leader
    } else {
        in_sync.first().copied().unwrap_or(-1)
    };
    PartitionImage::of(PartitionFields {
        replicas: Some(partition.replicas.to_vec()),
        adding: Some(partition.adding.to_vec()),
        removing: Some(partition.removing.to_vec()),
        in_sync: Some(in_sync),
        leader: Some(leader),
    })
}

pub fn partition(replicas: Vec<i32>, target: Option<&[i32]>) -> PartitionImage {
    let Some(target) = target else {
        return PartitionImage::new(&replicas);
    };
    let all: Vec<i32> = target
        .iter()
        .chain(replicas.iter().filter(|id| !target.contains(id)))
        .copied()
        .collect();
    PartitionImage::of(PartitionFields {
        leader: replicas.first().copied(),
        in_sync: Some(replicas.clone()),
        adding: Some(
            target
                .iter()
                .filter(|id| !replicas.contains(id))
                .copied()
                .collect(),
        ),
        removing: Some(
            replicas
                .iter()
                .filter(|id| !target.contains(id))
                .copied()
                .collect(),
        ),
        replicas: Some(all),
    })
}

impl Model {
    fn new(per_zone: i32, placements: &[(i32, i32, i32)]) -> Self {
        let at = |zone: i32, index: i32| zone * 100 + index % per_zone;
        let partitions = placements.iter().map(|(a, b, c)| {
            let mut replicas = vec![at(0, *a), at(1, *b), at(2, *c)];
            replicas.rotate_left(usize::try_from(a % 3).unwrap());
            PartitionImage::new(&replicas)
        });
        let partitions = partitions.collect();
        Self {
            object: object(u32::try_from(3 * per_zone).unwrap()),
            per_zone,
            partitions,
            large: 0,
            added: 0,
            emptied: BTreeSet::new(),
            dead: BTreeSet::new(),
            pruned: BTreeSet::new(),
            restarted: BTreeSet::new(),
            volumes: BTreeMap::new(),
            behind: BTreeSet::new(),
            shrinks: false,
            shrunk: BTreeSet::new(),
        }
    }

    fn index(&self, topic: &str, partition: i32) -> usize {
        usize::try_from(partition).unwrap() + if topic == LARGE { 0 } else { self.large }
    }

    fn brokers(&self) -> Vec<i32> {
        (0..3)
            .flat_map(|zone| (0..self.running(zone)).map(move |index| zone * 100 + index))
            .collect()
    }

    /// The number of pods of a zone.
    fn running(&self, zone: i32) -> i32 {
        if self.shrunk.contains(&zone) {
            1
        } else {
            self.per_zone
        }
    }

    fn pod(&self, node: i32) -> Pod {
        let number = self.volumes.get(&node).copied().unwrap_or(0);
        let uid = Some(format!("pod-{node}-{number}"));
        if !self.dead.contains(&node) {
            return Pod {
                uid,
                ..Pod::up(node)
            };
        }
        Pod {
            node,
            uid,
            stuck: Some(Stuck::OutOfReach),
            trouble: Some("not scheduled".into()),
            ..Pod::default()
        }
    }

    /// The claims of the brokers.
    fn claims(&self) -> Vec<Claim> {
        let claim = |id: i32| {
            let zone = ["a", "b", "c"][usize::try_from(id / 100).unwrap()];
            let number = self.volumes.get(&id).copied().unwrap_or(0);
            node_claim(
                "b",
                &format!("c-b-{zone}-{id}"),
                &format!("claim-{id}-{number}"),
            )
        };
        let ids = self.brokers().into_iter();
        ids.filter(|id| !self.pruned.contains(id))
            .map(claim)
            .collect()
    }

    fn plan(&self) -> Plan {
        let (observed, valid) = self.observed();
        linter::plan(&self.object, &valid, &observed)
    }

    fn observed(&self) -> (Observed, ValidCluster) {
        let controllers = [300, 400, 500];
        let mut nodes = self.brokers();
        let kafka = Kafka {
            unfenced: nodes
                .iter()
                .copied()
                .filter(|id| !self.dead.contains(id))
                .collect(),
            fenced: self.dead.iter().copied().collect(),
            leader: 300,
            voters: controllers.iter().map(|id| (*id, 100)).collect(),
            min_in_sync: Some(2),
            ..Kafka::default()
        };
        nodes.extend(controllers);
        let world = World {
            // The StatefulSets still run this number of pods.
            running: [("c-b-a", 0), ("c-b-b", 1), ("c-b-c", 2)]
                .map(|(name, zone)| (name.to_owned(), self.running(zone)))
                .into(),
            emptied: self.emptied.clone(),
            ..World::running(nodes.into_iter().map(|id| self.pod(id)), kafka)
        };
        let (mut observed, _) = observe(&self.object, &world);
        observed.volumes = self.claims();
        let valid = validate(&self.object, &observed);
        if let KafkaFacts::Answered {
            topics, cluster, ..
        } = &mut observed.kafka
        {
            let large = TopicView {
                name: LARGE.into(),
                ..topics[0].clone()
            };
            let away: BTreeSet<i32> = self.dead.union(&self.behind).copied().collect();
            let partitions: Vec<_> = self
                .partitions
                .iter()
                .map(|partition| without(&away, partition))
                .collect();
            topics[0].partitions = partitions[self.large..].to_vec();
            topics[0].partition_bytes = 1 << 20;
            topics.push(TopicView {
                partitions: partitions[..self.large].to_vec(),
                partition_bytes: 4 << 30,
                ..large
            });
            for broker in &mut cluster.brokers {
                broker.rack =
                    Some(["a", "b", "c"][usize::try_from(broker.id / 100).unwrap()].into());
            }
        }
        (observed, valid.unwrap())
    }

    fn apply(&mut self, plan: Plan, dies: bool) {
        for step in plan.steps {
            match step {
                Step::Reassign(moves) => {
                    for one in moves {
                        let lease = self
                            .object
                            .status
                            .as_ref()
                            .and_then(|status| status.disruption.as_ref());
                        assert!(lease.is_some(), "nothing moves without a lease in status");
                        let index = self.index(&one.topic, one.partition);
                        let found = &mut self.partitions[index];
                        let now = found.origin();
                        let target = one.replicas.as_deref();
                        let racks: BTreeSet<i32> =
                            target.unwrap_or(&now).iter().map(|id| id / 100).collect();
                        assert_eq!(
                            racks.len(),
                            3,
                            "every replica set spans the racks, on its way too"
                        );
                        self.added += target.map_or(0, |target| {
                            target
                                .iter()
                                .filter(|id| !found.replicas.contains(id))
                                .count()
                        });
                        *found = partition(now, target);
                        if !found.is_moving() {
                            let same = found.target();
                            let leader = found.leader;
                            *found = PartitionImage::of(PartitionFields {
                                replicas: Some(same.clone()),
                                in_sync: Some(same),
                                leader: Some(leader),
                                ..PartitionFields::default()
                            });
                        }
                    }
                }
                Step::ElectLeaders(elections) => {
                    for one in elections {
                        let index = self.index(&one.topic, one.partition);
                        let found = &mut self.partitions[index];
                        let order = one.order.unwrap_or_else(|| found.replicas.to_vec());
                        *found = PartitionImage::new(&order);
                    }
                }
                Step::AlterConfigs(_) => {}
                Step::DeleteVolume { claim, .. } => {
                    let id = claim.name().rsplit_once('-').unwrap().1.parse().unwrap();
                    assert!(self.dead.contains(&id), "the volume of {id} is not lost");
                    self.pruned.insert(id);
                }
                Step::RestartPod { pod, .. } => {
                    assert!(self.dead.contains(&pod.node_id), "{} runs", pod.node_id);
                    self.restarted.insert(pod.node_id);
                }
                Step::Apply(object) if object.kind() == "StatefulSet" => {
                    let replicas =
                        i32::try_from(object.value["spec"]["replicas"].as_i64().unwrap()).unwrap();
                    assert!(!object.name().contains("c-c-"), "controllers stay");
                    let zone = (0..3).zip(["a", "b", "c"]);
                    let zone = zone.filter(|(_, zone)| object.name() == format!("c-b-{zone}"));
                    if self.shrinks && replicas < self.per_zone {
                        self.shrunk.extend(zone.map(|(zone, _)| zone));
                    }
                    if replicas < self.per_zone {
                        for zone in 0..3 {
                            for gone in replicas..self.per_zone {
                                let id = zone * 100 + gone;
                                let held = self
                                    .partitions
                                    .iter()
                                    .any(|partition| partition.replicas.contains(&id));
                                assert!(
                                    !held
                                        || object.name()
                                            != format!(
                                                "c-b-{}",
                                                ["a", "b", "c"][usize::try_from(zone).unwrap()]
                                            ),
                                    "{id} holds partitions"
                                );
                            }
                        }
                    }
                }
                Step::Apply(_)
                | Step::IssueNodeCertificates { .. }
                | Step::Unregister(_)
                | Step::SetInSync { .. } => {}
                other => panic!("{other}"),
            }
        }
        if !dies {
            let before = self.object.status.take();
            let replaced = before.and_then(|status| status.replaced);
            self.object.status = Some(KafkaClusterStatus {
                disruption: plan.lease,
                replaced: plan.replaced.or(replaced),
                ..KafkaClusterStatus::default()
            });
        }
    }

    /// Some of the moves under way finish, and brokers whose claims and pods were deleted come back
    /// with new volumes.
    fn time_passes(&mut self, choice: usize) {
        for id in &self.pruned & &self.restarted {
            self.pruned.remove(&id);
            self.restarted.remove(&id);
            self.dead.remove(&id);
            *self.volumes.entry(id).or_insert(0) += 1;
        }
        let moving: Vec<usize> = (0..self.partitions.len())
            .filter(|index| self.partitions[*index].is_moving())
            .collect();
        for index in moving
            .iter()
            .skip(choice % 3)
            .step_by(2)
            .chain(moving.first())
        {
            let found = &mut self.partitions[*index];
            let (target, leader) = (found.target(), found.leader);
            let is_away = found.adding.iter().any(|id| self.dead.contains(id));
            if target.is_empty() || !found.is_moving() || is_away {
                continue;
            }
            let leader = if target.contains(&leader) {
                leader
            } else {
                target[0]
            };
            *found = PartitionImage::of(PartitionFields {
                replicas: Some(target.clone()),
                in_sync: Some(target),
                leader: Some(leader),
                ..PartitionFields::default()
            });
        }
        let held: BTreeSet<i32> = self
            .partitions
            .iter()
            .flat_map(|partition| partition.replicas.iter().copied())
            .collect();
        let wanted = i32::try_from(self.object.spec.node_pools[0].replicas / 3).unwrap();
        self.emptied = self
            .brokers()
            .into_iter()
            .filter(|id| id % 100 >= wanted && !held.contains(id))
            .collect();
    }

    /// Reconciles until nothing is left to move.
    fn run(&mut self, chances: &[(usize, bool)]) -> bool {
        self.run_and_lose(chances, None)
    }

    /// The same, and in this look this broker is lost, and somebody asks for its replacement.
    fn run_and_lose(&mut self, chances: &[(usize, bool)], loss: Option<(usize, i32)>) -> bool {
        for look in 0..LOOKS_MAX {
            if let Some((_, id)) = loss.filter(|(at, _)| *at == look) {
                self.dead.insert(id);
                let asks = [("freehold.dev/replace".to_owned(), id.to_string())];
                self.object.metadata.annotations = Some(asks.into());
            }
            let (choice, dies) = chances[look % chances.len()];
            let plan = self.plan();
            let idle = plan.lease.is_none()
                && plan.rebalance.is_none()
                && !plan
                    .steps
                    .iter()
                    .any(|step| matches!(step, Step::Reassign(_)));
            self.apply(plan, dies && look % 7 != 0);
            let held = self
                .object
                .status
                .as_ref()
                .is_some_and(|status| status.disruption.is_some());
            if idle && !held && loss.is_none_or(|(at, _)| look > at) {
                return true;
            }
            self.time_passes(choice);
        }
        false
    }

    fn counts(&self) -> Vec<usize> {
        self.brokers()
            .iter()
            .map(|id| {
                self.partitions
                    .iter()
                    .filter(|partition| partition.replicas.contains(id))
                    .count()
            })
            .collect()
    }
}

#[test]
fn unlike_shares_move_by_themselves_but_not_at_once_again() {
    let mut placements = vec![(0, 0, 0); 20];
    placements.push((1, 1, 1));
    let mut model = Model::new(2, &placements);
    assert!(model.plan().lease.is_some(), "20 replicas and 1");
    let ended = |ago: i64| {
        let now: Timestamp = fixture::NOW.parse().unwrap();
        Some(KafkaClusterStatus {
            rebalanced: Some(Time(now - SignedDuration::from_mins(ago))),
            ..KafkaClusterStatus::default()
        })
    };
    model.object.status = ended(59);
    assert!(
        model.plan().lease.is_none() && model.plan().rebalance.is_some(),
        "it is told, and waits"
    );
    model.object.status = ended(60);
    assert!(model.plan().lease.is_some());
    model.object.status = ended(1);
    model.object.spec.node_pools[0].replicas = 3;
    assert!(model.plan().lease.is_some(), "who leaves does not wait");
}

#[test]
fn a_preview_tells_what_each_broker_gives_and_takes_and_the_status_the_sum_alone() {
    let mut model = Model {
        large: 12,
        ..Model::new(1, &[(0, 0, 0); 12])
    };
    model.object = object(6);
    model.per_zone = 2;
    let (observed, valid) = model.observed();
    let lines = preview::preview(&model.object, &valid, &observed);
    let at = lines
        .iter()
        .position(|line| line.starts_with("then: brokers 1, 101, 201 are new"))
        .unwrap();
    // 16 MiB a second at first: 24 GiB of each broker's six replicas take 25.6 minutes.
    assert!(
        lines[at].contains("18 replicas of 1 topics move, about 72 GiB")
            && lines[at].contains("16 MiB a second and broker about 26 min"),
        "{lines:?}"
    );
    let expected = |id: i32| {
        format!(
            "replicas of broker {id}: gives {}",
            if id % 100 == 0 {
                "6 (24 GiB), takes none"
            } else {
                "none, takes 6 (24 GiB)"
            }
        )
    };
    assert_eq!(
        lines[at + 1..at + 7],
        [0, 1, 100, 101, 200, 201].map(expected)
    );
    let summary = preview::disruptions(&model.object, &valid, &observed);
    assert_eq!(summary.last(), Some(&lines[at]));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: fixture::cases(18), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn disks_that_are_filled_unlike_are_evened_out_by_themselves_whoever_dies(
        chances in prop::collection::vec((0..9_usize, prop::bool::weighted(0.3)), 1..40),
    ) {
        let placements: Vec<_> = [(0, 0, 0); 12].into_iter().chain([(1, 1, 1); 12]).collect();
        let mut model = Model { large: 12, ..Model::new(2, &placements) };
        let why = model.plan().lease.unwrap().why;
        prop_assert!(why.starts_with("the disk of broker 0 holds 48 GiB and its share is 24 GiB: 36 replicas"), "{}", why);
        prop_assert!(model.run(&chances), "it comes to an end");
        // Six large replicas go from one broker to the other of its zone, and as many small ones
        // come back.
        prop_assert_eq!((model.counts(), model.added), (vec![12; 6], 36));
        let large = model.partitions[..12].iter().filter(|partition| partition.replicas.contains(&0)).count();
        prop_assert_eq!(large, 6);
    }

    #[test]
    fn brokers_are_added_and_removed_with_the_fewest_moves_whoever_dies(
        placements in prop::collection::vec((0..9_i32, 0..9_i32, 0..9_i32), 12..80),
        chances in prop::collection::vec((0..9_usize, prop::bool::weighted(0.3)), 1..40),
        dead in prop::option::of(0..3_i32),
    ) {
        let mut model = Model::new(1, &placements);
        // Scale out: from three brokers to six.
        model.object = KafkaCluster { status: model.object.status.clone(), ..object(6) };
        model.per_zone = 2;
        prop_assert!(model.run(&chances), "scaling out comes to an end");
        let counts = model.counts();
        prop_assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{:?}", counts);
        prop_assert_eq!(model.added, 3 * (placements.len() / 2), "as many moves as brokers lacked, and not one more");
        let leads = |id: &i32| model.partitions.iter().filter(|partition| partition.leader == *id).count();
        let leaders: Vec<usize> = model.brokers().iter().map(leads).collect();
        prop_assert!(leaders.iter().max().unwrap() - leaders.iter().min().unwrap() <= 1, "leaders {:?}", leaders);

        // Scale in: back to three. The leaving brokers are emptied, then their StatefulSets shrink.
        // One of them may be dead: waiting for it does not block any of this.
        model.added = 0;
        model.dead = dead.map(|zone| zone * 100 + 1).into_iter().collect();
        model.object = KafkaCluster { status: model.object.status.clone(), ..object(3) };
        let on_leaving: usize = counts.iter().zip(model.brokers()).filter(|(_, id)| id % 100 == 1).map(|(count, _)| count).sum();
        prop_assert!(model.run(&chances), "scaling in comes to an end");
        prop_assert_eq!(model.added, on_leaving, "what they held, and not one more");
        prop_assert_eq!(model.emptied.len(), 3);
        let shrunk = model.plan().steps.iter().filter(|step| step.to_string().starts_with("apply StatefulSet c-b-")).count();
        prop_assert_eq!(shrunk, 3, "the empty brokers' pods may go now");
    }

    /// Brokers leave, and in any look one that stays is lost: their replicas of its zone can go
    /// nowhere before it has a new volume.
    #[test]
    fn a_broker_that_is_lost_while_others_leave_is_replaced_and_the_others_leave(
        placements in prop::collection::vec((0..9_i32, 0..9_i32, 0..9_i32), 12..40),
        chances in prop::collection::vec((0..9_usize, prop::bool::weighted(0.3)), 1..40),
        (at, zone) in (0..20_usize, 0..3_i32),
    ) {
        let mut model = Model { shrinks: true, ..Model::new(2, &placements) };
        model.object = object(3);
        let victim = zone * 100;
        prop_assert!(model.run_and_lose(&chances, Some((at, victim))), "it comes to an end: {:?}", model.plan().waiting_on);
        prop_assert_eq!(&model.volumes, &BTreeMap::from([(victim, 1)]), "it is replaced once, and nobody else");
        let replaced = model.object.status.as_ref().and_then(|status| status.replaced.clone());
        prop_assert_eq!(replaced, Some(victim.to_string()));
        prop_assert_eq!(&model.shrunk, &BTreeSet::from([0, 1, 2]), "the others are gone");
    }

    /// The replacement takes over from moves that would wait for the lost broker, and they go on
    /// after it.
    #[test]
    fn a_broker_that_is_lost_while_replicas_move_is_replaced_and_the_moves_end(
        placements in prop::collection::vec((0..9_i32, 0..9_i32, 0..9_i32), 12..40),
        chances in prop::collection::vec((0..9_usize, prop::bool::weighted(0.3)), 1..40),
        (at, zone) in (0..20_usize, 0..3_i32),
    ) {
        let mut model = Model::new(1, &placements);
        model.object = object(6);
        model.per_zone = 2;
        let victim = zone * 100;
        prop_assert!(model.run_and_lose(&chances, Some((at, victim))), "it comes to an end: {:?}", model.plan().waiting_on);
        prop_assert_eq!(&model.volumes, &BTreeMap::from([(victim, 1)]), "it is replaced once, and nobody else");
        let replaced = model.object.status.as_ref().and_then(|status| status.replaced.clone());
        prop_assert_eq!(replaced, Some(victim.to_string()));
        let counts = model.counts();
        prop_assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{:?}", counts);
    }
}

#[test]
fn a_zone_that_the_spec_has_no_more_is_emptied_and_then_its_nodes_go() {
    let mut object = object(2);
    object.spec.node_pools[0].zones.pop();
    let slots = [
        ("b", "a", 0),
        ("b", "b", 100),
        ("b", "c", 200),
        ("c", "a", 300),
        ("c", "b", 400),
        ("c", "c", 500),
    ];
    let nodes = [0, 100, 200, 300, 400, 500];
    let kafka = Kafka {
        unfenced: vec![0, 100, 200],
        leader: 300,
        voters: [(300, 9), (400, 9), (500, 9)].into(),
        partitions: vec![(vec![0, 100], vec![0, 100]), (vec![200, 0], vec![200, 0])],
        ..Kafka::default()
    };
    let mut world = World {
        volumes: slots
            .iter()
            .map(|(pool, zone, first)| ((*pool).into(), (*zone).into(), *first))
            .collect(),
        running: [("c-b-c".to_owned(), 1)].into(),
        ..World::running(nodes.map(Pod::up), kafka)
    };
    let (observed, valid) = observe(&object, &world);
    let valid = valid.unwrap();
    let leaving = valid
        .groups
        .iter()
        .find(|group| group.stateful_set == "c-b-c")
        .unwrap();
    assert_eq!((leaving.replicas, leaving.running), (0, 1));
    let plan = linter::plan(&object, &valid, &observed);
    assert_eq!(
        plan.lease.unwrap().why.split(':').next(),
        Some("brokers 200 are to leave")
    );

    // The same with a dead broker: waiting for it does not prevent that it is emptied, nor does a
    // rolling restart that waits for it.
    let mut dead = world.clone();
    dead.pods[2] = Pod {
        node: 200,
        trouble: Some("not scheduled".into()),
        stuck: Some(Stuck::OutOfReach),
        ..Pod::default()
    };
    dead.pods[0].config = Some("old".into());
    let kafka = dead.kafka.as_mut().unwrap();
    (kafka.unfenced, kafka.fenced) = (vec![0, 100], vec![200]);
    kafka.partitions[1].1 = vec![0];
    let look = |world: &World| {
        let (observed, valid) = observe(&object, world);
        linter::plan(&object, &valid.unwrap(), &observed)
    };
    assert_eq!(
        look(&dead).lease.unwrap().why.split(':').next(),
        Some("brokers 200 are to leave"),
        "{:?}",
        look(&dead).waiting_on
    );
    // Another broker that is down blocks it.
    dead.pods[1] = Pod {
        node: 100,
        ..Pod::default()
    };
    assert!(look(&dead).lease.is_none());

    // The same when its StatefulSet is lost: the broker holds a replica.
    let (mut lost, _) = observe(&object, &world);
    change_objects(&mut lost, |all| all.retain(|live| live.name() != "c-b-c"));
    lost.pods.retain(|pod| pod.node_id != 200);
    let groups = freehold::kinds::kafka_cluster::validate::validate(&object, &lost)
        .unwrap()
        .groups;
    assert!(
        groups
            .iter()
            .any(|group| group.stateful_set == "c-b-c" && group.running == 1)
    );

    // The broker holds nothing: its pod may be deleted, and then its StatefulSet.
    world.kafka.as_mut().unwrap().partitions.truncate(1);
    world.emptied = [200].into();
    let (_, valid) = observe(&object, &world);
    let left = |valid: &freehold::kinds::kafka_cluster::model::cluster::ValidCluster| {
        valid
            .groups
            .iter()
            .find(|group| group.stateful_set == "c-b-c")
            .map(|group| group.running)
    };
    assert_eq!(left(&valid.unwrap()), Some(0), "its StatefulSet runs none");
    world.pods.retain(|pod| pod.node != 200);
    world.running = [("c-b-c".to_owned(), 0)].into();
    assert_eq!(
        left(&observe(&object, &world).1.unwrap()),
        None,
        "it has none: it goes"
    );
}

/// Every broker holds a replica of everything: a lost one cannot be emptied, and need not be. It is
/// never cordoned, so that Kafka fills it once it is back.
#[test]
fn a_lost_broker_is_given_a_new_volume_and_filled_though_nobody_could_take_its_replicas() {
    let mut model = Model::new(1, &[(0, 0, 0), (1, 0, 0), (2, 0, 0)]);
    model.object.metadata.annotations =
        Some([("freehold.dev/replace".to_owned(), "200".to_owned())].into());
    model.dead = [200].into();
    let cordoned = |valid: &ValidCluster| {
        let configs =
            freehold::kinds::kafka_cluster::resources::server_properties::dynamic_configs(valid);
        configs
            .get("200")
            .is_some_and(|configs| configs.contains_key("cordoned.log.dirs"))
    };
    let (_, valid) = model.observed();
    assert!(valid.lost.contains(&200) && valid.replace.is_none() && !cordoned(&valid));
    let lease = model.plan().lease.unwrap();
    assert_eq!(
        (lease.kind, lease.node_ids.as_slice()),
        (DisruptionKind::Replacement, &[200][..])
    );

    // The replacement takes over from moves, which would wait for it, but not from the restart of
    // another node.
    let held = |kind, node_ids: &[i32]| {
        let lease = DisruptionStatus {
            kind,
            node_ids: node_ids.to_vec(),
            removes: Vec::new(),
            ..lease.clone()
        };
        Some(KafkaClusterStatus {
            disruption: Some(lease),
            ..KafkaClusterStatus::default()
        })
    };
    let kind = |model: &Model| model.plan().lease.map(|lease| lease.kind);
    model.object.status = held(DisruptionKind::Reassignment, &[0, 100]);
    assert_eq!(kind(&model), Some(DisruptionKind::Replacement));
    model.object.status = held(DisruptionKind::Volumes, &[0]);
    assert_eq!(kind(&model), Some(DisruptionKind::Replacement));

    // The pod has come back by itself with an empty volume: it is filled before it is emptied.
    model.object.status = None;
    model.dead.clear();
    let (mut observed, _) = model.observed();
    let KafkaFacts::Answered { topics, .. } = &mut observed.kafka else {
        panic!()
    };
    topics[0]
        .partitions
        .iter_mut()
        .for_each(|partition| *partition = without(&[200].into(), partition));
    let valid =
        freehold::kinds::kafka_cluster::validate::validate(&model.object, &observed).unwrap();
    assert!(!cordoned(&valid), "Kafka is to make its replicas there");

    // Once it runs, it is to be emptied first; the status reports that this is impossible.
    let (_, valid) = model.observed();
    assert!(valid.replace == Some(200) && cordoned(&valid));
    let plan = model.plan();
    assert!(
        plan.lease.is_none()
            && plan
                .warnings
                .iter()
                .any(|warning| warning.contains("add a broker")),
        "{:?}",
        plan.warnings
    );
}

/// The status while a disruption of these nodes is under way. `handed_over`: what others lead for
/// them.
fn under_way(
    kind: DisruptionKind,
    node_ids: &[i32],
    handed_over: Vec<HandedOver>,
) -> KafkaClusterStatus {
    let disruption = DisruptionStatus {
        kind,
        node_ids: node_ids.to_vec(),
        why: "a test".into(),
        since: Time("2026-01-01T00:00:00Z".parse().unwrap()),
        total: None,
        handed_over,
        removes: Vec::new(),
    };
    KafkaClusterStatus {
        disruption: Some(disruption),
        ..KafkaClusterStatus::default()
    }
}

/// A broker that serves and never gets in sync after its restart, for example because its disk is
/// bad. The restart waits for it, and its replacement, which somebody asks for, must not wait for
/// the restart.
#[test]
fn a_broker_that_restarted_and_never_gets_in_sync_is_emptied_when_somebody_asks() {
    let mut model = Model::new(2, &[(0, 0, 0), (0, 1, 1), (1, 0, 1)]);
    model.behind = [0].into();
    let held = |kind, node_ids: &[i32]| Some(under_way(kind, node_ids, Vec::new()));
    let lease = |model: &Model| {
        let lease = model.plan().lease.unwrap();
        (lease.kind, lease.why.split(':').next().unwrap().to_owned())
    };
    let drained = || {
        let why = "brokers 0 are to leave".to_owned();
        (DisruptionKind::Reassignment, why)
    };
    model.object.status = held(DisruptionKind::Restart, &[0]);
    assert_eq!(
        lease(&model).0,
        DisruptionKind::Restart,
        "nobody asked for it"
    );
    let asked: Option<BTreeMap<String, String>> =
        Some([("freehold.dev/replace".to_owned(), "0".to_owned())].into());
    model.object.metadata.annotations = asked.clone();
    assert_eq!(lease(&model), drained());
    // Of two that restarted, the other one has come back.
    model.object.status = held(DisruptionKind::Restart, &[0, 1]);
    assert_eq!(lease(&model), drained());
    model.behind.insert(1);
    assert_eq!(
        lease(&model).0,
        DisruptionKind::Restart,
        "the other one is waited for"
    );
    model.behind.remove(&1);

    // The same with a new volume: the replacement has ended, except that it waits for its node.
    model.object.status = held(DisruptionKind::Replacement, &[0]);
    model.object.status.as_mut().unwrap().replaced = Some("0".into());
    assert_eq!(lease(&model).0, DisruptionKind::Replacement);
    // The annotation was taken away, and is there again.
    model.object.status.as_mut().unwrap().replaced = None;
    assert_eq!(lease(&model), drained());
    assert_eq!(model.plan().replaced, None, "it is not done yet");

    // Where nobody can take its replicas, it says so.
    let mut model = Model::new(1, &[(0, 0, 0)]);
    model.behind = [0].into();
    model.object.metadata.annotations = asked;
    model.object.status = held(DisruptionKind::Restart, &[0]);
    let plan = model.plan();
    assert_eq!(plan.lease.unwrap().kind, DisruptionKind::Restart);
    let told = |warning: &String| warning.contains("add a broker to its pool");
    assert!(plan.warnings.iter().any(told), "{:?}", plan.warnings);
}

/// The same while the maintenance window is closed: the moves may not take over, and the status says
/// for what they wait.
#[test]
fn a_broker_that_never_gets_in_sync_waits_for_the_window_in_which_it_is_emptied() {
    let mut model = Model::new(2, &[(0, 0, 0), (0, 1, 1), (1, 0, 1)]);
    model.behind = [0].into();
    model.object.status = Some(under_way(DisruptionKind::Restart, &[0], Vec::new()));
    model.object.spec.rollout.maintenance_windows = vec![MaintenanceWindow {
        cron: "0 2 29 2 *".into(),
        duration_minutes: 1,
        time_zone: "UTC".into(),
    }];
    let waits = |model: &Model| {
        let plan = model.plan();
        assert_eq!(plan.lease.unwrap().kind, DisruptionKind::Restart);
        let is_window = |waiting: &&WaitingOn| matches!(waiting, WaitingOn::Window { .. });
        plan.waiting_on.iter().filter(is_window).count()
    };
    assert_eq!(waits(&model), 0, "nobody asks for what needs it");
    model.object.metadata.annotations =
        Some([("freehold.dev/replace".to_owned(), "0".to_owned())].into());
    assert_eq!(waits(&model), 1);
}

/// Moves take over the restart of two brokers, of which one never gets in sync. The other one gets
/// back what it led, also of topics that the moves leave as they are.
#[test]
fn moves_that_take_over_a_restart_give_leaders_back_of_topics_that_they_leave_alone() {
    for excluded in [true, false] {
        let mut model = Model::new(2, &[(0, 0, 0), (0, 0, 0)]);
        // Node 1 led the first partition before it restarted, and node 100 leads it since.
        model.partitions[0] = PartitionImage::new(&[100, 1, 200]);
        model.behind = [0].into();
        let handed_over = |node_id: i32| HandedOver {
            node_id,
            partitions: vec!["t:0".into()],
        };
        model.object.status = Some(under_way(
            DisruptionKind::Restart,
            &[0, 1],
            vec![handed_over(0), handed_over(1)],
        ));
        if excluded {
            model.object.spec.rebalance.exclude_topics = vec!["t".into()];
        }
        model.object.metadata.annotations =
            Some([("freehold.dev/replace".to_owned(), "0".to_owned())].into());
        let lease = model.plan().lease.unwrap();
        assert_eq!(lease.kind, DisruptionKind::Reassignment);
        assert_eq!(lease.handed_over, [handed_over(1)], "nothing of node 0");
        assert!(model.run(&[(0, false)]), "it comes to an end");
        let first = &model.partitions[0];
        assert!(
            !excluded || (first.leader == 1 && *first.replicas == [1, 100, 200]),
            "{first:?}"
        );
        let holds = |partition: &PartitionImage| partition.replicas.contains(&0);
        assert!(!model.partitions.iter().any(holds), "node 0 was emptied");
    }
}

/// A partition without a leader cannot be copied: it stays where it is, and everything else moves.
#[test]
fn a_partition_that_lost_its_only_replica_holds_up_no_move() {
    let mut model = Model::new(1, &[(0, 0, 0); 12]);
    model.object = object(6);
    model.per_zone = 2;
    let gone = PartitionFields {
        replicas: Some(vec![0]),
        in_sync: Some(Vec::new()),
        leader: Some(-1),
        ..PartitionFields::default()
    };
    model.partitions.push(PartitionImage::of(gone));
    assert!(model.run(&[(0, false)]), "it comes to its end");
    assert_eq!(model.partitions.pop().unwrap().replicas.to_vec(), [0]);
    assert_eq!(model.counts(), vec![6; 6]);
}

#[test]
fn a_proposal_waits_for_its_name_and_never_takes_everything_back() {
    let placements: Vec<_> = (0..30).map(|index| (index, index, index)).collect();
    let mut model = Model::new(1, &placements);
    let mut propose = object(6);
    propose.spec.rebalance.mode = RebalanceMode::Propose;
    model.object = propose;
    model.per_zone = 2;
    let first = model.plan();
    let proposal = first
        .rebalance
        .as_ref()
        .and_then(|status| status.proposal.clone())
        .unwrap();
    assert!(first.lease.is_none() && first.steps.is_empty(), "it waits");
    assert_eq!(
        model.plan().rebalance.unwrap().proposal.as_deref(),
        Some(proposal.as_str()),
        "the same plan has the same name"
    );
    let approve =
        |name: &str| [("freehold.dev/approve-rebalance".to_owned(), name.to_owned())].into();
    model.object.metadata.annotations = Some(approve("another"));
    assert!(
        model.plan().lease.is_none(),
        "another plan's name approves nothing"
    );
    model.object.metadata.annotations = Some(approve(&proposal));
    let plan = model.plan();
    assert!(plan.lease.is_some());
    model.apply(plan, false);
    let plan = model.plan();
    model.apply(plan, false);
    assert!(model.partitions.iter().any(PartitionImage::is_moving));

    model.object.spec.rebalance.mode = RebalanceMode::Never;
    let plan = model.plan();
    let back = plan.steps.iter().any(|step| matches!(step, Step::Reassign(moves) if moves.iter().all(|one| one.replicas.is_none())));
    assert!(back, "what is under way is taken back");
    model.apply(plan, false);
    assert!(!model.partitions.iter().any(PartitionImage::is_moving));
    let plan = model.plan();
    assert!(plan.lease.is_none(), "and nothing is begun");
}
