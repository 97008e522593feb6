//! What is wrong with a spec. Pure.

use crate::api::conditions::Reason;
use crate::words;
use crate::words::PART_CHARS_MAX;
use std::fmt;

/// What is wrong with a spec, and the way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    pub field: String,
    pub why: String,
    pub reason: Reason,
}

impl Invalid {
    pub fn new(field: impl Into<String>, why: impl Into<String>) -> Self {
        Self {
            field: words::cut(field, PART_CHARS_MAX),
            why: words::cut(why, PART_CHARS_MAX),
            reason: Reason::InvalidSpec,
        }
    }

    pub fn because(self, reason: Reason) -> Self {
        Self { reason, ..self }
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.why)
    }
}
