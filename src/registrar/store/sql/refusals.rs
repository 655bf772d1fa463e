//! Audiences whose keys take no changes, and why; and whether the whole database has gone back.
//! Imports nothing from the database's code.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::super::audit::AuditHead;
use super::super::error::StoreError;
use super::super::names::AudienceName;

#[derive(Debug, Default)]
pub(super) struct Refusals {
    by_audience: Mutex<BTreeMap<AudienceName, Box<str>>>,
    log: Mutex<NotedLog>,
}

/// What the audit log must contain.
#[derive(Debug, Default)]
struct NotedLog {
    noted: AuditHead,
    /// The log that a transaction found does not have that line.
    went_back: Option<Box<str>>,
}

// === impl Refusals ===

impl Refusals {
    /// `None`: changes are accepted again.
    pub(super) fn set(&self, audience: &AudienceName, why: Option<Box<str>>) {
        // The map is consistent at every point where a thread could panic.
        let mut refused = self.by_audience.lock().unwrap_or_else(PoisonError::into_inner);
        match why {
            Some(why) => drop(refused.insert(audience.clone(), why)),
            None => drop(refused.remove(audience)),
        }
    }

    /// For changes that concern no single audience (`None`), any refusal counts.
    pub(super) fn check(&self, audience: Option<&AudienceName>) -> Result<(), StoreError> {
        if let Some(why) = &self.log().went_back {
            return Err(StoreError::ReadOnly { why: why.to_string() });
        }
        let refused = self.by_audience.lock().unwrap_or_else(PoisonError::into_inner);
        let found = match audience {
            Some(audience) => refused.get(audience),
            None => refused.values().next(),
        };
        match found {
            Some(why) => Err(StoreError::ReadOnly { why: why.to_string() }),
            None => Ok(()),
        }
    }

    /// The database is known to have this line.
    pub(super) fn note(&self, noted: AuditHead) {
        *self.log() = NotedLog { noted, went_back: None };
    }

    /// Compares the end of the log, as a transaction has found it, with the line that was noted.
    /// Refuses the first transaction of a database that has gone back, and from then on changes.
    pub(super) fn compare(&self, head: AuditHead) -> Result<(), StoreError> {
        let mut log = self.log();
        let noted = log.noted;
        let has_it = head.seq > noted.seq || head == noted;
        if has_it || log.went_back.is_some() {
            return Ok(());
        }
        let why = format!(
            "its audit log ends at line {}, and line {} was published: the database has gone back",
            head.seq, noted.seq
        );
        log.went_back = Some(why.as_str().into());
        Err(StoreError::ReadOnly { why })
    }

    fn log(&self) -> MutexGuard<'_, NotedLog> {
        // Each of its values is written at once.
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
