//! The reassignment planner over generated clusters: time, memory, and moves against the lower
//! bound and against what Kafka's own `kafka-reassign-partitions --generate` proposes for the same
//! cluster.
//!
//! `cargo xtask bench planner` prints a table; `docs/benchmarks/planner.md` keeps one. By itself
//! (`cargo bench -p freehold-kafka --bench planner`) it has no Kafka beside it.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "it prints what it measures"
)]

use freehold_kafka::rebalance::{Broker, Duty, Placement, lower_bound, plan};
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Instant;

/// How partitions lie on brokers before.
#[derive(Clone, Copy, Debug)]
enum Skew {
    Uniform,
    Linear,
    Exponential,
}

/// Small and the same on each run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

fn brokers(count: usize, racks: usize, uneven: bool) -> Vec<Broker> {
    // Uneven: the first rack has half as many as the others.
    let rack = |index: usize| {
        if uneven && index.is_multiple_of(2 * racks) {
            1 % racks
        } else {
            index % racks
        }
    };
    (0..count)
        .map(|index| Broker {
            id: i32::try_from(index).unwrap(),
            rack: format!("r{}", rack(index)),
            duty: Duty::Full,
        })
        .collect()
}

/// Replicas in different racks, more on some brokers than on others.
fn placement(brokers: &[Broker], partitions: usize, factor: usize, skew: Skew) -> Placement {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut racks: Vec<Vec<u16>> = Vec::new();
    let mut names: Vec<&str> = brokers.iter().map(|broker| broker.rack.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    for name in &names {
        let of = brokers
            .iter()
            .enumerate()
            .filter(|(_, broker)| broker.rack == *name);
        racks.push(of.map(|(index, _)| u16::try_from(index).unwrap()).collect());
    }
    let mut placement = Placement::new();
    for partition in 0..partitions {
        let first = usize::try_from(random.next() % racks.len() as u64).unwrap();
        let replicas: Vec<u16> = (0..factor)
            .map(|nth| {
                let rack = &racks[(first + nth) % racks.len()];
                let at = match skew {
                    Skew::Uniform => random.unit(),
                    Skew::Linear => 1.0 - (1.0 - random.unit()).sqrt(),
                    Skew::Exponential => (-random.unit().max(1e-9).ln() / 4.0).min(0.999_999),
                };
                rack[((at * rack.len() as f64) as usize).min(rack.len() - 1)]
            })
            .collect();
        placement.push(replicas, 1 + partition as u64 % 97, false);
    }
    placement
}

/// Replicas that Kafka's tool would move, and the milliseconds that it takes; `None` where it is
/// not at hand.
///
/// `FREEHOLD_REASSIGN` has a Java and the class path of `GenerateAssignment`, with a colon in
/// between.
fn by_kafkas_tool(brokers: &[Broker], before: &Placement) -> Option<(f64, String)> {
    let tool = std::env::var("FREEHOLD_REASSIGN").ok()?;
    let (java, class_path) = tool.split_once(':').expect("java:class path");
    let mut text = String::new();
    for broker in brokers {
        // One that leaves has no rack: it is to hold nothing.
        let rack = if broker.duty == Duty::Full {
            format!(":{}", broker.rack)
        } else {
            String::new()
        };
        text += &format!("{}{rack}\n", broker.id);
    }
    text.push('\n');
    for partition in 0..before.partitions() {
        let ids: Vec<String> = before
            .of(partition)
            .iter()
            .map(|index| brokers[usize::from(*index)].id.to_string())
            .collect();
        text += &ids.join(",");
        text.push('\n');
    }
    let class = "org.apache.kafka.clients.admin.GenerateAssignment";
    let mut child = Command::new(java)
        .args(["-Xmx3g", "-cp", class_path, class])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "GenerateAssignment: {}",
        output.status
    );
    let output = String::from_utf8(output.stdout).unwrap();
    let (moves, took) = output.trim().split_once(' ').unwrap();
    Some((moves.parse().unwrap(), took.to_owned()))
}

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    peak.and_then(|text| text.trim().trim_end_matches(" kB").parse::<u64>().ok())
        .unwrap_or(0)
        / 1024
}

/// A cluster: its name, skew, brokers, racks, whether these are uneven, partitions, replicas of
/// each, and how many brokers have come (below zero) or go.
type Row = (String, Skew, usize, usize, bool, usize, usize, isize);

