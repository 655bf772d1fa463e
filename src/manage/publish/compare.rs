//! Looks at what is published where a publication is about to be written, and finds what the
//! publication would undo: gathers base, theirs and ours for [`losses`]. Imports the registry and
//! table.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};

use super::super::error::{Error, Result};
use super::super::files;
use super::super::registry::change::Change;
use super::super::registry::entry::RegistryEntry;
use super::super::registry::published::{self, BuildStage, BuiltFile};
use super::super::registry::{Filter, Registry};
use super::head::{is_unsigned, readable_head};
use super::losses::{Acknowledged, Baseline, Loss, OrgLoss, ThreeWayKey, losses, org_losses};
use super::opened;
use super::trusted::{DemandedSignatures, TrustedSigners};
use crate::core::{Digest, KeyId, KeySpec, LimitSet, OrgId};
use crate::table::FileKind;
use crate::table::{Bounds, KeySet, Manifest, OrgLimits, Patch};

/// What a publisher undoes on purpose.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Publishing over somebody else's publication")]
pub struct MeantArgs {
    /// Restore what the published table or patch took away from this key; repeatable
    #[arg(long, value_name = "KEY_ID", value_parser = KeyId::parse)]
    pub readmit: Vec<KeyId>,
    /// Drop this key (or its rotated secret) that only the published table or patch has; repeatable
    #[arg(long, value_name = "KEY_ID", value_parser = KeyId::parse)]
    pub drop: Vec<KeyId>,
    /// Let this org do again more than the limits that are published for it; repeatable
    #[arg(long, value_name = "ORG", value_parser = OrgId::parse)]
    pub readmit_org: Vec<OrgId>,
    /// Replace a file that more signers have signed; sidecars whose `required_signers` is above
    /// the new count refuse what is published then
    #[arg(long)]
    pub fewer_signatures: bool,
    /// Publish with a signer that has not signed here before; every sidecar must trust it already
    #[arg(long)]
    pub new_signer: bool,
}

/// What is published now, from the view of a sidecar that reads it.
#[derive(Debug, Default)]
pub struct Standing {
    table: Option<(PathBuf, Manifest)>,
    /// Patches that the table does not include, the newest last.
    patches: Vec<(PathBuf, Manifest)>,
    /// Where it was searched for.
    places: Vec<PathBuf>,
    demanded: DemandedSignatures,
}

