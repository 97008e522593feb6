//! One problem never blocks the rest: configs that Kafka refuses, objects that the API server
//! refuses, and thread counts, against a model of how brokers accept them.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use crate::fixture;
use crate::linter;

use fixture::{Kafka, Pod, World, cluster, observe};
use freehold::api::conditions::{Reason, State};
use freehold::api::kafka_cluster::{KafkaCluster, KafkaClusterStatus};
use freehold::kinds::attempts::Refusal;
use freehold::kinds::error::Error;
use freehold::kinds::kafka_cluster::model::authority::{Issuer, Rotation, Trust};
use freehold::kinds::kafka_cluster::observed::{Identity, PodFacts, pod_facts};
use freehold::kinds::kafka_cluster::observed::{KafkaFacts, Observed};
use freehold::kinds::kafka_cluster::plan::{Plan, Step};
use freehold::kinds::kafka_cluster::refusals::{self, Stops};
use freehold::kinds::kafka_cluster::step::{Origin, RestartReason};
use freehold::kinds::kafka_cluster::{configuration, keep, status};
use freehold::kubernetes::{KubeError, Live, Object, resource};
use freehold_kafka::metadata_image::PartitionImage;
use freehold_kafka::metadata_record::PartitionFields;
use freehold_kafka_client::ConfigResource;
use proptest::prelude::*;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

const NODES: [i32; 3] = [0, 100, 200];

fn object(more: &str) -> KafkaCluster {
    cluster(&format!(
        "apiVersion: freehold.dev/v1alpha1\nkind: KafkaCluster\nmetadata: {{name: c, namespace: n, finalizers: [freehold.dev/finalizer]}}\nspec:\n  \
         version: 4.3.1\n  nodePools:\n  - {{name: p, roles: [controller, broker], replicas: 3, zones: [a, b, c], storage: {{size: 1Gi}}}}\n  \
         rebalance: {{mode: Never}}\n{more}"
    ))
}

fn world() -> World {
    let kafka = Kafka {
        unfenced: NODES.to_vec(),
        leader: 100,
        voters: NODES.map(|id| (id, 1000)).into(),
        partitions: vec![(NODES.to_vec(), NODES.to_vec())],
        min_in_sync: Some(2),
        ..Kafka::default()
    };
    World::running(NODES.map(Pod::up), kafka)
}

fn words(plan: &Plan) -> String {
    let steps = plan.steps.iter().map(ToString::to_string);
    steps
        .chain(
            plan.waiting_on
                .iter()
                .map(|waiting| format!("wait for {waiting}")),
        )
        .collect::<Vec<_>>()
        .join("; ")
}

fn refusal(what: &str, reason: Reason) -> Refusal {
    Refusal {
        what: what.into(),
        why: "no".into(),
        reason,
        is_transient: false,
    }
}

/// A model of brokers: they accept thread counts between half and double the present number.
struct Brokers {
    object: KafkaCluster,
    /// The configs in the metadata log.
    configs: BTreeMap<String, BTreeMap<String, String>>,
    in_force: BTreeMap<i32, u32>,
    refused: u32,
}

const KEY: &str = "num.io.threads";

impl Brokers {
    fn new(object: KafkaCluster, in_force: [u32; 3]) -> Self {
        let (observed, _) = observe(&object, &world());
        let KafkaFacts::Answered { mut configs, .. } = observed.kafka else {
            panic!("no answer")
        };
        configs
            .values_mut()
            .for_each(|configs| drop(configs.remove(KEY)));
        Self {
            object,
            configs,
            in_force: NODES.into_iter().zip(in_force).collect(),
            refused: 0,
        }
    }

    fn observed(&self) -> (Observed, Plan) {
        let (mut observed, valid) = observe(&self.object, &world());
        let KafkaFacts::Answered { configs, .. } = &mut observed.kafka else {
            panic!("no answer")
        };
        configs.clone_from(&self.configs);
        let asked = configuration::threads_to_ask(&self.object, &observed.pods, configs);
        let of = |(id, threads): (&i32, &u32)| (*id, BTreeMap::from([(KEY.to_owned(), *threads)]));
        observed.threads = self
            .in_force
            .iter()
            .filter(|_| asked.contains(&KEY))
            .map(of)
            .collect();
        let plan = linter::plan(&self.object, &valid.unwrap(), &observed);
        (observed, plan)
    }

    fn wanted(&self, id: i32) -> u32 {
        let of = |resource: &str| {
            self.configs
                .get(resource)
                .and_then(|configs| configs.get(KEY))
                .and_then(|value| value.parse().ok())
        };
        of(&id.to_string()).or(of("")).unwrap_or(self.in_force[&id])
    }

