//! Ensures one disruption at a time. Each concern reports what it wishes for and what it waits for
//! ([`report`]). The arbiter lets at most one wish begin ([`arbiter`]). The running disruption is
//! the lease ([`lease`]), which is written to the status before anything is done, so that another
//! operator can continue it. Pure.

pub mod arbiter;
pub mod cron;
pub mod lease;
pub mod report;
pub mod waiting;
pub mod windows;

pub use lease::{Lease, Work};
pub use report::{Facts, Grant, Mode, Needs, Pending, Priority, Progress, Report, Wish};
pub use waiting::{About, Instead, Stays, WaitingOn};
