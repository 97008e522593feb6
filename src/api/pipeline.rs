//! The Pipeline resource. Its blocks are in `freehold-pipeline`, which the runner shares.
#![allow(
    clippy::duplicated_attributes,
    reason = "printer columns have types and sources in common"
)]

use crate::api::conditions::Condition;
use crate::api::kafka_cluster::resources;
use crate::api::reference::ClusterRef;
use crate::api::replay::{PastReplay, ReplayStatus};
use freehold_pipeline::block::Block;
use freehold_pipeline::definition::{Definition, Delivery, Errors};
use freehold_pipeline::duration::Duration;
use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A stream of records through blocks: sources, programs, splits, alerts, sinks.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "freehold.dev",
    version = "v1alpha1",
    kind = "Pipeline",
    plural = "pipelines",
    shortname = "kp",
    category = "freehold",
    namespaced,
    status = "PipelineStatus",
    doc = "A stream of records through blocks: sources, programs, splits, alerts, sinks.",
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$') && size(self.metadata.name) <= 40").message("metadata.name: lower-case letters, digits and hyphens, at most 40, first a letter: pods are named after it"),
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Cluster", type_ = "string", json_path = ".spec.clusterRef.name"),
    printcolumn(name = "Revision", type_ = "integer", json_path = ".status.revision"),
    printcolumn(name = "Replicas", type_ = "integer", json_path = ".status.replicas"),
    printcolumn(name = "Lag", type_ = "integer", json_path = ".status.lag"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.reason"),
    printcolumn(name = "Failing", type_ = "string", json_path = ".status.failing"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.clusterRef == oldSelf.clusterRef").message("clusterRef: immutable; make another Pipeline"),
    validation = Rule::new("!has(self.scaling) || self.replicas == 1").message("replicas: the lag decides (scaling); remove replicas, or change scaling.min and scaling.max"),
    validation = Rule::new("!has(self.scaling) || self.scaling.min <= self.scaling.max").message("scaling.max: less than min"),
)]
pub struct PipelineSpec {
    /// The cluster.
    pub cluster_ref: ClusterRef,
    /// A User of this namespace whose credential and rights the Pipeline has. Default: one is made,
    /// with the rights that the graph needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_ref: Option<UserRef>,
    /// Running or Paused: no pods. Offsets stay as long as Kafka keeps those of a group without
    /// members (`offsets.retention.minutes`, a week by default).
    #[serde(default)]
    pub state: PipelineState,
    /// Replicas of each stage. A stage never has more than the partitions that it reads. Not together
    /// with `scaling`.
    #[serde(default = "PipelineSpec::one")]
    #[schemars(range(min = 0, max = 100))]
    pub replicas: i32,
    /// The replicas of each stage follow its lag, in the place of `replicas`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling: Option<Scaling>,
    /// Compute resources of a replica. Default: 100m of CPU and 64Mi of memory, at most 256Mi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "resources::schema")]
    pub resources: Option<ResourceRequirements>,
    /// How often a record that was read arrives.
    #[serde(default)]
    pub delivery: Delivery,
    /// Texts of VRL by name, which transforms include.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 20))]
    pub functions: BTreeMap<String, String>,
    /// What happens to records that a block fails on.
    #[serde(default)]
    pub errors: Errors,
    /// The graph. `from` of a block names the blocks whose records it gets.
    #[schemars(length(min = 1, max = 50))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub blocks: Vec<Block>,
    /// Earlier revisions that are kept, beside the present one.
    #[serde(default = "PipelineSpec::ten")]
    #[schemars(range(min = 1, max = 50))]
    pub revision_history_limit: u32,
}

/// How the replicas of each stage follow its lag.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Scaling {
    /// The fewest replicas of a stage.
    #[serde(default = "PipelineSpec::one")]
    #[schemars(range(min = 1, max = 100))]
    pub min: i32,
    /// The most. A stage never has more than the partitions that it reads. One whose source only the
    /// first replica reads has one; one by HTTPS or shared MQTT, which have no lag, has `min`.
    #[schemars(range(min = 1, max = 100))]
    pub max: i32,
    /// The time in which what waits is to be processed. For files of S3 `fileEvery` comes to it.
    #[serde(default = "Scaling::thirty_seconds")]
    pub target_lag: Duration,
}

impl Scaling {
    fn thirty_seconds() -> Duration {
        Duration::of_millis(30_000)
    }
}

/// A User of the Pipeline's namespace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct UserRef {
    /// `metadata.name` of the User.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
}

/// Whether a Pipeline runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PipelineState {
    #[default]
    Running,
    /// No pods. It goes on where it was.
    Paused,
}

impl PipelineSpec {
    fn one() -> i32 {
        1
    }

    fn ten() -> u32 {
        10
    }

