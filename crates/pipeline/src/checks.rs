//! What is wrong with a Pipeline, apart from its programs. The webhook, the runner and
//! `freehold lint` ask here.

use crate::block::{Alert, Block, Split, Work};
use crate::definition::{
    BLOCKS_MAX, DEPTH_MAX, Definition, ErrorPolicy, PROGRAM_BYTES_MAX, PROGRAMS_BYTES_MAX,
};
use crate::finding::{Finding, Severity};
use crate::graph::{Graph, Node, case_names};
use crate::sink::Sink;
use crate::topics::{TopicNames, TopicTarget};
use crate::{mqtt, outside};
use std::collections::{BTreeMap, BTreeSet};

/// Checks a Pipeline. The names decide whether two blocks mean the same topic.
///
/// # Errors
/// All findings, if one of them is an error. Else the graph, and the warnings.
pub fn check<'a>(
    definition: &'a Definition,
    names: &TopicNames,
) -> Result<(Graph<'a>, Vec<Finding>), Vec<Finding>> {
    let mut findings = sizes(definition);
    let blocks = definition.blocks.iter().enumerate();
    findings.extend(blocks.flat_map(|(index, block)| block_alone(definition, index, block)));
    findings.extend(errors(definition));
    let graph = match Graph::of(definition) {
        Ok(graph) => graph,
        Err(more) => {
            findings.extend(more);
            return Err(findings);
        }
    };
    findings.extend(flow(&graph));
    findings.extend(same_files(&graph));
    findings.extend(round_trips(&graph));
    findings.extend(topics(&graph, definition, names));
    if findings
        .iter()
        .any(|finding| finding.severity == Severity::Error)
    {
        return Err(findings);
    }
    Ok((graph, findings))
}

fn sizes(definition: &Definition) -> Vec<Finding> {
    let mut findings = Vec::new();
    let count = definition.blocks.len();
    if count == 0 {
        findings.push(Finding::error("blocks", "empty; give a source and a sink"));
    }
    if count > BLOCKS_MAX {
        findings.push(Finding::error(
            "blocks",
            format!(
                "{count} blocks; at most {BLOCKS_MAX}: make two Pipelines with a topic between"
            ),
        ));
    }
    let mut bytes: usize = definition.functions.values().map(String::len).sum();
    for (index, block) in definition.blocks.iter().enumerate() {
        for (field, program) in programs(block) {
            bytes += program.len();
            if program.len() > PROGRAM_BYTES_MAX {
                let message = format!(
                    "{} bytes; a program has at most {PROGRAM_BYTES_MAX}",
                    program.len()
                );
                findings.push(
                    Finding::error(format!("blocks[{index}].{field}"), message)
                        .of_block(&block.name),
                );
            }
        }
    }
    if bytes > PROGRAMS_BYTES_MAX {
        let message =
            format!("programs and functions have {bytes} bytes; at most {PROGRAMS_BYTES_MAX}");
        findings.push(Finding::error("blocks", message));
    }
    findings
}

/// The programs of a block, with the field of each relative to the block.
pub fn programs(block: &Block) -> Vec<(String, &str)> {
    match block.work() {
        Ok(Work::Transform(transform)) => vec![("transform.vrl".into(), &transform.vrl)],
        Ok(Work::Filter(filter)) => vec![("filter.when".into(), &filter.condition.when)],
        Ok(Work::Split(split)) => {
            let cases = split.cases.iter().enumerate();
            cases
                .map(|(index, case)| {
                    let when = case.condition.when.as_str();
                    (format!("split.cases[{index}].when"), when)
                })
                .collect()
        }
        Ok(Work::Alert(alert)) => {
            let mut programs = vec![("alert.when".to_owned(), alert.condition.when.as_str())];
            programs.extend(
                alert
                    .group_by
                    .as_deref()
                    .map(|group| ("alert.groupBy".to_owned(), group)),
            );
            programs
        }
        Ok(Work::Source(_) | Work::Sink(_)) | Err(_) => Vec::new(),
    }
}

