//! Adds volumes to brokers and removes them, against a model of StatefulSets. Whichever pod is lost
//! in between, every pod comes back, has the volumes of the spec in the end, and no data stay on a
//! removed volume.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use crate::fixture;
use crate::linter;

use fixture::{Kafka, Pod, World, claim_of, cluster, live, named_claim, observe};
use freehold::api::kafka_cluster::{DataVolume, KafkaCluster, KafkaClusterStatus, WhenScaled};
use freehold::kinds::kafka_cluster::model::volume_names::{claim_name, log_folder};
use freehold::kinds::kafka_cluster::observed::{
    Claim, KafkaFacts, Objects, Observed, PodFacts, Revision, volumes_of,
};
use freehold::kinds::kafka_cluster::plan::{Step, plan};
use freehold::kinds::kafka_cluster::preview::preview;
use freehold::kinds::kafka_cluster::resources::server_properties::dynamic_configs;
use freehold::kinds::kafka_cluster::validate::validate;
use freehold::kubernetes::{Live, labels};
use freehold_kafka_client::{BrokerDescription, LogFolder, LogFolders, LogReplica};
use proptest::prelude::*;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

const SET: &str = "c-b-a";
const CONTROLLER: i32 = 100;
const REPLICAS: i32 = 6;
const LOOKS_MAX: usize = 600;

fn object(brokers: i32, version: &str) -> KafkaCluster {
    cluster(&format!(
        "apiVersion: freehold.dev/v1alpha1\nkind: KafkaCluster\nmetadata: {{name: c, namespace: n, finalizers: [freehold.dev/finalizer]}}\nspec:\n  \
         version: {version}\n  nodePools:\n  - {{name: b, roles: [broker], replicas: {brokers}, zones: [a], storage: {{size: 1Gi}}}}\n  \
         - {{name: c, roles: [controller], replicas: 1, zones: [a], storage: {{size: 1Gi}}}}\n"
    ))
}

struct Model {
    object: KafkaCluster,
    base: Observed,
    objects: Vec<Live>,
    /// The existing pods; those that are stopping are `deleting`.
    pods: BTreeMap<i32, PodFacts>,
    /// Replicas by broker and log folder. They survive the deletion of pods.
    held: BTreeMap<i32, BTreeMap<String, BTreeSet<i32>>>,
    configs: BTreeMap<String, BTreeMap<String, String>>,
    /// Claims by broker: of all pods that ever existed, unless they were deleted.
    claims: BTreeSet<(i32, String)>,
    restarts: usize,
}

impl Model {
    fn new(brokers: i32, version: &str) -> Self {
        let object = object(brokers, version);
        let nodes: Vec<i32> = (0..brokers).chain([CONTROLLER]).collect();
        let kafka = Kafka {
            unfenced: (0..brokers).collect(),
            leader: CONTROLLER,
            voters: [(CONTROLLER, 9)].into(),
            ..Kafka::default()
        };
        let world = World::running(nodes.iter().copied().map(Pod::up), kafka);
        let (base, valid) = observe(&object, &world);
        let held = (0..brokers)
            .map(|id| (id, [(log_folder(""), (0..REPLICAS).collect())].into()))
            .collect();
        let claims = (0..brokers).map(|id| (id, String::new())).collect();
        let pods = base
            .pods
            .iter()
            .map(|pod| (pod.node_id, pod.clone()))
            .collect();
        let configs = dynamic_configs(&valid.unwrap());
        Self {
            object,
            objects: base.objects.all().to_vec(),
            pods,
            held,
            configs,
            claims,
            restarts: 0,
            base,
        }
    }

    fn brokers(&self) -> impl Iterator<Item = i32> + use<> {
        0..i32::try_from(self.object.spec.node_pools[0].replicas).unwrap()
    }

    fn set_volumes(&mut self, names: &[&str]) {
        let volume = |name: &&str| DataVolume {
            name: (*name).into(),
            ..self.object.spec.node_pools[0].storage.all()[0].clone()
        };
        self.object.spec.node_pools[0].storage.volumes = names.iter().map(volume).collect();
    }

    fn folders(&self, id: i32) -> LogFolders {
        let replica = |partition: &i32| LogReplica {
            topic: "t".into(),
            partition: *partition,
            bytes: 1000,
            future: false,
        };
        let of = |path: &String| {
            self.held[&id]
                .get(path)
                .map(|held| held.iter().map(replica).collect())
                .unwrap_or_default()
        };
        let paths = self.pods[&id].volumes.iter().map(|name| log_folder(name));
        LogFolders(
            paths
                .map(|path| {
                    (
                        path.clone(),
                        LogFolder {
                            disk: None,
                            replicas: of(&path),
                        },
                    )
                })
                .collect(),
        )
    }

