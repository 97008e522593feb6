//! Replicas that move: off brokers that leave, onto brokers that are new, and where brokers hold too unlike shares. Pure.
//!
//! What is under way counts as done, so that whoever looks next, after whatever death, plans what is left and no move more.

use super::api::{DisruptionKind, DisruptionStatus, KafkaCluster, RebalanceMode, RebalanceStatus, Role, ThrottleStatus};
use super::desired::volumes::claim_name;
use super::disruption::RestartReason;
use super::leaders;
use super::observe::{KafkaFacts, Observed};
use super::plan::{Plan, Step, WaitingOn};
use super::status;
use super::throttle;
use super::validate::{NodeGroup, ValidCluster};
use super::windows;
use crate::kafka::rebalance::{self, Broker, Duty, Placement};
use crate::kafka::restart::{self, TopicView};
use crate::kafka::topic_plan::{THROTTLE_RATES, THROTTLED};
use crate::kafka_admin::{ConfigChanges, ConfigResource, Reassignment};
use crate::{labels, names, quantity};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::SignedDuration;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Replicas that come to a broker at the same time.
const INCOMING_MAX: usize = 30;
/// Bytes that come to a broker at the same time.
const INCOMING_BYTES_MAX: u64 = 5 * 1024 * 1024 * 1024;
/// Partitions of one request.
const PARTITIONS_MAX: usize = 1000;
/// Brokers are unlike when the fullest holds this many replicas more than the emptiest …
const UNLIKE_REPLICAS: usize = 10;
/// … and this many percent more.
const UNLIKE_PERCENT: usize = 20;
/// Disks are unlike when one holds that many percent, and bytes, more than the plan leaves it.
const UNLIKE_DISK_BYTES: u64 = 10 * 1024 * 1024 * 1024;
/// So many bytes more than others may lie on a disk in any case: to move them costs more than it gains.
const DISK_SLACK_BYTES: u64 = 1024 * 1024 * 1024;

/// What is to be done about where replicas are.
struct Work<'a> {
    topics: &'a [TopicView],
    brokers: Vec<Broker>,
    before: Placement,
    plan: rebalance::Plan,
    /// Topic and index of each partition.
    names: Vec<(usize, i32)>,
}

/// Replicas, and their bytes.
#[derive(Clone, Copy, Default)]
struct Exchanged {
    replicas: usize,
    bytes: u64,
}

