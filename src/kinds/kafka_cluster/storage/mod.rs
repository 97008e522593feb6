//! Plans changes of volumes: they grow and change their class while in use, and never shrink. A size
//! that was not reached can be taken back. Pure.
//!
//! Nothing here disrupts a node, and nothing else waits for it: if a volume cannot grow, its data
//! must still be able to move to a larger one.

use crate::api::kafka_cluster::{AutoGrow, DataVolume, NodePool, Role, WhenScaled};
use crate::kinds::kafka_cluster::disruption::{Facts, Needs, Priority, Report, WaitingOn, Wish};
use crate::kinds::kafka_cluster::model::cluster::{NodeGroup, ValidCluster};
use crate::kinds::kafka_cluster::model::volume_names::{
    claim_name, claimed_volume, log_folder, volume_name,
};
use crate::kinds::kafka_cluster::observed::claims::ClaimCondition;
use crate::kinds::kafka_cluster::observed::{
    Claim, ClaimTemplate, KafkaFacts, Observed, PodFacts, StatefulSetFacts,
};
use crate::kinds::kafka_cluster::step::Step;
use crate::kubernetes::Object;
use crate::kubernetes::{labels, names, quantity};
use freehold_kafka::config::CORDONED;
use freehold_kafka::safety;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// The usage in percent from which a warning is reported.
const FULL_PERCENT: i64 = 85;
const MIB: u64 = 1024 * 1024;
/// A broker's report is for the present size if its total is at least this percent of the capacity.
/// The overhead of a file system is smaller than the rest, and a step of growth is larger.
const SEEN_PERCENT: u64 = 82;
/// A file system that has not grown by then needs a new mount of its volume.
const ONLINE_LIMIT: SignedDuration = SignedDuration::from_mins(5);

/// True if the claim templates differ. They are immutable, so the StatefulSet is replaced without
/// its pods. This is done only once for a desired state: if the API server dropped a field of it,
/// it would drop it again.
pub fn needs_new_template(desired: &Object, set: &StatefulSetFacts) -> bool {
    if set.live.annotation(labels::APPLIED_HASH) == Some(desired.hash()) {
        return false;
    }
    let by_name = |templates: Vec<ClaimTemplate>| {
        let of = |ClaimTemplate { name, requested }: ClaimTemplate| {
            (
                name,
                (requested.bytes(), requested.volume_attributes_class_name),
            )
        };
        templates.into_iter().map(of).collect::<BTreeMap<_, _>>()
    };
    by_name(ClaimTemplate::of_desired(desired)) != by_name(set.claim_templates.clone())
}

/// The claims that are being deleted while their pod runs; Kubernetes keeps the volume until the
/// pod has ended.
pub fn deleted_in_use<'a>(
    pod: &'a PodFacts,
    observed: &'a Observed,
) -> impl Iterator<Item = &'a str> {
    let claims = observed
        .volumes
        .iter()
        .filter(|claim| claim.is_deleting() && claimed_volume(claim.name(), &pod.name).is_some());
    claims
        .map(Claim::name)
        .filter(|_| !pod.deleting && pod.host.is_some())
}

/// Reports the changes that volumes need according to the spec and their usage, and the wish to
/// delete volumes that are not needed any more.
pub fn report(facts: &Facts<'_>) -> Report {
    let Facts {
        cluster, observed, ..
    } = *facts;
    let mut report = Report {
        wishes: discard(cluster, observed).into_iter().collect(),
        ..Report::default()
    };
    for (pod, claim) in observed
        .pods
        .iter()
        .flat_map(|pod| deleted_in_use(pod, observed).map(move |claim| (pod, claim)))
    {
        report.warnings.push(format!(
            "volume {claim} is being deleted while pod {} runs on it: it goes with its records when the pod ends; Freehold does not restart that pod \
             until it is replaced ({}={})",
            pod.name,
            labels::REPLACE,
            pod.node_id
        ));
    }
    for group in &cluster.groups {
        for (id, volume) in group
            .node_ids()
            .flat_map(|id| group.volumes.iter().map(move |volume| (id, volume)))
        {
            let name = claim_name(&volume.name, &names::pod(&group.stateful_set, id));
            let Some(claim) = observed
                .volumes
                .iter()
                .find(|claim| claim.name() == name && !claim.is_deleting())
            else {
                continue;
            };
            let disk = observed
                .disks
                .get(&id)
                .and_then(|disks| disks.get(&log_folder(&volume.name)));
            let used = disk
                .filter(|disk| group.is(Role::Broker) && is_recent(disk.total, claim))
                .map(|disk| disk.used_percent());
            report_claim(
                claim,
                volume,
                used,
                is_of_spec(group, volume, cluster),
                &mut report,
            );
            if used.is_some_and(|used| used >= FULL_PERCENT) {
                report.warnings.extend(full(claim, volume));
            }
        }
    }
    report
}

