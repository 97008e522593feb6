//! `freehold check-pipeline`: the child process in which programs are compiled. Hidden.

use crate::cli::operator::MainError;
use freehold_pipeline_blocks::isolation;

/// The child's side.
///
/// # Errors
/// See [`isolation::serve`].
pub fn main() -> Result<(), MainError> {
    Ok(isolation::serve(std::io::stdin(), std::io::stdout())?)
}
