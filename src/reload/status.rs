//! What `/status` shows about table, patch and reloads. Imports nothing of the crate.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use arc_swap::ArcSwap;
use serde::Serialize;

/// The latest [`StatusReport`]. All clones are the same.
#[derive(Clone, Debug, Default)]
pub struct StatusCell(Arc<ArcSwap<StatusReport>>);

/// Everything that a person or `keygatectl status` wants to know about a sidecar's keys.
#[derive(Clone, Debug, Default, Serialize)]
pub struct StatusReport {
    /// The highest serial in force, of table or patch: everything published up to it is in force.
    pub serial: Option<u64>,
    pub table: Option<InForceStatus>,
    pub patch: Option<InForceStatus>,
    /// Patches whose removals stay in force although a table that does not know them has arrived.
    pub held_patches: usize,
    /// A patch that waits for its base.
    pub waiting_patch: Option<u64>,
    pub keys: Option<KeyCounts>,
    pub last_reload: Option<AttemptStatus>,
    /// For table and patch: the last failed attempt that no success of the same kind has followed.
    pub failing: Vec<AttemptStatus>,
    /// The last failed attempt of any kind since the start. Stays after a success.
    pub last_failure: Option<AttemptStatus>,
    pub state: Persistence,
    pub sources: Vec<SourceStatus>,
    /// Watched files that are themselves mount points: keygate will never see a replacement.
    pub mounted_files: Vec<MountedFileStatus>,
    pub config: ConfigStatus,
}

/// One table or patch.
#[derive(Clone, Debug, Serialize)]
pub struct InForceStatus {
    pub serial: u64,
    pub includes_through: u64,
    pub issued_at: Time,
    pub expires_at: Option<Time>,
    pub expired: bool,
    pub audience: Box<str>,
    pub signers: Vec<String>,
    pub body_sha256: String,
    /// Records in it.
    pub keys: u64,
    /// Records in it that are active.
    pub active: u64,
    pub in_force_since: Time,
}

/// Keys in force: the table's with the patch over it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct KeyCounts {
    pub active: u64,
    pub disabled: u64,
    pub revoked: u64,
}

/// One attempt to put something in force.
#[derive(Clone, Debug, Serialize)]
pub struct AttemptStatus {
    pub at: Time,
    /// `table`, `patch` or `config`.
    pub what: &'static str,
    pub ok: bool,
    /// The serial of the file that was accepted or refused, if it is known.
    pub serial: Option<u64>,
    /// A word of the list in docs/operations.md.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Whether the highest serial outlives the process.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Persistence {
    pub persistent: bool,
    /// The serial that an older table is compared with.
    pub floor: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SourceStatus {
    /// `table` or `patch`.
    pub what: &'static str,
    /// Path or URL.
    pub from: String,
    /// A path whose directories are watched, so that a change is noticed immediately.
    pub watching: bool,
}

/// A file that was mounted alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MountedFileStatus {
    /// The key of the configuration that names it. `config`: the configuration itself.
    pub key: &'static str,
    /// The mount point, with symbolic links resolved.
    pub path: String,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct ConfigStatus {
    pub loaded_at: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Keys that differ in the file and take effect only after a restart.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub needs_restart: Vec<String>,
}

/// A moment, shown as RFC 3339 in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time {
    pub unix_ms: u64,
}

// === impl StatusCell ===

impl StatusCell {
    pub fn load(&self) -> Arc<StatusReport> {
        self.0.load_full()
    }

    pub(super) fn store(&self, status: StatusReport) {
        self.0.store(Arc::new(status));
    }
}

// === impl Time ===

impl Time {
    pub fn of_secs(secs: u64) -> Self {
        Self { unix_ms: secs.saturating_mul(1000) }
    }
}

impl std::fmt::Display for Time {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The format ends at the year 9999, so this is the maximum.
        const MAX_MS: u64 = 253_402_300_799_000;
        let at = UNIX_EPOCH + Duration::from_millis(self.unix_ms.min(MAX_MS));
        write!(f, "{}", humantime::format_rfc3339_millis(at))
    }
}

impl Serialize for Time {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
