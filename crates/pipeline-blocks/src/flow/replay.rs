//! Dead letters once more through the blocks. A letter takes its record's way from the source to
//! the block that failed, and has an effect only from there on: what the other branches made of the
//! record was written the first time. Behind an alert the record of a letter is the alert, and its
//! way begins there.
//!
//! A record that fails again is a dead letter again, whatever the policy of the block is; one that
//! does not come to its block any more is a letter of that block again.

use super::{Flow, Stop, Work};
use crate::dead_letter::Again;
use crate::event::{Event, Input};
use crate::output::Outputs;
use crate::program::Failure;
use freehold_pipeline::source::Format;
use std::sync::Arc;

/// The ways to a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    block: usize,
    /// The blocks that are on one, by their places.
    before: Vec<bool>,
    /// The alerts that one begins with.
    alerts: Vec<usize>,
    /// One begins with a source.
    has_source: bool,
}

/// A dead letter.
#[derive(Clone, Debug)]
pub struct Replayed {
    /// To the block that failed on it.
    pub route: Arc<Route>,
    /// The way that the record took, if it had the choice ([`crate::dead_letter::WAY`]).
    pub way: Option<String>,
    /// Where it goes if it fails again.
    pub topic: String,
    /// Id of the replay.
    pub id: String,
    /// How often the record was replayed, with this time.
    pub times: u32,
}

/// A dead letter on its way.
#[derive(Debug)]
pub(super) struct Pass {
    pub topic: String,
    route: Arc<Route>,
    id: String,
    times: u32,
    /// The way as the letter names it.
    named: Option<String>,
    /// The only blocks that it is given to; `None`: all that lead to the block.
    way: Option<Vec<usize>>,
    /// The block that failed has it, or one behind that: what they do has an effect.
    is_open: bool,
    /// It came to the block.
    is_reached: bool,
    /// A block before dropped it.
    is_dropped: bool,
    /// The first block before that failed, and why.
    failed: Option<(usize, Failure)>,
}

impl Pass {
    pub(super) fn again(&self) -> Again<'_> {
        Again {
            id: &self.id,
            times: self.times,
        }
    }
}

impl Flow {
    /// The ways to a block. `None`: the stage has no such block.
    pub fn route(&self, block: &str) -> Option<Route> {
        let block = self.nodes.iter().position(|node| node.name == block)?;
        let mut route = Route {
            block,
            before: vec![false; self.nodes.len()],
            alerts: Vec::new(),
            has_source: self.sources.values().any(|source| *source == block),
        };
        // A block stands after all that it gets records from.
        for place in (0..block).rev() {
            let mut readers = self.nodes[place].readers.iter();
            if !readers.any(|reader| reader.to == block || route.before[reader.to]) {
                continue;
            }
            if self.nodes[place].is_alert() {
                route.alerts.push(place);
                continue;
            }
            route.before[place] = true;
            route.has_source |= self.sources.values().any(|source| *source == place);
        }
        Some(route)
    }

    /// The way that has the whole stage: from the source that reads the topic.
    pub fn whole(&self, topic: &str) -> Option<Route> {
        let source = *self.sources.get(topic)?;
        self.route(&self.nodes[source].name)
    }

    /// The record is not run: no block has failed on it.
    pub fn passed_over(&mut self) {
        self.failed = None;
    }

    /// Whether a source reads the topic.
    pub fn reads(&self, topic: &str) -> bool {
        self.sources.contains_key(topic)
    }

    /// Runs the record of a dead letter, with the address and the headers that it had. If it fails
    /// again, [`Self::failure`] says so, and it is written again.
    ///
    /// # Errors
    /// As [`Self::process_as`].
    pub fn process_replayed(
        &mut self,
        input: Input<'_>,
        letter: Replayed,
        work: Work<'_>,
        outputs: &mut dyn Outputs,
    ) -> Result<(), Stop> {
        let way = letter.way.as_deref();
        let way = way.and_then(|way| self.known_way(way, &letter.route, input.topic));
        let had_choice = way.is_some();
        self.refused = work.refused.to_vec();
        self.letter = Some(Pass {
            topic: letter.topic,
            route: letter.route,
            id: letter.id,
            times: letter.times,
            named: letter.way,
            way,
            is_open: false,
            is_reached: false,
            is_dropped: false,
            failed: None,
        });
        let mut result = self.enter(input, work, outputs);
        if let Some(pass) = &mut self.letter
            && had_choice
            && !pass.is_reached
            && !pass.is_dropped
            && pass.failed.is_none()
        {
            // A split gives it to another case now: it may come to the block all the same.
            pass.way = None;
            result = result.and_then(|()| self.enter(input, work, outputs));
        }
        let result = result.and_then(|()| self.settle(&input, outputs));
        self.letter = None;
        self.refused.clear();
        result
    }

