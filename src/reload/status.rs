//! What `/status` says of table, patch and reloads. Imports nothing of the crate.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use arc_swap::ArcSwap;
use serde::Serialize;

/// The latest [`StatusReport`]. Clones are one and the same.
#[derive(Clone, Debug, Default)]
pub struct StatusCell(Arc<ArcSwap<StatusReport>>);

/// Everything that a person or `keygatectl status` asks of a sidecar's keys.
#[derive(Clone, Debug, Default, Serialize)]
pub struct StatusReport {
    /// The highest serial in force, of table or patch: what was published up to it is in force.
    pub serial: Option<u64>,
    pub table: Option<InForceStatus>,
    pub patch: Option<InForceStatus>,
    /// Patches whose removals stay in force although a table that does not know them came.
    pub held_patches: usize,
    /// A patch that waits for its base.
    pub waiting_patch: Option<u64>,
    pub keys: Option<KeyCounts>,
    pub last_reload: Option<AttemptStatus>,
    /// Of table and patch, the last attempt that failed and that no success of the same has followed.
    pub failing: Vec<AttemptStatus>,
    /// Of all attempts since the start, the last that failed; stays after a success.
    pub last_failure: Option<AttemptStatus>,
    pub state: Persistence,
    pub sources: Vec<SourceStatus>,
    /// Watched files that are mount points themselves: they will never see a replacement.
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
    /// Of the file that was taken or refused, where it could be told.
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
    /// What an older table is held against.
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
    /// A path whose directories are watched, so that a change is seen at once.
    pub watching: bool,
}

/// A file that was mounted alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MountedFileStatus {
    /// The key of the configuration that names it; `config`: the configuration itself.
    pub key: &'static str,
    /// The mount point, symbolic links followed.
    pub path: String,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct ConfigStatus {
    pub loaded_at: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Keys that differ in the file and are not in force before a restart.
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
        // Beyond the year 9999 the format ends, and so does this.
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
