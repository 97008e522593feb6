//! Compiles the programs of all blocks of a graph.

use crate::alert::{Alert, Receivers};
use crate::compile::{ProgramError, Rules, Source, check_nesting, compile};
use crate::condition::Condition;
use crate::program::Compiled;
use freehold_pipeline::block::{self, Work};
use freehold_pipeline::definition::Definition;
use freehold_pipeline::finding::Finding;
use freehold_pipeline::graph::{Graph, Node};
use freehold_pipeline::sink::Partitioning;
use freehold_pipeline::source::Format;
use freehold_pipeline::topics::TopicNames;
use vrl::value::Kind;

/// A block that can run.
#[derive(Debug)]
pub(crate) enum Runnable {
    Source,
    Transform(Compiled),
    Filter(Condition),
    Split {
        cases: Vec<Condition>,
        has_default: bool,
    },
    Alert(Box<Alert>),
    Sink {
        topic: String,
        partitioning: Partitioning,
    },
}

impl Runnable {
    /// The topic that it writes, if it writes one.
    pub(crate) fn writes(&self) -> Option<&String> {
        match self {
            Self::Sink { topic, .. } => Some(topic),
            Self::Alert(alert) => alert.receivers.topic.as_ref(),
            _ => None,
        }
    }

    /// What is allowed and probably not meant: the field below the block, and why.
    fn unwise(&self) -> Vec<(String, String)> {
        let of = |field: &str, words: Vec<String>| -> Vec<(String, String)> {
            let words = words.into_iter();
            words.map(|why| (field.to_owned(), why)).collect()
        };
        match self {
            Self::Transform(program) => {
                let mut unwise = program.in_vain();
                if unwise.is_empty() && program.changes_nothing() {
                    let why = "the program changes nothing of a record; assign with =, or make it \
                               a filter";
                    unwise.push(why.to_owned());
                }
                of("transform.vrl", unwise)
            }
            Self::Filter(condition) => of("filter.when", condition.in_vain()),
            Self::Split { cases, .. } => {
                let cases = cases.iter().enumerate();
                cases
                    .flat_map(|(index, case)| {
                        of(&format!("split.cases[{index}].when"), case.in_vain())
                    })
                    .collect()
            }
            Self::Alert(alert) => {
                let mut unwise = of("alert.when", alert.condition.in_vain());
                let group = alert.group_by.as_ref().map(Compiled::in_vain);
                unwise.extend(of("alert.groupBy", group.unwrap_or_default()));
                unwise
            }
            Self::Source | Self::Sink { .. } => Vec::new(),
        }
    }
}

/// A warning for each thing that programs do in vain. The blocks are in the order of the graph.
pub(crate) fn unwise(graph: &Graph<'_>, blocks: &[Runnable]) -> Vec<Finding> {
    let all = graph.nodes.iter().zip(blocks);
    all.flat_map(|(node, block)| {
        block.unwise().into_iter().map(|(field, why)| {
            let field = format!("{}.{field}", node.field);
            Finding::warning(field, why).of_block(&node.block.name)
        })
    })
    .collect()
}

/// Compiles every block, in the order of the graph. `before` is called before each.
///
/// # Errors
/// Every program that is wrong, with its block and line.
pub(crate) fn compile_all(
    graph: &Graph<'_>,
    definition: &Definition,
    names: &TopicNames,
    mut before: impl FnMut(&Node<'_>),
) -> Result<Vec<Runnable>, Vec<Finding>> {
    let (mut blocks, mut findings) = (Vec::new(), Vec::new());
    for node in &graph.nodes {
        before(node);
        match one(node, graph, definition, names) {
            Ok(block) => blocks.push(block),
            Err(wrong) => findings.extend(wrong),
        }
    }
    match findings.is_empty() {
        true => Ok(blocks),
        false => Err(findings),
    }
}

fn one(
    node: &Node<'_>,
    graph: &Graph<'_>,
    definition: &Definition,
    names: &TopicNames,
) -> Result<Runnable, Vec<Finding>> {
    let before = node
        .inputs
        .first()
        .map(|edge| graph.nodes[edge.from].output);
    let place = Place {
        node,
        names,
        event: kind(before.unwrap_or(node.output)),
    };
    match node.work {
        Work::Source(_) => Ok(Runnable::Source),
        Work::Transform(transform) => place.transform(transform, definition),
        Work::Filter(filter) => {
            let condition = place.condition("filter.when", &filter.condition)?;
            Ok(Runnable::Filter(condition))
        }
        Work::Split(split) => place.split(split),
        Work::Alert(alert) => place.alert(alert),
        Work::Sink(sink) => {
            let kafka = sink.kafka.as_ref();
            let topic = node.writes(names);
            Ok(Runnable::Sink {
                topic: topic.ok_or_else(|| place.no_topic("sink"))?.to_owned(),
                partitioning: kafka.map(|kafka| kafka.partition).unwrap_or_default(),
            })
        }
    }
}

/// A block, and what comes to it.
struct Place<'a> {
    node: &'a Node<'a>,
    names: &'a TopicNames,
    /// What `.` can be.
    event: Kind,
}

