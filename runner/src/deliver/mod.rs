//! The loop of a stage that reads one topic and delivers its records outside Kafka: at least once by
//! HTTP and MQTT, once as files of S3.
//!
//! One thread owns the consumer. It gives records to a lane for each partition; deliveries run beside
//! it, each in the order of its partition, and a partition that waits holds no other one up. The
//! group's offsets are committed each second, up to what is delivered without a gap. A partition
//! whose lane is full is paused.
//!
//! - [`sink`]: what delivers, as a trait. [`http`], [`mqtt`] and [`s3`] are the sinks; [`package`],
//!   [`signature`], [`file`] and [`lines`] are their parts.
//! - [`lane`]: one partition on its way; [`lanes`]: all of them. They know nothing of Kafka.
//! - [`policy`]: what becomes of records that the sink refuses; [`dead_letters`] writes them.

mod dead_letters;
mod file;
mod http;
mod lane;
mod lanes;
mod lines;
mod mqtt;
mod package;
mod partitions;
mod policy;
mod read;
mod s3;
mod signature;
mod sink;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use freehold_pipeline::block::Block;
use freehold_pipeline::report::Stopped;
use freehold_pipeline::sink::Sink as SinkBlock;
use freehold_pipeline::stage_document::StageDocument;
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::consumer::{CommitMode, Consumer as _};

use crate::client_config;
use crate::config::StageConfig;
use crate::consumer::{ConsumerEvents, StageConsumer};
use crate::figures::Figures;
use crate::http_client::secrets::Secrets;
use crate::placing::Placing;
use crate::process::Process;
use crate::settings::{ClientSettings, stage_config};
use crate::stage_loop::sources::CHECK_EVERY;
use crate::stage_loop::{End, StageError};
use dead_letters::DeadLetters;
use lanes::Lanes;
use policy::{Letters, Policy};
use sink::Sink;

/// Offsets are committed and counts are shown this often.
const TICK: Duration = Duration::from_secs(1);
/// How long a process that is asked to end may take for what is under way.
const END_BUDGET: Duration = Duration::from_secs(15);

/// Runs a stage until the process is asked to end, or it cannot go on.
///
/// # Errors
/// The stage cannot run.
pub fn run(
    document: &StageDocument,
    client: ClientSettings,
    process: &Process,
) -> Result<End, StageError> {
    let definition = &document.definition;
    let is_outside = |block: &&Block| block.sink.as_ref().is_some_and(SinkBlock::is_external);
    let source = definition.blocks.iter().find_map(|block| {
        let source = block.source.as_ref()?;
        Some((block, source, source.kafka.as_ref()?.target.topic.clone()?))
    });
    let sink = definition.blocks.iter().find(is_outside);
    let (Some((source, of, topic)), Some(sink)) = (source, sink) else {
        let why = "it has no source of Kafka, or no sink outside Kafka";
        return Err(StageError::Document(why.to_owned()));
    };
    // A topic of its own goes with the Pipeline: one that is made again has other records in it.
    let owner = (topic == document.group).then(|| document.uid.clone());
    let config = stage_config(document, client, vec![topic], process.ordinal);
    let dead_letter = definition.errors.dead_letter.as_ref();
    let letters = DeadLetters {
        config: &config,
        topic: dead_letter.and_then(|target| target.topic.clone()),
        pipeline: document.pipeline.clone(),
        revision: document.revision,
        block: sink.name.clone(),
        producer: None,
    };
    let policy = Policy::new(definition, [source, sink], letters, &process.blocks);
    let secrets = Secrets::of(&process.secrets);
    let given = sink.sink.clone().unwrap_or_default();
    match given {
        SinkBlock {
            http: Some(http), ..
        } => {
            let sink = http::Http::new(http, of.format(), &secrets);
            run_with(&config, sink, policy, process)
        }
        SinkBlock {
            mqtt: Some(mqtt), ..
        } => {
            let sink = mqtt::Mqtt::new(mqtt, config.instance.clone(), &process.secrets);
            run_with(&config, sink, policy, process)
        }
        SinkBlock { s3: Some(s3), .. } => {
            let sink = s3::S3::new(s3, of.format(), &secrets, owner);
            run_with(&config, sink, policy, process)
        }
        _ => Err(StageError::Document("it has no sink".to_owned())),
    }
}

