//! Plans moves of replicas between brokers: off brokers that leave, onto new brokers, and where
//! brokers hold unequal shares. Pure.
//!
//! A move that is in progress counts as done. So an operator that continues after another one died
//! plans only the moves that are left.

pub mod leaving;
pub mod log_dirs;
pub mod proposal;
pub mod throttle;

use crate::api::kafka_cluster::{
    KafkaCluster, RebalanceMode, RebalanceStatus, Role, ThrottleStatus,
};
use crate::kinds::kafka_cluster::disruption::{
    Facts, Grant, Lease, Mode, Needs, Priority, Progress, Report, WaitingOn, Wish, Work,
};
use crate::kinds::kafka_cluster::model::cluster::{NodeGroup, ValidCluster};
pub use crate::kinds::kafka_cluster::moving::proposal::preview;
use crate::kinds::kafka_cluster::moving::proposal::{
    Exchanged, Proposal, brokers, is_excluded, propose,
};
use crate::kinds::kafka_cluster::observed::{KafkaFacts, Observed};
use crate::kinds::kafka_cluster::rolling::leaders;
use crate::kinds::kafka_cluster::step::Step;
use crate::kubernetes::labels;
use freehold_kafka::rebalance::Duty;
use freehold_kafka::safety::{self, TopicView};
use freehold_kafka::topic_plan::THROTTLE_RATES;
use freehold_kafka_client::{ConfigResource, Election, Reassignment};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::SignedDuration;
use std::collections::{BTreeMap, BTreeSet};

/// The number of replicas that a broker receives at the same time, at most.
const INCOMING_MAX: usize = 30;
/// The bytes that a broker receives at the same time, at most.
const INCOMING_BYTES_MAX: u64 = 5 * 1024 * 1024 * 1024;
/// The number of partitions in one request, at most.
const PARTITIONS_MAX: usize = 1000;

/// The replicas and bytes that each broker receives.
#[derive(Default)]
struct Incoming(BTreeMap<i32, Exchanged>);

impl Incoming {
    fn add(&mut self, brokers: &[i32], bytes: u64) {
        for broker in brokers {
            self.0.entry(*broker).or_default().add(bytes);
        }
    }

    /// True if the brokers may receive a replica of this size too. A replica that is larger than
    /// the limit is received alone.
    fn has_room(&self, brokers: &[i32], bytes: u64) -> bool {
        let of = |broker| self.0.get(broker).copied().unwrap_or_default();
        brokers.iter().map(of).all(|one| {
            one.replicas == 0
                || (one.replicas < INCOMING_MAX && one.bytes + bytes <= INCOMING_BYTES_MAX)
        })
    }
}

/// Reports the wish for moves, and the steps around moves that disrupt nothing.
pub fn report(facts: &Facts<'_>) -> Report {
    let mut report = Report::default();
    let KafkaFacts::Answered { topics, .. } = &facts.observed.kafka else {
        return report;
    };
    report
        .upkeep
        .extend(unregister(facts.cluster, facts.observed));
    report.waiting.extend(stranded(facts.cluster, topics));
    let moves = matches!(
        facts.lease,
        Some(Lease {
            work: Work::Reassignment { .. },
            ..
        })
    );
    if !moves {
        report.upkeep.extend(throttle::release(topics));
    }
    match &facts.lease {
        None => {
            wish(facts, topics, &mut report);
            let held = leaving::held(facts, topics, &report);
            report.waiting.extend(held);
        }
        Some(held) if restarts_replaced(held, facts.cluster) => {
            wish(facts, topics, &mut report);
            ask(&mut report);
        }
        Some(_) => {}
    }
    report
}

/// True if a restart waits for a node that somebody asks to replace, perhaps because it never gets
/// in sync. The moves that empty it take over the lease.
fn restarts_replaced(held: &Lease, cluster: &ValidCluster) -> bool {
    let replaced = cluster.replace.filter(|id| held.nodes.contains(id));
    held.is_restart() && replaced.is_some()
}

/// Asks for what the moves need of a person also while another disruption is under way.
fn ask(report: &mut Report) {
    for wish in std::mem::take(&mut report.wishes) {
        match wish.grant {
            Grant::Asks(waiting) => {
                report.waiting.extend(waiting);
                report.rebalance = wish.rebalance;
            }
            Grant::Lease(_) | Grant::Now(_) => report.wishes.push(wish),
        }
    }
}

