//! Short exchanges: a request without body, and an answer of one declared length. Most requests are
//! such, and for them a codec that can do everything costs more than all that keygate does
//! (docs/performance.md). Whatever is not as simple as that is handed to hyper, with every byte that
//! was read.

#[cfg(test)]
mod tests;

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode, Version};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::task::coop::unconstrained;

use super::{Content, Failure};
use crate::clock::Clock;
use crate::core::Reason;
use crate::proxy::exchange::Patience;
use crate::proxy::io::Io;
use crate::proxy::streams::Stream;

/// What has come.
pub(super) enum Answer {
    /// The head, and what has come of the body.
    Plain(Response<Content>),
    /// Something that is for hyper to read: the bytes so far.
    Other(Bytes),
}

/// Bytes that are looked for a head before hyper takes over.
const LOOKED_AT: usize = 8 * 1024;
/// Most bytes of one read. Larger ones save system calls, of which a large answer is made.
const LARGEST_READ: usize = 256 * 1024;
/// Fields of a head that is read here.
const FIELDS: usize = 32;

/// Sends `request`, the bytes of a whole one, and reads the first of the answer. `room` is for what
/// the connection's last answer needed, so that the next one like it takes one read.
pub(super) async fn exchange(
    io: &mut Io,
    request: &[u8],
    reused: bool,
    room: &mut usize,
    stream: &Stream,
    patience: &Patience,
    clock: &Clock,
) -> Result<Answer, Failure> {
    let closed = || Failure { stale: reused, ..Failure::of(Reason::UpstreamClosed) };
    let mut unsent = request;
    let mut flushed = false;
    let mut read = BytesMut::with_capacity(LOOKED_AT.max(*room));
    poll_fn(|cx| {
        if let Some(end) = stream.poll_end(cx)
            && let Err(reason) = super::go_on(end, stream, patience, clock, cx)
        {
            return Poll::Ready(Err(Failure::of(reason)));
        }
        while !unsent.is_empty() {
            match ready!(Pin::new(&mut *io).poll_write(cx, unsent)) {
                Ok(0) | Err(_) => return Poll::Ready(Err(closed())),
                Ok(count) => unsent = unsent.get(count..).unwrap_or_default(),
            }
        }
        if !flushed {
            if ready!(Pin::new(&mut *io).poll_flush(cx)).is_err() {
                return Poll::Ready(Err(closed()));
            }
            flushed = true;
        }
        loop {
            let ended = match ready!(poll_read(io, &mut read, cx)) {
                Ok(count) => count == 0,
                Err(_) => return Poll::Ready(Err(closed())),
            };
            if ended && read.is_empty() {
                return Poll::Ready(Err(closed()));
            }
            let come = std::mem::take(&mut read).freeze();
            match parse(&come) {
                Parsed::Plain(response, length) => {
                    *room = length.saturating_add(1).next_power_of_two().min(LARGEST_READ);
                    return Poll::Ready(Ok(Answer::Plain(response)));
                }
                Parsed::Partial if !ended && come.len() < LOOKED_AT => {
                    read = BytesMut::from(come);
                    read.reserve(LOOKED_AT - read.len());
                }
                Parsed::Partial | Parsed::Other => return Poll::Ready(Ok(Answer::Other(come))),
            }
        }
    })
    .await
}

fn poll_read(io: &mut Io, into: &mut impl BufMut, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    pin!(io.read_buf(into)).poll(cx)
}

/// The next bytes of a body of which `left` are to come, and never one more.
///
/// # Errors
/// The connection broke, or ended before its time.
pub(super) fn poll_body(io: &mut Io, left: u64, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
    let most = usize::try_from(left).unwrap_or(LARGEST_READ).min(LARGEST_READ);
    let mut read = BytesMut::with_capacity(most).limit(most);
    match ready!(poll_read(io, &mut read, cx))? {
        0 => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
        _ => Poll::Ready(Ok(read.into_inner().freeze())),
    }
}

/// Whether the upstream has closed the connection, or said something unasked, while it was idle.
pub(super) fn is_quiet(io: &mut Io) -> bool {
    let mut byte = [0];
    let mut read = ReadBuf::new(&mut byte);
    let mut cx = Context::from_waker(std::task::Waker::noop());
    // A task that has used up its turn would find every connection quiet.
    pin!(unconstrained(poll_fn(|cx| Pin::new(&mut *io).poll_read(cx, &mut read))))
        .poll(&mut cx)
        .is_pending()
}

enum Parsed {
    /// And how long it is in all.
    Plain(Response<Content>, usize),
    /// The head is not complete.
    Partial,
    Other,
}

/// Reads the head of a plain response: final, HTTP/1.1, kept alive, of one declared length (or 204,
/// which has none) with nothing behind it. The rules for all others (RFC 9112 section 6.3) are hyper's.
fn parse(come: &Bytes) -> Parsed {
    let mut fields = [const { std::mem::MaybeUninit::uninit() }; FIELDS];
    let mut head = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(
        &mut head,
        come,
        &mut fields,
    );
    let length = match parsed {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Parsed::Partial,
        Err(_) => return Parsed::Other,
    };
    build(come, length, &head).map_or(Parsed::Other, |(r, length)| Parsed::Plain(r, length))
}

fn build(
    come: &Bytes,
    head_length: usize,
    head: &httparse::Response<'_, '_>,
) -> Option<(Response<Content>, usize)> {
    let status = StatusCode::from_u16(head.code?).ok()?;
    let has_own_rules = matches!(status, StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED);
    if head.version != Some(1)
        || status.is_informational()
        || has_own_rules
        // hyper hands an unusual phrase on to the client.
        || head.reason != status.canonical_reason()
    {
        return None;
    }
    let mut declared = None;
    let mut headers = HeaderMap::with_capacity(head.headers.len() + ADDED_FIELDS);
    for field in &*head.headers {
        let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
        match name {
            http::header::CONTENT_LENGTH => {
                let digits = Some(field.value).filter(|v| v.iter().all(u8::is_ascii_digit))?;
                let length = std::str::from_utf8(digits).ok()?.parse::<usize>().ok()?;
                if declared.replace(length).is_some() {
                    return None;
                }
            }
            http::header::CONNECTION if !field.value.eq_ignore_ascii_case(b"keep-alive") => {
                return None;
            }
            http::header::TRANSFER_ENCODING | http::header::UPGRADE => return None,
            _ => {}
        }
        let value = HeaderValue::from_maybe_shared(come.slice_ref(field.value)).ok()?;
        #[expect(clippy::disallowed_methods, reason = "what the upstream has sent; may repeat")]
        headers.append(name, value);
    }
    let first = come.slice(head_length..);
    let left = match status {
        StatusCode::NO_CONTENT if declared.is_some() => return None,
        StatusCode::NO_CONTENT => 0usize.checked_sub(first.len())?,
        _ => declared?.checked_sub(first.len())?,
    };
    let mut response = Response::new(match left {
        0 => Content::Whole(first),
        _ => Content::Counted { first, left: left as u64 },
    });
    *response.status_mut() = status;
    *response.version_mut() = Version::HTTP_11;
    *response.headers_mut() = headers;
    Some((response, head_length.saturating_add(declared.unwrap_or(0))))
}

/// Fields that an answer of the upstream gets on its way to the client.
const ADDED_FIELDS: usize = 4;
