//! What blocks send to Kafka: collected in one buffer that is used again for each batch.

use std::ops::Range;

use crate::record::{Header, Headers, Record};

/// Collects the outputs of a batch, in order.
#[derive(Default)]
pub struct Outputs {
    topics: Vec<String>,
    bytes: Vec<u8>,
    headers: Vec<(Range<usize>, Option<Range<usize>>)>,
    entries: Vec<Entry>,
    stop: Option<Stop>,
}

/// A key or a value of an output.
#[derive(Clone)]
enum Part {
    /// That of the record from which the output came.
    Same,
    None,
    Bytes(Range<usize>),
}

struct Entry {
    place: u32,
    topic: usize,
    partition: Option<i32>,
    /// `partition` is a number of another topic, and stands for its rest in this one.
    wraps: bool,
    timestamp: Option<i64>,
    key: Part,
    value: Part,
    /// The record's own headers come before `headers`.
    keeps_headers: bool,
    headers: Range<usize>,
}

/// The stage is to stop before a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stop {
    /// The record's place in the batch. What came from records before it is committed.
    pub place: u32,
    pub block: String,
    pub reason: String,
    /// Nothing of the batch is committed.
    pub gives_up: bool,
}

/// Parts of an output that are still to be set; [`Draft::send`] adds it to the outputs.
///
/// Until they are set, key, value, headers and timestamp are those of the record, and the partition
/// is chosen by the key as Java's clients do.
#[must_use = "an output is written only after send()"]
pub struct Draft<'o> {
    outputs: &'o mut Outputs,
    entry: Entry,
}

impl Draft<'_> {
    /// Writes to this partition of the topic.
    pub fn partition(mut self, partition: i32) -> Self {
        self.entry.partition = Some(partition);
        self
    }

    /// Writes to the partition of this number, modulo the topic's number of partitions: records of
    /// one partition stay in one partition.
    pub fn same_partition(mut self, partition: i32) -> Self {
        self.entry.partition = Some(partition);
        self.entry.wraps = true;
        self
    }

    /// Milliseconds since 1970. Kafka's client takes 0 as now.
    pub fn timestamp(mut self, timestamp: i64) -> Self {
        self.entry.timestamp = Some(timestamp);
        self
    }

    /// Sets or removes the key.
    pub fn key(mut self, key: Option<&[u8]>) -> Self {
        self.entry.key = self.outputs.part(key);
        self
    }

    /// Sets or removes the value.
    pub fn value(mut self, value: Option<&[u8]>) -> Self {
        self.entry.value = self.outputs.part(value);
        self
    }

    /// Sets the value to what `write` appends to the buffer. It must not change what the buffer
    /// already has.
    pub fn value_with(mut self, write: impl FnOnce(&mut Vec<u8>)) -> Self {
        let from = self.outputs.bytes.len();
        write(&mut self.outputs.bytes);
        self.entry.value = Part::Bytes(from..self.outputs.bytes.len().max(from));
        self
    }

    /// Leaves out the record's own headers.
    pub fn without_headers(mut self) -> Self {
        self.entry.keeps_headers = false;
        self
    }

    /// Adds a header.
    pub fn header(mut self, name: &str, value: Option<&[u8]>) -> Self {
        let name = self.outputs.append(name.as_bytes());
        let value = value.map(|value| self.outputs.append(value));
        self.outputs.headers.push((name, value));
        self.entry.headers.end = self.outputs.headers.len();
        self
    }

    /// Adds the output.
    pub fn send(self) {
        self.outputs.entries.push(self.entry);
    }
}

/// An output as the producer gets it.
pub struct Output<'a> {
    pub topic: &'a str,
    /// None: chosen by the key.
    pub partition: Option<i32>,
    /// The partition is meant modulo the topic's number of partitions.
    pub wraps: bool,
    /// Milliseconds since 1970.
    pub timestamp: Option<i64>,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    /// The headers of the record from which it came, if they are kept.
    pub kept_headers: Option<Headers<'a>>,
    added: &'a [(Range<usize>, Option<Range<usize>>)],
    bytes: &'a [u8],
    /// The place in the batch of the record from which it came.
    pub place: u32,
}

impl<'a> Output<'a> {
    /// The headers that a block added, in order. They come after the record's own.
    pub fn added_headers(&self) -> impl Iterator<Item = Header<'a>> {
        let bytes = self.bytes;
        self.added.iter().filter_map(move |(name, value)| {
            let name = std::str::from_utf8(&bytes[name.clone()]).ok()?;
            Some((name, value.clone().map(|value| &bytes[value])))
        })
    }

    /// Bytes of key and value.
    #[must_use]
    pub fn size(&self) -> usize {
        self.key.map_or(0, <[u8]>::len) + self.value.map_or(0, <[u8]>::len)
    }
}

