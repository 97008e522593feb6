//! Decides whether an object must be applied: compares the desired object with the live one, and
//! ignores what the API server added by itself. Pure.
//!
//! Fields that Freehold sets are compared completely. Two kinds of differences are found: a field
//! of Freehold with another value, and a field that another client added. The latter counts only
//! where all fields together determine what the object does: the selector of a Service, the rules
//! of a NetworkPolicy, the environment of a container. `managedFields` name the client that added a
//! field. A field without a manager is a default, or an admission policy added it to Freehold's own
//! request; such fields are left alone, as are labels and annotations.

use crate::kubernetes::{Live, Object};
use crate::kubernetes::{labels, quantity};
use serde_json::{Map, Value};
use std::fmt;

/// A field that another client added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// The path for messages: `spec.template.spec.containers[kafka].env[KAFKA_OPTS]`.
    pub path: String,
    /// JSON pointer into the live object.
    pub pointer: String,
    /// The field manager of the client: `kubectl-patch`.
    pub manager: String,
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (by {})", self.path, self.manager)
    }
}

/// Maps that are compared as one value: an additional key changes their meaning.
const WHOLE_MAPS: [&str; 6] = [
    "selector",
    "labelSelector",
    "matchLabels",
    "namespaceSelector",
    "nodeSelector",
    "podSelector",
];

/// Lists whose items are identified by keys, as in the API's `x-kubernetes-list-map-keys`. Items
/// that other clients add are no change of Freehold's items.
const KEYED_LISTS: [(&str, &[&str]); 12] = [
    ("containers", &["name"]),
    ("env", &["name"]),
    ("ephemeralContainers", &["name"]),
    ("hostAliases", &["ip"]),
    ("imagePullSecrets", &["name"]),
    ("initContainers", &["name"]),
    ("ownerReferences", &["uid"]),
    ("ports", &["containerPort", "port", "protocol"]),
    (
        "topologySpreadConstraints",
        &["topologyKey", "whenUnsatisfiable"],
    ),
    ("volumeDevices", &["devicePath"]),
    ("volumeMounts", &["mountPath"]),
    ("volumes", &["name"]),
];

/// Lists that are one value, and whose items the API server completes with defaults.
const COMPLETED_LISTS: [&str; 3] = ["items", "sources", "volumeClaimTemplates"];

/// The parts of an object that Freehold sets completely. Other clients may write the metadata.
const OURS: [&str; 4] = ["spec", "data", "binaryData", "immutable"];

/// Fields that the API server or a controller of Kubernetes fills in. After a backup was restored
/// or an object replaced they have a field manager nevertheless.
const FILLED_IN: [&str; 8] = [
    "clusterIP",
    "clusterIPs",
    "healthCheckNodePort",
    "ipFamilies",
    "ipFamilyPolicy",
    "nodePort",
    "serviceAccount",
    "nodeName",
];

/// Fields whose default the API server fills in, with that default.
const DEFAULTS: [(&str, &str); 9] = [
    ("defaultMode", "420"),
    ("dnsPolicy", "\"ClusterFirst\""),
    ("initialDelaySeconds", "0"),
    ("internalTrafficPolicy", "\"Cluster\""),
    ("restartPolicy", "\"Always\""),
    ("schedulerName", "\"default-scheduler\""),
    ("sessionAffinity", "\"None\""),
    ("successThreshold", "1"),
    ("terminationMessagePath", "\"/dev/termination-log\""),
];

/// True when the object was applied from this desired state: then another client has caused any
/// difference since.
pub fn is_applied(desired: &Object, live: &Live) -> bool {
    live.annotation(labels::APPLIED_HASH) == Some(desired.hash())
}

/// The paths of Freehold's fields that are missing or have another value. [`is_applied`] tells
/// whether the object was applied from this desired state at all.
pub fn changed(desired: &Object, live: &Live) -> Vec<String> {
    let mut paths = Vec::new();
    if let (Some(found), Some(wanted)) = (live.value.as_object(), desired.value.as_object()) {
        fields(found, wanted, "", false, &mut paths);
    }
    paths
}

fn child(path: &str, key: &str) -> String {
    let plain = key.chars().all(char::is_alphanumeric);
    match (path.is_empty(), plain) {
        (true, _) => key.to_owned(),
        (false, true) => format!("{path}.{key}"),
        (false, false) => format!("{path}[{key}]"),
    }
}

/// `whole`: fields of `found` that are not in `wanted` are changes too.
fn fields(
    found: &Map<String, Value>,
    wanted: &Map<String, Value>,
    path: &str,
    whole: bool,
    out: &mut Vec<String>,
) {
    for (key, wanted) in wanted {
        // `is_applied` compares the hash.
        if key == labels::APPLIED_HASH {
            continue;
        }
        match found.get(key) {
            None if is_empty(wanted) => {}
            None => out.push(child(path, key)),
            Some(found) => compare(found, wanted, key, &child(path, key), whole, out),
        }
    }
    if whole {
        let more = found
            .iter()
            .filter(|(key, value)| wanted.get(*key).is_none_or(is_empty) && !is_empty(value));
        out.extend(more.map(|(key, _)| child(path, key)));
    }
}

