//! The claims of an upstream credential: a JSON object of literals and of slots, each of which is a
//! whole value. Compiled once; a token consists of its pieces, one after the other. Imports `core`.

use std::collections::BTreeSet;
use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::core::{KeyView, OwnerView, Reason, Rejection};

/// A claims template, compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimsTemplate {
    pieces: Box<[Piece]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    /// Literal JSON.
    Text(Box<str>),
    Slot(ClaimSlot),
}

/// What a template can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimSlot {
    /// Unix seconds.
    Exp,
    /// Unix seconds.
    Iat,
    Org,
    OwnerEmail,
    OwnerRole,
    OwnerSubject,
    /// An array of words, empty for a key without permissions.
    Permissions,
}

/// The values for the slots.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClaimValues<'k> {
    pub(super) key: &'k KeyView<'k>,
    pub(super) owner: Option<OwnerView<'k>>,
    /// Unix seconds.
    pub(super) issued: u64,
    /// Unix seconds.
    pub(super) expires: u64,
}

/// What is wrong with a template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateFault {
    #[error("`{0}` is no slot")]
    NoSlot(String),
    #[error("`{0}` has a `$` inside: a slot is a whole value")]
    Inside(String),
    #[error("`{0}` is a name: slots stand for values")]
    Name(String),
    #[error("has `{0}` twice")]
    Twice(String),
    #[error("has no \"exp\":\"$exp\": without it a token is good for ever")]
    NoExpiry,
    #[error("is not a JSON object: {0}")]
    Syntax(String),
}

/// A value of a template before it is compiled.
enum Shape {
    Array(Vec<Shape>),
    /// A number, `true`, `false` or `null`, as JSON.
    Literal(String),
    Object(Vec<(String, Shape)>),
    Text(String),
}

// === impl ClaimSlot ===

impl ClaimSlot {
    pub const ALL: [Self; 7] = [
        Self::Exp,
        Self::Iat,
        Self::Org,
        Self::OwnerEmail,
        Self::OwnerRole,
        Self::OwnerSubject,
        Self::Permissions,
    ];

    /// As a template writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Exp => "$exp",
            Self::Iat => "$iat",
            Self::Org => "$org",
            Self::OwnerEmail => "$owner.email",
            Self::OwnerRole => "$owner.role",
            Self::OwnerSubject => "$owner.subject",
            Self::Permissions => "$permissions",
        }
    }

    /// The refusal of a request whose key has no value for it.
    pub fn rejection(self) -> Rejection {
        let name = self.as_str().trim_start_matches('$');
        let why = format!("it has no {name}");
        let advice = format!("use a key that was issued with {name}, or have it added to this one");
        Rejection::told(Reason::NoUpstreamIdentity, why, advice)
    }

    /// `None`: the key has no value for it.
    fn text<'k>(self, key: &KeyView<'k>, owner: Option<&OwnerView<'k>>) -> Option<&'k str> {
        let text = match self {
            Self::OwnerEmail => owner?.email,
            Self::OwnerRole => owner?.role,
            Self::OwnerSubject => owner?.subject,
            // These always have one.
            Self::Org | Self::Exp | Self::Iat | Self::Permissions => key.org,
        };
        (!text.is_empty()).then_some(text)
    }
}

// === impl ClaimsTemplate ===

impl ClaimsTemplate {
    /// # Errors
    /// See [`TemplateFault`].
    pub fn parse(text: &str) -> Result<Self, TemplateFault> {
        let shape: Shape =
            serde_json::from_str(text).map_err(|e| match e.to_string().strip_prefix(TWICE) {
                Some(name) => TemplateFault::Twice(name.split('\n').next().unwrap_or("").into()),
                None => TemplateFault::Syntax(e.to_string()),
            })?;
        let Shape::Object(claims) = &shape else {
            return Err(TemplateFault::Syntax("it is another value".to_owned()));
        };
        let is_expiry = |(name, value): &(String, Shape)| {
            name == "exp" && matches!(value, Shape::Text(text) if text == ClaimSlot::Exp.as_str())
        };
        if !claims.iter().any(is_expiry) {
            return Err(TemplateFault::NoExpiry);
        }
        let mut compiled = Compiled::default();
        compiled.put(&shape)?;
        Ok(Self { pieces: compiled.finish() })
    }

    /// The slots that this key has no value for. If there are none, a token can be made for it.
    pub fn missing<'t>(
        &'t self,
        key: &'t KeyView<'_>,
        owner: Option<OwnerView<'t>>,
    ) -> impl Iterator<Item = ClaimSlot> + 't {
        self.slots().filter(move |slot| slot.text(key, owner.as_ref()).is_none())
    }

    fn slots(&self) -> impl Iterator<Item = ClaimSlot> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Slot(slot) => Some(*slot),
            Piece::Text(_) => None,
        })
    }

    /// The claims as JSON.
    ///
    /// # Errors
    /// The slot that has no value.
    pub(super) fn render(&self, values: &ClaimValues<'_>) -> Result<String, ClaimSlot> {
        let mut json = String::with_capacity(256);
        for piece in &self.pieces {
            let slot = match piece {
                Piece::Text(text) => {
                    json.push_str(text);
                    continue;
                }
                Piece::Slot(slot) => *slot,
            };
            let text = slot.text(values.key, values.owner.as_ref()).ok_or(slot)?;
            match slot {
                ClaimSlot::Exp => json.push_str(itoa::Buffer::new().format(values.expires)),
                ClaimSlot::Iat => json.push_str(itoa::Buffer::new().format(values.issued)),
                ClaimSlot::Permissions => {
                    let words = values.key.grant.permissions.iter();
                    let words: Vec<_> = words.map(|word| quoted(word.as_str())).collect();
                    json.push('[');
                    json.push_str(&words.join(","));
                    json.push(']');
                }
                _ => json.push_str(&quoted(text)),
            }
        }
        Ok(json)
    }
}

