//! Audiences whose keys take no changes, and why. Imports nothing from the database's code.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::super::error::StoreError;
use super::super::names::AudienceName;

/// By audience.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<BTreeMap<AudienceName, Box<str>>>);

// === impl Refusals ===

impl Refusals {
    /// `None`: changes are accepted again.
    pub(super) fn set(&self, audience: &AudienceName, why: Option<Box<str>>) {
        // The map is consistent at every point where a thread could panic.
        let mut refused = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match why {
            Some(why) => drop(refused.insert(audience.clone(), why)),
            None => drop(refused.remove(audience)),
        }
    }

    /// For changes that concern no single audience (`None`), any refusal counts.
    pub(super) fn check(&self, audience: Option<&AudienceName>) -> Result<(), StoreError> {
        let refused = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = match audience {
            Some(audience) => refused.get(audience),
            None => refused.values().next(),
        };
        match found {
            Some(why) => Err(StoreError::ReadOnly { why: why.to_string() }),
            None => Ok(()),
        }
    }
}
