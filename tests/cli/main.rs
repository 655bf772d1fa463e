//! `keygatectl` as people and scripts meet it: the real program in an empty directory.

#![expect(clippy::panic, clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod completion;
#[cfg(feature = "admin")]
mod database;
mod demo;
mod doubts;
mod formats;
mod imports;
#[cfg(feature = "kubernetes")]
mod inject;
#[cfg(feature = "kubernetes")]
mod injected;
mod interleavings;
mod plans;
#[cfg(feature = "admin")]
#[path = "../support/postgres.rs"]
#[allow(dead_code, clippy::expect_used, reason = "a vocabulary; not every word is in use here")]
mod postgres;
mod publishers;
mod publishing;
mod recipes;
#[cfg(feature = "admin")]
mod recovery;
mod registry;
mod rotations;
mod scale;
#[cfg(feature = "admin")]
mod service_recipes;
#[cfg(feature = "admin")]
mod serving;
mod sessions;
mod signers;
mod status;
mod support;
mod tables;
mod unpublished;
mod usage;
mod words;
