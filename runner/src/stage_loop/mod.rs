//! The loop of a stage: read a batch, run the blocks, write, commit; and what to do when a step of
//! that fails.
//!
//! One thread owns the consumer and the blocks. Calls of the producer that wait run on the thread of
//! a [`worker`]; meanwhile the loop reads the next batch and notices rebalances.
//!
//! Rules that keep each record exactly once:
//! - Partitions are read from their committed offsets, which are asked for after the producer has
//!   started (it ends what a predecessor left open) and after the group gave the partitions.
//! - Positions are sent with group metadata that is taken at that moment, only for partitions that
//!   are owned at that moment.
//! - After an abort, and when the outcome is unknown, everything that was read is dropped and read
//!   again from the committed offsets.
//! - After any error or doubt at the end of a transaction the next one has a new producer.

mod bounded;
mod deliver;
mod partitions;
mod read;
pub(crate) mod sources;
#[cfg(test)]
mod tests;
pub mod verdict;
pub mod worker;
pub mod write;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::{Duration, Instant};

use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::consumer::{CommitMode, Consumer as _, ConsumerGroupMetadata};
use rdkafka::message::BorrowedMessage;

use crate::backoff::Backoff;
use crate::blocks::Blocks;
use crate::client_config::{self, SecretError};
use crate::config::{ConfigError, StageConfig};
use crate::consumer::{ConsumerEvents, StageConsumer};
use crate::figures::Figures;
use crate::outputs::Outputs;
use crate::placing::{Note, Placing};
use crate::producer::{Discarding, Librdkafka, Producer};
use freehold_pipeline::definition::Delivery;
use freehold_pipeline::report::Stopped;
use worker::Worker;
use write::Refusals;

/// Why a stage ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It was asked to end, and has committed what it had read.
    Drained,
    /// It must not go on: a block said so, or a record cannot be handled.
    Stopped(Stopped),
    /// Another process works with the same id. This one must not start again.
    IdentityTaken { instance: String, message: String },
}

/// The stage cannot run. A new process may help.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error("the stage cannot run:\n{0}")]
    Document(String),
    #[error("cannot make a {client}: {message}")]
    Client {
        client: &'static str,
        message: String,
    },
    #[error("cannot listen at {address}")]
    Listen {
        address: std::net::SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error("the consumer has failed for good: {0}")]
    Consumer(String),
    #[error("{0} producers are stuck in calls that do not end")]
    Stuck(usize),
    #[error("cannot start a thread")]
    Thread(#[source] std::io::Error),
}

impl StageError {
    /// A client that Kafka's library does not make.
    pub(crate) fn client(client: &'static str, error: rdkafka::error::KafkaError) -> Self {
        let message = match error {
            // The text has the value of the setting, which can be a secret.
            rdkafka::error::KafkaError::ClientConfig(_, text, name, _) => format!("{name}: {text}"),
            error => error.to_string(),
        };
        Self::Client { client, message }
    }
}

/// Runs a stage until it is asked to end by `stop`, or cannot go on.
///
/// # Errors
/// The stage cannot run.
pub fn run<B: Blocks>(
    config: &StageConfig,
    blocks: B,
    figures: &Arc<Figures>,
    stop: &AtomicBool,
) -> Result<End, StageError> {
    config.check()?;
    let events = ConsumerEvents::new(Arc::clone(figures));
    let consumer =
        StageConsumer::from_config_and_context(&client_config::consumer(config)?, events)
            .map_err(|error| StageError::client("consumer", error))?;
    let topics: Vec<_> = config.topics.iter().map(String::as_str).collect();
    consumer
        .subscribe(&topics)
        .map_err(|error| StageError::client("consumer", error))?;
    if config
        .bounded
        .as_ref()
        .is_some_and(|bounded| bounded.dry_run)
    {
        let make = || Ok(Discarding);
        return StageLoop::new(config, &consumer, blocks, make, figures, stop).run();
    }
    let make = || {
        // The password is read again: it may have been changed.
        Librdkafka::new(&client_config::producer(config)?, config.delivery)
            .map_err(|error| StageError::client("producer", error))
    };
    StageLoop::new(config, &consumer, blocks, make, figures, stop).run()
}

/// A record that was read and is not committed.
struct Entry<'c> {
    message: BorrowedMessage<'c>,
    /// The place of its partition in `Partitions::owned`.
    partition: usize,
}

