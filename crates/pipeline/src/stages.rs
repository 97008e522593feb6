//! Cuts a graph into stages. A stage is what one process runs: all blocks that records reach
//! without leaving the process. It is a [`Definition`] of its own, so that the runner builds its
//! graph by the same code.
//!
//! A cut is made before a block with `isolate: true`, before a sink outside Kafka, and behind a
//! source outside Kafka. An internal topic stands in the cut, named after that block: the stage
//! before it writes it by a sink `<block>~out`, the stage behind it reads it by a source
//! `<block>~in`. So a stage is one of three kinds:
//! - it takes records from outside Kafka: the source, and sinks of Kafka;
//! - it reads and writes Kafka, exactly once;
//! - it delivers records outside Kafka: one source of Kafka, and the sink.
//!
//! Two cuts need no topic of their own: a Kafka sink right behind a source outside Kafka is written
//! by the stage of the source, and a sink outside Kafka right behind one Kafka source reads its
//! topic.

use crate::block::{Block, Work};
use crate::definition::{Definition, Delivery};
use crate::graph::{Edge, Graph};
use crate::sink::{KafkaSink, Sink};
use crate::source::{Format, KafkaSource, OnGap, Source, Start};
use crate::topics::{TopicNames, TopicTarget};
use std::collections::{BTreeMap, BTreeSet};

/// A part of a Pipeline that one StatefulSet runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    /// Name of the block that it begins with; behind a source outside Kafka, of the first block
    /// there.
    pub name: String,
    /// Its blocks, in the order of flow; every topic is named by its name in Kafka.
    pub definition: Definition,
}

/// A topic between two stages.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct InternalTopic {
    /// Name in Kafka.
    pub topic: String,
    /// The block that it is named after.
    pub block: String,
}

/// What a stage does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It takes records from outside Kafka and writes them to Kafka.
    Ingest,
    /// It reads and writes Kafka.
    Flow,
    /// It reads Kafka and delivers records outside Kafka.
    Deliver,
}

impl Role {
    /// The role of a stage with these blocks.
    pub fn of(blocks: &[Block]) -> Self {
        let mut sources = blocks.iter().filter_map(|block| block.source.as_ref());
        let mut sinks = blocks.iter().filter_map(|block| block.sink.as_ref());
        if sources.any(Source::is_external) {
            Self::Ingest
        } else if sinks.any(Sink::is_external) {
            Self::Deliver
        } else {
            Self::Flow
        }
    }
}

/// Stages, and the topics between them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cut {
    pub stages: Vec<Stage>,
    pub internal: Vec<InternalTopic>,
}

/// Cuts a graph. A block that two stages reach is in both: each gives it the records that it has.
pub fn cut(
    graph: &Graph<'_>,
    definition: &Definition,
    names: &TopicNames,
    namespace: &str,
    pipeline: &str,
) -> Cut {
    let mut cutter = Cutter {
        graph,
        names,
        prefix: format!("{namespace}.{pipeline}."),
        members: members(graph),
        stages: BTreeMap::new(),
        taking: BTreeMap::new(),
        internal: Vec::new(),
    };
    for place in 0..graph.nodes.len() {
        cutter.place(place);
    }
    let taking = cutter
        .taking
        .into_values()
        .map(|blocks| (own_name(&blocks), blocks));
    let others = cutter.stages.into_iter().map(|(first, blocks)| {
        let name = match begins_stage(graph, first) {
            true => graph.nodes[first].block.name.clone(),
            false => own_name(&blocks),
        };
        (name, blocks)
    });
    let works = |blocks: &[Block]| blocks.iter().any(|block| block.source.is_none());
    let stages = taking.chain(others).filter(|(_, blocks)| works(blocks));
    let mut errors = definition.errors.clone();
    errors.dead_letter = errors.dead_letter.map(|target| by_name(target, names));
    let stage = |(name, blocks): (String, Vec<Block>)| Stage {
        name,
        definition: Definition {
            delivery: delivery(definition, &blocks),
            functions: included(definition, &blocks),
            errors: errors.clone(),
            blocks,
        },
    };
    Cut {
        stages: stages.map(stage).collect(),
        internal: cutter.internal,
    }
}

/// The first block that is a block of the graph.
fn own_name(blocks: &[Block]) -> String {
    let mut names = blocks.iter().map(|block| &block.name);
    names
        .find(|name| !name.contains('~'))
        .cloned()
        .unwrap_or_default()
}

/// Only a stage that reads and writes Kafka has transactions.
fn delivery(definition: &Definition, blocks: &[Block]) -> Delivery {
    match Role::of(blocks) {
        Role::Flow => definition.delivery,
        Role::Ingest | Role::Deliver => Delivery::AtLeastOnce,
    }
}

