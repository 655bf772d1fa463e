//! Importers of files that are read line by line: CSV, JSON Lines, htpasswd-like.

use std::borrow::Cow;
use std::io::BufRead;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::super::super::error::{Error, FileFault, Result};
use super::super::super::registry::entry::{RawEntry, RawOwner, RawPrevious, RawTime, show_digest};
use super::collect::{Candidate, ImportItem, Wider};
use super::text;
use crate::core::count::count;
use crate::core::{Digest, Secret};
use crate::manage::time;

/// The longest line that is read: a key is a few hundred bytes.
const MAX_LINE: u64 = 1 << 20;

// CSV

/// Columns by name, in any order; `permissions` and `networks` hold words between spaces.
///
/// Separated by what the first line has most of: a comma, or, as spreadsheets write it where the
/// comma is for decimals, a semicolon or a tab. Excel's line `sep=;` is understood.
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
    for (header, column) in headers.iter().zip(&columns) {
        if column.is_none() && !restricts(header) {
            let why = "no field of a key has this name; the column was not carried";
            sink(ImportItem::Lost(FileFault::new(path, before + 1, header, why)))?;
        }
    }
    if !columns.iter().flatten().any(|c| matches!(c, Column::Digest | Column::Secret)) {
        let why = "the first line must name the columns, and one must be `secret` or `digest`";
        return sink(ImportItem::Fault(FileFault::new(path, before + 1, "", why)));
    }
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
        if record.len() > columns.len() {
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
                None if restricts(header) => sink(lost_column(header, line, path))?,
                None => {}
            }
        }
        match bad {
            Some(fault) => sink(ImportItem::Fault(fault))?,
            None => sink(ImportItem::Key(candidate.into()))?,
        }
    }
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
    // On a tie the comma, which is listed last: `max_by_key` takes the last of equals.
    let separators = [b'\t', b';', b','];
    Separator::Guessed(separators.into_iter().max_by_key(|s| count(*s)).unwrap_or(b','))
}

/// Whether an unknown column probably says who is *not* admitted.
fn restricts(header: &str) -> bool {
    const WORDS: [&str; 36] = [
        "access",
        "active",
        "allow",
        "ban",
        "block",
        "cidr",
        "deactivated",
        "deleted",
        "deny",
        "disabled",
        "enabled",
        "end",
        "ends",
        "expiration",
        "expire",
        "expires",
        "expiry",
        "group",
        "groups",
        "ip",
        "ips",
        "limit",
        "limits",
        "per",
        "quota",
        "rate",
        "restricted",
        "restriction",
        "restrictions",
        "revoked",
        "role",
        "roles",
        "suspended",
        "ttl",
        "until",
        "valid",
    ];
    let lower = header.to_ascii_lowercase();
    lower.split(|c: char| !c.is_alphanumeric()).any(|word| WORDS.contains(&word))
        || ["whitelist", "allowlist", "blacklist", "denylist", "ratelimit"]
            .iter()
            .any(|w| lower.contains(w))
}

fn lost_column(header: &str, line: u64, path: &Path) -> ImportItem {
    let why = "no field of a key has this name, and it may restrict the key";
    ImportItem::Wider(Wider {
        what: header.to_owned(),
        whose: String::new(),
        fault: FileFault::new(path, line, header, why),
    })
}

/// The message of the `csv` crate names positions and lengths, never a value.
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

/// A field of a key, under any of its usual names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Column {
    Client,
    Created,
    Digest,
    Disabled,
    Enabled,
    Environment,
    Expires,
    Id,
    Limit,
    Limits,
    Name,
    Networks,
    NotBefore,
    Note,
    Org,
    Owner,
    OwnerEmail,
    OwnerRole,
    Permissions,
    Prefix,
    PreviousDigest,
    PreviousExpires,
    PublicId,
    Replaces,
    Revoked,
    Secret,
    Start,
    Status,
    Sunset,
}

// === impl Column ===

impl Column {
    const fn is_yes_or_no(self) -> bool {
        matches!(self, Self::Disabled | Self::Enabled | Self::Revoked)
    }

