//! One request and its answer over an HTTP/1.1 connection: the request is bytes already. This file
//! reads only the head of the answer, with the bytes that arrived behind it.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{BufMut, Bytes, BytesMut};
use http::StatusCode;
use http_body::Frame;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::task::coop::unconstrained;

use super::outcome::{AnswerContent, Failure, WholeChunks};
use super::sending::{Sending, Stopped};
use crate::clock::Clock;
use crate::core::Reason;
use crate::proxy::answer_deadline::{AnswerDeadline, go_on};
use crate::proxy::body::BodyError;
use crate::proxy::http1::answer_body::AnswerBody;
use crate::proxy::http1::answer_read::{
    AnswerHead, FieldRoom, FoundHead, LONGEST_HEAD, RequestMethod, find_head,
};
use crate::proxy::http1::chunks::{ChunkForm, KeptBody};
use crate::proxy::net::buffers::{BUFFER, Buffers};
use crate::proxy::net::io::Io;
use crate::proxy::streams::Stream;

/// The answer.
pub(super) struct Answered {
    pub(super) head: AnswerHead,
    pub(super) content: AnswerContent,
    /// Interim answers (1xx) before it, which go no further.
    pub(super) interim: u32,
}

/// What the connection has learnt from its answers.
#[derive(Debug)]
pub(super) struct Learnt {
    /// Bytes that the last answer needed, so that the next one like it takes one read.
    room: usize,
    /// Bytes of the next read of a body whose length nobody knows.
    piece: usize,
    /// For the fields of the next answer.
    pub(super) fields: FieldRoom,
    /// Another request may follow: the upstream keeps the connection open, and has said nothing
    /// that nobody asked for.
    pub(super) keeps_alive: bool,
}

/// A request on its way.
pub(super) struct WrittenRequest<'a> {
    /// The head, and the body as far as it is here.
    pub(super) bytes: &'a [u8],
    /// The answer has no body, whatever its head says.
    pub(super) is_head: bool,
    /// What is kept of an answer in chunks.
    pub(super) chunks: ChunkForm,
    /// The connection was used before: it may be closed by now.
    pub(super) is_reused: bool,
}

/// What the exchange of a request has around it.
pub(super) struct ExchangeContext<'a> {
    pub(super) stream: &'a Stream,
    pub(super) answer_deadline: &'a AnswerDeadline,
    pub(super) buffers: &'a Buffers,
    pub(super) clock: &'a Clock,
}

/// Most bytes of one read. Larger ones save system calls, of which a large answer is made.
const LARGEST_READ: usize = 256 * 1024;
/// First read of a body whose length nobody knows; doubled while reads fill it.
const FIRST_READ: usize = 16 * 1024;
/// Interim answers before a final one, at most. Services send one or two.
const MOST_INTERIM: u32 = 100;
/// Data that fills less than this part of its buffer is copied, so that a trickle of small pieces
/// does not hold large buffers.
const WORTH_KEEPING: usize = 4;

/// Sends `request`, and what is `sending` behind it, and reads the answer's head. An answer may
/// come before the body is through: the rest of it is then to be sent while the answer is read.
pub(super) async fn exchange(
    io: &mut Io,
    request: &WrittenRequest<'_>,
    sending: &mut Option<Box<Sending>>,
    learnt: &mut Learnt,
    around: &ExchangeContext<'_>,
) -> Result<Answered, Failure> {
    let ExchangeContext { stream, answer_deadline, clock, .. } = *around;
    let mut unsent = request.bytes;
    let mut is_flushed = false;
    let asked = if request.is_head { RequestMethod::Head } else { RequestMethod::Other };
    let mut reader = HeadReader { read: Vec::new(), interim: 0, asked };
    poll_fn(|cx| {
        if let Some(end) = stream.poll_end(cx)
            && let Err(reason) = go_on(end, stream, answer_deadline, clock, cx)
        {
            return Poll::Ready(Err(Failure::of(reason)));
        }
        while !unsent.is_empty() {
            match ready!(Pin::new(&mut *io).poll_write(cx, unsent)) {
                Ok(0) | Err(_) if unsent.len() == request.bytes.len() => {
                    let stale = request.is_reused;
                    let closed = Failure::of(Reason::UpstreamClosed);
                    return Poll::Ready(Err(Failure { unsent: true, stale, ..closed }));
                }
                // The upstream takes no more; its answer may say why.
                Ok(0) | Err(_) => (unsent, is_flushed) = (&[], true),
                Ok(count) => unsent = unsent.get(count..).unwrap_or_default(),
            }
        }
        if let Some(body) = sending {
            match body.poll(io, cx) {
                Poll::Ready(Ok(())) => *sending = None,
                Poll::Ready(Err(Stopped::Client)) => {
                    return Poll::Ready(Err(Failure::of(Reason::UpstreamClosed)));
                }
                // The same as above.
                Poll::Ready(Err(Stopped::Upstream)) | Poll::Pending => {}
            }
        } else if !is_flushed {
            // A failure shows again when the answer is read.
            let _ = ready!(Pin::new(&mut *io).poll_flush(cx));
        }
        is_flushed = true;
        let read = ready!(reader.poll_head(io, learnt, around.buffers, cx));
        Poll::Ready(match read {
            Ok(head) => take_apart(head, request.chunks, learnt),
            Err(HeadError::Bad) => Err(Failure::of(Reason::UpstreamBadResponse)),
            Err(HeadError::Closed { is_begun }) => {
                let stale = request.is_reused && !is_begun;
                Err(Failure { stale, ..Failure::of(Reason::UpstreamClosed) })
            }
        })
    })
    .await
}

