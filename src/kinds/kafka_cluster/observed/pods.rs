//! The pods of a cluster as typed facts: what Kubernetes reports about them, and what they were
//! started with.

use crate::kinds::kafka_cluster::model::ports::OWN_PORTS;
use crate::kinds::kafka_cluster::model::volume_names::volume_name;
use crate::kinds::kafka_cluster::observed::trouble;
use crate::kubernetes::{Live, Object, labels};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

/// The facts about one pod of the cluster.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodFacts {
    pub name: String,
    pub uid: String,
    pub resource_version: String,
    pub stateful_set: String,
    pub node_id: i32,
    pub broker: bool,
    pub controller: bool,
    pub ip: Option<String>,
    /// The container is started and its readiness probe succeeds.
    pub containers_ready: bool,
    /// The present value of the readiness gate.
    pub in_sync: bool,
    pub deleting: bool,
    /// The time by which it should have terminated, if it is being deleted.
    pub ends_by: Option<Timestamp>,
    /// The Kubernetes node that it runs on.
    pub host: Option<String>,
    /// The names of its data volumes.
    pub volumes: BTreeSet<String>,
    /// The ports on which it serves clients, by listener name.
    pub listeners: BTreeMap<String, u16>,
    /// The revision that it was started with.
    pub revision: Revision,
    /// Why it does not run, in the words of Kubernetes.
    pub trouble: Option<String>,
    /// Set if it will not start to run without a change.
    pub stuck: Option<Stuck>,
    /// Since when it has a Kubernetes node, if no container of it was ever created there: its image
    /// or its volume does not come.
    pub waits_since: Option<Timestamp>,
}

/// The time after which an image or a volume that has not come needs a person. Attaching a volume
/// whose machine died takes six minutes.
const COMES_LIMIT: SignedDuration = SignedDuration::from_mins(10);

impl PodFacts {
    /// True if its image or its volume should have come long ago.
    pub fn waits_too_long(&self, now: Timestamp) -> bool {
        let is_late = |since: Timestamp| now.duration_since(since) > COMES_LIMIT;
        !self.deleting && self.waits_since.is_some_and(is_late)
    }
}

/// Why a pod will not start to run without a change. A container that terminated and restarts is
/// not stuck: it may be in the middle of its log recovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
pub enum Stuck {
    /// It cannot be scheduled, for example because no Kubernetes node has room.
    Unscheduled,
    /// It cannot be scheduled because no Kubernetes node can attach its volume, and there is no
    /// other reason that could pass.
    OutOfReach,
    /// Its container cannot start: the image or the configuration is missing, or it terminates
    /// again and again right after its start.
    Start,
}

/// What a pod is started with and keeps until it ends; read from a pod or from the template of its
/// StatefulSet.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Revision {
    pub image: String,
    pub config: String,
    pub template: String,
    /// The hash of the part of the spec that all of this is made from.
    pub spec: String,
    /// The value of the annotation that asked for a restart.
    pub requested: Option<String>,
    /// The controllers whose addresses it knows; `None` if that is not recorded.
    pub controllers: Option<BTreeSet<i32>>,
}

/// The Kafka container, or its status, even if an admission policy has put others before it; null
/// if there is none.
fn kafka(containers: &serde_json::Value) -> &serde_json::Value {
    let mut all = containers.as_array().into_iter().flatten();
    all.find(|container| container["name"] == "kafka")
        .unwrap_or(&serde_json::Value::Null)
}

impl Revision {
    /// The revision of the pods that a desired StatefulSet creates.
    pub fn of_desired(set: &Object) -> Self {
        Self::of(&set.value["spec"]["template"])
    }

    /// Reads the revision of a pod or a pod template.
    pub fn of(pod: &serde_json::Value) -> Self {
        let annotation = |key: &str| {
            pod["metadata"]["annotations"][key]
                .as_str()
                .map(str::to_owned)
        };
        Self {
            // The annotation comes first, because a policy may have changed the image in the pod to
            // a registry mirror. Pods of older operators have no annotation.
            image: annotation(labels::IMAGE).unwrap_or_else(|| {
                kafka(&pod["spec"]["containers"])["image"]
                    .as_str()
                    .unwrap_or_default()
                    .into()
            }),
            config: annotation(labels::CONFIG_HASH).unwrap_or_default(),
            template: annotation(labels::TEMPLATE_HASH).unwrap_or_default(),
            spec: annotation(labels::SPEC_HASH).unwrap_or_default(),
            requested: annotation(labels::RESTART),
            controllers: annotation(labels::CONTROLLERS)
                .map(|ids| ids.split(',').filter_map(|id| id.parse().ok()).collect()),
        }
    }
}

