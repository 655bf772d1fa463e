//! Short exchanges: a request without body or with one of declared length, and an answer of one declared
//! length. Most requests are such, and for them a codec that can do everything costs more than all that keygate does
//! (docs/performance.md). Whatever is not as simple as that is handed to hyper, with every byte that
//! was read.

#[cfg(test)]
mod tests;

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{BufMut, Bytes, BytesMut};
use http::StatusCode;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::task::coop::unconstrained;

use super::sending::{Sending, Stopped};
use super::{Content, Failure};
use crate::clock::Clock;
use crate::core::Reason;
use crate::proxy::net::buffers::{BUFFER, Buffers};
use crate::proxy::net::io::Io;
use crate::proxy::request::exchange::Patience;
use crate::proxy::streams::Stream;

/// What has come.
pub(super) enum Answer {
    /// The head, and what has come of the body.
    Plain(RawHead, Content),
    /// Something that is for hyper to read: the bytes so far.
    Other(Bytes),
}

/// The head of a plain answer as it was read.
#[derive(Debug)]
pub(crate) struct RawHead {
    pub(crate) status: StatusCode,
    bytes: Vec<u8>,
    /// Where names and values are in `bytes`.
    fields: Vec<(Part, Part)>,
}

/// Where it begins, and how long it is.
type Part = (u16, u16);

/// Most bytes of one read. Larger ones save system calls, of which a large answer is made.
const LARGEST_READ: usize = 256 * 1024;
/// Fields of a head that is read here.
const FIELDS: usize = 32;

/// Sends `request`, the bytes of one that is here, and what is `sending` behind it, and reads the first
/// of the answer. `room` is for what the connection's last answer needed, so that the next one like
/// it takes one read. An answer may come before the body is through: the rest of it is then to be
/// sent while the answer is read.
pub(super) async fn exchange(
    io: &mut Io,
    request: &[u8],
    sending: &mut Option<Box<Sending>>,
    reused: bool,
    room: &mut usize,
    around: &Around<'_>,
) -> Result<Answer, Failure> {
    let closed = || Failure { stale: reused, ..Failure::of(Reason::UpstreamClosed) };
    let Around { stream, patience, buffers, clock } = *around;
    let mut unsent = request;
    let mut flushed = false;
    let mut read = Vec::new();
    poll_fn(|cx| {
        if let Some(end) = stream.poll_end(cx)
            && let Err(reason) = super::go_on(end, stream, patience, clock, cx)
        {
            return Poll::Ready(Err(Failure::of(reason)));
        }
        while !unsent.is_empty() {
            match ready!(Pin::new(&mut *io).poll_write(cx, unsent)) {
                Ok(0) | Err(_) => {
                    let unsent = unsent.len() == request.len();
                    return Poll::Ready(Err(Failure { unsent, ..closed() }));
                }
                Ok(count) => unsent = unsent.get(count..).unwrap_or_default(),
            }
        }
        if let Some(body) = sending {
            match body.poll(io, cx) {
                Poll::Ready(Ok(())) => *sending = None,
                Poll::Ready(Err(Stopped::Client)) => {
                    return Poll::Ready(Err(Failure::of(Reason::UpstreamClosed)));
                }
                // Why it takes no more may stand in an answer.
                Poll::Ready(Err(Stopped::Upstream)) | Poll::Pending => {}
            }
        } else if !flushed && ready!(Pin::new(&mut *io).poll_flush(cx)).is_err() {
            return Poll::Ready(Err(closed()));
        }
        flushed = true;
        loop {
            if read.capacity() == 0 {
                // While an answer is waited for, nothing is held for it.
                read = if *room > BUFFER { Vec::with_capacity(*room) } else { buffers.take() };
            }
            let left = read.capacity() - read.len();
            let result = poll_read(io, &mut (&mut read).limit(left), cx);
            if read.is_empty() {
                buffers.give_back(std::mem::take(&mut read));
            }
            let ended = match ready!(result) {
                Ok(count) => count == 0,
                Err(_) => return Poll::Ready(Err(closed())),
            };
            if ended && read.is_empty() {
                return Poll::Ready(Err(closed()));
            }
            match parse(&read) {
                Parsed::Plain { status, head_length, left, fields } => {
                    let length = read.len().saturating_add(left);
                    *room = length.saturating_add(1).next_power_of_two().min(LARGEST_READ);
                    let come = std::mem::take(&mut read);
                    return Poll::Ready(Ok(plain(status, come, head_length, left, fields)));
                }
                Parsed::Partial if !ended && read.len() < BUFFER => {}
                Parsed::Partial | Parsed::Other => {
                    let come = std::mem::take(&mut read);
                    return Poll::Ready(Ok(Answer::Other(come.into())));
                }
            }
        }
    })
    .await
}

