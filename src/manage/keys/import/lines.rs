//! Importers of files that are read line by line: CSV, JSON Lines, htpasswd-like, nginx `map`.

use std::borrow::Cow;
use std::io::BufRead;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::super::super::error::{Error, Fault, Result};
use super::super::super::registry::entry::{Stamp, show_digest};
use super::collect::{Candidate, Found};
use crate::core::{Digest, Secret};

/// The longest line that is read: a key is a few hundred bytes.
const MAX_LINE: u64 = 1 << 20;

type Sink<'a> = &'a mut dyn FnMut(Found) -> Result<()>;

// CSV

/// Columns by name, in any order; `permissions` and `networks` hold words between spaces.
pub fn read_csv(source: &mut dyn BufRead, path: &Path, sink: Sink<'_>) -> Result<()> {
    let mut reader =
        csv::ReaderBuilder::new().flexible(true).trim(csv::Trim::All).from_reader(source);
    let headers = match reader.headers() {
        Ok(headers) => headers.clone(),
        Err(e) => return csv_fault(e, path, sink),
    };
    let columns: Vec<_> = headers.iter().map(|h| Column::of(&h.to_ascii_lowercase())).collect();
    for (header, column) in headers.iter().zip(&columns) {
        if column.is_none() {
            let why = "no field of a key has this name; the column was not carried";
            sink(Found::Lost(Fault::new(path, 1, header, why)))?;
        }
    }
    if !columns.iter().flatten().any(|c| matches!(c, Column::Digest | Column::Secret)) {
        let why = "the first line must name the columns, and one must be `secret` or `digest`";
        return sink(Found::Fault(Fault::new(path, 1, "", why)));
    }
    let mut record = csv::StringRecord::new();
    loop {
        match reader.read_record(&mut record) {
            Ok(false) => return Ok(()),
            Ok(true) => {}
            Err(e) if e.is_io_error() => {
                return csv_fault(e, path, sink);
            }
            Err(e) => {
                csv_fault(e, path, sink)?;
                continue;
            }
        }
        let line = record.position().map_or(0, csv::Position::line);
        if record.len() > columns.len() {
            let why = format!("{} values for {} columns", record.len(), columns.len());
            sink(Found::Fault(Fault::new(path, line, "", why)))?;
            continue;
        }
        let mut candidate = Candidate { line, ..Candidate::default() };
        for (column, value) in columns.iter().zip(&record) {
            if let Some(column) = column
                && !value.is_empty()
            {
                column.set(&mut candidate, value);
            }
        }
        sink(Found::Key(candidate.into()))?;
    }
}

/// The message of the `csv` crate names positions and lengths, never a value.
fn csv_fault(e: csv::Error, path: &Path, sink: Sink<'_>) -> Result<()> {
    let line = e.position().map_or(0, csv::Position::line);
    match e.into_kind() {
        csv::ErrorKind::Io(source) => Err(Error::Read { path: path.to_owned(), source }),
        csv::ErrorKind::Utf8 { .. } => {
            sink(Found::Fault(Fault::new(path, line, "", "is not UTF-8")))
        }
        kind => sink(Found::Fault(Fault::new(path, line, "", format!("bad CSV: {kind:?}")))),
    }
}

/// A field of a key, under any of its usual names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Column {
    Client,
    Created,
    Digest,
    Environment,
    Expires,
    Id,
    Limit,
    Name,
    Networks,
    NotBefore,
    Note,
    Org,
    Permissions,
    Prefix,
    PublicId,
    Replaces,
    Secret,
    Start,
    Status,
}

// === impl Column ===

impl Column {
    fn of(name: &str) -> Option<Self> {
        Some(match name {
            "client" | "consumer" | "user" | "username" => Self::Client,
            "created" | "created_at" => Self::Created,
            "digest" | "sha256" | "hash" => Self::Digest,
            "environment" | "env" => Self::Environment,
            "expires" | "expires_at" => Self::Expires,
            "id" | "key_id" => Self::Id,
            "limit" => Self::Limit,
            "name" => Self::Name,
            "networks" | "allow_ip" | "allowed_ips" => Self::Networks,
            "not_before" => Self::NotBefore,
            "note" => Self::Note,
            "org" | "organization" => Self::Org,
            "permissions" | "scopes" | "scope" => Self::Permissions,
            "prefix" => Self::Prefix,
            "public_id" => Self::PublicId,
            "replaces" => Self::Replaces,
            "secret" | "key" | "api_key" | "token" => Self::Secret,
            "start" | "key_prefix" => Self::Start,
            "status" => Self::Status,
            _ => return None,
        })
    }