/// The names of the data volumes of a pod or a pod template.
pub fn volumes_of(pod: &serde_json::Value) -> BTreeSet<String> {
    let mounts = kafka(&pod["spec"]["containers"])["volumeMounts"].as_array();
    let names = mounts
        .into_iter()
        .flatten()
        .filter_map(|mount| volume_name(mount["name"].as_str()?));
    names.map(str::to_owned).collect()
}

/// The ports of the listeners for clients in a pod or a pod template, by listener name.
pub fn listeners_of(pod: &serde_json::Value) -> BTreeMap<String, u16> {
    let ports = kafka(&pod["spec"]["containers"])["ports"].as_array();
    let port = |port: &serde_json::Value| {
        let name = port["name"]
            .as_str()
            .filter(|name| !OWN_PORTS.contains(name))?;
        Some((
            name.to_owned(),
            u16::try_from(port["containerPort"].as_u64()?).ok()?,
        ))
    };
    ports.into_iter().flatten().filter_map(port).collect()
}

/// The launcher's reason for refusing to start, from the termination message of the container.
fn own_words(message: &str) -> Option<&str> {
    message
        .lines()
        .find_map(|line| line.strip_prefix("freehold: "))
}

/// The facts about a pod; `None` if it does not belong to one of our StatefulSets.
pub fn pod_facts(live: &Live) -> Option<PodFacts> {
    let name = live.name();
    let (stateful_set, ordinal) = name.rsplit_once('-')?;
    let status = &live.value["status"];
    let condition = |kind: &str| {
        let all = status["conditions"].as_array();
        all.into_iter()
            .flatten()
            .find(|condition| condition["type"] == kind)
    };
    let holds = |kind: &str| condition(kind).is_some_and(|condition| condition["status"] == "True");
    let container = kafka(&status["containerStatuses"]);
    let unscheduled = condition("PodScheduled").filter(|condition| condition["status"] == "False");
    let (trouble, stuck) = match unscheduled.map(|condition| condition["message"].as_str()) {
        Some(message) if trouble::is_out_of_reach(message.unwrap_or_default()) => {
            (Some(message), Some(Stuck::OutOfReach))
        }
        Some(message) => (Some(message), Some(Stuck::Unscheduled)),
        None => (None, cannot_start(container).then_some(Stuck::Start)),
    };
    let trouble = match trouble {
        Some(message) => Some(trouble::unscheduled(
            message.unwrap_or("no reason given"),
            ordinal,
        )),
        None => container_trouble(container, live.label(labels::POOL).unwrap_or_default()),
    };
    Some(PodFacts {
        name: name.to_owned(),
        uid: live.uid().to_owned(),
        resource_version: live.value["metadata"]["resourceVersion"]
            .as_str()
            .unwrap_or_default()
            .to_owned(),
        stateful_set: stateful_set.to_owned(),
        node_id: ordinal.parse().ok()?,
        broker: live.label(labels::BROKER) == Some("true"),
        controller: live.label(labels::CONTROLLER) == Some("true"),
        ip: status["podIP"].as_str().map(str::to_owned),
        containers_ready: holds("ContainersReady"),
        in_sync: holds(labels::IN_SYNC),
        deleting: live.is_deleting(),
        ends_by: live.value["metadata"]["deletionTimestamp"]
            .as_str()
            .and_then(|time| time.parse().ok()),
        host: live.value["spec"]["nodeName"].as_str().map(str::to_owned),
        volumes: volumes_of(&live.value),
        listeners: listeners_of(&live.value),
        revision: Revision::of(&live.value),
        waits_since: condition("PodScheduled")
            .filter(|_| was_never_created(container))
            .filter(|condition| condition["status"] == "True")
            .and_then(|condition| condition["lastTransitionTime"].as_str()?.parse().ok()),
        trouble,
        stuck,
    })
}

/// True while Kubernetes prepares what the container needs for its first start. One that waits for
/// init containers (`PodInitializing`), which a policy may have added, has its volumes already.
fn was_never_created(container: &serde_json::Value) -> bool {
    let reason = &container["state"]["waiting"]["reason"];
    let waits = container.is_null() || reason == "ContainerCreating";
    waits && container["restartCount"].as_i64().unwrap_or(0) == 0
}

