//! `keys.jsonl`: one JSON value per line. The first line holds the settings; each further line a
//! key, or newer settings. A change appends: the line of a changed key carries `after`, the serial
//! of the line that it supersedes. So when two branches are merged, two edits of one key are
//! noticed. For the same reason, newer settings carry what the former ones were. `keys compact`
//! drops superseded lines.
//!
//! A last line without a line end is a write that a crash cut short: it never happened.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;

use memchr::memmem::Finder;
use serde::{Deserialize, Serialize};

use super::entry::{FieldFault, RawEntry, RegistryEntry};
use super::settings::{RawSettings, RegistrySettings};
use super::{Filter, HINT, Located, reader};
use crate::core::KeyId;
use crate::manage::error::{Error, FileFault, Result};

/// A key is a few hundred bytes; a file with a longer line is not a registry.
const MAX_LINE: u64 = 1 << 20;
/// How every settings line begins, and no key line.
const SETTINGS: &[u8] = b"{\"registry\":";
/// How a key line begins as keygatectl writes it.
const KEY: &[u8] = b"{\"serial\":";
/// What a line that supersedes another contains. A name that contains it costs a parse, nothing
/// else.
const AFTER: &[u8] = b"\"after\":";

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    /// Of the change that wrote this line.
    serial: u64,
    /// Serial of the line that this one supersedes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    after: Option<u64>,
    #[serde(borrow)]
    key: RawEntry<'a>,
}

/// Only what shows which key a line is about.
#[derive(Deserialize)]
struct LineHead<'a> {
    serial: u64,
    #[serde(default)]
    after: Option<u64>,
    #[serde(borrow)]
    key: HeadKey<'a>,
}

/// Only the change that a line belongs to.
#[derive(Deserialize)]
struct OfChange {
    serial: u64,
}

#[derive(Deserialize)]
struct HeadKey<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
}

/// Which lines are of interest.
#[derive(Clone, Copy)]
pub struct LineSelection<'a> {
    pub filter: &'a Filter,
    /// Lines that begin before this byte are skipped unparsed.
    pub from: u64,
}

/// The complete part of an open registry.
#[derive(Clone, Copy)]
pub struct JsonlContent<'a> {
    pub file: &'a Arc<File>,
    pub path: &'a Path,
    pub length: u64,
}

/// A settings line, and what was merged with it.
struct SettingsLine {
    number: u64,
    text: Vec<u8>,
    lost: Option<LostSettings>,
}

/// Settings of one branch that the other branch's line, which followed them, does not contain.
#[derive(Clone)]
struct LostSettings {
    /// [`RawSettings::content`].
    content: String,
    fault: FileFault,
}

/// A line that supersedes another.
#[derive(Clone, Copy)]
struct Superseding {
    line: u64,
    after: u64,
}

/// Reads lines into one buffer.
struct LineReader<R> {
    from: R,
    buffer: Vec<u8>,
    number: u64,
}

// === impl LineReader ===

impl<R: BufRead> LineReader<R> {
    fn new(from: R) -> Self {
        Self { from, buffer: Vec::with_capacity(512), number: 0 }
    }

    /// The next complete line without its end, and its number.
    fn next(&mut self) -> io::Result<Option<(u64, &[u8])>> {
        self.buffer.clear();
        (&mut self.from).take(MAX_LINE).read_until(b'\n', &mut self.buffer)?;
        self.number += 1;
        match self.buffer.split_last() {
            Some((b'\n', line)) => Ok(Some((self.number, line))),
            Some(_) if self.buffer.len() as u64 == MAX_LINE => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("line {} is longer than {MAX_LINE} bytes", self.number),
            )),
            _ => Ok(None),
        }
    }
}

