//! What delivers records outside Kafka, as a trait, and what is given to it.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;

use crate::record::{Header, Headers, Record};

/// Delivers packages of records of one partition.
pub trait Sink: Send + Sync + 'static {
    /// Records that wait to be delivered together.
    type Package: Send + Sync + 'static;

    /// Packages that are not due are delivered too, when the partition is given up.
    const FLUSHES: bool;

    /// A package without records.
    fn open(&self) -> Self::Package;

    /// Adds a record that has a value. It copies what it keeps.
    ///
    /// # Errors
    /// Why the record can never be delivered; never its content.
    fn add(&self, package: &mut Self::Package, record: &Record<'_>) -> Result<(), String>;

    /// Bytes of memory that a package holds.
    fn held(&self, package: &Self::Package) -> usize;

    /// Whether a package must take no more records.
    fn is_full(&self, package: &Self::Package) -> bool;

    /// Whether a package of this age is to be delivered, although it is not full.
    fn is_due(&self, age: Duration) -> bool;

    /// No more records come.
    fn seal(&self, package: &mut Self::Package);

    /// Delivers the records that are not delivered yet, in order, once; tells the parcel how far it
    /// came.
    fn deliver(&self, parcel: &Parcel<Self::Package>) -> impl Future<Output = Then> + Send;

    /// The record at this place of a package, if it is kept.
    fn record<'p>(&self, package: &'p Self::Package, place: usize) -> Option<&'p OwnedRecord>;

    /// The next offset to read when so many records of the parcel are delivered.
    fn reached(&self, parcel: &Parcel<Self::Package>, done: usize) -> i64;
}

/// What a delivery came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Then {
    /// All is delivered; or as far as it had come when it was told to halt.
    Done,
    /// The rest is to be tried again, not before `after`.
    Retry {
        after: Option<Duration>,
        why: String,
    },
    /// The record after the delivered ones can never be delivered.
    Refused { why: String },
    /// What comes before this offset is delivered already: by another process, or by an earlier try.
    Until { next: i64 },
}

impl Then {
    /// The rest is to be tried again soon.
    pub fn retry(why: impl Into<String>) -> Self {
        let why = why.into();
        Self::Retry { after: None, why }
    }
}

/// Records of one partition on their way.
#[derive(Debug)]
pub struct Parcel<P> {
    pub topic: Arc<str>,
    pub partition: i32,
    /// The offset behind the last record that came before the parcel's.
    pub first: i64,
    /// The offset behind its last record.
    pub next: i64,
    pub package: P,
    /// Records without a value: they are not delivered.
    pub left_out: u64,
    done: AtomicUsize,
    halt: AtomicBool,
}

impl<P> Parcel<P> {
    /// A parcel that begins at an offset.
    pub fn new(topic: &Arc<str>, partition: i32, first: i64, package: P) -> Self {
        Self {
            topic: Arc::clone(topic),
            partition,
            first,
            next: first,
            package,
            left_out: 0,
            done: AtomicUsize::new(0),
            halt: AtomicBool::new(false),
        }
    }

    /// How many records of the package are delivered.
    pub fn done(&self) -> usize {
        self.done.load(Ordering::Acquire)
    }

    /// So many records of the package are delivered.
    pub fn set_done(&self, done: usize) {
        self.done.store(done, Ordering::Release);
    }

    /// The delivery is to end before its next request.
    pub fn halt(&self) {
        self.halt.store(true, Ordering::Relaxed);
    }

    /// Whether the delivery is to end.
    pub fn is_halted(&self) -> bool {
        self.halt.load(Ordering::Relaxed)
    }
}

/// A record in memory of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedRecord {
    pub offset: i64,
    /// Milliseconds since 1970.
    pub timestamp: Option<i64>,
    pub key: Option<Vec<u8>>,
    pub value: Option<Bytes>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

impl OwnedRecord {
    /// Copies a record.
    pub fn of(record: &Record<'_>) -> Self {
        let headers = record.headers.iter();
        Self {
            offset: record.offset,
            timestamp: record.timestamp,
            key: record.key.map(<[u8]>::to_vec),
            value: record.value.map(Bytes::copy_from_slice),
            headers: headers
                .map(|(name, value)| (name.to_owned(), value.map(<[u8]>::to_vec)))
                .collect(),
        }
    }

    /// Bytes of memory.
    pub fn size(&self) -> usize {
        let headers = self.headers.iter();
        let headers: usize = headers
            .map(|(name, value)| name.len() + value.as_ref().map_or(0, Vec::len) + 48)
            .sum();
        let value = self.value.as_ref().map_or(0, Bytes::len);
        self.key.as_ref().map_or(0, Vec::len) + value + headers + 128
    }

    /// Gives the record to a function.
    pub fn with<T>(&self, topic: &str, partition: i32, work: impl FnOnce(&Record<'_>) -> T) -> T {
        let headers = self.headers.iter();
        let headers: Vec<Header<'_>> = headers
            .map(|(name, value)| (name.as_str(), value.as_deref()))
            .collect();
        work(&Record {
            timestamp: self.timestamp,
            key: self.key.as_deref(),
            value: self.value.as_deref(),
            headers: Headers::Plain(&headers),
            ..Record::at(topic, partition, self.offset, 0)
        })
    }
}
