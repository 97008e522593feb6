//! Properties of the core over generated clusters: a second plan is empty, the order of lists has
//! no meaning, node ids are stable, there is always one quorum. A linter checks every desired
//! state.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use crate::fixture;
use crate::linter;

use fixture::{Kafka, Pod, World, cluster, live, observe};
use freehold::api::kafka_cluster::KafkaCluster;
use freehold::kinds::kafka_cluster::disruption::{Facts, Mode, Pending};
use freehold::kinds::kafka_cluster::model::authority::Trust;
use freehold::kinds::kafka_cluster::model::cluster::ValidCluster;
use freehold::kinds::kafka_cluster::observed::Identity;
use freehold::kinds::kafka_cluster::observed::Revision;
use freehold::kinds::kafka_cluster::plan;
use freehold::kinds::kafka_cluster::readiness;
use freehold::kinds::kafka_cluster::resources;
use freehold::kubernetes::Object;
use proptest::prelude::*;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

const ZONES: [&str; 3] = ["a", "b", "c"];

/// Clusters of one to three pools over one to three zones, with some listeners.
fn clusters() -> impl Strategy<Value = String> {
    let pool = (1..=3_usize, 1..=2_u32, any::<bool>());
    (prop::collection::vec(pool, 1..=3), 0..=3_usize, any::<bool>()).prop_map(|(pools, listeners, combined)| {
        let mut text = "apiVersion: freehold.dev/v1alpha1\nkind: KafkaCluster\nmetadata: {name: c, namespace: n, finalizers: [freehold.dev/finalizer]}\nspec:\n  version: 4.3.1\n  nodePools:\n".to_owned();
        for (index, (zones, per_zone, more_memory)) in pools.into_iter().enumerate() {
            let roles = match (index, combined) {
                (0, true) => "controller, broker",
                (0, false) => "controller",
                _ => "broker",
            };
            let memory = if more_memory { "4Gi" } else { "1Gi" };
            let replicas = u32::try_from(zones).unwrap() * per_zone;
            text.push_str(&format!(
                "  - {{name: p{index}, roles: [{roles}], replicas: {replicas}, zones: [{}], storage: {{size: 1Gi}}, resources: {{limits: {{memory: {memory}}}}}}}\n",
                ZONES[..zones].join(", ")
            ));
        }
        if !combined && !text.contains("roles: [broker]") {
            text.push_str("  - {name: p9, roles: [broker], replicas: 1, zones: [a], storage: {size: 1Gi}}\n");
        }
        if listeners == 2 {
            text.push_str(
                "  podTemplate: {securityContext: {ids: Platform}, env: [{name: A, value: b}], volumes: [{name: v, emptyDir: {}}], \
                 volumeMounts: [{name: v, mountPath: /opt/v}]}\n",
            );
        }
        if listeners > 0 {
            text.push_str("  listeners:\n");
        }
        for listener in 0..listeners {
            let authentication = if listener % 2 == 0 { "MutualTls" } else { "ScramSha512" };
            text.push_str(&format!("  - {{name: l{listener}, port: {}, authentication: {authentication}}}\n", 9093 + listener));
        }
        text
    })
}

fn trust() -> Trust {
    Trust {
        cluster_ca: "CLUSTER-CA\n".into(),
        clients_ca: "CLIENTS-CA\n".into(),
        bundle: "CLUSTER-CA\n".into(),
    }
}

fn world() -> World {
    World {
        cluster_id: Some("ID".into()),
        formed: true,
        certificates: true,
        ..World::default()
    }
}

fn valid(object: &KafkaCluster, world: &World) -> (ValidCluster, Identity) {
    let (observed, valid) = observe(object, world);
    (valid.unwrap(), observed.identity.unwrap())
}

fn all(object: &KafkaCluster, world: &World) -> Vec<Object> {
    let (valid, identity) = valid(object, world);
    resources::desired(&valid, &identity, &trust())
}

