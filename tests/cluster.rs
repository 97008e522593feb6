//! Single questions about the life of a cluster: its host names, when its quorum is formed, what
//! hibernation does, whose volumes it takes over, and how brokers leave it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use crate::fixture;
use crate::linter;

use fixture::{Kafka, Pod, World, cluster, observe};
use freehold::api::kafka_cluster::{ClusterState, KafkaCluster, KafkaClusterStatus};
use freehold::certificates::facts;
use freehold::kinds::kafka_cluster::certificates::nodes::hosts;
use freehold::kinds::kafka_cluster::observed::{KafkaFacts, pod_facts};
use freehold::kinds::kafka_cluster::plan::Step;
use freehold::kinds::kafka_cluster::status;
use freehold::kinds::kafka_cluster::validate::validate;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

const NODES: [i32; 3] = [0, 100, 200];

/// Three combined nodes, with a listener on each of these ports.
fn object(listeners: &[(&str, u16)]) -> KafkaCluster {
    let listeners: Vec<_> = listeners
        .iter()
        .map(|(name, port)| format!("{{name: {name}, port: {port}, authentication: ScramSha512}}"))
        .collect();
    cluster(&format!(
        "apiVersion: freehold.dev/v1alpha1\nkind: KafkaCluster\nmetadata: {{name: demo, namespace: kafka, finalizers: [freehold.dev/finalizer]}}\nspec:\n  \
         version: 4.3.1\n  nodePools:\n  - {{name: nodes, roles: [controller, broker], replicas: 3, zones: [a, b, c], storage: {{size: 1Gi}}}}\n  \
         listeners: [{}]\n",
        listeners.join(", ")
    ))
}

fn running() -> World {
    let kafka = Kafka {
        unfenced: NODES.to_vec(),
        leader: 0,
        voters: NODES.map(|id| (id, 100)).into(),
        partitions: vec![(NODES.to_vec(), NODES.to_vec())],
        ..Kafka::default()
    };
    World::running(NODES.map(Pod::up), kafka)
}

#[test]
fn a_broker_is_reached_by_every_form_of_its_names_and_of_the_bootstrap_services() {
    let (mut observed, valid) = observe(&object(&[("scram", 9094)]), &running());
    let valid = valid.unwrap();
    let found = hosts(&valid, &valid.groups[0], 0);
    for host in [
        "demo-bootstrap",
        "demo-bootstrap.kafka",
        "demo-bootstrap.kafka.svc",
        "demo-bootstrap.kafka.svc.cluster.local",
        "demo-nodes-a-0",
        "demo-nodes-a-0.kafka",
        "demo-nodes-a-0.kafka.svc.cluster.local",
        "demo-nodes-a-0.demo-nodes",
        "demo-nodes-a-0.demo-nodes.kafka.svc",
        "demo-nodes-a-0.demo-nodes.kafka.svc.cluster.local",
    ] {
        assert!(
            found.contains(&host.to_owned()),
            "{host} is not in {found:?}"
        );
    }
    let pem = &observed.secrets["demo-nodes-a-tls"].data["0.pem"];
    assert_eq!(
        facts(pem).unwrap().hosts,
        found,
        "its certificate carries them"
    );

    // With another domain the nodes' certificates are issued again, and nothing restarts for it.
    observed.cluster_domain = "k8s.example.org".parse().unwrap();
    let object = object(&[("scram", 9094)]);
    let valid = validate(&object, &observed).unwrap();
    let found = hosts(&valid, &valid.groups[0], 0);
    assert!(
        found.contains(&"demo-bootstrap.kafka.svc.k8s.example.org".to_owned())
            && !found.iter().any(|host| host.contains("local"))
    );
    let steps = linter::plan(&object, &valid, &observed).steps;
    assert!(
        !steps.is_empty()
            && steps
                .iter()
                .all(|step| matches!(step, Step::IssueNodeCertificates { .. })),
        "{steps:?}"
    );
}

