//! Advice on what is allowed but seldom meant, reported next to the result of an operation. Imports
//! the registry's entries.

use std::fmt;

use super::super::registry::entry::RegistryEntry;
use super::super::time;
use crate::core::KeyId;

/// Something about a changed key that its author may want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyAdvice {
    /// Callers of the key are given a sunset date on which the key will long have stopped working.
    SunsetAfterEnd {
        id: KeyId,
        /// Unix seconds, as `ends`.
        sunset: u64,
        ends: u64,
    },
}

// === impl KeyAdvice ===

impl KeyAdvice {
    /// Advice about a key as it is after the change, except what already applied before it.
    /// `before`: `None` if the key is new.
    pub fn of(before: Option<&RegistryEntry>, entry: &RegistryEntry) -> Vec<Self> {
        let dates = |entry: &RegistryEntry| {
            let dates = entry.sunset.zip(entry.expires);
            dates.filter(|(sunset, ends)| sunset > ends && !entry.status.is_final())
        };
        let late = dates(entry).filter(|now| before.and_then(dates) != Some(*now));
        let late = late.map(|(sunset, ends)| Self::SunsetAfterEnd { id: entry.id, sunset, ends });
        late.into_iter().collect()
    }
}

impl fmt::Display for KeyAdvice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SunsetAfterEnd { id, sunset, ends } => write!(
                f,
                "{id} ends at {} already, before its sunset, {}, of which keygate tells its callers",
                time::show(*ends),
                time::show(*sunset)
            ),
        }
    }
}
