//! Decides which nodes get a new volume, and when. Pure.
//!
//! A node that runs is drained first ([`crate::kinds::kafka_cluster::moving`]). A lost node is not:
//! other nodes hold its replicas, and Kafka fills its new volume from them. Both need the lease,
//! from before anything is deleted until the node is in sync again. The replacement of a lost node
//! takes the lease over from a disruption that waits for that node: its own restart, or moves.

pub mod lost_since;
pub mod request;
pub mod warnings;

use crate::api::kafka_cluster::{
    DisruptionKind, DisruptionStatus, KafkaCluster, KafkaClusterSpec, LostNodeStatus,
};
use crate::kinds::kafka_cluster::disruption::{
    Facts, Lease, Mode, Needs, Priority, Progress, Report, Wish, Work,
};
use crate::kinds::kafka_cluster::model::cluster::NodeGroup;
use crate::kinds::kafka_cluster::model::cluster::ValidCluster;
use crate::kinds::kafka_cluster::model::volume_names::claim_name;
use crate::kinds::kafka_cluster::observed::{Claim, KafkaFacts, Observed, PodFacts, Stuck};
use crate::kinds::kafka_cluster::readiness::InSync;
use crate::kinds::kafka_cluster::replacing::request::asked;
use crate::kinds::kafka_cluster::resources::pod_template;
use crate::kinds::kafka_cluster::rolling::leaders;
use crate::kinds::kafka_cluster::step::{RestartReason, Step};
use crate::kubernetes::names;
use crate::words;
use freehold_kafka::in_sync;
use freehold_kafka::safety::{self, Irreplaceable, Permit};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::SignedDuration;
use std::collections::{BTreeMap, BTreeSet};

/// True if the broker serves, but is not in sync for all its replicas yet.
pub fn is_being_filled(id: i32, observed: &Observed) -> bool {
    let KafkaFacts::Answered {
        cluster, topics, ..
    } = &observed.kafka
    else {
        return false;
    };
    let serves = cluster
        .brokers
        .iter()
        .any(|broker| broker.id == id && !broker.fenced);
    serves && !in_sync::brokers(cluster, topics).contains(&id)
}

fn serves(id: i32, kafka: &KafkaFacts) -> bool {
    kafka.answer().is_some_and(|answer| answer.serves(id))
}

fn pod<'a>(group: &NodeGroup, id: i32, observed: &'a Observed) -> Option<&'a PodFacts> {
    let name = names::pod(&group.stateful_set, id);
    observed.pods.iter().find(|pod| pod.name == name)
}

fn is_up(group: &NodeGroup, id: i32, observed: &Observed) -> bool {
    pod(group, id, observed).is_some_and(|pod| pod.containers_ready && !pod.deleting)
}

/// The existing claims of a node.
fn claims<'a>(group: &NodeGroup, id: i32, observed: &'a Observed) -> Vec<&'a Claim> {
    let pod = names::pod(&group.stateful_set, id);
    let names: BTreeSet<String> = group
        .volumes
        .iter()
        .map(|volume| claim_name(&volume.name, &pod))
        .collect();
    observed
        .volumes
        .iter()
        .filter(|claim| names.contains(claim.name()))
        .collect()
}

/// True if Kubernetes reports that the node's pod runs nowhere and that no machine can attach its
/// volume, or that the volume is gone. A pod that is only being deleted may still run on a machine
/// that does not answer.
fn is_out_of_reach(
    spec: &KafkaClusterSpec,
    group: &NodeGroup,
    id: i32,
    observed: &Observed,
) -> bool {
    let pod = pod(group, id, observed);
    if pod.is_some_and(|pod| pod.deleting || pod.containers_ready) {
        return false;
    }
    // If the spec restricts the machines, that restriction may be what keeps the pod from the
    // machine with its volume.
    let template = pod_template::merged(spec, &group.pool);
    let chooses = !template.node_selector.is_empty()
        || template
            .affinity
            .is_some_and(|affinity| affinity.node_affinity.is_some());
    (!chooses && pod.is_some_and(|pod| pod.stuck == Some(Stuck::OutOfReach)))
        || claims(group, id, observed)
            .into_iter()
            .any(|claim| claim.is_volume_gone)
}

