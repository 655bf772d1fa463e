//! What a request asks for, read through its skeleton. Members that the skeleton does not name are
//! ignored, as the products that document these endpoints do: their clients send more than they
//! read. Imports core and what manage parses.

use ipnet::IpNet;
use serde_json::Value as Json;

use super::super::code::{DialectCode, DialectError};
use super::scan::{Shape, scan};
use super::slot::{Slot, SlotForm, SlotKind, SlotMark, SlotOrText};
use super::{SkeletonFault, SkeletonUse};
use crate::core::address::parse_network;
use crate::core::{Environment, Permission};
use crate::manage::time::{self, When};
use crate::wording::visible::has_visible;

/// The compiled body of a request: where each value is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestSkeleton {
    fields: Vec<RequestField>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct RequestField {
    /// Names of members from the outside in.
    path: Vec<Box<str>>,
    slot: Slot,
}

/// What a request asks for about a key. `None`: it leaves that out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AskedKey {
    pub name: Option<String>,
    /// `null` is [`When::Never`].
    pub expires: Option<When>,
    pub permissions: Option<Vec<Permission>>,
    pub networks: Option<Vec<IpNet>>,
    /// `Some(None)`: it is `null`.
    pub environment: Option<Option<Environment>>,
}

// === impl RequestSkeleton ===

impl RequestSkeleton {
    /// Compiles the body of a request: an object of slots, and of objects of slots.
    ///
    /// # Errors
    ///
    /// See [`SkeletonFault`].
    pub fn parse(text: &str, used: SkeletonUse) -> Result<Self, SkeletonFault> {
        let shape = scan(text)?;
        let mut fields = Vec::new();
        match &shape {
            Shape::Object(_) => gather(&shape, used, &mut Vec::new(), &mut fields)?,
            Shape::Literal(text) if text.starts_with('{') => {}
            _ => return Err(SkeletonFault::NoObject),
        }
        for (at, field) in fields.iter().enumerate() {
            if fields.iter().take(at).any(|other| other.slot.kind == field.slot.kind) {
                let slot = format!("${}", field.slot.kind.as_str());
                return Err(SkeletonFault::Twice(slot.into()));
            }
        }
        Ok(Self { fields })
    }

    /// Whether requests can state this.
    pub fn asks_for(&self, kind: SlotKind) -> bool {
        self.fields.iter().any(|field| field.slot.kind == kind)
    }

    /// What `body` asks for. An empty body leaves everything out.
    ///
    /// # Errors
    ///
    /// The first value that is missing, or does not fit its slot.
    pub fn read(&self, body: &[u8]) -> Result<AskedKey, DialectError> {
        let mut asked = AskedKey::default();
        let body = body.trim_ascii();
        if self.fields.is_empty() {
            return Ok(asked);
        }
        let json: Json = match body.is_empty() {
            true => Json::Object(serde_json::Map::new()),
            false => {
                serde_json::from_slice(body).map_err(|_| DialectError::of(DialectCode::BadBody))?
            }
        };
        if !json.is_object() {
            return Err(DialectError::of(DialectCode::BadBody));
        }
        for field in &self.fields {
            field.read(&json, &mut asked)?;
        }
        Ok(asked)
    }
}

fn gather(
    shape: &Shape,
    used: SkeletonUse,
    path: &mut Vec<Box<str>>,
    fields: &mut Vec<RequestField>,
) -> Result<(), SkeletonFault> {
    match shape {
        Shape::Object(members) => {
            for member in members {
                if member.name.starts_with('$') {
                    return Err(SkeletonFault::Name(member.name.clone()));
                }
                path.push(member.name.clone());
                gather(&member.value, used, path, fields)?;
                path.pop();
            }
            Ok(())
        }
        Shape::Text { meant, .. } => match SlotOrText::parse(meant)? {
            SlotOrText::Slot(slot) => {
                used.check(slot, meant)?;
                fields.push(RequestField { path: path.clone(), slot });
                Ok(())
            }
            _ => Err(SkeletonFault::NoSlotInRequest(meant.clone())),
        },
        Shape::Literal(text) => Err(SkeletonFault::NoSlotInRequest(text.clone())),
        Shape::Array(_) => Err(SkeletonFault::NoSlotInRequest("[…]".into())),
    }
}

