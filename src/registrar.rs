//! The management service: keys of many organizations in a database, changed by people and
//! machines, published to sidecars. Only with the feature `admin`.
//!
//! Imports clock, config, core, exit, manage, table and wording. `manage` does not know this room:
//! the binary joins them.

pub mod command;
pub mod config;
pub mod store;
