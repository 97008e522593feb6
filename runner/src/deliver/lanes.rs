//! All partitions of a member on their way to the sink. It knows nothing of Kafka: records come in,
//! and positions go out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use freehold_pipeline::report::Stopped;
use tokio::runtime::Handle;

use crate::deliver::lane::Lane;
use crate::deliver::policy::{Letters, Policy};
use crate::deliver::sink::Sink;
use crate::record::Record;

/// Deliveries at once.
const UNDER_WAY_MAX: usize = 8;
/// A turn writes dead letters for this time, and what is left in the next one.
const TURN_MAX: Duration = Duration::from_secs(1);
/// Bytes of parcels of all partitions. Above it the largest one is delivered early, and nothing is
/// read.
const HELD_BYTES_MAX: usize = 16 << 20;

/// The partitions, the sink, and the policy for what it refuses.
pub struct Lanes<S: Sink, L> {
    pub all: Vec<Lane<S>>,
    pub policy: Policy<L>,
    sink: Arc<S>,
    runtime: Handle,
    /// The lane that begins first in the next turn.
    first: usize,
    /// What does not work, as last found.
    problem: Option<String>,
}

impl<S: Sink, L: Letters> Lanes<S, L> {
    /// Without partitions.
    pub fn new(sink: S, policy: Policy<L>, runtime: &Handle) -> Self {
        Self {
            all: Vec::new(),
            policy,
            sink: Arc::new(sink),
            runtime: runtime.clone(),
            first: 0,
            problem: None,
        }
    }

    /// Takes a record of a partition; one of no known partition is ignored. Whether the partition has
    /// room for more.
    pub fn push(&mut self, record: &Record<'_>) -> bool {
        let is_its = |lane: &&mut Lane<S>| {
            lane.partition == record.partition && *lane.topic == *record.topic
        };
        let Some(lane) = self.all.iter_mut().find(is_its) else {
            return true;
        };
        lane.push(&self.sink, &self.policy, record);
        !lane.is_full(&self.sink)
    }

    /// Takes in what is delivered, and begins what is due.
    pub fn turn(&mut self) -> Option<Stopped> {
        self.work(false)
    }

    /// As [`Self::turn`]; what is not due is delivered as well if the sink wants it, and what is
    /// under way ends soon. Nothing more was pushed.
    pub fn end(&mut self) -> Option<Stopped> {
        self.all.iter().for_each(Lane::halt);
        self.work(true)
    }

    /// Whether nothing more can be delivered before the end: what failed is not tried again.
    pub fn is_at_end(&self) -> bool {
        self.all.iter().all(|lane| {
            let is_done = lane.is_idle() || lane.waits() || !S::FLUSHES;
            is_done && !lane.is_under_way()
        })
    }

    fn work(&mut self, ends: bool) -> Option<Stopped> {
        let mut stopped = None;
        let is_above = self.held() > HELD_BYTES_MAX;
        let largest = self
            .all
            .iter()
            .map(|lane| lane.could_free(&self.sink))
            .max();
        for lane in &mut self.all {
            let found = lane.progress(&self.sink, &mut self.policy, &self.runtime);
            stopped = stopped.or(found);
            let is_largest = is_above && Some(lane.could_free(&self.sink)) == largest;
            lane.seal(
                &self.sink,
                is_largest || (ends && S::FLUSHES),
                Instant::now(),
            );
        }
        if stopped.is_none() && (!ends || S::FLUSHES) {
            stopped = self.begin();
        }
        let now = Instant::now();
        self.problem = self.all.iter().find_map(|lane| lane.problem(now));
        stopped
    }

    fn begin(&mut self) -> Option<Stopped> {
        let count = self.all.len();
        let mut under_way = self.all.iter().filter(|lane| lane.is_under_way()).count();
        self.first = (self.first + 1) % count.max(1);
        let until = Instant::now() + TURN_MAX;
        for place in 0..count {
            let lane = &mut self.all[(self.first + place) % count];
            // Refused records are handled first, each for itself, and the loop must go on.
            while under_way < UNDER_WAY_MAX && lane.can_begin(Instant::now()) {
                if Instant::now() >= until {
                    return None;
                }
                let stopped = lane.begin(&self.sink, &mut self.policy, &self.runtime);
                if stopped.is_some() {
                    return stopped;
                }
                under_way += usize::from(lane.is_under_way());
            }
        }
        None
    }

    fn held(&self) -> usize {
        self.all.iter().map(|lane| lane.held(&self.sink)).sum()
    }

    /// For each partition, in order, whether it must not be read now.
    pub fn full(&self) -> Vec<bool> {
        let is_above = self.held() > HELD_BYTES_MAX;
        let all = self.all.iter();
        all.map(|lane| is_above || lane.is_full(&self.sink))
            .collect()
    }

    /// Whether nothing waits to be delivered.
    pub fn is_idle(&self) -> bool {
        self.all.iter().all(Lane::is_idle)
    }

    pub fn is_under_way(&self) -> bool {
        self.all.iter().any(Lane::is_under_way)
    }

    /// What does not work, of the first partition of which something does not.
    pub fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }
}
