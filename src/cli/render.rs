//! `freehold crds`, `freehold render` and `freehold versions`: what needs no cluster.
#![allow(
    clippy::print_stdout,
    reason = "printing is what these commands are for"
)]

use crate::api::GROUP;
use crate::api::bounds;
use crate::api::kafka_cluster::KafkaCluster;
use crate::cli::operator::MainError;
use crate::kinds::REGISTRY;
use crate::kinds::definitions::definitions;
use crate::kinds::kafka_cluster::model::authority::Trust;
use crate::kinds::kafka_cluster::observed::Identity;
use crate::kinds::kafka_cluster::observed::{KafkaFacts, Observed};
use crate::kinds::kafka_cluster::resources;
use crate::kinds::kafka_cluster::validate;
use crate::kinds::registration::Entry;
use crate::reference;
use freehold_kafka::config;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// Prints the CustomResourceDefinitions.
pub fn crds() -> Result<(), MainError> {
    for definition in definitions() {
        println!("---\n{}", yaml(&serde_json::to_value(definition)?)?);
    }
    Ok(())
}

/// Prints the versions of Kafka, oldest first.
pub fn versions() -> Result<(), MainError> {
    println!("{}", config::VERSIONS.join("\n"));
    Ok(())
}

/// Prints every generated file of the repository as JSON: texts by paths.
pub fn reference() -> Result<(), MainError> {
    let kinds: Vec<&Entry> = REGISTRY.iter().collect();
    println!("{}", serde_json::to_string(&reference::files(&kinds))?);
    Ok(())
}

/// YAML of a value.
pub fn yaml(value: &Value) -> Result<String, MainError> {
    Ok(serde_saphyr::to_string(value)?)
}

/// Prints every object of the KafkaClusters in a file. What only a live cluster knows (its id, its
/// certificates, its image) stands as a placeholder.
pub fn file(path: &Path) -> Result<(), MainError> {
    let text =
        std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut found = false;
    for document in text
        .split("\n---")
        .filter(|document| !document.trim().is_empty())
    {
        let value: Value = serde_saphyr::from_str(document)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        let group = value["apiVersion"].as_str().unwrap_or_default();
        if value["kind"] == "KafkaCluster" && group.starts_with(GROUP) {
            found = true;
            let cluster = cluster(value).map_err(|error| format!("{}: {error}", path.display()))?;
            for object in objects(&cluster)? {
                println!("---\n{}", yaml(&object)?);
            }
        }
    }
    if found {
        Ok(())
    } else {
        Err(format!("{}: no KafkaCluster in it", path.display()).into())
    }
}

/// A KafkaCluster that somebody wrote. A field that there is not would be ignored: it is refused,
/// as the API server does.
///
/// # Errors
/// What is wrong with it.
pub fn cluster(value: Value) -> Result<KafkaCluster, MainError> {
    let definition = definitions()
        .into_iter()
        .find(|one| one.spec.names.kind == "KafkaCluster")
        .ok_or("no definition")?;
    if let Some(field) = bounds::unknown_fields(&definition, &value["spec"]).first() {
        return Err(format!("{field}: there is no such field").into());
    }
    Ok(serde_path_to_error::deserialize(value)?)
}

/// Every object of a cluster as it would be made first.
pub fn objects(cluster: &KafkaCluster) -> Result<Vec<Value>, MainError> {
    let mut cluster = cluster.clone();
    cluster
        .metadata
        .namespace
        .get_or_insert_with(|| "default".into());
    cluster
        .metadata
        .uid
        .get_or_insert_with(|| "00000000-0000-0000-0000-000000000000".into());
    let observed = Observed {
        now: Timestamp::UNIX_EPOCH,
        image: Some(format!("freehold/kafka:{}", cluster.spec.version)),
        operator_namespace: "freehold-system".into(),
        image_pull_secrets: Vec::new(),
        cluster_domain: Default::default(),
        identity: None,
        objects: Default::default(),
        secrets: BTreeMap::new(),
        retained: BTreeMap::new(),
        given_ca: None,
        client_authorities: BTreeMap::new(),
        emptied: std::collections::BTreeSet::new(),
        probes: Default::default(),
        volumes: Vec::new(),
        foreign_claims: BTreeMap::new(),
        neighbours: Vec::new(),
        disks: BTreeMap::new(),
        folders: BTreeMap::new(),
        loads: BTreeMap::new(),
        threads: BTreeMap::new(),
        attempts: Default::default(),
        lost_since: BTreeMap::new(),
        certified: BTreeMap::new(),
        pods: Vec::new(),
        not_created: BTreeMap::new(),
        kafka: KafkaFacts::NotAsked,
    };
    let mut offline = cluster.clone();
    offline.spec.certificates = Default::default();
    let valid = validate::validate(&offline, &observed).map_err(|invalids| {
        invalids
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("\n")
    })?;
    let identity = Identity::new("CLUSTER-ID".into(), &valid.blocks, BTreeMap::new(), false);
    let trust = Trust {
        cluster_ca: "CLUSTER-CA\n".into(),
        clients_ca: "CLIENTS-CA\n".into(),
        bundle: "CLUSTER-CA\n".into(),
    };
    Ok(resources::desired(&valid, &identity, &trust)
        .into_iter()
        .map(|object| object.value)
        .collect())
}
