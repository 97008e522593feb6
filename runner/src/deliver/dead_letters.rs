//! Writes records that the sink refuses to the topic of dead letters, each acknowledged before the
//! stream goes on.

use std::time::{Duration, Instant};

use freehold_pipeline::definition::Delivery;
use freehold_pipeline_blocks::clock;
use freehold_pipeline_blocks::dead_letter::{self, REFUSALS_MAX, Reason};

use crate::client_config;
use crate::config::StageConfig;
use crate::deliver::policy::{LetterError, Letters, Refused};
use crate::figures::now_ms;
use crate::flow::{Forward, with_input};
use crate::outputs::Outputs;
use crate::producer::{FailureCause, Librdkafka, Producer as _, ProducerError, SendError};
use crate::record::Record;

/// How long Kafka may take for one: the loop stands still meanwhile.
const PATIENCE: Duration = Duration::from_secs(6);

/// The topic of dead letters.
pub struct DeadLetters<'c> {
    pub config: &'c StageConfig,
    /// `None`: the policy writes none.
    pub topic: Option<String>,
    /// `<namespace>/<name>` of the Pipeline.
    pub pipeline: String,
    pub revision: u64,
    /// The sink's block.
    pub block: String,
    /// Made when it is needed.
    pub producer: Option<Librdkafka>,
}

impl Letters for DeadLetters<'_> {
    fn write(&mut self, refused: &Refused<'_>) -> Result<(), LetterError> {
        let Refused {
            topic,
            partition,
            record,
            why,
        } = refused;
        record.with(topic, *partition, |record| {
            for refusals in 0..REFUSALS_MAX {
                match self.send(record, why, refusals) {
                    Err(LetterError::Refused(_)) => {}
                    result => return result,
                }
            }
            self.send(record, why, REFUSALS_MAX)
        })
    }
}

impl DeadLetters<'_> {
    /// Writes a letter after so many that the topic has refused. After an error the producer is
    /// another one: what this one still holds would be there twice.
    fn send(&mut self, record: &Record<'_>, why: &str, refusals: u32) -> Result<(), LetterError> {
        let topic = self.topic.as_deref().unwrap_or_default();
        let later = |why: &dyn std::fmt::Display| {
            LetterError::Later(format!("dead letters to topic {topic}: {why}"))
        };
        let producer = match self.producer.take() {
            Some(producer) => producer,
            None => {
                let config = client_config::producer(self.config).map_err(|why| later(&why))?;
                let made = Librdkafka::new(&config, Delivery::AtLeastOnce);
                made.map_err(|_| later(&"the producer cannot be made"))?
            }
        };
        let mut outputs = Outputs::default();
        let reason = Reason {
            pipeline: &self.pipeline,
            revision: self.revision,
            node: 0,
            block: &self.block,
            error: why,
            attempts: 1,
            way: None,
            replay: None,
            refusals,
        };
        clock::set(now_ms());
        with_input(record, |input| {
            let mut forward = Forward {
                record,
                out: &mut outputs,
            };
            dead_letter::write(topic, &input, &reason, &mut forward);
        });
        written(&producer, &outputs, record).map_err(|error| match error {
            Unwritten::Refused(why) => LetterError::Refused(format!("topic {topic}: {why}")),
            Unwritten::Failed(error) => later(&error),
        })?;
        self.producer = Some(producer);
        Ok(())
    }
}

enum Unwritten {
    Refused(String),
    Failed(ProducerError),
}

fn written(producer: &Librdkafka, outputs: &Outputs, record: &Record<'_>) -> Result<(), Unwritten> {
    producer.begin().map_err(Unwritten::Failed)?;
    let began = Instant::now();
    let record = [*record];
    for output in outputs.iter(&record) {
        loop {
            match producer.send(&output) {
                Ok(()) => break,
                Err(SendError::Full) if began.elapsed() < PATIENCE => {
                    producer.serve(Duration::from_millis(5));
                }
                // The flush says that it is not written.
                Err(SendError::Full) => break,
                Err(SendError::Refused(refusal)) => {
                    return Err(Unwritten::Refused(refusal.message));
                }
                Err(SendError::Failed(error)) => return Err(Unwritten::Failed(error)),
            }
        }
    }
    let Err(error) = producer.flush(PATIENCE) else {
        return Ok(());
    };
    let failures = producer.take_failures();
    match failures.into_iter().next() {
        Some(failure) if failure.cause != FailureCause::Other => {
            Err(Unwritten::Refused(failure.message))
        }
        Some(failure) => Err(Unwritten::Failed(ProducerError {
            message: failure.message,
            ..error
        })),
        None => Err(Unwritten::Failed(error)),
    }
}
