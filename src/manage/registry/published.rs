//! What was published from a registry, and what has changed since: the base that a publication is
//! compared with when somebody else has published meanwhile.
//!
//! The registry itself holds serial and hash of its last publications, so that a copy or a backup
//! of it says what *it* knows. Keys changed since then are in `keys.unpublished.jsonl` next to it,
//! in their former state: every other key is as it was published. The first line of that file says
//! from which serial on it is complete. For earlier publications, or if the file is lost, nothing
//! counts as known, and keygatectl asks more, never less.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Registry;
use super::entry::{RawEntry, RegistryEntry};
use crate::core::KeyId;
use crate::manage::error::{Error, Result};
use crate::manage::files;
use crate::table::FileKind;
use crate::table::{BodyHash, Manifest};

/// How many publications of each kind a registry remembers for one place: enough for drafts that
/// wait for their signatures. Many patches must not push out the table that they are over.
const REMEMBERED: usize = 4;

/// How many places of each kind it remembers, besides its own. A forgotten place counts as one
/// where it never published.
const PLACES: usize = 4;

/// A table or patch that was made from this registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuiltFile {
    pub kind: FileKind,
    pub serial: u64,
    pub body_sha256: BodyHash,
    pub stage: BuildStage,
    /// Only for a `keys.jsonl`.
    pub made_of: Option<MadeOf>,
    /// Where it was written, relative to the registry. What was published elsewhere, for review or
    /// for other sidecars, was not published here.
    pub place: Option<Box<str>>,
    /// Of a draft: what its registry knew to be published when it was made. The draft lacks
    /// whatever the registry has taken in since.
    pub after: Vec<Mention>,
}

/// The registry's file when a table or patch was made from it. Serials do not identify those lines:
/// after a merge of two branches, a new line can have the serial of a published one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MadeOf {
    pub bytes: u64,
    pub sha256: BodyHash,
}

/// An artefact in short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mention {
    serial: u64,
    /// The first bytes of its body's hash.
    hash: [u8; 4],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuildStage {
    /// Signatures are missing, so it was not put in place from here.
    Draft,
    Published,
}

/// One change as the file records it.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct NotedLine<'a> {
    /// Of the change.
    serial: u64,
    /// A changed key as it was before.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    was: Option<RawEntry<'a>>,
    /// Keys that were not there before.
    #[serde(borrow, default, skip_serializing_if = "Vec::is_empty")]
    new: Vec<std::borrow::Cow<'a, str>>,
}

/// The first line: every change after `since` is noted.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct SinceLine<'a> {
    since: u64,
    /// The registry's file: a `keys.jsonl` next to a `keys.toml` has its notes in the same place,
    /// and knows nothing of the other's changes.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    of: Option<std::borrow::Cow<'a, str>>,
}

/// Only what shows whether a line still counts.
#[derive(Deserialize)]
struct Dated {
    serial: u64,
}

// === impl BuiltFile ===

impl BuiltFile {
    pub fn of(manifest: &Manifest, stage: BuildStage, place: Option<Box<str>>) -> Self {
        let Manifest { kind, serial, body_sha256, .. } = *manifest;
        Self { kind, serial, body_sha256, stage, made_of: None, place, after: Vec::new() }
    }

    pub fn is(&self, manifest: &Manifest) -> bool {
        (self.kind, self.serial, self.body_sha256)
            == (manifest.kind, manifest.serial, manifest.body_sha256)
    }

    pub fn mention(&self) -> Mention {
        let [a, b, c, d, ..] = self.body_sha256.0;
        Mention { serial: self.serial, hash: [a, b, c, d] }
    }

    /// `table 5 sha256:… at t.kgt`. For a `keys.jsonl`, `of BYTES sha256:…` follows the hash; for a
    /// draft, `draft` follows and, as `after 3:0f1e2d3c,4:…`, what was published when it was made.
    pub fn parse(text: &str) -> Option<Self> {
        let sha256 = |word: &str| BodyHash::parse(word.strip_prefix("sha256:")?);
        let (text, place) = match text.split_once(" at ") {
            Some((text, place)) => (text, Some(place.into())),
            None => (text, None),
        };
        let mut words = text.split(' ').peekable();
        let kind = match words.next()? {
            "patch" => FileKind::Patch,
            "table" => FileKind::Table,
            _ => return None,
        };
        let serial = words.next()?.parse().ok()?;
        let body_sha256 = sha256(words.next()?)?;
        let made_of = match words.next_if_eq(&"of") {
            Some(_) => {
                let bytes = words.next()?.parse().ok()?;
                Some(MadeOf { bytes, sha256: sha256(words.next()?)? })
            }
            None => None,
        };
        let stage = match words.next_if_eq(&"draft") {
            Some(_) => BuildStage::Draft,
            None => BuildStage::Published,
        };
        let after = match words.next() {
            None => Vec::new(),
            Some("after") => words.next()?.split(',').map(Mention::parse).collect::<Option<_>>()?,
            Some(_) => return None,
        };
        let known = Self { kind, serial, body_sha256, stage, made_of, place, after };
        words.next().is_none().then_some(known)
    }

