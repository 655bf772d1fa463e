//! The registry: the authored source of keys. Holds digests, never secrets.
//!
//! It has two forms, distinguished by the file's extension. `keys.toml` is for review: an edit
//! touches only the lines of its key. `keys.jsonl` is for size: a change appends a line, so that a
//! revocation among a million keys costs one scan for the id and one write. Both are read as a
//! stream.
//!
//! Imports core and the rest of this room.

pub mod audit;
pub mod change;
pub mod entry;
pub mod jsonl;
pub mod plans;
#[cfg(test)]
mod properties;
pub mod published;
mod raw_limits;
pub mod settings;
pub mod toml;
pub mod uid;
pub mod words;

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};

use self::entry::{FieldFault, RegistryEntry};
use self::jsonl::{JsonlContent, LineSelection};
use self::published::{BuiltFile, MadeOf};
use self::settings::RegistrySettings;
use super::error::{Error, FileFault, Result};
use super::files;
use crate::core::format::KeyFormat;
use crate::core::{Digest, KeyId, OrgId};
use crate::table::BodyHash;

pub const HINT: &str = "docs/registry.md describes every field; nothing was written";

/// A registry on disk, opened for reading. Changes go through [`change::Change`].
#[derive(Debug)]
pub struct Registry {
    /// The path as given: for messages.
    pub path: PathBuf,
    /// With symbolic links resolved: this file is locked and replaced.
    pub real: PathBuf,
    pub form: Form,
    pub settings: RegistrySettings,
    /// The opened file: reads see it even if another is renamed over it meanwhile.
    file: Arc<File>,
    /// Bytes that were complete when it was opened; a JSON Lines file may grow meanwhile.
    length: u64,
}

/// Reads a shared file from its beginning, without moving the position of other readers.
#[derive(Debug)]
struct FromStart {
    file: Arc<File>,
    position: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    JsonLines,
    Toml,
}

/// A key with its place.
#[derive(Clone, Debug)]
pub struct Located {
    pub entry: RegistryEntry,
    pub line: u64,
    /// Serial of the change that wrote it; unknown in TOML.
    pub serial: Option<u64>,
}

/// Which keys to return.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub id: Option<KeyId>,
    pub name: Option<String>,
    pub org: Option<OrgId>,
    /// Keys that have one of these secrets, now or before the last rotation.
    pub digests: Option<HashSet<Digest>>,
}

/// Watches a stream of keys for what may occur only once.
#[derive(Debug, Default)]
pub struct Unique {
    ids: HashMap<KeyId, u64>,
    digests: HashMap<Digest, u64>,
    public_ids: HashMap<Box<str>, u64>,
}

// === impl Registry ===

impl Registry {
    pub fn open(path: &Path) -> Result<Self> {
        let (path, real) = (path.to_owned(), files::resolve(path)?);
        let form = Form::of(&path);
        let file = Arc::new(File::open(&real).map_err(Error::read(&path))?);
        let (settings, length) = match form {
            Form::Toml => {
                let piece = toml::Pieces::new(reader(&file))
                    .advance()
                    .map_err(|e| read_fault(&path, e))?
                    .unwrap_or(toml::Piece { line: 1, text: String::new() });
                let settings = RegistrySettings::from_toml(&piece, &path)
                    .map_err(|faults| Error::Faults { faults, hint: HINT })?;
                (settings, 0)
            }
            Form::JsonLines => {
                jsonl::open(JsonlContent { file: &file, path: &path, length: u64::MAX })?
            }
        };
        Ok(Self { path, real, form, settings, file, length })
    }

    /// Calls `each` for every key in the order of the file. Reports all faults together, after it
    /// has read the whole file.
    pub fn scan(&self, filter: &Filter, each: &mut dyn FnMut(Located) -> Result<()>) -> Result<()> {
        let mut faults = Vec::new();
        self.scan_with(filter, &mut faults, each)?;
        if faults.is_empty() { Ok(()) } else { Err(Error::Faults { faults, hint: HINT }) }
    }