/// The wish to delete volumes of removed nodes, and additional volumes that were removed from a
/// pool, if the pool's policy allows it. A removed node was drained first, according to its own
/// report. A node that holds a replica, is a voter or is registered in Kafka keeps its volumes.
fn discard(cluster: &ValidCluster, observed: &Observed) -> Option<Wish> {
    let answer = observed.kafka.answer()?;
    let mut known: BTreeSet<i32> = answer
        .cluster
        .brokers
        .iter()
        .map(|broker| broker.id)
        .collect();
    known.extend(cluster.groups.iter().flat_map(NodeGroup::node_ids));
    known.extend(observed.pods.iter().map(|pod| pod.node_id));
    let step = |claim: &Claim| {
        let pool = cluster
            .spec
            .node_pools
            .iter()
            .find(|pool| claim.live.label(labels::POOL) == Some(&pool.name))?;
        if pool.storage.when_scaled != WhenScaled::Delete || claim.is_deleting() {
            return None;
        }
        let id: i32 = claim.name().rsplit_once('-')?.1.parse().ok()?;
        let permit = if known.contains(&id) {
            is_taken_away(claim.name(), id, pool, cluster, observed)
                .then(|| safety::can_discard_unmounted(id, answer))
                .flatten()
        } else {
            safety::can_discard(id, answer)
        };
        Some(Step::DeleteVolume {
            claim: Box::new(claim.live.clone()),
            permit: permit?,
        })
    };
    let upkeep: Vec<Step> = observed.volumes.iter().filter_map(step).collect();
    let needs = Needs {
        applied: true,
        ..Needs::default()
    };
    (!upkeep.is_empty()).then(|| {
        let deletions = Report {
            upkeep,
            ..Report::default()
        };
        Wish::now(Priority::Discard, deletions, needs)
    })
}

/// True if the claim is for an additional volume that its node has not mounted and does not need.
fn is_taken_away(
    claim: &str,
    node_id: i32,
    pool: &NodePool,
    cluster: &ValidCluster,
    observed: &Observed,
) -> bool {
    let group = cluster
        .groups
        .iter()
        .find(|group| group.node_ids().any(|id| id == node_id));
    let pod = observed
        .pods
        .iter()
        .find(|pod| pod.node_id == node_id && !pod.deleting);
    let Some((group, pod)) = group.zip(pod) else {
        return false;
    };
    let is_wanted = |name: &str| {
        pool.storage.has(name) || group.volumes.iter().any(|volume| volume.name == name)
    };
    claimed_volume(claim, &pod.name)
        .is_some_and(|name| !is_wanted(name) && !pod.volumes.contains(name))
}

/// The data volumes that a StatefulSet's claim templates describe.
fn of_templates(set: &StatefulSetFacts) -> impl Iterator<Item = DataVolume> {
    set.claim_templates
        .iter()
        .filter_map(|template| template.requested.volume(volume_name(&template.name)?))
}

/// The volumes of a pool that was removed from the spec: from its StatefulSet or, if that is gone,
/// from its claims.
pub fn left(
    stateful_set: &str,
    set: Option<&StatefulSetFacts>,
    observed: &Observed,
) -> Vec<DataVolume> {
    if let Some(set) = set {
        return of_templates(set).collect();
    }
    let mut found: Vec<DataVolume> = Vec::new();
    for claim in &observed.volumes {
        let Some((rest, id)) = claim.name().rsplit_once('-') else {
            continue;
        };
        let pod = format!("{stateful_set}-{id}");
        let is_ours = rest.ends_with(stateful_set) && id.parse::<i32>().is_ok();
        let volume = claimed_volume(claim.name(), &pod)
            .filter(|name| is_ours && !found.iter().any(|one| one.name == *name));
        found.extend(volume.and_then(|name| claim.requested.volume(name)));
    }
    found
}

