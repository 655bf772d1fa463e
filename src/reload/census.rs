//! Counts keys by state and by how soon they expire, on a thread that yields to all others. Imports
//! `core`, `table`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::core::{KeyStatus, Now};
use crate::table::KeySet;
use crate::telemetry::Control;

const DAY: u64 = 24 * 3600;

/// Windows of `keygate_keys_expiring`, in seconds.
const WINDOWS: [(&str, u64); 3] = [("24h", DAY), ("7d", 7 * DAY), ("30d", 30 * DAY)];

/// Records of keys at one moment. A pair in rotation has two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Census {
    active: u64,
    disabled: u64,
    revoked: u64,
    canary: u64,
    expired: u64,
    not_yet_valid: u64,
    expiring: [u64; WINDOWS.len()],
}

impl Census {
    /// `None`: `stop` was set meanwhile. A table must not stay in memory only to be counted.
    pub(super) fn take(keys: &Arc<KeySet>, now: Now, stop: &AtomicBool) -> Option<Self> {
        let mut census = Self::default();
        let now = now.unix_secs();
        for (at, entry) in keys.iter().enumerate() {
            if at % 65_536 == 0 && stop.load(Ordering::Relaxed) {
                return None;
            }
            let expires = entry.view.expires;
            match entry.view.grant.status {
                KeyStatus::Disabled => census.disabled += 1,
                KeyStatus::Revoked => census.revoked += 1,
                KeyStatus::Canary => census.canary += 1,
                KeyStatus::Active if expires.is_some_and(|at| at <= now) => census.expired += 1,
                KeyStatus::Active if entry.view.grant.not_before.is_some_and(|at| at > now) => {
                    census.not_yet_valid += 1;
                }
                KeyStatus::Active => census.active += 1,
            }
            let Some(left) = expires.and_then(|at| at.checked_sub(now)).filter(|l| *l > 0) else {
                continue;
            };
            if entry.view.grant.status == KeyStatus::Active {
                for (count, (_, window)) in census.expiring.iter_mut().zip(WINDOWS) {
                    *count += u64::from(left <= window);
                }
            }
        }
        Some(census)
    }

    pub(super) fn show(&self, control: &Control) {
        for (state, count) in [
            ("active", self.active),
            ("disabled", self.disabled),
            ("revoked", self.revoked),
            ("canary", self.canary),
            ("expired", self.expired),
            ("not_yet_valid", self.not_yet_valid),
        ] {
            control.keys(state).set(count as f64);
        }
        for (count, (window, _)) in self.expiring.iter().zip(WINDOWS) {
            control.keys_expiring(window).set(*count as f64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::testkit::{spec, table};

    #[test]
    fn counts_states_and_windows() {
        let now = 1_700_000_000;
        let mut specs: Vec<_> = (0..8).map(spec).collect();
        specs[1].grant.status = KeyStatus::Disabled;
        specs[2].grant.status = KeyStatus::Revoked;
        specs[2].expires = Some(now + 1);
        specs[3].expires = Some(now);
        specs[4].grant.not_before = Some(now + 1);
        specs[5].expires = Some(now + DAY);
        specs[6].expires = Some(now + 8 * DAY);
        specs[7].grant.status = KeyStatus::Canary;
        let keys = Arc::new(KeySet::new(Arc::new(table(1, &specs)), None, &[], None));
        let at = Now { unix_ms: now * 1000, mono_ns: 0 };
        let census = Census::take(&keys, at, &AtomicBool::new(false)).unwrap();
        let wanted = Census {
            active: 3,
            disabled: 1,
            revoked: 1,
            canary: 1,
            expired: 1,
            not_yet_valid: 1,
            expiring: [1, 1, 2],
        };
        assert_eq!(census, wanted);
        assert!(Census::take(&keys, at, &AtomicBool::new(true)).is_none());
    }
}
