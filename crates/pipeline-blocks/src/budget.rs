//! What a program may spend on one record. The only module that reads a clock of the system, which
//! is that of the thread's CPU time.

use rustix::time::{ClockId, Timespec, clock_gettime};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

/// Expressions that one record may run through. A program of a hundred lines has some hundreds;
/// only loops within loops over large values come here. A number, so that a record that is worked
/// on again has the same end.
pub const STEPS_MAX: u32 = 1_000_000;

/// CPU time that one record may take: an expression can copy a large value each time that it is
/// run, and then even fewer of them would be minutes. Far above what a useful program takes, so that
/// a slow machine gives no other result.
pub const CPU_TIME_MAX: Duration = Duration::from_secs(2);

/// CPU time is looked at after the program has run for so long: asking for it costs as much as some
/// expressions, and this clock costs next to nothing.
const SHORT: Duration = Duration::from_millis(500);

/// Expressions between two looks at a clock.
const STEPS_A_LOOK: u32 = 16;

/// What a program has spent on a record.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    steps: u32,
    began: Option<Instant>,
    /// CPU time of the thread when the program was no longer a short one.
    cpu_time: Option<Duration>,
}

impl Budget {
    /// Before an expression.
    pub(crate) fn step(&mut self) -> ControlFlow<()> {
        self.steps += 1;
        let is_look = self.steps.is_multiple_of(STEPS_A_LOOK);
        match self.steps > STEPS_MAX || (is_look && self.is_late()) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    fn is_late(&mut self) -> bool {
        if self.began.get_or_insert_with(Instant::now).elapsed() < SHORT {
            return false;
        }
        let now = cpu_time();
        now.saturating_sub(*self.cpu_time.get_or_insert(now)) > CPU_TIME_MAX
    }

    /// What was spent, where [`Self::step`] has ended the program.
    pub(crate) fn in_words(&self) -> String {
        match self.steps > STEPS_MAX {
            true => {
                format!("the program ran through more than {STEPS_MAX} expressions on this record")
            }
            false => format!(
                "the program took more than {} s of CPU time on this record",
                CPU_TIME_MAX.as_secs()
            ),
        }
    }
}

/// CPU time of this thread.
pub(crate) fn cpu_time() -> Duration {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::ThreadCPUTime);
    let (secs, nanos) = (u64::try_from(tv_sec), u32::try_from(tv_nsec));
    Duration::new(secs.unwrap_or_default(), nanos.unwrap_or_default())
}
