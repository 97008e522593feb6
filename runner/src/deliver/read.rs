//! Reads the topic.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message as _};

use crate::deliver::policy::Letters;
use crate::deliver::sink::Sink;
use crate::deliver::{DeliverLoop, Ownership};
use crate::reading::{ReadError, read_error};
use crate::record::Record;
use crate::stage_loop::sources::{CHECK_EVERY, unreadable};
use crate::stage_loop::{End, StageError};

/// Messages of one turn, at most: then the loop looks at everything else.
const MESSAGES_PER_TURN: usize = 2_000;

/// How long the consumer may wait for a message while deliveries are under way: their end comes
/// another way.
const WAIT_BUSY: Duration = Duration::from_millis(2);
/// … and while nothing is.
const WAIT_IDLE: Duration = Duration::from_millis(50);

impl<S: Sink, L: Letters> DeliverLoop<'_, S, L> {
    /// Polls the consumer once, and goes on while it has messages.
    pub(super) fn read(&mut self) -> Result<(), StageError> {
        let mut wait = match self.lanes.is_under_way() {
            true => WAIT_BUSY,
            false => WAIT_IDLE,
        };
        for _ in 0..MESSAGES_PER_TURN {
            match self.consumer.poll(wait) {
                // Also after a rebalance: it must be handled before the next message.
                None => break,
                // A partition without room is paused before it gets another record.
                Some(Ok(message)) if !self.take(&message) => break,
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    self.handle_consumer_error(&error)?;
                    break;
                }
            }
            wait = Duration::ZERO;
        }
        if self.ownership == Ownership::Active {
            self.figures.set_polled();
        }
        Ok(())
    }

    /// Whether its partition has room for more.
    fn take(&mut self, message: &BorrowedMessage<'_>) -> bool {
        if self.ownership != Ownership::Active {
            return true;
        }
        let bytes = (message.key_len() + message.payload_len()) as u64;
        self.figures.bytes_in.add(bytes);
        self.lanes.push(&Record::of(message, message.topic(), 0))
    }

    fn handle_consumer_error(&mut self, error: &KafkaError) -> Result<(), StageError> {
        match read_error(self.consumer, error)? {
            ReadError::IdentityTaken(message) => {
                self.end.get_or_insert(End::IdentityTaken {
                    instance: self.config.instance.clone(),
                    message,
                });
            }
            ReadError::OutOfRange(words) => {
                self.placing.out_of_range(self.consumer.context(), words);
            }
            ReadError::Away => {}
            ReadError::Other {
                is_about_source,
                text,
            } => {
                self.source_failed |= is_about_source;
                self.figures.trouble("read", None, &text);
            }
        }
        Ok(())
    }

    /// Asks the brokers for the topics while there is a sign that one cannot be read.
    pub(super) fn check_sources(&mut self) {
        let now = Instant::now();
        if now < self.next_check {
            return;
        }
        self.next_check = now + CHECK_EVERY;
        let is_suspicious =
            self.source_failed || self.ownership != Ownership::Active || self.lanes.all.is_empty();
        if !is_suspicious {
            self.figures.set_unreadable(BTreeMap::new());
            return;
        }
        // Without an answer nothing new is known.
        if !self.figures.is_disconnected()
            && let Ok(found) = unreadable(self.consumer, &self.config.topics)
        {
            self.source_failed = !found.is_empty();
            self.figures.set_unreadable(found);
        }
    }
}
