//! Rolling restarts of generated clusters against a model of restarts: every batch obeys the rule,
//! every node restarts once, and the rolling restart finishes, also if the operator dies between
//! any two reconciles.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use crate::fixture;
use crate::linter;
use crate::rolling;

use fixture::{Pod, World, node_claim, observe};
use freehold::api::kafka_cluster::{KafkaCluster, KafkaClusterStatus};
use freehold::kinds::kafka_cluster::observed::{Claim, Stuck};
use freehold::kinds::kafka_cluster::plan::{Plan, Step};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proptest::prelude::*;
use rolling::Model;

const LOOKS_MAX: usize = 400;

proptest! {
    #![proptest_config(ProptestConfig { cases: fixture::cases(28), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_roll_obeys_the_rule_restarts_each_node_once_and_ends(
        per_zone in 1..=3_i32,
        placements in prop::collection::vec((0..9_usize, 0..9_usize, 0..9_usize), 1..20),
        chances in prop::collection::vec((0..9_usize, prop::bool::weighted(0.2)), 1..50),
    ) {
        let mut model = Model::new(per_zone, &placements);
        let nodes = model.phases.len();
        let before: Vec<Vec<i32>> = model.partitions.iter().map(|(replicas, _)| replicas.clone()).collect();
        for look in 0..LOOKS_MAX {
            let (choice, dies) = chances[look % chances.len()];
            let plan = model.plan();
            let idle = plan.steps.is_empty() && plan.lease.is_none() && plan.waiting_on.is_empty();
            // The status of the object is all that remains of an operator that dies.
            model.apply(plan, dies && look % 7 != 0);
            if idle && model.new.len() == nodes && model.object.status.as_ref().is_some_and(|status| status.disruption.is_none()) {
                break;
            }
            model.time_passes(choice);
        }
        prop_assert_eq!(model.new.len(), nodes, "the roll came to its end");
        prop_assert!(model.restarts.values().all(|count| *count == 1), "{:?}", model.restarts);
        prop_assert!(model.partitions.iter().all(|(replicas, leader)| *leader == replicas[0]), "everybody leads again");
        prop_assert_eq!(model.partitions.iter().map(|(replicas, _)| replicas).collect::<Vec<_>>(), before.iter().collect::<Vec<_>>());
    }
}

/// A container that exited once is started again by itself: its pod, though out of date, waits for
/// its turn like all others.
#[test]
fn a_pod_that_only_restarts_is_not_deleted_out_of_its_turn() {
    let mut model = Model::new(1, &[(0, 0, 0)]);
    let window =
        serde_json::json!({"maintenanceWindows": [{"cron": "0 2 1 1 *", "durationMinutes": 60}]});
    model.object.spec.rollout = serde_json::from_value(window).unwrap();
    let mut world = model.world();
    world.pods[0] = Pod {
        node: 0,
        trouble: Some("restarted 1 times".into()),
        config: Some("old".into()),
        ..Pod::default()
    };
    let look = |world: &World, serves: bool| {
        let mut world = world.clone();
        if !serves {
            let kafka = world.kafka.as_mut().unwrap();
            (kafka.unfenced, kafka.fenced) = (vec![100, 200], vec![0]);
            kafka.partitions[0].1 = vec![100, 200];
            kafka.voters.insert(0, 1);
        }
        let (observed, valid) = observe(&model.object, &world);
        linter::plan(&model.object, &valid.unwrap(), &observed)
    };
    assert!(
        look(&world, false).lease.is_none(),
        "it may be in the middle of its recovery"
    );
    world.pods[0].stuck = Some(Stuck::Start);
    assert!(
        look(&world, true).lease.is_none(),
        "it is in an ISR and votes"
    );
    assert_eq!(
        look(&world, false).lease.map(|lease| lease.node_ids),
        Some(vec![0]),
        "it can be repaired, and harms nothing"
    );
}

#[test]
fn a_claim_that_is_deleted_under_a_running_pod_is_told_and_not_lost_by_a_restart() {
    let model = Model::new(1, &[(0, 0, 0)]);
    let (mut observed, valid) = model.observed();
    fixture::set(
        &mut observed.volumes[0],
        ["metadata", "deletionTimestamp"],
        "2026-05-31T00:00:00Z",
    );
    observed
        .pods
        .iter_mut()
        .for_each(|pod| pod.host = Some("host".into()));
    let plan = linter::plan(&model.object, &valid, &observed);
    assert!(
        plan.warnings
            .iter()
            .any(|warning| warning.contains("data-c-p-a-0")
                && warning.contains("freehold.dev/replace=0"))
    );
    assert_eq!(
        plan.lease.map(|lease| lease.node_ids),
        Some(vec![200]),
        "others first"
    );
}

/// The nodes that a plan restarts.
fn restarted(plan: &Plan) -> Vec<i32> {
    let restart = |step: &Step| match step {
        Step::RestartPod { pod, .. } => Some(pod.node_id),
        _ => None,
    };
    plan.steps.iter().filter_map(restart).collect()
}

