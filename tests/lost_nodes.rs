//! Nodes whose machine and volume are lost, in the model of rolling restarts: at any moment each is
//! replaced exactly once, and no volume that may still exist is deleted.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use crate::fixture;
use crate::linter;
use crate::rolling;

use freehold::api::kafka_cluster::{DisruptionKind, KafkaClusterStatus, LostNodeStatus};
use freehold::kinds::kafka_cluster::observed::{KafkaFacts, Observed, Stuck};
use freehold::kinds::kafka_cluster::plan::{Plan, Step, WaitingOn};
use freehold::kinds::kafka_cluster::preview;
use freehold::kinds::kafka_cluster::validate::validate;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::SignedDuration;
use proptest::prelude::*;
use rolling::{Model, Phase};
use std::collections::BTreeSet;

const LOOKS_MAX: usize = 400;
/// So many looks after a loss, somebody deletes the topics that lost a partition.
const KEPT_LOOKS: usize = 20;

proptest! {
    #![proptest_config(ProptestConfig { cases: fixture::cases(18), failure_persistence: None, ..ProptestConfig::default() })]

    /// Whenever a machine dies with its volume, also during its own restart, its node gets one new
    /// volume, the vote moves to that volume, and the rolling restart finishes. The replacement is
    /// requested by the annotation or starts automatically. While its volume has the only copy of a
    /// partition, it is not deleted, until somebody deletes the topic.
    #[test]
    fn a_node_that_is_lost_in_a_roll_is_replaced_and_the_roll_ends(
        per_zone in 1..=2_i32,
        placements in prop::collection::vec((0..9_usize, 0..9_usize, 0..9_usize), 1..12),
        chances in prop::collection::vec((0..9_usize, prop::bool::weighted(0.2)), 1..50),
        (at, victim) in (0..40_usize, 0..9_usize),
        by_itself in any::<bool>(),
        alone in any::<bool>(),
    ) {
        let mut model = Model::new(per_zone, &placements);
        let nodes: Vec<i32> = model.phases.keys().copied().collect();
        if alone {
            model.alone = nodes.iter().copied().collect();
            model.object.spec.rollout.allow_unavailable = true;
        }
        let mut victim = nodes[victim % nodes.len()];
        if by_itself {
            model.object.spec.rollout.replace_lost_nodes_after_minutes = Some(30);
        }
        for look in 0..LOOKS_MAX {
            let (choice, dies) = chances[look % chances.len()];
            let plan = model.plan();
            let idle = plan.steps.is_empty() && plan.lease.is_none() && plan.waiting_on.is_empty();
            model.apply(plan, dies && look % 7 != 0);
            if look == at + KEPT_LOOKS {
                prop_assert!(!alone || model.volumes.values().all(|count| *count == 1), "{:?}", model.volumes);
                model.alone.clear();
            }
            if idle && look > at && model.alone.is_empty() && model.object.status.as_ref().is_some_and(|status| status.disruption.is_none()) {
                break;
            }
            model.time_passes(choice);
            if look == at {
                // With another node down, two of three would be down: that is another test.
                victim = nodes.iter().copied().find(|id| !model.is(*id, Phase::Up)).unwrap_or(victim);
                model.lose(victim);
                if !by_itself {
                    model.object.metadata.annotations = Some([("freehold.dev/replace".to_owned(), victim.to_string())].into());
                }
            }
        }
        prop_assert_eq!(model.new.len(), nodes.len(), "the roll came to its end: {:?}", model.plan().waiting_on);
        for id in &nodes {
            prop_assert_eq!(model.volumes[id], if *id == victim { 2 } else { 1 }, "volumes of {}", id);
            prop_assert!(*id == victim || model.restarts.get(id).is_none_or(|count| *count == 1), "{:?}", model.restarts);
        }
        prop_assert_eq!(&model.votes, &model.volumes, "every volume that there is votes");
        prop_assert!(model.phases.values().all(|phase| *phase == Phase::Up), "{:?}", model.phases);
        prop_assert!(model.partitions.iter().all(|(replicas, leader)| *leader == replicas[0]), "everybody leads again");
        let replaced = model.object.status.as_ref().and_then(|status| status.replaced.clone());
        prop_assert_eq!(replaced, (!by_itself).then(|| victim.to_string()));
    }
}

