//! What the blocks of a Pipeline do with records: programs in VRL, formats, dead letters.
//!
//! The runner, the webhook and `freehold test` share this crate, so that a program that is accepted
//! compiles in the runner, and a test says what the runner would do. It has no client and no
//! thread that outlives a call. Its clock is the one that the caller sets ([`clock`]); only [`budget`]
//! asks how long a program takes.

mod advice;
pub mod alert;
pub mod blocks;
pub mod budget;
pub mod clock;
pub mod compile;
pub mod condition;
pub mod coverage;
pub mod dead_letter;
pub mod decode;
pub mod encode;
pub mod event;
pub mod figures;
pub mod flow;
pub mod functions;
pub mod isolation;
pub mod output;
pub mod program;
mod sink;
pub mod testing;
pub mod validate;
