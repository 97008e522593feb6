//! Goes through the schema of Pipeline: two Pipelines that have every field, each with other values.
//! One is changed into the other and back; after each step the stage documents are those of the
//! spec. Then each field gets a value that cannot be, and is named in the refusal. A new field of
//! the CRD fails the test until it is in here.
//!
//! The Pipelines are Paused: their pods are what `pipelines` and `outside` test.

use crate::world::{LONG, kubectl, leave, topic, user};
use freehold::api::pipeline::Pipeline;
use freehold_e2e::kubectl::{Kubectl, condition_of};
use freehold_e2e::shell;
use freehold_pipeline::graph::Graph;
use freehold_pipeline::stages::{Cut, cut};
use freehold_pipeline::topics::TopicNames;
use kube::CustomResourceExt;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

const NAMESPACE: &str = "shop";
const NAME: &str = "fields";
const TOPICS: [&str; 4] = ["fields-in", "fields-out", "fields-bad", "fields-alerts"];
const SECRETS: [&str; 2] = ["fields-a", "fields-b"];
/// What a Pipeline cannot change, or what is not served yet.
const FIXED: [(&str, &str); 5] = [
    ("clusterRef.name", "/clusterRef/name"),
    ("clusterRef.namespace", "/clusterRef/namespace"),
    ("blocks[].window", "/blocks/0/window"),
    ("blocks[].deduplicate", "/blocks/0/deduplicate"),
    ("blocks[].join", "/blocks/0/join"),
];

fn first() -> Value {
    json!({
        "clusterRef": {"name": "demo", "namespace": "kafka"},
        "state": "Paused",
        "replicas": 1,
        "scaling": {"min": 2, "max": 4, "targetLag": "20s"},
        "resources": {"requests": {"cpu": "50m"}, "limits": {"memory": "128Mi"}},
        "delivery": "AtLeastOnce",
        "functions": {"one": "one = 1"},
        "errors": {
            "policy": "DeadLetter", "deadLetter": {"topic": "fields-bad"},
            "threshold": {"ratio": 0.5, "within": "1m"},
        },
        "revisionHistoryLimit": 2,
        "blocks": [
            {"name": "in", "source": {"kafka": {"topic": "fields-in", "format": "Json", "start": "Earliest"}}},
            {"name": "posted", "source": {"http": {
                "authentication": {"token": {"name": "fields-a", "key": "token"}},
                "tls": {"name": "fields-a"}, "bodyBytesMax": 2048, "format": "Json"}}},
            {"name": "feed", "source": {"mqtt": {
                "url": "mqtts://one.example.com", "topics": ["a"], "version": "V5", "format": "Json",
                "basic": {"name": "fields-a"}, "ca": {"name": "fields-a", "key": "ca.crt"}}}},
            {"name": "asked", "source": {"httpPoll": {
                "url": "https://one.example.com/", "interval": "5s", "format": "Json", "headers": {"X-One": "1"},
                "authentication": {"token": {"name": "fields-a", "key": "token"}},
                "ca": {"name": "fields-a", "key": "ca.crt"}, "timeout": "2s", "bodyBytesMax": 2048}}},
            {"name": "change", "from": ["in"], "isolate": true, "errors": {"policy": "Skip"},
             "transform": {"vrl": ". = one", "include": ["one"], "output": "Json"}},
            {"name": "keep", "from": ["change"], "filter": {"when": "int!(.) > 0", "onError": "Fail"}},
            {"name": "cases", "from": ["keep"], "split": {
                "cases": [{"name": "low", "when": "int!(.) < 9", "onError": "Match"}], "default": "high"}},
            {"name": "tell", "from": ["keep"], "alert": {
                "when": "int!(.) > 5", "onError": "NoMatch", "for": "1m", "groupBy": "%key",
                "interval": "2m", "to": {"topic": "fields-alerts"}, "event": true}},
            {"name": "low-out", "from": ["cases.low"], "sink": {"kafka": {"topic": "fields-out", "partition": "Keep"}}},
            {"name": "hook", "from": ["cases.high"], "sink": {"http": {
                "url": "https://one.example.com/", "method": "POST", "headers": {"X-One": "1"}, "batch": 1,
                "timeout": "5s", "delivery": "AtLeastOnce", "ca": {"name": "fields-a", "key": "ca.crt"},
                "authentication": {"token": {"name": "fields-a", "key": "token"}}}}},
            {"name": "files", "from": ["posted", "feed", "asked"], "sink": {"s3": {
                "bucket": "one", "prefix": "one/", "region": "one", "endpoint": "https://one.example.com",
                "credentials": {"name": "fields-a"}, "ca": {"name": "fields-a", "key": "ca.crt"},
                "fileBytes": 2048, "fileEvery": "1m", "compression": "Gzip"}}},
            {"name": "told", "from": ["keep"], "sink": {"mqtt": {
                "url": "mqtts://one.example.com", "topic": "one", "version": "V5", "delivery": "AtLeastOnce",
                "basic": {"name": "fields-a"}, "ca": {"name": "fields-a", "key": "ca.crt"}}}},
        ],
    })
}

