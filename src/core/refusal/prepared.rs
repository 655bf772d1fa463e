//! Refusals that are the same for everybody except for the request's id, rendered once. Under a
//! flood of bad keys, each refusal costs only the copying of two pieces of text.

use std::sync::OnceLock;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderName, HeaderValue, StatusCode};

use super::{Context, Profile, Refusals, Rendered};
use crate::core::reason::{Reason, Rejection};

/// By built-in profile and reason. Filled when a refusal is first rendered.
#[derive(Clone, Debug, Default)]
pub struct PreparedRefusals(OnceLock<Vec<Option<PreparedPiece>>>);

/// A refusal before and after the request's id.
#[derive(Clone, Debug)]
struct PreparedPiece {
    status: StatusCode,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// The fields in the form of the protocol that they are sent over. Empty until first needed.
    written: OnceLock<Bytes>,
    before: Bytes,
    after: Bytes,
}

/// A prepared refusal for one request.
#[derive(Debug)]
pub struct Ready<'r> {
    piece: &'r PreparedPiece,
    request_id: &'r str,
}

/// Marks the place of the request's id while a refusal is prepared. None of our texts contains it.
const MARK: &str = "0REQUEST-ID0";

// === impl PreparedRefusals ===

impl PreparedRefusals {
    /// The refusal without detail, if it was found to be the same for everybody.
    pub(super) fn find<'r>(
        &'r self,
        refusals: &Refusals,
        profile: Profile,
        reason: Reason,
        request_id: &'r str,
    ) -> Option<Ready<'r>> {
        // Only these need no escape in any built-in profile. Not `all`: without an early exit, many
        // bytes can be checked at the same time.
        let is_plain = |b: u8| b.is_ascii_alphanumeric() | (b == b'-');
        if !request_id.bytes().fold(true, |all, b| all & is_plain(b)) {
            return None;
        }
        let all = self.0.get_or_init(|| prepare(refusals));
        let row = Profile::BUILT_IN.iter().position(|(_, known)| *known == profile)?;
        let piece = all.get(row * Reason::ALL.len() + reason as usize)?.as_ref()?;
        Some(Ready { piece, request_id })
    }
}

impl Ready<'_> {
    pub fn status(&self) -> StatusCode {
        self.piece.status
    }

    /// The fields as `write` writes them. Called once for each prepared refusal, so `write` must
    /// always be the same.
    pub fn fields(&self, write: impl FnOnce(&[(HeaderName, HeaderValue)]) -> Bytes) -> &[u8] {
        self.piece.written.get_or_init(|| write(&self.piece.headers))
    }

    /// Whether `name` is among the fields.
    pub fn has(&self, name: &HeaderName) -> bool {
        self.piece.headers.iter().any(|(known, _)| known == name)
    }

    pub fn body(&self) -> Bytes {
        let PreparedPiece { before, after, .. } = self.piece;
        let mut body = BytesMut::with_capacity(before.len() + self.request_id.len() + after.len());
        body.put_slice(before);
        body.put_slice(self.request_id.as_bytes());
        body.put_slice(after);
        body.freeze()
    }

    pub(super) fn render(&self) -> Rendered {
        let headers = self.piece.headers.clone();
        Rendered { status: self.piece.status, headers, body: self.body() }
    }
}

fn prepare(refusals: &Refusals) -> Vec<Option<PreparedPiece>> {
    let profiles = Profile::BUILT_IN.iter();
    let each = profiles.flat_map(|(name, _)| Reason::ALL.iter().map(move |r| (*name, *r)));
    each.map(|(profile, reason)| {
        let context = Context { request_id: MARK, profile: Some(profile), grpc: false };
        let rendered = refusals.render_anew(&Rejection::new(reason), &context);
        PreparedPiece::cut(rendered)
    })
    .collect()
}

impl PreparedPiece {
    /// `None` if the id occurs more than once: then each refusal is rendered again.
    fn cut(rendered: Rendered) -> Option<Self> {
        let text = std::str::from_utf8(&rendered.body).ok()?;
        let (before, after) = text.split_once(MARK)?;
        let in_fields = |(_, value): &(HeaderName, HeaderValue)| {
            value.as_bytes().windows(MARK.len()).any(|w| w == MARK.as_bytes())
        };
        if after.contains(MARK) || rendered.headers.iter().any(in_fields) {
            return None;
        }
        Some(Self {
            written: OnceLock::new(),
            status: rendered.status,
            before: Bytes::copy_from_slice(before.as_bytes()),
            after: Bytes::copy_from_slice(after.as_bytes()),
            headers: rendered.headers,
        })
    }
}