    /// One reconcile; returns whether there was anything to do.
    fn look(&mut self) -> bool {
        let (_, plan) = self.observed();
        let ours = self.object.status.get_or_insert_default();
        for (resource, changes) in plan.steps.iter().flat_map(|step| {
            if let Step::AlterConfigs(changes) = step {
                changes.as_slice()
            } else {
                &[]
            }
        }) {
            let name = if let ConfigResource::Broker(id) = resource {
                id.to_string()
            } else {
                String::new()
            };
            for (key, value) in changes {
                ours.dynamic_configs
                    .push(configuration::config_key(&name, key));
                let configs = self.configs.entry(name.clone()).or_default();
                match value {
                    Some(value) => drop(configs.insert(key.clone(), value.clone())),
                    None => drop(configs.remove(key)),
                }
            }
        }
        for id in NODES {
            let (wanted, current) = (self.wanted(id), self.in_force[&id]);
            if wanted >= (current / 2).max(1) && wanted <= current * 2 {
                self.in_force.insert(id, wanted);
            } else {
                self.refused += 1;
            }
        }
        !plan.steps.is_empty() || !plan.waiting_on.is_empty()
    }

    fn settle(&mut self) -> u32 {
        (1..60).find(|_| !self.look()).expect("it comes to an end")
    }
}

#[test]
fn a_thread_count_is_reached_in_steps_that_brokers_take() {
    for (from, to) in [(8, 64), (8, 9), (8, 1), (1, 1000)] {
        let mut brokers = Brokers::new(
            object(&format!("  config: {{{KEY}: \"{to}\"}}\n")),
            [from; 3],
        );
        brokers.settle();
        assert_eq!(
            (
                brokers.in_force.values().copied().collect::<Vec<_>>(),
                brokers.refused
            ),
            (vec![to; 3], 0),
            "{from} to {to}"
        );
    }
}

#[test]
fn a_new_cluster_begins_with_its_thread_counts_and_a_running_one_is_not_restarted_for_them() {
    let (plain, threads) = (
        object(""),
        object(&format!("  config: {{{KEY}: \"64\"}}\n")),
    );
    let (observed, valid) = observe(&plain, &world());
    let hashes = |observed: &Observed| {
        observed
            .pods
            .iter()
            .map(|pod| pod.revision.config.clone())
            .collect::<Vec<_>>()
    };
    assert!(valid.is_ok());
    let (with, _) = observe(&threads, &world());
    assert_eq!(hashes(&observed), hashes(&with));
    let map = with
        .objects
        .all()
        .iter()
        .find(|live| live.resource.kind == "ConfigMap" && live.name().starts_with("c-p-"))
        .unwrap();
    assert!(
        map.value["data"]["server.properties"]
            .as_str()
            .unwrap()
            .contains("num.io.threads=64")
    );
    let mut brokers = Brokers::new(threads, [64; 3]);
    brokers.settle();
    assert_eq!(
        brokers.refused, 0,
        "what is in force already is set in one step"
    );
}

