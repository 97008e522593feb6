//! `freehold lint`: what the API server and the webhook would say of Pipelines, without a cluster.

use crate::cli::operator::MainError;
use crate::cli::pipeline::files::{Files, Found};
use crate::cli::pipeline::print::print;
use crate::cli::pipeline::topics::Topics;
use crate::kinds::pipeline::programs::in_child;
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct Options {
    /// YAML files with Pipelines, and the Topics that they name; other kinds are skipped. `-` is
    /// standard input.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Count warnings as errors.
    #[arg(long)]
    strict: bool,
}

/// Prints every finding.
///
/// # Errors
/// A Pipeline is refused, or a file or document cannot be read.
pub fn main(options: &Options) -> Result<(), MainError> {
    let files = Files::read(&options.files)?;
    let mut wrong = Wrong::of(&files)?;
    for found in &files.pipelines {
        let checked = Checked::of(found, &files.topics);
        let is_refused = checked.is_refused || (options.strict && !checked.lines.is_empty());
        wrong.refused += usize::from(is_refused);
        print(&checked.lines.concat())?;
        if checked.lines.is_empty() {
            print(&format!("{}: ok\n", found.about()))?;
        }
    }
    wrong.result()
}

/// What is said of a Pipeline.
pub struct Checked {
    /// Each with its end of line.
    pub lines: Vec<String>,
    pub is_refused: bool,
}

impl Checked {
    /// Checks a Pipeline by its schema, and then its graph and its programs.
    pub fn of(found: &Found, topics: &Topics) -> Self {
        let about = found.about();
        let object = match &found.object {
            Ok(object) => object,
            Err(invalids) => {
                let lines = invalids.iter();
                return Self {
                    lines: lines
                        .map(|one| format!("{about}: error: {one}\n"))
                        .collect(),
                    is_refused: true,
                };
            }
        };
        let namespace = found.namespace.as_deref();
        let (mut findings, is_refused) = match in_child(&object.spec, &topics.names(namespace)) {
            Ok(warnings) => (warnings, false),
            Err(findings) => (findings, true),
        };
        findings.extend(topics.missing(&object.spec.definition(), namespace));
        let line = |finding: &freehold_pipeline::finding::Finding| {
            let severity = format!("{:?}", finding.severity).to_lowercase();
            format!("{about}: {severity}: {finding}\n")
        };
        Self {
            lines: findings.iter().map(line).collect(),
            is_refused,
        }
    }
}

/// How much is wrong in the files.
#[derive(Default)]
pub struct Wrong {
    pub problems: usize,
    pipelines: usize,
    pub refused: usize,
}

impl Wrong {
    /// Prints what is wrong with files and with documents that are not Pipelines.
    ///
    /// # Errors
    /// It cannot be printed.
    pub fn of(files: &Files) -> Result<Self, MainError> {
        for problem in &files.problems {
            print(&format!("{problem}\n"))?;
        }
        Ok(Self {
            problems: files.problems.len(),
            pipelines: files.pipelines.len(),
            refused: 0,
        })
    }

    /// # Errors
    /// Something is wrong: how much.
    pub fn result(&self) -> Result<(), MainError> {
        let mut parts = Vec::new();
        if self.refused > 0 {
            parts.push(format!(
                "{} of {} Pipelines refused",
                self.refused, self.pipelines
            ));
        }
        if self.problems > 0 {
            let word = match self.problems {
                1 => "problem",
                _ => "problems",
            };
            parts.push(format!("{} {word} in the files", self.problems));
        }
        match parts.is_empty() {
            true => Ok(()),
            false => Err(parts.join(", ").into()),
        }
    }
}