/// The newest settings, the serial of the last change, and how many bytes are complete.
pub fn open(content: JsonlContent<'_>) -> Result<(RegistrySettings, u64)> {
    let path = content.path;
    let mut lines = LineReader::new(reader(content.file).take(content.length));
    let mut settings: Option<SettingsLine> = None;
    // Not always that of the last line: a merge appends one branch's lines to the other's.
    let mut newest = 0;
    let mut length = 0;
    while let Some((number, line)) = lines.next().map_err(|e| super::read_fault(path, e))? {
        length += line.len() as u64 + 1;
        let is_settings = line.starts_with(SETTINGS);
        if is_settings {
            settings = Some(SettingsLine::behind(settings, number, line, path));
        } else if number == 1 {
            let why = "the first line must hold the settings: {\"registry\":1,\"serial\":0}";
            return Err(Error::fault(FileFault::new(path, 1, "", why), HINT));
        }
        let start: &[u8] = if is_settings { b"{\"registry\":1,\"serial\":" } else { KEY };
        // A line that cannot be parsed is reported with all others when the keys are read.
        newest = newest.max(serial_of(line, start).unwrap_or_default());
    }
    let Some(SettingsLine { number, text, lost }) = settings else {
        let why = "is empty; its first line must hold the settings";
        return Err(Error::fault(FileFault::new(path, 0, "", why), HINT));
    };
    let raw: RawSettings = serde_json::from_slice(&text).map_err(|e| syntax(&e, number, path))?;
    if let Some(lost) = lost {
        return Err(Error::fault(lost.fault, HINT));
    }
    let mut settings = RegistrySettings::from_raw(raw, path, &|_| number)
        .map_err(|faults| Error::Faults { faults, hint: HINT })?;
    settings.serial = settings.serial.max(newest);
    Ok((settings, length))
}

// === impl SettingsLine ===

impl SettingsLine {
    /// A later settings line supersedes all of the former one. It identifies the former one by
    /// `after`. So after a merge of two branches, it is noticed if the later line does not contain
    /// the other branch's change. A line without `after` was written by somebody who has looked at
    /// both.
    fn behind(former: Option<Self>, number: u64, line: &[u8], path: &Path) -> Self {
        let lost = match &former {
            Some(former) if Finder::new(AFTER).find(line).is_some() => {
                former.lost_in(number, line, path)
            }
            _ => None,
        };
        Self { number, text: line.to_vec(), lost }
    }

    fn lost_in(&self, number: u64, line: &[u8], path: &Path) -> Option<LostSettings> {
        let later = serde_json::from_slice::<RawSettings>(line).ok()?;
        let after = later.after.clone()?;
        if let Some(lost) = &self.lost {
            // Unless the final settings are the same anyway.
            let is_lost = content_of(later, path).is_none_or(|content| content != lost.content);
            return is_lost.then(|| lost.clone());
        }
        let content = content_of(serde_json::from_slice(&self.text).ok()?, path)?;
        if after == content || content_of(later, path)? == content {
            return None;
        }
        let why = format!(
            "these settings were not made on those of line {}: two branches were merged, and what \
             one of them says of plans, orgs, prefixes or [publish] is lost; write the settings of \
             both into the last line of settings, and remove `after` from it",
            self.number
        );
        let fault = FileFault::new(path, number, "after", why);
        Some(LostSettings { content, fault })
    }
}

/// In keygatectl's wording: a person may write a duration differently. `None` for what cannot be
/// read, which is reported elsewhere, or superseded.
fn content_of(raw: RawSettings, path: &Path) -> Option<String> {
    let settings = RegistrySettings::from_raw(raw, path, &|_| 0).ok()?;
    Some(settings.raw().content())
}

