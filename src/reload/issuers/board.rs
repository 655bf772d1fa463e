//! What `/status` shows about the issuers of user tokens. Their keepers write it, and the admin
//! thread reads it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;

use crate::config::TokenSettings;
use crate::core::Now;
use crate::reload::status::Time;
use crate::token::JwkSet;

/// What every keeper knows about its issuer. All clones are the same.
#[derive(Clone, Debug, Default)]
pub struct IssuerBoard(Arc<Mutex<Vec<IssuerEntry>>>);

/// One issuer, for `/status`.
#[derive(Debug, Serialize)]
pub struct IssuerStatus {
    pub issuer: String,
    /// Path, or URL without its query.
    pub from: String,
    /// Signing keys in force. `null`: there never were any.
    pub keys: Option<usize>,
    /// When its source last had them.
    pub fetched_at: Option<Time>,
    pub age_seconds: Option<u64>,
    /// They are too old: its tokens are refused.
    pub stale: bool,
    /// The last look that failed. Stays after a success.
    pub last_error: Option<IssuerError>,
}

/// A look that failed.
#[derive(Clone, Debug, Serialize)]
pub struct IssuerError {
    pub at: Time,
    pub error: String,
}

/// What a keeper writes.
#[derive(Debug)]
pub(super) struct IssuerEntry {
    pub(super) issuer: Arc<str>,
    pub(super) source: String,
    pub(super) keys: Option<Arc<JwkSet>>,
    /// Unix seconds.
    pub(super) had_at: Option<Arc<AtomicU64>>,
    /// From this age on, the keys are not used.
    pub(super) stale: Duration,
    pub(super) last_error: Option<IssuerError>,
}

// === impl IssuerBoard ===

impl IssuerBoard {
    /// In the order of their names.
    pub fn all(&self, now: Now) -> Vec<IssuerStatus> {
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries.iter().map(|entry| entry.status(now)).collect()
    }

    pub(super) fn put(&self, new: IssuerEntry) {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match entries.binary_search_by(|entry| entry.issuer.cmp(&new.issuer)) {
            Ok(at) => {
                if let Some(place) = entries.get_mut(at) {
                    *place = new;
                }
            }
            Err(at) => entries.insert(at, new),
        }
    }

    /// Forgets the issuers that are not in `settings`.
    pub(super) fn keep(&self, settings: &TokenSettings) {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|entry| settings.find(&entry.issuer).is_some());
    }
}

// === impl IssuerEntry ===

impl IssuerEntry {
    fn status(&self, now: Now) -> IssuerStatus {
        let had_at = self.had_at.as_ref().map(|at| at.load(Ordering::Relaxed));
        let age = had_at.map(|at| now.unix_secs().saturating_sub(at));
        IssuerStatus {
            issuer: self.issuer.to_string(),
            from: self.source.clone(),
            keys: self.keys.as_ref().map(|keys| keys.len()),
            fetched_at: had_at.map(Time::of_secs),
            age_seconds: age,
            stale: age.is_some_and(|age| age >= self.stale.as_secs()),
            last_error: self.last_error.clone(),
        }
    }
}