    /// Like [`Registry::scan`], but the caller judges the faults.
    pub fn scan_with(
        &self,
        filter: &Filter,
        faults: &mut Vec<FileFault>,
        each: &mut dyn FnMut(Located) -> Result<()>,
    ) -> Result<()> {
        match self.form {
            Form::JsonLines => self.scan_lines(&LineSelection { filter, from: 0 }, faults, each),
            Form::Toml => {
                let mut pieces = self.pieces();
                let mut first = true;
                while let Some(piece) = pieces.advance().map_err(|e| read_fault(&self.path, e))? {
                    if std::mem::take(&mut first) {
                        continue;
                    }
                    let parsed = toml::parse(&piece, &self.path).and_then(|mut entry| {
                        cut_prefix(&mut entry, &self.settings);
                        match entry.resolve_plan(&self.settings.plans) {
                            Ok(()) => Ok(entry),
                            Err(FieldFault { field, why }) => {
                                let line = toml::line_of(&piece, field);
                                Err(vec![FileFault::new(&self.path, line, field, why)])
                            }
                        }
                    });
                    match parsed {
                        Ok(entry) if filter.takes(&entry) => {
                            each(Located { entry, line: piece.line, serial: None })?;
                        }
                        Ok(_) => {}
                        Err(new) => faults.extend(new),
                    }
                }
                Ok(())
            }
        }
    }

    /// Keys of a `keys.jsonl`, with the limits of their plans.
    fn scan_lines(
        &self,
        wanted: &LineSelection<'_>,
        faults: &mut Vec<FileFault>,
        each: &mut dyn FnMut(Located) -> Result<()>,
    ) -> Result<()> {
        let mut without_plan = Vec::new();
        jsonl::scan(self.content(), *wanted, faults, &mut |mut located| {
            cut_prefix(&mut located.entry, &self.settings);
            if let Err(FieldFault { field, why }) = located.entry.resolve_plan(&self.settings.plans)
            {
                without_plan.push(FileFault::new(&self.path, located.line, field, why));
                return Ok(());
            }
            each(located)
        })?;
        faults.append(&mut without_plan);
        Ok(())
    }

