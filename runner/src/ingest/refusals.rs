//! What becomes of records that Kafka does not take for their size, and never will.

use freehold_pipeline::block::Block;
use freehold_pipeline::definition::ErrorPolicy;
use freehold_pipeline::stage_document::StageDocument;
use freehold_pipeline::topics::TopicNames;
use freehold_pipeline_blocks::dead_letter;

use super::Shared;
use super::connection::Addressed;
use super::writer::WriteError;

/// The error policy of the source's block.
pub struct Refusals {
    policy: ErrorPolicy,
    dead_letter: Option<String>,
    /// `<namespace>/<name>` of the Pipeline.
    pipeline: String,
    revision: String,
}

/// Why the stream cannot go on behind a record.
pub enum NotTaken {
    /// The stage must stop before it.
    Stopped(String),
    /// The dead letter is not written.
    Broken(String),
    /// Kafka did not take it: it is to be tried again.
    Later,
}

impl Refusals {
    /// The policy of a source.
    pub fn of(document: &StageDocument, block: &Block) -> Self {
        let errors = &document.definition.errors;
        let dead_letter = errors.dead_letter.as_ref();
        let names = TopicNames::default();
        Self {
            policy: errors.policy(block),
            dead_letter: dead_letter.and_then(|target| Some(target.resolve(&names)?.to_owned())),
            pipeline: document.pipeline.clone(),
            revision: document.revision.to_string(),
        }
    }

    /// Handles a record. `error` is never its content; `topic` is that of a message.
    ///
    /// # Errors
    /// Why the stream cannot go on behind it.
    pub async fn refuse(
        &self,
        shared: &Shared,
        topic: Option<&[u8]>,
        error: String,
    ) -> Result<(), NotTaken> {
        shared.counts.failed(&shared.source, &error);
        shared.process.figures.refused.add(1);
        match (self.policy, &self.dead_letter) {
            (ErrorPolicy::Skip, _) => {
                shared.counts.skipped(&shared.source);
                Ok(())
            }
            (ErrorPolicy::DeadLetter, Some(target)) => {
                let topic_text = topic.map(String::from_utf8_lossy);
                let mut headers = vec![
                    (dead_letter::PIPELINE, self.pipeline.as_str()),
                    (dead_letter::REVISION, &self.revision),
                    (dead_letter::BLOCK, &shared.source),
                    (dead_letter::ERROR, &error),
                    (dead_letter::ATTEMPTS, "1"),
                ];
                headers.extend(
                    topic_text
                        .as_deref()
                        .map(|topic| (dead_letter::TOPIC, topic)),
                );
                let letter = Addressed {
                    topic: target,
                    key: topic,
                    value: None,
                    headers: &headers,
                    place: 0,
                };
                let written = shared.writer.write_to(letter).await;
                written.map_err(|failure| match failure {
                    WriteError::TooLarge { .. } | WriteError::Busy => NotTaken::Later,
                    WriteError::Away(why) => NotTaken::Broken(format!("no dead letter: {why}")),
                })
            }
            _ => Err(NotTaken::Stopped(error)),
        }
    }
}