impl Outputs {
    /// Begins an output to a topic that comes from a record.
    pub fn to(&mut self, topic: &str, record: &Record<'_>) -> Draft<'_> {
        let topic = self.topic(topic);
        let headers = self.headers.len()..self.headers.len();
        Draft {
            outputs: self,
            entry: Entry {
                place: record.place,
                topic,
                partition: None,
                wraps: false,
                timestamp: record.timestamp,
                key: Part::Same,
                value: Part::Same,
                keeps_headers: true,
                headers,
            },
        }
    }

    /// Stops the stage before this record: what it sent is left out, and records after it in the
    /// batch are not counted as read. Only the first stop counts.
    pub fn stop(&mut self, record: &Record<'_>, block: &str, reason: &str) {
        self.stop.get_or_insert_with(|| Stop {
            place: record.place,
            block: block.to_owned(),
            reason: reason.to_owned(),
            gives_up: false,
        });
    }

    /// Stops the stage because of this record and those before it, and gives the whole batch up.
    pub fn give_up(&mut self, record: &Record<'_>, block: &str, reason: &str) {
        self.stop(record, block, reason);
        if let Some(stop) = &mut self.stop {
            stop.gives_up = true;
        }
    }

    /// The stop that a block asked for.
    #[must_use]
    pub fn stopped(&self) -> Option<&Stop> {
        self.stop.as_ref()
    }

    /// The outputs in order, without those of records at and after a stop. `records` are those that
    /// the outputs came from, in order of their places and without gaps.
    pub fn iter<'a>(&'a self, records: &'a [Record<'a>]) -> impl Iterator<Item = Output<'a>> {
        let end = self.stop.as_ref().map_or(u32::MAX, |stop| stop.place);
        let first = records.first().map_or(0, |record| record.place);
        self.entries
            .iter()
            .filter(move |entry| entry.place < end)
            .filter_map(move |entry| {
                let at = entry.place.checked_sub(first)? as usize;
                Some(self.output(entry, records.get(at)?))
            })
    }

    /// How many outputs there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no output.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Forgets the outputs and keeps the memory, but not more than 4 MiB of it.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.headers.clear();
        self.bytes.clear();
        self.bytes.shrink_to(4 << 20);
        self.stop = None;
        // A program can make topic names from records: the table must not grow for ever.
        if self.topics.len() > 1_000 {
            self.topics.clear();
        }
    }

    fn output<'a>(&'a self, entry: &Entry, record: &Record<'a>) -> Output<'a> {
        let part = |part: &Part, same: Option<&'a [u8]>| match part {
            Part::Same => same,
            Part::None => None,
            Part::Bytes(range) => Some(&self.bytes[range.clone()]),
        };
        Output {
            topic: &self.topics[entry.topic],
            partition: entry.partition,
            wraps: entry.wraps,
            timestamp: entry.timestamp,
            key: part(&entry.key, record.key),
            value: part(&entry.value, record.value),
            kept_headers: entry.keeps_headers.then_some(record.headers),
            added: &self.headers[entry.headers.clone()],
            bytes: &self.bytes,
            place: entry.place,
        }
    }

    fn topic(&mut self, topic: &str) -> usize {
        // Few topics, and most outputs go to the one before.
        if let Some(found) = self.topics.iter().position(|known| known == topic) {
            return found;
        }
        self.topics.push(topic.to_owned());
        self.topics.len() - 1
    }

    fn append(&mut self, bytes: &[u8]) -> Range<usize> {
        let from = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        from..self.bytes.len()
    }

    fn part(&mut self, bytes: Option<&[u8]>) -> Part {
        bytes.map_or(Part::None, |bytes| Part::Bytes(self.append(bytes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADERS: [Header<'static>; 1] = [("trace", Some(b"1"))];

    fn record(place: u32) -> Record<'static> {
        Record {
            timestamp: Some(7),
            key: Some(b"key"),
            value: Some(b"value"),
            headers: Headers::Plain(&HEADERS),
            ..Record::at("in", 2, 40 + i64::from(place), place)
        }
    }

    #[test]
    fn what_a_block_does_not_set_is_that_of_the_record() {
        let mut outputs = Outputs::default();
        outputs.to("out", &record(0)).send();
        let records = [record(0), record(1)];
        let got: Vec<_> = outputs.iter(&records).collect();
        let headers: Vec<_> = got[0].kept_headers.unwrap().iter().collect();
        assert_eq!(
            (got[0].topic, got[0].partition, got[0].timestamp),
            ("out", None, Some(7))
        );
        assert_eq!(
            (got[0].key, got[0].value),
            (Some(&b"key"[..]), Some(&b"value"[..]))
        );
        assert_eq!(headers, HEADERS);
    }

    #[test]
    fn each_part_can_be_replaced_or_removed() {
        let mut outputs = Outputs::default();
        outputs
            .to("a", &record(0))
            .partition(3)
            .timestamp(9)
            .key(None)
            .value_with(|to| to.extend_from_slice(b"new"))
            .without_headers()
            .header("why", Some(b"because"))
            .header("none", None)
            .send();
        outputs
            .to("b", &record(1))
            .key(Some(b""))
            .value(None)
            .send();
        let records = [record(0), record(1)];
        let got: Vec<_> = outputs.iter(&records).collect();
        let headers: Vec<_> = got[0].added_headers().collect();
        assert!(got[0].kept_headers.is_none());
        assert_eq!((got[0].partition, got[0].timestamp), (Some(3), Some(9)));
        assert_eq!((got[0].key, got[0].value), (None, Some(&b"new"[..])));
        assert_eq!(headers, [("why", Some(&b"because"[..])), ("none", None)]);
        assert_eq!((got[1].key, got[1].value), (Some(&b""[..]), None));
    }

    #[test]
    fn outputs_at_and_after_a_stop_are_left_out() {
        let mut outputs = Outputs::default();
        for place in 0..4 {
            outputs.to("out", &record(place)).send();
        }
        outputs.stop(&record(2), "clean", "not JSON");
        outputs.stop(&record(1), "later", "does not count");
        let records: Vec<_> = (0..4).map(record).collect();
        let places: Vec<_> = outputs.iter(&records).map(|output| output.place).collect();
        assert_eq!(places, [0, 1]);
        assert_eq!(
            outputs.stopped().map(|stop| stop.block.as_str()),
            Some("clean")
        );
        outputs.clear();
        assert!(outputs.is_empty() && outputs.stopped().is_none());
    }
}