/// What is about to be published.
#[derive(Debug)]
pub enum Ours<'a> {
    /// A registry with the changes that are about to be made to it.
    Changed(&'a Change),
    Registry(&'a Registry),
    /// A registry, with those of its keys that were written since the last publication there. The
    /// registry has published everything there itself, so all other keys are as published.
    Since {
        registry: &'a Registry,
        changed: &'a [RegistryEntry],
    },
    /// A file, and the registry that made it if available.
    File {
        keys: &'a KeySet,
        registry: Option<&'a Registry>,
    },
    /// A file that was just made from sources other than a registry. Nothing remembers its keys, so
    /// those that only it has count as new.
    Sources(&'a KeySet),
}

/// What a publisher knows of what is published.
#[derive(Clone, Copy, Debug)]
pub struct Knowledge<'a> {
    /// Everything that its registry knows.
    pub registry: &'a [BuiltFile],
    /// The part of it that ours contains.
    pub contained: &'a [BuiltFile],
}

// === impl MeantArgs ===

impl MeantArgs {
    pub fn acknowledged(&self) -> Acknowledged {
        let set = |ids: &[KeyId]| ids.iter().copied().collect();
        Acknowledged {
            readmit: set(&self.readmit),
            drop: set(&self.drop),
            orgs: self.readmit_org.iter().cloned().collect(),
            fewer_signatures: self.fewer_signatures,
            new_signer: self.new_signer,
        }
    }

    /// An audit record that states what was undone on purpose.
    pub fn record(&self, mut what: Value) -> Value {
        if let Value::Object(map) = &mut what {
            self.note_in(map);
        }
        what
    }

    /// Adds to an audit record what was undone on purpose.
    pub fn note_in(&self, what: &mut Map<String, Value>) {
        if !self.readmit_org.is_empty() {
            let orgs = self.readmit_org.iter().map(OrgId::as_str);
            what.insert("readmit_org".into(), orgs.collect());
        }
        let flags = [("fewer_signatures", self.fewer_signatures), ("new_signer", self.new_signer)];
        for (name, _) in flags.into_iter().filter(|(_, is_given)| *is_given) {
            what.insert(name.into(), true.into());
        }
        for (name, ids) in [("readmit", &self.readmit), ("drop", &self.drop)] {
            if !ids.is_empty() {
                what.insert(name.into(), ids.iter().map(ToString::to_string).collect());
            }
        }
    }
}

// === impl Standing ===

impl Standing {
    /// The table at `table`, and every patch that it does not include: those at `patches`, and all
    /// next to the table, whatever their names, because sidecars may read any of them.
    pub fn at(table: Option<&Path>, patches: &[&Path]) -> Result<Self> {
        let there = |path: &Path| fs::exists(path).map_err(Error::read(path));
        let mut places: Vec<PathBuf> = table.into_iter().map(Path::to_owned).collect();
        let mut candidates: Vec<PathBuf> = patches.iter().map(|path| path.to_path_buf()).collect();
        places.extend(candidates.iter().cloned());
        places.extend(table.map(|path| path.with_extension("kgp")));
        let table = match table {
            Some(table) if there(table)? => Some((table.to_owned(), readable_head(table)?)),
            _ => None,
        };
        if let Some((path, _)) = &table {
            candidates.extend(files::siblings(path, "kgp")?);
        }
        let mut found = BTreeMap::new();
        for path in candidates {
            if there(&path)? {
                let manifest = readable_head(&path)?;
                if is_unsigned(&path)? {
                    // A draft that waits for its first signature: every sidecar refuses it.
                    continue;
                }
                found.entry(files::resolve(&path)?).or_insert((path, manifest));
            }
        }
        let includes = table.as_ref().map_or(0, |(_, manifest)| manifest.includes_through);
        let audience = table.as_ref().map(|(_, manifest)| manifest.audience.clone());
        let mut patches: Vec<_> = found.into_values().collect();
        patches.retain(|(_, manifest)| {
            manifest.kind == FileKind::Patch
                && manifest.serial > includes
                && audience.as_ref().is_none_or(|audience| *audience == manifest.audience)
        });
        patches.sort_by_key(|(_, manifest)| manifest.serial);
        Ok(Self { table, patches, places, demanded: DemandedSignatures::default() })
    }

    /// Ignores everything except what `signers` have signed or this registry has published (`own`).
    pub fn signed_by(mut self, signers: &TrustedSigners, own: &[BuiltFile]) -> Result<Self> {
        self.demanded = DemandedSignatures::of(signers, own);
        for (path, manifest) in self.all() {
            self.demanded.refuse_strangers(path, manifest)?;
        }
        Ok(self)
    }

    /// The serial that the table includes every change through.
    pub fn includes(&self) -> Option<u64> {
        self.table.as_ref().map(|(_, manifest)| manifest.includes_through)
    }

    /// Active records that the table states, without its patches.
    pub fn stated_active(&self) -> Option<u64> {
        self.table.as_ref().map(|(_, manifest)| manifest.active)
    }

    pub fn is_patched(&self) -> bool {
        !self.patches.is_empty()
    }

    pub fn all(&self) -> impl Iterator<Item = &(PathBuf, Manifest)> {
        self.table.iter().chain(&self.patches)
    }

    /// Drops patches next to the target whose serial is above this one: sidecars keep obeying them.
    pub fn against(mut self, serial: u64) -> Self {
        let places = &self.places;
        self.patches.retain(|(path, manifest)| manifest.serial <= serial || places.contains(path));
        self
    }

    /// The newest file there that this registry did not publish.
    pub fn foreign(&self, known: &[BuiltFile]) -> Option<&(PathBuf, Manifest)> {
        self.all()
            .filter(|(_, manifest)| !known.iter().any(|artefact| artefact.is(manifest)))
            .max_by_key(|(_, manifest)| manifest.serial)
    }

    /// The newest file that the registry has published in this place, or that is there now:
    /// everything of the registry up to it is published here. Files that it has published only
    /// elsewhere are not a base for changes to this place.
    pub fn base<'k>(&self, registry: &Registry, known: &'k [BuiltFile]) -> Option<&'k BuiltFile> {
        let places: Vec<_> =
            self.places.iter().map(|path| published::place_of(&registry.real, path)).collect();
        let is_here = |artefact: &&BuiltFile| {
            let is_put = artefact.stage == BuildStage::Published
                && artefact.place.as_ref().is_some_and(|place| places.contains(place));
            is_put || self.all().any(|(_, manifest)| artefact.is(manifest))
        };
        known.iter().filter(is_here).max_by_key(|artefact| artefact.serial)
    }

    /// Whether a reader has exactly this in force: it is still here, nothing newer is, and if it is
    /// a patch, its table is here too.
    pub fn is_in_force(&self, artefact: &BuiltFile) -> bool {
        let Some((_, newest)) = self.all().max_by_key(|(_, manifest)| manifest.serial) else {
            return false;
        };
        let table = self.table.as_ref().map(|(_, manifest)| manifest.as_base());
        artefact.is(newest) && (newest.kind == FileKind::Table || newest.base == table)
    }

    /// Whether the table that the registry publishes is missing, although the registry has
    /// published one there.
    pub fn is_gone(&self, registry: &Registry, known: &[BuiltFile]) -> bool {
        let publish = &registry.settings.publish;
        let Some(table) = publish.table.as_deref().map(|path| registry.relative(path)) else {
            return false;
        };
        let place = published::place_of(&registry.real, &table);
        let is_here = |artefact: &BuiltFile| {
            artefact.kind == FileKind::Table && artefact.place.as_ref() == Some(&place)
        };
        // A folder that is not mounted here is a different case.
        self.table.is_none() && files::directory(&table).exists() && known.iter().any(is_here)
    }

    /// The keys in force for a reader that has all of it.
    pub fn keys(&self) -> Result<Option<KeySet>> {
        let Some((path, _)) = &self.table else { return Ok(None) };
        let table = opened::table(path, |head| self.demanded.trust(head))?;
        let table = table.map_err(|e| Error::unreadable(path, e))?;
        let mut patches = self.opened()?;
        let over = patches.iter().rposition(|patch| patch.is_over(&table));
        let over = over.map(|at| patches.remove(at));
        Ok(Some(KeySet::new(table, over, &patches, None)))
    }

    fn opened(&self) -> Result<Vec<Arc<Patch>>> {
        let bounds = Bounds::default();
        let open = |path: &Path| {
            let file = files::read(path, bounds.max_bytes)?;
            let trust = self.demanded.trust(&file);
            let patch = Patch::open(file, &trust, &bounds);
            Ok(Arc::new(patch.map_err(|e| Error::unreadable(path, e))?))
        };
        self.patches.iter().map(|(path, _)| open(path)).collect()
    }

    /// What publishing `ours` would undo.
    pub fn losses(
        &self,
        ours: &Ours<'_>,
        known: Knowledge<'_>,
        meant: &Acknowledged,
    ) -> Result<Vec<Loss>> {
        let keys = match self.foreign(known.contained) {
            Some(_) => self.compared(ours, known)?,
            None => self.revived(ours)?,
        };
        Ok(losses(keys, meant))
    }

    /// Keys that have permanently ended there and not in ours, although ours contains what is
    /// there: lines were merged or edited.
    fn revived(&self, ours: &Ours<'_>) -> Result<Vec<ThreeWayKey>> {
        if self.all().all(|(_, manifest)| manifest.keys == manifest.active) {
            return Ok(Vec::new());
        }
        let Some(theirs) = self.keys()? else { return Ok(Vec::new()) };
        let is_final = |spec: &KeySpec| spec.grant.status.is_final();
        let mut ended: HashMap<KeyId, Vec<KeySpec>> = HashMap::new();
        for spec in theirs.iter().filter_map(|entry| entry.to_spec()).filter(is_final) {
            ended.entry(spec.id).or_default().push(spec);
        }
        let mut keys: BTreeMap<KeyId, ThreeWayKey> = BTreeMap::new();
        ours.each(&mut |spec| {
            let by_id = ended.get(&spec.id).into_iter().flatten().cloned();
            let by_secret = theirs.find_digest(&spec.digest).and_then(|there| there.to_spec());
            let by_secret = by_secret.filter(|there| is_final(there) && there.id != spec.id);
            let theirs: Vec<KeySpec> = by_id.chain(by_secret).collect();
            if !theirs.is_empty() && !is_final(&spec) {
                let (id, base) = (spec.id, Baseline::Contained);
                let new = ThreeWayKey { id, base, theirs, ours: Vec::new() };
                keys.entry(id).or_insert(new).ours.push(spec);
            }
            Ok(())
        })?;
        Ok(keys.into_values().collect())
    }

    /// Orgs whose published limits publishing `ours` would loosen. Nobody records which limits the
    /// registry published last, so what is published counts as news.
    pub fn org_losses(&self, ours: &Ours<'_>, meant: &Acknowledged) -> Result<Vec<OrgLoss>> {
        Ok(org_losses(&self.org_limits()?, &ours.org_limits(), meant))
    }

    /// Limits of orgs in force. Without the table: what patches over it state.
    pub fn org_limits(&self) -> Result<BTreeMap<OrgId, LimitSet>> {
        let owned =
            |stated: OrgLimits<'_>| Some((OrgId::parse(stated.org).ok()?, stated.limits.clone()));
        if let Some(keys) = self.keys()? {
            return Ok(keys.iter_org_limits().filter_map(owned).collect());
        }
        let mut orgs = BTreeMap::new();
        for patch in self.opened()? {
            orgs.extend(patch.org_limits().filter_map(owned));
        }
        Ok(orgs)
    }

    /// Every key that ours does not state the way it is published.
    pub fn compared(&self, ours: &Ours<'_>, known: Knowledge<'_>) -> Result<Vec<ThreeWayKey>> {
        let Some(theirs) = self.keys()? else { return self.compared_with_patches(ours) };
        let differing = differing(&theirs, ours)?;
        if differing.is_empty() {
            return Ok(Vec::new());
        }
        let mut keys: BTreeMap<KeyId, ThreeWayKey> = differing
            .iter()
            .map(|id| {
                let base = Baseline::Unknown;
                (*id, ThreeWayKey { id: *id, base, theirs: Vec::new(), ours: Vec::new() })
            })
            .collect();
        for spec in theirs.iter().filter_map(|entry| entry.to_spec()) {
            if let Some(key) = keys.get_mut(&spec.id) {
                key.theirs.push(spec);
            }
        }
        ours.each(&mut |spec| {
            let Some(key) = keys.get_mut(&spec.id) else { return Ok(()) };
            // The same secret under another id means the same caller.
            let there = theirs.find_digest(&spec.digest).and_then(|there| there.to_spec());
            key.theirs.extend(there.filter(|there| there.id != spec.id));
            key.ours.push(spec);
            Ok(())
        })?;
        self.fill_bases(ours, known, &mut keys)?;
        Ok(keys.into_values().collect())
    }

    /// Fills in how the differing keys were last published in this place: as they are in ours,
    /// except for those changed since.
    fn fill_bases(
        &self,
        ours: &Ours<'_>,
        known: Knowledge<'_>,
        keys: &mut BTreeMap<KeyId, ThreeWayKey>,
    ) -> Result<()> {
        let (registry, change) = match ours {
            Ours::Changed(change) => (change.registry(), Some(*change)),
            Ours::Registry(registry) | Ours::Since { registry, .. } => (*registry, None),
            Ours::File { registry: Some(registry), .. } => (*registry, None),
            Ours::File { registry: None, .. } => return Ok(()),
            Ours::Sources(_) => {
                for key in keys.values_mut().filter(|key| key.theirs.is_empty()) {
                    key.base = Baseline::Known(Vec::new());
                }
                return Ok(());
            }
        };
        let serial = registry.settings.serial;
        let anywhere = known.registry.iter().map(|artefact| artefact.serial).max().unwrap_or(0);
        let here = self.base(registry, known.contained).map(|base| base.serial);
        let here = match here {
            Some(after) if published::is_complete(&registry.real, after, serial)? => Some(after),
            _ => None,
        };
        let Some(after) = here else {
            // Nobody else can have removed what was never published.
            let mut new: BTreeSet<KeyId> =
                change.iter().flat_map(|change| change.added()).map(|entry| entry.id).collect();
            if published::is_complete(&registry.real, anywhere, serial)? {
                let noted = published::changed_since(&registry.real, anywhere, serial)?;
                new.extend(noted.iter().filter(|(_, was)| was.is_none()).map(|(id, _)| *id));
            }
            for id in new {
                if let Some(key) = keys.get_mut(&id).filter(|key| key.theirs.is_empty()) {
                    key.base = Baseline::Known(Vec::new());
                }
            }
            return Ok(());
        };
        let mut before = published::changed_since(&registry.real, after, serial)?;
        for (old, new) in change.iter().flat_map(|change| change.edited()) {
            before.entry(new.id).or_insert_with(|| Some(old.clone()));
        }
        for entry in change.iter().flat_map(|change| change.added()) {
            before.entry(entry.id).or_insert(None);
        }
        for (id, entry) in before {
            if let Some(key) = keys.get_mut(&id) {
                key.base = Baseline::Known(entry.iter().flat_map(RegistryEntry::specs).collect());
            }
        }
        // Anything else in ours may have been published in its current form: what theirs says
        // against it counts.
        for key in keys.values_mut().filter(|key| key.base == Baseline::Unknown) {
            if !key.ours.is_empty() {
                key.base = Baseline::Known(key.ours.clone());
            }
        }
        Ok(())
    }

    /// The table is gone, but what patches over it say is not.
    fn compared_with_patches(&self, ours: &Ours<'_>) -> Result<Vec<ThreeWayKey>> {
        let mut keys: BTreeMap<KeyId, ThreeWayKey> = BTreeMap::new();
        let mut removed = HashSet::new();
        for patch in self.opened()? {
            let ids = patch.iter().map(|entry| entry.view.id);
            for id in ids.chain(patch.removals().map(|(_, id, _)| id)) {
                // The newest patch includes everything that the earlier ones said.
                let (base, theirs) = (Baseline::Unknown, Vec::new());
                keys.insert(id, ThreeWayKey { id, base, theirs, ours: Vec::new() });
            }
            for spec in patch.iter().filter_map(|entry| entry.to_spec()) {
                if let Some(key) = keys.get_mut(&spec.id) {
                    key.theirs.push(spec);
                }
            }
            removed.extend(patch.removals().map(|(digest, _, _)| digest));
        }
        ours.each(&mut |spec| {
            if let Some(key) = keys.get_mut(&spec.id) {
                key.ours.push(spec);
            }
            Ok(())
        })?;
        for key in keys.values_mut().filter(|key| key.theirs.is_empty()) {
            // Removed there, so it was in the table before.
            key.base = Baseline::Known(key.ours.clone());
            key.ours.retain(|spec| removed.contains(&spec.digest));
        }
        Ok(keys.into_values().collect())
    }
}

