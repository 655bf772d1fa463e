//! Folding: what somebody else has published is taken into the registry, so that the next
//! publication includes it. Imports the registry and table.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::super::error::{Error, Result};
use super::super::files;
use super::super::registry::change::{Change, Rebase};
use super::super::registry::entry::{Previous, RegistryEntry};
use super::super::registry::published::{BuildStage, BuiltFile};
use super::super::registry::{Filter, Form, Located};
use super::super::session::Session;
use super::compare::{Ours, Standing};
use super::head::head;
use super::losses::{Acknowledged, Baseline, Difference, ThreeWayKey, losses};
use crate::core::{KeyId, KeySpec, KeyStatus, NetworkSet, Permission, PermissionSet};
use crate::table::FileKind;

/// The change with the patch at `asked`, or at the registry's own place, folded in. Unasked nothing
/// is folded: what is published is compared before anything is written over it.
pub fn published_patch(
    asked: Option<&Option<PathBuf>>,
    mut change: Change,
    session: &mut Session,
) -> Result<Change> {
    let publish = &change.settings().publish;
    let own = publish.patch.as_deref().map(|path| change.registry().relative(path));
    let path = match asked {
        None => return Ok(change),
        Some(Some(path)) => path.clone(),
        Some(None) => own.ok_or(Error::Missing {
            what: "the patch to fold",
            hint: "give --fold-patch FILE, or set `patch` under [publish] in the registry",
        })?,
    };
    let serial = head(&path)?.serial;
    fold(&path, &mut change)?;
    session.output.note(&format!("took the patch of serial {serial} into the registry"));
    match serial >= change.serial() {
        true => change.at_serial(serial + 1),
        false => Ok(change),
    }
}

/// Takes the table or patch at `path` into the change, with every patch that is over it. Whether
/// there was anything that the registry had not published itself.
pub fn fold(path: &Path, change: &mut Change) -> Result<Folded> {
    let manifest = head(path)?;
    if let Some(audience) = &change.settings().audience
        && *audience != manifest.audience
    {
        let (stated, wanted) = (manifest.audience.clone(), audience.clone());
        return Err(Error::refused(path, crate::table::Refusal::Audience { stated, wanted }));
    }
    let publish = &change.settings().publish;
    let place = |path: &Option<PathBuf>| path.as_ref().map(|p| change.registry().relative(p));
    let (table, patch) = (place(&publish.table), place(&publish.patch));
    let standing = match manifest.kind {
        FileKind::Table => {
            let patches: Vec<&Path> = patch.iter().map(PathBuf::as_path).collect();
            Standing::at(Some(path), &patches)?
        }
        FileKind::Patch => {
            // The table that it is over, if that is at hand.
            let beside = files::siblings(path, "kgt")?;
            let is_base = |table: &PathBuf| {
                head(table).is_ok_and(|head| Some(head.as_base()) == manifest.base)
            };
            let table = table.into_iter().chain(beside).find(is_base);
            Standing::at(table.as_deref(), &[path])?
        }
    };
    let known = change.settings().published.clone();
    let newest = standing.all().map(|(_, manifest)| manifest.serial).max().unwrap_or_default();
    if standing.foreign(&known).is_none() {
        return Ok(Folded { serial: newest, is_news: false });
    }
    let mut rebase = Rebase { artefacts: Vec::new(), was: Vec::new(), new: Vec::new() };
    rebase.artefacts = standing
        .all()
        .map(|(_, manifest)| BuiltFile::of(manifest, BuildStage::Published))
        .collect();
    let keys = standing.compared(&Ours::Changed(change), &known)?;
    for (org, limits) in standing.org_limits()? {
        // Nobody notes how an org was at the last publication: the slower of both holds.
        let orgs = &mut change.settings_mut().orgs;
        let met = orgs.get(&org).map_or_else(|| limits.clone(), |own| own.meet(&limits));
        orgs.insert(org, met);
    }
    let mut present: HashMap<KeyId, Option<Located>> =
        keys.iter().map(|key| (key.id, None)).collect();
    change.registry().scan(&Filter::default(), &mut |located| {
        if let Some(place) = present.get_mut(&located.entry.id) {
            *place = Some(located);
        }
        Ok(())
    })?;
    for key in keys {
        let there = present.remove(&key.id).flatten();
        let own = there.as_ref().map(|located| located.entry.clone());
        let merged = merge(&key, there.as_ref().map(|located| &located.entry));
        let stays = merged.as_ref().or(there.as_ref().map(|located| &located.entry));
        let stays: Vec<KeySpec> = stays.iter().flat_map(|entry| entry.specs()).collect();
        match of_specs(&key.theirs, there.as_ref().map(|located| &located.entry)) {
            Some(published) if !is_alike(&stays, &key.theirs) => rebase.was.push(published),
            None => rebase.new.push(key.id),
            Some(_) => {}
        }
        // Patches of a `keys.jsonl` are made of lines that are newer than what is published.
        let restate = change.registry().form == Form::JsonLines && !is_alike(&stays, &key.theirs);
        let new = merged.filter(|new| own.as_ref() != Some(new));
        put(change, there, new.or_else(|| own.filter(|_| restate)));
    }
    change.rebase(rebase);
    Ok(Folded { serial: newest, is_news: true })
}

