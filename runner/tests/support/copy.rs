//! The smallest blocks: every record is copied to one topic.

use freehold_runner::blocks::{Blocks, Refused};
use freehold_runner::outputs::Outputs;
use freehold_runner::record::Record;

/// Copies each record with its key, value, headers and timestamp.
pub struct Copy {
    /// The topic to copy to.
    pub to: String,
    /// Gets the records that `to` refused.
    pub dead_letter: String,
}

impl Blocks for Copy {
    fn process(&mut self, batch: &[Record<'_>], out: &mut Outputs) {
        for record in batch {
            out.to(&self.to, record).send();
        }
    }

    fn refused(&mut self, record: &Record<'_>, refused: &[Refused], out: &mut Outputs) {
        let origin = record.address().to_string();
        out.to(&self.dead_letter, record)
            .value(None)
            .header("error", Some(refused[0].refusal.message.as_bytes()))
            .header("origin", Some(origin.as_bytes()))
            .send();
    }
}