#[test]
fn a_replacement_takes_the_lease_over_from_the_restart_of_its_own_node_and_gives_leaders_back() {
    let mut model = Model::new(1, &[(0, 0, 0), (0, 0, 0)]);
    // Node 0 leads both partitions and restarts first.
    let plan = model.plan();
    assert_eq!(plan.lease.as_ref().unwrap().node_ids, [0]);
    let handed_over = plan.lease.as_ref().unwrap().handed_over.clone();
    assert!(!handed_over.is_empty());
    model.apply(plan, false);
    model.lose(0);
    let waits = model.plan();
    assert_eq!(
        waits.lease.as_ref().unwrap().kind,
        DisruptionKind::Restart,
        "nobody asked for a replacement"
    );
    model.object.metadata.annotations =
        Some([("freehold.dev/replace".to_owned(), "0".to_owned())].into());
    let plan = model.plan();
    let lease = plan.lease.clone().unwrap();
    assert_eq!(
        (lease.kind, lease.node_ids.as_slice(), &lease.handed_over),
        (DisruptionKind::Replacement, &[0][..], &handed_over)
    );
    assert_eq!(lease.removes, ["claim-0-1", "pod-0-2"]);
    assert!(
        plan.steps
            .iter()
            .all(|step| !matches!(step, Step::DeleteVolume { .. } | Step::RestartPod { .. })),
        "the lease comes first"
    );
    assert_eq!(plan.replaced, None, "nothing is done yet");
    model.apply(plan, false);
    let plan = model.plan();
    assert!(
        plan.replaced.is_none()
            && plan
                .steps
                .iter()
                .any(|step| matches!(step, Step::DeleteVolume { .. })),
        "both are still there"
    );
    // The API server refuses both: nothing has changed, and the next plan requests both again.
    model.object.status.as_mut().unwrap().disruption = plan.lease.clone();
    let plan = model.plan();
    assert!(
        plan.replaced.is_none()
            && plan
                .steps
                .iter()
                .any(|step| matches!(step, Step::RestartPod { .. }))
    );
    model.apply(plan, false);
    while !model.is(0, Phase::CatchingUp) {
        model.time_passes(0);
    }
    let plan = model.plan();
    assert_eq!(
        plan.replaced.as_deref(),
        Some("0"),
        "another pod, and another volume"
    );
    assert_eq!(
        plan.lease.as_ref().map(|lease| lease.kind),
        Some(DisruptionKind::Replacement),
        "it is not in sync yet"
    );
}

/// A lost node is never replaced while its volume may hold the only copy of a partition, or while
/// the node serves after all.
#[test]
fn the_only_copy_of_a_partition_and_a_node_that_serves_are_not_deleted() {
    let mut model = Model::new(1, &[(0, 0, 0)]);
    model.new = model.phases.keys().copied().collect();
    model.object.metadata.annotations =
        Some([("freehold.dev/replace".to_owned(), "0".to_owned())].into());
    model.lose(0);
    let with = |model: &Model, change: &dyn Fn(&mut Observed)| {
        let (mut observed, _) = model.observed();
        change(&mut observed);
        linter::plan(
            &model.object,
            &validate(&model.object, &observed).unwrap(),
            &observed,
        )
    };
    let only_copy = |observed: &mut Observed| {
        let KafkaFacts::Answered { topics, .. } = &mut observed.kafka else {
            panic!()
        };
        let mut alone = freehold_kafka::metadata_image::PartitionImage::new(&[0]);
        alone.leader = -1;
        topics[0].partitions.push(alone);
    };
    let plan = with(&model, &only_copy);
    assert!(
        plan.lease.is_none()
            && plan
                .steps
                .iter()
                .all(|step| !matches!(step, Step::DeleteVolume { .. }))
    );
    let told = plan
        .warnings
        .iter()
        .find(|warning| warning.contains("node 0 is lost and cannot be replaced"))
        .unwrap();
    assert!(told.contains("the only copy of t-1"), "{told}");
    // The claim says that the volume is lost: nothing more can be lost.
    let plan = with(&model, &|observed| {
        only_copy(observed);
        fixture::set(&mut observed.volumes[0], ["status", "phase"], "Lost");
    });
    assert_eq!(
        plan.lease.map(|lease| lease.kind),
        Some(DisruptionKind::Replacement)
    );
    let plan = with(&model, &|observed| {
        let KafkaFacts::Answered { cluster, .. } = &mut observed.kafka else {
            panic!()
        };
        cluster
            .brokers
            .iter_mut()
            .for_each(|broker| broker.fenced = false);
    });
    assert!(
        plan.lease
            .is_none_or(|lease| lease.kind != DisruptionKind::Replacement),
        "it serves, whatever its pod says"
    );
    model.object.metadata.annotations = None;
    model.object.spec.rollout.replace_lost_nodes_after_minutes = Some(61);
    let since = Time(
        fixture::NOW
            .parse::<k8s_openapi::jiff::Timestamp>()
            .unwrap()
            - SignedDuration::from_hours(1),
    );
    let lost_nodes = vec![LostNodeStatus { node_id: 0, since }];
    model.object.status = Some(KafkaClusterStatus {
        lost_nodes,
        ..KafkaClusterStatus::default()
    });
    assert!(model.plan().lease.is_none(), "a minute is left");
    model.object.spec.rollout.replace_lost_nodes_after_minutes = Some(60);
    assert_eq!(
        model.plan().lease.map(|lease| lease.node_ids),
        Some(vec![0])
    );
}