/// True if the node is down and will not come back by itself. Such a node does not have to be
/// drained, and cannot be.
fn is_lost(group: &NodeGroup, id: i32, observed: &Observed) -> bool {
    if !matches!(observed.kafka, KafkaFacts::Answered { .. }) || serves(id, &observed.kafka) {
        return false;
    }
    let (pod, claims) = (pod(group, id, observed), claims(group, id, observed));
    let is_gone = claims.iter().any(|claim| claim.is_volume_gone);
    let lacks_volume =
        claims.len() < group.volumes.len() || claims.iter().any(|claim| claim.is_deleting());
    match pod {
        Some(pod) if pod.deleting || pod.containers_ready => false,
        // While a pod is on a machine, Kubernetes keeps a volume whose claim is being deleted, and
        // its broker may come back with it.
        Some(pod) => {
            pod.stuck.is_some()
                || pod.waits_too_long(observed.now)
                || is_gone
                || (lacks_volume && pod.host.is_none())
        }
        None => is_gone || lacks_volume,
    }
}

/// The nodes that get a new volume without being drained: those in `asked` (from the annotation),
/// those lost for as long as the spec allows, and those whose replacement has begun.
pub fn lost(
    object: &KafkaCluster,
    asked: Option<i32>,
    groups: &[NodeGroup],
    observed: &Observed,
) -> BTreeSet<i32> {
    let status = object.status.as_ref();
    let lease = status
        .and_then(|status| status.disruption.as_ref())
        .filter(|lease| lease.kind == DisruptionKind::Replacement);
    let limit = object
        .spec
        .rollout
        .replace_lost_nodes_after_minutes
        .map(|minutes| SignedDuration::from_mins(minutes.into()));
    let since = |id: i32| {
        status?
            .lost_nodes
            .iter()
            .find(|one| one.node_id == id)
            .map(|one| one.since.0)
    };
    // Only the time under observation counts: after the operator was away or could not observe, it
    // starts again.
    let is_overdue = |id: i32| {
        let since = since(id)
            .zip(observed.lost_since.get(&id))
            .map(|(reported, seen)| reported.max(*seen));
        limit
            .zip(since)
            .is_some_and(|(limit, since)| observed.now >= since + limit)
    };
    let goes = |group: &NodeGroup, id: i32| {
        // Its new volume runs, and somebody asks once more: that one is bad too.
        let is_asked_again = |lease: &DisruptionStatus| {
            asked == Some(id) && lease.removes.is_empty() && is_up(group, id, observed)
        };
        let is_under_way = lease
            .is_some_and(|lease| lease.node_ids.contains(&id) && !is_asked_again(lease))
            && !observed.emptied.contains(&id);
        let is_wanted = asked == Some(id)
            || (is_overdue(id) && is_out_of_reach(&object.spec, group, id, observed));
        is_under_way || (is_wanted && is_lost(group, id, observed))
    };
    groups
        .iter()
        .flat_map(|group| group.staying_ids().filter(move |id| goes(group, *id)))
        .collect()
}

/// The nodes whose volume no machine can attach, with the time since which this is so.
pub fn lost_nodes(
    object: &KafkaCluster,
    cluster: &ValidCluster,
    observed: &Observed,
) -> Vec<LostNodeStatus> {
    let old = object
        .status
        .as_ref()
        .map(|status| status.lost_nodes.as_slice())
        .unwrap_or_default();
    let since = |id: i32| {
        old.iter()
            .find(|one| one.node_id == id)
            .map_or(Time(observed.now), |one| one.since.clone())
    };
    let of_group = |group: &'_ NodeGroup| {
        let ids = group
            .staying_ids()
            .filter(|id| is_out_of_reach(&cluster.spec, group, *id, observed));
        ids.map(|node_id| LostNodeStatus {
            node_id,
            since: since(node_id),
        })
        .collect::<Vec<_>>()
    };
    cluster.groups.iter().flat_map(of_group).collect()
}

/// The lost nodes that are not replaced yet.
fn waited_for(facts: &Facts<'_>) -> Vec<LostNodeStatus> {
    let mut all = lost_nodes(facts.object, facts.cluster, facts.observed);
    all.retain(|one| !facts.cluster.lost.contains(&one.node_id));
    all
}

