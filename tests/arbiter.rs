//! The arbiter: which of several requested disruptions starts, what blocks one, and what takes over
//! from a disruption under way.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use crate::fixture;
use crate::linter;

use fixture::{Kafka, Pod, World, cluster, observe};
use freehold::api::kafka_cluster::{DisruptionKind, DisruptionStatus, KafkaClusterStatus};
use freehold::kinds::kafka_cluster::disruption::arbiter::{Decision, arbitrate};
use freehold::kinds::kafka_cluster::disruption::{
    Facts, Grant, Lease, Mode, Needs, Pending, Priority, Progress, Report, WaitingOn, Wish, Work,
};
use freehold::kinds::kafka_cluster::plan::Step;
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
        |_| {
            wish(
                Priority::Balance,
                0,
                Work::Reassignment { total: None },
                Needs::default(),
            )
        },
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
        kept(Some(lease(2, Work::Reassignment { total: None }))).is_replacement(),
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
    let moves: Concern = |_| {
        wish(
            Priority::Balance,
            2,
            Work::Reassignment { total: None },
            Needs::default(),
        )
    };
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
        let found = linter::faults(&plan, &restarting(other), &observed);
        assert!(
            found
                .iter()
                .any(|fault| fault.contains("a step of a Restart")),
            "{found:?}"
        );
    }
}