/// What folding found.
#[derive(Clone, Copy, Debug)]
pub struct Folded {
    /// The newest that is published.
    pub serial: u64,
    pub is_news: bool,
}

fn put(change: &mut Change, there: Option<Located>, merged: Option<RegistryEntry>) {
    match (there, merged) {
        (Some(located), Some(new)) => change.replace(located, new),
        (None, Some(new)) => {
            change.add(new);
        }
        _ => {}
    }
}

/// The key with what both sides did to it. `None`: as it is.
fn merge(key: &ThreeWayKey, there: Option<&RegistryEntry>) -> Option<RegistryEntry> {
    let Some(there) = there else { return of_specs(&key.theirs, None) };
    let base = match &key.base {
        Baseline::Known(base) => of_specs(base, Some(there)),
        Baseline::Unknown => None,
    };
    let mut new = match (base, of_specs(&key.theirs, Some(there))) {
        (Some(base), Some(theirs)) => merge_fields(&base, &theirs, there),
        _ => there.clone(),
    };
    // What both changed, or of which nobody knows: ours, without what theirs took away.
    let ours = new.specs().collect();
    let lost = losses([ThreeWayKey { ours, ..key.clone() }], &Acknowledged::default());
    let Some(lost) = lost.first() else { return Some(new) };
    for difference in &lost.differences {
        restrict(&mut new, difference, key);
    }
    let rotated = [Difference::Carrier, Difference::EndedSecret, Difference::OnlyTheirsSecret];
    if let Some(theirs) = of_specs(&key.theirs, Some(there))
        && lost.differences.iter().any(|difference| rotated.contains(difference))
    {
        // The secrets are theirs; an end was one of a former secret.
        new.digest = theirs.digest;
        new.previous = theirs.previous;
        new.public_id = theirs.public_id;
        new.start = theirs.start;
        new.expires = match (there.expires, theirs.expires) {
            (Some(own), Some(theirs)) => Some(own.min(theirs)),
            (one, other) => one.or(other),
        };
    }
    Some(new)
}

/// Every field as theirs has it where ours is as it was.
fn merge_fields(
    base: &RegistryEntry,
    theirs: &RegistryEntry,
    ours: &RegistryEntry,
) -> RegistryEntry {
    fn pick<T: Clone + PartialEq>(base: &T, theirs: &T, ours: &T) -> T {
        if ours == base { theirs.clone() } else { ours.clone() }
    }
    let secrets = |entry: &RegistryEntry| {
        (entry.digest, entry.previous, entry.public_id.clone(), entry.start.clone())
    };
    let (digest, previous, public_id, start) = match secrets(base).0 == secrets(ours).0
        && base.previous == ours.previous
        && base.public_id == ours.public_id
    {
        true => secrets(theirs),
        false => secrets(ours),
    };
    RegistryEntry {
        org: pick(&base.org, &theirs.org, &ours.org),
        name: pick(&base.name, &theirs.name, &ours.name),
        status: match ours.status {
            // Final: nothing may undo it.
            status if status.is_final() => status,
            _ => pick(&base.status, &theirs.status, &ours.status),
        },
        environment: pick(&base.environment, &theirs.environment, &ours.environment),
        permissions: pick(&base.permissions, &theirs.permissions, &ours.permissions),
        networks: pick(&base.networks, &theirs.networks, &ours.networks),
        limits: pick(&base.limits, &theirs.limits, &ours.limits),
        sunset: pick(&base.sunset, &theirs.sunset, &ours.sunset),
        owner: pick(&base.owner, &theirs.owner, &ours.owner),
        not_before: pick(&base.not_before, &theirs.not_before, &ours.not_before),
        expires: pick(&base.expires, &theirs.expires, &ours.expires),
        digest,
        previous,
        public_id,
        start,
        ..ours.clone()
    }
}

