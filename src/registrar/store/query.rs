//! What lists ask for, and pages of answers. A page is addressed by a cursor: the place of the last
//! row of the page before it, in the list's order. So no page is slower than the first, and none
//! skips or repeats a key when others appear or disappear.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::audit::AuditLine;
use super::error::StoreError;
use super::names::AudienceName;
use super::rows::KeyRow;
use crate::core::{Environment, OrgId, Permission};

/// Which keys to list, in which order.
#[derive(Clone, Debug)]
pub struct KeyQuery {
    pub audience: AudienceName,
    /// `None`: every org's, for operators.
    pub org: Option<OrgId>,
    /// A part of the name (either case), of the id or of the first characters of the secret. One or two
    /// characters mean the beginning of the name.
    pub search: Option<Box<str>>,
    pub state: Option<KeyState>,
    /// Keys that hold it, including by `*`.
    pub permission: Option<Permission>,
    pub environment: Option<Environment>,
    /// Keys that end before this time, in milliseconds since 1970-01-01T00:00:00Z.
    pub expires_before_ms: Option<u64>,
    pub unused: Option<UnusedKeys>,
    /// Subject of the owner: a member's own keys.
    pub owner: Option<Box<str>>,
    pub sort: KeySort,
    /// Keys after this place of the same query.
    pub cursor: Option<Cursor>,
    /// 1 to [`KeyQuery::MOST`]; a value outside becomes the nearest bound.
    pub limit: usize,
    /// The time at which states are judged, in milliseconds since 1970-01-01T00:00:00Z.
    pub now_ms: u64,
}

/// Keys without a known use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnusedKeys {
    /// However new they are.
    Never,
    /// Since this time, in milliseconds since 1970-01-01T00:00:00Z. A key that was made later says
    /// nothing yet; one of unknown age may be old.
    Since(u64),
}

/// A key's state at a point in time: its status, combined with the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// Would be admitted.
    Active,
    Canary,
    Disabled,
    /// Active but past its end.
    Expired,
    /// All except revoked keys and canaries.
    Kept,
    /// Active but before its beginning.
    NotYetValid,
    Revoked,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KeySort {
    /// The soonest end first. Keys without an end are not listed.
    Expires,
    /// By name, ignoring case.
    Name,
    /// The newest first.
    #[default]
    Newest,
    /// The oldest first.
    Oldest,
}

/// A place in the order of a list. Text for URLs; only this module interprets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor(Box<str>);

/// The content of a cursor.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(super) struct CursorPlace {
    pub(super) sort: KeySort,
    /// Of the last row, in an order by name.
    pub(super) text: String,
    /// Of the last row, in an order by a time or a number.
    pub(super) number: u64,
    pub(super) row: u64,
}

#[derive(Clone, Debug)]
pub struct KeyPage {
    pub keys: Vec<KeyRow>,
    /// `None`: this is the last page.
    pub next: Option<Cursor>,
}

/// How many keys there are, counted up to a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyCount {
    Exactly(u64),
    /// [`KeyCount::MOST`] and more.
    More,
}

/// Which lines of the audit log to list, the newest first.
#[derive(Clone, Debug, Default)]
pub struct AuditQuery {
    pub org: Option<OrgId>,
    /// Lines of this audience, and lines without one. Lines of other audiences belong to other
    /// products.
    pub audience: Option<AudienceName>,
    /// A key's id, or another object.
    pub object: Option<Box<str>>,
    /// Only lines with a number below this one.
    pub before: Option<u64>,
    /// 1 to [`KeyQuery::MOST`].
    pub limit: usize,
}

#[derive(Clone, Debug)]
pub struct AuditPage {
    pub lines: Vec<AuditLine>,
    /// For [`AuditQuery::before`]; `None`: there are no older lines.
    pub next: Option<u64>,
}

// === impl KeyQuery ===

impl KeyQuery {
    /// The most rows on a page.
    pub const MOST: usize = 200;

    /// All keys of an org (`None`: of all orgs), the newest first, 50 per page.
    pub fn all(audience: AudienceName, org: Option<OrgId>, now_ms: u64) -> Self {
        Self {
            audience,
            org,
            search: None,
            state: None,
            permission: None,
            environment: None,
            expires_before_ms: None,
            unused: None,
            owner: None,
            sort: KeySort::default(),
            cursor: None,
            limit: 50,
            now_ms,
        }
    }
}

// === impl KeyCount ===

impl KeyCount {
    /// The count stops here: a page shows `10000+`.
    pub const MOST: u64 = 10_000;
}

// === impl Cursor ===

impl Cursor {
    /// A cursor as a caller sent it. It is checked only when it is used.
    pub fn of(text: &str) -> Self {
        Self(text.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn at(place: &CursorPlace) -> Self {
        Self(URL_SAFE_NO_PAD.encode(serde_json::to_vec(place).unwrap_or_default()).into())
    }

    /// The place, if the cursor belongs to this order.
    pub(super) fn place(&self, sort: KeySort) -> Result<CursorPlace, StoreError> {
        let bytes = URL_SAFE_NO_PAD.decode(self.0.as_bytes()).ok();
        let place = bytes.and_then(|bytes| serde_json::from_slice::<CursorPlace>(&bytes).ok());
        place.filter(|place| place.sort == sort).ok_or_else(|| {
            StoreError::invalid("cursor", "is of another list; begin again without it")
        })
    }
}
