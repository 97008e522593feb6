//! Checks a Pipeline whole: its graph, and every program.

use crate::blocks::{compile_all, unwise};
use freehold_pipeline::checks::check;
use freehold_pipeline::definition::Definition;
use freehold_pipeline::finding::Finding;
use freehold_pipeline::graph::Node;
use freehold_pipeline::topics::TopicNames;

/// Checks a Pipeline, on this thread, which needs a large stack and may be busy for long: see
/// [`crate::isolation`]. `before` is called before each block.
///
/// # Errors
/// All findings, if one of them is an error; else they are warnings.
pub fn validate(
    definition: &Definition,
    names: &TopicNames,
    before: impl FnMut(&Node<'_>),
) -> Result<Vec<Finding>, Vec<Finding>> {
    let (graph, mut warnings) = check(definition, names)?;
    let blocks = compile_all(&graph, definition, names, before)?;
    warnings.extend(unwise(&graph, &blocks));
    Ok(warnings)
}
