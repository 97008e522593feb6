//! A stage that takes records from outside Kafka and writes them to its topics. What sent them
//! hears that they are taken when Kafka has acknowledged them.
//!
//! - [`writer`]: writes records; [`connection`] is Kafka's client, [`room`] bounds what waits.
//! - [`http`], [`mqtt`], [`poll`]: the sources. [`body`] has the records of a request or an answer,
//!   [`refusals`] what becomes of those that are too large.

mod body;
mod connection;
mod counts;
mod http;
mod mqtt;
mod poll;
mod refusals;
mod room;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use freehold_pipeline::block::{Block, Work};
use freehold_pipeline::source::Source;
use freehold_pipeline::stage_document::StageDocument;
use freehold_pipeline::topics::TopicNames;

use crate::process::Process;
use crate::settings::{ClientSettings, stage_config};
use crate::stage_loop::{End, StageError};
use counts::Counts;
use writer::Writer;

/// How often the counts are shown.
const SHOW_EVERY: Duration = Duration::from_millis(500);

/// What the parts of the stage share.
#[derive(Clone)]
struct Shared {
    process: Process,
    writer: Arc<Writer>,
    counts: Arc<Counts>,
    /// Name of the source.
    source: Arc<str>,
}

impl Shared {
    /// Kafka has records of the source.
    fn taken(&self, records: usize, bytes: u64) {
        let figures = &self.process.figures;
        self.counts.passed(&self.source, records);
        figures.records_in.add(records as u64);
        figures.records_out.add(records as u64);
        figures.bytes_in.add(bytes);
        figures.bytes_out.add(bytes);
        figures.progress();
    }

    /// What the source cannot do at the moment; `None`: it works.
    fn source_problem(&self, problem: Option<String>) {
        self.process
            .figures
            .set_block_problem(&self.source, problem);
    }

    /// Whether the stage is to go on; its loop lives.
    fn goes_on(&self) -> bool {
        self.process.figures.beat();
        !self.process.is_stopping()
    }

    /// Another replica reads: waits until the process is asked to end.
    async fn stand_by(&self) -> End {
        self.ready();
        while self.goes_on() {
            tokio::time::sleep(SHOW_EVERY).await;
        }
        End::Drained
    }

    /// The source takes records.
    fn ready(&self) {
        self.process.figures.set_assigned(Some(&[]));
        self.process.figures.set_polled();
    }
}

/// Runs a stage with a source outside Kafka until the process is asked to end.
///
/// # Errors
/// The stage cannot run.
pub fn run(
    document: &StageDocument,
    client: ClientSettings,
    process: &Process,
) -> Result<End, StageError> {
    let blocks = &document.definition.blocks;
    let (block, source) = source(blocks)?;
    let counts = Arc::new(Counts::new(blocks.iter().map(|block| block.name.clone())));
    let config = stage_config(document, client, Vec::new(), process.ordinal);
    let figures = Arc::clone(&process.figures);
    let writer = Writer::new(config, sinks(blocks), figures, Arc::clone(&counts))?;
    let shared = Shared {
        process: process.clone(),
        writer: Arc::new(writer),
        counts,
        source: block.name.as_str().into(),
    };
    process.runtime.spawn(show(shared.clone()));
    process.runtime.spawn(Arc::clone(&shared.writer).watch());
    process.runtime.block_on(async {
        match source.clone() {
            Source {
                http: Some(http), ..
            } => http::run(http, shared).await,
            Source {
                mqtt: Some(mqtt), ..
            } => mqtt::run(mqtt, document, block, shared).await,
            Source {
                http_poll: Some(poll),
                ..
            } => poll::run(poll, document, block, shared).await,
            _ => Err(StageError::Document("no source of it is known".to_owned())),
        }
    })
}

/// Shows what the stage has counted.
async fn show(shared: Shared) {
    loop {
        shared.counts.publish(&shared.process.blocks);
        tokio::time::sleep(SHOW_EVERY).await;
    }
}

fn source(blocks: &[Block]) -> Result<(&Block, &Source), StageError> {
    let mut sources = blocks.iter().filter_map(|block| match block.work() {
        Ok(Work::Source(source)) => Some((block, source)),
        _ => None,
    });
    match (sources.next(), sources.next()) {
        (Some(source), None) => Ok(source),
        _ => Err(StageError::Document("it must have one source".to_owned())),
    }
}

/// The blocks that write, each with its topic.
fn sinks(blocks: &[Block]) -> Vec<(String, String)> {
    let names = TopicNames::default();
    let sinks = blocks.iter().filter_map(|block| {
        let topic = block.work().ok()?.writes()?.resolve(&names)?;
        Some((block.name.clone(), topic.to_owned()))
    });
    sinks.collect()
}
