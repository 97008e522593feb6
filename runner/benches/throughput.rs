//! Measures a stage: records per CPU second and memory, of the loop alone and with programs, exactly
//! once and at least once, one after the other against one broker on loopback. A name with `-bare` is
//! without the crash journal.
//!
//! `cargo bench --profile runner -p freehold-runner --bench throughput [-- RECORDS]`. Each line is a
//! process of its own. CPU seconds are those of the runner alone; the machine's load counts little
//! in them, and nothing else of this compares between machines.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "it prints what it measures"
)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use freehold_pipeline::stage_document::StageDocument;
use freehold_pipeline_blocks::isolation::on_large_stack;
use freehold_runner::config::StageConfig;
use freehold_runner::figures::Figures;
use freehold_runner::flow::{BlockFigures, StageBlocks};
use freehold_runner::journal::Journal;
use freehold_runner::stage_loop::run;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use support::Folder;
use support::broker::Kafka;
use support::copy::Copy;

const FROM: &str = "events";

/// Drops two in ten, adds two fields, renames one.
const LIGHT: &str = r#"
    {"name": "some", "from": ["in"], "filter": {"when": ".status != \"debug\""}},
    {"name": "last", "from": ["some"], "transform": {"vrl":
        ".seen = true\n.source = \"bench\"\n.customer = del(.user)"}},"#;
/// Two patterns and a hash.
const REDACT: &str = r#"
    {"name": "last", "from": ["in"], "transform": {"vrl":
        ".text = redact(.text, filters: [r'[0-9]{4}-[0-9]{4}-[0-9]{4}', r'[a-z]+@[a-z]+']) ?? null\n.user = sha2(string(.user) ?? \"\")"}},"#;

/// An event of about 200 bytes.
fn event(number: u64) -> String {
    let status = ["ok", "ok", "ok", "ok", "debug"][(number % 5) as usize];
    format!(
        "{{\"id\":{number},\"user\":\"user-{}\",\"status\":\"{status}\",\"total\":{}.25,\"text\":\"call \
         4111-2222-3333 or anna@example, then write a few more words to make it long enough\",\
         \"tags\":[\"a\",\"b\",\"c\"],\"nested\":{{\"x\":{number},\"y\":true}}}}",
        number % 977,
        number % 1000
    )
}

fn fill(kafka: &Kafka, records: u64) {
    let mut config = kafka.client();
    config.set("linger.ms", "20").set("compression.type", "lz4");
    config.set("queue.buffering.max.messages", "200000");
    let producer: BaseProducer = config.create().unwrap();
    for number in 0..records {
        let (key, value) = (format!("key-{}", number % 97), event(number));
        let mut record = BaseRecord::to(FROM).key(&key).payload(&value);
        while let Err((_, again)) = producer.send(record) {
            record = again;
            producer.poll(Duration::from_millis(5));
        }
    }
    producer.flush(Duration::from_secs(60)).unwrap();
}

/// CPU seconds of this process: user and system.
fn cpu() -> (f64, f64) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<_> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    let ticks = |at: usize| fields[at].parse::<f64>().unwrap() / 100.0;
    (ticks(11), ticks(12))
}

/// A line of /proc/self/status in KiB.
fn memory(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// One measurement, in a process of its own.
struct Job<'a> {
    bootstrap: &'a str,
    name: &'a str,
    delivery: &'a str,
    blocks: &'a str,
    records: u64,
}

impl Job<'_> {
    fn config(&self) -> StageConfig {
        let Self {
            bootstrap,
            name,
            delivery,
            ..
        } = self;
        serde_json::from_str(&format!(
            r#"{{"kafka": {{"bootstrap": "{bootstrap}"}}, "group": "{name}", "instance": "{name}",
                "topics": ["{FROM}"], "delivery": "{delivery}"}}"#
        ))
        .unwrap()
    }

    /// The blocks, with a crash journal in a folder unless the name says that it has none.
    fn stage(&self, work: &Path) -> Option<StageBlocks> {
        let Self {
            name,
            delivery,
            blocks,
            ..
        } = self;
        if blocks.is_empty() {
            return None;
        }
        let document = format!(
            r#"{{"version": 1, "pipeline": "bench/{name}", "revision": 1, "stage": "in",
                "group": "{name}", "definition": {{"delivery": "{delivery}", "blocks": [
                    {{"name": "in", "source": {{"kafka": {{"topic": "{FROM}"}}}}}}, {blocks}
                    {{"name": "out", "from": ["last"], "sink": {{"kafka": {{"topic": "{name}"}}}}}}
                ]}}}}"#
        );
        let document = StageDocument::read(document.as_bytes()).unwrap();
        let journal = match name.ends_with("-bare") {
            true => Journal::default(),
            false => Journal::open(work, &document),
        };
        Some(StageBlocks::compile(&document, BlockFigures::default(), journal).unwrap())
    }

    fn measure(&self) {
        let (figures, stop) = (
            Arc::new(Figures::default()),
            Arc::new(AtomicBool::new(false)),
        );
        let (seen, ended, records) = (figures.clone(), stop.clone(), self.records);
        let watch = std::thread::spawn(move || {
            // Starting is not part of the figure.
            while seen.commits.get() == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
            let (began, (user, system), first) = (Instant::now(), cpu(), seen.records_in.get());
            while seen.records_in.get() < records {
                std::thread::sleep(Duration::from_millis(5));
            }
            let (wall, (user_end, system_end)) = (began.elapsed().as_secs_f64(), cpu());
            let count = (seen.records_in.get() - first) as f64;
            ended.store(true, Ordering::Relaxed);
            (
                count / (user_end - user + system_end - system),
                count / wall,
            )
        });
        let work = Folder::new("bench-work");
        let end = match self.stage(&work.0) {
            Some(blocks) => run(&self.config(), blocks, &figures, &stop).unwrap(),
            None => {
                let copy = Copy {
                    to: self.name.to_owned(),
                    dead_letter: self.name.to_owned(),
                };
                run(&self.config(), copy, &figures, &stop).unwrap()
            }
        };
        let (by_cpu, by_wall) = watch.join().unwrap();
        println!(
            "| {} | {} | {by_cpu:.0} | {by_wall:.0} | {} | {:?} |",
            self.name,
            self.delivery,
            memory("VmHWM:") / 1_024,
            end
        );
    }
}