#[test]
fn a_volume_that_is_deleted_after_the_restart_of_its_node_was_granted_is_kept() {
    let mut model = Model::new(1, &[(0, 0, 0)]);
    let mut lease = model.plan().lease.unwrap();
    let node = lease.node_ids[0];
    // So long ago that leadership is handed over, or is left to the shutdown.
    lease.since = Time("2026-01-01T00:00:00Z".parse().unwrap());
    model.object.status = Some(KafkaClusterStatus {
        disruption: Some(lease),
        ..KafkaClusterStatus::default()
    });
    assert_eq!(restarted(&model.plan()), [node], "without a deletion");
    let (mut observed, valid) = model.observed();
    let of_node = |claim: &&mut Claim| claim.name().ends_with(&format!("-{node}"));
    let claim = observed.volumes.iter_mut().find(of_node).unwrap();
    fixture::set(
        claim,
        ["metadata", "deletionTimestamp"],
        "2026-05-31T00:00:00Z",
    );
    for pod in &mut observed.pods {
        pod.host = Some("host".into());
    }
    let plan = linter::plan(&model.object, &valid, &observed);
    assert_eq!(restarted(&plan), [0; 0]);
    let nodes = plan.lease.map(|lease| lease.node_ids).unwrap_or_default();
    assert!(!nodes.contains(&node), "the others go on: {nodes:?}");
}

#[test]
fn a_pod_that_cannot_start_is_not_recreated_while_its_volume_is_being_deleted() {
    let model = Model::new(1, &[(0, 0, 0)]);
    let mut world = model.world();
    world.pods[0] = Pod {
        node: 0,
        trouble: Some("ImagePullBackOff".into()),
        stuck: Some(Stuck::Start),
        config: Some("broken".into()),
        ..Pod::default()
    };
    let kafka = world.kafka.as_mut().unwrap();
    (kafka.unfenced, kafka.fenced) = (vec![100, 200], vec![0]);
    kafka.partitions[0].1 = vec![100, 200];
    kafka.voters.insert(0, 1);
    let plan = |is_deleted: bool| {
        let (mut observed, valid) = observe(&model.object, &world);
        let mut claim = node_claim("p", "c-p-a-0", "claim-0");
        if is_deleted {
            let field = ["metadata", "deletionTimestamp"];
            fixture::set(&mut claim, field, "2026-05-31T00:00:00Z");
        }
        observed.volumes = vec![claim];
        observed.pods[0].host = Some("host".into());
        linter::plan(&model.object, &valid.unwrap(), &observed)
    };
    let repaired = plan(false).lease.map(|lease| lease.node_ids);
    assert_eq!(repaired, Some(vec![0]), "without a deletion");
    let plan = plan(true);
    assert!(plan.lease.is_none() && restarted(&plan).is_empty());
    let told = |warning: &String| warning.contains("freehold.dev/replace=0");
    assert!(plan.warnings.iter().any(told), "{:?}", plan.warnings);
}

#[test]
fn a_pod_that_cannot_start_is_repaired_and_stops_the_others_until_then() {
    let mut model = Model::new(1, &[(0, 0, 0)]);
    let mut world = model.world();
    // The first node was restarted with a template that cannot start. The spec has changed since,
    // so that all nodes are out of date.
    world.pods[0] = Pod {
        node: 0,
        trouble: Some("ImagePullBackOff".into()),
        stuck: Some(Stuck::Start),
        config: Some("broken".into()),
        ..Pod::default()
    };
    let kafka = world.kafka.as_mut().unwrap();
    (kafka.unfenced, kafka.fenced) = (vec![100, 200], vec![0]);
    kafka.partitions[0].1 = vec![100, 200];
    kafka.voters.insert(0, 1);
    let look = |model: &Model| {
        let (observed, valid) = observe(&model.object, &world);
        linter::plan(&model.object, &valid.unwrap(), &observed)
    };
    let first = look(&model);
    assert!(
        !first
            .steps
            .iter()
            .any(|step| matches!(step, Step::RestartPod { .. })),
        "the lease comes first"
    );
    assert_eq!(first.lease.as_ref().unwrap().node_ids, [0]);
    model.object.status = Some(KafkaClusterStatus {
        disruption: first.lease,
        ..KafkaClusterStatus::default()
    });
    let second = look(&model);
    assert_eq!(restarted(&second), [0], "the broken one alone");
}

