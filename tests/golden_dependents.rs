//! Golden cases of Topics (`tests/golden-topics`) and Users (`tests/golden-users`): `object.yaml`
//! and `observed.yaml` go in, through the real validate. `plan.txt` or `invalid.txt` comes out.
//! Of Pipelines (`tests/golden-pipelines`) come out the objects that they are made of.
//! `UPDATE_GOLDEN=1 cargo test --test all golden_dependents` writes the answers: review the diff.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use crate::reviewed;

use freehold::api::kafka_cluster::KafkaCluster;
use freehold::api::pipeline::Pipeline;
use freehold::api::reference::ClusterKey;
use freehold::api::topic::Topic;
use freehold::api::user::User;
use freehold::clusters::ClusterFacts;
use freehold::kinds::context::Settings;
use freehold::kinds::pipeline::desired::{self, USER_FOLDER, Wanted};
use freehold::kinds::pipeline::{replay, sources, tenants};
use freehold::kinds::{topic, user};
use freehold::kubernetes::Object;
use freehold::tenancy::ownership::{Other, Ownership};
use freehold::tenancy::rights::{Standing, Standings};
use freehold_kafka::metadata_image::{PartitionImage, PrincipalImage, TopicImage};
use freehold_kafka::replication::Brokers;
use freehold_pipeline::graph::Graph;
use freehold_pipeline::rights::Rights;
use freehold_pipeline::stages::cut;
use freehold_pipeline::topics::TopicNames;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use reviewed::compare;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const NOW: &str = "2026-06-01T00:00:00Z";

const CLUSTER: &str = "apiVersion: freehold.dev/v1alpha1\nkind: KafkaCluster\nmetadata: {name: demo, namespace: kafka}\nspec:\n  version: 4.3.1\n  \
                       listeners: [{name: scram, port: 9094, authentication: ScramSha512}]\n  nodePools:\n  \
                       - {name: all, roles: [controller, broker], replicas: 3, zones: [a, b, c], storage: {size: 1Gi}}\n";

/// What is seen of the world, in short.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct World {
    /// More of the cluster's spec.
    spec: BTreeMap<String, serde_json::Value>,
    /// The object is in the cluster's namespace.
    at_home: bool,
    /// Kafka records this object as the owner of the name.
    mine: bool,
    /// Another object that has the name, as NAMESPACE/NAME.
    other: Option<String>,
    /// The topic as Kafka has it.
    topic: Option<Found>,
    holds_records: bool,
    /// Topics by the namespace that owns them.
    topics: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Found {
    partitions: usize,
    replicas: Vec<i32>,
    #[serde(default)]
    config: BTreeMap<String, String>,
}

impl World {
    fn cluster(&self) -> Arc<ClusterFacts> {
        let mut object: serde_json::Value = serde_saphyr::from_str(CLUSTER).unwrap();
        for (field, value) in &self.spec {
            object["spec"][field] = value.clone();
        }
        Arc::new(ClusterFacts::of_spec(
            &serde_json::from_value::<KafkaCluster>(object).unwrap(),
        ))
    }

    fn ownership(&self) -> Ownership {
        Ownership {
            mine: self.mine,
            other: self.other.clone().map(Other::Holds),
            ..Ownership::default()
        }
    }
}

fn lines<T: Display>(all: impl IntoIterator<Item = T>) -> String {
    all.into_iter().map(|one| format!("{one}\n")).collect()
}

