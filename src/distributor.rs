//! The distributor: a cache of an origin's tables and patches, without state of its own. It waits
//! at the origin once per file, so that thousands of sidecars can wait at the distributor instead.
//! `keygatectl distributor` is [`command`].
//!
//! ```text
//! origin → follow (a thread per file) → judge → shelf → those who wait
//! ```
//!
//! Imports artefacts, clock, config, core, exit, manage, reload, serving, table, tls and wording.
//! Sidecars trust signatures, not the distributor.

mod arguments;
pub mod command;
mod desk;
mod follow;
mod judge;
mod metrics;
mod options;
mod probes;
mod run;
mod serve;
mod strangers;
mod tokens;
