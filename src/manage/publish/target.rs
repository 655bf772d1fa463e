//! Where a publication is written: what is already there, whether it may be overwritten, and the
//! record of it in the registry. Imports the registry and table.

use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;

use super::super::error::{Error, Result};
use super::super::files::{self, Lock, Replacement};
use super::super::output::count;
use super::super::registry::Registry;
use super::super::registry::change::{Change, Locked, remember};
use super::super::registry::published::{BuildStage, BuiltFile, Mention, place_of};
use super::super::session::Session;
use super::super::time;
use super::compare::{Knowledge, Ours, Standing};
use super::elsewhere::{self, PatchAt};
use super::head::readable_head;
use super::losses::{Acknowledged, Difference};
use super::opened;
use super::purpose::on_purpose;
use crate::manage::output::Output;
use crate::table::FileKind;
use crate::table::write::Draft;
use crate::table::{
    AcceptRules, Acknowledge, Bounds, KeySet, Manifest, Patch, PublicKey, Refusal, Table, Trust,
};

/// Where a publication goes, and what it was made from.
#[derive(Clone, Copy, Debug)]
pub struct Destination<'a> {
    pub out: &'a Path,
    /// The patch's table. `None`: the publication is a table.
    pub base: Option<&'a Path>,
    pub source: PublishOrigin<'a>,
    pub meant: &'a Acknowledged,
}

#[derive(Clone, Copy, Debug)]
pub enum PublishOrigin<'a> {
    /// A file that this registry made earlier, and that has waited for signatures.
    Draft { registry: &'a Registry, draft: &'a Path },
    /// Files other than a registry.
    Files,
    /// A draft that a registry elsewhere has made.
    ForeignDraft,
    /// The caller does not hold its lock.
    Free(&'a Registry),
    /// The caller holds its lock.
    Held(&'a Registry),
}

/// What was published.
#[derive(Debug)]
pub struct Published {
    pub path: PathBuf,
    pub manifest: Manifest,
    pub bytes: u64,
}

// === impl PublishOrigin ===

impl<'a> PublishOrigin<'a> {
    pub fn registry(self) -> Option<&'a Registry> {
        match self {
            Self::Files | Self::ForeignDraft => None,
            Self::Draft { registry, .. } | Self::Free(registry) | Self::Held(registry) => {
                Some(registry)
            }
        }
    }
}

// === impl Destination ===