    pub fn show(&self) -> String {
        let made_of = self.made_of.map_or_else(String::new, |made_of| {
            format!(" of {} sha256:{}", made_of.bytes, made_of.sha256)
        });
        let draft = if self.stage == BuildStage::Draft { " draft" } else { "" };
        let after: Vec<_> = self.after.iter().map(ToString::to_string).collect();
        let after = match after.is_empty() {
            true => String::new(),
            false => format!(" after {}", after.join(",")),
        };
        let at = self.place.as_ref().map(|place| format!(" at {place}")).unwrap_or_default();
        format!(
            "{} {} sha256:{}{made_of}{draft}{after}{at}",
            self.kind, self.serial, self.body_sha256
        )
    }
}

// === impl Mention ===

impl Mention {
    fn parse(text: &str) -> Option<Self> {
        let (serial, hash) = text.split_once(':')?;
        let is_short = hash.len() == 8 && hash.is_ascii();
        let hash = is_short.then(|| u32::from_str_radix(hash, 16).ok()).flatten()?;
        Some(Self { serial: serial.parse().ok()?, hash: hash.to_be_bytes() })
    }
}

impl std::fmt::Display for Mention {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{:08x}", self.serial, u32::from_be_bytes(self.hash))
    }
}

/// Where a file is, as a registry records it: relative to the registry, so that copies of both
/// agree.
pub fn place_of(registry: &Path, file: &Path) -> Box<str> {
    let real = |path: &Path| {
        let directory = std::fs::canonicalize(files::directory(path));
        let directory = directory.unwrap_or_else(|_| files::directory(path).to_owned());
        files::resolve(&directory.join(path.file_name().unwrap_or_default()))
            .unwrap_or_else(|_| path.to_owned())
    };
    let (registry, file) = (real(registry), real(file));
    let mut from = files::directory(&registry).components().peekable();
    let mut to = file.components().peekable();
    while from.peek().is_some() && from.peek() == to.peek() {
        from.next();
        to.next();
    }
    let mut place = PathBuf::new();
    from.for_each(|_| place.push(".."));
    to.for_each(|part| place.push(part));
    place.to_string_lossy().into()
}

/// Adds one to the list, the newest last. Files built for the places `own` stay, however many are
/// built elsewhere: builds for inspection must not make a registry forget what it has published.
pub fn remember(known: &mut Vec<BuiltFile>, mut artefact: BuiltFile, own: &[Box<str>]) {
    known.retain(|other| {
        let is_other = (other.kind, other.serial, other.body_sha256)
            != (artefact.kind, artefact.serial, artefact.body_sha256);
        if !is_other {
            // A draft that is published now; the registry may have grown meanwhile.
            artefact.made_of = other.made_of.or(artefact.made_of);
        }
        is_other
    });
    let kind = artefact.kind;
    let is_here = |other: &BuiltFile| other.kind == kind && other.place == artefact.place;
    if known.iter().filter(|other| is_here(other)).count() >= REMEMBERED
        && let Some(oldest) = known.iter().position(is_here)
    {
        known.remove(oldest);
    }
    known.push(artefact);
    // Places ordered by their newest artefact; the one unused for longest is dropped.
    let is_own = |other: &BuiltFile| other.place.as_ref().is_some_and(|place| own.contains(place));
    let mut places: Vec<Option<Box<str>>> = Vec::new();
    for other in known.iter().rev().filter(|other| other.kind == kind && !is_own(other)) {
        if !places.contains(&other.place) {
            places.push(other.place.clone());
        }
    }
    places.truncate(PLACES);
    known.retain(|other| other.kind != kind || is_own(other) || places.contains(&other.place));
}

/// The serial from which changes must be noted: for every place, the changes since the last
/// publication there must stay known.
pub fn unneeded_through(known: &[BuiltFile]) -> u64 {
    let published = known.iter().filter(|artefact| artefact.stage == BuildStage::Published);
    let mut newest: BTreeMap<(bool, Option<&str>), u64> = BTreeMap::new();
    for artefact in published {
        let place = (artefact.kind == FileKind::Table, artefact.place.as_deref());
        let serial = newest.entry(place).or_default();
        *serial = artefact.serial.max(*serial);
    }
    newest.into_values().min().unwrap_or_default()
}

/// Whether every change after `after` of a registry that is at `serial` is noted.
pub fn is_complete(registry: &Path, after: u64, serial: u64) -> Result<bool> {
    Ok(after >= serial || since(registry)?.is_some_and(|since| since <= after))
}

fn since(registry: &Path) -> Result<Option<u64>> {
    let mut first = None;
    each_line(registry, &mut |text| {
        if let Ok(line) = serde_json::from_str::<SinceLine<'_>>(text) {
            let is_own = match &line.of {
                Some(of) => *of == name_of(registry),
                // Written before the file had a name in it.
                None => Registry::twin(registry).is_none(),
            };
            first.get_or_insert(is_own.then_some(line.since));
        }
    })?;
    Ok(first.flatten())
}

fn name_of(registry: &Path) -> String {
    registry.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn since_line(registry: &Path, since: u64) -> SinceLine<'static> {
    SinceLine { since, of: Some(name_of(registry).into()) }
}