#[test]
fn a_thread_count_that_leaves_the_spec_goes_back_in_steps() {
    let mut brokers = Brokers::new(object(&format!("  config: {{{KEY}: \"64\"}}\n")), [8; 3]);
    brokers.settle();
    brokers.object.spec.config.clear();
    brokers.settle();
    assert_eq!(
        (brokers.in_force[&0], brokers.refused),
        (8, 0),
        "Kafka's default"
    );
    let mut of_pool = Brokers::new(object(&format!("  config: {{{KEY}: \"16\"}}\n")), [16; 3]);
    of_pool.object.spec.node_pools[0]
        .config
        .insert(KEY.into(), "100".into());
    of_pool.settle();
    assert_eq!((of_pool.in_force[&100], of_pool.refused), (100, 0));
    of_pool.object.spec.node_pools[0].config.clear();
    of_pool.settle();
    assert_eq!(
        (of_pool.in_force[&100], of_pool.refused),
        (16, 0),
        "what the cluster has"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// Brokers that were started at different times have different numbers.
    #[test]
    fn every_broker_comes_to_the_wanted_number_of_threads(
        in_force in prop::array::uniform3(1..200_u32),
        wanted in 1..200_u32,
    ) {
        let mut brokers = Brokers::new(object(&format!("  config: {{{KEY}: \"{wanted}\"}}\n")), in_force);
        brokers.settle();
        prop_assert_eq!(brokers.in_force.into_values().collect::<Vec<_>>(), vec![wanted; 3]);
    }
}

/// Reconciles a cluster in which every node is out of date, some configs are missing, and one pod
/// has a wrong readiness gate.
fn look(object: &KafkaCluster, refused: &[(&str, &str)]) -> (Plan, State, KafkaClusterStatus) {
    let mut world = world();
    world
        .pods
        .iter_mut()
        .for_each(|pod| pod.config = Some("old".into()));
    world.pods[0].in_sync = false;
    world.kafka.as_mut().unwrap().unconfigured = true;
    let (mut observed, valid) = observe(object, &world);
    let valid = valid.unwrap();
    for (what, wanted) in refused {
        observed.attempts.failed(
            (*wanted).to_owned(),
            refusal(what, Reason::KafkaRefused),
            observed.now,
        );
    }
    let plan = linter::plan(object, &valid, &observed);
    let state = status::state(object, &observed, &plan);
    let status = status::learned(object, &valid, &observed, &plan, &state);
    (plan, state, status)
}

#[test]
fn a_config_that_kafka_refuses_stops_neither_the_others_nor_gates_nor_restarts() {
    let object =
        object("  config: {log.retention.ms: \"1000\", log.local.retention.ms: \"2000\"}\n");
    let field = "spec.config[log.local.retention.ms]";
    let (plan, _, status) = look(&object, &[(field, "2000")]);
    let said = words(&plan);
    assert!(
        said.contains("log.retention.ms") && !said.contains("log.local.retention.ms"),
        "{said}"
    );
    assert!(
        said.contains("min.insync.replicas") && said.contains("set freehold.dev/in-sync"),
        "{said}"
    );
    assert!(plan.lease.is_some(), "the roll goes on: {said}");
    assert_eq!(status.refused[0].what, field);
    let (plan, ..) = look(&object, &[(field, "3000")]);
    assert!(
        words(&plan).contains("log.local.retention.ms"),
        "another value is tried at once: {}",
        words(&plan)
    );
}

/// The status of the reconcile that set the config conflicted with the next spec, so it does not
/// name the config.
#[test]
fn a_config_that_leaves_the_spec_right_after_it_was_set_is_removed() {
    const KEY: &str = "log.cleaner.backoff.ms";
    let (with, without) = (
        object(&format!("  config: {{{KEY}: \"20000\"}}\n")),
        object(""),
    );
    let set = [(
        ConfigResource::Brokers,
        [(KEY.to_owned(), Some("20000".to_owned()))].into(),
    )];
    let removed = [(ConfigResource::Brokers, [(KEY.to_owned(), None)].into())];
    let (_, valid_with) = observe(&with, &world());
    let (mut observed, valid) = observe(&without, &world());
    let valid = valid.unwrap();
    let found = |observed: &mut Observed, value: Option<&str>| {
        let KafkaFacts::Answered { configs, .. } = &mut observed.kafka else {
            panic!("no answer")
        };
        let configs = configs.get_mut("").unwrap();
        match value {
            Some(value) => configs.insert(KEY.to_owned(), value.to_owned()),
            None => configs.remove(KEY),
        };
    };
    let look = |observed: &Observed| {
        let plan = linter::plan(&without, &valid, observed);
        let state = status::state(&without, observed, &plan);
        let status = status::learned(&without, &valid, observed, &plan, &state);
        let is_kept = status.dynamic_configs.iter().any(|key| key == KEY);
        (words(&plan), is_kept)
    };
    found(&mut observed, Some("20000"));
    assert_eq!(look(&observed), (String::new(), false), "somebody else's");
    configuration::setting(&mut observed.attempts, &valid_with.unwrap(), &set);
    let (said, is_kept) = look(&observed);
    assert!(said.contains(KEY) && is_kept, "{said}");
    // Kafka's answer is from before.
    found(&mut observed, None);
    assert_eq!(look(&observed), (String::new(), true));
    configuration::removed(&mut observed.attempts, &removed);
    assert_eq!(look(&observed), (String::new(), false));
}

#[test]
fn a_refused_config_is_told_and_the_nodes_count_as_well() {
    let object = object("  config: {log.local.retention.ms: \"2000\"}\n");
    let (mut observed, valid) = observe(&object, &world());
    let valid = valid.unwrap();
    let KafkaFacts::Answered { configs, .. } = &mut observed.kafka else {
        panic!("no answer")
    };
    configs
        .get_mut("")
        .unwrap()
        .remove("log.local.retention.ms");
    let field = "spec.config[log.local.retention.ms]";
    observed.attempts.failed(
        "2000".into(),
        refusal(field, Reason::KafkaRefused),
        observed.now,
    );
    let plan = linter::plan(&object, &valid, &observed);
    assert_eq!(words(&plan), "");
    let state = status::state(&object, &observed, &plan);
    let learned = status::learned(&object, &valid, &observed, &plan, &state);
    assert_eq!(
        state,
        State::stalled(Reason::KafkaRefused, format!("{field}: no"))
    );
    assert_eq!(
        (learned.kafka_version.as_deref(), learned.refused.len()),
        (Some("4.3.1"), 1)
    );
}

#[test]
fn a_budget_that_the_api_server_refuses_does_not_stop_a_roll_and_a_stateful_set_does() {
    let object = object("");
    for (kind, stops) in [
        ("PodDisruptionBudget", false),
        ("NetworkPolicy", false),
        ("ConfigMap", true),
        ("StatefulSet", true),
    ] {
        let mut world = world();
        world
            .pods
            .iter_mut()
            .for_each(|pod| pod.config = Some("old".into()));
        let (mut observed, valid) = observe(&object, &world);
        let valid = valid.unwrap();
        // Another client changed it, and the API server refuses the correction.
        let mut name = String::new();
        fixture::change_objects(&mut observed, |all| {
            let live = all
                .iter_mut()
                .find(|live| live.resource.kind == kind)
                .unwrap();
            name = live.name().to_owned();
            live.value["metadata"]["annotations"]["freehold.dev/applied-hash"] = json!("another");
        });
        let planned = linter::plan(&object, &valid, &observed);
        let step = planned
            .steps
            .iter()
            .find(|step| matches!(step, Step::Apply(object) if object.kind() == kind))
            .unwrap();
        let refusal = refusal(&step.what(), Reason::KubernetesRefused);
        observed
            .attempts
            .failed(step.wanted(), refusal, observed.now);
        let plan = linter::plan(&object, &valid, &observed);
        assert!(
            !words(&plan).contains(&format!("apply {kind}")),
            "{}",
            words(&plan)
        );
        assert_eq!(plan.lease.is_none(), stops, "{kind}: {}", words(&plan));
        let state = status::state(&object, &observed, &plan);
        let status = status::learned(&object, &valid, &observed, &plan, &state);
        assert_eq!(status.refused[0].what, format!("{kind} {name}"));
    }
}

/// The plan for a cluster in which nothing is to be changed, and whose spec has changed and become
/// invalid.
fn kept(object: &KafkaCluster, change: impl FnOnce(&mut World, &mut Observed)) -> Plan {
    let mut world = world();
    // A recreated pod is in sync again, but its readiness gate does not say so yet.
    world.pods[0].in_sync = false;
    let (mut observed, _) = observe(object, &world);
    change(&mut world, &mut observed);
    let running = keep::cluster(object, &observed).expect("it runs");
    linter::keep_plan(object, &running, &observed)
}

#[test]
fn gates_and_certificates_of_a_cluster_whose_spec_is_not_valid_go_on() {
    let mut broken = object("");
    let (before, _) = observe(&broken, &world());
    broken
        .spec
        .config
        .insert("no.such.config".into(), "1".into());
    broken.spec.certificates.renew_before_days = 9000;
    let plan = kept(&broken, |_, observed| {
        assert!(
            freehold::kinds::kafka_cluster::validate::validate(&broken, observed).is_err()
                || observed.identity.is_none()
        );
        *observed = Observed {
            pods: {
                let mut pods = before.pods.clone();
                pods[0].in_sync = false;
                pods
            },
            ..before.clone()
        };
    });
    assert_eq!(
        words(&plan),
        "set freehold.dev/in-sync of pod c-p-a-0 to true"
    );
    let renewed = kept(&broken, |_, observed| {
        *observed = before.clone();
        observed.now += k8s_openapi::jiff::SignedDuration::from_hours(24 * 360);
    });
    let said = words(&renewed);
    assert!(
        said.contains("issue the operator's certificate")
            && said.contains("issue certificates of nodes [0] into Secret c-p-a-tls"),
        "{said}"
    );
    assert!(
        renewed.steps.iter().all(|step| !matches!(
            step,
            Step::Apply(_) | Step::Prune(_) | Step::DeleteVolume { .. } | Step::RestartPod { .. }
        )),
        "{said}"
    );
}

#[test]
fn who_is_trusted_stays_so_while_a_secret_of_client_authorities_is_gone() {
    let (mut before, _) = observe(&object(""), &world());
    for set in ["c-p-a", "c-p-b", "c-p-c"] {
        let secret = before.secrets.get_mut(&format!("{set}-tls")).unwrap();
        secret
            .data
            .entry("clients-ca.crt".into())
            .and_modify(|bundle| bundle.push_str("GIVEN\n"));
    }
    let other = object("  certificates: {clientAuthorities: [{name: gone}]}\n");
    let running = keep::cluster(&other, &before).unwrap();
    assert_eq!(words(&linter::keep_plan(&other, &running, &before)), "");
}

#[test]
fn a_restart_that_is_under_way_comes_to_its_end_and_none_begins() {
    let mut paused = object("  state: Paused\n");
    let lease = json!({"kind": "Restart", "nodeIds": [0], "why": "w", "since": fixture::NOW, "handedOver": [{"nodeId": 0, "partitions": ["t:0"]}]});
    paused.status = Some(KafkaClusterStatus {
        disruption: serde_json::from_value(lease).unwrap(),
        ..Default::default()
    });
    let plan = |change: &dyn Fn(&mut World)| {
        let mut world = world();
        world
            .pods
            .iter_mut()
            .for_each(|pod| pod.config = Some("old".into()));
        change(&mut world);
        let (observed, valid) = observe(&paused, &world);
        assert!(valid.is_ok());
        linter::keep_plan(
            &paused,
            &keep::cluster(&paused, &observed).unwrap(),
            &observed,
        )
    };
    let away = plan(&|world| {
        world.pods[0] = Pod {
            node: 0,
            ..Pod::default()
        };
        let kafka = world.kafka.as_mut().unwrap();
        (kafka.unfenced, kafka.fenced) = (vec![100, 200], vec![0]);
        kafka.partitions[0].1 = vec![100, 200];
    });
    assert!(
        away.lease.is_some() && words(&away).contains("wait for pod c-p-a-0 to start"),
        "{}",
        words(&away)
    );
    let back = plan(&|world| world.kafka.as_mut().unwrap().partitions[0].1 = vec![100, 200, 0]);
    assert!(
        back.lease.is_some()
            && words(&back).starts_with("elect the preferred leaders of 1 partitions"),
        "{}",
        words(&back)
    );
    let over = plan(&|_| {});
    assert_eq!(
        (words(&over).as_str(), over.lease),
        ("", None),
        "and the others do not restart"
    );
}

#[test]
fn replicas_that_move_are_waited_for_and_no_more_is_moved() {
    let mut paused = object("  state: Paused\n");
    let lease = json!({"kind": "Reassignment", "nodeIds": [0], "why": "w", "since": fixture::NOW, "total": 4});
    paused.status = Some(KafkaClusterStatus {
        disruption: serde_json::from_value(lease).unwrap(),
        ..Default::default()
    });
    let (mut observed, _) = observe(&paused, &world());
    let running = keep::cluster(&paused, &observed).unwrap();
    assert!(
        linter::keep_plan(&paused, &running, &observed)
            .lease
            .is_none()
    );
    let KafkaFacts::Answered { topics, .. } = &mut observed.kafka else {
        panic!("no answer")
    };
    topics[0].throttled = true;
    assert!(
        words(&linter::keep_plan(&paused, &running, &observed)).contains("alter configs"),
        "the throttle goes"
    );
    let KafkaFacts::Answered { topics, .. } = &mut observed.kafka else {
        panic!("no answer")
    };
    let moving = PartitionFields {
        replicas: Some(vec![0, 100, 200]),
        adding: Some(vec![200]),
        in_sync: Some(vec![0, 100]),
        leader: Some(0),
        ..Default::default()
    };
    topics[0].partitions = vec![PartitionImage::of(moving)];
    let plan = linter::keep_plan(&paused, &running, &observed);
    assert!(
        plan.lease.is_some() && words(&plan) == "wait for 1 replicas to be moved",
        "{}",
        words(&plan)
    );
}

#[test]
fn a_cluster_that_waits_for_a_window_says_so() {
    let window = "  rollout: {maintenanceWindows: [{cron: \"0 2 * * *\", durationMinutes: 60}]}\n";
    let mut waits = object(window);
    waits.status = Some(KafkaClusterStatus {
        kafka_version: Some("4.3.1".into()),
        ..Default::default()
    });
    let mut world = world();
    let state = |world: &World| {
        let (observed, valid) = observe(&waits, world);
        let plan = linter::plan(&waits, &valid.unwrap(), &observed);
        status::state(&waits, &observed, &plan).words().0
    };
    world.pods[0].config = Some("old".into());
    assert_eq!(state(&world), Reason::WaitingForWindow);
    world.kafka.as_mut().unwrap().partitions[0].1 = vec![0, 100];
    assert_eq!(
        state(&world),
        Reason::Recovering,
        "a node that is not in sync comes first"
    );
}

/// Names the kind of a step, and lists all kinds. A new one does not compile before it is named
/// here, and fails the test below before it has a row in [`STOPS`] and a step in [`every_step`].
macro_rules! kinds {
    ($($name:ident)*) => {
        const KINDS: &[&str] = &[$(stringify!($name)),*];

        fn kind(step: &Step) -> &'static str {
            match step {
                $(Step::$name { .. } => stringify!($name),)*
            }
        }
    };
}

