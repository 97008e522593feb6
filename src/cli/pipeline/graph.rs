//! `freehold graph`: the graph of a Pipeline as text, for Mermaid or for Graphviz. `freehold pipeline
//! graph` has what each block of a running one does, too.

use crate::api::pipeline::{BlockState, BlockStatus, Pipeline, StageStatus};
use crate::cli::operator::MainError;
use crate::cli::pipeline::files::Files;
use crate::cli::pipeline::lint::{Checked, Wrong};
use crate::cli::pipeline::object::shown;
use crate::cli::pipeline::print::print;
use freehold_pipeline::finding::lines;
use freehold_pipeline::graph::Graph;
use freehold_pipeline::outside::place;
use freehold_pipeline::stages::{Cut, cut};
use freehold_pipeline::topics::TopicNames;
use kube::ResourceExt;
use std::collections::BTreeMap;
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

/// The form in which a graph is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    Text,
    Mermaid,
    Dot,
}

/// What each block does, by its name. Empty: the graph is of a file.
type Doing<'a> = BTreeMap<&'a str, String>;

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
                let drawn = text(name, &graph, &Doing::new());
                let namespace = found.namespace.as_deref();
                let names = files.topics.names(namespace);
                let namespace = namespace.unwrap_or("default");
                let cut = cut(&graph, &definition, &names, namespace, name);
                drawn + &stages(&cut)
            }
            Format::Mermaid => mermaid(&graph, &Doing::new()),
            Format::Dot => dot(name, &graph, &Doing::new()),
        };
        print(&text)?;
    }
    wrong.result()
}

/// The graph of a running Pipeline, with the state of each block and its rates over the last ten
/// seconds, and with the stages that the operator has made of it.
///
/// # Errors
/// Its blocks are not a graph: its status says so too.
pub fn of_running(object: &Pipeline, format: Format) -> Result<String, String> {
    let definition = object.spec.definition();
    let (name, status) = (object.name_any(), object.status.as_ref());
    let graph = Graph::of(&definition)
        .map_err(|findings| format!("Pipeline {name}: {}", lines(&findings)))?;
    let blocks = status.map(|status| &status.blocks).into_iter().flatten();
    let doing: Doing<'_> = blocks
        .map(|block| (block.name.as_str(), doing(block)))
        .collect();
    Ok(match format {
        Format::Text => {
            let stages = status.map(|status| &status.stages).into_iter().flatten();
            let stages: String = stages.map(stage).collect();
            text(&name, &graph, &doing) + "stages:\n" + &stages
        }
        Format::Mermaid => mermaid(&graph, &doing),
        Format::Dot => dot(&name, &graph, &doing),
    })
}

/// State and rates of a block in a few words.
fn doing(block: &BlockStatus) -> String {
    let mut words = match block.state {
        BlockState::Running => format!(
            "{}/s in, {}/s out",
            block.in_per_second, block.out_per_second
        ),
        state => format!(
            "{state:?}, {}/s in, {}/s out",
            block.in_per_second, block.out_per_second
        ),
    };
    let dropped = block.dropped_per_second.iter();
    if let Some(seconds) = block.cpu_seconds_per_million {
        // Writing to a String does not fail.
        let _ = write!(words, ", {seconds} CPU s for a million");
    }
    let fails = Some(block.errors_per_second).filter(|rate| *rate > 0);
    let ends = dropped.map(|(why, rate)| (why.as_str(), *rate));
    for (why, rate) in fails.map(|rate| ("failed", rate)).into_iter().chain(ends) {
        // Writing to a String does not fail.
        let _ = write!(words, ", {rate}/s {}", shown(why));
    }
    words
}

