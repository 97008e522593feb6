//! Stages that take records from outside Kafka, with a real Kafka and a real MQTT broker.

mod http;
mod mqtt;
mod poll;
mod shared;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use freehold_pipeline::report::StageReport;
use rdkafka::message::Message as _;

use super::Setup;
use super::support::records::each;
use super::support::stage::{Runner, Stage};
use super::support::wait_for;

/// Waits for a report that is so, and returns it.
fn reported(
    runner: &Runner,
    what: &str,
    limit: Duration,
    is_true: impl Fn(&StageReport) -> bool,
) -> StageReport {
    wait_for(what, limit, || runner.report(), is_true)
}

/// Records or requests that a block failed on.
fn errors(report: &StageReport, name: &str) -> u64 {
    let block = report.blocks.iter().find(|block| block.name == name);
    block.map_or(0, |block| block.errors)
}

fn problem(report: &StageReport, name: &str) -> Option<String> {
    let block = report.blocks.iter().find(|block| block.name == name);
    block.and_then(|block| block.problem.clone())
}

/// Key and value of each record of a topic, with how often it is there.
fn all(setup: &Setup, topic: &str) -> BTreeMap<(String, String), u32> {
    let mut seen = BTreeMap::new();
    each(
        &setup.kafka.client(),
        topic,
        Duration::from_secs(30),
        |message| {
            let text = |bytes: Option<&[u8]>| {
                String::from_utf8(bytes.unwrap_or_default().to_vec()).unwrap()
            };
            let both = (text(message.key()), text(message.payload()));
            *seen.entry(both).or_default() += 1;
        },
    );
    seen
}

/// Writes the keys of a Secret for a stage, and returns the folder of its secrets.
fn secrets(stage: &Stage, name: &str, files: &[(&str, &str)]) -> PathBuf {
    for (key, value) in files {
        stage.write_secret(name, key, value);
    }
    stage.secrets()
}
