//! One change of a registry: made under the lock, checked as a whole, written in one step or not at
//! all.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use super::audit::{self, AuditStamp, Record};
use super::entry::RegistryEntry;
use super::published::{self, BuiltFile};
use super::settings::RegistrySettings;
use super::{Filter, Form, HINT, Located, Registry, Unique, jsonl, toml};
use crate::core::{Digest, KeyId};

use crate::manage::error::{Error, FileFault, Result};
use crate::manage::files::{self, Lock, Replacement};
use crate::manage::output::Output;
use crate::table::manifest::MAX_CHOSEN_SERIAL;

/// A change in preparation. If dropped without [`Change::commit`], nothing has happened.
#[derive(Debug)]
pub struct Change {
    serial: u64,
    registry: Registry,
    settings: RegistrySettings,
    settings_changed: bool,
    unique: Option<Unique>,
    added: Vec<RegistryEntry>,
    edited: Vec<(Located, RegistryEntry)>,
    rebase: Option<Rebase>,
    lock: Lock,
}

/// Something that was published elsewhere and that the registry takes in: from now on, the registry
/// is compared with it.
#[derive(Debug)]
pub struct Rebase {
    pub artefacts: Vec<BuiltFile>,
    /// Keys that stay different from what is published: in their published form.
    pub was: Vec<RegistryEntry>,
    /// Keys that are not published.
    pub new: Vec<KeyId>,
}

/// How thoroughly a change checks the existing keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// Every key is read and compared with every other.
    All,
    /// A `keys.jsonl` is not read whole: only the lines of the keys that are changed. New ids and
    /// secrets are random, and `table build` checks all of them anyway.
    Touched,
}

/// A change that was written; the lock is still held.
#[derive(Debug)]
pub struct Committed {
    pub serial: u64,
    pub added: Vec<RegistryEntry>,
    pub edited: Vec<(Located, RegistryEntry)>,
    /// Its current state.
    pub registry: Registry,
    _lock: Lock,
}

/// A registry that nobody else can change meanwhile.
#[derive(Debug)]
pub struct Locked {
    pub registry: Registry,
    _lock: Lock,
}

/// Refuses a serial that would leave none for later changes.
pub fn check_serial(serial: u64) -> Result<()> {
    if serial <= MAX_CHOSEN_SERIAL {
        return Ok(());
    }
    let why = format!(
        "must be at most {MAX_CHOSEN_SERIAL} (2^52), so that later changes find a higher one"
    );
    Err(Error::argument("--serial", why))
}

// === impl Change ===

impl Change {
    pub fn begin(path: &Path, timeout: Duration, check: Check, output: &Output) -> Result<Self> {
        // A lock file without a registry would be litter.
        std::fs::metadata(path).map_err(Error::read(path))?;
        let lock = Lock::take(&files::resolve(path)?, timeout)?;
        let registry = Registry::open(path)?;
        if let Some(twin) = Registry::twin(path) {
            output.warn(&format!(
                "{} is in one folder with {}: the two do not know of each other's changes\n\
                 hint: move away the one that is no longer used",
                twin.display(),
                path.display()
            ));
        }
        let unique = if check == Check::All || registry.form == Form::Toml {
            Some(read_all(&registry)?)
        } else {
            None
        };
        let settings = registry.settings.clone();
        Ok(Self {
            serial: settings.serial + 1,
            registry,
            settings,
            settings_changed: false,
            unique,
            added: Vec::new(),
            edited: Vec::new(),
            rebase: None,
            lock,
        })
    }

    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Keys that it changes: before and after.
    pub fn edited(&self) -> impl Iterator<Item = (&RegistryEntry, &RegistryEntry)> {
        self.edited.iter().map(|(old, new)| (&old.entry, new))
    }

    pub fn added(&self) -> &[RegistryEntry] {
        &self.added
    }

    /// The serial that this change will have.
    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// Whether a key has this secret. Known only if all keys were read.
    pub fn has_digest(&self, digest: &Digest) -> bool {
        self.unique.as_ref().is_some_and(|unique| unique.has_digest(digest))
    }

    pub fn settings_mut(&mut self) -> &mut RegistrySettings {
        self.settings_changed = true;
        &mut self.settings
    }

    /// As they will be.
    pub fn new_settings(&self) -> &RegistrySettings {
        &self.settings
    }

    /// As they were before.
    pub fn settings(&self) -> &RegistrySettings {
        &self.registry.settings
    }

    /// Everything published that it contains.
    pub fn known(&self) -> &[BuiltFile] {
        &self.settings.published
    }