/// A line about a stage that the operator has made.
fn stage(stage: &StageStatus) -> String {
    let wanted = stage.wanted.unwrap_or(stage.ready);
    let lag = stage.lag.map(|lag| format!(", {lag} records behind"));
    let seconds = stage.lag_seconds.map(|lag| format!(" ({lag} s)"));
    let slowest = stage.slowest.as_deref().map(shown);
    let slowest = slowest.map(|block| format!(", held up by {block}"));
    format!(
        "  {}: {} of {wanted} replicas ready{}{}{}\n",
        shown(&stage.name),
        stage.ready,
        lag.unwrap_or_else(|| ", lag unknown".to_owned()),
        seconds.unwrap_or_default(),
        slowest.unwrap_or_default()
    )
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
fn text(name: &str, graph: &Graph<'_>, doing: &Doing<'_>) -> String {
    let mut text = format!("Pipeline {name}\n");
    for node in &graph.nodes {
        let from: Vec<String> = node
            .inputs
            .iter()
            .map(|edge| graph.edge_name(*edge))
            .collect();
        text += &format!("  {} ({})", node.block.name, what(node));
        if !from.is_empty() {
            text += &format!(" <- {}", from.join(", "));
        }
        if let Some(doing) = doing.get(node.block.name.as_str()) {
            text += &format!(": {doing}");
        }
        text += "\n";
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

fn mermaid(graph: &Graph<'_>, doing: &Doing<'_>) -> String {
    let mut text = "flowchart LR\n".to_owned();
    for (place, node) in graph.nodes.iter().enumerate() {
        let _ = writeln!(text, "  b{place}[\"{}\"]", label(node, doing, "<br/>"));
    }
    each_edge(graph, |from, to, case| {
        let _ = match case {
            Some(case) => writeln!(text, "  b{from} -->|{case}| b{to}"),
            None => writeln!(text, "  b{from} --> b{to}"),
        };
    });
    text
}

/// Name, type and what it does, with this between them.
fn label(node: &freehold_pipeline::graph::Node<'_>, doing: &Doing<'_>, between: &str) -> String {
    let (name, doing) = (&node.block.name, doing.get(node.block.name.as_str()));
    let doing = doing.map(|doing| format!("{between}{doing}"));
    format!("{name}{between}{}{}", what(node), doing.unwrap_or_default())
}

fn dot(name: &str, graph: &Graph<'_>, doing: &Doing<'_>) -> String {
    let mut text = format!("digraph \"{name}\" {{\n  rankdir=LR;\n  node [shape=box];\n");
    for (place, node) in graph.nodes.iter().enumerate() {
        let label = label(node, doing, "\\n");
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
    use super::*;
    use serde_json::json;

    fn running() -> Pipeline {
        serde_json::from_value(json!({
            "apiVersion": "freehold.dev/v1alpha1", "kind": "Pipeline",
            "metadata": {"name": "orders", "namespace": "shop"},
            "spec": {"clusterRef": {"name": "demo"}, "blocks": [
                {"name": "in", "source": {"kafka": {"topicRef": {"name": "orders"}}}},
                {"name": "paid", "from": ["in"], "filter": {"when": "exists(.paid)"}},
                {"name": "out", "from": ["paid"], "sink": {"kafka": {"topicRef": {"name": "paid"}}}},
            ]},
            "status": {
                "blocks": [
                    {"name": "in", "state": "Running", "inPerSecond": 0, "outPerSecond": 900, "errorsPerSecond": 0},
                    {"name": "paid", "state": "Failing", "inPerSecond": 900, "outPerSecond": 600,
                     "errorsPerSecond": 20, "droppedPerSecond": {"filtered": 280}, "cpuSecondsPerMillion": 2.4},
                ],
                "stages": [{"name": "in", "group": "g", "ready": 1, "wanted": 2, "lag": 4000, "lagSeconds": 5,
                    "slowest": "paid"}],
            },
        }))
        .unwrap()
    }

    #[test]
    fn a_running_graph_says_what_each_block_does_and_how_far_a_stage_is_behind() {
        assert_eq!(
            of_running(&running(), Format::Text).unwrap(),
            "Pipeline orders\n\
             \x20 in (source orders): 0/s in, 900/s out\n\
             \x20 paid (filter) <- in: Failing, 900/s in, 600/s out, 2.4 CPU s for a million, \
             20/s failed, 280/s filtered\n\
             \x20 out (sink paid) <- paid\n\
             stages:\n\
             \x20 in: 1 of 2 replicas ready, 4000 records behind (5 s), held up by paid\n"
        );
        let words = "Failing, 900/s in, 600/s out";
        for (format, before) in [(Format::Mermaid, "filter<br/>"), (Format::Dot, "filter\\n")] {
            let drawn = of_running(&running(), format).unwrap();
            assert!(drawn.contains(&format!("{before}{words}")), "{drawn}");
        }
    }

    #[test]
    fn a_pipeline_that_no_operator_has_seen_has_its_graph_alone() {
        let mut new = running();
        new.status = None;
        let drawn = of_running(&new, Format::Text).unwrap();
        assert!(
            drawn.ends_with("out (sink paid) <- paid\nstages:\n"),
            "{drawn}"
        );
    }
}
