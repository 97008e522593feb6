//! Which dead letters a stage replays, and what it counts of them. [`letter`]: what a letter says.

pub mod letter;

use std::collections::BTreeMap;
use std::sync::Arc;

use freehold_pipeline::replay::{Replay, TIMES_MAX};
use freehold_pipeline::report::of_graph;
use freehold_pipeline_blocks::flow::Flow;
use freehold_pipeline_blocks::flow::replay::{Replayed, Route};

use crate::record::Record;
use letter::Letter;

/// What a replay has counted; see [`freehold_pipeline::replay::ReplayReport`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplayCounts {
    pub read: u64,
    pub matched: u64,
    pub replayed: u64,
    pub failed: u64,
    pub given_up: u64,
}

impl ReplayCounts {
    /// As it is kept with positions.
    #[must_use]
    pub fn note(&self) -> String {
        let Self {
            read,
            matched,
            replayed,
            failed,
            given_up,
        } = self;
        format!("{read} {matched} {replayed} {failed} {given_up}")
    }

    /// As it was kept.
    fn of_note(note: &str) -> Option<Self> {
        let numbers = note.split(' ').map(str::parse);
        let numbers: Vec<u64> = numbers.collect::<Result<_, _>>().ok()?;
        let [read, matched, replayed, failed, given_up] = numbers[..] else {
            return None;
        };
        Some(Self {
            read,
            matched,
            replayed,
            failed,
            given_up,
        })
    }
}

/// A replay, as the blocks see it.
#[derive(Debug)]
pub struct Replaying {
    request: Replay,
    /// `<namespace>/<name>` of the Pipeline.
    pipeline: String,
    /// The ways to the block that is asked for, and to the ends of the stage that belong to it.
    routes: BTreeMap<String, Arc<Route>>,
    /// What is counted since the last commit, too.
    counts: ReplayCounts,
    committed: ReplayCounts,
}

impl Replaying {
    /// A replay through the blocks of a stage. `blocks` are their names.
    ///
    /// # Errors
    /// The stage has no such block.
    pub fn new(request: &Replay, pipeline: &str, flow: &Flow) -> Result<Self, String> {
        let names = flow.figures().map(|(name, _)| name);
        let asked = names.filter(|name| *name == request.block || of_graph(name) == request.block);
        let routes = asked.filter_map(|name| {
            let route = flow.route(name)?;
            Some((name.to_owned(), Arc::new(route)))
        });
        let routes: BTreeMap<_, _> = routes.collect();
        if routes.is_empty() {
            return Err(format!(
                "the Pipeline's present revision has no block {} here: its dead letters cannot be \
                 replayed",
                request.block
            ));
        }
        Ok(Self {
            request: request.clone(),
            pipeline: pipeline.to_owned(),
            routes,
            counts: ReplayCounts::default(),
            committed: ReplayCounts::default(),
        })
    }

    /// Counts a record of the topic of dead letters, and returns it if it is to be replayed.
    pub fn take<'a>(&mut self, record: &Record<'a>, flow: &Flow) -> Option<(Letter<'a>, Replayed)> {
        self.counts.read += 1;
        let letter = Letter::of(record)?;
        let route = self.routes.get(letter.block)?;
        if !self.asks_for(&letter) || !flow.reads(letter.topic) {
            return None;
        }
        self.counts.matched += 1;
        if letter.is_cut || letter.replays >= TIMES_MAX {
            self.counts.given_up += 1;
            return None;
        }
        // Where nothing was written, other branches have it to do, too.
        let (route, way) = match letter.is_of_death() {
            true => (Arc::new(flow.whole(letter.topic)?), None),
            false => (Arc::clone(route), letter.way.map(str::to_owned)),
        };
        let replayed = Replayed {
            route,
            way,
            topic: self.request.topic.clone(),
            id: self.request.id.clone(),
            times: letter.replays + 1,
        };
        Some((letter, replayed))
    }

    fn asks_for(&self, letter: &Letter<'_>) -> bool {
        let Replay {
            id,
            error,
            since_ms,
            until_ms,
            ..
        } = &self.request;
        let is_since = since_ms.is_none_or(|since| letter.time_ms.is_some_and(|at| at >= since));
        let is_until = until_ms.is_none_or(|until| letter.time_ms.is_some_and(|at| at < until));
        let has_error = |error: &String| letter.error.contains(error.as_str());
        letter.pipeline == self.pipeline
            // Its own letters are for the next one.
            && letter.replay != Some(id)
            && error.as_ref().is_none_or(has_error)
            && is_since
            && is_until
    }

    /// Counts a letter that was replayed.
    pub fn ran(&mut self, has_failed: bool) {
        match has_failed {
            true => self.counts.failed += 1,
            false => self.counts.replayed += 1,
        }
    }

    /// What was counted since the last commit comes again.
    pub fn rolled_back(&mut self) {
        self.counts = self.committed;
    }

    /// What was counted is committed.
    pub fn committed(&mut self) {
        self.committed = self.counts;
    }

    /// Goes on from what was kept with the positions.
    pub fn noted(&mut self, notes: &[String]) {
        let kept = notes.iter().filter_map(|note| ReplayCounts::of_note(note));
        self.committed = kept.max_by_key(|counts| counts.read).unwrap_or_default();
        self.counts = self.committed;
    }

    /// What is counted.
    #[must_use]
    pub fn counts(&self) -> ReplayCounts {
        self.counts
    }
}

#[cfg(test)]
mod tests;