impl Destination<'_> {
    /// Refuses, before anything is written, a change that would undo what is published.
    pub fn refuse_losses_of(&self, change: &Change, output: &Output) -> Result<()> {
        let known = change.known();
        let known = Knowledge { registry: known, contained: known };
        self.tell_of_idle(change, known, output)?;
        self.refuse_losses(change.serial(), &Ours::Changed(change), known)
    }

    /// Warns about acknowledgements that nothing needs: an id may be mistaken.
    fn tell_of_idle(&self, change: &Change, known: Knowledge<'_>, output: &Output) -> Result<()> {
        let mut idle = self.meant.clone();
        if idle == Acknowledged::default() {
            return Ok(());
        }
        for standing in self.standings()? {
            let all = Acknowledged::default();
            let losses =
                standing.against(change.serial()).losses(&Ours::Changed(change), known, &all)?;
            for loss in losses {
                let is_drop = |difference: &Difference| difference.is_drop();
                if loss.differences.iter().any(is_drop) {
                    idle.drop.remove(&loss.id);
                }
                if !loss.differences.iter().all(is_drop) {
                    idle.readmit.remove(&loss.id);
                }
            }
        }
        for (option, ids) in [("--readmit", &idle.readmit), ("--drop", &idle.drop)] {
            for id in ids {
                output.warn(&format!("{option} {id} has nothing to undo in what is published"));
            }
        }
        Ok(())
    }

    /// Refuses a table or patch whose kind or audience differs from the existing file's, or whose
    /// serial is not above it.
    pub fn refuse_rollback(&self, kind: FileKind, audience: &str, serial: u64) -> Result<()> {
        let Some(theirs) = self.there()? else { return Ok(()) };
        self.refuse_stranger(&theirs, kind, audience)?;
        if theirs.serial >= serial {
            return Err(Error::raced(self.out, &theirs, serial));
        }
        Ok(())
    }

    /// What a publication acknowledges because ours accounts for every key that is gone from what
    /// is published; `after` is the number of its active records.
    pub fn purpose(&self, ours: &Ours<'_>, after: u64) -> Result<Vec<Acknowledge>> {
        let mut purpose: Option<Vec<Acknowledge>> = None;
        for standing in self.standings()?.iter().filter(|s| s.stated_active().is_some()) {
            let new = on_purpose(standing, ours, after, self.meant)?;
            purpose = Some(match purpose {
                Some(known) => known.into_iter().filter(|meant| new.contains(meant)).collect(),
                None => new,
            });
        }
        Ok(purpose.unwrap_or_default())
    }

    /// Whether everything published there is known.
    pub fn has_only(&self, known: &[BuiltFile]) -> Result<bool> {
        Ok(self.standings()?.iter().all(|standing| standing.foreign(known).is_none()))
    }

    /// The head of the file to be replaced.
    pub(super) fn there(&self) -> Result<Option<Manifest>> {
        if self.out.exists() { readable_head(self.out).map(Some) } else { Ok(None) }
    }

    fn refuse_stranger(&self, theirs: &Manifest, kind: FileKind, audience: &str) -> Result<()> {
        if theirs.kind != kind {
            let refusal = Refusal::Kind { found: theirs.kind, wanted: kind };
            return Err(Error::refused(self.out, refusal));
        }
        if *theirs.audience != *audience {
            return Err(Error::audience(self.out, &theirs.audience, audience));
        }
        Ok(())
    }

    fn refuse_losses(&self, serial: u64, ours: &Ours<'_>, known: Knowledge<'_>) -> Result<()> {
        for standing in self.standings()? {
            let standing = standing.against(serial);
            let foreign = standing.foreign(known.contained);
            if let Some((path, theirs)) = foreign
                && theirs.serial >= serial
            {
                return Err(Error::raced(path, theirs, serial));
            }
            let losses = standing.losses(ours, known, self.meant)?;
            let newest = standing.all().max_by_key(|(_, manifest)| manifest.serial);
            let orgs = match foreign {
                Some(_) => standing.org_losses(ours, self.meant)?,
                None => Vec::new(),
            };
            let is_kept = losses.is_empty() && orgs.is_empty();
            if let (false, Some((path, theirs))) = (is_kept, foreign.or(newest)) {
                let keys = losses.iter().map(ToString::to_string);
                let keys = keys.chain(orgs.iter().map(ToString::to_string)).collect();
                let undone = Error::undone(path, theirs, serial, keys);
                return Err(match self.source {
                    PublishOrigin::Draft { .. } => undone.of_draft(),
                    _ if foreign.is_none() => undone.of_lines(),
                    _ => undone,
                });
            }
        }
        Ok(())
    }

    /// The same for a written file before it is put in place: whatever it was made from, its own
    /// content is compared with what is published.
    fn refuse_losses_of_file(
        &self,
        ours: &Manifest,
        file: &mut Replacement,
        stage: BuildStage,
    ) -> Result<()> {
        if ours.kind == FileKind::Patch && self.base.is_none() {
            // Its table is elsewhere, and it replaces no other patch.
            return Ok(());
        }
        let standings = self.standings()?;
        if standings.iter().all(|standing| standing.all().next().is_none()) {
            return Ok(());
        }
        let (trust, bounds) = (Trust::for_inspection(), Bounds::default());
        let content = file.content()?;
        let keys = match self.base {
            None => {
                let table = Table::open(content, &trust, &bounds);
                let table = table.map_err(|e| Error::refused(self.out, e))?;
                KeySet::new(Arc::new(table), None, &[], None)
            }
            Some(base) => {
                let patch = Patch::open(content, &trust, &bounds);
                let patch = patch.map_err(|e| Error::refused(self.out, e))?;
                let table = opened::table(base, |_| trust.clone())?;
                let table = table.map_err(|e| Error::refused(base, e))?;
                KeySet::new(table, Some(Arc::new(patch)), &[], None)
            }
        };
        if stage == BuildStage::Published {
            self.refuse_braked(ours, keys.counts().active, &standings)?;
        }
        // What the file's source knew, which may be less than what the registry says by now.
        let registry = self.source.registry();
        let all = registry.map_or(&[][..], |registry| &registry.settings.published);
        let draft = all.iter().find(|artefact| artefact.is(ours));
        let mentioned: Vec<BuiltFile> = match (self.source, draft) {
            (PublishOrigin::Draft { .. }, Some(draft)) => {
                let is_known = |a: &&BuiltFile| draft.after.contains(&a.mention()) || *a == draft;
                all.iter().filter(is_known).cloned().collect()
            }
            _ => Vec::new(),
        };
        let contained = match self.source {
            PublishOrigin::Draft { .. } => &mentioned,
            _ => all,
        };
        let known = Knowledge { registry: all, contained };
        let ours_keys = match self.source {
            PublishOrigin::Files => Ours::Sources(&keys),
            _ => Ours::File { keys: &keys, registry },
        };
        self.refuse_losses(ours.serial, &ours_keys, known)
    }

    /// Refuses what sidecars would take for an accident: they keep what they have, and a revocation
    /// in it would never come into force. `after`: active records of ours, including its table.
    fn refuse_braked(&self, ours: &Manifest, after: u64, standings: &[Standing]) -> Result<()> {
        let rules = AcceptRules::default();
        for standing in standings {
            let before = standing.keys()?.map_or(0, |keys| keys.counts().active);
            // If nothing was admitted, nothing is lost.
            if before > 0 {
                let judged = rules.brake(ours, before, after);
                judged.map_err(|e| Error::refused(self.out, e))?;
            }
        }
        Ok(())
    }

    /// What is published at the target; and at the registry's own place, if the target is a draft
    /// or a copy of it.
    fn standings(&self) -> Result<Vec<Standing>> {
        let publish = self.source.registry().map(|registry| {
            let place = |path: &Option<PathBuf>| path.as_ref().map(|p| registry.relative(p));
            (place(&registry.settings.publish.table), place(&registry.settings.publish.patch))
        });
        let (table, patch) = publish.unwrap_or_default();
        let mut patches: Vec<&Path> = patch.iter().map(PathBuf::as_path).collect();
        let Some(base) = self.base else {
            let mut standings = vec![Standing::at(Some(self.out), &patches)?];
            if let Some(table) = table.filter(|table| !is_same(table, self.out)) {
                standings.push(Standing::at(Some(&table), &patches)?);
            }
            return Ok(standings);
        };
        patches.push(self.out);
        Ok(vec![Standing::at(Some(base), &patches)?])
    }

    /// The patch's table, and the table that the registry publishes.
    fn tables(&self) -> Vec<PathBuf> {
        let own = self.source.registry().and_then(|registry| {
            registry.settings.publish.table.as_deref().map(|path| registry.relative(path))
        });
        self.base.map(Path::to_owned).into_iter().chain(own).collect()
    }

    /// What was published when a draft was made.
    fn known_before(&self, ours: &Manifest, stage: BuildStage) -> Vec<Mention> {
        let known = self.source.registry().map_or(&[][..], |r| &r.settings.published);
        match self.source {
            PublishOrigin::Draft { .. } => {
                known.iter().find(|artefact| artefact.is(ours)).map(|a| a.after.clone())
            }
            _ if stage == BuildStage::Draft => Some(known.iter().map(BuiltFile::mention).collect()),
            _ => None,
        }
        .unwrap_or_default()
    }

    /// Warns about a place where this registry has published and nothing is left.
    fn tell_if_gone(&self, registry: &Registry, output: &Output) {
        let place = place_of(&registry.real, self.out);
        let is_here = |artefact: &&BuiltFile| {
            artefact.stage == BuildStage::Published && artefact.place.as_deref() == Some(&*place)
        };
        let last = registry.settings.published.iter().rfind(is_here);
        if let Some(last) = last {
            output.warn(&format!(
                "{} is gone, where this registry published serial {}: what somebody else \
                 has published since cannot be compared, and may be undone",
                self.out.display(),
                last.serial
            ));
        }
    }

    /// Whether it goes where the registry publishes to.
    pub(super) fn is_own_target(&self) -> bool {
        self.source.registry().is_some_and(|registry| {
            let publish = &registry.settings.publish;
            let own = [&publish.table, &publish.patch].into_iter().flatten();
            own.map(|path| registry.relative(path)).any(|path| is_same(&path, self.out))
        })
    }

    /// Published: in the registry's own place, signed by all who may sign, or a draft that was put
    /// elsewhere.
    fn stage<F: Read + Seek>(&self, draft: &Draft<F>) -> BuildStage {
        let is_put = match self.source {
            PublishOrigin::Draft { draft, .. } => !is_same(draft, self.out),
            PublishOrigin::Files
            | PublishOrigin::ForeignDraft
            | PublishOrigin::Free(_)
            | PublishOrigin::Held(_) => false,
        };
        match self.is_own_target()
            || is_put
            || draft.signed_by().count() >= draft.manifest().signers.len()
        {
            true => BuildStage::Published,
            false => BuildStage::Draft,
        }
    }
}