/// The value at this pointer in a Service or NetworkPolicy as planned; `None` if the plan does not
/// change the object.
fn planned(
    object: &KafkaCluster,
    ports_of_pods: &[&[(&str, u16)]],
    kind: &str,
    name: &str,
    pointer: &str,
) -> Option<Value> {
    let mut old = object.clone();
    old.spec.listeners.clear();
    let (mut observed, _) = observe(&old, &running());
    for (pod, ports) in observed.pods.iter_mut().zip(ports_of_pods.iter().cycle()) {
        pod.listeners = ports
            .iter()
            .map(|(name, port)| ((*name).to_owned(), *port))
            .collect();
    }
    let plan = linter::plan(object, &validate(object, &observed).unwrap(), &observed);
    let mut applied = plan.steps.into_iter().filter_map(|step| {
        if let Step::Apply(object) = step {
            Some(object.value)
        } else {
            None
        }
    });
    let found = applied.find(|value| value["kind"] == kind && value["metadata"]["name"] == name)?;
    found.pointer(pointer).cloned()
}

fn service(
    listeners: &[(&str, u16)],
    ports_of_pods: &[&[(&str, u16)]],
    name: &str,
) -> Vec<(String, u64, Value)> {
    let ports = planned(
        &object(listeners),
        ports_of_pods,
        "Service",
        name,
        "/spec/ports",
    )
    .unwrap();
    let port = |port: &Value| {
        (
            port["name"].as_str().unwrap().to_owned(),
            port["port"].as_u64().unwrap(),
            port["targetPort"].clone(),
        )
    };
    ports.as_array().unwrap().iter().map(port).collect()
}

#[test]
fn a_listener_that_gets_another_port_is_reached_at_both_until_every_broker_serves_the_new_one() {
    let both = vec![
        ("scram".to_owned(), 9094, json!("scram")),
        ("scram-9095".to_owned(), 9095, json!("scram")),
    ];
    for name in ["demo-bootstrap", "demo-nodes-a-0"] {
        assert_eq!(
            service(&[("scram", 9095)], &[&[("scram", 9094)]], name),
            both,
            "nobody has restarted"
        );
        assert_eq!(
            service(
                &[("scram", 9095)],
                &[&[("scram", 9095)], &[("scram", 9094)]],
                name
            ),
            both,
            "one has"
        );
        assert_eq!(
            service(&[("scram", 9095)], &[&[("scram", 9095)]], name),
            [("scram".to_owned(), 9095, json!(9095))],
            "all have"
        );
    }
    let policy = planned(
        &object(&[("scram", 9095)]),
        &[&[("scram", 9094)]],
        "NetworkPolicy",
        "demo-brokers",
        "/spec/ingress/1/ports",
    );
    let numbers: Vec<_> = policy
        .unwrap()
        .as_array()
        .unwrap()
        .iter()
        .map(|port| port["port"].clone())
        .collect();
    assert_eq!(numbers, [9095, 9094], "and let through");
}

#[test]
fn a_listener_with_another_name_or_a_port_that_another_one_takes_is_reached_at_the_specs_port() {
    let renamed = service(&[("plain", 9094)], &[&[("scram", 9094)]], "demo-bootstrap");
    assert_eq!(
        renamed,
        [("plain".to_owned(), 9094, json!(9094))],
        "no pod has a port of that name yet"
    );
    let swapped = service(
        &[("a", 9094), ("b", 9095)],
        &[&[("a", 9095), ("b", 9094)]],
        "demo-bootstrap",
    );
    assert_eq!(
        swapped.iter().map(|(_, port, _)| *port).collect::<Vec<_>>(),
        [9094, 9095],
        "a Service has a port once"
    );
}