    /// The part that the runner needs.
    pub fn definition(&self) -> Definition {
        Definition {
            delivery: self.delivery,
            functions: self.functions.clone(),
            errors: self.errors.clone(),
            blocks: self.blocks.clone(),
        }
    }
}

/// What is known of the Pipeline. Rates and lag are rounded down to 1, 2 or 5 times a power of ten.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PipelineStatus {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Why it is not Ready; empty when it is.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The block that fails, or at which all records end, and why; empty when none does.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub failing: String,
    /// What a person should know although nothing waits for it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Number of the revision that the pods run, or are being brought to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<i64>,
    /// The User whose credential it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Replicas of each stage; with `scaling`, of the stage that has the most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// Selects the pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// Records that are not processed yet; unknown while a replica does not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag: Option<i64>,
    /// The topics that it reads or has read, by their names in Kafka.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub topics: Vec<ReadTopic>,
    /// The parts of the graph that run in pods of their own.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub stages: Vec<StageStatus>,
    /// The blocks of the graph.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub blocks: Vec<BlockStatus>,
    /// The replay of dead letters that was asked for last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replay: Option<ReplayStatus>,
    /// The last twenty replays that wrote records, and the last one of each block, the newest
    /// first: none of them runs again.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub replays: Vec<PastReplay>,
}

/// A topic that is read. One that is deleted and made anew has another id.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ReadTopic {
    pub name: String,
    /// Its id in Kafka.
    pub topic_id: String,
    /// The ids of the topics of this name that were deleted, the last one first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub former: Vec<String>,
    /// When it was found to be made anew.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub made_anew_at: Option<Time>,
    /// Its partitions, as far as the members of all groups know of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partitions: Option<i32>,
    /// The stages that have read a topic of this name, each with the id of the last one.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub read_by: BTreeMap<String, String>,
}

/// A part of the graph that runs in pods of its own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct StageStatus {
    pub name: String,
    /// Its consumer group in Kafka.
    pub group: String,
    /// Replicas that read their partitions.
    pub ready: i32,
    /// Records that it has not processed yet; unknown while a replica does not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag: Option<i64>,
    /// Seconds between now and the time of the last record that it has processed, while others wait;
    /// of the replica that is behind most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag_seconds: Option<i64>,
    /// The block that takes the most CPU time, while the stage is behind and its replicas are busy:
    /// it holds the others up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slowest: Option<String>,
    /// The partitions that it reads; of several topics, of the one that has the most. It never has
    /// more replicas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partitions: Option<i32>,
    /// Replicas that it should have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wanted: Option<i32>,
    /// Replicas whose members Kafka may still have in the group: more than `wanted` until the pods
    /// that go are gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub members: Option<i32>,
    /// Why it should have as many, with `scaling`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scaling: Option<ScalingStatus>,
}

/// Why a stage should have as many replicas as it has.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ScalingStatus {
    pub reason: String,
    /// Seconds in which its replicas process what waits, rounded down like rates; unknown while a
    /// replica does not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forecast_seconds: Option<i64>,
    /// Records a minute that a replica processes while records wait for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity_per_minute: Option<i64>,
    /// Since when one replica less would do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quiet_since: Option<Time>,
    /// The changes of the last hour.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<Time>,
}

/// A block of the graph.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct BlockStatus {
    pub name: String,
    pub state: BlockState,
    /// Records that came to it, over the last 10 seconds.
    pub in_per_second: i64,
    /// Records that it passed on or wrote.
    pub out_per_second: i64,
    /// Records that it failed on.
    pub errors_per_second: i64,
    /// Records that end at it without a failure, by reason: `filtered`, `no-case` of a split,
    /// `not-read` by any block, `aborted` by its program, `skipped` by `errors.policy`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub dropped_per_second: BTreeMap<String, i64>,
    /// CPU seconds that its own work takes for a million records, without that of the blocks behind
    /// it; of a sample, and written when it changes by a third. Unknown while few records come.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_seconds_per_million: Option<f64>,
    /// Since when records come to it and end there, although no filter drops them and nothing else
    /// comes out of its stage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_output_since: Option<Time>,
    /// Its last failure. It stays after the block works again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<BlockError>,
    /// The alert that the last Event was written for, if its `event` is true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_alert: Option<BlockAlert>,
}

/// How a block does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BlockState {
    /// No replica has answered yet.
    #[default]
    Unknown,
    Running,
    /// It fails on records, or cannot reach its topic.
    Failing,
    /// It has stopped its stage: somebody must mend it, or the records.
    Stopped,
}

/// A failure of a block.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BlockError {
    /// Never the content of a record.
    pub message: String,
    /// The record: `topic/partition/offset`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    pub time: Time,
}

/// An alert of a block.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BlockAlert {
    /// The record that it was raised for: `topic/partition/offset`.
    pub record: String,
    pub time: Time,
}