/// A pod has a machine, and its volume never comes there, because its disk is gone in the cloud. No
/// claim says so. The node is replaced like a lost one when somebody asks.
#[test]
fn a_node_whose_volume_never_comes_to_its_machine_is_replaced_when_somebody_asks() {
    let mut model = Model::new(1, &[(0, 0, 0)]);
    model.new = model.phases.keys().copied().collect();
    model.lose(0);
    let plan = |model: &Model, since: &str, alone: bool| {
        let (mut observed, _) = model.observed();
        let mut pods = observed.pods.iter_mut();
        let pod = pods.find(|pod| pod.node_id == 0).unwrap();
        (pod.stuck, pod.trouble, pod.host) = (None, None, Some("machine".into()));
        pod.waits_since = Some(since.parse().unwrap());
        if let KafkaFacts::Answered { topics, .. } = &mut observed.kafka
            && alone
        {
            let mut lost = freehold_kafka::metadata_image::PartitionImage::new(&[0]);
            lost.leader = -1;
            topics[0].partitions.push(lost);
        }
        let valid = validate(&model.object, &observed).unwrap();
        linter::plan(&model.object, &valid, &observed)
    };
    let (soon, late) = ("2026-05-31T23:55:00Z", "2026-05-31T23:45:00Z");
    let waits = plan(&model, late, false);
    assert!(waits.lease.is_none(), "nobody asks");
    let told = |waiting: &WaitingOn| {
        let words = waiting.to_string();
        words.contains("its volume or its image does not come")
            && words.contains("freehold.dev/replace=0")
    };
    assert!(waits.waiting_on.iter().any(told), "{:?}", waits.waiting_on);
    model.object.metadata.annotations =
        Some([("freehold.dev/replace".to_owned(), "0".to_owned())].into());
    let kind = |plan: &Plan| plan.lease.as_ref().map(|lease| lease.kind);
    assert_eq!(kind(&plan(&model, soon, false)), None, "it may come yet");
    assert_eq!(
        kind(&plan(&model, late, false)),
        Some(DisruptionKind::Replacement)
    );
    let refused = plan(&model, late, true);
    assert_eq!(kind(&refused), None);
    let only = |warning: &String| warning.contains("the only copy of t-1");
    assert!(refused.warnings.iter().any(only), "{:?}", refused.warnings);
    // The new volume does not come either: the lease waits for it as long as for the old one.
    let mut lease = plan(&model, late, false).lease.unwrap();
    lease.removes.clear();
    let status = model.object.status.get_or_insert_default();
    (status.disruption, status.replaced) = (Some(lease), Some("0".into()));
    assert_eq!(
        kind(&plan(&model, soon, false)),
        Some(DisruptionKind::Replacement)
    );
    assert_eq!(kind(&plan(&model, late, false)), None);
}

/// The status says until when a lost node is waited for, or what has to be done.
#[test]
fn a_lost_node_is_told_with_the_time_at_which_it_is_replaced_or_how() {
    let mut model = Model::new(1, &[(0, 0, 0)]);
    model.new = model.phases.keys().copied().collect();
    model.lose(200);
    let told = |model: &Model| {
        let (observed, valid) = model.observed();
        let plan = linter::plan(&model.object, &valid, &observed);
        let lines = preview::preview(&model.object, &valid, &observed);
        for warning in &plan.warnings {
            assert!(lines.contains(&format!("note: {warning}")), "{lines:?}");
        }
        plan.warnings
    };
    let asks = "node 200 is lost since 2026-06-01T00:00:00Z, and is not replaced before somebody asks: annotate the cluster with \
                freehold.dev/replace=200, or set spec.rollout.replaceLostNodesAfterMinutes";
    assert_eq!(told(&model), [asks]);
    let since: Time = Time("2026-05-31T23:30:00Z".parse().unwrap());
    let lost_nodes = vec![LostNodeStatus {
        node_id: 200,
        since,
    }];
    model.object.status = Some(KafkaClusterStatus {
        lost_nodes,
        ..KafkaClusterStatus::default()
    });
    model.object.spec.rollout.replace_lost_nodes_after_minutes = Some(90);
    let by_itself = "node 200 is lost since 2026-05-31T23:30:00Z, and is replaced by itself at 2026-06-01T01:00:00Z at the earliest \
                     (spec.rollout.replaceLostNodesAfterMinutes), or at once when you annotate the cluster with freehold.dev/replace=200";
    assert_eq!(told(&model), [by_itself]);
    model.object.metadata.annotations =
        Some([("freehold.dev/replace".to_owned(), "200".to_owned())].into());
    assert_eq!(told(&model), [""; 0], "it is under way");
}

