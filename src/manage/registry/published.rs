//! What was published from a registry, and what has changed since: the base that a publication is
//! compared with when somebody else has published meanwhile.
//!
//! The registry itself holds serial and hash of its last publications, so that a copy or a backup
//! of it says what *it* knows of. Keys that were changed since then are in `keys.unpublished.jsonl`
//! beside it, as they were before: every other key is as it was published. The file may be lost or
//! old: then more keys look changed, and more is asked, never less.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::entry::{RawEntry, RegistryEntry};
use crate::core::KeyId;
use crate::manage::error::{Error, Result};
use crate::manage::files;
use crate::table::FileKind;
use crate::table::{BodyHash, Manifest};

/// How many publications of each kind a registry remembers: enough for drafts that wait for their
/// signatures. Many patches must not push out the table that they are over.
const REMEMBERED: usize = 4;

/// A table or patch that was made from this registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BuiltFile {
    pub kind: FileKind,
    pub serial: u64,
    pub body_sha256: BodyHash,
    pub stage: BuildStage,
    /// Only of a `keys.jsonl`.
    pub made_of: Option<MadeOf>,
}

/// The registry's file when a table or patch was made from it. Serials do not tell which lines that
/// was: after a merge of two branches a line can be new and have the serial of one that is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MadeOf {
    pub bytes: u64,
    pub sha256: BodyHash,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuildStage {
    /// Signatures are missing, so that it was not put in its place from here.
    Draft,
    Published,
}

/// One change as the file tells it.
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

/// Only what tells whether a line still counts.
#[derive(Deserialize)]
struct Dated {
    serial: u64,
}

// === impl BuiltFile ===

impl BuiltFile {
    pub fn of(manifest: &Manifest, stage: BuildStage) -> Self {
        let Manifest { kind, serial, body_sha256, .. } = *manifest;
        Self { kind, serial, body_sha256, stage, made_of: None }
    }

    pub fn is(&self, manifest: &Manifest) -> bool {
        (self.kind, self.serial, self.body_sha256)
            == (manifest.kind, manifest.serial, manifest.body_sha256)
    }

    /// `table 5 sha256:…`; of a `keys.jsonl` with `of BYTES sha256:…` behind it, and as long as it is
    /// a draft with `draft`.
    pub fn parse(text: &str) -> Option<Self> {
        let sha256 = |word: &str| BodyHash::parse(word.strip_prefix("sha256:")?);
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
        let stage = match words.next() {
            None => BuildStage::Published,
            Some("draft") => BuildStage::Draft,
            Some(_) => return None,
        };
        let all = Self { kind, serial, body_sha256, stage, made_of };
        words.next().is_none().then_some(all)
    }

    pub fn show(&self) -> String {
        let made_of = self.made_of.map_or_else(String::new, |made_of| {
            format!(" of {} sha256:{}", made_of.bytes, made_of.sha256)
        });
        let draft = if self.stage == BuildStage::Draft { " draft" } else { "" };
        format!("{} {} sha256:{}{made_of}{draft}", self.kind, self.serial, self.body_sha256)
    }
}

/// The list with one more, the newest last.
pub fn remember(known: &mut Vec<BuiltFile>, mut artefact: BuiltFile) {
    known.retain(|other| {
        let is_other = (other.kind, other.serial, other.body_sha256)
            != (artefact.kind, artefact.serial, artefact.body_sha256);
        if !is_other {
            // A draft that is published now; the registry may have grown meanwhile.
            artefact.made_of = other.made_of.or(artefact.made_of);
        }
        is_other
    });
    known.push(artefact);
    let kind = |other: &BuiltFile| other.kind == artefact.kind;
    if known.iter().filter(|other| kind(other)).count() > REMEMBERED
        && let Some(oldest) = known.iter().position(kind)
    {
        known.remove(oldest);
    }
}

/// The serial up to which everything in the registry was published.
pub fn through(known: &[BuiltFile]) -> Option<u64> {
    let published = known.iter().filter(|artefact| artefact.stage == BuildStage::Published);
    published.map(|artefact| artefact.serial).max()
}

/// Keys that a change after `after` and up to `through` touched, as they were before the first of
/// these changes; `None`: not there.
pub fn changed_since(
    registry: &Path,
    after: u64,
    through: u64,
) -> Result<BTreeMap<KeyId, Option<RegistryEntry>>> {
    let mut changed = BTreeMap::new();
    each_line(registry, &mut |text| {
        // What cannot be read is a key of which nothing is known to have changed.
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
    // Left by a change that never came about, or by one that a restored backup does not know.
    retain(registry, |noted| noted < serial)?;
    let mut text = String::new();
    let mut add = |line: &NotedLine<'_>| {
        text.push_str(&serde_json::to_string(line).unwrap_or_default());
        text.push('\n');
    };
    for entry in was {
        add(&NotedLine { serial, was: Some(entry.raw()), new: Vec::new() });
    }
    if !new.is_empty() {
        let new = new.iter().map(|id| id.to_string().into()).collect();
        add(&NotedLine { serial, was: None, new });
    }
    if text.is_empty() {
        return Ok(());
    }
    let path = path_of(registry);
    let file = OpenOptions::new().create(true).append(true).open(&path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(Error::write(&path))
}

/// Forgets the changes whose serial is not to be kept.
pub fn retain(registry: &Path, keep: impl Fn(u64) -> bool) -> Result<()> {
    let (mut kept, mut dropped) = (String::new(), false);
    each_line(registry, &mut |text| {
        match serde_json::from_str::<Dated>(text) {
            Ok(dated) if keep(dated.serial) => {
                kept.push_str(text);
                kept.push('\n');
            }
            _ => dropped = true,
        };
    })?;
    let path = path_of(registry);
    match (dropped, kept.is_empty()) {
        (false, _) => Ok(()),
        (true, true) => std::fs::remove_file(&path).map_err(Error::write(&path)),
        (true, false) => files::replace(&path, kept.as_bytes()),
    }
}

fn path_of(registry: &Path) -> PathBuf {
    registry.with_extension("unpublished.jsonl")
}

/// Complete lines only: a torn one is of a change that never came about.
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
