//! What a runner answers at `GET /status`: JSON about one replica of a stage. Rates are over the
//! last [`WINDOW_SECS`], so that who asks keeps no state.

use crate::address::Address;
use crate::replay::ReplayReport;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The time that rates are taken over.
pub const WINDOW_SECS: u64 = 10;

/// One replica of a stage.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StageReport {
    /// `<namespace>/<name>` of the Pipeline.
    pub pipeline: String,
    /// Name of the stage.
    pub stage: String,
    /// Number of the revision that it runs.
    pub revision: u64,
    /// Number of the replica, from 0.
    pub ordinal: u32,
    /// It reads its partitions, and nothing keeps it from going on.
    pub ready: bool,
    /// Why it is not ready, or what does not work at the moment; else empty. Never the content of a
    /// record.
    pub message: String,
    /// It has stopped, and does not go on by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stopped: Option<Stopped>,
    /// Records of its partitions that are not committed yet, up to the last stable offset. `None`:
    /// not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag: Option<u64>,
    /// Age in seconds of the last committed record of the partition that is furthest behind; 0
    /// without a lag. `None`: not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag_seconds: Option<f64>,
    /// Its blocks, in the order of flow.
    pub blocks: Vec<BlockReport>,
    /// How far its replay is, if that is what it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replay: Option<ReplayReport>,
}

/// Why a stage has stopped, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Stopped {
    /// The block that stopped it. `None`: no block did it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block: Option<String>,
    /// Why; never the content of a record.
    pub error: String,
    /// The record before which it stopped. `None`: not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<Address>,
}

/// A block of a stage. The blocks at the ends of a stage have the names that the stage gives them
/// (`<block>~in`, `<block>~out`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BlockReport {
    pub name: String,
    /// Records that came to it.
    pub in_per_second: f64,
    /// Records that it passed on or wrote.
    pub out_per_second: f64,
    /// Records that it failed on.
    pub errors_per_second: f64,
    /// Records that did not leave it, by reason (`filtered`, `no-case`, `not-read`, `aborted`,
    /// `skipped`); only reasons that occurred.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub dropped_per_second: BTreeMap<String, f64>,
    /// CPU seconds of its own work in a second, without that of the blocks behind it; an estimate
    /// from a sample of its records.
    pub cpu_per_second: f64,
    /// Records that it failed on since the process started.
    pub errors: u64,
    /// What it cannot do at the moment: its topic or a right is missing. It is gone when it works.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<LastError>,
    /// The last alert that the operator writes an Event for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_alert: Option<LastAlert>,
}

/// The last failure of a block since the process started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LastError {
    /// Never the content of a record.
    pub summary: String,
    /// The record that it failed on. `None`: the failure is not about a record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Address>,
    /// Milliseconds since 1970.
    pub time_ms: i64,
}

/// The last alert of a block since the process started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LastAlert {
    /// The record that it was raised for.
    pub address: Address,
    /// Milliseconds since 1970.
    pub time_ms: i64,
}

/// The reasons for which a record does not leave a block: keys of `dropped_per_second`.
pub const DROPPED: [&str; 5] = ["filtered", "no-case", "not-read", "aborted", "skipped"];

/// The block of the graph that a block of a stage belongs to.
pub fn of_graph(block: &str) -> &str {
    block.split('~').next().unwrap_or(block)
}

/// The blocks of several replicas as one: sums, the newest error, the first problem. Blocks are in
/// the order in which they first occur.
pub fn merged(replicas: &[StageReport]) -> Vec<BlockReport> {
    let mut blocks: Vec<BlockReport> = Vec::new();
    for block in replicas.iter().flat_map(|replica| &replica.blocks) {
        match blocks.iter_mut().find(|known| known.name == block.name) {
            Some(known) => known.add(block),
            None => blocks.push(block.clone()),
        }
    }
    blocks
}