    fn content(&self) -> JsonlContent<'_> {
        JsonlContent { file: &self.file, path: &self.path, length: self.length }
    }

    /// The text of a `keys.toml` in pieces.
    fn pieces(&self) -> toml::Pieces<BufReader<FromStart>> {
        toml::Pieces::new(reader(&self.file))
    }

    /// All keys that match `filter`.
    pub fn find(&self, filter: &Filter) -> Result<Vec<Located>> {
        let mut found = Vec::new();
        self.scan(filter, &mut |located| {
            found.push(located);
            Ok(())
        })?;
        Ok(found)
    }

    /// The keys that were written since `artefact` was made from this registry. `None`: the file
    /// does not tell. Either its content at that time has changed (a merge, an edit by hand, `keys
    /// compact`), or a plan has, whose keys have no new lines, or it is not a `keys.jsonl`.
    pub fn changed_since(&self, artefact: &BuiltFile) -> Result<Option<Vec<RegistryEntry>>> {
        let Some(made_of) = artefact.made_of.filter(|made_of| made_of.bytes <= self.length) else {
            return Ok(None);
        };
        if self.form != Form::JsonLines || self.sha256_of(made_of.bytes)? != made_of.sha256 {
            return Ok(None);
        }
        // A key that named a deleted plan has a new line.
        if !self.settings.plans.is_empty() {
            let then = JsonlContent { length: made_of.bytes, ..self.content() };
            let (settings, _) = jsonl::open(then)?;
            if settings.plans != self.settings.plans {
                return Ok(None);
            }
        }
        let mut changed = Vec::new();
        let mut faults = Vec::new();
        let newer = LineSelection { filter: &Filter::default(), from: made_of.bytes };
        self.scan_lines(&newer, &mut faults, &mut |located| {
            changed.push(located.entry);
            Ok(())
        })?;
        if faults.is_empty() {
            Ok(Some(changed))
        } else {
            Err(Error::Faults { faults, hint: HINT })
        }
    }

    /// The source of anything that is made from the registry now.
    pub fn made_of(&self) -> Result<Option<MadeOf>> {
        match self.form {
            Form::Toml => Ok(None),
            Form::JsonLines => {
                let sha256 = self.sha256_of(self.length)?;
                Ok(Some(MadeOf { bytes: self.length, sha256 }))
            }
        }
    }

    fn sha256_of(&self, bytes: u64) -> Result<BodyHash> {
        let mut hash = Context::new(&SHA256);
        let mut from = reader(&self.file).take(bytes);
        loop {
            let read = from.fill_buf().map_err(Error::read(&self.path))?;
            if read.is_empty() {
                break;
            }
            hash.update(read);
            let count = read.len();
            from.consume(count);
        }
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(hash.finish().as_ref());
        Ok(BodyHash(sha256))
    }

    /// The one key that `selector` means at `now` (seconds since 1970): an id, or a name that only
    /// one key has, or that only one key has that is neither revoked nor expired.
    pub fn select(&self, selector: &str, org: Option<&OrgId>, now: u64) -> Result<Located> {
        let mut found = self.matching(selector, org)?;
        // If ended keys and one living key share the name, the living one is meant.
        let kept = |located: &Located| !located.entry.status.is_final();
        let living = |located: &Located| kept(located) && located.entry.state(now) != "expired";
        let one = |is: &dyn Fn(&Located) -> bool| found.iter().filter(|l| is(l)).count() == 1;
        if one(&kept) {
            found.retain(kept);
        } else if one(&living) {
            found.retain(living);
        }
        match (found.pop(), found.is_empty()) {
            (Some(only), true) => Ok(only),
            (Some(last), false) => {
                found.push(last);
                let keys = found.iter().map(|located| located.entry.describe()).collect();
                let hint = "give the key id instead of the name".to_owned();
                Err(Error::Ambiguous { selector: selector.to_owned(), keys, hint })
            }
            (None, _) => {
                Err(Error::NoSuchKey { selector: selector.to_owned(), path: self.path.clone() })
            }
        }
    }

    /// All keys that `selector` may mean: those with this id, or with this name.
    pub fn matching(&self, selector: &str, org: Option<&OrgId>) -> Result<Vec<Located>> {
        let by_id = KeyId::parse(selector).ok();
        let name = by_id.is_none().then(|| selector.to_owned());
        self.find(&Filter { id: by_id, name, org: org.cloned(), digests: None })
    }

    /// A path from the settings, which is relative to the registry.
    pub fn relative(&self, path: &Path) -> PathBuf {
        match self.path.parent() {
            Some(directory) => directory.join(path),
            None => path.to_owned(),
        }
    }

    /// The registry of the other form, which would have the same companion files: `keys.jsonl` next
    /// to `keys.toml`, which stayed when one was copied into the other.
    pub fn twin(path: &Path) -> Option<PathBuf> {
        let others = ["toml", "jsonl", "ndjson"].map(|extension| path.with_extension(extension));
        others.into_iter().find(|other| other != path && other.exists())
    }

    /// The places that its [publish] names, as [`published::place_of`] writes them.
    pub fn own_places(&self) -> Vec<Box<str>> {
        let publish = &self.settings.publish;
        let own = [&publish.table, &publish.patch].into_iter().flatten();
        own.map(|path| published::place_of(&self.real, &self.relative(path))).collect()
    }
}

// === impl Form ===

impl Form {
    pub fn of(path: &Path) -> Self {
        match path.extension().and_then(|e| e.to_str()) {
            Some("jsonl" | "ndjson") => Self::JsonLines,
            _ => Self::Toml,
        }
    }
}

