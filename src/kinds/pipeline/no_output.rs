//! Finds the block at which all records of a stage end although no filter says so. A filter (and an
//! alert) may drop all records: that is its purpose. Records that match no case, that no block gets
//! or that a program aborts are likely a mistake, if nothing else comes out of the stage either.
//!
//! How long it lasts is in the status (`blocks[].noOutputSince`), so that another operator goes on
//! counting. Less than a record in the time of a rate is not judged. Pure.

use crate::api::pipeline::{BlockStatus, Pipeline};
use crate::kinds::pipeline::desired::replicas as wanted;
use freehold_pipeline::report::{BlockReport, StageReport, merged, of_graph};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use std::collections::BTreeMap;

/// It is said after this time: six windows of the rates. A burst of odd records is shorter.
const HOLD: SignedDuration = SignedDuration::from_secs(60);
/// The part of a block's records that filters may leave unexplained: rates of replicas are sums of
/// rounded numbers.
const TOLERANCE: f64 = 0.001;

/// Blocks at which records end now, each with why.
pub type Silent = BTreeMap<String, &'static str>;

/// The blocks at which the records of a stage end now, as the replicas of these stages report it.
pub fn silent(object: &Pipeline, stages: &[String], reports: &[StageReport]) -> Silent {
    let blocks = object.spec.blocks.iter();
    let ends = blocks.filter(|block| block.sink.is_some() || block.alert.is_some());
    let ends: Vec<&str> = ends.map(|block| &*block.name).collect();
    let is_end = |name: &str| name.ends_with("~out") || ends.contains(&name);
    let of_stage = |stage: &String| {
        let replicas = reports.iter().filter(|report| report.stage == *stage);
        let replicas: Vec<StageReport> = replicas.cloned().collect();
        // Records may come out of the one that does not answer.
        if replicas.len() < usize::try_from(wanted(object, stage)).unwrap_or_default() {
            return None;
        }
        let blocks = merged(&replicas);
        let leaves = |block: &BlockReport| is_end(&block.name) && block.out_per_second > 0.0;
        if blocks.iter().any(leaves) {
            return None;
        }
        let mut blocks = blocks.iter();
        blocks.find_map(|block| Some((of_graph(&block.name).to_owned(), why(block)?)))
    };
    stages.iter().filter_map(of_stage).collect()
}

/// Why no record leaves a block that gets records; `None`: one does, or a filter explains it, or an
/// error does, which is said elsewhere.
fn why(block: &BlockReport) -> Option<&'static str> {
    let comes = block.in_per_second;
    if comes <= 0.0 || block.out_per_second > 0.0 || block.errors_per_second > 0.0 {
        return None;
    }
    let dropped = |reason: &str| block.dropped_per_second.get(reason).copied();
    if dropped("filtered").unwrap_or_default() >= comes * (1.0 - TOLERANCE) {
        return None;
    }
    let reasons = [
        ("no-case", "they match no case"),
        ("not-read", "no block gets them"),
        ("aborted", "its program aborts"),
    ];
    let known = reasons.iter().find(|(reason, _)| dropped(reason).is_some());
    Some(known.map_or("nothing says why", |(_, why)| why))
}

/// Since when records end at a block, to the second.
pub fn since(silent: &Silent, block: &str, old: &[BlockStatus], now: &Time) -> Option<Time> {
    silent.get(block)?;
    let known = old.iter().find(|known| known.name == block);
    let since = known.and_then(|known| known.no_output_since.clone());
    let this_second = || Timestamp::from_second(now.0.as_second()).ok().map(Time);
    since.or_else(this_second)
}

