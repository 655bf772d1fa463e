//! The network edge: listeners, workers, one request from accept to answer.
//! Imports core, config, snapshot, clock and telemetry; never manage, reload or admin.
//!
//! ```text
//! listener::accept → serve::serve → service::handle → facts::read → decide → limits.charge
//!   → rewrite::UpstreamRequest::new → exchange::send → rewrite::to_client | reply::refuse
//!   → RequestRecord::drop
//! ```

#![deny(clippy::indexing_slicing)]

/// `Debug` that says which type it is and nothing of what is in it: what a client has sent may hold a
/// key.
macro_rules! opaque {
    ($($type:ident),+) => {
        $(impl std::fmt::Debug for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($type)).finish_non_exhaustive()
            }
        })+
    };
}

mod body;
mod client;
mod executor;
#[cfg(any(fuzzing, test))]
pub mod fuzz;
pub mod health;
mod http1;
mod ids;
mod limits;
mod net;
mod request;
mod streams;
#[cfg(test)]
mod tests;
pub mod tunnel;
mod upstream;
mod worker;

pub use self::client::listener::{Accepted, Listening, listen};
pub use self::limits::LimitStore;
pub use self::net::bind::{bind, bind_tcp};
pub use self::net::pipe::PIPE_DESCRIPTORS;
pub use self::net::{proxy_protocol, tls};
pub use self::request::subprotocol;
pub use self::worker::{Load, Phase, Seed, Shared, run};