/// The volumes of a group's StatefulSet that were removed from the spec; while the StatefulSet is
/// being replaced, those of its pods.
fn left_over(pool: &NodePool, stateful_set: &str, observed: &Observed) -> Vec<DataVolume> {
    let is_left = |name: &str| !pool.storage.has(name);
    let Some(set) = observed.objects.stateful_set(stateful_set) else {
        let mut found: Vec<DataVolume> = Vec::new();
        for pod in observed
            .pods
            .iter()
            .filter(|pod| pod.stateful_set == stateful_set)
        {
            for name in pod.volumes.iter().filter(|name| is_left(name)) {
                let claim = claim_name(name, &pod.name);
                let claim = observed
                    .volumes
                    .iter()
                    .find(|one| one.name() == claim)
                    .filter(|_| !found.iter().any(|one| one.name == *name));
                found.extend(claim.and_then(|claim| claim.requested.volume(name)));
            }
        }
        return found;
    };
    of_templates(set)
        .filter(|volume| is_left(&volume.name))
        .collect()
}

/// The volumes, by node id, on which no new replicas may be placed: those removed from the spec,
/// and new ones while some pod of the StatefulSet lacks them, because a pod may still have to come
/// back without them.
pub fn cordoned(
    pool: &NodePool,
    stateful_set: &str,
    pods: &[PodFacts],
) -> BTreeMap<i32, BTreeSet<String>> {
    let pods = || pods.iter().filter(|pod| pod.stateful_set == stateful_set);
    let stays = |name: &String| {
        name.is_empty() || (pool.storage.has(name) && pods().all(|pod| pod.volumes.contains(name)))
    };
    let of = |pod: &PodFacts| {
        let cordoned: BTreeSet<String> = pod
            .volumes
            .iter()
            .filter(|name| !stays(name))
            .cloned()
            .collect();
        (!cordoned.is_empty()).then_some((pod.node_id, cordoned))
    };
    pods().filter_map(of).collect()
}

/// True if every node has a pod, and each node with this volume has it cordoned and reports that it
/// is empty.
fn is_emptied(volume: &str, nodes: Range<i32>, stateful_set: &str, observed: &Observed) -> bool {
    let KafkaFacts::Answered { configs, .. } = &observed.kafka else {
        return false;
    };
    let path = log_folder(volume);
    nodes.into_iter().all(|id| {
        let Some(pod) = observed
            .pods
            .iter()
            .find(|pod| pod.stateful_set == stateful_set && pod.node_id == id)
        else {
            return false;
        };
        let folder = observed
            .folders
            .get(&id)
            .and_then(|folders| folders.0.get(&path));
        let cordoned = configs
            .get(&id.to_string())
            .and_then(|configs| configs.get(CORDONED));
        let is_cordoned = cordoned
            .is_some_and(|value| value == "*" || value.split(',').any(|cordoned| cordoned == path));
        !pod.volumes.contains(volume)
            || (is_cordoned && folder.is_some_and(|folder| folder.replicas.is_empty()))
    })
}