/// Nothing is promised that Freehold does not do.
#[test]
fn a_lost_node_that_cannot_be_replaced_now_or_ever_is_told_so_with_the_way_out() {
    let told = |model: &Model, answers: bool| {
        let (mut observed, _) = model.observed();
        if !answers {
            observed.kafka = KafkaFacts::Unavailable("no".into());
        }
        let valid = validate(&model.object, &observed).unwrap();
        let warnings = linter::plan(&model.object, &valid, &observed).warnings;
        let mut found = warnings.into_iter();
        found
            .find(|warning| warning.contains("is lost since"))
            .unwrap()
    };
    let mut model = Model::new(1, &[(0, 0, 0)]);
    model.new = model.phases.keys().copied().collect();
    model.lose(0);
    let unless = "; nothing is replaced before the brokers answer, because they alone know whether its volume has the only copy of a partition: \
                  bring back the other nodes first";
    for minutes in [None, Some(90)] {
        model.object.spec.rollout.replace_lost_nodes_after_minutes = minutes;
        assert!(!told(&model, true).contains("before the brokers answer"));
        let silent = told(&model, false);
        assert!(
            silent.ends_with(unless) && !silent.contains("at once"),
            "{silent}"
        );
    }
    // With two controllers nothing replaces one of them, asked or not.
    let pool = &mut model.object.spec.node_pools[0];
    (pool.replicas, pool.zones) = (2, vec!["a".into(), "b".into()]);
    model.phases.remove(&200);
    model.volumes.remove(&200);
    model.votes.remove(&200);
    model.partitions = vec![(vec![0, 100], 100)];
    let never = "node 0 is lost since 2026-06-01T00:00:00Z, and cannot be replaced: its vote cannot be spared: there are fewer than three \
                 controllers; bring back its machine, or its volume on another one";
    for answers in [true, false] {
        assert_eq!(told(&model, answers), never);
    }
}

/// Pod and claim of a lost node are gone already when its replacement begins, so that there is
/// nothing to delete. The request is followed with the lease: no reconcile may succeed before the new
/// pod runs, and a request that still stands would be taken for another one.
#[test]
fn a_request_for_a_node_of_which_nothing_is_left_is_followed_once() {
    let mut model = Model::new(1, &[(0, 0, 0)]);
    model.new = model.phases.keys().copied().collect();
    model.lose(0);
    model.phases.insert(0, Phase::Gone);
    model.pruned.insert(0);
    model.object.metadata.annotations =
        Some([("freehold.dev/replace".to_owned(), "0".to_owned())].into());
    let plan = model.plan();
    let lease = plan.lease.clone().unwrap();
    assert_eq!(
        (lease.kind, lease.removes.as_slice()),
        (DisruptionKind::Replacement, &[][..])
    );
    assert_eq!(plan.replaced.as_deref(), Some("0"));
    model.apply(plan, false);
    model.pruned.clear();
    model.lost.clear();
    model.volumes.insert(0, 2);
    model.phases.insert(0, Phase::CatchingUp);
    let plan = model.plan();
    assert_eq!(
        plan.lease.map(|lease| (lease.kind, lease.node_ids)),
        Some((DisruptionKind::Replacement, vec![0])),
        "it is waited for, and not emptied"
    );
}

