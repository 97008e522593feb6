//! The graph of a Pipeline: its blocks in the order of flow, with resolved edges.

use crate::block::{Block, Split, Work};
use crate::definition::{Definition, ErrorPolicy};
use crate::finding::Finding;
use crate::source::Format;
use crate::topics::TopicNames;
use std::collections::BTreeMap;

/// Where the records of a block come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Edge {
    /// Position of the block in [`Graph::nodes`].
    pub from: usize,
    /// Position of the case, if that block is a split; [`Split::cases`] in order, and `default`
    /// after them.
    pub case: Option<usize>,
}

/// A block with its place in the graph.
#[derive(Clone, Debug, PartialEq)]
pub struct Node<'a> {
    pub block: &'a Block,
    pub work: Work<'a>,
    /// Path of the block below `spec`, such as `blocks[2]`.
    pub field: String,
    pub inputs: Vec<Edge>,
    /// What its records are when they leave it.
    pub output: Format,
    /// What happens to records that it fails on.
    pub policy: ErrorPolicy,
}

impl<'a> Node<'a> {
    /// What a stage knows its records by: the topic that it reads. What comes from outside Kafka
    /// has the block's own name. `None`: it is no source, or names no topic.
    pub fn reads(&'a self, names: &'a TopicNames) -> Option<&'a str> {
        match self.work {
            Work::Source(source) if source.is_external() => Some(&self.block.name),
            _ => self.work.reads()?.resolve(names),
        }
    }

    /// What its records go to, in the same way.
    pub fn writes(&'a self, names: &'a TopicNames) -> Option<&'a str> {
        match self.work {
            Work::Sink(sink) if sink.is_external() => Some(&self.block.name),
            _ => self.work.writes()?.resolve(names),
        }
    }
}

/// The blocks of a Pipeline; each stands after all that it gets records from.
#[derive(Clone, Debug, PartialEq)]
pub struct Graph<'a> {
    pub nodes: Vec<Node<'a>>,
}

impl<'a> Graph<'a> {
    /// Resolves the edges.
    ///
    /// # Errors
    /// Everything that keeps the blocks from being a graph: names that are there twice, blocks
    /// without a type, edges from nowhere, cycles, edges with several formats. What else can be
    /// wrong with a Pipeline is in [`crate::checks`].
    pub fn of(definition: &'a Definition) -> Result<Self, Vec<Finding>> {
        let mut findings = Vec::new();
        let drafts = drafts(definition, &mut findings);
        let edges = edges(definition, &drafts, &mut findings);
        if !findings.is_empty() {
            return Err(findings);
        }
        let order = order(&drafts, &edges)?;
        let place: BTreeMap<usize, usize> = order
            .iter()
            .enumerate()
            .map(|(place, draft)| (*draft, place))
            .collect();
        let mut nodes: Vec<Node<'a>> = Vec::with_capacity(order.len());
        for draft in &order {
            let (block, work) = (drafts[*draft].block, drafts[*draft].work);
            let inputs: Vec<Edge> = edges[*draft]
                .iter()
                .map(|edge| Edge {
                    from: place[&edge.from],
                    case: edge.case,
                })
                .collect();
            let field = drafts[*draft].field.clone();
            let output = match format(&work, &inputs, &nodes) {
                Ok(format) => format,
                Err(message) => {
                    findings.push(
                        Finding::error(format!("{field}.from"), message).of_block(&block.name),
                    );
                    Format::Json
                }
            };
            nodes.push(Node {
                block,
                work,
                field,
                inputs,
                output,
                policy: definition.errors.policy(block),
            });
        }
        if findings.is_empty() {
            Ok(Self { nodes })
        } else {
            Err(findings)
        }
    }

    /// The block of this name.
    pub fn node(&self, name: &str) -> Option<&Node<'a>> {
        self.nodes.iter().find(|node| node.block.name == name)
    }

    /// The blocks that get the records of the one at `from`, with the edge.
    pub fn readers(&self, from: usize) -> impl Iterator<Item = (usize, Edge)> + '_ {
        self.nodes.iter().enumerate().flat_map(move |(to, node)| {
            let edges = node.inputs.iter().filter(move |edge| edge.from == from);
            edges.map(move |edge| (to, *edge))
        })
    }

    /// What an edge is called in `from`: the block, or `block.case`.
    pub fn edge_name(&self, edge: Edge) -> String {
        let node = &self.nodes[edge.from];
        match (edge.case, node.work) {
            (Some(case), Work::Split(split)) => {
                let case = case_names(split).nth(case).unwrap_or_default();
                format!("{}.{case}", node.block.name)
            }
            _ => node.block.name.clone(),
        }
    }
}

/// Names of the cases of a split, its default last.
pub fn case_names(split: &Split) -> impl Iterator<Item = &str> {
    let cases = split.cases.iter().map(|case| case.name.as_str());
    cases.chain(split.default.as_deref())
}

/// A block before its edges are resolved.
struct Draft<'a> {
    block: &'a Block,
    work: Work<'a>,
    field: String,
}

fn drafts<'a>(definition: &'a Definition, findings: &mut Vec<Finding>) -> Vec<Draft<'a>> {
    let mut seen: BTreeMap<&str, String> = BTreeMap::new();
    let mut drafts = Vec::new();
    for (index, block) in definition.blocks.iter().enumerate() {
        let field = format!("blocks[{index}]");
        if let Some(first) = seen.get(block.name.as_str()) {
            let message = format!("{first} has this name already; choose another");
            findings.push(Finding::error(format!("{field}.name"), message).of_block(&block.name));
            continue;
        }
        seen.insert(&block.name, field.clone());
        match block.work() {
            Ok(work) => drafts.push(Draft { block, work, field }),
            Err((part, message)) => {
                let field = match part {
                    "" => field,
                    part => format!("{field}.{part}"),
                };
                findings.push(Finding::error(field, message).of_block(&block.name));
            }
        }
    }
    drafts
}

