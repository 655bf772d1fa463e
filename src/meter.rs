//! Counts which key is used: a cell next to each record, plus refusals and networks. Carries all of
//! it over swaps, and shows it as a usage record. Imports `clock`, `config`, `core`, `remote`,
//! `snapshot`, `table`, `telemetry`, `usage`.
//!
//! ```text
//! UseProbe (a worker) → UseCell, KeyTraces     counts: the cell without a lock; the traces under
//!                                              that of one shard, seldom, and in batches
//! UseBook ← retired key sets                   settles what they counted, off the path
//! UseBook → UsePages                           /usage, usage.file, usage.post_url
//! ```

mod book;
mod file;
mod pages;
mod post;
mod probe;
mod run;
mod series;
#[cfg(test)]
mod tests;
mod traces;

pub use self::book::{BookIdentity, UseBook};
pub use self::file::{UsageFileError, check_usage_file, open_mode, open_usage_file};
pub use self::pages::UsePages;
pub use self::probe::UseProbe;
pub use self::run::{Meter, MeterParts};