// === impl Ours ===

impl Ours<'_> {
    fn org_limits(&self) -> BTreeMap<OrgId, LimitSet> {
        match self {
            Self::Changed(change) => change.new_settings().org_limits(),
            Self::Registry(registry) | Self::Since { registry, .. } => {
                registry.settings.org_limits()
            }
            Self::File { keys, .. } | Self::Sources(keys) => {
                let stated = keys.iter_org_limits();
                let owned =
                    stated.filter_map(|s| Some((OrgId::parse(s.org).ok()?, s.limits.clone())));
                owned.collect()
            }
        }
    }

    /// Visits all keys; for [`Ours::Since`], those that changed.
    pub fn each(&self, each: &mut dyn FnMut(KeySpec) -> Result<()>) -> Result<()> {
        match self {
            Self::Changed(change) => {
                let edited: HashMap<KeyId, &RegistryEntry> =
                    change.edited().map(|(_, e)| (e.id, e)).collect();
                change.registry().scan(&Filter::default(), &mut |located| {
                    let entry = edited.get(&located.entry.id).copied().unwrap_or(&located.entry);
                    entry.specs().try_for_each(&mut *each)
                })?;
                change.added().iter().flat_map(RegistryEntry::specs).try_for_each(each)
            }
            Self::Registry(registry) => registry.scan(&Filter::default(), &mut |located| {
                located.entry.specs().try_for_each(&mut *each)
            }),
            Self::Since { changed, .. } => {
                changed.iter().flat_map(RegistryEntry::specs).try_for_each(each)
            }
            Self::File { keys, .. } | Self::Sources(keys) => {
                keys.iter().filter_map(|entry| entry.to_spec()).try_for_each(each)
            }
        }
    }
}

/// The keys that the two state differently.
fn differing(theirs: &KeySet, ours: &Ours<'_>) -> Result<BTreeSet<KeyId>> {
    let mut differing = BTreeSet::new();
    let mut seen: HashSet<Digest> = HashSet::new();
    ours.each(&mut |spec| {
        let there = theirs.find_digest(&spec.digest).and_then(|entry| entry.to_spec());
        seen.insert(spec.digest);
        if there.as_ref() != Some(&spec) {
            // A secret that two keys have is a difference in both.
            differing.extend(there.map(|there| there.id));
            differing.insert(spec.id);
        }
        Ok(())
    })?;
    differing.extend(
        theirs.iter().filter(|entry| !seen.contains(&entry.digest)).map(|entry| entry.view.id),
    );
    Ok(differing)
}
