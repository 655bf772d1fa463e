//! The slots of skeletons: their names, forms and marks. Imports nothing else.

use super::SkeletonFault;

/// The most characters of a secret that are stored.
const MOST_SHOWN: usize = 16;

/// What a slot is filled with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SlotKind {
    /// Whether the key would be admitted now.
    Active,
    /// For an error: one of the keys of `messages`.
    Code,
    Created,
    Environment,
    /// For an error: the name of its status, such as `Forbidden`.
    Error,
    Expires,
    Id,
    /// The list itself.
    Keys,
    LastUsed,
    /// For an error: the sentence for people.
    Message,
    Name,
    Networks,
    Org,
    Permissions,
    PublicId,
    /// For an error: the word that the refusals of the product's sidecar have for it.
    Refusal,
    /// For an error: the id of the request, as in the log.
    RequestId,
    Secret,
    /// First characters of the secret after its prefix.
    Start,
    State,
    Uid,
}

/// How to write a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotForm {
    /// At most this many characters.
    Characters(usize),
    Plain,
    /// `2026-01-31T00:00:00Z`.
    Rfc3339,
    /// Seconds since 1970-01-01T00:00:00Z.
    Unix,
    /// Milliseconds since 1970-01-01T00:00:00Z.
    UnixMs,
}

/// What follows a slot's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotMark {
    None,
    /// `?`: in an answer, an empty one is left out with its name.
    Optional,
    /// `!`: a request without it is refused.
    Required,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    pub kind: SlotKind,
    pub form: SlotForm,
    pub mark: SlotMark,
}

/// The meaning of a string in a skeleton.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SlotOrText {
    Slot(Slot),
    Text,
    /// It contains `$$`, which means `$`.
    Unescaped(String),
}

// === impl SlotKind ===

impl SlotKind {
    pub const ALL: [Self; 21] = [
        Self::Active,
        Self::Code,
        Self::Created,
        Self::Environment,
        Self::Error,
        Self::Expires,
        Self::Id,
        Self::Keys,
        Self::LastUsed,
        Self::Message,
        Self::Name,
        Self::Networks,
        Self::Org,
        Self::Permissions,
        Self::PublicId,
        Self::Refusal,
        Self::RequestId,
        Self::Secret,
        Self::Start,
        Self::State,
        Self::Uid,
    ];

    /// As a skeleton writes it, after the `$`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Code => "code",
            Self::Created => "created",
            Self::Environment => "environment",
            Self::Error => "error",
            Self::Expires => "expires",
            Self::Id => "id",
            Self::Keys => "keys",
            Self::LastUsed => "last_used",
            Self::Message => "message",
            Self::Name => "name",
            Self::Networks => "networks",
            Self::Org => "org",
            Self::Permissions => "permissions",
            Self::PublicId => "public_id",
            Self::Refusal => "refusal",
            Self::RequestId => "request_id",
            Self::Secret => "secret",
            Self::Start => "start",
            Self::State => "state",
            Self::Uid => "uid",
        }
    }

    const fn is_time(self) -> bool {
        matches!(self, Self::Created | Self::Expires | Self::LastUsed)
    }
}

// === impl Slot ===

impl Slot {
    /// Reads `$start:8`, `$expires:unix?`, `$name!`, after the `$`; `whole` is for messages.
    fn parse(text: &str, whole: &str) -> Result<Self, SkeletonFault> {
        let (text, mark) = match (text.strip_suffix('?'), text.strip_suffix('!')) {
            (Some(text), _) => (text, SlotMark::Optional),
            (_, Some(text)) => (text, SlotMark::Required),
            _ => (text, SlotMark::None),
        };
        let (name, form) = match text.split_once(':') {
            Some((name, form)) => (name, Some(form)),
            None => (text, None),
        };
        let kind = SlotKind::ALL.into_iter().find(|kind| kind.as_str() == name);
        let kind = kind.ok_or_else(|| SkeletonFault::NoSlot(whole.into()))?;
        let wrong = || SkeletonFault::WrongForm { slot: whole.into(), known: known_forms(kind) };
        let form = match (kind, form) {
            (SlotKind::Start, Some(count)) => {
                let count = count.parse().ok().filter(|n| (1..=MOST_SHOWN).contains(n));
                SlotForm::Characters(count.ok_or_else(wrong)?)
            }
            (kind, None | Some("rfc3339")) if kind.is_time() => SlotForm::Rfc3339,
            (kind, Some("unix")) if kind.is_time() => SlotForm::Unix,
            (kind, Some("unix-ms")) if kind.is_time() => SlotForm::UnixMs,
            (_, None) => SlotForm::Plain,
            (_, Some(_)) => return Err(wrong()),
        };
        Ok(Self { kind, form, mark })
    }
}

const fn known_forms(kind: SlotKind) -> &'static str {
    match kind {
        SlotKind::Start => "1 to 16 characters: $start:8",
        kind if kind.is_time() => "rfc3339, unix and unix-ms",
        _ => "none",
    }
}

// === impl SlotOrText ===

impl SlotOrText {
    pub(super) fn parse(text: &str) -> Result<Self, SkeletonFault> {
        let bare = text.replace("$$", "");
        match (text.strip_prefix('$'), bare.contains('$')) {
            (_, false) if bare.len() == text.len() => Ok(Self::Text),
            (_, false) => Ok(Self::Unescaped(text.replace("$$", "$"))),
            (Some(slot), true) if !slot.contains('$') => Slot::parse(slot, text).map(Self::Slot),
            _ => Err(SkeletonFault::Inside(text.into())),
        }
    }
}
