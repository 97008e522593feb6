//! Tests of a Pipeline, without Kafka and Kubernetes: records go into its sources, and what comes
//! out of its blocks is compared. They run through the same code as in the runner.

use crate::clock;
use crate::coverage::{Lines, Marked};
use crate::dead_letter;
use crate::event::{Event, Header, Input};
use crate::flow::{Flow, Identity};
use crate::output::{Output, Outputs, Stop};
use freehold_pipeline::block::Work;
use freehold_pipeline::definition::Definition;
use freehold_pipeline::finding::lines;
use freehold_pipeline::graph::{Graph, case_names};
use freehold_pipeline::nearest::instead;
use freehold_pipeline::source::Format;
use freehold_pipeline::topics::TopicNames;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Test cases of one Pipeline.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TestSpec {
    /// Name of the Pipeline.
    pub pipeline: String,
    pub cases: Vec<TestCase>,
}

/// Records that go in, and what must come out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TestCase {
    pub name: String,
    /// What `now()` returns, and the timestamp of inputs that have none: RFC 3339; default:
    /// 2026-01-01T00:00:00Z.
    #[serde(default)]
    pub now: Option<String>,
    /// In this order.
    pub inputs: Vec<TestInput>,
    /// For each block, or `block.case` of a split: all its records, in order. A block that is not
    /// named is not compared.
    #[serde(default)]
    pub expect: BTreeMap<String, Vec<TestRecord>>,
    /// All dead letters, in order; default: none.
    #[serde(default)]
    pub dead_letters: Vec<TestFailure>,
    /// The failure that the stage stops at; default: it does not.
    #[serde(default)]
    pub stops: Option<TestFailure>,
}

/// A record that goes in. Its partition is 0, and its offset its position in the list.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TestInput {
    /// The source block.
    pub source: String,
    #[serde(flatten)]
    pub record: TestRecord,
}

/// A record. In `expect`, a field that is left out is not compared.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TestRecord {
    #[serde(default)]
    pub key: Option<String>,
    /// The value, as JSON. `null` is a record without a value.
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Value")]
    pub value: Option<Value>,
    /// The value as a text, for one that is not JSON.
    #[serde(default)]
    pub text: Option<String>,
    #[serde(default)]
    pub headers: Option<BTreeMap<String, String>>,
    /// RFC 3339.
    #[serde(default)]
    pub timestamp: Option<String>,
}

/// A failure.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TestFailure {
    pub block: String,
    /// Exactly what is said.
    pub error: String,
}

/// What became of a case: empty if it passed, else a line for each difference.
pub type Differences = Vec<String>;

/// What the cases of a test reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Blocks, and cases of splits, that no record reached.
    pub unreached: Vec<String>,
    /// Blocks, and cases of splits.
    pub places: usize,
    /// The lines of programs. Empty: there are none.
    pub lines: Lines,
}

/// What became of each case, and what all of them reached.
pub type Results = (Vec<(String, Differences)>, Coverage);

const DEFAULT_NOW: &str = "2026-01-01T00:00:00Z";

/// A value that is there, `null` too: in `expect` it is compared.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

/// Runs test cases of a Pipeline in a namespace. Call it on a thread with a large stack ([`crate::isolation`]).
///
/// # Errors
/// The Pipeline itself is refused; see [`crate::validate`].
pub fn run(
    spec: &TestSpec,
    namespace: &str,
    definition: &Definition,
    names: &TopicNames,
) -> Result<Results, String> {
    let graph = Graph::of(definition).map_err(|findings| lines(&findings))?;
    let outlets = Outlets::of(&graph, names);
    let (mut results, mut reached) = (Vec::new(), BTreeSet::new());
    for case in &spec.cases {
        let identity = Identity {
            pipeline: format!("{namespace}/{}", spec.pipeline),
            revision: 1,
        };
        let mut flow =
            Flow::compile(definition, names, identity).map_err(|findings| lines(&findings))?;
        let differences = outlets.run(case, &mut flow);
        results.push((case.name.clone(), differences));
        for (name, figures) in flow.figures() {
            if figures.records_in > 0 {
                reached.insert(name.to_owned());
            }
            let node = graph.node(name).map(|node| node.work);
            if let Some(Work::Split(split)) = node {
                for (case, count) in case_names(split).zip(&figures.cases) {
                    if *count > 0 {
                        reached.insert(format!("{name}.{case}"));
                    }
                }
            }
        }
    }
    let all = outlets
        .places
        .iter()
        .filter(|(name, _)| !reached.contains(*name));
    let mut unreached: Vec<String> = all.map(|(name, _)| name.clone()).collect();
    unreached.sort();
    let coverage = Coverage {
        unreached,
        places: outlets.places.len(),
        lines: lines_run(spec, definition, names, &outlets),
    };
    Ok((results, coverage))
}