/// The permit to delete the volumes of a lost node, or why there is none, in words.
fn permit(group: &NodeGroup, id: i32, observed: &Observed) -> Result<Permit, String> {
    let answer = observed.kafka.answer().ok_or("the brokers do not answer")?;
    // A volume that is gone has nothing left to lose. A volume whose claim is being deleted still
    // exists until its pod ends.
    let is_used = pod(group, id, observed).is_some_and(|pod| pod.host.is_some());
    let keeps = claims(group, id, observed)
        .into_iter()
        .any(|claim| !claim.is_volume_gone && (is_used || !claim.is_deleting()));
    safety::can_replace(id, keeps, answer).map_err(|why| match why {
        Irreplaceable::Serves => "it serves".to_owned(),
        Irreplaceable::OnlyCopy(partitions) => format!(
            "its volume may hold the only copy of {}; bring its volume back, or delete their Topics, or delete its claim yourself",
            warnings::names_of(&partitions)
        ),
        Irreplaceable::Quorum { caught_up, voters } => {
            format!("without it, only {caught_up} of {voters} controllers have caught up")
        }
    })
}

/// The lost nodes whose volumes may be deleted, and the reasons why the others must wait.
fn lost_members(facts: &Facts<'_>) -> (BTreeMap<i32, Permit>, Vec<String>) {
    let (mut members, mut waiting) = (BTreeMap::new(), Vec::new());
    for (group, id) in nodes(facts.cluster, &facts.cluster.lost) {
        match permit(group, id, facts.observed) {
            Ok(permit) => drop(members.insert(id, permit)),
            Err(why) => waiting.push(format!("node {id} is lost and cannot be replaced: {why}")),
        }
    }
    (members, waiting)
}

/// The node to replace, if it holds nothing any more.
fn emptied_member(facts: &Facts<'_>) -> Option<i32> {
    facts
        .cluster
        .replace
        .filter(|id| facts.observed.emptied.contains(id))
}

/// Reports the wish for new volumes of lost and drained nodes, and warns about nodes that must
/// wait.
pub fn report(facts: &Facts<'_>) -> Report {
    let mut report = Report {
        warnings: warnings::of_lost_partitions(facts.observed)
            .into_iter()
            .chain(warnings::of_lost_nodes(&waited_for(facts), facts))
            .collect(),
        ..Report::default()
    };
    let (lost, waiting) = lost_members(facts);
    let mut members: BTreeSet<i32> = lost.into_keys().collect();
    match &facts.lease {
        // A running replacement is reported by its own lease.
        Some(held) if held.is_replacement() => return report,
        Some(_) => report.warnings.extend(waiting),
        None => {
            report.warnings.extend(waiting);
            let emptied: BTreeSet<i32> = emptied_member(facts).into_iter().collect();
            members.extend(nodes(facts.cluster, &emptied).map(|(_, id)| id));
        }
    }
    report.wishes.extend(wish(&members, facts));
    report
}

/// Those of these nodes that stay, with their groups.
fn nodes<'a>(
    cluster: &'a ValidCluster,
    ids: &'a BTreeSet<i32>,
) -> impl Iterator<Item = (&'a NodeGroup, i32)> {
    cluster.groups.iter().flat_map(move |group| {
        group
            .staying_ids()
            .filter(|id| ids.contains(id))
            .map(move |id| (group, id))
    })
}

/// The uids of what is deleted: a node's pod and its claims. If only some of several volumes are
/// gone, the others are kept with their data.
fn uids(group: &NodeGroup, id: i32, observed: &Observed) -> Vec<String> {
    let claims = claims(group, id, observed);
    let gone: Vec<&Claim> = claims
        .iter()
        .copied()
        .filter(|claim| claim.is_volume_gone)
        .collect();
    let all = if gone.is_empty() { claims } else { gone };
    all.into_iter()
        .map(|claim| claim.uid().to_owned())
        .chain(pod(group, id, observed).map(|pod| pod.uid.clone()))
        .collect()
}