fn run_with<S: Sink, L: Letters>(
    config: &StageConfig,
    sink: S,
    policy: Policy<L>,
    process: &Process,
) -> Result<End, StageError> {
    config.check()?;
    let client = |error: rdkafka::error::KafkaError| StageError::client("consumer", error);
    let events = ConsumerEvents::new(Arc::clone(&process.figures));
    let settings = client_config::consumer(config)?;
    let consumer = StageConsumer::from_config_and_context(&settings, events).map_err(client)?;
    let topics: Vec<_> = config.topics.iter().map(String::as_str).collect();
    consumer.subscribe(&topics).map_err(client)?;
    let now = Instant::now();
    let deliver = DeliverLoop {
        config,
        consumer: &consumer,
        figures: &process.figures,
        stop: &process.stop,
        lanes: Lanes::new(sink, policy, &process.runtime),
        ownership: Ownership::None,
        assigned: Vec::new(),
        placing: Placing::default(),
        notes: BTreeMap::new(),
        not_before: now,
        next_tick: now,
        next_check: now + CHECK_EVERY,
        source_failed: false,
        end: None,
    };
    deliver.run()
}

/// What the member may do with its partitions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ownership {
    /// It has none.
    None,
    /// It has them, but does not know from where to read. Nothing is read.
    Unplaced,
    /// It reads them.
    Active,
}

struct DeliverLoop<'c, S: Sink, L> {
    config: &'c StageConfig,
    consumer: &'c StageConsumer,
    figures: &'c Figures,
    stop: &'c AtomicBool,
    lanes: Lanes<S, L>,
    ownership: Ownership,
    /// The partitions of this member.
    assigned: Vec<(String, i32)>,
    placing: Placing,
    /// What stands beside the offset of each partition.
    notes: BTreeMap<(String, i32), String>,
    /// The partitions are not placed before this time.
    not_before: Instant,
    next_tick: Instant,
    /// The topics are checked again at this time.
    next_check: Instant,
    /// The consumer had an error about a topic, and no check was good since.
    source_failed: bool,
    end: Option<End>,
}

impl<S: Sink, L: Letters> DeliverLoop<'_, S, L> {
    fn run(mut self) -> Result<End, StageError> {
        while !self.stop.load(Ordering::Relaxed) && self.end.is_none() {
            self.figures.beat();
            self.place();
            self.check_sources();
            self.check_offsets();
            self.read()?;
            self.handle_rebalances();
            if let Some(stopped) = self.lanes.turn() {
                self.stopped(stopped);
            }
            self.rewind();
            self.set_paused();
            self.tick();
        }
        if !matches!(self.end, Some(End::IdentityTaken { .. })) {
            self.finish(END_BUDGET);
        }
        self.count();
        self.lanes.all.clear();
        self.figures.set_assigned(None);
        self.consumer.context().close();
        if self.ownership == Ownership::Unplaced {
            let _ = self.consumer.assign(&rdkafka::TopicPartitionList::new());
        }
        Ok(self.end.unwrap_or(End::Drained))
    }

    /// Commits and reports, once in a while.
    fn tick(&mut self) {
        let now = Instant::now();
        if now < self.next_tick {
            return;
        }
        self.next_tick = now + TICK;
        // Before the offsets: a report without a lag has all counts.
        self.count();
        if self.ownership == Ownership::Active {
            self.commit(CommitMode::Async);
        }
        let (block, problem) = (self.lanes.policy.block(), self.lanes.problem());
        let works = problem.is_none() && self.ownership == Ownership::Active;
        self.figures
            .set_block_problem(block, problem.map(str::to_owned));
        if works {
            self.figures.progress();
        }
        if self.lanes.is_idle() {
            self.figures.settle();
        }
    }

    fn count(&self) {
        self.lanes.policy.publish();
        let [records_in, records_out] = self.lanes.policy.totals();
        let Figures {
            records_in: known_in,
            records_out: known_out,
            ..
        } = self.figures;
        known_in.add(records_in - known_in.get());
        known_out.add(records_out - known_out.get());
    }

    fn stopped(&mut self, stopped: Stopped) {
        self.figures.trouble("stop", None, &stopped.error);
        self.figures.set_stopped(stopped.clone());
        self.end.get_or_insert(End::Stopped(stopped));
    }
}
