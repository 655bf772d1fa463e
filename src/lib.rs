//! keygate: an API-key authentication sidecar.
//!
//! ```text
//! core ← table ← {reload, manage}      core ← proxy      app on top; proxy and manage never meet
//! ```

pub mod added;
pub mod admin;
pub mod app;
pub mod artefacts;
pub mod check;
pub mod cli;
pub mod clock;
#[cfg(feature = "kubernetes")]
pub mod cluster;
pub mod config;
pub mod core;
pub mod distributor;
pub mod exit;
pub mod explain;
pub mod exposure;
#[cfg(feature = "kubernetes")]
pub mod inject;
pub mod manage;
pub mod meter;
pub mod mounts;
pub mod observe;
pub mod proxy;
#[cfg(feature = "admin")]
pub mod registrar;
pub mod reload;
pub mod remote;
pub mod serving;
pub mod snapshot;
pub mod table;
pub mod telemetry;
pub mod tls;
pub mod token;
pub mod usage;
#[cfg(feature = "kubernetes")]
pub mod webhook;
pub mod wording;

// The fuzz targets, which see keygate from outside, run as tests of the library.
#[cfg(test)]
extern crate self as keygate;
#[cfg(test)]
#[cfg(feature = "kubernetes")]
#[path = "../fuzz/replay.rs"]
mod fuzz_replay;