/// Why the container of a scheduled pod does not run, in the words of Kubernetes or of the launcher.
fn container_trouble(container: &serde_json::Value, pool: &str) -> Option<String> {
    let waiting = &container["state"]["waiting"];
    let restarts = container["restartCount"].as_i64().unwrap_or(0);
    let said = ["state", "lastState"]
        .into_iter()
        .find_map(|when| own_words(container[when]["terminated"]["message"].as_str()?));
    let with_end = |words: String, between: &str| match trouble::ended(container, pool) {
        Some(ended) => format!("{words}{between}{ended}"),
        None => words,
    };
    if let Some(said) = said.filter(|_| container["ready"] == false) {
        Some(said.to_owned())
    } else if let Some(reason) = waiting["reason"]
        .as_str()
        .filter(|reason| !["ContainerCreating", "PodInitializing"].contains(reason))
    {
        let message = waiting["message"].as_str().unwrap_or_default();
        Some(with_end(format!("{reason}: {message}"), "; "))
    } else if restarts > 0 && container["ready"] == false {
        Some(with_end(format!("restarted {restarts} times"), ", "))
    } else {
        None
    }
}

/// The reasons of a waiting container that do not pass without a change.
const CANNOT_START: [&str; 8] = [
    "ImagePullBackOff",
    "ErrImagePull",
    "ErrImageNeverPull",
    "InvalidImageName",
    "ImageInspectError",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
];
const CRASH_LOOP: &str = "CrashLoopBackOff";
/// A container that restarted this often, and ran for less than `CRASH_LIMIT` each time, will not
/// start to run without a change. A broker that was killed, or that recovers its log, has run for
/// longer or restarted less often.
const CRASHES_MIN: i64 = 3;
const CRASH_LIMIT: SignedDuration = SignedDuration::from_mins(1);