/// The lines of programs that the cases run.
fn lines_run(
    spec: &TestSpec,
    definition: &Definition,
    names: &TopicNames,
    outlets: &Outlets,
) -> Lines {
    let marked = Marked::of(definition);
    marked.count(|| {
        for case in &spec.cases {
            // Marks change no type: what compiled without them compiles with them.
            if let Ok(mut flow) = Flow::compile(&marked.definition, names, Identity::default()) {
                outlets.run(case, &mut flow);
            }
        }
    })
}

/// Where the records of each block can be seen.
struct Outlets {
    /// Block, or `block.case`, to its position in the graph and the case.
    places: BTreeMap<String, (usize, Option<usize>)>,
    sources: BTreeMap<String, String>,
    formats: Vec<Format>,
}

impl Outlets {
    fn of(graph: &Graph<'_>, names: &TopicNames) -> Self {
        let (mut places, mut sources) = (BTreeMap::new(), BTreeMap::new());
        for (place, node) in graph.nodes.iter().enumerate() {
            let name = &node.block.name;
            if let Work::Split(split) = node.work {
                for (index, case) in case_names(split).enumerate() {
                    places.insert(format!("{name}.{case}"), (place, Some(index)));
                }
                continue;
            }
            places.insert(name.clone(), (place, None));
            let topic = node.reads(names);
            sources.extend(topic.map(|topic| (name.clone(), topic.to_owned())));
        }
        let formats = graph.nodes.iter().map(|node| node.output).collect();
        Self {
            places,
            sources,
            formats,
        }
    }

    fn run(&self, case: &TestCase, flow: &mut Flow) -> Differences {
        let mut seen = Seen::default();
        let mut differences = Differences::new();
        let now = millis(case.now.as_deref().unwrap_or(DEFAULT_NOW));
        let now = match now {
            Ok(now) => now,
            Err(why) => return vec![format!("now: {why}")],
        };
        clock::set(now);
        let mut stopped = None;
        for (index, input) in case.inputs.iter().enumerate() {
            match self.put(index, input, now, flow, &mut seen) {
                Ok(Ok(())) => flow.committed(),
                Ok(Err(stop)) => {
                    stopped = Some(stop);
                    break;
                }
                Err(why) => return vec![format!("inputs[{index}]: {why}")],
            }
        }
        for (block, expected) in &case.expect {
            match self.places.get(block) {
                None => differences.push(format!(
                    "expect: there is no block {block}; {}",
                    instead(block, self.places.keys().map(String::as_str))
                )),
                Some(place) => {
                    let records = seen.records.remove(place).unwrap_or_default();
                    compare(block, expected, &records, &mut differences);
                }
            }
        }
        let failed: Vec<TestFailure> = seen.dead_letters;
        if failed != case.dead_letters {
            differences.push(format!(
                "deadLetters: expected {}, got {}",
                shown(&case.dead_letters),
                shown(&failed)
            ));
        }
        let stopped = stopped.map(|Stop { block, message, .. }| TestFailure {
            block,
            error: message,
        });
        if stopped != case.stops {
            differences.push(format!(
                "stops: expected {}, got {}",
                shown(&case.stops),
                shown(&stopped)
            ));
        }
        differences
    }

    fn put(
        &self,
        index: usize,
        input: &TestInput,
        now: i64,
        flow: &mut Flow,
        seen: &mut Seen,
    ) -> Result<Result<(), Stop>, String> {
        let topic = self.sources.get(&input.source).ok_or_else(|| {
            let known = self.sources.keys().map(String::as_str);
            let source = &input.source;
            format!("there is no source {source}; {}", instead(source, known))
        })?;
        let record = &input.record;
        let value = match (&record.value, &record.text) {
            (Some(_), Some(_)) => return Err("give value or text, not both".to_owned()),
            (None | Some(Value::Null), None) => None,
            (Some(value), None) => Some(value.to_string()),
            (None, Some(text)) => Some(text.clone()),
        };
        let timestamp = record.timestamp.as_deref().map_or(Ok(now), millis)?;
        let headers: Vec<Header<'_>> = record
            .headers
            .iter()
            .flatten()
            .map(|(name, value)| Header {
                name,
                value: Some(value.as_bytes()),
            })
            .collect();
        let offset = i64::try_from(index).unwrap_or(i64::MAX);
        let input = Input {
            topic,
            partition: 0,
            offset,
            timestamp: Some(timestamp),
            key: record.key.as_deref().map(str::as_bytes),
            value: value.as_deref().map(str::as_bytes),
            headers: &headers,
        };
        let mut all = Collect {
            seen,
            formats: &self.formats,
        };
        Ok(flow.process(input, &mut all))
    }
}

/// What came out.
#[derive(Default)]
struct Seen {
    records: BTreeMap<(usize, Option<usize>), Vec<TestRecord>>,
    dead_letters: Vec<TestFailure>,
}

