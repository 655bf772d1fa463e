//! What a rotation leaves behind: the key that was replaced, or the former secret of a pair.
//! Imports the registry.

use super::super::error::{Error, Result};
use super::super::publish::pending;
use super::super::registry::entry::RegistryEntry;
use super::super::registry::{Located, Registry};
use super::list::successors;
use crate::core::OrgId;

/// The key whose rotation `selector` names, by its own id or name or by its successor's: the one
/// that was replaced, or a pair that has a former secret at `now` (seconds since 1970). Fails if
/// there is none, or if several of them are still valid.
pub fn former(
    registry: &Registry,
    selector: &str,
    org: Option<&OrgId>,
    now: u64,
) -> Result<Located> {
    let mut found = registry.matching(selector, org)?;
    let Some(first) = found.first().map(|located| located.entry.id) else {
        return registry.select(selector, org, now);
    };
    let replaced: Vec<_> = found.iter().filter_map(|located| located.entry.replaces).collect();
    for id in replaced {
        if !found.iter().any(|located| located.entry.id == id) {
            found.extend(registry.matching(&id.to_string(), None)?);
        }
    }
    let successors = successors(registry)?;
    found.retain(|Located { entry, .. }| {
        successors.contains_key(&entry.id) || entry.has_former_secret(now)
    });
    if found.iter().any(|located| lives(&located.entry, now)) {
        found.retain(|located| lives(&located.entry, now));
        if found.len() > 1 {
            let keys = found.iter().map(|located| located.entry.describe()).collect();
            let hint = "give the id of the one that is meant, without `--former`".to_owned();
            return Err(Error::Ambiguous { selector: selector.to_owned(), keys, hint });
        }
    }
    found.into_iter().max_by_key(|located| located.entry.created).ok_or(Error::State {
        id: first,
        state: "in no rotation: it replaced no key and has no former secret".into(),
        hint: "`keygatectl keys list` shows under REPLACED BY which keys were replaced",
    })
}

/// Puts the commands for both keys of a rotation into the error about their common name; `action`
/// is `keys revoke` and the like. Any other error stays as it is.
pub fn name_both(
    error: Error,
    registry: &Registry,
    action: &str,
    org: Option<&OrgId>,
    now: u64,
) -> Error {
    let Error::Ambiguous { selector, keys, hint } = error else { return error };
    let living = registry.matching(&selector, org).map(|mut found| {
        found.retain(|located| lives(&located.entry, now));
        found.into_iter().map(|located| located.entry).collect::<Vec<_>>()
    });
    let hint = match living.as_deref() {
        Ok([a, b]) if a.replaces == Some(b.id) => both(registry, action, b, a),
        Ok([a, b]) if b.replaces == Some(a.id) => both(registry, action, a, b),
        _ => hint,
    };
    Error::Ambiguous { selector, keys, hint }
}

fn both(
    registry: &Registry,
    action: &str,
    replaced: &RegistryEntry,
    successor: &RegistryEntry,
) -> String {
    let program = pending::program(registry);
    format!(
        "a rotation is under way; `{program} {action} {}` is for the key that was replaced, \
         `{program} {action} {}` for its successor",
        replaced.id, successor.id
    )
}

fn lives(entry: &RegistryEntry, now: u64) -> bool {
    !entry.status.is_final() && entry.state(now) != "expired"
}