impl BlockReport {
    fn add(&mut self, other: &Self) {
        let Self {
            name: _,
            in_per_second,
            out_per_second,
            errors_per_second,
            dropped_per_second,
            cpu_per_second,
            errors,
            problem,
            last_error,
            last_alert,
        } = other;
        self.in_per_second += in_per_second;
        self.out_per_second += out_per_second;
        self.errors_per_second += errors_per_second;
        self.cpu_per_second += cpu_per_second;
        for (reason, rate) in dropped_per_second {
            *self.dropped_per_second.entry(reason.clone()).or_default() += rate;
        }
        self.errors = self.errors.saturating_add(*errors);
        if self.problem.is_none() {
            self.problem.clone_from(problem);
        }
        let time = |error: &Option<LastError>| error.as_ref().map(|error| error.time_ms);
        if time(last_error) > time(&self.last_error) {
            self.last_error.clone_from(last_error);
        }
        let time = |alert: &Option<LastAlert>| alert.as_ref().map(|alert| alert.time_ms);
        if time(last_alert) > time(&self.last_alert) {
            self.last_alert.clone_from(last_alert);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
    use super::*;

    fn error(time_ms: i64, offset: i64) -> Option<LastError> {
        Some(LastError {
            summary: "not JSON".to_owned(),
            address: format!("orders/0/{offset}").parse().ok(),
            time_ms,
        })
    }

    fn alert(time_ms: i64) -> Option<LastAlert> {
        let address = "orders/0/4".parse().unwrap();
        Some(LastAlert { address, time_ms })
    }

    fn replica(blocks: &[BlockReport]) -> StageReport {
        StageReport {
            blocks: blocks.to_vec(),
            ..StageReport::default()
        }
    }

    fn clean() -> BlockReport {
        BlockReport {
            name: "clean".to_owned(),
            in_per_second: 2.5,
            out_per_second: 1.5,
            errors_per_second: 0.5,
            dropped_per_second: BTreeMap::from([("aborted".to_owned(), 0.5)]),
            cpu_per_second: 0.25,
            errors: 7,
            problem: None,
            last_error: error(1_000, 3),
            last_alert: alert(1_500),
        }
    }

    #[test]
    fn a_report_is_read_as_it_is_written_and_unknown_fields_are_ignored() {
        let report = StageReport {
            pipeline: "shop/orders".to_owned(),
            lag: Some(4),
            lag_seconds: Some(1.5),
            stopped: Some(Stopped {
                block: Some("clean".to_owned()),
                error: "not JSON".to_owned(),
                address: "orders/0/3".parse().ok(),
            }),
            ..replica(&[clean()])
        };
        let mut json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["blocks"][0]["lastError"]["address"]["offset"], 3);
        assert_eq!(json["blocks"][0]["droppedPerSecond"]["aborted"], 0.5);
        json["blocks"][0]["later"] = true.into();
        json["later"] = true.into();
        assert_eq!(serde_json::from_value::<StageReport>(json).unwrap(), report);
    }

    #[test]
    fn replicas_are_summed_with_the_newest_error() {
        let other = BlockReport {
            dropped_per_second: BTreeMap::from([
                ("aborted".to_owned(), 1.0),
                ("skipped".to_owned(), 2.0),
            ]),
            problem: Some("topic out: unknown topic".to_owned()),
            last_error: error(2_000, 9),
            last_alert: alert(900),
            ..clean()
        };
        let silent = BlockReport {
            name: "clean".to_owned(),
            ..BlockReport::default()
        };
        let source = BlockReport {
            name: "in".to_owned(),
            ..BlockReport::default()
        };
        let replicas = [
            replica(&[source.clone(), clean()]),
            replica(&[source.clone(), other.clone()]),
            replica(&[source.clone(), silent]),
        ];
        let expected = BlockReport {
            name: "clean".to_owned(),
            in_per_second: 5.0,
            out_per_second: 3.0,
            errors_per_second: 1.0,
            dropped_per_second: BTreeMap::from([
                ("aborted".to_owned(), 1.5),
                ("skipped".to_owned(), 2.0),
            ]),
            cpu_per_second: 0.5,
            errors: 14,
            last_alert: alert(1_500),
            ..other
        };
        assert_eq!(merged(&replicas), [source, expected]);
        assert_eq!(merged(&[]), []);
    }
}
