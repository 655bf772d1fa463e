//! `keys.toml`, read and edited in pieces: the text before the first `[[key]]`, then one piece per
//! key. Each piece is parsed on its own, so memory does not grow with the file, an edit touches
//! only its own lines, and comments stay.
//!
//! Cutting at lines that begin with `[[key]]` is safe: inside a string, such a line leaves the
//! piece before it unterminated, which is an error and never another reading.

use std::io::{self, BufRead};
use std::path::Path;

use serde::Deserialize;
use toml_edit::{DocumentMut, InlineTable, Item, TableLike, Value};

use super::entry::{FieldFault, RawEntry, RegistryEntry};
use crate::core::PolicyName;
use crate::manage::error::FileFault;

/// A key is a few hundred bytes; a file with a longer piece is not a registry.
const MAX_PIECE: usize = 1 << 20;

/// Some lines of the file, with the number of the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    pub line: u64,
    pub text: String,
}

/// Yields the settings first (possibly empty), then the keys.
#[derive(Debug)]
pub struct Pieces<R> {
    from: R,
    line: u64,
    /// The `[[key]]` line that ended the previous piece.
    pending: Option<String>,
    started: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OneKey<'a> {
    #[serde(borrow)]
    key: [RawEntry<'a>; 1],
}

// === impl Pieces ===

impl<R: BufRead> Pieces<R> {
    pub fn new(from: R) -> Self {
        Self { from, line: 0, pending: None, started: false }
    }

    pub fn advance(&mut self) -> io::Result<Option<Piece>> {
        let mut text = self.pending.take().unwrap_or_default();
        if self.started && text.is_empty() {
            return Ok(None);
        }
        self.started = true;
        let line = if text.is_empty() { 1 } else { self.line };
        loop {
            let before = text.len();
            let read = (&mut self.from).take_line(&mut text, MAX_PIECE)?;
            if read == 0 {
                return Ok(Some(Piece { line, text }));
            }
            self.line += 1;
            if begins_key(text.get(before..).unwrap_or_default()) {
                self.pending = Some(text.split_off(before));
                return Ok(Some(Piece { line, text }));
            }
            if text.len() > MAX_PIECE {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("line {line}: more than {MAX_PIECE} bytes without a `[[key]]`"),
                ));
            }
        }
    }
}

trait TakeLine {
    fn take_line(self, to: &mut String, max: usize) -> io::Result<usize>;
}

impl<R: BufRead> TakeLine for &mut R {
    fn take_line(self, to: &mut String, max: usize) -> io::Result<usize> {
        io::Read::take(self, max as u64 + 1).read_line(to)
    }
}

fn begins_key(line: &str) -> bool {
    let Some(rest) = line.trim_start().strip_prefix("[[") else { return false };
    rest.trim_start().strip_prefix("key").is_some_and(|r| r.trim_start().starts_with("]]"))
}

/// The key of a piece, or all of its faults together, each with its line.
pub fn parse(piece: &Piece, path: &Path) -> Result<RegistryEntry, Vec<FileFault>> {
    let raw: OneKey<'_> = toml::from_str(&piece.text).map_err(|e| {
        vec![syntax_fault(&e, piece, path, "settings belong before the first `[[key]]`")]
    })?;
    let [raw] = raw.key;
    raw.parse().map_err(|faults| {
        let place =
            |FieldFault { field, why }| FileFault::new(path, line_of(piece, field), field, why);
        faults.into_iter().map(place).collect()
    })
}

/// Where and why, without the values that toml's own message would quote: one may be a secret.
pub fn syntax_fault(e: &toml::de::Error, piece: &Piece, path: &Path, top: &str) -> FileFault {
    let offset = e.span().map_or(0, |s| s.start);
    let before = piece.text.get(..offset).unwrap_or_default();
    let line = piece.line + before.matches('\n').count() as u64;
    let message = e.message();
    let why = if let Some(rest) = message.strip_prefix("invalid type: ") {
        let wanted = rest.rsplit_once(", expected ").map_or("another", |(_, wanted)| wanted);
        format!("wrong type: expected {wanted}")
    } else if message.starts_with("invalid value: ") {
        "value out of range".to_owned()
    } else if message.starts_with("unknown field") && before.trim_end().ends_with("]]") {
        message.to_owned()
    } else if message.starts_with("unknown field") && message.contains("expected `key`") {
        format!("a section that no key has; {top}")
    } else {
        message.lines().next().unwrap_or_default().to_owned()
    };
    FileFault::new(path, line, "", why)
}

