//! Measures a stage: events per CPU second and memory, of the loop alone and with programs, exactly
//! once and at least once, one after the other against one broker on loopback; beside its programs
//! without Kafka, and MirrorMaker 2 with the same program (mirror.rs). A name with `-bare` is
//! without the crash journal.
//!
//! `cargo xtask bench pipeline` runs it, and makes a page of its lines of JSON. Each line is of a
//! process of its own. CPU seconds are those of the engine alone; the machine's load counts little
//! in them, and nothing else of this compares between machines.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "it prints what it measures"
)]

mod events;
mod mirror;
mod process;
mod row;
mod stage;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::process::Command;
use std::time::Duration;

use freehold_pipeline_blocks::isolation::on_large_stack;

use events::PROGRAMS;
use row::Row;
use stage::Job;
use support::broker::Kafka;

/// The longest time of one line: what takes longer stands still.
const LIMIT: Duration = Duration::from_secs(600);
const PARTITIONS: i32 = 4;
const RECORDS: u64 = 500_000;
/// The short form (FREEHOLD_BENCH_SHORT) shows that everything works. A stage takes 10 000 records
/// at once, and its first ones are not measured.
const RECORDS_SHORT: u64 = 30_000;
const ALONE: &str = "no Kafka";

fn main() {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter("warn")
        .init();
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    match &arguments[..] {
        [word, job @ ..] if word == "child" => child(job.to_vec()),
        _ => all(std::env::var_os("FREEHOLD_BENCH_SHORT").is_some()),
    }
}

fn all(is_short: bool) {
    let (records, sizes) = match is_short {
        true => (RECORDS_SHORT, &[200][..]),
        false => (RECORDS, &[200, 1_000][..]),
    };
    let kafka = Kafka::start("bench", 1, None);
    let mirror = std::env::var("FREEHOLD_MIRROR").ok();
    for &bytes in sizes {
        kafka.create_topic(&events::topic(bytes), PARTITIONS, &[]);
        events::fill(&kafka, bytes, records);
        for (program, blocks) in PROGRAMS {
            let row = |engine, delivery| Row {
                engine,
                program,
                delivery,
                bytes,
            };
            ours(&kafka, &row("VRL", ALONE), blocks, records);
            ours(&kafka, &row("Freehold", "ExactlyOnce"), blocks, records);
            ours(&kafka, &row("Freehold", "AtLeastOnce"), blocks, records);
            if let Some(mirror) = &mirror {
                mirror::measure(
                    &kafka,
                    mirror,
                    &row("MirrorMaker 2", "ExactlyOnce"),
                    records,
                );
            }
        }
        if !is_short {
            let row = |program| Row {
                engine: "Freehold",
                program,
                delivery: "ExactlyOnce",
                bytes,
            };
            ours(&kafka, &row("copy"), "", records);
            ours(&kafka, &row("light-bare"), PROGRAMS[0].1, records);
        }
    }
}

/// Measures ours in a process of its own.
fn ours(kafka: &Kafka, row: &Row<'_>, blocks: &str, records: u64) {
    if row.delivery != ALONE {
        kafka.create_topic(&stage::output(row), PARTITIONS, &[]);
    }
    let ended = Command::new(std::env::current_exe().unwrap())
        .args(["child", &kafka.bootstrap(), row.engine, row.program])
        .args([row.delivery, &row.bytes.to_string(), blocks])
        .arg(records.to_string())
        .status();
    assert!(ended.unwrap().success(), "{}", stage::output(row));
}

fn child(job: Vec<String>) {
    std::thread::spawn(|| {
        std::thread::sleep(LIMIT);
        eprintln!("not done within {LIMIT:?}");
        std::process::exit(1);
    });
    let measure = move || {
        let [bootstrap, engine, program, delivery, bytes, blocks, records] = &job[..] else {
            panic!("{job:?}");
        };
        let job = Job {
            bootstrap,
            row: Row {
                engine,
                program,
                delivery,
                bytes: bytes.parse().unwrap(),
            },
            blocks,
            records: records.parse().unwrap(),
        };
        match delivery.as_str() {
            ALONE => job.alone(),
            _ => job.measure(),
        }
    };
    on_large_stack(measure).unwrap();
}
