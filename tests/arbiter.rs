//! The arbiter: which of several requested disruptions starts, what blocks one, and what takes over
//! from a disruption under way.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use crate::fixture;
use crate::linter;

use fixture::{Kafka, Pod, World, cluster, named_claim, node_claim, observe};
use freehold::api::kafka_cluster::{
    DisruptionKind, DisruptionStatus, KafkaCluster, KafkaClusterStatus,
};
use freehold::kinds::kafka_cluster::disruption::arbiter::{Decision, arbitrate};
use freehold::kinds::kafka_cluster::disruption::{
    Facts, Grant, Lease, Mode, Needs, Pending, Priority, Progress, Report, WaitingOn, Wish, Work,
};
use freehold::kinds::kafka_cluster::model::cluster::ValidCluster;
use freehold::kinds::kafka_cluster::observed::{KafkaFacts, Observed, PodFacts, Stuck};
use freehold::kinds::kafka_cluster::plan::{Plan, Step};
use freehold::kinds::kafka_cluster::step::RestartReason;
use freehold_kafka::metadata_image::PartitionImage;
use freehold_kafka::metadata_record::PartitionFields;
use freehold_kafka::safety::{self, Permit, TopicView};
use freehold_kafka_client::QuorumDescription;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use std::collections::BTreeMap;

const SPEC: &str = "apiVersion: freehold.dev/v1alpha1\nkind: KafkaCluster\nmetadata: {name: c, namespace: n}\nspec:\n  version: 4.3.1\n  \
                    nodePools:\n  - {name: p, roles: [controller, broker], replicas: 3, zones: [a], storage: {size: 1Gi}}\n";

