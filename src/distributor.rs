//! The distributor: a cache of an origin's tables and patches, without a state of its own, that
//! thousands of sidecars wait at while it waits at the origin once per file. `keygatectl
//! distributor` is [`command`].
//!
//! ```text
//! origin → follow (a thread per file) → judge → shelf → those who wait
//! ```
//!
//! Imports artefacts, clock, config, core, exit, manage, reload, serving, table and tls. Sidecars trust
//! signatures, not this.

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
