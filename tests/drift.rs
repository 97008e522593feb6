//! Changes every field of every child object of the golden cases: fields that Freehold sets are
//! changed and removed, and other fields are added wherever possible. Each change is corrected or
//! left alone as it must be, by a model of the API server, and nothing is applied twice.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use crate::fixture;
use crate::linter;

use fixture::{World, cluster, observe};
use freehold::kinds::kafka_cluster::model::authority::Trust;
use freehold::kinds::kafka_cluster::observed::Identity;
use freehold::kinds::kafka_cluster::plan::Step;
use freehold::kinds::kafka_cluster::resources;
use freehold::kubernetes::difference::{changed, foreign, removal};
use freehold::kubernetes::{Live, Object, resource};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Lists whose items have keys, and maps that are one value, as in the API's schema; repeated here
/// on purpose.
const KEYED: [(&str, &[&str]); 11] = [
    ("containers", &["name"]),
    ("env", &["name"]),
    ("hostAliases", &["ip"]),
    ("imagePullSecrets", &["name"]),
    ("initContainers", &["name"]),
    ("ownerReferences", &["uid"]),
    (
        "topologySpreadConstraints",
        &["topologyKey", "whenUnsatisfiable"],
    ),
    ("volumeMounts", &["mountPath"]),
    ("volumes", &["name"]),
    ("ports", &["port", "protocol"]),
    ("ports", &["containerPort", "protocol"]),
];
const ATOMIC: [&str; 7] = [
    "selector",
    "labelSelector",
    "nodeSelector",
    "podSelector",
    "namespaceSelector",
    "matchLabels",
    "volumeClaimTemplates",
];

/// Every desired object of all golden cases, once each.
fn objects() -> Vec<Object> {
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut all: Vec<Object> = Vec::new();
    for entry in std::fs::read_dir(home).unwrap() {
        let read = |name: &str| {
            std::fs::read_to_string(entry.as_ref().unwrap().path().join(name)).unwrap()
        };
        let object = cluster(&read("object.yaml"));
        let world: World = serde_saphyr::from_str(&read("observed.yaml")).unwrap();
        let (observed, Ok(valid)) = observe(&object, &world) else {
            continue;
        };
        let identity = observed.identity.unwrap_or_else(|| {
            Identity::new("CLUSTER-ID".into(), &valid.blocks, BTreeMap::new(), false)
        });
        let trust = Trust {
            cluster_ca: "CLUSTER-CA\n".into(),
            clients_ca: "CLIENTS-CA\n".into(),
            bundle: "BUNDLE\n".into(),
        };
        for object in resources::desired(&valid, &identity, &trust) {
            add(&mut all, object);
        }
    }
    let of_cluster = all.len();
    for object in of_pipelines() {
        add(&mut all, object);
    }
    assert!(all.len() > of_cluster + 8, "Pipelines have others");
    let kinds: BTreeSet<&str> = all.iter().map(Object::kind).collect();
    let wanted = [
        "ConfigMap",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "Service",
        "ServiceAccount",
        "StatefulSet",
    ];
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), wanted);
    all
}

fn add(all: &mut Vec<Object>, object: Object) {
    let is_known = |known: &Object| {
        known.kind() == object.kind() && shape(&known.value) == shape(&object.value)
    };
    if !all.iter().any(is_known) {
        all.push(object);
    }
}

/// The objects that Pipelines are made of, without the Topics and the User.
fn of_pipelines() -> Vec<Object> {
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden-pipelines");
    let mut all = Vec::new();
    for entry in std::fs::read_dir(home).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path().join("objects.yaml")).unwrap();
        for value in text.split("---\n") {
            let value: Value = serde_saphyr::from_str(value).unwrap();
            let resource = match value["kind"].as_str().unwrap() {
                "ConfigMap" => resource::<ConfigMap>(),
                "NetworkPolicy" => resource::<NetworkPolicy>(),
                "PodDisruptionBudget" => resource::<PodDisruptionBudget>(),
                "Service" => resource::<Service>(),
                "ServiceAccount" => resource::<ServiceAccount>(),
                "StatefulSet" => resource::<StatefulSet>(),
                _ => continue,
            };
            all.push(Object::of_value(resource, value));
        }
    }
    all
}

/// The field names of an object without their values.
fn shape(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .iter()
            .map(|(key, value)| (key.clone(), shape(value)))
            .collect::<Map<_, _>>()
            .into(),
        Value::Array(items) => items.iter().map(shape).collect::<Vec<_>>().into(),
        _ => Value::Null,
    }
}

