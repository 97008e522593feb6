//! Goes through the schemas of Topic and User: each field is set, changed, removed, given an
//! invalid value, and restored. After each step Kafka and Kubernetes match the object, or the
//! object says why not. The fields are read from the CRDs: a new field fails the test until it is
//! added here.

use crate::kafka;
use crate::world::{LONG, Restore, asked, block_on, kubectl, super_admin};
use anyhow::Context;
use freehold::api::topic::Topic;
use freehold::api::user::User;
use freehold::tenancy::rules;
use freehold_e2e::kubectl::{Kubectl, condition_of, not_ready};
use freehold_e2e::shell;
use freehold_kafka_client::client::Client as Bare;
use kube::CustomResourceExt;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// A field with values for it as merge patches of `spec`. `None`: the step does not apply to the
/// field.
struct Field {
    /// The path as in the schema; `[]` is a list item, `{}` a map value.
    path: &'static str,
    set: Option<Value>,
    changed: Option<Value>,
    removed: Option<Value>,
    invalid: Value,
}

fn field(
    path: &'static str,
    set: Option<Value>,
    changed: Option<Value>,
    removed: Option<Value>,
    invalid: Value,
) -> Field {
    Field {
        path,
        set,
        changed,
        removed,
        invalid,
    }
}

/// Collects the leaf fields of a schema.
fn leaves(schema: &Value, path: &str, out: &mut BTreeSet<String>) {
    let step = |name: &str| {
        if path.is_empty() {
            name.to_owned()
        } else {
            format!("{path}.{name}")
        }
    };
    if let Some(properties) = schema["properties"].as_object() {
        properties
            .iter()
            .for_each(|(name, schema)| leaves(schema, &step(name), out));
    } else if schema["items"].is_object() {
        leaves(&schema["items"], &format!("{path}[]"), out);
    } else if schema["additionalProperties"].is_object() {
        leaves(&schema["additionalProperties"], &format!("{path}{{}}"), out);
    } else {
        out.insert(path.to_owned());
    }
}

/// The leaf fields of a schema.
pub fn fields_of(schema: &Value) -> BTreeSet<String> {
    let mut out = BTreeSet::new();
    leaves(schema, "", &mut out);
    out
}

fn spec_leaves(crd: &Value) -> BTreeSet<String> {
    fields_of(&crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"])
}

fn covers(fields: &[Field], crd: &Value) {
    let listed: BTreeSet<String> = fields.iter().map(|field| field.path.to_owned()).collect();
    assert_eq!(
        spec_leaves(crd),
        listed,
        "the campaign's fields are those of the schema"
    );
}

#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn every_field_of_a_topic_is_followed_or_refused() {
    let fields = topic_fields();
    covers(&fields, &serde_json::to_value(Topic::crd()).unwrap());
    let base = json!({"clusterRef": {"name": "demo", "namespace": "kafka"}, "partitions": 2, "replicas": 2});
    Campaign {
        kubectl: kubectl(),
        kind: "Topic",
        base,
    }
    .run(&fields, |admin, object| {
        let spec = &object["spec"];
        let name = spec["topicName"]
            .as_str()
            .or(object["metadata"]["name"].as_str())
            .unwrap();
        let found = block_on(kafka::topic(admin, name))
            .map_err(|error| error.to_string())?
            .ok_or("the topic is not there")?;
        let config = block_on(kafka::config(admin, name)).map_err(|error| error.to_string())?;
        let wanted: BTreeMap<String, String> =
            serde_json::from_value(spec["config"].clone()).unwrap_or_default();
        let replicas = usize::try_from(spec["replicas"].as_u64().unwrap_or(2)).unwrap();
        let agrees = found.partitions.len()
            == usize::try_from(spec["partitions"].as_u64().unwrap()).unwrap()
            && found
                .partitions
                .iter()
                .all(|partition| partition.replicas.len() == replicas)
            && config == wanted;
        agrees
            .then_some(())
            .ok_or_else(|| format!("{found:?} {config:?}"))
    });
}

