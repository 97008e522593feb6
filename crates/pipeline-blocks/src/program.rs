//! Programs that run: what they read and change, and how long they may take.

use crate::advice;
use crate::budget::Budget;
use crate::compile::{METADATA, Source};
use crate::event::Event;
use freehold_pipeline::nearest::instead;
use std::collections::BTreeSet;
use std::sync::Arc;
use vrl::compiler::runtime::{Runtime, Terminate};
use vrl::compiler::{ExpressionError, Program, TimeZone};
use vrl::path::{OwnedSegment, OwnedTargetPath, PathPrefix};
use vrl::value::Value;

/// A compiled program.
#[derive(Debug, Clone)]
pub struct Compiled {
    program: Program,
    source: Arc<Source>,
    uses_metadata: bool,
    changes_metadata: bool,
}

/// Why a program did not come to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// `abort` without a message: the record is dropped.
    Aborted,
    /// `abort "message"`, or an error.
    Failed(Failure),
}

/// Why a block failed on a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// For people, status and logs: never with anything of the record.
    pub summary: String,
    /// For the dead letter, which has the record anyway: functions quote what they could not read.
    pub detail: String,
    /// How often the record was tried.
    pub attempts: u32,
}

impl Failure {
    /// A failure whose words have nothing of the record.
    pub fn plain(words: impl Into<String>) -> Self {
        let words = words.into();
        Self {
            summary: words.clone(),
            detail: words,
            attempts: 1,
        }
    }
}

/// Fields of `%` among paths that a record does not have.
fn unknown(paths: &[OwnedTargetPath]) -> BTreeSet<String> {
    let metadata = paths
        .iter()
        .filter(|path| matches!(path.prefix, PathPrefix::Metadata));
    let names = metadata.filter_map(|path| match path.path.segments.first() {
        Some(OwnedSegment::Field(name)) => Some(name.to_string()),
        _ => None,
    });
    names
        .filter(|name| !METADATA.contains(&name.as_str()))
        .collect()
}

impl Compiled {
    pub(crate) fn new(program: Program, source: Arc<Source>, may_change: bool) -> Self {
        let of_metadata = |paths: &[OwnedTargetPath]| {
            paths
                .iter()
                .any(|path| matches!(path.prefix, PathPrefix::Metadata))
        };
        let info = program.info();
        // `del(%headers.a)` counts as a query.
        let uses_metadata =
            of_metadata(&info.target_queries) || of_metadata(&info.target_assignments);
        Self {
            uses_metadata,
            changes_metadata: uses_metadata && may_change,
            program,
            source,
        }
    }

    /// What it does in vain with fields of `%` that a record does not have, for people.
    pub(crate) fn in_vain(&self) -> Vec<String> {
        let info = self.program.info();
        let assigned = unknown(&info.target_assignments);
        let mut queried = unknown(&info.target_queries);
        queried.retain(|name| !assigned.contains(name));
        let of_assigned = assigned.iter().map(|name| {
            format!(
                "%{name} is dropped after the program: of %, it may change key, headers and \
                 timestamp; use a variable, or a field of the record"
            )
        });
        let known = METADATA.map(|name| format!("%{name}"));
        let of_queried = queried.iter().map(|name| {
            let name = format!("%{name}");
            let instead = instead(&name, known.iter().map(String::as_str));
            format!("{name} is always null; {instead}")
        });
        of_assigned.chain(of_queried).collect()
    }

    /// Whether it leaves every record as it was.
    pub(crate) fn changes_nothing(&self) -> bool {
        let info = self.program.info();
        // Removals are no assignments.
        let removes = self.source.text().contains("del(");
        info.target_assignments.is_empty() && !(info.abortable || info.fallible || removes)
    }

    /// Runs it on a record, which it may change.
    ///
    /// # Errors
    /// It ended before its last expression. The record may be changed in part.
    pub fn run(&self, runtime: &mut Runtime, event: &mut Event<'_>) -> Result<Value, Ended> {
        let mut budget = Budget::default();
        if self.uses_metadata {
            event.need_metadata(self.changes_metadata);
        }
        runtime.clear();
        let result = runtime.resolve_with_control(
            &mut event.target().as_vrl(),
            &self.program,
            &TimeZone::Named(chrono_tz::UTC),
            &mut || budget.step(),
        );
        result.map_err(|ended| match ended {
            Terminate::Interrupted => Ended::Failed(Failure::plain(budget.in_words())),
            Terminate::Abort(ExpressionError::Abort { message: None, .. }) => Ended::Aborted,
            Terminate::Abort(ExpressionError::Abort { span, message }) => {
                let line = self.source.place(span.start());
                Ended::Failed(Failure {
                    summary: format!("the program aborted in {line}"),
                    detail: message.unwrap_or_default(),
                    attempts: 1,
                })
            }
            Terminate::Abort(error) | Terminate::Error(error) => {
                Ended::Failed(self.failure(&error.to_string()))
            }
        })
    }

    /// Names the function and the line. What follows in VRL's message may quote the record.
    fn failure(&self, message: &str) -> Failure {
        let parts = message
            .strip_prefix("function call error for \"")
            .and_then(|rest| rest.split_once("\" at ("))
            .and_then(|(name, rest)| Some((name, rest.split_once("): ")?)));
        let Some((name, (span, why))) = parts else {
            return Failure::plain(advice::of_operator(message));
        };
        let start = span.split(':').next().and_then(|start| start.parse().ok());
        let summary = match start {
            Some(start) => format!("{name} failed in {}", self.source.place(start)),
            None => format!("{name} failed"),
        };
        Failure {
            detail: format!("{summary}: {why}"),
            summary,
            attempts: 1,
        }
    }
}