/// A user deletes a claim under a running pod. Kubernetes keeps the volume, and the broker may come
/// back with it.
#[test]
fn a_volume_that_is_being_deleted_is_kept_while_its_pod_is_on_a_machine() {
    let mut model = Model::new(1, &[(0, 0, 0)]);
    model.new = model.phases.keys().copied().collect();
    model.object.metadata.annotations =
        Some([("freehold.dev/replace".to_owned(), "0".to_owned())].into());
    model.lose(0);
    let plan = |stuck: Option<Stuck>, host: Option<&str>| {
        let (mut observed, _) = model.observed();
        fixture::set(
            &mut observed.volumes[0],
            ["metadata", "deletionTimestamp"],
            fixture::NOW,
        );
        let pod = observed
            .pods
            .iter_mut()
            .find(|pod| pod.node_id == 0)
            .unwrap();
        (pod.stuck, pod.host) = (stuck, host.map(str::to_owned));
        let KafkaFacts::Answered { topics, .. } = &mut observed.kafka else {
            panic!()
        };
        let mut alone = freehold_kafka::metadata_image::PartitionImage::new(&[0]);
        alone.leader = -1;
        topics[0].partitions.push(alone);
        linter::plan(
            &model.object,
            &validate(&model.object, &observed).unwrap(),
            &observed,
        )
    };
    let replaces = |plan: &Plan| {
        plan.lease
            .as_ref()
            .is_some_and(|lease| lease.kind == DisruptionKind::Replacement)
    };
    assert!(
        !replaces(&plan(None, Some("machine"))),
        "its container only starts anew"
    );
    let told = plan(Some(Stuck::Start), Some("machine"));
    assert!(
        !replaces(&told)
            && told
                .warnings
                .iter()
                .any(|warning| warning.contains("the only copy of t-1")),
        "{:?}",
        told.warnings
    );
    assert!(
        replaces(&plan(None, None)),
        "the pod is on no machine: nothing keeps the volume"
    );
}

/// A machine comes back before its volume was deleted, while another one is lost.
#[test]
fn a_node_that_came_back_keeps_its_volume_and_one_that_joins_the_lease_is_in_the_status_first() {
    let mut model = Model::new(2, &[(0, 0, 0), (1, 1, 1), (2, 2, 2)]);
    model.new = model.phases.keys().copied().collect();
    model.object.spec.rollout.replace_lost_nodes_after_minutes = Some(30);
    let deletes = |plan: &Plan| {
        plan.steps
            .iter()
            .any(|step| matches!(step, Step::DeleteVolume { .. } | Step::RestartPod { .. }))
    };
    let members = |plan: &Plan| plan.lease.as_ref().map(|lease| lease.node_ids.clone());
    let looks = |model: &mut Model| (0..2).for_each(|_| model.apply(model.plan(), false));
    model.lose(0);
    looks(&mut model);
    assert_eq!(members(&model.plan()), Some(vec![0]));
    let status = model.object.status.clone();

    // The broker is recovering its log: it does not serve yet.
    model.phases.insert(0, Phase::Starting);
    let plan = model.plan();
    assert!(
        members(&plan) == Some(vec![0]) && !deletes(&plan),
        "{:?}",
        plan.steps
    );
    model.phases.insert(0, Phase::Up);
    let plan = model.plan();
    assert!(
        members(&plan).is_none() && !deletes(&plan),
        "{:?}",
        plan.steps
    );

    (model.object.status, model.lost) = (status, BTreeSet::from([0]));
    model.phases.insert(0, Phase::Lost);
    model.lose(1);
    let mut status = model.object.status.clone().unwrap();
    let since = status.lost_nodes[0].since.clone();
    status.lost_nodes.push(LostNodeStatus { node_id: 1, since });
    model.object.status = Some(status);
    let plan = model.plan();
    let of_one = |plan: &Plan| {
        plan.steps
            .iter()
            .filter(|step| {
                step.to_string().contains("zone-a-1") || step.to_string().contains("p-a-1")
            })
            .count()
    };
    assert!(
        members(&plan) == Some(vec![0, 1]) && of_one(&plan) == 0,
        "{:?}",
        plan.steps
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    );
    model.object.status.as_mut().unwrap().disruption = plan.lease;
    assert!(
        of_one(&model.plan()) > 0,
        "{:?}",
        model
            .plan()
            .steps
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    );
}

/// A permanent loss is reported and does not block a rolling restart.
#[test]
fn a_partition_that_lost_its_only_replica_holds_up_no_roll() {
    let model = Model::new(1, &[(0, 0, 0)]);
    let (mut observed, valid) = model.observed();
    let KafkaFacts::Answered { topics, .. } = &mut observed.kafka else {
        panic!()
    };
    let gone = freehold_kafka::metadata_record::PartitionFields {
        replicas: Some(vec![100]),
        in_sync: Some(Vec::new()),
        leader: Some(-1),
        ..Default::default()
    };
    topics[0]
        .partitions
        .push(freehold_kafka::metadata_image::PartitionImage::of(gone));
    let plan = linter::plan(&model.object, &valid, &observed);
    assert_eq!(
        plan.lease.map(|lease| lease.node_ids),
        Some(vec![0]),
        "{:?}",
        plan.waiting_on
    );
    assert!(
        plan.warnings
            .iter()
            .any(|warning| warning.contains("t-1") && warning.contains("nodes 100")),
        "{:?}",
        plan.warnings
    );
}