fn topic_fields() -> Vec<Field> {
    let share = |namespace: &str, operation: &str| {
        Some(json!({"share": [{"namespaces": [namespace], "operations": [operation]}]}))
    };
    let config = |value: Value| Some(json!({"config": {"retention.ms": value}}));
    vec![
        field(
            "clusterRef.name",
            None,
            None,
            None,
            json!({"clusterRef": {"name": "other"}}),
        ),
        field(
            "clusterRef.namespace",
            None,
            None,
            None,
            json!({"clusterRef": {"namespace": "other"}}),
        ),
        field(
            "topicName",
            None,
            None,
            None,
            json!({"topicName": "renamed"}),
        ),
        field(
            "partitions",
            Some(json!({"partitions": 3})),
            Some(json!({"partitions": 4})),
            None,
            json!({"partitions": 1}),
        ),
        field(
            "replicas",
            Some(json!({"replicas": 3})),
            Some(json!({"replicas": 2})),
            Some(json!({"replicas": null})),
            json!({"replicas": 9}),
        ),
        field(
            "share[].namespaces[]",
            share("billing", "Consume"),
            share("returns", "Consume"),
            Some(json!({"share": null})),
            json!({"share": [{"namespaces": [], "operations": ["Consume"]}]}),
        ),
        field(
            "share[].operations[]",
            share("billing", "Consume"),
            share("billing", "Produce"),
            Some(json!({"share": null})),
            json!({"share": [{"namespaces": ["billing"], "operations": ["Delete"]}]}),
        ),
        field(
            "config{}",
            config(json!("3600000")),
            config(json!("7200000")),
            config(Value::Null),
            json!({"config": {"retention.ms": "1h"}}),
        ),
        field(
            "adoption",
            Some(json!({"adoption": "Always"})),
            Some(json!({"adoption": "Never"})),
            Some(json!({"adoption": null})),
            json!({"adoption": "Sometimes"}),
        ),
        field(
            "deletionPolicy",
            Some(json!({"deletionPolicy": "Retain"})),
            Some(json!({"deletionPolicy": "Delete"})),
            Some(json!({"deletionPolicy": null})),
            json!({"deletionPolicy": "Keep"}),
        ),
    ]
}

#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn every_field_of_a_user_is_followed_or_refused() {
    let fields = user_fields();
    covers(&fields, &serde_json::to_value(User::crd()).unwrap());
    let kubectl = kubectl();
    let as_before = json!({"authorization": {"shadow": "Denied"}, "access": {"rights": null}});
    let _as_before = (
        Restore::demo(&kubectl, &as_before),
        Restore::delete(&kubectl, "secret", "shop", "given"),
    );
    let given = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "given", "namespace": "shop", "labels": {"freehold.dev/user": "campaign"}},
        "stringData": {"password": "correct-horse-battery", "other": "staple-battery-horse"}});
    kubectl.apply(&given.to_string()).unwrap();
    let shadow = |policy: &str| {
        // The values of the fields name resources that nobody manages.
        let rights = if policy == "Allowed" {
            json!("Any")
        } else {
            Value::Null
        };
        let spec = json!({"authorization": {"shadow": policy}, "access": {"rights": rights}});
        kubectl
            .merge("kafkacluster", "kafka", "demo", &json!({"spec": spec}))
            .unwrap();
    };
    shadow("Allowed");
    let base = json!({"clusterRef": {"name": "demo", "namespace": "kafka"}, "authentication": {"type": "ScramSha512"}});
    Campaign {
        kubectl: kubectl.clone(),
        kind: "User",
        base,
    }
    .run(&fields, |admin, object| {
        let user: User =
            serde_json::from_value(object.clone()).map_err(|error| error.to_string())?;
        let name = user
            .spec
            .authentication
            .subject
            .clone()
            .unwrap_or_else(|| "campaign".into());
        let acls = block_on(kafka::acls(admin, Some(&format!("User:{name}"))))
            .map_err(|error| error.to_string())?;
        if acls != rules::acls(&user, &name) {
            return Err(format!("ACLs: {acls:?}"));
        }
        let quotas = block_on(kafka::quotas(admin))
            .map_err(|error| error.to_string())?
            .remove(&name)
            .unwrap_or_default();
        let wanted = object["spec"]["quotas"]
            .as_object()
            .map_or(0, serde_json::Map::len);
        if quotas.len() != wanted || quotas.values().any(|value| *value <= 0.0) {
            return Err(format!("quotas: {quotas:?}"));
        }
        let scram = block_on(kafka::scram_users(admin))
            .map_err(|error| error.to_string())?
            .contains_key(&name);
        if scram != (object["spec"]["authentication"]["type"] == "ScramSha512") {
            return Err(format!("SCRAM: {scram}"));
        }
        agrees_secret(object)
    });
    shadow("Denied");
    kubectl.delete("secret", "shop", "given", LONG).unwrap();
}