/// A key's first characters, and the name that an older keygatectl used for them.
const KEY_PREFIX: &str = "key_prefix";
const FORMER_KEY_PREFIX: &str = "start";

pub fn line_of(piece: &Piece, field: &str) -> u64 {
    let name = field.split('.').next().unwrap_or(field);
    let at = piece.text.lines().position(|line| {
        let line = line.trim_start();
        let former = (name == KEY_PREFIX).then(|| line.strip_prefix(FORMER_KEY_PREFIX)).flatten();
        let rest = line.strip_prefix(name).or(former);
        rest.is_some_and(|r| r.trim_start().starts_with('='))
            || line.starts_with(&format!("[key.{name}]"))
    });
    piece.line + at.unwrap_or(0) as u64
}

/// A new key as text, to be appended.
pub fn print(entry: &RegistryEntry) -> String {
    let mut text = String::from("[[key]]\n");
    for (name, value) in fields(entry) {
        text.push_str(name);
        text.push_str(" = ");
        text.push_str(value.to_string().trim());
        text.push('\n');
    }
    text
}

/// The piece with only the differences between `old` and `new` applied.
///
/// `None` if the piece cannot be edited, which [`parse`] has already ruled out.
pub fn edit(piece: &str, old: &RegistryEntry, new: &RegistryEntry) -> Option<String> {
    let mut document: DocumentMut = piece.parse().ok()?;
    let table = document.get_mut("key")?.as_array_of_tables_mut()?.get_mut(0)?;
    let (mut was, is) = (fields(old), fields(new));
    if old.limits != new.limits {
        // A plain limit may be among the `limits`, or those may be a section of their own.
        let named = table.get("limits").and_then(Item::as_table_like);
        let is_odd = |limits: &dyn TableLike| limits.contains_key(PolicyName::PER_KEY);
        if named.is_some_and(is_odd) || table.get("limits").is_some_and(Item::is_table) {
            table.remove("limits");
            was.retain(|(name, _)| !matches!(*name, "limit" | "limits"));
        }
    }
    if old.key_prefix != new.key_prefix {
        table.remove(FORMER_KEY_PREFIX);
    }
    for (name, _) in &was {
        if !is.iter().any(|(n, _)| n == name) {
            table.remove(name);
        }
    }
    for (name, mut value) in is {
        let same =
            was.iter().any(|(n, v)| *n == name && v.to_string().trim() == value.to_string().trim());
        if same {
            continue;
        }
        match table.get_mut(name) {
            Some(Item::Value(present)) => {
                // Spaces and a comment after the value stay.
                *value.decor_mut() = present.decor().clone();
                *present = value;
            }
            _ => {
                table.insert(name, Item::Value(value));
            }
        }
    }
    Some(document.to_string())
}

