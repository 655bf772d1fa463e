//! Folding: a patch that was published from elsewhere is taken into the registry, so that the next
//! table includes it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::super::error::{Error, Result};
use super::super::files;
use super::super::publish::target;
use super::super::registry::Filter;
use super::super::registry::change::Change;
use super::super::registry::entry::{Entry, Previous};
use super::super::session::Session;
use crate::core::{KeyId, KeySpec, KeyStatus};
use crate::table::{Bounds, Patch, Trust};

/// The change with the patch at `asked`, or at the registry's own place, folded in.
///
/// A patch of a serial that the registry has reached was made from it, so that there is nothing to
/// fold; unasked, a patch from elsewhere is refused rather than overruled.
pub fn published_patch(
    asked: Option<&Option<PathBuf>>,
    change: Change,
    session: &mut Session,
) -> Result<Change> {
    let settings = change.settings();
    let own = settings.publish.patch.as_deref().map(|path| change.registry().relative(path));
    let path = match asked {
        Some(Some(path)) => path.clone(),
        Some(None) => own.ok_or(Error::Missing {
            what: "the patch to fold",
            hint: "give --fold-patch FILE, or set `patch` under [publish] in the registry",
        })?,
        None => match own.filter(|path| path.exists()) {
            Some(path) => path,
            None => return Ok(change),
        },
    };
    let manifest = target::head(&path)?;
    if asked.is_none() {
        return match manifest.serial > settings.serial {
            true => Err(Error::raced(&path, &manifest, change.serial())),
            false => Ok(change),
        };
    }
    let file = files::read(&path, Bounds::default().max_bytes)?;
    let patch = Patch::open(file, &Trust::for_inspection(), &Bounds::default())
        .map_err(|e| Error::refused(&path, e))?;
    let serial = patch.serial();
    let change = fold(&patch, change)?;
    session.output.note(&format!("took the patch of serial {serial} into the registry"));
    match serial >= change.serial() {
        true => change.at_serial(serial + 1),
        false => Ok(change),
    }
}

fn fold(patch: &Patch, mut change: Change) -> Result<Change> {
    let mut stated: BTreeMap<KeyId, Vec<KeySpec>> = BTreeMap::new();
    for spec in patch.iter().filter_map(|entry| entry.to_spec()) {
        stated.entry(spec.id).or_default().push(spec);
    }
    for (id, specs) in stated {
        let filter = Filter { id: Some(id), ..Filter::default() };
        let there = change.registry().find(&filter)?.pop();
        let new = of_specs(&specs, there.as_ref().map(|located| &located.entry));
        match (there, new) {
            (Some(located), Some(new)) if located.entry != new => change.replace(located, new),
            (None, Some(new)) => {
                change.add(new);
            }
            _ => {}
        }
    }
    for (digest, id, whole) in patch.removals() {
        let filter = Filter { id: Some(id), ..Filter::default() };
        let Some(located) = change.registry().find(&filter)?.pop() else { continue };
        let mut new = located.entry.clone();
        if whole || new.digest == digest {
            // The registry forgets no key; one that is gone is one that is refused for ever.
            new.status = KeyStatus::Revoked;
        } else if new.previous.is_some_and(|previous| previous.digest == digest) {
            new.previous = None;
        }
        if new != located.entry {
            change.replace(located, new);
        }
    }
    Ok(change)
}

/// One key of its one or two records; what a record does not say stays as it was.
fn of_specs(specs: &[KeySpec], there: Option<&Entry>) -> Option<Entry> {
    // In rotation the record that ends first is the former one.
    let current = specs.iter().max_by_key(|spec| spec.expires.unwrap_or(u64::MAX))?;
    let former = specs.iter().find(|spec| spec.digest != current.digest);
    let kept = there.and_then(|there| there.previous).filter(|_| former.is_none());
    Some(Entry {
        id: current.id,
        org: current.org.clone(),
        name: current.name.clone(),
        status: current.grant.status,
        environment: current.grant.environment,
        permissions: match there {
            Some(there) if same_permissions(there, current) => there.permissions.clone(),
            _ => current.grant.permissions.iter().cloned().collect(),
        },
        networks: current.grant.networks.iter().copied().collect(),
        limit: current.grant.limit,
        created: there.and_then(|there| there.created),
        not_before: current.grant.not_before,
        expires: current.expires,
        prefix: there.and_then(|there| there.prefix.clone()),
        start: there.map(|there| there.start.clone()).unwrap_or_default(),
        public_id: current.public_id.clone(),
        digest: current.digest,
        previous: former
            .and_then(|spec| Some(Previous { digest: spec.digest, expires: spec.expires? }))
            .or(kept),
        replaces: there.and_then(|there| there.replaces),
        note: there.map(|there| there.note.clone()).unwrap_or_default(),
    })
}

/// Order is the author's; a table keeps none.
fn same_permissions(there: &Entry, spec: &KeySpec) -> bool {
    crate::core::PermissionSet::new(there.permissions.iter().cloned()) == spec.grant.permissions
}
