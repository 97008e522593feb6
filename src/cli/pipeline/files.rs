//! Reads Pipelines, Topics and tests from YAML files.

use crate::api::GROUP;
use crate::api::invalid::Invalid;
use crate::api::pipeline::Pipeline;
use crate::api::topic::Topic;
use crate::cli::operator::MainError;
use crate::cli::pipeline::kinds::Kinds;
use crate::cli::pipeline::topics::Topics;
use freehold_pipeline::nearest::{instead, nearest};
use freehold_pipeline_blocks::testing::TestSpec;
use serde_json::Value;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Largest input in bytes: a thousand objects of the size that the operator takes are not written
/// by hand.
const BYTES_MAX: u64 = 64 * 1024 * 1024;

/// What the files hold.
#[derive(Default)]
pub struct Files {
    pub pipelines: Vec<Found>,
    /// With the file of each.
    pub tests: Vec<(String, TestSpec)>,
    pub topics: Topics,
    /// What is wrong with a file, or with a document that is not a Pipeline.
    pub problems: Vec<String>,
}

/// A Pipeline of a file.
pub struct Found {
    pub file: String,
    pub name: String,
    /// `None`: the file does not say.
    pub namespace: Option<String>,
    /// The object, or what is wrong with its fields.
    pub object: Result<Box<Pipeline>, Vec<Invalid>>,
}

impl Files {
    /// Reads files, each of any number of documents; `-` is standard input. Objects of others are
    /// skipped. What is wrong with one file or document does not keep the others from being read.
    ///
    /// # Errors
    /// There is no Pipeline, and nothing is wrong.
    pub fn read(paths: &[PathBuf]) -> Result<Self, MainError> {
        let (kinds, mut files) = (Kinds::new()?, Self::default());
        for path in paths {
            let is_stdin = path.as_os_str() == "-";
            let shown = match is_stdin {
                true => "standard input".to_owned(),
                false => path.display().to_string(),
            };
            let read = text(path, is_stdin).map_err(|error| error.to_string());
            let documents = read.and_then(|text| {
                let documents = serde_saphyr::from_multiple::<Value>(&text);
                documents.map_err(|error| in_words(&error))
            });
            match documents {
                Ok(documents) => documents
                    .into_iter()
                    .for_each(|document| files.take(&kinds, &shown, document)),
                Err(why) => files.problems.push(format!("{shown}: {why}")),
            }
        }
        if files.pipelines.is_empty() && files.problems.is_empty() {
            return Err("no Pipeline in these files".into());
        }
        Ok(files)
    }

    fn take(&mut self, kinds: &Kinds, file: &str, document: Value) {
        let kind = document["kind"].as_str().unwrap_or_default().to_owned();
        let version = document["apiVersion"].as_str().unwrap_or_default();
        let group = version.split('/').next().unwrap_or_default();
        if group != GROUP {
            let is_ours = kinds.names().any(|name| name == kind);
            if is_ours && (group.is_empty() || nearest(group, [GROUP]).is_some()) {
                let why = format!("apiVersion: {version:?}; give {}", kinds.version());
                self.problems.push(format!("{file}: {kind}: {why}"));
            }
            return;
        }
        let name = document["metadata"]["name"].as_str().unwrap_or_default();
        let (name, about) = (name.to_owned(), format!("{file}: {kind} {name}"));
        match kind.as_str() {
            "Pipeline" => self.pipelines.push(Found {
                file: file.to_owned(),
                namespace: document["metadata"]["namespace"]
                    .as_str()
                    .map(str::to_owned),
                name,
                object: kinds.read(&kind, document).map(Box::new),
            }),
            "Topic" => match kinds.read::<Topic>(&kind, document) {
                Ok(topic) => self.topics.add(&topic),
                Err(invalids) => self.add(&about, &invalids),
            },
            "PipelineTest" => match kinds.test(document) {
                Ok(spec) => self.tests.push((file.to_owned(), spec)),
                Err(invalids) => self.add(&about, &invalids),
            },
            kind if kinds.names().any(|name| name == kind) => {}
            kind => {
                let instead = instead(kind, kinds.names());
                let why = format!("skipped: there is no kind {kind:?}; {instead}");
                self.problems.push(format!("{file}: {why}"));
            }
        }
    }

    fn add(&mut self, about: &str, invalids: &[Invalid]) {
        let problems = invalids.iter();
        self.problems
            .extend(problems.map(|invalid| format!("{about}: error: {invalid}")));
    }
}

impl Found {
    /// What a line about it begins with.
    pub fn about(&self) -> String {
        format!("{}: Pipeline {}", self.file, self.name)
    }
}

fn text(path: &Path, is_stdin: bool) -> Result<String, std::io::Error> {
    let mut text = String::new();
    match is_stdin {
        true => std::io::stdin().take(BYTES_MAX).read_to_string(&mut text)?,
        false => std::fs::File::open(path)?
            .take(BYTES_MAX)
            .read_to_string(&mut text)?,
    };
    Ok(text)
}

/// What is wrong with YAML. Some errors are the reader's own words for the developer who calls it.
fn in_words(error: &serde_saphyr::Error) -> String {
    let why = match error.without_snippet() {
        serde_saphyr::Error::DuplicateMappingKey { key, .. } => match key {
            Some(key) => format!("{key} is there twice; remove one"),
            None => "a key is there twice; remove one".to_owned(),
        },
        serde_saphyr::Error::Budget { breach, .. } => match breach {
            serde_saphyr::budget::BudgetBreach::Depth { depth } => {
                format!("nested deeper than {}", depth.saturating_sub(1))
            }
            _ => "larger than a file of Kubernetes objects is".to_owned(),
        },
        _ => return error.to_string(),
    };
    match error.location() {
        Some(at) => format!("line {}, column {}: {why}", at.line(), at.column()),
        None => why,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_yaml_are_said_for_people() {
        let deep = "[".repeat(70) + &"]".repeat(70);
        for (text, says) in [
            (
                "a: {b: 1, b: 2}",
                "line 1, column 11: b is there twice; remove one",
            ),
            (deep.as_str(), "nested deeper than 64"),
        ] {
            let error = serde_saphyr::from_multiple::<Value>(text).unwrap_err();
            let words = in_words(&error);
            assert!(words.contains(says), "{words}");
            assert!(!words.contains("DuplicateKeyPolicy") && !words.contains("budget"));
        }
    }
}