/// Checks that the Secret has the keys, names and annotations that the object requests.
fn agrees_secret(object: &Value) -> Result<(), String> {
    let spec = &object["spec"]["secret"];
    let name = spec["name"].as_str().unwrap_or("campaign-kafka");
    let secret = kubectl()
        .get("secret", "shop", name)
        .map_err(|error| error.to_string())?
        .ok_or_else(|| format!("there is no Secret {name}"))?;
    let key = |name: &str| spec["keys"][name].as_str().unwrap_or(name).to_owned();
    let mut wanted: BTreeSet<String> = [
        "type",
        "bootstrapServers",
        "ca.crt",
        "username",
        "client.properties",
    ]
    .map(key)
    .into();
    match object["spec"]["authentication"]["type"].as_str() {
        Some("ScramSha512") => wanted.extend([key("password")]),
        Some("MutualTls") => wanted.extend([key("user.crt"), key("user.key")]),
        _ => {}
    }
    if spec["pkcs12"] == true {
        wanted.extend([key("truststore.p12"), key("pkcs12.password")]);
    }
    let found: BTreeSet<String> = secret["data"]
        .as_object()
        .unwrap()
        .keys()
        .cloned()
        .collect();
    if found != wanted {
        return Err(format!("the Secret's keys are {found:?}"));
    }
    for field in ["labels", "annotations"] {
        for (key, value) in spec["metadata"][field].as_object().into_iter().flatten() {
            if secret["metadata"][field][key] != *value {
                return Err(format!("the Secret's {field} lack {key}"));
            }
        }
    }
    Ok(())
}

