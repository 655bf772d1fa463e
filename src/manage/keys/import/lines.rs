//! Importers of files that are read line by line: CSV, JSON Lines, htpasswd-like.

use std::collections::{BTreeMap, BTreeSet};
use std::io::BufRead;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::super::super::error::{Error, FileFault, Result};
use super::super::super::registry::entry::{RawTime, show_digest};
use super::collect::{Candidate, ImportItem};
use super::columns::{Column, digest_text, is_harmless, owner, previous, unknown};
use super::{strict_json, text};
use crate::core::Digest;
use crate::wording::count::count;
use crate::wording::visible::one_line;

/// The longest line that is read: a key is a few hundred bytes.
const MAX_LINE: u64 = 1 << 20;

// CSV

/// Columns by name, in any order; `permissions` and `networks` hold words separated by spaces.
///
/// The separator is the one that the first line has most of: a comma, a tab, or a semicolon, which
/// spreadsheets write where the comma is for decimals. Excel's line `sep=;` is understood.
pub fn read_csv(
    source: &mut dyn BufRead,
    path: &Path,
    sink: &mut dyn FnMut(ImportItem) -> Result<()>,
) -> Result<()> {
    let mut source = text::plain(source, path)?;
    let mut first = Zeroizing::new(Vec::new());
    let mut before = 0;
    let separator = loop {
        first.clear();
        std::io::Read::take(&mut source, MAX_LINE)
            .read_until(b'\n', &mut first)
            .map_err(Error::read(path))?;
        match separator_of(&first) {
            Separator::Named(separator) => {
                // The header is the next line; this line names the separator.
                before += 1;
                first.clear();
                break separator;
            }
            Separator::Blank if !first.is_empty() => before += 1,
            Separator::Blank => break b',',
            Separator::Guessed(separator) => break separator,
        }
    };
    let source = std::io::Read::chain(first.as_slice(), source);
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(separator)
        .flexible(true)
        .trim(csv::Trim::All)
        .from_reader(source);
    let headers = match reader.headers() {
        Ok(headers) => headers.clone(),
        Err(e) => return csv_fault(e, before, path, sink),
    };
    let columns: Vec<_> = headers.iter().map(Column::of).collect();
    // Before any of them is named in a message: a table without headings has keys there.
    if !columns.iter().flatten().any(|c| matches!(c, Column::Digest | Column::Secret)) {
        let why = "the first line must name the columns, and one must be `secret` or `digest`";
        return sink(ImportItem::Fault(FileFault::new(path, before + 1, "", why)));
    }
    refuse_twins(&headers, &columns, before + 1, path)?;
    for (header, _) in headers.iter().zip(&columns).filter(|(_, column)| column.is_none()) {
        if is_harmless(header) {
            sink(unknown(header, before + 1, path))?;
        }
    }
    let mut told = BTreeSet::new();
    let mut record = csv::StringRecord::new();
    loop {
        match reader.read_record(&mut record) {
            Ok(false) => return Ok(()),
            Ok(true) => {}
            Err(e) if e.is_io_error() => {
                return csv_fault(e, before, path, sink);
            }
            Err(e) => {
                csv_fault(e, before, path, sink)?;
                continue;
            }
        }
        // Where the record began: its own position is that of the empty lines before it.
        let inside = record.iter().flat_map(str::bytes).filter(|b| *b == b'\n').count() as u64;
        let line = before + reader.position().line().saturating_sub(inside + 1);
        // A truncated row has lost the content of its last columns.
        if record.len() != columns.len() {
            let why = format!(
                "{} for {}",
                count(record.len() as u64, "value"),
                count(columns.len() as u64, "column")
            );
            sink(ImportItem::Fault(FileFault::new(path, line, "", why)))?;
            continue;
        }
        let mut candidate = Candidate { line, ..Candidate::default() };
        let mut bad = None;
        for ((column, value), header) in columns.iter().zip(&record).zip(&headers) {
            match column {
                _ if value.is_empty() => {}
                Some(column) => {
                    if let Err(why) = column.set(&mut candidate, value) {
                        bad = Some(FileFault::new(path, line, header, why));
                    }
                }
                None if is_harmless(header) || !told.insert(header.to_owned()) => {}
                None => sink(unknown(header, before + 1, path))?,
            }
        }
        match bad {
            Some(fault) => sink(ImportItem::Fault(fault))?,
            None => sink(ImportItem::Key(candidate.into()))?,
        }
    }
}

/// If two columns were for one field, one would be lost.
fn refuse_twins(
    headers: &csv::StringRecord,
    columns: &[Option<Column>],
    line: u64,
    path: &Path,
) -> Result<()> {
    let mut first: BTreeMap<Column, &str> = BTreeMap::new();
    for (header, column) in headers.iter().zip(columns) {
        let Some(column) = column else { continue };
        if let Some(other) = first.insert(*column, header) {
            let why =
                format!("is the same field of a key as `{}`, another column", one_line(other));
            let hint = "leave one of the two out; nothing was read";
            return Err(Error::fault(FileFault::new(path, line, header, why), hint));
        }
    }
    Ok(())
}

