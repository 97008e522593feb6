//! Stages that deliver records outside Kafka, with a real Kafka, while processes are killed.

mod endpoint;
mod gaps;
mod http;
mod mqtt;
mod s3;

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::message::{Headers as _, Message as _};

use freehold_pipeline::report::{BlockReport, StageReport};

use super::support::records::each;
use super::support::stage::Runner;
use super::support::wait_for;

/// A record as it is in a topic.
#[derive(Debug)]
pub struct Stored {
    pub partition: i32,
    pub offset: i64,
    pub number: u64,
    pub headers: BTreeMap<String, String>,
}

/// Reads a topic of numbers from its beginning to its end at this moment.
pub fn stored(client: &ClientConfig, topic: &str) -> Vec<Stored> {
    let mut all = Vec::new();
    each(client, topic, Duration::from_secs(30), |message| {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let headers = message.headers().unwrap().iter();
        all.push(Stored {
            partition: message.partition(),
            offset: message.offset(),
            number: text(message.payload().unwrap()).trim().parse().unwrap(),
            headers: headers
                .map(|header| (header.key.to_owned(), text(header.value.unwrap_or(b""))))
                .collect(),
        });
    });
    all
}

/// The report of the sink's block, once it is so.
fn wait_for_sink(
    runner: &Runner,
    what: &str,
    limit: Duration,
    is_true: impl Fn(&StageReport, &BlockReport) -> bool,
) -> BlockReport {
    let sink = |report: &StageReport| {
        let mut blocks = report.blocks.iter();
        let found = blocks.find(|block| block.name == "out");
        found.cloned().unwrap_or_default()
    };
    let ask = || runner.report();
    let report = wait_for(what, limit, ask, |report| is_true(report, &sink(report)));
    sink(&report)
}