/// Whether both name one file, or would.
pub(super) fn is_same(a: &Path, b: &Path) -> bool {
    let real = |path: &Path| {
        let directory = std::fs::canonicalize(files::directory(path));
        let directory = directory.unwrap_or_else(|_| files::directory(path).to_owned());
        files::resolve(&directory.join(path.file_name().unwrap_or_default())).ok()
    };
    real(a) == real(b)
}

/// Puts a finished file in place, unless something newer is there or something would be undone, and
/// records it in the registry.
pub fn write<F: Read + Seek>(
    draft: &mut Draft<F>,
    place: &Destination<'_>,
    session: &Session,
) -> Result<Published> {
    let written = write_compared(draft, place, session);
    match place.source {
        PublishOrigin::Files | PublishOrigin::ForeignDraft => written.map_err(Error::of_files),
        PublishOrigin::Draft { .. } | PublishOrigin::Free(_) | PublishOrigin::Held(_) => written,
    }
}

fn write_compared<F: Read + Seek>(
    draft: &mut Draft<F>,
    place: &Destination<'_>,
    session: &Session,
) -> Result<Published> {
    // The registry's lock before the target's: every change takes them in this order.
    let locked = match place.source {
        PublishOrigin::Draft { registry, .. } | PublishOrigin::Free(registry) => {
            Some(Locked::take(&registry.path, session.lock_timeout)?)
        }
        PublishOrigin::Files | PublishOrigin::ForeignDraft | PublishOrigin::Held(_) => None,
    };
    let registry = locked.as_ref().map(|locked| &locked.registry).or(match place.source {
        PublishOrigin::Held(registry) => Some(registry),
        PublishOrigin::Draft { .. }
        | PublishOrigin::Files
        | PublishOrigin::ForeignDraft
        | PublishOrigin::Free(_) => None,
    });
    let out = files::resolve(place.out)?;
    let _lock = Lock::take(&out, session.lock_timeout)?;
    let ours = draft.manifest().clone();
    let there = place.there()?;
    if let (None, Some(registry)) = (&there, registry) {
        place.tell_if_gone(registry, &session.output);
    }
    if let Some(theirs) = there {
        if theirs.serial >= ours.serial && theirs.body_sha256 != ours.body_sha256
            || theirs.serial > ours.serial
        {
            return Err(Error::raced(place.out, &theirs, ours.serial));
        }
        place.refuse_stranger(&theirs, ours.kind, &ours.audience)?;
        let is_draft =
            matches!(place.source, PublishOrigin::Draft { .. } | PublishOrigin::ForeignDraft);
        if !is_draft && theirs.issued_at_ms > ours.issued_at_ms {
            session.output.warn(&format!(
                "this machine's clock is behind: {} was issued at {}, which is in its \
                 future",
                place.out.display(),
                time::show(theirs.issued_at_ms / 1000)
            ));
        }
    }
    let signed_by: Vec<PublicKey> =
        draft.signed_by().filter_map(|key| PublicKey::from_raw(key).ok()).collect();
    place.refuse_signers(&signed_by, &ours.signers)?;
    let mut to = Replacement::of(&out)?;
    draft.write(&mut to).map_err(Error::write(&out))?;
    let bytes = to.stream_position().map_err(Error::write(&out))?;
    let stage = place.stage(draft);
    place.refuse_losses_of_file(&ours, &mut to, stage)?;
    let made_of = match place.source {
        PublishOrigin::Free(registry) | PublishOrigin::Held(registry) => registry.made_of()?,
        PublishOrigin::Draft { .. } | PublishOrigin::Files | PublishOrigin::ForeignDraft => None,
    };
    match (ours.kind, stage) {
        (FileKind::Patch, BuildStage::Published) => {
            let content = to.content()?;
            let patch = PatchAt { out: place.out, manifest: &ours, content: &content };
            elsewhere::put(to, patch, &place.tables(), &session.output)?;
        }
        _ => to.commit()?,
    }
    if (ours.kind, stage) == (FileKind::Table, BuildStage::Published) {
        elsewhere::clear(&out, &ours);
    }
    if let Some(registry) = registry {
        let mut artefact = BuiltFile::of(&ours, stage, Some(place_of(&registry.real, &out)));
        artefact.after = place.known_before(&ours, stage);
        artefact.made_of = made_of;
        if let Err(e) = remember(registry, artefact) {
            // It is published. The next publication takes it for somebody else's and compares it.
            let told = format!("published, but the registry could not write that down: {e}");
            session.output.warn(&told);
        }
    }
    Ok(Published { path: place.out.to_owned(), manifest: ours, bytes })
}

