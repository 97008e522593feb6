//! The time that programs see. The runner sets it once a batch; `freehold test` sets it by the
//! test case, so that every run gives the same result.

use std::cell::Cell;

thread_local! {
    static NOW_MS: Cell<i64> = const { Cell::new(0) };
}

/// Sets what `now()` returns on this thread: milliseconds since 1970, UTC.
pub fn set(now_ms: i64) {
    NOW_MS.set(now_ms);
}

/// What [`set`] was last called with on this thread; 0 before.
pub fn now_ms() -> i64 {
    NOW_MS.get()
}