// === impl RequestField ===

impl RequestField {
    fn read(&self, json: &Json, asked: &mut AskedKey) -> Result<(), DialectError> {
        let mut found = Some(json);
        for name in &self.path {
            found = found.and_then(|json| json.get(&**name));
        }
        // An empty text counts as missing: forms send it for fields that nobody has filled in.
        let is_blank = |json: &Json| json.is_null() || json.as_str().is_some_and(str::is_empty);
        let is_unseen = |json: &Json| {
            is_blank(json)
                || self.slot.kind == SlotKind::Name
                    && json.as_str().is_some_and(|name| !has_visible(name))
        };
        if self.slot.mark == SlotMark::Required && found.is_none_or(is_unseen) {
            return Err(DialectError::of(missing(self.slot.kind)));
        }
        let Some(json) = found else { return Ok(()) };
        match self.slot.kind {
            SlotKind::Name => {
                let text = json.as_str().ok_or(DialectError::of(DialectCode::BadName));
                if !json.is_null() {
                    asked.name = Some(text?.to_owned());
                }
            }
            SlotKind::Expires => asked.expires = Some(self.time(json)?),
            SlotKind::Permissions => {
                asked.permissions = Some(self.words(json, |word| Permission::parse(word).ok())?);
            }
            SlotKind::Networks => {
                asked.networks = Some(self.words(json, |word| parse_network(word).ok())?);
            }
            SlotKind::Environment => {
                asked.environment = Some(match json.as_str() {
                    _ if is_blank(json) => None,
                    Some(word) => {
                        let environment = Environment::parse(word).ok();
                        let code = DialectCode::BadEnvironment;
                        Some(environment.ok_or_else(|| DialectError::told(code, word))?)
                    }
                    None => return Err(DialectError::of(DialectCode::BadEnvironment)),
                });
            }
            // A request has no other slots.
            _ => {}
        }
        Ok(())
    }

    fn time(&self, json: &Json) -> Result<When, DialectError> {
        let bad = || DialectError::of(DialectCode::BadExpiry);
        match self.slot.form {
            _ if json.is_null() => Ok(When::Never),
            SlotForm::Unix => json.as_u64().map(When::At).ok_or_else(bad),
            SlotForm::UnixMs => json.as_u64().map(|ms| When::At(ms / 1000)).ok_or_else(bad),
            _ => match json.as_str().ok_or_else(bad)? {
                "" => Ok(When::Never),
                text => time::instant(text).map(When::At).map_err(|_| bad()),
            },
        }
    }

    /// A list of words; `null` counts as an empty one.
    fn words<T>(
        &self,
        json: &Json,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Vec<T>, DialectError> {
        let code = missing(self.slot.kind);
        if json.is_null() {
            return Ok(Vec::new());
        }
        let list = json.as_array().ok_or(DialectError::of(code))?;
        let word = |json: &Json| {
            let text = json.as_str().ok_or(DialectError::of(code))?;
            parse(text).ok_or_else(|| DialectError::told(code, text))
        };
        list.iter().map(word).collect()
    }
}

/// The error for a request that lacks a value.
const fn missing(kind: SlotKind) -> DialectCode {
    match kind {
        SlotKind::Name => DialectCode::NameMissing,
        SlotKind::Expires => DialectCode::BadExpiry,
        SlotKind::Permissions => DialectCode::BadPermissions,
        SlotKind::Networks => DialectCode::BadNetworks,
        SlotKind::Environment => DialectCode::BadEnvironment,
        _ => DialectCode::BadBody,
    }
}