fn second() -> Value {
    json!({
        "clusterRef": {"name": "demo", "namespace": "kafka"},
        "state": "Paused",
        "userRef": {"name": "fields-user"},
        "replicas": 3,
        "resources": {"requests": {"cpu": "60m"}, "limits": {"memory": "192Mi"}},
        "delivery": "ExactlyOnce",
        "functions": {"two": "two = 2", "three": "three = 3"},
        "errors": {
            "policy": "Stop", "deadLetter": {"topicRef": {"name": "fields-bad"}},
            "threshold": {"ratio": 0.25, "within": "2m"},
        },
        "revisionHistoryLimit": 3,
        "blocks": [
            {"name": "in", "source": {"kafka": {"topicRef": {"name": "fields-in"}, "format": "Text", "start": "Latest",
                "onGap": "Earliest"}}},
            {"name": "posted", "source": {"http": {
                "authentication": {"basic": {"name": "fields-b"}},
                "tls": {"name": "fields-b"}, "bodyBytesMax": 4096, "format": "Text"}}},
            {"name": "feed", "source": {"mqtt": {
                "url": "mqtts://two.example.com", "topics": ["a", "b/#"], "version": "V311", "format": "Text",
                "basic": {"name": "fields-b"}, "ca": {"name": "fields-b", "key": "other.crt"}, "shared": true}}},
            {"name": "asked", "source": {"httpPoll": {
                "url": "https://two.example.com/", "interval": "6s", "format": "Text", "headers": {"X-Two": "2"},
                "authentication": {"basic": {"name": "fields-b"}},
                "ca": {"name": "fields-b", "key": "other.crt"}, "timeout": "3s", "bodyBytesMax": 4096}}},
            {"name": "change", "from": ["in"], "errors": {"policy": "DeadLetter"},
             "transform": {"vrl": ". = to_string(two)", "include": ["two", "three"], "output": "Text"}},
            {"name": "again", "from": ["change"], "isolate": true, "transform": {"vrl": ". = 2", "output": "Json"}},
            {"name": "keep", "from": ["again"], "isolate": false, "filter": {"when": "int!(.) > 1", "onError": "NoMatch"}},
            {"name": "cases", "from": ["keep"], "split": {
                "cases": [{"name": "small", "when": "int!(.) < 8", "onError": "Fail"}], "default": "great"}},
            {"name": "tell", "from": ["keep"], "alert": {
                "when": "int!(.) > 6", "onError": "Match", "for": "2m", "groupBy": "%topic",
                "interval": "3m", "to": {"topicRef": {"name": "fields-alerts"}}, "event": false}},
            {"name": "small-out", "from": ["cases.small"], "sink": {"kafka": {"topicRef": {"name": "fields-out"}, "partition": "ByKey"}}},
            {"name": "hook", "from": ["cases.great"], "sink": {"http": {
                "url": "https://two.example.com/", "method": "PUT", "headers": {"X-Two": "2"}, "batch": 2,
                "timeout": "6s", "delivery": "AtLeastOnce", "ca": {"name": "fields-b", "key": "other.crt"},
                "authentication": {"basic": {"name": "fields-b"}}}}},
            {"name": "files", "from": ["feed", "posted", "asked"], "sink": {"s3": {
                "bucket": "two", "prefix": "two/", "region": "two", "endpoint": "https://two.example.com",
                "credentials": {"name": "fields-b"}, "ca": {"name": "fields-b", "key": "other.crt"},
                "fileBytes": 4096, "fileEvery": "2m", "compression": "Zstd"}}},
            {"name": "told", "from": ["keep"], "sink": {"mqtt": {
                "url": "mqtts://two.example.com", "topic": "two", "version": "V311", "delivery": "AtLeastOnce",
                "basic": {"name": "fields-b"}, "ca": {"name": "fields-b", "key": "other.crt"}}}},
        ],
    })
}