/// What the exchange of a request has around it.
pub(super) struct Around<'a> {
    pub(super) stream: &'a Stream,
    pub(super) patience: &'a Patience,
    pub(super) buffers: &'a Buffers,
    pub(super) clock: &'a Clock,
}

/// A short body is copied, so that its buffer can be used again; a long one is not.
fn plain(
    status: StatusCode,
    mut come: Vec<u8>,
    head_length: usize,
    left: usize,
    fields: Vec<(Part, Part)>,
) -> Answer {
    let (bytes, first) = if come.capacity() > BUFFER {
        let come = Bytes::from(come);
        (Vec::from(come.get(..head_length).unwrap_or_default()), come.slice(head_length..))
    } else {
        let first = Bytes::copy_from_slice(come.get(head_length..).unwrap_or_default());
        come.truncate(head_length);
        (come, first)
    };
    let content = match left {
        0 => Content::Whole(first),
        _ => Content::Counted { first, left: left as u64 },
    };
    Answer::Plain(RawHead { status, bytes, fields }, content)
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
    Plain {
        status: StatusCode,
        head_length: usize,
        /// Bytes of the body that are to come.
        left: usize,
        fields: Vec<(Part, Part)>,
    },
    /// The head is not complete.
    Partial,
    Other,
}

/// Reads the head of a plain response: final, HTTP/1.1, kept alive, of one declared length (or 204,
/// which has none) with nothing behind it. The rules for all others (RFC 9112 section 6.3) are hyper's.
fn parse(come: &[u8]) -> Parsed {
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
    build(come, length, &head).unwrap_or(Parsed::Other)
}

fn build(come: &[u8], head_length: usize, head: &httparse::Response<'_, '_>) -> Option<Parsed> {
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
    let mut fields = Vec::with_capacity(head.headers.len());
    let part = |of: &[u8]| {
        let begin = (of.as_ptr() as usize).checked_sub(come.as_ptr() as usize)?;
        Some((u16::try_from(begin).ok()?, u16::try_from(of.len()).ok()?))
    };
    for field in &*head.headers {
        let name = field.name.as_bytes();
        match name.len() {
            10 if name.eq_ignore_ascii_case(b"connection")
                && !field.value.eq_ignore_ascii_case(b"keep-alive") =>
            {
                return None;
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                let digits = Some(field.value).filter(|v| v.iter().all(u8::is_ascii_digit))?;
                let length = std::str::from_utf8(digits).ok()?.parse::<usize>().ok()?;
                if declared.replace(length).is_some() {
                    return None;
                }
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => return None,
            7 if name.eq_ignore_ascii_case(b"upgrade") => return None,
            _ => {}
        }
        fields.push((part(name)?, part(field.value)?));
    }
    let here = come.len().checked_sub(head_length)?;
    let left = match status {
        StatusCode::NO_CONTENT if declared.is_some() => return None,
        StatusCode::NO_CONTENT => 0usize.checked_sub(here)?,
        _ => declared?.checked_sub(here)?,
    };
    Some(Parsed::Plain { status, head_length, left, fields })
}

// === impl RawHead ===

impl RawHead {
    /// Names, in any case, and values.
    pub(crate) fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let at = |(begin, length): Part| {
            let begin = usize::from(begin);
            self.bytes.get(begin..begin + usize::from(length)).unwrap_or_default()
        };
        self.fields.iter().map(move |(name, value)| (at(*name), at(*value)))
    }

    pub(crate) fn length(&self) -> usize {
        self.bytes.len()
    }

    #[cfg(test)]
    pub(crate) fn read(head: &str) -> Option<Self> {
        match parse(head.as_bytes()) {
            Parsed::Plain { status, fields, .. } => {
                Some(Self { status, bytes: head.as_bytes().to_vec(), fields })
            }
            Parsed::Partial | Parsed::Other => None,
        }
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// For hyper.
    pub(crate) fn into_map(self) -> HeaderMap {
        let mut map = HeaderMap::with_capacity(self.fields.len() + ADDED_FIELDS);
        let bytes = Bytes::from(self.bytes);
        let at = |(begin, length): Part| {
            let begin = usize::from(begin);
            bytes.slice(begin..begin + usize::from(length))
        };
        for (name, value) in self.fields {
            let name = HeaderName::from_bytes(&at(name));
            let value = HeaderValue::from_maybe_shared(at(value));
            // A head that was parsed has nothing else.
            if let (Ok(name), Ok(value)) = (name, value) {
                #[expect(
                    clippy::disallowed_methods,
                    reason = "what the upstream sent; may repeat"
                )]
                map.append(name, value);
            }
        }
        map
    }
}

/// Fields that an answer of the upstream gets on its way to the client.
const ADDED_FIELDS: usize = 4;
