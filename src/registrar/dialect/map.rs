//! What a documented endpoint answers and accepts: JSON skeletons with slots, compiled when the
//! service starts. PURE: turns a skeleton and a key into bytes, and bytes of a request into what it
//! asks for.
//!
//! A skeleton's order and bytes are kept, including white space: a product's clients compare more
//! than its authors think. Imports core, the rows of the store, and what manage parses.

mod request;
mod scan;
mod slot;
#[cfg(test)]
mod tests;

pub use self::request::{AskedKey, RequestSkeleton};
use self::scan::{Shape, ShapeFault, ShapeItem, ShapeMember, scan};
use self::slot::SlotOrText;
pub use self::slot::{Slot, SlotForm, SlotKind, SlotMark};
use super::super::store::KeyRow;
use super::code::DialectCode;
use crate::core::OrgId;
use crate::manage::registry::entry::show_network;
use crate::manage::time;

/// Where a skeleton is used, which decides what its slots can be filled from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SkeletonUse {
    /// Something went wrong.
    Error,
    /// One key, in a list or alone.
    Key,
    /// The frame of a list.
    List,
    /// A key with its new secret.
    NewKey,
    /// The body of a request that creates a key.
    RequestForNew,
    /// The body of a request that changes a key.
    RequestForChange,
}

/// An answer, compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skeleton {
    root: Node,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Node {
    Array(Vec<Item>),
    Object(Vec<Member>),
    Slot(Slot),
    /// JSON as written.
    Text(Box<str>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Item {
    before: Box<str>,
    value: Node,
    after: Box<str>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Member {
    /// White space, name and colon.
    before: Box<str>,
    value: Node,
    after: Box<str>,
}

/// What is wrong with a skeleton.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SkeletonFault {
    #[error("`{0}` is no slot")]
    NoSlot(Box<str>),
    #[error("`{slot}` has no source here")]
    NoSource {
        slot: Box<str>,
        /// The slots that can have it.
        known: String,
    },
    #[error("`{slot}` is written in another form")]
    WrongForm { slot: Box<str>, known: &'static str },
    #[error("`{0}` has a `$` inside: a slot is a whole value")]
    Inside(Box<str>),
    #[error("`{0}` is a name: slots stand for values")]
    Name(Box<str>),
    #[error("`{0}` has `!`, which is for requests")]
    RequiredInAnswer(Box<str>),
    #[error("has `{0}` twice")]
    Twice(Box<str>),
    #[error("has no [\"$keys\"]: the place of the list")]
    NoKeys,
    #[error("`$keys` is not the only item of an array")]
    KeysNotAlone,
    #[error("is no JSON: {0}")]
    Syntax(String),
    #[error("is no JSON object")]
    NoObject,
    #[error("`{0}` is no slot: a request names where the values are, and nothing else")]
    NoSlotInRequest(Box<str>),
}

/// What fills an answer about a key.
#[derive(Clone, Copy, Debug)]
pub struct KeyValues<'k> {
    pub row: &'k KeyRow,
    /// `None`: no secret was made.
    pub secret: Option<&'k str>,
    /// Unix seconds.
    pub now: u64,
}

/// What fills an error's answer.
#[derive(Clone, Copy, Debug)]
pub struct ErrorValues<'e> {
    pub code: DialectCode,
    pub message: &'e str,
    pub request_id: &'e str,
}

/// A list's frame: the text before its first key, and the text after its last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListFrame {
    pub head: String,
    pub tail: String,
}