/// Reads until a final head is whole.
struct HeadReader {
    read: Vec<u8>,
    interim: u32,
    asked: RequestMethod,
}

/// A head that is no interim one.
struct FinalHead {
    found: FoundHead,
    /// Everything that was read, from the head's first byte on.
    read: Vec<u8>,
    /// Heads that arrived before it.
    interim: u32,
}

enum HeadError {
    /// The upstream closed the connection.
    Closed {
        /// It had begun to answer.
        is_begun: bool,
    },
    Bad,
}

impl HeadReader {
    /// The head, and everything that was read.
    fn poll_head(
        &mut self,
        io: &mut Io,
        learnt: &mut Learnt,
        buffers: &Buffers,
        cx: &mut Context<'_>,
    ) -> Poll<Result<FinalHead, HeadError>> {
        loop {
            if self.read.capacity() == 0 {
                // While an answer is waited for, nothing is held for it.
                let room = learnt.room;
                self.read = if room > BUFFER { Vec::with_capacity(room) } else { buffers.take() };
            } else if self.read.len() == self.read.capacity() {
                self.read.reserve(self.read.len().min(LONGEST_HEAD));
            }
            let left = self.read.capacity() - self.read.len();
            let result = poll_read(io, &mut (&mut self.read).limit(left), cx);
            if self.read.is_empty() {
                buffers.give_back(std::mem::take(&mut self.read));
            }
            let is_begun = !self.read.is_empty() || self.interim > 0;
            match ready!(result) {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Poll::Ready(Err(HeadError::Closed { is_begun })),
            }
            // Interim heads are taken out together: one by one, a burst of them would be moved
            // again and again.
            let mut begin = 0;
            while let Some(unread) = self.read.get(begin..).filter(|unread| !unread.is_empty()) {
                match find_head(unread, self.asked, &mut learnt.fields) {
                    Ok(None) => break,
                    // Nobody asked for another protocol here.
                    Ok(Some(found)) if found.status == StatusCode::SWITCHING_PROTOCOLS => {
                        return Poll::Ready(Err(HeadError::Bad));
                    }
                    Ok(Some(found)) if found.status.is_informational() => {
                        self.interim += 1;
                        if self.interim > MOST_INTERIM {
                            return Poll::Ready(Err(HeadError::Bad));
                        }
                        begin += found.length;
                    }
                    Ok(Some(found)) => {
                        self.read.drain(..begin);
                        let (read, interim) = (std::mem::take(&mut self.read), self.interim);
                        return Poll::Ready(Ok(FinalHead { found, read, interim }));
                    }
                    Err(_) => return Poll::Ready(Err(HeadError::Bad)),
                }
            }
            self.read.drain(..begin);
        }
    }
}

