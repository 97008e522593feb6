//! `freehold graph`: the graph of a Pipeline as text, for Mermaid or for Graphviz.

use crate::cli::operator::MainError;
use crate::cli::pipeline::files::Files;
use crate::cli::pipeline::lint::{Checked, Wrong};
use crate::cli::pipeline::print::print;
use freehold_pipeline::finding::lines;
use freehold_pipeline::graph::Graph;
use freehold_pipeline::outside::place;
use freehold_pipeline::stages::{Cut, cut};
use freehold_pipeline::topics::TopicNames;
use std::fmt::Write;
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct Options {
    /// YAML files with Pipelines, and the Topics that they name. `-` is standard input.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// The form.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Text,
    Mermaid,
    Dot,
}

/// Prints the graph of each Pipeline. Its programs are not compiled.
///
/// # Errors
/// The blocks are not a graph, or a file or document cannot be read.
pub fn main(options: &Options) -> Result<(), MainError> {
    let files = Files::read(&options.files)?;
    let mut wrong = Wrong::of(&files)?;
    for found in &files.pipelines {
        let Ok(object) = &found.object else {
            print(&Checked::of(found, &files.topics).lines.concat())?;
            wrong.refused += 1;
            continue;
        };
        let definition = object.spec.definition();
        let name = &found.name;
        let graph = Graph::of(&definition)
            .map_err(|findings| format!("Pipeline {name}: {}", lines(&findings)))?;
        let text = match options.format {
            Format::Text => {
                let namespace = found.namespace.as_deref();
                let names = files.topics.names(namespace);
                let namespace = namespace.unwrap_or("default");
                let cut = cut(&graph, &definition, &names, namespace, name);
                text(name, &graph) + &stages(&cut)
            }
            Format::Mermaid => mermaid(&graph),
            Format::Dot => dot(name, &graph),
        };
        print(&text)?;
    }
    wrong.result()
}

fn stages(cut: &Cut) -> String {
    let mut text = "stages:\n".to_owned();
    for stage in &cut.stages {
        // The ends of a stage have names of its own.
        let blocks = stage.definition.blocks.iter();
        let names = blocks.map(|block| block.name.as_str());
        let names: Vec<&str> = names.filter(|name| !name.contains('~')).collect();
        // Writing to a String does not fail.
        let _ = writeln!(text, "  {}: {}", stage.name, names.join(", "));
    }
    for internal in &cut.internal {
        let (block, topic) = (&internal.block, &internal.topic);
        // Writing to a String does not fail.
        let _ = writeln!(text, "internal topic of {block}: {topic}");
    }
    text
}

/// Each block with where its records come from and go to, in the order of flow.
fn text(name: &str, graph: &Graph<'_>) -> String {
    let mut text = format!("Pipeline {name}\n");
    for node in &graph.nodes {
        let from: Vec<String> = node
            .inputs
            .iter()
            .map(|edge| graph.edge_name(*edge))
            .collect();
        // Writing to a String does not fail.
        let _ = match from.is_empty() {
            true => writeln!(text, "  {} ({})", node.block.name, what(node)),
            false => writeln!(
                text,
                "  {} ({}) <- {}",
                node.block.name,
                what(node),
                from.join(", ")
            ),
        };
    }
    text
}

/// The type of a block, with its topic or its place outside Kafka.
fn what(node: &freehold_pipeline::graph::Node<'_>) -> String {
    let names = TopicNames::default();
    let target = node.work.reads().or(node.work.writes());
    let kind = node.work.field();
    let topic = target.and_then(|target| target.resolve(&names));
    match topic.map(str::to_owned).or_else(|| place(node.block)) {
        Some(place) => format!("{kind} {place}"),
        None => kind.to_owned(),
    }
}

fn mermaid(graph: &Graph<'_>) -> String {
    let mut text = "flowchart LR\n".to_owned();
    for (place, node) in graph.nodes.iter().enumerate() {
        let _ = writeln!(
            text,
            "  b{place}[\"{}<br/>{}\"]",
            node.block.name,
            what(node)
        );
    }
    each_edge(graph, |from, to, case| {
        let _ = match case {
            Some(case) => writeln!(text, "  b{from} -->|{case}| b{to}"),
            None => writeln!(text, "  b{from} --> b{to}"),
        };
    });
    text
}

fn dot(name: &str, graph: &Graph<'_>) -> String {
    let mut text = format!("digraph \"{name}\" {{\n  rankdir=LR;\n  node [shape=box];\n");
    for (place, node) in graph.nodes.iter().enumerate() {
        let label = format!("{}\\n{}", node.block.name, what(node));
        let _ = writeln!(text, "  b{place} [label=\"{label}\"];");
    }
    each_edge(graph, |from, to, case| {
        let label = case
            .map(|case| format!(" [label=\"{case}\"]"))
            .unwrap_or_default();
        let _ = writeln!(text, "  b{from} -> b{to}{label};");
    });
    text + "}\n"
}

fn each_edge(graph: &Graph<'_>, mut edge: impl FnMut(usize, usize, Option<String>)) {
    for (to, node) in graph.nodes.iter().enumerate() {
        for input in &node.inputs {
            let name = graph.edge_name(*input);
            let case = name.split_once('.').map(|(_, case)| case.to_owned());
            edge(input.from, to, case);
        }
    }
}