/// A partition of this member.
struct Owned {
    topic: Arc<str>,
    partition: i32,
    /// The next offset to read, as committed.
    committed: i64,
    /// The offset after the last record that was read.
    next: i64,
    /// The group has no offset of it yet, and where to start must not be chosen again.
    is_new: bool,
    /// What stands beside its offset.
    note: Note,
    /// Where a bounded stage ends.
    end: Option<i64>,
    /// All before `end` is read.
    is_at_end: bool,
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

/// What the producer does.
enum Phase {
    /// There is none. The next one is made at this time.
    Absent(Instant),
    Starting,
    Ready,
    Committing(Box<deliver::InFlight>),
    Aborting,
}

struct StageLoop<'c, P: Producer, B, F> {
    config: &'c StageConfig,
    consumer: &'c StageConsumer,
    figures: Arc<Figures>,
    stop: &'c AtomicBool,
    blocks: B,
    make: F,
    outputs: Outputs,
    refusals: Refusals,

    worker: Option<Worker<P>>,
    workers: Arc<AtomicUsize>,
    phase: Phase,
    /// The producer must not begin another transaction.
    doubtful: bool,

    ownership: Ownership,
    /// librdkafka waits for `assign`.
    assign_awaited: bool,
    owned: Vec<Owned>,
    placing: Placing,
    /// What is kept with the positions, as committed.
    note: Option<String>,

    batch: Vec<Entry<'c>>,
    batch_bytes: usize,
    batch_since: Instant,
    /// Records of the next transaction, at most: fewer after a failure.
    batch_limit: usize,
    /// Records that are given to the blocks at a time.
    chunk: usize,
    /// The batch is full since then, and cannot be delivered.
    full_since: Option<Instant>,
    paused: bool,

    backoff: Backoff,
    /// No transaction before this time.
    not_before: Instant,
    /// The topics are checked again at this time.
    next_check: Instant,
    /// The consumer had an error about a topic, and no check was good since.
    source_failed: bool,
    end: Option<End>,
}

impl<'c, P, B, F> StageLoop<'c, P, B, F>
where
    P: Producer<Group = ConsumerGroupMetadata>,
    B: Blocks,
    F: Fn() -> Result<P, StageError>,
{
    fn new(
        config: &'c StageConfig,
        consumer: &'c StageConsumer,
        blocks: B,
        make: F,
        figures: &Arc<Figures>,
        stop: &'c AtomicBool,
    ) -> Self {
        let now = Instant::now();
        Self {
            config,
            consumer,
            figures: Arc::clone(figures),
            stop,
            blocks,
            make,
            outputs: Outputs::default(),
            refusals: Refusals::default(),
            worker: None,
            workers: Arc::default(),
            phase: Phase::Absent(now),
            doubtful: false,
            ownership: Ownership::None,
            assign_awaited: false,
            owned: Vec::new(),
            placing: Placing::default(),
            note: None,
            batch: Vec::new(),
            batch_bytes: 0,
            batch_since: now,
            batch_limit: config.limits.batch_records_max,
            chunk: 1,
            full_since: None,
            paused: false,
            backoff: Backoff::default(),
            not_before: now,
            next_check: now + sources::CHECK_EVERY,
            source_failed: false,
            end: None,
        }
    }

    fn run(mut self) -> Result<End, StageError> {
        let mut draining_since = None;
        loop {
            self.figures.beat();
            self.renew_producer()?;
            self.place();
            self.check_sources();
            self.check_offsets();
            self.read()?;
            self.handle_rebalances();
            self.handle_worker(Duration::ZERO);
            if self.end.is_none() && self.is_due() {
                self.deliver();
            }
            self.report_bounds();
            if self.is_stopping() {
                let since = *draining_since.get_or_insert_with(Instant::now);
                if self.is_drained() || since.elapsed() > self.config.limits.watchdog() {
                    self.end.get_or_insert(End::Drained);
                }
            }
            if let Some(end) = self.end.take() {
                self.close();
                return Ok(end);
            }
        }
    }

    fn is_stopping(&self) -> bool {
        self.stop.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Whether nothing is under way and nothing that was read waits to be written.
    fn is_drained(&self) -> bool {
        let busy = matches!(self.phase, Phase::Committing(_) | Phase::Aborting);
        let can_deliver = matches!(self.phase, Phase::Ready) && self.ownership == Ownership::Active;
        !busy && (self.batch.is_empty() || !can_deliver)
    }

    fn close(&mut self) {
        // An open transaction holds up those who read at read_committed until it times out.
        let budget = Duration::from_millis(self.config.limits.revoke_budget_ms);
        let began = Instant::now();
        while matches!(self.phase, Phase::Aborting) && began.elapsed() < budget {
            self.handle_worker(Duration::from_millis(5));
            self.figures.beat();
        }
        self.drop_batch();
        if self.config.delivery == Delivery::AtLeastOnce && self.ownership == Ownership::Active {
            self.commit_offsets(CommitMode::Sync);
        }
        self.worker = None;
        self.figures.set_assigned(None);
        self.consumer.context().close();
        if self.assign_awaited {
            let _ = self.consumer.assign(&rdkafka::TopicPartitionList::new());
        }
    }
}
