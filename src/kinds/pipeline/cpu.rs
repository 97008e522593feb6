//! What the blocks of a Pipeline cost, from what its runners report. Pure.

use crate::api::pipeline::BlockStatus;
use freehold_pipeline::report::{BlockReport, StageReport, merged, of_graph};

/// With fewer records a second there are too few samples for a figure.
const RECORDS_MIN: f64 = 100.0;
/// A figure stays while it is off by no more than this part of it: the status is written rarely.
const STAYS: f64 = 1.0 / 3.0;
/// A replica whose blocks take less than this part of a core waits for something else.
const BUSY: f64 = 0.5;
/// A stage that is behind by less is not held up.
const LAG_SECONDS_MIN: f64 = 5.0;

/// CPU seconds for a million records of a block, to two digits. `parts`: the ends of its stage that
/// belong to it are its own work too.
pub fn seconds_per_million(
    own: Option<&BlockReport>,
    parts: &[&BlockReport],
    known: Option<&BlockStatus>,
) -> Option<f64> {
    let known = known.and_then(|known| known.cpu_seconds_per_million);
    let records = own.map_or(0.0, |own| own.in_per_second);
    let cpu: f64 = parts.iter().map(|part| part.cpu_per_second).sum();
    if records < RECORDS_MIN || cpu <= 0.0 {
        return known;
    }
    let found = cpu / records * 1e6;
    let is_near = |known: &f64| (found - known).abs() <= known * STAYS;
    known.filter(is_near).or_else(|| Some(two_digits(found)))
}

fn two_digits(value: f64) -> f64 {
    let unit = 10_f64.powf(value.log10().floor() - 1.0);
    let rounded = (value / unit).round() * unit;
    // Without the tail that a product of floats has.
    format!("{rounded:.6}").parse().unwrap_or(rounded)
}

/// The block that takes the most CPU time of a stage that is behind and whose replicas are busy.
pub fn slowest(reports: &[StageReport], stage: &str) -> Option<String> {
    let replicas: Vec<StageReport> = reports
        .iter()
        .filter(|report| report.stage == stage)
        .cloned()
        .collect();
    let lags = replicas.iter().filter_map(|replica| replica.lag_seconds);
    let blocks = merged(&replicas);
    let busy: f64 = blocks.iter().map(|block| block.cpu_per_second).sum();
    let is_held = lags.fold(0.0, f64::max) >= LAG_SECONDS_MIN;
    if !is_held || busy < BUSY * replicas.len() as f64 {
        return None;
    }
    let most = blocks
        .iter()
        .max_by(|a, b| a.cpu_per_second.total_cmp(&b.cpu_per_second))?;
    Some(of_graph(&most.name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(name: &str, records: f64, cpu: f64) -> BlockReport {
        BlockReport {
            name: name.to_owned(),
            in_per_second: records,
            cpu_per_second: cpu,
            ..BlockReport::default()
        }
    }

    fn known(cpu: f64) -> BlockStatus {
        BlockStatus {
            cpu_seconds_per_million: Some(cpu),
            ..BlockStatus::default()
        }
    }

    #[test]
    fn what_a_block_costs_has_two_digits_and_stays_while_it_is_near() {
        let own = block("clean", 10_000.0, 0.02345);
        let end = block("clean~out", 10_000.0, 0.001);
        let of =
            |known: Option<&BlockStatus>| seconds_per_million(Some(&own), &[&own, &end], known);
        assert_eq!(of(None), Some(2.4));
        assert_eq!(of(Some(&known(3.0))), Some(3.0));
        assert_eq!(of(Some(&known(1.0))), Some(2.4));
        let few = block("clean", 20.0, 0.01);
        assert_eq!(seconds_per_million(Some(&few), &[&few], None), None);
        assert_eq!(
            seconds_per_million(Some(&few), &[&few], Some(&known(7.0))),
            Some(7.0)
        );
        assert_eq!((two_digits(0.123), two_digits(1_234.0)), (0.12, 1_200.0));
    }

    #[test]
    fn the_slowest_block_is_named_while_a_busy_stage_is_behind() {
        let replica = |lag: f64, cpu: f64| StageReport {
            stage: "in".to_owned(),
            lag_seconds: Some(lag),
            blocks: vec![
                block("in", 1_000.0, 0.1),
                block("clean", 1_000.0, cpu),
                block("clean~out", 1_000.0, 0.05),
            ],
            ..StageReport::default()
        };
        let of = |replicas: &[StageReport]| slowest(replicas, "in");
        let clean = Some("clean".to_owned());
        assert_eq!(of(&[replica(30.0, 0.8), replica(0.0, 0.7)]), clean);
        assert_eq!(of(&[replica(1.0, 0.8)]), None, "it keeps up");
        assert_eq!(of(&[replica(30.0, 0.12)]), None, "it waits for others");
        assert_eq!(of(&[]), None);
        assert_eq!(slowest(&[replica(30.0, 0.8)], "other"), None);
    }
}
