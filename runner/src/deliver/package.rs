//! Records in memory, in the order of their offsets: what sinks that send each record by itself
//! deliver.

use crate::deliver::sink::{OwnedRecord, Parcel};

/// Bytes of a package; its last record may exceed it.
const PACKAGE_BYTES: usize = 256 << 10;

/// Records in memory.
#[derive(Debug, Default)]
pub struct Package {
    pub records: Vec<OwnedRecord>,
    pub bytes: usize,
}

impl Package {
    /// Adds a record.
    pub fn push(&mut self, record: OwnedRecord) {
        self.bytes += record.size();
        self.records.push(record);
    }

    /// Whether it must take no more than this number of records, or than the bytes of a package.
    pub fn is_full(&self, records_max: usize) -> bool {
        self.records.len() >= records_max || self.bytes >= PACKAGE_BYTES
    }

    /// The next offset to read when so many records of its parcel are delivered.
    pub fn reached<P>(&self, parcel: &Parcel<P>, done: usize) -> i64 {
        match self.records.get(done) {
            Some(_) if done == 0 => parcel.first,
            Some(next) => next.offset,
            None => parcel.next,
        }
    }
}
