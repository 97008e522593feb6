//! Raises alerts for records.

use super::{Fate, Identity};
use crate::alert::Alert;
use crate::clock;
use crate::event::Event;
use crate::figures::Dropped;
use crate::program::{Ended, Failure};
use serde_json::json;
use vrl::compiler::runtime::Runtime;
use vrl::value::Value;

/// An alert: a record of its own, which has the address of the one that raised it.
pub(super) struct Raised {
    pub group: Vec<u8>,
    pub text: String,
    pub at: i64,
}

/// Whether a record raises an alert.
pub(super) fn raise(
    alert: &mut Alert,
    block: &str,
    identity: &Identity,
    runtime: &mut Runtime,
    event: &mut Event<'_>,
) -> Fate {
    let holds = match alert.condition.holds(runtime, event) {
        Ok(holds) => holds,
        // No change of what the alert is about.
        Err(_) if event.is_tombstone() => return Fate::Dropped(Dropped::Filtered),
        Err(why) => return Fate::Failed(why),
    };
    let group = match &alert.group_by {
        None => event.input.key.unwrap_or_default().to_vec(),
        Some(program) => match program.run(runtime, event) {
            Ok(Value::Null) => Vec::new(),
            Ok(group) => group.coerce_to_bytes().to_vec(),
            Err(_) if event.is_tombstone() => return Fate::Dropped(Dropped::Filtered),
            Err(Ended::Failed(why)) => return Fate::Failed(why),
            Err(Ended::Aborted) => return Fate::Failed(Failure::plain("groupBy aborted")),
        },
    };
    let at = event.input.timestamp.unwrap_or_else(clock::now_ms);
    let Some(since) = alert.record(&group, holds, at) else {
        return Fate::Dropped(Dropped::Filtered);
    };
    let text = json!({
        "pipeline": identity.pipeline,
        "block": block,
        "group": String::from_utf8_lossy(&group),
        "since": since,
        "at": at,
        "record": event.input.address(),
    });
    Fate::Raised(Box::new(Raised {
        group,
        text: text.to_string(),
        at,
    }))
}