struct Cutter<'a> {
    graph: &'a Graph<'a>,
    names: &'a TopicNames,
    /// What names of internal topics begin with.
    prefix: String,
    members: Vec<BTreeSet<usize>>,
    /// Blocks by the first node of their stage.
    stages: BTreeMap<usize, Vec<Block>>,
    /// Blocks of the stages that take records from outside Kafka, by their source.
    taking: BTreeMap<usize, Vec<Block>>,
    internal: Vec<InternalTopic>,
}

impl Cutter<'_> {
    fn place(&mut self, place: usize) {
        let node = &self.graph.nodes[place];
        let mut block = resolved(node.block, self.names);
        block.isolate = false;
        if is_outside_source(self.graph, place) {
            self.taking.insert(place, vec![block.clone()]);
            if !self.members[place].is_empty() {
                let topic = self.topic(&block);
                let from = block.name.clone();
                let mut sink = sink_of(&block.name, &topic);
                sink.from = vec![from];
                self.taking.entry(place).or_default().push(sink);
                let source = source_of(&block.name, &topic, node.output);
                self.add(place, source);
            }
            return;
        }
        if begins_stage(self.graph, place) {
            let source = match direct(self.graph, place) {
                Some(kafka) => Block {
                    name: self.name_of_direct(kafka, &block.name),
                    source: resolved(self.graph.nodes[kafka].block, self.names).source,
                    ..Block::default()
                },
                None => {
                    let topic = self.topic(&block);
                    self.sinks(place, &sink_of(&block.name, &topic));
                    let before = node.inputs.first();
                    let format = before.map(|edge| self.graph.nodes[edge.from].output);
                    source_of(&block.name, &topic, format.unwrap_or_default())
                }
            };
            block.from = vec![source.name.clone()];
            self.stages
                .entry(place)
                .or_default()
                .extend([source, block]);
            return;
        }
        match node.work {
            Work::Sink(_) => self.sinks(place, &block),
            _ => self.add(place, block),
        }
    }

    /// The name of a Kafka source in a stage that delivers its records: its own, unless it is in
    /// another stage, too.
    fn name_of_direct(&self, kafka: usize, sink: &str) -> String {
        let mut readers = self.graph.readers(kafka);
        match readers.all(|(to, _)| direct(self.graph, to) == Some(kafka)) {
            true => self.graph.nodes[kafka].block.name.clone(),
            false => format!("{sink}~in"),
        }
    }

    /// An internal topic that is named after a block.
    fn topic(&mut self, block: &Block) -> String {
        let topic = format!("{}{}", self.prefix, block.name);
        self.internal.push(InternalTopic {
            topic: topic.clone(),
            block: block.name.clone(),
        });
        topic
    }

    /// Adds a block to all stages that it is in, each with the edges that are in that stage.
    fn add(&mut self, place: usize, block: Block) {
        for stage in &self.members[place] {
            let mut block = block.clone();
            let inside = |edge: &&Edge| self.members[edge.from].contains(stage);
            let edges = self.graph.nodes[place].inputs.iter().filter(inside);
            block.from = edges.map(|edge| self.edge_name(*edge)).collect();
            self.stages.entry(*stage).or_default().push(block);
        }
    }

    /// Adds a sink of Kafka to each stage that gives the block at this place records.
    fn sinks(&mut self, place: usize, sink: &Block) {
        for edge in &self.graph.nodes[place].inputs {
            let add = |blocks: &mut Vec<Block>, from: String| match blocks
                .iter_mut()
                .find(|block| block.name == sink.name)
            {
                Some(sink) => sink.from.push(from),
                None => blocks.push(Block {
                    from: vec![from],
                    ..sink.clone()
                }),
            };
            if is_outside_source(self.graph, edge.from) {
                let from = self.graph.edge_name(*edge);
                add(self.taking.entry(edge.from).or_default(), from);
                continue;
            }
            for stage in &self.members[edge.from] {
                let from = self.edge_name(*edge);
                add(self.stages.entry(*stage).or_default(), from);
            }
        }
    }

    /// What an edge is called behind the cut.
    fn edge_name(&self, edge: Edge) -> String {
        match is_outside_source(self.graph, edge.from) {
            true => format!("{}~in", self.graph.edge_name(edge)),
            false => self.graph.edge_name(edge),
        }
    }
}

fn is_outside_source(graph: &Graph<'_>, place: usize) -> bool {
    matches!(graph.nodes[place].work, Work::Source(source) if source.is_external())
}