/// A leaf of a document: its field as in the schema (`[]` is an item of a list, `{}` a value of a
/// map), its place, its value.
type Leaf = (String, String, Value);

/// The leaves of a document that the schema knows.
fn leaves(schema: &Value, document: &Value, field: &str, at: &str, out: &mut Vec<Leaf>) {
    let step = |name: &str| match field {
        "" => name.to_owned(),
        _ => format!("{field}.{name}"),
    };
    let inner = |key: &str| format!("{at}/{}", key.replace('~', "~0").replace('/', "~1"));
    if let Some(properties) = schema["properties"].as_object() {
        for (name, schema) in properties {
            if let Some(value) = document.get(name) {
                leaves(schema, value, &step(name), &inner(name), out);
            }
        }
    } else if schema["items"].is_object() {
        for (index, value) in document.as_array().into_iter().flatten().enumerate() {
            let at = inner(&index.to_string());
            leaves(&schema["items"], value, &format!("{field}[]"), &at, out);
        }
    } else if schema["additionalProperties"].is_object() {
        let schema = &schema["additionalProperties"];
        for (key, value) in document.as_object().into_iter().flatten() {
            leaves(schema, value, &format!("{field}{{}}"), &inner(key), out);
        }
    } else {
        out.push((field.to_owned(), at.to_owned(), document.clone()));
    }
}

fn schema() -> Value {
    let crd = serde_json::to_value(Pipeline::crd()).unwrap();
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"].clone()
}

/// Each field of the schema has other values in the one document than in the other.
fn cover(documents: [&[Leaf]; 2]) {
    let values = |leaves: &[Leaf], field: &str| -> Vec<Value> {
        let of = leaves.iter().filter(|(known, ..)| known == field);
        of.map(|(.., value)| value.clone()).collect()
    };
    let same: Vec<String> = crate::campaign::fields_of(&schema())
        .into_iter()
        .filter(|field| !FIXED.iter().any(|(fixed, _)| fixed == field))
        .filter(|field| values(documents[0], field) == values(documents[1], field))
        .collect();
    // Without pods nothing else can be; `delivery` of a sink has one value beside none.
    assert_eq!(
        same,
        [
            "blocks[].sink.http.delivery",
            "blocks[].sink.mqtt.delivery",
            "state"
        ],
        "fields that are the same in both documents"
    );
}

fn pipeline(spec: &Value) -> Value {
    json!({
        "apiVersion": "freehold.dev/v1alpha1", "kind": "Pipeline",
        "metadata": {"name": NAME, "namespace": NAMESPACE}, "spec": spec,
    })
}

#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn every_field_of_a_pipeline_is_followed_or_refused() {
    let kubectl = kubectl();
    let documents = [first(), second()];
    let [one, other] = documents.each_ref().map(|document| {
        let mut out = Vec::new();
        leaves(&schema(), document, "", "", &mut out);
        out
    });
    cover([&one, &other]);
    remove(&kubectl);
    make_what_they_name(&kubectl);
    let mut revisions = Vec::new();
    for spec in [&documents[0], &documents[1], &documents[0]] {
        let object = pipeline(spec).to_string();
        match revisions.is_empty() {
            true => drop(kubectl.apply(&object).unwrap()),
            // An apply would leave what the other document alone has in its maps.
            false => replace(&kubectl, &object),
        }
        revisions.push(follows(&kubectl));
    }
    assert_eq!(revisions, [1, 2, 3], "each change is a revision");

    let mut refused = BTreeMap::new();
    for (document, leaves) in [(&documents[1], &other), (&documents[0], &one)] {
        replace(&kubectl, &pipeline(document).to_string());
        for (field, at, _) in leaves {
            refused
                .entry(field.clone())
                .or_insert_with(|| refusal(&kubectl, at, &json!([{"x": [1]}])));
        }
    }
    for (field, at) in FIXED {
        let value = match field.starts_with("clusterRef") {
            true => json!("other"),
            false => json!({"key": ".id"}),
        };
        refused.insert(field.to_owned(), refusal(&kubectl, at, &value));
    }
    for (field, why) in &refused {
        let named = field.trim_end_matches(['[', ']', '{', '}']);
        let named = named.rsplit('.').next().unwrap().trim_end_matches("[]");
        // A key that stands for a whole object is named with it.
        assert!(why.contains(named), "{field}: not named in: {why}");
    }
    let all = crate::campaign::fields_of(&schema());
    assert_eq!(refused.keys().cloned().collect::<BTreeSet<_>>(), all);
    what_only_the_operator_sees(&kubectl);
    println!(
        "fields: {} of a Pipeline followed, {} refused",
        all.len() - FIXED.len(),
        all.len()
    );
    remove(&kubectl);
}

