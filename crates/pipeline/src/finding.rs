//! What is wrong with a graph, and where.

use serde::{Deserialize, Serialize};
use std::fmt;

/// How serious a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Severity {
    /// The Pipeline is refused.
    Error,
    /// It is allowed, and probably not what was meant.
    Warning,
}

/// What is wrong with a Pipeline, and the way out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    pub severity: Severity,
    /// Path of the field below `spec`, such as `blocks[2].transform.vrl`.
    pub field: String,
    /// Name of the block that it is about, if it is about one.
    pub block: Option<String>,
    /// What is wrong, and what to write instead. Several lines where it shows a program's line.
    pub message: String,
}

impl Finding {
    /// Something that a Pipeline is refused for.
    pub fn error(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            field: field.into(),
            block: None,
            message: message.into(),
        }
    }

    /// Something that is allowed.
    pub fn warning(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(field, message)
        }
    }

    /// The same, about a block.
    pub fn of_block(self, block: impl Into<String>) -> Self {
        Self {
            block: Some(block.into()),
            ..self
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.block {
            Some(block) => write!(f, "spec.{} (block {block}): {}", self.field, self.message),
            None => write!(f, "spec.{}: {}", self.field, self.message),
        }
    }
}

/// Findings as text: one after the other, each on lines of its own.
pub fn lines(findings: &[Finding]) -> String {
    let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
    lines.join("\n")
}