fn fields(entry: &RegistryEntry) -> Vec<(&'static str, Value)> {
    let raw = entry.raw();
    let mut fields: Vec<(&'static str, Value)> = Vec::with_capacity(16);
    let list = |items: &[std::borrow::Cow<'_, str>]| {
        Value::Array(items.iter().map(|item| item.as_ref()).collect())
    };
    // Unquoted, as TOML's own date-time; the stamps that we write always parse.
    let time = |stamp: &super::entry::RawTime| match stamp.0.parse::<toml_edit::Datetime>() {
        Ok(datetime) => Value::from(datetime),
        Err(_) => Value::from(stamp.0.as_str()),
    };
    fields.push(("id", raw.id.as_ref().into()));
    fields.push(("org", raw.org.as_ref().into()));
    if !raw.name.is_empty() {
        fields.push(("name", raw.name.as_ref().into()));
    }
    fields.push(("permissions", list(&raw.permissions)));
    if let Some(environment) = &raw.environment {
        fields.push(("environment", environment.as_ref().into()));
    }
    if !raw.networks.is_empty() {
        fields.push(("networks", list(&raw.networks)));
    }
    if let Some(plan) = &raw.plan {
        fields.push(("plan", plan.as_ref().into()));
    }
    if let Some(limit) = &raw.limit {
        fields.push(("limit", limit.as_ref().into()));
    }
    if !raw.limits.is_empty() {
        let mut table = InlineTable::new();
        for (policy, limit) in &raw.limits {
            table.insert(policy, limit.as_str().into());
        }
        fields.push(("limits", Value::InlineTable(table)));
    }
    if let Some(status) = &raw.status {
        fields.push(("status", status.as_ref().into()));
    }
    for (name, stamp) in [
        ("created", &raw.created),
        ("not_before", &raw.not_before),
        ("expires", &raw.expires),
        ("sunset", &raw.sunset),
    ] {
        if let Some(stamp) = stamp {
            fields.push((name, time(stamp)));
        }
    }
    if let Some(owner) = &raw.owner {
        let mut table = InlineTable::new();
        let texts = [("subject", &owner.subject), ("email", &owner.email), ("role", &owner.role)];
        for (name, text) in texts.into_iter().filter(|(_, text)| !text.is_empty()) {
            table.insert(name, text.as_ref().into());
        }
        fields.push(("owner", Value::InlineTable(table)));
    }
    for (name, text) in
        [("prefix", &raw.prefix), (KEY_PREFIX, &raw.key_prefix), ("public_id", &raw.public_id)]
    {
        if let Some(text) = text {
            fields.push((name, text.as_ref().into()));
        }
    }
    fields.push(("digest", raw.digest.as_ref().into()));
    if let Some(previous) = &raw.previous {
        let mut table = InlineTable::new();
        table.insert("digest", previous.digest.as_ref().into());
        table.insert("expires", time(&previous.expires));
        fields.push(("previous", Value::InlineTable(table)));
    }
    for (name, text) in [("replaces", &raw.replaces), ("uid", &raw.uid), ("note", &raw.note)] {
        if let Some(text) = text {
            fields.push((name, text.as_ref().into()));
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::super::entry::tests::full;
    use super::*;
    use crate::core::KeyStatus;

    fn pieces(text: &str) -> Vec<Piece> {
        let mut pieces = Pieces::new(text.as_bytes());
        std::iter::from_fn(|| pieces.advance().unwrap()).collect()
    }

    fn minimal(extra: &str) -> String {
        let digest = super::super::entry::show_digest(&crate::core::Digest::of(b"x"));
        format!("[[key]]\nid = \"key_a\"\norg = \"acme\"\ndigest = \"{digest}\"\n{extra}\n")
    }

    #[test]
    fn pieces_join_to_the_file() {
        let text = "# top\nserial = 1\n\n[[key]]\nid = 1\n# between\n [[ key ]] # x\nid = 2";
        let pieces = pieces(text);
        assert_eq!(pieces.iter().map(|p| p.line).collect::<Vec<_>>(), [1, 4, 7]);
        assert_eq!(pieces.into_iter().map(|p| p.text).collect::<String>(), text);
        assert_eq!(super::Pieces::new(&b""[..]).advance().unwrap().unwrap().text, "");
    }

    /// An older keygatectl wrote `start`, with the prefix in front.
    #[test]
    fn the_former_name_of_a_key_prefix_is_read_and_replaced_when_it_changes() {
        let piece = |text: &str| Piece { line: 7, text: text.to_owned() };
        let text = minimal("start = \"wa_live_Ab3dE5f6\" # found\nnote = \"n\"");
        let old = parse(&piece(&text), Path::new("k")).unwrap();
        assert_eq!(&*old.key_prefix, "wa_live_Ab3dE5f6");
        let disabled = RegistryEntry { status: KeyStatus::Disabled, ..old.clone() };
        let edited = edit(&text, &old, &disabled).unwrap();
        assert!(edited.contains("start = \"wa_live_Ab3dE5f6\" # found\n"), "{edited}");
        let rotated = RegistryEntry { key_prefix: "Xy9".into(), ..old.clone() };
        let edited = edit(&text, &old, &rotated).unwrap();
        assert!(edited.contains("key_prefix = \"Xy9\"\n"), "{edited}");
        assert_eq!(parse(&piece(&edited), Path::new("k")).unwrap(), rotated);

        let text = minimal(&format!("start = {:?}", "x".repeat(65)));
        let faults = parse(&piece(&text), Path::new("k")).unwrap_err();
        assert!(faults[0].to_string().contains("k:11: key_prefix"), "{}", faults[0]);
    }

    #[test]
    fn a_printed_key_is_read_again() {
        let text = print(&full());
        assert!(text.contains("created = 2026-11-21T03:00:00Z\n"), "{text}");
        let pieces = pieces(&text);
        assert_eq!(parse(&pieces[1], Path::new("k")).unwrap(), full());
    }

    #[test]
    fn an_edit_keeps_comments_and_other_lines() {
        let text = minimal("# ours\nstatus = \"active\" # for now\nnetworks = [ \"10.0.0.0/8\" ]");
        let piece = &pieces(&text)[1];
        let old = parse(piece, Path::new("k")).unwrap();
        let mut new = old.clone();
        new.status = KeyStatus::Revoked;
        new.name = "CRM".into();
        let edited = edit(&piece.text, &old, &new).unwrap();
        assert!(edited.contains("# ours\nstatus = \"revoked\" # for now\n"), "{edited}");
        assert!(edited.contains("networks = [ \"10.0.0.0/8\" ]\n"), "{edited}");
        let again = Piece { line: 1, text: edited.clone() };
        assert_eq!(parse(&again, Path::new("k")).unwrap(), new);
        new.status = KeyStatus::Active;
        let back = edit(&edited, &parse(&again, Path::new("k")).unwrap(), &new).unwrap();
        assert!(!back.contains("revoked"), "{back}");
    }

    #[test]
    fn a_plain_limit_among_the_limits_is_edited() {
        let limit = |text| super::super::words::parse_named_limit(text).unwrap();
        for extra in [
            "limits = { per-key = \"9/s\", search = \"2/s\" }",
            "[key.limits]\nper-key = \"9/s\"\nsearch = \"2/s\"",
        ] {
            let piece = &pieces(&minimal(extra))[1];
            let old = parse(piece, Path::new("k")).unwrap();
            assert_eq!(super::super::words::show_limits(&old.limits), ["9/s", "search=2/s"]);
            for limits in [vec!["8/s", "search=2/s"], vec!["search=1/s"], vec!["8/s"], vec![]] {
                let limits = crate::core::LimitSet::new(limits.into_iter().map(limit));
                let new = RegistryEntry { limits, ..old.clone() };
                let text = edit(&piece.text, &old, &new).unwrap();
                let again = parse(&Piece { line: 1, text: text.clone() }, Path::new("k"));
                assert_eq!(again.unwrap(), new, "{text}");
            }
        }
        let both = minimal("limit = \"1/s\"\nlimits = { per-key = \"2/s\" }");
        let fault = &parse(&pieces(&both)[1], Path::new("keys.toml")).unwrap_err()[0];
        assert!(fault.to_string().contains("keys.toml:6: limits: `per-key` is what"), "{fault}");
    }

    #[test]
    fn faults_name_their_line_and_no_value() {
        let cases = [
            ("unknown field", "colour = \"red\"", 5, "unknown field `colour`"),
            ("a type", "permissions = \"hunter2\"", 5, "wrong type: expected a sequence"),
            ("a word", "\nstatus = \"hunter2\"", 6, "must be `active`"),
            ("a section", "[publish]\ntable = \"x\"", 5, "before the first"),
            ("a date without a zone", "expires = 2026-11-21T00:00:00", 5, "with a zone"),
            ("an open string", "name = \"\"\"hunter2", 6, "string"),
        ];
        for (name, extra, line, why) in cases {
            let text = minimal(extra);
            let fault = &parse(&pieces(&text)[1], Path::new("keys.toml")).unwrap_err()[0];
            assert_eq!(fault.line, line, "{name}: {fault}");
            assert!(fault.to_string().contains(why), "{name}: {fault}");
            assert!(!fault.to_string().contains("hunter2"), "{name}: {fault}");
        }
    }

    #[test]
    fn a_key_header_inside_a_string_is_an_error() {
        let text = minimal("name = \"\"\"x\n[[key]]\nid = \\\"key_b\\\"\n\"\"\"");
        let pieces = pieces(&text);
        assert!(parse(&pieces[1], Path::new("k")).is_err());
    }
}
