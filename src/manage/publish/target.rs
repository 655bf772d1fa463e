//! Where a publication is written: what is there already, whether it may be written over, and the
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
use super::super::registry::published::{BuildStage, BuiltFile};
use super::super::session::Session;
use super::super::time;
use super::compare::{Ours, Standing};
use super::head::head;
use super::losses::Acknowledged;
use crate::table::FileKind;
use crate::table::write::Draft;
use crate::table::{Bounds, KeySet, Manifest, Patch, Refusal, Table, Trust};

/// Where a publication goes, and where it comes from.
#[derive(Clone, Copy, Debug)]
pub struct Destination<'a> {
    pub out: &'a Path,
    /// The table that a patch is over. `None`: it is a table.
    pub base: Option<&'a Path>,
    pub source: PublishOrigin<'a>,
    pub meant: &'a Acknowledged,
}

#[derive(Clone, Copy, Debug)]
pub enum PublishOrigin<'a> {
    /// A file that this registry made before, and that has waited for signatures.
    Draft { registry: &'a Registry, draft: &'a Path },
    /// No registry: other files, or a draft that a registry elsewhere has made.
    Files,
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
            Self::Files => None,
            Self::Draft { registry, .. } | Self::Free(registry) | Self::Held(registry) => {
                Some(registry)
            }
        }
    }
}

// === impl Destination ===

impl Destination<'_> {
    /// Refuses, before anything is written, a change that would undo what is published.
    pub fn refuse_losses_of(&self, change: &Change) -> Result<()> {
        self.refuse_losses(change.serial(), &Ours::Changed(change), &change.settings().published)
    }

    /// Refuses a table or patch that is not of the kind, or not for the audience, of what is there,
    /// or whose serial is not above it.
    pub fn refuse_rollback(&self, kind: FileKind, audience: &str, serial: u64) -> Result<()> {
        let Some(theirs) = self.there()? else { return Ok(()) };
        self.refuse_stranger(&theirs, kind, audience)?;
        if theirs.serial >= serial {
            return Err(Error::raced(self.out, &theirs, serial));
        }
        Ok(())
    }

    /// The head of the file that is to be replaced.
    fn there(&self) -> Result<Option<Manifest>> {
        if self.out.exists() { head(self.out).map(Some) } else { Ok(None) }
    }

    fn refuse_stranger(&self, theirs: &Manifest, kind: FileKind, audience: &str) -> Result<()> {
        if theirs.kind != kind {
            let refusal = Refusal::Kind { found: theirs.kind, wanted: kind };
            return Err(Error::refused(self.out, refusal));
        }
        if *theirs.audience != *audience {
            let (stated, wanted) = (theirs.audience.clone(), audience.into());
            return Err(Error::refused(self.out, Refusal::Audience { stated, wanted }));
        }
        Ok(())
    }

    fn refuse_losses(&self, serial: u64, ours: &Ours<'_>, known: &[BuiltFile]) -> Result<()> {
        for standing in self.standings()? {
            let Some((path, theirs)) = standing.foreign(known) else { continue };
            if theirs.serial >= serial {
                return Err(Error::raced(path, theirs, serial));
            }
            let losses = standing.losses(ours, known, self.meant)?;
            let orgs = standing.org_losses(ours, self.meant)?;
            if !losses.is_empty() || !orgs.is_empty() {
                let keys = losses.iter().map(ToString::to_string);
                let keys = keys.chain(orgs.iter().map(ToString::to_string)).collect();
                return Err(Error::undone(path, theirs, serial, keys));
            }
        }
        Ok(())
    }

    /// As [`Destination::refuse_losses`], for a file that is written already but not in its place.
    fn refuse_losses_of_file(
        &self,
        ours: &Manifest,
        file: &mut Replacement,
        registry: Option<&Registry>,
    ) -> Result<()> {
        if ours.kind == FileKind::Patch && self.base.is_none() {
            // Its table is elsewhere, and no other patch is replaced.
            return Ok(());
        }
        let mut known = registry.map_or_else(Vec::new, |r| r.settings.published.clone());
        known.push(BuiltFile::of(ours, BuildStage::Draft));
        if self.standings()?.iter().all(|standing| standing.foreign(&known).is_none()) {
            return Ok(());
        }
        let (trust, bounds) = (Trust::for_inspection(), Bounds::default());
        let read = |path: &Path| files::read(path, bounds.max_bytes);
        let open = |path: &Path, content: Vec<u8>| {
            Table::open(content, &trust, &bounds).map_err(|e| Error::refused(path, e))
        };
        let content = file.content()?;
        let keys = match self.base {
            None => KeySet::new(Arc::new(open(self.out, content)?), None, &[], None),
            Some(base) => {
                let patch = Patch::open(content, &trust, &bounds);
                let patch = patch.map_err(|e| Error::refused(self.out, e))?;
                let table = open(base, read(base)?)?;
                KeySet::new(Arc::new(table), Some(Arc::new(patch)), &[], None)
            }
        };
        known.pop();
        self.refuse_losses(ours.serial, &Ours::File { keys: &keys, registry }, &known)
    }

    /// What is published at the target; and at the place that the registry publishes to, where the
    /// target is a draft or a copy of it.
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

    /// Published: where the registry publishes to, signed by all who may sign, or a draft that was
    /// put elsewhere.
    fn stage<F: Read + Seek>(&self, draft: &Draft<F>, registry: &Registry) -> BuildStage {
        let publish = &registry.settings.publish;
        let own = [&publish.table, &publish.patch].into_iter().flatten();
        let is_target =
            own.map(|path| registry.relative(path)).any(|path| is_same(&path, self.out));
        let is_put = match self.source {
            PublishOrigin::Draft { draft, .. } => !is_same(draft, self.out),
            PublishOrigin::Files | PublishOrigin::Free(_) | PublishOrigin::Held(_) => false,
        };
        match is_target || is_put || draft.signed_by().count() >= draft.manifest().signers.len() {
            true => BuildStage::Published,
            false => BuildStage::Draft,
        }
    }
}