/// Continues moves until none is left and none is in progress.
pub fn resume(held: &Lease, facts: &Facts<'_>) -> Progress {
    let Facts {
        object,
        cluster,
        observed,
        ..
    } = *facts;
    // No broker answers. Moves that have begun continue without the operator.
    let KafkaFacts::Answered { topics, .. } = &observed.kafka else {
        return Progress::goes_on(Report::default(), held.clone());
    };
    match (facts.mode, cluster.spec.rebalance.mode) {
        (Mode::Keep, _) => finish(held, observed, topics),
        (Mode::Change, RebalanceMode::Never) => take_back(held, topics, observed),
        (Mode::Change, _) => {
            let progress = go_on(
                held,
                throttle::plan(object, cluster, observed),
                cluster,
                observed,
                topics,
            );
            let ended = progress.lease.is_none().then_some(Time(observed.now));
            Progress {
                report: Report {
                    rebalanced: ended,
                    ..progress.report
                },
                lease: progress.lease,
            }
        }
    }
}

/// Adds the wish for moves if replicas are not where they should be.
fn wish(facts: &Facts<'_>, topics: &[TopicView], report: &mut Report) {
    let Facts {
        cluster, observed, ..
    } = *facts;
    let is_moving = |topic: &TopicView| {
        topic
            .partitions
            .iter()
            .any(|one| one.leader >= 0 && one.is_moving())
    };
    // Moves of somebody else end first. While objects are still applied nothing may begin, and the
    // placement of a large cluster takes time to compute.
    if !facts.pending.is_empty() || topics.iter().any(is_moving) {
        return;
    }
    let Some(proposal) = propose(cluster, brokers(cluster, observed), topics) else {
        return;
    };
    let cannot_empty = cluster.replace.and_then(|id| proposal.cannot_empty(id));
    report.warnings.extend(cannot_empty);
    let Some((why, changed)) = proposal.why() else {
        return;
    };
    let nodes = drained(cluster, &proposal, topics);
    let (hash, why) = (proposal.hash(), format!("{why}: {}", proposal.summary()));
    let rebalance = Some(RebalanceStatus {
        proposal: Some(hash.clone()),
        summary: why.clone(),
        progress: None,
        throttle: None,
    });
    let priority = if nodes.is_empty() {
        Priority::Balance
    } else {
        Priority::Remove
    };
    let needs = Needs {
        applied: true,
        calm: true,
        window: true,
        ..Needs::default()
    };
    report.wishes.push(Wish {
        priority,
        nodes,
        needs,
        grant: grant(facts, &proposal, hash, why, changed),
        rebalance,
    });
}

/// The brokers that the moves drain. They may be down. Moves that only balance are about no
/// particular node and wait for every node.
fn drained(cluster: &ValidCluster, proposal: &Proposal<'_>, topics: &[TopicView]) -> BTreeSet<i32> {
    if !proposal.empties_any() {
        return BTreeSet::new();
    }
    let holders = safety::holders(topics);
    cluster
        .groups
        .iter()
        .flat_map(NodeGroup::leaving_ids)
        .chain(cluster.replace)
        .filter(|id| holders.contains(id))
        .collect()
}

/// What the moves need: the lease, or first a person or time. `changed`: brokers have come or gone
/// since the last moves.
fn grant(
    facts: &Facts<'_>,
    proposal: &Proposal<'_>,
    hash: String,
    why: String,
    changed: bool,
) -> Grant {
    let Facts {
        object,
        cluster,
        observed,
        ..
    } = *facts;
    let approved = object
        .metadata
        .annotations
        .as_ref()
        .and_then(|all| all.get(labels::APPROVE_REBALANCE));
    match cluster.spec.rebalance.mode {
        RebalanceMode::Never => Grant::Asks(leaving::never(cluster, proposal.topics)),
        RebalanceMode::Propose if approved != Some(&hash) => {
            // Brokers that leave cannot leave without these moves, so the cluster waits for the
            // approval. Unequal shares alone keep no cluster from being Ready.
            let waits = proposal
                .brokers
                .iter()
                .any(|broker| broker.duty == Duty::Leaving);
            Grant::Asks(
                waits
                    .then_some(WaitingOn::Approval { hash })
                    .into_iter()
                    .collect(),
            )
        }
        RebalanceMode::Auto if !changed && !cooled_down(object, cluster, observed) => {
            Grant::Asks(Vec::new())
        }
        RebalanceMode::Propose | RebalanceMode::Auto => Grant::Lease(Lease {
            nodes: proposal
                .brokers
                .iter()
                .filter(|broker| broker.duty != Duty::Cordoned)
                .map(|broker| broker.id)
                .collect(),
            why,
            since: Time(observed.now),
            work: Work::Reassignment {
                total: Some(u32::try_from(proposal.plan.moves).unwrap_or(u32::MAX)),
                handed_over: Vec::new(),
            },
        }),
    }
}

