//! Computes where replicas should be and why they should move, and describes the moves. Pure.

use crate::api::kafka_cluster::{KafkaCluster, RebalanceMode, Role};
use crate::kinds::kafka_cluster::model::cluster::ValidCluster;
use crate::kinds::kafka_cluster::moving::throttle;
use crate::kinds::kafka_cluster::observed::{KafkaFacts, Observed};
use crate::kubernetes::{labels, names, quantity};
use crate::words;
use freehold_kafka::rebalance::{self, Broker, Duty, Placement};
use freehold_kafka::safety::TopicView;
use freehold_kafka_client::Reassignment;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Shares are unequal if the fullest broker holds this many replicas more than the emptiest …
const UNLIKE_REPLICAS: usize = 10;

/// … and this many percent more.
const UNLIKE_PERCENT: usize = 20;

/// Disks are unequal if one holds so many percent and bytes more than the placement leaves it.
const UNLIKE_DISK_BYTES: u64 = 10 * 1024 * 1024 * 1024;

/// A disk may hold this many bytes more than others in any case, because moving them costs more
/// than it gains.
const DISK_SLACK_BYTES: u64 = 1024 * 1024 * 1024;

/// The placement of replicas now, and the one to reach.
pub struct Proposal<'a> {
    pub topics: &'a [TopicView],
    pub brokers: Vec<Broker>,
    pub before: Placement,
    pub plan: rebalance::Plan,
    /// The topic (its place in `topics`) and the index of each partition.
    pub names: Vec<(usize, i32)>,
}

/// A number of replicas, and their bytes.
#[derive(Clone, Copy, Default)]
pub struct Exchanged {
    pub replicas: usize,
    pub bytes: u64,
}

impl Exchanged {
    pub fn add(&mut self, bytes: u64) {
        (self.replicas, self.bytes) = (self.replicas + 1, self.bytes + bytes);
    }
}

impl fmt::Display for Exchanged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.replicas {
            0 => f.write_str("none"),
            replicas => write!(f, "{replicas} ({})", quantity::words(self.bytes)),
        }
    }
}

pub fn duty(broker: i32, fenced: bool, cluster: &ValidCluster) -> Duty {
    let group = cluster
        .groups_of(Role::Broker)
        .find(|group| group.node_ids().any(|id| id == broker));
    match group {
        Some(group)
            if group.leaving_ids().any(|id| id == broker) || cluster.replace == Some(broker) =>
        {
            Duty::Leaving
        }
        None => Duty::Leaving,
        // A broker that is away neither receives nor gives replicas, because it may come back.
        Some(_) if fenced => Duty::Cordoned,
        Some(_) => Duty::Full,
    }
}

pub fn brokers(cluster: &ValidCluster, observed: &Observed) -> Vec<Broker> {
    let KafkaFacts::Answered {
        cluster: described, ..
    } = &observed.kafka
    else {
        return Vec::new();
    };
    let broker = |broker: &freehold_kafka_client::BrokerDescription| Broker {
        id: broker.id,
        rack: broker.rack.clone().unwrap_or_default(),
        duty: duty(broker.id, broker.fenced, cluster),
    };
    let mut brokers: Vec<_> = described.brokers.iter().map(broker).collect();
    brokers.sort_by_key(|broker| broker.id);
    brokers
}

/// True if only replicas on brokers that leave are moved of this topic.
pub fn is_excluded(topic: &str, cluster: &ValidCluster) -> bool {
    let mut patterns = cluster.spec.rebalance.exclude_topics.iter();
    patterns.any(|pattern| match pattern.strip_suffix('*') {
        Some(prefix) => topic.starts_with(prefix),
        None => topic == pattern,
    })
}

/// Computes the placement to reach, from the one that exists once all moves in progress have ended.
/// `None` if no broker can hold replicas.
pub fn propose<'a>(
    cluster: &ValidCluster,
    brokers: Vec<Broker>,
    topics: &'a [TopicView],
) -> Option<Proposal<'a>> {
    let place: BTreeMap<i32, u16> = brokers
        .iter()
        .enumerate()
        .filter_map(|(index, broker)| Some((broker.id, index.try_into().ok()?)))
        .collect();
    let (mut before, mut names) = (Placement::new(), Vec::new());
    for (topic_index, topic) in topics.iter().enumerate() {
        let fixed = is_excluded(&topic.name, cluster);
        for (index, partition) in topic.partitions.iter().enumerate() {
            let target = partition.target();
            let replicas: Option<Vec<u16>> =
                target.iter().map(|id| place.get(id).copied()).collect();
            // A replica on a broker that is not registered is not repaired by moves. A partition
            // without a leader cannot be copied.
            let Some(replicas) = replicas.filter(|_| partition.leader >= 0) else {
                continue;
            };
            let leaves = replicas
                .iter()
                .any(|broker| brokers[usize::from(*broker)].duty == Duty::Leaving);
            before.push(replicas, topic.partition_bytes, fixed && !leaves);
            names.push((topic_index, i32::try_from(index).unwrap_or(i32::MAX)));
        }
    }
    if !brokers.iter().any(|broker| broker.duty == Duty::Full) {
        return None;
    }
    let plan = rebalance::plan(&brokers, &before, DISK_SLACK_BYTES);
    Some(Proposal {
        topics,
        brokers,
        before,
        plan,
        names,
    })
}