// === impl Published ===

impl Published {
    /// Printed next to the answer of the command, on standard error.
    pub fn tell(&self, session: &mut Session) {
        let manifest = &self.manifest;
        session.output.note(&format!(
            "published the {} {}: serial {}, {}{}",
            manifest.kind,
            self.path.display(),
            manifest.serial,
            count(manifest.keys, "record"),
            match manifest.expires_at {
                Some(at) => format!(", good until {}", time::show(at)),
                None => String::new(),
            }
        ));
    }

    /// The answer of a command that publishes.
    pub fn answer(&self, session: &mut Session) -> Result<()> {
        let manifest = &self.manifest;
        if session.output.json {
            return session.output.json(&json!({
                "file": self.path.display().to_string(),
                "kind": manifest.kind.to_string(),
                "serial": manifest.serial,
                "keys": manifest.keys,
                "active": manifest.active,
                "removed": manifest.removed,
                "base": manifest.base.map(|base| base.serial),
                "bytes": self.bytes,
                "sha256": manifest.body_sha256,
                "expires": manifest.expires_at.map(time::show),
            }));
        }
        let removed = match manifest.removed {
            0 => String::new(),
            n => format!(", {n} removed"),
        };
        let over = manifest.base.map_or(String::new(), |b| format!(" over table {}", b.serial));
        session.output.line(&format!(
            "{}: {} of serial {}{over}, {}{removed}, {} active, {} bytes",
            self.path.display(),
            manifest.kind,
            manifest.serial,
            count(manifest.keys, "record"),
            manifest.active,
            self.bytes
        ))
    }
}
