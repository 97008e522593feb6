//! Runs records through the blocks of a stage. [`replay`]: dead letters.

mod failures;
mod raise;
pub mod replay;

use crate::alert::{Alert, Receivers};
use crate::blocks::{Runnable, compile_all};
use crate::budget::cpu_time;
use crate::clock;
use crate::dead_letter::PROCESS_DIED;
use crate::event::{Event, Input};
use crate::figures::{Dropped, Figures, LastAlert, LastError, SAMPLE};
use crate::output::{Destination, Output, Outputs, Stop};
use crate::program::{Compiled, Ended, Failure};
use crate::sink;
use freehold_pipeline::definition::{Definition, ErrorPolicy};
use freehold_pipeline::finding::Finding;
use freehold_pipeline::graph::Graph;
use freehold_pipeline::source::Format;
use freehold_pipeline::topics::TopicNames;
use raise::{Raised, raise};
use replay::Pass;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;
use vrl::compiler::runtime::Runtime;

/// Who runs: what dead letters and alerts say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// `<namespace>/<name>` of the Pipeline.
    pub pipeline: String,
    pub revision: u64,
}

/// The blocks of a stage, compiled. Programs are dropped with it: keep it on a thread with a stack
/// of [`STACK_BYTES`].
#[derive(Debug)]
pub struct Flow {
    identity: Identity,
    nodes: Vec<Node>,
    /// The source of each topic.
    sources: HashMap<String, usize>,
    dead_letter: Option<String>,
    runtime: Runtime,
    buffer: Vec<u8>,
    /// The topics that do not take what the record makes.
    refused: Vec<Refused>,
    /// The block that failed last on the record that is worked on.
    failed: Option<usize>,
    /// The blocks that the record has come through, from its source to the one that works on it.
    way: Vec<usize>,
    /// Records that came.
    seen: u64,
    /// The CPU time of the record that is worked on is taken.
    is_sampled: bool,
    /// The record that is worked on is a dead letter.
    letter: Option<Pass>,
}

/// Stack of a thread that runs a [`Flow`]: programs recurse as deeply as they are nested.
pub const STACK_BYTES: usize = 64 * 1024 * 1024;

#[derive(Debug)]
struct Node {
    name: String,
    block: Runnable,
    readers: Vec<Reader>,
    policy: ErrorPolicy,
    output: Format,
    /// It, or a block behind it, changes records.
    changes: bool,
    /// It, or a block behind it, has a program.
    reads: bool,
    /// Several ways lead to it from a source or an alert.
    meets: bool,
    figures: Figures,
    /// The figures at the last [`Flow::committed`].
    committed: Figures,
}

#[derive(Clone, Copy, Debug)]
struct Reader {
    to: usize,
    case: Option<usize>,
}

/// How a record is worked on; by default it is run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Work<'a> {
    /// It is not run, because the process died on it: it fails.
    pub died: Option<Died<'a>>,
    /// The topics that did not take what it made. The blocks that write to them fail on it; what it
    /// makes elsewhere is written. Of a dead letter the topic gets less.
    pub refused: &'a [Refused],
}

/// The end of processes on a record.
#[derive(Clone, Copy, Debug)]
pub struct Died<'a> {
    /// The block that worked on it; `None`: that is not known, and the source fails.
    pub block: Option<&'a str>,
    pub times: u32,
}

/// A topic that has refused what a record makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Name of the topic in Kafka.
    pub topic: String,
    /// Kafka's words.
    pub why: String,
    pub times: u32,
}

/// What became of a record at a block.
enum Fate {
    Passed(Option<usize>),
    Dropped(Dropped),
    Written,
    Raised(Box<Raised>),
    Failed(Failure),
}