#[test]
fn the_quorum_is_formed_by_the_first_majority() {
    let formed = |voters: [(i32, i64); 3]| {
        let mut world = World {
            formed: false,
            ..running()
        };
        let kafka = world.kafka.as_mut().unwrap();
        kafka.voters = voters.into();
        let object = object(&[]);
        let (observed, valid) = observe(&object, &world);
        let steps = linter::plan(&object, &valid.unwrap(), &observed).steps;
        steps
            .iter()
            .any(|step| matches!(step, Step::UpdateIdentity(identity) if identity.formed))
    };
    assert!(formed([(0, 900), (100, 900), (200, 900)]));
    assert!(
        formed([(0, 900), (100, -1), (200, 900)]),
        "the third may never come: an empty volume must not form another quorum then"
    );
    assert!(!formed([(0, 900), (100, -1), (200, -1)]));
}

#[test]
fn a_sleep_is_no_soak_and_a_version_that_nobody_runs_is_not_the_one_that_runs() {
    let mut object = object(&[]);
    object.status = Some(KafkaClusterStatus {
        kafka_version: Some("4.2.1".into()),
        version_since: Some(Time("2026-05-01T00:00:00Z".parse().unwrap())),
        ..KafkaClusterStatus::default()
    });
    object.spec.state = ClusterState::Hibernated;
    let learned = |object: &KafkaCluster, world: &World| {
        let (observed, valid) = observe(object, world);
        let valid = valid.unwrap();
        let plan = linter::plan(object, &valid, &observed);
        let state = status::state(object, &observed, &plan);
        assert_eq!(
            state,
            freehold::api::conditions::State::Ready,
            "{:?}",
            plan.waiting_on
        );
        status::learned(object, &valid, &observed, &plan, &state)
    };
    let asleep = learned(
        &object,
        &World {
            pods: Vec::new(),
            kafka: None,
            ..running()
        },
    );
    assert_eq!(
        (asleep.kafka_version.as_deref(), &asleep.version_since),
        (Some("4.2.1"), &None)
    );
    object.status = Some(asleep);
    object.spec.state = ClusterState::Running;
    let awake = learned(&object, &running());
    let now: k8s_openapi::jiff::Timestamp = fixture::NOW.parse().unwrap();
    assert_eq!(
        (awake.kafka_version.as_deref(), awake.version_since),
        (Some("4.3.1"), Some(Time(now))),
        "the soak begins"
    );
}

fn invalid(object: &KafkaCluster, world: &World) -> String {
    let invalids = observe(object, world).1.unwrap_err();
    invalids
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn a_claim_of_another_cluster_is_refused_before_a_pod_is_made_on_it() {
    let claims = [("data-demo-nodes-a-0".to_owned(), "demo-nodes".to_owned())].into();
    let world = World {
        foreign_claims: claims,
        ..World::default()
    };
    let words = invalid(&object(&[]), &world);
    assert!(
        words.starts_with(
            "spec.nodePools[nodes]: claim data-demo-nodes-a-0 belongs to cluster demo-nodes"
        ),
        "{words}"
    );
    assert!(
        words.contains("rename this pool, or delete the claim"),
        "{words}"
    );
    let elsewhere = [("data-demo-nodes-a-1".to_owned(), "demo-nodes".to_owned())].into();
    assert!(
        observe(
            &object(&[]),
            &World {
                foreign_claims: elsewhere,
                ..World::default()
            }
        )
        .1
        .is_ok(),
        "no node of ours has that name"
    );
}

#[test]
fn what_the_launcher_says_of_a_disk_reaches_the_status() {
    let pod = |state: Value, last: Value| {
        let status = json!({"containerStatuses": [{"name": "kafka", "ready": false, "restartCount": 2, "state": state, "lastState": last}]});
        let live = freehold::kubernetes::Live {
            resource: freehold::kubernetes::resource::<k8s_openapi::api::core::v1::Pod>(),
            value: json!({"metadata": {"name": "demo-nodes-a-0"}, "status": status}),
        };
        pod_facts(&live).unwrap().trouble
    };
    let said = json!({"terminated": {"exitCode": 78, "message": "a line of the log\nfreehold: the disk is that of node 1\n"}});
    let waiting = json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}});
    let words = Some("the disk is that of node 1");
    assert_eq!(pod(waiting.clone(), said.clone()).as_deref(), words);
    assert_eq!(pod(said, json!({})).as_deref(), words);
    assert_eq!(
        pod(waiting, json!({})).as_deref(),
        Some("CrashLoopBackOff: back-off")
    );
}

