//! Counts of a block.

use freehold_pipeline::address::Address;
use std::time::Duration;

/// Why a record does not leave a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dropped {
    /// A filter's condition did not hold.
    Filtered,
    /// No case of a split held, and it has no default.
    NoCase,
    /// The case that held has no reader.
    NotRead,
    /// The program said `abort`.
    Aborted,
    /// It failed, and the policy is Skip.
    Skipped,
}

/// The last record that a block failed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastError {
    /// `None`: the record did not come from Kafka.
    pub address: Option<Address>,
    /// Never the record's content.
    pub message: String,
    /// Milliseconds since 1970.
    pub at: i64,
}

/// The last record that an alert block raised an alert for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastAlert {
    pub address: Address,
    /// Milliseconds since 1970, by the clock of the stage.
    pub at: i64,
}

/// CPU time is taken of one record in so many: asking for it costs as much as a small program. A
/// prime, so that no pattern in the records is always or never met.
pub const SAMPLE: u64 = 61;

/// What a block did since the process started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Records that came to it.
    pub records_in: u64,
    /// Records that it passed on or wrote, each once for each reader.
    pub records_out: u64,
    /// Records that it failed on.
    pub errors: u64,
    pub filtered: u64,
    pub no_case: u64,
    pub not_read: u64,
    pub aborted: u64,
    pub skipped: u64,
    pub last_error: Option<LastError>,
    /// The last alert that the operator writes an Event for.
    pub last_alert: Option<LastAlert>,
    /// CPU time in nanoseconds that its own work took, without that of the blocks behind it; an
    /// estimate from one record in [`SAMPLE`].
    pub cpu_nanos: u64,
    /// For each case of a split, its default last: records of it.
    pub cases: Vec<u64>,
}

impl Figures {
    /// Adds the CPU time of a record that stands for [`SAMPLE`] ones.
    pub(crate) fn took(&mut self, cpu_time: Duration) {
        let nanos = u64::try_from(cpu_time.as_nanos()).unwrap_or(u64::MAX);
        self.cpu_nanos = self.cpu_nanos.saturating_add(nanos.saturating_mul(SAMPLE));
    }

    pub(crate) fn drop_one(&mut self, why: Dropped) {
        *match why {
            Dropped::Filtered => &mut self.filtered,
            Dropped::NoCase => &mut self.no_case,
            Dropped::NotRead => &mut self.not_read,
            Dropped::Aborted => &mut self.aborted,
            Dropped::Skipped => &mut self.skipped,
        } += 1;
    }
}