/// Whether a cut is before it.
fn begins_stage(graph: &Graph<'_>, place: usize) -> bool {
    let node = &graph.nodes[place];
    match node.work {
        Work::Source(_) => false,
        Work::Sink(sink) => node.block.isolate || sink.is_external(),
        _ => node.block.isolate,
    }
}

/// The Kafka source whose topic a sink outside Kafka reads itself, if there is nothing between.
fn direct(graph: &Graph<'_>, place: usize) -> Option<usize> {
    let node = &graph.nodes[place];
    let [edge] = node.inputs[..] else {
        return None;
    };
    let is_outside = matches!(node.work, Work::Sink(sink) if sink.is_external());
    let reads = graph.nodes[edge.from].work.reads();
    (is_outside && reads.is_some()).then_some(edge.from)
}

/// For each node the stages that it is in, each named by its first node. Sources whose records meet
/// in a block are in one. A source outside Kafka is in one if a block of it gets its records; else
/// it is in none.
fn members(graph: &Graph<'_>) -> Vec<BTreeSet<usize>> {
    let mut members: Vec<BTreeSet<usize>> = Vec::with_capacity(graph.nodes.len());
    for (place, node) in graph.nodes.iter().enumerate() {
        let is_sink = matches!(node.work, Work::Sink(_));
        if let Work::Source(source) = node.work {
            let mut readers = graph.readers(place).map(|(to, _)| to);
            let is_read = readers.any(|to| {
                let is_sink = matches!(graph.nodes[to].work, Work::Sink(_));
                !begins_stage(graph, to) && !is_sink
            });
            members.push(if is_read || !source.is_external() {
                [place].into()
            } else {
                BTreeSet::new()
            });
            continue;
        }
        if begins_stage(graph, place) {
            members.push([place].into());
            continue;
        }
        let inputs = node.inputs.iter();
        let taken = |edge: &&Edge| is_sink && is_outside_source(graph, edge.from);
        let inside = inputs.filter(|edge| !taken(edge));
        members.push(inside.flat_map(|edge| members[edge.from].clone()).collect());
        let of_sources = |stage: &&usize| !begins_stage(graph, **stage);
        let joined: Vec<usize> = members[place].iter().filter(of_sources).copied().collect();
        for stages in &mut members {
            for other in joined.iter().skip(1) {
                if stages.remove(other) {
                    stages.insert(joined[0]);
                }
            }
        }
    }
    members
}

/// The source behind a cut.
fn source_of(block: &str, topic: &str, format: Format) -> Block {
    Block {
        name: format!("{block}~in"),
        source: Some(Source {
            kafka: Some(KafkaSource {
                target: TopicTarget::named(topic),
                format,
                start: Start::Earliest,
                // Nobody can set it for a topic of the Pipeline's own, and all that it has is to be
                // processed.
                on_gap: OnGap::Earliest,
            }),
            ..Source::default()
        }),
        ..Block::default()
    }
}

/// The sink before a cut.
fn sink_of(block: &str, topic: &str) -> Block {
    Block {
        name: format!("{block}~out"),
        sink: Some(Sink {
            kafka: Some(KafkaSink {
                target: TopicTarget::named(topic),
                ..KafkaSink::default()
            }),
            ..Sink::default()
        }),
        ..Block::default()
    }
}

fn by_name(target: TopicTarget, names: &TopicNames) -> TopicTarget {
    match target.resolve(names) {
        Some(topic) => TopicTarget::named(topic),
        None => target,
    }
}

/// The block with names in Kafka in the place of references.
fn resolved(block: &Block, names: &TopicNames) -> Block {
    let mut block = block.clone();
    if let Some(kafka) = block
        .source
        .as_mut()
        .and_then(|source| source.kafka.as_mut())
    {
        kafka.target = by_name(kafka.target.clone(), names);
    }
    if let Some(kafka) = block.sink.as_mut().and_then(|sink| sink.kafka.as_mut()) {
        kafka.target = by_name(kafka.target.clone(), names);
    }
    if let Some(alert) = block.alert.as_mut() {
        alert.to = alert.to.take().map(|target| by_name(target, names));
    }
    block
}

/// The functions that the programs of these blocks include.
fn included(definition: &Definition, blocks: &[Block]) -> BTreeMap<String, String> {
    let names = blocks
        .iter()
        .flat_map(|block| block.transform.iter())
        .flat_map(|transform| transform.include.iter());
    names
        .filter_map(|name| definition.functions.get_key_value(name))
        .map(|(name, text)| (name.clone(), text.clone()))
        .collect()
}