/// What can be said of a block without the others.
fn block_alone(definition: &Definition, index: usize, block: &Block) -> Vec<Finding> {
    let mut wrong: Vec<(String, String)> = Vec::new();
    let field = format!("blocks[{index}]");
    if let Err(why) = name_is_valid(&block.name) {
        wrong.push((".name".into(), why));
    }
    match block.work() {
        Ok(Work::Source(source)) => {
            if !block.from.is_empty() {
                let why = "a source gets its records from outside; remove from";
                wrong.push((".from".into(), why.into()));
            }
            wrong.extend(outside::source(source));
            let kafka = source.kafka.as_ref();
            wrong.extend(kafka.and_then(|kafka| target(".source.kafka", &kafka.target)));
        }
        Ok(work) => {
            if block.from.is_empty() {
                wrong.push((".from".into(), without_from(definition, block, &work)));
            }
            match work {
                Work::Sink(sink) => {
                    wrong.extend(outside::sink(sink, definition.delivery));
                    let kafka = sink.kafka.as_ref();
                    wrong.extend(kafka.and_then(|kafka| target(".sink.kafka", &kafka.target)));
                }
                Work::Split(split) => wrong.extend(cases(split)),
                Work::Alert(Alert { to, .. }) => {
                    wrong.extend(to.as_ref().and_then(|to| target(".alert.to", to)));
                }
                Work::Source(_) | Work::Transform(_) | Work::Filter(_) => {}
            }
        }
        Err(_) => {}
    }
    let finding = |(part, why): (String, String)| {
        Finding::error(format!("{field}{part}"), why).of_block(&block.name)
    };
    wrong.into_iter().map(finding).collect()
}

/// Where a block may get its records from.
fn without_from(definition: &Definition, block: &Block, work: &Work<'_>) -> String {
    let mut names = Vec::new();
    for other in definition.blocks.iter().filter(|other| *other != block) {
        match other.work() {
            Ok(Work::Split(split)) => {
                names.extend(case_names(split).map(|case| format!("{}.{case}", other.name)));
            }
            Ok(work) if work.has_output() => names.push(other.name.clone()),
            Ok(_) | Err(_) => {}
        }
    }
    let list = match names.is_empty() {
        true => "none yet".to_owned(),
        false => names.join(", "),
    };
    format!(
        "{} needs the name of a block; give from: [<block>]; blocks that pass records on: {list}",
        work.named()
    )
}

fn name_is_valid(name: &str) -> Result<(), String> {
    let max = crate::block::NAME_CHARS_MAX as usize;
    let letters = name
        .bytes()
        .all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == b'-');
    let starts = name
        .bytes()
        .next()
        .is_some_and(|first| first.is_ascii_lowercase());
    if letters && starts && !name.ends_with('-') && name.len() <= max {
        return Ok(());
    }
    Err(format!(
        "{name:?}: a name is lower-case letters, digits and hyphens, begins with a letter, does \
         not end with a hyphen, and has at most {max} characters"
    ))
}

fn target(field: &str, target: &TopicTarget) -> Option<(String, String)> {
    let why = match (&target.topic_ref, &target.topic) {
        (None, None) => "give topicRef for a Topic of this namespace, or topic for a name in Kafka",
        (Some(_), Some(_)) => "topicRef and topic both name the topic; remove one",
        _ => return None,
    };
    Some((field.to_owned(), why.to_owned()))
}

fn cases(split: &Split) -> Vec<(String, String)> {
    let mut wrong = Vec::new();
    if split.cases.is_empty() {
        wrong.push((".split.cases".into(), "empty; give a case".into()));
    }
    let mut seen = BTreeSet::new();
    for (position, name) in case_names(split).enumerate() {
        let field = match split.cases.get(position) {
            Some(_) => format!(".split.cases[{position}].name"),
            None => ".split.default".to_owned(),
        };
        if let Err(why) = name_is_valid(name) {
            wrong.push((field.clone(), why));
        }
        if !seen.insert(name) {
            wrong.push((
                field,
                format!("there is a case {name} already; choose another name"),
            ));
        }
    }
    wrong
}