kinds! {
    AddFinalizer CreateIdentity UpdateIdentity CreateAuthority RestoreSecret WritePasswordKey
    IssueOperatorCertificate RotateAuthority IssueNodeCertificates Apply PutRight RemoveFields Prune
    Release ChangeVolume SetInSync AlterConfigs RestartPod DeleteVolume ElectLeaders Reassign
    MoveFolders UpgradeFeatures Unregister AddVoter RemoveVoter
}

/// The kind of a step and, where it makes a difference, what it is about.
fn name(step: &Step) -> String {
    let about = match step {
        Step::Apply(object) | Step::PutRight { object, .. } | Step::RemoveFields { object, .. } => {
            format!(" {} {}", object.kind(), object.name())
        }
        Step::Prune(live) | Step::Release(live) | Step::DeleteVolume { claim: live, .. } => {
            format!(" {}", live.name())
        }
        Step::RestartPod { pod, reasons, .. } => format!(" {} {:?}", pod.name, reasons[0]),
        Step::IssueNodeCertificates { secret, .. } => format!(" {secret}"),
        _ => String::new(),
    };
    format!("{}{about}", kind(step))
}

/// Restarts for a new configuration, of the groups `c-p-a` and `c-p-b`.
const RESTARTS: &[&str] = &["RestartPod c-p-a-0 Config", "RestartPod c-p-b-1 Config"];