fn cannot_start(container: &serde_json::Value) -> bool {
    let reason = container["state"]["waiting"]["reason"]
        .as_str()
        .unwrap_or_default();
    let time = |key: &str| {
        container["lastState"]["terminated"][key]
            .as_str()?
            .parse::<Timestamp>()
            .ok()
    };
    let ran = time("startedAt")
        .zip(time("finishedAt"))
        .map(|(started, finished)| finished.duration_since(started));
    let crashes = container["restartCount"].as_i64().unwrap_or(0) >= CRASHES_MIN
        && ran.is_some_and(|ran| ran < CRASH_LIMIT);
    CANNOT_START.contains(&reason) || (reason == CRASH_LOOP && crashes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::resource;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    fn facts(status: serde_json::Value) -> PodFacts {
        let metadata = json!({"name": "c-p-a-7", "labels": {labels::BROKER: "true"}});
        pod_facts(&Live {
            resource: resource::<Pod>(),
            value: json!({"metadata": metadata, "status": status}),
        })
        .unwrap()
    }

    fn container(reason: Option<&str>, restarts: i64, ran_seconds: i64) -> PodFacts {
        let state = reason.map_or(
            json!({"running": {}}),
            |reason| json!({"waiting": {"reason": reason}}),
        );
        let started = Timestamp::UNIX_EPOCH;
        let finished = started + SignedDuration::from_secs(ran_seconds);
        let last = json!({"terminated": {"exitCode": 137, "reason": "Error", "startedAt": started, "finishedAt": finished}});
        facts(
            json!({"containerStatuses": [{"name": "kafka", "ready": false, "restartCount": restarts, "state": state, "lastState": last}]}),
        )
    }

    #[test]
    fn a_container_that_a_policy_puts_first_is_not_taken_for_kafka() {
        let kafka = json!({"name": "kafka", "image": "kafka:1",
            "volumeMounts": [{"name": "data", "mountPath": "/data"}],
            "ports": [{"name": "tls", "containerPort": 9093}]});
        let sidecar = json!({"name": "mesh", "image": "mesh:1",
            "volumeMounts": [{"name": "data-9", "mountPath": "/x"}],
            "ports": [{"name": "admin", "containerPort": 15000}]});
        let alone = json!({"spec": {"containers": [kafka]}});
        let injected = json!({"spec": {"containers": [sidecar, kafka]}});
        assert!(!volumes_of(&alone).is_empty() && !listeners_of(&alone).is_empty());
        assert_eq!(volumes_of(&injected), volumes_of(&alone));
        assert_eq!(listeners_of(&injected), listeners_of(&alone));
        assert_eq!(Revision::of(&injected), Revision::of(&alone));
        let loops = |name: &str| json!({"name": name, "restartCount": 9, "state": {"waiting": {"reason": "CrashLoopBackOff"}}});
        let runs = json!({"name": "kafka", "restartCount": 0, "state": {"running": {}}});
        let statuses = json!({"containerStatuses": [loops("mesh"), runs]});
        assert_eq!(facts(statuses).stuck, None, "it is the sidecar that loops");
    }

    #[test]
    fn a_pod_whose_volume_or_image_does_not_come_waits_too_long_after_minutes() {
        let scheduled = |restarts: i64, reason: &str| {
            let container = json!({"name": "kafka", "ready": false, "restartCount": restarts, "state": {"waiting": {"reason": reason}}});
            let condition = json!({"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-06-01T00:00:00Z"});
            facts(json!({"conditions": [condition], "containerStatuses": [container]}))
        };
        let at = |minute: i64| {
            let start: Timestamp = "2026-06-01T00:00:30Z".parse().unwrap();
            start + SignedDuration::from_mins(minute)
        };
        let waits = scheduled(0, "ContainerCreating");
        assert!(!waits.waits_too_long(at(9)) && waits.waits_too_long(at(10)));
        let others = [
            scheduled(1, "ContainerCreating"),
            scheduled(0, "CrashLoopBackOff"),
            scheduled(0, "PodInitializing"),
            facts(json!({"conditions": [{"type": "PodScheduled", "status": "False"}]})),
        ];
        assert!(others.iter().all(|pod| !pod.waits_too_long(at(60))));
    }

    #[test]
    fn a_container_that_ended_is_told_and_only_one_that_will_not_start_is_stuck() {
        let killed = container(None, 1, 3600);
        assert!(
            killed.trouble.unwrap().contains("exit code 137") && killed.stuck.is_none(),
            "it recovers its log"
        );
        assert_eq!(
            container(Some("CrashLoopBackOff"), 1, 2).stuck,
            None,
            "once is no loop"
        );
        assert_eq!(
            container(Some("CrashLoopBackOff"), 9, 3600).stuck,
            None,
            "it ran for an hour"
        );
        assert_eq!(
            container(Some("CrashLoopBackOff"), 3, 2).stuck,
            Some(Stuck::Start)
        );
        assert_eq!(
            container(Some("ImagePullBackOff"), 0, 0).stuck,
            Some(Stuck::Start)
        );
        assert_eq!(container(Some("ContainerCreating"), 0, 0).stuck, None);
    }

    #[test]
    fn a_pod_that_is_not_scheduled_says_whether_that_is_because_of_its_volume() {
        let unscheduled = |message: &str| {
            facts(
                json!({"conditions": [{"type": "PodScheduled", "status": "False", "message": message}]}),
            )
        };
        let full = unscheduled("0/3 nodes are available: 3 Insufficient memory.");
        assert!(
            full.stuck == Some(Stuck::Unscheduled)
                && !full.trouble.unwrap().contains("freehold.dev/replace")
        );
        for message in [
            "0/3 nodes are available: 1 node(s) didn't match PersistentVolume's node affinity, 2 node(s) didn't match Pod's node affinity/selector.",
            "0/3 nodes are available: 3 node(s) had volume node affinity conflict.",
            "0/3 nodes are available: persistentvolumeclaim \"data-c-p-a-7\" bound to non-existent persistentvolume \"x\". preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling.",
            "persistentvolumeclaim \"data-c-p-a-7\" bound to non-existent persistentvolume \"x\"",
        ] {
            let lost = unscheduled(message);
            assert_eq!(lost.stuck, Some(Stuck::OutOfReach), "{message}");
            assert!(
                lost.trouble.unwrap().contains("freehold.dev/replace=7"),
                "{message}"
            );
        }
        // One of the other Kubernetes nodes may be the volume's, and may come back.
        for other in [
            "1 node(s) were unschedulable",
            "1 Insufficient memory",
            "1 Too many pods",
            "1 node(s) had untolerated taint {a: b}",
        ] {
            let message = format!(
                "0/2 nodes are available: {other}, 1 node(s) had volume node affinity conflict. preemption: 0/2 nodes are available."
            );
            let waits = unscheduled(&message);
            assert_eq!(waits.stuck, Some(Stuck::Unscheduled), "{message}");
            assert!(
                waits.trouble.unwrap().contains("freehold.dev/replace=7"),
                "a person may know better: {message}"
            );
        }
    }
}
