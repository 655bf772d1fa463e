//! YAML, and so JSON, of other programs, with the line of every value.

use std::fmt;
use std::io::BufRead;
use std::path::Path;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::options::NonFiniteFloatPolicy;
use serde_saphyr::{Options, Spanned};
use zeroize::Zeroizing;

use super::super::super::error::{Error, FileFault, Result};
use super::text;

/// A value and its line, from 1.
#[derive(Clone, Debug)]
pub struct Yaml {
    pub line: u64,
    is: Is,
}

#[derive(Clone, Debug)]
enum Is {
    Bool(bool),
    List(Vec<Yaml>),
    Map(Vec<(String, Yaml)>),
    Null,
    Number(f64),
    Text(Zeroizing<String>),
}

/// The documents of a file. The parser's message would quote the text, so only the line of the
/// fault is taken from it.
pub fn documents(source: &mut dyn BufRead, path: &Path) -> Result<Vec<Yaml>> {
    let text = text::whole(source, path)?;
    let mut options = Options::default();
    options.with_snippet = false;
    // A hexadecimal key such as `7e9123` parses as a number beyond all bounds.
    options.non_finite_float_policy = NonFiniteFloatPolicy::PassThrough;
    // `!vault` and the like: the text is not the value but a reference to it.
    options.reject_unsupported_tags = true;
    if let Some(budget) = &mut options.budget {
        // The file is bounded, and so are aliases; these budgets are for documents with many keys.
        budget.max_events = 100_000_000;
        budget.max_nodes = 100_000_000;
        budget.max_documents = 10_000_000;
        budget.max_total_scalar_bytes = text::MAX_BYTES as usize;
    }
    serde_saphyr::from_multiple_with_options::<Yaml>(&text, options).map_err(|e| {
        let line = e.location().map_or(0, |location| location.line());
        let (why, hint) = match e {
            serde_saphyr::Error::DuplicateMappingKey { .. } => {
                ("a name stands twice in one mapping", "remove one of the two")
            }
            serde_saphyr::Error::UnsupportedTag { .. } => {
                ("has a tag that keygatectl does not know", "write the value itself, without a tag")
            }
            serde_saphyr::Error::BinaryNotUtf8 { .. }
            | serde_saphyr::Error::InvalidBinaryBase64 { .. } => {
                ("is `!!binary` and no text", "write the value itself, as text in quotes")
            }
            _ => (reason(&text, line), "--format says what the file is"),
        };
        Error::fault(FileFault::new(path, line, "", why), hint)
    })
}

/// A value of a different kind from what belongs there. A restriction of such a shape is unknown,
/// and so must never count as absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Misshapen;

/// The items of what may be a list; an absent value is an empty list.
pub fn list_of(value: Option<&Yaml>) -> std::result::Result<&[Yaml], Misshapen> {
    match value.map(|value| &value.is) {
        None | Some(Is::Null) => Ok(&[]),
        Some(Is::List(items)) => Ok(items),
        Some(_) => Err(Misshapen),
    }
}

/// Why a text is not YAML, as far as we can tell without quoting from it.
fn reason(text: &str, line: u64) -> &'static str {
    let at = usize::try_from(line).unwrap_or_default().saturating_sub(1);
    let near = text.lines().skip(at.saturating_sub(1)).take(2);
    let indented = |line: &str| line.chars().take_while(|c| c.is_whitespace()).any(|c| c == '\t');
    if near.clone().any(indented) {
        "is not YAML that can be read: a tab stands in the indentation"
    } else if text.contains(|c: char| c.is_control() && !matches!(c, '\n' | '\t')) {
        "is not YAML that can be read: it has control characters"
    } else {
        "is not YAML that can be read: a bracket, a quote or the indentation near here is wrong"
    }
}

// === impl Yaml ===

impl Yaml {
    /// The value of `name`; `null` counts as absent.
    pub fn get(&self, name: &str) -> Option<&Self> {
        let (_, value) = self.entries().find(|(known, _)| *known == name)?;
        (!value.is_null()).then_some(value)
    }