/// Where the values of a skeleton come from.
#[derive(Clone, Copy, Debug)]
enum Values<'v> {
    Error(ErrorValues<'v>),
    Key(KeyValues<'v>),
    List(&'v OrgId),
}

/// The JSON of one slot.
enum SlotText {
    /// The JSON to write if it is not left out.
    Empty(&'static str),
    Filled(String),
}

/// The part of an answer that has been written.
struct Written {
    text: String,
    /// Where to insert the list.
    list_at: Option<usize>,
}

// === impl SkeletonUse ===

impl SkeletonUse {
    fn has(self, kind: SlotKind) -> bool {
        let of_error = matches!(
            kind,
            SlotKind::Code
                | SlotKind::Error
                | SlotKind::Message
                | SlotKind::Refusal
                | SlotKind::RequestId
        );
        let of_key = !of_error && !matches!(kind, SlotKind::Keys | SlotKind::Secret);
        match self {
            Self::Error => of_error,
            Self::Key => of_key,
            Self::List => matches!(kind, SlotKind::Keys | SlotKind::Org),
            Self::NewKey => of_key || kind == SlotKind::Secret,
            Self::RequestForNew | Self::RequestForChange => matches!(
                kind,
                SlotKind::Environment
                    | SlotKind::Expires
                    | SlotKind::Name
                    | SlotKind::Networks
                    | SlotKind::Permissions
            ),
        }
    }

    fn check(self, slot: Slot, text: &str) -> Result<(), SkeletonFault> {
        if self.has(slot.kind) {
            return Ok(());
        }
        let known = SlotKind::ALL.into_iter().filter(|kind| self.has(*kind));
        let known: Vec<_> = known.map(|kind| format!("${}", kind.as_str())).collect();
        Err(SkeletonFault::NoSource { slot: text.into(), known: known.join(" ") })
    }
}

// === impl Skeleton ===

impl Skeleton {
    /// Compiles an answer.
    ///
    /// # Errors
    ///
    /// See [`SkeletonFault`].
    pub fn parse(text: &str, used: SkeletonUse) -> Result<Self, SkeletonFault> {
        let root = node(&scan(text)?, used)?;
        if used == SkeletonUse::List && count_keys(&root) != 1 {
            return Err(SkeletonFault::NoKeys);
        }
        Ok(Self { root })
    }

    /// The answer about one key.
    pub fn of_key(&self, values: KeyValues<'_>) -> String {
        self.write(Values::Key(values)).text
    }

    /// The answer about an error.
    pub fn of_error(&self, values: ErrorValues<'_>) -> String {
        self.write(Values::Error(values)).text
    }

    /// The frame for a list of the keys of `org`.
    pub fn of_list(&self, org: &OrgId) -> ListFrame {
        let Written { mut text, list_at } = self.write(Values::List(org));
        let tail = text.split_off(list_at.unwrap_or(text.len()));
        ListFrame { head: text, tail }
    }

    fn write(&self, values: Values<'_>) -> Written {
        let mut written = Written { text: String::with_capacity(256), list_at: None };
        self.root.write(values, &mut written);
        written
    }
}

fn node(shape: &Shape, used: SkeletonUse) -> Result<Node, SkeletonFault> {
    Ok(match shape {
        Shape::Literal(text) => Node::Text(text.clone()),
        Shape::Text { written, meant } => match SlotOrText::parse(meant)? {
            SlotOrText::Text => Node::Text(written.clone()),
            SlotOrText::Unescaped(text) => Node::Text(quoted(&text).into()),
            SlotOrText::Slot(slot) => {
                used.check(slot, meant)?;
                if slot.mark == SlotMark::Required {
                    return Err(SkeletonFault::RequiredInAnswer(meant.clone()));
                }
                Node::Slot(slot)
            }
        },
        Shape::Array(items) => {
            let item = |ShapeItem { before, value, after }: &ShapeItem| {
                let value = node(value, used)?;
                Ok(Item { before: before.clone(), value, after: after.clone() })
            };
            let items: Result<Vec<_>, SkeletonFault> = items.iter().map(item).collect();
            let items = items?;
            if items.len() > 1 && items.iter().any(|item| item.value.is_keys()) {
                return Err(SkeletonFault::KeysNotAlone);
            }
            Node::Array(items)
        }
        Shape::Object(members) => {
            let member = |ShapeMember { before, name, value, after }: &ShapeMember| {
                if name.starts_with('$') {
                    return Err(SkeletonFault::Name(name.clone()));
                }
                let value = node(value, used)?;
                if value.is_keys() {
                    return Err(SkeletonFault::KeysNotAlone);
                }
                Ok(Member { before: before.clone(), value, after: after.clone() })
            };
            Node::Object(members.iter().map(member).collect::<Result<_, _>>()?)
        }
    })
}

fn count_keys(node: &Node) -> usize {
    match node {
        Node::Array(items) => {
            let of = |item: &Item| match item.value.is_keys() {
                true => 1,
                false => count_keys(&item.value),
            };
            items.iter().map(of).sum()
        }
        Node::Object(members) => members.iter().map(|member| count_keys(&member.value)).sum(),
        Node::Slot(_) | Node::Text(_) => 0,
    }
}

// === impl Node ===

impl Node {
    fn is_keys(&self) -> bool {
        matches!(self, Self::Slot(slot) if slot.kind == SlotKind::Keys)
    }

    fn write(&self, values: Values<'_>, to: &mut Written) {
        match self {
            Self::Text(text) => to.text.push_str(text),
            Self::Slot(slot) if slot.kind == SlotKind::Keys => to.list_at = Some(to.text.len()),
            Self::Slot(slot) => match values.of(*slot) {
                SlotText::Empty(text) => to.text.push_str(text),
                SlotText::Filled(text) => to.text.push_str(&text),
            },
            Self::Array(items) => {
                to.text.push('[');
                for (at, Item { before, value, after }) in items.iter().enumerate() {
                    if at > 0 {
                        to.text.push(',');
                    }
                    to.text.push_str(before);
                    value.write(values, to);
                    to.text.push_str(after);
                }
                to.text.push(']');
            }
            Self::Object(members) => {
                to.text.push('{');
                let shown = members.iter().filter(|member| !member.value.is_left_out(values));
                for (at, Member { before, value, after }) in shown.enumerate() {
                    if at > 0 {
                        to.text.push(',');
                    }
                    to.text.push_str(before);
                    value.write(values, to);
                    to.text.push_str(after);
                }
                to.text.push('}');
            }
        }
    }

    fn is_left_out(&self, values: Values<'_>) -> bool {
        match self {
            Self::Slot(slot) if slot.mark == SlotMark::Optional => {
                matches!(values.of(*slot), SlotText::Empty(_))
            }
            _ => false,
        }
    }
}

// === impl Values ===

impl Values<'_> {
    fn of(self, slot: Slot) -> SlotText {
        match self {
            Self::Error(ErrorValues { code, message, request_id }) => {
                SlotText::text(match slot.kind {
                    SlotKind::Code => code.as_str(),
                    SlotKind::Error => code.reason(),
                    SlotKind::Refusal => code.refusal(),
                    SlotKind::RequestId => request_id,
                    _ => message,
                })
            }
            Self::List(org) => SlotText::text(org.as_str()),
            Self::Key(values) => values.of(slot),
        }
    }
}

// === impl KeyValues ===

impl KeyValues<'_> {
    fn of(self, slot: Slot) -> SlotText {
        let entry = &self.row.entry;
        match slot.kind {
            SlotKind::Active => SlotText::Filled((entry.state(self.now) == "active").to_string()),
            SlotKind::Created => SlotText::time(entry.created.map(ms), slot.form),
            SlotKind::Environment => match entry.environment {
                Some(environment) => SlotText::text(environment.as_str()),
                None => SlotText::Empty("null"),
            },
            SlotKind::Expires => SlotText::time(entry.expires.map(ms), slot.form),
            SlotKind::Id => SlotText::text(&entry.id.to_string()),
            SlotKind::LastUsed => {
                SlotText::time(self.row.last_use.as_ref().map(|used| used.at_ms), slot.form)
            }
            SlotKind::Name => SlotText::text(&entry.name),
            SlotKind::Networks => SlotText::words(entry.networks.iter().map(show_network)),
            SlotKind::Org => SlotText::text(entry.org.as_str()),
            SlotKind::Permissions => {
                SlotText::words(entry.permissions.iter().map(|word| word.as_str().to_owned()))
            }
            SlotKind::PublicId => match &entry.public_id {
                Some(id) => SlotText::text(id),
                None => SlotText::Empty("null"),
            },
            SlotKind::Secret => match self.secret {
                Some(secret) => SlotText::text(secret),
                None => SlotText::Empty("null"),
            },
            SlotKind::Start => {
                let count = match slot.form {
                    SlotForm::Characters(count) => count,
                    _ => entry.key_prefix.len(),
                };
                SlotText::text(&entry.key_prefix.chars().take(count).collect::<String>())
            }
            SlotKind::State => SlotText::text(entry.state(self.now)),
            SlotKind::Uid => SlotText::text(&self.row.uid.to_string()),
            // A skeleton for a key does not have these.
            SlotKind::Code
            | SlotKind::Error
            | SlotKind::Keys
            | SlotKind::Message
            | SlotKind::Refusal
            | SlotKind::RequestId => SlotText::Empty("null"),
        }
    }
}

const fn ms(seconds: u64) -> u64 {
    seconds.saturating_mul(1000)
}

// === impl SlotText ===

impl SlotText {
    fn text(text: &str) -> Self {
        match text.is_empty() {
            true => Self::Empty("\"\""),
            false => Self::Filled(quoted(text)),
        }
    }

    fn words(words: impl Iterator<Item = String>) -> Self {
        let words: Vec<_> = words.map(|word| quoted(&word)).collect();
        match words.is_empty() {
            true => Self::Empty("[]"),
            false => Self::Filled(format!("[{}]", words.join(","))),
        }
    }

    /// `at` in milliseconds since 1970-01-01T00:00:00Z.
    fn time(at: Option<u64>, form: SlotForm) -> Self {
        let Some(at) = at else { return Self::Empty("null") };
        Self::Filled(match form {
            SlotForm::Unix => (at / 1000).to_string(),
            SlotForm::UnixMs => at.to_string(),
            SlotForm::Characters(_) | SlotForm::Plain | SlotForm::Rfc3339 => {
                quoted(&time::show(at / 1000))
            }
        })
    }
}

/// As a JSON string.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

// === impl SkeletonFault ===

impl SkeletonFault {
    /// A remedy.
    pub fn hint(&self) -> String {
        match self {
            Self::NoSlot(_) => {
                let all = SlotKind::ALL.map(|kind| format!("${}", kind.as_str())).join(" ");
                format!("the slots are {all}; write `$$` for a dollar sign")
            }
            Self::NoSource { known, .. } => format!("the slots that have one here are {known}"),
            Self::WrongForm { known, .. } => format!("its forms are {known}"),
            Self::Inside(_) => "make the slot a value of its own; `$$` is a dollar sign".into(),
            Self::Name(_) => "write the name that the product's page shows".into(),
            Self::RequiredInAnswer(_) => "`?` leaves an empty member out of an answer".into(),
            Self::Twice(_) => "leave one of the two".into(),
            Self::NoKeys | Self::KeysNotAlone => {
                "write [\"$keys\"] once, where the page shows the list".into()
            }
            Self::Syntax(_) => "check it with `python3 -m json.tool`".into(),
            Self::NoObject => "write an object, such as '{\"name\":\"$name!\"}'".into(),
            Self::NoSlotInRequest(_) => "leave the member out, or write a slot".into(),
        }
    }
}

impl From<ShapeFault> for SkeletonFault {
    fn from(fault: ShapeFault) -> Self {
        match fault {
            ShapeFault::Syntax(why) => Self::Syntax(why),
            ShapeFault::Twice(name) => Self::Twice(name),
        }
    }
}
