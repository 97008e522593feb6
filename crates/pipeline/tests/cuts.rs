//! Properties of cuts, over graphs of all kinds of blocks.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use freehold_pipeline::block::Block;
use freehold_pipeline::checks::check;
use freehold_pipeline::definition::Definition;
use freehold_pipeline::graph::Graph;
use freehold_pipeline::stages::{Cut, Role, Stage, cut};
use freehold_pipeline::topics::TopicNames;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// What is drawn of a block: its type, and which blocks before it are read.
type Draft = (u8, prop::sample::Index, Option<prop::sample::Index>);

fn source(place: usize, is_outside: bool) -> Value {
    match is_outside {
        true => json!({"http": {"authentication": {"basic": {"name": "a"}}}}),
        false => json!({"kafka": {"topic": format!("t{place}")}}),
    }
}

/// What a block does, and whether others can get records from it.
fn work(kind: u8, place: usize) -> (Value, bool) {
    let topic = json!({"topic": format!("out{place}")});
    let http = json!({"url": "https://a", "delivery": "AtLeastOnce"});
    let s3 = json!({"bucket": "abc", "prefix": format!("{place}/"), "credentials": {"name": "a"}});
    match kind {
        0 => (json!({"filter": {"when": "true"}}), true),
        1 => (json!({"filter": {"when": "true"}, "isolate": true}), true),
        2 => (json!({"alert": {"when": "true", "to": topic}}), true),
        3 => (json!({"sink": {"kafka": topic}}), false),
        4 => (json!({"sink": {"http": http}}), false),
        _ => (json!({"sink": {"s3": s3}}), false),
    }
}

/// A graph: sources, then blocks that read those before them, then a sink for what nobody reads.
fn definition(sources: &[bool], drafts: &[Draft]) -> Definition {
    let mut blocks = Vec::new();
    let mut open: Vec<String> = Vec::new();
    let mut read: BTreeSet<String> = BTreeSet::new();
    for (place, is_outside) in sources.iter().enumerate() {
        let name = format!("s{place}");
        blocks.push(json!({"name": name, "source": source(place, *is_outside)}));
        open.push(name);
    }
    for (place, (kind, first, second)) in drafts.iter().enumerate() {
        let name = format!("b{place}");
        let inputs = [Some(first), second.as_ref()];
        let from: BTreeSet<String> = inputs
            .into_iter()
            .flatten()
            .map(|index| open[index.index(open.len())].clone())
            .collect();
        read.extend(from.clone());
        let (mut block, passes_on) = work(*kind, place);
        block["name"] = json!(name);
        block["from"] = json!(from);
        blocks.push(block);
        if passes_on {
            open.push(name);
        }
    }
    let rest: Vec<&String> = open.iter().filter(|name| !read.contains(*name)).collect();
    if !rest.is_empty() {
        blocks.push(json!({"name": "rest", "from": rest, "sink": {"kafka": {"topic": "rest"}}}));
    }
    serde_json::from_value(json!({"blocks": blocks})).unwrap()
}

fn topics(stage: &Stage, of: impl Fn(&Block) -> Option<String>) -> Vec<String> {
    stage.definition.blocks.iter().filter_map(of).collect()
}

fn read_topic(block: &Block) -> Option<String> {
    block.source.as_ref()?.kafka.as_ref()?.target.topic.clone()
}

fn written_topic(block: &Block) -> Option<String> {
    block.sink.as_ref()?.kafka.as_ref()?.target.topic.clone()
}

/// A stage is a graph of its own, and does what its role says.
fn check_stage(stage: &Stage) -> Result<(), TestCaseError> {
    let blocks = &stage.definition.blocks;
    let graph = Graph::of(&stage.definition);
    prop_assert!(graph.is_ok(), "{}: {:?}", stage.name, graph);
    let is_of = |names: &dyn Fn(&Block) -> bool| blocks.iter().filter(|block| names(block)).count();
    let sources = is_of(&|block| block.source.is_some());
    let kafka_sinks = is_of(&|block| written_topic(block).is_some());
    match Role::of(blocks) {
        Role::Ingest => prop_assert_eq!((sources, kafka_sinks + 1), (1, blocks.len())),
        Role::Deliver => prop_assert_eq!((sources, kafka_sinks, blocks.len()), (1, 0, 2)),
        Role::Flow => prop_assert!(blocks.len() > sources),
    }
    Ok(())
}

/// Each internal topic is written by a stage before it, and read by one.
fn check_topics(cut: &Cut) -> Result<(), TestCaseError> {
    let mut readers: BTreeMap<String, usize> = BTreeMap::new();
    let mut writers: BTreeMap<String, usize> = BTreeMap::new();
    for stage in &cut.stages {
        for topic in topics(stage, read_topic) {
            *readers.entry(topic).or_default() += 1;
        }
        for topic in topics(stage, written_topic) {
            *writers.entry(topic).or_default() += 1;
        }
    }
    for internal in &cut.internal {
        prop_assert_eq!(readers.get(&internal.topic), Some(&1), "{:?}", internal);
        prop_assert!(writers.contains_key(&internal.topic), "{:?}", internal);
    }
    let names: BTreeSet<&String> = cut
        .internal
        .iter()
        .map(|internal| &internal.topic)
        .collect();
    prop_assert_eq!(names.len(), cut.internal.len());
    Ok(())
}

proptest! {
    #[test]
    fn every_block_is_in_a_stage_and_every_record_has_a_way(
        sources in prop::collection::vec(any::<bool>(), 1..4),
        drafts in prop::collection::vec((0_u8..6, any::<prop::sample::Index>(), any::<Option<prop::sample::Index>>()), 0..9),
    ) {
        let definition = definition(&sources, &drafts);
        let names = TopicNames::default();
        let (graph, _) = check(&definition, &names).expect("it is a graph");
        let cut = cut(&graph, &definition, &names, "shop", "flow");
        let stages: BTreeSet<&String> = cut.stages.iter().map(|stage| &stage.name).collect();
        prop_assert_eq!(stages.len(), cut.stages.len(), "names of stages");
        for stage in &cut.stages {
            check_stage(stage)?;
        }
        check_topics(&cut)?;
        let mut edges = 0;
        for node in &graph.nodes {
            let name = &node.block.name;
            let all = cut.stages.iter().flat_map(|stage| &stage.definition.blocks);
            let places: Vec<&Block> = all.filter(|block| {
                let own = block.name.split('~').next();
                own == Some(name)
            }).collect();
            prop_assert!(!places.is_empty(), "{} is in no stage", name);
            edges += node.inputs.len();
        }
        // A stage may have an edge that stands for one of the graph, never fewer in all.
        let of_stages = cut.stages.iter().flat_map(|stage| &stage.definition.blocks);
        let known: usize = of_stages.map(|block| block.from.len()).sum();
        prop_assert!(known >= edges, "{} of {} edges", known, edges);
    }
}
