//! Short exchanges: a request without body or with one of declared length, and an answer of one declared
//! length. Most requests are such, and for them a codec that can do everything costs more than all that keygate does
//! (docs/performance.md). Whatever is not as simple as that is handed to hyper, with every byte that
//! was read.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{BufMut, Bytes, BytesMut};
use http::StatusCode;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::task::coop::unconstrained;

use super::outcome::{Content, Failure};
use super::sending::{Sending, Stopped};
use crate::clock::Clock;
use crate::core::Reason;
use crate::proxy::http1::answer_read::{Parsed, Part, RawHead, parse};
use crate::proxy::net::buffers::{BUFFER, Buffers};
use crate::proxy::net::io::Io;
use crate::proxy::patience::{Patience, go_on};
use crate::proxy::streams::Stream;

/// What has come.
pub(super) enum Answer {
    /// The head, and what has come of the body.
    Plain(RawHead, Content),
    /// Something that is for hyper to read: the bytes so far.
    Other(Bytes),
}

/// Most bytes of one read. Larger ones save system calls, of which a large answer is made.
const LARGEST_READ: usize = 256 * 1024;
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
            && let Err(reason) = go_on(end, stream, patience, clock, cx)
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
    Answer::Plain(RawHead::new(status, bytes, fields), content)
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
