//! All integration tests, one binary: the real programs, real sockets on 127.0.0.1, port 0, every
//! wait bounded. A module per theme; `support` holds what they share.

#![allow(
    clippy::disallowed_methods, // waits of a test are bounded by the real clock
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test ends at the first surprise, also in its helpers"
)]

mod keygate_cli;
mod layering;
mod recorder;
#[allow(dead_code, reason = "a vocabulary; not every word is in use at every time")]
mod support;