impl Flow {
    /// Compiles a stage, on this thread; see [`crate::isolation`].
    ///
    /// # Errors
    /// What is wrong with the graph or with a program.
    pub fn compile(
        definition: &Definition,
        names: &TopicNames,
        identity: Identity,
    ) -> Result<Self, Vec<Finding>> {
        let graph = Graph::of(definition)?;
        let blocks = compile_all(&graph, definition, names, |_| {})?;
        let mut sources = HashMap::new();
        let mut nodes: Vec<Node> = Vec::with_capacity(blocks.len());
        for (place, (block, node)) in blocks.into_iter().zip(&graph.nodes).enumerate() {
            let topic = node.reads(names);
            sources.extend(topic.map(|topic| (topic.to_owned(), place)));
            let cases = match &block {
                Runnable::Split { cases, has_default } => cases.len() + usize::from(*has_default),
                _ => 0,
            };
            let readers = graph.readers(place);
            let before = node.inputs.iter().map(|edge| &nodes[edge.from]);
            let meets = node.inputs.len() > 1
                || before
                    .filter(|node| !node.is_alert())
                    .any(|node| node.meets);
            let figures = Figures {
                cases: vec![0; cases],
                ..Figures::default()
            };
            nodes.push(Node {
                name: node.block.name.clone(),
                readers: readers
                    .map(|(to, edge)| Reader {
                        to,
                        case: edge.case,
                    })
                    .collect(),
                policy: node.policy,
                output: node.output,
                changes: matches!(block, Runnable::Transform(_)),
                reads: !matches!(block, Runnable::Source | Runnable::Sink { .. }),
                meets,
                committed: figures.clone(),
                figures,
                block,
            });
        }
        for place in (0..nodes.len()).rev() {
            let behind = nodes[place].readers.iter().map(|reader| &nodes[reader.to]);
            let found = behind.fold((false, false), |(changes, reads), node| {
                (changes || node.changes, reads || node.reads)
            });
            nodes[place].changes |= found.0;
            nodes[place].reads |= found.1;
        }
        let dead_letter = definition.errors.dead_letter.as_ref();
        Ok(Self {
            identity,
            nodes,
            sources,
            dead_letter: dead_letter
                .and_then(|target| target.resolve(names))
                .map(str::to_owned),
            runtime: Runtime::default(),
            buffer: Vec::new(),
            refused: Vec::new(),
            failed: None,
            way: Vec::new(),
            seen: 0,
            is_sampled: false,
            letter: None,
        })
    }

    /// The topics that it reads.
    pub fn topics(&self) -> impl Iterator<Item = &str> {
        self.sources.keys().map(String::as_str)
    }

    /// Name and counts of each block, in the order of flow.
    pub fn figures(&self) -> impl Iterator<Item = (&str, &Figures)> {
        self.nodes
            .iter()
            .map(|node| (node.name.as_str(), &node.figures))
    }

    /// The block that failed on the last record, and the failure.
    pub fn failure(&self) -> Option<(&str, &LastError)> {
        let node = &self.nodes[self.failed?];
        let error = node.figures.last_error.as_ref()?;
        Some((&node.name, error))
    }

    /// What the last records did is written: it will not be worked on again.
    pub fn committed(&mut self) {
        self.alerts().for_each(Alert::committed);
        for node in &mut self.nodes {
            node.committed.clone_from(&node.figures);
        }
    }

    /// The records since the last [`Self::committed`] will come again: they are not counted yet.
    pub fn rolled_back(&mut self) {
        self.alerts().for_each(Alert::rolled_back);
        for node in &mut self.nodes {
            node.figures.clone_from(&node.committed);
        }
    }

    fn alerts(&mut self) -> impl Iterator<Item = &mut Alert> {
        self.nodes
            .iter_mut()
            .filter_map(|node| match &mut node.block {
                Runnable::Alert(alert) => Some(&mut **alert),
                _ => None,
            })
    }

    /// Runs a record through the blocks. A record of a topic that no source reads is ignored.
    ///
    /// # Errors
    /// A block failed on it whose policy is Stop. What was written for it before must be dropped.
    pub fn process(&mut self, input: Input<'_>, outputs: &mut dyn Outputs) -> Result<(), Stop> {
        self.failed = None;
        let Some(place) = self.sources.get(input.topic).copied() else {
            return Ok(());
        };
        self.way.clear();
        self.way.push(place);
        self.arrive(place);
        self.nodes[place].figures.records_in += 1;
        outputs.entered(&self.nodes[place].name);
        self.seen += 1;
        self.is_sampled = self.seen.is_multiple_of(SAMPLE);
        let began = self.is_sampled.then(cpu_time);
        let event = match self.nodes[place].reads {
            true => Event::decode(input, self.nodes[place].output),
            false => Ok(Event::undecoded(input)),
        };
        self.took_since(place, began);
        match event {
            Ok(mut event) => self.pass(place, None, &mut event, outputs),
            Err(why) => self.fail(place, &input, &Failure::plain(why), outputs),
        }
    }