/// Three controllers, one broker in each zone, and more brokers in a pool; `None`: the spec no
/// longer has that pool.
fn with_pool(old: Option<u32>) -> KafkaCluster {
    let old = old.map_or_else(String::new, |replicas| {
        format!(
            "  - {{name: old, roles: [broker], replicas: {replicas}, zones: [a, b, c], storage: {{size: 3Gi}}, jvm: {{heap: 256Mi}}}}\n"
        )
    });
    cluster(&format!(
        "apiVersion: freehold.dev/v1alpha1\nkind: KafkaCluster\nmetadata: {{name: c, namespace: n, finalizers: [freehold.dev/finalizer]}}\nspec:\n  \
         version: 4.3.1\n  nodePools:\n  - {{name: b, roles: [broker], replicas: 3, zones: [a, b, c], storage: {{size: 1Gi}}}}\n  \
         - {{name: c, roles: [controller], replicas: 3, zones: [a, b, c], storage: {{size: 1Gi}}}}\n{old}  \
         listeners:\n  - {{name: scram, port: 9094, authentication: ScramSha512}}\n"
    ))
}

#[test]
fn a_pool_that_is_removed_before_it_is_drained_stays_until_it_holds_nothing() {
    let brokers = [0, 100, 200, 600, 700, 800];
    let kafka = Kafka {
        unfenced: brokers.to_vec(),
        leader: 300,
        voters: [(300, 9), (400, 9), (500, 9)].into(),
        partitions: vec![
            (vec![600, 100, 200], vec![600, 100, 200]),
            (vec![0, 700, 800], vec![0, 700, 800]),
        ],
        ..Kafka::default()
    };
    let world = World::running(
        brokers.into_iter().chain([300, 400, 500]).map(Pod::up),
        kafka,
    );
    let (mut observed, before) = observe(&with_pool(Some(3)), &world);
    assert_eq!(before.unwrap().groups[6].first_node_id, 600);
    let object = with_pool(None);
    let look = |observed: &freehold::kinds::kafka_cluster::observed::Observed| {
        let valid = validate(&object, observed).unwrap();
        let plan = linter::plan(&object, &valid, observed);
        (valid, plan)
    };
    let (valid, plan) = look(&observed);
    let left: Vec<_> = valid
        .groups
        .iter()
        .filter(|group| group.retained.is_some())
        .map(|group| (group.replicas, group.running))
        .collect();
    assert_eq!(left, [(0, 1); 3], "its nodes are nodes");
    assert_eq!(
        plan.lease.unwrap().why.split(':').next(),
        Some("brokers 600, 700, 800 are to leave")
    );
    for step in &plan.steps {
        let words = step.to_string();
        assert!(
            !words.starts_with("delete") && !words.contains("restart"),
            "{words}"
        );
        if let Step::Apply(object) = step {
            assert_eq!(
                (object.kind(), &object.value["spec"]["replicas"]),
                ("StatefulSet", &json!(1)),
                "{words}"
            );
            let set = observed.objects.find("StatefulSet", object.name()).unwrap();
            assert_eq!(object.value["spec"], set.value["spec"], "it stays as it is");
        }
    }

    // One of the leaving brokers no longer holds anything: only its pod may be deleted.
    if let KafkaFacts::Answered { topics, .. } = &mut observed.kafka {
        topics[0].partitions.remove(0);
    }
    observed.emptied = [600].into();
    let (valid, plan) = look(&observed);
    let shrunk: Vec<_> = plan
        .steps
        .iter()
        .filter_map(|step| {
            if let Step::Apply(object) = step {
                Some(object).filter(|object| object.value["spec"]["replicas"] == 0)
            } else {
                None
            }
        })
        .map(|object| object.name().to_owned())
        .collect();
    assert_eq!(shrunk, ["c-old-a"]);
    assert_eq!(
        valid.groups.len(),
        9,
        "its StatefulSet is there until its pod is gone"
    );

    // The StatefulSet of another one is lost: because the node holds replicas, the StatefulSet is
    // created again.
    fixture::change_objects(&mut observed, |all| {
        all.retain(|live| live.name() != "c-old-b")
    });
    observed.pods.retain(|pod| pod.node_id != 700);
    let claim = json!({"metadata": {"name": "data-c-old-b-700"}, "spec": {"resources": {"requests": {"storage": "3Gi"}}}});
    observed.volumes.push(fixture::claim_of(claim));
    let (_, plan) = look(&observed);
    let back = plan.steps.iter().find_map(|step| {
        if let Step::Apply(object) = step {
            Some(object).filter(|one| one.name() == "c-old-b" && one.kind() == "StatefulSet")
        } else {
            None
        }
    });
    let back = &back.unwrap().value["spec"];
    assert_eq!(
        (&back["replicas"], &back["ordinals"]["start"]),
        (&json!(1), &json!(700))
    );
    assert_eq!(
        back["volumeClaimTemplates"][0]["spec"]["resources"]["requests"]["storage"],
        "3Gi"
    );
}