    fn set(self, candidate: &mut Candidate, value: &str) {
        let raw = &mut candidate.raw;
        let text = || Some(Cow::Owned(value.to_owned()));
        let words = || value.split([' ', '|', ';', ',']).filter(|w| !w.is_empty());
        let stamp = || Some(Stamp(value.to_owned()));
        match self {
            Self::Client => candidate.client = value.to_owned(),
            Self::Created => raw.created = stamp(),
            Self::Digest => raw.digest = digest_text(value).into(),
            Self::Environment => raw.environment = text(),
            Self::Expires if matches!(value, "never" | "null") => {}
            Self::Expires => raw.expires = stamp(),
            Self::Id => raw.id = value.to_owned().into(),
            Self::Limit => raw.limit = text(),
            Self::Name => raw.name = value.to_owned().into(),
            Self::Networks => raw.networks = words().map(|w| w.to_owned().into()).collect(),
            Self::NotBefore => raw.not_before = stamp(),
            Self::Note => raw.note = text(),
            Self::Org => raw.org = value.to_owned().into(),
            Self::Permissions => raw.permissions = words().map(|w| w.to_owned().into()).collect(),
            Self::Prefix => raw.prefix = text(),
            Self::PublicId => raw.public_id = text(),
            Self::Replaces => raw.replaces = text(),
            Self::Secret => candidate.secret = Some(Secret::new(value)),
            Self::Start => raw.start = text(),
            Self::Status => raw.status = text(),
        }
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
pub fn read_json_lines(source: &mut dyn BufRead, path: &Path, sink: Sink<'_>) -> Result<()> {
    each_line(source, path, &mut |line, text| {
        let text = text.trim();
        if text.is_empty() {
            return Ok(());
        }
        let mut object = match serde_json::from_str::<Value>(text) {
            Ok(Value::Object(object)) => object,
            Ok(_) => {
                return sink(Found::Fault(Fault::new(path, line, "", "is not a JSON object")));
            }
            Err(e) => {
                let why = format!("is not JSON (column {})", e.column());
                return sink(Found::Fault(Fault::new(path, line, "", why)));
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

fn json_key(object: Map<String, Value>, path: &Path, line: u64, sink: Sink<'_>) -> Result<()> {
    let mut candidate = Candidate { line, ..Candidate::default() };
    for (name, value) in object {
        let Some(column) = Column::of(&name.to_ascii_lowercase()) else {
            sink(Found::Lost(Fault::new(path, line, &name, "no field of a key has this name")))?;
            continue;
        };
        match value {
            Value::Null => {}
            Value::String(text) => {
                // Not for secrets: a space in one is part of it.
                column.set(&mut candidate, &Zeroizing::new(text));
            }
            Value::Array(items) => {
                let words: Option<Vec<&str>> = items.iter().map(Value::as_str).collect();
                match (column, words) {
                    (Column::Networks | Column::Permissions, Some(words)) => {
                        column.set(&mut candidate, &words.join(" "));
                    }
                    _ => {
                        let why = "must be text, or for permissions and networks a list of texts";
                        return sink(Found::Fault(Fault::new(path, line, &name, why)));
                    }
                }
            }
            Value::Bool(_) | Value::Number(_) | Value::Object(_) => {
                let why = "must be text";
                return sink(Found::Fault(Fault::new(path, line, &name, why)));
            }
        }
    }
    sink(Found::Key(candidate.into()))
}

// htpasswd-like

/// `name:sha256`, the digest as 64 hexadecimal digits or as `{SHA256}` and Base64.
pub fn read_htpasswd(source: &mut dyn BufRead, path: &Path, sink: Sink<'_>) -> Result<()> {
    each_line(source, path, &mut |line, text| {
        let text = text.trim();
        if text.is_empty() || text.starts_with('#') {
            return Ok(());
        }
        let Some((name, hash)) = text.split_once(':') else {
            let why = "must be `name:sha256`";
            return sink(Found::Fault(Fault::new(path, line, "", why)));
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
            return sink(Found::Fault(Fault::new(path, line, name, why)));
        };
        let mut candidate =
            Candidate { line, client: name.trim().to_owned(), ..Candidate::default() };
        candidate.raw.digest = digest.into();
        sink(Found::Key(candidate.into()))
    })
}

// nginx

/// `map $http_x_api_key $client { "key" client; }`: the whole file, or only what the map includes.
pub fn read_nginx_map(source: &mut dyn BufRead, path: &Path, sink: Sink<'_>) -> Result<()> {
    let mut pending: Vec<Zeroizing<String>> = Vec::new();
    each_line(source, path, &mut |line, text| {
        let mut rest = text.trim_start();
        while !rest.is_empty() && !rest.starts_with('#') {
            let (token, after) = match token(rest) {
                Ok(found) => found,
                Err(why) => return sink(Found::Fault(Fault::new(path, line, "", why))),
            };
            rest = after.trim_start();
            match token {
                Token::End => {
                    let words = std::mem::take(&mut pending);
                    nginx_entry(&words, path, line, sink)?;
                }
                // `map $a $b {` and its `}`.
                Token::Open | Token::Close => pending.clear(),
                Token::Word(word) => pending.push(word),
            }
        }
        Ok(())
    })
}

enum Token {
    Close,
    End,
    Open,
    Word(Zeroizing<String>),
}

fn token(text: &str) -> std::result::Result<(Token, &str), &'static str> {
    let mut chars = text.chars();
    match chars.next() {
        Some(';') => return Ok((Token::End, chars.as_str())),
        Some('{') => return Ok((Token::Open, chars.as_str())),
        Some('}') => return Ok((Token::Close, chars.as_str())),
        _ => {}
    }
    let quote = text.chars().next().filter(|c| matches!(c, '"' | '\''));
    let mut word = Zeroizing::new(String::with_capacity(128));
    let mut chars = text.char_indices().skip(usize::from(quote.is_some()));
    while let Some((at, c)) = chars.next() {
        let rest = text.get(at..).unwrap_or_default();
        match (quote, c) {
            (Some(end), c) if c == end => {
                return Ok((Token::Word(word), rest.get(1..).unwrap_or_default()));
            }
            (_, '\\') => match chars.next() {
                Some((_, escaped)) => word.push(escaped),
                None => return Err("ends in a backslash"),
            },
            (None, c) if c.is_whitespace() || matches!(c, ';' | '{' | '}') => {
                return Ok((Token::Word(word), rest));
            }
            (_, c) => word.push(c),
        }
    }
    if quote.is_some() { Err("a quoted text does not end") } else { Ok((Token::Word(word), "")) }
}

fn nginx_entry(words: &[Zeroizing<String>], path: &Path, line: u64, sink: Sink<'_>) -> Result<()> {
    let lost = |why: &str| Found::Lost(Fault::new(path, line, "", why));
    match words {
        [first] if matches!(first.as_str(), "hostnames" | "volatile") => {
            sink(lost("an option of the map"))
        }
        [first, _] if first.as_str() == "default" => {
            sink(lost("`default`: keygate refuses an unknown key"))
        }
        [first, file] if first.as_str() == "include" => {
            let why = format!("`include {}`: import that file as well", file.as_str());
            sink(lost(&why))
        }
        [key, _] if key.starts_with('~') => sink(lost("a regular expression is no key")),
        [_, client] if client.is_empty() || client.as_str() == "0" => {
            sink(lost("a key that the map gives no client"))
        }
        [key, client] => {
            // A leading backslash-free key that names an option is written `\default` there.
            let secret = Some(Secret::new(key.as_bytes()));
            let client = client.as_str().to_owned();
            sink(Found::Key(Box::new(Candidate { line, client, secret, ..Candidate::default() })))
        }
        _ => sink(Found::Fault(Fault::new(path, line, "", "must be a key, a client and `;`"))),
    }
}

/// Calls `each` with number and text of every line, and names one that is no text.
fn each_line(
    source: &mut dyn BufRead,
    path: &Path,
    each: &mut dyn FnMut(u64, &str) -> Result<()>,
) -> Result<()> {
    let mut buffer = Zeroizing::new(Vec::with_capacity(4096));
    for number in 1.. {
        buffer.clear();
        std::io::Read::take(&mut *source, MAX_LINE)
            .read_until(b'\n', &mut buffer)
            .map_err(Error::read(path))?;
        if buffer.is_empty() {
            break;
        }
        let bad = |why: &str| Error::fault(Fault::new(path, number, "", why), "");
        if buffer.len() as u64 == MAX_LINE && buffer.last() != Some(&b'\n') {
            return Err(bad("is longer than 1 MiB"));
        }
        let text = std::str::from_utf8(&buffer).map_err(|_| bad("is not UTF-8"))?;
        each(number, text)?;
    }
    Ok(())
}
