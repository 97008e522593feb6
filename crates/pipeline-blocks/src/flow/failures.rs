//! What becomes of a record that a block fails on.

use super::replay::Pass;
use super::{Flow, Stop};
use crate::clock;
use crate::dead_letter::{self, Reason};
use crate::event::Input;
use crate::figures::{Dropped, LastError};
use crate::output::Outputs;
use crate::program::Failure;
use freehold_pipeline::definition::ErrorPolicy;

impl Flow {
    /// A block failed on a record.
    pub(super) fn fail(
        &mut self,
        place: usize,
        input: &Input<'_>,
        why: &Failure,
        outputs: &mut dyn Outputs,
    ) -> Result<(), Stop> {
        if self.failed_before(place, why) {
            return Ok(());
        }
        let way = self.way_to(place);
        self.give_up(place, input, why, way.as_deref(), outputs)
    }

    /// The names of the blocks from a source or an alert to the block that works on the record, if
    /// it could have come another way.
    fn way_to(&self, place: usize) -> Option<String> {
        if !self.nodes[place].meets || self.way.last() != Some(&place) {
            return None;
        }
        let before = &self.way[..self.way.len() - 1];
        let alert = before.iter().rposition(|node| self.nodes[*node].is_alert());
        let names = self.way[alert.unwrap_or(0)..].iter();
        let names: Vec<&str> = names.map(|node| self.nodes[*node].name.as_str()).collect();
        Some(names.join(","))
    }

    /// Does with a record that a block failed on what the block's policy says.
    pub(super) fn give_up(
        &mut self,
        place: usize,
        input: &Input<'_>,
        why: &Failure,
        way: Option<&str>,
        outputs: &mut dyn Outputs,
    ) -> Result<(), Stop> {
        let Self {
            nodes,
            identity,
            dead_letter,
            failed,
            letter,
            refused,
            ..
        } = self;
        *failed = Some(place);
        let node = &mut nodes[place];
        node.figures.errors += 1;
        node.figures.last_error = Some(LastError {
            address: Some(input.address()),
            message: why.summary.clone(),
            at: clock::now_ms(),
        });
        let letter = letter.as_ref();
        let (policy, topic) = match letter {
            // It is a dead letter already, and stays one.
            Some(letter) => (ErrorPolicy::DeadLetter, Some(&letter.topic)),
            None => (node.policy, dead_letter.as_ref()),
        };
        match (policy, topic) {
            (ErrorPolicy::Skip, _) => {
                node.figures.drop_one(Dropped::Skipped);
                Ok(())
            }
            (ErrorPolicy::DeadLetter, Some(topic)) => {
                let refusals = refused.iter().find(|refused| refused.topic == *topic);
                let reason = Reason {
                    pipeline: &identity.pipeline,
                    revision: identity.revision,
                    node: place,
                    block: &node.name,
                    error: &why.detail,
                    attempts: why.attempts,
                    way,
                    replay: letter.map(Pass::again),
                    refusals: refusals.map_or(0, |refused| refused.times),
                };
                dead_letter::write(topic, input, &reason, outputs);
                Ok(())
            }
            (ErrorPolicy::Stop, _) | (ErrorPolicy::DeadLetter, None) => Err(Stop {
                block: node.name.clone(),
                address: input.address(),
                message: why.summary.clone(),
            }),
        }
    }
}