/// The observed state after a start, with everything in sync.
fn settled(valid: &ValidCluster) -> World {
    let ids = |role| {
        valid
            .groups_of(role)
            .flat_map(|group| group.node_ids())
            .collect::<Vec<_>>()
    };
    let (controllers, brokers) = (
        ids(freehold::api::kafka_cluster::Role::Controller),
        ids(freehold::api::kafka_cluster::Role::Broker),
    );
    let every: BTreeSet<i32> = controllers.iter().chain(&brokers).copied().collect();
    let voters = controllers.iter().map(|id| (*id, 100)).collect();
    let kafka = Kafka {
        unfenced: brokers.clone(),
        leader: controllers[0],
        voters,
        partitions: vec![(brokers.clone(), brokers)],
        ..Kafka::default()
    };
    World::running(every.into_iter().map(Pod::up), kafka)
}

/// Checks what must hold for every desired object.
fn lint(object: &Object) {
    let (value, name) = (&object.value, object.name());
    assert!(!name.is_empty() && name.len() <= 63, "{name:?}");
    assert_eq!(
        value["metadata"]["labels"]["app.kubernetes.io/managed-by"], "freehold",
        "{name}"
    );
    assert!(
        value["metadata"]["ownerReferences"][0]["uid"].is_string(),
        "{name} goes with its owner"
    );
    if object.kind() != "StatefulSet" {
        return;
    }
    assert_eq!(
        value["spec"]["updateStrategy"]["type"], "OnDelete",
        "the operator chooses which pods restart"
    );
    assert_eq!(
        value["spec"]["persistentVolumeClaimRetentionPolicy"]["whenScaled"],
        "Retain"
    );
    let pod = &value["spec"]["template"]["spec"];
    assert_eq!(pod["automountServiceAccountToken"], false);
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(
        pod["securityContext"]["seccompProfile"]["type"],
        "RuntimeDefault"
    );
    assert_eq!(
        pod["readinessGates"][0]["conditionType"],
        "freehold.dev/in-sync"
    );
    for volume in pod["volumes"].as_array().unwrap() {
        let sources = volume
            .as_object()
            .unwrap()
            .keys()
            .filter(|key| *key != "name")
            .collect::<Vec<_>>();
        let restricted = [
            "configMap",
            "secret",
            "emptyDir",
            "persistentVolumeClaim",
            "projected",
            "csi",
        ];
        assert!(
            sources.len() == 1 && restricted.contains(&sources[0].as_str()),
            "Pod Security restricted: {volume}"
        );
    }
    for container in pod["containers"].as_array().unwrap() {
        let security = &container["securityContext"];
        assert_eq!(security["readOnlyRootFilesystem"], true);
        assert_eq!(security["allowPrivilegeEscalation"], false);
        assert_eq!(security["capabilities"]["drop"][0], "ALL");
        assert!(
            container["resources"]["limits"]["memory"].is_string()
                && container["resources"]["requests"]["cpu"].is_string()
        );
        for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
            assert!(
                container[probe]["httpGet"]["path"].is_string(),
                "{probe} asks the broker"
            );
        }
    }
}

