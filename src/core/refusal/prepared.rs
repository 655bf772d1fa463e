//! Refusals that are the same for everybody but for the request's id, rendered once. A flood of bad
//! keys is refused at the cost of copying two pieces of text.

use std::sync::OnceLock;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderName, HeaderValue, StatusCode};

use super::{Context, Profile, Refusals, Rendered};
use crate::core::reason::{Reason, Rejection};

/// By built-in profile and reason; filled when a refusal is first rendered.
#[derive(Clone, Debug, Default)]
pub struct Prepared(OnceLock<Vec<Option<Piece>>>);

/// A refusal around the place of the request's id.
#[derive(Clone, Debug)]
struct Piece {
    status: StatusCode,
    headers: Vec<(HeaderName, HeaderValue)>,
    before: Bytes,
    after: Bytes,
}

/// Stands for the request's id while a refusal is prepared. No text of ours contains it.
const MARK: &str = "0REQUEST-ID0";

// === impl Prepared ===

impl Prepared {
    /// The refusal without detail, if it was found to be the same for everybody.
    pub(super) fn render(
        &self,
        refusals: &Refusals,
        profile: Profile,
        reason: Reason,
        request_id: &str,
    ) -> Option<Rendered> {
        // Only these need no escape in any built-in profile.
        if !request_id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            return None;
        }
        let all = self.0.get_or_init(|| prepare(refusals));
        let row = Profile::BUILT_IN.iter().position(|(_, known)| *known == profile)?;
        let piece = all.get(row * Reason::ALL.len() + reason as usize)?.as_ref()?;
        let length = piece.before.len() + request_id.len() + piece.after.len();
        let mut body = BytesMut::with_capacity(length);
        body.put_slice(&piece.before);
        body.put_slice(request_id.as_bytes());
        body.put_slice(&piece.after);
        Some(Rendered { status: piece.status, headers: piece.headers.clone(), body: body.freeze() })
    }
}

fn prepare(refusals: &Refusals) -> Vec<Option<Piece>> {
    let profiles = Profile::BUILT_IN.iter();
    let each = profiles.flat_map(|(name, _)| Reason::ALL.iter().map(move |r| (*name, *r)));
    each.map(|(profile, reason)| {
        let context = Context { request_id: MARK, profile: Some(profile), grpc: false };
        let rendered = refusals.render_anew(&Rejection::new(reason), &context);
        Piece::cut(rendered)
    })
    .collect()
}

impl Piece {
    /// `None` when the id stands there more than once: then it is rendered anew each time.
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
            status: rendered.status,
            before: Bytes::copy_from_slice(before.as_bytes()),
            after: Bytes::copy_from_slice(after.as_bytes()),
            headers: rendered.headers,
        })
    }
}