struct Collect<'a> {
    seen: &'a mut Seen,
    formats: &'a [Format],
}

impl Outputs for Collect<'_> {
    fn write(&mut self, output: Output<'_>) {
        let headers = shown_headers(output.headers.iter().map(|one| (one.name, one.value)));
        if let (Some(block), Some(error)) = (
            headers.get(dead_letter::BLOCK),
            headers.get(dead_letter::ERROR),
        ) {
            self.seen.dead_letters.push(TestFailure {
                block: block.clone(),
                error: error.clone(),
            });
            return;
        }
        let value = output.value.map(text);
        let is_json = self.formats[output.node] == Format::Json;
        let json = value
            .as_deref()
            .and_then(|value| serde_json::from_str(value).ok());
        let record = TestRecord {
            key: output.key.map(text),
            value: match (&value, is_json) {
                (None, _) => Some(Value::Null),
                (Some(_), true) => json,
                (Some(_), false) => None,
            },
            text: value,
            headers: Some(headers),
            timestamp: output.timestamp.and_then(rfc3339),
        };
        self.seen
            .records
            .entry((output.node, None))
            .or_default()
            .push(record);
    }

    fn passed(&mut self, node: usize, case: Option<usize>, event: &Event<'_>) {
        let value = serde_json::to_value(event.value()).unwrap_or_default();
        // What Kafka has no place for is an error of the sink.
        let changed = event.changed().ok().flatten();
        let (key, timestamp) = match &changed {
            Some(changed) => (changed.key.as_deref(), changed.timestamp),
            None => (event.input.key, event.input.timestamp),
        };
        let headers = match changed
            .as_ref()
            .and_then(|changed| changed.headers.as_ref())
        {
            Some(headers) => shown_headers(
                headers
                    .iter()
                    .map(|(name, value)| (name.as_str(), value.as_deref())),
            ),
            None => shown_headers(event.input.headers.iter().map(|one| (one.name, one.value))),
        };
        let record = TestRecord {
            key: key.map(text),
            text: value.as_str().map(str::to_owned),
            value: Some(value),
            headers: Some(headers),
            timestamp: timestamp.and_then(rfc3339),
        };
        self.seen
            .records
            .entry((node, case))
            .or_default()
            .push(record);
    }
}

fn compare(
    block: &str,
    expected: &[TestRecord],
    records: &[TestRecord],
    differences: &mut Differences,
) {
    if expected.len() != records.len() {
        differences.push(format!(
            "{block}: expected {} records, got {}: {}",
            expected.len(),
            records.len(),
            shown(
                &records
                    .iter()
                    .map(|record| &record.value)
                    .collect::<Vec<_>>()
            )
        ));
        return;
    }
    for (index, (expected, record)) in expected.iter().zip(records).enumerate() {
        let is_text = expected.value.is_some() && record.value.is_none();
        if is_text {
            let text = shown(&record.text);
            differences.push(format!(
                "{block}[{index}].value: the value is a text; give text in the place of value: \
                 {text}"
            ));
        }
        let mut field = |name: &str, expected: Option<String>, got: Option<String>| {
            if expected.is_some() && expected != got {
                let word = |text: Option<String>| text.unwrap_or_else(|| "nothing".to_owned());
                differences.push(format!(
                    "{block}[{index}].{name}: expected {}, got {}",
                    word(expected),
                    word(got)
                ));
            }
        };
        field("key", expected.key.clone(), record.key.clone());
        if !is_text {
            let json = |value: &Option<Value>| value.as_ref().map(Value::to_string);
            field("value", json(&expected.value), json(&record.value));
        }
        field("text", expected.text.clone(), record.text.clone());
        let headers = expected.headers.as_ref().map(shown);
        field("headers", headers, record.headers.as_ref().map(shown));
        let time = |text: &Option<String>| text.as_deref().map(|text| millis(text).map(rfc3339));
        let time = |text: &Option<String>| time(text).and_then(Result::ok).flatten();
        field(
            "timestamp",
            time(&expected.timestamp),
            time(&record.timestamp),
        );
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Headers as a test names them.
fn shown_headers<'a>(
    headers: impl Iterator<Item = (&'a str, Option<&'a [u8]>)>,
) -> BTreeMap<String, String> {
    headers
        .map(|(name, value)| (name.to_owned(), text(value.unwrap_or_default())))
        .collect()
}

fn shown(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

fn millis(text: &str) -> Result<i64, String> {
    chrono::DateTime::parse_from_rfc3339(text)
        .map(|time| time.timestamp_millis())
        .map_err(|_| format!("{text:?} is not a time such as {DEFAULT_NOW}"))
}

fn rfc3339(millis: i64) -> Option<String> {
    let time = chrono::DateTime::from_timestamp_millis(millis)?;
    Some(time.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true))
}