impl Exchanged {
    fn add(&mut self, bytes: u64) {
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

/// What comes to each broker.
#[derive(Default)]
struct Incoming(BTreeMap<i32, Exchanged>);

impl Incoming {
    fn add(&mut self, brokers: &[i32], bytes: u64) {
        for broker in brokers {
            self.0.entry(*broker).or_default().add(bytes);
        }
    }

    /// One that is larger than the limit comes alone.
    fn has_room(&self, brokers: &[i32], bytes: u64) -> bool {
        let of = |broker| self.0.get(broker).copied().unwrap_or_default();
        brokers.iter().map(of).all(|one| one.replicas == 0 || (one.replicas < INCOMING_MAX && one.bytes + bytes <= INCOMING_BYTES_MAX))
    }
}

/// What moves come to in this look: the lease, steps and what is waited for, into the plan.
pub fn plan(object: &KafkaCluster, cluster: &ValidCluster, observed: &Observed, plan: &mut Plan) {
    unregister(cluster, observed, plan);
    replace(object, cluster, observed, plan);
    let lease = object.status.as_ref().and_then(|status| status.disruption.clone());
    let moving = lease.filter(|lease| lease.kind == DisruptionKind::Reassignment);
    // Another disruption is under way, or nobody can be asked: what moves goes on by itself.
    let KafkaFacts::Answered { topics, .. } = &observed.kafka else {
        plan.lease = plan.lease.take().or(moving);
        return;
    };
    if plan.lease.is_some() && moving.is_none() {
        return;
    }
    let mode = cluster.spec.rebalance.mode;
    match moving {
        Some(lease) if mode == RebalanceMode::Never => plan.lease = take_back(&lease, topics, observed, plan),
        Some(lease) => {
            let throttle = throttle::plan(object, cluster, observed);
            plan.lease = go_on(&lease, throttle, cluster, observed, topics, plan);
            plan.rebalanced = plan.lease.is_none().then_some(Time(observed.now));
        }
        None => plan.lease = begin(object, cluster, observed, topics, plan),
    }
    if plan.lease.as_ref().is_none_or(|lease| lease.kind != DisruptionKind::Reassignment) {
        release(topics, plan);
    }
}

fn duty(broker: i32, fenced: bool, cluster: &ValidCluster) -> Duty {
    let group = cluster.groups_of(Role::Broker).find(|group| group.node_ids().any(|id| id == broker));
    match group {
        Some(group) if group.leaving_ids().any(|id| id == broker) || cluster.replace == Some(broker) => Duty::Leaving,
        None => Duty::Leaving,
        // One that is away is given nothing, and nothing is taken from it: it may come back.
        Some(_) if fenced => Duty::Cordoned,
        Some(_) => Duty::Full,
    }
}

fn brokers(cluster: &ValidCluster, observed: &Observed) -> Vec<Broker> {
    let KafkaFacts::Answered { cluster: described, .. } = &observed.kafka else { return Vec::new() };
    let broker = |broker: &crate::kafka_admin::BrokerDescription| Broker {
        id: broker.id,
        rack: broker.rack.clone().unwrap_or_default(),
        duty: duty(broker.id, broker.fenced, cluster),
    };
    let mut brokers: Vec<_> = described.brokers.iter().map(broker).collect();
    brokers.sort_by_key(|broker| broker.id);
    brokers
}

/// Where replicas are to be, and where they are once everything under way has ended.
fn work<'a>(cluster: &ValidCluster, brokers: Vec<Broker>, topics: &'a [TopicView]) -> Option<Work<'a>> {
    let place: BTreeMap<i32, u16> =
        brokers.iter().enumerate().filter_map(|(index, broker)| Some((broker.id, index.try_into().ok()?))).collect();
    let excluded = |name: &str| {
        cluster.spec.rebalance.exclude_topics.iter().any(|pattern| match pattern.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => name == pattern,
        })
    };
    let (mut before, mut names) = (Placement::new(), Vec::new());
    for (topic_index, topic) in topics.iter().enumerate() {
        let fixed = excluded(&topic.name);
        for (index, partition) in topic.partitions.iter().enumerate() {
            let target = partition.target();
            let replicas: Option<Vec<u16>> = target.iter().map(|id| place.get(id).copied()).collect();
            // A replica on a broker that is not even registered: somebody else's repair.
            let Some(replicas) = replicas else { continue };
            let leaves = replicas.iter().any(|broker| brokers[usize::from(*broker)].duty == Duty::Leaving);
            before.push(replicas, topic.partition_bytes, fixed && !leaves);
            names.push((topic_index, i32::try_from(index).unwrap_or(i32::MAX)));
        }
    }
    if !brokers.iter().any(|broker| broker.duty == Duty::Full) {
        return None;
    }
    let plan = rebalance::plan(&brokers, &before, DISK_SLACK_BYTES);
    Some(Work { topics, brokers, before, plan, names })
}

