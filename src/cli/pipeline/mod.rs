//! Commands about Pipelines. `freehold lint`, `freehold test` and `freehold graph` need no cluster:
//! they give the answers that the webhook and the runner give. `freehold pipeline` asks the API
//! server for revisions and rates, and `freehold replay` for a replay of dead letters.

mod check;
mod files;
mod graph;
mod kinds;
mod lint;
mod object;
mod print;
mod replay;
mod report;
mod revisions;
mod schema;
mod test;
mod topics;

pub use check::main as check;
pub use graph::{Options as GraphOptions, main as graph};
pub use lint::{Options as LintOptions, main as lint};
pub use replay::{Options as ReplayOptions, main as replay};
pub use revisions::{Command as RevisionsCommand, main as revisions};
pub use test::{Options as TestOptions, main as test};
