//! `cargo xtask bench pipeline`: events a CPU second and memory of a stage, next to MirrorMaker 2
//! with a transform that does the same, on one broker in one run
//! (runner/benches/throughput). It needs no local cluster.

use crate::bench::load;
use crate::builds;
use crate::cargo::cargo;
use crate::layout::{Layout, version};
use anyhow::{Context, Result};
use freehold_e2e::shell;
use serde::Deserialize;
use std::fmt::Write as _;

const PEER: &str = "MirrorMaker 2";

/// A line of the benchmark's output.
#[derive(Deserialize)]
struct Row {
    engine: String,
    program: String,
    delivery: String,
    bytes: usize,
    events_per_cpu_second: f64,
    events_per_second: f64,
    peak_mb: u64,
}

pub fn bench(layout: &Layout, short: bool, write: bool) -> Result<()> {
    let load_before = load()?;
    // The short form is compiled as the tests are, and in the same command as all of them: with the
    // features of this package alone, VRL would be compiled once more.
    let words: &[&str] = match short {
        true => &[
            "test",
            "--workspace",
            "--features",
            "freehold/fault-injection",
        ],
        false => &[
            "bench",
            "--profile",
            "runner",
            "--package",
            "freehold-runner",
        ],
    };
    let mut bench = cargo(layout, [])?;
    bench.args(words);
    bench.args(["--quiet", "--locked", "--bench", "throughput"]);
    if short {
        bench.env("FREEHOLD_BENCH_SHORT", "1");
    }
    let (java, libs) = builds::broker(layout)?;
    bench
        .env("FREEHOLD_JAVA", java)
        .env("FREEHOLD_KAFKA_LIBS", libs)
        .env("FREEHOLD_MIRROR", builds::mirror(layout)?);
    let text = shell::output(&mut bench)?;
    let rows = rows(&text)?;
    let kafka = version(&layout.repo, "KAFKA")?;
    let page = format!(
        "{HEAD}{}{RECORDED}\nKafka {kafka}. Load of the machine (1, 5, 15 minutes) before: \
         {load_before}; after: {}; two cores, all of it on one machine.\n",
        table(&rows)?,
        load()?
    );
    println!("{page}");
    if write {
        shell::write_file(&layout.repo.join("docs/benchmarks/pipelines.md"), page)?;
    }
    Ok(())
}

/// The lines of JSON among those of the output.
fn rows(text: &str) -> Result<Vec<Row>> {
    let lines = text.lines().filter(|line| line.starts_with('{'));
    let rows = lines.map(|line| serde_json::from_str::<Row>(line).context(line.to_owned()));
    let rows: Vec<Row> = rows.collect::<Result<_>>()?;
    anyhow::ensure!(
        rows.iter().any(|row| row.engine == PEER),
        "the benchmark measured no {PEER}"
    );
    Ok(rows)
}

/// Each row beside that of the peer with the same program and records.
fn table(rows: &[Row]) -> Result<String> {
    let mut table = String::from(
        "| program | bytes | engine | delivery | events a CPU second | ratio | events a second | peak MB |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for row in rows {
        let is_same = |peer: &&Row| {
            peer.engine == PEER && peer.program == row.program && peer.bytes == row.bytes
        };
        let ratio = rows.iter().find(is_same).map_or_else(String::new, |peer| {
            format!(
                "{:.1}",
                row.events_per_cpu_second / peer.events_per_cpu_second
            )
        });
        writeln!(
            table,
            "| {} | {} | {} | {} | {:.0} | {ratio} | {:.0} | {} |",
            row.program,
            row.bytes,
            row.engine,
            row.delivery,
            row.events_per_cpu_second,
            row.events_per_second,
            row.peak_mb
        )?;
    }
    Ok(table)
}

const HEAD: &str = "# Pipelines

Written by `cargo xtask bench pipeline --write`. JSON events from one topic to another, four partitions, one broker on loopback, one
engine after the other in one run. `light` drops one event in five, adds two fields and renames one; `redact` replaces what two regular
expressions find and hashes a field; `copy` has no block, and `light-bare` no crash journal. `VRL` is the program alone, without Kafka: the
ceiling. The peer is MirrorMaker 2's connector in a Connect worker of the same Kafka with the options of Kafka's own script, exactly once,
one task, transactions of at most 2000 records, and a transform in Java (Jackson) that does the same: the benchmark compares the records.

CPU seconds are those of the engine's process; the first fifth of the records is not counted, so that neither starts nor compiles in it.
The ratio is to the peer with the same program and size. Events a second are of a busy machine, where the broker has the same two cores.

";

const RECORDED: &str = "
Aims: 150 000 events a CPU second exactly once for `light` with 200 bytes, and at most 50 MB.

Recorded before on a similar machine with a similar program, not measured in this run: Bento 1.20, at least once, 22 000 to 26 000 events
a CPU second and 123 MB at most with its defaults, 33 000 to 53 000 and 168 MB with batches of 1000; MirrorMaker 2, exactly once,
40 000 to 50 000 and 1291 MB; VRL alone 255 000 to 488 000 and 12 MB.
";

#[cfg(test)]
mod tests {
    use super::*;

    fn line(engine: &str, program: &str, bytes: usize, events: u32) -> String {
        format!(
            r#"{{"engine": "{engine}", "program": "{program}", "delivery": "ExactlyOnce", "bytes": {bytes},
               "events_per_cpu_second": {events}, "events_per_second": 7, "peak_mb": 9}}"#
        )
        .replace('\n', "")
    }

    #[test]
    fn each_ratio_is_to_the_peer_with_the_same_program_and_records() {
        let lines = [
            "running".to_owned(),
            line("Freehold", "light", 200, 120),
            line("MirrorMaker 2", "light", 200, 40),
            line("Freehold", "light", 1000, 100),
            line("MirrorMaker 2", "light", 1000, 50),
            line("Freehold", "copy", 200, 300),
        ];
        let table = table(&rows(&lines.join("\n")).unwrap()).unwrap();
        let found: Vec<_> = table.lines().skip(2).collect();
        assert_eq!(
            found,
            [
                "| light | 200 | Freehold | ExactlyOnce | 120 | 3.0 | 7 | 9 |",
                "| light | 200 | MirrorMaker 2 | ExactlyOnce | 40 | 1.0 | 7 | 9 |",
                "| light | 1000 | Freehold | ExactlyOnce | 100 | 2.0 | 7 | 9 |",
                "| light | 1000 | MirrorMaker 2 | ExactlyOnce | 50 | 1.0 | 7 | 9 |",
                "| copy | 200 | Freehold | ExactlyOnce | 300 |  | 7 | 9 |",
            ]
        );
    }

    #[test]
    fn a_run_without_the_peer_is_no_result() {
        let error = rows(&line("Freehold", "light", 200, 1)).err().unwrap();
        assert!(error.to_string().contains(PEER), "{error}");
    }
}
