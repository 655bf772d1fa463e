//! The alarm of a canary: somebody uses a secret that was planted to be stolen. The caller must not
//! notice. So the answer is the one for an unknown key, and only the counter and the log reveal the
//! use.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;

use crate::core::KeyId;

/// Pause between two lines in one worker's log. A thief who tries again and again must not fill the
/// log.
const PAUSE_NS: u64 = 1_000_000_000;
/// Longest part of a path in the log, in bytes.
const LONGEST_PATH: usize = 256;

/// What one worker has seen of canaries.
///
/// A request only leaves a note, and the worker's next sweep writes the line. A thief who measures
/// the time of an answer must not be able to detect that line.
#[derive(Debug, Default)]
pub(crate) struct Canaries {
    /// When the next use is noted, by the clock of the requests.
    quiet_until_ns: Cell<u64>,
    /// Uses since the last noted one.
    unlogged: Cell<u64>,
    noted: RefCell<Option<NotedUse>>,
}

/// A request with a canary.
pub(crate) struct CanaryUse<'r> {
    pub(crate) key: Option<KeyId>,
    pub(crate) client: IpAddr,
    /// The path without the query, which may hold a secret.
    pub(crate) path: &'r str,
    pub(crate) request_id: &'r str,
    pub(crate) now_ns: u64,
}

/// What the log line says about a use.
#[derive(Debug)]
struct NotedUse {
    key: Option<KeyId>,
    client: IpAddr,
    path: Box<str>,
    request_id: Box<str>,
    /// Uses before it that have no line.
    unlogged: u64,
}

// === impl Canaries ===

impl Canaries {
    /// Notes a use for [`Self::log_noted`], unless one was noted less than a second ago or waits.
    pub(crate) fn note(&self, used: &CanaryUse<'_>) {
        let Some(unlogged) = self.due(used.now_ns) else { return };
        let path = used.path.get(..LONGEST_PATH).unwrap_or(used.path);
        let noted = NotedUse {
            key: used.key,
            client: used.client,
            path: path.into(),
            request_id: used.request_id.into(),
            unlogged,
        };
        self.noted.replace(Some(noted));
    }

    /// Logs the use that was noted. Call this only where no answer waits.
    pub(crate) fn log_noted(&self) {
        if let Some(noted) = self.noted.take() {
            noted.log();
        }
    }

    /// How many uses were not logged since the last line. `None`: this one is not logged either.
    fn due(&self, now_ns: u64) -> Option<u64> {
        if now_ns < self.quiet_until_ns.get() || self.noted.borrow().is_some() {
            self.unlogged.set(self.unlogged.get() + 1);
            return None;
        }
        self.quiet_until_ns.set(now_ns.saturating_add(PAUSE_NS));
        Some(self.unlogged.take())
    }
}

// === impl NotedUse ===

impl NotedUse {
    fn log(&self) {
        let key = self.key.map(|key| key.to_string()).unwrap_or_default();
        tracing::warn!(
            key_id = key,
            client = %self.client,
            path = &*self.path,
            request_id = &*self.request_id,
            unlogged = self.unlogged,
            "a canary was used: its secret is in the hands of a stranger"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;

    #[test]
    fn one_line_a_second_says_how_many_had_none() {
        let canaries = Canaries::default();
        assert_eq!(canaries.due(5), Some(0));
        assert_eq!(canaries.due(6), None);
        assert_eq!(canaries.due(PAUSE_NS), None);
        assert_eq!(canaries.due(PAUSE_NS + 5), Some(2));
        assert_eq!(canaries.due(3 * PAUSE_NS), Some(0));
    }

    #[test]
    fn a_request_leaves_a_note_and_the_sweep_writes_the_line() {
        let canaries = Canaries::default();
        let long = format!("/v1/{}", "x".repeat(LONGEST_PATH));
        let used = |now_ns| CanaryUse {
            key: KeyId::parse("key_bird").ok(),
            client: IpAddr::from([127, 0, 0, 1]),
            path: &long,
            request_id: "id",
            now_ns,
        };
        let lines = Arc::new(AtomicUsize::new(0));
        tracing::subscriber::with_default(Lines(Arc::clone(&lines)), || {
            canaries.note(&used(5));
            canaries.note(&used(2 * PAUSE_NS));
            assert_eq!(lines.load(Relaxed), 0, "no line while a request waits");
            canaries.log_noted();
            assert_eq!(lines.load(Relaxed), 1);
            canaries.log_noted();
            assert_eq!(lines.load(Relaxed), 1, "a use has one line");
            canaries.note(&used(PAUSE_NS + 5));
            canaries.note(&used(3 * PAUSE_NS));
            let noted = canaries.noted.borrow();
            let noted = noted.as_ref().unwrap();
            assert_eq!((noted.unlogged, noted.path.len()), (1, LONGEST_PATH));
        });
    }

    /// Counts lines.
    struct Lines(Arc<AtomicUsize>);

    impl tracing::Subscriber for Lines {
        fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
            true
        }

        fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
            tracing::span::Id::from_u64(1)
        }

        fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

        fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

        fn event(&self, _: &tracing::Event<'_>) {
            self.0.fetch_add(1, Relaxed);
        }

        fn enter(&self, _: &tracing::span::Id) {}

        fn exit(&self, _: &tracing::span::Id) {}
    }
}