/// The volumes that the nodes of a group shall have for now, in order.
///
/// A volume that was removed from the spec stays until it is empty. A new volume is not added while
/// a node without a pod comes after one that lacks the volume: Kubernetes creates no pod of a
/// StatefulSet while an earlier pod lacks a volume of the template.
pub fn mounted(
    pool: &NodePool,
    stateful_set: &str,
    nodes: Range<i32>,
    observed: &Observed,
) -> Vec<DataVolume> {
    let pods = || {
        observed
            .pods
            .iter()
            .filter(|pod| pod.stateful_set == stateful_set && !pod.deleting)
    };
    let missing = nodes
        .clone()
        .find(|id| !pods().any(|pod| pod.node_id == *id));
    let may_come = |name: &str| {
        missing.is_none_or(|missing| {
            pods()
                .filter(|pod| pod.node_id < missing)
                .all(|pod| pod.volumes.contains(name))
        })
    };
    let mut all = pool.storage.all();
    all.retain(|volume| volume.name.is_empty() || may_come(&volume.name));
    let left = left_over(pool, stateful_set, observed);
    all.extend(
        left.into_iter()
            .filter(|volume| !is_emptied(&volume.name, nodes.clone(), stateful_set, observed)),
    );
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

/// The warning about a volume that is nearly full; `None` if it will grow by itself.
fn full(claim: &Claim, storage: &DataVolume) -> Option<String> {
    let name = claim.name();
    let Some(grow) = &storage.auto_grow else {
        return Some(format!(
            "volume {name} is over {FULL_PERCENT} % full: raise storage.size, or set storage.autoGrow"
        ));
    };
    let at_its_end = claim.requested.bytes() >= quantity::bytes(&grow.max_size);
    at_its_end.then(|| format!("volume {name} is over {FULL_PERCENT} % full and as large as storage.autoGrow.maxSize, {}", grow.max_size.0))
}

/// True if the size that the broker reported is that of the present volume.
fn is_recent(total: i64, claim: &Claim) -> bool {
    let seen = u64::try_from(total).unwrap_or(0).saturating_mul(100);
    claim
        .capacity
        .is_some_and(|capacity| seen >= capacity.saturating_mul(SEEN_PERCENT))
}

/// True if the spec describes the volume. A volume that left the spec, alone or with its pool, is
/// kept until it is empty, and nothing says how far it was to grow.
fn is_of_spec(group: &NodeGroup, volume: &DataVolume, cluster: &ValidCluster) -> bool {
    let mut pools = cluster.spec.node_pools.iter();
    pools.any(|pool| pool.name == group.pool.name && pool.storage.has(&volume.name))
}

/// True if Freehold requested the present size, for the spec or for automatic growth. Somebody may
/// have requested more by hand, and wants to keep that.
fn is_requested_by_freehold(claim: &Claim) -> bool {
    let ours = claim.live.annotation(labels::REQUESTED_SIZE);
    let ours = ours.and_then(|size| quantity::bytes(&Quantity(size.to_owned())));
    ours.is_some() && ours == claim.requested.bytes()
}

/// The size in bytes that a volume should have. If `takes_back`, a size that the volume has not
/// reached, and that neither the spec nor its automatic growth asks for any longer, is taken back;
/// Kubernetes takes back no more than leaves a size above the capacity.
fn wanted(
    claim: &Claim,
    storage: &DataVolume,
    used_percent: Option<i64>,
    takes_back: bool,
) -> Option<u64> {
    let (requested, size) = (claim.requested.bytes()?, quantity::bytes(&storage.size)?);
    let grow = storage.auto_grow.as_ref();
    let most = grow.and_then(|grow| quantity::bytes(&grow.max_size));
    if let Some(capacity) = claim.capacity.filter(|capacity| *capacity < requested)
        && takes_back
        && most.unwrap_or(0).max(size) < requested
    {
        return Some(size.max(capacity.saturating_add(MIB)).min(requested));
    }
    let grown = grow
        .zip(used_percent)
        .and_then(|(grow, used)| grown(grow, requested, used));
    Some(size.max(requested).max(grown.unwrap_or(0)))
}

/// The smallest size in bytes that the spec may give a volume of a group's nodes, if it gives
/// another one than before: what they have reached. `None` if they have no such volume yet.
pub fn smallest(group: &NodeGroup, volume: &str, observed: &Observed) -> Option<u64> {
    let set = observed.objects.stateful_set(&group.stateful_set)?;
    let template = set
        .claim_templates
        .iter()
        .find(|template| volume_name(&template.name) == Some(volume))?;
    let claims: BTreeSet<String> = group
        .node_ids()
        .map(|id| claim_name(volume, &names::pod(&group.stateful_set, id)))
        .collect();
    let claims = observed
        .volumes
        .iter()
        .filter(|claim| claims.contains(claim.name()));
    let reached = claims
        .filter_map(|claim| Some(claim.requested.bytes()?.min(claim.capacity?)))
        .max()?;
    // A volume that grew by itself, or was larger from the start, is no reason against the size
    // that the spec had.
    Some(reached.min(template.requested.bytes()?))
}

/// The next size of a volume that is too full: a quarter more, in whole MiB.
fn grown(grow: &AutoGrow, requested: u64, used_percent: i64) -> Option<u64> {
    let most = quantity::bytes(&grow.max_size)?;
    (used_percent > i64::from(grow.above_percent)).then(|| {
        (requested + requested / 4)
            .div_ceil(MIB)
            .saturating_mul(MIB)
            .min(most)
    })
}

fn report_claim(
    claim: &Claim,
    storage: &DataVolume,
    used_percent: Option<i64>,
    is_of_spec: bool,
    report: &mut Report,
) {
    let takes_back = is_of_spec && is_requested_by_freehold(claim);
    let (Some(requested), Some(wanted)) = (
        claim.requested.bytes(),
        wanted(claim, storage, used_percent, takes_back),
    ) else {
        return;
    };
    let settled = claim.capacity.is_none_or(|capacity| capacity >= requested);
    let class = storage.volume_attributes_class_name.as_deref();
    let class = class
        .filter(|class| claim.requested.volume_attributes_class_name.as_deref() != Some(class));
    // Automatic growth takes one step at a time; a size from the spec is requested at once.
    let changes = wanted < requested
        || wanted > requested
            && (settled || quantity::bytes(&storage.size).is_some_and(|size| size > requested));
    if changes || class.is_some() {
        report.upkeep.push(Step::ChangeVolume {
            claim: Box::new(claim.live.clone()),
            bytes: changes.then_some(wanted),
            class: class.map(str::to_owned),
        });
    }
    if let Some(why) = unsettled(claim) {
        report.waiting.push(WaitingOn::Volume {
            claim: claim.name().to_owned(),
            why,
        });
    }
}

/// True if the pod may restart. For a new volume, the earlier pods of its StatefulSet must have the
/// volume or be in `restarted`: see [`mounted`].
pub fn may_restart(
    group: &NodeGroup,
    pod: &PodFacts,
    restarted: &BTreeSet<i32>,
    observed: &Observed,
) -> bool {
    let wanted: BTreeSet<&str> = group
        .volumes
        .iter()
        .map(|volume| volume.name.as_str())
        .collect();
    let has_all = |pod: &PodFacts| {
        restarted.contains(&pod.node_id) || wanted.iter().all(|name| pod.volumes.contains(*name))
    };
    let before = observed
        .pods
        .iter()
        .filter(|other| other.stateful_set == pod.stateful_set && other.node_id < pod.node_id);
    has_all(pod) || before.into_iter().all(has_all)
}

/// What a volume waits for; `None` if it is as requested.
fn unsettled(claim: &Claim) -> Option<String> {
    let because = |condition: Option<&ClaimCondition>| {
        let message = condition.and_then(|condition| condition.message.as_ref());
        message
            .map(|message| format!(": {message}"))
            .unwrap_or_default()
    };
    // A volume without a capacity is not bound yet and waits for its pod.
    let capacity = claim.capacity?;
    if capacity < claim.requested.bytes()? {
        let size = claim.requested.size.as_ref()?;
        let condition = claim
            .condition("ControllerResizeError")
            .or_else(|| claim.condition("NodeResizeError"));
        let how = if claim.resize_stage.ends_with("Infeasible") {
            "cannot grow"
        } else {
            "grows"
        };
        return Some(format!("{how} to {}{}", size.0, because(condition)));
    }
    let class = &claim.requested.volume_attributes_class_name;
    if claim.current_class == *class {
        return None;
    }
    let how = if claim.is_class_infeasible {
        "cannot take"
    } else {
        "takes"
    };
    Some(format!(
        "{how} the class {}{}",
        class.as_ref()?,
        because(claim.condition("ModifyVolumeError"))
    ))
}

/// True if a file system of the pod waits for a new mount, because its driver cannot grow a mounted
/// one.
pub fn waits_for_restart(observed: &Observed, pod: &str, now: Timestamp) -> bool {
    let of_pod = |claim: &&Claim| claimed_volume(claim.name(), pod).is_some();
    let since = |claim: &Claim| claim.condition("FileSystemResizePending")?.since;
    observed
        .volumes
        .iter()
        .filter(of_pod)
        .filter_map(since)
        .any(|since| now > since + ONLINE_LIMIT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::{Live, resource};
    use k8s_openapi::api::core::v1::PersistentVolumeClaim;
    use serde_json::{Value, json};

    /// A claim whose size Freehold requested.
    fn claim(requested: &str, capacity: &str, status: Value) -> Claim {
        claim_of(
            requested,
            capacity,
            status,
            &json!({labels::REQUESTED_SIZE: requested}),
        )
    }

    fn claim_of(requested: &str, capacity: &str, status: Value, annotations: &Value) -> Claim {
        let mut status = status;
        status["capacity"] = json!({"storage": capacity});
        let spec = json!({"resources": {"requests": {"storage": requested}}});
        let metadata = json!({"name": "data-x", "annotations": annotations});
        Claim::of(Live {
            resource: resource::<PersistentVolumeClaim>(),
            value: json!({"metadata": metadata, "spec": spec, "status": status}),
        })
    }

    fn storage(size: &str, grow: Option<(u8, &str)>) -> DataVolume {
        let auto_grow = grow.map(|(above_percent, most)| AutoGrow {
            above_percent,
            max_size: Quantity(most.into()),
        });
        let name = String::new();
        DataVolume {
            name,
            size: Quantity(size.into()),
            storage_class_name: None,
            volume_attributes_class_name: None,
            auto_grow,
        }
    }

    /// The requested size in MiB, and what is waited for.
    fn planned(
        claim: &Claim,
        storage: &DataVolume,
        used: Option<i64>,
    ) -> (Option<u64>, Vec<String>) {
        let mut report = Report::default();
        report_claim(claim, storage, used, true, &mut report);
        let bytes = report.upkeep.iter().find_map(|step| {
            if let Step::ChangeVolume { bytes, .. } = step {
                *bytes
            } else {
                None
            }
        });
        (
            bytes.map(|bytes| bytes / MIB),
            report.waiting.iter().map(ToString::to_string).collect(),
        )
    }

    #[test]
    fn a_volume_grows_to_the_specs_size_and_never_shrinks() {
        assert_eq!(
            planned(&claim("1Gi", "1Gi", json!({})), &storage("2Gi", None), None),
            (Some(2048), vec![])
        );
        assert_eq!(
            planned(&claim("2Gi", "2Gi", json!({})), &storage("1Gi", None), None),
            (None, vec![])
        );
        assert_eq!(
            planned(
                &claim("1Gi", "1Gi", json!({})),
                &storage("1024Mi", None),
                None
            ),
            (None, vec![])
        );
    }

    #[test]
    fn a_size_that_no_disk_can_have_is_taken_back() {
        let typo = claim("64Ti", "64Gi", json!({}));
        let asks = |claim: &Claim, storage: &DataVolume| planned(claim, storage, None).0;
        assert_eq!(asks(&typo, &storage("65Gi", None)), Some(65 * 1024));
        assert_eq!(
            asks(&typo, &storage("64Gi", None)),
            Some(64 * 1024 + 1),
            "Kubernetes takes only a size above the capacity"
        );
        let back = claim("65537Mi", "64Gi", json!({}));
        assert_eq!(asks(&back, &storage("64Gi", None)), None, "once");
        assert_eq!(
            asks(&typo, &storage("64Ti", None)),
            None,
            "the spec still says so"
        );
        let large = claim("64Ti", "64Ti", json!({}));
        assert_eq!(asks(&large, &storage("64Gi", None)), None, "it has it");
        let grows = claim("80Gi", "64Gi", json!({}));
        assert_eq!(
            asks(&grows, &storage("50Gi", Some((80, "1Ti")))),
            None,
            "a step of automatic growth"
        );
        let beyond = claim("64Ti", "64Gi", json!({}));
        assert_eq!(
            asks(&beyond, &storage("50Gi", Some((80, "1Ti")))),
            Some(64 * 1024 + 1)
        );
    }

    #[test]
    fn a_size_that_somebody_asked_for_by_hand_is_not_taken_back() {
        let asks = |requested: &str, annotations: Value| {
            let claim = claim_of(requested, "64Gi", json!({}), &annotations);
            planned(&claim, &storage("64Gi", None), None).0
        };
        assert_eq!(asks("80Gi", json!({})), None);
        let before = json!({labels::REQUESTED_SIZE: "64Gi"});
        assert_eq!(
            asks("80Gi", before.clone()),
            None,
            "Freehold asked for less"
        );
        assert_eq!(
            asks("81920Mi", json!({labels::REQUESTED_SIZE: "80Gi"})),
            Some(64 * 1024 + 1),
            "the same size in other words"
        );
        let larger = claim_of("80Gi", "64Gi", json!({}), &before);
        assert_eq!(
            planned(&larger, &storage("96Gi", None), None).0,
            Some(96 * 1024),
            "the spec's size comes all the same"
        );
    }

    #[test]
    fn it_grows_by_itself_by_a_quarter_once_the_last_step_is_done_and_no_further_than_allowed() {
        let full = claim("1Gi", "1Gi", json!({}));
        assert_eq!(
            planned(&full, &storage("1Gi", Some((80, "2Gi"))), Some(81)).0,
            Some(1280)
        );
        assert_eq!(
            planned(&full, &storage("1Gi", Some((80, "1100Mi"))), Some(81)).0,
            Some(1100)
        );
        assert_eq!(
            planned(&full, &storage("1Gi", Some((80, "2Gi"))), Some(80)).0,
            None
        );
        assert_eq!(
            planned(&full, &storage("1Gi", Some((80, "2Gi"))), None).0,
            None
        );
        assert_eq!(planned(&full, &storage("1Gi", None), Some(99)).0, None);
        let grows = claim("1280Mi", "1Gi", json!({}));
        assert_eq!(
            planned(&grows, &storage("1Gi", Some((80, "2Gi"))), Some(99)).0,
            None
        );
        assert!(!is_recent(1 << 30, &claim("1280Mi", "1280Mi", json!({}))));
        assert!(is_recent(1_009_254_400, &full));
    }

    #[test]
    fn a_volume_that_is_nearly_full_is_told_where_nothing_will_be_done() {
        let volume = claim("2Gi", "2Gi", json!({}));
        assert!(
            full(&volume, &storage("2Gi", None))
                .unwrap()
                .contains("raise storage.size")
        );
        assert!(
            full(&volume, &storage("1Gi", Some((95, "2Gi"))))
                .unwrap()
                .contains("maxSize, 2Gi")
        );
        assert_eq!(full(&volume, &storage("1Gi", Some((95, "4Gi")))), None);
    }

    #[test]
    fn a_statefulset_is_made_anew_for_another_size_and_only_once() {
        let set = |size: &str, hash: &str| {
            let claim = json!({"metadata": {"name": "data"}, "spec": {"resources": {"requests": {"storage": size}}}});
            let metadata = json!({"name": "s", "annotations": {labels::APPLIED_HASH: hash}});
            json!({"metadata": metadata, "spec": {"volumeClaimTemplates": [claim]}})
        };
        let kind = resource::<k8s_openapi::api::apps::v1::StatefulSet>();
        let desired = Object {
            resource: kind.clone(),
            value: set("2Gi", "new"),
        };
        let live = |size: &str, hash: &str| {
            StatefulSetFacts::of(&Live {
                resource: kind.clone(),
                value: set(size, hash),
            })
        };
        assert!(needs_new_template(&desired, &live("1Gi", "old")));
        assert!(
            !needs_new_template(&desired, &live("2048Mi", "old")),
            "as large already"
        );
        assert!(
            !needs_new_template(&desired, &live("1Gi", "new")),
            "it was made from this"
        );
    }

    #[test]
    fn a_volume_that_does_not_grow_says_why() {
        let error =
            json!([{"type": "ControllerResizeError", "status": "True", "message": "quota"}]);
        let waits =
            |status: Value| planned(&claim("2Gi", "1Gi", status), &storage("2Gi", None), None).1;
        assert_eq!(waits(json!({})), ["volume data-x, which grows to 2Gi"]);
        let infeasible = json!({"allocatedResourceStatuses": {"storage": "ControllerResizeInfeasible"}, "conditions": error});
        assert_eq!(
            waits(infeasible),
            ["volume data-x, which cannot grow to 2Gi: quota"]
        );
    }
}