    /// Continues from another serial, which the user chose.
    pub fn at_serial(mut self, serial: u64) -> Result<Self> {
        let next = self.serial();
        if serial < next {
            let why = format!("must be at least {next}, the registry's next serial");
            return Err(Error::argument("--serial", why));
        }
        check_serial(serial)?;
        self.serial = serial;
        Ok(self)
    }

    /// Continues after `published`, the serial of something that was published from elsewhere at
    /// `path`.
    pub fn behind(self, published: u64, path: &Path) -> Result<Self> {
        if published < self.serial() {
            return Ok(self);
        }
        if published >= MAX_CHOSEN_SERIAL {
            return Err(Error::NoSerialLeft { path: path.to_owned(), serial: published });
        }
        self.at_serial(published + 1)
    }

    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.edited.is_empty()
    }

    /// One record for every key that this change adds or edits.
    pub fn records(&self, action: &'static str, stamp: &AuditStamp<'_>) -> Vec<Record> {
        let edited = self.edited.iter().map(|(old, new)| {
            let what = audit::difference(Some(&old.entry), new);
            audit::of_key(stamp, action, new.id, what)
        });
        let added = self
            .added
            .iter()
            .map(|entry| audit::of_key(stamp, action, entry.id, audit::difference(None, entry)));
        edited.chain(added).collect()
    }

    /// Rewrites a `keys.jsonl` without superseded lines. Returns bytes before and after.
    pub fn compact(self, records: &[Record]) -> Result<(u64, u64)> {
        let path = &self.registry.real;
        if self.registry.form != Form::JsonLines {
            return Err(Error::argument("keys compact", "a keys.toml has no superseded lines"));
        }
        let mut to = Replacement::of(path)?;
        let mut settings = self.settings.clone();
        settings.serial = self.serial();
        let first = jsonl::print_settings(&settings, None);
        let mut after = first.len() as u64;
        to.write_all(first.as_bytes()).map_err(Error::write(path))?;
        self.registry.scan(&Filter::default(), &mut |located| {
            // A line keeps its serial: patches consist of what is newer than their base.
            let serial = located.serial.unwrap_or_default();
            let line = jsonl::print(&located.entry, serial, None);
            after += line.len() as u64;
            to.write_all(line.as_bytes()).map_err(Error::write(path))
        })?;
        audit::reconcile(path, self.registry.settings.serial)?;
        audit::append(path, records)?;
        to.commit()?;
        Ok((self.registry.length, after))
    }

    /// False if its id, digest or public id is taken.
    pub fn add(&mut self, entry: RegistryEntry) -> bool {
        if let Some(unique) = &mut self.unique {
            if !unique.is_free(&entry) {
                return false;
            }
            let located = Located { entry, line: 0, serial: None };
            unique.check(&located, &self.registry.path, &mut Vec::new());
            self.added.push(located.entry);
        } else {
            self.added.push(entry);
        }
        true
    }

    pub fn replace(&mut self, old: Located, new: RegistryEntry) {
        self.edited.push((old, new));
    }

    /// Takes in what was published elsewhere.
    pub fn rebase(&mut self, rebase: Rebase) {
        let own = self.registry.own_places();
        let settings = self.settings_mut();
        for artefact in &rebase.artefacts {
            published::remember(&mut settings.published, artefact.clone(), &own);
        }
        self.rebase = Some(rebase);
    }

    /// Writes the audit file first, then the registry: no change goes unrecorded. After a crash
    /// between the two, the next change records that this one was not applied.
    pub fn commit(mut self, records: &[Record]) -> Result<Committed> {
        let serial = self.serial();
        self.settings.serial = serial;
        let path = self.registry.real.clone();
        audit::reconcile(&path, self.registry.settings.serial)?;
        self.note_unpublished()?;
        match self.registry.form {
            Form::Toml => {
                let replacement =
                    write_toml(&self.registry, &self.settings, &self.edited, &self.added)?;
                audit::append(&path, records)?;
                replacement.commit()?;
            }
            Form::JsonLines => {
                let lines = self.print_lines();
                audit::append(&path, records)?;
                jsonl::append(&path, self.registry.length, lines.as_bytes())?;
            }
        }
        let registry = Registry::open(&self.registry.path)?;
        let (added, edited) = (self.added, self.edited);
        Ok(Committed { serial, added, edited, registry, _lock: self.lock })
    }

    /// Tells the next publication how these keys were at the last one.
    fn note_unpublished(&self) -> Result<()> {
        if let Some(Rebase { artefacts, was, new }) = &self.rebase {
            // From now on, nothing is known about earlier publications.
            let through = artefacts.iter().map(|artefact| artefact.serial).max();
            published::begin_after(&self.registry.real, through.unwrap_or_default())?;
            let was: Vec<&RegistryEntry> = was.iter().collect();
            return published::note(&self.registry.real, self.serial, &was, new);
        }
        let was: Vec<&RegistryEntry> = self.edited.iter().map(|(old, _)| &old.entry).collect();
        let new: Vec<KeyId> = self.added.iter().map(|entry| entry.id).collect();
        if was.is_empty() && new.is_empty() {
            return Ok(());
        }
        published::note(&self.registry.real, self.serial, &was, &new)
    }

    fn print_lines(&self) -> String {
        let serial = self.settings.serial;
        let mut lines = String::new();
        if self.settings_changed || (self.added.is_empty() && self.edited.is_empty()) {
            let former = Some(&self.registry.settings);
            lines.push_str(&jsonl::print_settings(&self.settings, former));
        }
        for (old, new) in &self.edited {
            let line = jsonl::print(new, serial, old.serial);
            // A key whose plan alone has changed would be written exactly as before.
            if line != jsonl::print(&old.entry, serial, old.serial) {
                lines.push_str(&line);
            }
        }
        for entry in &self.added {
            lines.push_str(&jsonl::print(entry, serial, None));
        }
        lines
    }
}