/// True if the cooldown after the last moves is over. Without it, replicas would move again and
/// again while topics are created and deleted.
fn cooled_down(object: &KafkaCluster, cluster: &ValidCluster, observed: &Observed) -> bool {
    let ended = object
        .status
        .as_ref()
        .and_then(|status| status.rebalanced.as_ref());
    let cooldown = SignedDuration::from_mins(cluster.spec.rebalance.cooldown_minutes.into());
    ended.is_none_or(|ended| observed.now >= ended.0 + cooldown)
}

/// Moves the next batch of replicas.
fn go_on(
    lease: &Lease,
    rate: ThrottleStatus,
    cluster: &ValidCluster,
    observed: &Observed,
    topics: &[TopicView],
) -> Progress {
    let mut report = Report::default();
    let Some(proposal) = propose(cluster, brokers(cluster, observed), topics) else {
        return Progress::ended(report);
    };
    let (mut incoming, mut under_way) = (Incoming::default(), 0);
    for topic in topics {
        // A partition without a leader cannot be copied.
        for partition in topic
            .partitions
            .iter()
            .filter(|partition| partition.leader >= 0)
        {
            under_way += partition.adding.len();
            incoming.add(&partition.adding, topic.partition_bytes);
        }
    }
    let left = proposal.plan.moves + under_way;
    let rates = (left > 0)
        .then(|| throttle::rates(&THROTTLE_RATES, rate.bytes_per_second, observed))
        .filter(|rates| !rates.is_empty());
    report
        .upkeep
        .extend(rates.map(|rates| Step::AlterConfigs(vec![(ConfigResource::Brokers, rates)])));
    report.rebalance = Some(progress(lease, left, Some(rate), observed));
    let (reordered, moved): (Vec<usize>, Vec<usize>) = proposal
        .plan
        .changed(&proposal.before)
        .partition(|partition| proposal.incoming(*partition).is_empty());
    let next = next_batch(&proposal, &reordered, &moved, incoming);
    // While a broker that should receive replicas is away, no more moves begin: the placement
    // without it is a different one.
    let away = proposal
        .brokers
        .iter()
        .any(|broker| broker.duty == Duty::Cordoned);
    if !next.is_empty() && !away {
        report
            .upkeep
            .extend(throttle::throttle_topics(&next, topics));
        report.upkeep.push(Step::Reassign(next));
    }
    if away && under_way == 0 {
        return Progress::ended(report);
    }
    if left > 0 || !reordered.is_empty() {
        report.waiting.push(WaitingOn::Moves { replicas: left });
        return Progress::goes_on(report, lease.clone());
    }
    // The first replicas become the leaders. The placement has chosen them, except in the topics
    // that it leaves as they are.
    let mut elections = leaders::give_back(lease, topics);
    elections.retain(|one| is_excluded(&one.topic, cluster));
    elections.extend(leaders::preferred(topics, |_| true));
    led(lease, elections, topics, report)
}

/// Ends the moves after these elections.
fn led(
    lease: &Lease,
    elections: Vec<Election>,
    topics: &[TopicView],
    mut report: Report,
) -> Progress {
    if leaders::elect(elections, topics, &mut report) {
        report.soon = true;
        return Progress::ended(report);
    }
    Progress::goes_on(report, lease.clone())
}

/// The next reassignments: all changes that only reorder replicas, and as many moves as the brokers
/// that receive them have room for.
fn next_batch(
    proposal: &Proposal<'_>,
    reordered: &[usize],
    moved: &[usize],
    mut incoming: Incoming,
) -> Vec<Reassignment> {
    let mut next: Vec<Reassignment> = reordered
        .iter()
        .take(PARTITIONS_MAX)
        .map(|partition| proposal.reassignment(*partition))
        .collect();
    for partition in moved {
        if next.len() >= PARTITIONS_MAX {
            break;
        }
        let (to, bytes) = (
            proposal.incoming(*partition),
            proposal.before.bytes[*partition],
        );
        if incoming.has_room(&to, bytes) {
            incoming.add(&to, bytes);
            next.push(proposal.reassignment(*partition));
        }
    }
    next
}