/// Runs every case of a folder.
fn cases(folder: &str, at_least: usize, run: impl Fn(&Path, &World, &str, &mut Vec<String>)) {
    let home = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(folder);
    let mut folders: Vec<PathBuf> = fs::read_dir(home)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    folders.sort();
    let mut wrong = Vec::new();
    for folder in &folders {
        assert!(
            ["plan.txt", "invalid.txt"]
                .iter()
                .any(|name| folder.join(name).exists()),
            "{folder:?} asks nothing"
        );
        let world: World =
            serde_saphyr::from_str(&fs::read_to_string(folder.join("observed.yaml")).unwrap())
                .unwrap();
        run(
            folder,
            &world,
            &fs::read_to_string(folder.join("object.yaml")).unwrap(),
            &mut wrong,
        );
    }
    assert!(folders.len() >= at_least, "only {} cases", folders.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_topic_comes_out_as_it_was_reviewed() {
    cases("golden-topics", 6, |folder, world, object, wrong| {
        let object: Topic = serde_saphyr::from_str(object).unwrap();
        let found = world.topic.as_ref().map(|found| TopicImage {
            id: uuid::Uuid::from_u128(1),
            partitions: vec![PartitionImage::new(&found.replicas); found.partitions],
            config: found.config.clone().into(),
        });
        let racks = [(0, "a"), (100, "b"), (200, "c")]
            .map(|(id, rack)| (id, rack.to_owned()))
            .into();
        let brokers = Brokers {
            racks,
            replicas: [(0, 3), (100, 4), (200, 5)].into(),
        };
        let observed = topic::observe::Observed {
            cluster: world.cluster(),
            at_home: world.at_home,
            topic: found,
            figure: None,
            brokers,
            brokers_config: BTreeMap::new(),
            holds_records: world.holds_records,
            ownership: world.ownership(),
        };
        let planned = topic::validate::validate(&object, &observed).and_then(|valid| {
            topic::plan::plan(&object, &topic::desired::desired(&valid), &observed)
        });
        match planned {
            Ok(plan) => {
                let text = lines(&plan.steps)
                    + &lines(plan.drift.iter().map(|drift| format!("drift: {drift}")))
                    + &lines(plan.refused.iter().map(|why| format!("refused: {why}")));
                compare(&folder.join("plan.txt"), &text, wrong);
                assert!(
                    !folder.join("invalid.txt").exists(),
                    "{folder:?} is valid: {text}"
                );
            }
            Err(invalids) => {
                compare(&folder.join("invalid.txt"), &lines(&invalids), wrong);
                assert!(
                    !folder.join("plan.txt").exists(),
                    "{folder:?} is not valid: {invalids:?}"
                );
            }
        }
    });
}

#[test]
fn every_user_comes_out_as_it_was_reviewed() {
    cases("golden-users", 5, |folder, world, object, wrong| {
        let object: User = serde_saphyr::from_str(object).unwrap();
        let standing = |(topic, namespace): (&String, &String)| {
            let owner = Some((format!("{namespace}/{topic}"), namespace.clone()));
            (
                topic.clone(),
                Standing {
                    owner,
                    ..Standing::default()
                },
            )
        };
        let standings: Standings = world.topics.iter().map(standing).collect();
        let observed = user::observe::Observed {
            now: NOW.parse().unwrap(),
            cluster: world.cluster(),
            at_home: world.at_home,
            secret: None,
            former_secret: None,
            given: None,
            principal: PrincipalImage::default(),
            certified_until: None,
            standings,
            ownership: world.ownership(),
        };
        let valid = user::validate::validate(&object, &observed);
        let planned = valid.and_then(|valid| {
            let refused = lines(
                valid
                    .refused
                    .iter()
                    .map(|refused| format!("refused: {refused}")),
            );
            Ok((
                user::plan::plan(&object, &valid, &observed).map_err(|invalid| vec![invalid])?,
                refused,
            ))
        });
        match planned {
            Ok((plan, refused)) => {
                compare(
                    &folder.join("plan.txt"),
                    &(lines(&plan.steps) + &refused),
                    wrong,
                );
                assert!(!folder.join("invalid.txt").exists(), "{folder:?} is valid");
            }
            Err(invalids) => {
                compare(&folder.join("invalid.txt"), &lines(&invalids), wrong);
                assert!(
                    !folder.join("plan.txt").exists(),
                    "{folder:?} is not valid: {invalids:?}"
                );
            }
        }
    });
}

/// The objects of a Pipeline, as its reconcile applies them.
fn objects(object: &Pipeline) -> Vec<Object> {
    let facts = World::default().cluster();
    let settings = Settings {
        namespace: "freehold".into(),
        ..Settings::default()
    };
    let definition = object.spec.definition();
    let graph = Graph::of(&definition).unwrap();
    let cut = cut(
        &graph,
        &definition,
        &TopicNames::default(),
        "shop",
        "orders",
    );
    let rights = Rights::of(&cut, "shop", "orders");
    let now = NOW.parse().unwrap();
    let decision = replay::decide(object, &cut, now);
    let own = tenants::user(object, &facts, &decision.needs(&rights));
    let user: User = serde_json::from_value(own.value.clone()).unwrap();
    let client = tenants::client_settings(&user, &facts, USER_FOLDER).unwrap();
    let topics = cut.internal.iter();
    let mut all: Vec<Object> = topics
        .map(|internal| tenants::topic(object, internal, 6))
        .collect();
    if object.spec.user_ref.is_none() {
        all.push(own);
    }
    let found = |topic: &str| Some((format!("id-of-{topic}"), 6));
    all.extend(desired::objects(&Wanted {
        object,
        settings: &settings,
        image: "freehold/runner:1",
        cluster: &ClusterKey {
            namespace: "kafka".into(),
            name: "demo".into(),
        },
        ports: &tenants::ports(&facts),
        stages: &cut.stages,
        topics: &sources::topics(object, &cut.stages, found, &Time(now)),
        revision: 1,
        client: &client,
        secret: &format!("{}-kafka", tenants::user_name(object)),
        credential: "hash",
        replay: decision.replaying(),
    }));
    all
}

#[test]
fn every_pipeline_is_made_of_what_was_reviewed() {
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden-pipelines");
    let mut wrong = Vec::new();
    let mut cases = 0;
    for folder in fs::read_dir(home).unwrap() {
        let folder = folder.unwrap().path();
        let text = fs::read_to_string(folder.join("object.yaml")).unwrap();
        let object: Pipeline = serde_saphyr::from_str(&text).unwrap();
        let answer = folder.join("objects.yaml");
        assert!(answer.exists(), "{folder:?} asks nothing");
        let made: Vec<String> = objects(&object)
            .into_iter()
            .map(|object| serde_saphyr::to_string(&object.value).unwrap())
            .collect();
        compare(&answer, &made.join("---\n"), &mut wrong);
        cases += 1;
    }
    assert!(cases >= 2, "only {cases} cases");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