enum Separator {
    Blank,
    Guessed(u8),
    /// By a line `sep=;`.
    Named(u8),
}

fn separator_of(line: &[u8]) -> Separator {
    let line = line.trim_ascii();
    let bare = line.strip_prefix(b"\"").and_then(|l| l.strip_suffix(b"\"")).unwrap_or(line);
    if let Some([separator]) = bare.strip_prefix(b"sep=") {
        return Separator::Named(*separator);
    }
    if line.is_empty() {
        return Separator::Blank;
    }
    let mut quoted = false;
    let outside: Vec<u8> = line
        .iter()
        .copied()
        .filter(|b| {
            quoted ^= *b == b'"';
            !quoted
        })
        .collect();
    let count = |separator: u8| outside.iter().filter(|b| **b == separator).count();
    // On a tie the comma wins, which is listed last: `max_by_key` returns the last maximum.
    let separators = [b'\t', b';', b','];
    Separator::Guessed(separators.into_iter().max_by_key(|s| count(*s)).unwrap_or(b','))
}

/// The message of the `csv` crate contains positions and lengths, never a value.
fn csv_fault(
    e: csv::Error,
    before: u64,
    path: &Path,
    sink: &mut dyn FnMut(ImportItem) -> Result<()>,
) -> Result<()> {
    let line = e.position().map_or(0, |at| before + at.line());
    match e.into_kind() {
        csv::ErrorKind::Io(source) => Err(Error::Read { path: path.to_owned(), source }),
        csv::ErrorKind::Utf8 { .. } => {
            let why = "is not UTF-8; save the table as `CSV UTF-8` or as Unicode text";
            sink(ImportItem::Fault(FileFault::new(path, line, "", why)))
        }
        kind => {
            sink(ImportItem::Fault(FileFault::new(path, line, "", format!("bad CSV: {kind:?}"))))
        }
    }
}

// JSON Lines

/// Objects with the same names as the columns of a CSV, or the lines of a `keys.jsonl`.
pub fn read_json_lines(
    source: &mut dyn BufRead,
    path: &Path,
    sink: &mut dyn FnMut(ImportItem) -> Result<()>,
) -> Result<()> {
    let mut told = BTreeSet::new();
    each_line(source, path, &mut |line, text| {
        let text = text.trim();
        if text.is_empty() {
            return Ok(());
        }
        let mut object = match strict_json::parse(text) {
            Ok(Value::Object(object)) => object,
            Ok(_) => {
                let why = "is not a JSON object";
                return sink(ImportItem::Fault(FileFault::new(path, line, "", why)));
            }
            Err(why) => return sink(ImportItem::Fault(FileFault::new(path, line, "", why))),
        };
        if object.contains_key("registry") {
            return Ok(());
        }
        // A line of a `keys.jsonl` holds the key one level down.
        if let Some(Value::Object(key)) = object.get_mut("key") {
            object = std::mem::take(key);
        }
        json_key(object, &mut told, path, line, sink)
    })
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

fn json_key(
    object: Map<String, Value>,
    told: &mut BTreeSet<String>,
    path: &Path,
    line: u64,
    sink: &mut dyn FnMut(ImportItem) -> Result<()>,
) -> Result<()> {
    let mut candidate = Candidate { line, ..Candidate::default() };
    let mut first: BTreeMap<Column, String> = BTreeMap::new();
    for (name, value) in object {
        if name == "previous" && !value.is_null() {
            let text = |name| value.get(name).and_then(Value::as_str);
            let Some((digest, expires)) = text("digest").zip(text("expires")) else {
                let why = "must be an object with `digest` and `expires`";
                return sink(ImportItem::Fault(FileFault::new(path, line, &name, why)));
            };
            let former = previous(&mut candidate.raw);
            former.digest = digest_text(digest).into();
            former.expires = RawTime(expires.to_owned());
            continue;
        }
        if let (Some(fields), true) = (nested(&name), value.is_object()) {
            if let Err(why) = set_nested(&mut candidate, fields, &value) {
                return sink(ImportItem::Fault(FileFault::new(path, line, &name, why)));
            }
            continue;
        }
        let Some(column) = Column::of(&name) else {
            if !is_nothing(&value) && told.insert(name.clone()) {
                sink(unknown(&name, line, path))?;
            }
            continue;
        };
        if value.is_null() {
            continue;
        }
        if let Some(other) = first.insert(column, name.clone()) {
            let why = format!("is the same field of a key as `{}`", one_line(&other));
            return sink(ImportItem::Fault(FileFault::new(path, line, &name, why)));
        }
        match value {
            Value::Null => {}
            Value::String(text) => {
                // Not trimmed: a space in a secret is part of it.
                if let Err(why) = column.set(&mut candidate, &Zeroizing::new(text)) {
                    return sink(ImportItem::Fault(FileFault::new(path, line, &name, why)));
                }
            }
            Value::Bool(is) if column.is_yes_or_no() => {
                let _ = column.set(&mut candidate, if is { "true" } else { "false" });
            }
            Value::Array(items) => {
                let words: Option<Vec<&str>> = items.iter().map(Value::as_str).collect();
                match (column, words) {
                    (Column::Networks | Column::Permissions, Some(words)) => {
                        let _ = column.set(&mut candidate, &words.join(" "));
                    }
                    _ => {
                        let why = "must be text, or for permissions and networks a list of texts";
                        return sink(ImportItem::Fault(FileFault::new(path, line, &name, why)));
                    }
                }
            }
            Value::Bool(_) | Value::Number(_) | Value::Object(_) => {
                let why = "must be text";
                return sink(ImportItem::Fault(FileFault::new(path, line, &name, why)));
            }
        }
    }
    sink(ImportItem::Key(candidate.into()))
}

/// Fields of a key that are objects in JSON.
#[derive(Clone, Copy)]
enum Nested {
    Limits,
    Owner,
}

fn nested(name: &str) -> Option<Nested> {
    match name {
        "limits" => Some(Nested::Limits),
        "owner" => Some(Nested::Owner),
        _ => None,
    }
}

fn set_nested(
    candidate: &mut Candidate,
    fields: Nested,
    value: &Value,
) -> std::result::Result<(), &'static str> {
    let raw = &mut candidate.raw;
    for (name, value) in value.as_object().into_iter().flatten() {
        let text = value.as_str().ok_or("must be an object of texts")?;
        match (fields, name.as_str()) {
            (Nested::Limits, policy) => {
                raw.limits.insert(policy.to_owned(), text.to_owned());
            }
            (Nested::Owner, "subject") => owner(raw).subject = text.to_owned().into(),
            (Nested::Owner, "email") => owner(raw).email = text.to_owned().into(),
            (Nested::Owner, "role") => owner(raw).role = text.to_owned().into(),
            (Nested::Owner, _) => return Err("has `subject`, `email` and `role`, nothing else"),
        }
    }
    Ok(())
}