    /// `API Key` and `api-key` are `api_key`.
    fn of(name: &str) -> Option<Self> {
        Some(match name.to_ascii_lowercase().replace([' ', '-'], "_").as_str() {
            "client" | "consumer" | "user" | "username" => Self::Client,
            "created" | "created_at" | "creation_date" => Self::Created,
            "digest" | "sha256" | "hash" => Self::Digest,
            "disabled" | "is_disabled" | "blocked" | "is_blocked" | "suspended" => Self::Disabled,
            "enabled" | "is_enabled" | "active" | "is_active" => Self::Enabled,
            "environment" | "env" => Self::Environment,
            "expires" | "expires_at" | "expires_on" | "expiry" | "expiry_date" | "expiration"
            | "expiration_date" | "valid_until" | "valid_to" => Self::Expires,
            "id" | "key_id" => Self::Id,
            "limit" | "rate_limit" | "ratelimit" => Self::Limit,
            "limits" => Self::Limits,
            "name" => Self::Name,
            "networks" | "allow_ip" | "allow_ips" | "allowed_ip" | "allowed_ips"
            | "allowed_networks" | "ip_allowlist" | "ip_whitelist" | "whitelist" | "allowlist" => {
                Self::Networks
            }
            "not_before" | "valid_from" => Self::NotBefore,
            "note" | "comment" | "description" => Self::Note,
            "org" | "organization" | "organisation" => Self::Org,
            "owner" | "owner_subject" => Self::Owner,
            "owner_email" => Self::OwnerEmail,
            "owner_role" => Self::OwnerRole,
            "permissions" | "scopes" | "scope" => Self::Permissions,
            "prefix" => Self::Prefix,
            "previous_digest" => Self::PreviousDigest,
            "previous_expires" => Self::PreviousExpires,
            "public_id" => Self::PublicId,
            "replaces" => Self::Replaces,
            "revoked" | "is_revoked" => Self::Revoked,
            "secret" | "key" | "api_key" | "apikey" | "token" => Self::Secret,
            "start" | "key_prefix" => Self::Start,
            "status" => Self::Status,
            "sunset" => Self::Sunset,
            _ => return None,
        })
    }

    /// Sets the field; what is wrong with a word that no field has as it is.
    fn set(self, candidate: &mut Candidate, value: &str) -> std::result::Result<(), &'static str> {
        let raw = &mut candidate.raw;
        let text = || Some(Cow::Owned(value.to_owned()));
        let words = || value.split([' ', '|', ';', ',']).filter(|w| !w.is_empty());
        let stamp = || Some(RawTime(value.to_owned()));
        let begin = || time::day(value).map(RawTime::of).or_else(stamp);
        let mut ended = |word: &'static str, is: bool| {
            if is {
                raw.status = Some(word.into());
            }
        };
        match self {
            Self::Client => candidate.client = value.to_owned(),
            Self::Created => raw.created = begin(),
            Self::Digest => raw.digest = digest_text(value).into(),
            Self::Disabled => ended("disabled", yes_or_no(value)?),
            Self::Enabled => ended("disabled", !yes_or_no(value)?),
            Self::Environment => raw.environment = text(),
            Self::Expires if matches!(value, "never" | "null") => {}
            Self::Expires => raw.expires = time::end_of_day(value).map(RawTime::of).or_else(stamp),
            Self::Id => raw.id = value.to_owned().into(),
            Self::Limit => raw.limit = text(),
            Self::Limits => {
                for limit in value.split(';').map(str::trim).filter(|limit| !limit.is_empty()) {
                    let (policy, limit) = limit
                        .split_once('=')
                        .ok_or("must look like `search=2/s; daily=10000/d`")?;
                    raw.limits.insert(policy.trim().to_owned(), limit.trim().to_owned());
                }
            }
            Self::Name => raw.name = value.to_owned().into(),
            Self::Networks => raw.networks = words().map(|w| w.to_owned().into()).collect(),
            Self::NotBefore => raw.not_before = begin(),
            Self::Note => raw.note = text(),
            Self::Org => raw.org = value.to_owned().into(),
            Self::Owner => owner(raw).subject = value.to_owned().into(),
            Self::OwnerEmail => owner(raw).email = value.to_owned().into(),
            Self::OwnerRole => owner(raw).role = value.to_owned().into(),
            Self::Permissions => raw.permissions = words().map(|w| w.to_owned().into()).collect(),
            Self::Prefix => raw.prefix = text(),
            Self::PreviousDigest => previous(raw).digest = digest_text(value).into(),
            Self::PreviousExpires => previous(raw).expires = RawTime(value.to_owned()),
            Self::PublicId => raw.public_id = text(),
            Self::Replaces => raw.replaces = text(),
            Self::Revoked => ended("revoked", yes_or_no(value)?),
            Self::Secret => candidate.secret = Some(Secret::new(value)),
            Self::Start => raw.start = text(),
            Self::Status => raw.status = text(),
            Self::Sunset if matches!(value, "never" | "null") => {}
            Self::Sunset => raw.sunset = begin(),
        }
        Ok(())
    }
}