/// No listener without TLS, no listener without authentication, and everything denied unless
/// allowed.
fn lint_properties(object: &Object) {
    let Some(text) = object.value["data"]["server.properties"].as_str() else {
        return;
    };
    let properties: BTreeMap<&str, &str> = text
        .lines()
        .filter_map(|line| line.split_once('='))
        .collect();
    assert!(!properties["listener.security.protocol.map"].contains("PLAINTEXT"));
    assert!(properties["authorizer.class.name"].ends_with("ShadowAuthorizer"));
    assert!(!properties.contains_key("allow.everyone.if.no.acl.found"));
    for (key, value) in &properties {
        if key.ends_with("ssl.client.auth") && *value == "none" {
            let listener = key.trim_end_matches(".ssl.client.auth");
            assert!(
                properties.contains_key(format!("{listener}.sasl.enabled.mechanisms").as_str()),
                "{listener} lets the anonymous in"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_settled_cluster_plans_nothing_and_is_ready(yaml in clusters()) {
        let object = cluster(&yaml);
        let (valid, _) = valid(&object, &world());
        let (observed, valid) = observe(&object, &settled(&valid));
        let plan = linter::plan(&object, &valid.unwrap(), &observed);
        let steps: Vec<_> = plan.steps.iter().map(ToString::to_string).collect();
        prop_assert!(steps.is_empty(), "{steps:?}");
        prop_assert!(plan.waiting_on.is_empty(), "{:?}", plan.waiting_on);
    }

    #[test]
    fn applying_what_is_planned_leaves_nothing_to_apply(yaml in clusters()) {
        let object = cluster(&yaml);
        let (mut observed, valid) = observe(&object, &world());
        let valid = valid.unwrap();
        let plan = linter::plan(&object, &valid, &observed);
        for step in plan.steps {
            if let plan::Step::Apply(object) = step {
                fixture::change_objects(&mut observed, |all| all.push(live(*object)));
            }
        }
        let again = linter::plan(&object, &valid, &observed);
        let changes = |step: &plan::Step| matches!(step, plan::Step::Apply(_) | plan::Step::Prune(_) | plan::Step::DeleteVolume { .. });
        prop_assert!(!again.steps.iter().any(changes));
    }

    #[test]
    fn the_order_of_lists_means_nothing(yaml in clusters()) {
        let object = cluster(&yaml);
        let mut turned = object.clone();
        turned.spec.node_pools.reverse();
        turned.spec.listeners.reverse();
        for pool in &mut turned.spec.node_pools {
            pool.zones.reverse();
            pool.roles.reverse();
        }
        prop_assert!(all(&object, &world()) == all(&turned, &world()));
    }

    #[test]
    fn every_desired_state_passes_the_linter(yaml in clusters()) {
        let objects = all(&cluster(&yaml), &world());
        objects.iter().for_each(lint);
        objects.iter().for_each(lint_properties);
        let names: BTreeSet<_> = objects.iter().map(|object| (object.kind().to_owned(), object.name().to_owned())).collect();
        prop_assert_eq!(names.len(), objects.len(), "no two objects have one name");
    }

    #[test]
    fn node_ids_stay_when_a_pool_is_added_and_none_is_given_twice(yaml in clusters()) {
        let object = cluster(&yaml);
        let (before, _) = valid(&object, &world());
        let mut more = object.clone();
        let mut pool = more.spec.node_pools.last().unwrap().clone();
        pool.name = "added".into();
        pool.roles = vec![freehold::api::kafka_cluster::Role::Broker];
        more.spec.node_pools.insert(0, pool);
        let (mut observed, _) = observe(&object, &world());
        observed.identity = observed.identity.map(|mut identity| { identity.set_blocks(&before.blocks); identity });
        let after = freehold::kinds::kafka_cluster::validate::validate(&more, &observed).unwrap();
        for (slot, first) in &before.blocks {
            prop_assert_eq!(after.blocks.get(slot), Some(first));
        }
        let ids: Vec<i32> = after.groups.iter().flat_map(|group| group.node_ids()).collect();
        prop_assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len());
    }

    #[test]
    fn a_formed_quorum_is_never_formed_again(yaml in clusters()) {
        let of = |formed| {
            let objects = all(&cluster(&yaml), &World { formed, ..world() });
            let formats: Vec<Value> = objects.iter().map(|object| object.value["data"]["format.properties"].clone()).filter(Value::is_string).collect();
            formats.iter().map(|text| text.as_str().unwrap().contains("directory-of-")).collect::<Vec<_>>()
        };
        prop_assert!(of(false).iter().all(|initial| *initial), "the first format names the first controllers");
        prop_assert!(of(true).iter().all(|initial| !initial), "an empty volume of a formed quorum must not form another");
    }
}

/// The revision of a pod: everything that can require a restart.
fn revision(template: &str) -> Revision {
    let text = format!(
        "apiVersion: freehold.dev/v1alpha1\nkind: KafkaCluster\nmetadata: {{name: c, namespace: n}}\nspec:\n  version: 4.3.1\n  podTemplate: \
         {{volumes: [{{name: v, emptyDir: {{}}}}]}}\n  nodePools:\n  - {{name: p, roles: [controller, broker], replicas: 1, zones: [a], storage: {{size: \
         1Gi}}, {template}}}\n"
    );
    let all = all(&cluster(&text), &world());
    let set = all
        .iter()
        .find(|object| object.kind() == "StatefulSet")
        .unwrap();
    Revision::of_desired(set)
}

#[test]
fn every_change_of_a_pod_template_is_seen_as_a_change_of_the_spec_that_restarts_nodes() {
    let plain = revision("podTemplate: {}");
    for template in [
        "podTemplate: {labels: {a: b}}",
        "podTemplate: {annotations: {a: b}}",
        "podTemplate: {tolerations: [{key: a, operator: Exists}]}",
        "podTemplate: {nodeSelector: {a: b}}",
        "podTemplate: {priorityClassName: high}",
        "podTemplate: {affinity: {podAffinity: {preferredDuringSchedulingIgnoredDuringExecution: []}}}",
        "podTemplate: {topologySpreadConstraints: [{topologyKey: a, maxSkew: 1, whenUnsatisfiable: DoNotSchedule}]}",
        "podTemplate: {imagePullSecrets: [{name: a}]}",
        "podTemplate: {securityContext: {ids: Platform}}",
        "podTemplate: {securityContext: {runAsUser: 7}}",
        "podTemplate: {env: [{name: A, value: b}]}",
        "podTemplate: {volumes: [{name: a, emptyDir: {}}]}",
        "podTemplate: {volumeMounts: [{name: v, mountPath: /opt/v}]}",
        "podTemplate: {terminationGracePeriodSeconds: 300}",
        "podTemplate: {startLimitSeconds: 600}",
        "jvm: {options: [\"-XX:+UseZGC\"]}",
    ] {
        let changed = revision(template);
        assert!(
            changed.template != plain.template && changed.spec != plain.spec,
            "{template}"
        );
        assert_eq!(changed.config, plain.config, "{template}");
    }
}

#[test]
fn brokers_that_hold_more_than_their_heap_has_room_for_are_told_before_it_is_full() {
    let object = cluster(
        "apiVersion: freehold.dev/v1alpha1\nkind: KafkaCluster\nmetadata: {name: c, namespace: n}\nspec:\n  version: 4.3.1\n  nodePools:\n  - {name: p, roles: \
         [controller, broker], replicas: 1, zones: [a], storage: {size: 1Gi}, jvm: {heap: 384Mi}}\n",
    );
    let warnings = |replicas: usize| {
        let voters = BTreeMap::from([(0, 100)]);
        let kafka = Kafka {
            unfenced: vec![0],
            voters,
            partitions: vec![(vec![0], vec![0]); replicas],
            ..Kafka::default()
        };
        let (observed, valid) = observe(&object, &World::running([Pod::up(0)], kafka));
        let (valid, desired, pending) = (valid.unwrap(), Vec::new(), Pending::default());
        let facts = Facts {
            object: &object,
            cluster: &valid,
            observed: &observed,
            desired: &desired,
            pending,
            lease: None,
            mode: Mode::Change,
        };
        readiness::heap(&facts).warnings
    };
    assert_eq!(warnings(6500), [""; 0]);
    let told = warnings(6501);
    assert!(
        told.len() == 1
            && told[0].contains("nodes 0 hold more than 6500 replicas")
            && told[0].contains("raise spec.nodePools[p].jvm.heap"),
        "{told:?}"
    );
    assert_eq!(
        warnings(10_000),
        told,
        "how many there are is not told: a status is not written for each"
    );
}
