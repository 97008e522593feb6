//! `freehold crds`, `freehold render` and `freehold versions`: what needs no cluster.
#![allow(clippy::print_stdout, reason = "printing is what these commands are for")]

use crate::conditions::Reason;
use crate::kafka::config;
use crate::kinds::kafka_cluster::api::KafkaCluster;
use crate::kinds::kafka_cluster::desired::{self, Trust};
use crate::kinds::kafka_cluster::identity::Identity;
use crate::kinds::kafka_cluster::observe::{KafkaFacts, Observed};
use crate::kinds::kafka_cluster::validate;
use crate::kinds::{GROUP, definitions};
use crate::operator::MainError;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// Prints the CustomResourceDefinitions.
pub fn crds() -> Result<(), MainError> {
    for (_, definition) in definitions() {
        println!("---\n{}", yaml(&serde_json::to_value(definition)?)?);
    }
    Ok(())
}

/// Prints the versions of Kafka, oldest first.
pub fn versions() -> Result<(), MainError> {
    println!("{}", config::VERSIONS.join("\n"));
    Ok(())
}

/// Prints the catalogue of conditions and reasons as a page.
pub fn reference() -> Result<(), MainError> {
    println!("# Conditions and reasons\n");
    println!("Every object has the conditions `Ready`, `Reconciling` and `Stalled`, in the sense of kstatus. A reason is at once the");
    println!("condition's reason, the event's reason and the metric's label. Made from `src/conditions.rs` by `cargo xtask generate`.\n");
    println!("| reason | meaning |\n| --- | --- |");
    for (reason, meaning) in Reason::ALL {
        println!("| `{reason}` | {meaning} |");
    }
    Ok(())
}

/// YAML of a value.
pub fn yaml(value: &Value) -> Result<String, MainError> {
    Ok(serde_saphyr::to_string(value)?)
}

/// Prints every object of the KafkaClusters in a file. What only a live cluster knows (its id, its certificates, its
/// image) stands as a placeholder.
pub fn file(path: &Path) -> Result<(), MainError> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut found = false;
    for document in text.split("\n---").filter(|document| !document.trim().is_empty()) {
        let value: Value = serde_saphyr::from_str(document).map_err(|error| format!("{}: {error}", path.display()))?;
        let group = value["apiVersion"].as_str().unwrap_or_default();
        if value["kind"] == "KafkaCluster" && group.starts_with(GROUP) {
            found = true;
            let cluster: KafkaCluster = serde_json::from_value(value).map_err(|error| format!("{}: {error}", path.display()))?;
            for object in objects(&cluster)? {
                println!("---\n{}", yaml(&object)?);
            }
        }
    }
    if found { Ok(()) } else { Err(format!("{}: no KafkaCluster in it", path.display()).into()) }
}

/// Every object of a cluster as it would be made first.
pub fn objects(cluster: &KafkaCluster) -> Result<Vec<Value>, MainError> {
    let mut cluster = cluster.clone();
    cluster.metadata.namespace.get_or_insert_with(|| "default".into());
    cluster.metadata.uid.get_or_insert_with(|| "00000000-0000-0000-0000-000000000000".into());
    let observed = Observed {
        now: Timestamp::UNIX_EPOCH,
        image: Some(format!("freehold/kafka:{}", cluster.spec.version)),
        operator_namespace: "freehold-system".into(),
        identity: None,
        objects: Vec::new(),
        secrets: BTreeMap::new(),
        given_ca: None,
        client_authorities: BTreeMap::new(),
        emptied: std::collections::BTreeSet::new(),
        probes: Default::default(),
        volumes: Vec::new(),
        disks: BTreeMap::new(),
        folders: BTreeMap::new(),
        loads: BTreeMap::new(),
        pods: Vec::new(),
        kafka: KafkaFacts::NotAsked,
    };
    let mut offline = cluster.clone();
    offline.spec.certificates = Default::default();
    let valid = validate::validate(&offline, &observed)
        .map_err(|invalids| invalids.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))?;
    let identity = Identity::new("CLUSTER-ID".into(), &valid.blocks, BTreeMap::new(), false);
    let trust = Trust { cluster_ca: "CLUSTER-CA\n".into(), clients_ca: "CLIENTS-CA\n".into() };
    Ok(desired::desired(&valid, &identity, &trust).into_iter().map(|object| object.value).collect())
}