/// The pair's former secret, of which two columns tell.
fn previous<'r>(raw: &'r mut RawEntry<'static>) -> &'r mut RawPrevious<'static> {
    raw.previous
        .get_or_insert_with(|| RawPrevious { digest: "".into(), expires: RawTime(String::new()) })
}

/// The key's owner, from three columns.
fn owner<'r>(raw: &'r mut RawEntry<'static>) -> &'r mut RawOwner<'static> {
    raw.owner.get_or_insert_with(RawOwner::default)
}

fn yes_or_no(value: &str) -> std::result::Result<bool, &'static str> {
    match value.to_ascii_lowercase().as_str() {
        "1" | "t" | "true" | "y" | "yes" | "x" | "wahr" | "ja" | "vrai" | "oui" => Ok(true),
        "0" | "f" | "false" | "n" | "no" | "falsch" | "nein" | "faux" | "non" => Ok(false),
        _ => Err("must be `true` or `false`"),
    }
}

/// 64 hexadecimal digits, with or without `sha256:`; anything else is left for the fault to name.
fn digest_text(value: &str) -> String {
    if value.len() == 64 && value.bytes().all(|b| b.is_ascii_hexdigit()) {
        format!("sha256:{value}")
    } else {
        value.to_owned()
    }
}

// JSON Lines

/// Objects with the same names as the columns of a CSV, or the lines of a `keys.jsonl`.
pub fn read_json_lines(
    source: &mut dyn BufRead,
    path: &Path,
    sink: &mut dyn FnMut(ImportItem) -> Result<()>,
) -> Result<()> {
    each_line(source, path, &mut |line, text| {
        let text = text.trim();
        if text.is_empty() {
            return Ok(());
        }
        let mut object = match serde_json::from_str::<Value>(text) {
            Ok(Value::Object(object)) => object,
            Ok(_) => {
                return sink(ImportItem::Fault(FileFault::new(
                    path,
                    line,
                    "",
                    "is not a JSON object",
                )));
            }
            Err(e) => {
                let why = format!("is not JSON (column {})", e.column());
                return sink(ImportItem::Fault(FileFault::new(path, line, "", why)));
            }
        };
        if object.contains_key("registry") {
            return Ok(());
        }
        // A line of a `keys.jsonl` holds the key one level down.
        if let Some(Value::Object(key)) = object.get_mut("key") {
            object = std::mem::take(key);
        }
        json_key(object, path, line, sink)
    })
}

fn json_key(
    object: Map<String, Value>,
    path: &Path,
    line: u64,
    sink: &mut dyn FnMut(ImportItem) -> Result<()>,
) -> Result<()> {
    let mut candidate = Candidate { line, ..Candidate::default() };
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
            let nothing = value.is_null() || value == "";
            if restricts(&name) && !nothing {
                sink(lost_column(&name, line, path))?;
            } else {
                let why = "no field of a key has this name";
                sink(ImportItem::Lost(FileFault::new(path, line, &name, why)))?;
            }
            continue;
        };
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

/// Calls `each` with number and text of every line, and names one that is no text.
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