    /// As [`Self::process`], for a record that something has happened to before.
    ///
    /// # Errors
    /// As [`Self::process`].
    pub fn process_as(
        &mut self,
        input: Input<'_>,
        work: Work<'_>,
        outputs: &mut dyn Outputs,
    ) -> Result<(), Stop> {
        self.refused = work.refused.to_vec();
        let result = match work.died {
            None => self.process(input, outputs),
            Some(died) => self.died(input, died, outputs),
        };
        self.refused.clear();
        result
    }

    fn died(
        &mut self,
        input: Input<'_>,
        Died { block, times }: Died<'_>,
        outputs: &mut dyn Outputs,
    ) -> Result<(), Stop> {
        self.failed = None;
        let Some(source) = self.sources.get(input.topic).copied() else {
            return Ok(());
        };
        self.way.clear();
        self.nodes[source].figures.records_in += 1;
        let named = block.and_then(|block| self.nodes.iter().position(|node| node.name == block));
        let why = Failure {
            attempts: times,
            ..Failure::plain(format!(
                "{PROCESS_DIED}: the process died each of the {times} times that it worked on this \
                 record alone"
            ))
        };
        self.fail(named.unwrap_or(source), &input, &why, outputs)
    }

    /// Gives a record to the readers of a block, or of its case.
    fn pass(
        &mut self,
        place: usize,
        case: Option<usize>,
        event: &mut Event<'_>,
        outputs: &mut dyn Outputs,
    ) -> Result<(), Stop> {
        outputs.passed(place, case, event);
        self.hand_on(place, case, event, outputs)
    }

    /// The same for a record that is shown already.
    fn hand_on(
        &mut self,
        place: usize,
        case: Option<usize>,
        event: &mut Event<'_>,
        outputs: &mut dyn Outputs,
    ) -> Result<(), Stop> {
        if let Some(case) = case {
            self.nodes[place].figures.cases[case] += 1;
        }
        let of_case = |reader: &Reader| reader.case == case;
        let Some(last) = self.nodes[place].readers.iter().rposition(of_case) else {
            self.nodes[place].figures.drop_one(Dropped::NotRead);
            return Ok(());
        };
        for index in 0..=last {
            let reader = self.nodes[place].readers[index];
            if reader.case != case || !self.leads(reader.to) {
                continue;
            }
            self.nodes[place].figures.records_out += 1;
            if index < last && self.nodes[reader.to].changes {
                self.run(reader.to, &mut event.clone(), outputs)?;
            } else {
                self.run(reader.to, event, outputs)?;
            }
        }
        Ok(())
    }

    fn run(
        &mut self,
        place: usize,
        event: &mut Event<'_>,
        outputs: &mut dyn Outputs,
    ) -> Result<(), Stop> {
        self.way.push(place);
        let has_opened = self.arrive(place);
        let result = self.run_block(place, event, outputs);
        self.way.pop();
        if has_opened {
            self.leave();
        }
        result
    }

    fn run_block(
        &mut self,
        place: usize,
        event: &mut Event<'_>,
        outputs: &mut dyn Outputs,
    ) -> Result<(), Stop> {
        self.nodes[place].figures.records_in += 1;
        outputs.entered(&self.nodes[place].name);
        // A panic in a function of VRL is an error of the record, not the end of the process.
        let began = self.is_sampled.then(cpu_time);
        let fate = catch_unwind(AssertUnwindSafe(|| self.work(place, event, outputs)));
        self.took_since(place, began);
        match fate.unwrap_or_else(|_| Fate::Failed(Failure::plain("a function of VRL panicked"))) {
            Fate::Passed(case) => self.pass(place, case, event, outputs),
            Fate::Dropped(why) => {
                self.nodes[place].figures.drop_one(why);
                self.dropped();
                Ok(())
            }
            Fate::Written => {
                self.nodes[place].figures.records_out += 1;
                Ok(())
            }
            Fate::Raised(raised) => {
                let input = Input {
                    key: Some(&raised.group),
                    value: Some(raised.text.as_bytes()),
                    headers: &[],
                    timestamp: Some(raised.at),
                    ..event.input
                };
                self.raised(place, input, outputs)
            }
            Fate::Failed(why) => {
                let input = event.input;
                self.fail(place, &input, &why, outputs)
            }
        }
    }