/// Two nodes of a zone restart together. One of them has restarted and is not in sync yet, so that
/// no other may restart. The other one never ran: its repair waits for nobody.
#[test]
fn a_node_that_cannot_start_is_repaired_though_the_other_ones_of_its_batch_must_wait() {
    let mut model = Model::new(3, &[(0, 0, 0), (1, 1, 1), (2, 2, 2)]);
    let mut lease = model.plan().lease.unwrap();
    lease.node_ids = vec![0, 1, 2];
    lease.since = Time("2026-01-01T00:00:00Z".parse().unwrap());
    lease.handed_over = Vec::new();
    model.object.status = Some(KafkaClusterStatus {
        disruption: Some(lease),
        ..KafkaClusterStatus::default()
    });
    model.new.insert(0);
    let mut world = model.world();
    world.pods[1] = Pod {
        node: 1,
        trouble: Some("ImagePullBackOff".into()),
        stuck: Some(Stuck::Start),
        config: Some("broken".into()),
        ..Pod::default()
    };
    let kafka = world.kafka.as_mut().unwrap();
    kafka.unfenced.retain(|id| *id != 1);
    kafka.fenced = vec![1];
    // The node that restarted serves, and catches up.
    for (_, in_sync) in &mut kafka.partitions {
        in_sync.retain(|id| ![0, 1].contains(id));
    }
    kafka.voters.extend([(0, 1), (1, 1)]);
    // Node 2 holds a partition that has no replica to spare.
    kafka.partitions.push((vec![2, 100], vec![2, 100]));
    let (observed, valid) = observe(&model.object, &world);
    let plan = linter::plan(&model.object, &valid.unwrap(), &observed);
    assert_eq!(restarted(&plan), [1], "{:?}", plan.waiting_on);
    assert_eq!(plan.lease.unwrap().node_ids, [0, 1, 2]);
}

/// A broker was away by itself, and another one leads its partition. It leads again, although a roll
/// waits for a window that may open in months.
#[test]
fn leaders_go_back_while_a_roll_waits_for_its_window() {
    let mut model = Model::new(1, &[(0, 0, 0)]);
    let window =
        serde_json::json!({"maintenanceWindows": [{"cron": "0 2 1 1 *", "durationMinutes": 60}]});
    model.object.spec.rollout = serde_json::from_value(window).unwrap();
    model.partitions[0].1 = 100;
    let plan = model.plan();
    assert!(plan.lease.is_none());
    let elects = |step: &Step| matches!(step, Step::ElectLeaders(all) if all[0].leader == 0);
    assert!(plan.steps.iter().any(elects), "{:?}", plan.waiting_on);
}

/// A change that only a new version of Freehold causes restarts nothing before a user allows it;
/// the status says how.
#[test]
fn what_the_operator_alone_changed_restarts_nothing_before_somebody_allows_it() {
    let mut model = Model::new(1, &[(0, 0, 0)]);
    let look = |model: &Model| {
        let (mut observed, valid) = model.observed();
        let set = &observed.objects.stateful_sets()[0];
        let spec =
            set.live.value["spec"]["template"]["metadata"]["annotations"]["freehold.dev/spec-hash"]
                .as_str()
                .unwrap()
                .to_owned();
        for pod in &mut observed.pods {
            (pod.revision.spec, pod.revision.requested) = (spec.clone(), None);
        }
        linter::plan(&model.object, &valid, &observed)
    };
    let waits = look(&model);
    let way_out = "set spec.rollout.operatorUpgrade to Restart, or ask for it by the annotation freehold.dev/restart";
    assert!(
        waits.lease.is_none()
            && waits
                .warnings
                .iter()
                .any(|warning| warning.contains(way_out)),
        "{:?}",
        waits.warnings
    );
    model.object.metadata.annotations =
        Some([("freehold.dev/restart".to_owned(), "1".to_owned())].into());
    assert_eq!(
        look(&model).lease.map(|lease| lease.node_ids),
        Some(vec![0]),
        "asked for by the annotation"
    );
    model.object.metadata.annotations = None;
    model.object.spec.rollout =
        serde_json::from_value(serde_json::json!({"operatorUpgrade": "Restart"})).unwrap();
    assert_eq!(
        look(&model).lease.map(|lease| lease.node_ids),
        Some(vec![0]),
        "allowed by the spec"
    );
}

#[test]
fn outside_its_windows_and_without_consent_nothing_begins_and_it_says_what_it_waits_for() {
    let words = |plan: &Plan| {
        plan.waiting_on
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("; ")
    };
    let mut model = Model::new(1, &[(0, 0, 0)]);
    let window =
        serde_json::json!({"maintenanceWindows": [{"cron": "0 2 * * *", "durationMinutes": 60}]});
    model.object.spec.rollout = serde_json::from_value(window).unwrap();
    let plan = model.plan();
    assert!(
        plan.lease.is_none()
            && words(&plan).contains("maintenance window that opens at 2026-06-01T02:00:00Z"),
        "{}",
        words(&plan)
    );
    model.object.spec.rollout = Default::default();
    assert!(model.plan().lease.is_some());

    // The partition has two replicas and needs two in sync: no restart can spare it.
    let mut world = model.world();
    world.kafka.as_mut().unwrap().partitions =
        vec![(vec![0, 100], vec![0, 100]), (vec![200], vec![200])];
    let look = |object: &KafkaCluster| {
        let (observed, valid) = observe(object, &world);
        linter::plan(object, &valid.unwrap(), &observed)
    };
    let plan = look(&model.object);
    assert!(
        plan.lease.is_none() && words(&plan).contains("spec.rollout.allowUnavailable"),
        "{}",
        words(&plan)
    );
    model.object.spec.rollout.allow_unavailable = true;
    assert_eq!(
        look(&model.object).lease.unwrap().node_ids.len(),
        1,
        "one at a time"
    );
}