fn user_fields() -> Vec<Field> {
    let adoption = |policy: &str| Some(json!({"adoption": policy}));
    let grants = |grant: Value| Some(json!({"grants": [grant]}));
    let none = || Some(json!({"grants": null}));
    let rule = |change: Value| {
        let mut rule = json!({"resource": {"type": "Topic", "name": "a"}, "operations": ["Read"]});
        for (key, value) in change.as_object().unwrap() {
            if key == "resource" {
                value
                    .as_object()
                    .unwrap()
                    .iter()
                    .for_each(|(key, value)| rule["resource"][key] = value.clone());
            } else {
                rule[key] = value.clone();
            }
        }
        Some(json!({"acls": [rule]}))
    };
    let no_rules = || Some(json!({"acls": null}));
    let authentication = |value: Value| Some(json!({"authentication": value}));
    let quota = |key: &str, value: Value| Some(json!({"quotas": {key: value}}));
    let secret = |value: Value| Some(json!({"secret": value}));
    let long = "x".repeat(300);
    vec![
        field(
            "adoption",
            adoption("Always"),
            adoption("Never"),
            Some(json!({"adoption": null})),
            json!({"adoption": "Sometimes"}),
        ),
        field(
            "clusterRef.name",
            None,
            None,
            None,
            json!({"clusterRef": {"name": "other"}}),
        ),
        field(
            "clusterRef.namespace",
            None,
            None,
            None,
            json!({"clusterRef": {"namespace": "other"}}),
        ),
        field(
            "authentication.type",
            authentication(json!({"type": "MutualTls"})),
            authentication(json!({"type": "ScramSha512"})),
            None,
            json!({"authentication": {"type": "Password"}}),
        ),
        field(
            "authentication.passwordSecretRef.name",
            authentication(json!({"passwordSecretRef": {"name": "given"}})),
            authentication(json!({"passwordSecretRef": {"name": "given", "key": "other"}})),
            authentication(json!({"passwordSecretRef": null})),
            json!({"authentication": {"passwordSecretRef": {"name": "no-such"}}}),
        ),
        field(
            "authentication.passwordSecretRef.key",
            authentication(json!({"passwordSecretRef": {"name": "given", "key": "password"}})),
            authentication(json!({"passwordSecretRef": {"name": "given", "key": "other"}})),
            authentication(json!({"passwordSecretRef": null})),
            json!({"authentication": {"passwordSecretRef": {"name": "given", "key": "no-such"}}}),
        ),
        field("username", None, None, None, json!({"username": "other"})),
        field(
            "authentication.subject",
            None,
            None,
            None,
            json!({"authentication": {"subject": "other"}}),
        ),
        field(
            "authentication.rotation.periodDays",
            authentication(json!({"rotation": {"periodDays": 30}})),
            authentication(json!({"rotation": {"periodDays": 60}})),
            authentication(json!({"rotation": null})),
            json!({"authentication": {"rotation": {"periodDays": 0}}}),
        ),
        field(
            "grants[].produce.topics[]",
            grants(json!({"produce": {"topics": ["a"]}})),
            grants(json!({"produce": {"topics": ["a", "b*"]}})),
            none(),
            json!({"grants": [{"produce": {"topics": ["a b"]}}]}),
        ),
        field(
            "grants[].consume.topics[]",
            grants(json!({"consume": {"topics": ["a"]}})),
            grants(json!({"consume": {"topics": ["*"]}})),
            none(),
            json!({"grants": [{"consume": {"topics": []}}]}),
        ),
        field(
            "grants[].consume.groups[]",
            grants(json!({"consume": {"topics": ["a"], "groups": ["g"]}})),
            grants(json!({"consume": {"topics": ["a"], "groups": ["h*"]}})),
            none(),
            json!({"grants": [{"consume": {"groups": ["g"]}}]}),
        ),
        field(
            "grants[].transactional.ids[]",
            grants(json!({"transactional": {"ids": ["t"]}})),
            grants(json!({"transactional": {"ids": ["t*"]}})),
            none(),
            json!({"grants": [{"transactional": {"ids": []}}]}),
        ),
        field(
            "grants[].admin.topics[]",
            grants(json!({"admin": {"topics": ["a"]}})),
            grants(json!({"admin": {"topics": ["a*"]}})),
            none(),
            json!({"grants": [{"admin": {}}]}),
        ),
        field(
            "grants[].admin.groups[]",
            grants(json!({"admin": {"groups": ["g"]}})),
            grants(json!({"admin": {"groups": ["g", "h"]}})),
            none(),
            json!({"grants": [{"admin": {"groups": ["g"]}, "produce": {"topics": ["a"]}}]}),
        ),
        field(
            "acls[].resource.type",
            rule(json!({})),
            rule(json!({"resource": {"type": "Group"}})),
            no_rules(),
            json!({"acls": [{"resource": {"type": "Table", "name": "a"}, "operations": ["Read"]}]}),
        ),
        field(
            "acls[].resource.name",
            rule(json!({})),
            rule(json!({"resource": {"name": "b"}})),
            no_rules(),
            json!({"acls": [{"resource": {"type": "Topic"}, "operations": ["Read"]}]}),
        ),
        field(
            "acls[].resource.pattern",
            rule(json!({"resource": {"pattern": "Prefixed"}})),
            rule(json!({"resource": {"pattern": "Literal"}})),
            no_rules(),
            json!({"acls": [{"resource": {"type": "Topic", "name": "a", "pattern": "Regex"}, "operations": ["Read"]}]}),
        ),
        field(
            "acls[].operations[]",
            rule(json!({"operations": ["Read", "Write"]})),
            rule(json!({"operations": ["All"]})),
            no_rules(),
            json!({"acls": [{"resource": {"type": "Topic", "name": "a"}, "operations": []}]}),
        ),
        field(
            "acls[].permission",
            rule(json!({"permission": "Deny"})),
            rule(json!({"permission": "Allow"})),
            no_rules(),
            json!({"acls": [{"resource": {"type": "Topic", "name": "a"}, "operations": ["Read"], "permission": "Maybe"}]}),
        ),
        field(
            "acls[].host",
            rule(json!({"host": "10.0.0.1"})),
            rule(json!({"host": "*"})),
            no_rules(),
            json!({"acls": [{"resource": {"type": "Topic", "name": "a"}, "operations": ["Read"], "host": ""}]}),
        ),
        field(
            "authorization.mode",
            Some(json!({"authorization": {"mode": "Shadow"}})),
            Some(json!({"authorization": {"mode": "Enforce"}})),
            Some(json!({"authorization": null})),
            json!({"authorization": {"mode": "Sometimes"}}),
        ),
        field(
            "quotas.producerByteRate",
            quota("producerByteRate", json!("10Mi")),
            quota("producerByteRate", json!("20Mi")),
            quota("producerByteRate", Value::Null),
            json!({"quotas": {"producerByteRate": "fast"}}),
        ),
        field(
            "quotas.consumerByteRate",
            quota("consumerByteRate", json!("10Mi")),
            quota("consumerByteRate", json!("1k")),
            quota("consumerByteRate", Value::Null),
            json!({"quotas": {"consumerByteRate": "0"}}),
        ),
        field(
            "quotas.requestPercent",
            quota("requestPercent", json!(50)),
            quota("requestPercent", json!(150)),
            quota("requestPercent", Value::Null),
            json!({"quotas": {"requestPercent": 0}}),
        ),
        field(
            "quotas.controllerMutationRate",
            quota("controllerMutationRate", json!(5)),
            quota("controllerMutationRate", json!(9)),
            quota("controllerMutationRate", Value::Null),
            json!({"quotas": {"controllerMutationRate": -1}}),
        ),
        field(
            "secret.name",
            secret(json!({"name": "campaign-a"})),
            secret(json!({"name": "campaign-b"})),
            secret(json!({"name": null})),
            json!({"secret": {"name": "Not A Name"}}),
        ),
        field(
            "secret.keys{}",
            secret(json!({"keys": {"password": "PASSWORD"}})),
            secret(json!({"keys": {"password": "PASS", "username": "USER"}})),
            secret(json!({"keys": null})),
            json!({"secret": {"keys": {"passwort": "P"}}}),
        ),
        field(
            "secret.metadata.labels{}",
            secret(json!({"metadata": {"labels": {"team": "a"}}})),
            secret(json!({"metadata": {"labels": {"team": "b"}}})),
            secret(json!({"metadata": {"labels": null}})),
            json!({"secret": {"metadata": {"labels": {"freehold.dev/user": "x"}}}}),
        ),
        field(
            "secret.metadata.annotations{}",
            secret(json!({"metadata": {"annotations": {"team": "a"}}})),
            secret(json!({"metadata": {"annotations": {"team": "b"}}})),
            secret(json!({"metadata": {"annotations": null}})),
            json!({"secret": {"metadata": {"annotations": {"freehold.dev/inputs": "x"}}}}),
        ),
        field(
            "secret.pkcs12",
            secret(json!({"pkcs12": true})),
            secret(json!({"pkcs12": false})),
            secret(json!({"pkcs12": null})),
            json!({"secret": {"pkcs12": long}}),
        ),
    ]
}