fn errors(definition: &Definition) -> Vec<Finding> {
    let mut findings = Vec::new();
    let errors = &definition.errors;
    if let Some(dead_letter) = &errors.dead_letter
        && let Some((field, why)) = target("errors.deadLetter", dead_letter)
    {
        findings.push(Finding::error(field, why));
    }
    let without_topic = |field: &str| {
        let why = "DeadLetter needs the topic; give errors.deadLetter, or choose Skip or Stop";
        Finding::error(field, why)
    };
    if errors.dead_letter.is_none() {
        if errors.policy == Some(ErrorPolicy::DeadLetter) {
            findings.push(without_topic("errors.policy"));
        }
        for (index, block) in definition.blocks.iter().enumerate() {
            let policy = block.errors.as_ref().map(|errors| errors.policy);
            if policy == Some(ErrorPolicy::DeadLetter) {
                let field = format!("blocks[{index}].errors.policy");
                findings.push(without_topic(&field).of_block(&block.name));
            }
        }
    }
    if let Some(threshold) = &errors.threshold
        && !(threshold.ratio > 0.0 && threshold.ratio <= 1.0)
    {
        findings.push(Finding::error(
            "errors.threshold.ratio",
            "a ratio of failed records: above 0, at most 1",
        ));
    }
    for (index, block) in definition.blocks.iter().enumerate() {
        let Ok(Work::Transform(transform)) = block.work() else {
            continue;
        };
        for (position, name) in transform.include.iter().enumerate() {
            if !definition.functions.contains_key(name) {
                let field = format!("blocks[{index}].transform.include[{position}]");
                let known: Vec<&str> = definition.functions.keys().map(String::as_str).collect();
                let message = format!(
                    "spec.functions has no {name}; it has: {}",
                    if known.is_empty() {
                        "none".to_owned()
                    } else {
                        known.join(", ")
                    }
                );
                findings.push(Finding::error(field, message).of_block(&block.name));
            }
        }
    }
    findings
}

/// Whether every record can come from a source and get to a sink.
fn flow(graph: &Graph<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !graph.nodes.is_empty()
        && !graph
            .nodes
            .iter()
            .any(|node| matches!(node.work, Work::Source(_)))
    {
        findings.push(Finding::error(
            "blocks",
            "no source; give a block that reads records",
        ));
    }
    let mut depth = vec![1_usize; graph.nodes.len()];
    for (place, node) in graph.nodes.iter().enumerate() {
        let before = node.inputs.iter().map(|edge| depth[edge.from]).max();
        depth[place] = before.unwrap_or_default() + 1;
        if before.is_some_and(|before| before == DEPTH_MAX) {
            let message = format!(
                "more than {DEPTH_MAX} blocks one after the other; put programs together in one \
                 transform, or make two Pipelines with a topic between"
            );
            findings.push(about(node, "from", Severity::Error, message));
        }
        findings.extend(dead_end(graph, place, node));
        let begins_stage = match node.work {
            Work::Source(_) => Some("a source begins a stage anyway; remove isolate"),
            Work::Sink(sink) if sink.is_external() => {
                Some("a sink outside Kafka has a stage of its own anyway; remove isolate")
            }
            _ => None,
        };
        if node.block.isolate
            && let Some(message) = begins_stage
        {
            findings.push(about(
                node,
                "isolate",
                Severity::Warning,
                message.to_owned(),
            ));
        }
        if let Work::Sink(sink) = node.work {
            let wrong = outside::format(sink, node.output);
            let wrong = wrong.map(|(part, why)| about(node, part, Severity::Error, why));
            findings.extend(wrong);
        }
    }
    findings
}

/// Two sinks that read one topic themselves, and write files of the same names.
fn same_files(graph: &Graph<'_>) -> Vec<Finding> {
    let nodes = graph.nodes.iter();
    let sinks: Vec<_> = nodes
        .filter_map(|node| {
            let Work::Sink(sink) = node.work else {
                return None;
            };
            let [edge] = node.inputs[..] else {
                return None;
            };
            let reads = graph.nodes[edge.from].work.reads().is_some();
            let s3 = sink.s3.as_ref().filter(|_| reads)?;
            Some((node.block.name.as_str(), edge.from, s3))
        })
        .collect();
    let same = outside::same_names(&sinks).into_iter();
    same.filter_map(|(name, before)| {
        let why = format!("{before} writes files of the same names; give another prefix");
        Some(about(
            graph.node(name)?,
            "sink.s3.prefix",
            Severity::Error,
            why,
        ))
    })
    .collect()
}