fn compare(
    found: &Value,
    wanted: &Value,
    key: &str,
    path: &str,
    whole: bool,
    out: &mut Vec<String>,
) {
    let differs = |out: &mut Vec<String>| out.push(path.to_owned());
    match wanted {
        Value::Null => {}
        Value::Object(wanted) => match found.as_object() {
            Some(found) => fields(found, wanted, path, whole || WHOLE_MAPS.contains(&key), out),
            None => differs(out),
        },
        Value::Array(wanted) => match (found.as_array(), keys(key).filter(|_| !whole)) {
            (None, _) if wanted.is_empty() => {}
            (None, _) => differs(out),
            (Some(found), Some(keys)) => {
                for wanted in wanted {
                    let path = format!("{path}[{}]", words(wanted, keys));
                    match found.iter().find(|found| is_same(found, wanted, keys)) {
                        Some(found) => compare(found, wanted, "", &path, false, out),
                        None => out.push(path),
                    }
                }
            }
            (Some(found), None) if found.len() == wanted.len() => {
                let whole = !COMPLETED_LISTS.contains(&key);
                for (index, (found, wanted)) in found.iter().zip(wanted).enumerate() {
                    compare(found, wanted, "", &format!("{path}[{index}]"), whole, out);
                }
            }
            (Some(_), None) => differs(out),
        },
        // The API server rewrites quantities: `1Gi` for `1024Mi`.
        Value::String(text) => {
            let same = found.as_str().is_some_and(|found| {
                quantity::number(found).is_some_and(|is| Some(is) == quantity::number(text))
            });
            if found != wanted && !same {
                differs(out);
            }
        }
        scalar if found == scalar => {}
        _ => differs(out),
    }
}

fn keys(list: &str) -> Option<&'static [&'static str]> {
    KEYED_LISTS
        .iter()
        .find(|(known, _)| *known == list)
        .map(|(_, keys)| *keys)
}

fn is_same(found: &Value, wanted: &Value, keys: &[&str]) -> bool {
    keys.iter()
        .all(|key| wanted[*key].is_null() || found[*key] == wanted[*key])
}

/// An item of a list in a path, by its keys.
fn words(item: &Value, keys: &[&str]) -> String {
    let parts = keys.iter().filter_map(|key| match &item[*key] {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    });
    parts.collect::<Vec<_>>().join("/")
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(fields) => fields.values().all(is_empty),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

/// The fields that other clients added to the parts that Freehold sets completely, in the order in
/// which they can be removed: the last items of a list first.
pub fn foreign(desired: &Object, live: &Live) -> Vec<Foreign> {
    let mut all = Vec::new();
    for entry in live.value["metadata"]["managedFields"]
        .as_array()
        .into_iter()
        .flatten()
    {
        let manager = entry["manager"].as_str().unwrap_or_default();
        // Fields of a subresource belong to controllers: the status, and the scale, which Freehold
        // sets itself.
        let aside = entry["subresource"]
            .as_str()
            .is_some_and(|subresource| !subresource.is_empty());
        if manager == labels::FIELD_MANAGER || aside {
            continue;
        }
        for part in OURS {
            let owned = &entry["fieldsV1"][format!("f:{part}")];
            let found = &live.value[part];
            if !owned.is_null() && !found.is_null() {
                let mut walk = Walk {
                    manager,
                    out: &mut all,
                };
                walk.field(
                    owned,
                    found,
                    &desired.value[part],
                    part,
                    part.to_owned(),
                    format!("/{part}"),
                );
            }
        }
    }
    all.sort_by(|a, b| order(&b.pointer).cmp(&order(&a.pointer)));
    all.dedup_by(|a, b| a.pointer == b.pointer);
    // The removal of a field includes the fields below it.
    let pointers: Vec<String> = all.iter().map(|one| format!("{}/", one.pointer)).collect();
    all.retain(|one| {
        !pointers
            .iter()
            .any(|above| one.pointer.starts_with(above.as_str()))
    });
    all
}

/// Compares numbers in a pointer by value, so that the tenth item comes after the ninth.
fn order(pointer: &str) -> Vec<(u64, &str)> {
    pointer
        .split('/')
        .map(|part| (part.parse().unwrap_or(0), part))
        .collect()
}

struct Walk<'a> {
    manager: &'a str,
    out: &'a mut Vec<Foreign>,
}