/// The progress of moves, for people. `left`: the number of replicas that still have to move.
pub fn progress(
    lease: &Lease,
    left: usize,
    throttle: Option<ThrottleStatus>,
    observed: &Observed,
) -> RebalanceStatus {
    let total = match lease.work {
        Work::Reassignment { total, .. } | Work::Volumes { total } => total,
        Work::Restart { .. } | Work::Replacement { .. } | Work::Quorum => None,
    };
    let total = total
        .and_then(|total| usize::try_from(total).ok())
        .unwrap_or(left)
        .max(left)
        .max(1);
    let done = total - left;
    let elapsed = observed.now.duration_since(lease.since.0).as_secs().max(1);
    let eta = (done > 0 && left > 0).then(|| {
        elapsed * i64::try_from(left).unwrap_or(i64::MAX) / i64::try_from(done).unwrap_or(i64::MAX)
    });
    // In minutes, so that the status is not written in each reconcile.
    let eta = eta.map(|seconds| {
        if seconds < 60 {
            ", less than a minute left".to_owned()
        } else {
            format!(", about {} min left", seconds / 60)
        }
    });
    let progress = format!(
        "{done}/{total} replicas ({} %){}",
        done * 100 / total,
        eta.unwrap_or_default()
    );
    RebalanceStatus {
        proposal: None,
        summary: lease.why.clone(),
        progress: Some(progress),
        throttle,
    }
}

/// Waits for the moves in progress and begins no more.
fn finish(lease: &Lease, observed: &Observed, topics: &[TopicView]) -> Progress {
    let moving = topics
        .iter()
        .flat_map(|topic| &topic.partitions)
        .filter(|partition| partition.is_moving());
    let replicas: usize = moving.map(|partition| partition.adding.len().max(1)).sum();
    let mut report = Report {
        upkeep: throttle::release(topics).into_iter().collect(),
        ..Report::default()
    };
    if replicas == 0 {
        return led(lease, leaders::give_back(lease, topics), topics, report);
    }
    report.rebalance = Some(progress(lease, replicas, None, observed));
    report.waiting.push(WaitingOn::Moves { replicas });
    Progress::goes_on(report, lease.clone())
}

/// Cancels the moves in progress, because spec.rebalance.mode is Never.
fn take_back(lease: &Lease, topics: &[TopicView], observed: &Observed) -> Progress {
    let moving = topics.iter().flat_map(|topic| {
        topic
            .partitions
            .iter()
            .enumerate()
            .map(move |(index, partition)| (topic, index, partition))
    });
    let back: Vec<Reassignment> = moving
        .filter(|(.., partition)| partition.is_moving())
        .map(|(topic, index, _)| Reassignment {
            topic: topic.name.to_string(),
            partition: i32::try_from(index).unwrap_or(i32::MAX),
            replicas: None,
        })
        .collect();
    let mut report = Report::default();
    if back.is_empty() {
        return led(lease, leaders::give_back(lease, topics), topics, report);
    }
    report.rebalance = Some(progress(lease, back.len(), None, observed));
    report.waiting.push(WaitingOn::Moves {
        replicas: back.len(),
    });
    report.upkeep.push(Step::Reassign(back));
    Progress::goes_on(report, lease.clone())
}

/// Topics with more replicas than there are brokers that stay. Their replicas keep brokers from
/// leaving, which the status says together with the way out.
fn stranded(cluster: &ValidCluster, topics: &[TopicView]) -> Option<WaitingOn> {
    let leaving: BTreeSet<i32> = cluster
        .groups_of(Role::Broker)
        .flat_map(NodeGroup::leaving_ids)
        .collect();
    let stay = usize::try_from(cluster.count(Role::Broker)).unwrap_or(0);
    let replicas = |topic: &TopicView| {
        let targets = topic.partitions.iter().map(|partition| partition.target());
        targets
            .filter(|target| target.len() > stay && target.iter().any(|id| leaving.contains(id)))
            .map(|target| target.len())
            .max()
    };
    let found: Vec<_> = topics
        .iter()
        .filter_map(|topic| Some((topic.name.to_string(), replicas(topic)?)))
        .collect();
    (!found.is_empty()).then_some(WaitingOn::Replicas {
        topics: found,
        brokers: stay,
    })
}

/// Unregisters brokers that are not in the spec, have no pod and hold no replica.
fn unregister(cluster: &ValidCluster, observed: &Observed) -> Vec<Step> {
    let mut steps = Vec::new();
    let KafkaFacts::Answered {
        cluster: described,
        topics,
        ..
    } = &observed.kafka
    else {
        return steps;
    };
    let nodes: BTreeSet<i32> = cluster
        .groups
        .iter()
        .flat_map(NodeGroup::node_ids)
        .collect();
    let held = safety::holders(topics);
    for broker in described.brokers.iter().filter(|broker| broker.fenced) {
        let gone = !nodes.contains(&broker.id)
            && !observed.pods.iter().any(|pod| pod.node_id == broker.id)
            && !held.contains(&broker.id);
        if gone
            && cluster.blocks.values().any(|first| {
                (*first..*first + freehold_kafka::node_ids::BLOCK).contains(&broker.id)
            })
        {
            steps.push(Step::Unregister(broker.id));
        }
    }
    steps
}