/// Sinks of MQTT whose messages a source of the Pipeline gets.
fn round_trips(graph: &Graph<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for node in &graph.nodes {
        let Work::Sink(Sink {
            mqtt: Some(sink), ..
        }) = node.work
        else {
            continue;
        };
        let reader = graph.nodes.iter().find(|other| {
            let source = other.block.source.as_ref();
            let source = source.and_then(|source| source.mqtt.as_ref());
            source.is_some_and(|source| mqtt::goes_round(source, sink))
        });
        if let Some(reader) = reader {
            let message = format!(
                "{} reads the topic {}: its messages would go round for ever; choose another topic",
                reader.block.name, sink.topic
            );
            findings.push(about(node, "sink.mqtt.topic", Severity::Error, message));
        }
    }
    findings
}

/// Records that a block passes on and that nobody gets.
fn dead_end(graph: &Graph<'_>, place: usize, node: &Node<'_>) -> Vec<Finding> {
    let read: BTreeSet<Option<usize>> = graph.readers(place).map(|(_, edge)| edge.case).collect();
    if !node.work.has_output() {
        return Vec::new();
    }
    if let Work::Split(split) = node.work {
        // A name that is there twice is an error of its own.
        let is_again =
            |case: usize, name: &str| case_names(split).take(case).any(|one| one == name);
        let unread = case_names(split)
            .enumerate()
            .filter(|(case, name)| !read.contains(&Some(*case)) && !is_again(*case, name));
        return unread
            .map(|(case, name)| {
                let field = match split.cases.get(case) {
                    Some(_) => format!("split.cases[{case}]"),
                    None => "split.default".to_owned(),
                };
                let message = format!(
                    "no block gets the records of {}.{name}: they are dropped",
                    node.block.name
                );
                about(node, &field, Severity::Warning, message)
            })
            .collect();
    }
    let message = match node.work {
        Work::Alert(Alert { to, event, .. }) if to.is_some() || *event => return Vec::new(),
        Work::Alert(_) => {
            "nobody gets its alerts; give to: {topicRef: …}, event: true, or a sink whose from \
             names it"
        }
        _ => "no block gets its records; give a sink whose from names it, or remove the block",
    };
    match read.is_empty() {
        true => vec![about(node, "", Severity::Error, message.to_owned())],
        false => Vec::new(),
    }
}

fn about(node: &Node<'_>, part: &str, severity: Severity, message: String) -> Finding {
    let field = match part {
        "" => node.field.clone(),
        part => format!("{}.{part}", node.field),
    };
    Finding {
        severity,
        field,
        block: Some(node.block.name.clone()),
        message,
    }
}

/// Topics that are read twice, or written by who reads them.
fn topics(graph: &Graph<'_>, definition: &Definition, names: &TopicNames) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut readers: BTreeMap<&str, &str> = BTreeMap::new();
    for node in &graph.nodes {
        let target = node.work.reads();
        let Some(topic) = target.and_then(|target| target.resolve(names)) else {
            continue;
        };
        if let Some(first) = readers.insert(topic, &node.block.name) {
            let message = format!(
                "{first} reads the topic {topic} already; let the blocks behind this one get \
                 their records from {first}"
            );
            findings.push(about(node, "source.kafka", Severity::Error, message));
        }
    }
    let mut written = |field: String, target: &TopicTarget, block: Option<&str>| {
        let Some(topic) = target.resolve(names) else {
            return;
        };
        let Some(reader) = readers.get(topic) else {
            return;
        };
        let message = format!(
            "{reader} reads the topic {topic}: its records would go round for ever; choose \
             another topic"
        );
        let finding = Finding::error(field, message);
        findings.push(match block {
            Some(block) => finding.of_block(block),
            None => finding,
        });
    };
    for node in &graph.nodes {
        if let Some(target) = node.work.writes() {
            let part = match node.work {
                Work::Alert(_) => "alert.to",
                _ => "sink.kafka",
            };
            let field = format!("{}.{part}", node.field);
            written(field, target, Some(node.block.name.as_str()));
        }
    }
    if let Some(dead_letter) = &definition.errors.dead_letter {
        written("errors.deadLetter".to_owned(), dead_letter, None);
    }
    findings
}