fn wish(members: &BTreeSet<i32>, facts: &Facts<'_>) -> Option<Wish> {
    let Facts {
        cluster, observed, ..
    } = *facts;
    if members.is_empty()
        || !nodes(cluster, members).all(|(group, _)| facts.pending.is_empty_for(group))
    {
        return None;
    }
    let removes = nodes(cluster, members)
        .flat_map(|(group, id)| uids(group, id, observed))
        .collect();
    let is_lost = members.iter().any(|id| cluster.lost.contains(id));
    let why = if is_lost {
        "are lost"
    } else {
        "hold nothing any more"
    };
    let why = format!(
        "nodes {} {why} and are given new volumes",
        words::ids(members)
    );
    let work = Work::Replacement {
        handed_over: Vec::new(),
        removes,
    };
    let lease = Lease {
        nodes: members.clone(),
        why,
        since: Time(observed.now),
        work,
    };
    Some(Wish::of(Priority::Replace, lease, Needs::default()))
}

/// Continues a replacement: first the old pods and claims are deleted, then the new nodes are
/// waited for.
pub fn resume(held: &Lease, facts: &Facts<'_>) -> Progress {
    let (object, cluster, observed) = (facts.object, facts.cluster, facts.observed);
    let Work::Replacement {
        handed_over,
        removes,
    } = &held.work
    else {
        return Progress::default();
    };
    let mut report = Report::default();
    // While nothing may be changed, what is not deleted yet stays.
    let lost = match facts.mode {
        Mode::Change => lost_members(facts).0,
        Mode::Keep => BTreeMap::new(),
    };
    let new: BTreeSet<i32> = lost
        .keys()
        .copied()
        .filter(|id| !held.nodes.contains(id))
        .collect();
    let mut removes = removes.clone();
    removes.extend(nodes(cluster, &new).flat_map(|(group, id)| uids(group, id, observed)));
    removes.retain(|uid| exists(uid, observed));
    // New nodes are written to the status before anything of them is deleted.
    let (mut left, mut came_back) = (new, BTreeSet::new());
    for (group, id) in nodes(cluster, &held.nodes) {
        if is_asked_again(held, group, id, facts) {
            continue;
        }
        let goes = |uid: &str| removes.iter().any(|one| one == uid);
        let claims: Vec<&Claim> = claims(group, id, observed)
            .into_iter()
            .filter(|claim| goes(claim.uid()))
            .collect();
        let pod = pod(group, id, observed).filter(|pod| goes(&pod.uid));
        match member(group, id, &claims, pod, lost.get(&id), facts) {
            Member::Waits => drop(left.insert(id)),
            Member::Goes(permit) => {
                left.insert(id);
                report.upkeep.extend(deletions(&claims, pod, &permit));
            }
            Member::CameBack => {
                came_back.extend(claims.iter().map(|claim| claim.uid().to_owned()));
                came_back.extend(pod.map(|pod| pod.uid.clone()));
            }
        }
    }
    removes.retain(|uid| !came_back.contains(uid));
    if left.is_empty() {
        return Progress::ended(report);
    }
    let is_gone = removes.is_empty();
    let work = Work::Replacement {
        handed_over: handed_over.clone(),
        removes,
    };
    let lease = Lease {
        nodes: left,
        work,
        ..held.clone()
    };
    if !is_gone {
        return Progress::goes_on(report, lease);
    }
    report.replaced = followed(object, &lease);
    wait_for(lease, facts, report)
}

/// True if somebody asks once more to replace a node of this lease: it has its new volume, runs, and
/// is waited for. It leaves the lease, and is emptied like any other node that runs.
fn is_asked_again(held: &Lease, group: &NodeGroup, id: i32, facts: &Facts<'_>) -> bool {
    let is_done = matches!(&held.work, Work::Replacement { removes, .. } if removes.is_empty());
    is_done && facts.cluster.replace == Some(id) && is_up(group, id, facts.observed)
}

/// True if a pod or a claim has this uid.
fn exists(uid: &str, observed: &Observed) -> bool {
    observed.pods.iter().any(|pod| pod.uid == uid)
        || observed.volumes.iter().any(|claim| claim.uid() == uid)
}

