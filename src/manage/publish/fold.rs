//! Folding: takes what somebody else has published into the registry, so that the next publication
//! contains it. Imports the registry and table.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::super::error::{Error, Result};
use super::super::files;
use super::super::registry::change::{Change, Rebase};
use super::super::registry::entry::{Previous, RegistryEntry};
use super::super::registry::published::{self, BuildStage, BuiltFile};
use super::super::registry::{Filter, Located};
use super::super::session::Session;
use super::compare::{Knowledge, Ours, Standing};
use super::head::head;
use super::losses::{Acknowledged, Baseline, ThreeWayKey, losses};
use super::meet::{meet, meet_successor};
use super::trusted::TrustedSigners;
use crate::core::format::KeyFormat;
use crate::core::{Digest, KeyId, KeySpec, NetworkSet, PermissionSet};
use crate::table::{FileKind, Manifest};

/// The change with the patch at `asked`, or at the registry's own place, folded in. Nothing is
/// folded unless asked for: what is published is compared before anything is written over it.
pub fn published_patch(
    asked: Option<&Option<PathBuf>>,
    mut change: Change,
    trusted: &TrustedSigners,
    meant: &Acknowledged,
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
    fold(&path, &mut change, trusted, meant, session)?;
    session.output.note(&format!("took the patch of serial {serial} into the registry"));
    change.behind(serial, &path)
}

/// Takes the restrictions of the table or patch at `path` into the change, with those of every
/// patch over it, and the keys that only it has. Nothing that either this registry or the file
/// refuses is admitted again: a key that both have keeps what both admit. `meant` names keys that
/// stay as they are here, and keys that are not taken. Refuses files that `trusted` have not
/// signed, unless this registry has published them.
pub fn fold(
    path: &Path,
    change: &mut Change,
    trusted: &TrustedSigners,
    meant: &Acknowledged,
    session: &mut Session,
) -> Result<Folded> {
    let manifest = head(path)?;
    if let Some(audience) = &change.settings().audience
        && *audience != manifest.audience
    {
        return Err(Error::audience(path, &manifest.audience, audience));
    }
    let standing = standing_at(path, &manifest, change)?;
    let newest = standing.all().map(|(_, manifest)| manifest.serial).max().unwrap_or_default();
    if standing.foreign(change.known()).is_none() {
        return Ok(Folded { serial: newest, is_news: false });
    }
    let standing = standing.signed_by(trusted, change.known())?;
    refuse_old(path, newest, change)?;
    let place = |path: &Path| published::place_of(&change.registry().real, path);
    let artefact = |(path, manifest): &(PathBuf, Manifest)| {
        BuiltFile::of(manifest, BuildStage::Published, Some(place(path)))
    };
    let artefacts = standing.all().map(artefact).collect();
    let mut rebase = Rebase { artefacts, was: Vec::new(), new: Vec::new() };
    let known = change.known().to_vec();
    let known = Knowledge { registry: &known, contained: &known };
    let keys = standing.compared(&Ours::Changed(change), known)?;
    for (org, limits) in standing.org_limits()? {
        // Nobody records how an org was at the last publication, so the slower limit applies.
        let settings = change.settings_mut();
        let terms = settings.orgs.get(&org).cloned().unwrap_or_default();
        let met = terms.in_force(&settings.plans).meet(&limits);
        settings.orgs.insert(org, terms.with_limits(&met, &settings.plans));
    }
    let shared: HashSet<Digest> =
        keys.iter().flat_map(|key| &key.ours).map(|spec| spec.digest).collect();
    let mut present: HashMap<KeyId, Option<Located>> =
        keys.iter().map(|key| (key.id, None)).collect();
    let mut replaced: HashMap<KeyId, KeyId> = HashMap::new();
    change.registry().scan(&Filter::default(), &mut |located| {
        replaced.extend(located.entry.replaces.map(|former| (located.entry.id, former)));
        if let Some(place) = present.get_mut(&located.entry.id) {
            *place = Some(located);
        }
        Ok(())
    })?;
    let restricted = restricted_successors(&keys, &replaced, meant);
    let mut added = 0u64;
    for key in keys {
        let Some(there) = present.remove(&key.id).flatten() else {
            added += u64::from(add(change, &key, &shared, meant, session)?);
            continue;
        };
        let own = there.entry.clone();
        let stays = match meant.readmit.contains(&key.id) {
            true => own.clone(),
            false => {
                let mut met = meet(&own, &key, session.now());
                if let Some(former) = restricted.get(&key.id) {
                    let next = meet_successor(&met.entry, former);
                    met.entry = next.entry;
                    met.open.extend(next.open);
                }
                met.open.iter().for_each(|what| tell(&own, what, session));
                met.entry
            }
        };
        let specs: Vec<KeySpec> = stays.specs().collect();
        let mine = key.theirs.iter().filter(|spec| spec.id == key.id).cloned();
        let mine: Vec<KeySpec> = mine.collect();
        match of_specs(&mine, Some(&own)) {
            Some(published) if !is_alike(&specs, &mine) => {
                if is_narrower(&key, &specs) {
                    tell(&own, "is allowed more there; only restrictions are taken over", session);
                }
                rebase.was.push(published);
            }
            None => rebase.new.push(key.id),
            Some(_) => {}
        }
        if stays != own {
            change.replace(there, stays);
        }
    }
    if added > 0 {
        take_forms(&standing, change)?;
    }
    change.rebase(rebase);
    Ok(Folded { serial: newest, is_news: true })
}

