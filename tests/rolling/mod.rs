//! A model of restarts and lost machines in a cluster of combined nodes.

#![allow(dead_code, reason = "each test file uses a part of it")]

use crate::fixture::{Kafka, Pod, World, cluster, node_claim, observe};
use freehold::api::kafka_cluster::{KafkaCluster, KafkaClusterStatus};
use freehold::kinds::kafka_cluster::model::cluster::ValidCluster;
use freehold::kinds::kafka_cluster::observed::{KafkaFacts, Observed, Stuck};
use freehold::kinds::kafka_cluster::plan::{Plan, Step};
use freehold::kinds::kafka_cluster::replacing;
use freehold::kinds::kafka_cluster::validate::validate;
use freehold_kafka::metadata_image::PartitionImage;
use freehold_kafka::metadata_record::PartitionFields;
use freehold_kafka::safety::TopicView;
use freehold_kafka_client::ReplicaState;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::SignedDuration;
use std::collections::{BTreeMap, BTreeSet};

const MIN_IN_SYNC: usize = 2;
/// The topic whose partitions have one replica each.
const ALONE: &str = "alone";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Up,
    /// The machine is lost, and its volume is unreachable from all others.
    Lost,
    Ending,
    Gone,
    Starting,
    CatchingUp,
}

/// A cluster of combined nodes, with the state that the real one would have.
pub struct Model {
    pub object: KafkaCluster,
    pub phases: BTreeMap<i32, Phase>,
    /// Nodes that run the new configuration.
    pub new: BTreeSet<i32>,
    pub restarts: BTreeMap<i32, u32>,
    /// Replicas and leader of each partition.
    pub partitions: Vec<(Vec<i32>, i32)>,
    pub controller: i32,
    pub elected: usize,
    /// Number of volumes that each node has had. If the node is in `lost`, the last one was lost
    /// with its machine.
    pub volumes: BTreeMap<i32, u64>,
    pub lost: BTreeSet<i32>,
    /// Nodes whose claim was deleted.
    pub pruned: BTreeSet<i32>,
    /// Number of pods created for each node.
    pub pods: BTreeMap<i32, u32>,
    /// For each voter the volume with which it votes.
    pub votes: BTreeMap<i32, u64>,
    /// Nodes that each hold the only replica of a partition of another topic.
    pub alone: BTreeSet<i32>,
}

pub fn object(per_zone: u32) -> KafkaCluster {
    let replicas = 3 * per_zone;
    cluster(&format!(
        "apiVersion: freehold.dev/v1alpha1\nkind: KafkaCluster\nmetadata: {{name: c, namespace: n, finalizers: [freehold.dev/finalizer]}}\nspec:\n  \
         version: 4.3.1\n  nodePools:\n  - {{name: p, roles: [controller, broker], replicas: {replicas}, zones: [a, b, c], storage: {{size: 1Gi}}}}\n  \
         rebalance: {{mode: Never}}\n"
    ))
}

impl Model {
    pub fn new(per_zone: i32, placements: &[(usize, usize, usize)]) -> Self {
        let nodes: Vec<i32> = (0..3)
            .flat_map(|zone| (0..per_zone).map(move |index| zone * 100 + index))
            .collect();
        let partitions = placements.iter().map(|(first, second, third)| {
            let mut replicas = vec![nodes[first % nodes.len()]];
            for choice in [second, third] {
                let free: Vec<i32> = nodes
                    .iter()
                    .copied()
                    .filter(|id| replicas.iter().all(|taken| taken / 100 != id / 100))
                    .collect();
                replicas.push(free[choice % free.len()]);
            }
            let leader = replicas[0];
            (replicas, leader)
        });
        Self {
            object: object(u32::try_from(per_zone).unwrap()),
            partitions: partitions.collect(),
            controller: nodes[nodes.len() / 2],
            volumes: nodes.iter().map(|id| (*id, 1)).collect(),
            votes: nodes.iter().map(|id| (*id, 1)).collect(),
            pods: nodes.iter().map(|id| (*id, 1)).collect(),
            lost: BTreeSet::new(),
            pruned: BTreeSet::new(),
            alone: BTreeSet::new(),
            phases: nodes.into_iter().map(|id| (id, Phase::Up)).collect(),
            new: BTreeSet::new(),
            restarts: BTreeMap::new(),
            elected: 0,
        }
    }