/// As a JSON string.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The pieces so far; consecutive texts are merged.
#[derive(Default)]
struct Compiled {
    pieces: Vec<Piece>,
    text: String,
}

// === impl Compiled ===

impl Compiled {
    fn put(&mut self, shape: &Shape) -> Result<(), TemplateFault> {
        match shape {
            Shape::Literal(json) => self.text.push_str(json),
            Shape::Text(text) => match slot_or_text(text)? {
                Ok(slot) => {
                    let before = std::mem::take(&mut self.text);
                    self.pieces.push(Piece::Text(before.into()));
                    self.pieces.push(Piece::Slot(slot));
                }
                Err(text) => self.text.push_str(&quoted(&text)),
            },
            Shape::Array(items) => {
                self.text.push('[');
                for (at, item) in items.iter().enumerate() {
                    if at > 0 {
                        self.text.push(',');
                    }
                    self.put(item)?;
                }
                self.text.push(']');
            }
            Shape::Object(members) => {
                self.text.push('{');
                for (at, (name, value)) in members.iter().enumerate() {
                    if at > 0 {
                        self.text.push(',');
                    }
                    if name.starts_with('$') {
                        return Err(TemplateFault::Name(name.clone()));
                    }
                    self.text.push_str(&quoted(name));
                    self.text.push(':');
                    self.put(value)?;
                }
                self.text.push('}');
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Box<[Piece]> {
        self.pieces.push(Piece::Text(self.text.into()));
        self.pieces.into()
    }
}

/// A slot, or literal text: `$$` is a dollar sign.
fn slot_or_text(text: &str) -> Result<Result<ClaimSlot, String>, TemplateFault> {
    if let Some(slot) = ClaimSlot::ALL.into_iter().find(|slot| slot.as_str() == text) {
        return Ok(Ok(slot));
    }
    match text.replace("$$", "") {
        rest if !rest.contains('$') => Ok(Err(text.replace("$$", "$"))),
        rest if rest.len() == text.len() && text.rfind('$') == Some(0) => {
            Err(TemplateFault::NoSlot(text.to_owned()))
        }
        _ => Err(TemplateFault::Inside(text.to_owned())),
    }
}

/// Begins the message about a name that an object has twice: a reader would choose one of the two.
const TWICE: &str = "twice: ";

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ShapeVisitor)
    }
}

struct ShapeVisitor;

impl<'de> Visitor<'de> for ShapeVisitor {
    type Value = Shape;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Shape, E> {
        Ok(Shape::Literal(value.to_string()))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Shape, E> {
        Ok(Shape::Literal(value.to_string()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Shape, E> {
        Ok(Shape::Literal(value.to_string()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Shape, E> {
        Ok(Shape::Literal(serde_json::Value::from(value).to_string()))
    }

    fn visit_unit<E: de::Error>(self) -> Result<Shape, E> {
        Ok(Shape::Literal("null".to_owned()))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Shape, E> {
        Ok(Shape::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Shape, A::Error> {
        let mut shapes = Vec::new();
        while let Some(item) = items.next_element()? {
            shapes.push(item);
        }
        Ok(Shape::Array(shapes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Shape, A::Error> {
        let (mut shapes, mut names) = (Vec::new(), BTreeSet::new());
        while let Some((name, value)) = members.next_entry::<String, Shape>()? {
            if !names.insert(name.clone()) {
                return Err(de::Error::custom(format!("{TWICE}{name}\n")));
            }
            shapes.push((name, value));
        }
        Ok(Shape::Object(shapes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults() {
        let syntax =
            |text: &str| matches!(ClaimsTemplate::parse(text), Err(TemplateFault::Syntax(_)));
        for text in ["", "{", "[]", "\"$org\"", "{\"exp\":$exp}", "{\"exp\":\"$exp\",}", "{} {}"] {
            assert!(syntax(text), "{text}: {:?}", ClaimsTemplate::parse(text));
        }
        let fault = |claims: &str| {
            ClaimsTemplate::parse(&format!("{{{claims},\"exp\":\"$exp\"}}")).unwrap_err()
        };
        assert_eq!(fault(r#""a":"$owner.mail""#), TemplateFault::NoSlot("$owner.mail".into()));
        assert_eq!(fault(r#""a":"$""#), TemplateFault::NoSlot("$".into()));
        assert_eq!(fault(r#""a":["user-$org"]"#), TemplateFault::Inside("user-$org".into()));
        assert_eq!(fault(r#""a":"$org$org""#), TemplateFault::Inside("$org$org".into()));
        assert_eq!(fault(r#""$org":1"#), TemplateFault::Name("$org".into()));
        assert_eq!(fault(r#""a":{"b":1,"b":2}"#), TemplateFault::Twice("b".into()));
        for text in [r#"{"sub":"$org"}"#, r#"{"exp":1}"#, r#"{"a":{"exp":"$exp"}}"#, "{}"] {
            assert_eq!(ClaimsTemplate::parse(text), Err(TemplateFault::NoExpiry), "{text}");
        }
    }
}
