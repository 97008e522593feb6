//! How often a cluster is reconciled when nothing requeues it.

use std::time::Duration;

/// The time until the next reconcile of a cluster that is not Ready. Changes of pods trigger a
/// reconcile too, but brokers do not announce changes by themselves.
pub const REQUEUE_SOON: Duration = Duration::from_millis(700);

/// The time until the next reconcile when the next step may begin at once.
pub const REQUEUE_AT_ONCE: Duration = Duration::from_millis(20);

/// The time until the next reconcile of a cluster that has not been Ready for [`PATIENCE`]: it
/// probably waits for a person.
pub const REQUEUE_LATER: Duration = Duration::from_secs(5);

pub const PATIENCE: Duration = Duration::from_secs(600);

/// The time until the next reconcile of a Ready cluster. A broker that falls out of sync is noticed
/// after at most this time.
pub const REQUEUE_READY: Duration = Duration::from_secs(10);