type Concern = fn(&Facts<'_>) -> Report;

fn lease(node: i32, work: Work) -> Lease {
    Lease {
        nodes: [node].into(),
        why: format!("about node {node}"),
        since: Time(Timestamp::UNIX_EPOCH),
        work,
    }
}

fn wish(priority: Priority, node: i32, work: Work, needs: Needs) -> Report {
    let grant = Grant::Lease(lease(node, work));
    Report {
        wishes: vec![Wish {
            priority,
            nodes: [node].into(),
            needs,
            grant,
            rebalance: None,
        }],
        ..Report::default()
    }
}

fn restart() -> Work {
    Work::Restart {
        handed_over: Vec::new(),
    }
}

fn moves() -> Work {
    Work::Reassignment {
        total: None,
        handed_over: Vec::new(),
    }
}

fn replacement() -> Work {
    Work::Replacement {
        handed_over: Vec::new(),
        removes: vec!["uid".into()],
    }
}

/// The arbiter's decision for a cluster of three nodes.
fn decide(
    extra: &str,
    held: Option<Lease>,
    mode: Mode,
    pending: Pending,
    ends: bool,
    concerns: &[Concern],
) -> Decision {
    let object = cluster(&format!("{SPEC}{extra}"));
    let voters = BTreeMap::from([(0, 100), (1, 100), (2, 100)]);
    let kafka = Kafka {
        unfenced: vec![0, 1, 2],
        voters,
        ..Kafka::default()
    };
    let (observed, valid) = observe(
        &object,
        &World::running([Pod::up(0), Pod::up(1), Pod::up(2)], kafka),
    );
    let valid = valid.unwrap();
    let facts = Facts {
        object: &object,
        cluster: &valid,
        observed: &observed,
        desired: &[],
        pending,
        lease: held,
        mode,
    };
    let resume = |held: &Lease| {
        if ends {
            Progress::ended(Report::default())
        } else {
            Progress::goes_on(Report::default(), held.clone())
        }
    };
    arbitrate(&facts, Report::default(), concerns, resume)
}

fn begun(extra: &str, concerns: &[Concern]) -> (Option<String>, Vec<String>) {
    let Decision { report, lease } = decide(
        extra,
        None,
        Mode::Change,
        Pending::default(),
        false,
        concerns,
    );
    (
        lease.map(|lease| lease.why),
        report.waiting.iter().map(ToString::to_string).collect(),
    )
}

#[test]
fn of_several_wishes_the_most_urgent_begins_alone() {
    let all: [Concern; 4] = [
        |_| wish(Priority::Balance, 0, moves(), Needs::default()),
        |_| wish(Priority::Roll, 1, restart(), Needs::default()),
        |_| wish(Priority::Replace, 2, replacement(), Needs::default()),
        |_| wish(Priority::Remove, 1, Work::Quorum, Needs::default()),
    ];
    assert_eq!(begun("", &all).0.as_deref(), Some("about node 2"));
    assert_eq!(
        begun("", &all[..2]).0.as_deref(),
        Some("about node 1"),
        "a roll comes before what only evens out"
    );
    assert_eq!(
        begun("", &[all[3], all[1]]).0.as_deref(),
        Some("about node 1"),
        "and before a removal"
    );
}

#[test]
fn a_wish_is_held_up_by_what_other_nodes_wait_for_and_never_by_its_own() {
    let wishes: Concern = |_| {
        wish(
            Priority::Remove,
            0,
            Work::Quorum,
            Needs {
                calm: true,
                ..Needs::default()
            },
        )
    };
    let own: Concern = |_| Report {
        waiting: vec![WaitingOn::InSync { node_id: 0 }],
        ..Report::default()
    };
    let other: Concern = |_| Report {
        waiting: vec![WaitingOn::InSync { node_id: 1 }],
        ..Report::default()
    };
    let roll: Concern = |_| Report {
        waiting: vec![WaitingOn::Outdated { nodes: 2 }],
        ..Report::default()
    };
    let volume: Concern = |_| Report {
        waiting: vec![WaitingOn::Volume {
            claim: "v".into(),
            why: "grows".into(),
        }],
        ..Report::default()
    };
    assert!(begun("", &[own, wishes]).0.is_some());
    assert!(
        begun("", &[wishes, other]).0.is_none(),
        "in whatever order they are asked"
    );
    assert!(
        begun("", &[roll, wishes]).0.is_some(),
        "a roll that cannot go on holds up no removal"
    );
    assert!(
        begun("", &[volume, wishes]).0.is_some(),
        "nothing waits for a volume that grows"
    );
}

#[test]
fn a_roll_waits_for_its_window_and_a_replacement_does_not() {
    let closed = "  rollout: {maintenanceWindows: [{cron: '0 2 29 2 *', durationMinutes: 1}]}\n";
    let roll: Concern = |_| {
        wish(
            Priority::Roll,
            0,
            restart(),
            Needs {
                window: true,
                ..Needs::default()
            },
        )
    };
    let replace: Concern = |_| wish(Priority::Replace, 1, replacement(), Needs::default());
    let (lease, waiting) = begun(closed, &[roll, roll]);
    assert!(
        lease.is_none() && waiting.len() == 1 && waiting[0].contains("maintenance window"),
        "{waiting:?}"
    );
    assert_eq!(
        begun(closed, &[roll, replace]).0.as_deref(),
        Some("about node 1")
    );
}

#[test]
fn nothing_begins_while_pods_would_be_made_from_what_is_not_applied() {
    let roll: Concern = |_| {
        wish(
            Priority::Roll,
            0,
            restart(),
            Needs {
                applied: true,
                ..Needs::default()
            },
        )
    };
    let identity = freehold::kinds::kafka_cluster::observed::Identity::default();
    let pending = Pending::of(&[Step::UpdateIdentity(identity)]);
    assert!(
        decide("", None, Mode::Change, pending, false, &[roll])
            .lease
            .is_none()
    );
    assert!(
        decide("", None, Mode::Change, Pending::default(), false, &[roll])
            .lease
            .is_some()
    );
}

#[test]
fn a_replacement_takes_over_what_waits_for_its_node_and_keeps_what_others_lead() {
    let replace: Concern = |_| wish(Priority::Replace, 1, replacement(), Needs::default());
    let handed_over = vec![freehold::api::kafka_cluster::HandedOver {
        node_id: 1,
        partitions: vec!["t:0".into()],
    }];
    let held = |node: i32| {
        Some(lease(
            node,
            Work::Restart {
                handed_over: handed_over.clone(),
            },
        ))
    };
    let kept = |held: Option<Lease>| {
        decide(
            "",
            held,
            Mode::Change,
            Pending::default(),
            false,
            &[replace],
        )
        .lease
        .unwrap()
    };
    let taken = kept(held(1));
    assert!(taken.is_replacement());
    assert_eq!(taken.handed_over(), handed_over);
    assert!(
        kept(held(2)).is_restart(),
        "the restart of another node goes on"
    );
    assert!(
        kept(Some(lease(2, moves()))).is_replacement(),
        "moves wait for every broker"
    );
    assert_eq!(kept(Some(lease(1, Work::Quorum))).work, Work::Quorum);
    assert!(
        decide(
            "",
            held(1),
            Mode::Keep,
            Pending::default(),
            false,
            &[replace]
        )
        .lease
        .unwrap()
        .is_restart(),
        "nothing is begun"
    );
}

#[test]
fn when_a_disruption_ends_another_kind_may_begin_at_once_and_the_same_kind_may_not() {
    let roll: Concern = |_| wish(Priority::Roll, 0, restart(), Needs::default());
    let moves: Concern = |_| wish(Priority::Balance, 2, moves(), Needs::default());
    let after = |mode, concerns: &[Concern]| {
        decide(
            "",
            Some(lease(1, restart())),
            mode,
            Pending::default(),
            true,
            concerns,
        )
        .lease
        .map(|lease| lease.why)
    };
    assert_eq!(
        after(Mode::Change, &[roll, moves]).as_deref(),
        Some("about node 2")
    );
    assert_eq!(after(Mode::Change, &[roll]), None);
    assert_eq!(after(Mode::Keep, &[roll, moves]), None);
}

/// The linter finds what it must find: a plan that is correct for one status is not correct for
/// another.
#[test]
fn the_linter_finds_steps_that_nobody_granted() {
    let object = cluster(SPEC);
    let voters = BTreeMap::from([(0, 100), (1, 100), (2, 100)]);
    let kafka = Kafka {
        unfenced: vec![0, 1, 2],
        voters,
        ..Kafka::default()
    };
    let (mut observed, valid) = observe(
        &object,
        &World::running([Pod::up(0), Pod::up(1), Pod::up(2)], kafka),
    );
    let valid = valid.unwrap();
    for pod in &mut observed.pods {
        (pod.revision.image, pod.revision.spec) = ("old".into(), "another".into());
    }
    let begun = linter::plan(&object, &valid, &observed);
    let restarting = |disruption: Option<DisruptionStatus>| {
        let status = Some(KafkaClusterStatus {
            disruption,
            ..KafkaClusterStatus::default()
        });
        freehold::api::kafka_cluster::KafkaCluster {
            status,
            ..object.clone()
        }
    };
    let held = restarting(begun.lease.clone());
    let plan = linter::plan(&held, &valid, &observed);
    assert!(
        plan.steps
            .iter()
            .any(|step| matches!(step, Step::RestartPod { .. })),
        "{:?}",
        plan.waiting_on
    );
    // The same steps while another disruption is under way, or none.
    let moving = DisruptionStatus {
        kind: DisruptionKind::Reassignment,
        ..begun.lease.unwrap()
    };
    for other in [Some(moving), None] {
        let found = linter::faults(&plan, &restarting(other), &valid, &observed);
        assert!(
            found
                .iter()
                .any(|fault| fault.contains("a step of a Restart")),
            "{found:?}"
        );
    }
}

/// A plan that was made by hand, for a cluster of three nodes that hold every partition.
struct Made {
    object: KafkaCluster,
    cluster: ValidCluster,
    observed: Observed,
    held: Option<DisruptionStatus>,
    steps: Vec<Step>,
}

fn permit(node: i32) -> Permit {
    safety::can_repair(node, None).unwrap()
}

fn a_partition(replicas: &[i32], in_sync: &[i32], leader: i32) -> PartitionImage {
    PartitionImage::of(PartitionFields {
        replicas: Some(replicas.to_vec()),
        in_sync: Some(in_sync.to_vec()),
        leader: Some(leader),
        ..PartitionFields::default()
    })
}

impl Made {
    /// Nothing is planned, and nothing is under way.
    fn new() -> Self {
        let object = cluster(SPEC);
        let kafka = Kafka {
            unfenced: vec![0, 1, 2],
            leader: 1,
            voters: BTreeMap::from([(0, 100), (1, 100), (2, 100)]),
            partitions: vec![(vec![0, 1, 2], vec![1, 2, 0])],
            min_in_sync: Some(2),
            ..Kafka::default()
        };
        let pods = [Pod::up(0), Pod::up(1), Pod::up(2)];
        let (mut observed, valid) = observe(&object, &World::running(pods, kafka));
        let claim = |id| node_claim("p", &format!("c-p-a-{id}"), &format!("claim-{id}"));
        observed.volumes = [0, 1, 2].map(claim).into();
        Self {
            object,
            cluster: valid.unwrap(),
            observed,
            held: None,
            steps: Vec::new(),
        }
    }

    fn hold(&mut self, kind: DisruptionKind, node: i32) {
        self.held = Some(DisruptionStatus {
            kind,
            node_ids: vec![node],
            why: "w".into(),
            since: Time(Timestamp::UNIX_EPOCH),
            total: None,
            handed_over: Vec::new(),
            removes: vec!["claim-0".into(), "pod-0".into()],
        });
    }

    fn restart(&mut self, node: i32, reason: RestartReason) {
        let pod = Box::new(self.pod(node).clone());
        self.steps.push(Step::RestartPod {
            pod,
            reasons: vec![reason],
            permit: permit(node),
        });
    }

    fn delete(&mut self, claim: usize, node: i32) {
        self.steps.push(Step::DeleteVolume {
            claim: Box::new(self.observed.volumes[claim].live.clone()),
            permit: permit(node),
        });
    }

    fn pod(&mut self, node: i32) -> &mut PodFacts {
        let mut pods = self.observed.pods.iter_mut();
        pods.find(|pod| pod.node_id == node).unwrap()
    }

    fn topic(&mut self) -> &mut TopicView {
        let KafkaFacts::Answered { topics, .. } = &mut self.observed.kafka else {
            panic!("no answer")
        };
        &mut topics[0]
    }

    fn quorum(&mut self) -> &mut QuorumDescription {
        let KafkaFacts::Answered { quorum, .. } = &mut self.observed.kafka else {
            panic!("no answer")
        };
        quorum
    }

    /// The machine of node 0 is lost, with its volume.
    fn lose(&mut self) {
        let pod = self.pod(0);
        (pod.containers_ready, pod.stuck) = (false, Some(Stuck::OutOfReach));
        self.fence(true);
        self.quorum().voters[0].log_end_offset = -1;
        self.topic().partitions = vec![a_partition(&[0, 1, 2], &[1, 2], 1)];
    }

    fn fence(&mut self, fenced: bool) {
        let KafkaFacts::Answered { cluster, .. } = &mut self.observed.kafka else {
            panic!("no answer")
        };
        let of_node = cluster.brokers.iter_mut().find(|broker| broker.id == 0);
        of_node.unwrap().fenced = fenced;
    }

    fn faults(self) -> Vec<String> {
        let status = KafkaClusterStatus {
            disruption: self.held,
            ..KafkaClusterStatus::default()
        };
        let object = KafkaCluster {
            status: Some(status),
            ..self.object
        };
        let plan = Plan {
            steps: self.steps,
            ..Plan::default()
        };
        linter::faults(&plan, &object, &self.cluster, &self.observed)
    }
}

/// The restart of node 0, which the status has.
fn a_restart() -> Made {
    let mut made = Made::new();
    made.hold(DisruptionKind::Restart, 0);
    made
}

/// The replacement of node 0, which is lost. The status has it.
fn a_replacement() -> Made {
    let mut made = Made::new();
    made.hold(DisruptionKind::Replacement, 0);
    made.lose();
    made
}

/// What the linter finds after a change of a plan that it lets pass.
fn finds(sound: &dyn Fn(&mut Made), made: fn() -> Made, fault: &str, change: &dyn Fn(&mut Made)) {
    let found = |change: &dyn Fn(&mut Made)| {
        let mut made = made();
        change(&mut made);
        sound(&mut made);
        made.faults()
    };
    assert_eq!(found(&|_| {}), [""; 0], "before the change");
    let found = found(change);
    assert!(
        found.len() == 1 && found[0].contains(fault),
        "{fault}: {found:?}"
    );
}

#[test]
fn the_linter_finds_restarts_that_harm() {
    let finds = |fault: &str, change: &dyn Fn(&mut Made)| {
        let restart = |made: &mut Made| made.restart(0, RestartReason::Config);
        finds(&restart, a_restart, fault, change);
    };
    finds("a step of a Restart", &|made| made.held = None);
    finds("a step of a Restart", &|made| {
        made.hold(DisruptionKind::Restart, 1);
    });
    finds("no uid", &|made| made.pod(0).uid.clear());
    finds("no resourceVersion", &|made| {
        made.pod(0).resource_version.clear();
    });
    finds("node 0 serves", &|made| {
        // Its pod says that it cannot start.
        (made.pod(0).containers_ready, made.pod(0).stuck) = (false, Some(Stuck::Start));
    });
    finds("its volume goes with it", &|made| {
        made.pod(0).host = Some("host".into());
        let time = "2026-05-31T00:00:00Z";
        fixture::set(
            &mut made.observed.volumes[0],
            ["metadata", "deletionTimestamp"],
            time,
        );
    });
    finds("{0} leave 2 of [0, 1, 2] in sync", &|made| {
        made.topic().min_in_sync = 3;
    });
    // A replica that is being removed may be gone before the node is back.
    finds("{0} leave 1 of [0, 1, 2] in sync", &|made| {
        made.topic().partitions = vec![PartitionImage::of(PartitionFields {
            replicas: Some(vec![0, 1, 2]),
            in_sync: Some(vec![0, 1, 2]),
            removing: Some(vec![2]),
            leader: Some(1),
            ..PartitionFields::default()
        })];
    });
    finds("{0} leave 1 of 3 voters", &|made| {
        made.quorum().voters[2].log_end_offset = -1;
    });
    finds("on a node that goes", &|made| {
        made.steps.push(Step::Unregister(0));
    });
    let mut other = a_restart();
    let pod = Box::new(other.pod(0).clone());
    other.steps.push(Step::RestartPod {
        pod,
        reasons: vec![RestartReason::Config],
        permit: permit(1),
    });
    assert!(other.faults()[0].contains("the permit is not for node 0"));
}

#[test]
fn the_linter_finds_volumes_that_are_needed() {
    let deletes = |fault: &str, change: &dyn Fn(&mut Made)| {
        finds(&|made| made.delete(0, 0), a_replacement, fault, change);
    };
    deletes("a step of a Replacement", &|made| made.held = None);
    deletes("a step of a Replacement", &|made| {
        made.hold(DisruptionKind::Replacement, 1);
    });
    deletes("a step of a Replacement", &|made| {
        // It was made after the replacement began.
        fixture::set(
            &mut made.observed.volumes[0],
            ["metadata", "uid"],
            "another",
        );
    });
    deletes("nobody says what node 0 holds", &|made| {
        made.observed.kafka = KafkaFacts::Unavailable("no".into());
    });
    deletes("node 0 serves from it", &|made| made.fence(false));
    deletes("the quorum needs node 0", &|made| {
        made.quorum().voters[2].log_end_offset = -1;
    });
    let only_copy = |made: &mut Made| {
        made.topic().partitions.push(a_partition(&[0], &[0], -1));
    };
    deletes("may hold the only copy", &only_copy);
    deletes("no resourceVersion", &|made| {
        let claim = &mut made.observed.volumes[0];
        fixture::set(claim, ["metadata", "resourceVersion"], "");
    });
    let mut other = a_replacement();
    other.delete(0, 1);
    assert!(other.faults()[0].contains("the permit is not for node 0"));
    // Nothing more can be lost with a volume that is gone.
    let mut gone = a_replacement();
    only_copy(&mut gone);
    fixture::set(&mut gone.observed.volumes[0], ["status", "phase"], "Lost");
    gone.delete(0, 0);
    assert_eq!(gone.faults(), [""; 0]);

    let replaces = |fault: &str, change: &dyn Fn(&mut Made)| {
        let restart = |made: &mut Made| made.restart(0, RestartReason::Replaced);
        finds(&restart, a_replacement, fault, change);
    };
    replaces("a step of a Replacement", &|made| made.held = None);
    replaces("a step of a Replacement", &|made| {
        made.hold(DisruptionKind::Restart, 0);
    });
    replaces("node 0 serves", &|made| made.fence(false));
}

#[test]
fn the_linter_finds_volumes_of_removed_nodes_that_are_needed() {
    let deletes = |claim: &str, node: i32, fault: &str, change: &dyn Fn(&mut Made)| {
        let delete = |made: &mut Made| {
            made.observed.volumes.push(named_claim("p", claim));
            made.delete(3, node);
        };
        finds(&delete, Made::new, fault, change);
    };
    let removed = "data-c-p-a-7";
    deletes(removed, 7, "node 7 may need what is on it", &|made| {
        made.topic().partitions.push(a_partition(&[7, 1], &[1], 1));
    });
    deletes(removed, 7, "node 7 may need what is on it", &|made| {
        let mut voter = made.quorum().voters[0].clone();
        (voter.id, voter.log_end_offset) = (7, -1);
        made.quorum().voters.push(voter);
    });
    // Node 0 runs without this volume.
    let unmounted = "data-more-c-p-a-0";
    deletes(unmounted, 0, "node 0 may need what is on it", &|made| {
        made.topic().partitions.push(a_partition(&[0, 1], &[1], 1));
    });
    deletes(unmounted, 0, "a step of a Replacement", &|made| {
        made.pod(0).volumes.insert("more".into());
        // It could be deleted but for the lease.
        made.lose();
    });
}

#[test]
fn the_linter_finds_moves_and_changes_of_the_quorum_without_a_lease() {
    let directory = uuid::Uuid::nil();
    let steps: [(DisruptionKind, &dyn Fn() -> Step); 4] = [
        (DisruptionKind::Reassignment, &|| Step::Reassign(Vec::new())),
        (DisruptionKind::Volumes, &|| Step::MoveFolders {
            broker: 0,
            moves: Vec::new(),
        }),
        (DisruptionKind::Quorum, &|| Step::AddVoter {
            id: 0,
            directory,
            host: "host".into(),
        }),
        (DisruptionKind::Quorum, &|| Step::RemoveVoter {
            id: 0,
            directory,
            permit: permit(0),
        }),
    ];
    for (kind, step) in steps {
        let fault = format!("a step of a {kind:?}");
        let made: fn() -> Made = Made::new;
        let held = |made: &mut Made| {
            if made.held.is_none() {
                made.hold(kind, 0);
            }
            made.steps.push(step());
        };
        let another = |made: &mut Made| {
            let kind = match kind {
                DisruptionKind::Reassignment => DisruptionKind::Volumes,
                _ => DisruptionKind::Reassignment,
            };
            made.hold(kind, 0);
        };
        finds(&held, made, &fault, &another);
    }
    let mut back = a_restart();
    back.steps.push(Step::AddVoter {
        id: 1,
        directory,
        host: "host".into(),
    });
    assert!(
        back.faults()[0].contains("a step of a Quorum"),
        "another node's vote is no part of a restart"
    );
    let mut other = Made::new();
    other.hold(DisruptionKind::Quorum, 0);
    other.steps.push(Step::RemoveVoter {
        id: 0,
        directory,
        permit: permit(1),
    });
    assert!(other.faults()[0].contains("the permit is not for node 0"));
}

#[test]
fn the_linter_finds_changes_of_what_was_not_observed() {
    let without = |field: &str| {
        let mut live = Made::new().observed.objects.all()[0].clone();
        live.value["metadata"][field] = serde_json::Value::Null;
        Box::new(live)
    };
    for field in ["uid", "resourceVersion"] {
        let claim = Step::ChangeVolume {
            claim: without(field),
            bytes: None,
            class: None,
        };
        for step in [
            Step::Prune(without(field)),
            Step::Release(without(field)),
            claim,
        ] {
            let mut made = Made::new();
            made.steps.push(step);
            let found = made.faults();
            assert!(
                found.len() == 1 && found[0].contains(&format!("no {field}")),
                "{found:?}"
            );
        }
    }
    let mut made = Made::new();
    let pod = PodFacts {
        uid: String::new(),
        ..made.pod(0).clone()
    };
    made.steps.push(Step::SetInSync {
        pod: Box::new(pod),
        in_sync: true,
    });
    assert!(made.faults()[0].contains("no uid"));
}

#[test]
fn the_linter_finds_what_begins_or_changes_in_a_cluster_that_must_not_be_changed() {
    let made = a_restart();
    let of = |steps: Vec<Step>, lease: Option<DisruptionStatus>| {
        let plan = Plan {
            steps,
            lease,
            ..Plan::default()
        };
        linter::faults_of_kept(&plan, &made.object)
    };
    let gate = Step::SetInSync {
        pod: Box::new(made.observed.pods[0].clone()),
        in_sync: true,
    };
    assert_eq!(of(vec![gate], None), [""; 0]);
    assert!(of(vec![Step::AddFinalizer], None)[0].contains("must not be changed"));
    assert!(of(Vec::new(), made.held.clone())[0].contains("a Restart begins"));
}