    fn observed(&self) -> Observed {
        let mut observed = self.base.clone();
        observed.objects = Objects::of(self.objects.clone());
        observed.pods = self.pods.values().cloned().collect();
        observed.volumes = self
            .claims
            .iter()
            .map(|(id, volume)| named_claim("b", &claim_name(volume, &format!("{SET}-{id}"))))
            .collect();
        let up = |id: &i32| {
            self.pods
                .get(id)
                .is_some_and(|pod| pod.containers_ready && !pod.deleting)
        };
        observed.folders = self
            .brokers()
            .filter(up)
            .map(|id| (id, self.folders(id)))
            .collect();
        if let KafkaFacts::Answered {
            cluster,
            configs,
            topics,
            ..
        } = &mut observed.kafka
        {
            cluster.brokers = self
                .brokers()
                .map(|id| BrokerDescription {
                    id,
                    fenced: !up(&id),
                    rack: Some("a".into()),
                })
                .collect();
            *configs = self.configs.clone();
            topics.clear();
        }
        observed
    }

    /// One reconcile; true when there was nothing to do or to wait for.
    fn look(&mut self, dies: bool) -> bool {
        let observed = self.observed();
        let valid = validate(&self.object, &observed).unwrap();
        let plan = linter::plan(&self.object, &valid, &observed);
        let idle = plan.steps.is_empty() && plan.waiting_on.is_empty() && plan.lease.is_none();
        for step in plan.steps {
            match step {
                Step::Apply(object) => {
                    self.objects.retain(|live| {
                        live.resource.kind != object.kind() || live.name() != object.name()
                    });
                    self.objects.push(live(*object));
                }
                Step::Release(set) => self.objects.retain(|live| {
                    live.resource.kind != "StatefulSet" || live.name() != set.name()
                }),
                Step::RestartPod { pod, .. } => {
                    self.pods.get_mut(&pod.node_id).unwrap().deleting = true;
                    self.restarts += 1;
                }
                Step::SetInSync { pod, in_sync } => {
                    self.pods.get_mut(&pod.node_id).unwrap().in_sync = in_sync
                }
                Step::AlterConfigs(_) => self.configs = dynamic_configs(&valid),
                Step::MoveFolders { broker, moves } => {
                    for one in moves {
                        let folders = self.held.get_mut(&broker).unwrap();
                        folders
                            .values_mut()
                            .for_each(|held| held.retain(|partition| *partition != one.partition));
                        folders.entry(one.folder).or_default().insert(one.partition);
                    }
                }
                Step::UpdateIdentity(_) => {}
                Step::DeleteVolume { claim: live, .. } => {
                    let is_it = |(id, volume): &&(i32, String)| {
                        claim_name(volume, &format!("{SET}-{id}")) == live.name()
                    };
                    let claim = self.claims.iter().find(is_it).unwrap().clone();
                    let (id, volume) = &claim;
                    assert!(
                        self.held[id]
                            .get(&log_folder(volume))
                            .is_none_or(BTreeSet::is_empty),
                        "broker {id} lost what was on {volume}"
                    );
                    assert!(
                        !self.pods[id].volumes.contains(volume),
                        "the volume {volume} of broker {id} is in use"
                    );
                    self.claims.remove(&claim);
                }
                other => panic!("{other}"),
            }
        }
        if !dies {
            self.object.status = Some(KafkaClusterStatus {
                disruption: plan.lease,
                ..KafkaClusterStatus::default()
            });
        }
        idle
    }

    /// What Kubernetes does: removes pods that are stopping, then creates them again in order, as
    /// long as the pods before have every volume of the template.
    fn time_passes(&mut self) {
        self.pods.retain(|_, pod| !pod.deleting);
        self.pods
            .values_mut()
            .for_each(|pod| pod.containers_ready = true);
        let Some(set) = self
            .objects
            .iter()
            .find(|live| live.name() == SET && live.resource.kind == "StatefulSet")
        else {
            return;
        };
        let template = &set.value["spec"]["template"];
        let volumes = volumes_of(template);
        for id in self.brokers() {
            match self.pods.get(&id) {
                Some(pod) if pod.volumes.is_superset(&volumes) => {}
                Some(_) => return,
                None => {
                    let lost = self.held[&id].iter().find(|(path, held)| {
                        !held.is_empty() && !volumes.iter().any(|name| log_folder(name) == **path)
                    });
                    assert!(lost.is_none(), "broker {id} comes back without {lost:?}");
                    let pod = PodFacts {
                        uid: format!("pod-{id}-{}", self.restarts),
                        volumes: volumes.clone(),
                        revision: Revision::of(template),
                        containers_ready: false,
                        in_sync: false,
                        ..self
                            .base
                            .pods
                            .iter()
                            .find(|pod| pod.node_id == id)
                            .unwrap()
                            .clone()
                    };
                    self.claims
                        .extend(volumes.iter().map(|name| (id, name.clone())));
                    self.pods.insert(id, pod);
                }
            }
        }
    }