/// What is said of the first block at which records end for long enough.
pub fn words(silent: &Silent, blocks: &[BlockStatus], now: &Time) -> Option<String> {
    let lasts = |block: &&BlockStatus| {
        let since = block.no_output_since.as_ref();
        since.is_some_and(|since| now.0.duration_since(since.0) >= HOLD)
    };
    let block = blocks.iter().find(lasts)?;
    let why = silent.get(&block.name)?;
    let name = &block.name;
    Some(format!(
        "block {name}: records come and none leaves: {why}, and nothing else comes out of the \
         stage; if that is meant, drop them by a filter"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pipeline() -> Pipeline {
        serde_json::from_value(json!({
            "metadata": {"name": "orders", "namespace": "shop"},
            "spec": {"clusterRef": {"name": "demo"}, "blocks": [
                {"name": "in", "source": {"kafka": {"topic": "orders"}}},
                {"name": "big", "from": ["in"], "filter": {"when": ".total > 9"}},
                {"name": "region", "from": ["big"], "split": {"cases": [
                    {"name": "eu", "when": ".region == \"eu\""}]}},
                {"name": "late", "from": ["in"], "alert": {"when": ".late == true"}},
                {"name": "out", "from": ["region.eu", "late"], "sink": {"kafka": {"topic": "eu"}}},
            ]},
        }))
        .unwrap()
    }

    /// A block with records in and out, and dropped ones by reason.
    fn block(name: &str, rates: [f64; 2], dropped: &[(&str, f64)]) -> BlockReport {
        let dropped = dropped.iter();
        BlockReport {
            name: name.to_owned(),
            in_per_second: rates[0],
            out_per_second: rates[1],
            dropped_per_second: dropped
                .map(|(reason, rate)| ((*reason).to_owned(), *rate))
                .collect(),
            ..BlockReport::default()
        }
    }

    fn found(blocks: &[BlockReport]) -> Vec<(String, &'static str)> {
        let report = StageReport {
            stage: "in".to_owned(),
            blocks: blocks.to_vec(),
            ..StageReport::default()
        };
        let silent = silent(&pipeline(), &["in".to_owned()], &[report.clone(), report]);
        silent.into_iter().collect()
    }

    #[test]
    fn a_filter_that_drops_all_is_meant() {
        let blocks = [
            block("in", [9.3, 9.3], &[]),
            block("big", [9.3, 0.0], &[("filtered", 9.3)]),
            block("region", [0.0, 0.0], &[]),
            block("late", [9.3, 0.0], &[("filtered", 9.3)]),
            block("out", [0.0, 0.0], &[]),
        ];
        assert_eq!(found(&blocks), []);
    }

    #[test]
    fn a_consumer_at_rest_is_well() {
        let names = ["in", "big", "region", "late", "out"];
        let blocks = names.map(|name| block(name, [0.0, 0.0], &[]));
        assert_eq!(found(&blocks), []);
        assert_eq!(found(&[]), [], "nobody answers");
    }

    #[test]
    fn a_split_whose_cases_no_record_matches_is_named() {
        let split = block("region", [5.0, 0.0], &[("no-case", 5.0)]);
        let before = [
            block("in", [9.0, 9.0], &[]),
            block("big", [9.0, 5.0], &[("filtered", 4.0)]),
        ];
        let blocks = [&before[..], &[split.clone(), block("out", [0.0, 0.0], &[])]].concat();
        assert_eq!(
            found(&blocks),
            [("region".to_owned(), "they match no case")]
        );
        let blocks = [&before[..], &[split, block("out", [0.1, 0.1], &[])]].concat();
        assert_eq!(found(&blocks), [], "something comes out of the stage");
    }

    #[test]
    fn a_program_that_aborts_and_records_that_vanish_are_named_and_errors_are_not() {
        let aborts = block("big", [5.0, 0.0], &[("aborted", 5.0)]);
        assert_eq!(found(&[aborts]), [("big".to_owned(), "its program aborts")]);
        let vanish = block("out", [5.0, 0.0], &[]);
        assert_eq!(found(&[vanish]), [("out".to_owned(), "nothing says why")]);
        let half = block("big", [5.0, 0.0], &[("filtered", 4.0), ("aborted", 1.0)]);
        assert_eq!(found(&[half]), [("big".to_owned(), "its program aborts")]);
        let fails = BlockReport {
            errors_per_second: 5.0,
            ..block("big", [5.0, 0.0], &[])
        };
        assert_eq!(found(&[fails]), [], "it is said as BlockFailing");
    }

    #[test]
    fn what_leaves_to_an_internal_topic_leaves() {
        let split = block("region", [5.0, 0.0], &[("no-case", 5.0)]);
        let blocks = [split, block("slow~out", [1.0, 1.0], &[])];
        assert_eq!(found(&blocks), []);
    }

    #[test]
    fn nothing_is_said_while_a_replica_does_not_answer() {
        let mut object = pipeline();
        let report = StageReport {
            stage: "in".to_owned(),
            blocks: vec![block("region", [5.0, 0.0], &[("no-case", 5.0)])],
            ..StageReport::default()
        };
        let names = |object: &Pipeline| {
            let found = silent(object, &["in".to_owned()], std::slice::from_ref(&report));
            found.into_keys().collect::<Vec<_>>()
        };
        assert_eq!(names(&object), ["region"]);
        object.spec.replicas = 2;
        assert!(names(&object).is_empty());
    }
}