// === impl Locked ===

impl Locked {
    pub fn take(path: &Path, timeout: Duration) -> Result<Self> {
        let lock = Lock::take(&files::resolve(path)?, timeout)?;
        Ok(Self { registry: Registry::open(path)?, _lock: lock })
    }
}

/// Records what was published. It does not change a key, so it takes no serial of its own. The
/// caller holds the registry's lock.
pub fn remember(registry: &Registry, artefact: BuiltFile) -> Result<()> {
    let mut settings = registry.settings.clone();
    published::remember(&mut settings.published, artefact, &registry.own_places());
    let unneeded = published::unneeded_through(&settings.published);
    match registry.form {
        Form::Toml => write_toml(registry, &settings, &[], &[])?.commit()?,
        Form::JsonLines => {
            let line = jsonl::print_settings(&settings, Some(&registry.settings));
            jsonl::append(&registry.real, registry.length, line.as_bytes())?;
        }
    }
    published::forget_through(&registry.real, unneeded)
}

fn write_toml(
    registry: &Registry,
    settings: &RegistrySettings,
    edited: &[(Located, RegistryEntry)],
    added: &[RegistryEntry],
) -> Result<Replacement> {
    let (path, real) = (&registry.path, &registry.real);
    let write = || Error::write(path);
    let edits: HashMap<u64, (&Located, &RegistryEntry)> =
        edited.iter().map(|(old, new)| (old.line, (old, new))).collect();
    let mut to = Replacement::of(real)?;
    let mut pieces = registry.pieces();
    let mut first = true;
    let mut ends_line = true;
    while let Some(piece) = pieces.advance().map_err(|e| super::read_fault(path, e))? {
        let edited = if std::mem::take(&mut first) {
            settings.edit_toml(&piece.text, &registry.settings)
        } else if let Some((old, new)) = edits.get(&piece.line) {
            toml::edit(&piece.text, &old.entry, new)
        } else {
            Some(piece.text)
        };
        let Some(text) = edited else {
            let why = "cannot be edited in place; write the fields of this key on own lines";
            return Err(Error::fault(FileFault::new(path, piece.line, "", why), HINT));
        };
        ends_line = text.is_empty() || text.ends_with('\n');
        to.write_all(text.as_bytes()).map_err(write())?;
    }
    if !ends_line {
        to.write_all(b"\n").map_err(write())?;
    }
    for entry in added {
        write!(to, "\n{}", toml::print(entry)).map_err(write())?;
    }
    Ok(to)
}

/// Reads the whole registry and refuses it if anything is wrong with it.
pub fn read_all(registry: &Registry) -> Result<Unique> {
    let mut unique = Unique::default();
    let mut faults = Vec::new();
    let mut doubled = Vec::new();
    registry.scan_with(&Filter::default(), &mut faults, &mut |located| {
        unique.check(&located, &registry.path, &mut doubled);
        Ok(())
    })?;
    faults.append(&mut doubled);
    faults.sort_by_key(|fault| fault.line);
    if faults.is_empty() { Ok(unique) } else { Err(Error::Faults { faults, hint: HINT }) }
}
