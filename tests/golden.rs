//! Golden cases: `object.yaml` and `observed.yaml` go in, through the real validate; `desired.yaml`, `plan.txt` and
//! `status.yaml` (or `invalid.txt`) come out. `UPDATE_GOLDEN=1 cargo test --test golden` writes them anew: review the diff.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod fixture;

use fixture::{NOW, World, cluster, observe};
use freehold::kinds::kafka_cluster::desired::{self, Trust};
use freehold::kinds::kafka_cluster::identity::Identity;
use freehold::kinds::kafka_cluster::{plan, status};
use freehold::render::yaml;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

fn compare(path: &Path, found: &str, wrong: &mut Vec<String>) {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(path, found).unwrap();
        return;
    }
    let expected = fs::read_to_string(path).unwrap_or_default();
    if expected != found {
        let line =
            expected.lines().zip(found.lines()).position(|(a, b)| a != b).unwrap_or(expected.lines().count().min(found.lines().count()));
        let of = |text: &str| text.lines().nth(line).unwrap_or("(end)").to_owned();
        wrong.push(format!("{} line {}:\n  expected {}\n  found    {}", path.display(), line + 1, of(&expected), of(found)));
    }
}

fn run(folder: &Path, wrong: &mut Vec<String>) {
    let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    let object = cluster(&read("object.yaml"));
    let world: World = serde_saphyr::from_str(&read("observed.yaml")).unwrap();
    let (observed, valid) = observe(&object, &world);
    let valid = match valid {
        Ok(valid) => valid,
        Err(invalids) => {
            let text: String = invalids.iter().map(|invalid| format!("{invalid}\n")).collect();
            return compare(&folder.join("invalid.txt"), &text, wrong);
        }
    };
    let identity = observed.identity.clone().unwrap_or_else(|| Identity::new("CLUSTER-ID".into(), &valid.blocks, BTreeMap::new(), false));
    let trust = Trust { cluster_ca: "CLUSTER-CA\n".into(), clients_ca: "CLIENTS-CA\n".into() };
    let desired = desired::desired(&valid, &identity, &trust);
    let text: String = desired.iter().map(|object| format!("---\n{}\n", yaml(&object.value).unwrap())).collect();
    compare(&folder.join("desired.yaml"), &text, wrong);
    let plan = plan::plan(&object, &valid, &observed);
    let mut text: String = plan.steps.iter().map(|step| format!("{step}\n")).collect();
    text.extend(plan.waiting_on.iter().map(|waiting| format!("wait for {waiting}\n")));
    if plan.look_again {
        text.push_str("look again\n");
    }
    compare(&folder.join("plan.txt"), &text, wrong);
    let state = status::state(&object, &observed, &plan);
    let learned = status::learned(&object, &valid, &observed, &plan, &state);
    let learned = status::with_conditions(learned, &object, &state, &Time(NOW.parse().unwrap()));
    compare(&folder.join("status.yaml"), &(yaml(&serde_json::to_value(learned).unwrap()).unwrap() + "\n"), wrong);
}

#[test]
fn every_case_comes_out_as_it_was_reviewed() {
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut wrong = Vec::new();
    let mut cases = 0;
    for entry in fs::read_dir(home).unwrap() {
        run(&entry.unwrap().path(), &mut wrong);
        cases += 1;
    }
    assert!(cases >= 8, "only {cases} cases");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