impl Work<'_> {
    fn reassignment(&self, partition: usize) -> Reassignment {
        let (topic, index) = self.names[partition];
        let id = |broker: &u16| self.brokers[usize::from(*broker)].id;
        let replicas = self.plan.placement.of(partition).iter().map(id).collect();
        Reassignment { topic: self.topics[topic].name.to_string(), partition: index, replicas: Some(replicas) }
    }

    /// Brokers that are given a replica of a partition.
    fn incoming(&self, partition: usize) -> Vec<i32> {
        let before = self.before.of(partition);
        let new = self.plan.placement.of(partition).iter().filter(|broker| !before.contains(broker));
        new.map(|broker| self.brokers[usize::from(*broker)].id).collect()
    }

    /// What each broker gives and takes, by its place in the list.
    fn exchanged(&self) -> Vec<[Exchanged; 2]> {
        let mut all = vec![[Exchanged::default(); 2]; self.brokers.len()];
        for partition in self.plan.changed(&self.before) {
            let (before, after, bytes) = (self.before.of(partition), self.plan.placement.of(partition), self.before.bytes[partition]);
            before.iter().filter(|broker| !after.contains(broker)).for_each(|broker| all[usize::from(*broker)][0].add(bytes));
            after.iter().filter(|broker| !before.contains(broker)).for_each(|broker| all[usize::from(*broker)][1].add(bytes));
        }
        all
    }

    fn bytes(&self) -> u64 {
        self.exchanged().iter().map(|[_, takes]| takes.bytes).sum()
    }

    fn held(&self) -> Vec<usize> {
        let mut held = vec![0; self.brokers.len()];
        self.before.replicas.iter().for_each(|broker| held[usize::from(*broker)] += 1);
        held
    }

    /// Why replicas should move at all, and whether that is because of a change; `None` where it is well as it is.
    fn why(&self) -> Option<(String, bool)> {
        if self.plan.moves == 0 {
            return None;
        }
        let held = self.held();
        let ids = |wanted: &dyn Fn(usize) -> bool| {
            let ids: Vec<i32> = (0..held.len()).filter(|index| wanted(*index)).map(|index| self.brokers[index].id).collect();
            (!ids.is_empty()).then(|| status::ids(&ids))
        };
        let is = |index: usize, duty: Duty| self.brokers[index].duty == duty;
        if let Some(leaving) = ids(&|index| is(index, Duty::Leaving) && held[index] > 0) {
            return Some((format!("brokers {leaving} are to leave"), true));
        }
        if let Some(empty) = ids(&|index| is(index, Duty::Full) && held[index] == 0) {
            return Some((format!("brokers {empty} are new"), true));
        }
        let full = || (0..held.len()).filter(|index| is(*index, Duty::Full)).map(|index| held[index]);
        let (most, least) = (full().max()?, full().min()?);
        if most >= least + UNLIKE_REPLICAS && most * 100 > least * (100 + UNLIKE_PERCENT) {
            return Some((format!("brokers hold between {least} and {most} replicas"), false));
        }
        let (bytes, left) = (self.before.bytes_by_broker(held.len()), self.plan.placement.bytes_by_broker(held.len()));
        let percent = 100 + UNLIKE_PERCENT as u128;
        let is_unlike = |index: &usize| {
            bytes[*index] >= left[*index] + UNLIKE_DISK_BYTES && u128::from(bytes[*index]) * 100 > u128::from(left[*index]) * percent
        };
        let fullest = (0..held.len()).filter(|index| is(*index, Duty::Full)).filter(is_unlike).rev().max_by_key(|index| bytes[*index])?;
        let (id, has, should) = (self.brokers[fullest].id, quantity::words(bytes[fullest]), quantity::words(left[fullest]));
        Some((format!("the disk of broker {id} holds {has} and its share is {should}"), false))
    }

    /// The plan in a line, for people.
    fn summary(&self) -> String {
        let changed: BTreeSet<usize> = self.plan.changed(&self.before).map(|partition| self.names[partition].0).collect();
        format!(
            "{} replicas of {} topics move, about {}; {} partitions get another preferred leader",
            self.plan.moves,
            changed.len(),
            quantity::words(self.bytes()),
            self.plan.leader_changes
        )
    }

    /// Names the plan: another one has another name.
    fn hash(&self) -> String {
        let mut hash = Sha256::new();
        for partition in self.plan.changed(&self.before) {
            let one = self.reassignment(partition);
            hash.update(format!("{}-{}:{:?};", one.topic, one.partition, one.replicas));
        }
        names::hex(&hash.finalize()[..4])
    }
}