/// The clusters of the table.
fn full() -> Vec<Row> {
    let mut rows = Vec::new();
    for skew in [Skew::Uniform, Skew::Linear, Skew::Exponential] {
        for (count, racks, uneven) in [
            (6, 3, false),
            (30, 3, false),
            (31, 3, true),
            (210, 6, false),
        ] {
            rows.push((
                format!(
                    "{skew:?}, {count} brokers, {racks} racks{}",
                    if uneven { ", uneven" } else { "" }
                ),
                skew,
                count,
                racks,
                uneven,
                33_334,
                3,
                0,
            ));
        }
    }
    rows.push((
        "added: 30 to 36".into(),
        Skew::Uniform,
        36,
        3,
        false,
        33_334,
        3,
        -6,
    ));
    rows.push((
        "dead: 3 of 30".into(),
        Skew::Uniform,
        30,
        3,
        false,
        33_334,
        3,
        3,
    ));
    rows.push((
        "100 000 partitions, dead: 3 of 60".into(),
        Skew::Uniform,
        60,
        3,
        false,
        100_000,
        3,
        3,
    ));
    rows.push((
        "2.8 million replicas".into(),
        Skew::Linear,
        210,
        6,
        false,
        933_334,
        3,
        0,
    ));
    rows
}

fn main() {
    println!(
        "| cluster | partitions x replicas | ms | moves | lower bound | ratio | Kafka's tool / lower bound | its ms | replicas within | leaders within | fullest disk above its share, % | peak MiB |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    // The short form shows that it works and no more: it is compiled without optimization.
    let is_short = std::env::var_os("FREEHOLD_BENCH_SHORT").is_some();
    let rows = if is_short {
        vec![("short".into(), Skew::Linear, 30, 3, false, 1000, 3, 3)]
    } else {
        full()
    };
    for (name, skew, count, racks, uneven, partitions, factor, change) in rows {
        let mut all = brokers(count, racks, uneven);
        let before = match usize::try_from(-change) {
            // Those that are added hold nothing yet.
            Ok(added) if added > 0 => placement(&all[..count - added], partitions, factor, skew),
            _ => placement(&all, partitions, factor, skew),
        };
        (0..usize::try_from(change).unwrap_or(0)).for_each(|index| all[index].duty = Duty::Leaving);
        let start = Instant::now();
        let planned = plan(&all, &before, 0);
        let took = start.elapsed();
        let bound = lower_bound(&all, &before).max(1);
        let full: Vec<usize> = (0..all.len())
            .filter(|index| all[*index].duty == Duty::Full)
            .collect();
        let mut held = vec![0_usize; all.len()];
        let mut led = vec![0_usize; all.len()];
        planned
            .placement
            .replicas
            .iter()
            .for_each(|broker| held[usize::from(*broker)] += 1);
        (0..planned.placement.partitions())
            .for_each(|partition| led[usize::from(planned.placement.of(partition)[0])] += 1);
        let bytes = planned.placement.bytes_by_broker(all.len());
        let (all_bytes, replicas) = (
            bytes.iter().sum::<u64>() as f64,
            planned.placement.replicas.len() as f64,
        );
        // What as many replicas of average size are.
        let share = |index: usize| all_bytes * held[index] as f64 / replicas;
        let fullest = full
            .iter()
            .map(|index| bytes[*index] as f64 / share(*index))
            .fold(0.0, f64::max);
        let within = |counts: &[usize]| {
            full.iter().map(|index| counts[*index]).max().unwrap()
                - full.iter().map(|index| counts[*index]).min().unwrap()
        };
        let peak = resident_mib();
        let tool = by_kafkas_tool(&all, &before);
        let (times, its_ms) = tool.map_or(("-".to_owned(), "-".to_owned()), |(moves, took)| {
            (format!("{:.1}", moves / bound as f64), took)
        });
        println!(
            "| {name} | {partitions} x {factor} | {:.0} | {} | {bound} | {:.3} | {times} | {its_ms} | {} | {} | {:.1} | {peak} |",
            took.as_secs_f64() * 1000.0,
            planned.moves,
            planned.moves as f64 / bound as f64,
            within(&held),
            within(&led),
            (fullest - 1.0) * 100.0,
        );
    }
}
