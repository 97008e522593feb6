//! Volumes that grow and change their class while they are used, and never shrink. Pure.
//!
//! Nothing here disturbs a node, and nothing else waits for it: a volume that cannot grow must not keep its records from
//! being moved to one that is larger.

use super::api::{AutoGrow, DataVolume, NodePool, Role, WhenScaled};
use super::desired::volumes::{claim_name, claimed_volume, log_folder, volume_name};
use super::observe::{KafkaFacts, Observed, PodFacts};
use super::plan::{Plan, Step, WaitingOn};
use super::validate::{NodeGroup, ValidCluster};
use crate::kafka::config::CORDONED;
use crate::kafka::metadata_image::PartitionImage;
use crate::kafka::restart::{self, TopicView};
use crate::kube_io::{Live, Object};
use crate::{labels, names, quantity};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// Percent in use from which a person is told.
const FULL_PERCENT: i64 = 85;
const MIB: u64 = 1024 * 1024;
/// What the file system itself takes is less, and a step of growth more: a volume that was seen smaller has grown since.
const SEEN_PERCENT: u64 = 82;
/// A file system that has not grown by then waits for its volume to be mounted anew.
const ONLINE_LIMIT: SignedDuration = SignedDuration::from_mins(5);

fn bytes(value: &Value) -> Option<u64> {
    quantity::bytes(&Quantity(value.as_str()?.to_owned()))
}

fn requested(claim: &Live) -> Option<u64> {
    bytes(&claim.value["spec"]["resources"]["requests"]["storage"])
}

fn capacity(claim: &Live) -> Option<u64> {
    bytes(&claim.value["status"]["capacity"]["storage"])
}

fn condition<'a>(claim: &'a Live, kind: &str) -> Option<&'a Value> {
    claim.value["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind && condition["status"] == "True")
}

/// The claims' templates of a StatefulSet cannot be changed: it is made anew around its pods. Once: what the API server has dropped
/// of this very state, it would drop again.
pub fn needs_new_template(desired: &Object, live: &Live) -> bool {
    if live.annotation(labels::APPLIED_HASH) == desired.value["metadata"]["annotations"][labels::APPLIED_HASH].as_str() {
        return false;
    }
    let templates = |value: &Value| {
        let all = value["spec"]["volumeClaimTemplates"].as_array().cloned().unwrap_or_default();
        let of = |template: &Value| {
            let (name, spec) = (template["metadata"]["name"].as_str()?.to_owned(), &template["spec"]);
            let class = spec["volumeAttributesClassName"].as_str().map(str::to_owned);
            Some((name, (bytes(&spec["resources"]["requests"]["storage"]), class)))
        };
        all.iter().filter_map(of).collect::<BTreeMap<_, _>>()
    };
    templates(&desired.value) != templates(&live.value)
}

/// What volumes lack of what the spec and their brokers need.
pub fn plan(cluster: &ValidCluster, observed: &Observed, plan: &mut Plan) {
    for group in &cluster.groups {
        for (id, volume) in group.node_ids().flat_map(|id| group.volumes.iter().map(move |volume| (id, volume))) {
            let name = claim_name(&volume.name, &names::pod(&group.stateful_set, id));
            let Some(claim) = observed.volumes.iter().find(|live| live.name() == name && !live.is_deleting()) else { continue };
            let disk = observed.disks.get(&id).and_then(|disks| disks.get(&log_folder(&volume.name)));
            let used = disk.filter(|disk| group.is(Role::Broker) && is_recent(disk.total, claim)).map(|disk| disk.used_percent());
            plan_claim(claim, volume, used, plan);
            if used.is_some_and(|used| used >= FULL_PERCENT) {
                plan.warnings.extend(full(claim, volume));
            }
        }
    }
}