/// Everything that ends a pod of the group `c-p-a`, or its volume.
const OF_A: &[&str] = &[
    "RestartPod c-p-a-0 Config",
    "RestartPod c-p-a-0 Replaced",
    "DeleteVolume data-c-p-a-0",
];

/// The same, and a restart for a new configuration of the other group.
const OF_A_AND_RESTARTS: &[&str] = &[
    "RestartPod c-p-a-0 Config",
    "RestartPod c-p-b-1 Config",
    "RestartPod c-p-a-0 Replaced",
    "DeleteVolume data-c-p-a-0",
];

/// For each step what does not happen when it is refused. Everything else does.
const STOPS: &[(&str, &[&str])] = &[
    ("AddFinalizer", &[]),
    ("CreateIdentity", &[]),
    // Pods are made from it.
    ("UpdateIdentity", RESTARTS),
    ("CreateAuthority", &[]),
    ("RestoreSecret", &[]),
    ("WritePasswordKey", &[]),
    ("IssueOperatorCertificate", &[]),
    ("RotateAuthority", &[]),
    ("IssueNodeCertificates c-p-a-tls", OF_A_AND_RESTARTS),
    ("Apply Service c-bootstrap", RESTARTS),
    ("Apply ConfigMap c-p-a", OF_A_AND_RESTARTS),
    // Pods of the other group are not made from it.
    ("Apply StatefulSet c-p-a", OF_A),
    // No pod is made from these.
    ("Apply NetworkPolicy c", &[]),
    ("Apply PodDisruptionBudget c", &[]),
    ("PutRight Service c-bootstrap", RESTARTS),
    ("PutRight StatefulSet c-p-a", OF_A),
    ("PutRight NetworkPolicy c", &[]),
    ("RemoveFields Service c-bootstrap", RESTARTS),
    ("RemoveFields StatefulSet c-p-a", OF_A),
    ("RemoveFields PodDisruptionBudget c", &[]),
    ("Prune c-bootstrap", &[]),
    ("Release c-p-a", OF_A),
    ("ChangeVolume", &[]),
    ("SetInSync", &[]),
    ("AlterConfigs", &[]),
    ("RestartPod c-p-a-0 Config", &[]),
    ("RestartPod c-p-b-1 Config", &[]),
    ("RestartPod c-p-a-0 Replaced", &[]),
    ("RestartPod c-p-b-1 Replaced", &[]),
    // The pod would come back with its old volume.
    (
        "DeleteVolume data-c-p-a-0",
        &["RestartPod c-p-a-0 Config", "RestartPod c-p-a-0 Replaced"],
    ),
    (
        "DeleteVolume data-c-p-b-1",
        &["RestartPod c-p-b-1 Config", "RestartPod c-p-b-1 Replaced"],
    ),
    ("ElectLeaders", &[]),
    ("Reassign", &[]),
    ("MoveFolders", &[]),
    ("UpgradeFeatures", &[]),
    ("Unregister", &[]),
    ("AddVoter", &[]),
    ("RemoveVoter", &[]),
];

