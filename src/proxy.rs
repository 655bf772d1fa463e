//! The network edge: listeners, workers, one request from accept to answer.
//! Imports core, config, snapshot, clock and telemetry; never manage, reload or admin.

pub mod proxy_protocol;
pub mod subprotocol;
pub mod tls;
pub mod tunnel;