impl Place<'_> {
    fn about(&self, field: &str, message: String) -> Finding {
        Finding::error(format!("{}.{field}", self.node.field), message)
            .of_block(&self.node.block.name)
    }

    fn wrong(&self, field: &str, errors: Vec<ProgramError>) -> Vec<Finding> {
        errors
            .into_iter()
            .map(|error| self.about(field, error.to_string()))
            .collect()
    }

    fn no_topic(&self, field: &str) -> Vec<Finding> {
        vec![self.about(field, "names no topic".to_owned())]
    }

    fn condition(
        &self,
        field: &str,
        condition: &block::Condition,
    ) -> Result<Condition, Vec<Finding>> {
        Condition::compile(&condition.when, condition.on_error, &self.event)
            .map_err(|errors| self.wrong(field, errors))
    }

    fn transform(
        &self,
        transform: &block::Transform,
        definition: &Definition,
    ) -> Result<Runnable, Vec<Finding>> {
        let included = transform
            .include
            .iter()
            .filter_map(|name| definition.functions.get_key_value(name))
            .map(|(name, text)| (name.clone(), text.clone()));
        let source = Source {
            included: included.collect(),
            program: transform.vrl.clone(),
        };
        let compiled = transformed(&source, &self.event, self.node.output)
            .map_err(|errors| self.wrong("transform.vrl", errors))?;
        Ok(Runnable::Transform(compiled))
    }

    fn split(&self, split: &block::Split) -> Result<Runnable, Vec<Finding>> {
        let (mut cases, mut findings) = (Vec::new(), Vec::new());
        for (index, case) in split.cases.iter().enumerate() {
            let field = format!("split.cases[{index}].when");
            match self.condition(&field, &case.condition) {
                Ok(case) => cases.push(case),
                Err(more) => findings.extend(more),
            }
        }
        let has_default = split.default.is_some();
        match findings.is_empty() {
            true => Ok(Runnable::Split { cases, has_default }),
            false => Err(findings),
        }
    }

    fn alert(&self, alert: &block::Alert) -> Result<Runnable, Vec<Finding>> {
        let group_by = alert
            .group_by
            .as_ref()
            .map(|program| group(program, &self.event))
            .transpose()
            .map_err(|errors| self.wrong("alert.groupBy", errors))?;
        let millis = |millis: u64| i64::try_from(millis).unwrap_or(i64::MAX);
        Ok(Runnable::Alert(Box::new(Alert::new(
            self.condition("alert.when", &alert.condition)?,
            group_by,
            Receivers {
                topic: self.node.writes(self.names).map(str::to_owned),
                event: alert.event,
            },
            alert.holds_for.map_or(0, |span| millis(span.as_millis())),
            millis(alert.interval.as_millis()),
        ))))
    }
}

/// What `.` can be.
fn kind(format: Format) -> Kind {
    match format {
        Format::Json => Kind::json(),
        Format::Text | Format::Bytes => Kind::bytes().or_null(),
    }
}

fn whole(message: String) -> Vec<ProgramError> {
    vec![ProgramError::of_program(message)]
}

fn transformed(
    source: &Source,
    event: &Kind,
    output: Format,
) -> Result<Compiled, Vec<ProgramError>> {
    check_nesting(source)?;
    let rules = Rules {
        event: event.clone(),
        may_change: true,
    };
    let checked = compile(source, &rules)?;
    let is_text = checked.event.contains_bytes() || checked.event.contains_null();
    if output != Format::Json && !is_text {
        return Err(whole(format!(
            "after the program `.` is {}, and the records are {output:?}; set output: Json",
            checked.event
        )));
    }
    Ok(checked.compiled)
}

/// A program that names a group.
fn group(program: &str, event: &Kind) -> Result<Compiled, Vec<ProgramError>> {
    let source = Source::of(program);
    check_nesting(&source)?;
    let rules = Rules {
        event: event.clone(),
        may_change: false,
    };
    Ok(compile(&source, &rules)?.compiled)
}