/// The edges into each draft; `from` are positions of drafts.
fn edges(
    definition: &Definition,
    drafts: &[Draft<'_>],
    findings: &mut Vec<Finding>,
) -> Vec<Vec<Edge>> {
    // What is wrong with a block is said there, not at every block behind it.
    let is_wrong = |name: &str| {
        let mut blocks = definition.blocks.iter();
        blocks.any(|block| block.name == name && block.work().is_err())
    };
    let mut all = Vec::with_capacity(drafts.len());
    for draft in drafts {
        let mut edges: Vec<Edge> = Vec::new();
        for (position, from) in draft.block.from.iter().enumerate() {
            if is_wrong(from.split('.').next().unwrap_or_default()) {
                continue;
            }
            let field = format!("{}.from[{position}]", draft.field);
            let found = edge(drafts, from).and_then(|edge| {
                if edges.contains(&edge) {
                    return Err(format!("{from} is there twice; remove one"));
                }
                Ok(edge)
            });
            match found {
                Ok(edge) => edges.push(edge),
                Err(message) => {
                    findings.push(Finding::error(field, message).of_block(&draft.block.name));
                }
            }
        }
        all.push(edges);
    }
    all
}

fn edge(drafts: &[Draft<'_>], from: &str) -> Result<Edge, String> {
    let (name, case) = match from.split_once('.') {
        Some((name, case)) => (name, Some(case)),
        None => (from, None),
    };
    let Some(position) = drafts.iter().position(|draft| draft.block.name == name) else {
        let names = drafts
            .iter()
            .filter(|draft| draft.work.has_output())
            .map(|draft| draft.block.name.as_str());
        return Err(format!(
            "there is no block {name}; blocks that pass records on: {}",
            list(names)
        ));
    };
    let work = &drafts[position].work;
    let case = match (work, case) {
        (Work::Split(split), Some(case)) => {
            let found = case_names(split).position(|name| name == case);
            Some(found.ok_or_else(|| {
                let cases = list(case_names(split));
                format!("the split {name} has no case {case}; its cases: {cases}")
            })?)
        }
        (Work::Split(split), None) => {
            return Err(format!(
                "{name} is a split: say which of its cases, as in {name}.{}; its cases: {}",
                case_names(split).next().unwrap_or("case"),
                list(case_names(split))
            ));
        }
        (work, Some(case)) => {
            return Err(format!(
                "{name} is {}, which has no cases; write {name} in the place of {name}.{case}",
                work.named()
            ));
        }
        (_, None) => None,
    };
    if !work.has_output() {
        return Err(format!(
            "{name} is {}, which passes no records on; take the block before it",
            work.named()
        ));
    }
    Ok(Edge {
        from: position,
        case,
    })
}

fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    if names.is_empty() {
        return "none".to_owned();
    }
    names.join(", ")
}

/// Positions of the drafts in the order of flow; those that do not depend on each other stay in the
/// order of the spec.
fn order(drafts: &[Draft<'_>], edges: &[Vec<Edge>]) -> Result<Vec<usize>, Vec<Finding>> {
    let mut order: Vec<usize> = Vec::with_capacity(drafts.len());
    let mut placed = vec![false; drafts.len()];
    while order.len() < drafts.len() {
        let next = (0..drafts.len())
            .find(|draft| !placed[*draft] && edges[*draft].iter().all(|edge| placed[edge.from]));
        match next {
            Some(next) => {
                placed[next] = true;
                order.push(next);
            }
            None => return Err(vec![cycle(drafts, edges, &placed)]),
        }
    }
    Ok(order)
}

/// Follows the edges backwards from a block that could not be placed, until a block comes twice.
fn cycle(drafts: &[Draft<'_>], edges: &[Vec<Edge>], placed: &[bool]) -> Finding {
    let mut path: Vec<usize> = Vec::new();
    let mut at = placed.iter().position(|placed| !placed).unwrap_or_default();
    while !path.contains(&at) {
        path.push(at);
        let before = edges[at].iter().find(|edge| !placed[edge.from]);
        at = before.map_or(at, |edge| edge.from);
    }
    let start = path.iter().position(|draft| *draft == at).unwrap_or(0);
    let mut names: Vec<&str> = path[start..]
        .iter()
        .rev()
        .map(|draft| drafts[*draft].block.name.as_str())
        .collect();
    names.push(names[0]);
    let message = format!(
        "records would go in a circle: {}; remove one of these edges",
        names.join(" -> ")
    );
    Finding::error(format!("{}.from", drafts[at].field), message).of_block(&drafts[at].block.name)
}

/// What the records of a block are when they leave it.
fn format(work: &Work<'_>, inputs: &[Edge], nodes: &[Node<'_>]) -> Result<Format, String> {
    if let Work::Source(source) = work {
        return Ok(source.format());
    }
    let mut formats = inputs
        .iter()
        .map(|edge| (nodes[edge.from].output, edge.from));
    let Some((format, first)) = formats.next() else {
        return Ok(Format::Json);
    };
    if let Some((other, second)) = formats.find(|(other, _)| *other != format) {
        return Err(format!(
            "{} gives {format:?} and {} gives {other:?}; set the same format in their sources, \
             or `output` in a transform between",
            nodes[first].block.name, nodes[second].block.name
        ));
    }
    match work {
        Work::Transform(transform) => Ok(transform.output.unwrap_or(format)),
        Work::Alert(_) => Ok(Format::Json),
        _ => Ok(format),
    }
}