/// Those of our keys that theirs does not know, and that replaced a key which theirs has
/// restricted; each with the key that it replaced. `replaced`: by the successor's id.
fn restricted_successors(
    keys: &[ThreeWayKey],
    replaced: &HashMap<KeyId, KeyId>,
    meant: &Acknowledged,
) -> HashMap<KeyId, ThreeWayKey> {
    let by_id: HashMap<KeyId, &ThreeWayKey> = keys.iter().map(|key| (key.id, key)).collect();
    let is_there = |key: &ThreeWayKey| key.theirs.iter().any(|spec| spec.id == key.id);
    let is_new = |key: &ThreeWayKey| {
        !is_there(key) && matches!(&key.base, Baseline::Known(base) if base.is_empty())
    };
    let mut restricted = HashMap::new();
    for key in keys.iter().filter(|key| !key.ours.is_empty() && !is_there(key)) {
        // Up the chain to the key that theirs knows; a hand-edited chain may be circular.
        let mut seen = HashSet::from([key.id]);
        let mut former = replaced.get(&key.id);
        while let Some(found) = former.and_then(|id| by_id.get(id)).filter(|f| seen.insert(f.id)) {
            if !is_new(found) {
                if has_taken(found) && !meant.readmit.contains(&found.id) {
                    restricted.insert(key.id, (*found).clone());
                }
                break;
            }
            former = replaced.get(&found.id);
        }
    }
    restricted
}

/// Whether theirs has restricted the key since the base, or, without a base, compared with ours.
fn has_taken(key: &ThreeWayKey) -> bool {
    let before = match &key.base {
        Baseline::Known(base) if !base.is_empty() => base.clone(),
        _ => key.ours.clone(),
    };
    let (base, ours) = (Baseline::Known(before.clone()), before);
    let key = ThreeWayKey { id: key.id, base, theirs: key.theirs.clone(), ours };
    !losses([key], &Acknowledged::default()).is_empty()
}

/// What is published together with the file at `path`.
fn standing_at(path: &Path, manifest: &Manifest, change: &Change) -> Result<Standing> {
    let publish = &change.settings().publish;
    let place = |path: &Option<PathBuf>| path.as_ref().map(|p| change.registry().relative(p));
    let (table, patch) = (place(&publish.table), place(&publish.patch));
    match manifest.kind {
        FileKind::Table => {
            let patches: Vec<&Path> = patch.iter().map(PathBuf::as_path).collect();
            Standing::at(Some(path), &patches)
        }
        FileKind::Patch => {
            // The table that the patch is over, if available.
            let beside = files::siblings(path, "kgt")?;
            let is_base = |table: &PathBuf| {
                head(table).is_ok_and(|head| Some(head.as_base()) == manifest.base)
            };
            let table = table.into_iter().chain(beside).find(is_base);
            Standing::at(table.as_deref(), &[path])
        }
    }
}

/// Refuses a file that is older than what this registry has published in its own place: it would
/// bring back keys that were removed since.
fn refuse_old(path: &Path, newest: u64, change: &Change) -> Result<()> {
    let registry = change.registry();
    let mut places = registry.own_places();
    if places.is_empty() {
        places.push(published::place_of(&registry.real, path));
    }
    let is_here = |artefact: &&BuiltFile| {
        artefact.stage == BuildStage::Published
            && artefact.place.as_ref().is_some_and(|place| places.contains(place))
    };
    let last = change.known().iter().filter(is_here).map(|artefact| artefact.serial).max();
    match last {
        Some(last) if newest < last => {
            Err(Error::Older { path: path.to_owned(), serial: newest, published: last })
        }
        _ => Ok(()),
    }
}

