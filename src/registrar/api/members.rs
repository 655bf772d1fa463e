//! Bodies of requests: JSON objects whose members are read one by one, so that all faults are
//! reported together, each with its place. A member that no code has read is unknown, and is
//! refused: a misspelled restriction must not be ignored.

use std::fmt;

use serde_json::{Map, Value};

use super::problem::{ApiProblem, ProblemFault};

/// The longest list in a request.
const MOST: usize = 256;

/// The members of one object that have not been read yet, and the faults of those that have.
#[derive(Debug)]
pub struct BodyMembers {
    left: Map<String, Value>,
    /// JSON pointer to the object, without `/` at the end.
    place: String,
    faults: Vec<ProblemFault>,
}

/// The content of one member of a merge patch (RFC 7396).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Patched<T> {
    /// Nothing: it stays.
    Kept,
    /// `null`.
    Removed,
    Set(T),
}

// === impl BodyMembers ===

impl BodyMembers {
    /// Reads a body, which is an object or, where the request needs nothing, empty.
    pub fn read(body: &[u8]) -> Result<Self, ApiProblem> {
        let unreadable = |why: String| ApiProblem::unreadable(vec![ProblemFault::at("", why)]);
        let left = match serde_json::from_slice::<UniqueMembers>(body) {
            _ if body.is_empty() => Map::new(),
            Ok(UniqueMembers(members)) => members,
            // Its messages name line, column and types, but never the content of the body.
            Err(error) if error.is_data() => {
                return Err(unreadable(
                    "must be a JSON object whose members are there once".into(),
                ));
            }
            Err(error) => {
                let place = format!("line {}, column {}", error.line(), error.column());
                return Err(unreadable(format!("is no JSON: {place}")));
            }
        };
        Ok(Self { left, place: String::new(), faults: Vec::new() })
    }

    /// A text, parsed.
    pub fn text<T, E: fmt::Display>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Patched<T> {
        self.value(name, |value| match value.as_str() {
            Some(text) => parse(text).map_err(|why| why.to_string()),
            None => Err("must be a text".to_owned()),
        })
    }

    /// A text that must not be null.
    pub fn some_text<T, E: fmt::Display>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let found = self.text(name, parse);
        self.not_null(name, found)
    }

    /// `true` or `false`; left out, it is false.
    pub fn flag(&mut self, name: &str) -> bool {
        matches!(self.boolean(name), Patched::Set(true))
    }

    /// `true` or `false`.
    pub fn boolean(&mut self, name: &str) -> Patched<bool> {
        self.value(name, |value| value.as_bool().ok_or("must be true or false".to_owned()))
    }

    /// A whole number of at least `least`.
    pub fn number(&mut self, name: &str, least: u64) -> Patched<u64> {
        self.value(name, |value| match value.as_u64().filter(|number| *number >= least) {
            Some(number) => Ok(number),
            None => Err(format!("must be a whole number of at least {least}")),
        })
    }

    /// A list of texts, each parsed.
    pub fn list<T, E: fmt::Display>(
        &mut self,
        name: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Patched<Vec<T>> {
        let Some(value) = self.left.remove(name) else { return Patched::Kept };
        if value.is_null() {
            return Patched::Removed;
        }
        let place = self.pointer(name);
        let Some(items) = value.as_array().filter(|items| items.len() <= MOST) else {
            let why = format!("must be a list of at most {MOST} texts");
            self.faults.push(ProblemFault::at(place, why));
            return Patched::Kept;
        };
        let mut found = Vec::with_capacity(items.len());
        for (at, item) in items.iter().enumerate() {
            let parsed = match item.as_str() {
                Some(text) => parse(text).map_err(|why| why.to_string()),
                None => Err("must be a text".to_owned()),
            };
            match parsed {
                Ok(item) => found.push(item),
                Err(why) => self.faults.push(ProblemFault::at(format!("{place}/{at}"), why)),
            }
        }
        Patched::Set(found)
    }

    /// An object, whose members `read` takes.
    pub fn object<T>(&mut self, name: &str, read: impl FnOnce(&mut Self) -> T) -> Patched<T> {
        let place = self.pointer(name);
        let members = match self.left.remove(name) {
            None => return Patched::Kept,
            Some(Value::Null) => return Patched::Removed,
            Some(Value::Object(members)) if members.len() <= MOST => members,
            Some(_) => {
                let why = format!("must be an object of at most {MOST} members");
                self.faults.push(ProblemFault::at(place, why));
                return Patched::Kept;
            }
        };
        let mut inner = Self { left: members, place, faults: Vec::new() };
        let found = read(&mut inner);
        self.faults.extend(inner.all_faults());
        Patched::Set(found)
    }

    /// Every member of an object of texts: those without a fixed name.
    pub fn each<T, E: fmt::Display>(
        &mut self,
        parse: impl Fn(&str, Option<&str>) -> Result<T, E>,
    ) -> Vec<T> {
        let mut found = Vec::new();
        for (name, value) in std::mem::take(&mut self.left) {
            let parsed = match &value {
                Value::Null => parse(&name, None).map_err(|why| why.to_string()),
                Value::String(text) => parse(&name, Some(text)).map_err(|why| why.to_string()),
                _ => Err("must be a text or null".to_owned()),
            };
            match parsed {
                Ok(item) => found.push(item),
                Err(why) => self.fault(&name, why),
            }
        }
        found
    }

    /// Whether nothing has been wrong so far.
    pub fn is_sound(&self) -> bool {
        self.faults.is_empty()
    }

    pub fn fault(&mut self, name: &str, why: impl Into<String>) {
        let place = self.pointer(name);
        self.faults.push(ProblemFault::at(place, why));
    }

    /// The value of a member that must not be null.
    pub fn not_null<T>(&mut self, name: &str, found: Patched<T>) -> Option<T> {
        match found {
            Patched::Set(value) => Some(value),
            Patched::Kept => None,
            Patched::Removed => {
                self.fault(name, "must not be null");
                None
            }
        }
    }

    /// `made`, if no member was wrong and none is left unread.
    pub fn end<T>(self, made: T) -> Result<T, ApiProblem> {
        let faults = self.all_faults();
        if faults.is_empty() { Ok(made) } else { Err(ApiProblem::invalid(faults)) }
    }

    fn value<T>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&Value) -> Result<T, String>,
    ) -> Patched<T> {
        match self.left.remove(name) {
            None => Patched::Kept,
            Some(Value::Null) => Patched::Removed,
            Some(value) => match parse(&value) {
                Ok(value) => Patched::Set(value),
                Err(why) => {
                    self.fault(name, why);
                    Patched::Kept
                }
            },
        }
    }

    fn all_faults(mut self) -> Vec<ProblemFault> {
        let unknown: Vec<_> = self.left.keys().map(|name| self.pointer(name)).collect();
        let unknown = unknown.into_iter().map(|place| ProblemFault::at(place, "is unknown"));
        self.faults.extend(unknown);
        self.faults
    }

    /// RFC 6901, section 3.
    fn pointer(&self, name: &str) -> String {
        // The text about a fault must not grow with the request.
        let name: String = name.chars().take(64).collect();
        format!("{}/{}", self.place, name.replace('~', "~0").replace('/', "~1"))
    }
}

