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

mod bind;
mod body;
mod buffers;
mod connections;
mod cors;
mod credentials;
mod exchange;
mod executor;
mod facts;
#[cfg(any(fuzzing, test))]
pub mod fuzz;
mod head;
pub mod health;
mod io;
mod limits;
mod listener;
pub mod proxy_protocol;
mod record;
mod reply;
mod rewrite;
mod serve;
mod service;
mod streams;
pub mod subprotocol;
#[cfg(test)]
mod tests;
pub mod tls;
mod transport;
pub mod tunnel;
mod upgrade;
mod upstream;
mod worker;

pub use self::bind::{bind, bind_tcp};
use self::executor::LocalExecutor;
pub use self::io::PIPE_DESCRIPTORS;
pub use self::limits::LimitStore;
pub use self::listener::{Accepted, Listening, listen};
pub use self::worker::{Load, Phase, Seed, Shared, run};