impl Walk<'_> {
    /// Checks one field that the manager owns, completely or in part.
    fn field(
        &mut self,
        owned: &Value,
        found: &Value,
        wanted: &Value,
        key: &str,
        path: String,
        pointer: String,
    ) {
        if is_let_be(key, found) {
            return;
        }
        // If an empty object is wanted, for example an `emptyDir`, the object stays and its content
        // is removed.
        if is_empty(wanted) && !wanted.is_object() {
            self.out.push(Foreign {
                path,
                pointer,
                manager: self.manager.to_owned(),
            });
            return;
        }
        for (name, below) in owned.as_object().into_iter().flatten() {
            match name.split_once(':') {
                Some(("f", name)) => {
                    let Some(found) = found.get(name) else {
                        continue;
                    };
                    let pointer =
                        format!("{pointer}/{}", name.replace('~', "~0").replace('/', "~1"));
                    self.field(
                        below,
                        found,
                        &wanted[name],
                        name,
                        child(&path, name),
                        pointer,
                    );
                }
                Some(("k", item)) => self.item(below, found, wanted, item, &path, &pointer),
                // `.` is the item itself; `v:` and `i:` belong to lists that are compared as one
                // value.
                _ => {}
            }
        }
    }
}

impl Walk<'_> {
    /// Checks an item of a list. `item`: the keys of the item, as JSON.
    fn item(
        &mut self,
        owned: &Value,
        found: &Value,
        wanted: &Value,
        item: &str,
        path: &str,
        pointer: &str,
    ) {
        let Ok(Value::Object(item)) = serde_json::from_str::<Value>(item) else {
            return;
        };
        let is = |other: &Value| {
            item.iter()
                .all(|(key, value)| other[key] == *value || other[key].is_null())
        };
        let mut items = found.as_array().into_iter().flatten().enumerate();
        let Some((index, found)) = items.find(|(_, other)| is(other)) else {
            return;
        };
        let mut items = wanted.as_array().into_iter().flatten();
        let wanted = items.find(|other| is(other)).unwrap_or(&Value::Null);
        let word = |value: &Value| match value.as_str() {
            Some(text) => text.to_owned(),
            None => value.to_string(),
        };
        let words: Vec<_> = item.values().map(word).collect();
        self.field(
            owned,
            found,
            wanted,
            "",
            format!("{path}[{}]", words.join("/")),
            format!("{pointer}/{index}"),
        );
    }
}

/// A merge patch that removes the fields. It carries the resourceVersion of the live object, so
/// that it fails if the object has changed.
pub fn removal(live: &Live, fields: &[Foreign]) -> Value {
    let mut cleaned = live.value.clone();
    for field in fields {
        let Some((parent, last)) = field.pointer.rsplit_once('/') else {
            continue;
        };
        match cleaned.pointer_mut(parent) {
            Some(Value::Object(parent)) => {
                drop(parent.remove(&last.replace("~1", "/").replace("~0", "~")))
            }
            Some(Value::Array(parent)) => {
                if let Some(index) = last.parse().ok().filter(|index| *index < parent.len()) {
                    parent.remove(index);
                }
            }
            _ => {}
        }
    }
    let mut patch = merge_patch(&live.value, &cleaned);
    patch["metadata"]["uid"] = live.value["metadata"]["uid"].clone();
    patch["metadata"]["resourceVersion"] = live.value["metadata"]["resourceVersion"].clone();
    patch
}

/// The merge patch (RFC 7386) from one value to the other. It only removes fields.
fn merge_patch(from: &Value, to: &Value) -> Value {
    let (Value::Object(from), Value::Object(to)) = (from, to) else {
        return to.clone();
    };
    let changed = from
        .iter()
        .filter(|(key, value)| to.get(*key) != Some(*value));
    let change = |(key, value): (&String, &Value)| {
        (
            key.clone(),
            to.get(key).map_or(Value::Null, |to| merge_patch(value, to)),
        )
    };
    Value::Object(changed.map(change).collect())
}

