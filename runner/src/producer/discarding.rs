//! A producer that writes nothing, for a dry run.

use std::time::Duration;

use rdkafka::consumer::ConsumerGroupMetadata;

use crate::outputs::Output;
use crate::producer::{DeliveryFailure, Ended, Position, Producer, ProducerError, SendError};

/// Takes all outputs and positions, and does nothing with them.
pub struct Discarding;

impl Producer for Discarding {
    type Group = ConsumerGroupMetadata;

    fn start(&self, _: Duration) -> Result<(), ProducerError> {
        Ok(())
    }

    fn begin(&self) -> Result<(), ProducerError> {
        Ok(())
    }

    fn send(&self, _: &Output<'_>) -> Result<(), SendError> {
        Ok(())
    }

    fn serve(&self, _: Duration) {}

    fn flush(&self, _: Duration) -> Result<(), ProducerError> {
        Ok(())
    }

    fn has_failed(&self) -> bool {
        false
    }

    fn take_failures(&self) -> Vec<DeliveryFailure> {
        Vec::new()
    }

    fn commit(
        &self,
        _: &[Position],
        _: &ConsumerGroupMetadata,
        _: Duration,
    ) -> Result<Ended, ProducerError> {
        Ok(Ended::Clean)
    }

    fn abort(&self, _: Duration) -> Result<Ended, ProducerError> {
        Ok(Ended::Clean)
    }
}