/// Replaces the Pipeline. kubectl reads it first, and the operator may write it in between.
fn replace(kubectl: &Kubectl, object: &str) {
    shell::wait_for("the Pipeline is replaced", LONG, || {
        let replaced = kubectl.feed(&["replace", "-f", "-"], object);
        Ok(replaced.err().map(|error| error.to_string()))
    })
    .unwrap();
}

/// Values that have the right type and cannot be.
fn what_only_the_operator_sees(kubectl: &Kubectl) {
    for (at, value, words) in [
        (
            "/blocks/4/transform/vrl",
            json!(". = nobody"),
            "block change",
        ),
        (
            "/blocks/4/transform/include",
            json!(["nobody"]),
            "spec.functions has no nobody",
        ),
        ("/blocks/5/filter/when", json!("1"), "block keep"),
        ("/blocks/5/from", json!(["nobody"]), "nobody"),
        (
            "/blocks/6/split/cases/0/when",
            json!("int!(.) <"),
            "block cases",
        ),
        ("/blocks/7/alert/groupBy", json!("nobody("), "block tell"),
        (
            "/blocks/8/sink/kafka/topic",
            json!("fields-in"),
            "fields-in",
        ),
        (
            "/blocks/9/sink/http/url",
            json!("ftp://one.example.com"),
            "block hook",
        ),
        (
            "/blocks/9/sink/http/headers",
            json!({"Authorization": "x"}),
            "Authorization",
        ),
        ("/blocks/9/sink/http/timeout", json!("0s"), "timeout"),
        ("/blocks/10/sink/s3/endpoint", json!("one"), "block files"),
        (
            "/blocks/2/source/mqtt/topics",
            json!(["a/#/b"]),
            "block feed",
        ),
        ("/errors/threshold/within", json!("soon"), "within"),
        ("/delivery", json!("ExactlyTwice"), "delivery"),
    ] {
        let why = refusal(kubectl, at, &value);
        assert!(why.contains(words), "{at}: {words} is not in: {why}");
    }
}

/// Makes the Topics, the Secrets and the User that the documents name.
fn make_what_they_name(kubectl: &Kubectl) {
    for name in TOPICS {
        let spec = "  partitions: 2\n  replicas: 1\n";
        kubectl.apply(&topic(name, "demo", spec)).unwrap();
    }
    for name in SECRETS {
        let keys = [
            "token",
            "username",
            "password",
            "accessKeyId",
            "secretAccessKey",
            "ca.crt",
            "other.crt",
            "tls.crt",
            "tls.key",
        ];
        let data: BTreeMap<&str, &str> = keys.into_iter().map(|key| (key, "a-text")).collect();
        let object = json!({"apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": name, "namespace": NAMESPACE}, "stringData": data});
        kubectl.apply(&object.to_string()).unwrap();
    }
    let own = format!("\"{NAMESPACE}.{NAME}.*\"");
    let internal = cut_of(&pipeline(&second())).internal;
    let mut topics: Vec<&str> = internal.iter().map(|one| &*one.topic).collect();
    topics.extend(TOPICS);
    let topics = topics.join(", ");
    let rights = format!(
        "  authentication: {{type: ScramSha512}}\n  grants:\n  - {{consume: {{topics: [{topics}], groups: [{own}]}}}}\n  \
         - {{produce: {{topics: [{topics}]}}}}\n  - {{transactional: {{ids: [{own}]}}}}\n"
    );
    kubectl
        .apply(&user("fields-user", "demo", &rights))
        .unwrap();
    for name in TOPICS {
        kubectl.wait_ready("topic", NAMESPACE, name, LONG).unwrap();
    }
    // The User has its rights when the Pipeline has made its internal topics.
}

