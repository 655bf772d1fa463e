//! The public keys of trusted token issuers, from files and URLs.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;

use super::ask::{self, AskedProvider, AskedWith, RemoteQuestion};
use crate::core::Now;
use crate::registrar::config::JwksPlace;
use crate::token::{JwkSet, TokenAlgorithm};

/// The shortest time between two requests for keys, whatever `kid`s strangers make up.
const PAUSE: Duration = Duration::from_secs(30);

/// After this long, keys are read again anyway: an issuer may have withdrawn one. For a file that
/// is free.
const FRESH_URL: Duration = Duration::from_secs(5 * 60);
const FRESH_FILE: Duration = PAUSE;

/// How long the last keys are trusted while they cannot be read again.
const BELIEVED: Duration = Duration::from_secs(60 * 60);

/// The longest set of keys, and how long its server may take.
const LONGEST_SET: u64 = 256 * 1024;
const SET_DEADLINE: Duration = Duration::from_secs(5);

/// The keys of issuers, by their place, each with a lock of its own, so that a slow server holds up
/// nobody else's people.
#[derive(Debug, Default)]
pub(super) struct KeySets(std::sync::Mutex<HashMap<String, Arc<Mutex<KeptKeys>>>>);

#[derive(Debug, Default)]
struct KeptKeys {
    set: Option<Arc<JwkSet>>,
    /// On the process's clock: when the keys arrived, and when they were last asked for.
    had_ns: u64,
    asked_ns: Option<u64>,
}

/// Where keys come from, and what they are good for.
#[derive(Clone, Copy, Debug)]
pub(super) struct KeySource<'s> {
    pub(super) place: &'s JwksPlace,
    /// The authorities for the server's certificate; `None`: the usual ones.
    pub(super) ca: Option<&'s PathBuf>,
    pub(super) algorithms: &'s [TokenAlgorithm],
}

/// Whether keys from a moment ago are good enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WantedKeys {
    AsKept,
    Newer,
}

// === impl KeySets ===

impl KeySets {
    /// As [`KeySets::of_issuer`], for an issuer without restrictions on algorithms.
    pub(super) async fn of(
        &self,
        place: &JwksPlace,
        now: Now,
        wanted: WantedKeys,
    ) -> Option<Arc<JwkSet>> {
        let source = KeySource { place, ca: None, algorithms: &TokenAlgorithm::ALL };
        self.of_issuer(source, now, wanted).await
    }

    /// The keys of a place, read again if they may have changed. While one request asks, others for
    /// the same place wait: one question serves all.
    pub(super) async fn of_issuer(
        &self,
        source: KeySource<'_>,
        now: Now,
        wanted: WantedKeys,
    ) -> Option<Arc<JwkSet>> {
        let (place, fresh) = match source.place {
            JwksPlace::File(path) => (path.display().to_string(), FRESH_FILE),
            JwksPlace::Url(url) => (url.to_string(), FRESH_URL),
        };
        // The same place with other algorithms is another set.
        let name = format!("{:?} {place}", source.algorithms);
        let kept = Arc::clone(self.0.lock().ok()?.entry(name).or_default());
        let mut kept = kept.lock().await;
        let since = |then: u64| Duration::from_nanos(now.mono_ns.saturating_sub(then));
        let has_rested = kept.asked_ns.is_none_or(|asked| since(asked) >= PAUSE);
        let is_enough =
            wanted == WantedKeys::AsKept && kept.set.is_some() && since(kept.had_ns) < fresh;
        if has_rested && !is_enough {
            kept.asked_ns = Some(now.mono_ns);
            match fetch(source).await {
                Some(set) => {
                    kept.set = Some(Arc::new(set));
                    kept.had_ns = now.mono_ns;
                }
                None if since(kept.had_ns) >= BELIEVED => kept.set = None,
                None => {}
            }
        }
        kept.set.clone()
    }
}

async fn fetch(source: KeySource<'_>) -> Option<JwkSet> {
    let place = source.place;
    let bytes = match place {
        JwksPlace::File(path) => read(path).await,
        JwksPlace::Url(url) => {
            let question = RemoteQuestion {
                of: AskedProvider::Keys(url.to_string().into()),
                url: url.to_string(),
                ca: source.ca.cloned(),
                with: AskedWith::Nothing,
                longest: LONGEST_SET,
                deadline: SET_DEADLINE,
            };
            ask::ask(question).await
        }
    };
    let bytes = match bytes {
        Ok(bytes) => bytes,
        Err(error) => {
            tracing::warn!(%error, ?place, "the keys of an issuer cannot be had");
            return None;
        }
    };
    match JwkSet::parse(&bytes, source.algorithms) {
        Ok(set) => Some(set),
        Err(error) => {
            tracing::warn!(%error, ?place, "the keys of an issuer cannot be read");
            None
        }
    }
}

async fn read(path: &Path) -> Result<Vec<u8>, ask::AskError> {
    let path = path.to_owned();
    let read = tokio::task::spawn_blocking(move || std::fs::read(path)).await;
    let read = read.map_err(|error| ask::AskError::Failed(error.to_string()))?;
    read.map_err(|error| ask::AskError::Failed(error.to_string()))
}