/// Whether both name one file, or would.
fn is_same(a: &Path, b: &Path) -> bool {
    let real = |path: &Path| {
        let directory = std::fs::canonicalize(files::directory(path));
        let directory = directory.unwrap_or_else(|_| files::directory(path).to_owned());
        files::resolve(&directory.join(path.file_name().unwrap_or_default())).ok()
    };
    real(a) == real(b)
}

/// Puts a finished file in its place, unless something newer is there or something would be
/// undone, and writes it down in the registry.
pub fn write<F: Read + Seek>(
    draft: &mut Draft<F>,
    place: &Destination<'_>,
    session: &Session,
) -> Result<Published> {
    let written = write_compared(draft, place, session);
    match place.source {
        PublishOrigin::Files => written.map_err(Error::of_files),
        PublishOrigin::Draft { .. } | PublishOrigin::Free(_) | PublishOrigin::Held(_) => written,
    }
}

fn write_compared<F: Read + Seek>(
    draft: &mut Draft<F>,
    place: &Destination<'_>,
    session: &Session,
) -> Result<Published> {
    // The registry's lock before the target's: the order in which every change takes them.
    let locked = match place.source {
        PublishOrigin::Draft { registry, .. } | PublishOrigin::Free(registry) => {
            Some(Locked::take(&registry.path, session.patience)?)
        }
        PublishOrigin::Files | PublishOrigin::Held(_) => None,
    };
    let registry = locked.as_ref().map(|locked| &locked.registry).or(match place.source {
        PublishOrigin::Held(registry) => Some(registry),
        PublishOrigin::Draft { .. } | PublishOrigin::Files | PublishOrigin::Free(_) => None,
    });
    let out = files::resolve(place.out)?;
    let _lock = Lock::take(&out, session.patience)?;
    let ours = draft.manifest().clone();
    if let Some(theirs) = place.there()? {
        if theirs.serial >= ours.serial && theirs.body_sha256 != ours.body_sha256
            || theirs.serial > ours.serial
        {
            return Err(Error::raced(place.out, &theirs, ours.serial));
        }
        place.refuse_stranger(&theirs, ours.kind, &ours.audience)?;
        if theirs.issued_at_ms > ours.issued_at_ms {
            eprintln!(
                "warning: this machine's clock is behind: {} was issued at {}, which is in its \
                 future",
                place.out.display(),
                time::show(theirs.issued_at_ms / 1000)
            );
        }
    }
    let mut to = Replacement::of(&out)?;
    draft.write(&mut to).map_err(Error::write(&out))?;
    let bytes = to.stream_position().map_err(Error::write(&out))?;
    let known = registry.map_or_else(Vec::new, |registry| registry.settings.published.clone());
    let made_of = match place.source {
        // What the file was made from, which may be older than what the registry says by now.
        PublishOrigin::Free(registry) | PublishOrigin::Held(registry) => {
            place.refuse_losses(ours.serial, &Ours::Registry(registry), &known)?;
            registry.made_of()?
        }
        PublishOrigin::Draft { .. } | PublishOrigin::Files => {
            place.refuse_losses_of_file(&ours, &mut to, registry)?;
            None
        }
    };
    to.commit()?;
    if let Some(registry) = registry {
        let artefact = BuiltFile { made_of, ..BuiltFile::of(&ours, place.stage(draft, registry)) };
        if let Err(e) = remember(registry, artefact) {
            // It is published. The next publication takes it for somebody else's and compares it.
            eprintln!("warning: published, but the registry could not write that down: {e}");
        }
    }
    Ok(Published { path: place.out.to_owned(), manifest: ours, bytes })
}

// === impl Published ===

impl Published {
    /// Beside the answer of the command, on standard error.
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