/// One broker in each of `count` zones, and controllers.
fn brokers(count: usize) -> KafkaCluster {
    let zones = ["a", "b", "c"][..count].join(", ");
    cluster(&format!(
        "apiVersion: freehold.dev/v1alpha1\nkind: KafkaCluster\nmetadata: {{name: c, namespace: n, finalizers: [freehold.dev/finalizer]}}\nspec:\n  \
         version: 4.3.1\n  nodePools:\n  - {{name: b, roles: [broker], replicas: {count}, zones: [{zones}], storage: {{size: 1Gi}}}}\n  \
         - {{name: c, roles: [controller], replicas: 3, zones: [a, b, c], storage: {{size: 1Gi}}}}\n"
    ))
}

#[test]
fn brokers_that_leave_below_the_replication_factor_stay_and_the_topics_are_named() {
    let kafka = Kafka {
        unfenced: vec![0, 100, 200],
        leader: 300,
        voters: [(300, 9), (400, 9), (500, 9)].into(),
        partitions: vec![(vec![0, 100, 200], vec![0, 100, 200])],
        ..Kafka::default()
    };
    let world = World::running([0, 100, 200, 300, 400, 500].map(Pod::up), kafka);
    let (mut observed, _) = observe(&brokers(3), &world);
    let object = brokers(2);
    let valid = validate(&object, &observed).unwrap();
    let plan = linter::plan(&object, &valid, &observed);
    let steps: Vec<_> = plan.steps.iter().map(ToString::to_string).collect();
    assert!(
        !steps
            .iter()
            .any(|step| step.starts_with("restart") || step.contains("ConfigMap")),
        "nothing restarts, no default changes: {steps:?}"
    );
    assert!(
        !steps
            .iter()
            .any(|step| step.contains("min.insync.replicas")),
        "{steps:?}"
    );
    let waiting: Vec<_> = plan.waiting_on.iter().map(ToString::to_string).collect();
    assert_eq!(waiting.len(), 1, "{waiting:?}");
    assert!(
        waiting[0].starts_with(
            "topics t (3 replicas) to have no more replicas than the 2 brokers that stay: lower"
        ),
        "{waiting:?}"
    );
    let state = status::state(&object, &observed, &plan);
    assert_ne!(state, freehold::api::conditions::State::Ready);

    // Two replicas are enough: the broker is emptied first, and the defaults change to two only
    // after it is gone.
    if let KafkaFacts::Answered { topics, .. } = &mut observed.kafka {
        topics[0].partitions = vec![freehold_kafka::metadata_image::PartitionImage::new(&[
            0, 100,
        ])];
    }
    let plan = linter::plan(&object, &valid, &observed);
    let waiting: Vec<_> = plan.waiting_on.iter().map(ToString::to_string).collect();
    let empties = "brokers 200 to delete the logs of replicas that they gave away";
    assert_eq!(waiting, [empties]);
    observed.emptied = [200].into();
    let valid = validate(&object, &observed).unwrap();
    assert_eq!(valid.brokers_for_defaults(), 2);
}