/// Takes head and body apart. A short body is copied, so that its buffer can be used again; a long
/// one is not.
fn take_apart(head: FinalHead, form: ChunkForm, learnt: &mut Learnt) -> Result<Answered, Failure> {
    let FinalHead { found, mut read, interim } = head;
    let mut body = AnswerBody::new(found.body, form);
    let all = body.left().and_then(|left| usize::try_from(left).ok());
    let needed = all.map_or(read.len(), |all| found.length.saturating_add(all));
    learnt.room = needed.saturating_add(1).next_power_of_two().min(LARGEST_READ);
    // No line of the body has begun before, which would need room.
    let behind = read.len().saturating_sub(found.length);
    let KeptBody { kept, used } =
        body.read(&mut read, found.length).map_err(|_| Failure::of(Reason::UpstreamBadResponse))?;
    let is_clean = used == behind;
    learnt.keeps_alive = found.keeps_alive && is_clean;
    learnt.piece = FIRST_READ;
    let (head, first) = if read.capacity() > BUFFER {
        let read = Bytes::from(read);
        let head = Vec::from(read.get(..found.length).unwrap_or_default());
        (found.with(head), read.slice(kept))
    } else {
        let first = Bytes::copy_from_slice(read.get(kept).unwrap_or_default());
        (found.with(read), first)
    };
    let content = match body {
        body if !body.is_over() || body.has_trailers() => AnswerContent::Coming { first, body },
        AnswerBody::Chunked(mut chunks) => {
            let (form, data) = (chunks.form(), chunks.take_data_length());
            AnswerContent::WholeChunked(WholeChunks { bytes: first, form, data })
        }
        _ => AnswerContent::Whole(first),
    };
    Ok(Answered { head, content, interim })
}

fn poll_read(io: &mut Io, into: &mut impl BufMut, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    pin!(io.read_buf(into)).poll(cx)
}

/// The next piece of `body`, of `most` bytes at most and never one byte that is not the body's, or
/// its trailers. `None`: it has ended.
///
/// # Errors
/// The connection broke or ended before its time, or the chunks are no chunks.
pub(super) fn poll_body(
    io: &mut Io,
    body: &mut AnswerBody,
    learnt: &mut Learnt,
    most: u64,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
    while !body.is_over() {
        let wanted = body.left().unwrap_or(learnt.piece as u64).min(most);
        let wanted = usize::try_from(wanted).unwrap_or(LARGEST_READ).min(LARGEST_READ);
        let room = body.room();
        let mut read = BytesMut::with_capacity(room + wanted);
        read.put_bytes(0, room);
        let mut read = read.limit(wanted);
        let count = match ready!(poll_read(io, &mut read, cx)) {
            Ok(count) => count,
            Err(error) => return Poll::Ready(Some(Err(error.into()))),
        };
        if count == 0 {
            match body.close() {
                Ok(()) => break,
                Err(error) => {
                    let error = io::Error::new(io::ErrorKind::UnexpectedEof, error);
                    return Poll::Ready(Some(Err(error.into())));
                }
            }
        }
        if count == wanted {
            learnt.piece = wanted.saturating_mul(2).min(LARGEST_READ);
        }
        let mut read = read.into_inner();
        let KeptBody { kept, used } = match body.read(&mut read, room) {
            Ok(found) => found,
            Err(error) => return Poll::Ready(Some(Err(error.into()))),
        };
        learnt.keeps_alive &= used == count;
        if !kept.is_empty() {
            let bytes = if kept.len() < wanted / WORTH_KEEPING {
                Bytes::copy_from_slice(read.get(kept).unwrap_or_default())
            } else {
                read.freeze().slice(kept)
            };
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
    }
    let trailers = body.take_trailers().map_err(BodyError::from).transpose();
    Poll::Ready(trailers.map(|trailers| trailers.map(Frame::trailers)))
}

/// Whether the upstream has closed the connection, or said something unasked, while it was idle.
pub(super) fn is_quiet(io: &mut Io) -> bool {
    let mut cx = Context::from_waker(std::task::Waker::noop());
    // A task that has used up its turn would find every connection quiet.
    pin!(unconstrained(poll_fn(|cx| poll_noise(io, cx)))).poll(&mut cx).is_pending()
}

/// Ready once the upstream has closed the connection, or said something unasked.
pub(super) fn poll_noise(io: &mut Io, cx: &mut Context<'_>) -> Poll<()> {
    let mut byte = [0];
    Pin::new(io).poll_read(cx, &mut ReadBuf::new(&mut byte)).map(|_| ())
}

// === impl Learnt ===

impl Learnt {
    pub(super) fn new() -> Self {
        Self { room: 0, piece: FIRST_READ, fields: FieldRoom::default(), keeps_alive: false }
    }
}