// === impl Filter ===

impl Filter {
    pub fn takes(&self, entry: &RegistryEntry) -> bool {
        self.id.is_none_or(|id| id == entry.id)
            && self.name.as_deref().is_none_or(|name| name == &*entry.name)
            && self.org.as_ref().is_none_or(|org| *org == entry.org)
            && self.digests.as_ref().is_none_or(|digests| {
                digests.contains(&entry.digest)
                    || entry.previous.is_some_and(|previous| digests.contains(&previous.digest))
            })
    }
}

// === impl Unique ===

impl Unique {
    /// Adds a fault for each part of `located` that already occurs elsewhere.
    pub fn check(&mut self, located: &Located, path: &Path, faults: &mut Vec<FileFault>) {
        let Located { entry, line, .. } = located;
        let mut fault = |field: &str, what: &str, first: u64| {
            let why = format!("{what} is already at line {first}");
            faults.push(FileFault::new(path, *line, field, why));
        };
        if let Some(first) = self.ids.insert(entry.id, *line) {
            fault("id", &entry.id.to_string(), first);
        }
        let former = entry.previous.map(|p| ("previous.digest", p.digest));
        for (field, digest) in std::iter::once(("digest", entry.digest)).chain(former) {
            if let Some(first) = self.digests.insert(digest, *line) {
                fault(field, "the same digest", first);
            }
        }
        if let Some(id) = &entry.public_id
            && let Some(first) = self.public_ids.insert(id.clone(), *line)
        {
            fault("public_id", "the same public id", first);
        }
    }

    pub fn has_digest(&self, digest: &Digest) -> bool {
        self.digests.contains_key(digest)
    }

    /// How many keys were seen.
    pub fn count(&self) -> usize {
        self.ids.len()
    }

    /// Whether a new key may have these ids and secrets.
    pub fn is_free(&self, entry: &RegistryEntry) -> bool {
        !self.ids.contains_key(&entry.id)
            && !self.digests.contains_key(&entry.digest)
            && entry.public_id.as_ref().is_none_or(|id| !self.public_ids.contains_key(id))
    }
}

impl Read for FromStart {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(to, self.position)?;
        self.position += read as u64;
        Ok(read)
    }
}

/// Keeps the first eight characters after the prefix, where an older keygatectl recorded both.
fn cut_prefix(entry: &mut RegistryEntry, settings: &RegistrySettings) {
    let noted = &*entry.key_prefix;
    // Only a longer text can be distinguished from eight symbols that happen to begin like a prefix
    // of letters.
    let longest = settings.shown.values().copied().fold(KeyFormat::SHOWN, usize::max);
    let is_told = |format: &KeyFormat| {
        noted.len() > longest || !format.prefix.ends_with(|last: char| last.is_ascii_alphanumeric())
    };
    let has = |format: &&KeyFormat| !format.prefix.is_empty() && noted.starts_with(&*format.prefix);
    let named = entry.prefix.as_deref().and_then(|name| settings.prefixes.get(name));
    let format = named.or_else(|| settings.prefixes.values().find(has));
    if let Some(format) = format.filter(|format| is_told(format)) {
        let rest = format.behind_prefix(noted);
        if rest.len() < noted.len() {
            entry.key_prefix = rest.into();
        }
    }
}

fn reader(file: &Arc<File>) -> BufReader<FromStart> {
    BufReader::with_capacity(1 << 18, FromStart { file: Arc::clone(file), position: 0 })
}

/// Bytes that are not text are a fault of the content, not of reading.
fn read_fault(path: &Path, e: io::Error) -> Error {
    match e.kind() {
        ErrorKind::InvalidData => {
            Error::fault(FileFault::new(path, 0, "", format!("is not a registry: {e}")), HINT)
        }
        _ => Error::Read { path: path.to_owned(), source: e },
    }
}
