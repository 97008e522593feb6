//! What an error of the consumer means, for both loops that read.

use std::time::Duration;

use rdkafka::consumer::Consumer as _;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use crate::consumer::StageConsumer;
use crate::stage_loop::StageError;
use crate::stage_loop::sources::is_about_source;

/// How long one question to the cluster may hold a loop up.
pub(crate) const ASK: Duration = Duration::from_secs(2);

/// What an error of the consumer means.
pub(crate) enum ReadError {
    /// Another process has this one's id.
    IdentityTaken(String),
    /// The next offset of a partition is not in it, in librdkafka's words. They do not name it.
    OutOfRange(String),
    /// No broker answers: the statistics say so.
    Away,
    /// Reading goes on by itself when the reason is gone.
    Other { is_about_source: bool, text: String },
}

/// What an error of the consumer means.
///
/// # Errors
/// The consumer has failed for good.
pub(crate) fn read_error(
    consumer: &StageConsumer,
    error: &KafkaError,
) -> Result<ReadError, StageError> {
    if let Some((code, message)) = consumer.client().fatal_error() {
        return match code {
            Code::FencedInstanceId => Ok(ReadError::IdentityTaken(message)),
            _ => Err(StageError::Consumer(message)),
        };
    }
    Ok(match error.rdkafka_error_code() {
        Some(Code::AutoOffsetReset) => ReadError::OutOfRange(consumer.context().last_error()),
        Some(Code::AllBrokersDown) => ReadError::Away,
        code => {
            // Logged already.
            let text = consumer.context().last_error();
            ReadError::Other {
                is_about_source: is_about_source(code),
                text: if text.is_empty() {
                    error.to_string()
                } else {
                    text
                },
            }
        }
    })
}
