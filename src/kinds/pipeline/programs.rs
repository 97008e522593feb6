//! Checks a Pipeline whole: its scaling, its graph, and in a child process its programs. The webhook,
//! the reconcile and the command line ask here.

use crate::api::pipeline::PipelineSpec;
use crate::kinds::pipeline::scaling;
use freehold_pipeline::finding::Finding;
use freehold_pipeline::topics::TopicNames;
use freehold_pipeline_blocks::isolation;
use std::process::Command;

/// Warnings, or what the Pipeline is refused for.
pub type Checked = Result<Vec<Finding>, Vec<Finding>>;

/// The command that the child process runs.
pub const CHILD: &str = "check-pipeline";

/// Checks a Pipeline whole in a child of this program.
///
/// # Errors
/// All findings, if one of them is an error; else they are warnings.
pub fn in_child(spec: &PipelineSpec, names: &TopicNames) -> Checked {
    let program = std::env::current_exe()
        .map_err(|error| vec![Finding::error("blocks", format!("this program: {error}"))])?;
    let mut command = Command::new(program);
    command.arg(CHILD);
    let wrong = scaling::findings(spec);
    match isolation::check_in_child(command, &spec.definition(), names) {
        Ok(warnings) if wrong.is_empty() => Ok(warnings),
        Ok(_) => Err(wrong),
        Err(found) => Err([wrong, found].concat()),
    }
}