/// A cluster whose broker 200 may have left the spec, with these partitions: replicas and in-sync
/// replicas.
fn with_leaving(partitions: &[(&[i32], &[i32])]) -> World {
    let slots = [("b", 0), ("c", 300)]
        .into_iter()
        .flat_map(|(pool, first)| {
            [("a", 0), ("b", 100), ("c", 200)]
                .map(|(zone, more)| (pool.to_owned(), zone.to_owned(), first + more))
        });
    let kafka = Kafka {
        unfenced: vec![0, 100, 200],
        leader: 300,
        voters: [(300, 9), (400, 9), (500, 9)].into(),
        partitions: partitions
            .iter()
            .map(|(replicas, in_sync)| (replicas.to_vec(), in_sync.to_vec()))
            .collect(),
        ..Kafka::default()
    };
    World {
        volumes: slots.collect(),
        running: [("c-b-c".to_owned(), 1)].into(),
        ..World::running([0, 100, 200, 300, 400, 500].map(Pod::up), kafka)
    }
}

/// The reason of a cluster that is not Ready, and what it waits for. Nothing is under way.
fn waits(
    object: &KafkaCluster,
    partitions: &[(&[i32], &[i32])],
) -> (freehold::api::conditions::Reason, Vec<String>) {
    let (observed, valid) = observe(object, &with_leaving(partitions));
    let plan = linter::plan(object, &valid.unwrap(), &observed);
    assert!(plan.lease.is_none());
    let state = status::state(object, &observed, &plan);
    let waiting = plan.waiting_on.iter().map(ToString::to_string);
    (state.words().0, waiting.collect())
}

#[test]
fn brokers_that_leave_and_cannot_keep_the_cluster_from_being_ready_with_the_way_out() {
    use freehold::api::conditions::Reason;
    use freehold::api::kafka_cluster::RebalanceMode;
    let held: [(&[i32], &[i32]); 2] = [(&[0, 200], &[0, 200]), (&[200, 0], &[200, 0])];
    let never = "brokers 200 to give their replicas to others, which do not move because spec.rebalance.mode is Never: set it to Auto or Propose, \
                 move the replicas with kafka-reassign-partitions.sh, or put the brokers back into spec.nodePools";
    let mut object = brokers(2);
    object.spec.rebalance.mode = RebalanceMode::Never;
    let (reason, waiting) = waits(&object, &held);
    assert_eq!(waiting, [never]);
    assert_eq!(reason, Reason::Reassigning);
    object.spec.state = ClusterState::Hibernated;
    let (reason, waiting) = waits(&object, &held);
    assert_eq!(waiting, [never], "its pods run");
    assert_eq!(reason, Reason::Reassigning);

    // Without a leader a partition cannot be copied.
    let object = brokers(2);
    let lost: [(&[i32], &[i32]); 2] = [(&[0, 100], &[0, 100]), (&[200], &[])];
    let (reason, waiting) = waits(&object, &lost);
    assert_eq!(
        waiting,
        [
            "brokers 200 to give their replicas to others, which is impossible for t-1 without a leader: bring back the nodes of their replicas \
          with their volumes, delete the Topics, or put the brokers back into spec.nodePools"
        ]
    );
    assert_eq!(reason, Reason::Reassigning);
    let (reason, waiting) = waits(&object, &held[..0]);
    assert_eq!(
        waiting,
        ["brokers 200 to delete the logs of replicas that they gave away"]
    );
    assert_eq!(reason, Reason::Reassigning);

    // A broker that is to be replaced is emptied first too.
    let mut object = brokers(3);
    object.spec.rebalance.mode = RebalanceMode::Never;
    object.metadata.annotations =
        Some([("freehold.dev/replace".to_owned(), "200".to_owned())].into());
    let (reason, waiting) = waits(&object, &held);
    assert_eq!(
        waiting,
        [
            "brokers 200 to give their replicas to others, which do not move because spec.rebalance.mode is Never: set it to Auto or Propose, \
          move the replicas with kafka-reassign-partitions.sh, or take the annotation freehold.dev/replace away"
        ]
    );
    assert_eq!(reason, Reason::Reassigning);
}