    /// Follows a path of names.
    pub fn at(&self, names: &[&str]) -> Option<&Self> {
        names.iter().try_fold(self, |value, name| value.get(name))
    }

    /// Names and values, in the order of the file.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &Self)> {
        let entries = match &self.is {
            Is::Map(entries) => entries.as_slice(),
            _ => &[],
        };
        entries.iter().map(|(name, value)| (name.as_str(), value))
    }

    pub fn items(&self) -> &[Self] {
        match &self.is {
            Is::List(items) => items,
            _ => &[],
        }
    }

    /// The list under `name`.
    pub fn list(&self, name: &str) -> &[Self] {
        self.get(name).map_or(&[], Self::items)
    }

    pub fn as_text(&self) -> Option<&str> {
        match &self.is {
            Is::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The text under `name`, or nothing.
    pub fn text(&self, name: &str) -> &str {
        self.get(name).and_then(Self::as_text).unwrap_or_default()
    }

    /// A name or an id: a text, or a whole number as its digits.
    pub fn word(&self) -> Option<String> {
        match &self.is {
            Is::Text(text) if !text.is_empty() => Some(text.to_string()),
            Is::Number(_) => self.whole().map(|number| number.to_string()),
            _ => None,
        }
    }

    pub const fn is_list(&self) -> bool {
        matches!(self.is, Is::List(_))
    }

    /// Whether it is neither a list nor a mapping with content, nor any other value.
    pub fn is_empty(&self) -> bool {
        match &self.is {
            Is::Null => true,
            Is::List(items) => items.is_empty(),
            Is::Map(entries) => entries.is_empty(),
            _ => false,
        }
    }

    /// A whole number of seconds, also as the text that a template leaves.
    pub fn seconds(&self) -> std::result::Result<u64, Misshapen> {
        let digits = |text: &&str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let written = || self.as_text().filter(digits).and_then(|text| text.parse().ok());
        self.whole().or_else(written).ok_or(Misshapen)
    }

    pub const fn is_number(&self) -> bool {
        matches!(self.is, Is::Number(_))
    }

    pub const fn is_true(&self) -> bool {
        matches!(self.is, Is::Bool(true))
    }

    pub const fn is_map(&self) -> bool {
        matches!(self.is, Is::Map(_))
    }

    pub const fn is_null(&self) -> bool {
        matches!(self.is, Is::Null)
    }

    /// A whole number that is not negative.
    pub fn whole(&self) -> Option<u64> {
        match self.is {
            Is::Number(n) if (0.0..=9e15).contains(&n) && n.fract() == 0.0 => Some(n as u64),
            _ => None,
        }
    }

    /// The whole number under `name`.
    pub fn count(&self, name: &str) -> Option<u64> {
        self.get(name).and_then(Self::whole)
    }

    pub fn number(&self, name: &str) -> Option<f64> {
        match self.get(name)?.is {
            Is::Number(number) => Some(number),
            _ => None,
        }
    }

    /// Whether `name` is there and has the value `yes`.
    pub fn says(&self, name: &str, yes: &str) -> bool {
        match (self.get(name).map(|value| &value.is), yes) {
            (Some(Is::Bool(is)), _) => is.to_string() == yes,
            (Some(Is::Text(text)), _) => text.as_str() == yes,
            _ => false,
        }
    }
}

impl<'de> Deserialize<'de> for Yaml {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        let Spanned { value, referenced, .. } = Spanned::<Is>::deserialize(from)?;
        Ok(Self { line: referenced.line(), is: value })
    }
}

impl<'de> Deserialize<'de> for Is {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        from.deserialize_any(Any)
    }
}

struct Any;