/// What would move, in words: the sum, then what each broker gives and takes. Brokers that the spec has and Kafka not yet count as there.
pub fn preview(object: &KafkaCluster, cluster: &ValidCluster, observed: &Observed) -> Vec<String> {
    let KafkaFacts::Answered { topics, .. } = &observed.kafka else { return Vec::new() };
    let mut all = brokers(cluster, observed);
    for group in cluster.groups_of(Role::Broker) {
        for id in group.node_ids().filter(|id| !all.iter().any(|broker| broker.id == *id)).collect::<Vec<_>>() {
            all.push(Broker { id, rack: group.zone.clone(), duty: Duty::Full });
        }
    }
    all.sort_by_key(|broker| broker.id);
    let Some(work) = work(cluster, all, topics) else { return Vec::new() };
    let Some((why, _)) = work.why() else { return Vec::new() };
    // Every broker takes what it is given at the throttle's rate, all at the same time.
    let exchanged = work.exchanged();
    let rate = throttle::plan(object, cluster, observed).bytes_per_second.max(1);
    let minutes = exchanged.iter().map(|[_, takes]| takes.bytes).max().unwrap_or(0) / rate / 60;
    let how = match cluster.spec.rebalance.mode {
        RebalanceMode::Auto => "then".to_owned(),
        RebalanceMode::Propose => format!("after an approval ({}={})", labels::APPROVE_REBALANCE, work.hash()),
        RebalanceMode::Never => "not, because spec.rebalance.mode is Never".to_owned(),
    };
    let mut lines =
        vec![format!("{how}: {why}: {}; at {} a second and broker about {} min", work.summary(), quantity::words(rate), minutes + 1)];
    for (broker, [gives, takes]) in work.brokers.iter().zip(&exchanged).filter(|(_, [gives, takes])| gives.replicas + takes.replicas > 0) {
        lines.push(format!("replicas of broker {}: gives {gives}, takes {takes}", broker.id));
    }
    lines
}

fn begin(
    object: &KafkaCluster,
    cluster: &ValidCluster,
    observed: &Observed,
    topics: &[TopicView],
    plan: &mut Plan,
) -> Option<DisruptionStatus> {
    // Everything else first: pods that start, configs, and moves that somebody else began.
    if !plan.waiting_on.is_empty() || !plan.is_applied() || topics.iter().any(|topic| topic.partitions.iter().any(|one| one.is_moving())) {
        return None;
    }
    let work = work(cluster, brokers(cluster, observed), topics)?;
    let (why, changed) = work.why()?;
    let (hash, summary) = (work.hash(), work.summary());
    let rebalance = &cluster.spec.rebalance;
    let approved = object.metadata.annotations.as_ref().and_then(|all| all.get(labels::APPROVE_REBALANCE));
    plan.rebalance =
        Some(RebalanceStatus { proposal: Some(hash.clone()), summary: format!("{why}: {summary}"), progress: None, throttle: None });
    match rebalance.mode {
        RebalanceMode::Never => return None,
        RebalanceMode::Propose if approved != Some(&hash) => {
            // A spec that cannot be reached without it waits; what is only uneven does not.
            if work.brokers.iter().any(|broker| broker.duty == Duty::Leaving) {
                plan.waiting_on.push(WaitingOn::Approval { hash });
            }
            return None;
        }
        RebalanceMode::Auto if !changed && !cooled_down(object, cluster, observed) => return None,
        RebalanceMode::Propose | RebalanceMode::Auto => {}
    }
    if !windows::is_open(cluster, observed, plan) {
        return None;
    }
    Some(DisruptionStatus {
        kind: DisruptionKind::Reassignment,
        node_ids: work.brokers.iter().filter(|broker| broker.duty != Duty::Cordoned).map(|broker| broker.id).collect(),
        why: format!("{why}: {summary}"),
        since: Time(observed.now),
        total: Some(u32::try_from(work.plan.moves).unwrap_or(u32::MAX)),
        handed_over: Vec::new(),
    })
}

/// Unlike shares alone begin nothing soon after the last moves: topics come and go, and so would replicas.
fn cooled_down(object: &KafkaCluster, cluster: &ValidCluster, observed: &Observed) -> bool {
    let ended = object.status.as_ref().and_then(|status| status.rebalanced.as_ref());
    let cooldown = SignedDuration::from_mins(cluster.spec.rebalance.cooldown_minutes.into());
    ended.is_none_or(|ended| observed.now >= ended.0 + cooldown)
}

