//! What the thread `shared-limits` needs to know. Imports `clock`, `config`, `tls`.

use std::sync::Arc;

use crate::clock::Clock;
use crate::config::SharedConfig;
use crate::tls::ClientTls;

/// What the thread needs to know.
#[derive(Clone, Debug)]
pub struct StoreSettings {
    pub config: SharedConfig,
    /// `None`: the connection to the store is not encrypted.
    pub tls: Option<Arc<ClientTls>>,
    /// Sidecars of other audiences have limits of their own.
    pub audience: Box<str>,
    /// Identifies this process alone: sidecars count each other by it.
    pub instance: Box<str>,
    pub clock: Clock,
}