/// Calls `each` for every key in force. Lines that cannot match are not parsed.
pub fn scan(
    content: JsonlContent<'_>,
    wanted: LineSelection<'_>,
    faults: &mut Vec<FileFault>,
    each: &mut dyn FnMut(Located) -> Result<()>,
) -> Result<()> {
    let path = content.path;
    let superseding = superseding(content, faults)?;
    let LineSelection { filter, from } = wanted;
    let mut end = 0;
    let texts = texts_of(filter);
    let texts: Vec<_> = texts.iter().map(Finder::new).collect();
    // Of two merged edits, the later line is not known to contain the other one's change.
    let mut in_conflict = HashSet::new();
    let mut lines = LineReader::new(reader(content.file).take(content.length));
    while let Some((number, line)) = lines.next().map_err(|e| super::read_fault(path, e))? {
        let begin = end;
        end = begin + line.len() as u64 + 1;
        if begin < from || line.starts_with(SETTINGS) || cannot_be_meant(line, &texts) {
            continue;
        }
        let parsed = match serde_json::from_slice::<Line<'_>>(line) {
            Ok(parsed) => parsed,
            Err(e) => {
                faults.push(syntax_fault(&e, number, path));
                continue;
            }
        };
        let entry = match parsed.key.parse() {
            Ok(entry) => entry,
            Err(new) => {
                faults.extend(
                    new.into_iter()
                        .map(|FieldFault { field, why }| FileFault::new(path, number, field, why)),
                );
                continue;
            }
        };
        if let Some(chain) = superseding.get(&entry.id) {
            let Some(position) = chain.iter().position(|change| change.line == number) else {
                // The line that the first change was based on: the chain must begin there.
                if parsed.after.is_none()
                    && let Some(first) = chain.first()
                    && first.after != parsed.serial
                {
                    faults.push(conflict(path, *first, parsed.serial));
                    in_conflict.insert(entry.id);
                }
                continue;
            };
            if let Some(next) = chain.get(position + 1) {
                if next.after != parsed.serial {
                    faults.push(conflict(path, *next, parsed.serial));
                    in_conflict.insert(entry.id);
                }
                continue;
            }
        }
        if filter.takes(&entry) && !in_conflict.contains(&entry.id) {
            each(Located { entry, line: number, serial: Some(parsed.serial) })?;
        }
    }
    Ok(())
}

/// What a line must contain to match the filter. A digest has several spellings.
fn texts_of(filter: &Filter) -> Vec<String> {
    let id = filter.id.map(|id| id.to_string());
    let org = filter.org.as_ref().map(|org| org.as_str().to_owned());
    let texts = [id, filter.name.clone(), org].into_iter().flatten();
    texts.map(|text| format!("\"{text}\"")).collect()
}

/// Rules out most lines without parsing them. A line with an escape may spell a text differently.
fn cannot_be_meant(line: &[u8], texts: &[Finder<'_>]) -> bool {
    texts.iter().any(|text| text.find(line).is_none()) && memchr::memchr(b'\\', line).is_none()
}

/// The serial of a line. keygatectl writes it at the beginning of the line; other lines are parsed.
fn serial_of(line: &[u8], start: &[u8]) -> std::result::Result<u64, serde_json::Error> {
    let digits = line.strip_prefix(start).map(|rest| {
        let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
        rest.get(..digits).unwrap_or_default()
    });
    match digits.and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok()) {
        Some(serial) => Ok(serial),
        None => serde_json::from_slice::<OfChange>(line).map(|change| change.serial),
    }
}

/// Whether the first line holds settings. Otherwise it is plain JSON Lines, as `keys export` and
/// other programs write them.
pub fn is_registry(path: &Path) -> Result<bool> {
    let file = File::open(path).map_err(Error::read(path))?;
    let mut start = Vec::new();
    let wanted = SETTINGS.len() as u64;
    file.take(wanted).read_to_end(&mut start).map_err(Error::read(path))?;
    Ok(start == SETTINGS)
}

/// Calls `each` for every line of a file without settings.
pub fn plain(
    path: &Path,
    faults: &mut Vec<FileFault>,
    each: &mut dyn FnMut(RawEntry<'_>) -> Result<Vec<FieldFault>>,
) -> Result<()> {
    let file = File::open(path).map_err(Error::read(path))?;
    let mut lines = LineReader::new(io::BufReader::with_capacity(1 << 18, file));
    while let Some((number, line)) = lines.next().map_err(|e| super::read_fault(path, e))? {
        if line.trim_ascii().is_empty() {
            continue;
        }
        match serde_json::from_slice::<RawEntry<'_>>(line) {
            Ok(raw) => {
                let place = |FieldFault { field, why }| FileFault::new(path, number, field, why);
                faults.extend(each(raw)?.into_iter().map(place));
            }
            Err(e) => faults.push(syntax_fault(&e, number, path)),
        }
    }
    Ok(())
}