/// The next batch, until nothing is left and nothing moves.
fn go_on(
    lease: &DisruptionStatus,
    rate: ThrottleStatus,
    cluster: &ValidCluster,
    observed: &Observed,
    topics: &[TopicView],
    plan: &mut Plan,
) -> Option<DisruptionStatus> {
    let work = work(cluster, brokers(cluster, observed), topics)?;
    let (mut incoming, mut under_way) = (Incoming::default(), 0);
    for topic in topics {
        for partition in &topic.partitions {
            under_way += partition.adding.len();
            incoming.add(&partition.adding, topic.partition_bytes);
        }
    }
    let left = work.plan.moves + under_way;
    let rates = (left > 0).then(|| rates(&THROTTLE_RATES, rate.bytes_per_second, observed)).filter(|rates| !rates.is_empty());
    plan.steps.extend(rates.map(|rates| Step::AlterConfigs(vec![(ConfigResource::Brokers, rates)])));
    progress(lease, left, Some(rate), observed, plan);
    let (reordered, moved): (Vec<usize>, Vec<usize>) =
        work.plan.changed(&work.before).partition(|partition| work.incoming(*partition).is_empty());
    let mut next: Vec<Reassignment> = reordered.iter().take(PARTITIONS_MAX).map(|partition| work.reassignment(*partition)).collect();
    for partition in moved {
        if next.len() >= PARTITIONS_MAX {
            break;
        }
        let (to, bytes) = (work.incoming(partition), work.before.bytes[partition]);
        if incoming.has_room(&to, bytes) {
            incoming.add(&to, bytes);
            next.push(work.reassignment(partition));
        }
    }
    // While a broker is away that is to hold its share, nothing more is begun: shares without it would be others.
    let away = work.brokers.iter().any(|broker| broker.duty == Duty::Cordoned);
    if !next.is_empty() && !away {
        throttle_topics(&next, topics, plan);
        plan.steps.push(Step::Reassign(next));
    }
    if left > 0 || !reordered.is_empty() {
        plan.waiting_on.push(WaitingOn::Moves { replicas: left });
        return Some(lease.clone());
    }
    // Whoever is first now leads.
    if leaders::elect(leaders::preferred(topics, |_| true), topics, plan) {
        plan.look_soon = true;
        return None;
    }
    Some(lease.clone())
}

pub fn progress(lease: &DisruptionStatus, left: usize, throttle: Option<ThrottleStatus>, observed: &Observed, plan: &mut Plan) {
    let total = lease.total.and_then(|total| usize::try_from(total).ok()).unwrap_or(left).max(left).max(1);
    let done = total - left;
    let elapsed = observed.now.duration_since(lease.since.0).as_secs().max(1);
    let eta = (done > 0 && left > 0).then(|| elapsed * i64::try_from(left).unwrap_or(i64::MAX) / i64::try_from(done).unwrap_or(i64::MAX));
    // Coarse, so that it is written seldom.
    let eta =
        eta.map(|seconds| if seconds < 60 { ", less than a minute left".to_owned() } else { format!(", about {} min left", seconds / 60) });
    let progress = format!("{done}/{total} replicas ({} %){}", done * 100 / total, eta.unwrap_or_default());
    plan.rebalance = Some(RebalanceStatus { proposal: None, summary: lease.why.clone(), progress: Some(progress), throttle });
}

/// What the brokers' rates of these keys lack of this one.
pub fn rates(keys: &[&str], rate: u64, observed: &Observed) -> ConfigChanges {
    let KafkaFacts::Answered { configs, .. } = &observed.kafka else { return ConfigChanges::new() };
    let rate = rate.to_string();
    let set = |key: &&&str| configs.get("").and_then(|configs| configs.get(**key)) != Some(&rate);
    keys.iter().filter(set).map(|key| ((*key).to_owned(), Some(rate.clone()))).collect()
}

/// The topics that the brokers' rates hold for.
fn throttle_topics(next: &[Reassignment], topics: &[TopicView], plan: &mut Plan) {
    let names: BTreeSet<&str> = next.iter().map(|one| one.topic.as_str()).collect();
    // A Topic throttles its own topic while it moves.
    set_throttled(topics.iter().filter(|topic| names.contains(&*topic.name) && !topic.throttled && !topic.claimed), Some("*"), plan);
}

