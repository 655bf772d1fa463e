//! What can go wrong with the store, and what it means.

use redis::{ErrorKind, RedisError, ServerErrorKind};

/// Why a call has no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub(in crate::proxy::shared_limits) enum StoreFault {
    /// The connection failed, or the attempt to open one.
    #[error("{0}")]
    Connection(Box<str>),
    /// The store refused, in its own words.
    #[error("it answers {word}{}{text}", if text.is_empty() { "" } else { ": " })]
    Refused { word: Box<str>, text: Box<str> },
    /// The keys are on another server.
    #[error("it answers {} {slot} {node}", if *asking { "ASK" } else { "MOVED" })]
    Elsewhere { slot: u16, node: Box<str>, asking: bool },
    /// An answer that no such store gives.
    #[error("it answers what is no answer to the question")]
    Strange,
    /// It answers, but later than a request may wait.
    #[error("it answers later than shared.timeout")]
    Slow,
    #[error("it does not answer")]
    Silent,
    /// What is needed to ask it.
    #[error("{0}")]
    Settings(Box<str>),
}

// === impl StoreFault ===

impl StoreFault {
    /// The script was not run, because the store does not have it.
    pub(super) fn is_unknown_script(&self) -> bool {
        matches!(self, Self::Refused { word, .. } if **word == *"NOSCRIPT")
    }

    /// Whether other requests need not ask. Keys that are being moved concern one org, and only for
    /// moments.
    pub(in crate::proxy::shared_limits) fn means_away(&self) -> bool {
        !matches!(self, Self::Elsewhere { .. })
            && !matches!(self, Self::Refused { word, .. } if **word == *"TRYAGAIN")
    }
}

impl From<RedisError> for StoreFault {
    fn from(error: RedisError) -> Self {
        if let Some((node, slot)) = error.redirect_node() {
            let asking = error.kind() == ErrorKind::Server(ServerErrorKind::Ask);
            return Self::Elsewhere { slot, node: node.into(), asking };
        }
        match error.code() {
            Some(word) => {
                Self::Refused { word: word.into(), text: error.detail().unwrap_or_default().into() }
            }
            None => Self::Connection(error.to_string().into()),
        }
    }
}
