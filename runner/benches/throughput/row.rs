//! A line of output: one engine with one program.

use std::time::Instant;

use crate::process;

/// The part of the records that is not measured, because an engine starts with them.
const WARM_UP: u64 = 5;

/// Where the measured part begins.
pub fn first(records: u64) -> u64 {
    records / WARM_UP
}

/// What was measured, of whom.
pub struct Row<'a> {
    pub engine: &'a str,
    pub program: &'a str,
    pub delivery: &'a str,
    pub bytes: usize,
}

/// A measurement that is running.
pub struct Clock {
    pid: u32,
    began: Instant,
    cpu: f64,
}

impl Clock {
    pub fn start(pid: u32) -> Self {
        let (began, cpu) = (Instant::now(), process::cpu(pid));
        Self { pid, began, cpu }
    }

    /// Prints the line, for this many events since the start.
    pub fn stop(&self, row: &Row<'_>, events: u64) {
        let wall = self.began.elapsed().as_secs_f64();
        // The system counts in hundredths.
        let cpu = (process::cpu(self.pid) - self.cpu).max(0.01);
        let per = |seconds: f64| (events as f64 / seconds).round();
        let line = serde_json::json!({
            "engine": row.engine,
            "program": row.program,
            "delivery": row.delivery,
            "bytes": row.bytes,
            "events_per_cpu_second": per(cpu),
            "events_per_second": per(wall),
            "peak_mb": process::peak_mb(self.pid),
        });
        println!("{line}");
    }
}
