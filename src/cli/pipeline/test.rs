//! `freehold test`: the tests of Pipelines, without Kafka and Kubernetes.

use crate::cli::operator::MainError;
use crate::cli::pipeline::files::{Files, Found};
use crate::cli::pipeline::lint::{Checked, Wrong};
use crate::cli::pipeline::print::print;
use crate::cli::pipeline::report::{Case, junit};
use crate::cli::pipeline::topics::Topics;
use freehold_pipeline::nearest::instead;
use freehold_pipeline_blocks::isolation;
use freehold_pipeline_blocks::testing::{self, Coverage, TestSpec};
use std::collections::BTreeMap;
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct Options {
    /// YAML files with Pipelines, their PipelineTests, and the Topics that they name. `-` is
    /// standard input.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Write the results as XML of JUnit, too.
    #[arg(long)]
    junit: Option<PathBuf>,
}

/// Runs every test case of the Pipelines that are not refused.
///
/// # Errors
/// A Pipeline is refused, a file or a document cannot be read, a case failed, or there is none.
pub fn main(options: &Options) -> Result<(), MainError> {
    let files = Files::read(&options.files)?;
    let mut wrong = Wrong::of(&files)?;
    let mut good: Vec<&Found> = Vec::new();
    for found in &files.pipelines {
        let checked = Checked::of(found, &files.topics);
        match checked.is_refused {
            true => print(&checked.lines.concat())?,
            false => good.push(found),
        }
        wrong.refused += usize::from(checked.is_refused);
    }
    let (mut cases, mut reached) = (Vec::new(), Vec::new());
    for (file, spec) in &files.tests {
        let is_meant = |found: &&&Found| found.name == spec.pipeline;
        match good.iter().find(is_meant) {
            Some(found) => {
                let (ran, coverage) = run(found, spec, &files.topics)?;
                cases.extend(ran);
                reached.push((spec.pipeline.clone(), coverage));
            }
            // It is refused, and that is said above.
            None if files.pipelines.iter().any(|found| is_meant(&&found)) => {}
            None => {
                let known = files.pipelines.iter().map(|found| found.name.as_str());
                let (name, instead) = (&spec.pipeline, instead(&spec.pipeline, known));
                print(&format!(
                    "{file}: error: spec.pipeline: no Pipeline {name} in the files; {instead}\n"
                ))?;
                wrong.problems += 1;
            }
        }
    }
    if let Some(path) = &options.junit {
        std::fs::write(path, junit(&cases, &reached))
            .map_err(|error| format!("{}: {error}", path.display()))?;
    }
    let failed = cases.iter().filter(|case| !case.differences.is_empty());
    match (wrong.result(), cases.len(), failed.count()) {
        (Err(error), _, 0) => Err(error),
        (Err(error), all, failed) => Err(format!("{error}, {failed} of {all} failed").into()),
        (Ok(()), 0, _) => {
            Err("no test case: give a file with a document of kind PipelineTest".into())
        }
        (Ok(()), all, 0) => Ok(print(&format!("{all} passed\n"))?),
        (Ok(()), all, failed) => Err(format!("{failed} of {all} failed").into()),
    }
}

/// Runs the cases of a test, and prints what became of each.
fn run(
    found: &Found,
    spec: &TestSpec,
    topics: &Topics,
) -> Result<(Vec<Case>, Coverage), MainError> {
    let Ok(object) = &found.object else {
        return Ok((Vec::new(), Coverage::default()));
    };
    let namespace = found.namespace.as_deref();
    let (definition, names) = (object.spec.definition(), topics.names(namespace));
    let (of_test, of_namespace) = (spec.clone(), namespace.unwrap_or("default").to_owned());
    let run = move || testing::run(&of_test, &of_namespace, &definition, &names);
    let (results, coverage) = isolation::on_large_stack(run)??;
    let mut cases = Vec::new();
    for (name, differences) in results {
        let word = match differences.is_empty() {
            true => "ok    ",
            false => "FAILED",
        };
        print(&format!("{word} {}: {name}\n", spec.pipeline))?;
        for difference in &differences {
            print(&format!(
                "       {}\n",
                difference.replace('\n', "\n       ")
            ))?;
        }
        cases.push(Case {
            suite: spec.pipeline.clone(),
            name,
            differences,
        });
    }
    for line in missed(&coverage) {
        print(&format!("       {}: {line}\n", spec.pipeline))?;
    }
    Ok((cases, coverage))
}

/// What no record reached, in words: a line for the blocks, and one for each program.
fn missed(coverage: &Coverage) -> Vec<String> {
    let mut words = Vec::new();
    if !coverage.unreached.is_empty() {
        let list = coverage.unreached.join(", ");
        words.push(format!("no record reached: {list}"));
    }
    let mut programs: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for line in coverage.lines.missed() {
        let lines = programs.entry(&line.of).or_default();
        lines.push(line.number.to_string());
    }
    words.extend(programs.iter().map(|(of, lines)| {
        let (lines, s) = (lines.join(", "), if lines.len() == 1 { "" } else { "s" });
        format!("not run of {of}: line{s} {lines}")
    }));
    words
}
