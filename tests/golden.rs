//! Golden cases: `object.yaml` and `observed.yaml` are the input, through the real validate. Every
//! other file in the folder of a case is an expected output, and only these files are compared:
//! - `objects.txt`: the list of the cluster's child objects; `objects/KIND-NAME.yaml`: one of them;
//! - `plan.txt`: the steps, and what the plan waits for; `status.yaml`: the status; `invalid.txt`:
//!   what is wrong with the spec.
//!
//! To check a further output, create its file empty. `UPDATE_GOLDEN=1 cargo test --test all golden`
//! writes the files: review the diff.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use crate::fixture;
use crate::linter;
use crate::reviewed;

use fixture::{NOW, World, cluster, observe};
use freehold::cli::render::yaml;
use freehold::kinds::kafka_cluster::model::authority::Trust;
use freehold::kinds::kafka_cluster::observed::Identity;
use freehold::kinds::kafka_cluster::resources;
use freehold::kinds::kafka_cluster::status;
use freehold::kubernetes::Object;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use reviewed::compare;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

fn trust() -> Trust {
    Trust {
        cluster_ca: "CLUSTER-CA\n".into(),
        clients_ca: "CLIENTS-CA\n".into(),
        bundle: "CLUSTER-CA\n".into(),
    }
}

/// Compares the list of objects, and the objects for which the case has a file.
fn compare_objects(folder: &Path, desired: &[Object], wrong: &mut Vec<String>) {
    let names: String = desired
        .iter()
        .map(|object| format!("{} {}\n", object.kind(), object.name()))
        .collect();
    compare(&folder.join("objects.txt"), &names, wrong);
    for entry in fs::read_dir(folder.join("objects")).into_iter().flatten() {
        let path = entry.unwrap().path();
        let asked = path.file_stem().unwrap().to_string_lossy().into_owned();
        let found = desired
            .iter()
            .find(|object| format!("{}-{}", object.kind(), object.name()) == asked);
        match found {
            Some(object) => compare(&path, &(yaml(&object.value).unwrap() + "\n"), wrong),
            None => wrong.push(format!("{}: there is no such object", path.display())),
        }
    }
}

/// Runs a case; returns the number of outputs that it checks.
fn run(folder: &Path, wrong: &mut Vec<String>) -> usize {
    let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    let asked = [
        "objects.txt",
        "objects",
        "plan.txt",
        "status.yaml",
        "invalid.txt",
    ]
    .iter()
    .filter(|name| folder.join(name).exists());
    let asked = asked.count();
    let object = cluster(&read("object.yaml"));
    let world: World = serde_saphyr::from_str(&read("observed.yaml")).unwrap();
    let (observed, valid) = observe(&object, &world);
    let valid = match valid {
        Ok(valid) => valid,
        Err(invalids) => {
            let text: String = invalids
                .iter()
                .map(|invalid| format!("{invalid}\n"))
                .collect();
            compare(&folder.join("invalid.txt"), &text, wrong);
            let others = ["objects.txt", "objects", "plan.txt", "status.yaml"];
            for other in others.map(|name| folder.join(name)) {
                if other.exists() {
                    wrong.push(format!("{}: the spec is not valid", other.display()));
                }
            }
            return asked;
        }
    };
    if folder.join("invalid.txt").exists() {
        wrong.push(format!("{}: the spec is valid", folder.display()));
    }
    let identity = observed.identity.clone().unwrap_or_else(|| {
        Identity::new("CLUSTER-ID".into(), &valid.blocks, BTreeMap::new(), false)
    });
    compare_objects(
        folder,
        &resources::desired(&valid, &identity, &trust()),
        wrong,
    );
    let plan = linter::plan(&object, &valid, &observed);
    let mut text: String = plan.steps.iter().map(|step| format!("{step}\n")).collect();
    text.extend(
        plan.waiting_on
            .iter()
            .map(|waiting| format!("wait for {waiting}\n")),
    );
    if plan.plan_again {
        text.push_str("look again\n");
    }
    compare(&folder.join("plan.txt"), &text, wrong);
    let state = status::state(&object, &observed, &plan);
    let learned = status::learned(&object, &valid, &observed, &plan, &state);
    let learned = status::with_conditions(learned, &object, &state, &Time(NOW.parse().unwrap()));
    compare(
        &folder.join("status.yaml"),
        &(yaml(&serde_json::to_value(learned).unwrap()).unwrap() + "\n"),
        wrong,
    );
    asked
}

#[test]
fn every_case_comes_out_as_it_was_reviewed() {
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut wrong = Vec::new();
    let mut cases = 0;
    for entry in fs::read_dir(home).unwrap() {
        let folder = entry.unwrap().path();
        assert!(
            run(&folder, &mut wrong) > 0,
            "{} asks nothing",
            folder.display()
        );
        cases += 1;
    }
    assert!(cases >= 18, "only {cases} cases");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The StatefulSets of the first case, with these pull secrets as the operator's default.
fn stateful_sets(secrets: &[&str]) -> Vec<serde_json::Value> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/ready");
    let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    let mut world: World = serde_saphyr::from_str(&read("observed.yaml")).unwrap();
    world.image_pull_secrets = secrets.iter().map(|name| (*name).to_owned()).collect();
    let (observed, valid) = observe(&cluster(&read("object.yaml")), &world);
    let desired = resources::desired(
        &valid.unwrap(),
        observed.identity.as_ref().unwrap(),
        &trust(),
    );
    desired
        .into_iter()
        .map(|object| object.value)
        .filter(|object| object["kind"] == "StatefulSet")
        .collect()
}

#[test]
fn pods_have_the_operator_s_pull_secrets_and_another_default_restarts_nothing() {
    let (without, with) = (stateful_sets(&[]), stateful_sets(&["registry", "mirror"]));
    assert!(!without.is_empty() && without.len() == with.len());
    for (without, with) in without.iter().zip(&with) {
        let (without, with) = (&without["spec"]["template"], &with["spec"]["template"]);
        assert!(without["spec"]["imagePullSecrets"].is_null());
        assert_eq!(
            with["spec"]["imagePullSecrets"],
            serde_json::json!([{"name": "registry"}, {"name": "mirror"}])
        );
        // The same spec gives another template. A new version of the operator may change the
        // template too, and that alone restarts nothing.
        let hash = |template: &serde_json::Value, key: &str| {
            template["metadata"]["annotations"][key]
                .as_str()
                .unwrap()
                .to_owned()
        };
        assert_eq!(
            hash(without, freehold::kubernetes::labels::SPEC_HASH),
            hash(with, freehold::kubernetes::labels::SPEC_HASH)
        );
    }
}