impl<'de> Visitor<'de> for Any {
    type Value = Is;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E>(self, value: bool) -> std::result::Result<Is, E> {
        Ok(Is::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> std::result::Result<Is, E> {
        Ok(Is::Number(value as f64))
    }

    fn visit_u64<E>(self, value: u64) -> std::result::Result<Is, E> {
        Ok(Is::Number(value as f64))
    }

    fn visit_f64<E>(self, value: f64) -> std::result::Result<Is, E> {
        Ok(Is::Number(value))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> std::result::Result<Is, E> {
        Ok(Is::Text(Zeroizing::new(value.to_owned())))
    }

    fn visit_string<E: de::Error>(self, value: String) -> std::result::Result<Is, E> {
        Ok(Is::Text(Zeroizing::new(value)))
    }

    fn visit_unit<E>(self) -> std::result::Result<Is, E> {
        Ok(Is::Null)
    }

    fn visit_none<E>(self) -> std::result::Result<Is, E> {
        Ok(Is::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, from: D) -> std::result::Result<Is, D::Error> {
        Is::deserialize(from)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> std::result::Result<Is, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = from.next_element()? {
            items.push(item);
        }
        Ok(Is::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> std::result::Result<Is, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = from.next_entry()? {
            entries.push(entry);
        }
        Ok(Is::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Yaml {
        documents(&mut text.as_bytes(), Path::new("f")).unwrap().remove(0)
    }

    #[test]
    fn every_value_knows_its_line() {
        let text = "a:\r\n- b: 1\r\n  c: x\r\n-\r\n  d: &e why\r\nf: *e\r\n";
        let yaml = read(text);
        let list = yaml.list("a");
        assert_eq!((list[0].get("b").unwrap().line, list[0].get("c").unwrap().line), (2, 3));
        assert_eq!(list[1].get("d").unwrap().line, 5);
        assert_eq!((yaml.get("f").unwrap().line, yaml.text("f")), (6, "why"), "where it is used");
    }

    #[test]
    fn numbers_of_any_size_are_numbers() {
        let numbers =
            ["1", "1e999", ".inf", "7e9123456789012345", "-3", "0.5", "12345678901234567890"];
        for number in numbers {
            let yaml = read(&format!("a: {number}\nb: \"{number}\"\n"));
            assert!(yaml.get("a").unwrap().is_number(), "{number}");
            assert_eq!(yaml.text("b"), number);
        }
        assert_eq!(read("a: 7").count("a"), Some(7));
        assert_eq!(read("a: 0.5").count("a"), None);
    }

    /// A tag is obeyed, or the file is refused: a text is never taken for the secret that it merely
    /// refers to.
    #[test]
    fn tags_are_obeyed_or_refused() {
        for value in [
            "!!binary aHVudGVyMg==",
            "!!binary \"aHVudGVyMg==\"",
            "!!binary |\n  aHVudGVyMg==\n",
            "!<tag:yaml.org,2002:binary> aHVudGVyMg==",
            "!!str hunter2",
            "hunter2",
        ] {
            for text in [
                format!("a: {value}\n"),
                format!("a: &b {value}\n"),
                format!("%TAG !y! tag:yaml.org,2002:\n---\na: {}\n", value.replace("!!", "!y!")),
            ] {
                assert_eq!(read(&text).text("a"), "hunter2", "{text}");
            }
        }
        for value in [
            "!!binary hunter2!",
            "!!binary /w==",
            "!vault aHVudGVyMg==",
            "!vault |\n  aHVudGVyMg==\n",
            "!Base64 aHVudGVyMg==",
            "!!custom hunter2",
        ] {
            let text = format!("b: 1\na: {value}\n");
            let told = documents(&mut text.as_bytes(), Path::new("f")).unwrap_err().to_string();
            // The tag of a block is found where its text begins.
            let line = if value.contains('|') { "f:3: " } else { "f:2: " };
            assert!(told.contains(line), "{value}: {told}");
            assert!(!told.contains("hunter2") && !told.contains("aHVu"), "{told}");
        }
    }

    #[test]
    fn a_fault_names_its_line_and_quotes_nothing() {
        for (text, want) in [
            ("a: 1\nb: [unclosed hunter2", "is not YAML"),
            ("a: hunter2\nb: 1\na: hunter2\n", "f:3: a name stands twice"),
        ] {
            let told = documents(&mut text.as_bytes(), Path::new("f")).unwrap_err().to_string();
            assert!(told.contains(want) && !told.contains("hunter2"), "{told}");
        }
    }
}
