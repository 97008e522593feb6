//! Alerts: for how long a condition holds for each group of records, by their timestamps.
//!
//! A batch that is worked on again after a failure must raise the same alerts. So the state of the
//! last batch can be taken back.

use crate::condition::Condition;
use crate::program::Compiled;
use std::collections::HashMap;

/// Groups that an alert remembers; above it, those that were not seen for longest are forgotten.
const GROUPS_MAX: usize = 10_000;

/// What an alert knows of a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Group {
    /// Since when the condition holds: milliseconds since 1970.
    since: Option<i64>,
    last_alert: Option<i64>,
    last_seen: i64,
}

/// Who gets what an alert block raises, beside the blocks behind it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Receivers {
    pub topic: Option<String>,
    /// The operator, which writes an Event.
    pub event: bool,
}

/// An alert block.
#[derive(Debug)]
pub(crate) struct Alert {
    pub condition: Condition,
    pub group_by: Option<Compiled>,
    pub receivers: Receivers,
    pub holds_for_ms: i64,
    pub interval_ms: i64,
    groups: HashMap<Vec<u8>, Group>,
    /// What groups were before the batch, in the order of change.
    undo: Vec<(Vec<u8>, Option<Group>)>,
}

impl Alert {
    pub(crate) fn new(
        condition: Condition,
        group_by: Option<Compiled>,
        receivers: Receivers,
        holds_for_ms: i64,
        interval_ms: i64,
    ) -> Self {
        Self {
            condition,
            group_by,
            receivers,
            holds_for_ms,
            interval_ms,
            groups: HashMap::new(),
            undo: Vec::new(),
        }
    }

    /// A record of a group, at a time. `Some`: an alert is due, with the time since which the
    /// condition holds.
    pub(crate) fn record(&mut self, group: &[u8], holds: bool, at: i64) -> Option<i64> {
        let was = self.groups.get(group).copied();
        if !holds && was.is_none() {
            return None;
        }
        let mut now = was.unwrap_or_default();
        now.last_seen = at;
        let mut due = None;
        if holds {
            // Records of other partitions may be older than the first one that was seen.
            let since = now.since.map_or(at, |since| since.min(at));
            now.since = Some(since);
            let is_quiet = now
                .last_alert
                .is_none_or(|last| at.saturating_sub(last) >= self.interval_ms);
            if at.saturating_sub(since) >= self.holds_for_ms && is_quiet {
                now.last_alert = Some(at);
                due = Some(since);
            }
        } else {
            now.since = None;
        }
        self.undo.push((group.to_vec(), was));
        self.groups.insert(group.to_vec(), now);
        due
    }

    /// The batch is written: its state stays.
    pub(crate) fn committed(&mut self) {
        self.undo.clear();
        if self.groups.len() > GROUPS_MAX {
            let mut seen: Vec<i64> = self.groups.values().map(|group| group.last_seen).collect();
            let tenth = GROUPS_MAX / 10;
            let (_, limit, _) = seen.select_nth_unstable(tenth);
            let limit = *limit;
            self.groups.retain(|_, group| group.last_seen > limit);
        }
    }

    /// The batch is worked on again: the state is what it was before.
    pub(crate) fn rolled_back(&mut self) {
        for (group, was) in self.undo.drain(..).rev() {
            match was {
                Some(was) => self.groups.insert(group, was),
                None => self.groups.remove(&group),
            };
        }
    }
}