/// Of every key that was changed: each change, in order.
fn superseding(
    content: JsonlContent<'_>,
    faults: &mut Vec<FileFault>,
) -> Result<HashMap<KeyId, Vec<Superseding>>> {
    let path = content.path;
    let mut chains: HashMap<KeyId, Vec<Superseding>> = HashMap::new();
    let after = Finder::new(AFTER);
    let mut lines = LineReader::new(reader(content.file).take(content.length));
    while let Some((number, line)) = lines.next().map_err(|e| super::read_fault(path, e))? {
        if after.find(line).is_none() || line.starts_with(SETTINGS) {
            continue;
        }
        // The parsing pass reports what it cannot parse.
        let Ok(head) = serde_json::from_slice::<LineHead<'_>>(line) else { continue };
        let (Some(after), Ok(id)) = (head.after, KeyId::parse(&head.key.id)) else { continue };
        if head.serial <= after {
            let why = "must be below `serial`";
            faults.push(FileFault::new(path, number, "after", why));
        }
        chains.entry(id).or_default().push(Superseding { line: number, after });
    }
    Ok(chains)
}

fn conflict(path: &Path, change: Superseding, is: u64) -> FileFault {
    let Superseding { line, after } = change;
    let why = format!(
        "was made on serial {after} of this key, but the line before has serial {is}: two edits \
         of one key were merged; keep one of the lines and correct its `after`"
    );
    FileFault::new(path, line, "after", why)
}

/// One key as a line. `after` is the serial of the superseded line.
pub fn print(entry: &RegistryEntry, serial: u64, after: Option<u64>) -> String {
    let line = Line { serial, after, key: entry.raw() };
    serde_json::to_string(&line).unwrap_or_default() + "\n"
}

/// Settings as a line. `former` are those that it supersedes; `None` in a new file.
pub fn print_settings(settings: &RegistrySettings, former: Option<&RegistrySettings>) -> String {
    let after = former.map(|former| former.raw().content());
    let raw = RawSettings { after, ..settings.raw() };
    serde_json::to_string(&raw).unwrap_or_default() + "\n"
}

/// Appends complete lines after the complete part of the file, and flushes them to the disk.
pub fn append(path: &Path, length: u64, lines: &[u8]) -> Result<()> {
    let attempt = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).open(path)?;
        // A torn line of a writer that died; we hold the lock, so nobody is writing it.
        file.set_len(length)?;
        file.seek(SeekFrom::Start(length))?;
        let written = file.write_all(lines).and_then(|()| file.sync_all());
        if written.is_err() {
            undo(&file, length);
        }
        written
    };
    attempt().map_err(Error::write(path))
}

/// Removes a partly written change (full disk).
fn undo(file: &File, length: u64) {
    file.set_len(length).and_then(|()| file.sync_all()).ok();
}

fn syntax(e: &serde_json::Error, line: u64, path: &Path) -> Error {
    Error::fault(syntax_fault(e, line, path), HINT)
}

/// Without the values that serde's message would quote: one may be a secret.
pub fn syntax_fault(e: &serde_json::Error, line: u64, path: &Path) -> FileFault {
    let message = e.to_string();
    let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(m, _)| m);
    let why = if message.starts_with("invalid type: ") || message.starts_with("invalid value: ") {
        let wanted = message.rsplit_once(", expected ").map_or("another value", |(_, w)| w);
        format!("wrong type: expected {wanted}")
    } else {
        message.to_owned()
    };
    FileFault::new(path, line, "", format!("{why} (column {})", e.column()))
}
