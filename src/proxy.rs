//! The network edge: listeners, workers, one request from accept to answer.
//! Imports clock, config, core, meter, observe, snapshot, telemetry, tls and token; never manage,
//! reload or admin.
//!
//! Sub-rooms import downwards only, and files never in a circle (`tests/it/layering`). From the top:
//!
//! ```text
//! run              a worker's thread: start, deadlines, new snapshots, drain
//! client/          a client's connection: accepted, read in turns, ended
//! request/         a request and its answer: service.rs is the page, the other files are its steps
//! health           the active health check
//! worker           what one worker has, and what all workers share
//! worker_upstream  one upstream as a worker has it: its pool, and what belongs to it alone
//! upstream/        the pool of upstream connections, and one exchange over one of them
//! outbound         a request that may be sent: made from a verdict
//! answer_deadline  the time-outs of an exchange
//! body/            request bodies on their way through
//! executor         the tasks of hyper's HTTP/2, on the worker's thread
//! shared_limits/   limits shared with other sidecars through a store
//! net/             bytes in and out: sockets, TLS streams, PROXY header, activity of a connection
//! ids              ids of requests and traces
//! http1/           HTTP/1.1 heads and chunks to and from bytes; no I/O, imports core alone
//! memory/          what connections hold, and which must go when it is too much; no I/O
//! streams          running requests, which a new table can end
//! limits           buckets of limits
//! load             how busy each worker is, and caps on connections
//! tokens           user tokens on their way into a decision
//! minted           tokens for the service that may be used again
//! tunnel/          upgraded connections
//! canary           the alarm of a planted key
//! dropped          names of fields that went for an underscore, once each in the log
//! future_size      bounds on the size of futures
//! ```
//!
//! An answer has no sub-room of its own: `http1` reads and writes its head (`answer_read`,
//! `answer_write`), and `request` decides on it and passes its body on (`rewrite/answer`, `download`,
//! `reply` for those of our own).
//!
//! A request's way:
//!
//! ```text
//! client::listener::accept → client::serve
//!   → request::admit: facts::read → decide → limits.charge → rewrite → UpstreamRequest::new
//!   → request::service::pass: exchange::send → upstream::PooledConnection::send
//!   → rewrite::answer::to_client | http1::answer_write::AnswerLines | reply::refuse
//!   → RequestRecord::drop
//! ```

#![deny(clippy::indexing_slicing)]

/// `Debug` that prints the type's name and nothing of its contents: what a client has sent may
/// include a key.
macro_rules! opaque {
    ($($type:ident),+) => {
        $(impl std::fmt::Debug for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($type)).finish_non_exhaustive()
            }
        })+
    };
}

mod answer_deadline;
mod body;
mod canary;
mod client;
mod dropped;
mod executor;
mod future_size;
#[cfg(any(fuzzing, test))]
pub mod fuzz;
pub mod health;
mod http1;
mod ids;
// Without the feature, this code is never used.
mod limits;
mod load;
mod memory;
mod minted;
mod net;
mod outbound;
mod request;
mod run;
#[cfg_attr(not(feature = "shared-limits"), allow(dead_code, unused_imports))]
mod shared_limits;
mod streams;
#[cfg(test)]
mod tests;
mod tokens;
pub mod tunnel;
mod upstream;
mod worker;
mod worker_upstream;

pub use self::client::listener::{Listening, listen};
pub use self::limits::LimitStore;
pub use self::load::Load;
pub use self::memory::{Account as MemoryAccount, shortfall as memory_shortfall};
pub use self::net::accepted::Accepted;
pub use self::net::bind::{Bound, BoundSocket, bind, bind_tcp};
pub use self::net::pipe::PIPE_DESCRIPTORS;
pub use self::net::proxy_protocol;
pub use self::request::subprotocol;
pub use self::run::{Seed, run};
pub use self::shared_limits::{
    SharedLimits, SharedLimitsError, SharedLimitsThread, StoreSettings, StoreStanding,
};
pub use self::worker::{Phase, Shared};
pub use self::worker_upstream::SharedUpstream;