/// Takes the throttle from topics that do not move any more.
fn release(topics: &[TopicView], plan: &mut Plan) {
    let idle = |topic: &&TopicView| topic.throttled && !topic.claimed && !topic.partitions.iter().any(|partition| partition.is_moving());
    set_throttled(topics.iter().filter(idle), None, plan);
}

/// `replicas`: those of each topic that are throttled, `*` for all; `None` takes the throttle from it.
fn set_throttled<'a>(topics: impl Iterator<Item = &'a TopicView>, replicas: Option<&str>, plan: &mut Plan) {
    let keys = || THROTTLED.iter().map(|key| ((*key).to_owned(), replicas.map(str::to_owned))).collect();
    let changes: Vec<_> = topics.map(|topic| (ConfigResource::Topic(topic.name.to_string()), keys())).collect();
    if !changes.is_empty() {
        plan.steps.push(Step::AlterConfigs(changes));
    }
}

/// The mode is Never: what is under way is taken back.
fn take_back(lease: &DisruptionStatus, topics: &[TopicView], observed: &Observed, plan: &mut Plan) -> Option<DisruptionStatus> {
    let moving =
        topics.iter().flat_map(|topic| topic.partitions.iter().enumerate().map(move |(index, partition)| (topic, index, partition)));
    let back: Vec<Reassignment> = moving
        .filter(|(.., partition)| partition.is_moving())
        .map(|(topic, index, _)| Reassignment {
            topic: topic.name.to_string(),
            partition: i32::try_from(index).unwrap_or(i32::MAX),
            replicas: None,
        })
        .collect();
    if back.is_empty() {
        return None;
    }
    progress(lease, back.len(), None, observed, plan);
    plan.waiting_on.push(WaitingOn::Moves { replicas: back.len() });
    plan.steps.push(Step::Reassign(back));
    Some(lease.clone())
}

/// A broker that was emptied to be replaced gets a new volume: the old one is deleted, and then its pod.
fn replace(object: &KafkaCluster, cluster: &ValidCluster, observed: &Observed, plan: &mut Plan) {
    let Some(id) = cluster.replace.filter(|id| observed.emptied.contains(id) && plan.lease.is_none()) else { return };
    let busy = object.status.as_ref().is_some_and(|status| status.disruption.is_some());
    let Some(group) = cluster.groups.iter().find(|group| group.node_ids().any(|node| node == id)).filter(|_| !busy) else { return };
    let name = names::pod(&group.stateful_set, id);
    let claims: BTreeSet<String> = group.volumes.iter().map(|volume| claim_name(&volume.name, &name)).collect();
    let volumes = observed.volumes.iter().filter(|live| claims.contains(live.name()) && !live.is_deleting());
    plan.steps.extend(volumes.map(|live| Step::Prune(Box::new(live.clone()))));
    let pod = observed.pods.iter().find(|pod| pod.name == name && !pod.deleting);
    plan.steps.extend(pod.map(|pod| Step::RestartPod { pod: Box::new(pod.clone()), reasons: vec![RestartReason::Replaced] }));
    plan.replaced = object.metadata.annotations.as_ref().and_then(|all| all.get(labels::REPLACE)).cloned();
}

/// Brokers whose pods are gone for good, and which hold nothing, are taken from the cluster's list.
fn unregister(cluster: &ValidCluster, observed: &Observed, plan: &mut Plan) {
    let KafkaFacts::Answered { cluster: described, topics, .. } = &observed.kafka else { return };
    let nodes: BTreeSet<i32> = cluster.groups.iter().flat_map(NodeGroup::node_ids).collect();
    let held = restart::holders(topics);
    for broker in described.brokers.iter().filter(|broker| broker.fenced) {
        let gone = !nodes.contains(&broker.id) && !observed.pods.iter().any(|pod| pod.node_id == broker.id) && !held.contains(&broker.id);
        if gone && cluster.blocks.values().any(|first| (*first..*first + crate::kafka::node_ids::BLOCK).contains(&broker.id)) {
            plan.steps.push(Step::Unregister(broker.id));
        }
    }
}