#[test]
fn a_request_to_replace_that_names_no_node_or_one_that_leaves_is_answered() {
    let warnings = |object: &mut KafkaCluster, value: &str| {
        object.metadata.annotations =
            Some([("freehold.dev/replace".to_owned(), value.to_owned())].into());
        let mut world = running();
        world.pods.clear();
        let (_, valid) = observe(object, &world);
        valid.unwrap().warnings
    };
    let mut object = object(&[("scram", 9094)]);
    assert_eq!(
        warnings(&mut object, "demo-nodes-a-0"),
        [
            "freehold.dev/replace: \"demo-nodes-a-0\" is not the id of a node: give a number, such as 0"
        ]
    );
    assert_eq!(
        warnings(&mut object, "7"),
        ["freehold.dev/replace: node 7 cannot be replaced: there is no such node"]
    );
    assert_eq!(warnings(&mut object, " 100 "), [""; 0]);

    let kafka = Kafka {
        unfenced: vec![0, 100, 200],
        leader: 300,
        voters: [(300, 9), (400, 9), (500, 9)].into(),
        ..Kafka::default()
    };
    let world = World::running([0, 100, 200, 300, 400, 500].map(Pod::up), kafka);
    let (observed, _) = observe(&brokers(3), &world);
    let mut object = brokers(2);
    object.metadata.annotations =
        Some([("freehold.dev/replace".to_owned(), "200".to_owned())].into());
    let valid = validate(&object, &observed).unwrap();
    assert_eq!(
        valid.warnings.last().map(String::as_str),
        Some(
            "freehold.dev/replace: node 200 cannot be replaced: it leaves, because spec.nodePools has it no more"
        )
    );
    assert_eq!(valid.replace, None);
}

/// The machine of a broker that has left does not answer: nothing waits for that, and it is told.
#[test]
fn a_broker_that_has_left_and_whose_machine_does_not_answer_is_told() {
    let mut world = with_leaving(&[]);
    world.emptied = [200].into();
    world.pods[2] = Pod {
        node: 200,
        deleting: true,
        ends_by: Some("2026-05-31T23:59:00Z".parse().unwrap()),
        host: Some("host-7".into()),
        ..Pod::default()
    };
    let object = brokers(2);
    let (observed, valid) = observe(&object, &world);
    let plan = linter::plan(&object, &valid.unwrap(), &observed);
    let about_host = |waiting: &String| waiting.contains("host-7");
    let waiting: Vec<_> = plan.waiting_on.iter().map(ToString::to_string).collect();
    assert!(!waiting.iter().any(about_host), "{waiting:?}");
    let told = "a node that has left waits for node host-7 to say that pod c-b-c-200 has ended; if that node is gone for good, delete it, \
                or taint it with node.kubernetes.io/out-of-service=nodeshutdown:NoExecute";
    let warnings: Vec<&String> = plan.warnings.iter().filter(|one| about_host(one)).collect();
    assert_eq!(warnings, [told]);
}