/// One block's speed without Kafka: what programs and JSON alone take.
fn alone(name: &str, blocks: &str) {
    use freehold_pipeline_blocks::event::Input;
    use freehold_pipeline_blocks::output::{Output, Outputs};
    struct Count(u64);
    impl Outputs for Count {
        fn write(&mut self, _: Output<'_>) {
            self.0 += 1;
        }
    }
    let document = format!(
        r#"{{"blocks": [{{"name": "in", "source": {{"kafka": {{"topic": "{FROM}"}}}}}}, {blocks}
            {{"name": "out", "from": ["last"], "sink": {{"kafka": {{"topic": "x"}}}}}}]}}"#
    );
    let definition = serde_json::from_str(&document).unwrap();
    let (names, identity) = Default::default();
    let mut flow =
        freehold_pipeline_blocks::flow::Flow::compile(&definition, &names, identity).unwrap();
    let events: Vec<String> = (0..1_000).map(event).collect();
    let ((user, system), mut outputs) = (cpu(), Count(0));
    for round in 0..300 {
        for (offset, event) in events.iter().enumerate() {
            let input = Input {
                topic: FROM,
                partition: 0,
                offset: i64::try_from(offset + round * 1_000).unwrap(),
                timestamp: Some(0),
                key: Some(b"k"),
                value: Some(event.as_bytes()),
                headers: &[],
            };
            flow.process(input, &mut outputs).unwrap();
        }
    }
    let (user_end, system_end) = cpu();
    let by_cpu = 300_000.0 / (user_end - user + system_end - system);
    let peak = memory("VmHWM:") / 1_024;
    println!(
        "| {name} | no Kafka | {by_cpu:.0} | | {peak} | {} out |",
        outputs.0
    );
}

fn main() {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter("warn")
        .init();
    let arguments: Vec<_> = std::env::args()
        .skip(1)
        .filter(|word| word != "--bench")
        .collect();
    if let [child, bootstrap, name, delivery, blocks, records] = &arguments[..]
        && child == "child"
    {
        let (bootstrap, name, delivery) = (bootstrap.clone(), name.clone(), delivery.clone());
        let (blocks, records) = (blocks.clone(), records.parse().unwrap());
        let measure = move || match delivery.as_str() {
            "alone" => alone(&name, &blocks),
            delivery => Job {
                bootstrap: &bootstrap,
                name: &name,
                delivery,
                blocks: &blocks,
                records,
            }
            .measure(),
        };
        on_large_stack(measure).unwrap();
        return;
    }
    let records: u64 = arguments
        .first()
        .map_or(1_000_000, |text| text.parse().unwrap());
    let kafka = Kafka::start("bench", 1, None);
    kafka.create_topic(FROM, 4, &[]);
    fill(&kafka, records);
    println!("{records} events of {} bytes", event(records / 2).len());
    println!("| blocks | delivery | records a CPU second | a second | peak MB | end |");
    println!("| --- | --- | --- | --- | --- | --- |");
    for (name, delivery, blocks) in [
        ("copy-once", "ExactlyOnce", ""),
        ("light", "alone", LIGHT),
        ("light-once", "ExactlyOnce", LIGHT),
        ("light-once-bare", "ExactlyOnce", LIGHT),
        ("light-least", "AtLeastOnce", LIGHT),
        ("redact", "alone", REDACT),
        ("redact-once", "ExactlyOnce", REDACT),
        ("redact-least", "AtLeastOnce", REDACT),
    ] {
        if delivery != "alone" {
            kafka.create_topic(name, 4, &[]);
        }
        let ended = Command::new(std::env::current_exe().unwrap())
            .args(["child", &kafka.bootstrap(), name, delivery, blocks])
            .arg(records.to_string())
            .status();
        assert!(ended.unwrap().success(), "{name}");
    }
}