// htpasswd-like

/// `name:sha256`, the digest as 64 hexadecimal digits or as `{SHA256}` and Base64.
pub fn read_htpasswd(
    source: &mut dyn BufRead,
    path: &Path,
    sink: &mut dyn FnMut(ImportItem) -> Result<()>,
) -> Result<()> {
    each_line(source, path, &mut |line, text| {
        let text = text.trim();
        if text.is_empty() || text.starts_with('#') {
            return Ok(());
        }
        let Some((name, hash)) = text.split_once(':') else {
            let why = "must be `name:sha256`";
            return sink(ImportItem::Fault(FileFault::new(path, line, "", why)));
        };
        let hash = hash.trim();
        let digest = match hash.strip_prefix("{SHA256}") {
            Some(base64) => STANDARD
                .decode(base64)
                .ok()
                .and_then(|raw| raw.try_into().ok())
                .map(|raw| show_digest(&Digest(raw))),
            None => Some(digest_text(hash)).filter(|text| text.starts_with("sha256:")),
        };
        let Some(digest) = digest else {
            let why = "is no SHA-256: 64 hexadecimal digits or `{SHA256}` and Base64; bcrypt and \
                       crypt hashes cannot be carried, because a lookup needs the digest";
            return sink(ImportItem::Fault(FileFault::new(path, line, name, why)));
        };
        let mut candidate =
            Candidate { line, client: name.trim().to_owned(), ..Candidate::default() };
        candidate.raw.digest = digest.into();
        sink(ImportItem::Key(candidate.into()))
    })
}

/// Calls `each` with the number and text of every line, and reports a line that is not text.
pub fn each_line(
    source: &mut dyn BufRead,
    path: &Path,
    each: &mut dyn FnMut(u64, &str) -> Result<()>,
) -> Result<()> {
    let mut source = text::plain(source, path)?;
    let mut buffer = Zeroizing::new(Vec::with_capacity(4096));
    for number in 1.. {
        buffer.clear();
        std::io::Read::take(&mut source, MAX_LINE)
            .read_until(b'\n', &mut buffer)
            .map_err(Error::read(path))?;
        if buffer.is_empty() {
            break;
        }
        let bad = |why: &str| Error::fault(FileFault::new(path, number, "", why), "");
        if buffer.len() as u64 == MAX_LINE && buffer.last() != Some(&b'\n') {
            return Err(bad("is longer than 1 MiB"));
        }
        let text = std::str::from_utf8(&buffer).map_err(|_| bad("is not UTF-8"))?;
        each(number, text)?;
    }
    Ok(())
}
