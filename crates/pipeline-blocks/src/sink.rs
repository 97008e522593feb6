//! What a sink writes to Kafka for a record.

use crate::encode::encode;
use crate::event::{Changed, Event, Header};
use crate::output::{Destination, Output, Outputs};
use freehold_pipeline::sink::Partitioning;
use freehold_pipeline::source::Format;

/// Writes the record of a block to its topic. The value is encoded to `buffer`, if it was changed.
///
/// # Errors
/// The value is not of the format, or a program gave key, headers or timestamp a value that Kafka
/// has no place for.
pub(crate) fn write(
    node: usize,
    topic: &str,
    partitioning: Partitioning,
    format: Format,
    event: &Event<'_>,
    buffer: &mut Vec<u8>,
    outputs: &mut dyn Outputs,
) -> Result<(), String> {
    let input = &event.input;
    let value = match event.is_changed() {
        false => input.value,
        true => encode(format, event.value(), buffer)?.then_some(buffer.as_slice()),
    };
    let keep = Destination::Partition(input.partition);
    let Some(Changed {
        key,
        headers,
        timestamp,
    }) = event.changed()?
    else {
        let destination = match (partitioning, input.key) {
            (Partitioning::ByKey, Some(_)) => Destination::Key,
            _ => keep,
        };
        outputs.write(Output {
            node,
            topic,
            destination,
            key: input.key,
            value,
            headers: input.headers,
            timestamp: input.timestamp,
        });
        return Ok(());
    };
    let destination = match (&key, partitioning) {
        (None, _) => keep,
        (Some(_), Partitioning::ByKey) => Destination::Key,
        (Some(key), Partitioning::Keep) if Some(key.as_slice()) == input.key => keep,
        (Some(_), Partitioning::Keep) => Destination::Key,
    };
    let changed: Vec<Header<'_>> = headers
        .iter()
        .flatten()
        .map(|(name, value)| Header {
            name,
            value: value.as_deref(),
        })
        .collect();
    let headers = match headers {
        Some(_) => changed.as_slice(),
        None => input.headers,
    };
    outputs.write(Output {
        node,
        topic,
        destination,
        key: key.as_deref(),
        value,
        headers,
        timestamp,
    });
    Ok(())
}