/// The steps that need an answer of the brokers.
const ASK_KAFKA: [&str; 8] = [
    "AlterConfigs",
    "ElectLeaders",
    "Reassign",
    "MoveFolders",
    "UpgradeFeatures",
    "Unregister",
    "AddVoter",
    "RemoveVoter",
];

fn live_of<K: kube::Resource<DynamicType = ()>>(name: &str) -> Box<Live> {
    let value = json!({"metadata": {"name": name, "uid": "u", "resourceVersion": "1"}});
    Box::new(Live {
        resource: resource::<K>(),
        value,
    })
}

fn object_of<K: kube::Resource<DynamicType = ()>>(name: &str) -> Box<Object> {
    let value = json!({"metadata": {"name": name}});
    Box::new(Object::of_value(resource::<K>(), value))
}

/// The steps that make and change child objects and Secrets.
fn steps_on_objects() -> Vec<Step> {
    use k8s_openapi::api::apps::v1::StatefulSet;
    use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Service};
    use k8s_openapi::api::networking::v1::NetworkPolicy;
    use k8s_openapi::api::policy::v1::PodDisruptionBudget;
    let (service, set) = ("c-bootstrap", "c-p-a");
    let put_right = |object: Box<Object>| Step::PutRight {
        object,
        fields: vec!["spec.x".into()],
    };
    let remove = |object: Box<Object>| Step::RemoveFields {
        live: live_of::<Service>(object.name()),
        object,
        fields: Vec::new(),
    };
    let trust = Trust {
        cluster_ca: String::new(),
        clients_ca: String::new(),
        bundle: String::new(),
    };
    let secret = |of: &str| format!("c-{of}");
    vec![
        Step::AddFinalizer,
        Step::CreateIdentity {
            cluster_id: None,
            blocks: BTreeMap::new(),
            controllers: BTreeMap::new(),
            formed: false,
            password_key: None,
            own_rights: false,
        },
        Step::UpdateIdentity(Identity::default()),
        Step::CreateAuthority {
            secret: secret("ca"),
            issuer: Issuer::Nodes,
            beside: None,
        },
        Step::RestoreSecret(secret("restored")),
        Step::WritePasswordKey {
            secret: secret("passwords"),
            origin: Origin::New,
        },
        Step::IssueOperatorCertificate {
            secret: secret("operator"),
        },
        Step::RotateAuthority {
            secret: secret("rotated"),
            issuer: Issuer::Clients,
            rotation: Rotation::Promote,
        },
        Step::IssueNodeCertificates {
            secret: "c-p-a-tls".into(),
            nodes: BTreeMap::new(),
            trust,
        },
        Step::Apply(object_of::<Service>(service)),
        Step::Apply(object_of::<ConfigMap>(set)),
        Step::Apply(object_of::<StatefulSet>(set)),
        Step::Apply(object_of::<NetworkPolicy>("c")),
        Step::Apply(object_of::<PodDisruptionBudget>("c")),
        put_right(object_of::<Service>(service)),
        put_right(object_of::<StatefulSet>(set)),
        put_right(object_of::<NetworkPolicy>("c")),
        remove(object_of::<Service>(service)),
        remove(object_of::<StatefulSet>(set)),
        remove(object_of::<PodDisruptionBudget>("c")),
        Step::Prune(live_of::<Service>(service)),
        Step::Release(live_of::<StatefulSet>(set)),
        Step::ChangeVolume {
            claim: live_of::<PersistentVolumeClaim>("data-c-p-a-0"),
            bytes: Some(1),
            class: None,
        },
    ]
}