/// Volumes of nodes that have left go with them, and further volumes that a pool has no more, where the pool says so. Who left was emptied
/// first, by its own word; whoever holds a replica, has a vote or is in Kafka's list keeps its volumes.
pub fn discard(cluster: &ValidCluster, observed: &Observed, plan: &mut Plan) {
    let KafkaFacts::Answered { cluster: described, quorum, topics, .. } = &observed.kafka else { return };
    if plan.lease.is_some() || !plan.is_applied() {
        return;
    }
    let mut known = restart::holders(topics);
    known.extend(described.brokers.iter().map(|broker| broker.id));
    known.extend(quorum.voters.iter().map(|voter| voter.id));
    known.extend(cluster.groups.iter().flat_map(NodeGroup::node_ids));
    known.extend(observed.pods.iter().map(|pod| pod.node_id));
    let goes = |claim: &&Live| {
        let pool = cluster.spec.node_pools.iter().find(|pool| claim.label(labels::POOL) == Some(&pool.name));
        let Some(pool) = pool.filter(|pool| pool.storage.when_scaled == WhenScaled::Delete && !claim.is_deleting()) else { return false };
        let node_id = claim.name().rsplit_once('-').and_then(|(_, id)| id.parse().ok());
        node_id.is_some_and(|id: i32| !known.contains(&id) || is_taken_away(claim.name(), id, pool, cluster, observed, topics))
    };
    plan.steps.extend(observed.volumes.iter().filter(goes).map(|claim| Step::Prune(Box::new(claim.clone()))));
}

/// The claim is of a further volume that its node is not to have and has not, and the node misses nothing that could be on it.
fn is_taken_away(claim: &str, node_id: i32, pool: &NodePool, cluster: &ValidCluster, observed: &Observed, topics: &[TopicView]) -> bool {
    let group = cluster.groups.iter().find(|group| group.node_ids().any(|id| id == node_id));
    let pod = observed.pods.iter().find(|pod| pod.node_id == node_id && !pod.deleting);
    let Some((group, pod)) = group.zip(pod) else { return false };
    let is_wanted = |name: &str| pool.storage.has(name) || group.volumes.iter().any(|volume| volume.name == name);
    let is_in_sync = |partition: &PartitionImage| !partition.replicas.contains(&node_id) || partition.in_sync().contains(&node_id);
    claimed_volume(claim, &pod.name).is_some_and(|name| !is_wanted(name) && !pod.volumes.contains(name))
        && topics.iter().flat_map(|topic| &topic.partitions).all(is_in_sync)
}

/// A volume as its claim, or the template of its claims, has it.
fn as_claimed(name: &str, claim: &Value) -> Option<DataVolume> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    Some(DataVolume {
        name: name.to_owned(),
        size: Quantity(text(&claim["spec"]["resources"]["requests"]["storage"])?),
        storage_class_name: text(&claim["spec"]["storageClassName"]),
        volume_attributes_class_name: text(&claim["spec"]["volumeAttributesClassName"]),
        auto_grow: None,
    })
}

/// The volumes that a group's StatefulSet has and the spec has not; while it is made anew, those that its pods have.
fn left_over(pool: &NodePool, stateful_set: &str, observed: &Observed) -> Vec<DataVolume> {
    let is_left = |name: &str| !pool.storage.has(name);
    let live = observed.objects.iter().find(|live| live.resource.kind == "StatefulSet" && live.name() == stateful_set);
    let Some(live) = live else {
        let mut found: Vec<DataVolume> = Vec::new();
        for pod in observed.pods.iter().filter(|pod| pod.stateful_set == stateful_set) {
            for name in pod.volumes.iter().filter(|name| is_left(name)) {
                let claim = claim_name(name, &pod.name);
                let claim =
                    observed.volumes.iter().find(|live| live.name() == claim).filter(|_| !found.iter().any(|one| one.name == *name));
                found.extend(claim.and_then(|claim| as_claimed(name, &claim.value)));
            }
        }
        return found;
    };
    let templates = live.value["spec"]["volumeClaimTemplates"].as_array();
    let all =
        templates.into_iter().flatten().filter_map(|template| as_claimed(volume_name(template["metadata"]["name"].as_str()?)?, template));
    all.filter(|volume| is_left(&volume.name)).collect()
}