/// Takes away from a key what `difference` says.
fn restrict(entry: &mut RegistryEntry, difference: &Difference, key: &ThreeWayKey) {
    match difference {
        Difference::Environment(environment) => entry.environment = *environment,
        Difference::Expires(at) => {
            entry.expires = Some(entry.expires.map_or(*at, |own| own.min(*at)));
        }
        Difference::Limit(named) => {
            entry.limits = entry.limits.with(named.policy.clone(), named.limit);
        }
        Difference::Networks(networks) => entry.networks = networks.iter().copied().collect(),
        Difference::NotBefore(at) => entry.not_before = Some(*at),
        Difference::Carrier
        | Difference::EndedSecret
        | Difference::OnlyTheirs
        | Difference::OnlyTheirsSecret => {}
        Difference::Org(org) => entry.org = org.clone(),
        Difference::Owner(owner) => entry.owner.clone_from(owner),
        Difference::Permissions(taken) => {
            entry.permissions.retain(|word| !taken.contains(word));
            if taken.iter().any(|word| word.as_str() == Permission::ALL) {
                // `*` held what theirs still holds.
                let left = key.theirs.first().map(|spec| &spec.grant.permissions);
                let left: Vec<_> = left.into_iter().flat_map(PermissionSet::iter).collect();
                let missing = left.into_iter().filter(|word| !entry.permissions.contains(word));
                let missing: Vec<_> = missing.cloned().collect();
                entry.permissions.extend(missing);
            }
        }
        Difference::Removed => entry.status = KeyStatus::Revoked,
        Difference::Status(status) => entry.status = entry.status.max(*status),
    }
}

/// Whether both are the same records, in any order.
fn is_alike(a: &[KeySpec], b: &[KeySpec]) -> bool {
    a.len() == b.len() && a.iter().all(|spec| b.contains(spec))
}

/// One key of its one or two records; what a record does not say stays as it was.
fn of_specs(specs: &[KeySpec], there: Option<&RegistryEntry>) -> Option<RegistryEntry> {
    // In rotation the record that ends first is the former one.
    let current = specs.iter().max_by_key(|spec| spec.expires.unwrap_or(u64::MAX))?;
    let former = specs.iter().find(|spec| spec.digest != current.digest);
    let same = there.filter(|there| there.digest == current.digest);
    let grant = &current.grant;
    Some(RegistryEntry {
        id: current.id,
        org: current.org.clone(),
        name: current.name.clone(),
        status: grant.status,
        environment: grant.environment,
        // Order is the author's; a table keeps none.
        permissions: match there {
            Some(there) if words_of(there) == grant.permissions => there.permissions.clone(),
            _ => grant.permissions.iter().cloned().collect(),
        },
        networks: match there {
            Some(there) if networks_of(there) == grant.networks => there.networks.clone(),
            _ => grant.networks.iter().copied().collect(),
        },
        limits: grant.limits.clone(),
        sunset: grant.sunset,
        owner: current.owner.clone(),
        created: there.and_then(|there| there.created),
        not_before: grant.not_before,
        expires: current.expires,
        prefix: there.and_then(|there| there.prefix.clone()),
        start: same.map(|there| there.start.clone()).unwrap_or_default(),
        public_id: current.public_id.clone(),
        digest: current.digest,
        previous: former
            .and_then(|spec| Some(Previous { digest: spec.digest, expires: spec.expires? })),
        replaces: there.and_then(|there| there.replaces),
        note: there.map(|there| there.note.clone()).unwrap_or_default(),
    })
}

fn words_of(entry: &RegistryEntry) -> PermissionSet {
    PermissionSet::new(entry.permissions.iter().cloned())
}

fn networks_of(entry: &RegistryEntry) -> NetworkSet {
    NetworkSet::new(entry.networks.iter().copied())
}