/// An object without duplicate members: parsers disagree about which of two counts.
struct UniqueMembers(Map<String, Value>);

impl<'de> serde::Deserialize<'de> for UniqueMembers {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(MembersOnce)
    }
}

struct MembersOnce;

impl<'de> serde::de::Visitor<'de> for MembersOnce {
    type Value = UniqueMembers;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: serde::de::MapAccess<'de>>(
        self,
        mut map: A,
    ) -> Result<UniqueMembers, A::Error> {
        let mut members = Map::new();
        while let Some((name, value)) = map.next_entry::<String, Value>()? {
            if members.insert(name, value).is_some() {
                return Err(serde::de::Error::custom("a member is there twice"));
            }
        }
        Ok(UniqueMembers(members))
    }
}

// === impl Patched ===

impl<T> Patched<T> {
    /// The value, if one is set.
    pub fn set(self) -> Option<T> {
        match self {
            Self::Set(value) => Some(value),
            Self::Kept | Self::Removed => None,
        }
    }

    pub fn map<U>(self, with: impl FnOnce(T) -> U) -> Patched<U> {
        match self {
            Self::Kept => Patched::Kept,
            Self::Removed => Patched::Removed,
            Self::Set(value) => Patched::Set(with(value)),
        }
    }

    /// Replaces the present value, unless the patch keeps it.
    pub fn put_into(self, place: &mut Option<T>) {
        match self {
            Self::Kept => {}
            Self::Removed => *place = None,
            Self::Set(value) => *place = Some(value),
        }
    }

    /// The value for something new: null becomes `null`.
    pub fn or_null(self, null: T) -> Option<T> {
        match self {
            Self::Set(value) => Some(value),
            Self::Removed => Some(null),
            Self::Kept => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::Permission;

    fn faults(body: &str) -> Vec<String> {
        let mut members = match BodyMembers::read(body.as_bytes()) {
            Ok(members) => members,
            Err(problem) => return vec![format!("{:?}", problem.code())],
        };
        members.some_text("name", |text| Ok::<_, String>(text.to_owned()));
        members.list("permissions", Permission::parse);
        members.object("owner", |owner| {
            owner.text("subject", |text| Ok::<_, String>(text.to_owned()))
        });
        let faults = members.all_faults();
        faults.into_iter().map(|f| f.pointer.unwrap_or_default()).collect()
    }

    #[test]
    fn every_fault_is_told_with_its_place() {
        for (body, want) in [
            ("", vec![]),
            (r#"{"name":"a","permissions":["x"],"owner":{"subject":"s"}}"#, vec![]),
            (r#"{"owner":null,"permissions":null}"#, vec![]),
            (r#"{"name":null}"#, vec!["/name"]),
            (
                r#"{"name":1,"permissions":["x","a b",3]}"#,
                vec!["/name", "/permissions/1", "/permissions/2"],
            ),
            (r#"{"nmae":"a","a/b~c":1}"#, vec!["/a~1b~0c", "/nmae"]),
            (r#"{"owner":{"subject":2,"rule":3}}"#, vec!["/owner/subject", "/owner/rule"]),
            (r#"{"owner":[]}"#, vec!["/owner"]),
            (r#"{"name":"a","name":"b"}"#, vec!["InvalidRequest"]),
            ("[]", vec!["InvalidRequest"]),
            ("null", vec!["InvalidRequest"]),
            ("{", vec!["InvalidRequest"]),
            (r#"{} {}"#, vec!["InvalidRequest"]),
        ] {
            let mut found = faults(body);
            let mut want: Vec<String> = want.into_iter().map(str::to_owned).collect();
            found.sort();
            want.sort();
            assert_eq!(found, want, "{body}");
        }
    }
}