fn live(object: &Object, value: Value) -> Live {
    Live {
        resource: object.resource.clone(),
        value,
    }
}

/// The object as the API server stores it, with the fields that it fills in.
fn stored(object: &Object) -> Value {
    let mut value = object.value.clone();
    value["metadata"]["uid"] = json!("an-object");
    value["metadata"]["resourceVersion"] = json!("1");
    match object.kind() {
        "Service" => {
            value["spec"]["sessionAffinity"] = json!("None");
            value["spec"]["ipFamilies"] = json!(["IPv4"]);
        }
        "StatefulSet" => {
            let pod = &mut value["spec"]["template"]["spec"];
            pod["dnsPolicy"] = json!("ClusterFirst");
            pod["containers"][0]["terminationMessagePath"] = json!("/dev/termination-log");
            if let Some(claim) = value.pointer_mut("/spec/volumeClaimTemplates/0") {
                claim["status"] = json!({"phase": "Pending"});
            }
        }
        _ => {}
    }
    value
}

fn item_key(key: &str, item: &Value) -> Option<&'static [&'static str]> {
    KEYED
        .iter()
        .find(|(known, keys)| *known == key && keys.iter().all(|key| !item[*key].is_null()))
        .map(|(_, keys)| *keys)
}

/// Server-side apply: sets the wanted fields, merges lists with keys, and replaces values that are
/// atomic.
fn apply(found: &Value, wanted: &Value, key: &str, atomic: bool) -> Value {
    let atomic = atomic || ATOMIC.contains(&key);
    // The claim templates of a StatefulSet can never change.
    if key == "volumeClaimTemplates" && found.is_array() {
        return found.clone();
    }
    match (found, wanted) {
        (_, Value::Null) => found.clone(),
        (Value::Object(found), Value::Object(wanted)) if !atomic => {
            let mut out = found.clone();
            for (key, wanted) in wanted.iter().filter(|(_, wanted)| !wanted.is_null()) {
                let applied = apply(found.get(key).unwrap_or(&Value::Null), wanted, key, false);
                out.insert(key.clone(), applied);
            }
            Value::Object(out)
        }
        (Value::Array(found), Value::Array(wanted))
            if !atomic
                && wanted
                    .first()
                    .is_some_and(|item| item_key(key, item).is_some()) =>
        {
            let mut out = found.clone();
            for wanted in wanted {
                let keys = item_key(key, wanted).unwrap();
                match out
                    .iter_mut()
                    .find(|item| keys.iter().all(|key| item[*key] == wanted[*key]))
                {
                    Some(item) => *item = apply(item, wanted, "", false),
                    None => out.push(wanted.clone()),
                }
            }
            Value::Array(out)
        }
        _ => wanted.clone(),
    }
}

/// A merge patch (RFC 7386).
fn merge(value: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        return value.clone_from(patch);
    };
    for (key, change) in patch {
        match change {
            Value::Null => drop(value.as_object_mut().unwrap().remove(key)),
            change if value[key].is_object() && change.is_object() => {
                merge(&mut value[key], change)
            }
            change => value[key] = change.clone(),
        }
    }
}

/// What Freehold does about an object. Returns the object afterwards, and the number of writes.
fn put_right(object: &Object, found: Value) -> (Value, u32) {
    let (mut now, mut writes) = (live(object, found), 0);
    loop {
        let fields = foreign(object, &now);
        if !fields.is_empty() {
            let patch = removal(&now, &fields);
            merge(&mut now.value, &patch);
        } else if !changed(object, &now).is_empty() {
            now.value = apply(&now.value, &object.value, "", false);
        } else {
            return (now.value, writes);
        }
        writes += 1;
        assert!(
            writes < 4,
            "{} {}: applied again and again: {:?}",
            object.kind(),
            object.name(),
            changed(object, &now)
        );
    }
}

/// A place in an object: its JSON pointer, its name in managedFields, and whether it is within an
/// atomic value.
#[derive(Clone, Default)]
struct Place {
    pointer: String,
    owned: Vec<String>,
    atomic: bool,
    names: Vec<String>,
}

