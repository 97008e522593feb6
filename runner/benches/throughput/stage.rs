//! Our stage, and its programs without Kafka.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use freehold_pipeline::stage_document::StageDocument;
use freehold_pipeline_blocks::event::Input;
use freehold_pipeline_blocks::flow::Flow;
use freehold_pipeline_blocks::output::{Output, Outputs};
use freehold_runner::config::StageConfig;
use freehold_runner::figures::Figures;
use freehold_runner::flow::{BlockFigures, StageBlocks};
use freehold_runner::journal::Journal;
use freehold_runner::stage_loop::run;

use crate::events::{event, topic};
use crate::row::{Clock, Row, first};
use crate::support::Folder;
use crate::support::copy::Copy;

/// One measurement, in a process of its own.
pub struct Job<'a> {
    pub bootstrap: &'a str,
    pub row: Row<'a>,
    pub blocks: &'a str,
    pub records: u64,
}

/// The topic that a stage writes; also its group.
pub fn output(row: &Row<'_>) -> String {
    format!("{}-{}-{}", row.program, row.bytes, row.delivery)
}

impl Job<'_> {
    fn config(&self) -> StageConfig {
        let (name, from) = (output(&self.row), topic(self.row.bytes));
        serde_json::from_str(&format!(
            r#"{{"kafka": {{"bootstrap": "{}"}}, "group": "{name}", "instance": "{name}",
                "topics": ["{from}"], "delivery": "{}"}}"#,
            self.bootstrap, self.row.delivery
        ))
        .unwrap()
    }

    /// The blocks, with a crash journal in a folder unless the name says that it has none.
    fn stage(&self, work: &Path) -> Option<StageBlocks> {
        if self.blocks.is_empty() {
            return None;
        }
        let (name, from) = (output(&self.row), topic(self.row.bytes));
        let document = format!(
            r#"{{"version": 1, "pipeline": "bench/{name}", "revision": 1, "stage": "in",
                "group": "{name}", "definition": {{"delivery": "{}", "blocks": [
                    {{"name": "in", "source": {{"kafka": {{"topic": "{from}"}}}}}}, {}
                    {{"name": "out", "from": ["last"], "sink": {{"kafka": {{"topic": "{name}"}}}}}}
                ]}}}}"#,
            self.row.delivery, self.blocks
        );
        let document = StageDocument::read(document.as_bytes()).unwrap();
        let journal = match self.row.program.ends_with("-bare") {
            true => Journal::default(),
            false => Journal::open(work, &document),
        };
        Some(StageBlocks::compile(&document, BlockFigures::default(), journal).unwrap())
    }

    pub fn measure(&self) {
        let (figures, stop) = (
            Arc::new(Figures::default()),
            Arc::new(AtomicBool::new(false)),
        );
        let (seen, ended, records) = (figures.clone(), stop.clone(), self.records);
        let watch = std::thread::spawn(move || {
            let wait_for = |count: u64| {
                while seen.commits.get() == 0 || seen.records_in.get() < count {
                    std::thread::sleep(Duration::from_millis(1));
                }
                seen.records_in.get()
            };
            let before = wait_for(first(records));
            let clock = Clock::start(std::process::id());
            let events = wait_for(records) - before;
            ended.store(true, Ordering::Relaxed);
            (clock, events)
        });
        let work = Folder::new("bench-work");
        match self.stage(&work.0) {
            Some(blocks) => run(&self.config(), blocks, &figures, &stop).unwrap(),
            None => {
                let to = output(&self.row);
                let dead_letter = to.clone();
                run(&self.config(), Copy { to, dead_letter }, &figures, &stop).unwrap()
            }
        };
        // With the end of the last transaction.
        let (clock, events) = watch.join().unwrap();
        clock.stop(&self.row, events);
    }

    /// What programs and JSON alone take.
    pub fn alone(&self) {
        let (row, from) = (&self.row, topic(self.row.bytes));
        let document = format!(
            r#"{{"blocks": [{{"name": "in", "source": {{"kafka": {{"topic": "{from}"}}}}}}, {}
                {{"name": "out", "from": ["last"], "sink": {{"kafka": {{"topic": "x"}}}}}}]}}"#,
            self.blocks
        );
        let definition = serde_json::from_str(&document).unwrap();
        let (names, identity) = Default::default();
        let mut flow = Flow::compile(&definition, &names, identity).unwrap();
        let some: Vec<String> = (0..1_000).map(|number| event(number, row.bytes)).collect();
        let (clock, mut outputs) = (Clock::start(std::process::id()), Count(0));
        for (offset, event) in (0..self.records).zip(some.iter().cycle()) {
            let input = Input {
                topic: &from,
                partition: 0,
                offset: i64::try_from(offset).unwrap(),
                timestamp: Some(0),
                key: Some(b"k"),
                value: Some(event.as_bytes()),
                headers: &[],
            };
            flow.process(input, &mut outputs).unwrap();
        }
        assert!(outputs.0 > 0, "nothing came out");
        clock.stop(row, self.records);
    }
}

struct Count(u64);

impl Outputs for Count {
    fn write(&mut self, _: Output<'_>) {
        self.0 += 1;
    }
}