struct Campaign {
    kubectl: Kubectl,
    kind: &'static str,
    base: Value,
}

impl Campaign {
    fn run(&self, fields: &[Field], agrees: impl Fn(&Bare, &Value) -> Result<(), String>) {
        let admin = super_admin(&self.kubectl, "kafka", "demo");
        let (kind, name) = (self.kind.to_lowercase(), "campaign");
        let object = json!({"apiVersion": "freehold.dev/v1alpha1", "kind": self.kind, "metadata": {"name": name, "namespace": "shop"}, "spec": self.base});
        let _object = Restore::delete(&self.kubectl, &kind, "shop", name);
        self.kubectl.apply(&object.to_string()).unwrap();
        let (mut followed, mut refused, mut stalled) = (0, 0, 0);
        let settle = |what: &str| {
            let mut state = Ok(());
            shell::wait_for(what, LONG, || {
                let object = self.kubectl.get(&kind, "shop", name)?.unwrap_or_default();
                let generation = &object["metadata"]["generation"];
                let stalled = condition_of(&object, "Stalled").filter(|stalled| {
                    stalled["status"] == "True" && stalled["observedGeneration"] == *generation
                });
                if let Some(stalled) = stalled {
                    state = Err(stalled["message"].to_string());
                    return Ok(None);
                }
                state = Ok(());
                if let Some(why) = not_ready(&object) {
                    return Ok(Some(why));
                }
                Ok(agrees(&admin, &object).err())
            })
            .unwrap();
            state
        };
        settle("the base").unwrap();
        for field in fields {
            for (step, change) in [
                ("set", &field.set),
                ("changed", &field.changed),
                ("removed", &field.removed),
            ] {
                let Some(change) = change else { continue };
                let what = format!("{} of {kind}: {step}", field.path);
                self.patch(change)
                    .unwrap_or_else(|error| panic!("{what}: {error}"));
                settle(&what).unwrap_or_else(|why| panic!("{what}: {why}"));
                followed += 1;
            }
            let before = asked(name, || {
                let found = self.kubectl.get(&kind, "shop", name)?;
                found.context("it is not there")
            });
            let before = before["spec"].clone();
            match self.patch(&field.invalid) {
                Err(error) => {
                    let leaf = field
                        .path
                        .trim_end_matches(['[', ']', '{', '}'])
                        .rsplit('.')
                        .next()
                        .unwrap()
                        .trim_end_matches("[]");
                    let (text, last) = (error.to_lowercase(), leaf.to_lowercase());
                    let named = text.contains(&last)
                        || field
                            .path
                            .split('.')
                            .any(|part| text.contains(&part.trim_end_matches("[]").to_lowercase()));
                    assert!(
                        named,
                        "{}: the refusal does not name the field: {error}",
                        field.path
                    );
                    refused += 1;
                }
                Ok(()) => {
                    let what = format!("{} of {kind}: invalid", field.path);
                    let why = settle(&what).expect_err(&what);
                    assert!(
                        why.contains("spec."),
                        "{what}: the message does not name the field: {why}"
                    );
                    stalled += 1;
                    self.replace(&before);
                }
            }
            let what = format!("{} of {kind}: put back", field.path);
            settle(&what).unwrap_or_else(|why| panic!("{what}: {why}"));
        }
        println!(
            "campaign: {} fields of {kind}: {followed} changes followed, {refused} refused at admission, {stalled} Stalled",
            fields.len()
        );
        self.kubectl.delete(&kind, "shop", name, LONG).unwrap();
    }

    fn patch(&self, change: &Value) -> Result<(), String> {
        let patch = json!({"spec": change}).to_string();
        let args = [
            "patch",
            &self.kind.to_lowercase(),
            "campaign",
            "--namespace",
            "shop",
            "--type=merge",
            "-p",
            &patch,
        ];
        self.kubectl
            .run(&args)
            .map(|_| ())
            .map_err(|error| error.to_string())
    }

    fn replace(&self, spec: &Value) {
        let patch = json!([{"op": "replace", "path": "/spec", "value": spec}]).to_string();
        let args = [
            "patch",
            &self.kind.to_lowercase(),
            "campaign",
            "--namespace",
            "shop",
            "--type=json",
            "-p",
            &patch,
        ];
        self.kubectl.run(&args).unwrap();
    }
}