fn is_let_be(key: &str, found: &Value) -> bool {
    let text = found.to_string();
    let default = DEFAULTS
        .iter()
        .any(|(known, value)| *known == key && text == *value);
    ["metadata", "status"].contains(&key) || FILLED_IN.contains(&key) || default || is_empty(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{ConfigMap, Service};
    use serde_json::json;

    fn desired() -> Object {
        let map: ConfigMap = serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"x": "1"}
        }))
        .unwrap();
        Object::of(&map)
    }

    fn service() -> Object {
        let service: Service = serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"},
            "spec": {"selector": {"app": "x"}, "ports": [{"name": "one", "port": 1, "protocol": "TCP"}]}
        }))
        .unwrap();
        Object::of(&service)
    }

    fn live(desired: &Object, change: impl FnOnce(&mut Value)) -> Live {
        let mut value = desired.value.clone();
        change(&mut value);
        Live {
            resource: desired.resource.clone(),
            value,
        }
    }

    #[test]
    fn what_the_server_adds_is_no_difference() {
        let live = live(&service(), |value| {
            value["metadata"]["uid"] = json!("u");
            value["metadata"]["managedFields"] =
                json!([{"manager": "freehold", "fieldsV1": {"f:spec": {"f:clusterIP": {}}}}]);
            value["spec"]["clusterIP"] = json!("10.0.0.1");
            value["spec"]["sessionAffinity"] = json!("None");
        });
        assert!(changed(&service(), &live).is_empty() && foreign(&service(), &live).is_empty());
    }

    #[test]
    fn a_changed_field_and_a_field_that_left_the_desired_state_are() {
        assert_eq!(
            changed(
                &desired(),
                &live(&desired(), |value| value["data"]["x"] = json!("2"))
            ),
            ["data.x"]
        );
        let older = live(&desired(), |value| {
            value["metadata"]["annotations"][labels::APPLIED_HASH] = json!("another")
        });
        assert!(!is_applied(&desired(), &older) && changed(&desired(), &older).is_empty());
    }

    #[test]
    fn a_selector_with_one_more_key_is_another() {
        assert_eq!(
            changed(
                &service(),
                &live(&service(), |value| value["spec"]["selector"]["more"] =
                    json!("y"))
            ),
            ["spec.selector.more"]
        );
    }

    #[test]
    fn what_somebody_else_added_is_found_by_its_owner_and_what_a_policy_added_is_let_be() {
        let port = json!({"name": "two", "port": 2, "protocol": "TCP"});
        let owned = json!({"f:spec": {"f:ports": {"k:{\"port\":2,\"protocol\":\"TCP\"}": {".": {}, "f:port": {}}}, "f:externalName": {}},
            "f:metadata": {"f:labels": {"f:team": {}}}, "f:status": {}});
        let entry = |manager: &str, subresource: &str| {
            live(&service(), |value| {
                value["spec"]["ports"] = json!([port, value["spec"]["ports"][0]]);
                value["metadata"]["labels"]["team"] = json!("a");
                value["metadata"]["managedFields"] =
                    json!([{"manager": manager, "subresource": subresource, "fieldsV1": owned}]);
            })
        };
        assert!(
            changed(&service(), &entry("kubectl-edit", "")).is_empty(),
            "an item more is no change of ours"
        );
        let found = foreign(&service(), &entry("kubectl-edit", ""));
        assert_eq!(
            found.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["spec.ports[2/TCP] (by kubectl-edit)"]
        );
        assert_eq!(found[0].pointer, "/spec/ports/0");
        assert!(
            foreign(&service(), &entry("freehold", "")).is_empty()
                && foreign(&service(), &entry("other", "status")).is_empty()
        );
        assert!(
            foreign(
                &service(),
                &live(&service(), |value| value["spec"]["ports"] =
                    json!([port, value["spec"]["ports"][0]]))
            )
            .is_empty()
        );
    }

    #[test]
    fn of_a_list_the_last_ones_are_removed_first() {
        let ports: Vec<Value> = (1..=12)
            .map(|port| json!({"port": port, "protocol": "TCP"}))
            .collect();
        let keys: Map<String, Value> = (2..=12)
            .map(|port| {
                (
                    format!("k:{{\"port\":{port},\"protocol\":\"TCP\"}}"),
                    json!({".": {}}),
                )
            })
            .collect();
        let many = live(&service(), |value| {
            value["spec"]["ports"] = json!(ports);
            value["metadata"]["managedFields"] =
                json!([{"manager": "m", "fieldsV1": {"f:spec": {"f:ports": keys}}}]);
        });
        let found: Vec<String> = foreign(&service(), &many)
            .into_iter()
            .map(|one| one.pointer)
            .collect();
        assert_eq!(
            found,
            (1..=11)
                .rev()
                .map(|index| format!("/spec/ports/{index}"))
                .collect::<Vec<_>>()
        );
        let patch = removal(&many, &foreign(&service(), &many));
        assert_eq!(
            patch["spec"],
            json!({"ports": [{"port": 1, "protocol": "TCP"}]}),
            "nothing else is touched"
        );
    }

    #[test]
    fn a_removal_names_the_fields_and_the_version_that_was_seen() {
        let found = live(&service(), |value| {
            value["metadata"]["resourceVersion"] = json!("7");
            value["spec"]["externalName"] = json!("x");
        });
        let field = Foreign {
            path: "spec.externalName".into(),
            pointer: "/spec/externalName".into(),
            manager: "m".into(),
        };
        assert_eq!(
            removal(&found, &[field]),
            json!({"spec": {"externalName": null}, "metadata": {"uid": null, "resourceVersion": "7"}})
        );
    }
}