impl Proposal<'_> {
    pub fn reassignment(&self, partition: usize) -> Reassignment {
        let (topic, index) = self.names[partition];
        let id = |broker: &u16| self.brokers[usize::from(*broker)].id;
        let replicas = self.plan.placement.of(partition).iter().map(id).collect();
        Reassignment {
            topic: self.topics[topic].name.to_string(),
            partition: index,
            replicas: Some(replicas),
        }
    }

    /// The brokers that receive a replica of a partition.
    pub fn incoming(&self, partition: usize) -> Vec<i32> {
        let before = self.before.of(partition);
        let new = self
            .plan
            .placement
            .of(partition)
            .iter()
            .filter(|broker| !before.contains(broker));
        new.map(|broker| self.brokers[usize::from(*broker)].id)
            .collect()
    }

    /// What each broker gives and receives, by its place in `brokers`.
    pub fn exchanged(&self) -> Vec<[Exchanged; 2]> {
        let mut all = vec![[Exchanged::default(); 2]; self.brokers.len()];
        for partition in self.plan.changed(&self.before) {
            let (before, after, bytes) = (
                self.before.of(partition),
                self.plan.placement.of(partition),
                self.before.bytes[partition],
            );
            before
                .iter()
                .filter(|broker| !after.contains(broker))
                .for_each(|broker| all[usize::from(*broker)][0].add(bytes));
            after
                .iter()
                .filter(|broker| !before.contains(broker))
                .for_each(|broker| all[usize::from(*broker)][1].add(bytes));
        }
        all
    }

    pub fn bytes(&self) -> u64 {
        self.exchanged().iter().map(|[_, takes]| takes.bytes).sum()
    }

    /// The number of replicas of each broker in the placement to reach.
    pub fn kept(&self) -> Vec<usize> {
        let mut kept = vec![0; self.brokers.len()];
        self.plan
            .placement
            .replicas
            .iter()
            .for_each(|broker| kept[usize::from(*broker)] += 1);
        kept
    }

    /// True if a broker that leaves holds fewer replicas afterwards.
    pub fn empties_any(&self) -> bool {
        let (held, kept) = (self.held(), self.kept());
        (0..held.len())
            .any(|index| self.brokers[index].duty == Duty::Leaving && kept[index] < held[index])
    }

    /// Says that a broker to replace cannot give all its replicas away, and the way out.
    pub fn cannot_empty(&self, id: i32) -> Option<String> {
        let index = self.brokers.iter().position(|broker| broker.id == id)?;
        let left = *self.kept().get(index)?;
        (left > 0).then(|| {
            format!(
                "{}: {left} replicas of broker {id} have nowhere to go, because every other broker holds one of the same partition: add a broker to \
                 its pool for the time of the replacement",
                labels::REPLACE
            )
        })
    }

    pub fn held(&self) -> Vec<usize> {
        let mut held = vec![0; self.brokers.len()];
        self.before
            .replicas
            .iter()
            .for_each(|broker| held[usize::from(*broker)] += 1);
        held
    }

    /// The reason to move replicas, and whether a change of the cluster is that reason. `None` if
    /// no move is needed.
    pub fn why(&self) -> Option<(String, bool)> {
        if self.plan.moves == 0 {
            return None;
        }
        let held = self.held();
        let ids = |wanted: &dyn Fn(usize) -> bool| {
            let ids: Vec<i32> = (0..held.len())
                .filter(|index| wanted(*index))
                .map(|index| self.brokers[index].id)
                .collect();
            (!ids.is_empty()).then(|| words::ids(&ids))
        };
        let is = |index: usize, duty: Duty| self.brokers[index].duty == duty;
        if let Some(leaving) = ids(&|index| is(index, Duty::Leaving) && held[index] > 0) {
            return Some((format!("brokers {leaving} are to leave"), true));
        }
        if let Some(empty) = ids(&|index| is(index, Duty::Full) && held[index] == 0) {
            return Some((format!("brokers {empty} are new"), true));
        }
        let full = || {
            (0..held.len())
                .filter(|index| is(*index, Duty::Full))
                .map(|index| held[index])
        };
        let (most, least) = (full().max()?, full().min()?);
        if most >= least + UNLIKE_REPLICAS && most * 100 > least * (100 + UNLIKE_PERCENT) {
            return Some((
                format!("brokers hold between {least} and {most} replicas"),
                false,
            ));
        }
        let (bytes, left) = (
            self.before.bytes_by_broker(held.len()),
            self.plan.placement.bytes_by_broker(held.len()),
        );
        let percent = 100 + UNLIKE_PERCENT as u128;
        let is_unlike = |index: &usize| {
            bytes[*index] >= left[*index] + UNLIKE_DISK_BYTES
                && u128::from(bytes[*index]) * 100 > u128::from(left[*index]) * percent
        };
        let fullest = (0..held.len())
            .filter(|index| is(*index, Duty::Full))
            .filter(is_unlike)
            .rev()
            .max_by_key(|index| bytes[*index])?;
        let (id, has, should) = (
            self.brokers[fullest].id,
            quantity::words(bytes[fullest]),
            quantity::words(left[fullest]),
        );
        Some((
            format!("the disk of broker {id} holds {has} and its share is {should}"),
            false,
        ))
    }

    /// The moves in one line, for people.
    pub fn summary(&self) -> String {
        let changed: BTreeSet<usize> = self
            .plan
            .changed(&self.before)
            .map(|partition| self.names[partition].0)
            .collect();
        format!(
            "{} replicas of {} topics move, about {}; {} partitions get another preferred leader",
            self.plan.moves,
            changed.len(),
            quantity::words(self.bytes()),
            self.plan.leader_changes
        )
    }

    /// A name for these moves, by which a person approves them. Other moves have another name.
    pub fn hash(&self) -> String {
        let mut hash = Sha256::new();
        for partition in self.plan.changed(&self.before) {
            let one = self.reassignment(partition);
            hash.update(format!(
                "{}-{}:{:?};",
                one.topic, one.partition, one.replicas
            ));
        }
        names::hex(&hash.finalize()[..4])
    }
}