impl Place {
    fn field(&self, key: &str) -> Self {
        let mut place = self.clone();
        place.pointer = format!(
            "{}/{}",
            self.pointer,
            key.replace('~', "~0").replace('/', "~1")
        );
        place.owned.push(format!("f:{key}"));
        place.names.push(key.to_owned());
        place.atomic |= ATOMIC.contains(&key);
        place
    }

    fn item(&self, index: usize, keys: Option<(&[&str], &Value)>) -> Self {
        let mut place = self.clone();
        place.pointer = format!("{}/{index}", self.pointer);
        match keys.filter(|_| !self.atomic) {
            Some((keys, item)) => {
                let keys: Map<String, Value> = keys
                    .iter()
                    .map(|key| ((*key).to_owned(), item[*key].clone()))
                    .collect();
                place.owned.push(format!("k:{}", Value::Object(keys)));
            }
            None => place.atomic = true,
        }
        place
    }

    fn name(&self) -> &str {
        self.names.last().map_or("", String::as_str)
    }

    /// The managedFields with which the API server records that a manager owns this place.
    fn managed_by(&self, manager: &str) -> Value {
        let leaf = json!({".": {}});
        let fields = self
            .owned
            .iter()
            .rev()
            .fold(leaf, |below, part| json!({part: below}));
        json!([{"manager": manager, "operation": "Update", "fieldsV1": fields}])
    }

    /// Every client may set labels and annotations; the identity of an object cannot change.
    fn is_everybodys(&self) -> bool {
        self.names.iter().any(|name| name == "metadata")
    }
}

/// Every place of a value; maps and lists come before their content.
fn places(value: &Value, place: &Place, out: &mut Vec<(Place, Value)>) {
    out.push((place.clone(), value.clone()));
    match value {
        Value::Object(fields) => fields
            .iter()
            .for_each(|(key, value)| places(value, &place.field(key), out)),
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                let keys = item_key(place.name(), item).map(|keys| (keys, item));
                places(item, &place.item(index, keys), out);
            }
        }
        _ => {}
    }
}

fn all_places(object: &Object) -> Vec<(Place, Value)> {
    let mut all = Vec::new();
    places(&object.value, &Place::default(), &mut all);
    // The identity of the object, and the hash of what was applied.
    let fixed = [
        "/apiVersion",
        "/kind",
        "/metadata/name",
        "/metadata/namespace",
    ];
    all.retain(|(place, _)| {
        !fixed.contains(&place.pointer.as_str()) && !place.pointer.ends_with("applied-hash")
    });
    // Nobody can change the claim templates of a StatefulSet.
    all.retain(|(place, _)| {
        !place
            .names
            .iter()
            .any(|name| name == "volumeClaimTemplates")
    });
    all
}

/// The keys of a list item cannot change: it would be another item.
fn is_key(object: &Object, place: &Place) -> bool {
    let (parent, _) = place.pointer.rsplit_once('/').unwrap_or_default();
    place.owned.iter().rev().nth(1).is_some_and(|above| {
        above.starts_with("k:") && above.contains(&format!("\"{}\"", place.name()))
    }) || object.value.pointer(parent).is_none()
}

#[test]
fn every_field_of_ours_that_is_changed_or_taken_away_is_put_right_with_one_write() {
    let mut tried = 0;
    for object in objects() {
        for (place, value) in all_places(&object) {
            let other = match &value {
                Value::String(text) => json!(format!("{text}x")),
                Value::Bool(is) => json!(!is),
                Value::Number(number) => json!(number.as_i64().unwrap() + 1),
                _ => continue,
            };
            let said = format!("{} {} at {}", object.kind(), object.name(), place.pointer);
            let mut found = stored(&object);
            *found.pointer_mut(&place.pointer).unwrap() = other;
            tried += 1;
            let (after, writes) = put_right(&object, found);
            assert_eq!(writes, 1, "{said}");
            if !is_key(&object, &place) {
                assert_eq!(after.pointer(&place.pointer), Some(&value), "{said}");
            }
            // The API server rejects an item without its keys.
            if is_key(&object, &place) {
                continue;
            }
            let (parent, key) = place.pointer.rsplit_once('/').unwrap();
            let mut found = stored(&object);
            if let Some(Value::Object(fields)) = found.pointer_mut(parent) {
                fields.remove(&key.replace("~1", "/").replace("~0", "~"));
                assert_eq!(put_right(&object, found).1, 1, "{said}, taken away");
            }
        }
    }
    assert!(tried > 500, "only {tried} fields");
}