/// Waits until the stage documents and the pods' template are those of the spec; returns the number
/// of the revision.
fn follows(kubectl: &Kubectl) -> i64 {
    let mut revision = 0;
    shell::wait_for("the Pipeline is followed", LONG, || {
        let object = kubectl
            .get("pipeline", NAMESPACE, NAME)?
            .unwrap_or_default();
        let ready = condition_of(&object, "Ready").cloned().unwrap_or_default();
        if ready["reason"] != "Paused"
            || ready["observedGeneration"] != object["metadata"]["generation"]
        {
            return Ok(Some(ready.to_string()));
        }
        revision = object["status"]["revision"].as_i64().unwrap_or_default();
        differs(kubectl, &object)
    })
    .unwrap();
    revision
}

/// The stages of a Pipeline.
fn cut_of(object: &Value) -> Cut {
    let pipeline: Pipeline = serde_json::from_value(object.clone()).unwrap();
    let definition = pipeline.spec.definition();
    let graph = Graph::of(&definition).unwrap();
    let names = TopicNames::default();
    cut(&graph, &definition, &names, NAMESPACE, NAME)
}

/// What is not as the spec says; `None`: all is.
fn differs(kubectl: &Kubectl, object: &Value) -> anyhow::Result<Option<String>> {
    let cut = cut_of(object);
    let selector = format!("freehold.dev/pipeline={NAME}");
    let list = |kind: &str| {
        kubectl.json(&[
            "get",
            kind,
            "--namespace",
            NAMESPACE,
            "--selector",
            &selector,
        ])
    };
    let (maps, sets) = (list("configmap")?, list("statefulset")?);
    let stages = |list: &Value| list["items"].as_array().cloned().unwrap_or_default();
    let mut found = BTreeMap::new();
    for map in stages(&maps) {
        let text = map["data"]["stage.json"].as_str().unwrap_or_default();
        let document: Value = serde_json::from_str(text)?;
        found.insert(
            document["stage"].to_string(),
            document["definition"].clone(),
        );
    }
    let mut wanted = BTreeMap::new();
    for stage in &cut.stages {
        wanted.insert(
            json!(stage.name).to_string(),
            serde_json::to_value(&stage.definition)?,
        );
    }
    if found != wanted {
        return Ok(Some(format!("found {found:?}, wanted {wanted:?}")));
    }
    if object["status"]["replicas"] != 0 || stages(&sets).len() != cut.stages.len() {
        return Ok(Some(object["status"].to_string()));
    }
    let user = match &object["spec"]["userRef"]["name"] {
        Value::String(name) => name.clone(),
        _ => format!("{NAME}-pipeline"),
    };
    let bad = stages(&sets).into_iter().find(|set| {
        let pod = &set["spec"]["template"]["spec"];
        let mut volumes = pod["volumes"].as_array().into_iter().flatten();
        let secret = json!(format!("{user}-kafka"));
        let has_user = volumes.any(|volume| volume["secret"]["secretName"] == secret);
        pod["containers"][0]["resources"] != object["spec"]["resources"] || !has_user
    });
    Ok(bad.map(|set| set["spec"].to_string()))
}

/// What admission says of the Pipeline with this value in this place of its spec.
fn refusal(kubectl: &Kubectl, at: &str, value: &Value) -> String {
    let patch = json!([{"op": "add", "path": format!("/spec{at}"), "value": value}]).to_string();
    let words = [
        "patch",
        "pipeline",
        NAME,
        "--namespace",
        NAMESPACE,
        "--type=json",
        "--dry-run=server",
        "-p",
        &patch,
    ];
    crate::world::refusal("", || kubectl.run(&words))
}

fn remove(kubectl: &Kubectl) {
    kubectl.delete("pipeline", NAMESPACE, NAME, LONG).unwrap();
    kubectl
        .delete("user", NAMESPACE, "fields-user", LONG)
        .unwrap();
    for name in SECRETS {
        leave(kubectl, "secret", NAMESPACE, name);
    }
    for name in TOPICS {
        kubectl.delete("topic", NAMESPACE, name, LONG).unwrap();
    }
}