    /// The places of the blocks of a way, if it is one to the block.
    fn known_way(&self, names: &str, route: &Route, topic: &str) -> Option<Vec<usize>> {
        let places = names
            .split(',')
            .map(|name| self.nodes.iter().position(|node| node.name == name));
        let places: Vec<usize> = places.collect::<Option<_>>()?;
        let begins =
            |place: &usize| self.nodes[*place].is_alert() || self.sources.get(topic) == Some(place);
        let leads = |pair: &[usize]| {
            let mut readers = self.nodes[pair[0]].readers.iter();
            readers.any(|reader| reader.to == pair[1])
        };
        let is_way = places.first().is_some_and(begins)
            && places.last() == Some(&route.block)
            && places.windows(2).all(leads);
        is_way.then_some(places)
    }

    /// Gives the record to the block that its way begins with.
    fn enter(
        &mut self,
        input: Input<'_>,
        work: Work<'_>,
        outputs: &mut dyn Outputs,
    ) -> Result<(), Stop> {
        self.failed = None;
        match work.died {
            None => self.begin(input, outputs),
            Some(died) => self.died(input, died, outputs),
        }
    }

    fn begin(&mut self, input: Input<'_>, outputs: &mut dyn Outputs) -> Result<(), Stop> {
        let Some(pass) = &self.letter else {
            return Ok(());
        };
        let first = pass.way.as_ref().and_then(|way| way.first().copied());
        let alert = match (first, &pass.route.alerts[..]) {
            (Some(first), _) => self.nodes[first].is_alert().then_some(first),
            (None, [alert]) if !pass.route.has_source => Some(*alert),
            (None, []) => None,
            (None, _) => {
                let why = "NoWay: alerts and other blocks lead to the block, and the dead letter \
                           does not say which way its record came";
                return self.fail(pass.route.block, &input, &Failure::plain(why), outputs);
            }
        };
        let Some(alert) = alert else {
            return self.process(input, outputs);
        };
        self.way.clear();
        self.way.push(alert);
        match Event::decode(input, Format::Json) {
            Ok(mut event) => self.hand_on(alert, None, &mut event, outputs),
            Err(why) => self.fail(alert, &input, &Failure::plain(why), outputs),
        }
    }

    /// A record that did not come to the block has failed, unless a block before dropped it.
    fn settle(&mut self, input: &Input<'_>, outputs: &mut dyn Outputs) -> Result<(), Stop> {
        let Some(pass) = &mut self.letter else {
            return Ok(());
        };
        if pass.is_reached {
            return Ok(());
        }
        let block = pass.route.block;
        let why = match pass.failed.take() {
            Some((place, why)) if place == block => why,
            // It stays a letter of this block: one of that block would be replayed from there on,
            // and other branches would get the record a second time.
            Some((place, why)) => {
                let name = &self.nodes[place].name;
                Failure {
                    summary: format!("block {name}: {}", why.summary),
                    detail: format!("block {name}: {}", why.detail),
                    attempts: why.attempts,
                }
            }
            None if pass.is_dropped => return Ok(()),
            None => Failure::plain("NotReached: the blocks before do not give it the record"),
        };
        let way = pass.named.clone();
        pass.is_open = true;
        self.give_up(block, input, &why, way.as_deref(), outputs)
    }

    /// A block gets the record. Returns whether its effect begins here.
    pub(super) fn arrive(&mut self, place: usize) -> bool {
        match &mut self.letter {
            Some(pass) if !pass.is_open && pass.route.block == place => {
                pass.is_open = true;
                pass.is_reached = true;
                true
            }
            _ => false,
        }
    }

    /// The block that failed, and all behind it, are done with the record.
    pub(super) fn leave(&mut self) {
        if let Some(pass) = &mut self.letter {
            pass.is_open = false;
        }
    }

    /// Whether the record is given to a block.
    pub(super) fn leads(&self, to: usize) -> bool {
        match &self.letter {
            Some(pass) if !pass.is_open => match &pass.way {
                Some(way) => way.get(self.way.len()) == Some(&to),
                None => pass.route.block == to || pass.route.before[to],
            },
            _ => true,
        }
    }

    /// A block drops the record.
    pub(super) fn dropped(&mut self) {
        if let Some(pass) = &mut self.letter {
            pass.is_dropped |= !pass.is_open;
        }
    }

    /// Whether the failure is one of a block before: it counts only if the record does not come to
    /// the block on another way.
    pub(super) fn failed_before(&mut self, place: usize, why: &Failure) -> bool {
        match &mut self.letter {
            Some(pass) if !pass.is_open => {
                pass.failed.get_or_insert_with(|| (place, why.clone()));
                true
            }
            _ => false,
        }
    }
}