#[test]
fn what_somebody_adds_to_what_is_ours_goes_and_what_nobody_owns_is_let_be() {
    let (mut removed, mut let_be) = (0, 0);
    for object in objects() {
        for (place, value) in all_places(&object) {
            let before = stored(&object);
            let mut found = before.clone();
            let place = match (&value, found.pointer_mut(&place.pointer)) {
                (Value::Object(_), Some(Value::Object(fields))) => {
                    fields.insert("zz".into(), json!("added"));
                    place.field("zz")
                }
                (Value::Array(items), Some(Value::Array(list))) => {
                    let Some(first) = items.first() else { continue };
                    let keys = item_key(place.name(), first);
                    let added = match (keys, first) {
                        (Some(keys), _) => keys
                            .iter()
                            .map(|key| ((*key).to_owned(), json!("added")))
                            .collect::<Map<_, _>>()
                            .into(),
                        (None, Value::Object(_)) => json!({"zz": "added"}),
                        _ => json!("added"),
                    };
                    list.push(added.clone());
                    place.item(list.len() - 1, keys.map(|keys| (keys, &added)))
                }
                _ => continue,
            };
            let said = format!("{} {} at {}", object.kind(), object.name(), place.pointer);
            let top = place.names.first().map_or("", String::as_str);
            let ours =
                ["spec", "data"].contains(&top) && place.names.len() > 1 && !place.is_everybodys();
            let mut owned = found.clone();
            owned["metadata"]["managedFields"] = place.managed_by("kubectl-edit");
            let (mut after, writes) = put_right(&object, owned);
            after["metadata"]
                .as_object_mut()
                .unwrap()
                .remove("managedFields");
            if ours {
                assert_eq!((after, writes), (before.clone(), 1), "{said}");
                removed += 1;
            } else {
                let_be += 1;
                assert!(writes <= 1, "{said}");
            }
            // A field that an admission policy adds to Freehold's own request has no manager: only
            // atomic values are corrected.
            let (_, writes) = put_right(&object, found);
            assert!(writes <= u32::from(place.atomic), "{said}: {writes} writes");
        }
    }
    assert!(
        removed > 100 && let_be > 100,
        "{removed} removed, {let_be} let be"
    );
}

/// The plan for a cluster as desired, except for one changed Service.
fn plan_with(
    change: impl FnOnce(&mut Value),
    attempts: impl FnOnce(&mut freehold::kinds::kafka_cluster::observed::Observed, &Step),
) -> freehold::kinds::kafka_cluster::plan::Plan {
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/ready");
    let read = |name: &str| std::fs::read_to_string(home.join(name)).unwrap();
    let object = cluster(&read("object.yaml"));
    let (mut observed, valid) = observe(
        &object,
        &serde_saphyr::from_str(&read("observed.yaml")).unwrap(),
    );
    let valid = valid.unwrap();
    fixture::change_objects(&mut observed, |all| {
        let service = all
            .iter_mut()
            .find(|live| live.resource.kind == "Service" && live.name().ends_with("-bootstrap"))
            .unwrap();
        change(&mut service.value);
    });
    let first = linter::plan(&object, &valid, &observed);
    if let Some(step) = first.steps.first() {
        attempts(&mut observed, step);
        return linter::plan(&object, &valid, &observed);
    }
    first
}

#[test]
fn what_is_applied_without_effect_is_told_with_its_field_and_not_applied_again() {
    let selects = |value: &mut Value| value["spec"]["selector"]["more"] = json!("y");
    let plan = plan_with(selects, |_, _| {});
    let steps: Vec<String> = plan.steps.iter().map(ToString::to_string).collect();
    assert!(
        steps.len() == 1
            && steps[0].starts_with("put right Service")
            && steps[0].ends_with("-bootstrap, spec.selector.more"),
        "{steps:?}"
    );
    let plan = plan_with(selects, |observed, step| {
        let refusal = freehold::kinds::attempts::without_effect(step.what());
        observed
            .attempts
            .failed(step.wanted(), refusal, observed.now);
    });
    assert!(
        plan.steps.is_empty() && plan.refused[0].words().contains("spec.selector.more"),
        "{:?}",
        plan.refused
    );
    let plan = plan_with(selects, |observed, step| {
        (0..3).for_each(|_| observed.attempts.repaired(step.what(), observed.now))
    });
    assert!(
        plan.steps.is_empty() && plan.refused[0].words().contains("3 times"),
        "{:?}",
        plan.refused
    );
}