/// The steps on pods, on their volumes, and the requests to Kafka.
fn steps_on_nodes() -> Vec<Step> {
    use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
    let pod = |name: &str| -> Box<PodFacts> { Box::new(pod_facts(&live_of::<Pod>(name)).unwrap()) };
    let permit = |node| freehold_kafka::safety::can_repair(node, None).unwrap();
    let restart = |name: &str, reason: RestartReason| Step::RestartPod {
        pod: pod(name),
        reasons: vec![reason],
        permit: permit(0),
    };
    let delete = |name: &str| Step::DeleteVolume {
        claim: live_of::<PersistentVolumeClaim>(name),
        permit: permit(0),
    };
    let directory = uuid::Uuid::nil();
    vec![
        Step::SetInSync {
            pod: pod("c-p-b-1"),
            in_sync: true,
        },
        Step::AlterConfigs(vec![(ConfigResource::Brokers, BTreeMap::new())]),
        delete("data-c-p-a-0"),
        delete("data-c-p-b-1"),
        restart("c-p-a-0", RestartReason::Config),
        restart("c-p-b-1", RestartReason::Config),
        restart("c-p-a-0", RestartReason::Replaced),
        restart("c-p-b-1", RestartReason::Replaced),
        Step::ElectLeaders(Vec::new()),
        Step::Reassign(Vec::new()),
        Step::MoveFolders {
            broker: 0,
            moves: Vec::new(),
        },
        Step::UpgradeFeatures(BTreeMap::new()),
        Step::Unregister(7),
        Step::AddVoter {
            id: 0,
            directory,
            host: "host".into(),
        },
        Step::RemoveVoter {
            id: 7,
            directory,
            permit: permit(7),
        },
    ]
}

