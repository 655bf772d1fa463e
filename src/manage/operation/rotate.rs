//! A successor for a single secret, a second secret for a pair. Imports the registry's entries.

use std::time::Duration;

use super::super::registry::entry::{Previous, RegistryEntry};
use super::super::time::When;
use super::OperationSettings;
use super::create::{IssuedKey, instant};
use super::fault::{FieldError, KeyField, OperationError, RequestFaults, WrongState};
use super::secret::{IssuedSecret, RandomSource, new_key_id};
use super::status::refuse_final;
use crate::core::KeyStatus;

/// How a key is to be rotated.
#[derive(Clone, Debug)]
pub struct RotateRequest {
    /// How long the old secret stays valid; zero ends it immediately.
    pub overlap: Duration,
    /// End of the successor; `None`: the same as that of the old key.
    pub expires: Option<When>,
    /// From the settings; `None`: that of the old secret.
    pub prefix: Option<String>,
    pub former: FormerSecret,
}

/// What happens to the former secret of an earlier rotation that is still valid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FormerSecret {
    /// It ends now.
    Drop,
    /// The rotation is refused.
    #[default]
    Keep,
}

/// The result of a rotation.
#[derive(Debug)]
pub struct RotatedKey {
    /// What the caller is shown: the successor, or the pair with its new secret.
    pub shown: IssuedKey,
    /// What replaces the key's entry: the pair, or the replaced key with its new end.
    pub changed: RegistryEntry,
    /// The successor, if it is a key of its own.
    pub added: Option<RegistryEntry>,
    /// When the old secret ends, in Unix seconds.
    pub old_ends: u64,
}

/// The key, and perhaps its successor, as they will be at `now` (Unix seconds).
///
/// # Errors
///
/// All invalid fields together; or a key that is final, expired without a new end, a disabled pair,
/// or a pair whose former secret is still valid.
pub fn rotate(
    settings: &OperationSettings<'_>,
    old: &RegistryEntry,
    request: &RotateRequest,
    now: u64,
    random: &mut dyn RandomSource,
) -> Result<RotatedKey, OperationError> {
    refuse_wrong_state(old, request, now)?;
    let mut faults = RequestFaults::default();
    let named = request.prefix.as_deref().or(old.prefix.as_deref());
    let form = faults.taken(KeyField::Prefix, settings.form(named));
    let expires = match request.expires {
        Some(_) => instant(KeyField::Expires, request.expires, now, &mut faults),
        None => old.expires,
    };
    if expires.is_some_and(|at| at <= now) {
        faults.add(KeyField::Expires, FieldError::InPast);
    } else if expires.zip(old.not_before).is_some_and(|(end, begin)| end <= begin) {
        faults.add(KeyField::Expires, FieldError::EndsBeforeItBegins);
    }
    let overlap = When::In(request.overlap).resolve(now).map_err(FieldError::from);
    let end = faults.taken(KeyField::Overlap, overlap).flatten().unwrap_or(now);
    let end = old.expires.map_or(end, |at| at.min(end));
    let form = faults.none_or(form)?;
    let issued = IssuedSecret::new(&form, old.environment, random)?;
    let successor = RegistryEntry {
        prefix: form.prefix,
        key_prefix: issued.key_prefix.clone(),
        digest: issued.digest,
        expires,
        ..old.clone()
    };
    if old.public_id.is_some() {
        let previous = (end > now).then_some(Previous { digest: old.digest, expires: end });
        let entry = RegistryEntry { previous, ..successor };
        let changed = entry.clone();
        return Ok(RotatedKey {
            shown: IssuedKey { entry, issued },
            changed,
            added: None,
            old_ends: end,
        });
    }
    let entry = RegistryEntry {
        id: new_key_id(random)?,
        created: Some(now),
        replaces: Some(old.id),
        uid: None,
        // The sunset announced the old key's end. Its callers move to this key.
        sunset: None,
        // The successor of a key that was disabled in haste is meant to work.
        status: KeyStatus::Active,
        ..successor
    };
    Ok(RotatedKey {
        added: Some(entry.clone()),
        shown: IssuedKey { entry, issued },
        changed: RegistryEntry {
            expires: Some(end),
            // Callers are never given a sunset after the key's last day.
            sunset: old.sunset.map(|at| at.min(end)),
            ..old.clone()
        },
        old_ends: end,
    })
}

fn refuse_wrong_state(
    old: &RegistryEntry,
    request: &RotateRequest,
    now: u64,
) -> Result<(), OperationError> {
    refuse_final(old)?;
    let state = if old.expires.is_some_and(|at| at <= now) && request.expires.is_none() {
        WrongState::Expired
    } else if old.public_id.is_none() {
        return Ok(());
    } else if old.status == KeyStatus::Disabled {
        WrongState::DisabledPair
    } else {
        // A pair has at most two secrets. The older one must not vanish unexpectedly.
        match old.previous {
            Some(previous) if previous.expires > now && request.former == FormerSecret::Keep => {
                WrongState::InRotation { until: previous.expires }
            }
            _ => return Ok(()),
        }
    };
    Err(OperationError::State { id: old.id, state })
}
