//! A block: what happens to a record at one place of the graph.

use crate::definition::ErrorPolicy;
use crate::duration::Duration;
use crate::sink::Sink;
use crate::source::{Format, Source};
use crate::topics::TopicTarget;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Longest name of a block: a StatefulSet and its pods are named after it, behind the Pipeline's.
pub const NAME_CHARS_MAX: u32 = 30;
const NAME_PATTERN: &str = "^[a-z]([a-z0-9-]*[a-z0-9])?$";

/// A block of a Pipeline: a name, where its records come from, and one of source, transform,
/// filter, split, alert and sink.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Block {
    /// Its name, unique in the Pipeline.
    #[schemars(regex(pattern = NAME_PATTERN), length(min = 1, max = NAME_CHARS_MAX))]
    pub name: String,
    /// The blocks whose records it gets; of a split `block.case`. Several are merged. A source has
    /// none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50), inner(length(min = 1, max = 61)))]
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    pub from: Vec<String>,
    /// Reads records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// Changes records by a program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transform: Option<Transform>,
    /// Passes on the records that a condition holds for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<Filter>,
    /// Sends each record to the first case whose condition holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<Split>,
    /// Raises an alert when a condition holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alert: Option<Alert>,
    /// Writes records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sink: Option<Sink>,
    /// Not served yet: refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "reserved")]
    pub window: Option<Value>,
    /// Not served yet: refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "reserved")]
    pub deduplicate: Option<Value>,
    /// Not served yet: refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "reserved")]
    pub join: Option<Value>,
    /// What happens to records that this block fails on; default: the Pipeline's `errors`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errors: Option<BlockErrors>,
    /// Runs it, and what follows it, in a stage of its own, behind an internal topic: for a block
    /// that needs much more time than the others.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub isolate: bool,
}

/// The place of a block type that is not served yet. The API server takes any fields of it and
/// refuses it as a whole: an unknown field would be refused in words that do not say why.
fn reserved(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "nullable": true,
        "x-kubernetes-preserve-unknown-fields": true,
        "x-kubernetes-validations": [{
            "rule": "false",
            "message": "blocks of this type are not served by this version; remove the block"
        }]
    })
}

/// What happens to records that one block fails on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BlockErrors {
    pub policy: ErrorPolicy,
}

/// Changes records by a program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Transform {
    /// A program in VRL. `.` is the record's value; `%key`, `%headers` and `%timestamp` are the
    /// record's own and may be changed; `%topic`, `%partition` and `%offset` may be read. `abort`
    /// drops the record.
    #[schemars(length(min = 1, max = 65536))]
    pub vrl: String,
    /// Names of `functions` whose texts stand before the program.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    pub include: Vec<String>,
    /// What `.` is after the program; default: what it was before. Json where a program parses a
    /// text, Text where it makes one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Format>,
}

/// A condition: a program in VRL whose last expression is true or false.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// The program, such as `.total > 1000`. It cannot change the record.
    #[schemars(length(min = 1, max = 65536))]
    pub when: String,
    /// What an error of it means, and a result that is neither true nor false. Needed where the
    /// compiler cannot exclude both: `.total > 1000` fails on a text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_error: Option<OnError>,
}

/// What an error of a condition means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum OnError {
    /// The condition holds.
    Match,
    /// It does not hold.
    NoMatch,
    /// The block fails on the record: `errors` says what becomes of it.
    Fail,
}

/// Passes on the records that a condition holds for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Filter {
    #[serde(flatten)]
    pub condition: Condition,
}

/// Sends each record to the first case whose condition holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Split {
    /// The cases, tried in this order. Blocks get their records by `from: [<block>.<case>]`.
    #[schemars(length(min = 1, max = 20))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub cases: Vec<Case>,
    /// Name of the case of all other records. Left out, they are dropped and counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = NAME_PATTERN), length(min = 1, max = NAME_CHARS_MAX))]
    pub default: Option<String>,
}

/// A case of a split.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Case {
    /// Its name, unique in the split.
    #[schemars(regex(pattern = NAME_PATTERN), length(min = 1, max = NAME_CHARS_MAX))]
    pub name: String,
    #[serde(flatten)]
    pub condition: Condition,
}

