//! The figures as text for Prometheus.

use std::fmt::Write as _;

use freehold_pipeline_blocks::figures::Figures as BlockFigures;

use crate::figures::{Counter, Figures};

/// Writes the figures in Prometheus' text format, and those of blocks by name. `now_ms` is the time
/// in milliseconds since 1970.
#[must_use]
pub fn text(figures: &Figures, blocks: &[(String, BlockFigures)], now_ms: i64) -> String {
    let mut out = String::with_capacity(4 << 10);
    for (name, help, counter) in counters(figures) {
        head(&mut out, &format!("{name}_total"), "counter", help);
        let _ = writeln!(out, "freehold_runner_{name}_total {}", counter.get());
    }
    head(
        &mut out,
        "aborts_total",
        "counter",
        "Batches given up, by reason",
    );
    for (reason, count) in figures.aborts() {
        let _ = writeln!(
            out,
            "freehold_runner_aborts_total{{reason=\"{reason}\"}} {count}"
        );
    }
    partitions(&mut out, figures, now_ms);
    of_blocks(&mut out, blocks);
    head(
        &mut out,
        "progress_age_seconds",
        "gauge",
        "Since the last commit, or since all was read",
    );
    let age = figures.since_progress().as_secs_f64();
    let _ = writeln!(out, "freehold_runner_progress_age_seconds {age:.3}");
    head(
        &mut out,
        "ready",
        "gauge",
        "1 if the stage has its partitions",
    );
    let _ = writeln!(out, "freehold_runner_ready {}", u8::from(figures.ready()));
    out
}

/// Name, meaning and value of each count of the loop.
fn counters(figures: &Figures) -> [(&'static str, &'static str, &Counter); 10] {
    [
        (
            "records_in",
            "Records read and committed",
            &figures.records_in,
        ),
        (
            "bytes_in",
            "Bytes of keys and values read and committed",
            &figures.bytes_in,
        ),
        (
            "records_out",
            "Records written and committed",
            &figures.records_out,
        ),
        (
            "bytes_out",
            "Bytes of keys and values written and committed",
            &figures.bytes_out,
        ),
        ("batches", "Batches begun", &figures.batches),
        ("commits", "Batches committed", &figures.commits),
        (
            "producer_renewals",
            "Producers replaced after an error or a doubt",
            &figures.renewals,
        ),
        (
            "rebalances",
            "Assignments and revocations of partitions",
            &figures.rebalances,
        ),
        (
            "records_again",
            "Records read again because they were not committed",
            &figures.records_again,
        ),
        (
            "refused",
            "Records whose output Kafka refused",
            &figures.refused,
        ),
    ]
}

fn partitions(out: &mut String, figures: &Figures, now_ms: i64) {
    let partitions = figures.partitions();
    head(
        out,
        "lag_records",
        "gauge",
        "Records that are not committed yet, markers of transactions between them included",
    );
    for ((topic, partition), lag) in &partitions {
        let _ = writeln!(
            out,
            "freehold_runner_lag_records{{topic=\"{topic}\",partition=\"{partition}\"}} {}",
            lag.lag_records()
        );
    }
    head(
        out,
        "lag_seconds",
        "gauge",
        "Age of the last committed record while there is a lag",
    );
    for ((topic, partition), lag) in &partitions {
        let _ = writeln!(
            out,
            "freehold_runner_lag_seconds{{topic=\"{topic}\",partition=\"{partition}\"}} {}",
            lag.lag_seconds(now_ms)
        );
    }
}

fn of_blocks(out: &mut String, blocks: &[(String, BlockFigures)]) {
    type Count = fn(&BlockFigures) -> u64;
    let counts: [(&str, &str, Count); 3] = [
        (
            "block_records_in_total",
            "Records that came to a block and are committed",
            |figures| figures.records_in,
        ),
        (
            "block_records_out_total",
            "Records that a block passed on or wrote, committed",
            |figures| figures.records_out,
        ),
        (
            "block_errors_total",
            "Records that a block failed on",
            |figures| figures.errors,
        ),
    ];
    for (name, help, count) in counts {
        head(out, name, "counter", help);
        for (block, figures) in blocks {
            let _ = writeln!(
                out,
                "freehold_runner_{name}{{block=\"{block}\"}} {}",
                count(figures)
            );
        }
    }
    let name = "block_cpu_seconds_total";
    head(
        out,
        name,
        "counter",
        "CPU time of a block's own work on committed records, from a sample of them",
    );
    for (block, figures) in blocks {
        let seconds = figures.cpu_nanos as f64 / 1e9;
        let _ = writeln!(
            out,
            "freehold_runner_{name}{{block=\"{block}\"}} {seconds:.6}"
        );
    }
    let reasons: [(&str, Count); 5] = [
        ("filtered", |figures| figures.filtered),
        ("no-case", |figures| figures.no_case),
        ("not-read", |figures| figures.not_read),
        ("aborted", |figures| figures.aborted),
        ("skipped", |figures| figures.skipped),
    ];
    let name = "block_dropped_total";
    head(
        out,
        name,
        "counter",
        "Records that did not leave a block, by reason",
    );
    for (block, figures) in blocks {
        for (reason, count) in reasons {
            let _ = writeln!(
                out,
                "freehold_runner_{name}{{block=\"{block}\",reason=\"{reason}\"}} {}",
                count(figures)
            );
        }
    }
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP freehold_runner_{name} {help}.");
    let _ = writeln!(out, "# TYPE freehold_runner_{name} {kind}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_has_its_type() {
        let figures = Figures::default();
        figures.records_in.add(3);
        figures.aborted("fenced");
        figures.set_assigned(Some(&[("orders".into(), 2, 10)]));
        figures.partition("orders", 2, |partition| {
            partition.end = 15;
            partition.record_time_ms = 1_000;
        });
        let block = BlockFigures {
            records_in: 4,
            filtered: 3,
            ..BlockFigures::default()
        };
        let text = text(&figures, &[("big".to_owned(), block)], 4_000);
        for line in [
            "freehold_runner_records_in_total 3",
            "freehold_runner_aborts_total{reason=\"fenced\"} 1",
            "freehold_runner_lag_records{topic=\"orders\",partition=\"2\"} 5",
            "freehold_runner_lag_seconds{topic=\"orders\",partition=\"2\"} 3",
            "freehold_runner_ready 0",
            "freehold_runner_block_records_in_total{block=\"big\"} 4",
            "freehold_runner_block_dropped_total{block=\"big\",reason=\"filtered\"} 3",
        ] {
            assert!(text.lines().any(|have| have == line), "{line} in\n{text}");
        }
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        for sample in samples {
            let name = sample.split(['{', ' ']).next().unwrap();
            assert!(text.contains(&format!("# TYPE {name} ")), "{name}");
        }
    }
}