fn every_step() -> Vec<Step> {
    let mut steps = steps_on_objects();
    steps.extend(steps_on_nodes());
    steps
}

/// The names of those of all steps that the failures stop.
fn stopped(stops: &Stops) -> Vec<String> {
    let mut stopped: Vec<String> = every_step()
        .iter()
        .filter(|step| stops.stops(step))
        .map(name)
        .collect();
    stopped.sort();
    stopped
}

fn sorted(names: &[&str]) -> Vec<String> {
    let mut names: Vec<String> = names.iter().map(ToString::to_string).collect();
    names.sort();
    names
}

#[test]
fn whatever_step_is_refused_everything_that_does_not_depend_on_it_happens() {
    let rows: Vec<String> = sorted(
        &STOPS
            .iter()
            .map(|(refused, _)| *refused)
            .collect::<Vec<_>>(),
    );
    let names: Vec<String> = every_step().iter().map(name).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    assert_eq!(rows, sorted(&names), "the table has each step");
    let sampled: BTreeSet<&str> = every_step().iter().map(kind).collect();
    let kinds: BTreeSet<&str> = KINDS.iter().copied().collect();
    assert_eq!(sampled, kinds, "each kind of step has a row and a step");
    let row = |step: &Step| STOPS.iter().find(|(refused, _)| *refused == name(step));
    for refused in every_step() {
        let expected = sorted(row(&refused).unwrap().1);
        // The step fails in this reconcile.
        let mut stops = Stops::default();
        stops.after(&refused, false);
        assert_eq!(stopped(&stops), expected, "{refused} failed");
        let mut silent = Stops::default();
        silent.after(&refused, true);
        let asks = expected.iter().map(String::as_str).chain(ASK_KAFKA);
        let asks = sorted(&asks.collect::<Vec<_>>());
        assert_eq!(stopped(&silent), asks, "no broker answered {refused}");
        // It was refused a short time ago, and is not tried again yet.
        let (mut observed, _) = observe(&object(""), &world());
        let refusal = refusal(&refused.what(), Reason::KubernetesRefused);
        observed
            .attempts
            .failed(refused.wanted(), refusal, observed.now);
        let (mut held, mut steps) = (Vec::new(), every_step());
        refusals::hold(&observed, &mut steps, &mut held);
        let left: Vec<String> = steps.iter().map(name).collect();
        let mut gone: Vec<&str> = names.clone();
        gone.retain(|name| !left.iter().any(|left| left == name));
        let this = name(&refused);
        gone.retain(|name| *name != this);
        assert_eq!(sorted(&gone), expected, "{refused} was refused before");
        assert_eq!(held.len(), 1, "{refused} is told");
    }
    let mut throttle = Stops::default();
    throttle.after_throttle();
    assert_eq!(stopped(&throttle), ["MoveFolders", "Reassign"]);
}

/// The rest of a reconcile depends on these alone.
#[test]
fn only_the_first_steps_of_all_end_the_reconcile_when_they_are_refused() {
    let error = Error::Kube(KubeError::NotOurs {
        kind: "Secret".into(),
        name: "c".into(),
    });
    let ends: Vec<String> = every_step()
        .iter()
        .filter(|step| refusals::ends_the_reconcile(step, &error))
        .map(name)
        .collect();
    let first = [
        "AddFinalizer",
        "CreateIdentity",
        "UpdateIdentity",
        "CreateAuthority",
    ];
    assert_eq!(ends, first);
}
