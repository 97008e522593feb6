//! What the objects of a Pipeline are made from, and the metadata that they have in common. Pure.

use crate::api::pipeline::{Pipeline, ReadTopic};
use crate::api::reference::ClusterKey;
use crate::kinds::context::Settings;
use crate::kubernetes::{self, labels, names};
use freehold_pipeline::replay::Replay;
use freehold_pipeline::stages::Stage;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use kube::ResourceExt;
use serde_json::Value;
use std::collections::BTreeMap;

/// Where a runner serves /healthz, /readyz, /status and /metrics.
pub const HTTP_PORT: u16 = 8080;
/// What the objects are made from.
pub struct Wanted<'a> {
    pub object: &'a Pipeline,
    pub settings: &'a Settings,
    pub image: &'a str,
    pub cluster: &'a ClusterKey,
    /// Ports of the cluster's listeners.
    pub ports: &'a [u16],
    pub stages: &'a [Stage],
    /// What is known of the topics that they read.
    pub topics: &'a [ReadTopic],
    pub revision: i64,
    /// How the runners connect.
    pub client: &'a Value,
    /// The User's Secret, and the hash of its content.
    pub secret: &'a str,
    pub credential: &'a str,
    /// The replay of dead letters that runs.
    pub replay: Option<&'a Replaying>,
}

/// A replay of dead letters, with the stage whose blocks it runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Replaying {
    pub stage: Stage,
    pub replay: Replay,
}

impl Replaying {
    /// The stage by the name that the objects of the replay have: the same blocks, other pods.
    pub fn named(&self) -> Stage {
        Stage {
            name: names::replay(&self.stage.name),
            definition: self.stage.definition.clone(),
        }
    }
}

/// The metadata of an object of this name.
pub fn metadata(wanted: &Wanted<'_>, name: String) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: wanted.object.namespace(),
        labels: Some(labels::pipeline(&wanted.object.name_any())),
        owner_references: Some(vec![kubernetes::owner(wanted.object)]),
        ..Default::default()
    }
}

/// The metadata of an object of a stage.
pub fn of_stage(wanted: &Wanted<'_>, stage: &Stage) -> ObjectMeta {
    let name = names::stage(&wanted.object.name_any(), &stage.name);
    let mut metadata = metadata(wanted, name);
    metadata.labels = Some(selector(wanted, stage));
    metadata
}

/// The labels by which the pods of a stage, or of the replay, are selected.
pub fn selector(wanted: &Wanted<'_>, stage: &Stage) -> BTreeMap<String, String> {
    let mut labels = labels::pipeline(&wanted.object.name_any());
    labels.insert(labels::STAGE.to_owned(), stage.name.clone());
    if wanted.stages.iter().all(|known| known.name != stage.name) {
        labels.insert(labels::REPLAY.to_owned(), "true".to_owned());
    }
    labels
}

/// Selects what has these labels.
pub fn selects(labels: BTreeMap<String, String>) -> LabelSelector {
    LabelSelector {
        match_labels: Some(labels),
        match_expressions: None,
    }
}