/// Volumes by node id to which nothing new may come: those that the spec has no more, and those that are new and that not every
/// pod of the StatefulSet has: until then such a pod may have to come back without.
pub fn cordoned(pool: &NodePool, stateful_set: &str, pods: &[PodFacts]) -> BTreeMap<i32, BTreeSet<String>> {
    let pods = || pods.iter().filter(|pod| pod.stateful_set == stateful_set);
    let stays = |name: &String| name.is_empty() || (pool.storage.has(name) && pods().all(|pod| pod.volumes.contains(name)));
    let of = |pod: &PodFacts| {
        let cordoned: BTreeSet<String> = pod.volumes.iter().filter(|name| !stays(name)).cloned().collect();
        (!cordoned.is_empty()).then_some((pod.node_id, cordoned))
    };
    pods().filter_map(of).collect()
}

/// Every node is there, and those that have this volume say that nothing is on it, and were told to keep it so.
fn is_emptied(volume: &str, nodes: Range<i32>, stateful_set: &str, observed: &Observed) -> bool {
    let KafkaFacts::Answered { configs, .. } = &observed.kafka else { return false };
    let path = log_folder(volume);
    nodes.into_iter().all(|id| {
        let Some(pod) = observed.pods.iter().find(|pod| pod.stateful_set == stateful_set && pod.node_id == id) else { return false };
        let folder = observed.folders.get(&id).and_then(|folders| folders.0.get(&path));
        let cordoned = configs.get(&id.to_string()).and_then(|configs| configs.get(CORDONED));
        let is_cordoned = cordoned.is_some_and(|value| value == "*" || value.split(',').any(|cordoned| cordoned == path));
        !pod.volumes.contains(volume) || (is_cordoned && folder.is_some_and(|folder| folder.replicas.is_empty()))
    })
}