/// Adds a key that only theirs has. Returns whether it did.
fn add(
    change: &mut Change,
    key: &ThreeWayKey,
    shared: &HashSet<Digest>,
    meant: &Acknowledged,
    session: &mut Session,
) -> Result<bool> {
    let Some(entry) = of_specs(&key.theirs, None) else { return Ok(false) };
    if meant.drop.contains(&key.id) {
        return Ok(false);
    }
    if matches!(&key.base, Baseline::Known(base) if !base.is_empty()) {
        tell(&entry, "was removed from this registry, and is not taken back", session);
        return Ok(false);
    }
    if key.theirs.iter().any(|spec| shared.contains(&spec.digest)) {
        tell(
            &entry,
            "has a secret of a key of another id here: that key takes its restrictions over",
            session,
        );
        return Ok(false);
    }
    let id = entry.id;
    // A table does not say when. As with imported keys: the time of their arrival here.
    let entry = RegistryEntry { created: Some(session.now()), ..entry };
    match change.add(entry) {
        true => Ok(true),
        false => Err(Error::State {
            id,
            state: "not taken over: another key here has its public id or its secret".into(),
            hint: "revoke or remove one of the two",
        }),
    }
}

/// Keys from elsewhere may lack the checksum that this registry's forms promise. A form that theirs
/// does not state the same way loses its promise.
fn take_forms(standing: &Standing, change: &mut Change) -> Result<()> {
    let theirs: Vec<KeyFormat> = match standing.keys()? {
        Some(keys) => keys.formats().iter().cloned().collect(),
        None => Vec::new(),
    };
    let is_lax = |format: &KeyFormat| format.checksummed && !theirs.contains(format);
    let prefixes = &change.settings().prefixes;
    let lax: Vec<String> =
        prefixes.iter().filter(|(_, f)| is_lax(f)).map(|(name, _)| name.clone()).collect();
    for name in lax {
        if let Some(format) = change.settings_mut().prefixes.get_mut(&name) {
            format.checksummed = false;
        }
    }
    Ok(())
}

/// Reports what people may want to settle about a key.
fn tell(entry: &RegistryEntry, what: &str, session: &mut Session) {
    let name = match &*entry.name {
        "" => String::new(),
        name => format!(" ({name})"),
    };
    session.output.note(&format!("{}{name} {what}", entry.id));
}

/// Whether theirs admits something that `stays` does not.
fn is_narrower(key: &ThreeWayKey, stays: &[KeySpec]) -> bool {
    let ours = key.theirs.iter().filter(|spec| spec.id == key.id).cloned().collect();
    let (base, theirs) = (Baseline::Unknown, stays.to_vec());
    !losses([ThreeWayKey { id: key.id, base, theirs, ours }], &Acknowledged::default()).is_empty()
}

/// What folding found.
#[derive(Clone, Copy, Debug)]
pub struct Folded {
    /// The newest published serial.
    pub serial: u64,
    pub is_news: bool,
}

/// Whether both consist of the same records, in any order.
fn is_alike(a: &[KeySpec], b: &[KeySpec]) -> bool {
    a.len() == b.len() && a.iter().all(|spec| b.contains(spec))
}

/// One key from its one or two records; whatever a record does not state stays as it was.
pub fn of_specs(specs: &[KeySpec], there: Option<&RegistryEntry>) -> Option<RegistryEntry> {
    // In a rotation, the record that ends first is the former one.
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
        // The author chose the order; a table does not keep it.
        permissions: match there {
            Some(there) if words_of(there) == grant.permissions => there.permissions.clone(),
            _ => grant.permissions.iter().cloned().collect(),
        },
        networks: match there {
            Some(there) if networks_of(there) == grant.networks => there.networks.clone(),
            _ => grant.networks.iter().copied().collect(),
        },
        limits: grant.limits.clone(),
        // A table does not know plans.
        plan: None,
        sunset: grant.sunset,
        owner: current.owner.clone(),
        created: there.and_then(|there| there.created),
        not_before: grant.not_before,
        expires: current.expires,
        prefix: there.and_then(|there| there.prefix.clone()),
        key_prefix: same.map(|there| there.key_prefix.clone()).unwrap_or_default(),
        public_id: current.public_id.clone(),
        digest: current.digest,
        previous: former
            .and_then(|spec| Some(Previous { digest: spec.digest, expires: spec.expires? })),
        replaces: there.and_then(|there| there.replaces),
        uid: there.and_then(|there| there.uid),
        note: there.map(|there| there.note.clone()).unwrap_or_default(),
    })
}

fn words_of(entry: &RegistryEntry) -> PermissionSet {
    PermissionSet::new(entry.permissions.iter().cloned())
}

fn networks_of(entry: &RegistryEntry) -> NetworkSet {
    NetworkSet::new(entry.networks.iter().copied())
}