/// Raises an alert when a condition holds: a JSON record, written to a topic, or passed on to blocks
/// whose `from` names this one, or both; or an Event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Alert {
    #[serde(flatten)]
    pub condition: Condition,
    /// How long it must hold for every record of a group, by the records' timestamps; default: one
    /// record is enough. A restart of the stage begins anew.
    #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
    pub holds_for: Option<Duration>,
    /// A program in VRL that names a record's group, such as `.device`; default: the record's key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 65536))]
    pub group_by: Option<String>,
    /// Least time between two alerts of a group, by the records' timestamps.
    #[serde(default = "Alert::default_interval")]
    pub interval: Duration,
    /// The topic that alerts are written to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<TopicTarget>,
    /// Tells of alerts in Kubernetes too: in the status of the block and by Events of the Pipeline,
    /// at most one a minute. They have the address of the record, never its content.
    #[serde(default, skip_serializing_if = "is_false")]
    pub event: bool,
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_false(value: &bool) -> bool {
    !value
}

impl Alert {
    fn default_interval() -> Duration {
        Duration::of_millis(60_000)
    }
}

/// What a block does: the one of its fields that is given.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Work<'a> {
    Source(&'a Source),
    Transform(&'a Transform),
    Filter(&'a Filter),
    Split(&'a Split),
    Alert(&'a Alert),
    Sink(&'a Sink),
}

impl<'a> Work<'a> {
    /// The topic that it reads, if it reads one.
    pub fn reads(&self) -> Option<&'a TopicTarget> {
        match *self {
            Self::Source(source) => source.kafka.as_ref().map(|kafka| &kafka.target),
            _ => None,
        }
    }

    /// The topic that it writes, if it writes one.
    pub fn writes(&self) -> Option<&'a TopicTarget> {
        match *self {
            Self::Sink(sink) => sink.kafka.as_ref().map(|kafka| &kafka.target),
            Self::Alert(alert) => alert.to.as_ref(),
            _ => None,
        }
    }

    /// The name of the field.
    pub fn field(&self) -> &'static str {
        match self {
            Self::Source(_) => "source",
            Self::Transform(_) => "transform",
            Self::Filter(_) => "filter",
            Self::Split(_) => "split",
            Self::Alert(_) => "alert",
            Self::Sink(_) => "sink",
        }
    }

    /// The name of the field with its article.
    pub fn named(&self) -> String {
        let article = match self {
            Self::Alert(_) => "an",
            _ => "a",
        };
        format!("{article} {}", self.field())
    }

    /// Whether other blocks can get records from it.
    pub fn has_output(&self) -> bool {
        !matches!(self, Self::Sink(_))
    }
}

impl Block {
    /// What it does.
    ///
    /// # Errors
    /// The field that is wrong, relative to the block (empty: the block itself), and why.
    pub fn work(&self) -> Result<Work<'_>, (&'static str, String)> {
        let reserved = [
            ("window", &self.window),
            ("deduplicate", &self.deduplicate),
            ("join", &self.join),
        ];
        if let Some((name, _)) = reserved.iter().find(|(_, value)| value.is_some()) {
            return Err((
                name,
                format!("blocks of type {name} are not served by this version; remove the block"),
            ));
        }
        let given: Vec<Work<'_>> = [
            self.source.as_ref().map(Work::Source),
            self.transform.as_ref().map(Work::Transform),
            self.filter.as_ref().map(Work::Filter),
            self.split.as_ref().map(Work::Split),
            self.alert.as_ref().map(Work::Alert),
            self.sink.as_ref().map(Work::Sink),
        ]
        .into_iter()
        .flatten()
        .collect();
        match given[..] {
            [work] => Ok(work),
            [] => Err((
                "",
                "give one of source, transform, filter, split, alert and sink".to_owned(),
            )),
            [first, second, ..] => Err((
                second.field(),
                format!(
                    "the block has {} already; make {} another block",
                    first.field(),
                    second.field()
                ),
            )),
        }
    }

    /// The name of its type; `?` if it has none or several.
    pub fn type_name(&self) -> &'static str {
        self.work().map_or("?", |work| work.field())
    }
}
