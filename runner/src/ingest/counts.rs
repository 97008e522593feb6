//! What the blocks of the stage have counted.

use std::sync::{Mutex, PoisonError};

use freehold_pipeline_blocks::figures::{Figures as BlockFigures, LastError};

use crate::figures::now_ms;
use crate::flow::BlockFigures as Published;

/// The counts of the blocks, the source first.
pub struct Counts(Mutex<Vec<(String, BlockFigures)>>);

impl Counts {
    /// Counts of these blocks.
    pub fn new(blocks: impl Iterator<Item = String>) -> Self {
        let blocks = blocks.map(|block| (block, BlockFigures::default()));
        Self(Mutex::new(blocks.collect()))
    }

    fn change(&self, block: &str, change: impl FnOnce(&mut BlockFigures)) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, figures)) = all.iter_mut().find(|(name, _)| name == block) {
            change(figures);
        }
    }

    /// Records went through a block.
    pub fn passed(&self, block: &str, records: usize) {
        self.change(block, |figures| {
            figures.records_in += records as u64;
            figures.records_out += records as u64;
        });
    }

    /// A block failed on a record, or on a request. `why` is never its content.
    pub fn failed(&self, block: &str, why: &str) {
        self.change(block, |figures| {
            figures.records_in += 1;
            figures.errors += 1;
            figures.last_error = Some(LastError {
                address: None,
                message: why.to_owned(),
                at: now_ms(),
            });
        });
    }

    /// A record that a block failed on was left out.
    pub fn skipped(&self, block: &str) {
        self.change(block, |figures| figures.skipped += 1);
    }

    /// Shows the counts to who reads them.
    pub fn publish(&self, published: &Published) {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut published = published.lock().unwrap_or_else(PoisonError::into_inner);
        published.publish(all.iter().map(|(name, figures)| (&**name, figures)));
    }
}