/// Keys that a change after `after` and up to `through` touched, in the state before the first of
/// these changes; `None`: the key did not exist.
pub fn changed_since(
    registry: &Path,
    after: u64,
    through: u64,
) -> Result<BTreeMap<KeyId, Option<RegistryEntry>>> {
    let mut changed = BTreeMap::new();
    if since(registry)?.is_none() {
        return Ok(changed);
    }
    each_line(registry, &mut |text| {
        // Skip an unreadable line: no change of its key is known.
        let Ok(line) = serde_json::from_str::<NotedLine<'_>>(text) else { return };
        if line.serial <= after || line.serial > through {
            return;
        }
        if let Some(entry) = line.was.and_then(|raw| raw.parse().ok()) {
            changed.entry(entry.id).or_insert(Some(entry));
        }
        for id in line.new.iter().filter_map(|id| KeyId::parse(id).ok()) {
            changed.entry(id).or_insert(None);
        }
    })?;
    Ok(changed)
}

/// Notes a change that is about to be written.
pub fn note(registry: &Path, serial: u64, was: &[&RegistryEntry], new: &[KeyId]) -> Result<()> {
    files::remove_leftovers(&path_of(registry));
    // Left by a change that was never made, or by one that a restored backup does not know.
    retain(registry, |noted| noted < serial)?;
    let mut text = String::new();
    let before = serial.saturating_sub(1);
    match since(registry)? {
        Some(since) if since <= before => {}
        // The file belongs to another registry, or does not reach up to this change.
        Some(_) | None => {
            forget(registry)?;
            add_line(&mut text, &since_line(registry, before));
        }
    }
    for entry in was {
        // With the limits that it had: its plan may say something else by the time this is read.
        let entry = entry.without_plan();
        add_line(&mut text, &NotedLine { serial, was: Some(entry.raw()), new: Vec::new() });
    }
    if !new.is_empty() {
        let new = new.iter().map(|id| id.to_string().into()).collect();
        add_line(&mut text, &NotedLine { serial, was: None, new });
    }
    let path = path_of(registry);
    let file = OpenOptions::new().create(true).append(true).open(&path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(Error::write(&path))
}

fn add_line(text: &mut String, line: &impl Serialize) {
    text.push_str(&serde_json::to_string(line).unwrap_or_default());
    text.push('\n');
}

/// Starts over: every change after `since` will be noted.
pub fn begin_after(registry: &Path, since: u64) -> Result<()> {
    let mut text = String::new();
    add_line(&mut text, &since_line(registry, since));
    files::replace(&path_of(registry), text.as_bytes())
}

/// Forgets the changes up to and including this serial.
pub fn forget_through(registry: &Path, serial: u64) -> Result<()> {
    let Some(since) = since(registry)? else { return Ok(()) };
    if since >= serial {
        return Ok(());
    }
    let mut text = String::new();
    add_line(&mut text, &since_line(registry, serial));
    let mut is_kept = false;
    each_line(registry, &mut |line| {
        if serde_json::from_str::<Dated>(line).is_ok_and(|dated| dated.serial > serial) {
            text.push_str(line);
            text.push('\n');
            is_kept = true;
        }
    })?;
    match is_kept {
        true => files::replace(&path_of(registry), text.as_bytes()),
        false => forget(registry),
    }
}

fn forget(registry: &Path) -> Result<()> {
    let path = path_of(registry);
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::Write { path, source: e }),
        _ => Ok(()),
    }
}

/// Forgets the changes whose serial is not to be kept.
fn retain(registry: &Path, keep: impl Fn(u64) -> bool) -> Result<()> {
    let (mut kept, mut dropped) = (String::new(), false);
    each_line(registry, &mut |text| {
        let is_since = serde_json::from_str::<SinceLine<'_>>(text).is_ok();
        match serde_json::from_str::<Dated>(text) {
            Ok(dated) if keep(dated.serial) => {
                kept.push_str(text);
                kept.push('\n');
            }
            _ if is_since => {
                kept.push_str(text);
                kept.push('\n');
            }
            _ => dropped = true,
        };
    })?;
    let path = path_of(registry);
    match (dropped, kept.is_empty()) {
        (false, _) => Ok(()),
        (true, true) => forget(registry),
        (true, false) => files::replace(&path, kept.as_bytes()),
    }
}

fn path_of(registry: &Path) -> PathBuf {
    registry.with_extension("unpublished.jsonl")
}

/// Complete lines only: a torn one belongs to a change that was never made.
fn each_line(registry: &Path, each: &mut dyn FnMut(&str)) -> Result<()> {
    let path = path_of(registry);
    let file = match std::fs::File::open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::Read { path, source: e }),
    };
    let mut reader = BufReader::new(file);
    let mut line = Vec::new();
    loop {
        line.clear();
        reader.read_until(b'\n', &mut line).map_err(Error::read(&path))?;
        match line.split_last() {
            Some((b'\n', text)) => each(&String::from_utf8_lossy(text)),
            Some(_) => each(""),
            None => return Ok(()),
        }
    }
}