/// The request that a replacement follows as soon as it begins, because nothing is left to delete.
/// It is in the status together with the lease: no later reconcile may see the node before it runs
/// again, and a request that still stands would then ask to replace it once more.
pub fn followed_at_once(facts: &Facts<'_>, lease: Option<&Lease>) -> Option<String> {
    let lease = lease.filter(|_| !facts.lease.as_ref().is_some_and(Lease::is_replacement))?;
    let is_gone = matches!(&lease.work, Work::Replacement { removes, .. } if removes.is_empty());
    is_gone.then(|| followed(facts.object, lease)).flatten()
}

/// The value of the annotation that asks to replace a node, if the replacement does that.
fn followed(object: &KafkaCluster, lease: &Lease) -> Option<String> {
    asked(object).filter(|id| lease.nodes.contains(id))?;
    request::value(object).map(str::to_owned)
}

/// What happens to a node of the lease.
enum Member {
    /// Its pod and its claims are deleted.
    Goes(Permit),
    Waits,
    /// It came back by itself, with its old volumes.
    CameBack,
}

fn member(
    group: &NodeGroup,
    id: i32,
    claims: &[&Claim],
    pod: Option<&PodFacts>,
    lost: Option<&Permit>,
    facts: &Facts<'_>,
) -> Member {
    let observed = facts.observed;
    let ends = pod.is_some_and(|pod| pod.deleting);
    let is_begun = ends || claims.iter().any(|claim| claim.is_deleting());
    if claims.is_empty() && pod.is_none() {
        return Member::Waits;
    }
    let emptied = emptied_member(facts).filter(|emptied| *emptied == id);
    let permit = match (emptied.zip(observed.kafka.answer()), lost) {
        (Some((_, answer)), _) => safety::can_discard(id, answer),
        (None, Some(permit)) if is_begun || is_lost(group, id, observed) => Some(permit.clone()),
        (None, _) => None,
    };
    match permit {
        Some(permit) => Member::Goes(permit),
        None if ends || !serves(id, &observed.kafka) => Member::Waits,
        None => Member::CameBack,
    }
}

fn deletions(claims: &[&Claim], pod: Option<&PodFacts>, permit: &Permit) -> Vec<Step> {
    let claims = claims.iter().filter(|claim| !claim.is_deleting());
    let volumes = claims.map(|claim| Step::DeleteVolume {
        claim: Box::new(claim.live.clone()),
        permit: permit.clone(),
    });
    let pod = pod.filter(|pod| !pod.deleting);
    let reasons = vec![RestartReason::Replaced];
    let restart = pod.map(|pod| Step::RestartPod {
        pod: Box::new(pod.clone()),
        reasons,
        permit: permit.clone(),
    });
    volumes.chain(restart).collect()
}

/// Waits until the nodes are in sync and lead the same partitions as before.
fn wait_for(lease: Lease, facts: &Facts<'_>, mut report: Report) -> Progress {
    let Facts {
        cluster, observed, ..
    } = *facts;
    let in_sync = InSync::of(&observed.kafka);
    let pods: Vec<&PodFacts> = nodes(cluster, &lease.nodes)
        .filter_map(|(group, id)| pod(group, id, observed))
        .collect();
    // The pod starts as soon as there is a machine, a volume and an image for it. Until then the lease
    // ends, and only what needs this node in sync waits.
    let cannot_start = |pod: &&&PodFacts| pod.stuck.is_some() || pod.waits_too_long(observed.now);
    if pods.iter().filter(cannot_start).any(|pod| !pod.deleting) {
        return Progress::ended(report);
    }
    let KafkaFacts::Answered { topics, .. } = &observed.kafka else {
        return Progress::goes_on(report, lease);
    };
    if pods.len() < lease.nodes.len()
        || !pods
            .iter()
            .all(|pod| !pod.deleting && in_sync.says(pod) == Some(true))
    {
        return Progress::goes_on(report, lease);
    }
    let mut elections = leaders::give_back(&lease, topics);
    elections.extend(leaders::preferred(topics, |id| lease.nodes.contains(&id)));
    if leaders::elect(elections, topics, &mut report) {
        report.soon = true;
        return Progress::ended(report);
    }
    Progress::goes_on(report, lease)
}