    /// A topic is created: each running broker gets a replica, in the folder with the fewest
    /// replicas of those that accept new ones.
    fn new_topic(&mut self) {
        let up: Vec<i32> = self
            .brokers()
            .filter(|id| {
                self.pods
                    .get(id)
                    .is_some_and(|pod| pod.containers_ready && !pod.deleting)
            })
            .collect();
        let partition = self
            .held
            .values()
            .flat_map(BTreeMap::values)
            .flatten()
            .max()
            .unwrap()
            + 1;
        for id in up {
            let cordoned = self
                .configs
                .get(&id.to_string())
                .and_then(|configs| configs.get("cordoned.log.dirs"))
                .cloned()
                .unwrap_or_default();
            let open = self.pods[&id]
                .volumes
                .iter()
                .map(|name| log_folder(name))
                .filter(|path| !cordoned.split(',').any(|other| other == path));
            let folders = self.held.get_mut(&id).unwrap();
            let folder = open
                .min_by_key(|path| folders.get(path).map_or(0, BTreeSet::len))
                .unwrap();
            folders.entry(folder).or_default().insert(partition);
        }
    }

    /// Reconciles until there is nothing to do. `losses` says at which reconcile which pod is lost.
    fn run(&mut self, losses: &BTreeMap<usize, i32>, deaths: &[bool]) -> bool {
        for look in 0..LOOKS_MAX {
            let idle = self.look(deaths[look % deaths.len()] && look % 5 != 0);
            if idle
                && (look > 60 || losses.is_empty())
                && losses.keys().all(|at| *at < look)
                && self.pods.len() == self.brokers().count() + 1
            {
                return true;
            }
            if look < 60 && look % 7 == 3 {
                self.new_topic();
            }
            if let Some(id) = losses.get(&look) {
                self.pods
                    .remove(&(id % i32::try_from(self.brokers().count()).unwrap()));
            }
            self.time_passes();
        }
        false
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: fixture::cases(16), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn volumes_come_and_go_whoever_is_lost_meanwhile(
        brokers in 1..=4_i32,
        losses in prop::collection::btree_map(0..40_usize, 0..4_i32, 0..4),
        deaths in prop::collection::vec(prop::bool::weighted(0.2), 1..20),
        discards in any::<bool>(),
    ) {
        let mut model = Model::new(brokers, "4.3.1");
        model.object.spec.node_pools[0].storage.when_scaled = if discards { WhenScaled::Delete } else { WhenScaled::Retain };
        prop_assert!(model.run(&BTreeMap::new(), &[false]), "it is as it should be");
        prop_assert_eq!(model.restarts, 0);
        model.set_volumes(&["more"]);
        prop_assert!(model.run(&losses, &deaths), "a volume comes: {:?}", model.look(false));
        for id in model.brokers() {
            let held: Vec<usize> = model.folders(id).0.values().map(|folder| folder.replicas.len()).collect();
            prop_assert!(held.len() == 2 && held[0].abs_diff(held[1]) <= 2, "both are filled alike: {:?}", held);
        }
        model.set_volumes(&[]);
        prop_assert!(model.run(&losses, &deaths), "it goes");
        for id in model.brokers() {
            prop_assert_eq!(model.folders(id).0.len(), 1);
            prop_assert!(model.held[&id].iter().all(|(path, held)| *path == log_folder("") || held.is_empty()), "nothing is left behind");
        }
        let kept = if discards { 1 } else { 2 };
        prop_assert_eq!(model.claims.len(), kept * usize::try_from(brokers).unwrap(), "{:?}", model.claims);
        let most = usize::try_from(2 * brokers).unwrap();
        prop_assert!(model.restarts <= most + 2 * losses.len() * most, "{} restarts", model.restarts);
        prop_assert!(!losses.is_empty() || model.restarts == most, "one for each change: {}", model.restarts);
    }
}

#[test]
fn a_kafka_that_cannot_keep_a_volume_empty_keeps_the_volume() {
    let mut model = Model::new(2, "4.2.1");
    model.set_volumes(&["more"]);
    assert!(model.run(&BTreeMap::new(), &[false]));
    model.set_volumes(&[]);
    let wrong = validate(&model.object, &model.observed()).unwrap_err();
    assert!(
        wrong[0]
            .to_string()
            .contains("cannot empty volume more: put it back"),
        "{}",
        wrong[0]
    );
}

#[test]
fn a_preview_tells_restarts_for_a_volume_in_the_order_in_which_they_come() {
    let mut model = Model::new(3, "4.3.1");
    assert!(model.run(&BTreeMap::new(), &[false]));
    let lines = |model: &Model| {
        let observed = model.observed();
        preview(
            &model.object,
            &validate(&model.object, &observed).unwrap(),
            &observed,
        )
    };
    assert_eq!(lines(&model), ["nothing: the cluster is as this spec says"]);
    model.set_volumes(&["more"]);
    let restarts: Vec<String> = lines(&model)
        .into_iter()
        .filter(|line| line.starts_with("restart"))
        .collect();
    let expected = [
        "restart 1: nodes 0 in a: ",
        "restart 2: nodes 1 in a: ",
        "restart 3: nodes 2 in a: ",
    ];
    assert!(
        restarts.len() == 3
            && restarts
                .iter()
                .zip(expected)
                .all(|(line, start)| line.starts_with(start)),
        "{restarts:?}"
    );
}

/// A claim of a broker, whose size Freehold requested.
fn sized_claim(volume: &str, id: i32, requested: &str, capacity: &str) -> Claim {
    claim_of(json!({
        "metadata": {"name": claim_name(volume, &format!("{SET}-{id}")), "uid": format!("{volume}{id}"), "labels": {labels::POOL: "b"},
            "annotations": {labels::REQUESTED_SIZE: requested}},
        "spec": {"resources": {"requests": {"storage": requested}}},
        "status": {"phase": "Bound", "capacity": {"storage": capacity}}
    }))
}

/// A volume that was taken out of the spec is kept until it is empty. Its automatic growth, which
/// left the spec with it, may be under way.
#[test]
fn the_growth_of_a_volume_that_left_the_spec_goes_on() {
    let mut model = Model::new(1, "4.3.1");
    model.set_volumes(&["more"]);
    assert!(model.run(&BTreeMap::new(), &[false]));
    let changes = |model: &Model| {
        let mut observed = model.observed();
        observed.volumes = vec![sized_claim("more", 0, "1280Mi", "1Gi")];
        let valid = validate(&model.object, &observed).unwrap();
        let steps = plan(&model.object, &valid, &observed).steps;
        steps
            .iter()
            .map(ToString::to_string)
            .filter(|step| step.contains("change volume"))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        changes(&model),
        ["change volume data-more-c-b-a-0: 1025Mi large"],
        "the spec has the volume, and does not grow it any more"
    );
    model.set_volumes(&[]);
    assert_eq!(changes(&model), [""; 0]);
}

#[test]
fn a_size_that_no_volume_has_reached_can_be_taken_back_and_no_other() {
    let nodes = [0, 1, CONTROLLER];
    let kafka = Kafka {
        unfenced: vec![0, 1],
        leader: CONTROLLER,
        voters: [(CONTROLLER, 9)].into(),
        ..Kafka::default()
    };
    let mut object = object(2, "4.3.1");
    let sized = |object: &mut KafkaCluster, size: &str| {
        object.spec.node_pools[0].storage.size.0 = size.into();
    };
    sized(&mut object, "64Ti");
    let (mut observed, _) = observe(&object, &World::running(nodes.map(Pod::up), kafka));
    let claim = |id: i32, requested: &str, capacity: &str| sized_claim("", id, requested, capacity);
    let found = |object: &KafkaCluster, observed: &Observed| match validate(object, observed) {
        Err(invalids) => invalids.iter().map(ToString::to_string).collect(),
        Ok(valid) => {
            let planned = plan(object, &valid, observed);
            let words = planned.steps.iter().map(ToString::to_string);
            words
                .filter(|step| step.contains("change volume") || step.contains("anew"))
                .collect::<Vec<_>>()
        }
    };
    observed.volumes = vec![claim(0, "64Ti", "64Gi"), claim(1, "64Ti", "64Gi")];
    sized(&mut object, "65Gi");
    assert_eq!(
        found(&object, &observed),
        [
            "make StatefulSet c-b-a anew around its pods",
            "change volume data-c-b-a-0: 65Gi large",
            "change volume data-c-b-a-1: 65Gi large"
        ]
    );
    let refused = "spec.nodePools[b].storage.size: a volume cannot shrink, and there are volumes of 64Gi; give 64Gi or more";
    sized(&mut object, "63Gi");
    assert_eq!(found(&object, &observed), [refused]);
    // One of them has reached it.
    observed.volumes[1] = claim(1, "64Ti", "64Ti");
    sized(&mut object, "65Gi");
    assert_eq!(found(&object, &observed), [refused.replace("64Gi", "64Ti")]);
    // No volume was made yet.
    observed.volumes.clear();
    assert_eq!(
        found(&object, &observed),
        ["make StatefulSet c-b-a anew around its pods"]
    );
}