/// Describes the moves: their sum, then what each broker gives and receives. Brokers of the spec
/// that Kafka does not know yet count as brokers.
pub fn preview(object: &KafkaCluster, cluster: &ValidCluster, observed: &Observed) -> Vec<String> {
    let KafkaFacts::Answered { topics, .. } = &observed.kafka else {
        return Vec::new();
    };
    let mut all = brokers(cluster, observed);
    for group in cluster.groups_of(Role::Broker) {
        for id in group
            .node_ids()
            .filter(|id| !all.iter().any(|broker| broker.id == *id))
            .collect::<Vec<_>>()
        {
            all.push(Broker {
                id,
                rack: group.zone.clone(),
                duty: Duty::Full,
            });
        }
    }
    all.sort_by_key(|broker| broker.id);
    let Some(proposal) = propose(cluster, all, topics) else {
        return Vec::new();
    };
    let Some((why, _)) = proposal.why() else {
        return Vec::new();
    };
    // All brokers receive replicas at the same time, each at the rate of the throttle.
    let exchanged = proposal.exchanged();
    let rate = throttle::plan(object, cluster, observed)
        .bytes_per_second
        .max(1);
    let minutes = exchanged
        .iter()
        .map(|[_, takes]| takes.bytes)
        .max()
        .unwrap_or(0)
        / rate
        / 60;
    let how = match cluster.spec.rebalance.mode {
        RebalanceMode::Auto => "then".to_owned(),
        RebalanceMode::Propose => format!(
            "after an approval ({}={})",
            labels::APPROVE_REBALANCE,
            proposal.hash()
        ),
        RebalanceMode::Never => "not, because spec.rebalance.mode is Never".to_owned(),
    };
    let mut lines = vec![format!(
        "{how}: {why}: {}; at {} a second and broker about {} min",
        proposal.summary(),
        quantity::words(rate),
        minutes + 1
    )];
    for (broker, [gives, takes]) in proposal
        .brokers
        .iter()
        .zip(&exchanged)
        .filter(|(_, [gives, takes])| gives.replicas + takes.replicas > 0)
    {
        lines.push(format!(
            "replicas of broker {}: gives {gives}, takes {takes}",
            broker.id
        ));
    }
    lines
}
