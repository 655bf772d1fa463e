//! The alarm of a canary: somebody uses a secret that was planted to be stolen. The caller must not
//! notice, so the answer is that to an unknown key, and only counter and log tell.

use std::cell::Cell;
use std::net::IpAddr;

use crate::core::KeyId;

/// Between two lines of one worker's log. A thief who tries again and again must not fill it.
const PAUSE_NS: u64 = 1_000_000_000;
/// Bytes of a path in the log.
const LONGEST_PATH: usize = 256;

/// What one worker has seen of canaries.
#[derive(Debug, Default)]
pub(crate) struct Canaries {
    /// When the next use is logged, by the clock of the requests.
    quiet_until_ns: Cell<u64>,
    /// Uses since the last line.
    unlogged: Cell<u64>,
}

/// A request with a canary.
pub(crate) struct CanaryUse<'r> {
    pub(crate) key: Option<KeyId>,
    pub(crate) client: IpAddr,
    /// Without the query, where a secret may stand.
    pub(crate) path: &'r str,
    pub(crate) request_id: &'r str,
    pub(crate) now_ns: u64,
}

// === impl Canaries ===

impl Canaries {
    /// Logs a use, unless one was logged less than a second ago.
    pub(crate) fn log(&self, used: &CanaryUse<'_>) {
        let Some(unlogged) = self.due(used.now_ns) else { return };
        let key = used.key.map(|key| key.to_string()).unwrap_or_default();
        tracing::warn!(
            key_id = key,
            client = %used.client,
            path = used.path.get(..LONGEST_PATH).unwrap_or(used.path),
            request_id = used.request_id,
            unlogged,
            "a canary was used: its secret is in the hands of a stranger"
        );
    }

    /// How many uses were not logged since the last line; `None`: this one is not logged either.
    fn due(&self, now_ns: u64) -> Option<u64> {
        if now_ns < self.quiet_until_ns.get() {
            self.unlogged.set(self.unlogged.get() + 1);
            return None;
        }
        self.quiet_until_ns.set(now_ns.saturating_add(PAUSE_NS));
        Some(self.unlogged.take())
    }
}

#[cfg(test)]
mod tests {
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
}