    /// What a block did since then is its own work.
    fn took_since(&mut self, place: usize, began: Option<Duration>) {
        if let Some(began) = began {
            let took = cpu_time().saturating_sub(began);
            self.nodes[place].figures.took(took);
        }
    }

    /// Writes an alert, remembers it for the operator, and gives it to the blocks behind.
    fn raised(
        &mut self,
        place: usize,
        alert: Input<'_>,
        outputs: &mut dyn Outputs,
    ) -> Result<(), Stop> {
        let node = &mut self.nodes[place];
        let Runnable::Alert(block) = &node.block else {
            return Ok(());
        };
        let Receivers { topic, event } = &block.receivers;
        if *event {
            node.figures.last_alert = Some(LastAlert {
                address: alert.address(),
                at: clock::now_ms(),
            });
        }
        if topic.is_some() || (*event && node.readers.is_empty()) {
            node.figures.records_out += 1;
        }
        if let Some(topic) = topic {
            outputs.write(Output {
                node: place,
                topic,
                destination: Destination::Key,
                key: alert.key,
                value: alert.value,
                headers: alert.headers,
                timestamp: alert.timestamp,
            });
        }
        let (is_written, is_end) = (topic.is_some(), node.readers.is_empty());
        if is_end && is_written {
            return Ok(());
        }
        let ends_here = is_end && *event;
        match Event::decode(alert, Format::Json) {
            Ok(mut event) => {
                if !is_written {
                    outputs.passed(place, None, &event);
                }
                match ends_here {
                    true => Ok(()),
                    false => self.hand_on(place, None, &mut event, outputs),
                }
            }
            Err(why) => self.fail(place, &alert, &Failure::plain(why), outputs),
        }
    }

    fn work(&mut self, place: usize, event: &mut Event<'_>, outputs: &mut dyn Outputs) -> Fate {
        let Self {
            nodes,
            runtime,
            buffer,
            identity,
            refused,
            ..
        } = self;
        let node = &mut nodes[place];
        let mut refused = refused.iter();
        if let Some(topic) = node.block.writes()
            && let Some(Refused { why, .. }) = refused.find(|refused| refused.topic == *topic)
        {
            return Fate::Failed(Failure::plain(format!("{topic} does not take it: {why}")));
        }
        match &mut node.block {
            Runnable::Source => Fate::Passed(None),
            Runnable::Transform(program) => transform(program, runtime, event),
            Runnable::Filter(condition) => match condition.holds(runtime, event) {
                Ok(true) => Fate::Passed(None),
                Ok(false) => Fate::Dropped(Dropped::Filtered),
                // Who reads the output may have the record that it deletes.
                Err(_) if event.is_tombstone() => Fate::Passed(None),
                Err(why) => Fate::Failed(why),
            },
            Runnable::Split { cases, has_default } => {
                for (index, condition) in cases.iter().enumerate() {
                    match condition.holds(runtime, event) {
                        Ok(true) => return Fate::Passed(Some(index)),
                        Ok(false) => {}
                        Err(_) if event.is_tombstone() => {}
                        Err(why) => return Fate::Failed(why),
                    }
                }
                match has_default {
                    true => Fate::Passed(Some(cases.len())),
                    false => Fate::Dropped(Dropped::NoCase),
                }
            }
            Runnable::Alert(alert) => raise(alert, &node.name, identity, runtime, event),
            Runnable::Sink {
                topic,
                partitioning,
            } => {
                buffer.clear();
                match sink::write(
                    place,
                    topic,
                    *partitioning,
                    node.output,
                    event,
                    buffer,
                    outputs,
                ) {
                    Ok(()) => Fate::Written,
                    Err(why) => Fate::Failed(Failure::plain(why)),
                }
            }
        }
    }
}

impl Node {
    fn is_alert(&self) -> bool {
        matches!(self.block, Runnable::Alert(_))
    }
}

fn transform(program: &Compiled, runtime: &mut Runtime, event: &mut Event<'_>) -> Fate {
    // A record without a value deletes its key in a compacted topic: no program may revive it.
    if event.is_tombstone() {
        return Fate::Passed(None);
    }
    event.set_changed();
    match program.run(runtime, event) {
        Ok(_) => Fate::Passed(None),
        Err(Ended::Aborted) => Fate::Dropped(Dropped::Aborted),
        Err(Ended::Failed(why)) => Fate::Failed(why),
    }
}