/// The volumes that the nodes of a group are to have for now, the first one first.
///
/// One that the spec has no more stays until it is empty. One that is new comes when no node is missing that would be made
/// after one without it: Kubernetes makes no pod of a StatefulSet while an earlier one lacks a volume of its template.
pub fn mounted(pool: &NodePool, stateful_set: &str, nodes: Range<i32>, observed: &Observed) -> Vec<DataVolume> {
    let pods = || observed.pods.iter().filter(|pod| pod.stateful_set == stateful_set && !pod.deleting);
    let missing = nodes.clone().find(|id| !pods().any(|pod| pod.node_id == *id));
    let may_come =
        |name: &str| missing.is_none_or(|missing| pods().filter(|pod| pod.node_id < missing).all(|pod| pod.volumes.contains(name)));
    let mut all = pool.storage.all();
    all.retain(|volume| volume.name.is_empty() || may_come(&volume.name));
    let left = left_over(pool, stateful_set, observed);
    all.extend(left.into_iter().filter(|volume| !is_emptied(&volume.name, nodes.clone(), stateful_set, observed)));
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

/// What a person has to do for a volume that is nearly full; `None` where it will grow.
fn full(claim: &Live, storage: &DataVolume) -> Option<String> {
    let name = claim.name();
    let Some(grow) = &storage.auto_grow else {
        return Some(format!("volume {name} is over {FULL_PERCENT} % full: raise storage.size, or set storage.autoGrow"));
    };
    let at_its_end = requested(claim) >= quantity::bytes(&grow.max_size);
    at_its_end.then(|| format!("volume {name} is over {FULL_PERCENT} % full and as large as storage.autoGrow.maxSize, {}", grow.max_size.0))
}

/// The broker spoke of the volume as large as it is now.
fn is_recent(total: i64, claim: &Live) -> bool {
    let seen = u64::try_from(total).unwrap_or(0).saturating_mul(100);
    capacity(claim).is_some_and(|capacity| seen >= capacity.saturating_mul(SEEN_PERCENT))
}

/// Bytes that a volume should have.
fn wanted(claim: &Live, storage: &DataVolume, used_percent: Option<i64>) -> Option<u64> {
    let (requested, size) = (requested(claim)?, quantity::bytes(&storage.size)?);
    let grown = storage.auto_grow.as_ref().zip(used_percent).and_then(|(grow, used)| grown(grow, requested, used));
    Some(size.max(requested).max(grown.unwrap_or(0)))
}

/// A quarter more, for one that is too full; whole MiB.
fn grown(grow: &AutoGrow, requested: u64, used_percent: i64) -> Option<u64> {
    let most = quantity::bytes(&grow.max_size)?;
    (used_percent > i64::from(grow.above_percent)).then(|| (requested + requested / 4).div_ceil(MIB).saturating_mul(MIB).min(most))
}

fn plan_claim(claim: &Live, storage: &DataVolume, used_percent: Option<i64>, plan: &mut Plan) {
    let (Some(requested), Some(wanted)) = (requested(claim), wanted(claim, storage, used_percent)) else { return };
    let settled = capacity(claim).is_none_or(|capacity| capacity >= requested);
    let class = storage.volume_attributes_class_name.as_deref();
    let class = class.filter(|class| claim.value["spec"]["volumeAttributesClassName"] != *class);
    // By itself it grows one step at a time; what the spec says is asked for at once.
    let grows = wanted > requested && (settled || quantity::bytes(&storage.size).is_some_and(|size| size > requested));
    if grows || class.is_some() {
        plan.steps.push(Step::ChangeVolume {
            claim: Box::new(claim.clone()),
            bytes: grows.then_some(wanted),
            class: class.map(str::to_owned),
        });
    }
    if let Some(why) = unsettled(claim) {
        plan.waiting_on.push(WaitingOn::Volume { claim: claim.name().to_owned(), why });
    }
}

/// A pod may restart for a volume that is new once those before it in its StatefulSet have theirs, or have `restarted` for it:
/// see [`mounted`].
pub fn may_restart(group: &NodeGroup, pod: &PodFacts, restarted: &BTreeSet<i32>, observed: &Observed) -> bool {
    let wanted: BTreeSet<&str> = group.volumes.iter().map(|volume| volume.name.as_str()).collect();
    let has_all = |pod: &PodFacts| restarted.contains(&pod.node_id) || wanted.iter().all(|name| pod.volumes.contains(*name));
    let before = observed.pods.iter().filter(|other| other.stateful_set == pod.stateful_set && other.node_id < pod.node_id);
    has_all(pod) || before.into_iter().all(has_all)
}

/// What a volume waits for; `None` when it is as was asked.
fn unsettled(claim: &Live) -> Option<String> {
    let status = &claim.value["status"];
    // One that is not bound yet waits for its pod.
    let capacity = capacity(claim)?;
    if capacity < requested(claim)? {
        let size = claim.value["spec"]["resources"]["requests"]["storage"].as_str().unwrap_or_default();
        let stage = status["allocatedResourceStatuses"]["storage"].as_str().unwrap_or_default();
        let message = condition(claim, "ControllerResizeError").or_else(|| condition(claim, "NodeResizeError"));
        let message = message.and_then(|condition| condition["message"].as_str()).map(|message| format!(": {message}"));
        let how = if stage.ends_with("Infeasible") { "cannot grow" } else { "grows" };
        return Some(format!("{how} to {size}{}", message.unwrap_or_default()));
    }
    let class = claim.value["spec"]["volumeAttributesClassName"].as_str()?;
    if status["currentVolumeAttributesClassName"] == class {
        return None;
    }
    let message = condition(claim, "ModifyVolumeError").and_then(|condition| condition["message"].as_str());
    let how = if status["modifyVolumeStatus"]["status"] == "Infeasible" { "cannot take" } else { "takes" };
    Some(format!("{how} the class {class}{}", message.map(|message| format!(": {message}")).unwrap_or_default()))
}

/// Its file system waits for being mounted anew: its driver grows none that is in use.
pub fn waits_for_restart(observed: &Observed, pod: &str, now: Timestamp) -> bool {
    let of_pod = |live: &&Live| claimed_volume(live.name(), pod).is_some();
    let since = |claim: &Live| condition(claim, "FileSystemResizePending")?["lastTransitionTime"].as_str()?.parse::<Timestamp>().ok();
    observed.volumes.iter().filter(of_pod).filter_map(since).any(|since| now > since + ONLINE_LIMIT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube_io::resource;
    use k8s_openapi::api::core::v1::PersistentVolumeClaim;
    use serde_json::json;

    fn claim(requested: &str, capacity: &str, status: Value) -> Live {
        let mut status = status;
        status["capacity"] = json!({"storage": capacity});
        let spec = json!({"resources": {"requests": {"storage": requested}}});
        Live {
            resource: resource::<PersistentVolumeClaim>(),
            value: json!({"metadata": {"name": "data-x"}, "spec": spec, "status": status}),
        }
    }

    fn storage(size: &str, grow: Option<(u8, &str)>) -> DataVolume {
        let auto_grow = grow.map(|(above_percent, most)| AutoGrow { above_percent, max_size: Quantity(most.into()) });
        let name = String::new();
        DataVolume { name, size: Quantity(size.into()), storage_class_name: None, volume_attributes_class_name: None, auto_grow }
    }

    /// Bytes asked for, in MiB, and what is waited for.
    fn planned(claim: &Live, storage: &DataVolume, used: Option<i64>) -> (Option<u64>, Vec<String>) {
        let mut plan = Plan::default();
        plan_claim(claim, storage, used, &mut plan);
        let bytes = plan.steps.iter().find_map(|step| if let Step::ChangeVolume { bytes, .. } = step { *bytes } else { None });
        (bytes.map(|bytes| bytes / MIB), plan.waiting_on.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_volume_grows_to_the_specs_size_and_never_shrinks() {
        assert_eq!(planned(&claim("1Gi", "1Gi", json!({})), &storage("2Gi", None), None), (Some(2048), vec![]));
        assert_eq!(planned(&claim("2Gi", "2Gi", json!({})), &storage("1Gi", None), None), (None, vec![]));
        assert_eq!(planned(&claim("1Gi", "1Gi", json!({})), &storage("1024Mi", None), None), (None, vec![]));
    }

    #[test]
    fn it_grows_by_itself_by_a_quarter_once_the_last_step_is_done_and_no_further_than_allowed() {
        let full = claim("1Gi", "1Gi", json!({}));
        assert_eq!(planned(&full, &storage("1Gi", Some((80, "2Gi"))), Some(81)).0, Some(1280));
        assert_eq!(planned(&full, &storage("1Gi", Some((80, "1100Mi"))), Some(81)).0, Some(1100));
        assert_eq!(planned(&full, &storage("1Gi", Some((80, "2Gi"))), Some(80)).0, None);
        assert_eq!(planned(&full, &storage("1Gi", Some((80, "2Gi"))), None).0, None);
        assert_eq!(planned(&full, &storage("1Gi", None), Some(99)).0, None);
        let grows = claim("1280Mi", "1Gi", json!({}));
        assert_eq!(planned(&grows, &storage("1Gi", Some((80, "2Gi"))), Some(99)).0, None);
        assert!(!is_recent(1 << 30, &claim("1280Mi", "1280Mi", json!({}))));
        assert!(is_recent(1_009_254_400, &full));
    }

    #[test]
    fn a_volume_that_is_nearly_full_is_told_where_nothing_will_be_done() {
        let volume = claim("2Gi", "2Gi", json!({}));
        assert!(full(&volume, &storage("2Gi", None)).unwrap().contains("raise storage.size"));
        assert!(full(&volume, &storage("1Gi", Some((95, "2Gi")))).unwrap().contains("maxSize, 2Gi"));
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
        let desired = Object { resource: kind.clone(), value: set("2Gi", "new") };
        let live = |size: &str, hash: &str| Live { resource: kind.clone(), value: set(size, hash) };
        assert!(needs_new_template(&desired, &live("1Gi", "old")));
        assert!(!needs_new_template(&desired, &live("2048Mi", "old")), "as large already");
        assert!(!needs_new_template(&desired, &live("1Gi", "new")), "it was made from this");
    }

    #[test]
    fn a_volume_that_does_not_grow_says_why() {
        let error = json!([{"type": "ControllerResizeError", "status": "True", "message": "quota"}]);
        let waits = |status: Value| planned(&claim("2Gi", "1Gi", status), &storage("2Gi", None), None).1;
        assert_eq!(waits(json!({})), ["volume data-x, which grows to 2Gi"]);
        let infeasible = json!({"allocatedResourceStatuses": {"storage": "ControllerResizeInfeasible"}, "conditions": error});
        assert_eq!(waits(infeasible), ["volume data-x, which cannot grow to 2Gi: quota"]);
    }
}
