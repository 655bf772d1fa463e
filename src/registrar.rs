//! The management service: keys of many organizations in a database, changed by people and
//! machines, published to sidecars. Only with the feature `admin`.
//!
//! Imports artefacts, clock, config, core, exit, manage, remote, serving, table, telemetry, tls, token,
//! usage and wording.
//! `manage` does not know this room: the binary joins them.

pub mod api;
pub mod app;
pub mod asked;
pub mod checkpoints;
pub mod command;
pub mod config;
pub mod database;
pub mod dialect;
pub mod embed;
pub mod endpoints;
pub mod metrics;
pub mod page;
pub mod people;
pub mod publish;
pub mod request;
pub mod search;
pub mod serve;
pub mod sight;
pub mod store;
pub mod usage;
pub mod waits;