    pub fn is(&self, id: i32, phase: Phase) -> bool {
        self.phases[&id] == phase
    }

    pub fn in_sync(&self, replicas: &[i32]) -> Vec<i32> {
        replicas
            .iter()
            .copied()
            .filter(|id| self.is(*id, Phase::Up))
            .collect()
    }

    pub fn world(&self) -> World {
        let pods = self
            .phases
            .iter()
            .filter(|(_, phase)| **phase != Phase::Gone)
            .map(|(id, phase)| Pod {
                node: *id,
                ready: matches!(phase, Phase::Up | Phase::CatchingUp | Phase::Ending),
                in_sync: *phase == Phase::Up,
                deleting: *phase == Phase::Ending,
                uid: Some(format!("pod-{id}-{}", self.pods[id])),
                stuck: (*phase == Phase::Lost).then_some(Stuck::OutOfReach),
                trouble: (*phase == Phase::Lost).then(|| "not scheduled".to_owned()),
                config: (!self.new.contains(id)).then(|| "old".to_owned()),
                ..Pod::default()
            });
        let of = |up: bool| {
            let serves = |phase: &Phase| matches!(phase, Phase::Up | Phase::CatchingUp);
            self.phases
                .iter()
                .filter(move |(_, phase)| serves(phase) == up)
                .map(|(id, _)| *id)
                .collect::<Vec<_>>()
        };
        let partitions = self.partitions.iter().map(|(replicas, leader)| {
            let mut in_sync = self.in_sync(replicas);
            in_sync.sort_by_key(|id| id != leader);
            (replicas.clone(), in_sync)
        });
        let voters = self
            .phases
            .keys()
            .map(|id| (*id, if of(true).contains(id) { 1000 } else { 1 }));
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

    /// The observed state, with the nodes' claims and the voters' volumes.
    pub fn observed(&self) -> (Observed, ValidCluster) {
        let (mut observed, _) = observe(&self.object, &self.world());
        let claims = self
            .volumes
            .iter()
            .filter(|(id, _)| !self.pruned.contains(id));
        let pod = |id: i32| {
            format!(
                "c-p-{}-{id}",
                ["a", "b", "c"][usize::try_from(id / 100).unwrap()]
            )
        };
        observed.volumes = claims
            .map(|(id, volume)| node_claim("p", &pod(*id), &format!("claim-{id}-{volume}")))
            .collect();
        if let KafkaFacts::Answered { quorum, .. } = &mut observed.kafka {
            let up = |id: i32| matches!(self.phases[&id], Phase::Up | Phase::CatchingUp);
            let state = |id: i32, volume: u64| {
                let is_its_own = volume == self.volumes[&id] && up(id);
                ReplicaState {
                    id,
                    directory: uuid::Uuid::from_u128(volume.into()),
                    log_end_offset: if is_its_own { 1000 } else { 1 },
                    last_fetch_ms: i64::try_from(volume).unwrap(),
                }
            };
            quorum.voters = self
                .votes
                .iter()
                .map(|(id, volume)| state(*id, *volume))
                .collect();
            let observes = self
                .volumes
                .iter()
                .filter(|(id, volume)| self.votes.get(*id) != Some(*volume) && up(**id));
            quorum.observers = observes.map(|(id, volume)| state(*id, *volume)).collect();
        }
        if let (KafkaFacts::Answered { topics, .. }, false) =
            (&mut observed.kafka, self.alone.is_empty())
        {
            topics.push(TopicView {
                name: ALONE.into(),
                min_in_sync: 1,
                partitions: self.alone.iter().map(|id| self.only(*id)).collect(),
                ..TopicView::default()
            });
        }
        let told = self
            .object
            .status
            .iter()
            .flat_map(|status| &status.lost_nodes);
        observed.lost_since = told.map(|one| (one.node_id, one.since.0)).collect();
        let valid = validate(&self.object, &observed).unwrap();
        (observed, valid)
    }

    /// A partition whose only replica is on this node.
    fn only(&self, id: i32) -> PartitionImage {
        let serves = matches!(self.phases[&id], Phase::Up | Phase::CatchingUp);
        PartitionImage::of(PartitionFields {
            replicas: Some(vec![id]),
            in_sync: Some(vec![id]),
            leader: Some(if serves { id } else { -1 }),
            ..PartitionFields::default()
        })
    }

    pub fn plan(&self) -> Plan {
        let (observed, valid) = self.observed();
        crate::linter::plan(&self.object, &valid, &observed)
    }

    /// The machine of a node dies with its volume.
    pub fn lose(&mut self, id: i32) {
        self.phases.insert(id, Phase::Lost);
        self.lost.insert(id);
        *self.pods.get_mut(&id).unwrap() += 1;
        // A new pod has the current template.
        self.new.insert(id);
        self.lead();
    }

    /// Carries out the plan in the model. The status is written last, unless the operator dies
    /// before.
    pub fn apply(&mut self, plan: Plan, dies: bool) {
        let batch: BTreeSet<i32> = plan
            .steps
            .iter()
            .filter_map(|step| {
                if let Step::RestartPod { pod, .. } = step {
                    Some(pod.node_id)
                } else {
                    None
                }
            })
            .collect();
        let restarted: BTreeSet<i32> = batch
            .iter()
            .copied()
            .filter(|id| !self.is(*id, Phase::Lost))
            .collect();
        self.check(&restarted);
        let replaces = plan.replaced.clone();
        for step in plan.steps {
            match step {
                Step::RestartPod { pod, permit, .. } => {
                    assert!(
                        permit.covers(pod.node_id),
                        "node {} restarts without a permit",
                        pod.node_id
                    );
                    let lease = self
                        .object
                        .status
                        .as_ref()
                        .and_then(|status| status.disruption.as_ref());
                    assert!(
                        lease.is_some_and(|lease| lease.node_ids.contains(&pod.node_id)),
                        "no restart without a lease in status"
                    );
                    // Except for partitions whose leader it became when a machine died: the broker
                    // hands these over in its own shutdown.
                    let died =
                        !self.lost.is_empty() || self.volumes.values().any(|volume| *volume > 1);
                    let fell_to_it = |replicas: &[i32]| died && replicas[0] != pod.node_id;
                    let leads = self
                        .partitions
                        .iter()
                        .any(|(replicas, leader)| *leader == pod.node_id && !fell_to_it(replicas));
                    assert!(!leads, "it leads nothing any more");
                    self.phases.insert(pod.node_id, Phase::Ending);
                    *self.restarts.entry(pod.node_id).or_insert(0) += 1;
                }
                Step::ElectLeaders(elections) => {
                    for one in elections.into_iter().filter(|one| one.topic != ALONE) {
                        let index = usize::try_from(one.partition).unwrap();
                        let (replicas, leader) = &mut self.partitions[index];
                        if let Some(order) = one.order {
                            *replicas = order;
                        }
                        // Some elections fail; an operator that dies has not done the first of
                        // them.
                        if !dies || index > 0 {
                            *leader = replicas[0];
                        }
                        self.elected += 1;
                    }
                }
                Step::DeleteVolume { claim, permit } => {
                    let id = claim.name().rsplit_once('-').unwrap().1.parse().unwrap();
                    assert!(
                        permit.covers(id),
                        "the volume of {id} goes without a permit"
                    );
                    assert!(
                        self.is(id, Phase::Lost) || self.is(id, Phase::Ending),
                        "the volume of {id} is in use"
                    );
                    assert!(self.lost.contains(&id), "the volume of {id} is not lost");
                    assert!(!self.alone.contains(&id), "{id} has the only copy");
                    self.pruned.insert(id);
                }
                Step::RemoveVoter {
                    id,
                    directory,
                    permit,
                } => {
                    assert!(permit.covers(id), "the vote of {id} goes without a permit");
                    assert_ne!(
                        directory,
                        uuid::Uuid::from_u128(self.volumes[&id].into()),
                        "the vote of {id} is that of its volume"
                    );
                    self.votes.remove(&id);
                }
                Step::AddVoter { id, directory, .. } => {
                    self.votes
                        .insert(id, u64::try_from(directory.as_u128()).unwrap());
                }
                Step::SetInSync { .. } => {}
                other => panic!("{other}"),
            }
        }
        if !dies {
            let replaced = replaces.or(self
                .object
                .status
                .as_ref()
                .and_then(|status| status.replaced.clone()));
            let mut lost_nodes = Vec::new();
            if !self.lost.is_empty() {
                let (observed, valid) = self.observed();
                lost_nodes = replacing::lost_nodes(&self.object, &valid, &observed);
            }
            // One hour passes between two reconciles.
            lost_nodes
                .iter_mut()
                .for_each(|one| one.since = Time(one.since.0 - SignedDuration::from_hours(1)));
            self.object.status = Some(KafkaClusterStatus {
                disruption: plan.lease,
                replaced,
                lost_nodes,
                ..KafkaClusterStatus::default()
            });
        }
        self.lead();
    }

    /// Computes the rule again, independently of the production code.
    pub fn check(&self, batch: &BTreeSet<i32>) {
        if batch.is_empty() {
            return;
        }
        for (replicas, _) in self
            .partitions
            .iter()
            .filter(|(replicas, _)| replicas.iter().any(|id| batch.contains(id)))
        {
            let left = self
                .in_sync(replicas)
                .iter()
                .filter(|id| !batch.contains(id))
                .count();
            assert!(
                left >= MIN_IN_SYNC,
                "{batch:?} leaves {left} of {replicas:?}"
            );
        }
        let left = self
            .phases
            .iter()
            .filter(|(id, phase)| **phase == Phase::Up && !batch.contains(id))
            .count();
        assert!(
            2 * left > self.phases.len(),
            "{batch:?} leaves {left} of {} voters",
            self.phases.len()
        );
        let zones: BTreeSet<i32> = batch.iter().map(|id| id / 100).collect();
        assert_eq!(zones.len(), 1, "one zone at a time");
        if batch.contains(&self.controller) {
            assert_eq!(
                self.new.len() + batch.len(),
                self.phases.len(),
                "the active controller is the last"
            );
        }
    }

    pub fn lead(&mut self) {
        let in_sync: Vec<Vec<i32>> = self
            .partitions
            .iter()
            .map(|(replicas, _)| self.in_sync(replicas))
            .collect();
        for ((_, leader), in_sync) in self.partitions.iter_mut().zip(in_sync) {
            if !in_sync.contains(leader) {
                *leader = in_sync[0];
            }
        }
        if !self.is(self.controller, Phase::Up) {
            self.controller = *self
                .phases
                .iter()
                .find(|(_, phase)| **phase == Phase::Up)
                .unwrap()
                .0;
        }
    }

    /// One node advances by one phase.
    pub fn time_passes(&mut self, choice: usize) {
        let busy: Vec<i32> = self
            .phases
            .iter()
            .filter(|(_, phase)| !matches!(phase, Phase::Up | Phase::Lost))
            .map(|(id, _)| *id)
            .collect();
        if busy.is_empty() {
            return;
        }
        let id = busy[choice % busy.len()];
        let next = match self.phases[&id] {
            Phase::Ending => Phase::Gone,
            Phase::Gone => Phase::Starting,
            Phase::Starting => Phase::CatchingUp,
            Phase::CatchingUp | Phase::Up | Phase::Lost => Phase::Up,
        };
        let mut next = next;
        if next == Phase::Starting {
            self.new.insert(id);
            *self.pods.get_mut(&id).unwrap() += 1;
            if self.pruned.remove(&id) {
                self.lost.remove(&id);
                *self.volumes.get_mut(&id).unwrap() += 1;
            }
            if self.lost.contains(&id) {
                next = Phase::Lost;
            }
        }
        self.phases.insert(id, next);
    }
}
